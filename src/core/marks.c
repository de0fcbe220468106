/* SPDX-License-Identifier: MIT */
/*
 * Where something may be mirrored, migrated or registered: known to the page, without a lock (G10).
 *
 * Who calls our mprotect(), munmap(), madvise() or mremap() asks here whether libhmm has to do with
 * the range. A page is marked before anybody looks at it for a device; so a call that has changed
 * something, and then finds no mark, is none that a device has to hear of: who marks it afterwards
 * will see what it has changed.
 *
 *	set	by who has an active op on the range, before he looks (op_begin(), op_activate());
 *		before that too, by who prepares, and by who registers more than that
 *	cleared by who has unmapped the range, with an active op on it that is alone there: of whom
 *		prepares meanwhile the mark is set again when he is active
 *
 * What is registered and not marked is heard of by its event, as anything else; it costs nobody a
 * translation.
 *
 * An entry for each chunk's number modulo MARKS, with a bit for each page of the first such chunk;
 * when there is a second one the entry stands for both, and for all their pages, from then on.
 */
#include "core/core.h"

#define MARKS 4096ul
#define SHARED (~0ul)

struct mark {
	unsigned long owner; /* atomic: the chunk's number plus 1; 0: nobody's; SHARED */
	uint64_t bits[CHUNK_PAGES_MAX / 64]; /* atomic */
};

/* Arena memory, of which only what is written to takes any. Made once; NULL: in a child. */
static HMM_DATA struct mark *marks; /* atomic */

static void mark_reset(struct mark *mark)
{
	unsigned int w;

	if (!__atomic_load_n(&mark->owner, __ATOMIC_RELAXED))
		return; /* it may never have been written to */
	for (w = 0; w < CHUNK_PAGES_MAX / 64; w++)
		__atomic_store_n(&mark->bits[w], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&mark->owner, 0, __ATOMIC_RELEASE);
}

bool marks_init(void)
{
	unsigned long i;

	if (!marks) { /* zeroed, and not even looked at */
		__atomic_store_n(&marks, hmm_map(MARKS * sizeof(*marks)), __ATOMIC_RELEASE);
		return marks;
	}
	for (i = 0; i < MARKS; i++)
		mark_reset(&marks[i]);
	return true;
}

void marks_forget(void)
{
	marks = NULL;
}

/* The bits of [@first, @last) in word @w. */
static uint64_t mark_mask(unsigned int w, unsigned int first, unsigned int last)
{
	unsigned int from = first > w * 64 ? first - w * 64 : 0;
	unsigned int to = last < w * 64 + 64 ? last - w * 64 : 64;

	return (to == 64 ? ~0ull : (1ull << to) - 1) & ~((1ull << from) - 1);
}

static bool mark_claim(struct mark *mark, unsigned long chunk)
{
	unsigned long owner = 0;

	if (__atomic_compare_exchange_n(&mark->owner, &owner, chunk + 1, false, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST) ||
	    owner == chunk + 1)
		return true;
	if (owner != SHARED)
		__atomic_store_n(&mark->owner, SHARED, __ATOMIC_SEQ_CST);
	return false;
}

/* The pages [@first, @last) of a chunk. */
static void mark_set_part(struct mark *mark, unsigned long chunk, unsigned int first,
			  unsigned int last)
{
	unsigned int w;

	if (__atomic_load_n(&mark->owner, __ATOMIC_RELAXED) != chunk + 1 &&
	    !mark_claim(mark, chunk))
		return;
	for (w = first / 64; w * 64 < last; w++) {
		uint64_t mask = mark_mask(w, first, last);

		if ((__atomic_load_n(&mark->bits[w], __ATOMIC_RELAXED) & mask) != mask)
			__atomic_fetch_or(&mark->bits[w], mask, __ATOMIC_SEQ_CST);
	}
}

static bool mark_any_part(const struct mark *mark, unsigned long chunk, unsigned int first,
			  unsigned int last)
{
	unsigned long owner = __atomic_load_n(&mark->owner, __ATOMIC_SEQ_CST);
	unsigned int w;

	if (owner != chunk + 1)
		return owner == SHARED;
	for (w = first / 64; w * 64 < last; w++)
		if (__atomic_load_n(&mark->bits[w], __ATOMIC_SEQ_CST) & mark_mask(w, first, last))
			return true;
	return false;
}

static void mark_clear_part(struct mark *mark, unsigned long chunk, unsigned int first,
			    unsigned int last)
{
	unsigned int w;

	if (__atomic_load_n(&mark->owner, __ATOMIC_RELAXED) != chunk + 1)
		return;
	for (w = first / 64; w * 64 < last; w++)
		__atomic_fetch_and(&mark->bits[w], ~mark_mask(w, first, last), __ATOMIC_SEQ_CST);
}

/* The part of [*@start, @end) in one chunk; *@start is behind it then. False: there is none. */
static bool mark_next(unsigned long *start, unsigned long end, unsigned long *chunk,
		      unsigned int *first, unsigned int *last)
{
	unsigned long stop;

	if (*start >= end)
		return false;
	stop = chunk_end(*start, end);
	*chunk = *start >> CHUNK_SHIFT;
	*first = (unsigned int)((*start & ~CHUNK_MASK) >> hmm_page_shift());
	*last = *first + (unsigned int)((stop - *start + hmm_page_size() - 1) >> hmm_page_shift());
	*start = stop;
	return true;
}

/* So much that there is an entry for each chunk of it only by chance. */
static bool marks_exceeded(unsigned long start, unsigned long end)
{
	return start < end && (end - start) >> CHUNK_SHIFT >= MARKS;
}

void mark_set(unsigned long start, unsigned long end)
{
	unsigned int first, last;
	unsigned long chunk;

	if (MUTANT(NEVER_MARKED) || !marks)
		return;
	if (marks_exceeded(start, end))
		for (chunk = 0; chunk < MARKS; chunk++)
			__atomic_store_n(&marks[chunk].owner, SHARED, __ATOMIC_SEQ_CST);
	else
		while (mark_next(&start, end, &chunk, &first, &last))
			mark_set_part(&marks[chunk % MARKS], chunk, first, last);
}

bool mark_any(unsigned long start, unsigned long end)
{
	const struct mark *all = __atomic_load_n(&marks, __ATOMIC_ACQUIRE);
	unsigned int first, last;
	unsigned long chunk;

	if (!all)
		return false;
	if (marks_exceeded(start, end))
		return true;
	while (mark_next(&start, end, &chunk, &first, &last))
		if (mark_any_part(&all[chunk % MARKS], chunk, first, last))
			return true;
	return false;
}

void mark_clear(unsigned long start, unsigned long end)
{
	unsigned int first, last;
	unsigned long chunk;

	if (!marks || marks_exceeded(start, end))
		return; /* what is marked too much costs a look */
	while (mark_next(&start, end, &chunk, &first, &last))
		mark_clear_part(&marks[chunk % MARKS], chunk, first, last);
}
