/* SPDX-License-Identifier: MIT */
/*
 * Sources that must stay: stacks and thread variables, and locked memory.
 *
 * Tries to break: G4, G7 (what stays is the same page frame, and what was no page is
 * none), G9 (a thread that ends after everything went), G11.
 */
#include "migrate/source.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

/* ---- stacks, thread variables ---- */

static __thread uint64_t thread_words[2 * PAGE / 8];

struct sleeper {
	pthread_t thread;
	int wake[2];
	char *stack; /* page-aligned, 8 pages of a local array */
	char *words;
	bool ready; /* atomic */
	bool good;
};

static void *sleeper_main(void *arg)
{
	char local[9 * PAGE], c;
	struct sleeper *sleeper = arg;
	uint64_t *words = (void *)(((uintptr_t)thread_words + PAGE - 1) & ~(PAGE - 1));

	sleeper->stack = (char *)(((uintptr_t)local + PAGE - 1) & ~(PAGE - 1));
	sleeper->words = (char *)words;
	pattern_fill(sleeper->stack, 8, 11);
	pattern_fill(sleeper->words, 1, 12);
	__atomic_store_n(&sleeper->ready, true, __ATOMIC_RELEASE);
	sleeper->good = read(sleeper->wake[0], &c, 1) == 1;
	sleeper->good = sleeper->good && has_pattern(sleeper->stack, 8, 11) &&
			has_pattern(sleeper->words, 1, 12);
	errno = EDOM;
	free(malloc(100));
	return errno == EDOM ? sleeper : NULL;
}

static void sleeper_start(struct sleeper *sleeper, const pthread_attr_t *attr)
{
	memset(sleeper, 0, sizeof(*sleeper));
	assert_int_equal(pipe(sleeper->wake), 0);
	assert_int_equal(pthread_create(&sleeper->thread, attr, sleeper_main, sleeper), 0);
	wait_until(__atomic_load_n(&sleeper->ready, __ATOMIC_ACQUIRE));
}

static void sleeper_end(struct sleeper *sleeper)
{
	void *ret;

	assert_int_equal(write(sleeper->wake[1], "x", 1), 1);
	step("joining a thread after its memory was asked to go");
	assert_int_equal(pthread_join(sleeper->thread, &ret), 0);
	assert_ptr_equal(ret, sleeper);
	assert_true(sleeper->good);
	close(sleeper->wake[0]);
	close(sleeper->wake[1]);
}

static void stack_of_a_sleeping_thread(void **state)
{
	struct sleeper *sleeper = malloc(sizeof(*sleeper));

	(void)state;
	BEGIN(30);
	sleeper_start(sleeper, NULL);
	all_stay(sleeper->stack, 8);
	all_stay(sleeper->words, 1);
	sleeper_end(sleeper);
	free(sleeper);
}

/* The program's own memory: it may go, but for the thread's descriptor. */
static void stack_that_the_program_made(void **state)
{
	size_t len = TEST_SANITIZED ? 8 * MIB : BYTES * 2; /* thread variables lie there too */
	char *mem = map_aligned(len);
	struct sleeper *sleeper = malloc(sizeof(*sleeper));
	pthread_attr_t attr;

	(void)state;
	BEGIN(30);
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstack(&attr, mem, len), 0);
	sleeper_start(sleeper, &attr);
	ask(mem, len);
	assert_true(on_cpu((void *)(uintptr_t)sleeper->thread));
	sleeper_end(sleeper);
	munmap(mem, len);
	free(sleeper);
}

static bool main_stack(char **start, size_t *len)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	char line[512];
	bool found = false;

	assert_non_null(file);
	while (!found && fgets(line, sizeof(line), file))
		found = strstr(line, "[stack]") && sscanf(line, "%lx-%lx ", &from, &to) == 2;
	fclose(file);
	*start = (char *)from;
	*len = found ? to - from : 0;
	return found;
}

/* Far below what is in use: a page that has been, and that libhmm need not keep. */
static void main_stack_stays(void **state)
{
	volatile char deep[1200 * 1024];
	char *start, *at;
	size_t len;

	(void)state;
	BEGIN(30);
	memset((void *)(uintptr_t)deep, 5, sizeof(deep));
	assert_true(main_stack(&start, &len));
	at = (char *)(((uintptr_t)deep + PAGE - 1) & ~(PAGE - 1));
	assert_true(at > start && at < start + len);
	all_stay(at, 64);
	assert_int_equal(ask(start, len), 0);
	assert_int_equal(count_where(start, len / PAGE, HMM_WHERE_DEVICE), 0);
	assert_int_equal(at[5 * PAGE], 5);
}

static int setup_large(void **state)
{
	(void)state;
	dev = device_new(131072); /* the holes of unused stacks go too */
	return 0;
}

/* All there is, in one call; then threads end, and begin. */
static void threads_end_after_everything_went(void **state)
{
	struct sleeper *sleepers;
	char *mem;
	int i;

	(void)state;
	BEGIN(40);
	if (TEST_SANITIZED)
		skip_because("a sanitizer's shadow memory would go too");
	sleepers = malloc(4 * sizeof(*sleepers));
	/* A stack can end where this begins, and a little beyond its end is kept. */
	mem = map_aligned(BYTES + 32 * PAGE) + 16 * PAGE;
	for (i = 0; i < 4; i++)
		sleeper_start(&sleepers[i], NULL);
	pattern_fill(mem, PAGES, 1);
	assert_true(ask(NULL, SPACE_END) >= PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES);
	for (i = 0; i < 4; i++) {
		assert_true(on_cpu(sleepers[i].stack) && on_cpu(sleepers[i].words));
		assert_true(on_cpu((void *)(uintptr_t)sleepers[i].thread));
	}
	for (i = 0; i < 2; i++)
		sleeper_end(&sleepers[i]);
	ask(NULL, SPACE_END);
	sleeper_start(&sleepers[0], NULL); /* on a stack that was in use before */
	ask(NULL, SPACE_END);
	sleeper_end(&sleepers[0]);
	sleeper_end(&sleepers[2]);
	sleeper_end(&sleepers[3]);
	pattern_check(mem, PAGES, 1);
	step("bringing everything back");
	assert_int_equal(dummy_evict(dev, 0, SPACE_END, NULL), 0);
	munmap(mem - 16 * PAGE, BYTES + 32 * PAGE);
	free(sleepers);
}

/* ---- locked ---- */

static void locked_pages(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	/* By number: sanitizers make mlock() do nothing. */
	pattern_fill(mem, PAGES, 1);
	if (syscall(SYS_mlock, mem, BYTES))
		skip_because("mlock is refused");
	all_stay(mem, PAGES);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(syscall(SYS_munlock, mem, BYTES), 0);
	all_go(mem, PAGES, PAGES);
	pattern_check(mem, PAGES, 1);
	munmap(mem, BYTES);
}

/* Only what was touched is locked; the rest stays the hole that it is. */
static void locked_on_fault(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	if (syscall(SYS_mlock2, mem, BYTES, MLOCK_ONFAULT))
		skip_because("mlock2 is refused");
	pattern_fill(mem, PAGES / 2, 2);
	all_stay(mem, PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_SYSTEM), PAGES / 2);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_NONE), PAGES / 2);
	pattern_check(mem, PAGES / 2, 2);
	assert_true(is_zero(mem + BYTES / 2, BYTES / 2));
	assert_int_equal(syscall(SYS_munlock, mem, BYTES), 0);
	all_go(mem, PAGES, PAGES / 2);
	munmap(mem, BYTES);
}

/* Staging is locked as well then, and so pages can move; each is in one place. */
static void check_locked_all(int flags)
{
	char *mem = map_aligned(BYTES);
	size_t i, moved;

	pattern_fill(mem, PAGES, 3);
	step("mlockall");
	if (syscall(SYS_mlockall, flags))
		skip_because("mlockall is refused");
	for (i = 0; i < 3; i++) {
		moved = ask(mem, BYTES);
		assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), moved);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES - moved);
		assert_int_equal(device_used(dev), moved);
		device_has(mem, PAGES, 3, 0);
		pattern_check(mem, PAGES, 3);
		wait_until(device_used(dev) == 0);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	}
	ask(mem, BYTES);
	step("munlockall");
	assert_int_equal(syscall(SYS_munlockall), 0);
	pattern_check(mem, PAGES, 3);
	wait_until(device_used(dev) == 0);
	all_go(mem, PAGES, PAGES);
	pattern_check(mem, PAGES, 3);
	munmap(mem, BYTES);
}

static void locked_all_there_is(void **state)
{
	(void)state;
	BEGIN(30);
	check_locked_all(MCL_CURRENT | MCL_ONFAULT);
}

static void locked_all_there_is_and_will_be(void **state)
{
	(void)state;
	BEGIN(30);
	check_locked_all(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(stack_of_a_sleeping_thread),
		T(stack_that_the_program_made),
		T(main_stack_stays),
		cmocka_unit_test_setup_teardown(threads_end_after_everything_went, setup_large,
						teardown),
		T(locked_pages),
		T(locked_on_fault),
		T(locked_all_there_is),
		T(locked_all_there_is_and_will_be),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
