// SPDX-License-Identifier: MIT
/*
 * What does the same work cost where 1 to 64 threads do it at once, each on its own range?
 *
 *	device_fault	of 512 present pages, by a device that has them already
 *	to_device	2 MiB migrate, in one call
 *	fault		a CPU fault on a page that is in the device
 *	invalidate	munmap() of 64 KiB that the device has translations of
 *
 * CPU time of the whole process for one of them, so how many CPUs there are does not
 * matter: waiting costs nothing, being woken up for nothing does. (What two threads get
 * done on two CPUs: bench/threads.) The device keeps a word of each page. "plain" is
 * munmap() of memory that nobody watches, in as many threads: from two threads on the
 * kernel interrupts the other CPU for it, as for all that takes pages away. So two
 * threads, not one, are what the ratios are to.
 */
#include "bench_scale.h"
#include "bench_tag.h"
#include "bench_team.h"

#include <sys/mman.h>

#define LARGEST 64u
#define FAULTS 64u /* a thread */
#define PIECE (64ul << 10)
#define EACH 16u /* units a thread, where they are short */
#define ROUNDS 7

enum curve { DEVICE_FAULT, TO, FAULT, INVALIDATE, PLAIN, CURVES };

static struct bench_curve curve[CURVES] = {
	{ "device_fault", "threads", "us", 0 }, { "to_device", "threads", "us", 0 },
	{ "fault", "threads", "us", 0 },	{ "invalidate", "threads", "us", 0 },
	{ "plain", "threads", "us", 0 },
};

struct lanes {
	struct bench_team team;
	struct bench_tag *tag;
	unsigned int threads;
	unsigned int each; /* units of work of a thread */
	char *lane[LARGEST]; /* BENCH_HUGE each */
	double us[CURVES][ROUNDS];
};

static void device_fault(void *arg, unsigned int thread)
{
	struct lanes *l = arg;
	unsigned int i;

	for (i = 0; i < l->each; i++)
		bench_tag_event(l->tag, HMM_DEVICE_RFAULT, l->lane[thread], BENCH_HUGE,
				BENCH_HUGE / bench_page_size());
}

static void to_device(void *arg, unsigned int thread)
{
	struct lanes *l = arg;

	bench_tag_event(l->tag, HMM_COPY_TO_DEVICE, l->lane[thread], BENCH_HUGE,
			BENCH_HUGE / bench_page_size());
}

static void fault(void *arg, unsigned int thread)
{
	struct lanes *l = arg;
	size_t page = bench_page_size(), i;

	for (i = 0; i < FAULTS; i++)
		*(volatile char *)(l->lane[thread] + i * 67 % (BENCH_HUGE / page) * page);
}

static void plain(void *arg, unsigned int thread)
{
	struct lanes *l = arg;
	size_t at;

	for (at = 0; at < BENCH_HUGE; at += PIECE)
		if (munmap(l->lane[thread] + at, PIECE))
			bench_fail("munmap");
}

static void invalidate(void *arg, unsigned int thread)
{
	struct lanes *l = arg;

	plain(arg, thread);
	hmm_mirror_sync(&l->tag->mirror);
}

static void touch(struct lanes *l, unsigned int thread)
{
	size_t page = bench_page_size(), i;

	for (i = 0; i < BENCH_HUGE; i += page)
		*(volatile uint64_t *)(l->lane[thread] + i) = i / page + 1 + thread;
}

static void check(struct lanes *l, unsigned int thread)
{
	size_t page = bench_page_size(), i;

	for (i = 0; i < BENCH_HUGE; i += page)
		bench_tag_check(l->lane[thread] + i, i / page + 1 + thread, "after CPU faults");
}

/* CPU time of one unit. */
static double run_all(struct lanes *l, void (*fn)(void *arg, unsigned int thread), unsigned int n)
{
	uint64_t t0 = bench_cpu_ns();

	bench_team_run(&l->team, l->threads, fn, l);
	return (double)(bench_cpu_ns() - t0) / 1000 / l->threads / n;
}

static void one_round(struct lanes *l, int round)
{
	double us[CURVES];
	unsigned int i;
	int which;

	for (i = 0; i < l->threads; i++) {
		l->lane[i] = bench_map(BENCH_HUGE, BENCH_SMALL);
		touch(l, i);
		device_fault(l, i);
	}
	us[DEVICE_FAULT] = run_all(l, device_fault, l->each);
	us[TO] = run_all(l, to_device, 1);
	us[FAULT] = run_all(l, fault, FAULTS);
	for (i = 0; i < l->threads; i++) {
		check(l, i);
		device_fault(l, i);
	}
	us[INVALIDATE] = run_all(l, invalidate, BENCH_HUGE / PIECE);
	for (i = 0; i < l->threads; i++) {
		bench_unmap_guards(l->lane[i], BENCH_HUGE);
		l->lane[i] = bench_map(BENCH_HUGE, BENCH_SMALL);
		touch(l, i);
	}
	us[PLAIN] = run_all(l, plain, BENCH_HUGE / PIECE);
	for (i = 0; i < l->threads; i++)
		bench_unmap_guards(l->lane[i], BENCH_HUGE);
	for (which = 0; which < CURVES && round >= 0; which++)
		l->us[which][round] = us[which];
}

static void point(struct lanes *l, unsigned int threads)
{
	int round, which;

	l->threads = threads;
	l->each = EACH;
	for (round = -1; round < ROUNDS; round++)
		one_round(l, round);
	for (which = 0; which < CURVES; which++) {
		if (threads == 2)
			curve[which].first = 0;
		bench_scale(&curve[which], threads, bench_median(l->us[which], ROUNDS),
			    threads == LARGEST && which != PLAIN);
	}
}

int main(void)
{
	static struct lanes l;
	unsigned int threads;

	bench_hmm_probe();
	bench_header("scale_threads", "%d rounds, medians of CPU time", ROUNDS);
	bench_team_init(&l.team);
	l.tag = bench_tag_open(LARGEST * BENCH_HUGE);
	for (threads = 1; threads <= LARGEST; threads *= 2)
		point(&l, threads);
	bench_tag_close(l.tag);
	return 0;
}
