/* SPDX-License-Identifier: MIT */
/*
 * Events that are read in another order than what they tell of happened in (G4).
 *
 * mremap() tells of its move first, and of the end of its source later. A thread that is
 * kept from running in between (it has the lowest priority on a CPU that another thread
 * keeps busy) tells so late that its source has long become another mremap's destination.
 */
#include <stdatomic.h>

#include "test_util.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;

static struct {
	char *from, *to;
	atomic_bool go, done;
} late;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static atomic_bool hog_stop;

static void *hog(void *arg)
{
	(void)arg;
	pin(0);
	while (!atomic_load(&hog_stop))
		;
	return NULL;
}

static void *mremap_late(void *arg)
{
	struct sched_param none = { .sched_priority = 0 };

	(void)arg;
	pin(0);
	sched_setscheduler(0, SCHED_IDLE, &none);
	while (!atomic_load(&late.go))
		;
	syscall(SYS_mremap, late.from, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, late.to);
	atomic_store(&late.done, true);
	return NULL;
}

static bool all_where(const char *mem, enum hmm_where where)
{
	uint8_t map[PAGES];
	size_t i;

	assert_int_equal(hmm_range_where(addr_of(mem), addr_of(mem) + BYTES, map), 0);
	for (i = 0; i < PAGES; i++)
		if (map[i] != where)
			return false;
	return true;
}

static void to_device(char *mem, uint64_t seed)
{
	unsigned long pages;

	pattern_fill(mem, PAGES, seed);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, PAGES);
}

/* Was the thread late? */
static bool one_round(uint64_t seed)
{
	char *first = map_aligned(THP), *second = map_aligned(THP), *third = map_aligned(THP);
	pthread_t thread;
	uint64_t val;
	bool was_late;

	to_device(first, seed);
	to_device(second, seed + 1);
	late.from = first;
	late.to = third;
	atomic_store(&late.go, false);
	atomic_store(&late.done, false);
	assert_int_equal(pthread_create(&thread, NULL, mremap_late, NULL), 0);
	munmap(third, BYTES); /* its stack would be there */
	atomic_store(&late.go, true);
	step("the first mremap");
	while (!all_where(third, HMM_WHERE_DEVICE)) /* it has the lowest priority of all */
		test_sleep_us(200);
	was_late = !atomic_load(&late.done);
	step("the second mremap");
	assert_ptr_equal((void *)syscall(SYS_mremap, second, BYTES, BYTES,
					 MREMAP_MAYMOVE | MREMAP_FIXED, first),
			 first);
	step("the late thread");
	pthread_join(thread, NULL);
	assert_int_equal(dummy_load_u64(dev, addr_of(first) + PAGE, &val), 0);
	assert_int_equal(val, pattern_word(seed + 1, 1, 0));
	pattern_check(first, PAGES, seed + 1);
	pattern_check(third, PAGES, seed);
	munmap(first, THP);
	munmap(second, THP);
	munmap(third, THP);
	return was_late;
}

static void a_source_that_ends_late_does_not_end_what_came_after(void **state)
{
	unsigned int i, n = 0;
	pthread_t thread;

	(void)state;
	BEGIN(240);
	assert_int_equal(dummy_create(&dev, NULL), 0);
	atomic_store(&hog_stop, false);
	assert_int_equal(pthread_create(&thread, NULL, hog, NULL), 0);
	for (i = 0; i < 200 && n < 3; i++) /* until it was late often enough */
		n += one_round(2 * i + 1);
	atomic_store(&hog_stop, true);
	pthread_join(thread, NULL);
	print_message("late in %u of %u\n", n, i);
	assert_int_equal(dummy_memory_free(dev), dummy_memory_pages(dev));
	assert_int_equal(dummy_destroy(dev), 0);
	if (!n)
		skip_because("the thread was never late");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_source_that_ends_late_does_not_end_what_came_after),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
