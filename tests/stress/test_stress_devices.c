/* SPDX-License-Identifier: MIT */
/*
 * The stress test with two devices that migrate and write the same pages: they go from
 * one to the other, back, and home. As test_stress.c otherwise.
 */
#include "stress/stage.h"

static void two_devices(void **state)
{
	static const struct plan plan = {
		.name = "two devices",
		.devices = 2,
		.opt = { { .memory = 64 * MIB, .scrub = true },
			 { .memory = 64 * MIB, .not_prompt = true, .scrub = true } },
		.huge = true,
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

static void two_devices_and_forks(void **state)
{
	static const struct plan plan = {
		.name = "two devices and forks",
		.devices = 2,
		.opt = { { .memory = 64 * MIB, .iommu = true, .scrub = true },
			 { .memory = 2 * MIB, .copy_delay_us = 50, .scrub = true } },
		.forks = true,
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

static void two_devices_that_come_and_go(void **state)
{
	static const struct plan plan = {
		.name = "two devices that come and go",
		.devices = 2,
		.opt = { { .memory = 8 * MIB, .scrub = true },
			 { .memory = 64 * MIB, .iommu = true, .not_prompt = true, .scrub = true } },
		.huge = true,
		.forks = true,
		.life = true,
	};

	(void)state;
	stress(&plan, stress_seconds() / 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_devices),
		cmocka_unit_test(two_devices_and_forks),
		cmocka_unit_test(two_devices_that_come_and_go),
	};

	stress_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
