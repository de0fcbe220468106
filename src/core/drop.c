/* SPDX-License-Identifier: MIT */
/*
 * Calls of madvise() that drop pages, while they run.
 *
 * The kernel tells of MADV_DONTNEED before it does it, and not when it has done it (see
 * active.c, OP_SETTLE). But who called our madvise() comes back to it: then it is done,
 * however long that took. So such a call has an entry here from before to after, and its
 * event, by where it is, finds it.
 *
 *	drop_begin() ── event: recorded with the call's number ── zap ── drop_end()
 *
 * A system call made by hand, or one of libc's own, has none; nor has one for which there
 * was no room. For those there is the time limit.
 *
 * An entry is taken and let go without a lock, for every madvise() comes by.
 */
#include "core/core.h"

#define DROPS_MAX 64
#define DROP_TAKEN UINT64_MAX

static struct drop {
	uint64_t number; /* atomic; 0: free */
	unsigned long start;
	unsigned long end;
} drops[DROPS_MAX] HMM_DATA;

static HMM_DATA uint64_t last_number; /* atomic */

uint64_t drop_begin(unsigned long start, unsigned long end)
{
	uint64_t number;
	unsigned int i;

	if (!process_is_there())
		return 0;
	number = __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED);
	for (i = 0; i < DROPS_MAX; i++) {
		struct drop *drop = &drops[(number + i) % DROPS_MAX];
		uint64_t none = 0;

		if (!__atomic_compare_exchange_n(&drop->number, &none, DROP_TAKEN, false,
						 __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		__atomic_store_n(&drop->start, start, __ATOMIC_RELAXED);
		__atomic_store_n(&drop->end, end, __ATOMIC_RELAXED);
		__atomic_store_n(&drop->number, number, __ATOMIC_RELEASE);
		return number;
	}
	return 0;
}

static struct drop *drop_find(uint64_t number)
{
	unsigned int i;

	for (i = 0; i < DROPS_MAX; i++) {
		struct drop *drop = &drops[(number + i) % DROPS_MAX];

		if (__atomic_load_n(&drop->number, __ATOMIC_ACQUIRE) == number)
			return drop;
	}
	return NULL;
}

void drop_end(uint64_t number)
{
	struct drop *drop = number ? drop_find(number) : NULL;

	if (drop) /* not in a child, which has forgotten it */
		__atomic_store_n(&drop->number, 0, __ATOMIC_RELEASE);
}

bool drop_runs(uint64_t number)
{
	return drop_find(number);
}

/* The call that drops what is in a range; 0: none, or there are several. @any: is there one? */
uint64_t drop_of(unsigned long start, unsigned long end, bool *any)
{
	uint64_t found = 0;
	unsigned int i, n = 0;

	for (i = 0; i < DROPS_MAX; i++) {
		struct drop *drop = &drops[i];
		uint64_t number = __atomic_load_n(&drop->number, __ATOMIC_ACQUIRE);

		if (!number || number == DROP_TAKEN ||
		    __atomic_load_n(&drop->start, __ATOMIC_RELAXED) >= end ||
		    __atomic_load_n(&drop->end, __ATOMIC_RELAXED) <= start)
			continue;
		found = number;
		n++;
	}
	*any = n;
	return n == 1 ? found : 0;
}

/* In a child: those that ran are the parent's. */
void drop_forget(void)
{
	unsigned int i;

	for (i = 0; i < DROPS_MAX; i++)
		__atomic_store_n(&drops[i].number, 0, __ATOMIC_RELAXED);
}
