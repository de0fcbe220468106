/* SPDX-License-Identifier: MIT */
/*
 * While a device has pages for itself the kernel may swap them out, as any memory: they come
 * in again when the device touches them, or go home from there.
 *
 * Tries to break: G1, G4, G5.
 */
#include "mirror/mini.h"

#include "migrate/swap.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

static char *mem;
static struct mini *own;

/* Where the device has the page: the address in its translation. */
static char *where_is(size_t i)
{
	return (char *)hmm_pte_addr(mini_get(own, mem + i * PAGE));
}

static size_t count_swapped(void)
{
	size_t i, n = 0;

	for (i = 0; i < PAGES; i++)
		n += (pagemap_entry(where_is(i)) >> 62) == 1;
	return n;
}

static void check_swapped(bool *swapped)
{
	unsigned long pages = 0;
	size_t i, tries;

	mem = map_aligned(BYTES);
	own = mini_make(0, HMM_DEVICE_PROMPT);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(mini_event(own, mem, PAGES, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, PAGES);
	for (tries = 0; tries < 50 && count_swapped() < PAGES; tries++)
		for (i = 0; i < PAGES; i++)
			madvise(where_is(i), PAGE, MADV_PAGEOUT);
	*swapped = count_swapped() == PAGES;
	for (i = 0; i < PAGES; i += 2)
		assert_true(mini_add(own, mem + i * PAGE, i));
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE),
				 pattern_word(1, i, 0) + (i % 2 ? 0 : i));
	for (i = 0; i < PAGES; i += 2)
		*(uint64_t *)(mem + i * PAGE) -= i;
	pattern_check(mem, PAGES, 1);
	munmap(mem, BYTES);
	mini_free(own);
}

static void what_is_swapped_out_meanwhile(void **state)
{
	(void)state;
	with_swap(check_swapped);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_swapped_out_meanwhile),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
