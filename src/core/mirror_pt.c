/* SPDX-License-Identifier: MIT */
/*
 * The mirror page table, and taking permission away.
 *
 * ms->mirror->pt says what the device may have in its own table. It changes only
 * within an active op on the range that is alone there, but for what two faults of
 * different mirrors do to their own. An invalidation goes to every mirror that has
 * entries in the range, or took a snapshot of it (range.c), and to no other (G10).
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

/* Entries that were taken out, of one directory. */
static void mirror_taken(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
			 hmm_pte_t *ptes)
{
	if (!MUTANT(DIRTY_LOST))
		dirty_keep(ms, start, end, ptes);
	if (!MUTANT(DMA_STALE))
		dma_unmap(ms, start, end, ptes);
}

/* What the entries know and hold is to be dealt with: dirty bits, DMA mappings. */
static void mirror_take(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	hmm_pte_t taken[HMM_PT_DIR_ENTRIES];
	struct hmm_pt_iter iter;
	unsigned long addr = start;

	pt_iter_init(&iter, &ms->mirror->pt);
	while (addr < end) {
		unsigned long next = end, i, n;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		n = (next - addr) >> hmm_page_shift();
		for (i = 0; ptep && i < n; i++)
			taken[i] = hmm_pte_load(&ptep[i]);
		if (ptep) {
			pt_iter_fill(&iter, ptep, NULL, (unsigned int)n);
			mirror_taken(ms, addr, next, taken);
		}
		addr = next;
	}
	hmm_pt_iter_fini(&iter);
}

void mirror_clear(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	if (dma_used(ms) || dirty_tracked(ms))
		mirror_take(ms, start, end);
	else
		pt_clear(&ms->mirror->pt, start, end);
}

/* A part of one chunk; false: no entry is there. */
bool mirror_read(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes)
{
	return pt_load(&ms->mirror->pt, start, end, ptes);
}

/* Entries for a part of one chunk, 0 empties; -ENOMEM changes nothing. */
int mirror_set(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
	       const hmm_pte_t *ptes)
{
	return pt_store(&ms->mirror->pt, start, end, ptes);
}

int mirror_sources(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		   const hmm_pte_t *ptes)
{
	unsigned long i, run, n = (end - start) >> hmm_page_shift();
	int ret = 0;

	for (i = 0; i < n && !ret; i += run) {
		unsigned long addr = start + (i << hmm_page_shift());

		for (run = 1; i + run < n && !ptes[i + run] == !ptes[i]; run++)
			;
		if (ptes[i])
			ret = mirror_set(ms, addr, addr + (run << hmm_page_shift()), ptes + i);
	}
	return ret;
}

static void mirror_protect(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct hmm_pt_iter iter;
	unsigned long addr = start;

	pt_iter_init(&iter, &ms->mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++)
			if (hmm_pte_test_write(hmm_pte_load(ptep)))
				__atomic_fetch_and(ptep, ~HMM_PTE_WRITE, __ATOMIC_ACQ_REL);
	}
	hmm_pt_iter_fini(&iter);
}

/* Is there anything that the mirror's device may know of the range? */
static bool mirror_concerned(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	return !pt_range_empty(&ms->mirror->pt, start, end) || range_watched(ms, start, end);
}

static void mirror_tell(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
			enum hmm_etype etype)
{
	range_break(ms, start, end);
	if (!mirror_is_dead(ms) && call_update(ms, start, end, etype, NULL) &&
	    !MUTANT(FAILURE_IGNORED))
		mirror_kill(ms);
	if (etype == HMM_MIGRATE || etype == HMM_MUNMAP) {
		mirror_clear(ms, start, end);
		range_forget(ms, start, end);
	} else if (!MUTANT(WRITABLE_STILL)) {
		mirror_protect(ms, start, end);
	}
}

void mirror_update(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		   enum hmm_etype etype)
{
	if (mirror_concerned(ms, start, end))
		mirror_tell(ms, start, end, etype);
}

#define TELL_MAX 8u

/* Up to TELL_MAX that the range concerns, from *@next on, or from the first where that is NULL. */
static unsigned int mirrors_find(struct hmm *hmm, unsigned long start, unsigned long end,
				 struct hmm_mirror_state **next, struct hmm_mirror_state **found)
{
	struct hmm_mirror_state *ms;
	unsigned int n = 0;

	pthread_mutex_lock(&hmm->lock);
	for (ms = *next ? *next : TAILQ_FIRST(&hmm->mirrors); ms && n < TELL_MAX;
	     ms = TAILQ_NEXT(ms, link))
		if (mirror_concerned(ms, start, end))
			found[n++] = ms;
	*next = ms;
	pthread_mutex_unlock(&hmm->lock);
	return n;
}

/* The caller's op keeps the mirrors (mirror.c), and others from making entries. */
void mirrors_update(struct hmm *hmm, unsigned long start, unsigned long end, enum hmm_etype etype)
{
	struct hmm_mirror_state *found[TELL_MAX], *next = NULL;
	unsigned int i, n;

	do {
		n = mirrors_find(hmm, start, end, &next, found);
		for (i = 0; i < n; i++)
			mirror_tell(found[i], start, end, etype);
	} while (next);
}

/* Has any mirror an entry in the range, or is one just being made? */
bool mirrors_touched(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct hmm_mirror_state *ms;
	bool touched;

	pthread_mutex_lock(&hmm->lock);
	touched = op_any_fault(hmm, start, end);
	TAILQ_FOREACH(ms, &hmm->mirrors, link)
		touched = touched || mirror_concerned(ms, start, end);
	pthread_mutex_unlock(&hmm->lock);
	return touched;
}

/* hmm->lock held: would mirrors_update() call only devices that never wait? */
bool mirrors_prompt(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct hmm_mirror_state *ms;

	TAILQ_FOREACH(ms, &hmm->mirrors, link)
		if (!(ms->dev->flags & HMM_DEVICE_PROMPT) && mirror_concerned(ms, start, end))
			return false;
	return true;
}
