/* SPDX-License-Identifier: MIT */
/*
 * Which CPU the monitor is bound to (mm/follow.c), with messages made by hand.
 *
 * Tries to break: it is bound only when many come in a row, to a CPU it may use, and never
 * straight from one to another; its own mask comes back; a mask that somebody else has set
 * is kept.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/mm.h"

#define PATIENCE 20000u /* bursts; each is a millisecond, and a slow machine forgets rows */

static struct follow follow;
static cpu_set_t all;
static int cpu[2];

static void own_mask(cpu_set_t *mask)
{
	assert_int_equal(sched_getaffinity(0, sizeof(*mask), mask), 0);
}

static bool on_all(void)
{
	cpu_set_t mask;

	own_mask(&mask);
	return CPU_EQUAL(&mask, &all);
}

static bool on_one(int which)
{
	cpu_set_t mask;

	own_mask(&mask);
	return CPU_COUNT(&mask) == 1 && CPU_ISSET(which, &mask);
}

static void pause_ms(long ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000 };

	nanosleep(&ts, NULL);
}

static int setup(void **state)
{
	int i, n = 0;

	(void)state;
	own_mask(&all);
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &all))
			cpu[n++] = i;
	if (n < 2)
		cpu[1] = -1;
	follow_init(&follow);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return sched_setaffinity(0, sizeof(all), &all);
}

/* A millisecond of messages, never from one CPU straight to another. */
static void burst(uint32_t tid, int from)
{
	unsigned int i;

	for (i = 0; i < 20; i++) {
		int before = follow.cpu;

		follow_message(&follow, tid, from);
		if (before >= 0 && follow.cpu != before)
			assert_int_equal(follow.cpu, -1);
	}
	pause_ms(1);
}

static void bind_to(uint32_t tid, int from, int to)
{
	unsigned int i;

	for (i = 0; i < PATIENCE && follow.cpu != to; i++)
		burst(tid, from);
	assert_int_equal(follow.cpu, to);
	assert_true(on_one(to));
}

static void few_messages_bind_nothing(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 10; i++) {
		follow_message(&follow, 0, cpu[0]);
		pause_ms(2);
	}
	assert_true(on_all());
}

static void many_bind_until_a_pause(void **state)
{
	(void)state;
	bind_to(0, cpu[0], cpu[0]);
	pause_ms(50);
	follow_message(&follow, 0, cpu[0]);
	assert_int_equal(follow.cpu, -1);
	assert_true(on_all());
}

static void moves_by_way_of_all(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	bind_to(0, cpu[0], cpu[0]);
	bind_to(0, cpu[1], cpu[1]); /* burst() looks at each step */
}

/* Each look finds them elsewhere. */
static void several_cpus_bind_nothing_for_long(void **state)
{
	unsigned int i, bound = 0;

	(void)state;
	if (cpu[1] < 0)
		skip();
	bind_to(0, cpu[0], cpu[0]);
	for (i = 0; i < 100; i++) {
		uint64_t looked = follow.looked;

		follow_message(&follow, 0, cpu[i % 2]);
		while (follow.looked == looked && follow.row)
			follow_message(&follow, 0, cpu[i % 2]);
		bound += follow.cpu >= 0;
	}
	/* A pause that the machine made lets the first look bind. */
	assert_in_range(bound, 0, 50);
}

static void a_mask_of_others_is_kept(void **state)
{
	cpu_set_t one;

	(void)state;
	if (cpu[1] < 0)
		skip();
	bind_to(0, cpu[0], cpu[0]);
	CPU_ZERO(&one);
	CPU_SET(cpu[1], &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	pause_ms(50);
	follow_message(&follow, 0, cpu[0]);
	assert_true(on_one(cpu[1]));
	for (int i = 0; i < 50; i++)
		burst(0, cpu[0]);
	assert_true(on_one(cpu[1])); /* cpu[0] is not one it may use */
}

static void no_such_cpu(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 50; i++)
		burst(0, i % 2 ? -1 : (int)FOLLOW_CPUS + i);
	assert_true(on_all());
}

static struct {
	uint32_t tid; /* atomic */
	bool stop; /* atomic */
} sender;

static void *sender_main(void *arg)
{
	(void)arg;
	__atomic_store_n(&sender.tid, (uint32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	while (!__atomic_load_n(&sender.stop, __ATOMIC_ACQUIRE))
		pause_ms(1);
	return NULL;
}

static void finds_the_cpu_of_a_thread(void **state)
{
	int which = cpu[1] < 0 ? cpu[0] : cpu[1];
	pthread_attr_t attr;
	pthread_t thread;
	cpu_set_t one;

	(void)state;
	CPU_ZERO(&one);
	CPU_SET(which, &one);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
	assert_int_equal(pthread_create(&thread, &attr, sender_main, NULL), 0);
	while (!__atomic_load_n(&sender.tid, __ATOMIC_ACQUIRE))
		pause_ms(1);
	bind_to(sender.tid, -1, which);
	__atomic_store_n(&sender.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(few_messages_bind_nothing), TEST(many_bind_until_a_pause),
		TEST(moves_by_way_of_all),	 TEST(several_cpus_bind_nothing_for_long),
		TEST(a_mask_of_others_is_kept),	 TEST(no_such_cpu),
		TEST(finds_the_cpu_of_a_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
