/* SPDX-License-Identifier: MIT */
/*
 * Whatever else happens to memory while a driver brings it back, at each step of the way
 * (src/core/back.c); and while another event of the address space, or a fork, is dealt
 * with (event.c, fork.c).
 *
 * Tries to break: G1, G3, G4, G7, G8, G9; see steps.h.
 */
#include "steps.h"

static void on_the_way_back(void **state)
{
	static const struct row rows[] = {
		{ "back:begin", HOLD_BACK, .away = true },
		{ "back:updated", HOLD_BACK, .away = true },
		{ "back:copied", HOLD_BACK, .away = true },
		{ "back:run", HOLD_BACK, .away = true },
		{ "back:mapped", HOLD_BACK, .away = true },
		{ "back:updated", HOLD_BACK, .away = true, .waits = true },
		{ "back:run", HOLD_BACK, .away = true, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void while_another_event_is_dealt_with(void **state)
{
	static const struct row rows[] = {
		{ "event:read", HOLD_DONTNEED, .away = true },
		{ "event:run", HOLD_DONTNEED, .away = true },
		{ "event:done", HOLD_DONTNEED, .away = true },
		{ "event:read", HOLD_MUNMAP, .away = true },
		{ "event:run", HOLD_MUNMAP, .away = true, .waits = true },
		{ "event:read", HOLD_MREMAP, .away = true },
		{ "event:run", HOLD_MREMAP, .away = true },
		{ "event:run", HOLD_MREMAP, .away = true, .waits = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	steps_run(rows, sizeof(rows) / sizeof(rows[0]));
}

static void while_another_thread_forks(void **state)
{
	static const struct row rows[] = {
		{ "fork:frozen", HOLD_FORK, .away = true },
		{ "fork:protected", HOLD_FORK, .away = true },
		{ "fork:home", HOLD_FORK, .away = true },
		{ "fork:fill", HOLD_CLONE, .away = true },
	};

	(void)state;
	steps_begin(__func__, 60);
	if (!steps_can_clone())
		print_message("fork:fill is skipped: fork events need CAP_SYS_PTRACE\n");
	steps_run(rows, 3 + steps_can_clone());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on_the_way_back),
		cmocka_unit_test(while_another_event_is_dealt_with),
		cmocka_unit_test(while_another_thread_forks),
	};

	steps_init();
	return cmocka_run_group_tests(tests, steps_setup, steps_teardown);
}
