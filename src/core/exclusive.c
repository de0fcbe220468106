/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access: pages of system memory that one device has for itself.
 *
 * What is atomic for a device is not atomic against the CPU: they reach memory by different
 * ways. So the CPU, and every other device, is kept from the page as long as the device
 * works there. It goes the way of a migration (out.c), half of it:
 *
 *	1. take every device's translations away, HMM_MIGRATE
 *	2. isolate: move the pages into staging            (CPU accesses wait now)
 *	3. special entries: STAGED, with HMM_PTE_EXCLUSIVE
 *	4. the device gets entries with the pages' addresses in staging, and update()
 *
 * and there the page stays. Whoever wants it next takes the way back of a staged page
 * (back.c), which for such a one calls update() first; events find a STAGED page, and call
 * update() anyway. So exclusive access ends by itself, at any time, and nothing else needs
 * to know of it:
 *
 *	         hmm_mirror_fault(HMM_DEVICE_EXCLUSIVE)
 *	SYSTEM ───────────────────────────────────────► STAGED, exclusive
 *	   ▲                                                 │
 *	   └─────────────────────────────────────────────────┘
 *	     a CPU fault, a device fault, a migration, fork, no room
 *
 * A page that is exclusive already, for whichever device, is not moved again: the devices
 * lose their translations in step 1, and this one gets it in step 4. A page of the device's
 * own memory is out of the CPU's reach as it is, and gets an entry that says so.
 *
 * A hole has no page that could be given: it becomes a page of zeros, in staging.
 *
 * The mark in the special entry says that a device may have a translation, not that one
 * has: an event may have ended it, and the mark only costs an update() that tells nobody.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

static bool exclusive_here(const struct out *out, hmm_pte_t special)
{
	return special_exclusive(special) ||
	       (special && special_device(special) == out->ms->dev->device);
}

/* A page of zeros where the slot has none, or one that cannot be written to. */
static bool exclusive_fill(struct out *out, unsigned int i)
{
	struct uffd_how how = { .wait = true };
	void *zero = out->batch->bounce;
	long ret;

	memset(zero, 0, hmm_page_size());
	ret = uffd_copy(&out->hmm->mm, &how, out_staged_addr(out, i), zero, hmm_page_size());
	if (ret == -EEXIST) { /* the zero page: a write makes it one of its own */
		memset((void *)out_staged_addr(out, i), 0, hmm_page_size());
		return true;
	}
	return ret > 0;
}

/* Step 3 for what was isolated. With @event waiting for us it is only kept. */
static void exclusive_keep(struct out *out, unsigned int i, bool event)
{
	hmm_pte_t flags = HMM_PTE_VALID | (event ? 0 : HMM_PTE_EXCLUSIVE);
	struct batch *batch = out->batch;

	if (batch->from[i] == HMM_PTE_ZERO && (event || !exclusive_fill(out, i))) {
		batch->failed[out_index(out, i)] = 1; /* a hole it is, and stays */
		out->refused++;
		return;
	}
	batch->src[i] = hmm_pte_from_addr(out_staged_addr(out, i), flags);
	special_set(out->hmm, out_addr(out, i), batch->src[i]); /* its directory is there */
	out->staged++;
	out->moved++;
}

static hmm_pte_t exclusive_entry(const struct out *out, hmm_pte_t special)
{
	hmm_pte_t flags = HMM_PTE_VALID | HMM_PTE_WRITE | HMM_PTE_EXCLUSIVE;

	if (!exclusive_here(out, special))
		return 0;
	return hmm_pte_addr(special) | (special & HMM_PTE_DEVICE) | flags;
}

/* What cannot be mapped has no entry. @fresh: the mappings made here. */
static void exclusive_map(struct out *out, hmm_pte_t *fresh)
{
	hmm_pte_t *dst = out->batch->dst;
	unsigned int i;
	int ret;

	memset(fresh, 0, out->pages * sizeof(*fresh));
	if (!dma_used(out->ms))
		return;
	for (i = 0; i < out->pages; i++)
		if (dst[i] && !hmm_pte_test_device(dst[i]))
			fresh[i] = dst[i] & ~HMM_PTE_EXCLUSIVE;
	ret = dma_map(out->ms, out->start, out->end, fresh);
	for (i = 0; i < out->pages; i++) {
		if (!dst[i] || hmm_pte_test_device(dst[i]))
			continue;
		dst[i] = fresh[i] ? hmm_pte_from_dma(dst[i], hmm_pte_addr(fresh[i])) : 0;
		out->moved -= !fresh[i];
		if (!fresh[i])
			out->left = ret < 0 ? ret : -EIO;
	}
}

/* Step 4. */
static int exclusive_enter(struct out *out)
{
	hmm_pte_t fresh[CHUNK_PAGES_MAX], any = 0;
	struct hmm_mirror_state *ms = out->ms;
	struct batch *batch = out->batch;
	unsigned int i;
	int ret;

	for (i = 0; i < out->pages; i++)
		batch->dst[i] = exclusive_entry(out, batch->src[i]);
	exclusive_map(out, fresh);
	for (i = 0; i < out->pages; i++)
		any |= batch->dst[i];
	if (!any)
		return 0;
	ret = mirror_set(ms, out->start, out->end, batch->dst);
	if (ret) {
		dma_unmap(ms, out->start, out->end, fresh);
		return ret;
	}
	ret = call_update(ms, out->start, out->end, HMM_DEVICE_EXCLUSIVE, out->cookie);
	if (ret) {
		if (call_update(ms, out->start, out->end, HMM_MIGRATE, NULL))
			mirror_kill(ms);
		mirror_clear(ms, out->start, out->end);
	}
	return ret;
}

/* -ECANCELED: an event came first; what was isolated is STAGED, as ever. */
static int exclusive_hold(struct out *out)
{
	bool event = op_backoff(&out->op);
	unsigned int i;

	for (i = 0; i < out->pages; i++)
		if (!out->batch->src[i] && out->batch->from[i])
			exclusive_keep(out, i, event);
	debug_step("exclusive:kept", out->start, out->end);
	if (event) {
		out->moved = 0;
		return -ECANCELED;
	}
	return mirror_is_dead(out->ms) ? -ENODEV : exclusive_enter(out);
}

static const struct taker exclusive_taker = { .hold = exclusive_hold };

/* Not for want of room: what is outside of [@start, @end) goes home. */
static void exclusive_make_room(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct whose whose = { .exclusive = true, .why = WHY_EVICT };
	unsigned long pages;

	migrate_back(hmm, &whose, 0, start, &pages);
	migrate_back(hmm, &whose, end, USER_END, &pages);
}

void exclusive_end(struct hmm *hmm)
{
	struct whose whose = { .exclusive = true, .why = WHY_HOME };
	unsigned long pages;

	if (pt_count(&hmm->special))
		migrate_back(hmm, &whose, 0, USER_END, &pages);
}

int device_exclusive(struct hmm_mirror_state *ms, struct hmm_event *event)
{
	struct out out = {
		.hmm = ms->hmm,
		.ms = ms,
		.taker = &exclusive_taker,
		.cookie = event->cookie,
	};
	int ret = migrate_range(&out, event->start, event->end, NULL, &event->pages);

	if (ret == -ENOSPC) {
		exclusive_make_room(ms->hmm, event->start, event->end);
		event->pages = 0;
		ret = migrate_range(&out, event->start, event->end, NULL, &event->pages);
	}
	if (ret == -ENOSPC) { /* as much as there is room for */
		out.left = -EBUSY;
		ret = 0;
	}
	/* The driver shall not take for a no what could be had another time. */
	return ret || event->pages ? ret : out.left;
}
