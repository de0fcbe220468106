/* SPDX-License-Identifier: MIT */
/*
 * Each test in every way: with one page and with 1500 (parts of four chunks), and with a
 * device that who calls tells of changes, where he can (prompt), with one that libhmm's worker
 * tells (not_prompt), with one of each at once, where both have to be told; and with one that the
 * monitor tells, since munmap() and madvise() are system calls made by hand (by_hand).
 */
#ifndef MIRROR_WAYS_H
#define MIRROR_WAYS_H

#include "test_util.h"

#define MANY ((size_t)1500)

static struct dummy_device *dev[2];
static unsigned int devs;

struct change {
	const char *name;
	void (*fn)(size_t pages);
};

#define CHANGE(f)     \
	{             \
#f, f \
	}
#define CHANGES_MAX 24

struct way {
	const char *name;
	unsigned int devs;
	bool not_prompt[2];
	bool by_hand;
};

static bool calls_by_hand;

UNUSED static int way_munmap(void *addr, size_t len)
{
	return calls_by_hand ? (int)syscall(SYS_munmap, addr, len) : munmap(addr, len);
}

/* Of the rest libhmm hears by its madvise() alone. */
UNUSED static int way_madvise(void *addr, size_t len, int advice)
{
	bool event = advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE;

	return event && calls_by_hand ? (int)syscall(SYS_madvise, addr, len, advice) :
					madvise(addr, len, advice);
}

#define munmap way_munmap
#define madvise way_madvise

struct run {
	char name[64];
	const struct change *change;
	const struct way *way;
	size_t pages;
};

static int way_setup(void **state)
{
	const struct run *run = *state;
	unsigned int i;

	calls_by_hand = run->way->by_hand;
	for (i = 0; i < run->way->devs; i++) {
		struct dummy_options opt = { .not_prompt = run->way->not_prompt[i] };

		opt.fault_window = run->pages == 1 ? 1 : 0;
		if (dummy_create(&dev[i], &opt))
			return -1;
		devs = i + 1;
	}
	return 0;
}

static void (*way_end)(void); /* before the devices go, also after a failure */

static int way_teardown(void **state)
{
	int ret = 0;

	(void)state;
	if (way_end)
		way_end();
	while (devs)
		ret |= dummy_destroy(dev[--devs]);
	return ret;
}

static void way_run(void **state)
{
	const struct run *run = *state;

	test_begin(run->name, 20);
	run->change->fn(run->pages);
}

UNUSED static int changes_main(const char *group, const struct change *change, size_t n)
{
	static const struct way ways[] = {
		{ "prompt", 1, { false, false }, false },
		{ "not_prompt", 1, { true, false }, false },
		{ "both", 2, { false, true }, false },
		{ "by_hand", 1, { false, false }, true },
	};
	static const size_t sizes[] = { 1, MANY };
	static struct run runs[CHANGES_MAX * 8];
	static struct CMUnitTest tests[CHANGES_MAX * 8];
	size_t i, count = 0;

	for (i = 0; i < n * 8; i++) {
		struct run *run = &runs[count];

		run->change = &change[i / 8];
		run->way = &ways[i / 2 % 4];
		run->pages = sizes[i % 2];
		snprintf(run->name, sizeof(run->name), "%s, %s, %zu", run->change->name,
			 run->way->name, run->pages);
		tests[count++] =
			(struct CMUnitTest){ run->name, way_run, way_setup, way_teardown, run };
	}
	return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}

#define CHANGES_MAIN(list)                                                           \
	int main(void)                                                               \
	{                                                                            \
		test_init();                                                         \
		return changes_main(__FILE__, list, sizeof(list) / sizeof(list[0])); \
	}

#endif
