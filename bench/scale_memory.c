// SPDX-License-Identifier: MIT
/*
 * What do a migration, faults and an invalidation cost where 1 to 16 GiB are in a device?
 *
 * The device keeps a word of each page and no more (bench_tag.h), so the machine need not
 * have as much. All of a range of so many GiB is touched, a piece at a time, and migrated to
 * it; then, each time with all the rest there:
 *
 *	to_device	a page, CPU time, of all of the way
 *	fault		one CPU fault, pages in random order, p50
 *	device_fault	of 512 pages in system memory that it has not asked for before, p50
 *	invalidate	munmap() of 2 MiB that are in the device, until libhmm is done, p50
 *	back		a page, CPU time, of 64 MiB in one call
 *	bytes		that the process has resident for a page that is away: special
 *			entries, the mirror's page table, page descriptors
 *
 * Sizes that would not fit are left out, with a line that says so.
 */
#include "bench_scale.h"
#include "bench_tag.h"

#include <sys/mman.h>
#include <unistd.h>

#define GIB (1ul << 30)
#define PIECE (64 * BENCH_MIB)
#define FAULTS 2048ul
#define CHUNKS 64ul /* of 2 MiB, for two of the six */
#define LARGEST 16ul
#define APART (CHUNKS * BENCH_HUGE)

enum curve { TO, FAULT, DEVICE_FAULT, INVALIDATE, BACK, MEMORY, CURVES };

static struct bench_curve curve[CURVES] = {
	{ "to_device", "gib", "ns/page", 0 }, { "fault", "gib", "us", 0 },
	{ "device_fault", "gib", "us", 0 },   { "invalidate", "gib", "us", 0 },
	{ "back", "gib", "ns/page", 0 },      { "bytes", "gib", "bytes/page", 0 },
};

struct memory_bench {
	struct bench_tag *tag;
	char *range, *apart;
	size_t bytes, pages;
	double sample[FAULTS];
	double value[CURVES];
};

static void touch(char *at, size_t bytes, size_t from)
{
	size_t page = bench_page_size(), i;

	for (i = 0; i < bytes; i += page)
		*(volatile uint64_t *)(at + i) = (from + i) / page + 1;
}

/* Only the first word of each page is ever written: the device makes up the rest. */
static double all_to_device(struct memory_bench *b)
{
	size_t at, n = PIECE / bench_page_size();
	uint64_t ns = 0, t0;

	for (at = 0; at < b->bytes; at += PIECE) {
		touch(b->range + at, PIECE, at);
		t0 = bench_cpu_ns();
		bench_tag_event(b->tag, HMM_COPY_TO_DEVICE, b->range + at, PIECE, n);
		ns += bench_cpu_ns() - t0;
	}
	return (double)ns / (double)b->pages;
}

/* Pages of the second half: the first is for the others. */
static double faults(struct memory_bench *b)
{
	size_t half = b->pages / 2, page = bench_page_size(), i;
	uint64_t x = 1, t0;

	for (i = 0; i < FAULTS; i++) {
		size_t at;

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		at = half + (i * (half / FAULTS) + (x >> 40) % (half / FAULTS));
		t0 = bench_ns();
		*(volatile char *)(b->range + at * page);
		b->sample[i] = (double)(bench_ns() - t0) / 1000;
		bench_tag_check(b->range + at * page, at + 1, "after a CPU fault");
	}
	return bench_median(b->sample, FAULTS);
}

static double device_faults(struct memory_bench *b)
{
	size_t i;

	for (i = 0; i < CHUNKS; i++) {
		uint64_t t0 = bench_ns();

		bench_tag_event(b->tag, HMM_DEVICE_RFAULT, b->apart + i * BENCH_HUGE, BENCH_HUGE,
				BENCH_HUGE / bench_page_size());
		b->sample[i] = (double)(bench_ns() - t0) / 1000;
	}
	return bench_median(b->sample, CHUNKS);
}

/* Of the first half, all over it. */
static double invalidate(struct memory_bench *b)
{
	size_t step = b->bytes / 2 / CHUNKS & ~(BENCH_HUGE - 1), i;

	for (i = 0; i < CHUNKS; i++) {
		uint64_t t0 = bench_ns();

		if (munmap(b->range + i * step + BENCH_HUGE, BENCH_HUGE))
			bench_fail("munmap");
		hmm_mirror_sync(&b->tag->mirror);
		b->sample[i] = (double)(bench_ns() - t0) / 1000;
	}
	return bench_median(b->sample, CHUNKS);
}

/* What is left of the range but for the faults is still there. */
static double back(struct memory_bench *b)
{
	size_t page = bench_page_size(), n = PIECE / page, i, first = b->pages - n;
	struct hmm_event event = { .start = (uintptr_t)b->range + b->bytes - PIECE,
				   .end = (uintptr_t)b->range + b->bytes,
				   .etype = HMM_COPY_FROM_DEVICE };
	uint64_t t0 = bench_cpu_ns();
	double ns;

	if (hmm_mirror_fault(&b->tag->mirror, &event) || event.pages < n - FAULTS)
		bench_fail("back: %lu pages of %zu", event.pages, n);
	ns = (double)(bench_cpu_ns() - t0) / (double)event.pages;
	for (i = first; i < b->pages; i++)
		bench_tag_check(b->range + i * page, i + 1, "after the way back");
	return ns;
}

static bool fits(size_t bytes)
{
	size_t free = (size_t)sysconf(_SC_AVPHYS_PAGES) * bench_page_size();

	return bytes / 64 + 2 * GIB <= free; /* what is kept of a page is far below that */
}

static void point(unsigned long gib, bool last)
{
	static struct memory_bench b;
	size_t rest;
	int i;

	b.bytes = gib * GIB;
	b.pages = b.bytes / bench_page_size();
	b.range = bench_map(b.bytes, BENCH_SMALL);
	b.apart = bench_map(APART, BENCH_SMALL);
	touch(b.apart, APART, 0);
	rest = bench_rest_bytes(b.range, b.bytes);
	b.tag = bench_tag_open(b.bytes);
	b.value[TO] = all_to_device(&b);
	bench_dev_expect(b.range, b.bytes, HMM_WHERE_DEVICE);
	b.value[MEMORY] = (double)(bench_rest_bytes(b.range, b.bytes) - rest) / (double)b.pages;
	b.value[DEVICE_FAULT] = device_faults(&b);
	b.value[FAULT] = faults(&b);
	b.value[INVALIDATE] = invalidate(&b);
	b.value[BACK] = back(&b);
	munmap(b.range, b.bytes); /* or all of it would come back */
	bench_unmap_guards(b.range, b.bytes);
	bench_tag_close(b.tag);
	bench_unmap(b.apart, APART);
	for (i = 0; i < CURVES; i++)
		bench_scale(&curve[i], gib, b.value[i], last);
}

/* So that the pages of the pool are there before, and do not count as what is kept. */
static struct bench_tag *fill_pool(void)
{
	struct bench_tag *tag = bench_tag_open(APART);
	char *range = bench_map(APART, BENCH_SMALL);

	touch(range, APART, 0);
	bench_tag_event(tag, HMM_COPY_TO_DEVICE, range, APART, APART / bench_page_size());
	bench_unmap(range, APART);
	return tag;
}

static void run(enum bench_placement placement)
{
	struct bench_tag *keep;
	unsigned long gib;

	(void)placement;
	keep = fill_pool(); /* and libhmm stays as it is from point to point */
	for (gib = 1; gib <= LARGEST; gib *= 2) {
		if (!fits(gib * GIB)) {
			printf("# %lu GiB: left out, for want of memory\n", gib);
			continue;
		}
		point(gib, gib == LARGEST);
	}
	bench_tag_close(keep);
}

/* One CPU: on which one a thread wakes up matters more than what is asked here. */
int main(void)
{
	bench_hmm_probe();
	hmm_set_pool(32 * BENCH_MIB); /* what would be offered to the kernel counts as resident */
	bench_header("scale_memory", "a device that keeps a word of each page; one CPU");
	return bench_run_placed(BENCH_SAME_CPU, run);
}
