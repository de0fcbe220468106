/* SPDX-License-Identifier: MIT */
/*
 * walk_regions(), the look at the CPU page table that snapshots are made of, in each of
 * its ways (PAGEMAP_SCAN, with /proc/self/pagemap beside it, and that alone) against
 * walk_pages(), and against what was done to the pages.
 *
 * G2 and G4 hang on it: a region too many is a translation that is none, and a page
 * that counts as exclusive is written in place.
 */
#include "faults/harness.h"

#include "mm/mm.h"

#define PAGES 2048

static struct mm mm;
static uint8_t by_page[PAGES], all[PAGES];

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(20, "walking regions");
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

static unsigned char *plain(size_t pages)
{
	unsigned char *p = map_bytes(pages * hmm_page_size());

	madvise(p, pages * hmm_page_size(), MADV_NOHUGEPAGE);
	return p;
}

/*
 * All of the range by as many calls as it takes, one byte a page: @calls of them. Each
 * answer is in order and within what the call says it has looked at.
 */
static void regions(bool scan, bool exclusive, const void *p, size_t pages, uint8_t *flags,
		    size_t *calls)
{
	unsigned long start = (unsigned long)p, end = start + pages * hmm_page_size(), pos, stop;
	struct walk_region r[WALK_REGIONS_MAX + 1];
	bool can = mm.pagemap_scan;

	memset(flags, 0, pages);
	*calls = 0;
	mm.pagemap_scan = scan;
	for (pos = start; pos < end; pos = stop) {
		unsigned long at = pos;
		int i, n;

		stop = end;
		memset(r, 0xee, sizeof(r));
		n = walk_regions(&mm, pos, &stop, r, exclusive);
		assert_in_range(n, 0, WALK_REGIONS_MAX);
		assert_int_equal(r[WALK_REGIONS_MAX].start, 0xeeeeeeeeeeeeeeee);
		assert_true(stop > pos && stop <= end && !(stop & (hmm_page_size() - 1)));
		for (i = 0; i < n; at = r[i++].end) {
			assert_true(r[i].start >= at && r[i].start < r[i].end && r[i].end <= stop);
			assert_true(r[i].flags & (WALK_PRESENT | WALK_SWAPPED));
			memset(flags + ((r[i].start - start) >> hmm_page_shift()), r[i].flags,
			       (r[i].end - r[i].start) >> hmm_page_shift());
		}
		++*calls;
	}
	mm.pagemap_scan = can;
}

static void same_as_pages(bool scan, bool exclusive, const void *p, size_t pages)
{
	unsigned long start = (unsigned long)p;
	bool can = mm.pagemap_scan;
	size_t i, calls;

	regions(scan, exclusive, p, pages, all, &calls);
	mm.pagemap_scan = scan;
	assert_int_equal(walk_pages(&mm, start, start + pages * hmm_page_size(), by_page), 0);
	mm.pagemap_scan = can;
	for (i = 0; i < pages; i++)
		if ((all[i] & ~WALK_EXCLUSIVE) != by_page[i] ||
		    (scan && !exclusive && all[i] & WALK_EXCLUSIVE))
			fail_msg("page %zu, scan %d, exclusive %d: 0x%x, by page 0x%x", i, scan,
				 exclusive, all[i], by_page[i]);
}

/* Each way to look, with and without PAGEMAP_SCAN. */
static void each_way(const void *p, size_t pages)
{
	int way;

	for (way = 0; way < 4; way++)
		if (mm.pagemap_scan || !(way & 1))
			same_as_pages(way & 1, way & 2, p, pages);
}

static void regions_are_the_pages(void **state)
{
	unsigned int seed = (unsigned int)limit_now(), round;
	unsigned char *p = plain(PAGES);
	volatile unsigned char sink;

	(void)state;
	print_message("seed %u\n", seed);
	for (round = 0; round < 60; round++) {
		size_t first = (size_t)rand_r(&seed) % PAGES, i;
		size_t n = 1 + (size_t)rand_r(&seed) % (PAGES - first) / 8;
		int what = rand_r(&seed) % 4;

		for (i = first; i < first + n; i += what == 3 ? 2 : 1)
			if (what == 1)
				sink = p[i * hmm_page_size()];
			else if (what)
				p[i * hmm_page_size()] = 1;
		if (!what)
			madvise(p + first * hmm_page_size(), n * hmm_page_size(), MADV_DONTNEED);
		each_way(p, PAGES);
		each_way(p + first * hmm_page_size(), PAGES - first);
	}
	(void)sink;
	each_way(p + 7 * hmm_page_size(), 1);
	munmap(p, PAGES * hmm_page_size());
	each_way(p, PAGES);
}

/* As many regions as one call brings, fewer, more; the last page is one of them or not. */
static void clipped_where_the_regions_end(void **state)
{
	static const size_t counts[] = { WALK_REGIONS_MAX - 1, WALK_REGIONS_MAX,
					 WALK_REGIONS_MAX + 1, 2 * WALK_REGIONS_MAX, PAGES / 2 };
	size_t c, calls, pages, i;
	int way;

	(void)state;
	for (c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
		unsigned char *p = plain(PAGES);

		for (i = 0; i < counts[c]; i++)
			p[i * 2 * hmm_page_size()] = 1;
		each_way(p, PAGES);
		each_way(p, counts[c] * 2 - 1);
		for (way = 0; way < 4; way++) {
			if (!mm.pagemap_scan && way & 1)
				continue;
			pages = counts[c] * 2 - 1;
			regions(way & 1, way & 2, p, pages, all, &calls);
			for (i = 0; i < pages; i++)
				assert_int_equal(all[i] != 0, i % 2 == 0);
			assert_true(calls >= counts[c] / WALK_REGIONS_MAX);
			if (way == 1) /* by scan alone: the fewest there can be */
				assert_true(calls <= counts[c] / WALK_REGIONS_MAX + 1);
		}
		munmap(p, PAGES * hmm_page_size());
	}
}

/* Pages and zero pages in turn, no hole between: with WALK_EXCLUSIVE the most there are. */
static void clipped_where_no_hole_is(void **state)
{
	unsigned char *p = plain(PAGES);
	volatile unsigned char sink;
	size_t i, calls;
	int scan;

	(void)state;
	for (i = 0; i < PAGES; i++)
		if (i % 2)
			sink = p[i * hmm_page_size()];
		else
			p[i * hmm_page_size()] = 1;
	(void)sink;
	each_way(p, PAGES);
	for (scan = 0; scan <= (mm.pagemap_scan ? 1 : 0); scan++) {
		regions(scan, true, p, PAGES, all, &calls);
		assert_true(calls >= PAGES / WALK_REGIONS_MAX);
		for (i = 0; i < PAGES; i++)
			assert_int_equal(!(all[i] & WALK_EXCLUSIVE), i % 2);
	}
	munmap(p, PAGES * hmm_page_size());
}

/* Both ways: which of the pages are exclusive. */
static void expect_exclusive(const void *p, size_t pages, const char *want)
{
	size_t i, calls;
	int scan;

	for (scan = 0; scan <= (mm.pagemap_scan ? 1 : 0); scan++) {
		regions(scan, true, p, pages, all, &calls);
		for (i = 0; i < pages; i++)
			if (!(all[i] & WALK_EXCLUSIVE) != (want[i] != 'x'))
				fail_msg("page %zu, scan %d: 0x%x, should be %c", i, scan, all[i],
					 want[i]);
	}
}

/* A page shared with a child, zero pages, pages of files: not to be written in place. */
static void exclusive_is_what_nobody_else_maps(void **state)
{
	unsigned char *p = plain(6);
	int fds[2], fd = memfd_create("walk", 0);
	volatile unsigned char sink;
	unsigned char *q;
	char c = 0;
	pid_t pid;

	(void)state;
	memset(p, 1, 3 * hmm_page_size());
	sink = p[3 * hmm_page_size()];
	(void)sink;
	expect_exclusive(p, 6, "xxx---");
	assert_int_equal(pipe(fds), 0);
	flush();
	pid = fork();
	if (!pid) {
		close(fds[1]);
		_exit(read(fds[0], &c, 1) != 0);
	}
	expect_exclusive(p, 6, "------");
	p[hmm_page_size()] = 2;
	p[4 * hmm_page_size()] = 2;
	expect_exclusive(p, 6, "-x--x-");
	close(fds[1]);
	assert_int_equal(child_wait(pid), 0);
	expect_exclusive(p, 6, "xxx-x-");
	munmap(p, 6 * hmm_page_size());
	close(fds[0]);

	assert_int_equal(ftruncate(fd, 3 * 4096), 0);
	q = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(q != MAP_FAILED);
	memset(q, 1, 3 * 4096);
	expect_exclusive(q, 3, "---");
	munmap(q, 3 * 4096);
	q = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(q != MAP_FAILED);
	sink = q[0];
	q[4096] = 1; /* its own copy */
	expect_exclusive(q, 3, "-x-");
	each_way(q, 3);
	munmap(q, 3 * 4096);
	close(fd);
}

static void huge_regions(void **state)
{
	unsigned char *p = map_chunks(2);
	size_t i, calls;

	(void)state;
	if (!mm.pagemap_scan) {
		print_message("skipped: no PAGEMAP_SCAN on this kernel (Linux 6.7)\n");
		skip();
	}
	madvise(p, 2 * CHUNK, MADV_HUGEPAGE);
	p[0] = p[CHUNK] = 1;
	regions(true, false, p, 1024, all, &calls);
	if (!(all[0] & all[512] & WALK_HUGE)) {
		munmap(p, 2 * CHUNK);
		print_message("skipped: no huge pages to be had\n");
		skip();
	}
	for (i = 0; i < 1024; i++)
		assert_int_equal(all[i], WALK_PRESENT | WALK_HUGE);
	regions(true, true, p, 1024, all, &calls);
	for (i = 0; i < 1024; i++)
		assert_int_equal(all[i], WALK_PRESENT | WALK_HUGE | WALK_EXCLUSIVE);
	each_way(p, 1024);
	each_way(p + 100 * 4096, 700);
	munmap(p, 2 * CHUNK);
}

#define WALK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WALK_TEST(regions_are_the_pages),
		WALK_TEST(clipped_where_the_regions_end),
		WALK_TEST(clipped_where_no_hole_is),
		WALK_TEST(exclusive_is_what_nobody_else_maps),
		WALK_TEST(huge_regions),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
