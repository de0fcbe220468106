/* SPDX-License-Identifier: MIT */
/*
 * Whatever else happens to memory while it is on its way to a device, at each step of
 * that way (src/core/out.c).
 *
 * Tries to break: G1, G3, G4, G7, G8, G9; see steps.h.
 */
#include "steps.h"

static void on_the_way_out(void **state)
{
	static const struct row rows[] = {
		{ "out:begin", HOLD_OUT, .away = false },
		{ "out:updated", HOLD_OUT, .away = false },
		{ "out:isolated", HOLD_OUT, .away = false },
		{ "out:copied", HOLD_OUT, .away = false },
		{ "out:recorded", HOLD_OUT, .away = false },
		{ "out:end", HOLD_OUT, .away = false },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void on_the_way_out_to_a_device_that_waits(void **state)
{
	static const struct row rows[] = {
		{ "out:updated", HOLD_OUT, .waits = true },
		{ "out:isolated", HOLD_OUT, .waits = true },
		{ "out:recorded", HOLD_OUT, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on_the_way_out),
		cmocka_unit_test(on_the_way_out_to_a_device_that_waits),
	};

	steps_init();
	return cmocka_run_group_tests(tests, steps_setup, steps_teardown);
}
