/* SPDX-License-Identifier: MIT */
/*
 * What the tests of system calls on migrated memory share: memory that is away when
 * a call is made.
 *
 * Who may have the kernel wait gets what the call is for. An ordinary user gets
 * EFAULT; then nothing may have come or gone, and the same call does its work once
 * the program has touched the memory itself.
 */
#ifndef TESTS_AWAY_H
#define TESTS_AWAY_H

#include "test_util.h"

#ifndef PAGES
#define PAGES 64
#endif
#define BYTES (PAGES * PAGE)
#define MARGIN (THP / 2)

static struct dummy_device *dev;
static char *mem;
static bool user_mode; /* the kernel does not wait for us */

/*
 * As map_aligned() plus half of that, and nothing comes to lie beside it: what is near
 * a thread's descriptor does not migrate.
 */
UNUSED static char *map_apart(size_t bytes)
{
	char *at = map_aligned(bytes + 2 * MARGIN);

	assert_int_equal(mprotect(at, MARGIN, PROT_NONE), 0);
	assert_int_equal(mprotect(at + MARGIN + bytes, MARGIN, PROT_NONE), 0);
	return at + MARGIN;
}

UNUSED static void unmap_apart(char *at, size_t bytes)
{
	assert_int_equal(munmap(at - MARGIN, bytes + 2 * MARGIN), 0);
}

UNUSED static int away_setup(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };

	(void)state;
	dev = device_new(512);
	mem = map_apart(BYTES);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(hmm_probe(&features), 0);
	user_mode = features.user_mode_only;
	return 0;
}

UNUSED static int away_teardown(void **state)
{
	(void)state;
	unmap_apart(mem, BYTES);
	wait_until(device_used(dev) == 0);
	return dummy_destroy(dev);
}

/* So many bytes before the end of a page: what is put there goes on in the next. */
UNUSED static void *before_end(size_t page, size_t bytes)
{
	return mem + (page + 1) * PAGE - bytes;
}

UNUSED static void touch_all(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		(void)*(volatile char *)(mem + i * PAGE);
	wait_until(device_used(dev) == 0);
}

/* Of a system call by hand: libc's wrappers, and a sanitizer's, may look at the memory. */
#define sys(...) sys_result(syscall(__VA_ARGS__))

UNUSED static long sys_result(long ret)
{
	return ret < 0 ? -errno : ret;
}

/* The result of @call, made with all of mem away. */
UNUSED static long call_away(long (*call)(void), const char *what)
{
	long ret;

	step(what);
	migrate_all(dev, mem, PAGES);
	ret = call();
	if (!user_mode)
		return ret;
	if (ret != -EFAULT)
		fail_msg("%s: %ld, not EFAULT", what, ret);
	assert_int_equal(device_used(dev), PAGES);
	touch_all();
	return call();
}

#endif
