// SPDX-License-Identifier: MIT
/*
 * How fast is a snapshot of the CPU page table?
 *
 * 256 MiB in one range, taken and found to be still so (hmm_range_done()):
 *
 *	snapshot	hmm_range_snapshot()
 *	fault		hmm_range_fault(), of pages that are all there
 *	..._write	with HMM_RANGE_WRITE: which of them the device may write
 *
 * of 4 KiB pages, of huge pages, and of every other page with a hole between.
 * Reference: bare PAGEMAP_SCAN over the same memory, for what libhmm has to know, in as
 * few calls as give right answers (512 regions); both take turns, in either order. Which
 * pages are mapped nowhere else, and so can be written as they are, it cannot tell: that is in
 * each page's descriptor, and read from /proc/self/pagemap. So for "write" the reference
 * reads that too.
 *
 * The goal is for 4 KiB pages. Of a huge page the kernel tells in one step what is 512
 * entries for a driver: there fill_ms, the time it takes to write them alone, says what
 * can be had.
 */
#include "bench_hmm.h"
#include "bench_scan.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BYTES (256 * BENCH_MIB)
#define REGIONS 512
#define ENTRIES 1024ul
#define ROUNDS 15

enum layout { SMALL, HUGE, HOLES, LAYOUTS };

/* In the arena: libhmm calls its update() while pages are on their way. */
struct noop {
	struct hmm_device device;
	struct hmm_mirror mirror;
};

struct snap_bench {
	enum layout layout;
	char *range;
	int pagemap;
	struct noop *noop;
	hmm_pfn_t *pfns;
	bool fault;
	uint32_t flags;
	double ms[ROUNDS], scan[ROUNDS], fill[ROUNDS];
};

static const char *const layout_name[LAYOUTS] = { "4k", "thp", "holes" };

static int noop_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	return 0;
}

static const struct hmm_device_ops noop_ops = {
	.size = sizeof(noop_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = noop_update,
};

static void noop_open(struct snap_bench *b)
{
	struct noop *noop = hmm_alloc(sizeof(*noop));

	if (!noop)
		bench_fail("no memory");
	noop->device.size = sizeof(noop->device);
	noop->device.flags = HMM_DEVICE_PROMPT;
	noop->device.ops = &noop_ops;
	noop->device.name = "noop";
	noop->mirror.size = sizeof(noop->mirror);
	noop->mirror.device = &noop->device;
	if (hmm_device_register(&noop->device) || hmm_mirror_register(&noop->mirror))
		bench_fail("the noop device was refused");
	b->noop = noop;
}

static void noop_close(struct snap_bench *b)
{
	if (hmm_mirror_unregister(&b->noop->mirror) || hmm_device_unregister(&b->noop->device))
		bench_fail("the noop device stays");
	hmm_free(b->noop);
}

/* How many pages are exclusive. */
static size_t read_all(struct snap_bench *b)
{
	static uint64_t entries[ENTRIES];
	size_t first = (uintptr_t)b->range / bench_page_size(), at, i, owned = 0;

	for (at = 0; at < BYTES / bench_page_size(); at += ENTRIES) {
		if (pread(b->pagemap, entries, sizeof(entries), (off_t)((first + at) * 8)) !=
		    (ssize_t)sizeof(entries))
			bench_fail("pagemap");
		for (i = 0; i < ENTRIES; i++)
			owned += entries[i] >> 56 & 1;
	}
	return owned;
}

/* Milliseconds, as below. How many bytes are present is checked. */
static double scan_all(struct snap_bench *b)
{
	static struct page_region regions[REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)b->range,
		.end = (uintptr_t)b->range + BYTES,
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
	};
	size_t present = 0, owned = 0;
	uint64_t t0 = bench_ns(), t1;
	int i, n = REGIONS;

	for (; n == REGIONS && arg.start < arg.end; arg.start = arg.walk_end) {
		n = ioctl(b->pagemap, PAGEMAP_SCAN, &arg);
		for (i = 0; i < n; i++)
			present += regions[i].end - regions[i].start;
	}
	if (b->flags & HMM_RANGE_WRITE)
		owned = read_all(b);
	t1 = bench_ns();
	if (b->flags & HMM_RANGE_WRITE && owned != present / bench_page_size())
		bench_fail("%zu pages are exclusive, of %zu", owned, present / bench_page_size());
	if (n < 0 || present != (b->layout == HOLES ? BYTES / 2 : BYTES))
		bench_fail("PAGEMAP_SCAN finds %zu bytes of %lu", present, BYTES);
	return (double)(t1 - t0) / 1e6;
}

static double take_all(struct snap_bench *b)
{
	struct hmm_range range = {
		.size = sizeof(range),
		.flags = b->flags,
		.mirror = &b->noop->mirror,
		.start = (uintptr_t)b->range,
		.end = (uintptr_t)b->range + BYTES,
		.pfns = b->pfns,
	};
	uint64_t t0 = bench_ns(), t1;
	int ret = b->fault ? hmm_range_fault(&range) : hmm_range_snapshot(&range);
	bool done = !ret && hmm_range_done(&range);

	t1 = bench_ns();
	if (!done)
		bench_fail("snapshot: %s", ret ? strerror(-ret) : "not so any more");
	return (double)(t1 - t0) / 1e6;
}

static double fill_all(struct snap_bench *b)
{
	size_t i, page = bench_page_size();
	uint64_t t0 = bench_ns();

	for (i = 0; i < BYTES / page; i++)
		b->pfns[i] = ((uintptr_t)b->range + i * page) | HMM_PFN_VALID;
	__asm__ volatile("" : : "r"(b->pfns) : "memory");
	return (double)(bench_ns() - t0) / 1e6;
}

/* Every entry is what the memory is. */
static void check(const struct snap_bench *b)
{
	hmm_pfn_t want = HMM_PFN_VALID | (b->layout == HUGE ? HMM_PFN_HUGE : 0);
	size_t i, page = bench_page_size();

	want |= b->flags & HMM_RANGE_WRITE ? HMM_PFN_WRITE : 0;
	for (i = 0; i < BYTES / page; i++) {
		hmm_pfn_t pfn = ((uintptr_t)b->range + i * page) | want;

		if (b->pfns[i] != (b->layout == HOLES && i % 2 ? 0 : pfn))
			bench_fail("entry %zu is %#llx, not %#llx", i,
				   (unsigned long long)b->pfns[i], (unsigned long long)pfn);
	}
}

static void one_round(struct snap_bench *b, int round)
{
	double scan = 0, ms, fill;

	if (round & 1)
		scan = scan_all(b);
	ms = take_all(b);
	if (!(round & 1))
		scan = scan_all(b);
	check(b);
	fill = fill_all(b);
	if (round < 0)
		return;
	b->ms[round] = ms;
	b->scan[round] = scan;
	b->fill[round] = fill;
}

/* The rates, in pages, and how near the one comes to the other. */
static void measure(struct snap_bench *b, bool fault, uint32_t flags)
{
	double pages = (double)BYTES / bench_page_size(), r[ROUNDS], rate[ROUNDS], ref[ROUNDS];
	char name[64];
	int round;

	b->fault = fault;
	b->flags = flags;
	for (round = -1; round < ROUNDS; round++)
		one_round(b, round);
	for (round = 0; round < ROUNDS; round++) {
		rate[round] = pages / b->ms[round] / 1000;
		ref[round] = pages / b->scan[round] / 1000;
		r[round] = rate[round] / ref[round];
	}
	snprintf(name, sizeof(name), "%s%s_%s", fault ? "fault" : "snapshot",
		 flags & HMM_RANGE_WRITE ? "_write" : "", layout_name[b->layout]);
	bench_result(name, bench_median(rate, ROUNDS), "Mpages/s", bench_median(r, ROUNDS),
		     b->layout == HUGE ? "none" : ">=0.80",
		     "ref=bare_pagemap_%s ref_value=%.3f ms=%.3f fill_ms=%.3f",
		     flags & HMM_RANGE_WRITE ? "scan_and_read" : "scan", bench_median(ref, ROUNDS),
		     bench_median(b->ms, ROUNDS), bench_median(b->fill, ROUNDS));
}

static void run(enum layout layout)
{
	struct snap_bench b = { .layout = layout };
	size_t at, page = bench_page_size();

	b.range = bench_map(BYTES, layout == HUGE ? BENCH_THP : BENCH_SMALL);
	for (at = 0; at < BYTES; at += layout == HOLES ? 2 * page : page)
		b.range[at] = 1;
	if (layout == HUGE && bench_huge_bytes(b.range, BYTES) < BYTES) {
		printf("# snapshot_thp: left out, the kernel gave no huge pages\n");
		return;
	}
	b.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	b.pfns = malloc(BYTES / page * sizeof(*b.pfns));
	if (b.pagemap < 0 || !b.pfns)
		bench_fail("no memory, or no page map");
	noop_open(&b);
	measure(&b, false, 0);
	measure(&b, false, HMM_RANGE_WRITE);
	if (layout != HOLES) {
		measure(&b, true, 0);
		measure(&b, true, HMM_RANGE_WRITE);
	}
	noop_close(&b);
	free(b.pfns);
	close(b.pagemap);
	bench_unmap(b.range, BYTES);
}

int main(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	int layout;

	bench_hmm_probe();
	if (hmm_probe(&features) || !features.pagemap_scan)
		bench_skip("the kernel has no PAGEMAP_SCAN");
	bench_header("snapshot", "%lu MiB in one range, %d rounds, medians", BYTES / BENCH_MIB,
		     ROUNDS);
	for (layout = 0; layout < LAYOUTS; layout++)
		run((enum layout)layout);
	return 0;
}
