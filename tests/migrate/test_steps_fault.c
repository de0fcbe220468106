/* SPDX-License-Identifier: MIT */
/*
 * Whatever else happens to memory while a CPU fault or a device fault is answered, at
 * each step of that (src/core/cpu_fault.c, back.c, fault.c).
 *
 * Tries to break: G1, G2, G3, G4, G8, G9; see steps.h.
 */
#include "steps.h"

static void at_a_cpu_fault(void **state)
{
	static const struct row rows[] = {
		{ "fault:read", HOLD_READ, .away = true },
		{ "fault:answer", HOLD_WRITE, .away = true },
		{ "back:begin", HOLD_READ, .away = true },
		{ "back:updated", HOLD_WRITE, .away = true },
		{ "back:copied", HOLD_READ, .away = true },
		{ "back:run", HOLD_WRITE, .away = true },
		{ "back:mapped", HOLD_READ, .away = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

/* The worker answers, and the monitor goes on reading. */
static void at_a_cpu_fault_that_waits(void **state)
{
	static const struct row rows[] = {
		{ "fault:read", HOLD_WRITE, .away = true, .waits = true },
		{ "fault:answer", HOLD_READ, .away = true, .waits = true },
		{ "back:updated", HOLD_READ, .away = true, .waits = true },
		{ "back:copied", HOLD_WRITE, .away = true, .waits = true },
		{ "back:run", HOLD_READ, .away = true, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void at_a_device_fault(void **state)
{
	static const struct row rows[] = {
		{ "device:looked", HOLD_LOAD, .away = false },
		{ "device:looked", HOLD_STORE, .away = true },
		{ "device:entered", HOLD_STORE, .away = false },
		{ "device:entered", HOLD_LOAD, .away = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_a_cpu_fault),
		cmocka_unit_test(at_a_cpu_fault_that_waits),
		cmocka_unit_test(at_a_device_fault),
	};

	steps_init();
	return cmocka_run_group_tests(tests, steps_setup, steps_teardown);
}
