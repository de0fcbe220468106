/* SPDX-License-Identifier: MIT */
/*
 * What test_windows.c and test_windows_half.c share: memory, a device, and a thread that
 * is held at a step until it is let go.
 */
#ifndef TESTS_WINDOWS_H
#define TESTS_WINDOWS_H

#include <stdatomic.h>

#include "test_util.h"

#include "mm/debug.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)
#define ROUNDS 12

static struct dummy_device *dev;
static char *mem;

UNUSED static int setup(void **state)
{
	struct dummy_options opt = { .memory = 1024 * PAGE, .scrub = true };

	(void)state;
	hmm_set_user_mode(true);
	assert_int_equal(dummy_create(&dev, &opt), 0);
	mem = map_aligned(THP);
	return 0;
}

UNUSED static int teardown(void **state)
{
	(void)state;
	debug_set_step(NULL);
	debug_set_fail(NULL);
	munmap(mem, THP);
	wait_until(device_used(dev) == 0);
	return dummy_destroy(dev);
}

UNUSED static void migrate(char *at, size_t pages)
{
	assert_int_equal(dummy_migrate(dev, addr_of(at), addr_of(at) + pages * PAGE, NULL), 0);
}

UNUSED static uint64_t device_word(const char *at)
{
	uint64_t val = 0;

	assert_int_equal(dummy_load_u64(dev, addr_of(at), &val), 0);
	return val;
}

/* ---- holding ---- */

/* Of the time before a page was mapped the monitor may still be at a step. */
static struct {
	const char *_Atomic step;
	atomic_ulong start, end;
	atomic_bool armed, hit, go;
} hold;

/* Until it is let go, for a tenth of a second. */
static void hold_at(const char *name, unsigned long start, unsigned long end)
{
	uint64_t until;

	if (!atomic_load(&hold.armed) || strcmp(name, hold.step) || start >= hold.end ||
	    end <= hold.start || !atomic_exchange(&hold.armed, false))
		return;
	atomic_store(&hold.hit, true);
	until = test_now() + 100000000;
	while (!atomic_load(&hold.go) && test_now() < until)
		test_sleep_us(50);
}

/* Before anything is done. */
UNUSED static void hold_need(void)
{
	if (!debug_set_step(hold_at))
		skip_because("no debug build: nobody can be held at a step");
}

UNUSED static void hold_arm(const char *name, const char *at, size_t pages)
{
	atomic_store(&hold.armed, false);
	hold.step = name;
	hold.start = addr_of(at);
	hold.end = hold.start + pages * PAGE;
	atomic_store(&hold.hit, false);
	atomic_store(&hold.go, false);
	atomic_store(&hold.armed, true);
}

UNUSED static bool hold_hit(void)
{
	uint64_t until = test_now() + 500000000;

	while (!atomic_load(&hold.hit) && test_now() < until)
		test_sleep_us(20);
	return atomic_load(&hold.hit);
}

#endif
