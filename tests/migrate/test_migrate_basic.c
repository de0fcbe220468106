/* SPDX-License-Identifier: MIT */
/*
 * To the device and back: pages really leave, data comes back as the device left it.
 *
 * Tries to break: G1 (looked at in /proc/self/pagemap and in the device's count of
 * used pages, not by what the library says), G4, G7, G9.
 */
#include "test_util.h"

#define PAGES 600 /* two chunks, the second in part */
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = device_new(2048);
	mem = map_aligned(BYTES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (mem)
		munmap(mem, BYTES);
	return dummy_destroy(dev);
}

static size_t migrate(size_t first, size_t pages)
{
	unsigned long moved = 4711;

	assert_int_equal(dummy_migrate(dev, addr_of(mem) + first * PAGE,
				       addr_of(mem) + (first + pages) * PAGE, &moved), 0);
	return moved;
}

static void pages_leave_the_cpu_and_come_back_by_fault(void **state)
{
	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(device_used(dev), PAGES);
	step("CPU reads");
	pattern_check(mem, PAGES, 1);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	wait_until(device_used(dev) == 0);
}

static void single_page_and_its_neighbours(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(migrate(511, 1), 1);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 1);
	assert_false(on_cpu(mem + 511 * PAGE));
	assert_int_equal(migrate(100, 3), 3);
	assert_int_equal(migrate(99, 5), 5); /* three of them are there already */
	assert_int_equal(device_used(dev), 6);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(on_cpu(mem + i * PAGE), i != 511 && (i < 99 || i > 103));
	pattern_check(mem, PAGES, 1);
}

static void device_writes_come_back(void **state)
{
	char *from = map_anon(BYTES);
	struct dummy_stats stats;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 1);
	pattern_fill(from, PAGES, 2);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_store(dev, addr_of(mem), from, BYTES), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	memset(from, 0, BYTES);
	assert_int_equal(dummy_load(dev, addr_of(mem), from, BYTES), 0);
	pattern_check(from, PAGES, 2);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	pattern_check(mem, PAGES, 2);
	dummy_get_stats(dev, &stats);
	assert_int_equal(stats.pages_in, PAGES);
	assert_int_equal(stats.pages_out, PAGES);
	munmap(from, BYTES);
}

/* CPU writes one word of each page: the rest must come from the device. */
static void cpu_write_fault_keeps_the_rest_of_the_page(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < PAGES; i++)
		((uint64_t *)(mem + i * PAGE))[7] = i;
	for (i = 0; i < PAGES; i++) {
		assert_int_equal(((uint64_t *)(mem + i * PAGE))[7], i);
		((uint64_t *)(mem + i * PAGE))[7] = pattern_word(1, i, 7);
	}
	pattern_check(mem, PAGES, 1);
}

static void holes_and_zero_pages_go_and_read_zero(void **state)
{
	volatile char sink;
	size_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < PAGES; i += 3)
		sink = mem[i * PAGE]; /* the zero page */
	for (i = 1; i < PAGES; i += 3)
		pattern_page(mem + i * PAGE, 5, i);
	(void)sink;
	assert_int_equal(migrate(0, PAGES), PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	for (i = 0; i < PAGES; i += 2) {
		uint64_t val = 1;

		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE + 64, &val), 0);
		assert_int_equal(val, i % 3 == 1 ? pattern_word(5, i, 8) : 0);
	}
	for (i = 2; i < PAGES; i += 3)
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + i * PAGE, i), 0);
	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 1) {
			pattern_check_from(mem + i * PAGE, 1, 5, i);
			continue;
		}
		if (i % 3 == 2)
			assert_int_equal(*(uint64_t *)(mem + i * PAGE), i);
		assert_true(is_zero(mem + i * PAGE + 8, PAGE - 8));
	}
}

static void migrating_twice_changes_nothing(void **state)
{
	struct dummy_stats stats;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	migrate_all(dev, mem, PAGES);
	dummy_get_stats(dev, &stats);
	assert_int_equal(stats.pages_in, PAGES);
	assert_int_equal(device_used(dev), PAGES);
	mem[300 * PAGE] = 1;
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mem[300 * PAGE], 1);
}

static void evict_brings_back_what_was_asked_and_no_more(void **state)
{
	unsigned long pages = 0;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_evict(dev, addr_of(mem) + 100 * PAGE, addr_of(mem) + 550 * PAGE,
				     &pages), 0);
	assert_int_equal(pages, 450);
	assert_int_equal(count_on_cpu(mem, PAGES), 450);
	assert_int_equal(count_on_cpu(mem + 100 * PAGE, 450), 450);
	assert_int_equal(device_used(dev), PAGES - 450);
	pattern_check(mem, PAGES, 6);
}

static void evict_all_brings_back_everything_and_the_device_goes_on(void **state)
{
	unsigned long pages = 0;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_evict_all(dev, &pages), 0);
	assert_int_equal(pages, PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(device_used(dev), 0);
	assert_int_equal(dummy_evict_all(dev, &pages), 0);
	assert_int_equal(pages, 0);
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 6);
}

static void destroy_brings_all_of_it_back(void **state)
{
	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 7);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 9 * PAGE, 1), 0);
	step("dummy_destroy");
	assert_int_equal(dummy_destroy(dev), 0);
	dev = NULL;
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(*(uint64_t *)(mem + 9 * PAGE), 1);
	*(uint64_t *)(mem + 9 * PAGE) = pattern_word(7, 9, 0);
	pattern_check(mem, PAGES, 7);
}

static void full_device_takes_what_it_can(void **state)
{
	struct dummy_device *small = device_new(100);
	unsigned long moved = 0;
	size_t i;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 8);
	assert_int_equal(dummy_migrate(small, addr_of(mem), addr_of(mem) + BYTES, &moved), 0);
	assert_int_equal(moved, 100);
	assert_int_equal(dummy_memory_free(small), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 100);
	assert_int_equal(dummy_migrate(small, addr_of(mem), addr_of(mem) + BYTES, &moved), 0);
	assert_int_equal(moved, 100);
	pattern_check_from(mem + 200 * PAGE, PAGES - 200, 8, 200);
	for (i = 0; i < PAGES; i += 5)
		assert_int_equal(dummy_store_u64(small, addr_of(mem) + i * PAGE,
						 pattern_word(8, i, 0)), 0);
	pattern_check(mem, PAGES, 8);
	wait_until(dummy_memory_free(small) == 100);
	assert_int_equal(dummy_destroy(small), 0);
}

/* ---- huge pages ---- */

static bool make_huge(char *at)
{
	char value[64];

	if (madvise(at, THP, MADV_HUGEPAGE))
		return false;
	at[0] = 1;
	return smaps_value(at, "AnonHugePages", value, sizeof(value)) && atoi(value) >= 2048;
}

static void huge_page_goes_whole_and_in_part(void **state)
{
	size_t pages = THP / PAGE;
	struct dummy_device *big;
	char *huge;

	(void)state;
	BEGIN(5);
	huge = map_aligned(THP);
	if (!make_huge(huge)) {
		munmap(huge, THP);
		print_message("no transparent huge pages here\n");
		skip();
	}
	big = device_new(pages);
	pattern_fill(huge, pages, 1);
	migrate_all(big, huge, pages);
	pattern_check(huge, pages, 1);
	munmap(huge, THP);

	huge = map_aligned(THP);
	assert_true(make_huge(huge));
	pattern_fill(huge, pages, 2);
	migrate_all(big, huge + 10 * PAGE, 100);
	migrate_all(big, huge + 511 * PAGE, 1);
	assert_int_equal(count_on_cpu(huge, pages), pages - 101);
	pattern_check(huge, pages, 2);
	munmap(huge, THP);
	assert_int_equal(dummy_destroy(big), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pages_leave_the_cpu_and_come_back_by_fault),
		T(single_page_and_its_neighbours),
		T(device_writes_come_back),
		T(cpu_write_fault_keeps_the_rest_of_the_page),
		T(holes_and_zero_pages_go_and_read_zero),
		T(migrating_twice_changes_nothing),
		T(evict_brings_back_what_was_asked_and_no_more),
		T(evict_all_brings_back_everything_and_the_device_goes_on),
		T(destroy_brings_all_of_it_back),
		T(full_device_takes_what_it_can),
		T(huge_page_goes_whole_and_in_part),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
