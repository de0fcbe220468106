/* SPDX-License-Identifier: MIT */
/*
 * What the tests of system calls on migrated memory share: memory that is away when
 * a call is made.
 *
 * Who may have the kernel wait gets what the call is for. An ordinary user gets
 * EFAULT; then nothing may have come or gone, and the same call does its work once
 * the program has touched the memory itself.
 *
 * Away is in the device's memory; or, with HMM_TEST_EXCLUSIVE set, where it is, and the
 * device has it for itself.
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
static bool exclusive; /* HMM_TEST_EXCLUSIVE */

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
	exclusive = getenv("HMM_TEST_EXCLUSIVE");
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

UNUSED static size_t count_away(const char *start, size_t pages)
{
	uint8_t *where = malloc(pages);
	size_t i, n = 0;

	assert_int_equal(hmm_range_where(addr_of(start), addr_of(start) + pages * PAGE, where), 0);
	for (i = 0; i < pages; i++)
		n += where[i] == (exclusive ? HMM_WHERE_EXCLUSIVE : HMM_WHERE_DEVICE);
	free(where);
	return n;
}

/* All of it; a page that is pinned for a moment is tried again. */
UNUSED static void send_away(const char *start, size_t pages)
{
	unsigned long n = 0;

	if (!exclusive) {
		migrate_all(dev, start, pages);
		return;
	}
	wait_until(!dummy_exclusive(dev, addr_of(start), addr_of(start) + pages * PAGE, &n) &&
		   n == pages);
	assert_int_equal(count_on_cpu(start, pages), 0);
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
	wait_until(device_used(dev) == 0 && count_away(mem, PAGES) == 0);
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
	send_away(mem, PAGES);
	ret = call();
	if (!user_mode)
		return ret;
	if (ret != -EFAULT)
		fail_msg("%s: %ld, not EFAULT", what, ret);
	assert_int_equal(count_away(mem, PAGES), PAGES);
	touch_all();
	return call();
}

#endif
