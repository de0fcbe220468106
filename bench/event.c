// SPDX-License-Identifier: MIT
/*
 * What does mirroring add to munmap(), madvise(), mremap() and fork()?
 *
 * Each call is timed on a range of its own, of 1 and of 512 pages, all touched:
 *
 *	plain	nobody watches it
 *	bare	a bare userfaultfd does, whose thread reads the event, no more
 *	polled	the same, but it waits in poll(): the read() lets the caller go on, so who must
 *		keep a device from its old translations by then cannot wait in that
 *	mapped	the dummy device, which is prompt, has every page in its page table
 *	heard	the same, but the system call is made by hand, as by libc's own free(): so there is
 *		an event, which the others do without (src/core/direct.c). Not of fork()
 *	watched	it is registered for the dummy device, which has none of its pages:
 *		they were mirrored once, and taken away since
 *
 * What the others add to the plain call is compared: the kernel makes every
 * such call wait until its event was read, so a bare event round trip is the
 * floor; "polled" says what of the ratio nobody can do without. A plain call is not always alike (a thread on the other CPU makes it flush that
 * one's TLB too), so each call is compared with the plain one of its own turn, and the
 * median of the differences counts. Where a bare event does not even cost more than the
 * plain call in most rounds, there is no floor, and no verdict. "free" is MADV_FREE. fork() counts until it returns in the parent; plain
 * and bare use _Fork(), so that libhmm's handlers are in the last two alone.
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALLS 80
#define ROUNDS 7
#define SETTLE_NS 20000

enum who { PLAIN, BARE, POLLED, MAPPED, HEARD, WATCHED, WHO };
enum call { MUNMAP, DONTNEED, FREE, MREMAP, FORK, CALL };

struct event_bench {
	struct bench_uffd uffd;
	struct bench_uffd polled;
	struct bench_dev dev;
	size_t bytes;
	double sample[WHO][CALLS];
	double threads[WHO][CALLS]; /* CPU time of the other threads */
	/* microseconds; the p50 of each round; of the added time too */
	double p50[WHO][ROUNDS];
	double added[WHO][ROUNDS];
	double threads_p50[WHO][ROUNDS];
};

static const char *const call_name[CALL] = { "munmap", "dontneed", "free", "mremap", "fork" };
static const char *const who_name[WHO] = {
	"plain", "bare", "polled", "mapped", "heard", "watched"
};
static const unsigned int pages_of[] = { 1, 512 };

static bool fork_event(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	return !hmm_probe(&features) && features.fork_event;
}

/* mprotect() is libhmm's here: it makes the device forget the pages. */
static char *prepare(struct event_bench *b, enum who who)
{
	char *range = bench_map(b->bytes, BENCH_SMALL);
	size_t at;

	for (at = 0; at < b->bytes; at += bench_page_size())
		*(volatile char *)(range + at) = 1;
	if (who == BARE || who == POLLED)
		bench_uffd_register(who == BARE ? &b->uffd : &b->polled, range, b->bytes,
				    UFFDIO_REGISTER_MODE_WP);
	if (who == MAPPED || who == HEARD || who == WATCHED)
		bench_dev_mirror(&b->dev, range, b->bytes, false);
	if (who == WATCHED && (mprotect(range, b->bytes, PROT_NONE) ||
			       mprotect(range, b->bytes, PROT_READ | PROT_WRITE)))
		bench_fail("mprotect");
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

static int madvise_now(enum who who, char *range, size_t bytes, int advice)
{
	return who == HEARD ? (int)syscall(SYS_madvise, range, bytes, advice) :
			      madvise(range, bytes, advice);
}

static bool call_now(struct event_bench *b, enum who who, enum call call, char *range, void *to,
		     pid_t *child)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	switch (call) {
	case MUNMAP:
		return who == HEARD ? !syscall(SYS_munmap, range, b->bytes) :
				      !munmap(range, b->bytes);
	case DONTNEED:
	case FREE:
		return !madvise_now(who, range, b->bytes, call == FREE ? MADV_FREE : MADV_DONTNEED);
	case MREMAP:
		return who == HEARD ? syscall(SYS_mremap, range, b->bytes, b->bytes, flags, to) ==
					      (long)to :
				      mremap(range, b->bytes, b->bytes, flags, to) == to;
	default:
		*child = who == MAPPED || who == WATCHED ? fork() : _Fork();
		if (!*child)
			_exit(0);
		return *child > 0;
	}
}

static void call_timed(struct event_bench *b, enum who who, enum call call, int i)
{
	char *range = prepare(b, who), *to = NULL;
	uint64_t t0, t1, others;
	pid_t child = 0;
	bool ok;

	if (call == MREMAP)
		to = bench_map(b->bytes, BENCH_SMALL);
	settle();
	others = others_ns();
	t0 = bench_ns();
	ok = call_now(b, who, call, range, to, &child);
	t1 = bench_ns();
	if (child > 0)
		waitpid(child, NULL, 0);
	settle();
	others = others_ns() - others;
	if (!ok)
		bench_fail("%s failed", call_name[call]);
	if (call == DONTNEED && *(volatile char *)range)
		bench_fail("old data after MADV_DONTNEED");
	if (call == MREMAP && !*(volatile char *)to)
		bench_fail("data lost in mremap");
	if (call != MUNMAP && call != MREMAP)
		munmap(range, b->bytes);
	bench_unmap_guards(range, b->bytes);
	if (to)
		bench_unmap(to, b->bytes);
	b->sample[who][i] = (double)(t1 - t0) / 1000;
	b->threads[who][i] = (double)others / 1000;
}

static void round_medians(struct event_bench *b, enum who who, int round)
{
	double added[CALLS];
	int i;

	for (i = 0; i < CALLS; i++)
		added[i] = b->sample[who][i] - b->sample[PLAIN][i];
	b->added[who][round] = bench_median(added, CALLS);
	b->threads_p50[who][round] = bench_median(b->threads[who], CALLS);
}

/* What went before leaves its mark on caches and idle CPUs: take turns at being first. */
static void one_round(struct event_bench *b, enum call call, int round)
{
	static const enum who orders[][WHO] = {
		{ PLAIN, BARE, POLLED, MAPPED, HEARD, WATCHED },
		{ WATCHED, HEARD, MAPPED, BARE, PLAIN, POLLED },
		{ MAPPED, PLAIN, WATCHED, POLLED, HEARD, BARE },
		{ HEARD, BARE, POLLED, WATCHED, PLAIN, MAPPED },
	};
	int i, who;

	for (i = 0; i < CALLS; i++) {
		for (who = 0; who < WHO; who++)
			if (call != FORK || orders[i % 4][who] != HEARD)
				call_timed(b, orders[i % 4][who], call, i);
	}
	if (round < 0)
		return;
	for (who = 0; who < WHO; who++)
		round_medians(b, (enum who)who, round);
	for (who = 0; who < WHO; who++) /* sorts the samples */
		b->p50[who][round] = bench_median(b->sample[who], CALLS);
}

static void report(struct event_bench *b, enum call call, enum who who,
		   enum bench_placement placement)
{
	double own[ROUNDS], bare[ROUNDS], r[ROUNDS], polled[ROUNDS];
	int i, rounds = 0;
	bool floor;
	char name[64];

	for (i = 0; i < ROUNDS; i++) {
		own[i] = b->added[who][i];
		bare[i] = b->added[BARE][i];
		if (bare[i] <= 0)
			continue;
		r[rounds] = own[i] / bare[i];
		polled[rounds++] = b->added[POLLED][i] / bare[i];
	}
	floor = rounds > ROUNDS / 2;
	snprintf(name, sizeof(name), "event_%s_%zu_added_%s_%s", call_name[call],
		 b->bytes / bench_page_size(), who_name[who], bench_placement_name(placement));
	bench_result(name, bench_median(own, ROUNDS), "us",
		     floor ? bench_median(r, (size_t)rounds) : 0, floor ? "<=1.25" : "none",
		     "ref=bare_event_added ref_value=%.3f polled_ratio=%.3f plain_call=%.3f "
		     "threads_us=%.3f ref_threads_us=%.3f",
		     bench_median(bare, ROUNDS), floor ? bench_median(polled, (size_t)rounds) : 0,
		     bench_median(b->p50[PLAIN], ROUNDS), bench_median(b->threads_p50[who], ROUNDS),
		     bench_median(b->threads_p50[BARE], ROUNDS));
}

static void run_call(struct event_bench *b, enum call call, enum bench_placement placement)
{
	unsigned int i;
	int round;

	if (call == FORK && !fork_event()) {
		printf("# fork: left out, the kernel sends this process no event of it\n");
		return;
	}
	for (i = 0; i < sizeof(pages_of) / sizeof(*pages_of); i++) {
		b->bytes = pages_of[i] * bench_page_size();
		for (round = -1; round < ROUNDS; round++)
			one_round(b, call, round);
		report(b, call, MAPPED, placement);
		if (call != FORK)
			report(b, call, HEARD, placement);
		report(b, call, WATCHED, placement);
	}
}

static void run(enum bench_placement placement)
{
	struct event_bench *b = calloc(1, sizeof(*b));
	int call;

	if (!b)
		bench_fail("no memory");
	printf("# %s\n",
	       placement == BENCH_SAME_CPU ? "all threads on one CPU" : "threads on any CPU");
	bench_dev_open(&b->dev, BENCH_HUGE);
	bench_uffd_drop(&b->uffd, fork_event());
	b->polled.polls = true;
	bench_uffd_drop(&b->polled, fork_event());
	for (call = 0; call < CALL; call++)
		run_call(b, (enum call)call, placement);
	bench_dev_close(&b->dev);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("event", "a range of touched pages, %d calls in each of %d rounds, medians",
		     CALLS, ROUNDS);
	return bench_run_placed(BENCH_SAME_CPU, run) | bench_run_placed(BENCH_FREE, run);
}
