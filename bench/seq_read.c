// SPDX-License-Identifier: MIT
/*
 * How fast does a CPU read, front to back, a range that lies in device memory?
 *
 * The range is migrated to the dummy device and then summed up word by word, so
 * that it comes back by CPU faults alone. References: memcpy() of a resident
 * range of that size and page size, which the goal counts against, and the same
 * sum over the range once it is resident.
 */
#include "bench_hmm.h"

#include <stdio.h>
#include <string.h>

#define BYTES (64 * BENCH_MIB)
#define ROUNDS 11

struct seq_bench {
	enum bench_pages pages;
	void *range, *src, *dst;
	struct bench_dev dev;
	double gbps[ROUNDS], copy[ROUNDS], resident[ROUNDS];
	uint64_t faults;
	int rounds;
};

static uint64_t sum(const void *range)
{
	const uint64_t *w = range, *end = w + BYTES / sizeof(*w);
	uint64_t s[8] = { 0 };
	int i;

	for (; w < end; w += 8)
		for (i = 0; i < 8; i++)
			s[i] += w[i];
	return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static uint64_t sum_expected(uint64_t seed)
{
	uint64_t s = 0;
	size_t i;

	for (i = 0; i < BYTES / sizeof(s); i++)
		s += bench_word(i, seed);
	return s;
}

/* Sum up and time it, in bytes a nanosecond. */
static double sum_timed(const void *range, uint64_t seed)
{
	uint64_t t0 = bench_ns(), s = sum(range), t1 = bench_ns();

	if (s != sum_expected(seed))
		bench_fail("wrong sum of the range");
	return (double)BYTES / (double)(t1 - t0);
}

static double copy_timed(struct seq_bench *b)
{
	uint64_t t0 = bench_ns();

	memcpy(b->dst, b->src, BYTES);
	return (double)BYTES / (double)(bench_ns() - t0);
}

static void one_round(struct seq_bench *b, uint64_t seed)
{
	double copy, gbps, resident;
	uint64_t faults;

	bench_fill(b->range, BYTES, seed);
	bench_dev_migrate(&b->dev, b->range, BYTES);
	bench_dev_expect(b->range, BYTES, HMM_WHERE_DEVICE);
	faults = bench_dev_cpu_faults();
	copy = copy_timed(b);
	gbps = sum_timed(b->range, seed);
	faults = bench_dev_cpu_faults() - faults;
	resident = sum_timed(b->range, seed);
	bench_check(b->range, BYTES, seed, "after the read");
	if (seed < 2)
		return;
	b->copy[b->rounds] = copy;
	b->gbps[b->rounds] = gbps;
	b->resident[b->rounds++] = resident;
	b->faults += faults;
}

static void report(struct seq_bench *b)
{
	double r_copy[ROUNDS], r_resident[ROUNDS], pages = (double)BYTES / bench_page_size();
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		r_copy[i] = b->gbps[i] / b->copy[i];
		r_resident[i] = b->gbps[i] / b->resident[i];
	}
	snprintf(name, sizeof(name), "seq_read_%s", bench_pages_name(b->pages));
	bench_result(name, bench_median(b->gbps, ROUNDS), "GB/s", bench_median(r_copy, ROUNDS),
		     ">=0.40", "ref=memcpy ref_value=%.3f pages_per_fault=%.1f",
		     bench_median(b->copy, ROUNDS), pages * ROUNDS / (double)b->faults);
	snprintf(name, sizeof(name), "seq_read_vs_resident_%s", bench_pages_name(b->pages));
	bench_result(name, bench_median(b->gbps, ROUNDS), "GB/s", bench_median(r_resident, ROUNDS),
		     "none", "ref=resident_read ref_value=%.3f", bench_median(b->resident, ROUNDS));
}

static void run(enum bench_pages pages)
{
	struct seq_bench b = { .pages = pages };
	uint64_t seed;

	b.range = bench_map(BYTES, pages);
	b.src = bench_map(BYTES, pages);
	b.dst = bench_map(BYTES, pages);
	bench_fill(b.range, BYTES, 0);
	bench_fill(b.src, BYTES, 0);
	bench_fill(b.dst, BYTES, 0);
	if (pages == BENCH_THP && bench_huge_bytes(b.range, BYTES) < BYTES) {
		printf("# seq_read_thp: left out, the kernel gave no huge pages\n");
		return;
	}
	bench_dev_open(&b.dev, BYTES);
	for (seed = 0; seed < ROUNDS + 2; seed++)
		one_round(&b, seed);
	report(&b);
	bench_dev_close(&b.dev);
	bench_unmap(b.range, BYTES);
	bench_unmap(b.src, BYTES);
	bench_unmap(b.dst, BYTES);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("seq_read", "%lu MiB read once by one thread, %d rounds, medians",
		     BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL);
	run(BENCH_THP);
	return 0;
}
