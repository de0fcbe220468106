// SPDX-License-Identifier: MIT
/*
 * What does a device fault on pages cost that are present?
 *
 * 256 MiB that the CPU wrote; a device asks for them in batches of 1, 16 and 512
 * pages, batches spread evenly over all of it, in three states:
 *
 *	new	no device has ever asked for them; the first batch of each 2 MiB,
 *		which with 512 pages is every one, registers it as well
 *	again	the device has the pages already, with the same permission
 *	after	it had them; all was taken away since, by mprotect()
 *
 * Two drivers: "noop", whose update() only counts, shows what libhmm takes; the
 * dummy device enters the pages in a page table of its own. Reference: one bare
 * PAGEMAP_SCAN of each of the same batches, which asks the kernel for what libhmm
 * needs to know; both take turns, in either order.
 *
 * The goal is for 4 KiB pages. Of a huge page the kernel tells in one step, while
 * a device that translates 4 KiB pages wants 512 entries all the same; smaller
 * batches of it cost what they cost of small pages, and are left out.
 */
#include "bench_hmm.h"
#include "bench_scan.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (256 * BENCH_MIB)
#define BATCHES_MAX 4096ul
#define REGIONS 64
#define ROUNDS 7

enum state { NEW, AGAIN, AFTER, STATES };
enum driver { NOOP, DUMMY, DRIVERS };

/* In the arena: libhmm calls its update() while pages are on their way. */
struct noop {
	struct hmm_device device;
	struct hmm_mirror mirror;
	unsigned long updates;
};

struct fault_bench {
	char *range;
	int pagemap;
	size_t batch; /* bytes */
	size_t stride;
	enum driver driver;
	enum hmm_etype etype;
	struct noop *noop;
	struct bench_dev dev;
	struct hmm_mirror *mirror;
	double sample[BATCHES_MAX]; /* microseconds */
	double us[STATES][ROUNDS], scan[STATES][ROUNDS];
};

static const unsigned int batch_pages[3] = { 1, 16, 512 };

static int noop_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct noop *noop = hmm_container_of(mirror, struct noop, mirror);

	(void)event;
	noop->updates++;
	return 0;
}

static const struct hmm_device_ops noop_ops = {
	.size = sizeof(noop_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = noop_update,
};

static void noop_open(struct fault_bench *b)
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
	b->mirror = &noop->mirror;
}

static void device_open(struct fault_bench *b)
{
	if (b->driver == NOOP) {
		noop_open(b);
		return;
	}
	bench_dev_open(&b->dev, BENCH_HUGE);
	b->mirror = dummy_mirror(b->dev.dummy);
}

/* Without a mirror nothing is registered any more. */
static void device_close(struct fault_bench *b)
{
	if (b->driver == DUMMY) {
		bench_dev_close(&b->dev);
		return;
	}
	if (hmm_mirror_unregister(&b->noop->mirror) || hmm_device_unregister(&b->noop->device))
		bench_fail("the noop device stays");
	hmm_free(b->noop);
}

/* The p50 of all batches, in microseconds, as below. */
static double fault_all(struct fault_bench *b)
{
	unsigned long pages = b->batch / bench_page_size();
	struct hmm_event event;
	size_t at, i;
	uint64_t t0;

	for (at = 0, i = 0; at < BYTES; at += b->stride, i++) {
		event = (struct hmm_event){
			.start = (uintptr_t)b->range + at,
			.end = (uintptr_t)b->range + at + b->batch,
			.etype = b->etype,
		};
		t0 = bench_ns();
		if (hmm_mirror_fault(b->mirror, &event) || event.pages != pages)
			bench_fail("device fault at %#zx of %lu pages", at, pages);
		b->sample[i] = (double)(bench_ns() - t0) / 1000;
	}
	return bench_median(b->sample, BYTES / b->stride);
}

static double scan_all(struct fault_bench *b)
{
	struct page_region regions[REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO,
	};
	size_t at, i;
	uint64_t t0;

	for (at = 0, i = 0; at < BYTES; at += b->stride, i++) {
		arg.start = (uintptr_t)b->range + at;
		arg.end = arg.start + b->batch;
		t0 = bench_ns();
		if (ioctl(b->pagemap, PAGEMAP_SCAN, &arg) != 1)
			bench_fail("PAGEMAP_SCAN: no answer, or one too many, at %#zx", at);
		b->sample[i] = (double)(bench_ns() - t0) / 1000;
		if (regions[0].start != arg.start || regions[0].end != arg.end ||
		    regions[0].categories != PAGE_IS_PRESENT)
			bench_fail("PAGEMAP_SCAN does not find the pages at %#zx", at);
	}
	return bench_median(b->sample, BYTES / b->stride);
}

static void measure(struct fault_bench *b, enum state state, int round)
{
	double scan = 0, us;

	if (round & 1)
		scan = scan_all(b);
	us = fault_all(b);
	if (!(round & 1))
		scan = scan_all(b);
	if (round < 0)
		return;
	b->us[state][round] = us;
	b->scan[state][round] = scan;
}

/* By libc's mprotect(), which libhmm stands before. The pages stay where they are. */
static void take_away(struct fault_bench *b)
{
	if (mprotect(b->range, BYTES, PROT_NONE) ||
	    mprotect(b->range, BYTES, PROT_READ | PROT_WRITE))
		bench_fail("mprotect");
}

static void one_round(struct fault_bench *b, int round)
{
	unsigned long expect = 3 * BYTES / b->stride;

	device_open(b);
	measure(b, NEW, round);
	measure(b, AGAIN, round);
	take_away(b);
	measure(b, AFTER, round);
	if (b->driver == NOOP && b->noop->updates < expect)
		bench_fail("%lu calls of update(), not %lu", b->noop->updates, expect);
	device_close(b);
}

static void report(struct fault_bench *b, enum state state, enum bench_pages pages)
{
	static const char *const name_of[STATES] = { "new", "again", "after" };
	unsigned long n = b->batch / bench_page_size();
	double r[ROUNDS];
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++)
		r[i] = b->us[state][i] / b->scan[state][i];
	snprintf(name, sizeof(name), "device_%cfault_%lu_%s_%s_%s",
		 b->etype == HMM_DEVICE_WFAULT ? 'w' : 'r', n, name_of[state],
		 b->driver == NOOP ? "noop" : "dummy", bench_pages_name(pages));
	bench_result(name, bench_median(b->us[state], ROUNDS), "us", bench_median(r, ROUNDS),
		     n == 512 && b->driver == NOOP && pages == BENCH_SMALL ? "<=3" : "none",
		     "ref=bare_pagemap_scan ref_value=%.3f", bench_median(b->scan[state], ROUNDS));
}

static void run_batch(struct fault_bench *b, enum bench_pages pages)
{
	int round, state;

	for (round = -1; round < ROUNDS; round++)
		one_round(b, round);
	for (state = 0; state < STATES; state++)
		report(b, (enum state)state, pages);
}

static void run(enum bench_pages pages)
{
	static struct fault_bench b;
	unsigned int i;

	b.range = bench_map(BYTES, pages);
	bench_fill(b.range, BYTES, 1);
	if (pages == BENCH_THP && bench_huge_bytes(b.range, BYTES) < BYTES) {
		printf("# device_fault of huge pages: left out, the kernel gave none\n");
		return;
	}
	b.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	for (i = pages == BENCH_THP ? 2 : 0; i < 3; i++) {
		b.batch = batch_pages[i] * bench_page_size();
		b.stride = BYTES / BATCHES_MAX > b.batch ? BYTES / BATCHES_MAX : b.batch;
		for (b.driver = 0; b.driver < DRIVERS; b.driver++) {
			b.etype = HMM_DEVICE_RFAULT;
			run_batch(&b, pages);
			b.etype = HMM_DEVICE_WFAULT;
			run_batch(&b, pages);
		}
	}
	close(b.pagemap);
	bench_check(b.range, BYTES, 1, "after the device faults");
	bench_unmap(b.range, BYTES);
}

int main(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	bench_hmm_probe();
	if (hmm_probe(&features) || !features.pagemap_scan)
		bench_skip("the kernel has no PAGEMAP_SCAN");
	bench_header("device_fault", "%lu MiB, p50 of all batches, %d rounds, medians",
		     BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL);
	run(BENCH_THP);
	return 0;
}
