/* SPDX-License-Identifier: MIT */
/*
 * hugetlbfs mappings are as the program made them, although a device uses a part.
 *
 * Tries to break: the promise that mremap works as without a mirror, that nothing is left
 * behind when the mirror is gone, and that any memory the kernel can watch is mirrored.
 * The kernel never joins two hugetlbfs mappings: what was cut stays cut.
 */
#include "hugepages.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#define MAP_HUGE_1G (30 << MAP_HUGE_SHIFT)

static void mremap_moves_huge_pages(void **state)
{
	char *mem = huge_new(2, MAP_PRIVATE), *to = huge_new(2, MAP_PRIVATE);

	(void)state;
	BEGIN(60);
	pattern_fill(mem, 2 * HUGE_PAGES, 1);
	mirror(mem, 2 * HUGE);
	mirror(to, 2 * HUGE);
	if (mremap(mem, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
		if (errno == EINVAL)
			skip_because("no mremap of huge pages (Linux 5.16)");
		fail_msg("mremap: %s", strerror(errno));
	}
	assert_int_equal(translations(to, 2 * HUGE), 0);
	assert_int_equal(translations(mem, 2 * HUGE), 0);
	assert_int_equal(load(to + HUGE + 8), pattern_word(1, HUGE_PAGES, 1));
	store(to + HUGE, 4);
	load_is_efault(dev, mem);
	munmap(to, 2 * HUGE);
}

/* One mapping before, one while a device uses all of it, and one afterwards. */
static void mapping_stays_in_one_piece(void **state)
{
	char *mem = huge_new(16, MAP_PRIVATE), size[64], now[64];

	(void)state;
	BEGIN(60);
	assert_true(smaps_value(mem, "Size", size, sizeof(size)));
	mirror(mem, 16 * HUGE);
	assert_int_equal(teardown(state), 0);
	assert_true(smaps_value(mem, "Size", now, sizeof(now)));
	assert_int_equal(setup(state), 0);
	assert_string_equal(now, size);
	munmap(mem, 16 * HUGE);
}

static void gigantic_page(void **state)
{
	size_t len = (size_t)1 << 30;
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_1G, -1, 0);

	(void)state;
	BEGIN(60);
	if (mem == MAP_FAILED)
		skip_because("no huge page of 1 GiB to be had");
	*(uint64_t *)(mem + 3 * HUGE) = 5;
	assert_int_equal(load(mem + 3 * HUGE), 5);
	store(mem + 300 * HUGE + 17 * PAGE, 6);
	assert_int_equal(munmap(mem, len), 0);
	load_is_efault(dev, mem + 3 * HUGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(mremap_moves_huge_pages),
		T(mapping_stays_in_one_piece),
		T(gigantic_page),
	};

	return huge_main(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
