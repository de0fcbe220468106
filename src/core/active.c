/* SPDX-License-Identifier: MIT */
/*
 * Ops: what is going on where. See core.h for the states and for who waits.
 *
 * One list under one lock, searched from end to end: there are a few dozen of OP_SETTLE at most, and
 * the ops that have to do with another one; those that do not are not in it (lone.c). The lock is
 * held for a few comparisons each.
 *
 * OP_SETTLE is not a thread's. madvise(MADV_DONTNEED) sends its message before it
 * zaps the pages, so for a moment after the event the old pages are still there,
 * and one that went to a device now would survive (G3). The op stays until the
 * call has come back to our madvise() (doing.c), or the page table has been seen empty.
 * A system call made by hand is not seen to come back, and MADV_FREE sends the same
 * message and zaps nothing, hence the deadline: a thread kept from running for longer
 * than that between its message and its zap is not waited for. Nobody polls: the page
 * table is looked at when a migration wants to go past it.
 */
#include <errno.h>
#include <time.h>

#include "core/core.h"

#define SETTLE_POLL_NS 100000

/* Is there something for the worker, to which nobody else sees? hmm->lock held. */
bool hmm_has_work(const struct hmm *hmm)
{
	const struct change *first = TAILQ_FIRST(&hmm->changes);

	if (first && !first->running && !hmm->attended && !hmm->order_told)
		return true;
	return !TAILQ_EMPTY(&hmm->parked) || hmm->rescues || hmm->stop;
}

/*
 * Something changed that others may wait for; hmm->lock held. The worker is only
 * woken where there is work for it: an op ends with every CPU fault.
 */
void hmm_notify(struct hmm *hmm)
{
	pthread_cond_broadcast(&hmm->changed);
	if (hmm_has_work(hmm))
		pthread_cond_signal(&hmm->work);
}

void op_init(struct op *op, enum op_kind kind, unsigned long start, unsigned long end)
{
	*op = (struct op){ .kind = kind, .state = OP_WAITING, .start = start, .end = end };
}

bool op_backoff(const struct op *op)
{
	return __atomic_load_n(&op->backoff, __ATOMIC_ACQUIRE);
}

struct uffd_how op_how(const struct op *op, bool wait)
{
	return (struct uffd_how){ .cancel = &op->backoff, .wait = wait };
}

static bool op_overlaps(const struct op *a, const struct op *b)
{
	return a->start < b->end && b->start < a->end;
}

static bool op_is_barrier(enum op_kind kind)
{
	return kind == OP_FREEZE || kind == OP_SETTLE;
}

/*
 *	          FAULT  OUT  BACK  HOLE  INVAL  FREEZE  SETTLE  PLACE
 *	FAULT       -*    x     x     -     x      x       -**    x
 *	OUT         x     x     x     x     x      x       x      x
 *	BACK        x     x     x     x     x      -       -      -
 *	HOLE        -     x     x     -     x***   -       -      -
 *	INVAL       x     x     x     x     -      -       -      -
 *
 * (*) but for two of one mirror, whose update() must not run twice at once.
 * (**) but for a device that holds on to the page it finds (op->pins).
 * (***) but for an event that still waits, and brings nothing here (op->moves).
 *
 * The way back stays open while a fork or a madvise is under way: the thread
 * that forks may need it. A device fault need not wait for a zap: its entry names
 * a CPU address, and what is there is what the device will see; unless the device
 * pins that. Events are put in order by their queue.
 *
 * OP_PLACE keeps devices from what mremap() is about to replace, until its event has been
 * recorded: that keeps them out from then on, and does not wait for the call to end.
 *
 * OP_HOLE is a CPU fault where nothing is away. It goes past device faults, and past
 * the events that wait for them: the thread that waits for it may be the driver's,
 * which pins the page.
 */
static bool op_conflicts(enum op_kind a, enum op_kind b)
{
	if (b == OP_PLACE)
		return a == OP_FAULT || a == OP_OUT;
	if (a == OP_PLACE)
		return op_conflicts(b, a);
	if (op_is_barrier(a))
		return b == OP_OUT || (a == OP_FREEZE && b == OP_FAULT);
	if (op_is_barrier(b))
		return op_conflicts(b, a);
	if ((a == OP_HOLE && b == OP_FAULT) || (a == OP_FAULT && b == OP_HOLE))
		return false;
	return a != b || a == OP_OUT || a == OP_BACK;
}

static bool op_clashes(const struct op *op, const struct op *other)
{
	if (op_conflicts(op->kind, other->kind))
		return true;
	if (op->kind == OP_FAULT && other->kind == OP_FAULT)
		return op->owner == other->owner;
	return op->pins && other->kind == OP_SETTLE;
}

/* Does @op, not active, have to wait for @other? @earlier: @other came first. */
static bool op_waits_for(const struct op *op, const struct op *other, bool earlier)
{
	if (other->state == OP_PREPARING || !op_overlaps(op, other) || !op_clashes(op, other))
		return false;
	if (other->state == OP_ACTIVE)
		return true;
	if (op->kind == OP_INVAL || op->kind == OP_FREEZE)
		return false;
	if (op->kind == OP_HOLE && !other->moves)
		return false;
	if (other->kind == OP_INVAL || other->kind == OP_FREEZE)
		return true;
	/* What waits may wait for a fork; a CPU fault of the forking thread cannot. */
	if (op->kind == OP_BACK || op->kind == OP_PLACE)
		return false;
	return earlier; /* without it OUT upon OUT passes a fault */
}

/* Could @op not be active while @other is? */
bool op_excludes(const struct op *op, const struct op *other)
{
	return op_overlaps(op, other) && op_clashes(op, other);
}

static bool op_must_wait(struct hmm *hmm, const struct op *op, bool *settling)
{
	bool earlier = true, wait = false;
	const struct op *other;

	*settling = false;
	TAILQ_FOREACH(other, &hmm->ops, link) {
		if (other == op) {
			earlier = false;
			continue;
		}
		if (!op_waits_for(op, other, earlier))
			continue;
		wait = true;
		if (other->kind == OP_SETTLE)
			*settling = true;
	}
	return wait;
}

bool op_range_busy(struct hmm *hmm, const struct op *op)
{
	const struct op *other;

	TAILQ_FOREACH(other, &hmm->ops, link)
		if (other != op && other->state == OP_ACTIVE && op_waits_for(op, other, true))
			return true;
	return false;
}

bool op_any_fault(struct hmm *hmm, unsigned long start, unsigned long end)
{
	const struct op *other;

	lone_pull(hmm, start, end);
	TAILQ_FOREACH(other, &hmm->ops, link)
		if ((other->kind == OP_FAULT || other->kind == OP_OUT) && other->start < end &&
		    start < other->end)
			return true;
	return false;
}

/* What @op interrupts: what is active, and the faults that prepare. */
static void op_push_back(struct hmm *hmm, const struct op *op)
{
	struct op *other;

	TAILQ_FOREACH(other, &hmm->ops, link) {
		bool interrupt = op->kind == OP_INVAL || op->kind == OP_FREEZE;

		if (other == op || other->state == OP_WAITING || op_is_barrier(other->kind) ||
		    !op_overlaps(op, other) || !op_conflicts(op->kind, other->kind))
			continue;
		if ((interrupt && !MUTANT(NOT_INTERRUPTED)) || other->state == OP_PREPARING)
			__atomic_store_n(&other->backoff, true, __ATOMIC_RELEASE);
	}
}

bool op_promote(struct hmm *hmm, struct op *op)
{
	bool settling;

	if (op_must_wait(hmm, op, &settling))
		return false;
	op->state = OP_ACTIVE;
	if (op->kind != OP_FAULT)
		op_push_back(hmm, op);
	return true;
}

/* Let an active op have more: true; false, and as it was, if somebody is there. */
bool op_widen(struct hmm *hmm, struct op *op, unsigned long start, unsigned long end)
{
	unsigned long old_start = op->start, old_end = op->end;
	bool settling;

	op->start = start;
	op->end = end;
	if (op_must_wait(hmm, op, &settling)) {
		op->start = old_start;
		op->end = old_end;
		return false;
	}
	op_push_back(hmm, op);
	return true;
}

/* To the others, waiting. */
void op_add(struct hmm *hmm, struct op *op)
{
	lone_close(hmm, op);
	TAILQ_INSERT_TAIL(&hmm->ops, op, link);
	if (op_is_barrier(op->kind))
		hmm->frozen++;
}

/* Events interrupt at once, also while they wait; all others when they begin. */
bool op_enqueue(struct hmm *hmm, struct op *op)
{
	op_add(hmm, op);
	if (op->kind == OP_INVAL || op->kind == OP_FREEZE)
		op_push_back(hmm, op);
	return op_promote(hmm, op);
}

void op_demote(struct hmm *hmm, struct op *op)
{
	op->state = OP_WAITING;
	__atomic_store_n(&op->backoff, false, __ATOMIC_RELEASE);
	hmm_notify(hmm);
}

void op_remove(struct hmm *hmm, struct op *op)
{
	HMM_ASSERT(!op->lone);
	TAILQ_REMOVE(&hmm->ops, op, link);
	lone_open(hmm, op);
	if (op_is_barrier(op->kind))
		hmm->frozen--;
	if (!MUTANT(WAKEUP_LOST))
		hmm_notify(hmm);
}

/* For one who need not go past it: a program may discard the range again and again. */
uint64_t op_patience(uint64_t ns)
{
	return now_ns() + ns;
}

static bool op_wait(struct hmm *hmm, struct op *op)
{
	bool settling;

	while (op_must_wait(hmm, op, &settling)) {
		struct timespec until;

		if (!settling) {
			pthread_cond_wait(&hmm->changed, &hmm->lock);
			continue;
		}
		event_settle_all(hmm);
		if (!op_must_wait(hmm, op, &settling))
			break;
		if (op->give_up && now_ns() > op->give_up) {
			op_remove(hmm, op);
			return false;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += SETTLE_POLL_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&hmm->changed, &hmm->lock, &until);
	}
	return op_promote(hmm, op);
}

/* Active, and about to look for a device: see marks.c. */
static void op_mark(const struct op *op)
{
	if (op->kind == OP_FAULT || op->kind == OP_OUT)
		mark_set(op->start, op->end);
}

bool op_begin(struct hmm *hmm, struct op *op)
{
	bool active = lone_begin(hmm, op);

	if (!active) {
		pthread_mutex_lock(&hmm->lock);
		active = op_enqueue(hmm, op) || op_wait(hmm, op);
		pthread_mutex_unlock(&hmm->lock);
	}
	if (active)
		op_mark(op);
	return active;
}

bool op_try(struct hmm *hmm, struct op *op)
{
	bool active;

	if (lone_begin(hmm, op))
		return true;
	pthread_mutex_lock(&hmm->lock);
	active = op_enqueue(hmm, op);
	if (!active)
		op_remove(hmm, op);
	pthread_mutex_unlock(&hmm->lock);
	return active;
}

/* Has one been recorded that overlaps? hmm->lock held: so it is, if it has been read. */
bool op_sees_event(struct hmm *hmm, const struct op *op)
{
	const struct op *other;

	TAILQ_FOREACH(other, &hmm->ops, link)
		if (other->kind == OP_INVAL && op_overlaps(op, other))
			return true;
	return false;
}

/*
 * Listen for changes of the range from now on, without keeping anybody out. An
 * event that came before and is not done with is waited for: what is registered
 * would still be told as it was.
 */
void op_prepare(struct hmm *hmm, struct op *op)
{
	op->state = OP_PREPARING;
	op_mark(op);
	pthread_mutex_lock(&hmm->lock);
	op_add(hmm, op);
	while (op_sees_event(hmm, op))
		pthread_cond_wait(&hmm->changed, &hmm->lock);
	pthread_mutex_unlock(&hmm->lock);
}

bool op_activate(struct hmm *hmm, struct op *op)
{
	bool active;

	pthread_mutex_lock(&hmm->lock);
	op->state = OP_WAITING;
	active = op_wait(hmm, op);
	pthread_mutex_unlock(&hmm->lock);
	if (active)
		op_mark(op);
	return active;
}

void op_end(struct hmm *hmm, struct op *op)
{
	if (lone_end(hmm, op))
		return;
	pthread_mutex_lock(&hmm->lock);
	op_remove(hmm, op);
	pthread_mutex_unlock(&hmm->lock);
}
