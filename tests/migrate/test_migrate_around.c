/* SPDX-License-Identifier: MIT */
/*
 * How many pages a CPU fault brings: one, but for who reads on.
 *
 * Tries to break: G4 (neighbours that come along have their content), G9 (a fault
 * on a hole beside pages that are away is answered), and the promise that random
 * access brings nothing but what it touches.
 */
#include "test_util.h"

#define PAGES 1024
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = device_new(PAGES * 2);
	mem = map_aligned(BYTES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return dummy_destroy(dev);
}

static struct hmm_stats stats_now(void)
{
	struct hmm_stats stats = { .size = sizeof(stats) };

	assert_int_equal(hmm_get_stats(&stats), 0);
	return stats;
}

/* A fault is counted after it was answered: wait for the last one. */
static struct hmm_stats stats_after(const struct hmm_stats *before, uint64_t pages)
{
	wait_until(stats_now().pages_by_fault - before->pages_by_fault >= pages);
	test_sleep_us(1000);
	assert_int_equal(stats_now().pages_by_fault - before->pages_by_fault, pages);
	return stats_now();
}

static void who_reads_on_faults_seldom(void **state)
{
	struct hmm_stats before, after;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 3);
	migrate_all(dev, mem, PAGES);
	before = stats_now();
	pattern_check(mem, PAGES, 3);
	after = stats_after(&before, PAGES);
	assert_true(after.cpu_faults - before.cpu_faults < PAGES / 16);
	assert_int_equal(device_used(dev), 0);
}

static void who_jumps_gets_one_page_each(void **state)
{
	struct hmm_stats before;
	size_t i;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 4);
	migrate_all(dev, mem, PAGES);
	before = stats_now();
	for (i = 0; i < 100; i++)
		pattern_check_from(mem + (i * 37 % PAGES) * PAGE, 1, 4, i * 37 % PAGES);
	stats_after(&before, 100);
	assert_int_equal(device_used(dev), PAGES - 100);
}

/* Every other page dropped: holes between pages that are away. */
static void holes_between_are_zeros(void **state)
{
	size_t i;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 5);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < PAGES; i += 3)
		assert_int_equal(madvise(mem + i * PAGE, PAGE, MADV_DONTNEED), 0);
	for (i = 0; i < PAGES; i++) {
		if (i % 3)
			pattern_check_from(mem + i * PAGE, 1, 5, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	}
	assert_int_equal(device_used(dev), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(who_reads_on_faults_seldom),
		T(who_jumps_gets_one_page_each),
		T(holes_between_are_zeros),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
