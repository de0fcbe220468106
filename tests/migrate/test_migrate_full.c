/* SPDX-License-Identifier: MIT */
/*
 * A device that is full: evict() says what comes home instead.
 *
 * Tries to break: G4, G7 (whatever evict() answers, each page is in one place with its
 * content, and the result says where), and that a migration ends.
 */
#include "migrate/tiny.h"

#define CHUNKS 8
#define PAGES (CHUNKS * 512)
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;
static uint8_t result[PAGES];

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	tiny = tiny_new(512);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	tiny_destroy(tiny);
	return 0;
}

/* What is on the device is what is not on the CPU, and what was not moved says so. */
static void is_consistent(size_t used, size_t first, size_t n)
{
	size_t i;

	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - used);
	for (i = 0; i < n; i++)
		if (result[i] != HMM_MIGRATE_DONE && !on_cpu(mem + (first + i) * PAGE))
			fail_msg("page %zu: %u, and it is away", i, result[i]);
}

/* ---- the reference driver's policy ---- */

static struct dummy_device *evicting(size_t pages, unsigned int regions, bool runs)
{
	struct dummy_options opt = { .memory = pages * PAGE, .evict = true, .scrub = true,
				     .regions = regions, .runs = runs };
	struct dummy_device *dev;

	assert_int_equal(dummy_create(&dev, &opt), 0);
	return dev;
}

static struct dummy_stats stats_of(struct dummy_device *dev)
{
	struct dummy_stats stats;

	dummy_get_stats(dev, &stats);
	return stats;
}

/* Every page was there once, in pieces of 2 MiB all the time. */
static void a_range_larger_than_the_device(struct dummy_device *dev, size_t pages, size_t runs)
{
	assert_int_equal(dummy_migrate_vma(dev, addr_of(mem), addr_of(mem) + BYTES, result, NULL),
			 0);
	assert_int_equal(stats_of(dev).pages_in, PAGES);
	assert_int_equal(stats_of(dev).pages_out, PAGES - pages);
	assert_int_equal(stats_of(dev).runs, runs);
	assert_int_equal(device_used(dev), pages);
	is_consistent(pages, 0, PAGES);
	if (pages == 1024) /* of several regions, whichever is asked gives up something */
		assert_int_equal(count_on_cpu(mem + BYTES - pages * PAGE, pages), 0);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(dummy_destroy(dev), 0);
}

static void all_of_a_range_is_there_once(void **state)
{
	(void)state;
	BEGIN(10);
	a_range_larger_than_the_device(evicting(1024, 0, true), 1024, CHUNKS);
	pattern_fill(mem, PAGES, 1);
	a_range_larger_than_the_device(evicting(1536, 3, true), 1536, CHUNKS);
	pattern_fill(mem, PAGES, 1);
	a_range_larger_than_the_device(evicting(1024, 1, false), 1024, 0);
}

/* What the device works on stays; what it has not used goes. */
static void the_unused_goes_first(void **state)
{
	struct dummy_device *dev = evicting(1536, 0, false);
	size_t chunk, i;
	uint64_t val;

	(void)state;
	BEGIN(10);
	for (chunk = 0; chunk < CHUNKS; chunk++) {
		migrate_all(dev, mem + chunk * THP, 512);
		for (i = 0; i < 512; i += 100)
			assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE, &val), 0);
		assert_int_equal(count_on_cpu(mem, 512), 0);
	}
	assert_int_equal(stats_of(dev).pages_in, PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(dummy_destroy(dev), 0);
}

/* Page by page: one comes home for each that goes, and no more. */
static void single_pages(void **state)
{
	struct dummy_device *dev = evicting(100, 0, false);
	size_t i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 1000; i++)
		migrate_all(dev, mem + i * 3 * PAGE, 1);
	assert_int_equal(device_used(dev), 100);
	assert_int_equal(stats_of(dev).pages_out, 900);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(dummy_destroy(dev), 0);
}

/* It fails now and then, or for good. */
static void a_driver_that_names_nothing(void **state)
{
	struct dummy_device *dev = evicting(1024, 0, false);

	(void)state;
	BEGIN(10);
	dummy_inject(dev, DUMMY_FAIL_EVICT, 1, ~0ul);
	assert_int_equal(dummy_migrate_vma(dev, addr_of(mem), addr_of(mem) + BYTES, result, NULL),
			 0);
	assert_int_equal(stats_of(dev).pages_in, 1024);
	is_consistent(1024, 0, PAGES);
	assert_int_equal(count_on_cpu(mem, 1024), 0);
	dummy_inject(dev, DUMMY_FAIL_EVICT, 2, 1);
	assert_int_equal(dummy_migrate_vma(dev, addr_of(mem), addr_of(mem) + BYTES, result, NULL),
			 0);
	is_consistent(1024, 0, PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(dummy_destroy(dev), 0);
}

static struct dummy_device *shared;

static void *migrates(void *arg)
{
	char *part = arg;
	unsigned int i;

	for (i = 0; i < 6; i++)
		if (dummy_migrate(shared, addr_of(part), addr_of(part) + BYTES / 2, NULL))
			return part;
	return NULL;
}

/* Two threads, each of which takes the other's pages away. */
static void two_threads_and_little_room(void **state)
{
	pthread_t thread[2];
	void *failed[2];

	(void)state;
	BEGIN(20);
	shared = evicting(1024, 0, true);
	assert_int_equal(pthread_create(&thread[0], NULL, migrates, mem), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, migrates, mem + BYTES / 2), 0);
	pattern_check(mem, PAGES, 1);
	pthread_join(thread[0], &failed[0]);
	pthread_join(thread[1], &failed[1]);
	assert_null(failed[0]);
	assert_null(failed[1]);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - device_used(shared));
	pattern_check(mem, PAGES, 1);
	assert_int_equal(dummy_destroy(shared), 0);
}

/* ---- a driver that answers what it likes ---- */

static void fill_up(void)
{
	tiny_migrate_all(tiny, mem, 512);
	memset(tiny->calls, 0, sizeof(tiny->calls));
}

static void what_is_named_comes_home(void **state)
{
	(void)state;
	BEGIN(5);
	fill_up();
	tiny->evict_start = addr_of(mem) + 100 * PAGE;
	tiny->evict_end = addr_of(mem) + 300 * PAGE;
	tiny_migrate_all(tiny, mem + 600 * PAGE, 150);
	assert_int_equal(tiny_calls(tiny, TINY_EVICT), 1);
	assert_int_equal(tiny->evict_pages, 150);
	assert_int_equal(count_on_cpu(mem, 512), 200);
	assert_int_equal(count_on_cpu(mem + 100 * PAGE, 200), 200);
	assert_int_equal(tiny_used(tiny), 512 - 200 + 150);
	pattern_check(mem, PAGES, 1);
}

/* Too little at a time: asked again, for what is then missing. */
static void a_little_at_a_time(void **state)
{
	unsigned long moved;

	(void)state;
	BEGIN(5);
	fill_up();
	tiny->evict_start = addr_of(mem);
	tiny->evict_end = addr_of(mem) + 10 * PAGE; /* the second time there is nothing */
	assert_int_equal(tiny_migrate(tiny, mem + 600 * PAGE, 100, result, &moved), 0);
	assert_int_equal(moved, 10);
	assert_true(tiny_calls(tiny, TINY_EVICT) >= 2);
	assert_int_equal(tiny->evict_pages, 90);
	is_consistent(512, 600, 100);
	pattern_check(mem, PAGES, 1);
}

struct answer {
	const char *name;
	unsigned long start;
	unsigned long end;
	int ret;
};

static void nonsense(void **state)
{
	struct tiny *other = tiny_new(64);
	unsigned long first = addr_of(mem), at = first + 600 * PAGE, moved;
	struct answer answers[] = {
		{ "nothing", first, first + THP, -ENOENT },
		{ "another errno", first, first + THP, -EIO },
		{ "a positive result", first, first + THP, 1 },
		{ "empty", first, first, 0 },
		{ "zero", 0, 0, 0 },
		{ "the wrong way round", first + THP, first, 0 },
		{ "not aligned", first + 1, first + THP, 0 },
		{ "not aligned at the end", first, first + THP - 1, 0 },
		{ "past the end", first, ~0ul & ~(PAGE - 1), 0 },
		{ "not mapped", first - PAGE, first, 0 },
		{ "not there", first + 3 * THP, first + 4 * THP, 0 },
		{ "another device's", first + 2 * THP, first + 2 * THP + 64 * PAGE, 0 },
	};
	size_t i;

	(void)state;
	BEGIN(10);
	fill_up();
	tiny_migrate_all(other, mem + 1024 * PAGE, 64);
	for (i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		step(answers[i].name);
		tiny->evict_start = answers[i].start;
		tiny->evict_end = answers[i].end;
		tiny->evict_ret = answers[i].ret;
		assert_int_equal(tiny_migrate(tiny, (char *)at, 50, result, &moved), 0);
		assert_int_equal(moved, 0);
		assert_int_equal(result[7], HMM_MIGRATE_DECLINED);
		assert_int_equal(tiny_used(tiny), 512);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 512 - 64);
		assert_true(tiny_calls(tiny, TINY_EVICT) <= (i + 1) * 64); /* it ends */
	}
	assert_int_equal(tiny_used(other), 64);
	pattern_check(mem, PAGES, 1);
	tiny_destroy(other);
}

/* The very range that is on its way, or all there is: it ends, with each page somewhere. */
static void the_range_itself(void **state)
{
	unsigned long starts[] = { addr_of(mem), PAGE };
	unsigned long ends[] = { addr_of(mem) + BYTES, 1ul << 46 };
	unsigned long moved;
	size_t i, j, done;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 2; i++) {
		struct tiny *small = tiny_new(100);

		small->evict_start = starts[i];
		small->evict_end = ends[i];
		assert_int_equal(tiny_migrate(small, mem, 1024, result, &moved), 0);
		for (j = 0, done = 0; j < 1024; j++)
			done += result[j] == HMM_MIGRATE_DONE;
		assert_int_equal(done, moved);
		assert_int_equal(tiny_used(small), 100);
		is_consistent(100, 0, 1024);
		assert_true(tiny_calls(small, TINY_EVICT) <= 2 * 64 * 64); /* it ends */
		pattern_check(mem, 1024, 1);
		tiny_destroy(small);
	}
}

/* Only a region that is full is asked, and each that is, until one names something. */
static void full_regions_are_asked(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_add(tiny, 30);
	fill_up();
	assert_int_equal(tiny_migrate(tiny, mem + 600 * PAGE, 20, result, NULL), 0);
	assert_int_equal(tiny_calls(tiny, TINY_EVICT), 0); /* there was room */
	tiny->evict_ret = -ENOENT;
	assert_int_equal(tiny_migrate(tiny, mem + 700 * PAGE, 20, result, NULL), 0);
	assert_int_equal(tiny_calls(tiny, TINY_EVICT), 2);
	assert_int_equal(tiny->migrate.pages, 10);
	assert_int_equal(tiny_used(tiny), 542);
	pattern_check(mem, PAGES, 1);
}

static bool declines(struct tiny *of, unsigned long addr)
{
	(void)of;
	(void)addr;
	return false;
}

/* A driver that does not want a page, and has room, is not asked. */
static void who_declines_is_not_asked(void **state)
{
	(void)state;
	BEGIN(5);
	tiny->wants = declines;
	tiny->evict_start = addr_of(mem);
	tiny->evict_end = addr_of(mem) + BYTES;
	assert_int_equal(tiny_migrate(tiny, mem, 100, result, NULL), 0);
	assert_int_equal(tiny_calls(tiny, TINY_EVICT), 0);
	assert_int_equal(tiny_calls(tiny, TINY_TAKE), 1);
	tiny->wants = NULL;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_of_a_range_is_there_once),
		T(the_unused_goes_first),
		T(single_pages),
		T(a_driver_that_names_nothing),
		T(two_threads_and_little_room),
		T(what_is_named_comes_home),
		T(a_little_at_a_time),
		T(nonsense),
		T(the_range_itself),
		T(full_regions_are_asked),
		T(who_declines_is_not_asked),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
