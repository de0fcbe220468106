/* SPDX-License-Identifier: MIT */
/*
 * Dirty: which pages has a device written?
 *
 * A driver sets HMM_PTE_DIRTY in the mirror's entries, by hmm_pte_set_dirty() when
 * update() takes write permission away, or for a range by hmm_mirror_range_dirty().
 * The kernel's HMM handed that to the page when the entry went. A page of user space
 * has no such bit: who wants to know asks, hmm_mirror_range_isdirty(), and what went
 * meanwhile must not be forgotten.
 *
 *	device writes ──► bit in the device's table ──update()──► bit in the entry
 *	                                                             │ entry goes
 *	              asked for, and cleared ◄── ms->dirty ◄─────────┘ (if tracked)
 *
 * ms->dirty is a page table of its own with an entry for each such page; from the
 * first question on, so that nobody pays who never asks. Like the entries it changes
 * under an op on the range; it moves with mremap and ends with the content.
 */
#include <errno.h>

#include "core/core.h"

bool dirty_tracked(const struct hmm_mirror_state *ms)
{
	return __atomic_load_n(&ms->tracking, __ATOMIC_ACQUIRE);
}

static int dirty_begin(struct hmm_mirror_state *ms)
{
	int ret = 0;

	pthread_mutex_lock(&ms->hmm->lock);
	if (!dirty_tracked(ms)) {
		ret = hmm_pt_init(&ms->dirty, USER_END - 1);
		if (!ret)
			__atomic_fetch_add(&ms->hmm->tracking, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&ms->tracking, !ret, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&ms->hmm->lock);
	return ret;
}

void dirty_exit(struct hmm_mirror_state *ms)
{
	if (!dirty_tracked(ms))
		return;
	__atomic_fetch_sub(&ms->hmm->tracking, 1, __ATOMIC_RELAXED);
	hmm_pt_fini(&ms->dirty);
}

/* Short of memory, all counts as dirty: too much is harmless, too little is not. */
static void dirty_add(struct hmm_mirror_state *ms, struct hmm_pt_iter *iter, unsigned long addr)
{
	hmm_pte_t *ptep = hmm_pt_iter_populate(iter, addr);

	if (ptep)
		hmm_pt_iter_set(iter, ptep, HMM_PTE_VALID);
	else
		__atomic_store_n(&ms->dirty_all, true, __ATOMIC_RELAXED);
}

/* These entries go. */
void dirty_keep(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		const hmm_pte_t *ptes)
{
	struct hmm_pt_iter iter;
	unsigned long addr;

	if (!dirty_tracked(ms))
		return;
	pt_iter_init(&iter, &ms->dirty);
	for (addr = start; addr < end; addr += hmm_page_size(), ptes++)
		if (hmm_pte_test_dirty(*ptes))
			dirty_add(ms, &iter, addr);
	hmm_pt_iter_fini(&iter);
}

/*
 * Take what is kept for the range: the bits go to @dirty, which counts from @start,
 * or, as pages, to the addresses from @to on, or nowhere.
 */
static void dirty_take(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		       uint8_t *dirty, unsigned long to)
{
	struct hmm_pt_iter iter, there;
	unsigned long addr = start;

	pt_iter_init(&iter, &ms->dirty);
	pt_iter_init(&there, &ms->dirty);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++) {
			if (!hmm_pte_load(ptep))
				continue;
			hmm_pt_iter_set(&iter, ptep, 0);
			if (dirty)
				dirty[(addr - start) >> hmm_page_shift()] = 1;
			if (to)
				dirty_add(ms, &there, to + (addr - start));
		}
	}
	hmm_pt_iter_fini(&there);
	hmm_pt_iter_fini(&iter);
}

/*
 * Does any mirror keep them? For who has an op on a range: of one that begins just now
 * nothing of that range is kept, unless by who asks, and he has seen it begin.
 */
static bool dirty_any(struct hmm *hmm)
{
	return __atomic_load_n(&hmm->tracking, __ATOMIC_RELAXED);
}

/* The content of the range is gone. */
void dirty_drop(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct hmm_mirror_state *ms;

	if (!dirty_any(hmm))
		return;
	for (ms = mirror_next(hmm, NULL); ms; ms = mirror_next(hmm, ms))
		if (dirty_tracked(ms))
			dirty_take(ms, start, end, NULL, 0);
}

/* It has moved. */
void dirty_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to)
{
	struct hmm_mirror_state *ms;

	if (!dirty_any(hmm))
		return;
	for (ms = mirror_next(hmm, NULL); ms; ms = mirror_next(hmm, ms)) {
		if (!dirty_tracked(ms))
			continue;
		dirty_take(ms, to, to + (end - from), NULL, 0);
		dirty_take(ms, from, end, NULL, MUTANT(DIRTY_STAYS_BEHIND) ? 0 : to);
	}
}

static void dirty_set(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct hmm_pt_iter iter;
	unsigned long addr = start;

	pt_iter_init(&iter, &ms->mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++)
			if (hmm_pte_test_valid(hmm_pte_load(ptep)) && !MUTANT(DIRTY_NOT_SET))
				hmm_pte_set_dirty(ptep);
	}
	hmm_pt_iter_fini(&iter);
}

/* The bits of the entries, taken. */
static void dirty_collect(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
			  uint8_t *dirty)
{
	struct hmm_pt_iter iter;
	unsigned long addr = start;

	pt_iter_init(&iter, &ms->mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++)
			if (hmm_pte_test_and_clear_dirty(ptep))
				dirty[(addr - start) >> hmm_page_shift()] = 1;
	}
	hmm_pt_iter_fini(&iter);
}

/* @dirty is the caller's, perhaps away itself: written with no op active. */
static int dirty_ask(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		     uint8_t *dirty)
{
	struct batch *batch = batch_get(ms->hmm);
	unsigned long stop, n;
	bool all;
	struct op op;
	int ret = 0;

	if (!batch)
		return -ENOMEM;
	all = __atomic_exchange_n(&ms->dirty_all, false, __ATOMIC_RELAXED);
	for (; start < end; start = stop, dirty += n) {
		stop = chunk_end(start, end);
		n = (stop - start) >> hmm_page_shift();
		__builtin_memset(batch->flags, all, n);
		op_init(&op, OP_BACK, start, stop);
		op_begin(ms->hmm, &op);
		mirror_update(ms, start, stop, HMM_ISDIRTY);
		dirty_collect(ms, start, stop, batch->flags);
		dirty_take(ms, start, stop, batch->flags, 0);
		op_end(ms->hmm, &op);
		if (mirror_is_dead(ms)) {
			ret = -ENODEV; /* it has not said what it wrote */
			break;
		}
		__builtin_memcpy(dirty, batch->flags, n);
	}
	batch_put(ms->hmm, batch);
	return ret;
}

HMM_API int hmm_mirror_range_isdirty(struct hmm_mirror *mirror, unsigned long start,
				     unsigned long end, uint8_t *dirty)
{
	struct hmm_mirror_state *ms;
	int ret;

	if (!mirror || !dirty || !range_valid(start, end))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	ms = mirror_enter(mirror);
	if (!ms)
		return -ENODEV;
	ret = dirty_begin(ms);
	if (!ret)
		ret = dirty_ask(ms, start, end, dirty);
	mirror_leave(ms);
	return ret;
}

HMM_API int hmm_mirror_range_dirty(struct hmm_mirror *mirror, unsigned long start,
				   unsigned long end)
{
	struct hmm_mirror_state *ms;
	struct op op;

	if (!mirror || !range_valid(start, end))
		return -EINVAL;
	if (call_running()) {
		ms = call_current();
		if (ms->mirror != mirror || !call_covers(ms, start, end))
			return -EDEADLK;
		dirty_set(ms, start, end);
		return 0;
	}
	ms = mirror_enter(mirror);
	if (!ms)
		return -ENODEV;
	op_init(&op, OP_BACK, start, end);
	op_begin(ms->hmm, &op);
	dirty_set(ms, start, end);
	op_end(ms->hmm, &op);
	mirror_leave(ms);
	return 0;
}

HMM_API int hmm_mirror_range_discard(struct hmm_mirror *mirror, unsigned long start,
				     unsigned long end)
{
	struct hmm_mirror_state *ms;
	struct op op;

	if (!mirror || !range_valid(start, end))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	ms = mirror_enter(mirror);
	if (!ms)
		return -ENODEV;
	op_init(&op, OP_BACK, start, end);
	op_begin(ms->hmm, &op);
	range_break(ms, start, end);
	mirror_clear(ms, start, end);
	range_forget(ms, start, end);
	op_end(ms->hmm, &op);
	mirror_leave(ms);
	return 0;
}
