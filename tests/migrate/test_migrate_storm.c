/* SPDX-License-Identifier: MIT */
/*
 * G9: a CPU fault on migrated memory ends, and so do migrations, while other threads do
 * nothing but discard, unmap and move memory that a device watches: the kernel then hardly
 * ever leaves a gap in which a page can be put.
 */
#include <stdatomic.h>

#include "test_util.h"

#define PAGES 128
#define BYTES (PAGES * PAGE)
#define STORMS 4

static struct dummy_device *dev;
static atomic_bool stop;
static atomic_ulong calls;

/* Registered: the device has read it. */
static char *watched(size_t len)
{
	char *mem = map_anon(len);
	uint64_t val;

	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
	return mem;
}

static void *discards(void *arg)
{
	char *mem = watched(16 * PAGE);

	(void)arg;
	while (!atomic_load(&stop)) {
		madvise(mem, 16 * PAGE, MADV_DONTNEED);
		atomic_fetch_add(&calls, 1);
	}
	munmap(mem, 16 * PAGE);
	return NULL;
}

static void *unmaps_and_moves(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		char *mem = watched(2 * PAGE), *to;

		to = mremap(mem, PAGE, 4 * PAGE, MREMAP_MAYMOVE);
		assert_ptr_not_equal(to, MAP_FAILED);
		munmap(mem + PAGE, PAGE);
		munmap(to, 4 * PAGE);
		atomic_fetch_add(&calls, 1);
	}
	return NULL;
}

static void storm(void *(*fn)(void *))
{
	char *mem = map_aligned(THP);
	pthread_t thread[STORMS];
	unsigned long pages, before;
	size_t i, round;

	assert_int_equal(dummy_create(&dev, NULL), 0);
	atomic_store(&stop, false);
	for (i = 0; i < STORMS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fn, NULL), 0);
	for (round = 1; round <= 3; round++) {
		pattern_fill(mem, PAGES, round);
		before = atomic_load(&calls);
		step("to the device");
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
		assert_int_equal(pages, PAGES);
		step("one CPU fault after the other");
		for (i = 0; i < PAGES; i += 2)
			pattern_check_from(mem + (i * 37 % PAGES) * PAGE, 1, round, i * 37 % PAGES);
		step("the rest");
		assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
		pattern_check(mem, PAGES, round);
		wait_until(atomic_load(&calls) > before); /* who stormed went on, too */
	}
	atomic_store(&stop, true);
	for (i = 0; i < STORMS; i++)
		pthread_join(thread[i], NULL);
	munmap(mem, THP);
	assert_int_equal(dummy_destroy(dev), 0);
}

static void faults_end_while_others_discard(void **state)
{
	(void)state;
	BEGIN(60);
	storm(discards);
}

static void faults_end_while_others_unmap_and_move(void **state)
{
	(void)state;
	BEGIN(60);
	storm(unmaps_and_moves);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_end_while_others_discard),
		cmocka_unit_test(faults_end_while_others_unmap_and_move),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
