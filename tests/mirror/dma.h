/* SPDX-License-Identifier: MIT */
/*
 * A device behind an IOMMU, which sees each mapping that is made twice, ended twice,
 * used too late or left behind. What the tests of DMA mappings share.
 */
#ifndef TESTS_MIRROR_DMA_H
#define TESTS_MIRROR_DMA_H

#include "test_util.h"

#define PAGES 64u
#define WINDOW DUMMY_WINDOW_DEFAULT

static struct dummy_options dma_options = { .memory = 1024 * PAGE, .scrub = true, .iommu = true };
static struct dummy_device *dev;

static int dma_setup(void **state)
{
	void (*change)(void) = *state;

	change();
	dma_options.looks_up = test_looks_up();
	return dummy_create(&dev, &dma_options);
}

/* What has happened so far has been told to the device. */
static struct dummy_stats dma_stats(void)
{
	struct dummy_stats stats;

	hmm_mirror_sync(dummy_mirror(dev));
	dummy_get_stats(dev, &stats);
	return stats;
}

UNUSED static size_t mapped(void)
{
	return dma_stats().dma_mapped;
}

UNUSED static void assert_no_errors(void)
{
	struct dummy_stats stats = dma_stats();

	assert_int_equal(stats.dma_errors, 0);
	assert_int_equal(stats.iommu_faults, 0);
	assert_int_equal(stats.dma_maps - stats.dma_unmaps, stats.dma_mapped);
}

/* Whatever a test did: at the end of the mirror nothing is left, and all was in order. */
static int dma_teardown(void **state)
{
	struct dummy_stats stats;
	int ret;

	(void)state;
	dummy_inject(dev, DUMMY_FAIL_DMA, 0, 0);
	dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, 0, 0);
	ret = hmm_mirror_unregister(dummy_mirror(dev));
	dummy_get_stats(dev, &stats);
	if (stats.dma_mapped || stats.dma_maps != stats.dma_unmaps || stats.dma_errors ||
	    stats.iommu_faults || (dma_options.iommu && stats.faults && !stats.dma_maps)) {
		print_error("mapped %llu: %llu - %llu; errors %llu, IOMMU faults %llu\n",
			    (unsigned long long)stats.dma_mapped,
			    (unsigned long long)stats.dma_maps,
			    (unsigned long long)stats.dma_unmaps,
			    (unsigned long long)stats.dma_errors,
			    (unsigned long long)stats.iommu_faults);
		ret = -1;
	}
	return dummy_destroy(dev) ? -1 : ret;
}

UNUSED static uint64_t load(const void *addr)
{
	uint64_t val = ~0ull;

	assert_int_equal(dummy_load_u64(dev, addr_of(addr), &val), 0);
	return val;
}

UNUSED static void store(void *addr, uint64_t val)
{
	assert_int_equal(dummy_store_u64(dev, addr_of(addr), val), 0);
}

/* The device reads the first word of each page, as pattern_fill() left it. */
UNUSED static void device_reads(const char *mem, size_t pages, uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		assert_int_equal(load(mem + i * PAGE), pattern_word(seed, i, 0));
}

/* The device writes the first word of each page. */
UNUSED static void device_writes(char *mem, size_t pages, uint64_t val)
{
	size_t i;

	for (i = 0; i < pages; i++)
		store(mem + i * PAGE, val + i);
}

UNUSED static void cpu_reads(const char *mem, size_t pages, uint64_t val)
{
	size_t i;

	for (i = 0; i < pages; i++)
		assert_int_equal(*(const volatile uint64_t *)(mem + i * PAGE), val + i);
}

UNUSED static char *map_filled(size_t pages, uint64_t seed)
{
	char *mem = map_aligned(pages * PAGE);

	pattern_fill(mem, pages, seed);
	return mem;
}

/* A fault by hand. Return: its result; *@pages, if it is 0. */
UNUSED static int fault(const void *mem, size_t pages, enum hmm_etype etype, unsigned long *served)
{
	struct hmm_event event = {
		.start = addr_of(mem),
		.end = addr_of(mem) + pages * PAGE,
		.etype = etype,
	};
	int ret = hmm_mirror_fault(dummy_mirror(dev), &event);

	if (!ret && served)
		*served = event.pages;
	return ret;
}

UNUSED static uint64_t end_of(const char *mem, size_t pages)
{
	return addr_of(mem) + pages * PAGE;
}

#define DMA_TEST(name) cmocka_unit_test_setup_teardown(name, dma_setup, dma_teardown)

static void dma_as_it_is(void)
{
}

/* Each test twice, the second time with the options that @change makes. One plan. */
UNUSED static int run_twice(const char *group, const struct CMUnitTest *tests, size_t n,
			    void (*change)(void))
{
	struct CMUnitTest all[64];
	size_t i;

	assert_true(2 * n <= 64);
	for (i = 0; i < 2 * n; i++) {
		all[i] = tests[i % n];
		all[i].initial_state = i < n ? dma_as_it_is : change;
	}
	return _cmocka_run_group_tests(group, all, 2 * n, NULL, NULL);
}

UNUSED static void dma_not_prompt(void)
{
	dma_options.not_prompt = true;
}

/* With the monitor calling update() and the DMA ops, and with the worker. */
#define DMA_RUN(tests) run_twice(#tests, tests, sizeof(tests) / sizeof(tests[0]), dma_not_prompt)

#endif
