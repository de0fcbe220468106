// SPDX-License-Identifier: MIT
/*
 * What does a trace cost while it is written?
 *
 *	fault	hmm_mirror_fault() on a page that the device has: two records (the fault,
 *		update()), and nobody else has a part in it
 *	touch	a CPU fault on a page of the device's: five records
 *	munmap	of a page that the device has: three records
 *
 * Each with and without, in turns. Few enough that the writer has no need to run meanwhile:
 * its work shows as the CPU time of the others, see threads_us. What the points cost when
 * nobody traces is in all the other benchmarks: compare them with a build from before.
 */
#include "bench_hmm.h"

#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#define CALLS 1000
#define ROUNDS 15
#define SETTLE_NS 30000000

enum call { FAULT, TOUCH, UNMAP, CALL };

static const char *const call_name[CALL] = { "fault", "touch", "munmap" };
static const unsigned int call_records[CALL] = { 2, 5, 3 };

struct trace_bench {
	struct bench_dev dev;
	double sample[CALLS];
	double p50[2][ROUNDS]; /* ns; without, with */
	double threads[2][ROUNDS]; /* of all others, a call */
};

static void settle(void)
{
	struct timespec pause = { .tv_nsec = SETTLE_NS };

	nanosleep(&pause, NULL);
}

static uint64_t others_ns(void)
{
	struct timespec all, own;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &all);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &own);
	return (uint64_t)(all.tv_sec - own.tv_sec) * 1000000000u + (uint64_t)all.tv_nsec -
	       (uint64_t)own.tv_nsec;
}

static void call_now(struct trace_bench *b, enum call call, char *page)
{
	if (call == FAULT)
		bench_dev_mirror(&b->dev, page, bench_page_size(), false);
	else if (call == TOUCH)
		*(volatile char *)page = 1;
	else if (munmap(page, bench_page_size()))
		bench_fail("munmap");
}

/* Every other page, so that a touch is not taken for reading on. */
static void one_round(struct trace_bench *b, enum call call, bool traced, int round)
{
	size_t step = 2 * bench_page_size(), bytes = CALLS * step;
	char *range = bench_map(bytes, BENCH_SMALL);
	uint64_t others;
	int i;

	bench_fill(range, bytes, 1);
	bench_dev_mirror(&b->dev, range, bytes, false);
	if (call == TOUCH)
		bench_dev_migrate(&b->dev, range, bytes);
	if (traced && hmm_trace_start("/dev/null"))
		bench_fail("hmm_trace_start");
	others = others_ns();
	for (i = 0; i < CALLS; i++) {
		uint64_t t0 = bench_ns();

		call_now(b, call, range + (size_t)i * step);
		b->sample[i] = (double)(bench_ns() - t0);
	}
	settle();
	others = others_ns() - others;
	if (traced && hmm_trace_stop())
		bench_fail("hmm_trace_stop");
	bench_unmap_guards(range, bytes);
	munmap(range, bytes);
	if (round < 0)
		return;
	b->p50[traced][round] = bench_median(b->sample, CALLS);
	b->threads[traced][round] = (double)others / CALLS;
}

static void run(enum bench_placement placement)
{
	struct trace_bench *b = calloc(1, sizeof(*b));
	char name[64];
	int round, call;

	if (!b)
		bench_fail("no memory");
	bench_dev_open(&b->dev, 2 * CALLS * bench_page_size());
	for (call = 0; call < CALL; call++) {
		double on, off;

		for (round = -1; round < ROUNDS; round++) {
			one_round(b, (enum call)call, round % 2, round);
			one_round(b, (enum call)call, !(round % 2), round);
		}
		off = bench_median(b->p50[0], ROUNDS);
		on = bench_median(b->p50[1], ROUNDS);
		snprintf(name, sizeof(name), "trace_%s_%s", call_name[call],
			 bench_placement_name(placement));
		bench_result(name, on, "ns", on / off, "none",
			     "ref=no_trace ref_value=%.3f record_ns=%.3f threads_ns=%.3f "
			     "ref_threads_ns=%.3f",
			     off, (on - off) / call_records[call],
			     bench_median(b->threads[1], ROUNDS),
			     bench_median(b->threads[0], ROUNDS));
	}
	bench_dev_close(&b->dev);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("trace", "%d calls, %d rounds, medians", CALLS, ROUNDS);
	return bench_run_placed(BENCH_SAME_CPU, run) | bench_run_placed(BENCH_FREE, run);
}
