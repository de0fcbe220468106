/* SPDX-License-Identifier: MIT */
/* Threads: many, that come and go, wait for each other, and fork. */
#include <pthread.h>
#include <sys/wait.h>

#include "act.h"

#define THREADS 8
#define PART (DATA / THREADS)

static struct {
	uint64_t *data[THREADS];
	pthread_mutex_t *lock; /* on the heap: may be away with a waiter in it */
	pthread_cond_t *turn;
	unsigned long *count;
} world;

static __thread uint64_t own;

static void *part_work(void *arg)
{
	size_t i = (size_t)arg;

	own = i;
	data_check(world.data[i], PART, i);
	data_fill(world.data[i], PART, i);
	must(own == i);
	return arg;
}

static void all_wait(const pthread_t *thread)
{
	size_t i;
	void *ret;

	for (i = 0; i < THREADS; i++) {
		must(!pthread_join(thread[i], &ret));
		must((size_t)ret == i);
	}
}

static void parts_make(void)
{
	size_t i;

	for (i = 0; i < THREADS; i++)
		world.data[i] = data_new(PART, i);
}

/* Rounds of threads; memory that belongs to one is freed by another. */
static int thread_many(char **args)
{
	pthread_t thread[THREADS];
	size_t i, round;

	(void)args;
	parts_make();
	for (round = 0; round < 6; round++) {
		for (i = 0; i < THREADS; i++)
			must(!pthread_create(&thread[i], NULL, part_work, (void *)i));
		all_wait(thread);
		free(world.data[round]);
		world.data[round] = data_new(PART, round);
	}
	puts("joined");
	return 0;
}

static void *short_life(void *arg)
{
	__atomic_fetch_add(world.count, 1, __ATOMIC_SEQ_CST);
	return arg;
}

/* Hundreds that do next to nothing, detached, while the memory is in use. */
static int thread_short(char **args)
{
	pthread_attr_t detached;
	unsigned long i;

	(void)args;
	world.count = calloc(1, sizeof(*world.count));
	world.data[0] = data_new(DATA, 9);
	must(!pthread_attr_init(&detached));
	must(!pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED));
	for (i = 0; i < 400; i++) {
		pthread_t thread;

		while (pthread_create(&thread, &detached, short_life, NULL))
			usleep(1000);
		if (i % 40 == 0)
			data_check(world.data[0], DATA / 4, 9);
	}
	while (__atomic_load_n(world.count, __ATOMIC_SEQ_CST) < 400)
		usleep(1000);
	data_check(world.data[0], DATA, 9);
	puts("400");
	return 0;
}

static void *take_turns(void *arg)
{
	size_t i = (size_t)arg, round;

	for (round = 0; round < 10; round++) {
		must(!pthread_mutex_lock(world.lock));
		while (*world.count % THREADS != i)
			pthread_cond_wait(world.turn, world.lock);
		++*world.count;
		pthread_cond_broadcast(world.turn);
		must(!pthread_mutex_unlock(world.lock));
		data_check(world.data[i], PART / 4, i);
	}
	return arg;
}

static int thread_turns(char **args)
{
	pthread_t thread[THREADS];
	size_t i;

	(void)args;
	world.lock = malloc(sizeof(*world.lock));
	pthread_mutex_init(world.lock, NULL);
	world.turn = malloc(sizeof(*world.turn));
	pthread_cond_init(world.turn, NULL);
	world.count = calloc(1, sizeof(*world.count));
	parts_make();
	for (i = 0; i < THREADS; i++)
		must(!pthread_create(&thread[i], NULL, take_turns, (void *)i));
	all_wait(thread);
	printf("%lu turns\n", *world.count);
	return 0;
}

static void *fork_meanwhile(void *arg)
{
	size_t i = (size_t)arg, round;
	int status;

	for (round = 0; round < 3; round++) {
		pid_t pid = fork();

		must(pid >= 0);
		if (!pid) {
			data_check(world.data[i], PART, i);
			_exit(0);
		}
		data_check(world.data[i], PART, i);
		must(waitpid(pid, &status, 0) == pid && !status);
	}
	return arg;
}

static int thread_fork(char **args)
{
	pthread_t thread[THREADS];
	size_t i;

	(void)args;
	parts_make();
	for (i = 0; i < THREADS; i++)
		must(!pthread_create(&thread[i], NULL, i % 3 ? part_work : fork_meanwhile,
				     (void *)i));
	all_wait(thread);
	puts("forked");
	return 0;
}

const struct act acts_thread[] = {
	{ "threads", thread_many },
	{ "short", thread_short },
	{ "turns", thread_turns },
	{ "fork-threads", thread_fork },
	{ NULL, NULL },
};
