// SPDX-License-Identifier: MIT
/*
 * What does the first touch of memory cost that a device mirrors, but that was
 * never migrated?
 *
 * The device takes one fault in each 2 MiB of a fresh mapping, so that all of it
 * is watched; then one thread writes every other page once. Reference: the same
 * mapping and the same writes, where the CPU wrote that one page and nobody
 * watches. Guarantee G10: there should be no difference.
 */
#include "bench_hmm.h"

#include <stdio.h>

#define BYTES (64 * BENCH_MIB)
#define ROUNDS 15

enum who { PLAIN, READ_MIRRORED, WRITE_MIRRORED, WHO };

/* Nanoseconds a page, over all pages but the first of each 2 MiB. */
static double touch(char *range)
{
	size_t page = bench_page_size(), at, chunk;
	uint64_t t0 = bench_ns();

	for (chunk = 0; chunk < BYTES; chunk += BENCH_HUGE)
		for (at = page; at < BENCH_HUGE; at += page)
			*(volatile uint64_t *)(range + chunk + at) = chunk + at;
	return (double)(bench_ns() - t0) / ((double)BYTES / page - (double)BYTES / BENCH_HUGE);
}

static void check(const char *range)
{
	size_t page = bench_page_size(), at;

	for (at = 0; at < BYTES; at += page)
		if (at % BENCH_HUGE && *(const uint64_t *)(range + at) != at)
			bench_fail("page %zu lost what was written", at / page);
}

static double measure(struct bench_dev *dev, enum who who)
{
	size_t page = bench_page_size(), chunk;
	char *range = bench_map(BYTES, BENCH_SMALL);
	double ns;

	for (chunk = 0; chunk < BYTES; chunk += BENCH_HUGE) {
		if (who == PLAIN)
			*(volatile char *)(range + chunk) = 1;
		else
			bench_dev_mirror(dev, range + chunk, page, who == WRITE_MIRRORED);
	}
	ns = touch(range);
	check(range);
	bench_unmap(range, BYTES);
	return ns;
}

static void report(double v[WHO][ROUNDS], enum who who, const char *name)
{
	double r[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		r[i] = v[who][i] / v[PLAIN][i];
	bench_result(name, bench_median(v[who], ROUNDS), "ns/page", bench_median(r, ROUNDS),
		     "<=1.05", "ref=plain_first_touch ref_value=%.3f",
		     bench_median(v[PLAIN], ROUNDS));
}

int main(void)
{
	double v[WHO][ROUNDS];
	struct bench_dev dev;
	int round, who;

	bench_hmm_probe();
	bench_header("first_touch", "%lu MiB of 4 KiB pages, %d rounds, medians", BYTES / BENCH_MIB,
		     ROUNDS);
	bench_dev_open(&dev, BYTES);
	for (round = -1; round < ROUNDS; round++) {
		for (who = 0; who < WHO; who++) {
			double ns = measure(&dev, (enum who)who);

			if (round >= 0)
				v[who][round] = ns;
		}
	}
	report(v, READ_MIRRORED, "first_touch_read_mirrored");
	report(v, WRITE_MIRRORED, "first_touch_write_mirrored");
	bench_dev_close(&dev);
	return 0;
}
