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
 * Taken as they come, the UNMAP would drop what was just moved to X. Only a place that
 * mremap chose or was given is concerned: all else that could be put at X needs an ioctl,
 * which the kernel refuses until every event under way has been read (mm.h).
 *
 *  O1. Where a REMAP goes there was nothing when it happened. If in our books something
 *      is away there, then the event that tells where that went, or that it is gone, is
 *      still to come, and truly came before: it is waited for, and run first. If it has
 *      not come when nothing is under way any more, the books are wrong, and what they
 *      have there is dropped.
 *
 *  O2. mremap tells of its move first and then, with an UNMAP, of the end of its source,
 *      which may be another's place by then. That UNMAP says nothing new: it is given to its
 *      REMAP when it is read, and a REMAP is not run before it has it. Only that of
 *      MREMAP_DONTUNMAP never gets one: that is known when nothing is under way. (When that
 *      takes too long, the UNMAP of a source that is no more is expected.) Of a call that
 *      came by our mremap() it is known at once (doing.c): as long as that runs its UNMAP is
 *      to come, and nobody asks the kernel; when it has ended, it says so: order_called().
 *
 *  O3. An arrival is a place that a REMAP went to, and that no event has ended or moved
 *      since. An event that does so is late if it truly came before. That is counted,
 *      when nothing is under way and all that will be read has been: the place has had one
 *      arrival, will have A more, and be left V times; and if it is there in the end, each
 *      leave had its arrival. So V - A of them are late, or V - A - 1 if it is not there.
 *      Those that are read first are taken for these. It is there if it is mapped, and
 *      registered with us: we register nothing at an arrival (watch.c). No counting is
 *      needed where the event is of a call that began when the arrival had been told of
 *      (doing.c), as that of who was given the place by mremap does. (Counting is wrong
 *      about a place into which a neighbour has grown since, of which nobody tells.)
 *
 *  O4. When nothing is under way and nothing left to be run, arrivals and expectations are
 *      forgotten. What the books have at an arrival that is certainly gone by then was
 *      judged wrongly, and is dropped, by an UNMAP of our own making. A migration that has
 *      taken pages out of a range knows the same of that range, and forgets there. The
 *      worker sees to it, by looking again and again; but as long as a call of our mremap()
 *      runs it is let sleep: who makes the call looks when it has ended.
 *
 * "Under way" is what the kernel answers EAGAIN for. While we wait for the end of that we
 * starve (mm/uffd.c), and who comes by our munmap() waits; and not for longer than
 * ORDER_LIMIT_NS: a program that storms with system calls made by hand has its events run
 * as they were read.
 *
 * The lock: hmm->lock for all of it.
 */
#include <errno.h>

#include "core/core.h"

#define ORDER_LIMIT_NS UFFD_QUIET_NS
#define ORDER_DEPTH 4 /* events that wait for one another */

/*
 * Somebody relies on a call of our mremap() to say that it has ended. Set, with hmm->lock held,
 * before he looks for calls that run; and read by the call when it is there no more. So one
 * of the two sees the other, and who moves what nobody mirrors takes no lock.
 */
static HMM_DATA bool relied; /* atomic */

static bool order_runs(uint64_t call)
{
	__atomic_store_n(&relied, true, __ATOMIC_SEQ_CST);
	return doing_runs(call);
}

static bool order_remaps(void)
{
	__atomic_store_n(&relied, true, __ATOMIC_SEQ_CST);
	return doing_remaps();
}

/* ---- sets of a few ranges; when there is no room, one is forgotten ---- */

static void places_add(struct places *set, unsigned long start, unsigned long end, uint64_t number)
{
	unsigned int i;

	if (start >= end)
		return;
	for (i = 0; i < set->n; i++)
		if (set->place[i].start >= set->place[i].end)
			break;
	if (i == PLACES_MAX) {
		log_debug("more than %u mremap() at once: their order is taken as read", i);
		i = 0;
	}
	set->place[i] = (struct place){ start, end, number };
	if (i == set->n)
		set->n++;
}

static void places_cut(struct places *set, unsigned long start, unsigned long end)
{
	unsigned int i, n = set->n;

	for (i = 0; i < n; i++) {
		struct place *p = &set->place[i];
		unsigned long tail = p->end;

		if (p->start >= end || p->end <= start)
			continue;
		if (p->start < start) {
			p->end = start;
			places_add(set, end, tail, p->number);
		} else {
			p->start = end < p->end ? end : p->end;
		}
	}
}

/* The place that has @addr; NULL: none. */
static const struct place *places_find(const struct places *set, unsigned long addr)
{
	unsigned int i;

	for (i = 0; i < set->n; i++)
		if (addr >= set->place[i].start && addr < set->place[i].end)
			return &set->place[i];
	return NULL;
}

/* The first address of [@from, @end) in the set, or @end. */
static unsigned long places_next(const struct places *set, unsigned long from, unsigned long end)
{
	unsigned long best = end;
	unsigned int i;

	for (i = 0; i < set->n; i++) {
		unsigned long start = set->place[i].start > from ? set->place[i].start : from;

		if (start < set->place[i].end && start < best)
			best = start;
	}
	return best;
}

/* Of before @since, if that is known. */
static bool places_take(struct places *set, unsigned long start, unsigned long end, uint64_t since)
{
	unsigned int i;

	for (i = 0; i < set->n; i++) {
		if (set->place[i].start != start || set->place[i].end != end ||
		    since > set->place[i].number)
			continue;
		set->place[i].end = start;
		return true;
	}
	return false;
}

/* ---- what is known ---- */

/* Is there something that an event could be late for? */
bool order_open(const struct hmm *hmm)
{
	return hmm->arrivals.n || hmm->expected.n;
}

/* Nothing is there that could be ours: for certain. */
static bool order_gone(struct hmm *hmm, unsigned long addr, unsigned long *end)
{
	struct vma vma;
	int ret = vma_find(&hmm->mm, addr, &vma);

	if (ret)
		return ret == -ENOENT;
	if (vma.start > addr) {
		*end = vma.start < *end ? vma.start : *end;
		return true;
	}
	*end = vma.end < *end ? vma.end : *end;
	return uffd_free(&hmm->mm, addr, addr + vma.page_size);
}

/*
 * What was taken for staying, by counting what was not complete (ORDER_LIMIT_NS), and has
 * not: as if it were told of now. Nothing is under way, so what is there is what counts.
 */
static bool order_stale(struct hmm *hmm)
{
	unsigned int i;

	for (i = 0; i < hmm->arrivals.n; i++) {
		unsigned long addr = hmm->arrivals.place[i].start,
			      stop = hmm->arrivals.place[i].end;

		while (addr < stop && special_next(hmm, &addr, stop)) {
			unsigned long end = stop;

			if (order_gone(hmm, addr, &end)) {
				/* By a call that has begun since? Its event has its turn. */
				if (!uffd_pending(&hmm->mm))
					event_inject(hmm, addr, end);
				return true;
			}
			addr = end;
		}
	}
	return false;
}

/* Nothing is under way, and nothing left to be run: then nothing can be late. */
void order_settle(struct hmm *hmm)
{
	if (!order_open(hmm) || !TAILQ_EMPTY(&hmm->changes) || uffd_pending(&hmm->mm) ||
	    order_stale(hmm))
		return;
	hmm->arrivals.n = 0;
	hmm->expected.n = 0;
}

/*
 * A page of the range has been put somewhere by an ioctl, with an active op on the range:
 * so no event of the range is under way, or left to be run, and none can be late.
 */
void order_forget(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned int i;

	pthread_mutex_lock(&hmm->lock);
	places_cut(&hmm->arrivals, start, end);
	for (i = 0; i < hmm->expected.n; i++) {
		struct place *p = &hmm->expected.place[i];

		if (p->start < end && start < p->end)
			p->end = p->start;
	}
	pthread_mutex_unlock(&hmm->lock);
}

/* An event was run. */
void order_done(struct hmm *hmm, const struct change *change)
{
	const struct mm_event *event = &change->event;
	unsigned int i;

	if (event->type == MM_REMAP || (event->type == MM_UNMAP && !change->void_)) {
		places_cut(&hmm->arrivals, event->start, event->end);
		for (i = 0; i < change->nstays; i++)
			places_add(&hmm->arrivals, change->stays[i].start, change->stays[i].end,
				   change->stays[i].number);
	}
	if (event->type == MM_REMAP) {
		places_add(&hmm->arrivals, change->op[1].start, change->op[1].end, change->number);
		if (change->expects)
			places_add(&hmm->expected, event->start, event->end, change->number);
	}
	if (order_unsettled(hmm))
		order_settle(hmm);
}

/* Has the worker to see to it that it is settled? Not if a call of our mremap() will. */
bool order_unsettled(struct hmm *hmm)
{
	return order_open(hmm) && !order_remaps();
}

/*
 * A call of our mremap() has ended, and is in doing.c no more. What relied on it to run finds
 * that out under hmm->lock, and before, or we find it here.
 */
void order_called(void)
{
	struct hmm *hmm;

	if (!__atomic_load_n(&relied, __ATOMIC_SEQ_CST) || MUTANT(CALL_END_UNTOLD))
		return;
	hmm = process_pin();
	if (!hmm)
		return; /* nobody waits: see process_put() */
	pthread_mutex_lock(&hmm->lock);
	order_settle(hmm);
	if (hmm->order_told || (order_open(hmm) && TAILQ_EMPTY(&hmm->changes))) {
		hmm->order_told = false;
		pthread_cond_signal(&hmm->work);
	}
	if (!order_open(hmm)) /* whoever looks again sets it again */
		__atomic_store_n(&relied, false, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&hmm->lock);
	process_unpin(hmm);
}

/* Has nothing arrived in the range, or has it been forgotten by now? Never waits. */
bool order_free(struct hmm *hmm, unsigned long start, unsigned long end)
{
	bool arrived;

	pthread_mutex_lock(&hmm->lock);
	order_settle(hmm);
	arrived = places_next(&hmm->arrivals, start, end) < end;
	pthread_mutex_unlock(&hmm->lock);
	return !arrived;
}

/* Has it waited for too long? */
static bool order_late(struct change *change)
{
	uint64_t now = now_ns();

	if (!change->waits)
		change->waits = now;
	return now > change->waits + ORDER_LIMIT_NS;
}

/* False: wait for what is under way. */
static bool order_quiet(struct hmm *hmm, struct change *change)
{
	return !uffd_pending(&hmm->mm) || order_late(change);
}

/* Is @addr mapped, and registered with us? *@end moves back to where that may end. */
static bool order_there(struct hmm *hmm, unsigned long addr, unsigned long *end)
{
	struct vma vma;
	int ret = vma_find(&hmm->mm, addr, &vma);

	if (ret)
		return ret != -ENOENT; /* not known: rather too much is kept than lost */
	if (vma.start > addr) {
		*end = vma.start < *end ? vma.start : *end;
		return false;
	}
	*end = vma.end < *end ? vma.end : *end;
	return uffd_owned(&hmm->mm, addr, addr + vma.page_size);
}

/* ---- O2 ---- */

/* Just read, and not in the queue yet: whose end of its source is it? */
void order_record(struct hmm *hmm, struct change *unmap)
{
	const struct mm_event *event = &unmap->event;
	struct change *remap;

	if (event->type != MM_UNMAP || (!hmm->remaps && !hmm->expected.n))
		return;
	unmap->void_ = true;
	if (places_take(&hmm->expected, event->start, event->end, unmap->since))
		return;
	TAILQ_FOREACH(remap, &hmm->changes, link) {
		if (remap->event.type != MM_REMAP || remap->plain || remap->judged ||
		    remap->event.start != event->start || remap->event.end != event->end ||
		    unmap->since > remap->number)
			continue;
		remap->plain = true;
		return;
	}
	unmap->void_ = false;
}

/* Is anything of a range where a remap came from still there? */
static bool order_left(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned long pos, next;

	for (pos = start; pos < end; pos = next) {
		next = end;
		if (order_there(hmm, pos, &next))
			return true;
	}
	return false;
}

/* False: wait; with hmm->order_told until order_called(), or for its UNMAP. */
static bool order_plain(struct hmm *hmm, struct change *change)
{
	if (change->plain)
		return true;
	hmm->order_told = change->call && !hmm->stop && order_runs(change->call);
	if (hmm->order_told)
		return false;
	if (!uffd_pending(&hmm->mm))
		return true;
	if (!order_late(change))
		return false;
	change->expects = !order_left(hmm, change->event.start, change->event.end);
	change->plain = change->expects;
	return true;
}

/* ---- O3 ---- */

/* Let the part from @addr to @end be wholly in or wholly out of a range. Is it in? */
static bool order_part(unsigned long addr, unsigned long *end, unsigned long start,
		       unsigned long stop)
{
	if (stop <= addr || start >= *end)
		return false;
	if (start > addr)
		*end = start;
	else if (stop < *end)
		*end = stop;
	return start <= addr;
}

/* Of all that is queued, how often does it leave @addr, more than it arrives there? */
static int order_balance(struct hmm *hmm, unsigned long addr, unsigned long *end)
{
	const struct change *change;
	int balance = 0;

	TAILQ_FOREACH(change, &hmm->changes, link) {
		const struct mm_event *event = &change->event;
		bool move = event->type == MM_REMAP;

		if ((!move && event->type != MM_UNMAP) || change->void_)
			continue;
		if (order_part(addr, end, event->start, event->end))
			balance += !move || change->plain;
		if (move &&
		    order_part(addr, end, event->to, event->to + (event->end - event->start)))
			balance--;
	}
	return balance;
}

/*
 * What of @change's range it came too late for. False: wait. If it was counted, that nothing is under way is
 * asked for after the look at what is there: a call that began in between has not been
 * told of, for who reads needs the lock.
 */
static bool order_stays(struct hmm *hmm, struct change *change)
{
	unsigned long pos = change->event.start, stop = change->event.end;
	bool counted = false;

	pos = places_next(&hmm->arrivals, pos, stop);
	if (pos == stop)
		return true;
	change->nstays = 0;
	while (pos < stop && change->nstays < STAYS_MAX) {
		const struct place *arrival = places_find(&hmm->arrivals, pos);
		unsigned long end = arrival->end < stop ? arrival->end : stop;
		bool there, late;

		if (change->since > arrival->number) {
			late = false;
		} else {
			there = order_there(hmm, pos, &end);
			late = order_balance(hmm, pos, &end) - !there > 0;
			counted = true;
		}
		if (late)
			change->stays[change->nstays++] =
				(struct place){ pos, end, arrival->number };
		pos = places_next(&hmm->arrivals, end, stop);
	}
	return !counted || order_quiet(hmm, change);
}

/* Find out what is to be known of an event before it is run. False: wait. */
static bool order_judge(struct hmm *hmm, struct change *change)
{
	const struct mm_event *event = &change->event;

	if (change->judged || (event->type != MM_UNMAP && event->type != MM_REMAP))
		return true;
	if (event->type == MM_REMAP && !order_plain(hmm, change))
		return false;
	if (!change->void_ && !change->before && !order_stays(hmm, change))
		return false;
	change->judged = true;
	return true;
}

/* ---- O1 ---- */

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

		if ((event->type == MM_UNMAP || event->type == MM_REMAP) && !later->void_ &&
		    addr >= event->start && addr < event->end)
			return later;
	}
	return NULL;
}

/* The first event, or one that came before it; NULL: wait. */
static struct change *order_first(struct hmm *hmm)
{
	struct change *change = TAILQ_FIRST(&hmm->changes);
	unsigned int depth = 0;
	unsigned long addr;

	while (change && !change->running && !change->late && depth++ < ORDER_DEPTH &&
	       order_occupied(hmm, change, &addr)) {
		struct change *later = order_later(change, addr);

		if (later) {
			later->before = true;
			change = later;
		} else if (order_quiet(hmm, change)) {
			change->late = true;
		} else {
			return NULL;
		}
	}
	return change;
}

/**
 * order_next() - which event is to be run next, with what is to be known of it
 *
 * Return: NULL there is none; or none now: then hmm->order_waits is set, and it is to be
 * asked again soon; or hmm->order_told, and it is when an event was read or a call has ended.
 * Context: hmm->lock held.
 */
struct change *order_next(struct hmm *hmm)
{
	struct change *change =
		MUTANT(ORDER_AS_READ) ? TAILQ_FIRST(&hmm->changes) : order_first(hmm);
	bool waits = !TAILQ_EMPTY(&hmm->changes) && !change;

	hmm->order_told = false;
	if (change && !change->running && !MUTANT(ORDER_AS_READ) && !order_judge(hmm, change)) {
		change = NULL;
		waits = !hmm->order_told;
	}
	if (waits != hmm->order_waits)
		uffd_starve(waits);
	hmm->order_waits = waits;
	return change;
}
