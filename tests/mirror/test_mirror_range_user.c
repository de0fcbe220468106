/* SPDX-License-Identifier: MIT */
/*
 * Snapshots for an ordinary user, to whom the kernel gives UFFD_USER_MODE_ONLY: there
 * nothing can be populated where missing faults are sent, and the library fills it.
 *
 * Tries to break: G9, G10 (memory that had pages on a device is memory all the same).
 */
#include <grp.h>

#include "mini.h"

#define PAGES 16

/* In this process, for good; it runs no other test. */
static bool become_ordinary(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	if (!geteuid()) {
		if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
			return false;
		prctl(PR_SET_DUMPABLE, 1); /* as after exec: /proc/self is ours */
	}
	hmm_probe(&features);
	if (features.can_migrate && features.user_mode_only)
		return true;
	printf("skipped: the kernel gives everyone all of userfaultfd, or nothing\n");
	return false;
}

static void holes_of_a_chunk_that_had_pages_away(void **state)
{
	struct mini *dev = mini_new(PAGES);
	char *mem = map_aligned(PAGES * PAGE);
	hmm_pfn_t pfns[PAGES];
	size_t i;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, 2, 1);
	mini_migrate(dev, mem, 2);
	assert_int_equal(mini_event(dev, mem, 1, HMM_COPY_FROM_DEVICE, NULL), 0);
	mini_snapshot(dev, mem, PAGES, HMM_RANGE_WRITE, pfns);
	assert_int_equal(pfns[2], 0);
	assert_int_equal(mini_fault(dev, mem + 2 * PAGE, 3, 0, pfns), 0);
	for (i = 0; i < 3; i++)
		assert_int_equal(pfns[i] & ~(HMM_PFN_ZERO | HMM_PFN_WRITE),
				 (addr_of(mem) + (2 + i) * PAGE) | HMM_PFN_VALID);
	assert_int_equal(mini_fault(dev, mem, PAGES, HMM_RANGE_WRITE, pfns), 0);
	for (i = 0; i < PAGES; i++)
		if (i != 1)
			assert_int_equal(pfns[i],
					 (addr_of(mem) + i * PAGE) | HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(pfns[1] & HMM_PFN_FLAGS, HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE);
	pattern_check(mem, 2, 1);
	assert_true(is_zero(mem + 2 * PAGE, (PAGES - 2) * PAGE));
	mini_free(dev);
	munmap(mem, PAGES * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_of_a_chunk_that_had_pages_away),
	};

	if (!become_ordinary())
		return 77;
	hmm_set_user_mode(true);
	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
