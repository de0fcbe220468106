// SPDX-License-Identifier: MIT
/*
 * The lz4 device beside the kernel's own compressed memory: zram as swap.
 *
 * The same 64 MiB go out and come in, by MADV_PAGEOUT and swap to a zram device with its
 * LZ4, and by lz4_migrate(); they are read front to back, and then by single pages in
 * random order. Memory is what zram says it uses in all, and what the device does.
 *
 * It makes a zram device of its own, swaps to it while it runs, and takes it away again.
 * A system's swap is nothing that a benchmark should touch unasked: it runs only as root,
 * and with HMM_BENCH_ZRAM=1 in the environment.
 */
#include "bench_lz4.h"
#include "bench_zram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define BYTES (64 * BENCH_MIB)
#define DISK (256 * BENCH_MIB)
#define ROUNDS 5
#define SINGLES 2048ul

enum who { ZRAM, HMM, WHO };
enum step { OUT, READ, SINGLE, STEPS };

struct zram_bench {
	struct lz4_device *dev;
	char *range[WHO], *data;
	double value[WHO][STEPS][ROUNDS]; /* ns; of SINGLE, us */
	double memory[WHO];
	double copy[ROUNDS];
	uint32_t order[BYTES / 4096];
};

static struct zram_bench bench;

/* ---- the zram device ---- */

static void zram_begin(void)
{
	const char *why = bench_zram_begin(DISK);

	if (why)
		bench_skip("%s", why);
}

/* ---- both ---- */

static size_t count_swapped(const char *range)
{
	size_t pages = BYTES / 4096, i, n = 0;
	uint64_t *entry = calloc(pages, sizeof(*entry));
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || !entry ||
	    pread(fd, entry, pages * 8, (off_t)((uintptr_t)range / 4096 * 8)) != (ssize_t)pages * 8)
		bench_fail("pagemap");
	for (i = 0; i < pages; i++)
		n += entry[i] >> 62 & 1;
	close(fd);
	free(entry);
	return n;
}

static void page_out(enum who who)
{
	uint64_t at = (uintptr_t)bench.range[who];
	unsigned long pages = 0;
	int ret;

	if (who == HMM) {
		ret = lz4_migrate(bench.dev, at, at + BYTES, NULL, &pages);
		bench_dev_moved("to the device", ret, pages, BYTES);
	} else if (madvise(bench.range[who], BYTES, MADV_PAGEOUT)) {
		bench_fail("MADV_PAGEOUT: %s", strerror(errno));
	}
}

/* The kernel leaves a few pages that it holds on to; they count as paged out. */
static double out_timed(enum who who)
{
	uint64_t t0 = bench_ns(), t1;

	page_out(who);
	t1 = bench_ns();
	if (who == ZRAM && count_swapped(bench.range[who]) < BYTES / 4096 / 100 * 98)
		bench_skip("the kernel pages out %zu pages of %lu", count_swapped(bench.range[who]),
			   BYTES / 4096);
	return (double)(t1 - t0);
}

static double read_timed(enum who who)
{
	const uint64_t *w = (const uint64_t *)(const void *)bench.range[who];
	const uint64_t *expect = (const uint64_t *)(const void *)bench.data;
	uint64_t t0 = bench_ns(), sum = 0, t1;
	size_t i;

	for (i = 0; i < BYTES / sizeof(*w); i++)
		sum += w[i];
	t1 = bench_ns();
	for (i = 0; i < BYTES / sizeof(*w); i++)
		sum -= expect[i];
	if (sum)
		bench_fail("wrong sum");
	return (double)(t1 - t0);
}

static double single_timed(enum who who)
{
	static double sample[SINGLES];
	size_t i;

	for (i = 0; i < SINGLES; i++) {
		size_t at = bench.order[i] * 4096ul + 64;
		uint64_t t0 = bench_ns(), got, t1;

		got = *(const volatile uint64_t *)(const void *)(bench.range[who] + at);
		t1 = bench_ns();
		if (got != *(uint64_t *)(void *)(bench.data + at))
			bench_fail("wrong data");
		sample[i] = (double)(t1 - t0) / 1000;
	}
	return bench_median(sample, SINGLES);
}

static double memory(enum who who)
{
	struct lz4_stats stats;

	if (who == ZRAM)
		return bench_zram_memory();
	lz4_get_stats(bench.dev, &stats);
	return (double)stats.memory;
}

static void one_round(enum who who, int round)
{
	double value[STEPS];
	int step;

	memcpy(bench.range[who], bench.data, BYTES);
	value[OUT] = out_timed(who);
	bench.memory[who] = memory(who);
	value[READ] = read_timed(who);
	out_timed(who);
	value[SINGLE] = single_timed(who);
	if (memcmp(bench.range[who], bench.data, BYTES))
		bench_fail("wrong data");
	for (step = 0; step < STEPS && round >= 0; step++)
		bench.value[who][step][round] = value[step];
}

/* More is better but for SINGLE, where it is times, and memory. */
static void report(enum bench_data data)
{
	static const char *const step_name[STEPS] = { "out", "read", "fault" };
	double r[ROUNDS], hmm, zram;
	char name[64];
	int step, i;

	for (step = 0; step < STEPS; step++) {
		for (i = 0; i < ROUNDS; i++)
			r[i] = step == SINGLE ?
				       bench.value[HMM][step][i] / bench.value[ZRAM][step][i] :
				       bench.value[ZRAM][step][i] / bench.value[HMM][step][i];
		hmm = bench_median(bench.value[HMM][step], ROUNDS);
		zram = bench_median(bench.value[ZRAM][step], ROUNDS);
		snprintf(name, sizeof(name), "lz4_zram_%s_%s", step_name[step],
			 bench_data_name[data]);
		bench_result(name, step == SINGLE ? hmm : BYTES / hmm,
			     step == SINGLE ? "us" : "GB/s", bench_median(r, ROUNDS), "none",
			     "ref=zram ref_value=%.3f", step == SINGLE ? zram : BYTES / zram);
	}
	snprintf(name, sizeof(name), "lz4_zram_memory_%s", bench_data_name[data]);
	bench_result(name, bench.memory[HMM] / BENCH_MIB, "MiB",
		     bench.memory[HMM] / bench.memory[ZRAM], "none", "ref=zram ref_value=%.3f",
		     bench.memory[ZRAM] / BENCH_MIB);
}

static void run(enum bench_data data)
{
	int round, ret = lz4_create(&bench.dev, NULL);

	if (ret)
		bench_fail("lz4_create: %s", strerror(-ret));
	bench_data_fill(bench.data, BYTES, data);
	for (round = -1; round < ROUNDS; round++) {
		one_round(ZRAM, round);
		one_round(HMM, round);
	}
	report(data);
	if (lz4_destroy(bench.dev))
		bench_fail("lz4_destroy");
}

int main(void)
{
	enum bench_data data;

	zram_begin();
	bench_hmm_probe();
	bench_header("lz4_zram", "%lu MiB out and in, %lu single faults, %d rounds, medians",
		     BYTES / BENCH_MIB, SINGLES, ROUNDS);
	bench.range[ZRAM] = bench_map(BYTES, BENCH_SMALL);
	bench.range[HMM] = bench_map(BYTES, BENCH_SMALL);
	bench.data = bench_map(BYTES, BENCH_SMALL);
	bench_shuffle(bench.order, BYTES / 4096, 7);
	hmm_set_pool(BYTES);
	for (data = 0; data < BENCH_DATA; data++)
		run(data);
	return 0;
}
