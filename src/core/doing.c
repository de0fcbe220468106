/* SPDX-License-Identifier: MIT */
/*
 * Calls that the program makes through us to change its address space, while they run.
 *
 * What the kernel tells of them it tells at another time than it does it, and not by whom
 * it was called (see active.c, OP_SETTLE, and order.c). But who calls our madvise(),
 * munmap() or mremap() comes back to it. So such a call has an entry here from before to
 * after, and its event, by where it is, finds it.
 *
 *	doing_begin() ── event: read, finds the entry ── effect ── doing_end()   madvise
 *	doing_begin() ── effect ── event: read, finds the entry ── doing_end()   the others
 *
 * Of a drop that tells when it has had its effect: when the call has ended. Of the others it
 * tells what they certainly came after: what was read before the call began (@since). For
 * that no call begins, or ends, between the reading of an event and its record. And of an
 * mremap() whose move has been told it tells that the UNMAP of its source is to come, as long
 * as it runs (order.c); DOING_REMAP_KEEPS is one with MREMAP_DONTUNMAP, which has none.
 *
 * And while a mapping is not what the program made it, for a moment (window.c), no call
 * begins that would change it; mprotect() has an entry for that alone, and so have places that
 * mremap() moves something to: DOING_OTHER.
 *
 * A system call made by hand, or one of libc's own, has none; nor has one for which there
 * was no room. For those the rest of libhmm has to do without.
 *
 * An entry is taken and let go without a lock, for every such call comes by. @taken says which
 * are, so that nobody looks at the others; who takes the lowest has it in a cache, as a rule.
 */
#include <sched.h>

#include "core/core.h"

#define DOING_MAX 64
#define PATIENCE 10000 /* yields; a child by a system call has its parent's @turn, for ever */

static struct doing {
	uint64_t number; /* atomic; 0: there is none; else modulo DOING_MAX, which entry it is */
	uint64_t last; /* the same of the last one that was here; whose the entry is */
	enum doing_kind kind;
	unsigned long start;
	unsigned long end;
	uint64_t since;
	int cpu; /* where it was called; atomic */
} __attribute__((aligned(64))) calls[DOING_MAX] HMM_DATA;

static HMM_DATA uint64_t taken; /* atomic; a bit for each entry */
static HMM_DATA uint64_t turn; /* atomic; odd: events are being read */
static HMM_DATA uint64_t recorded; /* atomic: events so far */

/* The monitor's: what is read between the two is recorded when the second returns. */
void doing_reading(void)
{
	__atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
}

void doing_recorded(uint64_t events)
{
	__atomic_store_n(&recorded, events, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
}

/* Is the monitor between the two? */
bool doing_is_read(void)
{
	return __atomic_load_n(&turn, __ATOMIC_SEQ_CST) % 2;
}

uint64_t doing_events(void)
{
	return __atomic_load_n(&recorded, __ATOMIC_RELAXED);
}

/* Where the last call was made: as a rule it had the first entry. */
int doing_cpu(void)
{
	return __atomic_load_n(&calls[0].cpu, __ATOMIC_RELAXED);
}

/* Nobody that is woken by a reading is to get ahead of its record. */
static void doing_wait(void)
{
	unsigned int n;

	for (n = 0; n < PATIENCE && doing_is_read(); n++)
		sched_yield();
}

/* The lowest that is free; NULL: none is. */
static struct doing *doing_take(void)
{
	uint64_t all = __atomic_load_n(&taken, __ATOMIC_RELAXED);
	unsigned int i;

	do {
		if (!~all)
			return NULL;
		i = (unsigned int)__builtin_ctzll(~all);
	} while (!__atomic_compare_exchange_n(&taken, &all, all | 1ull << i, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	return &calls[i];
}

static uint64_t doing_enter(enum doing_kind kind, unsigned long start, unsigned long end)
{
	struct doing *call = doing_take();

	if (!call)
		return 0;
	call->last = call->last ? call->last + DOING_MAX : DOING_MAX + (uint64_t)(call - calls);
	__atomic_store_n(&call->cpu, sched_getcpu(), __ATOMIC_RELAXED);
	__atomic_store_n(&call->kind, kind, __ATOMIC_RELAXED);
	__atomic_store_n(&call->start, start, __ATOMIC_RELAXED);
	__atomic_store_n(&call->end, end, __ATOMIC_RELAXED);
	__atomic_store_n(&call->since, __atomic_load_n(&recorded, __ATOMIC_SEQ_CST),
			 __ATOMIC_RELAXED);
	__atomic_store_n(&call->number, call->last, __ATOMIC_SEQ_CST);
	return call->last;
}

/* The first entry from *@i on that is taken, with *@i behind it; NULL: none is. */
static struct doing *doing_next(unsigned int *i)
{
	uint64_t all = *i < DOING_MAX ? __atomic_load_n(&taken, __ATOMIC_SEQ_CST) >> *i : 0;

	if (!all)
		return NULL;
	*i += (unsigned int)__builtin_ctzll(all) + 1;
	return &calls[*i - 1];
}

/* Who opens a window says so and then looks for calls; here it is the other way round. */
uint64_t doing_begin(enum doing_kind kind, unsigned long start, unsigned long end)
{
	uint64_t number;

	if (!process_is_there())
		return 0;
	for (;;) {
		if (kind != DOING_OTHER)
			doing_wait();
		number = doing_enter(kind, start, end);
		if (kind == DOING_DROP || !window_over(start, end))
			return number;
		doing_end(number);
		window_wait(start, end);
	}
}

/* Is there a call that changes mappings of the range? */
bool doing_moves(unsigned long start, unsigned long end)
{
	struct doing *call;
	unsigned int i = 0;

	while ((call = doing_next(&i)))
		if (__atomic_load_n(&call->number, __ATOMIC_SEQ_CST) &&
		    __atomic_load_n(&call->kind, __ATOMIC_RELAXED) != DOING_DROP &&
		    __atomic_load_n(&call->start, __ATOMIC_RELAXED) < end &&
		    start < __atomic_load_n(&call->end, __ATOMIC_RELAXED))
			return true;
	return false;
}

void doing_end(uint64_t number)
{
	struct doing *call = &calls[number % DOING_MAX];

	if (!doing_runs(number))
		return; /* none; or in a child, which has forgotten it */
	doing_wait();
	__atomic_store_n(&call->number, 0, __ATOMIC_SEQ_CST); /* see order_called() */
	__atomic_fetch_and(&taken, ~(1ull << number % DOING_MAX), __ATOMIC_RELEASE);
}

bool doing_runs(uint64_t number)
{
	return number &&
	       __atomic_load_n(&calls[number % DOING_MAX].number, __ATOMIC_SEQ_CST) == number;
}

/* Is it of that kind? Its number, with the range; 0: not so, or it has just ended. */
static uint64_t doing_is(const struct doing *call, enum doing_kind kind, unsigned long *start,
			 unsigned long *end, uint64_t *since)
{
	uint64_t number = __atomic_load_n(&call->number, __ATOMIC_SEQ_CST);
	enum doing_kind has;
	bool same;

	if (!number)
		return 0;
	has = __atomic_load_n(&call->kind, __ATOMIC_RELAXED);
	same = has == kind || (has == DOING_REMAP_KEEPS && kind == DOING_REMAP);
	*start = __atomic_load_n(&call->start, __ATOMIC_RELAXED);
	*end = __atomic_load_n(&call->end, __ATOMIC_RELAXED);
	*since = __atomic_load_n(&call->since, __ATOMIC_RELAXED);
	return same ? number : 0;
}

/* The call that drops what is in a range; 0: none, or there are several. @any: is there one? */
uint64_t doing_drop(unsigned long start, unsigned long end, bool *any)
{
	uint64_t found = 0, number, since;
	unsigned int i = 0, n = 0;
	unsigned long from, to;
	struct doing *call;

	while ((call = doing_next(&i))) {
		number = doing_is(call, DOING_DROP, &from, &to, &since);
		if (!number || from >= end || to <= start)
			continue;
		found = number;
		n++;
	}
	*any = n;
	return n == 1 ? found : 0;
}

/*
 * How many events had been read when the call began that takes just this range away; 0: it
 * is not known. Of several calls it could be any. *@which: which, where it is one, and ends a
 * mapping for certain; else 0.
 */
uint64_t doing_since(enum doing_kind kind, unsigned long start, unsigned long end, uint64_t *which)
{
	uint64_t found = 0, number, since;
	unsigned int i = 0, n = 0;
	unsigned long from, to;
	struct doing *call;

	*which = 0;
	while ((call = doing_next(&i))) {
		number = doing_is(call, kind, &from, &to, &since);
		if (!number || from != start || to != end)
			continue;
		if (!found || since < found)
			found = since;
		if (__atomic_load_n(&call->kind, __ATOMIC_RELAXED) == kind)
			*which = number;
		n++;
	}
	if (n != 1)
		*which = 0;
	return found;
}

/* Does an mremap() run? When it has ended, order_called() follows. */
bool doing_remaps(void)
{
	struct doing *call;
	unsigned int i = 0;

	while ((call = doing_next(&i))) {
		unsigned long from, to;
		uint64_t since;

		if (doing_is(call, DOING_REMAP, &from, &to, &since))
			return true;
	}
	return false;
}

/* In a child: those that ran are the parent's. */
void doing_forget(void)
{
	unsigned int i;

	for (i = 0; i < DOING_MAX; i++)
		__atomic_store_n(&calls[i].number, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&taken, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&turn, 0, __ATOMIC_RELAXED);
}
