/* SPDX-License-Identifier: MIT */
/*
 * The order of events.
 *
 * The kernel changes the address space first and tells afterwards, and a thread can be
 * kept from running in between. What one thread freed another can have by then, and its
 * event can be the first to be read:
 *
 *	thread 1   munmap(X) ─── X is free ─────────────────────── UNMAP X is told
 *	thread 2                     mremap(S) → X ── REMAP S → X is told
 *
 * Taken as they come, the UNMAP would drop what was just moved to X. mremap itself tells
 * of its move first and of the end of its source later, and the source may be another's
 * place by then. Only a place that mremap chose or was given is concerned: all else that
 * could be put at X needs an ioctl, which the kernel refuses until every event under way
 * has been read (mm.h).
 *
 * What we know, and what follows:
 *
 *  O1. Where a REMAP goes there was nothing when it happened. If in our books something
 *      is away there, then the event that tells where that went, or that it is gone, is
 *      still to come, and truly came before: it is waited for, and run first. It is on
 *      its way as long as the kernel answers EAGAIN (or for ORDER_LIMIT_NS); if it has
 *      not come by then, what is in the books is wrong, and dropped.
 *
 *  O2. What arrived by a REMAP is remembered for as long as events can be under way that
 *      truly came before it. One that ends or moves such a place, and finds it mapped and
 *      registered with us, was such: what arrived stays. Had it come after, the place
 *      would be free, or new, and not registered; see O3.
 *
 *  O3. We register nothing at such a place before it is forgotten (watch.c); and an
 *      mremap that leaves its source mapped (MREMAP_DONTUNMAP) is called only then
 *      (remap.c). One that is called without our knowing is taken for one that came
 *      before, if it follows another mremap to its source without a pause.
 *
 * The lock: hmm->lock for all of it, but for order_stays(), which is called by who runs
 * an event: only he adds to the list.
 */
#include "core/core.h"

#define ORDER_LIMIT_NS UFFD_QUIET_NS
#define ORDER_DEPTH 4 /* events that wait for one another */

/* hmm->lock held: nothing is under way, and nothing left to be run. */
static bool order_quiet(struct hmm *hmm)
{
	return TAILQ_EMPTY(&hmm->changes) && !uffd_pending(&hmm->mm);
}

/* A REMAP was run. */
void order_arrived(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned int i = hmm->arrivals % ARRIVALS_MAX;

	hmm->arrived[i] = (struct arrival){ start, end };
	__atomic_store_n(&hmm->arrivals, hmm->arrivals + 1, __ATOMIC_RELEASE);
}

/* hmm->lock held, after an event was run. */
void order_settle(struct hmm *hmm)
{
	if (hmm->arrivals && order_quiet(hmm))
		__atomic_store_n(&hmm->arrivals, 0, __ATOMIC_RELEASE);
}

static unsigned int order_count(const struct hmm *hmm)
{
	unsigned int n = __atomic_load_n(&hmm->arrivals, __ATOMIC_ACQUIRE);

	return n < ARRIVALS_MAX ? n : ARRIVALS_MAX;
}

/* Has nothing arrived in the range, or has it been forgotten by now? Never waits. */
bool order_free(struct hmm *hmm, unsigned long start, unsigned long end)
{
	bool arrived = false;
	unsigned int i;

	if (!__atomic_load_n(&hmm->arrivals, __ATOMIC_ACQUIRE))
		return true;
	pthread_mutex_lock(&hmm->lock);
	order_settle(hmm);
	for (i = 0; i < order_count(hmm); i++)
		arrived = arrived || (hmm->arrived[i].start < end && start < hmm->arrived[i].end);
	pthread_mutex_unlock(&hmm->lock);
	return !arrived;
}

/* Is it there, and ours? The piece of [*start, *end) of which that is so. */
static bool order_there(struct hmm *hmm, unsigned long *start, unsigned long *end)
{
	unsigned long pos = *start;
	struct vma vma;

	while (pos < *end && !vma_find(&hmm->mm, pos, &vma) && vma.start < *end) {
		unsigned long from = vma.start > pos ? vma.start : pos;

		if (uffd_owned(&hmm->mm, from, from + vma.page_size)) {
			*start = from;
			*end = vma.end < *end ? vma.end : *end;
			return true;
		}
		pos = vma.end;
	}
	return false;
}

/**
 * order_stays() - what an event does not concern, having truly come before it (O2)
 * @start: in: of the range that the event ends or moves; out: of the piece
 * @end: in: its end; out: that of the piece
 *
 * Return: true, the first such piece; false, there is none.
 */
bool order_stays(struct hmm *hmm, unsigned long *start, unsigned long *end)
{
	unsigned long best = *end, best_end = 0;
	unsigned int i;

	for (i = 0; i < order_count(hmm); i++) {
		const struct arrival *a = &hmm->arrived[i];
		unsigned long from = a->start > *start ? a->start : *start;
		unsigned long to = a->end < *end ? a->end : *end;

		if (from < to && order_there(hmm, &from, &to) && from < best) {
			best = from;
			best_end = to;
		}
	}
	if (!best_end)
		return false;
	*start = best;
	*end = best_end;
	return true;
}

/* Where the books say that something is away, though a REMAP goes there. */
static bool order_occupied(struct hmm *hmm, const struct change *change, unsigned long *addr)
{
	if (change->event.type != MM_REMAP || !pt_count(&hmm->special))
		return false;
	*addr = change->op[1].start;
	return special_next(hmm, addr, change->op[1].end);
}

/* The first event after @change that tells of @addr. */
static struct change *order_later(struct change *change, unsigned long addr)
{
	struct change *later = change;

	while ((later = TAILQ_NEXT(later, link))) {
		const struct mm_event *event = &later->event;

		if ((event->type == MM_UNMAP || event->type == MM_REMAP) && addr >= event->start &&
		    addr < event->end)
			return later;
	}
	return NULL;
}

/**
 * order_next() - which event is to be run next
 *
 * The first that was read, or one that truly came before it (O1).
 *
 * Return: NULL there is none; or none now: then hmm->order_waits is set, and it is to be
 * asked again soon.
 * Context: hmm->lock held.
 */
struct change *order_next(struct hmm *hmm)
{
	struct change *change = TAILQ_FIRST(&hmm->changes);
	unsigned int depth = 0;
	unsigned long addr;

	hmm->order_waits = false;
	while (change && !change->running && !change->late && depth++ < ORDER_DEPTH &&
	       order_occupied(hmm, change, &addr)) {
		struct change *later = order_later(change, addr);

		if (later) {
			later->before = true;
			change = later;
		} else if (!uffd_pending(&hmm->mm) || now_ns() > change->read + ORDER_LIMIT_NS) {
			change->late = true;
		} else {
			hmm->order_waits = true;
			return NULL;
		}
	}
	return change;
}
