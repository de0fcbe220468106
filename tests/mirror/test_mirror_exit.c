/* SPDX-License-Identifier: MIT */
/*
 * A process ends while devices are at work in it and other threads change its address
 * space.
 *
 * Tries to break: G9 (no hang: whoever waits for the process gets its status), G11 (the
 * library adds nothing to it: no crash, no other exit status).
 *
 * Each run is a program of its own: this one, with the name of a scenario.
 */
#include "test_util.h"

#include <sys/resource.h>

#define RUNS (TEST_SANITIZED ? 6 : 24)
#define LIMIT_S (TEST_SANITIZED ? 60 : 20)
#define PAGES ((size_t)64)
#define THREADS 4
#define WAIT_FD 3

/* ---- the program that ends ---- */

static struct dummy_device *dev[2];
static char *area[2]; /* the first stays, the second comes and goes */
static int busy; /* atomic: threads that have done something */
static int leaving; /* atomic: threads shall end */
static pthread_t threads[THREADS];
static unsigned int accesses; /* atomic: that the device threads ended */

static bool go_on(unsigned int turn)
{
	if (turn == 2)
		__atomic_add_fetch(&busy, 1, __ATOMIC_RELEASE);
	return !__atomic_load_n(&leaving, __ATOMIC_ACQUIRE);
}

static void *device_main(void *arg)
{
	struct dummy_device *mine = dev[(uintptr_t)arg & 1];
	uint64_t buf[PAGE / 4];
	unsigned int i;

	for (i = 0; go_on(i); i++) {
		uint64_t at = addr_of(area[i & 1]) + i % (PAGES - 2) * PAGE + 8;

		if (i & 2)
			dummy_load(mine, at, buf, sizeof(buf));
		else
			dummy_store(mine, at, buf, sizeof(buf));
		__atomic_add_fetch(&accesses, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* The devices get something done between two changes; all at once, they might not. */
static void wait_for_accesses(void)
{
	unsigned int was = __atomic_load_n(&accesses, __ATOMIC_ACQUIRE);

	while (__atomic_load_n(&accesses, __ATOMIC_ACQUIRE) - was < 2 &&
	       !__atomic_load_n(&leaving, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void *unmap_main(void *arg)
{
	unsigned int i;

	for (i = 0; go_on(i); i++) {
		wait_for_accesses();
		madvise(area[0] + i % PAGES * PAGE, PAGE, MADV_DONTNEED);
		mmap(area[1], PAGES * PAGE, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		munmap(area[1] + PAGES / 2 * PAGE, PAGE);
	}
	return arg;
}

static void *protect_main(void *arg)
{
	unsigned int i;

	for (i = 0; go_on(i); i++) {
		wait_for_accesses();
		mprotect(area[0], PAGES * PAGE, i & 1 ? PROT_READ : PROT_READ | PROT_WRITE);
	}
	return arg;
}

static void start(void)
{
	struct dummy_options opt[2] = { { .memory = 0 }, { .not_prompt = true } };
	uintptr_t i;

	for (i = 0; i < 2; i++) {
		area[i] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (area[i] == MAP_FAILED || dummy_create(&dev[i], &opt[i]))
			_exit(90);
	}
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL,
				   i == 2 ? unmap_main :
				   i == 3 ? protect_main :
					    device_main,
				   (void *)i))
			_exit(91);
	while (__atomic_load_n(&busy, __ATOMIC_ACQUIRE) < THREADS)
		test_sleep_us(100);
}

static void end_threads(void)
{
	int i;

	__atomic_store_n(&leaving, 1, __ATOMIC_RELEASE);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* The devices go on as ever. */
static void at_exit(void)
{
	uint64_t val;

	end_threads();
	dummy_load_u64(dev[0], addr_of(area[0]), &val);
	dummy_store_u64(dev[1], addr_of(area[0]) + PAGE, 1);
	munmap(area[0], PAGES / 2 * PAGE);
}

static void *exit_main(void *arg)
{
	exit((int)(uintptr_t)arg);
}

static int exit_on_device(struct dummy_device *mine, unsigned int thread, void *arg)
{
	(void)mine;
	if (thread)
		return 0;
	exit((int)(uintptr_t)arg);
}

/* The other threads end, then the devices go: with the last thread, so does the process. */
static void *last_main(void *arg)
{
	int i;

	end_threads();
	for (i = 0; i < 2; i++)
		if (dummy_destroy(dev[i]))
			_exit(92);
	return arg;
}

static void detached(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, arg) || pthread_detach(thread))
		_exit(93);
}

static void wait_for_the_end(void)
{
	for (;;)
		pause();
}

static int run_scenario(const char *what, unsigned int number)
{
	struct rlimit none = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
	start();
	test_sleep_us(number * 97);
	if (!strcmp(what, "return")) {
		atexit(at_exit);
		return 10;
	}
	if (!strcmp(what, "exit"))
		exit(11);
	if (!strcmp(what, "_exit"))
		_exit(12);
	if (!strcmp(what, "thread")) {
		detached(exit_main, (void *)13);
		wait_for_the_end();
	}
	if (!strcmp(what, "device"))
		dummy_run(dev[number & 1], 2, exit_on_device, (void *)14);
	if (!strcmp(what, "last")) {
		detached(last_main, NULL);
		pthread_exit(NULL);
	}
	if (!strcmp(what, "last_exits")) {
		detached(exit_main, (void *)15);
		pthread_exit(NULL);
	}
	if (!strcmp(what, "abort"))
		abort();
	if (!strcmp(what, "exec"))
		execl("/bin/sh", "sh", "-c", "exit 16", (char *)NULL);
	if (!strcmp(what, "kill") && write(WAIT_FD, "", 1) == 1)
		wait_for_the_end();
	return 99;
}

/* ---- the one that waits ---- */

static pid_t spawn(const char *what, unsigned int number, int *ready)
{
	char count[16];
	int fds[2];
	pid_t pid;

	snprintf(count, sizeof(count), "%u", number);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		if (dup2(fds[1], WAIT_FD) == WAIT_FD)
			execl("/proc/self/exe", "test_mirror_exit", what, count, (char *)NULL);
		_exit(98);
	}
	assert_true(pid > 0);
	close(fds[1]);
	*ready = fds[0];
	return pid;
}

static int wait_for(pid_t pid, const char *what, unsigned int number)
{
	uint64_t end = test_now() + LIMIT_S * 1000000000ull;
	int status = 0;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (test_now() > end) {
			test_show_threads(pid);
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			fail_msg("%s, run %u: hangs", what, number);
		}
		test_sleep_us(300);
	}
	return status;
}

static void check(const char *what, int want)
{
	unsigned int i;

	for (i = 0; i < RUNS; i++) {
		int status, ready;
		pid_t pid;
		char c;

		test_begin(what, 2 * LIMIT_S);
		pid = spawn(what, i, &ready);
		if (!strcmp(what, "kill")) {
			assert_int_equal(read(ready, &c, 1), 1);
			test_sleep_us(i * 97);
			kill(pid, SIGKILL);
		}
		status = wait_for(pid, what, i);
		close(ready);
		if (status != want)
			fail_msg("%s, run %u: status 0x%x, not 0x%x", what, i, (unsigned int)status,
				 (unsigned int)want);
	}
}

#define STATUS(code) ((code) << 8)

#define ENDS(name, what, want)         \
	static void name(void **state) \
	{                              \
		(void)state;           \
		check(what, want);     \
	}

ENDS(main_returns, "return", STATUS(10))
ENDS(main_calls_exit, "exit", STATUS(11))
ENDS(main_calls__exit, "_exit", STATUS(12))
ENDS(a_thread_calls_exit, "thread", STATUS(13))
ENDS(a_device_thread_calls_exit, "device", STATUS(14))
ENDS(main_has_ended_and_a_thread_calls_exit, "last_exits", STATUS(15))
ENDS(main_aborts, "abort", SIGABRT)
ENDS(main_calls_exec, "exec", STATUS(16))
ENDS(somebody_kills_it, "kill", SIGKILL)

static void the_last_thread_ends(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__
	skip_because("the thread sanitizer has a thread of its own, which never ends");
#endif
	check("last", STATUS(0));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(main_returns),
		cmocka_unit_test(main_calls_exit),
		cmocka_unit_test(main_calls__exit),
		cmocka_unit_test(a_thread_calls_exit),
		cmocka_unit_test(a_device_thread_calls_exit),
		cmocka_unit_test(the_last_thread_ends),
		cmocka_unit_test(main_has_ended_and_a_thread_calls_exit),
		cmocka_unit_test(main_aborts),
		cmocka_unit_test(main_calls_exec),
		cmocka_unit_test(somebody_kills_it),
	};

	if (argc == 3)
		return run_scenario(argv[1], (unsigned int)strtoul(argv[2], NULL, 10));
	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
