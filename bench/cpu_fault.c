// SPDX-License-Identifier: MIT
/*
 * What does one CPU fault on a 4 KiB page in device memory cost?
 *
 * A range is migrated to the dummy device; one thread then reads one word of
 * each page, in random order, and each read is timed and its value checked. Once with a
 * device whose copy engine brings the page, once (coherent) with one whose memory the CPU
 * can read.
 * Two references take turns with it: a bare userfaultfd loop that answers each
 * fault by UFFDIO_COPY from a buffer as warm as the device's memory, and a
 * native anonymous write fault. Once with everything on one CPU and once with
 * the scheduler free to place the threads, for which CPU the answering thread
 * wakes on matters more than what it does.
 */
#include "bench_hmm.h"
#include "bench_uffd.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGES 2048ul
#define ROUNDS 15

enum who { HMM, BARE, NATIVE, WHO };

struct fault_bench {
	size_t bytes;
	char *range[WHO];
	char *source;
	struct bench_uffd uffd;
	struct bench_dev dev;
	uint32_t order[PAGES];
	double sample[PAGES];
	double p50[WHO][ROUNDS];
	double p99[WHO][ROUNDS];
	uint64_t faults;
	bool coherent;
};

/* Which word of a page is looked at: not always in the same cache line. */
static size_t word_of(size_t page)
{
	size_t words = bench_page_size() / sizeof(uint64_t);

	return page * words + page * 67 % words;
}

static void touch(struct fault_bench *b, enum who who, uint64_t seed)
{
	volatile uint64_t *range = (volatile uint64_t *)b->range[who];
	size_t i;

	for (i = 0; i < PAGES; i++) {
		size_t word = word_of(b->order[i]);
		uint64_t got = 0, t0, t1;

		t0 = bench_ns();
		if (who == NATIVE)
			range[word] = seed;
		else
			got = range[word];
		t1 = bench_ns();
		b->sample[i] = (double)(t1 - t0) / 1000;
		if (who != NATIVE && got != bench_word(word, seed))
			bench_fail("wrong data in page %u after a fault", b->order[i]);
	}
}

static void round_one(struct fault_bench *b, enum who who, uint64_t seed, int round)
{
	uint64_t faults = 0;

	switch (who) {
	case HMM:
		bench_fill(b->range[HMM], b->bytes, seed);
		bench_dev_migrate(&b->dev, b->range[HMM], b->bytes);
		bench_dev_expect(b->range[HMM], b->bytes, HMM_WHERE_DEVICE);
		faults = bench_dev_cpu_faults();
		break;
	case BARE:
		madvise(b->range[BARE], b->bytes, MADV_DONTNEED);
		bench_fill(b->source, b->bytes, seed);
		break;
	default:
		madvise(b->range[NATIVE], b->bytes, MADV_DONTNEED);
	}
	touch(b, who, seed);
	if (who != NATIVE)
		bench_check(b->range[who], b->bytes, seed, "after the faults");
	if (round < 0)
		return;
	if (who == HMM)
		b->faults += bench_dev_cpu_faults() - faults;
	b->p99[who][round] = bench_percentile(b->sample, PAGES, 0.99);
	b->p50[who][round] = bench_percentile(b->sample, PAGES, 0.50);
}

static double ratio(double v[WHO][ROUNDS], enum who a, enum who b)
{
	double r[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		r[i] = v[a][i] / v[b][i];
	return bench_median(r, ROUNDS);
}

static void report(struct fault_bench *b, enum bench_placement placement)
{
	const char *how = b->coherent ? "cpu_fault_coherent" : "cpu_fault";
	const char *where = bench_placement_name(placement);
	double vs_bare = ratio(b->p50, HMM, BARE), vs_native = ratio(b->p50, HMM, NATIVE);
	double floor = ratio(b->p50, BARE, NATIVE), p99 = ratio(b->p99, HMM, BARE);
	double p50_hmm = bench_median(b->p50[HMM], ROUNDS);
	char name[64];

	snprintf(name, sizeof(name), "%s_p50_%s", how, where);
	bench_result(name, p50_hmm, "us", vs_bare, "<=1.25",
		     "ref=bare_uffd_copy ref_value=%.3f faults_per_page=%.3f",
		     bench_median(b->p50[BARE], ROUNDS), (double)b->faults / (PAGES * ROUNDS));
	snprintf(name, sizeof(name), "%s_p50_vs_native_%s", how, where);
	bench_result(name, p50_hmm, "us", vs_native, "<=2.9",
		     "ref=native_write_fault ref_value=%.3f bare_ratio=%.3f",
		     bench_median(b->p50[NATIVE], ROUNDS), floor);
	snprintf(name, sizeof(name), "%s_p99_%s", how, where);
	bench_result(name, bench_median(b->p99[HMM], ROUNDS), "us", p99, "none",
		     "ref=bare_uffd_copy ref_value=%.3f native=%.3f",
		     bench_median(b->p99[BARE], ROUNDS), bench_median(b->p99[NATIVE], ROUNDS));
}

static void run_device(enum bench_placement placement, bool coherent)
{
	struct fault_bench *b = calloc(1, sizeof(*b));
	int round, who;

	if (!b)
		bench_fail("no memory");
	b->coherent = coherent;
	b->bytes = PAGES * bench_page_size();
	for (who = 0; who < WHO; who++)
		b->range[who] = bench_map(b->bytes, BENCH_SMALL);
	b->source = bench_map(b->bytes, BENCH_SMALL);
	bench_dev_make(&b->dev, b->bytes, coherent);
	bench_uffd_serve(&b->uffd, b->range[BARE], b->bytes, b->source, bench_page_size());

	for (round = -1; round < ROUNDS; round++) {
		uint64_t seed = (uint64_t)(round + 2);

		bench_shuffle(b->order, PAGES, seed);
		for (who = 0; who < WHO; who++)
			round_one(b, (enum who)who, seed, round);
	}
	report(b, placement);
	bench_dev_close(&b->dev);
}

static void run(enum bench_placement placement)
{
	run_device(placement, false);
	run_device(placement, true);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("cpu_fault", "%lu pages in random order, %d rounds, medians", PAGES, ROUNDS);
	return bench_run_placed(BENCH_SAME_CPU, run) | bench_run_placed(BENCH_FREE, run);
}
