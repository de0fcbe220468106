/* SPDX-License-Identifier: MIT */
/*
 * The driver's ops, each called in one place: with the state checked that the
 * contract in device.h promises, and the result checked that it asks for.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

/* The op that this thread runs: whose, and the range it is called for. */
struct call {
	bool running;
	struct hmm_mirror_state *ms; /* NULL: one that is of no mirror */
	unsigned long start;
	unsigned long end;
};

static __thread struct call call;

bool call_running(void)
{
	return call.running;
}

struct hmm_mirror_state *call_current(void)
{
	return call.ms;
}

bool call_covers(const struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	return call.running && call.ms == ms && start >= call.start && end <= call.end;
}

static void call_enter(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	HMM_ASSERT(!call.running);
	call = (struct call){ .running = true, .ms = ms, .start = start, .end = end };
}

static void call_leave(void)
{
	call = (struct call){ .running = false };
}

static int call_result(struct hmm_mirror_state *ms, const char *op, int ret)
{
	if (ret == 0 || ret == -ENOMEM || ret == -EIO)
		return ret;
	log_err("device %s: %s() returned %d, which it may not: taken as -EIO",
		ms->dev->device->name, op, ret);
	return -EIO;
}

int call_update(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		enum hmm_etype etype, void *cookie)
{
	struct hmm_event event = { .start = start, .end = end, .etype = etype, .cookie = cookie };
	uint64_t begun;
	int ret;

	HMM_ASSERT(start < end);
	if (!ms->ops->update)
		return 0; /* a device that only has memory */
	if (etype != HMM_DEVICE_RFAULT && etype != HMM_DEVICE_WFAULT &&
	    etype != HMM_DEVICE_EXCLUSIVE)
		stat_inc(invalidations);
	call_enter(ms, start, end);
	begun = trace_update_begin(ms->dev->label, etype, start, end);
	ret = ms->ops->update(ms->mirror, &event);
	trace_update_end(begun, ms->dev->label, etype, start, end, ret);
	call_leave();
	return call_result(ms, "update", ret);
}

/* An entry that is not a valid page of this device that can come back. */
static bool dst_bad(struct hmm_mirror_state *ms, hmm_pte_t dst)
{
	struct hmm_page *page;

	if (!hmm_pte_test_valid(dst) || !hmm_pte_test_device(dst))
		return true;
	page = hmm_page_from_pfn(hmm_pte_pfn(dst));
	if (!page || devmem_device(page) != ms->dev->device)
		return true;
	return !ms->ops->copy_from_device && !devmem_ops(page)->copy_from_device;
}

/* A page of the device that is not taken: the reference came with it. */
static void dst_put(struct hmm_mirror_state *ms, const char *op, hmm_pte_t dst)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(dst));

	log_err("device %s: %s() gave an entry it may not: 0x%llx", ms->dev->device->name, op,
		(unsigned long long)dst);
	if (hmm_pte_test_valid(dst) && hmm_pte_test_device(dst) && page &&
	    devmem_device(page) == ms->dev->device &&
	    __atomic_load_n(&page->refcount, __ATOMIC_RELAXED))
		hmm_page_put(page);
}

/*
 * What a driver that was to copy gave back, where it was asked. Of pages in a row the first
 * says what the others are: flags, region and so device are the same.
 */
static int dst_check(struct hmm_mirror_state *ms, const char *op, int ret, const hmm_pte_t *src,
		     hmm_pte_t *dst, unsigned long n)
{
	unsigned long i = 0, end;

	ret = call_result(ms, op, ret);
	while (i < n) {
		bool bad = ret || dst_bad(ms, dst[i]);

		for (end = i + devmem_run(dst + i, n - i); i < end; i++)
			if (dst[i] && (bad || !src[i])) {
				dst_put(ms, op, dst[i]);
				dst[i] = 0;
			}
	}
	return ret;
}

int call_copy_to_device(struct hmm_mirror_state *ms, const hmm_pte_t *src, hmm_pte_t *dst,
			unsigned long start, unsigned long end)
{
	struct hmm_event event = { .start = start, .end = end, .etype = HMM_COPY_TO_DEVICE };
	unsigned long n = (end - start) >> hmm_page_shift();
	uint64_t begun = trace_copy_begin(ms->dev->label, HMM_COPY_TO_DEVICE, start, end);
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	memset(dst, 0, n * sizeof(*dst));
	call_enter(ms, start, end);
	ret = ms->ops->copy_to_device(ms->mirror, &event, dst, start, end);
	call_leave();
	trace_copy_end(begun, ms->dev->label, HMM_COPY_TO_DEVICE, start, end, ret);
	return dst_check(ms, "copy_to_device", ret, src, dst, n);
}

int call_alloc_and_copy(struct hmm_mirror_state *ms, struct hmm_migrate *migrate,
			const hmm_pte_t *src, hmm_pte_t *dst, unsigned long start,
			unsigned long end)
{
	uint64_t begun = trace_copy_begin(ms->dev->label, HMM_COPY_TO_DEVICE, start, end);
	unsigned long n = (end - start) >> hmm_page_shift();
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	memset(dst, 0, n * sizeof(*dst));
	call_enter(ms, start, end);
	ret = migrate->ops->alloc_and_copy(migrate, src, dst, start, end);
	call_leave();
	trace_copy_end(begun, ms->dev->label, HMM_COPY_TO_DEVICE, start, end, ret);
	return dst_check(ms, "alloc_and_copy", ret, src, dst, n);
}

void call_finalize_and_map(struct hmm_mirror_state *ms, struct hmm_migrate *migrate,
			   const hmm_pte_t *src, const hmm_pte_t *dst, unsigned long start,
			   unsigned long end)
{
	call_enter(ms, start, end);
	migrate->ops->finalize_and_map(migrate, src, dst, start, end);
	call_leave();
}

/* Pages of one region, by its op. */
static void copy_region(struct hmm_mirror_state *ms, enum hmm_etype etype, const hmm_pte_t *src,
			hmm_pte_t *dst, unsigned long start, unsigned long n)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(src[0]));
	unsigned long end = start + (n << hmm_page_shift());
	int ret = -EIO;

	if (devmem_ops(page)->copy_from_device) {
		call_enter(ms, start, end);
		ret = devmem_ops(page)->copy_from_device(hmm_page_devmem(page), etype, src, dst,
							 start, end);
		call_leave();
	}
	if (call_result(ms, "copy_from_device", ret))
		memset(dst, 0, n * sizeof(*dst));
}

/* How many of @n entries are of the region that the first is of, or empty. */
static unsigned long region_span(const hmm_pte_t *src, unsigned long n)
{
	struct hmm_devmem *devmem = hmm_page_devmem(hmm_page_from_pfn(hmm_pte_pfn(src[0])));
	unsigned long i;

	for (i = devmem_run(src, n); i < n; i += devmem_run(src + i, n - i))
		if (src[i] && hmm_page_devmem(hmm_page_from_pfn(hmm_pte_pfn(src[i]))) != devmem)
			break;
	return i;
}

/* A device has nothing of its own to copy with: its regions do it, each what is there. */
static void copy_regions(struct hmm_mirror_state *ms, enum hmm_etype etype, const hmm_pte_t *src,
			 hmm_pte_t *dst, unsigned long start, unsigned long n)
{
	unsigned long i = 0, span;

	for (; i < n; i += span) {
		span = 1;
		if (!src[i])
			continue;
		span = region_span(src + i, n - i);
		copy_region(ms, etype, src + i, dst + i, start + (i << hmm_page_shift()), span);
	}
}

static int copy_back(struct hmm_mirror_state *ms, enum hmm_etype etype, const hmm_pte_t *src,
		     hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct hmm_event event = { .start = start, .end = end, .etype = etype };
	int ret;

	if (device_is_lost(ms->dev))
		return -EIO;
	if (!ms->ops->copy_from_device) {
		copy_regions(ms, etype, src, dst, start, (end - start) >> hmm_page_shift());
		return 0;
	}
	call_enter(ms, start, end);
	ret = ms->ops->copy_from_device(ms->mirror, &event, dst, start, end);
	call_leave();
	return call_result(ms, "copy_from_device", ret);
}

/*
 * The device's own op looks its sources up in the mirror's page table; that of a region is
 * given them.
 */
static int sources_show(struct hmm_mirror_state *ms, const hmm_pte_t *src, unsigned long start,
			unsigned long end)
{
	return ms->ops->copy_from_device ? mirror_sources(ms, start, end, src) : 0;
}

/* With HMM_FORK the device goes on, and what it had there stays. */
static void sources_hide(struct hmm_mirror_state *ms, enum hmm_etype etype, unsigned long start,
			 unsigned long end)
{
	if (ms->ops->copy_from_device && etype == HMM_COPY_FROM_DEVICE)
		mirror_clear(ms, start, end);
}

/*
 * The device pages in @src to @dst, both 0 where there is none. What the device could not
 * copy is 0 in @dst afterwards, the rest is as it was. -ENOMEM: the device could not be
 * given the pages; nothing was tried.
 */
int call_copy_from_device(struct hmm_mirror_state *ms, enum hmm_etype etype, const hmm_pte_t *src,
			  hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	unsigned long i, n = (end - start) >> hmm_page_shift();
	hmm_pte_t cpu[CHUNK_PAGES_MAX], dma[CHUNK_PAGES_MAX];
	uint64_t begun;
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	memcpy(cpu, dst, n * sizeof(*dst));
	ret = sources_show(ms, src, start, end);
	if (!ret)
		ret = dma_map_copy(ms, start, end, dst);
	if (ret == -ENOMEM) {
		sources_hide(ms, etype, start, end);
		memcpy(dst, cpu, n * sizeof(*dst));
		return ret;
	}
	if (dma_used(ms))
		memcpy(dma, dst, n * sizeof(*dst));
	begun = trace_copy_begin(ms->dev->label, etype, start, end);
	if (!ret)
		ret = copy_back(ms, etype, src, dst, start, end);
	trace_copy_end(begun, ms->dev->label, etype, start, end, ret);
	dma_unmap(ms, start, end, dma);
	sources_hide(ms, etype, start, end);
	for (i = 0; i < n; i++)
		dst[i] = ret || !dst[i] ? 0 : cpu[i];
	return ret ? -EIO : 0;
}

int call_evict(struct hmm_devmem *devmem, const struct hmm_devmem_ops *ops, unsigned long pages,
	       unsigned long *start, unsigned long *end)
{
	int ret;

	call_enter(NULL, 0, 0);
	ret = ops->evict(devmem, pages, start, end);
	call_leave();
	return ret || range_valid(*start, *end) ? ret : -EINVAL;
}

/* Of each of @n pages; from wherever a last reference goes, also from another op. */
void call_free(struct hmm_devmem *devmem, const struct hmm_devmem_ops *ops, struct hmm_page *page,
	       unsigned long n)
{
	struct call outer = call;

	call = (struct call){ .running = true };
	for (; n; n--)
		ops->free(devmem, page++);
	call = outer;
}

/* NULL: it is to be copied by the device. */
const void *call_cpu_page(struct hmm_mirror_state *ms, struct hmm_page *page, unsigned long addr)
{
	const void *at;

	if (!devmem_ops(page)->cpu_page || device_is_lost(ms->dev))
		return NULL;
	call_enter(ms, addr, addr + hmm_page_size());
	at = devmem_ops(page)->cpu_page(hmm_page_devmem(page), page);
	call_leave();
	return (uintptr_t)at & (hmm_page_size() - 1) ? NULL : at;
}

/* hmm->lock held, as with release(). */
void call_around(const struct hmm_page *page, unsigned long addr, unsigned long *start,
		 unsigned long *end)
{
	call_enter(NULL, 0, 0);
	devmem_ops(page)->around(hmm_page_devmem(page), addr, start, end);
	call_leave();
}

/* An entry that is not the one that was given, mapped. */
static bool dma_bad(hmm_pte_t given, hmm_pte_t pte)
{
	return (pte & HMM_PTE_FLAGS) != ((given | HMM_PTE_DMA) & HMM_PTE_FLAGS);
}

int call_dma_map(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes)
{
	unsigned long i, n = (end - start) >> hmm_page_shift();
	hmm_pte_t given[CHUNK_PAGES_MAX];
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	memcpy(given, ptes, n * sizeof(*ptes));
	call_enter(ms, start, end);
	ret = ms->ops->dma_map(ms->mirror, start, end, ptes);
	call_leave();
	ret = call_result(ms, "dma_map", ret);
	for (i = 0; i < n; i++) {
		if (ret) {
			ptes[i] = 0;
		} else if (ptes[i] && (!given[i] || dma_bad(given[i], ptes[i]))) {
			log_err("device %s: dma_map() gave an entry it may not: 0x%llx",
				ms->dev->device->name, (unsigned long long)ptes[i]);
			ptes[i] = 0;
		}
	}
	return ret;
}

void call_dma_unmap(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		    const hmm_pte_t *ptes)
{
	call_enter(ms, start, end);
	ms->ops->dma_unmap(ms->mirror, start, end, ptes);
	call_leave();
}

void call_hold(struct hmm_mirror_state *ms)
{
	call_enter(ms, 0, 0);
	ms->ops->hold(ms->mirror);
	call_leave();
}

void call_release(struct hmm_mirror_state *ms)
{
	call_enter(ms, 0, 0);
	ms->ops->release(ms->mirror);
	call_leave();
}
