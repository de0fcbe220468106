/* SPDX-License-Identifier: MIT */
/*
 * Content of all kinds goes into the lz4 device and comes back as it was.
 *
 * Tries to break: G1, G4, G7, and what lz4dev.h says of its numbers.
 */
#include "lz4/lz4_util.h"

#define PAGES 1100ul

static struct lz4_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = lz4_new(0);
	mem = map_apart(PAGES * PAGE);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, PAGES * PAGE);
	lz4_expect_empty(dev);
	assert_int_equal(lz4_destroy(dev), 0);
	return 0;
}

static void all_kinds_go_and_come_back(void **state)
{
	struct lz4_stats stats;

	(void)state;
	BEGIN(20);
	all_fill(mem, PAGES, 1);
	lz4_migrate_all(dev, mem, PAGES);
	stats = lz4_stats_of(dev);
	assert_int_equal(stats.pages, PAGES);
	assert_int_equal(stats.pages_in, PAGES);
	assert_int_equal(stats.declined, 0);
	all_check(mem, PAGES, 1, "by faults");
	assert_int_equal(lz4_stats_of(dev).pages_out, PAGES);
	lz4_expect_empty(dev);
}

static void each_kind_alone(void **state)
{
	unsigned long i, back;
	enum content kind;

	(void)state;
	BEGIN(60);
	for (kind = 0; kind < CONTENTS; kind++) {
		struct lz4_stats stats;

		for (i = 0; i < PAGES; i++)
			content_fill(mem + i * PAGE, kind, 77 + i);
		lz4_migrate_all(dev, mem, PAGES);
		stats = lz4_stats_of(dev);
		assert_int_equal(stats.pages, PAGES);
		assert_int_equal(stats.same_filled, kind <= BYTES ? PAGES : 0);
		assert_int_equal(stats.plain, kind == RANDOM ? PAGES : 0);
		assert_true(kind > BYTES ? stats.stored_bytes > 0 : !stats.stored_bytes);
		assert_true(stats.object_bytes >= stats.stored_bytes);
		assert_true(stats.packed_bytes >= stats.object_bytes);
		if (kind == RANDOM)
			assert_int_equal(stats.stored_bytes, PAGES * PAGE);
		else if (kind == HALF)
			assert_true(stats.stored_bytes < PAGES * PAGE * 6 / 10);
		assert_int_equal(lz4_evict(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, &back),
				 0);
		assert_int_equal(back, PAGES);
		for (i = 0; i < PAGES; i++)
			content_check(mem + i * PAGE, kind, 77 + i, "asked for");
		lz4_expect_empty(dev);
	}
}

/* There is nothing to win where there is no memory. */
static void pages_without_memory_stay(void **state)
{
	static uint8_t result[PAGES];
	volatile char *zero = mem + 3 * PAGE;
	unsigned long moved = 1, i;

	(void)state;
	BEGIN(10);
	assert_int_equal(*zero, 0);
	mem[5 * PAGE] = 1;
	assert_int_equal(
		lz4_migrate(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, result, &moved), 0);
	assert_int_equal(moved, 1);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(result[i], i == 5 ? HMM_MIGRATE_DONE : HMM_MIGRATE_DECLINED);
	assert_int_equal(mem[5 * PAGE], 1);
	assert_int_equal(mem[4 * PAGE], 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_kinds_go_and_come_back),
		T(each_kind_alone),
		T(pages_without_memory_stay),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
