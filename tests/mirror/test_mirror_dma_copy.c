/* SPDX-License-Identifier: MIT */
/*
 * DMA mappings of migration: what the copy engine reads and writes is mapped for the
 * copy alone, and what the device had mapped before it goes.
 *
 * Tries to break: G4 (no page is lost because something could not be mapped), and
 * that no mapping is left behind or used when it has ended.
 */
#include "mirror/dma.h"

static void there_and_back(void **state)
{
	char *mem = map_filled(PAGES, 1);
	size_t i, here;

	(void)state;
	BEGIN(10);
	device_reads(mem, PAGES / 2, 1);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mapped(), 0);
	assert_int_equal(dma_stats().dma_maps, PAGES / 2 + PAGES);
	device_reads(mem, PAGES, 1);
	device_writes(mem, PAGES, 100);
	assert_int_equal(mapped(), 0);
	for (i = 0; i < PAGES; i += 3) /* single pages, by CPU faults */
		assert_int_equal(*(volatile uint64_t *)(mem + i * PAGE), 100 + i);
	wait_until(count_on_cpu(mem, PAGES) == PAGES - device_used(dev));
	assert_int_equal(mapped(), 0);
	device_writes(mem, PAGES, 200);
	here = mapped();
	assert_int_equal(here, PAGES - device_used(dev));
	assert_int_equal(dummy_evict(dev, addr_of(mem), end_of(mem, PAGES), NULL), 0);
	cpu_reads(mem, PAGES, 200);
	assert_true(mapped() <= here); /* what lay between may have been taken away too */
	assert_int_equal(device_used(dev), 0);
	munmap(mem, PAGES * PAGE);
	assert_int_equal(mapped(), 0);
}

static void large_ranges_with_holes(void **state)
{
	size_t pages = 700, i;
	char *mem = map_aligned(pages * PAGE);
	unsigned long moved;

	(void)state;
	BEGIN(10);
	for (i = 0; i < pages; i += 3)
		*(volatile uint64_t *)(mem + i * PAGE) = i + 1; /* and holes between */
	for (i = 1; i < pages; i += 9)
		assert_int_equal(load(mem + i * PAGE), 0); /* zero pages */
	assert_int_equal(dummy_migrate(dev, addr_of(mem), end_of(mem, pages), &moved), 0);
	assert_int_equal(moved, pages);
	assert_int_equal(mapped(), 0);
	for (i = 0; i < pages; i++)
		assert_int_equal(load(mem + i * PAGE), i % 3 ? 0 : i + 1);
	for (i = 0; i < pages; i++)
		assert_int_equal(*(volatile uint64_t *)(mem + i * PAGE), i % 3 ? 0 : i + 1);
	wait_until(!device_used(dev)); /* which are freed when the CPU has its page */
	assert_no_errors();
	munmap(mem, pages * PAGE);
}

static void discard_leaves_what_is_on_the_device(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint8_t dirty[PAGES];
	size_t i;

	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), addr_of(mem),
						  end_of(mem, PAGES), dirty),
			 0);
	store(mem + 3 * PAGE, 33);
	assert_int_equal(dummy_discard(dev, addr_of(mem), end_of(mem, PAGES)), 0);
	assert_int_equal(device_used(dev), PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), addr_of(mem),
						  end_of(mem, PAGES), dirty),
			 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dirty[i], i == 3);
	assert_int_equal(load(mem + 3 * PAGE), 33);
	device_writes(mem, PAGES, 9);
	assert_int_equal(device_used(dev), PAGES);
	assert_int_equal(dummy_discard(dev, addr_of(mem), end_of(mem, PAGES)), 0);
	cpu_reads(mem, PAGES, 9);
	wait_until(!device_used(dev));
	munmap(mem, PAGES * PAGE);
}

/* The way there: pages that cannot be mapped stay, or go when they are tried again. */
static void the_way_there_cannot_be_mapped(void **state)
{
	enum dummy_fail kinds[] = { DUMMY_FAIL_DMA, DUMMY_FAIL_DMA_PAGE };
	char *mem = map_filled(PAGES, 1);
	unsigned long moved;
	size_t i, n;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 2; i++) {
		for (n = 1; n <= 5; n++) {
			dummy_inject(dev, kinds[i], n, n);
			assert_int_equal(
				dummy_migrate(dev, addr_of(mem), end_of(mem, PAGES), &moved), 0);
			assert_int_equal(moved, device_used(dev));
			assert_int_equal(mapped(), 0);
			dummy_inject(dev, kinds[i], 0, 0);
			pattern_check(mem, PAGES, 1);
			wait_until(!device_used(dev));
		}
		dummy_inject(dev, kinds[i], 1, ~0ul);
		assert_int_equal(dummy_migrate(dev, addr_of(mem), end_of(mem, PAGES), &moved), 0);
		assert_int_equal(moved, 0);
		pattern_check(mem, PAGES, 1); /* needs no mapping to come home */
		dummy_inject(dev, kinds[i], 0, 0);
	}
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 1);
	munmap(mem, PAGES * PAGE);
}

static uint64_t poisoned_pages(void)
{
	struct hmm_stats stats = { .size = sizeof(stats) };

	assert_int_equal(hmm_get_stats(&stats), 0);
	return stats.pages_poisoned;
}

/* The way back: tried until it can be mapped, and never lost. */
static void the_way_back_cannot_be_mapped(void **state)
{
	enum dummy_fail kinds[] = { DUMMY_FAIL_DMA, DUMMY_FAIL_DMA_PAGE };
	char *mem = map_filled(PAGES, 1);
	uint64_t poisoned = poisoned_pages();
	size_t i, n;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 2; i++) {
		for (n = 1; n <= 4; n++) {
			step("a CPU fault");
			migrate_all(dev, mem, PAGES);
			dummy_inject(dev, kinds[i], 1, n);
			assert_int_equal(*(volatile uint64_t *)mem, pattern_word(1, 0, 0));
			pattern_check(mem, PAGES, 1);
			step("evict");
			migrate_all(dev, mem, PAGES);
			dummy_inject(dev, kinds[i], n, 1);
			dummy_evict(dev, addr_of(mem), end_of(mem, PAGES), NULL);
			dummy_inject(dev, kinds[i], 0, 0);
			pattern_check(mem, PAGES, 1);
			wait_until(!device_used(dev));
			assert_int_equal(mapped(), 0);
		}
	}
	assert_int_equal(poisoned_pages(), poisoned);
	munmap(mem, PAGES * PAGE);
}

static pid_t fork_by_hand(void)
{
	return (pid_t)syscall(SYS_fork);
}

static void fork_cannot_be_mapped(void **state)
{
	pid_t (*forks[])(void) = { fork, fork_by_hand };
	struct hmm_features f = { .size = sizeof(f) };
	char *mem = map_filled(PAGES, 1);
	size_t i;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_probe(&f), 0);
	hmm_set_log(HMM_LOG_NONE, NULL); /* it says that it waits */
	for (i = 0; i < 4; i++) {
		uint64_t seen = 0;
		int status, out[2];
		pid_t pid;

		if (i & 1 && !f.fork_event)
			continue; /* such a child is not heard of */
		migrate_all(dev, mem, PAGES);
		assert_int_equal(pipe(out), 0);
		dummy_inject(dev, i & 2 ? DUMMY_FAIL_DMA : DUMMY_FAIL_DMA_PAGE, 1, 3);
		pid = forks[i & 1]();
		if (!pid) {
			seen = *(volatile uint64_t *)(mem + 5 * PAGE);
			_exit(write(out[1], &seen, 8) != 8);
		}
		close(out[1]);
		assert_int_equal(read(out[0], &seen, 8), 8);
		close(out[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		dummy_inject(dev, i & 2 ? DUMMY_FAIL_DMA : DUMMY_FAIL_DMA_PAGE, 0, 0);
		assert_int_equal(seen, pattern_word(1, 5, 0));
		pattern_check(mem, PAGES, 1);
		assert_int_equal(mapped(), 0);
	}
	munmap(mem, PAGES * PAGE);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

static void unregister_cannot_be_mapped(void **state)
{
	char *mem = map_filled(PAGES, 1);

	(void)state;
	BEGIN(10);
	hmm_set_log(HMM_LOG_NONE, NULL); /* it says that it waits */
	migrate_all(dev, mem, PAGES);
	dummy_inject(dev, DUMMY_FAIL_DMA, 1, 2);
	dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, 1, 2);
	assert_int_equal(hmm_mirror_unregister(dummy_mirror(dev)), 0);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(hmm_mirror_register(dummy_mirror(dev)), 0);
	device_reads(mem, PAGES, 1);
	munmap(mem, PAGES * PAGE);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

/* A copy op that fails leaves no mapping of its sources or destinations. */
static void a_copy_fails(void **state)
{
	char *mem = map_filled(PAGES, 1);
	unsigned long moved;

	(void)state;
	BEGIN(10);
	hmm_set_log(HMM_LOG_NONE, NULL);
	device_reads(mem, PAGES, 1);
	dummy_inject(dev, DUMMY_FAIL_COPY_TO, 1, 1);
	dummy_migrate(dev, addr_of(mem), end_of(mem, PAGES), &moved);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(mapped(), 0);
	dummy_inject(dev, DUMMY_FAIL_ALLOC, 1, PAGES / 2);
	dummy_migrate(dev, addr_of(mem), end_of(mem, PAGES), &moved);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(mapped(), 0);
	migrate_all(dev, mem, PAGES);
	dummy_inject(dev, DUMMY_FAIL_PAGE, 3, 1);
	assert_int_equal(dummy_evict(dev, addr_of(mem), end_of(mem, PAGES), &moved), -EIO);
	assert_int_equal(mapped(), 0);
	assert_int_equal(device_used(dev), 1); /* the third stayed */
	pattern_check(mem, PAGES, 1);
	wait_until(!mapped() && !device_used(dev)); /* somewhat later than the CPU has it */
	munmap(mem, PAGES * PAGE);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

/* Its pages come back through mappings, though it gets no update() any more. */
static void a_killed_mirror_gives_back(void **state)
{
	char *mem = map_filled(PAGES, 1), *other = map_filled(PAGES, 2);
	uint64_t val;

	(void)state;
	BEGIN(10);
	hmm_set_log(HMM_LOG_NONE, NULL);
	migrate_all(dev, mem, PAGES);
	device_writes(mem, PAGES, 50);
	device_reads(other, PAGES, 2);
	dummy_inject(dev, DUMMY_FAIL_UPDATE, 1, 1);
	munmap(other, PAGE);
	hmm_mirror_sync(dummy_mirror(dev));
	wait_until(!device_used(dev));
	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), -ENODEV);
	cpu_reads(mem, PAGES, 50);
	munmap(mem, PAGES * PAGE);
	munmap(other, PAGES * PAGE);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

static const struct CMUnitTest tests[] = {
	DMA_TEST(there_and_back),
	DMA_TEST(large_ranges_with_holes),
	DMA_TEST(discard_leaves_what_is_on_the_device),
	DMA_TEST(the_way_there_cannot_be_mapped),
	DMA_TEST(the_way_back_cannot_be_mapped),
	DMA_TEST(fork_cannot_be_mapped),
	DMA_TEST(unregister_cannot_be_mapped),
	DMA_TEST(a_copy_fails),
	DMA_TEST(a_killed_mirror_gives_back),
};

int main(void)
{
	test_init();
	return DMA_RUN(tests);
}
