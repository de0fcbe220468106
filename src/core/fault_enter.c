/* SPDX-License-Identifier: MIT */
/*
 * The end of a device fault: entries, DMA mappings, update().
 *
 *	1. compose each entry; what an earlier fault or the driver knows of the same
 *	   page is kept: its mapping, dirty bit, private bits, that it was writable
 *	2. dma_map() what has no mapping that will do
 *	3. store the entries
 *	4. update()
 *	5. end the mappings that were replaced
 *	6. take out what may be used only once, and end its mappings
 *
 * If update() fails, all of the range is taken away: the device may have some.
 */
#include <errno.h>
#include <string.h>

#include "core/fault.h"

static bool entry_same(const struct fault *fault, hmm_pte_t old, hmm_pte_t pte)
{
	if (!hmm_pte_test_valid(old) || hmm_pte_test_device(old) != hmm_pte_test_device(pte))
		return false;
	/* A mapping in a valid entry is of what is there: else an event had ended it. */
	if (!hmm_pte_test_device(pte) && dma_used(fault->ms))
		return hmm_pte_test_dma(old);
	return hmm_pte_addr(old) == hmm_pte_addr(pte);
}

static hmm_pte_t entry_compose(const struct fault *fault, unsigned int i)
{
	hmm_pte_t keep = HMM_PTE_DIRTY | HMM_PTE_DRIVER | HMM_PTE_WRITE;
	hmm_pte_t old = fault->batch->from[i], special = fault->batch->src[i], pte;

	if (special)
		pte = hmm_pte_addr(special) | HMM_PTE_DEVICE | HMM_PTE_VALID;
	else
		pte = hmm_pte_from_addr(fault_addr(fault, i), HMM_PTE_VALID);
	if (fault->write)
		pte |= HMM_PTE_WRITE;
	if (fault->batch->kind[i] & FAULT_ONCE)
		pte |= HMM_PTE_ONCE;
	if (!entry_same(fault, old, pte))
		return pte;
	if (hmm_pte_test_dma(old) && (!fault->write || hmm_pte_test_write(old)))
		return old;
	return pte | (old & keep);
}

/* The same for all, where there is nothing but system memory, and nothing known of it. */
static void entries_compose(struct fault *fault)
{
	hmm_pte_t pte = hmm_pte_from_addr(fault->start, HMM_PTE_VALID);
	unsigned long step = hmm_page_size();
	unsigned int i;

	if (fault->write)
		pte |= HMM_PTE_WRITE;
	if (fault->away || fault->known || fault->once)
		for (i = 0; i < fault->pages; i++)
			fault->batch->dst[i] = entry_compose(fault, i);
	else
		for (i = 0; i < fault->pages; i++)
			fault->batch->dst[i] = pte + i * step;
}

/*
 * Steps 1 and 2. @fresh: the mappings made here, to be ended if the entries cannot
 * be stored. A page that cannot be mapped keeps the entry it had.
 */
static int enter_compose(struct fault *fault, hmm_pte_t *fresh)
{
	struct batch *batch = fault->batch;
	unsigned int i, mapped = 0;
	int ret;

	entries_compose(fault);
	if (!dma_used(fault->ms)) {
		fault->mapped += fault->pages;
		return (int)fault->pages;
	}
	for (i = 0; i < fault->pages; i++) {
		hmm_pte_t flags = batch->dst[i] & (HMM_PTE_VALID | HMM_PTE_WRITE);

		fresh[i] = 0;
		if (!batch->src[i] && !hmm_pte_test_dma(batch->dst[i]))
			fresh[i] = hmm_pte_from_addr(fault_addr(fault, i), flags);
	}
	ret = dma_map(fault->ms, fault->start, fault->end, fresh);
	for (i = 0; i < fault->pages; i++) {
		hmm_pte_t pte = batch->dst[i];

		if (fresh[i])
			batch->dst[i] = hmm_pte_from_dma(pte, hmm_pte_addr(fresh[i]));
		else if (!batch->src[i] && !hmm_pte_test_dma(pte))
			batch->dst[i] = batch->from[i];
		else
			batch->from[i] = 0; /* goes on */
		if (fresh[i] || batch->src[i] || hmm_pte_test_dma(pte))
			mapped++;
		else
			batch->from[i] = 0; /* failed: likewise */
	}
	if (mapped < fault->pages)
		fault->error = ret < 0 ? ret : -EIO;
	fault->mapped += mapped;
	return (int)mapped;
}

/* Step 6. */
static void enter_end_once(struct fault *fault)
{
	struct batch *batch = fault->batch;
	unsigned int i;

	mirror_read(fault->ms, fault->start, fault->end, batch->dst);
	for (i = 0; i < fault->pages; i++) {
		batch->from[i] = batch->kind[i] & FAULT_ONCE ? batch->dst[i] : 0;
		if (batch->kind[i] & FAULT_ONCE)
			batch->dst[i] = 0;
	}
	/* Its directory exists, if it has entries: this takes no memory. */
	mirror_set(fault->ms, fault->start, fault->end, batch->dst);
	dirty_keep(fault->ms, fault->start, fault->end, batch->from);
	dma_unmap(fault->ms, fault->start, fault->end, batch->from);
}

int fault_enter(struct fault *fault)
{
	hmm_pte_t fresh[CHUNK_PAGES_MAX];
	int ret;

	if (!enter_compose(fault, fresh))
		return 0; /* none could be mapped: fault->error */
	ret = mirror_set(fault->ms, fault->start, fault->end, fault->batch->dst);
	if (ret) {
		dma_unmap(fault->ms, fault->start, fault->end, fresh);
		return ret;
	}
	ret = call_update(fault->ms, fault->start, fault->end,
			  fault->write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT, fault->cookie);
	if (ret) {
		if (call_update(fault->ms, fault->start, fault->end, HMM_MIGRATE, NULL))
			mirror_kill(fault->ms);
		mirror_clear(fault->ms, fault->start, fault->end);
	}
	dma_unmap(fault->ms, fault->start, fault->end, fault->batch->from);
	if (!ret && fault->once && !MUTANT(ONCE_KEPT))
		enter_end_once(fault);
	return ret;
}
