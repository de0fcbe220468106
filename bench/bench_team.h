/* SPDX-License-Identifier: MIT */
/*
 * Threads that work at once: they begin together, and the time is from the first's
 * begin to the last's end. They stay from run to run, so none of it is their making.
 *
 * Two threads that are woken at once may find themselves on one CPU for as long as a
 * run of a few milliseconds takes, with another one idle. Who measures what two CPUs are worth
 * therefore sets "bound": each thread has its CPU, in turn, and as many as there are CPUs
 * spin until the last one is there, for to wake somebody takes 50 us.
 */
#ifndef BENCH_TEAM_H
#define BENCH_TEAM_H

#include "bench.h"

#include <pthread.h>
#include <sched.h>

#define BENCH_TEAM_MAX 64

struct bench_team {
	bool bound; /* set before the first run */
	unsigned int first, threads; /* of this run: so many, from which on; lock */
	void (*fn)(void *arg, unsigned int thread);
	void *arg;
	unsigned int started; /* threads there are */
	unsigned int waiting; /* runs so far */
	unsigned int done;
	pthread_mutex_t lock;
	pthread_cond_t go, end;
	pthread_barrier_t begin;
	unsigned int cpus, there; /* bound */
	uint64_t from[BENCH_TEAM_MAX], to[BENCH_TEAM_MAX];
};

struct bench_member {
	struct bench_team *team;
	unsigned int thread;
};

/* To the CPUs that the process may use, in turn. */
static inline void bench_team_bind(unsigned int thread, unsigned int cpus)
{
	unsigned int left = thread % cpus;
	cpu_set_t all, one;
	int cpu = 0;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(all), &all))
		bench_fail("sched_getaffinity");
	while (!CPU_ISSET(cpu, &all) || left--)
		cpu++;
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		bench_fail("sched_setaffinity");
}

static inline void bench_team_together(struct bench_team *team)
{
	if (!team->bound || team->threads > team->cpus) {
		pthread_barrier_wait(&team->begin);
		return;
	}
	__atomic_add_fetch(&team->there, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&team->there, __ATOMIC_ACQUIRE) < team->threads)
		;
}

static inline void *bench_team_main(void *arg)
{
	struct bench_member *member = arg;
	struct bench_team *team = member->team;
	unsigned int me = member->thread, seen = 0;

	if (team->bound)
		bench_team_bind(me, team->cpus);
	pthread_mutex_lock(&team->lock);
	for (;;) {
		while (seen == team->waiting)
			pthread_cond_wait(&team->go, &team->lock);
		seen = team->waiting;
		if (me < team->first || me >= team->first + team->threads)
			continue;
		pthread_mutex_unlock(&team->lock);
		bench_team_together(team);
		team->from[me] = bench_ns();
		team->fn(team->arg, me);
		team->to[me] = bench_ns();
		pthread_mutex_lock(&team->lock);
		if (++team->done == team->threads)
			pthread_cond_signal(&team->end);
	}
	return NULL;
}

static inline void bench_team_init(struct bench_team *team)
{
	cpu_set_t cpus;

	*team = (struct bench_team){ .lock = PTHREAD_MUTEX_INITIALIZER,
				     .go = PTHREAD_COND_INITIALIZER,
				     .end = PTHREAD_COND_INITIALIZER };
	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		bench_fail("sched_getaffinity");
	team->cpus = (unsigned int)CPU_COUNT(&cpus);
}

/* They are made when they are first needed, and never end. */
static inline void bench_team_grow(struct bench_team *team, unsigned int threads)
{
	static struct bench_member member[BENCH_TEAM_MAX];
	pthread_t thread;

	for (; team->started < threads; team->started++) {
		member[team->started] = (struct bench_member){ team, team->started };
		if (pthread_create(&thread, NULL, bench_team_main, &member[team->started]))
			bench_fail("pthread_create");
		pthread_detach(thread);
	}
}

/* @fn in so many threads at once, from @first on; nanoseconds. One team a program. */
static inline double bench_team_run_from(struct bench_team *team, unsigned int first,
					 unsigned int threads,
					 void (*fn)(void *arg, unsigned int thread), void *arg)
{
	uint64_t from, to;
	unsigned int i;

	pthread_mutex_lock(&team->lock);
	bench_team_grow(team, first + threads);
	team->first = first; /* not before: a thread that wakes late still asks for the last run */
	team->threads = threads;
	team->there = 0;
	team->fn = fn;
	team->arg = arg;
	team->done = 0;
	pthread_barrier_init(&team->begin, NULL, threads);
	team->waiting++;
	pthread_cond_broadcast(&team->go);
	while (team->done < threads)
		pthread_cond_wait(&team->end, &team->lock);
	pthread_mutex_unlock(&team->lock);
	pthread_barrier_destroy(&team->begin);
	from = team->from[first];
	to = team->to[first];
	for (i = first + 1; i < first + threads; i++) {
		from = team->from[i] < from ? team->from[i] : from;
		to = team->to[i] > to ? team->to[i] : to;
	}
	return (double)(to - from);
}

static inline double bench_team_run(struct bench_team *team, unsigned int threads,
				    void (*fn)(void *arg, unsigned int thread), void *arg)
{
	return bench_team_run_from(team, 0, threads, fn, arg);
}

#endif
