// SPDX-License-Identifier: MIT
/*
 * How much faster do huge pages migrate as such than as small ones?
 *
 * For ranges of 512 KiB to 16 MiB: to the dummy device, which has 2 MiB in one piece, and
 * back, of huge pages; next to each call the same of 4 KiB pages. (The kernel's hmm-tests
 * have benchmark_thp_migration; against memcpy(): bench/bulk.) A range of less than 2 MiB is
 * a part of a huge page.
 */
#include "bench_hmm.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define ROUNDS 15
#define BYTES_MAX (16 * BENCH_MIB)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum way { TO, BACK, WAYS };

struct thp {
	size_t bytes;
	struct bench_dev dev;
	char *range[2]; /* by enum bench_pages */
	double ns[2][WAYS][ROUNDS];
	size_t huge; /* bytes in huge pages, at the least */
};

static void make_huge(struct thp *t)
{
	char *range = t->range[BENCH_THP];
	size_t whole = (t->bytes + BENCH_HUGE - 1) / BENCH_HUGE * BENCH_HUGE, huge;

	if (bench_huge_bytes(range, whole) < whole)
		madvise(range, whole, MADV_COLLAPSE);
	huge = bench_huge_bytes(range, whole);
	if (huge < t->huge)
		t->huge = huge;
}

static double timed(struct thp *t, enum bench_pages pages, enum way way)
{
	uint64_t t0 = bench_ns();

	if (way == TO)
		bench_dev_migrate(&t->dev, t->range[pages], t->bytes);
	else
		bench_dev_evict(&t->dev, t->range[pages], t->bytes);
	return (double)(bench_ns() - t0);
}

static void one_round(struct thp *t, int round)
{
	uint64_t seed = (uint64_t)(round + 10);
	int pages, way;

	for (pages = 0; pages < 2; pages++)
		bench_fill(t->range[pages], t->bytes, seed);
	make_huge(t);
	for (way = 0; way < WAYS; way++)
		for (pages = 0; pages < 2; pages++) {
			double ns = timed(t, (enum bench_pages)pages, (enum way)way);

			if (round >= 0)
				t->ns[pages][way][round] = ns;
		}
	for (pages = 0; pages < 2; pages++)
		bench_check(t->range[pages], t->bytes, seed, "after the way back");
}

static void report(struct thp *t)
{
	static const char *const way_name[WAYS] = { "to_device", "back" };
	double r[ROUNDS], bytes = (double)t->bytes;
	char name[64];
	int way, i;

	for (way = 0; way < WAYS; way++) {
		for (i = 0; i < ROUNDS; i++)
			r[i] = t->ns[BENCH_SMALL][way][i] / t->ns[BENCH_THP][way][i];
		snprintf(name, sizeof(name), "thp_%s_%zuKiB", way_name[way], t->bytes >> 10);
		bench_result(name, bytes / bench_median(t->ns[BENCH_THP][way], ROUNDS), "GB/s",
			     bench_median(r, ROUNDS),
			     t->bytes < BENCH_HUGE ? "none" :
			     way == TO		   ? ">=1.00" :
						     ">=0.90",
			     "ref=small_pages ref_value=%.3f huge=%zuMiB",
			     bytes / bench_median(t->ns[BENCH_SMALL][way], ROUNDS),
			     t->huge / BENCH_MIB);
	}
}

static void run(size_t bytes)
{
	size_t whole = bytes < BENCH_HUGE ? BENCH_HUGE : bytes;
	struct thp t = { .bytes = bytes, .huge = SIZE_MAX };
	struct dummy_options opt = { .memory = 4 * whole, .fault_window = 1, .runs = true };
	int round, pages;

	for (pages = 0; pages < 2; pages++) {
		t.range[pages] = bench_map(whole, (enum bench_pages)pages);
		bench_fill(t.range[pages], whole, 1);
	}
	hmm_set_pool(2 * whole);
	if (dummy_create(&t.dev.dummy, &opt))
		bench_fail("dummy_create");
	for (round = -2; round < ROUNDS; round++)
		one_round(&t, round);
	report(&t);
	bench_dev_close(&t.dev);
	for (pages = 0; pages < 2; pages++)
		bench_unmap(t.range[pages], whole);
}

int main(void)
{
	size_t bytes;

	bench_hmm_probe();
	bench_header("thp", "512 KiB to %lu MiB in one call, %d rounds, medians",
		     BYTES_MAX / BENCH_MIB, ROUNDS);
	for (bytes = BENCH_HUGE / 4; bytes <= BYTES_MAX; bytes *= 2)
		run(bytes);
	return 0;
}
