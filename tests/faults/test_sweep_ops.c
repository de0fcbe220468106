/* SPDX-License-Identifier: MIT */
/*
 * Each op of a driver failing: the nth call for each n, once, and then many times in a
 * row, and then for good.
 *
 * Tries to break: G4 (only what the device has lost is SIGBUS, all else is as it was), G7,
 * G9, G11; see scenario.h. HMM_FAULTS_ALL=1 tries every n.
 */
#include <limits.h>

#include "scenario.h"

#define ROW 20

static struct {
	enum dummy_fail what;
	unsigned long nth, count;
} inject;

static void arm(struct dummy_device *dev)
{
	dummy_inject(dev, inject.what, inject.nth, inject.count);
}

static void disarm(struct dummy_device *dev)
{
	dummy_inject(dev, inject.what, 0, 0);
}

static bool run_with(const char *what, unsigned long nth, unsigned long count, bool loses,
		     unsigned int *lost, unsigned int *errors)
{
	static char name[80];
	struct scenario s = { .name = name, .arm = arm, .disarm = disarm, .loses = loses };
	bool good;

	inject.nth = nth;
	inject.count = count;
	snprintf(name, sizeof(name), "%s at %lu, %lu times", what, nth, count);
	good = scenario_run(&s);
	*lost += s.lost;
	*errors += s.errors;
	return good;
}

/* There is no count of the calls: @most is more than a run makes. */
static void sweep(const char *test, enum dummy_fail fail, const char *what, unsigned long most,
		  bool loses)
{
	unsigned int lost = 0, errors = 0, bad = 0, ignored = 0, runs = 0;
	struct scenario plain = { .name = "nothing fails" };
	unsigned long n;

	scenario_begin(test, 60);
	inject.what = fail;
	for (n = 1; n <= most; n = scenario_next(n, most, 12)) {
		bad += !run_with(what, n, 1, loses, &lost, &errors);
		if (runs++ % 3)
			continue;
		bad += !run_with(what, n, ROW, loses, &ignored, &ignored);
		bad += !run_with(what, n, ULONG_MAX, loses, &ignored, &ignored);
		bad += !scenario_run(&plain);
	}
	print_message("%s: %u calls said so, %u pages were lost\n", what, errors, lost);
	assert_int_equal(bad, 0);
	assert_true(!loses || lost);
}

#define SWEEP(name, fail, most, loses)                     \
	static void name(void **state)                     \
	{                                                  \
		(void)state;                               \
		sweep(__func__, fail, #name, most, loses); \
	}

SWEEP(update_fails, DUMMY_FAIL_UPDATE, 50, false)
SWEEP(copy_to_device_fails, DUMMY_FAIL_COPY_TO, 12, false)
SWEEP(copy_from_device_fails, DUMMY_FAIL_COPY_FROM, 40, true)
SWEEP(a_page_is_lost, DUMMY_FAIL_PAGE, 40, true)
SWEEP(device_is_full, DUMMY_FAIL_ALLOC, 12, false)

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, scenario_setup, scenario_teardown)
	const struct CMUnitTest tests[] = {
		T(update_fails),   T(copy_to_device_fails), T(copy_from_device_fails),
		T(a_page_is_lost), T(device_is_full),
	};

	scenario_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
