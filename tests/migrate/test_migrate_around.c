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

/* In the middle of the range: what comes that he did not ask for is bounded. */
static void who_stops_has_little_in_vain(void **state)
{
	size_t asked = PAGES / 8 + 5, i;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 6);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < asked; i++)
		touch(i);
	test_sleep_us(50000);
	assert_in_range(PAGES - device_used(dev), asked, 2 * asked);
	pattern_check(mem, PAGES, 6);
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
		T(who_reads_while_it_changes_sees_the_truth),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
