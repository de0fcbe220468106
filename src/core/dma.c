/* SPDX-License-Identifier: MIT */
/*
 * DMA mappings: what a mirror's entries hold where the device does not use CPU
 * addresses.
 *
 *	             dma_map()                 update(), then dma_unmap()
 *	no mapping ─────────────► HMM_PTE_DMA ──────────────────────────► no mapping
 *
 * A mapping belongs to the entry that holds it, and an entry changes only under an
 * active op on its address, so whoever takes the entry out of the table, or puts
 * another in its place, ends the mapping, once:
 *
 *	device fault	maps what has no mapping yet, or one without the
 *			permission asked for; ends the old one after update() has
 *			put the new one into the device page table
 *	invalidation	ends what it clears, after update(): mirror_clear()
 *	migration	maps the copy's sources, or destinations, and ends that when
 *			the copy is done: those pages are libhmm's own
 *	unregister	is an invalidation of everything; so is the end of a mirror
 *			that was killed (rescue.c)
 *
 * The order, update() before dma_unmap(), is what lets the driver pin: while the
 * device can use a page, the page is held.
 *
 * A page is mapped when it is known to be there, with the op active. If a madvise
 * takes it away just then, the driver's pin may fault it in again, and wait for the
 * monitor: which answers a hole whatever device faults are active (cpu_fault.c).
 */
#include <errno.h>

#include "core/core.h"

bool dma_used(const struct hmm_mirror_state *ms)
{
	return ms->ops->dma_map;
}

static unsigned int dma_pages(unsigned long start, unsigned long end)
{
	return (unsigned int)((end - start) >> hmm_page_shift());
}

/**
 * dma_map() - map the pages of a part of one directory
 * @ptes: in: valid entries with CPU addresses, or 0; out: what the device uses
 *
 * Return: how many are mapped, or if none is what dma_map() returned.
 * Context: an op is active on the range.
 */
int dma_map(struct hmm_mirror_state *ms, unsigned long start, unsigned long end, hmm_pte_t *ptes)
{
	unsigned int i, n = dma_pages(start, end), wanted = 0;
	int ret, mapped = 0;

	for (i = 0; i < n; i++)
		wanted += ptes[i] != 0;
	if (!wanted)
		return 0;
	ret = call_dma_map(ms, start, end, ptes);
	for (i = 0; i < n; i++)
		mapped += ptes[i] != 0;
	return mapped ? mapped : ret;
}

/**
 * dma_unmap() - end the mappings among some entries
 * @ptes: entries of any kind; on return those that were mappings
 */
void dma_unmap(struct hmm_mirror_state *ms, unsigned long start, unsigned long end, hmm_pte_t *ptes)
{
	unsigned int i, n = dma_pages(start, end), mapped = 0;

	if (!dma_used(ms))
		return;
	for (i = 0; i < n; i++) {
		if (!hmm_pte_test_dma(ptes[i]))
			ptes[i] = 0;
		mapped += ptes[i] != 0;
	}
	if (mapped)
		call_dma_unmap(ms, start, end, ptes);
}

/**
 * dma_map_copy() - map what a copy reads or writes: all of it or nothing
 * @ptes: in: valid entries with CPU addresses among others; out: those mapped
 *
 * Return: 0; -ENOMEM try again later; -EIO the device cannot reach memory.
 */
int dma_map_copy(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes)
{
	unsigned int i, n = dma_pages(start, end);
	hmm_pte_t map[CHUNK_PAGES_MAX];
	int wanted = 0, ret;

	if (!dma_used(ms))
		return 0;
	for (i = 0; i < n; i++) {
		map[i] = hmm_pte_test_valid(ptes[i]) && !hmm_pte_test_device(ptes[i]) ? ptes[i] : 0;
		wanted += map[i] != 0;
	}
	ret = dma_map(ms, start, end, map);
	if (ret < 0)
		return ret;
	if (ret < wanted) {
		dma_unmap(ms, start, end, map);
		return -ENOMEM;
	}
	for (i = 0; i < n; i++)
		if (map[i])
			ptes[i] = map[i];
	return 0;
}
