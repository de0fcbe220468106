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
 * A thread that reads on would fault on each page in turn. So when a fault is just
 * where the last answer ended, the answer brings twice as many pages as that one, up
 * to AROUND_MAX; anywhere else, the one page. Random access pays nothing for it.
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

#define AROUND_MAX 64

/* The monitor's: the end of what this fault may bring, within its chunk. */
static unsigned long around_end(struct hmm *hmm, unsigned long start)
{
	unsigned long end;

	if (start != hmm->around_next || !start)
		hmm->around_pages = 1;
	else if (hmm->around_pages < AROUND_MAX)
		hmm->around_pages *= 2;
	end = chunk_end(start, start + ((unsigned long)hmm->around_pages << hmm_page_shift()));
	hmm->around_next = end;
	return end;
}

static long fill_hole(struct hmm *hmm, const struct mm_event *event, const struct uffd_how *how,
		      struct batch *batch)
{
	unsigned long page = hmm_page_size();

	if (!event->write)
		return uffd_zero(&hmm->mm, how, event->start, page);
	__builtin_memset(batch->bounce, 0, page);
	return uffd_copy(&hmm->mm, how, event->start, batch->bounce, page);
}

/*
 * Up to @end, which is the page's own end or that of more pages that come with it
 * if they are away too. 0: done with. Else it has to be tried again: see back_span().
 */
static int fault_answer(struct hmm *hmm, struct op *op, const struct mm_event *event,
			unsigned long end, struct batch *batch, bool wait)
{
	struct uffd_how how = op_how(op, wait);
	unsigned long pages;
	long ret;

	if (event->protect) {
		ret = uffd_unprotect(&hmm->mm, &how, event->start, hmm_page_size());
	} else {
		if (end > event->end && !special_get(hmm, event->start))
			end = event->end;
		ret = back_span(hmm, op, batch, NULL, event->start, end, wait, &pages);
		if (ret == 1)
			ret = fill_hole(hmm, event, &how, batch);
		else
			stat_add(pages_by_fault, pages);
	}
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
 * hmm->lock held. That nothing is away at the address is true as long as the lock is
 * held, unless an op is active there that keeps ours out.
 */
static bool fault_promote(struct hmm *hmm, struct parked *parked)
{
	parked->op.kind = special_get(hmm, parked->event.start) ? OP_BACK : OP_HOLE;
	return op_promote(hmm, &parked->op);
}

/* The monitor's way: now, or not here. */
void cpu_fault(struct hmm *hmm, const struct mm_event *event)
{
	unsigned long end = around_end(hmm, event->start);
	struct parked *parked = hmm->next_parked;
	bool active;

	parked->event = *event;
	op_init(&parked->op, OP_BACK, event->start, end);
	pthread_mutex_lock(&hmm->lock);
	active = op_enqueue(hmm, &parked->op);
	if (!active && end > event->end) {
		op_remove(hmm, &parked->op);
		end = event->end;
		op_init(&parked->op, OP_BACK, event->start, end);
		active = op_enqueue(hmm, &parked->op) || fault_promote(hmm, parked);
	} else if (!active) {
		active = fault_promote(hmm, parked);
	}
	if (active) {
		pthread_mutex_unlock(&hmm->lock);
		if (!fault_answer(hmm, &parked->op, event, end, hmm->monitor_batch, false)) {
			op_end(hmm, &parked->op);
			return;
		}
		pthread_mutex_lock(&hmm->lock);
		op_demote(hmm, &parked->op);
	}
	TAILQ_INSERT_TAIL(&hmm->parked, parked, link);
	stat_inc(cpu_faults_deferred);
	hmm_notify(hmm);
	pthread_mutex_unlock(&hmm->lock);
	hmm->next_parked = parked_new();
}

/* The worker's: hmm->lock held, dropped while one is answered. */
bool cpu_fault_run_parked(struct hmm *hmm)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	struct parked *parked;
	int ret;

	TAILQ_FOREACH(parked, &hmm->parked, link)
		if (fault_promote(hmm, parked))
			break;
	if (!parked)
		return false;
	TAILQ_REMOVE(&hmm->parked, parked, link);
	pthread_mutex_unlock(&hmm->lock);
	ret = fault_answer(hmm, &parked->op, &parked->event, parked->event.end, hmm->worker_batch,
			   true);
	if (ret == -ENOMEM)
		nanosleep(&pause, NULL);
	pthread_mutex_lock(&hmm->lock);
	if (ret) {
		op_demote(hmm, &parked->op);
		TAILQ_INSERT_TAIL(&hmm->parked, parked, link);
		return true;
	}
	op_remove(hmm, &parked->op);
	hmm_free(parked);
	return true;
}
