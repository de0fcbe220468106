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

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/mm.h"

#define PATIENCE 20000u /* bursts; each is a millisecond, and a slow machine forgets rows */
#define LOOK_PATIENCE 50000000u /* messages; it looks once in a tick of the clock */
#define NOBODY (LONG_MAX / 2) /* follow.switches: there were none since */
#define SOMEBODY (-1000) /* there were many */

static struct follow follow;
static cpu_set_t all;
static int cpu[2];
static int latency; /* what is written to /dev/cpu_dma_latency comes here instead */

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
	latency = memfd_create("latency", MFD_CLOEXEC);
	assert_true(latency >= 0);
	if (follow.latency >= 0)
		hmm_fd_close(follow.latency);
	follow.latency = hmm_fd_keep(dup(latency));
	assert_true(follow.latency >= 0);
	run_on(cpu[0]);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	follow_exit(&follow);
	close(latency);
	return sched_setaffinity(0, sizeof(all), &all);
}

/* The latency, in us, that was asked for last; -1: any. */
static int32_t asked(void)
{
	off_t end = lseek(latency, 0, SEEK_END);
	int32_t us = -1;

	assert_int_equal(end % (off_t)sizeof(us), 0);
	if (end)
		assert_int_equal(pread(latency, &us, sizeof(us), end - (off_t)sizeof(us)),
				 sizeof(us));
	return us;
}

static void idle_cpus_may_sleep(void)
{
	assert_int_equal(follow_timeout(&follow), -1);
	assert_int_equal(asked(), -1);
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

static void until_idle_cpus_are_awake(void)
{
	unsigned int i;

	for (i = 0; i < PATIENCE && follow_timeout(&follow) < 0; i++)
		burst(0, cpu[1]);
	assert_true(follow_timeout(&follow) > 0);
	assert_int_equal(asked(), 0);
}

/* Messages, without a pause, up to where it finds out again; what it makes of that. */
static uint64_t look(uint32_t tid, int from)
{
	uint64_t looked = follow.looked, spin = 0;
	unsigned int i;

	for (i = 0; i < LOOK_PATIENCE && follow.looked == looked; i++)
		spin = follow_message(&follow, tid, from);
	assert_int_not_equal(follow.looked, looked);
	return spin;
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
	idle_cpus_may_sleep();
}

static void those_of_another_do_not(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_it_spins(0, cpu[1]);
	until_idle_cpus_are_awake();
	follow_rest(&follow);
	idle_cpus_may_sleep();
	pause_ms(50);
	assert_int_equal(follow_message(&follow, 0, cpu[1]), 0); /* a new row */
}

/* At the next look; the messages go on. */
static void those_of_its_own_cpu_end_it(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_idle_cpus_are_awake();
	assert_int_equal(look(0, cpu[0]), 0);
	idle_cpus_may_sleep();
	assert_int_equal(bursts(0, cpu[0], 50), 0);
}

static void a_pause_ends_it(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_idle_cpus_are_awake();
	pause_ms(50);
	assert_int_equal(follow_message(&follow, 0, cpu[1]), 0);
	idle_cpus_may_sleep();
}

/* A child has the description of what is closed here, and would hold it. */
static void the_end_ends_it(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_idle_cpus_are_awake();
	follow_exit(&follow);
	assert_int_equal(asked(), -1);
	follow_init(&follow);
}

static void who_else_wants_its_cpu_gets_it(void **state)
{
	(void)state;
	if (cpu[1] < 0)
		skip();
	until_idle_cpus_are_awake();
	follow.switches = SOMEBODY;
	assert_int_equal(look(0, cpu[1]), 0);
	idle_cpus_may_sleep();
	follow.switches = NOBODY;
	assert_true(look(0, cpu[1]) > 0);
	follow.switches = SOMEBODY;
	assert_int_equal(look(0, cpu[1]), 0);
	until_it_spins(0, cpu[1]); /* they have gone */
}

/* What comes in a row, but seldom, does not keep the machine awake. */
static void seldom_lets_idle_cpus_sleep(void **state)
{
	unsigned int i;

	(void)state;
	if (cpu[1] < 0)
		skip();
	until_idle_cpus_are_awake();
	for (i = 0; i < 20; i++) {
		follow_message(&follow, 0, cpu[1]);
		pause_ms(8);
	}
	idle_cpus_may_sleep();
	pause_ms(50);
	for (i = 0; i < 30; i++) { /* nor does a new row of such */
		follow_message(&follow, 0, cpu[1]);
		idle_cpus_may_sleep();
		pause_ms(8);
	}
}

static void in_vain_less_and_less_often(void **state)
{
	unsigned int i, skipped = 0;

	(void)state;
	for (i = 0; i < 20; i++) {
		follow_spun(&follow, true);
		assert_true(follow.skip > skipped || skipped == 255);
		assert_true(follow.skip <= 255);
		skipped = follow.skip;
	}
	assert_int_equal(skipped, 255);
	follow_spun(&follow, false);
	assert_int_equal(follow.skip, 0);
	follow_spun(&follow, true);
	assert_int_equal(follow.skip, 255); /* once is not enough to forget */
	for (i = 0; i < 20; i++)
		follow_spun(&follow, false);
	follow_spun(&follow, true);
	assert_int_equal(follow.skip, 1);
}

/* After one look in vain it sleeps once, after two of them three times. */
static void so_many_messages_let_it_sleep(void **state)
{
	unsigned int i, j, row, asleep;

	(void)state;
	if (cpu[1] < 0)
		skip();
	for (i = 0; i < PATIENCE; i++) {
		follow.vain = follow.skip = 0;
		follow.switches = NOBODY;
		assert_true(look(0, cpu[1]) > 0);
		row = follow.row;
		follow_spun(&follow, true);
		follow_spun(&follow, true);
		for (j = asleep = 0; j < 5; j++) {
			follow.switches = NOBODY;
			asleep += !follow_message(&follow, 0, cpu[1]);
		}
		if (follow.row == row + 5)
			break; /* or this thread had to wait, and it is a new row */
	}
	assert_int_equal(asleep, 3);
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
	assert_int_equal(look(sender.tid, cpu[1]), 0);
	sender_end(thread);
	sender_start(&thread, &cpu[1]);
	until_it_spins(sender.tid, -1);
	sender_end(thread);
	run_on(cpu[1]);
	assert_int_equal(look(sender.tid, -1), 0); /* it is gone: nobody knows */
	assert_int_equal(bursts(sender.tid, -1, 5), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(few_messages_let_it_sleep),
		TEST(those_of_its_own_cpu_let_it_sleep),
		TEST(those_of_another_do_not),
		TEST(those_of_its_own_cpu_end_it),
		TEST(a_pause_ends_it),
		TEST(the_end_ends_it),
		TEST(who_else_wants_its_cpu_gets_it),
		TEST(seldom_lets_idle_cpus_sleep),
		TEST(in_vain_less_and_less_often),
		TEST(so_many_messages_let_it_sleep),
		TEST(knows_where_a_thread_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
