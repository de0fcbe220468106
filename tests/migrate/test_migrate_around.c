/* SPDX-License-Identifier: MIT */
/*
 * How many pages a CPU fault brings: one, but for who reads on.
 *
 * Tries to break: G4 (neighbours that come along have their content), G9 (a fault
 * on a hole beside pages that are away is answered), and the promise that random
 * access brings nothing but what it touches. And who reads on gets no
 * more in vain than he has read, and no wrong data, whatever happens to the range meanwhile.
 */
#include "test_util.h"

#define PAGES 2048
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

static void touch(size_t i)
{
	pattern_check_from(mem + i * PAGE, 1, 6, i);
}

/* Who leaves out the same few pages each time; a page in eight is the widest. */
static void who_strides_faults_seldom(void **state)
{
	static const size_t strides[] = { 2, 3, 5, 8 };
	struct hmm_stats before;
	size_t s, i;

	(void)state;
	BEGIN(20);
	for (s = 0; s < sizeof(strides) / sizeof(*strides); s++) {
		pattern_fill(mem, PAGES, 6);
		migrate_all(dev, mem, PAGES);
		before = stats_now();
		for (i = 0; i < PAGES; i += strides[s])
			touch(i);
		test_sleep_us(1000);
		assert_true(stats_now().cpu_faults - before.cpu_faults < PAGES / strides[s] / 3);
		pattern_check(mem, PAGES, 6);
	}
}

static void who_jumps_far_gets_one_page_each(void **state)
{
	struct hmm_stats before;
	size_t i;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	before = stats_now();
	for (i = 0; i < PAGES; i += 16)
		touch(i);
	stats_after(&before, PAGES / 16);
}

/*
 * So many jumps elsewhere that nobody else who once read is remembered: he may have stopped just
 * where this test begins.
 */
static void forget_readers(void)
{
	const size_t pages = 1024;
	char *other = map_aligned(pages * PAGE);
	size_t i, used = device_used(dev);

	pattern_fill(other, pages, 7);
	migrate_all(dev, other, pages);
	for (i = 0; i < pages; i += 32)
		pattern_check_from(other + i * PAGE, 1, 7, i);
	munmap(other, pages * PAGE);
	wait_until(device_used(dev) == used);
}

/* What a fault has brought is free a little later: so many pages at least, and no more. */
static void came_in_all(size_t at_least, size_t at_most)
{
	wait_until(PAGES - device_used(dev) >= at_least);
	test_sleep_us(20000);
	assert_in_range(PAGES - device_used(dev), at_least, at_most);
}

/*
 * In the middle of the range, and of its chunk: who has read so many pages on has got no more
 * than twice as many, whenever he stops.
 */
static void who_stops_has_little_in_vain(void **state)
{
	static const size_t asked[] = { 1, 2, 3, 4, 5, 8, 9, 22, 33, 65, 86, 129, PAGES / 8 + 5 };
	size_t a, i, n, first = PAGES / 4 + 100;

	(void)state;
	BEGIN(60);
	pattern_fill(mem, PAGES, 6);
	for (a = 0; a < sizeof(asked) / sizeof(*asked); a++) {
		n = asked[a];
		migrate_all(dev, mem, PAGES);
		forget_readers();
		for (i = 0; i < n; i++)
			touch(first + i);
		came_in_all(n, 2 * n - 1);
		pattern_check(mem, PAGES, 6);
		wait_until(device_used(dev) == 0);
	}
}

/* A span ends with its chunk: of the next one nothing comes before it is read. */
static void who_reads_on_gets_no_more_than_the_chunk(void **state)
{
	size_t chunk = THP / PAGE, i;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	forget_readers();
	for (i = chunk - 212; i < chunk; i++) /* 1, 2, 4 … pages, and 128 do not fit */
		touch(i);
	came_in_all(212, 212);
	pattern_check(mem, PAGES, 6);
}

/* A page or two that are left out make no difference, in whatever order. */
static void who_leaves_out_a_few_faults_seldom(void **state)
{
	static const size_t steps[] = { 1, 3, 2, 2, 1, 2, 3, 3, 1, 1, 2, 1, 3 };
	struct hmm_stats before;
	size_t i, n = 0;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	before = stats_now();
	for (i = 0; i < PAGES; i += steps[n++ % (sizeof(steps) / sizeof(*steps))])
		touch(i);
	test_sleep_us(1000);
	assert_true(stats_now().cpu_faults - before.cpu_faults < PAGES / 16);
	pattern_check(mem, PAGES, 6);
}

/* But who goes on by ever other steps of more than that does not read on. */
static void who_leaves_out_many_gets_one_page_each(void **state)
{
	static const size_t steps[] = { 5, 7, 5, 8, 6, 7, 4, 6, 8, 7 };
	struct hmm_stats before;
	size_t i, n = 0;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	forget_readers();
	before = stats_now();
	for (i = 0; i < PAGES; i += steps[n++ % (sizeof(steps) / sizeof(*steps))])
		touch(i);
	stats_after(&before, n);
}

/* He has read on, and goes on elsewhere: from one page again. */
static void who_leaves_begins_anew(void **state)
{
	size_t i;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	forget_readers();
	for (i = 0; i < 63; i++)
		touch(i);
	came_in_all(63, 63);
	touch(63 + 5); /* the last answer ended with 62 */
	came_in_all(64, 64);
	pattern_check(mem, PAGES, 6);
}

/* As many as a merge has inputs, each in its turn. */
static void several_readers_fault_seldom(void **state)
{
	const size_t readers = 16, each = PAGES / readers;
	struct hmm_stats before;
	size_t i, r;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	before = stats_now();
	for (i = 0; i < each; i++)
		for (r = 0; r < readers; r++)
			touch(r * each + i);
	stats_after(&before, PAGES);
	assert_true(stats_now().cpu_faults - before.cpu_faults < PAGES / 8);
}

/* For so long that what doubles with each answer would fit no number. */
static void who_reads_on_for_long_faults_seldom(void **state)
{
	const size_t pages = 48 * (THP / PAGE);
	struct dummy_device *big = device_new(pages);
	char *at = map_aligned(pages * PAGE);
	struct hmm_stats before;
	size_t i;

	(void)state;
	BEGIN(60);
	for (i = 0; i < pages; i++)
		*(uint64_t *)(at + i * PAGE) = i + 1;
	migrate_all(big, at, pages);
	before = stats_now();
	for (i = 0; i < pages; i++)
		if (*(volatile uint64_t *)(at + i * PAGE) != i + 1)
			fail_msg("page %zu has wrong content", i);
	stats_after(&before, pages);
	assert_true(stats_now().cpu_faults - before.cpu_faults < 2 * 48 + 64);
	munmap(at, pages * PAGE);
	assert_int_equal(dummy_destroy(big), 0);
}

/* ---- where there is little room: who makes some is asked, and holes fill in the same way ---- */

static unsigned long most_asked; /* atomic */

static unsigned long admit(void *cookie, unsigned long pages, uint32_t tid, uint64_t waited_ns)
{
	(void)cookie;
	(void)tid;
	(void)waited_ns;
	if (pages > __atomic_load_n(&most_asked, __ATOMIC_RELAXED))
		__atomic_store_n(&most_asked, pages, __ATOMIC_RELAXED);
	return pages;
}

/* Holes of up to 40 pages, and as many pages with content behind each. */
static bool is_hole(size_t i)
{
	return i / 40 % 2 || i % 7 == 3;
}

static void what_is_away_is_no_hole_where_there_is_a_gate(void **state)
{
	struct hmm_gate gate = { .size = sizeof(gate), .admit = admit };
	size_t i;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 5);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < PAGES; i++)
		if (is_hole(i))
			assert_int_equal(madvise(mem + i * PAGE, PAGE, MADV_DONTNEED), 0);
	__atomic_store_n(&most_asked, 0, __ATOMIC_RELAXED);
	assert_int_equal(hmm_gate_set(&gate), 0);
	for (i = 0; i < PAGES; i++) {
		if (!is_hole(i))
			pattern_check_from(mem + i * PAGE, 1, 5, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	}
	pattern_fill(mem, PAGES, 5);
	wait_until(device_used(dev) == 0);
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 5);
	assert_int_equal(hmm_gate_set(NULL), 0);
	assert_int_equal(__atomic_load_n(&most_asked, __ATOMIC_RELAXED), 64);
}

static struct {
	bool stop; /* atomic */
} changer;

/* Takes pieces of the range away, and lets the device have what is left. */
static void *changer_main(void *arg)
{
	size_t n = 0;

	(void)arg;
	while (!__atomic_load_n(&changer.stop, __ATOMIC_ACQUIRE)) {
		unsigned long pages;

		n = n * 1103515245 + 12345;
		madvise(mem + (n / 7 % PAGES) * PAGE, PAGE, MADV_DONTNEED);
		dummy_migrate(dev, (uintptr_t)mem, (uintptr_t)mem + BYTES, &pages);
	}
	return NULL;
}

/* The page's content, or zeros where it was taken away. */
static bool page_is_right(size_t i)
{
	const uint64_t *word = (const uint64_t *)(mem + i * PAGE);

	return __atomic_load_n(word, __ATOMIC_RELAXED) == 0 ||
	       __atomic_load_n(word, __ATOMIC_RELAXED) == i + 1;
}

static void who_reads_while_it_changes_sees_the_truth(void **state)
{
	pthread_t thread;
	size_t round, i;

	(void)state;
	BEGIN(120);
	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(mem + i * PAGE) = i + 1;
	changer.stop = false;
	assert_int_equal(pthread_create(&thread, NULL, changer_main, NULL), 0);
	for (round = 0; round < 30; round++)
		for (i = 0; i < PAGES; i++)
			if (!page_is_right(i))
				fail_msg("page %zu has wrong content", i);
	__atomic_store_n(&changer.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(who_reads_on_faults_seldom),
		T(who_jumps_gets_one_page_each),
		T(holes_between_are_zeros),
		T(who_strides_faults_seldom),
		T(who_jumps_far_gets_one_page_each),
		T(who_stops_has_little_in_vain),
		T(who_reads_on_gets_no_more_than_the_chunk),
		T(who_leaves_out_a_few_faults_seldom),
		T(who_leaves_out_many_gets_one_page_each),
		T(who_leaves_begins_anew),
		T(several_readers_fault_seldom),
		T(who_reads_on_for_long_faults_seldom),
		T(what_is_away_is_no_hole_where_there_is_a_gate),
		T(who_reads_while_it_changes_sees_the_truth),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
