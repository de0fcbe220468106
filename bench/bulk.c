// SPDX-License-Identifier: MIT
/*
 * How fast does memory go to the device and back, against memcpy()?
 *
 * 256 MiB migrate to the dummy device in one call and come back in one call, of
 * 4 KiB pages and of huge pages; before and after each call, memcpy() of as much in one
 * go between resident buffers of the same page size, so that a call is compared with
 * the memory's speed just then: from minute to minute that is 4 GB/s or 10. In pieces memcpy()
 * would be an easier reference: the C library copies past the caches only what is larger than
 * most of the last of them. After each way the
 * pages must be where they were sent, and in the end hold what they held. (Calls of a
 * few pages: bench/pieces.)
 *
 * The goals count for a program that told libhmm with hmm_set_pool() to keep as
 * many system pages as it moves; the lines before them are with the default pool,
 * which for this size is a fraction, and the rest offered to the kernel.
 *
 * Pages of 4 KiB that follow each other in memory are copied a quarter faster than ones that do
 * not, and that is more to memcpy(), which has two such ranges, than to a migration, which has one:
 * "contiguous" and "ref_contiguous" say which share of them does. With all of it the ratio is
 * the least.
 *
 * A round in which memcpy() had to wait for a CPU is repeated; where too few are left no goal
 * is set, and the figures are of all of them. By the clock, and as cpu_ratio by the processor
 * time of the calling thread: the same where nothing else runs. Half of the rounds' ratios by
 * the clock are between "quarter" and "three_quarters".
 */
#include "bench_hmm.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define BYTES (256 * BENCH_MIB)
#define ROUNDS 11
#define ROUNDS_FEWEST 6 /* else no goal is set */
#define TRIES 20
#define DISTURBED 1.03 /* so much by the clock for one of processor time */

enum way { TO, BACK, WAYS };

/**
 * struct spent - nanoseconds
 * @wall: by the clock
 * @cpu: of this thread
 */
struct spent {
	double wall;
	double cpu;
};

struct bulk_bench {
	enum bench_pages pages;
	char *range, *src, *dst;
	struct bench_dev dev;
	struct spent own[WAYS][TRIES];
	struct spent copy[WAYS][TRIES];
	/* bytes in huge pages: the least before a way out, the least after a way back */
	size_t huge_before, huge_after;
	bool good[TRIES];
	int tries, rounds; /* all, good ones */
};

static const char *const way_name[WAYS] = { "to_device", "back" };

static struct spent now(void)
{
	struct timespec cpu;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	return (struct spent){ (double)bench_ns(), (double)cpu.tv_sec * 1e9 + (double)cpu.tv_nsec };
}

static struct spent since(struct spent begun)
{
	struct spent end = now();

	return (struct spent){ end.wall - begun.wall, end.cpu - begun.cpu };
}

static struct spent mean(struct spent a, struct spent b)
{
	return (struct spent){ (a.wall + b.wall) / 2, (a.cpu + b.cpu) / 2 };
}

static struct spent copy_timed(struct bulk_bench *b)
{
	struct spent begun = now();

	memcpy(b->dst, b->src, BYTES);
	return since(begun);
}

static struct spent move_timed(struct bulk_bench *b, enum way way)
{
	struct spent begun = now();

	if (way == TO)
		bench_dev_migrate(&b->dev, b->range, BYTES);
	else
		bench_dev_evict(&b->dev, b->range, BYTES);
	return since(begun);
}

/* Pages that came back small are to go as huge ones all the same. */
static void make_huge(struct bulk_bench *b)
{
	size_t huge;

	if (b->pages != BENCH_THP)
		return;
	if (bench_huge_bytes(b->range, BYTES) < BYTES)
		madvise(b->range, BYTES, MADV_COLLAPSE);
	huge = bench_huge_bytes(b->range, BYTES);
	if (huge < b->huge_before)
		b->huge_before = huge;
}

static void count_huge(struct bulk_bench *b)
{
	size_t huge = b->pages == BENCH_THP ? bench_huge_bytes(b->range, BYTES) : 0;

	if (huge < b->huge_after)
		b->huge_after = huge;
}

/* Had memcpy() a CPU for itself? Whether libhmm had is not asked: a wait may be its own doing. */
static bool disturbed(const struct spent copy[WAYS + 1])
{
	int i;

	for (i = 0; i <= WAYS; i++)
		if (copy[i].wall > DISTURBED * copy[i].cpu)
			return true;
	return false;
}

/* There and back; @try below 0 is a warm-up. */
static void one_round(struct bulk_bench *b, int try)
{
	uint64_t seed = (uint64_t)(try + 10);
	struct spent own[WAYS], copy[WAYS + 1];
	int way;

	bench_fill(b->range, BYTES, seed);
	make_huge(b);
	copy[0] = copy_timed(b);
	for (way = 0; way < WAYS; way++) {
		own[way] = move_timed(b, (enum way)way);
		copy[way + 1] = copy_timed(b);
		bench_dev_expect(b->range, BYTES, way == TO ? HMM_WHERE_DEVICE : HMM_WHERE_SYSTEM);
	}
	count_huge(b);
	bench_check(b->range, BYTES, seed, "after the way back");
	if (try < 0)
		return;
	for (way = 0; way < WAYS; way++) {
		b->own[way][try] = own[way];
		b->copy[way][try] = mean(copy[way], copy[way + 1]);
	}
	b->good[try] = !disturbed(copy);
	b->rounds += b->good[try];
}

/*
 * Medians: of the bytes per nanosecond, and of the ratios, round by round; of the good
 * rounds, or of all where those are too few.
 */
struct result {
	double speed, copy_speed, wall, quarter, three_quarters, cpu;
};

static struct result result(const struct bulk_bench *b, enum way way)
{
	double own[TRIES], copy[TRIES], wall[TRIES], cpu[TRIES];
	size_t n = 0;
	int i;

	for (i = 0; i < b->tries; i++) {
		if (!b->good[i] && b->rounds >= ROUNDS_FEWEST)
			continue;
		own[n] = b->own[way][i].wall;
		copy[n] = b->copy[way][i].wall;
		wall[n] = copy[n] / own[n];
		cpu[n++] = b->copy[way][i].cpu / b->own[way][i].cpu;
	}
	return (struct result){ .speed = BYTES / bench_median(own, n),
				.copy_speed = BYTES / bench_median(copy, n),
				.wall = bench_median(wall, n),
				.quarter = bench_percentile(wall, n, 0.25),
				.three_quarters = bench_percentile(wall, n, 0.75),
				.cpu = bench_median(cpu, n) };
}

static void bulk(struct bulk_bench *b, bool pool)
{
	static const char *const goal[WAYS][2] = {
		[TO] = { [BENCH_SMALL] = ">=0.65", [BENCH_THP] = ">=0.90" },
		[BACK] = { [BENCH_SMALL] = ">=0.80", [BENCH_THP] = ">=0.90" },
	};
	char name[64];
	int way;

	b->huge_before = b->huge_after = b->pages == BENCH_THP ? BYTES : 0;
	if (pool)
		hmm_set_pool(BYTES);
	b->tries = b->rounds = 0;
	one_round(b, -2);
	one_round(b, -1);
	while (b->tries < (pool ? TRIES : ROUNDS) && b->rounds < ROUNDS)
		one_round(b, b->tries++);
	for (way = 0; way < WAYS; way++) {
		struct result r = result(b, (enum way)way);
		bool disturbed = b->rounds < ROUNDS_FEWEST;

		snprintf(name, sizeof(name), "bulk_%s_%s%s", way_name[way],
			 bench_pages_name(b->pages), pool ? "" : "_default_pool");
		bench_result(name, r.speed, "GB/s", r.wall,
			     pool && !disturbed ? goal[way][b->pages] : "none",
			     "ref=memcpy ref_value=%.3f quarter=%.3f three_quarters=%.3f "
			     "cpu_ratio=%.3f rounds=%d repeated=%d contiguous=%.2f "
			     "ref_contiguous=%.2f huge_before=%zuMiB huge_after=%zuMiB%s",
			     r.copy_speed, r.quarter, r.three_quarters, r.cpu, b->rounds,
			     b->tries - b->rounds, bench_contiguous(b->range, BYTES),
			     bench_contiguous(b->dst, BYTES), b->huge_before / BENCH_MIB,
			     b->huge_after / BENCH_MIB, disturbed ? " why=no_free_cpu" : "");
	}
}

static void run(enum bench_pages pages)
{
	struct bulk_bench b = { .pages = pages };
	size_t huge, at;

	hmm_set_pool(HMM_POOL_DEFAULT);
	b.range = bench_map(BYTES, pages);
	b.src = bench_map(BYTES, pages);
	b.dst = bench_map(BYTES, pages);
	for (at = 0; at < BYTES; at += BENCH_HUGE) { /* in turns: all are to have the same memory */
		bench_fill(b.range + at, BENCH_HUGE, 0);
		bench_fill(b.src + at, BENCH_HUGE, 1);
		bench_fill(b.dst + at, BENCH_HUGE, 2);
	}
	huge = bench_huge_bytes(b.range, BYTES);
	if (pages == BENCH_THP && huge < BYTES) {
		printf("# bulk_thp: left out, the kernel gave %zu of %lu MiB in huge pages\n",
		       huge / BENCH_MIB, BYTES / BENCH_MIB);
		return;
	}
	bench_dev_open(&b.dev, BYTES);
	bulk(&b, false);
	bulk(&b, true);
	bench_dev_close(&b.dev);
	bench_unmap(b.range, BYTES);
	bench_unmap(b.src, BYTES);
	bench_unmap(b.dst, BYTES);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("bulk", "%lu MiB in one call, %d undisturbed rounds, medians",
		     BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL);
	run(BENCH_THP);
	return 0;
}
