/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access beside the other ways to a page: device faults, snapshots, dirty bits,
 * discarding; and what cannot be had for oneself. Devices that are prompt, have to be waited
 * for, and pin.
 *
 * Tries to break: G1 (one has it), G4, G9.
 */
#include "exclusive/held.h"

/* ---- beside the other ways to a page ---- */

static void a_device_fault_of_its_own_ends_it(void **state)
{
	(void)state;
	BEGIN(20);
	take(dev, 0, 8, 8);
	assert_true(mini_store(dev, page_at(2), 77));
	assert_int_equal(mini_event(dev, page_at(2), 1, HMM_DEVICE_WFAULT, NULL), 0);
	assert_int_equal(count_held(dev, 0, 8), 7);
	assert_int_equal(hmm_pte_addr(mini_get(dev, page_at(2))), addr_of(page_at(2)));
	assert_int_equal(word(2), 77);
	assert_true(mini_store(dev, page_at(2), 78));
	take(dev, 2, 1, 1);
	assert_true(mini_add(dev, page_at(2), 1));
	assert_int_equal(word(2), 79);
}

static void snapshots_see_that_it_is_elsewhere(void **state)
{
	hmm_pfn_t pfns[4];
	size_t i;

	(void)state;
	BEGIN(20);
	take(dev, 0, 4, 4);
	mini_snapshot(other, mem, 4, 0, pfns);
	for (i = 0; i < 4; i++)
		assert_int_equal(pfns[i] & HMM_PFN_FLAGS, HMM_PFN_ELSEWHERE);
	mini_snapshot(dev, mem, 4, 0, pfns);
	for (i = 0; i < 4; i++)
		assert_int_equal(pfns[i] & HMM_PFN_FLAGS, HMM_PFN_ELSEWHERE);
	assert_int_equal(count_held(dev, 0, 4), 4);
	assert_true(mini_store(dev, mem, 99));
	assert_int_equal(mini_fault(other, mem, 2, HMM_RANGE_WRITE, pfns), 0);
	assert_int_equal(count_held(dev, 0, 4), 2);
	assert_true(pfns[0] & HMM_PFN_VALID && pfns[1] & HMM_PFN_WRITE);
	assert_int_equal(word(0), 99);
	/* The snapshot's device hears of it when somebody takes the page. */
	i = mini_told(other);
	take(dev, 0, 1, 1);
	assert_int_equal(mini_told(other), i + 1);
	assert_int_equal(count_held(dev, 0, 1), 1);
}

static void dirty_bits_are_kept(void **state)
{
	uint8_t dirty[4];

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(mem), addr_of(page_at(4)),
						  dirty),
			 0);
	take(dev, 0, 4, 4);
	assert_true(mini_add(dev, page_at(0), 1));
	assert_true(mini_add(dev, page_at(1), 1));
	assert_true(mini_add(dev, page_at(3), 1));
	word(1); /* home, and remembered */
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(mem), addr_of(page_at(4)),
						  dirty),
			 0);
	assert_int_equal(dirty[0] << 3 | dirty[1] << 2 | dirty[2] << 1 | dirty[3], 13);
	assert_false(mini_add(dev, page_at(0), 1)); /* asks again before it writes */
	assert_int_equal(count_exclusive(0, 4), 3);
	take(dev, 0, 1, 1);
	assert_true(mini_add(dev, page_at(0), 1));
	assert_int_equal(word(0), pattern_word(1, 0, 0) + 2);
}

/* The driver has done with it; it comes home when somebody asks for it. */
static void what_is_discarded_is_nobodys(void **state)
{
	unsigned long before;

	(void)state;
	BEGIN(20);
	take(dev, 0, 4, 4);
	assert_true(mini_add(dev, page_at(2), 9));
	pthread_mutex_lock(&dev->lock);
	mini_take_away(dev, &(struct hmm_event){ .start = addr_of(mem),
						 .end = addr_of(page_at(4)),
						 .etype = HMM_MIGRATE });
	pthread_mutex_unlock(&dev->lock);
	assert_int_equal(hmm_mirror_range_discard(&dev->mirror, addr_of(mem), addr_of(page_at(4))),
			 0);
	before = mini_told(dev);
	assert_int_equal(word(2), pattern_word(1, 2, 0) + 9);
	assert_int_equal(mini_told(dev), before);
	take(dev, 0, 4, 4);
}

/* ---- what cannot be had ---- */

static void what_may_not_be_written_is_not_given(void **state)
{
	unsigned long pages;

	(void)state;
	BEGIN(20);
	mini_migrate(dev, page_at(4), 4);
	assert_int_equal(mprotect(page_at(0), 8 * PAGE, PROT_READ), 0);
	take(dev, 0, 8, 0);
	assert_int_equal(count_held(dev, 0, 8), 0);
	assert_int_equal(mprotect(page_at(0), 8 * PAGE, PROT_NONE), 0);
	take(dev, 0, 8, 0);
	assert_int_equal(mprotect(page_at(0), 8 * PAGE, PROT_READ | PROT_WRITE), 0);
	take(dev, 0, 8, 8);
	assert_int_equal(munmap(mem + BYTES, THP / 2 - BYTES), 0);
	pages = 4711;
	assert_int_equal(mini_event(dev, mem + BYTES, 4, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, 0);
	pages = 4711;
	assert_int_equal(mini_event(dev, page_at(PAGES - 2), 4, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, 2);
	assert_int_equal(mini_event(dev, mem, 0, HMM_DEVICE_EXCLUSIVE, &pages), -EINVAL);
	assert_int_equal(mini_event(dev, mem + 1, 1, HMM_DEVICE_EXCLUSIVE, &pages), -EINVAL);
	pattern_check(mem, PAGES, 1);
}

static int told; /* it was refused, inside of an op */

static void call_back(struct mini *of, const struct hmm_event *event)
{
	if (event->etype == HMM_DEVICE_EXCLUSIVE)
		told = mini_event(of, mem, 1, HMM_DEVICE_EXCLUSIVE, NULL) == -EDEADLK;
}

static void an_op_cannot_ask_for_it(void **state)
{
	(void)state;
	BEGIN(20);
	told = 0;
	mini_hook(dev, call_back);
	take(dev, 4, 1, 1);
	mini_hook(dev, NULL);
	assert_int_equal(told, 1);
}

/* There is room for so many at one place of their 2 MiB, whoever has them. */
#define ROOM 256

static void the_room_there_is(void **state)
{
	size_t i, n = ROOM + 44;
	char *all = mmap(NULL, (n + 1) * THP, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *at = (char *)((addr_of(all) + THP) & ~(THP - 1));
	unsigned long pages;

	(void)state;
	BEGIN(60);
	madvise(all, (n + 1) * THP, MADV_NOHUGEPAGE);
	for (i = 0; i < ROOM; i++) {
		step("taking it page by page");
		assert_int_equal(mini_event(dev, at + i * THP, 1, HMM_DEVICE_EXCLUSIVE, &pages), 0);
		assert_int_equal(pages, 1);
		assert_true(mini_add(dev, at + i * THP, i));
	}
	for (i = 0; i < ROOM; i++)
		assert_true(mini_add(dev, at + i * THP, 1));
	/* The other one needs no more room for the same pages. */
	for (i = 0; i < ROOM; i++) {
		step("taking it away, page by page");
		assert_int_equal(mini_event(other, at + i * THP, 1, HMM_DEVICE_EXCLUSIVE, &pages),
				 0);
		assert_int_equal(pages, 1);
		if (i + 1 < ROOM) /* nothing had to go for that */
			assert_true(mini_add(dev, at + (i + 1) * THP, 0));
	}
	for (i = 0; i < ROOM; i++) {
		assert_false(mini_add(dev, at + i * THP, 1));
		assert_true(mini_add(other, at + i * THP, 1));
	}
	/* One more, and room is made; what was there is not lost. */
	assert_int_equal(mini_event(dev, at + ROOM * THP, 1, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, 1);
	for (i = 0; i < ROOM; i++)
		assert_int_equal(*(uint64_t *)(at + i * THP), i + 2);
	munmap(all, (n + 1) * THP);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		ALL(a_device_fault_of_its_own_ends_it),
		ALL(snapshots_see_that_it_is_elsewhere),
		ALL(dirty_bits_are_kept),
		ALL(what_is_discarded_is_nobodys),
		ALL(what_may_not_be_written_is_not_given),
		T(an_op_cannot_ask_for_it, plain),
		T(the_room_there_is, plain),
		T(the_room_there_is, prompt),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
