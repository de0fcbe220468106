/* SPDX-License-Identifier: MIT */
/*
 * What comes back along with a page that the CPU wants: around().
 *
 * Tries to break: exactly the range that was named comes, clipped to the 2 MiB of the
 * page; the page always comes, whatever the driver says; G4.
 */
#include "migrate/tiny.h"

#define PAGES 1536
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;

static int setup(void **state)
{
	(void)state;
	tiny = tiny_new(2048);
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

static void touch(size_t page)
{
	assert_int_equal(*(volatile uint64_t *)(mem + page * PAGE), pattern_word(1, page, 0));
}

/* Which pages are on the CPU, all at once; how many. */
static size_t look(bool *here)
{
	static uint64_t entry[PAGES];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t i, n = 0;

	assert_int_equal(pread(fd, entry, sizeof(entry), (off_t)(addr_of(mem) / PAGE * 8)),
			 sizeof(entry));
	close(fd);
	for (i = 0; i < PAGES; i++)
		n += here[i] = entry[i] >> 62;
	return n;
}

/* Exactly [first, end) is on the CPU. */
static void only(size_t first, size_t end)
{
	bool here[PAGES];
	size_t i;

	wait_until(look(here) == end - first); /* who faults wakes a bit earlier */
	for (i = 0; i < PAGES; i++)
		if (here[i] != (i >= first && i < end))
			fail_msg("page %zu: %s; wanted %zu to %zu", i, here[i] ? "here" : "away",
				 first, end);
}

static struct dummy_device *with_window(unsigned int pages)
{
	struct dummy_options opt = { .memory = 2048 * PAGE, .around = pages };
	struct dummy_device *dev;

	assert_int_equal(dummy_create(&dev, &opt), 0);
	return dev;
}

static void a_window_as_the_option_says(void **state)
{
	static const unsigned int windows[] = { 1, 3, 16, 64, 512, 4096 };
	size_t page = 700, i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
		struct dummy_device *dev = with_window(windows[i]);
		size_t at = addr_of(mem) / PAGE, first = page - (at + page) % windows[i];
		size_t end = first + windows[i];

		if ((at + page) % windows[i] > page || first < 512)
			first = 512;
		migrate_all(dev, mem, PAGES);
		touch(page);
		only(first, end > 1024 ? 1024 : end);
		pattern_check(mem, PAGES, 1);
		assert_int_equal(dummy_destroy(dev), 0);
	}
}

/* Who reads on gets what the driver says too, and not libhmm's growing runs. */
static void one_page_at_a_time(void **state)
{
	struct dummy_device *dev = with_window(1);
	size_t i;

	(void)state;
	BEGIN(10);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < 50; i++) {
		touch(i);
		only(0, i + 1);
	}
	assert_int_equal(dummy_destroy(dev), 0);
}

struct range {
	size_t page; /* that is touched */
	long start; /* what is answered; in bytes from mem */
	long end;
	size_t first; /* what comes */
	size_t stop;
};

static void ranges_are_rounded_and_clipped(void **state)
{
	long page = PAGE, two = (long)THP;
	struct range ranges[] = {
		{ 600, 600 * page, 601 * page, 600, 601 },
		{ 600, 590 * page, 601 * page, 590, 601 },
		{ 600, 600 * page, 700 * page, 600, 700 },
		{ 600, 590 * page + 5, 601 * page + 1, 590, 602 },
		{ 600, 600 * page + 100, 600 * page + 200, 600, 601 },
		{ 600, two - 1, 2 * two + 1, 512, 1024 },
		{ 600, 0, 3 * two, 512, 1024 },
		{ 512, two, 2 * two, 512, 1024 },
		{ 1023, two, 2 * two, 512, 1024 },
		/* Without the page itself. */
		{ 600, 700 * page, 800 * page, 600, 800 },
		{ 600, 520 * page, 590 * page, 520, 601 },
		{ 600, 0, 300 * page, 512, 601 },
		{ 600, 1100 * page, 1200 * page, 600, 1024 },
	};
	size_t i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		char name[32];

		snprintf(name, sizeof(name), "range %zu", i);
		step(name);
		tiny_migrate_all(tiny, mem, PAGES);
		tiny->around_start = addr_of(mem) + (unsigned long)ranges[i].start;
		tiny->around_end = addr_of(mem) + (unsigned long)ranges[i].end;
		touch(ranges[i].page);
		only(ranges[i].first, ranges[i].stop);
		tiny->around_start = tiny->around_end = 0;
		pattern_check(mem, PAGES, 1);
	}
}

/* The page comes, and nothing outside of its 2 MiB. */
static void nonsense(void **state)
{
	unsigned long at = addr_of(mem);
	struct {
		unsigned long start, end;
	} answers[] = {
		{ at + 650 * PAGE, at + 550 * PAGE },
		{ 0, ~0ul },
		{ 0, 1 },
		{ ~0ul, ~0ul },
		{ ~0ul, 0 },
		{ 1, 0 },
		{ at + 600 * PAGE, at + 600 * PAGE },
		{ at, ~0ul << 12 },
		{ at - 1, at },
		{ 1ul << 63, 1ul << 63 | 1 << 20 },
	};
	bool here[PAGES];
	size_t i, j;

	(void)state;
	BEGIN(10);
	for (i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		tiny_migrate_all(tiny, mem, PAGES);
		tiny->around_start = answers[i].start;
		tiny->around_end = answers[i].end;
		touch(600);
		look(here);
		assert_true(here[600]);
		for (j = 0; j < PAGES; j++)
			assert_true(!here[j] || (j >= 512 && j < 1024));
		tiny->around_start = tiny->around_end = 0;
		pattern_check(mem, PAGES, 1);
	}
}

/* Of the range comes what is away, whoever has it; what is not away is left alone. */
static void others_in_the_window(void **state)
{
	struct tiny *other = tiny_new(100);
	struct dummy_device *dev = device_new(100);

	(void)state;
	BEGIN(10);
	tiny_migrate_all(tiny, mem + 512 * PAGE, 512);
	tiny_migrate_all(other, mem + 560 * PAGE, 20);
	migrate_all(dev, mem + 570 * PAGE, 20);
	mem[580 * PAGE + 8] ^= 1;
	mem[580 * PAGE + 8] ^= 1;
	assert_int_equal(madvise(mem + 592 * PAGE, 2 * PAGE, MADV_DONTNEED), 0);
	pattern_page(mem + 592 * PAGE, 1, 592);
	tiny->around_start = addr_of(mem) + 555 * PAGE;
	tiny->around_end = addr_of(mem) + 595 * PAGE;
	touch(591);
	wait_until(count_on_cpu(mem + 512 * PAGE, 512) == 39); /* 593 is a hole */
	assert_false(on_cpu(mem + 593 * PAGE));
	assert_true(is_zero(mem + 593 * PAGE, PAGE));
	pattern_page(mem + 593 * PAGE, 1, 593);
	tiny->around_start = tiny->around_end = 0;
	pattern_check(mem, PAGES, 1);
	wait_until(!tiny_used(other) && !device_used(dev));
	tiny_destroy(other);
	assert_int_equal(dummy_destroy(dev), 0);
}

/* A driver without around(), and who reads on: nothing comes of the next 2 MiB until he is there. */
static void without_a_wish_it_ends_with_the_chunk(void **state)
{
	static const struct hmm_devmem_ops ops = {
		.size = sizeof(ops),
		.version = HMM_DEVMEM_OPS_VERSION,
		.free = tiny_free,
		.copy_from_device = tiny_copy,
	};
	struct tiny *other = tiny_new_with(PAGES, &ops);
	size_t i, first = 512 - 212; /* 1, 2, 4 … pages, and of the last 128 not all fit */
	bool here[PAGES];

	(void)state;
	BEGIN(10);
	tiny_migrate_all(other, mem, PAGES);
	for (i = first; i < 512; i++)
		touch(i);
	wait_until(look(here) >= 212);
	test_sleep_us(20000);
	assert_int_equal(look(here), 212);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(here[i], i >= first && i < 512);
	pattern_check(mem, PAGES, 1);
	tiny_destroy(other);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_window_as_the_option_says),	   T(one_page_at_a_time),
		T(ranges_are_rounded_and_clipped), T(nonsense),
		T(others_in_the_window),	   T(without_a_wish_it_ends_with_the_chunk),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
