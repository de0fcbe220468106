/* SPDX-License-Identifier: MIT */
/*
 * Whatever else happens to memory while a device gets it for itself, and while it is taken
 * back, at each step of either way (src/core/exclusive.c, out.c, back.c); and while an event
 * or a fork is dealt with that finds it so.
 *
 * Tries to break: G1, G3, G4, G7, G8, G9; see steps.h.
 */
#include "migrate/steps.h"

static void on_the_way_to_the_device(void **state)
{
	static const struct row rows[] = {
		{ "out:begin", HOLD_EXCLUSIVE, .away = false },
		{ "out:updated", HOLD_EXCLUSIVE, .away = false },
		{ "out:isolated", HOLD_EXCLUSIVE, .away = false },
		{ "exclusive:kept", HOLD_EXCLUSIVE, .away = false },
		{ "exclusive:kept", HOLD_EXCLUSIVE, .exclusive = true },
		{ "exclusive:kept", HOLD_EXCLUSIVE, .away = true },
		{ "out:end", HOLD_EXCLUSIVE, .away = false },
		{ "out:isolated", HOLD_ADD, .away = false },
		{ "exclusive:kept", HOLD_ADD, .away = false },
		{ "exclusive:kept", HOLD_ADD, .exclusive = true },
	};

	(void)state;
	steps_begin(__func__, 120);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void to_a_device_that_waits(void **state)
{
	static const struct row rows[] = {
		{ "out:updated", HOLD_EXCLUSIVE, .waits = true },
		{ "out:isolated", HOLD_EXCLUSIVE, .waits = true },
		{ "exclusive:kept", HOLD_EXCLUSIVE, .waits = true },
		{ "exclusive:kept", HOLD_ADD, .exclusive = true, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 120);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void when_it_is_taken_back(void **state)
{
	static const struct row rows[] = {
		{ "back:begin", HOLD_READ, .exclusive = true },
		{ "back:begin", HOLD_WRITE, .exclusive = true, .waits = true },
		{ "back:begin", HOLD_LOAD, .exclusive = true },
		{ "back:begin", HOLD_STORE, .exclusive = true, .waits = true },
		{ "back:begin", HOLD_OUT, .exclusive = true },
		{ "back:exclusive", HOLD_WRITE, .exclusive = true },
		{ "back:exclusive", HOLD_READ, .exclusive = true, .waits = true },
		{ "back:exclusive", HOLD_OUT, .exclusive = true },
	};

	(void)state;
	steps_begin(__func__, 120);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void by_an_event(void **state)
{
	static const struct row rows[] = {
		{ "event:read", HOLD_DONTNEED, .exclusive = true },
		{ "event:run", HOLD_DONTNEED, .exclusive = true, .waits = true },
		{ "event:done", HOLD_DONTNEED, .exclusive = true },
		{ "event:read", HOLD_MUNMAP, .exclusive = true },
		{ "event:run", HOLD_MUNMAP, .exclusive = true, .waits = true },
		{ "event:run", HOLD_MREMAP, .exclusive = true },
		{ "event:run", HOLD_MREMAP, .exclusive = true, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 120);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void by_a_fork(void **state)
{
	static const struct row rows[] = {
		{ "fork:frozen", HOLD_FORK, .exclusive = true },
		{ "fork:protected", HOLD_FORK, .exclusive = true },
		{ "fork:home", HOLD_FORK, .exclusive = true },
		{ "fork:fill", HOLD_CLONE, .exclusive = true },
	};

	(void)state;
	steps_begin(__func__, 120);
	if (!steps_can_clone())
		print_message("fork:fill is skipped: fork events need CAP_SYS_PTRACE\n");
	steps_run(rows, 3 + steps_can_clone());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on_the_way_to_the_device),
		cmocka_unit_test(to_a_device_that_waits),
		cmocka_unit_test(when_it_is_taken_back),
		cmocka_unit_test(by_an_event),
		cmocka_unit_test(by_a_fork),
	};

	steps_init();
	return cmocka_run_group_tests(tests, steps_setup, steps_teardown);
}
