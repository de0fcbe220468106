// SPDX-License-Identifier: MIT
/*
 * What do migrations, faults and invalidations cost where there are 1 to 10,000 mappings?
 *
 * Each mapping has 16 pages, and a hole of a page before the next. All are migrated to a
 * device in one call; then, each with all the rest there:
 *
 *	to_device	a mapping, CPU time
 *	fault		one CPU fault, in random order, p50
 *	device_fault	of the 16 pages of a mapping, once they are back, p50
 *	snapshot	a mapping, of all in one call, CPU time
 *	invalidate	munmap() of one mapping, until libhmm is done, p50
 *	bytes		that the process has resident for a mapping, with its pages away
 *
 * Where there are few mappings, the same is done again until there is enough to measure.
 */
#include "bench_scale.h"
#include "bench_tag.h"

#include <stdlib.h>
#include <sys/mman.h>

#define PAGES 16u
#define LARGEST 10000ul
#define SAMPLES 1000ul

enum curve { TO, FAULT, DEVICE_FAULT, SNAPSHOT, INVALIDATE, MEMORY, CURVES };

static struct bench_curve curve[CURVES] = {
	{ "to_device", "vmas", "us/vma", 0 }, { "fault", "vmas", "us", 0 },
	{ "device_fault", "vmas", "us", 0 },  { "snapshot", "vmas", "us/vma", 0 },
	{ "invalidate", "vmas", "us", 0 },    { "bytes", "vmas", "bytes/vma", 0 },
};

struct vmas_bench {
	struct bench_tag *tag;
	unsigned long vmas;
	size_t page, step, bytes;
	char *range;
	hmm_pfn_t *pfns;
	uint32_t *order;
	double sample[CURVES][SAMPLES];
	size_t samples[CURVES];
	double bytes_vma;
};

static void sample(struct vmas_bench *b, enum curve which, double value)
{
	if (b->samples[which] < SAMPLES)
		b->sample[which][b->samples[which]++] = value;
}

static char *vma_at(const struct vmas_bench *b, unsigned long i)
{
	return b->range + i * b->step;
}

/* The holes are made before libhmm hears of anything there. */
static void map_all(struct vmas_bench *b)
{
	unsigned long i, p;

	b->range = bench_map(b->bytes, BENCH_SMALL);
	if (b->bytes > b->vmas * b->step)
		munmap(vma_at(b, b->vmas), b->bytes - b->vmas * b->step);
	for (i = 0; i < b->vmas; i++) {
		char *at = vma_at(b, i);

		if (munmap(at + PAGES * b->page, b->page))
			bench_fail("munmap");
		for (p = 0; p < PAGES; p++)
			*(volatile uint64_t *)(at + p * b->page) = i * PAGES + p + 1;
	}
}

static void to_device(struct vmas_bench *b)
{
	size_t rest = bench_rest_bytes(b->range, b->bytes);
	uint64_t t0 = bench_cpu_ns();

	bench_tag_event(b->tag, HMM_COPY_TO_DEVICE, b->range, b->bytes, b->vmas * PAGES);
	sample(b, TO, (double)(bench_cpu_ns() - t0) / 1000 / (double)b->vmas);
	b->bytes_vma =
		((double)bench_rest_bytes(b->range, b->bytes) - (double)rest) / (double)b->vmas;
}

/* One fault a mapping; then the other pages, which come more at a time, are checked. */
static void faults(struct vmas_bench *b)
{
	unsigned long i, p, n = b->vmas < SAMPLES ? b->vmas : SAMPLES;

	for (i = 0; i < n; i++) {
		unsigned long vma = b->order[i];
		char *at = vma_at(b, vma);
		uint64_t t0 = bench_ns();

		*(volatile char *)(at + vma % PAGES * b->page);
		sample(b, FAULT, (double)(bench_ns() - t0) / 1000);
	}
	for (i = 0; i < n; i++)
		for (p = 0; p < PAGES; p++)
			bench_tag_check(vma_at(b, b->order[i]) + p * b->page,
					b->order[i] * PAGES + p + 1, "after a CPU fault");
	for (i = 0; i < n; i++) {
		uint64_t t0 = bench_ns();

		bench_tag_event(b->tag, HMM_DEVICE_RFAULT, vma_at(b, b->order[i]), PAGES * b->page,
				PAGES);
		sample(b, DEVICE_FAULT, (double)(bench_ns() - t0) / 1000);
	}
}

static void snapshot(struct vmas_bench *b)
{
	struct hmm_range range = {
		.size = sizeof(range),
		.mirror = &b->tag->mirror,
		.start = (uintptr_t)b->range,
		.end = (uintptr_t)b->range + b->bytes,
		.pfns = b->pfns,
	};
	uint64_t t0 = bench_cpu_ns();
	unsigned long i;

	if (hmm_range_snapshot(&range) || !hmm_range_done(&range))
		bench_fail("snapshot");
	sample(b, SNAPSHOT, (double)(bench_cpu_ns() - t0) / 1000 / (double)b->vmas);
	for (i = 0; i < b->bytes / b->page; i++) {
		unsigned long in = i % (PAGES + 1);

		if (i / (PAGES + 1) < b->vmas &&
		    !(b->pfns[i] & (in < PAGES ? HMM_PFN_VALID : HMM_PFN_ERROR)))
			bench_fail("entry %lu is %#llx", i, (unsigned long long)b->pfns[i]);
	}
}

static void unmap_all(struct vmas_bench *b)
{
	unsigned long i;

	for (i = 0; i < b->vmas; i++) {
		uint64_t t0 = bench_ns();

		if (munmap(vma_at(b, b->order[i]), PAGES * b->page))
			bench_fail("munmap");
		hmm_mirror_sync(&b->tag->mirror);
		if (i < SAMPLES)
			sample(b, INVALIDATE, (double)(bench_ns() - t0) / 1000);
	}
	bench_unmap(b->range, b->bytes);
}

static void one_round(struct vmas_bench *b)
{
	map_all(b);
	to_device(b);
	faults(b);
	snapshot(b);
	unmap_all(b);
}

static void point(struct bench_tag *tag, unsigned long vmas)
{
	struct vmas_bench *b = calloc(1, sizeof(*b));
	unsigned long i;
	int which;

	if (!b)
		bench_fail("no memory");
	b->tag = tag;
	b->vmas = vmas;
	b->page = bench_page_size();
	b->step = (PAGES + 1) * b->page;
	b->bytes = (vmas * b->step + BENCH_HUGE - 1) & ~(BENCH_HUGE - 1);
	b->pfns = malloc(b->bytes / b->page * sizeof(*b->pfns));
	b->order = malloc(vmas * sizeof(*b->order));
	if (!b->pfns || !b->order)
		bench_fail("no memory");
	memset(b->pfns, 0, b->bytes / b->page * sizeof(*b->pfns));
	bench_shuffle(b->order, vmas, vmas);
	for (i = 0; i < 100 && b->samples[INVALIDATE] < 100; i++)
		one_round(b);
	for (which = 0; which < CURVES; which++)
		bench_scale(&curve[which], vmas,
			    which == MEMORY ? b->bytes_vma :
					      bench_median(b->sample[which], b->samples[which]),
			    vmas == LARGEST);
	free(b->order);
	free(b->pfns);
	free(b);
}

static void run(enum bench_placement placement)
{
	struct bench_tag *tag;
	unsigned long vmas;

	(void)placement;
	tag = bench_tag_open(LARGEST * PAGES * bench_page_size());
	for (vmas = 1; vmas <= LARGEST; vmas *= 10)
		point(tag, vmas);
	bench_tag_close(tag);
}

/* One CPU: on which one a thread wakes up matters more than what is asked here. */
int main(void)
{
	bench_hmm_probe();
	hmm_set_pool(32 * BENCH_MIB); /* what would be offered to the kernel counts as resident */
	bench_header("scale_vmas",
		     "mappings of %u pages, in a device that keeps a word of each; one CPU", PAGES);
	return bench_run_placed(BENCH_SAME_CPU, run);
}
