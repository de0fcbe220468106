/* SPDX-License-Identifier: MIT */
/*
 * mremap of migrated memory: what is away follows the addresses.
 *
 * Tries to break: G3, G4 (content checked page by page, by CPU and device), G1 (the
 * device's used pages are counted), G9.
 */
#include "test_util.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)
#define ROUNDS (TEST_SANITIZED ? 10 : 60)

static struct dummy_device *dev;

static int setup(void **state)
{
	(void)state;
	dev = device_new(4096);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return dummy_destroy(dev);
}

static char *new_area(size_t pages, uint64_t seed)
{
	char *mem = map_aligned(pages * PAGE);

	pattern_fill(mem, pages, seed);
	return mem;
}

/* A place to move to. Not a hole: the library might map something of its own there. */
static char *place_for(size_t len)
{
	char *mem = map_aligned(len);

	assert_int_equal(mprotect(mem, len, PROT_NONE), 0);
	return mem;
}

static void device_sees(const char *mem, size_t pages, uint64_t seed, size_t first)
{
	size_t i;

	for (i = 0; i < pages; i++) {
		uint64_t val = 0;

		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE + 16, &val), 0);
		assert_int_equal(val, pattern_word(seed, first + i, 2));
	}
}

/* Unless somebody else has mapped something there since. */
static void gone(const char *mem)
{
	char value[64];

	if (!smaps_value(mem, "Size", value, sizeof(value)))
		load_is_efault(dev, mem);
}

static void move_takes_device_pages_along(void **state)
{
	char *mem = new_area(PAGES, 1);
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		char *to = place_for(BYTES), *from = mem;

		migrate_all(dev, mem, PAGES);
		step("mremap");
		mem = mremap(from, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		assert_ptr_equal(mem, to);
		if (i & 1)
			device_sees(mem, PAGES, 1, 0);
		if (i & 2)
			gone(from + 3 * PAGE);
		step("CPU reads after mremap");
		pattern_check(mem, PAGES, 1);
		wait_until(device_used(dev) == 0);
	}
	munmap(mem, BYTES);
}

/* By an offset that is no multiple of a chunk: entries change their directory. */
static void move_to_another_offset_in_the_chunk(void **state)
{
	char *mem = new_area(1200, 2), *place = place_for(8 * MIB), *to = place + 37 * PAGE;

	(void)state;
	BEGIN(10);
	migrate_all(dev, mem + 5 * PAGE, 1100);
	assert_ptr_equal(mremap(mem, 1200 * PAGE, 1200 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	device_sees(to + 5 * PAGE, 1100, 2, 5);
	assert_int_equal(count_on_cpu(to, 1200), 100);
	pattern_check(to, 1200, 2);
	munmap(place, 8 * MIB);
	wait_until(device_used(dev) == 0);
}

static void part_of_a_mapping_moves(void **state)
{
	char *mem = new_area(PAGES, 3), *to = place_for(BYTES);

	(void)state;
	BEGIN(10);
	migrate_all(dev, mem, PAGES);
	assert_ptr_equal(mremap(mem + 10 * PAGE, 30 * PAGE, 30 * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	gone(mem + 10 * PAGE);
	gone(mem + 39 * PAGE);
	pattern_check_from(to, 30, 3, 10);
	pattern_check(mem, 10, 3);
	pattern_check_from(mem + 40 * PAGE, PAGES - 40, 3, 40);
	munmap(mem, BYTES);
	munmap(to, BYTES);
	wait_until(device_used(dev) == 0);
}

static void grow_and_shrink(void **state)
{
	char *mem = new_area(PAGES, 4), *to;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		migrate_all(dev, mem, PAGES);
		to = mremap(mem, BYTES, 2 * BYTES, MREMAP_MAYMOVE);
		assert_ptr_not_equal(to, MAP_FAILED);
		mem = to;
		if (i & 1)
			device_sees(mem, PAGES, 4, 0);
		assert_true(is_zero(mem + BYTES, BYTES));
		memset(mem + BYTES, 0x55, BYTES);
		migrate_all(dev, mem, 2 * PAGES);
		assert_ptr_equal(mremap(mem, 2 * BYTES, BYTES, 0), mem);
		gone(mem + BYTES);
		wait_until(device_used(dev) == PAGES);
		pattern_check(mem, PAGES, 4);
	}
	munmap(mem, BYTES);
}

/* Half a chunk migrated in the midst of one mapping: the program must not see it. */
static void mapping_migrated_in_part_moves_whole(void **state)
{
	char *mem = map_aligned(8 * MIB), *to = place_for(8 * MIB), *got;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, 2048, 5);
	migrate_all(dev, mem + 3 * MIB, 100);
	step("mremap");
	got = mremap(mem, 8 * MIB, 8 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (got == MAP_FAILED)
		fail_msg("mremap of a mapping that was migrated in part: %s", strerror(errno));
	pattern_check(to, 2048, 5);
	munmap(to, 8 * MIB);
}

static void mirrored_in_part_moves_whole(void **state)
{
	char *mem = map_aligned(8 * MIB), *to = place_for(8 * MIB), *got;
	uint64_t val;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, 2048, 5);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 3 * MIB, &val), 0);
	got = mremap(mem, 8 * MIB, 8 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (got == MAP_FAILED)
		fail_msg("mremap of a mapping that was mirrored in part: %s", strerror(errno));
	pattern_check(to, 2048, 5);
	munmap(to, 8 * MIB);
}

static void dontunmap_leaves_zeros_and_takes_the_pages(void **state)
{
	char *mem = new_area(PAGES, 6), *to;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		pattern_fill(mem, PAGES, 6);
		migrate_all(dev, mem, PAGES);
		to = mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		assert_ptr_not_equal(to, MAP_FAILED);
		if (i & 1) {
			uint64_t val = 1;

			assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
			assert_int_equal(val, 0);
			assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 3), 0);
			assert_int_equal(*(uint64_t *)(mem + PAGE), 3);
			*(uint64_t *)(mem + PAGE) = 0;
		}
		assert_true(is_zero(mem, BYTES));
		pattern_check(to, PAGES, 6);
		munmap(to, BYTES);
		wait_until(device_used(dev) == 0);
	}
	munmap(mem, BYTES);
}

static void move_onto_another_migrated_mapping(void **state)
{
	char *a = new_area(PAGES, 7), *b;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		b = new_area(PAGES, 8);
		migrate_all(dev, a, PAGES);
		migrate_all(dev, b, PAGES);
		assert_ptr_equal(mremap(a, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, b), b);
		if (i & 1)
			device_sees(b, PAGES, 7, 0);
		wait_until(device_used(dev) == PAGES);
		pattern_check(b, PAGES, 7);
		a = b;
	}
	munmap(a, BYTES);
}

/* realloc() of a large block is mremap. */
static void realloc_of_migrated_blocks(void **state)
{
	size_t pages = 300, i;
	char *block = malloc(pages * PAGE + 100);

	(void)state;
	BEGIN(10);
	for (i = 0; i < pages; i++)
		*(uint64_t *)(block + i * PAGE) = i;
	for (i = 0; i < 30; i++) {
		size_t j;

		assert_int_equal(dummy_migrate(dev, addr_of(block), addr_of(block) + pages * PAGE,
					       NULL), 0);
		block = realloc(block, (pages + 40 * (i & 3) + 40) * PAGE);
		assert_non_null(block);
		for (j = 0; j < pages; j++)
			assert_int_equal(*(uint64_t *)(block + j * PAGE), j);
	}
	free(block);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(move_takes_device_pages_along),
		T(move_to_another_offset_in_the_chunk),
		T(part_of_a_mapping_moves),
		T(grow_and_shrink),
		T(mapping_migrated_in_part_moves_whole),
		T(mirrored_in_part_moves_whole),
		T(dontunmap_leaves_zeros_and_takes_the_pages),
		T(move_onto_another_migrated_mapping),
		T(realloc_of_migrated_blocks),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
