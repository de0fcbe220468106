/* SPDX-License-Identifier: MIT */
/*
 * Half of it is done: the way back meets an event between two runs, or a run ends early;
 * and a move that cannot be remembered.
 *
 * Tries to break: G4, G7, G9.
 */
#include "windows.h"

/* ---- half of it is done ---- */

static atomic_uint moves;
static atomic_bool split;

/* The second ioctl and what follows of the way back finds an event: a partial result. */
static int fail_second(const char *what)
{
	if (!atomic_load(&split) || (strcmp(what, "move") && strcmp(what, "copy")))
		return 0;
	return atomic_fetch_add(&moves, 1) % 3 == 1 ? -ENOMEM : 0;
}

static void *evict_main(void *arg)
{
	(void)arg;
	dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	return NULL;
}

/* An event of a part comes when some runs are home and others not. */
static bool half_round(unsigned int round)
{
	size_t cut = 8 + round % 3 * 16, i;
	pthread_t thread;
	bool window;

	pattern_fill(mem, PAGES, round + 1);
	migrate(mem, PAGES);
	for (i = 7; i < PAGES; i += 8) /* so that there are eight runs */
		*(volatile uint64_t *)(mem + i * PAGE);
	hold_arm("back:run", mem + cut * PAGE, 1);
	assert_int_equal(pthread_create(&thread, NULL, evict_main, NULL), 0);
	window = hold_hit();
	madvise(mem + cut * PAGE, 16 * PAGE, MADV_DONTNEED);
	atomic_store(&hold.go, true);
	pthread_join(thread, NULL);
	for (i = 0; i < PAGES; i++)
		if (i < cut || i >= cut + 16)
			pattern_check_from(mem + i * PAGE, 1, round + 1, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	return window;
}

static void an_event_half_way_leaves_each_page_somewhere(void **state)
{
	unsigned int i, n = 0;

	(void)state;
	BEGIN(20);
	hold_need();
	for (i = 0; i < ROUNDS; i++)
		n += half_round(i);
	print_message("an event between two runs in %u of %u\n", n, i);
	assert_true(n);
}

static void a_run_that_ends_early_goes_on_later(void **state)
{
	unsigned int i, errors = 0;

	(void)state;
	BEGIN(20);
	if (!debug_set_fail(fail_second))
		skip_because("no debug build: nothing can be made to fail");
	for (i = 0; i < ROUNDS; i++) {
		pattern_fill(mem, PAGES, i + 1);
		migrate(mem, PAGES);
		atomic_store(&moves, i % 2);
		atomic_store(&split, true);
		errors += dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL) != 0;
		atomic_store(&split, false);
		pattern_check(mem, PAGES, i + 1);
	}
	debug_set_fail(NULL);
	print_message("ended early in %u of %u\n", errors, i);
	assert_true(errors);
}

/* ---- no memory to remember where pages went ---- */

static atomic_bool no_memory;
static atomic_uint refused;

/* Not for ever. */
static int fail_alloc(const char *what)
{
	if (!atomic_load(&no_memory) || strcmp(what, "alloc"))
		return 0;
	return atomic_fetch_add(&refused, 1) < 100 ? -ENOMEM : 0;
}

static void alloc_fails_from_run_to_done(const char *name, unsigned long start, unsigned long end)
{
	(void)end;
	if (start == hold.start && !strcmp(name, "event:run"))
		atomic_store(&no_memory, true);
	if (start == hold.start && !strcmp(name, "event:done"))
		atomic_store(&no_memory, false);
}

static sigjmp_buf bus_env;

static void bus(int sig)
{
	(void)sig;
	siglongjmp(bus_env, 1);
}

/* SIGBUS, or what is right; never zeros (G4), and it ends (G9). */
static void a_move_that_cannot_be_remembered_ends(void **state)
{
	struct sigaction sa = { .sa_handler = bus }, old;
	char *to = map_aligned(THP);
	volatile uint64_t val = 0;

	(void)state;
	BEGIN(10);
	hold.start = addr_of(mem);
	pattern_fill(mem, PAGES, 9);
	migrate(mem, PAGES);
	if (!debug_set_fail(fail_alloc) || !debug_set_step(alloc_fails_from_run_to_done))
		skip_because("no debug build: nothing can be made to fail");
	step("mremap");
	assert_ptr_equal((char *)syscall(SYS_mremap, mem, BYTES, BYTES,
					 MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	step("after it");
	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(bus_env, 1)) {
		val = *(volatile uint64_t *)(to + PAGE);
		assert_int_equal(val, pattern_word(9, 1, 0));
	}
	sigaction(SIGBUS, &old, NULL);
	munmap(to, THP);
}

/* ---- a slot of staging that cannot be looked at ---- */

static atomic_bool no_walk;

static int fail_walk(const char *what)
{
	return atomic_load(&no_walk) && !strcmp(what, "walk") ? -EIO : 0;
}

/* What was in it is not there any more, and nobody may count on it. */
static void a_slot_that_cannot_be_looked_at_is_not_trusted(void **state)
{
	unsigned int i;

	(void)state;
	BEGIN(10);
	if (!debug_set_fail(fail_walk))
		skip_because("no debug build: nothing can be made to fail");
	for (i = 0; i < 4; i++) {
		pattern_fill(mem, PAGES, i + 1);
		migrate(mem, PAGES);
		step("evict");
		atomic_store(&no_walk, true);
		dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
		atomic_store(&no_walk, false);
		migrate(mem, PAGES);
		step("CPU reads, in order");
		pattern_check(mem, PAGES, i + 1);
	}
}

/* ---- a child that cannot be filled at once ---- */

static atomic_uint copies;

static int fail_copies(const char *what)
{
	return !strcmp(what, "copy") && atomic_fetch_add(&copies, 1) % 4 == 1 ? -ENOMEM : 0;
}

/* 0, or what is wrong. SIGBUS, which kills it, would be right, zeros are not. */
static int child_look(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		if (*(volatile uint64_t *)(mem + i * PAGE) != pattern_word(3, i, 0))
			return 1;
	return 0;
}

static void a_child_never_sees_zeros(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };
	int status = 0;
	pid_t pid;

	(void)state;
	BEGIN(10);
	if (hmm_probe(&f) || !f.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
	if (!debug_set_fail(fail_copies))
		skip_because("no debug build: nothing can be made to fail");
	pattern_fill(mem, PAGES, 3);
	migrate(mem, PAGES);
	step("clone");
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		syscall(SYS_exit_group, child_look());
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	debug_set_fail(NULL);
	assert_true(atomic_load(&copies) >= PAGES);
	assert_true(!status || (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS));
	pattern_check(mem, PAGES, 3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_event_half_way_leaves_each_page_somewhere),
		T(a_run_that_ends_early_goes_on_later),
		T(a_move_that_cannot_be_remembered_ends),
		T(a_slot_that_cannot_be_looked_at_is_not_trusted),
		T(a_child_never_sees_zeros),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
