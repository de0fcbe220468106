/* SPDX-License-Identifier: MIT */
/*
 * Private pages of one process as sources: with content, holes, zero pages, the heap,
 * mappings with a special word on fork, one that grows.
 *
 * Tries to break: G1 (a page in two places), G4 (a hole that arrives with an older
 * page's content, content that arrives as zeros), G7 (the count), G8 (WIPEONFORK), and
 * that device memory is free again afterwards.
 */
#include "migrate/source.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

static void pages_with_content(void **state)
{
	char *mem = map_aligned(BYTES);
	int i;

	(void)state;
	BEGIN(30);
	for (i = 0; i < 3; i++) {
		pattern_fill(mem, PAGES, (uint64_t)i);
		all_go(mem, PAGES, PAGES);
		device_has(mem, PAGES, (uint64_t)i, 0);
		if (i == 1)
			comes_home(mem, PAGES);
		pattern_check(mem, PAGES, (uint64_t)i);
		wait_until(device_used(dev) == 0);
		assert_int_equal(count_where(mem, PAGES, HMM_WHERE_SYSTEM), PAGES);
	}
	all_go(mem, PAGES, PAGES);
	munmap(mem, BYTES);
}

/* From the midst of one page to the midst of another: both belong to the range. */
static void range_is_rounded_to_pages(void **state)
{
	char *mem = map_aligned(BYTES);
	unsigned long moved = 0;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(dummy_migrate(dev, addr_of(mem) + 3 * PAGE + 4000,
				       addr_of(mem) + 7 * PAGE + 1, &moved),
			 0);
	assert_int_equal(moved, 5);
	assert_int_equal(count_where(mem + 3 * PAGE, 5, HMM_WHERE_DEVICE), 5);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_SYSTEM), PAGES - 5);
	device_has(mem + 3 * PAGE, 5, 1, 3);
	pattern_check(mem, PAGES, 1);
	munmap(mem, BYTES);
}

static void holes_arrive_cleared(void **state)
{
	char *mem = map_aligned(BYTES);
	uint64_t word = 0x1234567;

	(void)state;
	BEGIN(30);
	dirty_device();
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_NONE), PAGES);
	all_go(mem, PAGES, 0);
	device_has_zeros(mem, PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES);
	assert_int_equal(dummy_store(dev, addr_of(mem) + 9 * PAGE - 4, &word, 8), 0);
	assert_memory_equal(mem + 9 * PAGE - 4, &word, 8);
	memset(mem + 9 * PAGE - 4, 0, 8);
	comes_home(mem, 8);
	assert_true(is_zero(mem, BYTES));
	/* And what was a hole is a page like any other now. */
	pattern_fill(mem, PAGES, 2);
	all_go(mem, PAGES, PAGES);
	device_has(mem, PAGES, 2, 0);
	pattern_check(mem, PAGES, 2);
	munmap(mem, BYTES);
}

static void zero_pages_arrive_cleared(void **state)
{
	char *mem = map_aligned(2 * BYTES), *other = mem + BYTES;

	(void)state;
	BEGIN(30);
	dirty_device();
	touch_read(mem, 2 * PAGES);
	assert_int_equal(count_where(mem, 2 * PAGES, HMM_WHERE_ZERO), 2 * PAGES);
	all_go(mem, PAGES, 0);
	device_has_zeros(mem, PAGES);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 5 * PAGE, 5), 0);
	assert_int_equal(count_where(other, PAGES, HMM_WHERE_ZERO), PAGES);
	assert_true(is_zero(other, BYTES)); /* there is only one zero page */
	assert_int_equal(*(uint64_t *)(mem + 5 * PAGE), 5);
	*(uint64_t *)(mem + 5 * PAGE) = 0;
	assert_true(is_zero(mem, BYTES));
	mem[0] = 1; /* a page of its own, not the zero page */
	assert_int_equal(other[0], 0);
	munmap(mem, 2 * BYTES);
}

/* ---- words on fork ---- */

static void dontfork_and_wipeonfork(void **state)
{
	char *mem = map_aligned(3 * BYTES), *plain = mem + BYTES, *wiped = mem + 2 * BYTES;
	unsigned char vec;
	pid_t pid;

	(void)state;
	BEGIN(30);
	assert_int_equal(madvise(mem, BYTES, MADV_DONTFORK), 0);
	assert_int_equal(madvise(wiped, BYTES, MADV_WIPEONFORK), 0);
	pattern_fill(mem, 3 * PAGES, 5);
	all_go(mem, 3 * PAGES, 3 * PAGES);
	device_has(mem, 3 * PAGES, 5, 0);
	step("fork");
	pid = fork();
	if (!pid) {
		alarm(60);
		CHECK(mincore(mem, PAGE, &vec) == -1 && errno == ENOMEM);
		CHECK(((uint64_t *)plain)[3] == pattern_word(5, PAGES, 3));
		CHECK(is_zero(wiped, BYTES));
		wiped[5] = 1;
		_exit(0);
	}
	child_ends_well(pid);
	device_has(mem, 3 * PAGES, 5, 0);
	pattern_check(mem, 3 * PAGES, 5);
	munmap(mem, 3 * BYTES);
}

/* ---- a stack that the program gives for signals ---- */

static char *signal_stack;
static volatile sig_atomic_t signals;

static void on_signal(int sig)
{
	char here = (char)sig;

	if (&here > signal_stack && &here < signal_stack + BYTES)
		signals++;
}

static void stack_for_signals(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK }, old;
	stack_t stack = { .ss_size = BYTES }, was;
	int i;

	(void)state;
	BEGIN(30);
	assert_int_equal(hmm_probe(&features), 0);
	if (features.user_mode_only)
		skip_because("the kernel cannot wait for a page here");
	signal_stack = map_aligned(BYTES);
	stack.ss_sp = signal_stack;
	pattern_fill(signal_stack, PAGES, 8);
	signals = 0;
	assert_int_equal(sigaltstack(&stack, &was), 0);
	assert_int_equal(sigaction(SIGUSR1, &act, &old), 0);
	for (i = 0; i < 20; i++) {
		assert_int_equal(ask(signal_stack, BYTES), PAGES);
		step("a signal on a stack that is away");
		raise(SIGUSR1);
	}
	assert_int_equal(signals, 20);
	pattern_check(signal_stack, PAGES / 2, 8); /* it grows down from the end */
	sigaction(SIGUSR1, &old, NULL);
	sigaltstack(&was, NULL);
	munmap(signal_stack, BYTES);
}

/* ---- the heap, and a mapping that grows ---- */

static void heap_by_brk(void **state)
{
	char *mem = sbrk((intptr_t)(2 * BYTES)), *at;

	(void)state;
	BEGIN(30);
	assert_ptr_not_equal(mem, (void *)-1);
	at = (char *)((addr_of(mem) + PAGE - 1) & ~(PAGE - 1));
	pattern_fill(at, PAGES, 6);
	all_go(at, PAGES, PAGES);
	device_has(at, PAGES, 6, 0);
	pattern_check(at, PAGES / 2, 6);
	/* Down over pages that are away, and up again: they are new. */
	if (sbrk(0) == mem + 2 * BYTES) {
		assert_int_equal(brk(at + 10 * PAGE), 0);
		wait_until(device_used(dev) == 0);
		assert_int_equal(brk(mem + 2 * BYTES), 0);
		assert_true(is_zero(at + 10 * PAGE, (PAGES - 10) * PAGE));
		pattern_check(at, 10, 6);
		all_go(at, PAGES, 10);
		assert_int_equal(brk(mem), 0);
	}
	wait_until(device_used(dev) == 0);
}

static void mapping_that_grows_down(void **state)
{
	char *area = map_aligned(BYTES), *top = area + BYTES, *mem = top - 16 * PAGE;

	(void)state;
	BEGIN(30);
	munmap(area, BYTES);
	mem = mmap(mem, 16 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
	if (mem == MAP_FAILED)
		skip_because("somebody else has the address");
	pattern_fill(mem, 16, 7);
	all_go(mem, 16, 16);
	step("growing");
	mem -= 8 * PAGE;
	*(volatile uint64_t *)(mem + 8) = 8;
	assert_true(is_zero(mem + 16, 8 * PAGE - 16));
	pattern_check(mem + 8 * PAGE, 16, 7);
	all_go(mem, 24, 16 + 1);
	assert_int_equal(*(volatile uint64_t *)(mem + 8), 8);
	pattern_check(mem + 8 * PAGE, 16, 7);
	comes_home(mem + PAGE, 7);
	all_go(mem, 24, 24);
	munmap(mem, 24 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pages_with_content),
		T(range_is_rounded_to_pages),
		T(holes_arrive_cleared),
		T(zero_pages_arrive_cleared),
		T(dontfork_and_wipeonfork),
		T(stack_for_signals),
		T(heap_by_brk),
		T(mapping_that_grows_down),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
