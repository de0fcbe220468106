/* SPDX-License-Identifier: MIT */
/*
 * All at once over the same chunks: CPU writers, device writers, migrations both ways,
 * munmap and mmap, mremap of every kind, madvise, mprotect, read(2) and write(2), and
 * fork. One device; test_stress_devices has two. stage.h says who owns what.
 *
 * G1, G3, G4: every counter and stamp is what its owner knows it to be, at every look
 * and at the end; where the CPU may not write, neither may a device. G8: so it is in
 * each child, at one moment. G9: nothing hangs. And nothing leaks, on either side.
 *
 * HMM_STRESS_SECONDS: how long, in all (default 3). HMM_STRESS_SEED: where to begin;
 * the threads' order is chance all the same. HMM_STRESS_RACE: whether a thread may get an
 * address that another has just given up. HMM_STRESS_BY_HAND=1: see roles_move.c.
 */
#include "stress/stage.h"

static void a_prompt_device(void **state)
{
	static const struct plan plan = {
		.name = "a prompt device",
		.devices = 1,
		.opt = { { .memory = 64 * MIB, .scrub = true } },
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

static void a_small_and_slow_device(void **state)
{
	static const struct plan plan = {
		.name = "a small and slow device",
		.devices = 1,
		.opt = { { .memory = 3 * MIB, .copy_delay_us = 50, .scrub = true } },
		.huge = true,
		.forks = true,
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

static void a_device_that_comes_and_goes(void **state)
{
	static const struct plan plan = {
		.name = "a device that comes and goes",
		.devices = 1,
		.opt = { { .memory = 64 * MIB, .not_prompt = true, .iommu = true, .scrub = true } },
		.forks = true,
		.life = true,
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_device),
		cmocka_unit_test(a_small_and_slow_device),
		cmocka_unit_test(a_device_that_comes_and_goes),
	};

	stress_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
