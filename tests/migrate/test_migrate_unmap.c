/* SPDX-License-Identifier: MIT */
/*
 * Migrated memory that the program unmaps or discards: the device pages are freed,
 * and what is read at the address afterwards is what the program put there, or zeros.
 *
 * Tries to break: G1 (device pages are counted), G3, G4 (never stale data), G9.
 */
#include "test_util.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)
#define ROUNDS (TEST_SANITIZED ? 20 : 100)

static struct dummy_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = device_new(512);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return dummy_destroy(dev);
}

static void munmap_frees_device_pages(void **state)
{
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		migrate_all(dev, mem, PAGES);
		assert_int_equal(device_used(dev), PAGES);
		step("munmap");
		assert_int_equal(munmap(mem, BYTES), 0);
		wait_until(device_used(dev) == 0);
		load_is_efault(dev, mem);
		mem = map_aligned(BYTES);
		pattern_fill(mem, PAGES, 1);
	}
}

static void munmap_of_a_part_frees_that_part(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(munmap(mem + 10 * PAGE, 20 * PAGE), 0);
	wait_until(device_used(dev) == PAGES - 20);
	assert_int_equal(munmap(mem, PAGE), 0);
	assert_int_equal(munmap(mem + 63 * PAGE, PAGE), 0);
	wait_until(device_used(dev) == PAGES - 22);
	pattern_check_from(mem + PAGE, 9, 1, 1);
	pattern_check_from(mem + 30 * PAGE, 33, 1, 30);
	wait_until(device_used(dev) == 0);
}

/* One unmap over several mappings, some of them never seen by the library. */
static void munmap_across_mappings(void **state)
{
	char *big = map_aligned(8 * MIB);

	(void)state;
	BEGIN(5);
	assert_int_equal(mprotect(big + 3 * MIB, PAGE, PROT_READ), 0);
	memset(big, 1, 3 * MIB);
	migrate_all(dev, big + MIB, 32);
	migrate_all(dev, big + 5 * MIB, 32);
	assert_int_equal(munmap(big + PAGE, 8 * MIB - 2 * PAGE), 0);
	wait_until(device_used(dev) == 0);
	munmap(big, PAGE);
	munmap(big + 8 * MIB - PAGE, PAGE);
}

static void mmap_and_unmap_at_one_address_never_shows_old_data(void **state)
{
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		uint64_t val = 1;

		*(uint64_t *)mem = (uint64_t)i + 1;
		migrate_all(dev, mem, PAGES);
		assert_int_equal(munmap(mem, BYTES), 0);
		assert_ptr_equal(mmap(mem, BYTES, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), mem);
		if (i & 1)
			assert_int_equal(*(uint64_t *)mem, 0);
		assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
		assert_int_equal(val, 0);
		assert_true(is_zero(mem, BYTES));
	}
}

static void mmap_fixed_over_frees_and_replaces(void **state)
{
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		pattern_fill(mem, PAGES, 2);
		migrate_all(dev, mem, PAGES);
		assert_ptr_equal(mmap(mem + 8 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 mem + 8 * PAGE);
		if (i & 1) {
			mem[8 * PAGE] = 5;
			assert_int_equal(mem[8 * PAGE], 5);
			mem[8 * PAGE] = 0;
		}
		wait_until(device_used(dev) == PAGES - 16);
		assert_true(is_zero(mem + 8 * PAGE, 16 * PAGE));
		pattern_check(mem, 8, 2);
		pattern_check_from(mem + 24 * PAGE, PAGES - 24, 2, 24);
	}
}

static void brk_shrink_frees_device_pages(void **state)
{
	char *top = sbrk(0), *base;
	size_t pages;

	(void)state;
	BEGIN(5);
	base = (char *)((addr_of(top) + PAGE - 1) & ~(PAGE - 1));
	if (brk(base + 40 * PAGE))
		skip();
	pattern_fill(base, 40, 3);
	pages = 40;
	migrate_all(dev, base, pages);
	assert_int_equal(brk(base + 10 * PAGE), 0);
	wait_until(device_used(dev) == 10);
	assert_int_equal(brk(base + 40 * PAGE), 0);
	assert_true(is_zero(base + 10 * PAGE, 30 * PAGE));
	pattern_check(base, 10, 3);
	wait_until(device_used(dev) == 0);
	assert_int_equal(brk(top), 0);
}

static void dontneed_frees_and_reads_zero(void **state)
{
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		pattern_fill(mem, 4, 4);
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
		assert_int_equal(count_on_cpu(mem, PAGES), 0);
		assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
		if (i & 1)
			assert_true(is_zero(mem, 4 * PAGE));
		wait_until(device_used(dev) == 0);
		assert_true(is_zero(mem, BYTES));
	}
}

/* DONTNEED of a part, while the other part is away. */
static void dontneed_of_a_part_leaves_the_rest(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(madvise(mem + 5 * PAGE, 7 * PAGE, MADV_DONTNEED), 0);
	wait_until(device_used(dev) == PAGES - 7);
	assert_true(is_zero(mem + 5 * PAGE, 7 * PAGE));
	pattern_check(mem, 5, 1);
	pattern_check_from(mem + 12 * PAGE, PAGES - 12, 1, 12);
}

/* MADV_FREE: old content or zeros, page by page, until written; written stays. */
static void madv_free_reads_old_or_zero(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(madvise(mem, BYTES, MADV_FREE), 0);
	wait_until(device_used(dev) == 0);
	for (i = 0; i < PAGES; i++) {
		uint64_t word = *(uint64_t *)(mem + i * PAGE);

		assert_true(word == 0 || word == pattern_word(1, i, 0));
	}
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 6);
}

/* What is discarded and then written again must not be lost on its way out. */
static void dontneed_write_migrate_keeps_the_write(void **state)
{
	int i;

	(void)state;
	BEGIN(14);
	for (i = 0; i < 12; i++) {
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
		assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
		pattern_fill(mem, PAGES, (uint64_t)i);
		migrate_all(dev, mem, PAGES);
		pattern_check(mem, PAGES, (uint64_t)i);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(munmap_frees_device_pages),
		T(munmap_of_a_part_frees_that_part),
		T(munmap_across_mappings),
		T(mmap_and_unmap_at_one_address_never_shows_old_data),
		T(mmap_fixed_over_frees_and_replaces),
		T(brk_shrink_frees_device_pages),
		T(dontneed_frees_and_reads_zero),
		T(dontneed_of_a_part_leaves_the_rest),
		T(madv_free_reads_old_or_zero),
		T(dontneed_write_migrate_keeps_the_write),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
