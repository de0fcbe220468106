/* SPDX-License-Identifier: MIT */
/*
 * CPU faults: a thread waits at an address whose page is not there.
 *
 *	           the page's OP_BACK can begin, nothing has to be waited for
 *	message ──────────────────────────────────────────────► answered (monitor)
 *	   │ else
 *	   ▼
 *	parked ──► its op can begin ──► answered, or back to parked (worker)
 *
 * A fault is never dropped (G9): it ends when an ioctl has put a page there and
 * so woken the thread, or when there is nothing to put (the page is there, the
 * mapping is gone), and then the thread is woken to see for itself.
 *
 * How many pages it brings: around.c.
 *
 * A fault where nothing is away is a hole, and an OP_HOLE if it cannot be an OP_BACK
 * at once: device faults do not keep it waiting (see active.c).
 *
 * A fault may overtake the event that made its address (kernel: faults are read
 * first). While that event is unread the ioctl answers EAGAIN; once it is read
 * its OP_INVAL keeps ours out. Either way the fault is parked until it has been
 * dealt with.
 */
#include <errno.h>
#include <time.h>

#include "core/core.h"

/*
 * With zero pages also for a write, which then breaks it: UFFDIO_COPY would replace a
 * poison that has got there since.
 */
static long fill_hole(struct hmm *hmm, const struct op *op, const struct mm_event *event,
		      const struct uffd_how *how)
{
	unsigned long len = op->end - event->start;
	long ret = uffd_zero(&hmm->mm, how, event->start, len);

	/* The mapping ends within. */
	if ((ret == -ENOENT || ret == -EINVAL) && len > hmm_page_size())
		ret = uffd_zero(&hmm->mm, how, event->start, hmm_page_size());
	return ret;
}

/* For what @op covers. 0: done with. Else it has to be tried again: see back_span(). */
static int fault_answer(struct hmm *hmm, struct op *op, const struct mm_event *event,
			struct batch *batch, bool wait)
{
	struct uffd_how how = op_how(op, wait);
	struct whose anyone = { .why = WHY_CPU };
	uint64_t begun = trace_cpu_fault_begin(event->start);
	const struct parked *parked = hmm_container_of(op, struct parked, op);
	unsigned int known = 0;
	unsigned long pages = 0;
	long ret;

	debug_step("fault:answer", op->start, op->end);
	if (event->protect) {
		ret = uffd_unprotect(&hmm->mm, &how, event->start, hmm_page_size());
	} else {
		if (parked->away && op->end - op->start == hmm_page_size()) {
			batch->src[0] = parked->away;
			known = BACK_KNOWN;
		}
		ret = back_span(hmm, op, batch, &anyone, op->start, op->end,
				BACK_LOSE | known | (wait ? BACK_WAIT : 0), &pages);
		if (ret == 1)
			ret = fill_hole(hmm, op, event, &how);
		else
			stat_add(pages_by_fault, pages);
	}
	trace_cpu_fault_end(begun, event->start, parked->read, pages, ret);
	if (ret == -EAGAIN || ret == -ECANCELED || ret == -ENOMEM)
		return (int)ret;
	if (ret < 0)
		uffd_wake(&hmm->mm, event->start, hmm_page_size());
	stat_inc(cpu_faults);
	return 0;
}

static struct parked *parked_new(void)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	struct parked *parked;

	while (!(parked = hmm_alloc(sizeof(*parked))))
		nanosleep(&pause, NULL); /* a fault is not dropped for want of memory */
	return parked;
}

/*
 * hmm->lock held. What is away at the address is so as long as the lock is held, unless an op is
 * active there that keeps ours out; and then as long as ours is active.
 */
static bool fault_promote(struct hmm *hmm, struct parked *parked)
{
	unsigned long addr = parked->event.start;
	hmm_pte_t pte = special_get(hmm, addr);

	parked->away = pte;
	parked->op.kind = pte ? OP_BACK : OP_HOLE;
	parked->op.start = addr;
	parked->op.end = parked->event.end;
	if (!op_promote(hmm, &parked->op))
		return false;
	if ((parked->op.kind == OP_BACK || hmm->gate.admit) && !parked->event.protect)
		around_widen(hmm, &parked->op, addr, pte);
	return gate_admit(hmm, parked);
}

/* From when we turned to it to when the thread was woken, which is now. */
static uint64_t fault_time(const struct parked *parked)
{
	uint64_t now = now_ns(), ns = now - parked->read;
	unsigned int i = ns ? 63 - (unsigned int)__builtin_clzll(ns) : 0;

	stat_inc(cpu_fault_ns[i < HMM_STATS_TIMES ? i : HMM_STATS_TIMES - 1]);
	return now;
}

/*
 * To be looked at again by the worker: when something has changed, or, of what is gated,
 * also when nobody says so. The first of those it must be told of.
 */
static void fault_park(struct hmm *hmm, struct parked *parked)
{
	if (!parked->gated) {
		TAILQ_INSERT_TAIL(&hmm->parked, parked, link);
		return;
	}
	TAILQ_INSERT_TAIL(&hmm->gated, parked, link);
	pthread_cond_signal(&hmm->work);
}

/* The monitor's way: at once, or not here. When it was done with it. */
uint64_t cpu_fault(struct hmm *hmm, const struct mm_event *event, uint64_t now)
{
	struct parked *parked = hmm->next_parked;

	debug_step("fault:read", event->start, event->end);
	parked->event = *event;
	parked->read = now;
	parked->since = 0;
	trace_cpu_fault_read(event->start, event->write);
	op_init(&parked->op, OP_BACK, event->start, event->end);
	pthread_mutex_lock(&hmm->lock);
	op_add(hmm, &parked->op);
	if (fault_promote(hmm, parked)) {
		pthread_mutex_unlock(&hmm->lock);
		if (!fault_answer(hmm, &parked->op, event, hmm->monitor_batch, false)) {
			now = fault_time(parked);
			op_end(hmm, &parked->op);
			return now;
		}
		if (MUTANT(FAULT_DROPPED)) {
			op_end(hmm, &parked->op);
			return now;
		}
		pthread_mutex_lock(&hmm->lock);
		op_demote(hmm, &parked->op);
	}
	fault_park(hmm, parked);
	stat_inc(cpu_faults_deferred);
	trace_cpu_fault_deferred(event->start);
	hmm_notify(hmm);
	pthread_mutex_unlock(&hmm->lock);
	hmm->next_parked = parked_new();
	return now_ns();
}

/* The worker's: hmm->lock held, dropped while one is answered. */
bool cpu_fault_run_parked(struct hmm *hmm)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	struct parked *parked, *next;
	int ret;

	for (parked = TAILQ_FIRST(&hmm->parked); parked; parked = next) {
		next = TAILQ_NEXT(parked, link);
		if (fault_promote(hmm, parked))
			break;
		if (parked->gated) {
			TAILQ_REMOVE(&hmm->parked, parked, link);
			TAILQ_INSERT_TAIL(&hmm->gated, parked, link);
		}
	}
	if (!parked)
		return false;
	TAILQ_REMOVE(&hmm->parked, parked, link);
	pthread_mutex_unlock(&hmm->lock);
	ret = fault_answer(hmm, &parked->op, &parked->event, hmm->worker_batch, true);
	if (ret == -ENOMEM)
		nanosleep(&pause, NULL);
	pthread_mutex_lock(&hmm->lock);
	if (ret) {
		op_demote(hmm, &parked->op);
		TAILQ_INSERT_TAIL(&hmm->parked, parked, link);
		return true;
	}
	fault_time(parked);
	op_remove(hmm, &parked->op);
	hmm_free(parked);
	return true;
}
