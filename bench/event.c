// SPDX-License-Identifier: MIT
/*
 * What does mirroring add to munmap(), madvise(MADV_DONTNEED) and mremap()?
 *
 * Each call is timed on 2 MiB with 16 pages resident: on memory nobody watches,
 * on memory watched by a bare userfaultfd whose thread reads the event and does
 * nothing, and on memory that the dummy device mirrors. What the last two add
 * to the first is compared: the kernel makes every such call wait until its
 * event was read, so a bare event round trip is the floor.
 *
 * What is done about an event after the call has returned is not in that time.
 * It shows in threads_us, the CPU time that all other threads of the process take
 * a call.
 */
#include "bench_hmm.h"
#include "bench_uffd.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES BENCH_HUGE
#define RESIDENT 16
#define CALLS 150
#define ROUNDS 9
#define SETTLE_NS 20000

enum who { PLAIN, BARE, HMM, WHO };
enum call { MUNMAP, DONTNEED, MREMAP, CALL };

struct event_bench {
	struct bench_uffd uffd;
	struct bench_dev dev;
	double sample[WHO][CALLS];
	double threads[WHO][CALLS]; /* CPU time of the other threads */
	/* microseconds; the p50 of each round */
	double p50[CALL][WHO][ROUNDS];
	double threads_p50[CALL][WHO][ROUNDS];
};

static const char *const call_name[CALL] = { "munmap", "dontneed", "mremap" };

static char *prepare(struct event_bench *b, enum who who)
{
	char *range = bench_map(BYTES, BENCH_SMALL);
	size_t page = bench_page_size(), i;

	for (i = 0; i < RESIDENT; i++)
		*(volatile char *)(range + i * page) = 1;
	if (who == BARE)
		bench_uffd_register(&b->uffd, range, BYTES, UFFDIO_REGISTER_MODE_WP);
	if (who == HMM)
		bench_dev_mirror(&b->dev, range, RESIDENT * page, false);
	return range;
}

/* Let whoever reads events finish, so that nobody pays for another's call. */
static void settle(void)
{
	uint64_t end = bench_ns() + SETTLE_NS;

	while (bench_ns() < end)
		sched_yield();
}

static uint64_t others_ns(void)
{
	struct timespec all, own;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &all);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &own);
	return (uint64_t)(all.tv_sec - own.tv_sec) * 1000000000u + (uint64_t)all.tv_nsec -
	       (uint64_t)own.tv_nsec;
}

static void call_timed(struct event_bench *b, enum who who, enum call call, int i)
{
	char *range = prepare(b, who), *to = NULL;
	uint64_t t0, t1, others;
	bool ok;

	if (call == MREMAP)
		to = bench_map(BYTES, BENCH_SMALL);
	settle();
	others = others_ns();
	t0 = bench_ns();
	if (call == MUNMAP)
		ok = !munmap(range, BYTES);
	else if (call == DONTNEED)
		ok = !madvise(range, BYTES, MADV_DONTNEED);
	else
		ok = mremap(range, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
	t1 = bench_ns();
	settle();
	others = others_ns() - others;
	if (!ok)
		bench_fail("%s failed", call_name[call]);
	if (call == DONTNEED && *(volatile char *)range)
		bench_fail("old data after MADV_DONTNEED");
	if (call == MREMAP && !*(volatile char *)to)
		bench_fail("data lost in mremap");
	if (call == DONTNEED)
		munmap(range, BYTES);
	bench_unmap_guards(range, BYTES);
	if (to)
		bench_unmap(to, BYTES);
	b->sample[who][i] = (double)(t1 - t0) / 1000;
	b->threads[who][i] = (double)others / 1000;
}

/* What went before leaves its mark on caches and idle CPUs: take every order. */
static void one_round(struct event_bench *b, enum call call, int round)
{
	static const enum who orders[6][WHO] = {
		{ PLAIN, BARE, HMM }, { HMM, BARE, PLAIN }, { BARE, PLAIN, HMM },
		{ HMM, PLAIN, BARE }, { PLAIN, HMM, BARE }, { BARE, HMM, PLAIN },
	};
	int i, who;

	for (i = 0; i < CALLS; i++) {
		for (who = 0; who < WHO; who++)
			call_timed(b, orders[i % 6][who], call, i);
	}
	for (who = 0; who < WHO && round >= 0; who++) {
		b->p50[call][who][round] = bench_median(b->sample[who], CALLS);
		b->threads_p50[call][who][round] = bench_median(b->threads[who], CALLS);
	}
}

static void report(struct event_bench *b, enum call call, enum bench_placement placement)
{
	double own[ROUNDS], bare[ROUNDS], r[ROUNDS];
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		own[i] = b->p50[call][HMM][i] - b->p50[call][PLAIN][i];
		bare[i] = b->p50[call][BARE][i] - b->p50[call][PLAIN][i];
		r[i] = own[i] / bare[i];
	}
	snprintf(name, sizeof(name), "event_%s_added_%s", call_name[call],
		 bench_placement_name(placement));
	bench_result(name, bench_median(own, ROUNDS), "us", bench_median(r, ROUNDS), "<=1.25",
		     "ref=bare_event_added ref_value=%.3f plain_call=%.3f threads_us=%.3f "
		     "ref_threads_us=%.3f",
		     bench_median(bare, ROUNDS), bench_median(b->p50[call][PLAIN], ROUNDS),
		     bench_median(b->threads_p50[call][HMM], ROUNDS),
		     bench_median(b->threads_p50[call][BARE], ROUNDS));
}

static void run(enum bench_placement placement)
{
	struct event_bench *b = calloc(1, sizeof(*b));
	int call, round;

	if (!b)
		bench_fail("no memory");
	bench_dev_open(&b->dev, BYTES);
	bench_uffd_drop(&b->uffd);
	for (call = 0; call < CALL; call++) {
		for (round = -1; round < ROUNDS; round++)
			one_round(b, (enum call)call, round);
		report(b, (enum call)call, placement);
	}
	bench_dev_close(&b->dev);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("event", "2 MiB with %d pages, %d calls in each of %d rounds, medians",
		     RESIDENT, CALLS, ROUNDS);
	return bench_run_placed(BENCH_SAME_CPU, run) | bench_run_placed(BENCH_FREE, run);
}
