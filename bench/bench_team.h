/* SPDX-License-Identifier: MIT */
/*
 * Threads that work at once: they begin together, and the time is from the first's
 * begin to the last's end. They stay from run to run, so none of it is their making.
 */
#ifndef BENCH_TEAM_H
#define BENCH_TEAM_H

#include "bench.h"

#include <pthread.h>

#define BENCH_TEAM_MAX 64

struct bench_team {
	unsigned int threads; /* of this run */
	void (*fn)(void *arg, unsigned int thread);
	void *arg;
	unsigned int started; /* threads there are */
	unsigned int waiting; /* runs so far */
	unsigned int done;
	pthread_mutex_t lock;
	pthread_cond_t go, end;
	pthread_barrier_t begin;
	uint64_t from[BENCH_TEAM_MAX], to[BENCH_TEAM_MAX];
};

struct bench_member {
	struct bench_team *team;
	unsigned int thread;
};

static inline void *bench_team_main(void *arg)
{
	struct bench_member *member = arg;
	struct bench_team *team = member->team;
	unsigned int me = member->thread, seen = 0;

	pthread_mutex_lock(&team->lock);
	for (;;) {
		while (seen == team->waiting)
			pthread_cond_wait(&team->go, &team->lock);
		seen = team->waiting;
		if (me >= team->threads)
			continue;
		pthread_mutex_unlock(&team->lock);
		pthread_barrier_wait(&team->begin);
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
	*team = (struct bench_team){ .lock = PTHREAD_MUTEX_INITIALIZER,
				     .go = PTHREAD_COND_INITIALIZER,
				     .end = PTHREAD_COND_INITIALIZER };
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

/* @fn in so many threads at once; nanoseconds. One team a program. */
static inline double bench_team_run(struct bench_team *team, unsigned int threads,
				    void (*fn)(void *arg, unsigned int thread), void *arg)
{
	uint64_t from, to;
	unsigned int i;

	pthread_mutex_lock(&team->lock);
	bench_team_grow(team, threads);
	team->threads = threads;
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
	from = team->from[0];
	to = team->to[0];
	for (i = 1; i < threads; i++) {
		from = team->from[i] < from ? team->from[i] : from;
		to = team->to[i] > to ? team->to[i] : to;
	}
	return (double)(to - from);
}

#endif
