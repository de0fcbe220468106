/* SPDX-License-Identifier: MIT */
/*
 * Whether the monitor sleeps between messages (mm/follow.c), with messages made by hand.
 *
 * Tries to break: it looks for more only when many come in a row, and from another CPU; less and
 * less often when that is in vain; and lets idle CPUs sleep again.
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

static void run_on(int which)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(which, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
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
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET(i, &all))
			cpu[n++] = i;
	if (n < 2)
		cpu[1] = -1;
	follow_init(&follow);
	run_on(cpu[0]);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	follow_exit(&follow);
	return sched_setaffinity(0, sizeof(all), &all);
}

/* A millisecond of messages. How often was more to be looked for? */
static unsigned int burst(uint32_t tid, int from)
{
	unsigned int i, spins = 0;

	for (i = 0; i < 20; i++)
		spins += follow_message(&follow, tid, from) != 0;
	pause_ms(1);
	return spins;
}

static unsigned int bursts(uint32_t tid, int from, unsigned int n)
{
	unsigned int i, spins = 0;

	for (i = 0; i < n; i++)
		spins += burst(tid, from);
	return spins;
}

static void until_it_spins(uint32_t tid, int from)
{
	unsigned int i;

	for (i = 0; i < PATIENCE; i++)
		if (burst(tid, from))
			return;
	fail_msg("it always sleeps");
}

static void few_messages_let_it_sleep(void **state)
{
	unsigned int i;

	(void)state;
	if (cpu[1] < 0)
		skip();
	for (i = 0; i < 10; i++) {
		assert_int_equal(follow_message(&follow, 0, cpu[1]), 0);
		pause_ms(2);
	}
}

static void those_of_its_own_cpu_let_it_sleep(void **state)
{
	(void)state;
	assert_int_equal(bursts(0, cpu[0], 50), 0);
	assert_int_equal(bursts(0, -1, 50), 0);
	assert_int_equal(follow_timeout(&follow), -1);
}

static void those_of_another_do_not(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_it_spins(0, cpu[1]);
	assert_true(follow_timeout(&follow) == -1 || follow.latency >= 0);
	follow_rest(&follow);
	assert_int_equal(follow_timeout(&follow), -1);
	pause_ms(50);
	assert_int_equal(follow_message(&follow, 0, cpu[1]), 0); /* a new row */
}

/* What comes in a row, but seldom, does not keep the machine awake. */
static void seldom_lets_idle_cpus_sleep(void **state)
{
	unsigned int i;

	(void)state;
	if (cpu[1] < 0)
		skip();
	until_it_spins(0, cpu[1]);
	for (i = 0; i < 20; i++) {
		follow_message(&follow, 0, cpu[1]);
		pause_ms(8);
	}
	assert_int_equal(follow_timeout(&follow), -1);
}

static void in_vain_less_and_less_often(void **state)
{
	unsigned int i, skipped = 0;

	(void)state;
	for (i = 0; i < 20; i++) {
		follow_spun(&follow, true);
		assert_true(follow.skip >= skipped && follow.skip <= 255);
		skipped = follow.skip;
	}
	assert_int_equal(skipped, 255);
	follow_spun(&follow, false);
	assert_int_equal(follow.skip, 0);
	follow_spun(&follow, true);
	assert_true(follow.skip); /* once is not enough to forget */
	for (i = 0; i < 20; i++)
		follow_spun(&follow, false);
	follow_spun(&follow, true);
	assert_int_equal(follow.skip, 1);
}

static struct {
	uint32_t tid; /* atomic */
	bool stop; /* atomic */
} sender;

static void *sender_main(void *arg)
{
	run_on(*(int *)arg);
	__atomic_store_n(&sender.tid, (uint32_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	while (!__atomic_load_n(&sender.stop, __ATOMIC_ACQUIRE))
		pause_ms(1);
	return NULL;
}

static void sender_start(pthread_t *thread, int *on)
{
	sender.tid = 0;
	sender.stop = false;
	assert_int_equal(pthread_create(thread, NULL, sender_main, on), 0);
	while (!__atomic_load_n(&sender.tid, __ATOMIC_ACQUIRE))
		pause_ms(1);
}

static void sender_end(pthread_t thread)
{
	__atomic_store_n(&sender.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
}

static void knows_where_a_thread_runs(void **state)
{
	pthread_t thread;

	(void)state;
	if (!follow.rseq || cpu[1] < 0)
		skip(); /* a C library that does not tell */
	sender_start(&thread, &cpu[0]);
	assert_int_equal(bursts(sender.tid, -1, 50), 0);
	sender_end(thread);
	sender_start(&thread, &cpu[1]);
	until_it_spins(sender.tid, -1);
	sender_end(thread);
	bursts(sender.tid, -1, 5); /* it is gone: no harm */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(few_messages_let_it_sleep),   TEST(those_of_its_own_cpu_let_it_sleep),
		TEST(those_of_another_do_not),	   TEST(seldom_lets_idle_cpus_sleep),
		TEST(in_vain_less_and_less_often), TEST(knows_where_a_thread_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
