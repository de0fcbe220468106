/* SPDX-License-Identifier: MIT */
/*
 * Forks while everything else goes on: threads of the device that write, migrations
 * in both directions, several threads that fork at once; on a device that is prompt,
 * slow, or full. And processes that share the memory instead of having a copy of it.
 *
 * Tries to break: G8: the child sees one moment of what the device writes, has the
 * rest as it was, and what it has does not change while it looks. G9: no fork and no
 * child hangs.
 *
 * Each page has a counter that one thread of the device adds to, a copy of it half the
 * memory further on that it adds to afterwards, and words that nobody writes.
 */
#define PAGES 512
#include "migrate/away.h"

#include <spawn.h>

#define WRITERS 2
#define FORKERS 3

extern char **environ;

static bool stop;
static int bad;
static unsigned long forks, writes, moves;
static bool raw;

static bool running(void)
{
	return !__atomic_load_n(&stop, __ATOMIC_ACQUIRE);
}

static void blame(int what)
{
	int none = 0;

	__atomic_compare_exchange_n(&bad, &none, what, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void count(unsigned long *what)
{
	__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

static unsigned long counted(unsigned long *what)
{
	return __atomic_load_n(what, __ATOMIC_RELAXED);
}

/* ---- who goes on meanwhile ---- */

/* On the device: adds to its own pairs, one after the other. */
static int device_writer(struct dummy_device *device, unsigned int thread, void *arg)
{
	size_t page = thread;
	int ret = 0;

	(void)arg;
	while (running() && !ret) {
		uint64_t at = addr_of(mem) + page * PAGE;

		ret = dummy_fetch_add_u64(device, at, 1, NULL);
		if (!ret)
			ret = dummy_fetch_add_u64(device, at + BYTES / 2, 1, NULL);
		page = (page + 10 * WRITERS) % (PAGES / 2);
		page = page - page % WRITERS + thread;
		count(&writes);
	}
	return ret;
}

static void *run_device(void *arg)
{
	(void)arg;
	if (dummy_run(dev, WRITERS, device_writer, NULL))
		blame(1);
	return NULL;
}

static void *move_to(void *arg)
{
	uint64_t start = addr_of(mem), n;

	(void)arg;
	for (n = 0; running(); n++) {
		uint64_t at = start + n * 7 % (PAGES / 32) * 32 * PAGE;

		if (dummy_migrate(dev, at, at + 32 * PAGE, NULL))
			blame(2);
		count(&moves);
	}
	return NULL;
}

static void *move_back(void *arg)
{
	uint64_t start = addr_of(mem), n;

	(void)arg;
	for (n = 0; running(); n++) {
		uint64_t at = start + n * 5 % (PAGES / 16) * 16 * PAGE;

		if (dummy_evict(dev, at, at + 16 * PAGE, NULL))
			blame(3);
		test_sleep_us(100);
	}
	return NULL;
}

/* ---- the children ---- */

/* 0, or what is wrong. Word 0 is the counter. */
static int look(uint64_t *sum)
{
	size_t i, j;

	*sum = 0;
	for (i = 0; i < PAGES; i++) {
		const uint64_t *word = (const void *)(mem + i * PAGE);

		for (j = 1; j < PAGE / 8; j += 7)
			if (word[j] != pattern_word(1, i, j))
				return 10;
		*sum = *sum * 31 + word[0];
		/* The one in the middle of a pair may have added to the first only. */
		if (!raw && i < PAGES / 2 && word[0] - word[BYTES / 2 / 8] > 1)
			return 11;
	}
	return 0;
}

static void child_looks_twice(void)
{
	uint64_t sum, again;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = look(&sum);
	if (ret)
		child_exit(raw, ret);
	test_sleep_us(1000);
	ret = look(&again);
	child_exit(raw, ret ? ret : sum == again ? 0 : 12);
}

static pid_t any_fork(void)
{
	return raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
}

static void *forker(void *arg)
{
	int status;
	pid_t pid;

	while (running()) {
		pid = any_fork();
		if (!pid)
			child_looks_twice();
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			blame(4);
		else if (status)
			blame(0x10000 | status);
		count(&forks);
		test_sleep_us(500);
	}
	return arg;
}

/* ---- the storm ---- */

static void clear_counters(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(mem + i * PAGE) = 0;
}

/* @fn: what the threads do, with NULL at the end */
static void storm(size_t device_pages, unsigned int delay_us, void *(*const *fn)(void *))
{
	struct dummy_options opt = { .memory = device_pages * PAGE,
				     .scrub = true,
				     .copy_delay_us = delay_us };
	unsigned int i, n = 0;
	pthread_t threads[8];
	uint64_t end, sum;

	assert_int_equal(dummy_destroy(dev), 0);
	assert_int_equal(dummy_create(&dev, &opt), 0);
	clear_counters();
	stop = false;
	bad = 0;
	forks = writes = 0;
	moves = fn[1] == move_to ? 0 : 20; /* enough, where nobody moves anything */
	for (; fn[n]; n++)
		assert_int_equal(pthread_create(&threads[n], NULL, fn[n], NULL), 0);
	end = test_now() + 700000000;
	while ((test_now() < end || counted(&forks) < 20 || counted(&moves) < 20) &&
	       !__atomic_load_n(&bad, __ATOMIC_RELAXED))
		test_sleep_us(5000);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining");
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	if (bad)
		fail_msg("%s 0x%x", bad & 0x10000 ? "a child's status:" : "error", bad & 0xffff);
	assert_int_equal(look(&sum), 0);
	for (i = 0; i < PAGES / 2; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE),
				 *(uint64_t *)(mem + i * PAGE + BYTES / 2));
	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(mem + i * PAGE) = pattern_word(1, i, 0);
	pattern_check(mem, PAGES, 1);
}

static void need_fork_events(void)
{
	struct hmm_features f = { .size = sizeof(f) };

	assert_int_equal(hmm_probe(&f), 0);
	if (!f.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
}

#define STORM(name, by_hand, pages, delay, ...)                             \
	static void name(void **state)                                      \
	{                                                                   \
		static void *(*const fn[])(void *) = { __VA_ARGS__, NULL }; \
		(void)state;                                                \
		BEGIN(40);                                                  \
		raw = by_hand;                                              \
		if (raw)                                                    \
			need_fork_events();                                 \
		storm(pages, delay, fn);                                    \
	}

#define ALL run_device, move_to, move_back
#define FORKS forker, forker, forker

/* All in system memory: the device goes on with the translations that it has. */
STORM(writers_and_two_that_fork, false, 1024, 0, run_device, forker, forker)
STORM(all_of_it_and_three_that_fork, false, 1024, 0, ALL, FORKS)
STORM(the_same_on_a_slow_device, false, 1024, 100, ALL, FORKS)
STORM(the_same_on_a_full_device, false, 100, 0, ALL, FORKS)
/* The kernel's event comes a moment after: of what a device writes no moment is promised. */
STORM(forks_by_the_system_call, true, 1024, 0, move_back, move_to, FORKS)
STORM(forks_by_the_system_call_on_a_slow_device, true, 1024, 100, move_back, move_to, FORKS)
STORM(forks_by_the_system_call_on_a_full_device, true, 100, 0, move_back, move_to, FORKS)

/* ---- processes that share the memory ---- */

static void *spawner(void *arg)
{
	char sh[] = "sh", option[] = "-c", text[] = "exit 33";
	char *argv[] = { sh, option, text, NULL };
	int status;
	pid_t pid;

	while (running()) {
		if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ))
			blame(5);
		else if (waitpid(pid, &status, 0) != pid || status != 33 << 8)
			blame(6);
		count(&forks);
	}
	return arg;
}

STORM(spawns, false, 1024, 0, ALL, spawner, spawner)

#define STACK (16 * PAGE)

/* In a process of its own, on the same memory, at the same time; no libc here. */
static int sharer(void *arg)
{
	uint64_t *done = arg, n;
	size_t page;

	for (n = 0; n < 20000 || running(); n++) {
		page = n * 11 % PAGES;
		if (*(volatile uint64_t *)(mem + page * PAGE + 16) != pattern_word(1, page, 2))
			return 1;
		__atomic_fetch_add((uint64_t *)(mem + page * PAGE + 1024), 1, __ATOMIC_RELAXED);
		__atomic_store_n(done, n + 1, __ATOMIC_RELEASE);
	}
	return 0;
}

static void a_process_that_shares_the_memory(void **state)
{
	static char stack[STACK] __attribute__((aligned(16)));
	uint64_t done = 0, n, start = addr_of(mem);
	size_t page;
	int status;
	pid_t pid;

	(void)state;
	BEGIN(40);
	if (TEST_SANITIZED)
		skip_because("two processes in one memory are too much for a sanitizer");
	stop = false;
	migrate_all(dev, mem, PAGES);
	pid = clone(sharer, stack + STACK, CLONE_VM | SIGCHLD, &done);
	assert_true(pid > 0);
	while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) < 2000 && !waitpid(pid, &status, WNOHANG))
		assert_int_equal(dummy_migrate(dev, start, start + BYTES, NULL), 0);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("the end of a process that shares the memory");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (n = 0; n < done; n++) {
		page = n * 11 % PAGES;
		*(uint64_t *)(mem + page * PAGE + 1024) -= 1;
	}
	pattern_check(mem, PAGES, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
	const struct CMUnitTest tests[] = {
		T(writers_and_two_that_fork),
		T(all_of_it_and_three_that_fork),
		T(the_same_on_a_slow_device),
		T(the_same_on_a_full_device),
		T(forks_by_the_system_call),
		T(forks_by_the_system_call_on_a_slow_device),
		T(forks_by_the_system_call_on_a_full_device),
		T(spawns),
		T(a_process_that_shares_the_memory),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
