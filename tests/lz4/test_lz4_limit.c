/* SPDX-License-Identifier: MIT */
/*
 * The lz4 device when there is no room: its own limit, its number of pages. What finds
 * none stays; nothing is lost, and the limit is never passed.
 *
 * Tries to break: G4, G7, and what lz4dev.h promises of @limit and @pages.
 */
#include "lz4/lz4_util.h"

#define PAGES 2048ul
#define BYTES (PAGES * PAGE)

static char *mem;
static uint8_t result[PAGES];

static int setup(void **state)
{
	(void)state;
	mem = map_apart(BYTES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return 0;
}

static unsigned long count_result(enum hmm_migrate_result what)
{
	unsigned long i, n = 0;

	for (i = 0; i < PAGES; i++)
		n += result[i] == what;
	return n;
}

static unsigned long migrate(struct lz4_device *dev)
{
	unsigned long moved = 0;

	assert_int_equal(lz4_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, result, &moved), 0);
	assert_int_equal(count_result(HMM_MIGRATE_DONE), moved);
	assert_int_equal(count_result(HMM_MIGRATE_DECLINED), PAGES - moved);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - moved);
	return moved;
}

static void fill(enum content kind, uint64_t seed)
{
	unsigned long i;

	for (i = 0; i < PAGES; i++)
		content_fill(mem + i * PAGE, kind, seed + i);
}

static void check(enum content kind, uint64_t seed, unsigned long step, const char *when)
{
	unsigned long i;

	for (i = 0; i < PAGES; i += step)
		content_check(mem + i * PAGE, kind, seed + i, when);
}

static void close_empty(struct lz4_device *dev)
{
	lz4_expect_empty(dev);
	assert_int_equal(lz4_destroy(dev), 0);
}

static void a_full_device_declines(void **state)
{
	struct lz4_device *dev = lz4_new(2 * MIB);
	struct lz4_stats stats;
	unsigned long moved;

	(void)state;
	BEGIN(20);
	fill(RANDOM, 1);
	moved = migrate(dev);
	stats = lz4_stats_of(dev);
	print_message("%lu pages of %zu, %lu bytes used\n", moved, 2 * MIB / PAGE,
		      (unsigned long)stats.memory);
	assert_true(moved > 2 * MIB / PAGE * 8 / 10 && moved < 2 * MIB / PAGE);
	assert_true(stats.memory <= 2 * MIB && stats.memory_peak <= 2 * MIB);
	assert_int_equal(stats.pages, moved);
	assert_int_equal(stats.declined, PAGES - moved);
	assert_int_equal(migrate(dev), moved);
	check(RANDOM, 1, 1, "after a full device");
	close_empty(dev);
}

/* Pages come home, others take their room; half of them, and all at once. */
static void room_is_used_again(void **state)
{
	struct lz4_device *dev = lz4_new(2 * MIB);
	unsigned long first, again;
	unsigned int round;

	(void)state;
	BEGIN(40);
	for (round = 0; round < 4; round++) {
		fill(TEXT + round % 3, round); /* other sizes each time */
		first = migrate(dev);
		assert_true(first > 300);
		check(TEXT + round % 3, round, 2, "half of them");
		wait_until(lz4_stats_of(dev).pages <= first / 2 + 1);
		again = migrate(dev);
		assert_true(again > first * 8 / 10);
		check(TEXT + round % 3, round, 1, "all of them");
		lz4_expect_empty(dev);
		assert_true(lz4_stats_of(dev).memory_peak <= 2 * MIB);
	}
	close_empty(dev);
}

/* Pages that repeat a word need no room. */
static void a_full_device_takes_same_filled_pages(void **state)
{
	struct lz4_options opt = { .limit = MIB, .pages = 2 * PAGES };
	struct lz4_device *dev = NULL;
	unsigned long i, moved = 0;

	(void)state;
	BEGIN(20);
	assert_int_equal(lz4_create(&dev, &opt), 0);
	fill(RANDOM, 1);
	for (i = PAGES / 2; i < PAGES; i++)
		content_fill(mem + i * PAGE, POINTER, 1 + i);
	moved = migrate(dev);
	assert_true(moved > PAGES / 2 && moved < PAGES);
	assert_int_equal(lz4_stats_of(dev).same_filled, PAGES / 2);
	for (i = 0; i < PAGES; i++)
		content_check(mem + i * PAGE, i < PAGES / 2 ? RANDOM : POINTER, 1 + i, "mixed");
	close_empty(dev);
}

static void no_more_pages_than_asked_for(void **state)
{
	struct lz4_options opt = { .pages = 1000, .check = true };
	struct lz4_device *dev = NULL;

	(void)state;
	BEGIN(20);
	assert_int_equal(lz4_create(&dev, &opt), 0);
	fill(SMALL, 3);
	assert_int_equal(migrate(dev), 1000);
	assert_int_equal(lz4_stats_of(dev).capacity, 1000);
	check(SMALL, 3, 1, "a thousand");
	close_empty(dev);
}

/* Descriptors are made as they are needed: not for the whole of a range with holes. */
static void descriptors_grow(void **state)
{
	struct lz4_device *dev = lz4_new(0);
	size_t bytes = (size_t)1 << 34, i;
	struct lz4_stats stats;
	unsigned long moved = 0;
	char *large;

	(void)state;
	BEGIN(60);
	stats = lz4_stats_of(dev);
	print_message("empty: %llu bytes, %llu pages\n", (unsigned long long)stats.memory,
		      (unsigned long long)stats.capacity);
	assert_true(stats.memory < 300000);
	large = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(large, MAP_FAILED);
	for (i = 0; i < bytes; i += bytes / 8)
		text_fill(large + i, i);
	fill(TEXT, 5);
	assert_int_equal(migrate(dev), PAGES);
	for (i = 0; i < bytes; i += bytes / 8) {
		assert_int_equal(lz4_migrate(dev, addr_of(large + i) + 7, addr_of(large + i) + 9,
					     NULL, &moved),
				 0);
		assert_int_equal(moved, 1);
	}
	assert_true(lz4_stats_of(dev).capacity < 4 * PAGES + 8192);
	check(TEXT, 5, 1, "grown");
	munmap(large, bytes);
	close_empty(dev);
}

static void options_that_are_wrong(void **state)
{
	struct lz4_options opt = { .acceleration = LZ4_ACCELERATION_MAX + 1 };
	struct lz4_device *dev = NULL;
	size_t limit;

	(void)state;
	BEGIN(10);
	assert_int_equal(lz4_create(&dev, &opt), -EINVAL);
	opt = (struct lz4_options){ .around = LZ4_AROUND_MAX + 1 };
	assert_int_equal(lz4_create(&dev, &opt), -EINVAL);
	opt = (struct lz4_options){ .limit = SIZE_MAX };
	assert_int_equal(lz4_create(&dev, &opt), -EINVAL);
	for (limit = 1; limit < 128 * 1024; limit *= 2) {
		opt = (struct lz4_options){ .limit = limit };
		assert_int_equal(lz4_create(&dev, &opt), limit < 64 * 1024 ? -ENOMEM : 0);
		if (limit >= 64 * 1024)
			assert_int_equal(lz4_destroy(dev), 0);
		else
			assert_null(dev);
	}
	assert_int_equal(lz4_destroy(NULL), 0);
}

/* From none at all up: each limit either is too small to create, or is kept. */
static void small_limits(void **state)
{
	unsigned long moved, created = 0;
	struct lz4_device *dev;
	size_t limit;

	(void)state;
	BEGIN(60);
	all_fill(mem, PAGES, 1);
	for (limit = 40 * 1024; limit < 400 * 1024; limit += 13333) {
		struct lz4_options opt = { .limit = limit, .check = true };
		int ret = lz4_create(&dev, &opt);

		assert_true(ret == 0 || ret == -ENOMEM);
		assert_true(ret == 0 || !created);
		if (ret)
			continue;
		created++;
		moved = migrate(dev);
		assert_true(limit < 200 * 1024 || moved);
		assert_true(lz4_stats_of(dev).memory_peak <= limit);
		all_check(mem, PAGES, 1, "a small limit");
		close_empty(dev);
	}
	assert_true(created > 10);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_full_device_declines),
		T(room_is_used_again),
		T(a_full_device_takes_same_filled_pages),
		T(no_more_pages_than_asked_for),
		T(descriptors_grow),
		T(options_that_are_wrong),
		T(small_limits),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
