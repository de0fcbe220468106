/* SPDX-License-Identifier: MIT */
/*
 * The gate: CPU faults that wait for room.
 *
 *	message ──► its op can begin ──► admitted ──► answered
 *	                 ▲                  │ not
 *	                 │                  ▼
 *	              parked ◄─────────── gated
 *	                   hmm_gate_retry()
 *
 * A fault that is gated has no op in the list: what makes room is a migration to a device,
 * and that may be of the very chunk where somebody waits. It loses nothing by it: whatever
 * happens to its address meanwhile, it is looked at afresh when it is let through.
 *
 * Who makes room may fault himself (the C library's list of objects, process_vm_readv() of
 * a page that is away); so the gate is told which thread it is, is asked again every
 * GATE_POLL_NS, and is told for how long the fault has waited (G9).
 *
 * While a thread forks, nobody waits: what makes room cannot migrate then, and who waits may
 * hold a lock that the C library's fork() takes (malloc's).
 */
#include <errno.h>

#include "core/core.h"
#include "mm/arena.h"

#define WATCH_RETRIES 100
#define RESERVE_MIN (128ul << 10)

/* hmm->lock held. @parked, whose op is active, is for so many pages: how many may come? */
static unsigned long gate_ask(struct hmm *hmm, struct parked *parked, unsigned long pages)
{
	uint64_t now = now_ns();

	if (!parked->since)
		parked->since = now;
	return hmm->gate.admit(hmm->gate.cookie, pages, parked->event.tid, now - parked->since);
}

/**
 * gate_admit() - may the fault be answered now?
 * @parked: its op is active; it may be made smaller, or is taken out of the list
 *
 * Return: false: it waits in the list of those that are gated, @parked->gated is set.
 * Context: hmm->lock held.
 */
bool gate_admit(struct hmm *hmm, struct parked *parked)
{
	struct op *op = &parked->op;
	unsigned long pages = (op->end - op->start) >> hmm_page_shift(), admitted;

	if (!hmm->gate.admit || parked->event.protect || fork_under_way())
		return true;
	admitted = gate_ask(hmm, parked, pages);
	if (admitted >= pages)
		return true;
	if (admitted) {
		op->start = parked->event.start;
		op->end = parked->event.end;
		return true;
	}
	op_remove(hmm, op);
	parked->gated = true;
	return false;
}

/* hmm->lock held. */
void gate_retry(struct hmm *hmm)
{
	struct parked *parked;

	while ((parked = TAILQ_FIRST(&hmm->gated))) {
		TAILQ_REMOVE(&hmm->gated, parked, link);
		parked->gated = false;
		op_init(&parked->op, OP_BACK, parked->event.start, parked->event.end);
		op_add(hmm, &parked->op);
		TAILQ_INSERT_TAIL(&hmm->parked, parked, link);
	}
	hmm_notify(hmm);
}

/* The worker's, now and then: nobody may have told it. hmm->lock held. */
void gate_poll(struct hmm *hmm)
{
	const struct parked *first = TAILQ_FIRST(&hmm->gated);

	if (first && now_ns() - first->since >= GATE_POLL_NS)
		gate_retry(hmm);
}

HMM_API void hmm_gate_retry(void)
{
	struct hmm *hmm = call_running() ? NULL : process_pin();

	if (!hmm)
		return;
	pthread_mutex_lock(&hmm->lock);
	gate_retry(hmm);
	pthread_mutex_unlock(&hmm->lock);
	process_unpin(hmm);
}

/* api_lock held. */
static void gate_change(struct hmm *hmm, const struct hmm_gate *gate)
{
	pthread_mutex_lock(&hmm->lock);
	hmm->gate = gate ? *gate : (struct hmm_gate){ 0 };
	gate_retry(hmm);
	pthread_mutex_unlock(&hmm->lock);
}

/* A gate is a use of libhmm, as a mirror is. */
HMM_API int hmm_gate_set(const struct hmm_gate *gate)
{
	struct hmm *hmm;
	bool had;
	int ret;

	if (gate && (gate->size < sizeof(*gate) || !gate->admit))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	hmm = process_current();
	had = hmm && hmm->gate.admit;
	ret = gate && !had ? process_get(&hmm) : 0;
	if (!ret && hmm)
		gate_change(hmm, gate);
	if (!gate && had)
		process_put(hmm);
	api_unlock();
	return ret;
}

/*
 * What nobody may touch yet, too, if it is large: an allocator's reserve, which mprotect() turns
 * into memory of the program bit by bit. It stays registered then, and that nothing was
 * mapped would else hide it. (A guard page is small; and it stays one.)
 */
static bool gate_takes(const struct vma *vma)
{
	if (!vma->read && !vma->write && !vma->exec && !vma->shared && !vma->file)
		return vma->end - vma->start >= RESERVE_MIN;
	return vma_migrates(vma, false, false);
}

/*
 * The arena grows meanwhile, in other threads: a set of what is kept is too old for it. What
 * is mapped of it is in its table by now, since that is locked from before (arena.c, A3). A
 * munmap() of our own memory, if it were registered, would wait for a monitor that is perhaps
 * just doing it.
 */
static bool gate_own(unsigned long *from, unsigned long *to)
{
	unsigned long start = *from, end = *to;

	if (!arena_next(&start, &end))
		return false;
	if (start > *from) {
		*to = start;
		return false;
	}
	*to = end;
	return true;
}

/* What may be registered of one mapping; what changes meanwhile is for the next call. */
static int gate_watch_vma(struct hmm *hmm, const struct keep *keep, const struct vma *vma,
			  unsigned long start, unsigned long end)
{
	unsigned long from = start, to = end;
	unsigned int retries = 0;
	int ret;

	while (from < end && keep_allowed(keep, &from, &to)) {
		do
			ret = gate_own(&from, &to) ? 0 : watch_vma(hmm, vma, from, to, UFFD_CATCH);
		while (ret == -EAGAIN && retries++ < WATCH_RETRIES);
		if (ret == -ENOMEM)
			return ret;
		from = to;
		to = end;
	}
	return 0;
}

/* Without a set of what is to be kept: there is nothing yet in what was just mapped. */
static int gate_watch_new(struct hmm *hmm, unsigned long start, unsigned long end)
{
	const struct keep none = { 0 };
	struct vma vma;
	int ret = 0;

	while (start < end && !ret && !vma_find(&hmm->mm, start, &vma) && vma.start < end) {
		start = vma.start > start ? vma.start : start;
		if (gate_takes(&vma))
			ret = gate_watch_vma(hmm, &none, &vma, start,
					     vma.end < end ? vma.end : end);
		start = vma.end;
	}
	return ret;
}

static int gate_watch(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct keep keep;
	struct vma vma;
	int ret = migrate_keep(&keep, hmm, start, end, false);

	if (ret)
		return ret;
	while (start < end && !ret && !vma_find(&hmm->mm, start, &vma) && vma.start < end) {
		start = vma.start > start ? vma.start : start;
		if (gate_takes(&vma))
			ret = gate_watch_vma(hmm, &keep, &vma, start,
					     vma.end < end ? vma.end : end);
		start = vma.end;
	}
	keep_fini(&keep);
	return ret;
}

static int gate_call(int (*watch)(struct hmm *hmm, unsigned long start, unsigned long end),
		     unsigned long start, unsigned long end)
{
	struct hmm *hmm;
	int ret;

	if (!range_valid(start, end))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	hmm = process_pin();
	if (!hmm)
		return -ENODEV;
	ret = hmm->mm.staging ? watch(hmm, start, end) : -ENODEV;
	process_unpin(hmm);
	return ret;
}

HMM_API int hmm_gate_watch(unsigned long start, unsigned long end)
{
	return gate_call(gate_watch, start, end);
}

HMM_API int hmm_gate_watch_new(unsigned long start, unsigned long end)
{
	return gate_call(gate_watch_new, start, end);
}
