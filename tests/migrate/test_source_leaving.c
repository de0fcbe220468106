/* SPDX-License-Identifier: MIT */
/*
 * Sources that the kernel is about to take, or has taken: freed lazily (MADV_FREE), and
 * in swap. Makes its own swap on an unused zram device where there is none.
 *
 * Tries to break: G1, G4 (what was written after MADV_FREE is lost; a page in swap that
 * arrives as zeros), G7 (the count), and that device memory is free again afterwards.
 */
#include "migrate/source.h"
#include "migrate/swap.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

/* ---- MADV_FREE ---- */

/* Each page as it was or zero; the kernel may drop them at any time. */
static size_t freed_pages(const char *mem)
{
	size_t i, kept = 0;

	for (i = 0; i < PAGES; i++) {
		const uint64_t *word = (const void *)(mem + i * PAGE);

		if (word[0] == pattern_word(1, i, 0)) {
			pattern_check_from(mem + i * PAGE, 1, 1, i);
			kept++;
		} else {
			assert_true(is_zero(mem + i * PAGE, PAGE));
		}
	}
	return kept;
}

static void freed_before(void **state)
{
	char *mem = map_aligned(BYTES);
	uint64_t word, i;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(madvise(mem, BYTES, MADV_FREE), 0);
	assert_int_equal(ask(mem, BYTES), PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	for (i = 0; i < PAGES; i++) {
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE, &word), 0);
		assert_true(!word || word == pattern_word(1, i, 0));
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE, &word), 0);
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), word);
	}
	freed_pages(mem);
	/* Written since: that must not be lost. */
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(madvise(mem, BYTES, MADV_FREE), 0);
	pattern_fill(mem, PAGES, 3);
	all_go(mem, PAGES, PAGES);
	device_has(mem, PAGES, 3, 0);
	pattern_check(mem, PAGES, 3);
	munmap(mem, BYTES);
}

static void freed_on_the_device(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(madvise(mem, BYTES, MADV_FREE), 0);
	freed_pages(mem);
	wait_until(device_used(dev) == 0);
	pattern_fill(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(madvise(mem, BYTES, MADV_FREE), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 7), 0);
	assert_int_equal(*(uint64_t *)(mem + PAGE), 7);
	pattern_fill(mem, PAGES, 4);
	pattern_check(mem, PAGES, 4);
	munmap(mem, BYTES);
}

struct freeing {
	char *mem;
	bool stop;
	size_t rounds; /* atomic */
	size_t lost;
};

/* What is written after MADV_FREE has returned stays, wherever the page is by then. */
static void *freeing_main(void *arg)
{
	struct freeing *freeing = arg;

	while (!__atomic_load_n(&freeing->stop, __ATOMIC_ACQUIRE)) {
		size_t round = freeing->rounds;

		madvise(freeing->mem, BYTES, MADV_FREE);
		pattern_fill(freeing->mem, PAGES, round);
		test_sleep_us(120000);
		freeing->lost += !has_pattern(freeing->mem, PAGES, round);
		__atomic_store_n(&freeing->rounds, round + 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void freed_during(void **state)
{
	struct freeing *freeing = (void *)map_anon(PAGE);
	uint64_t end;
	pthread_t thread;
	size_t moved = 0;

	(void)state;
	BEGIN(30);
	freeing->mem = map_aligned(BYTES);
	assert_int_equal(pthread_create(&thread, NULL, freeing_main, freeing), 0);
	end = test_now() + 700000000ull;
	while (test_now() < end || !moved || !__atomic_load_n(&freeing->rounds, __ATOMIC_RELAXED))
		moved += ask(freeing->mem, BYTES);
	__atomic_store_n(&freeing->stop, true, __ATOMIC_RELEASE);
	step("joining the thread that frees");
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(freeing->lost, 0);
	munmap(freeing->mem, BYTES);
	munmap(freeing, PAGE);
}

/* ---- swap ---- */

static void check_swapped(bool *swapped)
{
	char *mem = map_aligned(BYTES);
	pid_t pid;

	pattern_fill(mem, PAGES, 1);
	*swapped = swap_out(mem, PAGES);
	if (!*swapped) {
		munmap(mem, BYTES);
		return;
	}
	all_go(mem, PAGES, PAGES);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
	/* Some of it, between pages that are there. */
	assert_true(swap_out(mem + 10 * PAGE, 20));
	all_go(mem, PAGES, PAGES);
	comes_home(mem, PAGES);
	pattern_check(mem, PAGES, 1);
	/* A swap slot that a child shares. */
	assert_true(swap_out(mem, PAGES));
	pid = fork();
	if (!pid) {
		alarm(60);
		test_sleep_us(300000);
		CHECK(has_pattern(mem, PAGES, 1));
		_exit(0);
	}
	assert_int_equal(ask(mem, BYTES), PAGES);
	device_has(mem, PAGES, 1, 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 8, 0), 0);
	child_ends_well(pid);
	assert_int_equal(((uint64_t *)mem)[1], 0);
	((uint64_t *)mem)[1] = pattern_word(1, 0, 1);
	pattern_check(mem, PAGES, 1);
	munmap(mem, BYTES);
}

static void swapped_out(void **state)
{
	(void)state;
	with_swap(check_swapped);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(freed_before),
		T(freed_on_the_device),
		T(freed_during),
		T(swapped_out),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
