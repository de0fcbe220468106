// SPDX-License-Identifier: MIT
/*
 * What do faults and invalidations cost where 1 to 64 devices mirror the same memory?
 *
 * 64 MiB of 4 KiB pages that all of so many devices have asked for; their update() only
 * counts. The first also has memory.
 *
 *	device_fault	of 512 pages by the first device, which has them already, p50
 *	snapshot	of all of it by the first device, a page, p50
 *	invalidate	munmap() of 2 MiB until all devices know, for each device, p50
 *	fault		a CPU fault on a page that no other device has a translation of, p50
 *	bytes		that the process has resident for a page, for each device: what the
 *			mirror's page table takes of it
 */
#include "bench_scale.h"
#include "bench_tag.h"

#include <stdlib.h>
#include <sys/mman.h>

#define BYTES (64 * BENCH_MIB)
#define CHUNKS (BYTES / BENCH_HUGE)
#define ROUNDS 5
#define FAULTS 512ul
#define LARGEST 64ul
#define SAMPLES (ROUNDS * FAULTS)

enum curve { DEVICE_FAULT, SNAPSHOT, INVALIDATE, FAULT, MEMORY, CURVES };

static struct bench_curve curve[CURVES] = {
	{ "device_fault", "mirrors", "us", 0 },		{ "snapshot", "mirrors", "ns/page", 0 },
	{ "invalidate", "mirrors", "us/mirror", 0 },	{ "fault", "mirrors", "us", 0 },
	{ "bytes", "mirrors", "bytes/page/mirror", 0 },
};

struct mirrors_bench {
	struct bench_tag *tag[LARGEST];
	unsigned long mirrors;
	char *range, *away;
	hmm_pfn_t *pfns;
	double sample[CURVES][SAMPLES];
	size_t samples[CURVES];
	double bytes_page;
};

static void sample(struct mirrors_bench *b, enum curve which, double value)
{
	if (b->samples[which] < SAMPLES)
		b->sample[which][b->samples[which]++] = value;
}

static void touch(char *at, size_t bytes)
{
	size_t page = bench_page_size(), i;

	for (i = 0; i < bytes; i += page)
		*(volatile uint64_t *)(at + i) = i / page + 1;
}

static void mirror_all(struct mirrors_bench *b)
{
	size_t pages = BYTES / bench_page_size(), rest;
	unsigned long i;

	for (i = 0; i < b->mirrors; i++)
		bench_tag_event(b->tag[i], HMM_DEVICE_RFAULT, b->range, bench_page_size(), 1);
	rest = bench_rest_bytes(b->range, BYTES);
	for (i = 0; i < b->mirrors; i++)
		bench_tag_event(b->tag[i], HMM_DEVICE_RFAULT, b->range, BYTES, pages);
	if (b->bytes_page < 0) /* later the mirrors' tables are there from the round before */
		b->bytes_page = ((double)bench_rest_bytes(b->range, BYTES) - (double)rest) /
				(double)(pages * b->mirrors);
}

static void device_faults(struct mirrors_bench *b)
{
	size_t i;

	for (i = 0; i < CHUNKS; i++) {
		uint64_t t0 = bench_ns();

		bench_tag_event(b->tag[0], HMM_DEVICE_RFAULT, b->range + i * BENCH_HUGE, BENCH_HUGE,
				BENCH_HUGE / bench_page_size());
		sample(b, DEVICE_FAULT, (double)(bench_ns() - t0) / 1000);
	}
}

static void snapshot(struct mirrors_bench *b)
{
	struct hmm_range range = {
		.size = sizeof(range),
		.mirror = &b->tag[0]->mirror,
		.start = (uintptr_t)b->range,
		.end = (uintptr_t)b->range + BYTES,
		.pfns = b->pfns,
	};
	size_t pages = BYTES / bench_page_size(), i;
	uint64_t t0 = bench_ns();

	if (hmm_range_snapshot(&range) || !hmm_range_done(&range))
		bench_fail("snapshot");
	sample(b, SNAPSHOT, (double)(bench_ns() - t0) / (double)pages);
	for (i = 0; i < pages; i++)
		if (!(b->pfns[i] & HMM_PFN_VALID))
			bench_fail("entry %zu is not valid", i);
}

static void faults(struct mirrors_bench *b)
{
	size_t page = bench_page_size(), i;

	touch(b->away, FAULTS * page);
	bench_tag_event(b->tag[0], HMM_COPY_TO_DEVICE, b->away, FAULTS * page, FAULTS);
	for (i = 0; i < FAULTS; i++) {
		size_t at = i * 67 % FAULTS; /* not one after the other */
		uint64_t t0 = bench_ns();

		*(volatile char *)(b->away + at * page);
		sample(b, FAULT, (double)(bench_ns() - t0) / 1000);
		bench_tag_check(b->away + at * page, at + 1, "after a CPU fault");
	}
}

static unsigned long updates(const struct mirrors_bench *b)
{
	unsigned long n = 0, i;

	for (i = 0; i < b->mirrors; i++)
		n += __atomic_load_n(&b->tag[i]->updates, __ATOMIC_RELAXED);
	return n;
}

static void invalidate(struct mirrors_bench *b)
{
	unsigned long before = updates(b), told;
	size_t i;

	for (i = 0; i < CHUNKS; i++) {
		uint64_t t0 = bench_ns();

		if (munmap(b->range + i * BENCH_HUGE, BENCH_HUGE))
			bench_fail("munmap");
		hmm_mirror_sync(&b->tag[0]->mirror);
		sample(b, INVALIDATE, (double)(bench_ns() - t0) / 1000 / (double)b->mirrors);
	}
	told = updates(b) - before;
	if (told < CHUNKS * b->mirrors)
		bench_fail("%lu devices of %lu were told", told, CHUNKS * b->mirrors);
}

static void one_round(struct mirrors_bench *b)
{
	b->range = bench_map(BYTES, BENCH_SMALL);
	touch(b->range, BYTES);
	mirror_all(b);
	device_faults(b);
	snapshot(b);
	faults(b);
	invalidate(b);
	bench_unmap_guards(b->range, BYTES);
}

static void point(struct mirrors_bench *b, unsigned long mirrors)
{
	int which, round;

	for (; b->mirrors < mirrors; b->mirrors++)
		b->tag[b->mirrors] = bench_tag_open(b->mirrors ? 0 : BYTES);
	memset(b->samples, 0, sizeof(b->samples));
	b->bytes_page = -1;
	for (round = 0; round < ROUNDS; round++)
		one_round(b);
	for (which = 0; which < CURVES; which++)
		bench_scale(&curve[which], mirrors,
			    which == MEMORY ? b->bytes_page :
					      bench_median(b->sample[which], b->samples[which]),
			    mirrors == LARGEST);
}

static void run(enum bench_placement placement)
{
	struct mirrors_bench *b = calloc(1, sizeof(*b));
	size_t pfns = BYTES / bench_page_size() * sizeof(*b->pfns);
	unsigned long mirrors;

	(void)placement;
	if (!b)
		bench_fail("no memory");
	b->away = bench_map(FAULTS * bench_page_size(), BENCH_SMALL);
	b->pfns = malloc(pfns);
	if (!b->pfns)
		bench_fail("no memory");
	memset(b->pfns, 0, pfns);
	for (mirrors = 1; mirrors <= LARGEST; mirrors *= 2)
		point(b, mirrors);
	while (b->mirrors)
		bench_tag_close(b->tag[--b->mirrors]);
	free(b->pfns);
	free(b);
}

/* One CPU: as scale_memory. */
int main(void)
{
	bench_hmm_probe();
	bench_header("scale_mirrors", "%lu MiB, %d rounds, one CPU", BYTES / BENCH_MIB, ROUNDS);
	return bench_run_placed(BENCH_SAME_CPU, run);
}
