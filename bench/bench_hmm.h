/* SPDX-License-Identifier: MIT */
/*
 * libhmm's side of a benchmark: one dummy device, and calls that end the
 * program when anything but what was asked for happened, for a number about
 * half a migration answers nothing.
 */
#ifndef BENCH_HMM_H
#define BENCH_HMM_H

#include "bench.h"

#include <dummy.h>
#include <hmm/hmm.h>
#include <stdlib.h>
#include <string.h>

struct bench_dev {
	struct dummy_device *dummy;
};

/* Skip where pages cannot migrate. */
static inline void bench_hmm_probe(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	if (hmm_probe(&features))
		bench_fail("hmm_probe failed");
	if (!features.can_mirror || !features.can_migrate)
		bench_skip("%s", features.reason);
	if (features.user_mode_only)
		hmm_set_user_mode(true);
}

static inline void bench_dev_make(struct bench_dev *dev, size_t bytes, bool coherent)
{
	struct dummy_options opt = { .memory = bytes, .fault_window = 1, .coherent = coherent };
	int ret = dummy_create(&dev->dummy, &opt);

	if (ret)
		bench_fail("dummy_create: %s", strerror(-ret));
}

/* A device with room for @bytes, whose faults ask for no neighbours. */
static inline void bench_dev_open(struct bench_dev *dev, size_t bytes)
{
	bench_dev_make(dev, bytes, false);
}

static inline void bench_dev_close(struct bench_dev *dev)
{
	int ret = dummy_destroy(dev->dummy);

	if (ret)
		bench_fail("dummy_destroy: %s", strerror(-ret));
}

/* The device takes one fault on the range. */
static inline void bench_dev_mirror(struct bench_dev *dev, void *addr, size_t bytes, bool write)
{
	struct hmm_event event = {
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + bytes,
		.etype = write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT,
	};
	int ret = hmm_mirror_fault(dummy_mirror(dev->dummy), &event);

	if (ret)
		bench_fail("device fault: %s", strerror(-ret));
}

static inline void bench_dev_moved(const char *what, int ret, unsigned long pages, size_t bytes)
{
	if (ret)
		bench_fail("%s: %s", what, strerror(-ret));
	if (pages * bench_page_size() != bytes)
		bench_fail("%s: %lu pages of %zu", what, pages, bytes / bench_page_size());
}

static inline void bench_dev_migrate(struct bench_dev *dev, void *addr, size_t bytes)
{
	uint64_t start = (uintptr_t)addr;
	unsigned long pages = 0;
	int ret = dummy_migrate(dev->dummy, start, start + bytes, &pages);

	bench_dev_moved("to the device", ret, pages, bytes);
}

static inline void bench_dev_evict(struct bench_dev *dev, void *addr, size_t bytes)
{
	uint64_t start = (uintptr_t)addr;
	unsigned long pages = 0;
	int ret = dummy_evict(dev->dummy, start, start + bytes, &pages);

	bench_dev_moved("back", ret, pages, bytes);
}

/* Every page of the range must be there. */
static inline void bench_dev_expect(void *addr, size_t bytes, enum hmm_where where)
{
	size_t pages = bytes / bench_page_size(), i;
	uint8_t *at = malloc(pages);
	int ret;

	if (!at)
		bench_fail("no memory");
	ret = hmm_range_where((uintptr_t)addr, (uintptr_t)addr + bytes, at);
	if (ret)
		bench_fail("hmm_range_where: %s", strerror(-ret));
	for (i = 0; i < pages; i++)
		if (at[i] != where)
			bench_fail("page %zu of %zu is at %d, not %d", i, pages, at[i], where);
	free(at);
}

static inline uint64_t bench_dev_cpu_faults(void)
{
	struct hmm_stats stats = { .size = sizeof(stats) };

	if (hmm_get_stats(&stats))
		bench_fail("hmm_get_stats failed");
	return stats.cpu_faults;
}

#endif
