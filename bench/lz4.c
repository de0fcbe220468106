// SPDX-License-Identifier: MIT
/*
 * What does it cost to keep memory in the lz4 device, in time and in memory?
 *
 * 64 MiB of each kind of data go to the device in one call and come back, in one call
 * and by a CPU that reads on; next to each, bare LZ4 does the same to the same pages,
 * from one resident buffer to another (plain pages: memcpy()), and so does memcpy() in
 * one go. Then single pages, in random order, each touched by the CPU: against a bare
 * userfaultfd loop that answers by UFFDIO_COPY from a buffer that is there already, and
 * so has no decompression in it; what that takes is in the line too.
 *
 * Memory: what the device has for what it stores, tables and descriptors and all; what of
 * that is waste; and what it still has when nine of ten pages, at random, have gone.
 *
 * There is no goal yet.
 */
#include "bench_lz4.h"
#include "bench_uffd.h"

#include <stdlib.h>
#include <sys/mman.h>

#define BYTES (64 * BENCH_MIB)
#define ROUNDS 7
#define SINGLES 2048ul

enum step { OUT, BACK, READ, STEPS };

struct lz4_bench {
	struct lz4_device *dev;
	char *range, *data;
	struct bench_bare bare;
	double own[STEPS][ROUNDS], ref[STEPS][ROUNDS], copy[STEPS][ROUNDS];
	uint32_t order[BYTES / 4096];
};

static void device_new(struct lz4_bench *b)
{
	int ret = lz4_create(&b->dev, NULL);

	if (ret)
		bench_fail("lz4_create: %s", strerror(-ret));
}

static void device_end(struct lz4_bench *b)
{
	if (lz4_destroy(b->dev))
		bench_fail("lz4_destroy");
}

static void out(struct lz4_bench *b, char *range, size_t bytes)
{
	unsigned long pages = 0;
	uint64_t at = (uintptr_t)range;
	int ret = lz4_migrate(b->dev, at, at + bytes, NULL, &pages);

	bench_dev_moved("to the device", ret, pages, bytes);
}

static uint64_t range_sum(const char *range)
{
	const uint64_t *w = (const uint64_t *)(const void *)range;
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < BYTES / sizeof(*w); i++)
		sum += w[i];
	return sum;
}

/* Nanoseconds. */
static double step_timed(struct lz4_bench *b, enum step step)
{
	uint64_t at = (uintptr_t)b->range, expect = range_sum(b->data), t0 = bench_ns();
	unsigned long pages = 0;
	int ret;

	if (step == OUT) {
		out(b, b->range, BYTES);
	} else if (step == BACK) {
		ret = lz4_evict(b->dev, at, at + BYTES, &pages);
		bench_dev_moved("back", ret, pages, BYTES);
	} else if (range_sum(b->range) != expect) {
		bench_fail("wrong sum");
	}
	return (double)(bench_ns() - t0);
}

static void check(struct lz4_bench *b)
{
	if (memcmp(b->range, b->data, BYTES))
		bench_fail("wrong data");
}

static void one_round(struct lz4_bench *b, int round)
{
	static const enum step steps[] = { OUT, BACK, OUT, READ };
	size_t i;

	for (i = 0; i < 4; i++) {
		enum step step = steps[i];
		double copy = bench_bare_copy(&b->bare, b->data);
		double ref = step == OUT ? bench_bare_compress(&b->bare, b->data) :
					   bench_bare_decompress(&b->bare);
		double own = step_timed(b, step);

		if (step != OUT)
			check(b);
		if (round < 0)
			continue;
		b->own[step][round] = own;
		b->ref[step][round] = ref;
		b->copy[step][round] = copy;
	}
}

static double ratio(const double *a, const double *b)
{
	double r[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		r[i] = a[i] / b[i];
	return bench_median(r, ROUNDS);
}

static void bulk(struct lz4_bench *b, enum bench_data data)
{
	static const char *const step_name[STEPS] = { "out", "back", "read" };
	char name[64];
	int round, step;

	for (round = -1; round < ROUNDS; round++)
		one_round(b, round);
	for (step = 0; step < STEPS; step++) {
		double vs_ref = ratio(b->ref[step], b->own[step]);
		double vs_copy = ratio(b->copy[step], b->own[step]);

		snprintf(name, sizeof(name), "lz4_%s_%s", step_name[step], bench_data_name[data]);
		bench_result(name, BYTES / bench_median(b->own[step], ROUNDS), "GB/s", vs_ref,
			     "none", "ref=%s ref_value=%.3f vs_memcpy=%.3f",
			     step == OUT ? "bare_compress" : "bare_decompress",
			     BYTES / bench_median(b->ref[step], ROUNDS), vs_copy);
	}
}

/* ---- memory ---- */

static struct lz4_stats stats_of(struct lz4_bench *b)
{
	struct lz4_stats stats;

	lz4_get_stats(b->dev, &stats);
	return stats;
}

/* 1 of nothing: pages that repeat a word are not stored. */
static double part(uint64_t bytes, uint64_t of)
{
	return of ? (double)bytes / (double)of : 1;
}

/* Pages at random come home until a tenth is left. */
static void thin(struct lz4_bench *b)
{
	size_t pages = BYTES / bench_page_size(), i;
	volatile char sum = 0;

	bench_shuffle(b->order, pages, 5);
	for (i = 0; i < pages / 10 * 9; i++)
		sum += b->range[b->order[i] * bench_page_size()];
	while (stats_of(b).pages > pages - pages / 10 * 9)
		sched_yield();
}

static void memory(struct lz4_bench *b, enum bench_data data)
{
	struct lz4_stats full, thinned;
	char name[64];

	out(b, b->range, BYTES);
	full = stats_of(b);
	thin(b);
	thinned = stats_of(b);
	check(b);
	snprintf(name, sizeof(name), "lz4_memory_%s", bench_data_name[data]);
	bench_result(name, (double)full.memory / BENCH_MIB, "MiB", (double)full.memory / BYTES,
		     "none",
		     "ref=uncompressed ref_value=%.1f stored=%.3f classes=%.4f packed=%.4f "
		     "tables=%.4f tenth_left_packed=%.3f",
		     (double)BYTES / BENCH_MIB, (double)full.stored_bytes / BYTES,
		     part(full.object_bytes, full.stored_bytes),
		     part(full.packed_bytes - full.idle_bytes, full.stored_bytes),
		     (double)(full.memory - full.packed_bytes) / BYTES,
		     part(thinned.packed_bytes - thinned.idle_bytes, full.packed_bytes));
}

/* ---- single faults ---- */

static double touch(struct lz4_bench *b, const char *range, double *sample)
{
	size_t i;

	for (i = 0; i < SINGLES; i++) {
		size_t at = b->order[i] * bench_page_size() + b->order[i] * 67 % 512 * 8;
		uint64_t t0 = bench_ns(), got, t1;

		got = *(const volatile uint64_t *)(const void *)(range + at);
		t1 = bench_ns();
		if (got != *(uint64_t *)(void *)(b->data + at))
			bench_fail("wrong data after a fault");
		sample[i] = (double)(t1 - t0) / 1000;
	}
	return bench_median(sample, SINGLES);
}

static void single(struct lz4_bench *b, enum bench_data data, enum bench_placement placement)
{
	static double sample[SINGLES];
	double own[ROUNDS], ref[ROUNDS], unpack[ROUNDS];
	size_t bytes = SINGLES * bench_page_size();
	char *bare = bench_map(bytes, BENCH_SMALL), name[64];
	struct bench_uffd uffd;
	int round;

	memcpy(bare, b->data, bytes);
	bench_uffd_serve(&uffd, bare, bytes, b->data, bench_page_size());
	bench_bare_compress(&b->bare, b->data);
	bench_shuffle(b->order, SINGLES, 3);
	for (round = -1; round < ROUNDS; round++) {
		double p50_ref, p50_own;

		madvise(bare, bytes, MADV_DONTNEED);
		p50_ref = touch(b, bare, sample);
		out(b, b->range, bytes);
		p50_own = touch(b, b->range, sample);
		if (round < 0)
			continue;
		ref[round] = p50_ref;
		own[round] = p50_own;
		unpack[round] = bench_bare_decompress(&b->bare) / 1000 / (double)b->bare.pages;
	}
	snprintf(name, sizeof(name), "lz4_fault_%s_%s", bench_data_name[data],
		 bench_placement_name(placement));
	bench_result(name, bench_median(own, ROUNDS), "us", ratio(own, ref), "none",
		     "ref=bare_uffd_copy ref_value=%.3f bare_decompress_us=%.3f",
		     bench_median(ref, ROUNDS), bench_median(unpack, ROUNDS));
	bench_unmap(bare, bytes);
}

static void init(struct lz4_bench *b, enum bench_data data)
{
	b->range = bench_map(BYTES, BENCH_SMALL);
	b->data = bench_map(BYTES, BENCH_SMALL);
	bench_bare_init(&b->bare, BYTES);
	bench_data_fill(b->data, BYTES, data);
	memcpy(b->range, b->data, BYTES);
	device_new(b);
}

static void run_bulk(enum bench_placement placement)
{
	static struct lz4_bench b;
	enum bench_data data;

	(void)placement;
	hmm_set_pool(BYTES);
	for (data = 0; data < BENCH_DATA; data++) {
		init(&b, data);
		bulk(&b, data);
		memory(&b, data);
		device_end(&b);
	}
}

static void run_single(enum bench_placement placement)
{
	static struct lz4_bench b;
	enum bench_data data;

	for (data = 0; data < BENCH_DATA; data++) {
		init(&b, data);
		single(&b, data, placement);
		device_end(&b);
	}
}

int main(void)
{
	int failed;

	bench_hmm_probe();
	bench_header("lz4", "LZ4 %s, %lu MiB in one call, %lu single faults, %d rounds, medians",
		     LZ4_versionString(), BYTES / BENCH_MIB, SINGLES, ROUNDS);
	failed = bench_run_placed(BENCH_FREE, run_bulk);
	failed |= bench_run_placed(BENCH_SAME_CPU, run_single);
	failed |= bench_run_placed(BENCH_FREE, run_single);
	return failed;
}
