/* SPDX-License-Identifier: MIT */
/*
 * Reading the CPU page table: PAGEMAP_SCAN and /proc/self/pagemap must agree with
 * each other and with what was done to the pages. G4 hangs on it: a page that is
 * taken for a hole becomes zeros.
 */
#include "faults/harness.h"

#include "mm/mm.h"

#define PAGES 2048

static struct mm mm;
static uint8_t by_scan[PAGES], by_read[PAGES], done[PAGES], all[PAGES];

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(20, "walking");
	mm = (struct mm){ .uffd = -1 };
	features_open(&mm, &f);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mm_forget(&mm);
	limit(0, "");
	return 0;
}

static void need_scan(void)
{
	if (mm.pagemap_scan)
		return;
	print_message("skipped: no PAGEMAP_SCAN on this kernel (Linux 6.7)\n");
	skip();
}

static unsigned char *plain(size_t pages)
{
	unsigned char *p = map_bytes(pages * hmm_page_size());

	madvise(p, pages * hmm_page_size(), MADV_NOHUGEPAGE);
	return p;
}

static int walk(bool scan, const void *p, size_t pages, uint8_t *flags)
{
	unsigned long start = (unsigned long)p;
	bool can = mm.pagemap_scan;
	int ret;

	memset(flags, 0xee, pages);
	mm.pagemap_scan = scan;
	ret = walk_pages(&mm, start, start + pages * hmm_page_size(), flags);
	mm.pagemap_scan = can;
	return ret;
}

static int empty(bool scan, const void *p, size_t pages)
{
	unsigned long start = (unsigned long)p;
	bool can = mm.pagemap_scan;
	int ret;

	mm.pagemap_scan = scan;
	ret = walk_empty(&mm, start, start + pages * hmm_page_size());
	mm.pagemap_scan = can;
	return ret;
}

/* Both ways agree, and a page is present where @done says so. */
static void agree(const void *p, size_t pages)
{
	const uint8_t both = WALK_PRESENT | WALK_SWAPPED;
	bool any = false;
	size_t i;

	assert_int_equal(walk(true, p, pages, by_scan), 0);
	assert_int_equal(walk(false, p, pages, by_read), 0);
	for (i = 0; i < pages; i++) {
		if ((by_scan[i] & both) != by_read[i] || !by_scan[i] != !done[i])
			fail_msg("page %zu: 0x%x by scan, 0x%x by read, done %d", i, by_scan[i],
				 by_read[i], done[i]);
		any |= done[i];
	}
	assert_int_equal(empty(true, p, pages), !any);
	assert_int_equal(empty(false, p, pages), !any);
}

static void more_regions_than_one_call_brings(void **state)
{
	size_t period, i;

	(void)state;
	need_scan();
	for (period = 2; period < 20; period += 3) {
		unsigned char *p = plain(PAGES);

		memset(done, 0, sizeof(done));
		for (i = 0; i < PAGES; i += period)
			p[i * hmm_page_size()] = done[i] = 1;
		agree(p, PAGES);
		munmap(p, PAGES * hmm_page_size());
	}
}

/* 63 to 66 regions, and a page at the very end. */
static void just_as_many_regions_as_one_call_brings(void **state)
{
	size_t regions, i;

	(void)state;
	need_scan();
	for (regions = 62; regions < 67; regions++) {
		unsigned char *p = plain(PAGES);

		memset(done, 0, sizeof(done));
		for (i = 0; i < regions; i++)
			p[i * 2 * hmm_page_size()] = done[i * 2] = 1;
		agree(p, regions * 2 - 1);
		agree(p, PAGES);
		munmap(p, PAGES * hmm_page_size());
	}
}

static void random_pages(void **state)
{
	unsigned int seed = (unsigned int)limit_now(), round;
	unsigned char *p = plain(PAGES);

	(void)state;
	need_scan();
	print_message("seed %u\n", seed);
	memset(done, 0, sizeof(done));
	for (round = 0; round < 100; round++) {
		size_t first = (size_t)rand_r(&seed) % PAGES;
		size_t n = 1 + (size_t)rand_r(&seed) % (PAGES - first) / 8, i;
		bool touch = rand_r(&seed) % 2;

		for (i = first; i < first + n; i++) {
			if (touch)
				p[i * hmm_page_size()] = 1;
			done[i] = touch;
		}
		if (!touch)
			madvise(p + first * hmm_page_size(), n * hmm_page_size(), MADV_DONTNEED);
		agree(p, PAGES);
		/* And a part of it, from the middle. */
		first = (size_t)rand_r(&seed) % PAGES;
		memcpy(all, done, PAGES);
		memmove(done, done + first, PAGES - first);
		agree(p + first * hmm_page_size(), PAGES - first);
		memcpy(done, all, PAGES);
	}
	munmap(p, PAGES * hmm_page_size());
}

static void zero_pages_are_told_from_pages(void **state)
{
	unsigned char *p = plain(8);
	volatile unsigned char sink;

	(void)state;
	need_scan();
	sink = p[0];
	sink = p[2 * hmm_page_size()];
	(void)sink;
	p[3 * hmm_page_size()] = 1;
	assert_int_equal(walk(true, p, 8, by_scan), 0);
	assert_int_equal(by_scan[0], WALK_PRESENT | WALK_ZERO);
	assert_int_equal(by_scan[1], 0);
	assert_int_equal(by_scan[2], WALK_PRESENT | WALK_ZERO);
	assert_int_equal(by_scan[3], WALK_PRESENT);
	munmap(p, 8 * hmm_page_size());
}

static void holes_between_mappings_are_empty(void **state)
{
	unsigned char *p = plain(64);
	size_t i;

	(void)state;
	need_scan();
	memset(p, 1, 64 * hmm_page_size());
	memset(done, 1, 64);
	for (i = 1; i < 64; i += 9) {
		munmap(p + i * hmm_page_size(), hmm_page_size());
		done[i] = 0;
	}
	agree(p, 64);
	munmap(p, 64 * hmm_page_size());
	memset(done, 0, 64);
	agree(p, 64);
}

static void huge_pages_and_files(void **state)
{
	unsigned char *p = map_chunks(1);
	int fd = memfd_create("walk", 0);
	unsigned char *q;

	(void)state;
	need_scan();
	madvise(p, CHUNK, MADV_HUGEPAGE);
	p[0] = 1;
	assert_int_equal(walk(true, p, 512, by_scan), 0);
	if (by_scan[0] & WALK_HUGE) {
		memset(done, 1, 512);
		agree(p, 512);
	}
	munmap(p, CHUNK);
	assert_int_equal(ftruncate(fd, 16 * 4096), 0);
	q = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(q != MAP_FAILED);
	memset(done, 0, 16);
	q[3 * 4096] = done[3] = 1;
	assert_int_equal(walk(true, q, 16, by_scan), 0);
	assert_int_equal(by_scan[3], WALK_PRESENT);
	agree(q, 16);
	munmap(q, 16 * 4096);
	close(fd);
}

#define WALK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WALK_TEST(more_regions_than_one_call_brings),
		WALK_TEST(just_as_many_regions_as_one_call_brings),
		WALK_TEST(random_pages),
		WALK_TEST(zero_pages_are_told_from_pages),
		WALK_TEST(holes_between_mappings_are_empty),
		WALK_TEST(huge_pages_and_files),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
