// SPDX-License-Identifier: MIT
/*
 * What does the first touch of memory cost that a device mirrors, but that was
 * never migrated (G10)?
 *
 * One thread writes every other page, but for the first of each 2 MiB, of a fresh
 * mapping of which that first page
 *
 *	read	was read before
 *	write	was written before
 *	drop	was written before, and all was dropped by MADV_DONTNEED
 *
 * by the device, so that all of the mapping is watched. Reference: by the CPU, in
 * the same process while it has no mirror: without libhmm. There should be no
 * difference. With huge pages "write" leaves nothing to be touched first, "read"
 * leaves the huge zero page. huge and ref_huge say how much was in huge pages after
 * the writes: being watched must not cost those either.
 */
#include "bench_hmm.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (16 * BENCH_MIB)
#define ROUNDS 61
#define SETTLE_US 2000

enum who { PLAIN, MIRRORED, WHO };
enum how { READ, WRITE, DROP, HOWS };

struct touch_bench {
	enum bench_pages pages;
	enum how how;
	double ns[WHO][ROUNDS];
	size_t huge[WHO];
};

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

static void begin(struct bench_dev *dev, enum who who, enum how how, char *range)
{
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		if (who == MIRRORED)
			bench_dev_mirror(dev, range + at, bench_page_size(), how != READ);
		else if (how == READ)
			(void)*(volatile char *)(range + at);
		else
			*(volatile char *)(range + at) = 1;
	}
	if (how != DROP)
		return;
	if (madvise(range, BYTES, MADV_DONTNEED))
		bench_fail("madvise");
	usleep(SETTLE_US); /* until libhmm is done with it */
}

static void measure(struct touch_bench *b, enum who who, int round)
{
	struct bench_dev dev;
	char *range;
	double ns;

	if (who == MIRRORED)
		bench_dev_open(&dev, BENCH_HUGE);
	range = bench_map(BYTES, b->pages);
	begin(&dev, who, b->how, range);
	ns = touch(range);
	check(range);
	b->huge[who] = bench_huge_bytes(range, BYTES);
	bench_unmap(range, BYTES);
	if (who == MIRRORED)
		bench_dev_close(&dev);
	if (round >= 0)
		b->ns[who][round] = ns;
}

static void run(enum bench_pages pages, enum how how)
{
	static const char *const how_name[HOWS] = { "read", "write", "drop" };
	struct touch_bench b = { .pages = pages, .how = how };
	double r[ROUNDS];
	char name[64];
	int round, i;

	for (round = -1; round < ROUNDS; round++)
		for (i = 0; i < WHO; i++)
			measure(&b, (enum who)((i + round + 1) % WHO), round);
	for (i = 0; i < ROUNDS; i++)
		r[i] = b.ns[MIRRORED][i] / b.ns[PLAIN][i];
	snprintf(name, sizeof(name), "first_touch_%s_%s", how_name[how], bench_pages_name(pages));
	bench_result(name, bench_median(b.ns[MIRRORED], ROUNDS), "ns/page", bench_median(r, ROUNDS),
		     "<=1.05", "ref=without_libhmm ref_value=%.3f huge=%zuMiB ref_huge=%zuMiB",
		     bench_median(b.ns[PLAIN], ROUNDS), b.huge[MIRRORED] / BENCH_MIB,
		     b.huge[PLAIN] / BENCH_MIB);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("first_touch", "%lu MiB, %d rounds, medians", BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL, READ);
	run(BENCH_SMALL, WRITE);
	run(BENCH_SMALL, DROP);
	run(BENCH_THP, READ);
	run(BENCH_THP, DROP);
	return 0;
}
