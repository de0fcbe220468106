/* SPDX-License-Identifier: MIT */
/*
 * A program that changes its address space all the time, and devices that want to work
 * in the same range: they get on.
 *
 * Tries to break: G9 (a device fault ends, whatever others do meanwhile).
 *
 * No time is measured: the changes go on until each device has had its accesses.
 */
#include "changes.h"

#define ACCESSES (TEST_SANITIZED ? 500 : 5000)

static char *range;
static size_t range_pages;
static unsigned int working; /* atomic: devices that have not had theirs */

static void *work_main(void *arg)
{
	struct dummy_device *mine = arg;
	uint64_t val;
	unsigned int i;

	for (i = 0; i < ACCESSES; i++) {
		uint64_t at = addr_of(range) + i * 7 % range_pages * PAGE;

		if (i & 1)
			dummy_load_u64(mine, at, &val);
		else
			dummy_store_u64(mine, at, i);
	}
	__atomic_sub_fetch(&working, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void change_map(char *mem, size_t pages)
{
	map_over(mem, pages, PROT_READ | PROT_WRITE);
}

static void change_discard(char *mem, size_t pages)
{
	madvise(mem, pages * PAGE, MADV_DONTNEED);
}

static void change_protect(char *mem, size_t pages)
{
	mprotect(mem, pages * PAGE, PROT_READ);
	mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE);
}

/* Another thread protects, this one discards a page and replaces all of them. */
static void *protect_main(void *arg)
{
	while (__atomic_load_n(&working, __ATOMIC_ACQUIRE))
		change_protect(range, range_pages);
	return arg;
}

static void change_much(char *mem, size_t pages)
{
	static unsigned int n;

	madvise(mem + n++ % pages * PAGE, PAGE, MADV_DONTNEED);
	change_map(mem, pages);
	change_map(mem + pages / 2 * PAGE, 1);
}

static void check(void (*change)(char *mem, size_t pages), size_t pages)
{
	pthread_t threads[3];
	unsigned int i, all, n = 0;

	range = area(pages, 1);
	range_pages = pages;
	working = devs;
	for (i = 0; i < devs; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, work_main, dev[i]), 0);
	if (change == change_much)
		assert_int_equal(pthread_create(&threads[i++], NULL, protect_main, NULL), 0);
	all = i;
	while (__atomic_load_n(&working, __ATOMIC_ACQUIRE)) {
		char text[64];

		if (n++ % 1000 == 0) {
			snprintf(text, sizeof(text), "%u changes", n);
			step(text);
		}
		change(range, pages);
	}
	for (i = 0; i < all; i++)
		pthread_join(threads[i], NULL);
	area_free(range, pages);
}

static void while_mapped_over(size_t pages)
{
	check(change_map, pages);
}

static void while_discarded(size_t pages)
{
	check(change_discard, pages);
}

static void while_protected(size_t pages)
{
	check(change_protect, pages);
}

static void while_all_at_once(size_t pages)
{
	check(change_much, pages);
}

static const struct change changes[] = {
	CHANGE(while_all_at_once),
	CHANGE(while_mapped_over),
	CHANGE(while_discarded),
	CHANGE(while_protected),
};

CHANGES_MAIN(changes)
