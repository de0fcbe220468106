/* SPDX-License-Identifier: MIT */
/*
 * A device that takes its time: every copy sleeps, and it is not prompt, so that
 * nothing may be done by the monitor.
 *
 * G9: CPU faults of several threads, and munmap, madvise, mremap and fork amid
 * them, all end. G3: after munmap has returned, the device has lost the range.
 * G4: each gets the right content.
 */
#include <stdatomic.h>

#include "faults/harness.h"

#define PAGES 256
#define READERS 3

struct world {
	struct dummy_device *dev;
	unsigned char *mem;
	unsigned int reader;
	atomic_uint readers;
	atomic_int wrong;
};

static struct world world;

static unsigned long bytes(size_t pages)
{
	return pages * hmm_page_size();
}

static uint64_t addr_of(const unsigned char *p)
{
	return (uint64_t)(unsigned long)p;
}

/* Every third page, a thread each. */
static void *reader(void *arg)
{
	struct world *w = arg;
	size_t i = atomic_fetch_add(&w->readers, 1);

	for (; i < PAGES / 2; i += READERS)
		if (*(volatile uint64_t *)(w->mem + bytes(i)) != page_word(1, i, 0))
			atomic_fetch_add(&w->wrong, 1);
	return NULL;
}

/* Threads fault on the first half while @meanwhile does things to the second. */
static void faults_amid(void (*meanwhile)(struct world *w, unsigned char *mem))
{
	struct dummy_options opt = { .memory = 16 * MIB, .copy_delay_us = 300 };
	struct world *w = &world;
	pthread_t thread[READERS];
	unsigned int i, round;

	flush();
	*w = (struct world){ .dev = device_new(&opt) };
	w->mem = map_bytes(bytes(PAGES));
	for (round = 0; round < 4; round++) {
		fill_pages(w->mem, PAGES, 1);
		migrate_all(w->dev, w->mem, PAGES);
		atomic_store(&w->readers, 0);
		for (i = 0; i < READERS; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, reader, w), 0);
		meanwhile(w, w->mem + bytes(PAGES / 2));
		for (i = 0; i < READERS; i++)
			pthread_join(thread[i], NULL);
		assert_int_equal(atomic_load(&w->wrong), 0);
	}
	munmap(w->mem, bytes(PAGES));
	assert_true(memory_comes_free(w->dev, 5));
	assert_int_equal(dummy_destroy(w->dev), 0);
	limit(0, "");
}

static void unmap_and_map(struct world *w, unsigned char *mem)
{
	size_t i;

	(void)w;
	for (i = 0; i < PAGES / 2; i += 4) {
		assert_int_equal(munmap(mem + bytes(i), bytes(4)), 0);
		assert_true(mmap(mem + bytes(i), bytes(4), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mem + bytes(i));
		assert_int_equal(mem[bytes(i + 1)], 0);
	}
}

static void drop(struct world *w, unsigned char *mem)
{
	size_t i;

	(void)w;
	for (i = 0; i < PAGES / 2; i += 4) {
		assert_int_equal(madvise(mem + bytes(i), bytes(4), MADV_DONTNEED), 0);
		assert_int_equal(mem[bytes(i + 1)], 0);
	}
}

static void move_there_and_back(struct world *w, unsigned char *mem)
{
	unsigned char *side = map_bytes(bytes(4));
	size_t i;

	(void)w;
	for (i = 0; i < PAGES / 2; i += 4) {
		assert_true(mremap(mem + bytes(i), bytes(4), bytes(4),
				   MREMAP_MAYMOVE | MREMAP_FIXED, side) == side);
		if (i % 8)
			assert_int_equal(*(uint64_t *)(side + bytes(1)),
					 page_word(1, PAGES / 2 + i + 1, 0));
		assert_true(mremap(side, bytes(4), bytes(4), MREMAP_MAYMOVE | MREMAP_FIXED,
				   mem + bytes(i)) == mem + bytes(i));
		assert_int_equal(*(uint64_t *)(mem + bytes(i + 2)),
				 page_word(1, PAGES / 2 + i + 2, 0));
	}
}

static void forks(struct world *w, unsigned char *mem)
{
	unsigned int i;

	(void)mem;
	for (i = 0; i < 3; i++) {
		pid_t pid = fork();

		if (!pid) {
			child_begin();
			CHILD_CHECK(check_pages(w->mem, PAGES, 1) == PAGES);
			_exit(0);
		}
		assert_int_equal(child_wait(pid), 0);
	}
}

static void all_of_these(struct world *w, unsigned char *mem)
{
	move_there_and_back(w, mem);
	forks(w, mem);
	unmap_and_map(w, mem);
	drop(w, mem);
}

/* One page at a time: the whole while, others wait in the worker's queue. */
static void after_munmap_the_device_has_lost_it(struct world *w, unsigned char *mem)
{
	size_t i;

	for (i = 0; i < PAGES / 2; i++) {
		unsigned char *p = map_bytes(bytes(1));
		uint64_t val;
		int ret;

		*(uint64_t *)p = 77;
		migrate_all(w->dev, p, 1);
		assert_int_equal(dummy_load_u64(w->dev, addr_of(p), &val), 0);
		munmap(p, bytes(1));
		ret = dummy_load_u64(w->dev, addr_of(p), &val);
		assert_int_equal(ret, -EFAULT);
	}
	(void)mem;
}

#define SLOW_TEST(name, meanwhile)      \
	static void name(void **state)  \
	{                               \
		(void)state;            \
		LIMIT(20);              \
		faults_amid(meanwhile); \
	}

SLOW_TEST(faults_amid_munmap, unmap_and_map)
SLOW_TEST(faults_amid_dontneed, drop)
SLOW_TEST(faults_amid_mremap, move_there_and_back)
SLOW_TEST(faults_amid_fork, forks)
SLOW_TEST(faults_amid_all_of_these, all_of_these)
SLOW_TEST(the_device_is_up_to_date_after_munmap, after_munmap_the_device_has_lost_it)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_amid_munmap),
		cmocka_unit_test(faults_amid_dontneed),
		cmocka_unit_test(faults_amid_mremap),
		cmocka_unit_test(faults_amid_fork),
		cmocka_unit_test(faults_amid_all_of_these),
		cmocka_unit_test(the_device_is_up_to_date_after_munmap),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
