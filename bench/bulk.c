// SPDX-License-Identifier: MIT
/*
 * How fast does memory go to the device and back, against memcpy()?
 *
 * 256 MiB migrate to the dummy device in one call and come back in one call, of
 * 4 KiB pages and of huge pages; next to each call, memcpy() of as much in one
 * go between resident buffers of the same page size. After each way the
 * pages must be where they were sent, and in the end hold what they held. (Calls of a
 * few pages: bench/pieces.)
 *
 * The goals count for a program that told libhmm with hmm_set_pool() to keep as
 * many system pages as it moves; the lines before them are with the default pool,
 * which for this size is a fraction, and the rest offered to the kernel.
 *
 * By the clock, and as cpu_ratio by the processor time of the calling thread: the same
 * where nothing else runs.
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
#define ROUNDS 9

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
	struct spent own[WAYS][ROUNDS];
	struct spent copy[WAYS][ROUNDS];
	/* bytes in huge pages: the least before a way out, the least after a way back */
	size_t huge_before, huge_after;
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

/* There and back; @round below 0 is a warm-up. */
static void one_round(struct bulk_bench *b, int round)
{
	uint64_t seed = (uint64_t)(round + 10);
	struct spent own[WAYS], copy[WAYS];
	int way;

	bench_fill(b->range, BYTES, seed);
	make_huge(b);
	for (way = 0; way < WAYS; way++) {
		copy[way] = copy_timed(b);
		own[way] = move_timed(b, (enum way)way);
		bench_dev_expect(b->range, BYTES, way == TO ? HMM_WHERE_DEVICE : HMM_WHERE_SYSTEM);
	}
	count_huge(b);
	bench_check(b->range, BYTES, seed, "after the way back");
	for (way = 0; way < WAYS && round >= 0; way++) {
		b->own[way][round] = own[way];
		b->copy[way][round] = copy[way];
	}
}

/* Medians: of the bytes per nanosecond, and of the ratios, round by round. */
static double speed(const struct spent *spent)
{
	double v[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		v[i] = spent[i].wall;
	return BYTES / bench_median(v, ROUNDS);
}

static struct spent speed_ratio(const struct bulk_bench *b, enum way way)
{
	double wall[ROUNDS], cpu[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		wall[i] = b->copy[way][i].wall / b->own[way][i].wall;
		cpu[i] = b->copy[way][i].cpu / b->own[way][i].cpu;
	}
	return (struct spent){ bench_median(wall, ROUNDS), bench_median(cpu, ROUNDS) };
}

static void bulk(struct bulk_bench *b, bool pool)
{
	static const char *const goal[WAYS][2] = {
		[TO] = { [BENCH_SMALL] = ">=0.65", [BENCH_THP] = ">=0.90" },
		[BACK] = { [BENCH_SMALL] = ">=0.80", [BENCH_THP] = ">=0.90" },
	};
	char name[64];
	int round, way;

	b->huge_before = b->huge_after = b->pages == BENCH_THP ? BYTES : 0;
	if (pool)
		hmm_set_pool(BYTES);
	for (round = -2; round < ROUNDS; round++)
		one_round(b, round);
	for (way = 0; way < WAYS; way++) {
		struct spent ratio = speed_ratio(b, (enum way)way);

		snprintf(name, sizeof(name), "bulk_%s_%s%s", way_name[way],
			 bench_pages_name(b->pages), pool ? "" : "_default_pool");
		bench_result(name, speed(b->own[way]), "GB/s", ratio.wall,
			     pool ? goal[way][b->pages] : "none",
			     "ref=memcpy ref_value=%.3f cpu_ratio=%.3f huge_before=%zuMiB "
			     "huge_after=%zuMiB",
			     speed(b->copy[way]), ratio.cpu, b->huge_before / BENCH_MIB,
			     b->huge_after / BENCH_MIB);
	}
}

static void run(enum bench_pages pages)
{
	struct bulk_bench b = { .pages = pages };
	size_t huge;

	hmm_set_pool(HMM_POOL_DEFAULT);
	b.range = bench_map(BYTES, pages);
	b.src = bench_map(BYTES, pages);
	b.dst = bench_map(BYTES, pages);
	bench_fill(b.range, BYTES, 0);
	bench_fill(b.src, BYTES, 1);
	bench_fill(b.dst, BYTES, 2);
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
	bench_header("bulk", "%lu MiB in one call, %d rounds, medians", BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL);
	run(BENCH_THP);
	return 0;
}
