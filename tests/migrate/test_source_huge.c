/* SPDX-License-Identifier: MIT */
/*
 * Huge pages as sources: the huge zero page, transparent huge pages whole, in part, two
 * at a time, at an address that does not fit, shared, with holes; smaller large folios;
 * hugetlbfs, which stays.
 *
 * Tries to break: G1, G4 (which page of a huge one goes where), G7 (the count, and what
 * was not asked for is at its place), and that device memory is free again afterwards.
 */
#include "migrate/source.h"

#define IN_HUGE (THP / PAGE)
#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static size_t huge_kilobytes(const char *mem, size_t len)
{
	char value[64];
	size_t i, sum = 0;

	for (i = 0; i < len; i += THP)
		if (smaps_value(mem + i, "AnonHugePages", value, sizeof(value)))
			sum = (size_t)atoi(value); /* of the mapping: all of it */
	return sum;
}

/* @n huge pages side by side, with content. */
static char *huge_new(size_t n, uint64_t seed)
{
	char *mem = map_aligned(n * THP);
	size_t i;

	if (madvise(mem, n * THP, MADV_HUGEPAGE))
		skip_because("no transparent huge pages on this kernel");
	for (i = 0; i < n; i++)
		mem[i * THP] = 1;
	if (huge_kilobytes(mem, n * THP) != n * THP / 1024) {
		munmap(mem, n * THP);
		skip_because("no transparent huge pages to be had");
	}
	pattern_fill(mem, n * IN_HUGE, seed);
	return mem;
}

static void huge_zero_page(void **state)
{
	char *mem = map_aligned(2 * THP);

	(void)state;
	BEGIN(30);
	if (madvise(mem, 2 * THP, MADV_HUGEPAGE))
		skip_because("no transparent huge pages on this kernel");
	dirty_device();
	touch_read(mem, 1);
	touch_read(mem + THP, 1);
	if (count_where(mem, 2 * IN_HUGE, HMM_WHERE_ZERO) != 2 * IN_HUGE)
		skip_because("no huge zero page here");
	all_go(mem, IN_HUGE, 0);
	device_has_zeros(mem, IN_HUGE);
	assert_int_equal(count_where(mem + THP, IN_HUGE, HMM_WHERE_ZERO), IN_HUGE);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 77 * PAGE, 7), 0);
	assert_int_equal(*(uint64_t *)(mem + 77 * PAGE), 7);
	*(uint64_t *)(mem + 77 * PAGE) = 0;
	assert_true(is_zero(mem, 2 * THP));
	/* And in part: the rest reads zeros as before. */
	wait_until(device_used(dev) == 0);
	all_go(mem + THP + 50 * PAGE, 60, 0);
	device_has_zeros(mem + THP, IN_HUGE);
	mem[THP] = 1;
	mem[THP + 60 * PAGE] = 2;
	assert_true(is_zero(mem + THP + 1, 60 * PAGE - 1));
	assert_true(is_zero(mem + THP + 60 * PAGE + 1, THP - 60 * PAGE - 1));
	munmap(mem, 2 * THP);
}

static void huge_pages_whole(void **state)
{
	char *mem;
	int i;

	(void)state;
	BEGIN(30);
	mem = huge_new(2, 1);
	for (i = 0; i < 3; i++) {
		all_go(mem, 2 * IN_HUGE, 2 * IN_HUGE);
		device_has(mem, 2 * IN_HUGE, 1, 0);
		if (i == 1)
			comes_home(mem, 2 * IN_HUGE);
		pattern_check(mem, 2 * IN_HUGE, 1);
	}
	all_go(mem, 2 * IN_HUGE, 2 * IN_HUGE);
	munmap(mem, 2 * THP);
}

/* Pages [first, first + n) of three huge ones: the others are where they were. */
static void check_part(size_t first, size_t n)
{
	char *mem = huge_new(3, first + 1);
	uint64_t *places = malloc(3 * IN_HUGE * sizeof(*places));
	size_t i;

	for (i = 0; i < 3 * IN_HUGE; i++)
		places[i] = place_of(mem + i * PAGE);
	all_go(mem + first * PAGE, n, n);
	for (i = 0; i < 3 * IN_HUGE; i++) {
		if (i >= first && i < first + n)
			continue;
		assert_int_equal(place_of(mem + i * PAGE), places[i]);
	}
	device_has(mem, 3 * IN_HUGE, first + 1, 0);
	pattern_check(mem, 3 * IN_HUGE, first + 1);
	wait_until(device_used(dev) == 0);
	all_go(mem, 3 * IN_HUGE, 3 * IN_HUGE);
	pattern_check(mem, 3 * IN_HUGE, first + 1);
	munmap(mem, 3 * THP);
	free(places);
}

static void huge_page_in_part(void **state)
{
	(void)state;
	BEGIN(30);
	check_part(0, 1);
	check_part(IN_HUGE - 1, 1);
	check_part(100, 37);
	check_part(1, IN_HUGE - 1);
}

static void range_across_huge_pages(void **state)
{
	(void)state;
	BEGIN(30);
	check_part(IN_HUGE - 1, 2);
	check_part(300, IN_HUGE);
	check_part(IN_HUGE / 2, 2 * IN_HUGE);
	check_part(IN_HUGE, IN_HUGE);
}

/* mremap to an address at which it cannot be mapped as one. */
static void huge_page_at_a_misaligned_address(void **state)
{
	size_t offset[] = { 1, 17, IN_HUGE - 1 }, i;
	char *mem, *area, *to;

	(void)state;
	BEGIN(30);
	for (i = 0; i < sizeof(offset) / sizeof(offset[0]); i++) {
		mem = huge_new(1, 3);
		area = map_aligned(3 * THP);
		to = area + offset[i] * PAGE;
		assert_ptr_equal(mremap(mem, THP, THP, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
		all_go(to + 5 * PAGE, 100, 100);
		device_has(to, IN_HUGE, 3, 0);
		pattern_check(to, IN_HUGE, 3);
		all_go(to, IN_HUGE, IN_HUGE);
		device_has(to, IN_HUGE, 3, 0);
		pattern_check(to, IN_HUGE, 3);
		munmap(area, 3 * THP);
	}
}

/* Away, and only then to such an address; and back to a good one. */
static void huge_page_moved_while_it_is_away(void **state)
{
	char *mem, *area, *to;

	(void)state;
	BEGIN(30);
	mem = huge_new(1, 4);
	area = map_aligned(4 * THP);
	to = area + 9 * PAGE;
	all_go(mem, IN_HUGE, IN_HUGE);
	assert_ptr_equal(mremap(mem, THP, THP, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	wait_until(count_where(to, IN_HUGE, HMM_WHERE_DEVICE) == IN_HUGE);
	device_has(to, IN_HUGE, 4, 0);
	pattern_check(to, IN_HUGE / 2, 4);
	assert_ptr_equal(mremap(to, THP, THP, MREMAP_MAYMOVE | MREMAP_FIXED, area + 2 * THP),
			 area + 2 * THP);
	pattern_check(area + 2 * THP, IN_HUGE, 4);
	all_go(area + 2 * THP, IN_HUGE, IN_HUGE);
	pattern_check(area + 2 * THP, IN_HUGE, 4);
	munmap(area, 4 * THP);
}

static void huge_page_shared_with_a_child(void **state)
{
	int go[2];
	char *mem, c;
	pid_t pid;

	(void)state;
	BEGIN(30);
	mem = huge_new(2, 5);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		alarm(60);
		close(go[1]);
		CHECK(read(go[0], &c, 1) == 1);
		CHECK(has_pattern(mem, 2 * IN_HUGE, 5));
		_exit(0);
	}
	all_go(mem + 7 * PAGE, 2 * IN_HUGE - 14, 2 * IN_HUGE - 14);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + THP, 1), 0);
	device_has(mem + 7 * PAGE, 9, 5, 7);
	assert_int_equal(write(go[1], "", 1), 1);
	child_ends_well(pid);
	assert_int_equal(*(uint64_t *)(mem + THP), 1);
	*(uint64_t *)(mem + THP) = pattern_word(5, IN_HUGE, 0);
	pattern_check(mem, 2 * IN_HUGE, 5);
	munmap(mem, 2 * THP);
	close(go[0]);
	close(go[1]);
}

static void huge_page_with_holes(void **state)
{
	size_t i, holes = 0;
	char *mem;

	(void)state;
	BEGIN(30);
	dirty_device();
	mem = huge_new(1, 6);
	for (i = 3; i < IN_HUGE; i += 7, holes++)
		assert_int_equal(madvise(mem + i * PAGE, PAGE, MADV_DONTNEED), 0);
	all_go(mem, IN_HUGE, IN_HUGE - holes);
	for (i = 0; i < IN_HUGE; i++) {
		if (i % 7 == 3)
			device_has_zeros(mem + i * PAGE, 1);
		else
			device_has(mem + i * PAGE, 1, 6, i);
	}
	for (i = 0; i < IN_HUGE; i++) {
		if (i % 7 == 3)
			assert_true(is_zero(mem + i * PAGE, PAGE));
		else
			pattern_check_from(mem + i * PAGE, 1, 6, i);
	}
	munmap(mem, THP);
}

/* ---- large folios of less than that ---- */

#define MTHP "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"

static char mthp_was[64];

static void mthp_undo(void)
{
	char *word = strchr(mthp_was, '['), *end = strchr(mthp_was, ']');

	if (!word || !end)
		return;
	*end = 0;
	file_write(MTHP, word + 1);
}

static void folios_of_64_kilobytes(void **state)
{
	int lock = lock_file(MTHP);
	char *mem = map_aligned(THP);
	struct undo undo;

	(void)state;
	BEGIN(30);
	if (lock < 0 || geteuid() || !file_read(MTHP, mthp_was, sizeof(mthp_was)))
		skip_because("the kernel has no such folios, or they cannot be asked for");
	assert_true(undo_at_end(&undo, mthp_undo));
	file_write(MTHP, "always");
	/* Not a huge one: the mapping has no room for that. */
	munmap(mem + THP - 64 * PAGE, 64 * PAGE);
	madvise(mem, THP - 64 * PAGE, MADV_HUGEPAGE);
	pattern_fill(mem, IN_HUGE - 64, 7);
	undo_now(&undo);
	assert_int_equal(place_of(mem) + 15, place_of(mem + 15 * PAGE)); /* one folio */
	all_go(mem + 5 * PAGE, 30, 30);
	device_has(mem, IN_HUGE - 64, 7, 0);
	pattern_check(mem, IN_HUGE - 64, 7);
	all_go(mem, IN_HUGE - 64, IN_HUGE - 64);
	device_has(mem, IN_HUGE - 64, 7, 0);
	pattern_check(mem, IN_HUGE - 64, 7);
	munmap(mem, THP - 64 * PAGE);
	close(lock);
}

/* ---- hugetlbfs ---- */

static long pool_change(long by)
{
	char buf[32] = "";
	long was;

	if (!file_read(POOL, buf, sizeof(buf)))
		return 0;
	was = atol(buf);
	snprintf(buf, sizeof(buf), "%ld\n", was + by);
	file_write(POOL, buf);
	return file_read(POOL, buf, sizeof(buf)) ? atol(buf) - was : 0;
}

static void pool_undo(void)
{
	pool_change(-2);
}

static void check_hugetlb(int flags)
{
	char *mem = mmap(NULL, 2 * THP, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_HUGETLB,
			 -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_fill(mem, IN_HUGE, 8);
	all_stay(mem, 2 * IN_HUGE);
	all_stay(mem + 5 * PAGE, 3);
	device_has(mem, IN_HUGE, 8, 0);
	pattern_check(mem, IN_HUGE, 8);
	munmap(mem, 2 * THP);
}

static void hugetlbfs_stays(void **state)
{
	int lock = lock_file(POOL);
	struct undo undo;
	long added;

	(void)state;
	BEGIN(30);
	added = lock < 0 ? 0 : pool_change(2);
	if (added < 2) {
		pool_change(-added);
		close(lock);
		skip_because("no two huge pages to set aside");
	}
	assert_true(undo_at_end(&undo, pool_undo));
	check_hugetlb(MAP_PRIVATE);
	check_hugetlb(MAP_SHARED);
	undo_now(&undo);
	close(lock);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(huge_zero_page),
		T(huge_pages_whole),
		T(huge_page_in_part),
		T(range_across_huge_pages),
		T(huge_page_at_a_misaligned_address),
		T(huge_page_moved_while_it_is_away),
		T(huge_page_shared_with_a_child),
		T(huge_page_with_holes),
		T(folios_of_64_kilobytes),
		T(hugetlbfs_stays),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
