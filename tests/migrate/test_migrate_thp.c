/* SPDX-License-Identifier: MIT */
/*
 * What the kernel's own HMM tests (6.18, tools/testing/selftests/mm/hmm-tests.c) check of
 * huge pages of anonymous memory that migrate as such: empty, the zero page, freed, faulted,
 * unmapped in part, moved, without memory for a whole one on either side; and then a child.
 * The device takes 2 MiB in one piece where it can.
 *
 * Tries to break: G1, G4, G7, G8.
 */
#include "migrate/source.h"

#include "mm/debug.h"

#define IN_HUGE (THP / PAGE)
#define PART (THP / 4)

static int thp_setup(void **state)
{
	struct dummy_options opt = { .memory = 4 * THP, .runs = true, .scrub = true };

	(void)state;
	return dummy_create(&dev, &opt);
}

/* As of a huge page: one block of 2 MiB, if the kernel has one. */
static char *huge_area(void)
{
	char *mem = map_aligned(THP);

	if (madvise(mem, THP, MADV_HUGEPAGE))
		skip_because("no transparent huge pages on this kernel");
	return mem;
}

static char *huge_filled(uint64_t seed)
{
	char value[64] = "", *mem = huge_area();

	mem[0] = 1;
	if (!smaps_value(mem, "AnonHugePages", value, sizeof(value)) || atoi(value) != THP / 1024)
		skip_because("no transparent huge pages to be had");
	pattern_fill(mem, IN_HUGE, seed);
	return mem;
}

static uint64_t runs(void)
{
	struct dummy_stats stats;

	dummy_get_stats(dev, &stats);
	return stats.runs;
}

/* In one piece. */
static void goes_whole(char *mem, size_t copied)
{
	uint64_t before = runs();

	all_go(mem, IN_HUGE, copied);
	if (copied)
		assert_int_equal(runs() - before, 1);
}

/* All of the device's memory has held something: what is not cleared shows. */
static void empty(void **state)
{
	char *mem;

	(void)state;
	BEGIN(30);
	dirty_device();
	mem = huge_area();
	goes_whole(mem, 0);
	device_has_zeros(mem, IN_HUGE);
	assert_true(is_zero(mem, THP));
	munmap(mem, THP);
}

static void zero(void **state)
{
	char *mem;

	(void)state;
	BEGIN(30);
	dirty_device();
	mem = huge_area();
	touch_read(mem, 1); /* the huge zero page */
	goes_whole(mem, 0);
	device_has_zeros(mem, IN_HUGE);
	comes_home(mem, IN_HUGE);
	assert_true(is_zero(mem, THP));
	mem[5 * PAGE] = 1;
	assert_true(is_zero(mem, 5 * PAGE));
	munmap(mem, THP);
}

/* MADV_FREE drops what is on the device, or leaves it: never a part of a page. */
static void freed(void **state)
{
	char *mem = huge_filled(1);
	size_t i;

	(void)state;
	BEGIN(30);
	goes_whole(mem, IN_HUGE);
	device_has(mem, IN_HUGE, 1, 0);
	assert_int_equal(madvise(mem, THP, MADV_FREE), 0);
	for (i = 0; i < IN_HUGE; i++)
		if (*(uint64_t *)(mem + i * PAGE))
			pattern_check_from(mem + i * PAGE, 1, 1, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	pattern_fill(mem, IN_HUGE, 2);
	pattern_check(mem, IN_HUGE, 2);
	munmap(mem, THP);
}

static void faulted(void **state)
{
	char *mem = huge_filled(1);
	size_t i;

	(void)state;
	BEGIN(30);
	for (i = 0; i < 3; i++) {
		if (i) /* as small pages, which is what came back */
			all_go(mem, IN_HUGE, IN_HUGE);
		else
			goes_whole(mem, IN_HUGE);
		device_has(mem, IN_HUGE, 1, 0);
		pattern_check(mem, IN_HUGE, 1);
	}
	/* By one fault in the middle only what that brings. */
	all_go(mem, IN_HUGE, IN_HUGE);
	pattern_check_from(mem + 100 * PAGE, 1, 1, 100);
	wait_until(device_used(dev) == IN_HUGE - 1);
	assert_int_equal(count_where(mem, IN_HUGE, HMM_WHERE_DEVICE), IN_HUGE - 1);
	pattern_check(mem, IN_HUGE, 1);
	munmap(mem, THP);
}

static void unmapped_in_part(void **state)
{
	static const size_t offset[] = { 0, PART, 2 * PART, THP - PART };
	size_t i, j;

	(void)state;
	BEGIN(30);
	for (i = 0; i < sizeof(offset) / sizeof(offset[0]); i++) {
		char *mem = huge_filled(i);

		goes_whole(mem, IN_HUGE);
		assert_int_equal(munmap(mem + offset[i], PART), 0);
		wait_until(device_used(dev) == (THP - PART) / PAGE);
		for (j = 0; j < IN_HUGE; j++) {
			if (j * PAGE >= offset[i] && j * PAGE < offset[i] + PART)
				continue;
			device_has(mem + j * PAGE, 1, i, j);
			pattern_check_from(mem + j * PAGE, 1, i, j);
		}
		munmap(mem, THP);
	}
}

/* A part of it is moved, before it goes to the device or after; the old place kept or not. */
static void check_remap(size_t offset, bool keep, bool before)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0);
	char *mem = huge_filled(offset), *area = map_aligned(THP), *to = area + offset;
	size_t first = offset / PAGE, i;

	if (!before)
		goes_whole(mem, IN_HUGE);
	assert_ptr_equal(mremap(mem + offset, PART, PART, flags, to), to);
	if (before) {
		assert_int_equal(ask(mem, THP), keep ? IN_HUGE : IN_HUGE - PART / PAGE);
		assert_int_equal(ask(to, PART), PART / PAGE);
	}
	wait_until(count_where(to, PART / PAGE, HMM_WHERE_DEVICE) == PART / PAGE);
	device_has(to, PART / PAGE, offset, first);
	pattern_check_from(to, PART / PAGE, offset, first);
	for (i = 0; i < IN_HUGE; i++) {
		if (i >= first && i < first + PART / PAGE) {
			if (keep)
				assert_true(is_zero(mem + i * PAGE, PAGE));
			continue;
		}
		device_has(mem + i * PAGE, 1, offset, i);
		pattern_check_from(mem + i * PAGE, 1, offset, i);
	}
	munmap(mem, THP);
	munmap(area, THP);
	wait_until(device_used(dev) == 0);
}

static void moved(void **state)
{
	static const size_t offset[] = { 0, PART, THP - PART };
	size_t i;

	(void)state;
	BEGIN(60);
	for (i = 0; i < 3; i++) {
		check_remap(offset[i], false, false);
		check_remap(offset[i], false, true);
		check_remap(offset[i], true, false);
		check_remap(offset[i], true, true);
	}
}

/* The device has no 2 MiB in one piece: page by page. No page at all: it stays, whole. */
static void check_no_memory(char *mem, size_t copied)
{
	uint64_t before = runs();
	unsigned long n;

	dummy_inject(dev, DUMMY_FAIL_RUN, 1, 1);
	all_go(mem, IN_HUGE, copied);
	assert_int_equal(runs(), before);
	comes_home(mem, IN_HUGE);
	wait_until(device_used(dev) == 0);
	dummy_inject(dev, DUMMY_FAIL_RUN, 1, 1);
	dummy_inject(dev, DUMMY_FAIL_ALLOC, 1, IN_HUGE);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + THP, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(device_used(dev), 0);
	/* Every other page is to be had. */
	dummy_inject(dev, DUMMY_FAIL_ALLOC, 0, 0);
	dummy_inject(dev, DUMMY_FAIL_RUN, 1, 1);
	dummy_inject(dev, DUMMY_FAIL_ALLOC, 100, 50);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + THP, &n), 0);
	assert_int_equal(n, IN_HUGE - 50);
	assert_int_equal(count_where(mem, IN_HUGE, HMM_WHERE_DEVICE), n);
	dummy_inject(dev, DUMMY_FAIL_ALLOC, 0, 0);
}

static void without_memory_on_the_device(void **state)
{
	char *mem = huge_filled(3);

	(void)state;
	BEGIN(30);
	check_no_memory(mem, IN_HUGE);
	device_has(mem, IN_HUGE, 3, 0);
	pattern_check(mem, IN_HUGE, 3);
	munmap(mem, THP);
}

static void zero_without_memory_on_the_device(void **state)
{
	char *mem;

	(void)state;
	BEGIN(30);
	dirty_device();
	mem = huge_area();
	touch_read(mem, 1);
	check_no_memory(mem, 0);
	device_has_zeros(mem, IN_HUGE);
	assert_true(is_zero(mem, THP));
	munmap(mem, THP);
}

/* The way back without system memory: it is asked for again, and nothing is lost. */
static unsigned int failures; /* atomic */

static int no_memory(const char *what)
{
	if (strcmp(what, "copy") && strcmp(what, "move"))
		return 0;
	if (__atomic_load_n(&failures, __ATOMIC_RELAXED) == 0)
		return 0;
	__atomic_sub_fetch(&failures, 1, __ATOMIC_RELAXED);
	return -ENOMEM;
}

static void check_no_system_memory(char *mem, uint64_t seed)
{
	size_t i, n = THP / PAGE;
	uint64_t want = seed ? pattern_word(seed, n / 2, 0) : 0;

	if (!debug_set_fail(no_memory))
		skip_because("no debug build: no allocation can be made to fail");
	for (i = 0; i < 3; i++) {
		goes_whole(mem, seed && !i ? IN_HUGE : 0);
		__atomic_store_n(&failures, i + 1, __ATOMIC_RELAXED);
		assert_int_equal(*(volatile uint64_t *)(mem + THP / 2), want);
		assert_int_equal(__atomic_load_n(&failures, __ATOMIC_RELAXED), 0);
		assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + THP, NULL), 0);
		if (seed)
			break;
		madvise(mem, THP, MADV_DONTNEED);
		touch_read(mem, 1);
		wait_until(device_used(dev) == 0);
	}
	debug_set_fail(NULL);
}

static void without_memory_on_the_way_back(void **state)
{
	char *mem = huge_filled(4);

	(void)state;
	BEGIN(30);
	check_no_system_memory(mem, 4);
	pattern_check(mem, IN_HUGE, 4);
	munmap(mem, THP);
}

static void zero_without_memory_on_the_way_back(void **state)
{
	char *mem;

	(void)state;
	BEGIN(30);
	dirty_device();
	mem = huge_area();
	touch_read(mem, 1);
	check_no_system_memory(mem, 0);
	assert_true(is_zero(mem, THP));
	munmap(mem, THP);
}

/* ---- and then a child ---- */

/* What one writes, by the CPU or by the device, the other does not see. */
static void check_child(bool child_writes, bool raw)
{
	char *mem = huge_filled(6), c = 0;
	int go[2], done[2];
	pid_t pid;

	assert_int_equal(pipe(go) | pipe(done), 0);
	goes_whole(mem, IN_HUGE);
	pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
	if (!pid) {
		alarm(60);
		if (child_writes)
			pattern_fill(mem, IN_HUGE, 7);
		CHECK(write(done[1], &c, 1) == 1);
		CHECK(read(go[0], &c, 1) == 1);
		CHECK(has_pattern(mem, IN_HUGE, child_writes ? 7 : 6));
		syscall(SYS_exit_group, 0);
	}
	step("waiting for the child");
	assert_int_equal(read(done[0], &c, 1), 1);
	device_has(mem, IN_HUGE, 6, 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 9 * PAGE, 1), 0);
	assert_int_equal(ask(mem, THP), IN_HUGE);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 10 * PAGE, 1), 0);
	*(uint64_t *)(mem + 11 * PAGE) = 1;
	assert_int_equal(write(go[1], &c, 1), 1);
	child_ends_well(pid);
	assert_int_equal(*(uint64_t *)(mem + 9 * PAGE), 1);
	assert_int_equal(*(uint64_t *)(mem + 10 * PAGE), 1);
	pattern_page(mem + 9 * PAGE, 6, 9);
	pattern_page(mem + 10 * PAGE, 6, 10);
	pattern_page(mem + 11 * PAGE, 6, 11);
	pattern_check(mem, IN_HUGE, 6);
	munmap(mem, THP);
	close(go[0]);
	close(go[1]);
	close(done[0]);
	close(done[1]);
}

static void a_child_of_what_has_migrated(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };

	(void)state;
	BEGIN(60);
	check_child(false, false);
	check_child(true, false);
	assert_int_equal(hmm_probe(&features), 0);
#ifndef __SANITIZE_THREAD__ /* it does not hear of a child that was made by hand */
	if (features.fork_event) {
		check_child(false, true);
		check_child(true, true);
	}
#endif
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, thp_setup, teardown)
	const struct CMUnitTest tests[] = {
		T(empty),
		T(zero),
		T(freed),
		T(faulted),
		T(unmapped_in_part),
		T(moved),
		T(without_memory_on_the_device),
		T(zero_without_memory_on_the_device),
		T(without_memory_on_the_way_back),
		T(zero_without_memory_on_the_way_back),
		T(a_child_of_what_has_migrated),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
