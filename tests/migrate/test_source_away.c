/* SPDX-License-Identifier: MIT */
/*
 * Sources that are away already, on this device or on another, and ranges with gaps.
 *
 * Tries to break: G1 (a page on two devices), G4, G7 (each page goes or is where it
 * was, and *pages counts those that are there), and that both devices' memory is free
 * again afterwards.
 */
#include "migrate/source.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

static struct dummy_device *other;

static int setup_two(void **state)
{
	other = device_new(2048);
	return setup(state);
}

static int teardown_two(void **state)
{
	wait_until(device_used(other) == 0);
	assert_int_equal(dummy_destroy(other), 0);
	return teardown(state);
}

static size_t ask_other(const void *start, size_t len)
{
	unsigned long moved = 4711;

	assert_int_equal(dummy_migrate(other, addr_of(start), addr_of(start) + len, &moved), 0);
	return moved;
}

/* ---- away already ---- */

static void here_already(void **state)
{
	char *mem = map_aligned(BYTES);
	struct dummy_stats before, after;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 1);
	all_go(mem + 20 * PAGE, 30, 30);
	dummy_get_stats(dev, &before);
	assert_int_equal(ask(mem + 20 * PAGE, 30 * PAGE), 30);
	dummy_get_stats(dev, &after);
	assert_int_equal(after.bytes_in, before.bytes_in);
	assert_int_equal(after.bytes_out, before.bytes_out);
	assert_int_equal(after.pages_in, before.pages_in);
	/* What the device has written there meanwhile is what counts. */
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 25 * PAGE, 2), 0);
	assert_int_equal(ask(mem, BYTES), PAGES);
	dummy_get_stats(dev, &after);
	assert_int_equal(after.bytes_in - before.bytes_in, (PAGES - 30) * PAGE);
	assert_int_equal(after.bytes_out, before.bytes_out);
	assert_int_equal(device_used(dev), PAGES);
	assert_int_equal(*(uint64_t *)(mem + 25 * PAGE), 2);
	*(uint64_t *)(mem + 25 * PAGE) = pattern_word(1, 25, 0);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
	munmap(mem, BYTES);
}

static void on_the_other_device(void **state)
{
	char *mem = map_aligned(BYTES);
	size_t i;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 3);
	for (i = 0; i < 5; i++) {
		all_go(mem, PAGES, PAGES);
		assert_int_equal(ask_other(mem, BYTES), PAGES);
		assert_int_equal(device_used(dev), 0);
		assert_int_equal(device_used(other), PAGES);
		assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES);
		assert_int_equal(count_on_cpu(mem, PAGES), 0);
		assert_int_equal(dummy_store_u64(other, addr_of(mem) + i * PAGE, i), 0);
		assert_int_equal(ask(mem, BYTES), PAGES);
		assert_int_equal(device_used(dev), PAGES);
		assert_int_equal(device_used(other), 0);
		comes_home(mem, PAGES);
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), i);
		*(uint64_t *)(mem + i * PAGE) = pattern_word(3, i, 0);
		pattern_check(mem, PAGES, 3);
	}
	munmap(mem, BYTES);
}

/* What the device reads there comes home first, and only that. */
static void load_of_what_the_other_has(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 4);
	assert_int_equal(ask_other(mem, BYTES), PAGES);
	device_has(mem + 40 * PAGE, 1, 4, 40);
	assert_true(on_cpu(mem + 40 * PAGE));
	assert_true(device_used(other) < PAGES && device_used(dev) == 0);
	assert_int_equal(ask(mem, BYTES), PAGES);
	assert_int_equal(device_used(other), 0);
	device_has(mem, PAGES, 4, 0);
	pattern_check(mem, PAGES, 4);
	munmap(mem, BYTES);
}

/* Holes that the other device has as cleared pages arrive with what it wrote. */
static void holes_by_way_of_the_other_device(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	dirty_device();
	touch_read(mem, PAGES / 2);
	assert_int_equal(ask_other(mem, BYTES), PAGES);
	assert_int_equal(dummy_store_u64(other, addr_of(mem) + 7 * PAGE, 7), 0);
	assert_int_equal(ask(mem, BYTES), PAGES);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 8 * PAGE, 8), 0);
	device_has_zeros(mem, 7);
	device_has_zeros(mem + 9 * PAGE, PAGES - 9);
	assert_int_equal(*(uint64_t *)(mem + 7 * PAGE), 7);
	assert_int_equal(*(uint64_t *)(mem + 8 * PAGE), 8);
	memset(mem + 7 * PAGE, 0, 8);
	memset(mem + 8 * PAGE, 0, 8);
	assert_true(is_zero(mem, BYTES));
	munmap(mem, BYTES);
}

/* It takes what it has room for; the rest is in system memory or where it was. */
static void from_the_other_to_one_that_is_full(void **state)
{
	struct dummy_device *small = device_new(40);
	char *mem = map_aligned(BYTES);
	unsigned long moved = 0;
	size_t i, system;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 5);
	assert_int_equal(ask_other(mem, BYTES), PAGES);
	assert_int_equal(dummy_migrate(small, addr_of(mem), addr_of(mem) + BYTES, &moved), 0);
	assert_int_equal(moved, 40);
	assert_int_equal(dummy_memory_free(small), 0);
	system = count_on_cpu(mem, PAGES);
	assert_int_equal(system + device_used(other), PAGES - 40);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), 40 + device_used(other));
	for (i = 0; i < PAGES; i++)
		device_has(mem + i * PAGE, 1, 5, i);
	pattern_check(mem, PAGES, 5);
	wait_until(dummy_memory_free(small) == 40);
	assert_int_equal(dummy_destroy(small), 0);
	munmap(mem, BYTES);
}

static void ranges_that_end_in_holes_between_mappings(void **state)
{
	char *area = map_aligned(3 * THP), *mem = area + THP - 8 * PAGE;
	unsigned long moved = 4711;
	int i;

	(void)state;
	BEGIN(30);
	/* Four mappings of four pages with gaps of two, across the border of a chunk. */
	for (i = 0; i < 4; i++)
		pattern_fill(mem + (size_t)i * 6 * PAGE, 4, (uint64_t)i);
	munmap(area, THP - 8 * PAGE);
	for (i = 0; i < 3; i++)
		munmap(mem + ((size_t)i * 6 + 4) * PAGE, 2 * PAGE);
	munmap(mem + 22 * PAGE, (size_t)(area + 3 * THP - mem) - 22 * PAGE);
	assert_int_equal(ask(mem + 5 * PAGE, 12 * PAGE), 8); /* from gap to gap */
	assert_int_equal(count_where(mem, 4, HMM_WHERE_SYSTEM), 4);
	assert_int_equal(count_where(mem + 18 * PAGE, 4, HMM_WHERE_SYSTEM), 4);
	assert_int_equal(ask(mem - 3 * PAGE, 5 * PAGE), 2);
	assert_int_equal(ask(mem + 20 * PAGE, 9 * PAGE), 2);
	assert_int_equal(ask(mem + 4 * PAGE, 2 * PAGE), 0); /* nothing but a gap */
	assert_int_equal(device_used(dev), 12);
	assert_int_equal(ask(area, 3 * THP), 16);
	assert_int_equal(device_used(dev), 16);
	assert_int_equal(dummy_evict(dev, addr_of(mem) - THP, addr_of(mem) + THP, &moved), 0);
	assert_int_equal(moved, 16);
	for (i = 0; i < 4; i++)
		pattern_check(mem + (size_t)i * 6 * PAGE, 4, (uint64_t)i);
	for (i = 0; i < 4; i++)
		munmap(mem + (size_t)i * 6 * PAGE, 4 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_two, teardown_two)
	const struct CMUnitTest tests[] = {
		T(here_already),
		T(on_the_other_device),
		T(load_of_what_the_other_has),
		T(holes_by_way_of_the_other_device),
		T(from_the_other_to_one_that_is_full),
		T(ranges_that_end_in_holes_between_mappings),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
