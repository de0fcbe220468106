/* SPDX-License-Identifier: MIT */
/*
 * Events: what the program does to its address space, and what follows.
 *
 *	read and recorded ──► first in the queue, nothing active overlaps ──► run
 *	(monitor, OP_INVAL      (monitor, if every device concerned is prompt;
 *	 in the list)            else the worker)
 *
 * They run one at a time in the order in which they happened: an UNMAP and the
 * REMAP that follows it on the same addresses must not change places. While one
 * is recorded, everything that overlaps it waits for it.
 *
 * G3 asks that a device does not use an old translation after the call that ended
 * it has returned; and it returns once we have read of it. A device that can be
 * held is, from before the read until the queue is empty. For others hmm->unsettled
 * is set over the same time, and hmm_mirror_sync() looks at it. Another thread can have
 * the same address from mmap even before that read; only hmm_mirror_sync() helps there.
 *
 * Records come from a stock that is filled before messages are read: once read,
 * a message must not be lost for want of memory.
 */
#include <errno.h>
#include <time.h>

#include "core/core.h"

#define SETTLE_LIMIT_NS 100000000ull
#define SETTLES_MAX 64
#define STOCK 16 /* what one read can bring */
#define BACKLOG 32
#define BACKLOG_WAIT_NS 2000000

static HMM_DATA struct change_list stock = TAILQ_HEAD_INITIALIZER(stock);
static HMM_DATA unsigned int stocked;

/* hmm->lock held. */
static void event_settled(struct hmm *hmm)
{
	__atomic_store_n(&hmm->unsettled, !TAILQ_EMPTY(&hmm->changes), __ATOMIC_SEQ_CST);
}

static void event_lock(void *ctx)
{
	struct hmm *hmm = ctx;
	struct timespec pause = { .tv_nsec = 1000000 };

	pthread_mutex_lock(&hmm->lock);
	while (stocked < STOCK) {
		struct change *change = hmm_alloc(sizeof(*change));

		if (!change) {
			pthread_mutex_unlock(&hmm->lock);
			nanosleep(&pause, NULL);
			pthread_mutex_lock(&hmm->lock);
			continue;
		}
		TAILQ_INSERT_TAIL(&stock, change, link);
		stocked++;
	}
	__atomic_store_n(&hmm->unsettled, true, __ATOMIC_SEQ_CST);
	doing_reading();
}

static void event_unlock(void *ctx)
{
	struct hmm *hmm = ctx;

	doing_recorded(hmm->recorded);
	fork_thaw_locked(hmm);
	event_settled(hmm);
	if (!TAILQ_EMPTY(&hmm->changes))
		hmm->reading = false; /* what is queued keeps the devices held */
	pthread_mutex_unlock(&hmm->lock);
}

/*
 * hmm->lock held. Before more is read: let the worker get on. Who changes its address space faster than
 * the devices follow waits, in its own call, a little for each read; so the queue stays
 * short, and what a device asks for meanwhile has its turn. Not longer: a device may be
 * waiting for a CPU fault, which is read in the same way.
 */
static void event_throttle(struct hmm *hmm)
{
	struct timespec until;

	if (hmm->recorded - hmm->done < BACKLOG)
		return;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += BACKLOG_WAIT_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (hmm->recorded - hmm->done >= BACKLOG &&
	       !pthread_cond_timedwait(&hmm->changed, &hmm->lock, &until))
		;
}

/*
 * Nobody else takes ms->held from false to true; back it goes only with hmm->lock
 * held and hmm->reading false.
 */
static void event_hold(void *ctx)
{
	struct hmm *hmm = ctx;
	struct hmm_mirror_state *ms;

	pthread_mutex_lock(&hmm->lock);
	event_throttle(hmm);
	hmm->reading = hmm->holders && !MUTANT(NOT_HELD);
	TAILQ_FOREACH(ms, &hmm->mirrors, link) {
		if (!hmm->reading || !ms->ops->hold || ms->held || mirror_is_dead(ms))
			continue;
		ms->users++; /* so it stays in the list */
		pthread_mutex_unlock(&hmm->lock);
		call_hold(ms);
		pthread_mutex_lock(&hmm->lock);
		ms->held = true;
		if (!--ms->users)
			hmm_notify(hmm);
	}
	pthread_mutex_unlock(&hmm->lock);
}

/* hmm->lock held: let the devices go on, if there is nothing to tell them. */
static void event_release_all(struct hmm *hmm)
{
	struct hmm_mirror_state *ms;

	if (!hmm->holders || hmm->reading || !TAILQ_EMPTY(&hmm->changes))
		return;
	TAILQ_FOREACH(ms, &hmm->mirrors, link) {
		if (!ms->held)
			continue;
		call_release(ms);
		ms->held = false;
	}
	hmm_notify(hmm);
}

static void event_release(void *ctx)
{
	struct hmm *hmm = ctx;

	if (!hmm->reading) /* ours: set and reset by the monitor */
		return;
	pthread_mutex_lock(&hmm->lock);
	hmm->reading = false;
	event_release_all(hmm);
	pthread_mutex_unlock(&hmm->lock);
}

/*
 * Can a translation be wrong for want of an event that is still to be read? Where it is
 * an address that is looked up at each access, it cannot.
 */
static bool sync_needs_quiet(struct hmm_mirror_state *ms)
{
	return ms->dev->flags & HMM_DEVICE_PINS || pt_count(&ms->hmm->special);
}

/*
 * The caller may use an address that another thread is just unmapping: the kernel has
 * given it to the caller, and the event is still to be read. So see to it that none is.
 */
HMM_API void hmm_mirror_sync(struct hmm_mirror *mirror)
{
	struct hmm_mirror_state *ms = __atomic_load_n(&mirror->state, __ATOMIC_ACQUIRE);
	struct uffd_how how = { .wait = true };
	struct hmm *hmm = ms ? ms->hmm : NULL;
	const struct change *first;
	uint64_t target;

	if (!hmm || call_running() || MUTANT(SYNC_DOES_NOT_WAIT))
		return;
	if (sync_needs_quiet(ms)) {
		hmm_signals_block();
		uffd_quiet(&hmm->mm, &how);
		hmm_signals_unblock();
	}
	if (!__atomic_load_n(&hmm->unsettled, __ATOMIC_SEQ_CST))
		return;
	signals_lock(&hmm->lock); /* waits for a read under way */
	target = hmm->recorded;
	while ((first = TAILQ_FIRST(&hmm->changes)) && first->number < target)
		pthread_cond_wait(&hmm->changed, &hmm->lock);
	signals_unlock(&hmm->lock);
}

/* Has all been dealt with that has happened? Never waits. */
bool event_idle(struct hmm *hmm)
{
	bool idle;

	pthread_mutex_lock(&hmm->lock);
	idle = TAILQ_EMPTY(&hmm->changes) && !uffd_pending(&hmm->mm);
	pthread_mutex_unlock(&hmm->lock);
	return idle;
}

static void change_free(struct change *change)
{
	if (stocked < STOCK) {
		TAILQ_INSERT_TAIL(&stock, change, link);
		stocked++;
	} else {
		hmm_free(change);
	}
}

/*
 * The same as the last one that is waiting, or a part of it: a program that discards
 * all day gets ahead of a device that takes its time. Not where events are counted
 * (order.c).
 */
static bool event_joins(struct hmm *hmm, const struct mm_event *event)
{
	struct change *last = TAILQ_LAST(&hmm->changes, change_list);
	bool any;

	if (!last || last->running || last->void_ || last->event.type != event->type ||
	    (event->type != MM_UNMAP && event->type != MM_REMOVE) ||
	    (event->type == MM_UNMAP && (hmm->remaps || hmm->arrivals.n || hmm->expected.n)) ||
	    event->start < last->event.start || event->end > last->event.end)
		return false;
	last->events++;
	if (event->type == MM_REMOVE && last->call != doing_drop(event->start, event->end, &any))
		last->call = 0; /* more than one call */
	range_break(NULL, event->start, event->end);
	return true;
}

static void event_record(void *ctx, const struct mm_event *event)
{
	struct hmm *hmm = ctx;
	struct change *change = TAILQ_FIRST(&stock);
	unsigned int i;
	bool any;

	hmm->recorded++;
	hmm->attended = true;
	trace_event_read(event->type, event->start, event->end, event->to);
	if (event_joins(hmm, event))
		return;
	TAILQ_REMOVE(&stock, change, link);
	stocked--;
	*change = (struct change){
		.event = *event,
		.nops = 1,
		.events = 1,
		.shielded = hmm->shielded,
		.number = hmm->recorded - 1,
	};
	if (change->event.type == MM_REMOVE)
		change->call = doing_drop(event->start, event->end, &any);
	if (event->type == MM_UNMAP || event->type == MM_REMAP)
		change->since = doing_since(event->type == MM_UNMAP ? DOING_UNMAP : DOING_REMAP,
					    event->start, event->end, &change->call);
	if (change->event.type == MM_FORK)
		change->event.end = USER_END;
	order_record(hmm, change);
	op_init(&change->op[0], OP_INVAL, event->start, change->event.end);
	if (event->type == MM_REMAP) {
		op_init(&change->op[1], OP_INVAL, event->to,
			event->to + (event->end - event->start));
		change->nops = 2;
	}
	for (i = 0; i < change->nops; i++) {
		change->op[i].moves = i; /* where a remap went */
		op_enqueue(hmm, &change->op[i]);
		if (!MUTANT(SNAPSHOT_NOT_BROKEN))
			range_break(NULL, change->op[i].start, change->op[i].end);
	}
	TAILQ_INSERT_TAIL(&hmm->changes, change, link);
	hmm->remaps += event->type == MM_REMAP;
}

/* As if an UNMAP had been read. Without memory for it, another time. hmm->lock held. */
void event_inject(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct change *change = hmm_alloc(sizeof(*change));

	if (!change)
		return;
	change->event = (struct mm_event){ .type = MM_UNMAP, .start = start, .end = end, .fd = -1 };
	change->nops = change->events = 1;
	change->judged = true;
	change->number = hmm->recorded++;
	op_init(&change->op[0], OP_INVAL, start, end);
	op_enqueue(hmm, &change->op[0]);
	range_break(NULL, start, end);
	TAILQ_INSERT_TAIL(&hmm->changes, change, link);
	event_settled(hmm);
	hmm_notify(hmm);
}

/*
 * No device is waited for here: the mirrors' devices said they are prompt. The worker is
 * woken with the lock let go: it may run at once, and so may who waits for the event.
 */
static void event_events(void *ctx)
{
	struct hmm *hmm = ctx;
	bool wake;

	debug_step("event:read", 0, USER_END);
	pthread_mutex_lock(&hmm->lock);
	while (event_run_next(hmm, true))
		;
	hmm->attended = false;
	wake = hmm_has_work(hmm) || order_unsettled(hmm);
	pthread_mutex_unlock(&hmm->lock);
	if (wake)
		pthread_cond_signal(&hmm->work);
}

static uint64_t event_fault(void *ctx, const struct mm_event *event, uint64_t now)
{
	return cpu_fault(ctx, event, now);
}

static int event_cpu(void *ctx)
{
	(void)ctx;
	return doing_cpu();
}

static void event_kicked(void *ctx)
{
	mirrors_bury(ctx);
}

const struct monitor_ops event_monitor_ops = {
	.hold = event_hold,
	.release = event_release,
	.lock = event_lock,
	.unlock = event_unlock,
	.record = event_record,
	.fault = event_fault,
	.events = event_events,
	.kicked = event_kicked,
	.cpu = event_cpu,
};

static bool change_settled(struct hmm *hmm, const struct op *op, uint64_t now)
{
	bool any;

	if (op->drop && (!doing_runs(op->drop) || MUTANT(DROP_SETTLED_EARLY)))
		return true;
	if (now >= op->deadline) {
		doing_drop(op->start, op->end, &any);
		if (!any)
			return true;
	}
	return walk_empty(&hmm->mm, op->start, op->end) > 0;
}

static void settle_end(struct hmm *hmm, struct op *op)
{
	op_remove(hmm, op);
	change_free(hmm_container_of(op, struct change, op[0]));
}

/* hmm->lock held. */
void event_settle_all(struct hmm *hmm)
{
	uint64_t now = now_ns();
	struct op *op, *next;

	for (op = TAILQ_FIRST(&hmm->ops); op; op = next) {
		next = TAILQ_NEXT(op, link);
		if (op->kind == OP_SETTLE && change_settled(hmm, op, now))
			settle_end(hmm, op);
	}
}

/* The addresses are gone. */
static void range_drop(struct hmm *hmm, unsigned long start, unsigned long end)
{
	if (start >= end)
		return;
	dirty_drop(hmm, start, end);
	special_drop(hmm, start, end + (MUTANT(NEIGHBOUR_DROPPED) ? hmm_page_size() : 0));
	watch_remove(hmm, start, end);
	mark_clear(start, end);
}

/* But for what it does not concern (order.c). */
static void change_drop(struct hmm *hmm, const struct change *change)
{
	unsigned long pos = change->event.start;
	unsigned int i;

	for (i = 0; i < change->nstays; i++) {
		range_drop(hmm, pos, change->stays[i].start);
		pos = change->stays[i].end;
	}
	range_drop(hmm, pos, change->event.end);
}

static void range_move(struct hmm *hmm, unsigned long start, unsigned long end, unsigned long to,
		       bool plain)
{
	if (start >= end)
		return;
	dirty_remap(hmm, start, end, to);
	special_remap(hmm, start, end, to);
	watch_remap(hmm, start, end, to);
	if (plain) /* its UNMAP is not waited for */
		watch_remove(hmm, start, end);
}

static void change_move(struct hmm *hmm, const struct change *change)
{
	unsigned long start = change->event.start, end = change->event.end, pos = start;
	unsigned long to = change->event.to;
	unsigned int i;

	range_drop(hmm, to, to + (end - start));
	for (i = 0; i < change->nstays; i++) {
		range_move(hmm, pos, change->stays[i].start, to + (pos - start), change->plain);
		pos = change->stays[i].end;
	}
	range_move(hmm, pos, end, to + (pos - start), change->plain);
}

/*
 * Nothing conflicting is active, and all that comes waits: the special entries
 * and the mirrors of the range are ours.
 */
static void change_run(struct hmm *hmm, const struct change *change)
{
	const struct mm_event *event = &change->event;
	unsigned long len = event->end - event->start;
	uint64_t begun = trace_event_begin(event->type, event->start, event->end, event->to);

	stat_inc(events);
	debug_step("event:run", event->start, event->end);
	switch (event->type) {
	case MM_UNMAP:
		if (change->void_ || MUTANT(UNMAP_IGNORED))
			break;
		mirrors_update(hmm, event->start, event->end, HMM_MUNMAP);
		change_drop(hmm, change);
		break;
	case MM_REMOVE:
		if (MUTANT(REMOVE_IGNORED))
			break;
		mirrors_update(hmm, event->start, event->end, HMM_MIGRATE);
		dirty_drop(hmm, event->start, event->end);
		special_drop(hmm, event->start, event->end);
		break;
	case MM_REMAP:
		if (MUTANT(REMAP_IGNORED))
			break;
		mirrors_update(hmm, event->start, event->end, HMM_MUNMAP);
		mirrors_update(hmm, event->to, event->to + len, HMM_MUNMAP);
		change_move(hmm, change);
		break;
	case MM_FORK:
		if (MUTANT(FORK_IGNORED))
			break;
		if (!change->shielded)
			mirrors_update(hmm, event->start, event->end, HMM_FORK);
		fork_fill_child(hmm, event->fd);
		break;
	case MM_FAULT:
		break;
	}
	trace_event_end(begun, event->type, event->start, event->end, event->to);
}

/*
 * The old ones go by their deadline. One that covers the new range is made to last
 * as long as that has to; so is, when there are many, the youngest, over both ranges.
 */
static struct op *settle_join(struct hmm *hmm, const struct mm_event *event, uint64_t now)
{
	struct op *op, *next, *youngest = NULL;

	for (op = TAILQ_FIRST(&hmm->ops); op; op = next) {
		next = TAILQ_NEXT(op, link);
		if (op->kind != OP_SETTLE)
			continue;
		if (now >= op->deadline && change_settled(hmm, op, now)) {
			settle_end(hmm, op);
			continue;
		}
		if (op->start <= event->start && op->end >= event->end)
			return op;
		youngest = op;
	}
	if (!youngest || hmm->frozen < SETTLES_MAX)
		return NULL;
	lone_resize(hmm, youngest, event->start < youngest->start ? event->start : youngest->start,
		    event->end > youngest->end ? event->end : youngest->end);
	return youngest;
}

/* After a REMOVE: hmm->lock held. A program may do this all day, so it costs little. */
static void settle_begin(struct hmm *hmm, struct change *change)
{
	uint64_t now = now_ns();
	struct op *op = settle_join(hmm, &change->event, now);

	if (op) {
		op->deadline = now + SETTLE_LIMIT_NS;
		if (op->drop != change->call)
			op->drop = 0; /* more than one call */
		change_free(change);
		return;
	}
	op = &change->op[0];
	op_init(op, OP_SETTLE, change->event.start, change->event.end);
	op->deadline = now + SETTLE_LIMIT_NS;
	op->drop = change->call;
	op_enqueue(hmm, op);
	op->state = OP_ACTIVE;
	if (change_settled(hmm, op, now))
		settle_end(hmm, op);
}

static bool change_ready(struct hmm *hmm, struct change *change, bool monitor)
{
	unsigned int i;

	if (change->running)
		return false;
	if (monitor && change->event.type == MM_FORK)
		return false;
	for (i = 0; i < change->nops; i++) {
		struct op *op = &change->op[i];

		if (op_range_busy(hmm, op) && !MUTANT(EVENT_DOES_NOT_WAIT))
			return false;
		if (monitor && !mirrors_prompt(hmm, op->start, op->end))
			return false;
	}
	return true;
}

/* Run the next event if it can be; hmm->lock held, dropped while it runs. */
bool event_run_next(struct hmm *hmm, bool monitor)
{
	struct change *change = order_next(hmm);
	struct op between;
	unsigned int i;

	if (!change || !change_ready(hmm, change, monitor))
		return false;
	change->running = true;
	for (i = 0; i < change->nops; i++)
		change->op[i].state = OP_ACTIVE;
	pthread_mutex_unlock(&hmm->lock);
	change_run(hmm, change);
	debug_step("event:done", change->event.start, change->event.end);
	pthread_mutex_lock(&hmm->lock);

	TAILQ_REMOVE(&hmm->changes, change, link);
	hmm->remaps -= change->event.type == MM_REMAP;
	hmm->done += change->events;
	order_done(hmm, change);
	event_settled(hmm);
	event_release_all(hmm);
	between = change->op[0];
	lone_close(hmm, &between); /* nobody comes between this op and the next */
	for (i = 0; i < change->nops; i++)
		op_remove(hmm, &change->op[i]);
	if (change->event.type != MM_REMOVE || MUTANT(DROP_NOT_SETTLED))
		change_free(change);
	else
		settle_begin(hmm, change);
	lone_open(hmm, &between);
	return true;
}

/* The process's last mirror is gone; its threads too. */
void event_discard_all(struct hmm *hmm)
{
	struct op *op, *next;

	HMM_ASSERT(TAILQ_EMPTY(&hmm->changes));
	for (op = TAILQ_FIRST(&hmm->ops); op; op = next) {
		next = TAILQ_NEXT(op, link);
		if (op->kind != OP_SETTLE)
			continue;
		op_remove(hmm, op);
		hmm_free(hmm_container_of(op, struct change, op[0]));
	}
}

/* In a child: the stock may be half taken by a thread that is not here. */
void event_forget(void)
{
	TAILQ_INIT(&stock);
	stocked = 0;
}
