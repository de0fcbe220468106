/* SPDX-License-Identifier: MIT */
/* Two mini devices, and memory of which one takes pages for itself. */
#ifndef TESTS_HELD_H
#define TESTS_HELD_H

#include "mirror/mini.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)

static uint32_t flags; /* of the devices: each test runs with some */
static struct mini *dev, *other;
static char *area; /* 2 MiB; no thread's descriptor is near what is tested */
static char *mem;

static inline int setup(void **state)
{
	flags = *state ? *(const uint32_t *)*state : 0;
	area = map_aligned(THP);
	mem = area + THP / 2;
	pattern_fill(mem, PAGES, 1);
	dev = mini_make(PAGES, flags);
	other = mini_make(0, flags);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	if (other)
		mini_free(other);
	if (dev)
		mini_free(dev);
	munmap(area, THP);
	return 0;
}

static inline char *page_at(size_t i)
{
	return mem + i * PAGE;
}

static inline void take(struct mini *of, size_t first, size_t n, size_t expected)
{
	unsigned long pages = 4711;

	assert_int_equal(mini_event(of, page_at(first), n, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, expected);
}

static inline size_t count_exclusive(size_t first, size_t n)
{
	uint8_t where[PAGES];
	size_t i, found = 0;

	assert_int_equal(
		hmm_range_where(addr_of(page_at(first)), addr_of(page_at(first + n)), where), 0);
	for (i = 0; i < n; i++)
		found += where[i] == HMM_WHERE_EXCLUSIVE;
	return found;
}

/* Of the pages from @first on those that the device's own table has, for itself. */
static inline size_t count_held(struct mini *of, size_t first, size_t n)
{
	size_t i, held = 0;

	for (i = first; i < first + n; i++)
		held += hmm_pte_test_exclusive(mini_get(of, page_at(i)));
	return held;
}

static inline uint64_t word(size_t page)
{
	return *(volatile uint64_t *)page_at(page);
}

static uint32_t plain = 0, prompt = HMM_DEVICE_PROMPT, pins = HMM_DEVICE_PINS;

#define T(f, how) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, &how)
#define ALL(f) T(f, plain), T(f, prompt), T(f, pins)

#endif
