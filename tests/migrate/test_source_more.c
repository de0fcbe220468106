/* SPDX-License-Identifier: MIT */
/*
 * What the other test_source_*.c leave over: each of these failed once.
 *
 * Tries to break: G4, G5 and G7 (a page that stays is not touched), G8 (a child of a
 * system call by hand), G9 (a call, and a thread, that must end), G11 (the count).
 */
#include "migrate/source.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
}

/* A fork that only the kernel tells of: who fills the child must not fill that. */
static void wiped_memory_in_a_raw_child(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	char *mem = map_aligned(BYTES), *wiped = mem + BYTES / 2;
	pid_t pid;

	(void)state;
	BEGIN(30);
	assert_int_equal(hmm_probe(&features), 0);
	if (!features.fork_event)
		skip_because("the kernel's fork event needs CAP_SYS_PTRACE");
	assert_int_equal(madvise(wiped, BYTES / 2, MADV_WIPEONFORK), 0);
	pattern_fill(mem, PAGES, 5);
	all_go(mem, PAGES, PAGES);
	step("fork");
	pid = raw_fork();
	if (!pid) {
		alarm(60);
		CHECK(has_pattern(mem, PAGES / 2, 5));
		CHECK(is_zero(wiped, BYTES / 2));
		child_exit(true, 0);
	}
	child_ends_well(pid);
	device_has(mem, PAGES, 5, 0);
	pattern_check(mem, PAGES, 5);
	munmap(mem, BYTES);
}

/* ---- zero pages of a mapping that cannot move ---- */

static void zero_pages_that_stay_are_zero_pages(char *mem)
{
	all_stay(mem, PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_ZERO), PAGES);
	munmap(mem, BYTES);
}

static void zero_pages_of_locked_memory(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	if (syscall(SYS_mlock2, mem, BYTES, 1)) /* MLOCK_ONFAULT */
		skip_because("mlock2 is refused");
	touch_read(mem, PAGES);
	zero_pages_that_stay_are_zero_pages(mem);
}

static void zero_pages_of_executable_memory(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	touch_read(mem, PAGES);
	if (mprotect(mem, BYTES, PROT_READ | PROT_WRITE | PROT_EXEC))
		skip_because("no memory that is writable and executable");
	zero_pages_that_stay_are_zero_pages(mem);
}

/* Staging is locked as well then, and must still be used again and again. */
static void locked_all_and_many_migrations(void **state)
{
	char *mem = map_aligned(BYTES);
	unsigned long moved;
	size_t i;
	int ret = 0;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 4);
	if (syscall(SYS_mlockall, MCL_CURRENT | 4)) /* MCL_ONFAULT */
		skip_because("mlockall is refused");
	for (i = 0; i < 1200 && !ret; i++) {
		ret = dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &moved);
		touch_read(mem, PAGES);
	}
	assert_int_equal(syscall(SYS_munlockall), 0);
	if (ret)
		fail_msg("call %zu: error %d", i, ret);
	pattern_check(mem, PAGES, 4);
	munmap(mem, BYTES);
}

/* ---- the count ---- */

/* *pages: those of the range that are in the device's memory. */
static void pages_that_are_there_count_whatever_the_rights(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 3);
	all_go(mem, PAGES, PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES);
	assert_int_equal(ask(mem, BYTES), PAGES);
	pattern_check(mem, PAGES, 3);
	munmap(mem, BYTES);
}

/* ---- a thread that frees lazily all day ---- */

struct freeing {
	char *mem;
	bool stop;
	size_t rounds;
	size_t lost;
};

static void *freeing_main(void *arg)
{
	struct freeing *freeing = arg;

	while (!__atomic_load_n(&freeing->stop, __ATOMIC_ACQUIRE)) {
		madvise(freeing->mem, BYTES, MADV_FREE);
		memset(freeing->mem, (int)++freeing->rounds, BYTES);
		freeing->lost += freeing->mem[BYTES - 1] != (char)freeing->rounds;
	}
	return NULL;
}

/* Each call waits 100 ms at most, says docs/limits.md. */
static void call_ends_while_a_thread_frees_lazily(void **state)
{
	struct freeing *freeing = (void *)map_anon(PAGE);
	pthread_t thread;
	int i;

	(void)state;
	BEGIN(15);
	freeing->mem = map_aligned(BYTES);
	assert_int_equal(pthread_create(&thread, NULL, freeing_main, freeing), 0);
	for (i = 0; i < 20; i++) {
		ask(freeing->mem, BYTES);
		test_sleep_us(1000);
	}
	__atomic_store_n(&freeing->stop, true, __ATOMIC_RELEASE);
	step("joining the thread that frees");
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(freeing->lost, 0);
	munmap(freeing->mem, BYTES);
	munmap(freeing, PAGE);
}

/* ---- a robust mutex whose owner ends ---- */

static void *owner_main(void *arg)
{
	if (pthread_mutex_lock(arg))
		return arg;
	ask(arg, PAGE); /* goes or stays */
	return NULL; /* without unlocking it: the kernel tells the next one */
}

static void robust_mutex_of_a_thread_that_ends(void **state)
{
	pthread_mutex_t *mutex = (void *)(map_aligned(33 * PAGE) + 16 * PAGE);
	pthread_mutexattr_t attr;
	struct timespec until;
	pthread_t thread;
	void *ret;

	(void)state;
	BEGIN(30);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	assert_int_equal(pthread_mutex_init(mutex, &attr), 0);
	assert_int_equal(pthread_create(&thread, NULL, owner_main, mutex), 0);
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_null(ret);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 2;
	step("locking a mutex whose owner is gone");
	assert_int_equal(pthread_mutex_timedlock(mutex, &until), EOWNERDEAD);
	munmap((char *)mutex - 16 * PAGE, 33 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(wiped_memory_in_a_raw_child),
		T(zero_pages_of_locked_memory),
		T(zero_pages_of_executable_memory),
		T(pages_that_are_there_count_whatever_the_rights),
		T(robust_mutex_of_a_thread_that_ends),
		T(locked_all_and_many_migrations),
		T(call_ends_while_a_thread_frees_lazily),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
