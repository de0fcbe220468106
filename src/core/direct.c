/* SPDX-License-Identifier: MIT */
/*
 * munmap(), madvise(MADV_DONTNEED) and mremap() without an event, by the thread that calls.
 *
 * The kernel has a thread that changes what is registered wait until its event was read: two switches
 * between threads where both share a CPU, and an idle CPU's waking up where they do not; and events are
 * run one at a time. Who comes by our munmap(), madvise() and mremap() can do without, where nothing
 * stands against it. What would have been done about the event he does himself, and beforehand:
 *
 *	direct_begin()
 *	1. an op (OP_BACK) on the range, and one on where an mremap() goes: nothing else happens there
 *	2. look: D1 to D4
 *	3. every mirror: update(), entries, DMA mappings
 *	4. what is registered is so no more
 *	the system call: nobody hears of it
 *	direct_end()
 *	5. what was kept of the content is dropped
 *	6. what is still there is registered as it was; what mremap() has moved is when a device
 *	   asks for it
 *	7. the ops end
 *
 * No device uses a translation any more when the call begins, so none does when it has returned (G3).
 * The conditions, else the call is made as it is, and its event comes:
 *
 *  D1. Nothing is away in the range. While it is not registered, a thread that touches it would find zeros.
 *  D2. Nobody is waited for: the ops can begin at once, no event of the range has been read that is
 *	still to be run, and all devices concerned are prompt. Who is on
 *	the way to or from a device is interrupted by an event, and not by us. (So a thread has two ops
 *	here, and keeps nobody from ending his.)
 *  D3. No REMAP is to be put in order (order.c), which counts how often a place is left.
 *  D4. mremap(): no mirror keeps dirty bits, for the place that they would go to is not known yet, and
 *	there is no gate: what moves would get out of it.
 *
 * What comes in between:
 *
 *  - A device fault that prepares, which waits for nobody, registers the range again: then the call has its
 *    event, as if we had done nothing. It looks again once it is active.
 *  - A CPU fault, of memory that was registered for such: the end of that wakes the thread.
 *  - The event of a call that began before, and is read after: it takes away what is not there any
 *    more, or what a device has asked for since. A thread that moves something by mremap() to where
 *    another one is just unmapping: its REMAP looks what is registered (watch_remap()).
 *  - fork(), by another thread: the child's copy is registered or not. Nothing of it is away.
 *  - A handler of a signal: they are blocked from process_pin() to process_unpin().
 *
 * Memory of which nothing is registered costs a look (G10), and where nothing ever was, not even a lock.
 */
#include <errno.h>

#include "core/core.h"

/* D1, and of D2 what the op does not see to. hmm->lock held. */
static bool direct_free(struct hmm *hmm, const struct op *op)
{
	return !op_sees_event(hmm, op) &&
	       (pt_range_empty(&hmm->special, op->start, op->end) || MUTANT(DIRECT_AWAY)) &&
	       (mirrors_prompt(hmm, op->start, op->end) || MUTANT(DIRECT_WAITS));
}

/* D1 to D4; the ops are active. */
static bool direct_may(struct hmm *hmm, const struct direct *direct)
{
	unsigned int i;
	bool may;

	pthread_mutex_lock(&hmm->lock);
	may = !order_open(hmm);
	if (direct->type == MM_REMAP)
		may = may && !hmm->gate.admit && !__atomic_load_n(&hmm->tracking, __ATOMIC_RELAXED);
	for (i = 0; may && i < direct->parts; i++)
		may = direct_free(hmm, &direct->part[i].op);
	pthread_mutex_unlock(&hmm->lock);
	return may;
}

/* Is there something to hear of, and is it not too much to leave? The op comes when that is known. */
static bool direct_look(struct direct *direct)
{
	unsigned int i;

	for (i = 0; i < direct->parts; i++) {
		struct direct_part *part = &direct->part[i];

		if (!watch_look(direct->hmm, part->op.start, part->op.end, &part->left))
			return false;
	}
	return direct->part[0].left.n;
}

static bool direct_ops(struct direct *direct)
{
	while (direct->begun < direct->parts) {
		if (!op_try(direct->hmm, &direct->part[direct->begun].op))
			return false;
		direct->begun++;
	}
	return true;
}

/* Steps 3 and 4. False: of some of it there may still be an event; which is as good. */
static bool direct_leave(struct direct *direct)
{
	struct hmm *hmm = direct->hmm;
	bool left = true;
	unsigned int i;

	for (i = 0; left && i < direct->parts; i++) {
		struct direct_part *part = &direct->part[i];

		if (!MUTANT(DIRECT_UNTOLD))
			mirrors_update(hmm, part->op.start, part->op.end,
				       direct->type == MM_REMOVE ? HMM_MIGRATE : HMM_MUNMAP);
		left = watch_leave(hmm, part->op.start, part->op.end, &part->left);
	}
	debug_step("direct:left", direct->part[0].op.start, direct->part[0].op.end);
	return left;
}

static void direct_close(struct direct *direct)
{
	while (direct->begun)
		op_end(direct->hmm, &direct->part[--direct->begun].op);
	process_unpin(direct->hmm);
}

static bool direct_sane(unsigned long start, unsigned long end)
{
	return start < end && end <= USER_END && !(start & (hmm_page_size() - 1));
}

/**
 * direct_begin() - prepare a call that changes the address space
 * @direct: to be given to direct_end(), if true is returned
 * @type: MM_UNMAP, MM_REMOVE, or MM_REMAP
 * @start: page-aligned, or it is not done
 * @end: likewise, exclusive
 * @to: MM_REMAP: where @start will be for certain; 0: wherever there is room
 *
 * Return: whether the call is now one of which the kernel has nothing to tell.
 * Context: a call of the program's; signals are blocked until direct_end().
 */
bool direct_begin(struct direct *direct, enum mm_event_type type, unsigned long start,
		  unsigned long end, unsigned long to)
{
	struct hmm *hmm;

	if (!direct_sane(start, end) || !mark_any(start, end) || call_running())
		return false;
	hmm = process_pin();
	if (!hmm)
		return false;
	*direct = (struct direct){ .hmm = hmm, .type = type, .parts = to ? 2 : 1 };
	op_init(&direct->part[0].op, OP_BACK, start, end);
	if (to)
		op_init(&direct->part[1].op, OP_BACK, to, to + (end - start));
	if (direct_look(direct) && direct_ops(direct) && direct_may(hmm, direct)) {
		direct->traced = trace_event_begin(type, start, end, to);
		debug_step("direct:begin", start, end);
		if (direct_leave(direct))
			return true;
		trace_event_end(direct->traced, type, start, end, to);
	}
	direct_close(direct);
	return false;
}

/* @done: the call did what it was to do. errno stays. */
void direct_end(struct direct *direct, bool done)
{
	struct op *op = &direct->part[0].op;
	int err = errno;
	unsigned int i;

	if (done && direct->type != MM_REMAP) /* else there is none: D4 */
		dirty_drop(direct->hmm, op->start, op->end);
	for (i = 0; i < direct->parts; i++) {
		const struct direct_part *part = &direct->part[i];

		if (done && direct->type != MM_REMOVE)
			mark_clear(part->op.start, part->op.end);
		else if (!MUTANT(DIRECT_NOT_RETURNED))
			watch_return(direct->hmm, &part->left);
	}
	stat_inc(events);
	trace_event_end(direct->traced, direct->type, op->start, op->end,
			direct->parts > 1 ? direct->part[1].op.start : 0);
	direct_close(direct);
	errno = err;
}
