/* SPDX-License-Identifier: MIT */
/*
 * What is registered with userfaultfd, and how.
 *
 * A tree of disjoint ranges. It must never say of memory that it is registered
 * when it is not: its munmap would not be heard of. The other way round is
 * harmless, registering twice is.
 *
 * Registering and entering is one step under watch_lock, and an event takes the
 * lock to leave: an event that was sent before we registered takes away too much,
 * one sent after comes after. What the kernel registered is what was mapped at
 * that moment; where a hole had opened unseen (memory not yet registered sends no
 * event) and was mapped again, that mapping is not registered. So look again
 * before entering: is it all mapped, and all registered? Nobody waits for an event
 * to be read while holding watch_lock: the one who reads may want it.
 *
 * Two modes. UFFD_WATCH hears events and costs first touch nothing; UFFD_CATCH
 * also sends missing faults and is for chunks that have pages away. A mode is only
 * added to, never taken away, until the last mirror leaves; but for what a call is about to
 * change (watch_leave()).
 *
 * Of whole chunks that were asked for lately it is known without the lock (hmm->watched): who leaves, or
 * forgets, takes that away first. Who has seen it has an op on his range, and an event there
 * waits for that; so it is as good as having looked with the lock.
 */
#include <errno.h>

#include "core/core.h"

#define UNIFY_RETRIES 1000
#define CATCH_MAX (64 * hmm_page_size())
#define KNOWN_MODE 3ul /* the low bits of what is known; the rest is the chunk's address */

static unsigned long *watch_known(struct hmm *hmm, unsigned long addr)
{
	return &hmm->watched[(addr >> CHUNK_SHIFT) % WATCHED_MAX];
}

static bool watch_is_chunk(unsigned long start, unsigned long end)
{
	return !(start & ~CHUNK_MASK) && end - start == CHUNK_SIZE;
}

static bool watch_knows(struct hmm *hmm, unsigned long start, unsigned long end,
			enum uffd_mode mode)
{
	unsigned long known = __atomic_load_n(watch_known(hmm, start), __ATOMIC_RELAXED);

	return watch_is_chunk(start, end) && (known & ~KNOWN_MODE) == start &&
	       (known & KNOWN_MODE) >= (unsigned long)mode;
}

/* watch_lock held, as for the next. */
static void watch_note(struct hmm *hmm, unsigned long start, unsigned long end, enum uffd_mode mode)
{
	if (watch_is_chunk(start, end))
		__atomic_store_n(watch_known(hmm, start), start | (unsigned long)mode,
				 __ATOMIC_RELAXED);
}

static void watch_unknow(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned long addr = start & CHUNK_MASK, i;

	for (i = 0; i < WATCHED_MAX && addr < end; i++, addr += CHUNK_SIZE) {
		unsigned long *known = watch_known(hmm, addr);
		unsigned long at = __atomic_load_n(known, __ATOMIC_RELAXED) & ~KNOWN_MODE;

		if (at < end && start < at + CHUNK_SIZE)
			__atomic_store_n(known, 0, __ATOMIC_RELAXED);
	}
}

/* Without memory to split a range, all of it is forgotten: harmless, see above. */
static void watch_replace(struct hmm *hmm, unsigned long start, unsigned long end, struct extent *w)
{
	struct extent *first = extent_first(&hmm->watch, start), *spare = NULL;

	watch_unknow(hmm, start, end);
	if (first && first->start < start && first->end > end)
		spare = hmm_alloc(sizeof(*spare));
	if (!extent_cut(&hmm->watch, start, end, &spare))
		log_debug("no memory to remember what is registered: will be done again");
	hmm_free(spare);
	if (w)
		extent_enter(&hmm->watch, w);
}

/*
 * Is it all mapped, and all registered? A mapping is so as a whole: its first page
 * tells. If one changes after it was looked up, an event says so: it was sent after we
 * registered, and takes out of the set what we enter now.
 */
static bool watch_verify(struct hmm *hmm, unsigned long start, unsigned long end)
{
	struct vma vma;

	for (; start < end; start = vma.end)
		if (vma_find(&hmm->mm, start, &vma) || vma.start > start ||
		    !uffd_owned(&hmm->mm, start, start + vma.page_size))
			return false;
	return true;
}

static int watch_register(struct hmm *hmm, unsigned long start, unsigned long end,
			  enum uffd_mode mode)
{
	struct extent *w;
	int ret;

	if (extent_covers(&hmm->watch, start, end, mode))
		return 0;
	if (!order_free(hmm, start, end))
		return -EAGAIN; /* see order.c */
	mark_set(start, end);
	w = hmm_alloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	ret = uffd_register(&hmm->mm, start, end, mode);
	if (ret) {
		hmm_free(w);
		return ret == -EBUSY && fork_recent() ? -EAGAIN : ret;
	}
	if (!watch_verify(hmm, start, end)) {
		hmm_free(w);
		return -EAGAIN;
	}
	*w = (struct extent){ .start = start, .end = end, .mode = mode };
	watch_replace(hmm, start, end, w);
	return 0;
}

/**
 * watch_range() - see to it that a range is registered
 * @start: inside one or more mappings that can be
 * @end: end, exclusive
 * @mode: at least so
 *
 * Return: 0; -EAGAIN the mappings changed: yield, look again; -EINVAL the memory is of
 * a kind the kernel cannot watch; -ENOMEM no memory, or too many mappings;
 * -EBUSY another userfaultfd of the program has it.
 */
int watch_range(struct hmm *hmm, unsigned long start, unsigned long end, enum uffd_mode mode)
{
	int ret;

	if (watch_knows(hmm, start, end, mode))
		return 0;
	pthread_mutex_lock(&hmm->watch_lock);
	ret = watch_register(hmm, start, end, mode);
	if (!ret)
		watch_note(hmm, start, end, mode);
	pthread_mutex_unlock(&hmm->watch_lock);
	return ret;
}

/*
 * Of one mapping what lies in [@from, @to). Of hugetlbfs all: the kernel does not join
 * its mappings again, and mremap takes one.
 */
int watch_vma(struct hmm *hmm, const struct vma *vma, unsigned long from, unsigned long to,
	      enum uffd_mode mode)
{
	if (vma->page_size > hmm_page_size()) {
		from = vma->start;
		to = vma->end;
	}
	return watch_range(hmm, vma->start > from ? vma->start : from,
			   vma->end < to ? vma->end : to, mode);
}

void watch_remove(struct hmm *hmm, unsigned long start, unsigned long end)
{
	pthread_mutex_lock(&hmm->watch_lock);
	if (!MUTANT(WATCH_KEPT))
		watch_replace(hmm, start, end, NULL);
	pthread_mutex_unlock(&hmm->watch_lock);
}

/*
 * watch_lock held: what is registered of the range; false: more than *@left has room for, or so much for
 * missing faults that the kernel would look at its pages for longer than an event takes (uffd_leave()).
 */
static bool watch_left(struct hmm *hmm, unsigned long start, unsigned long end,
		       struct watch_left *left)
{
	struct extent *w;

	left->n = 0;
	for (w = extent_first(&hmm->watch, start); w && w->start < end; w = extent_next(w)) {
		unsigned long from = w->start > start ? w->start : start;

		if (left->n == WATCH_LEFT_MAX ||
		    (w->mode == UFFD_CATCH && (w->end < end ? w->end : end) - from > CATCH_MAX))
			return false;
		left->piece[left->n++] = (struct extent){
			.start = from,
			.end = w->end < end ? w->end : end,
			.mode = w->mode,
		};
	}
	return true;
}

/* As it is now; without an op on the range it may be otherwise at once. */
bool watch_look(struct hmm *hmm, unsigned long start, unsigned long end, struct watch_left *left)
{
	bool fits;

	pthread_mutex_lock(&hmm->watch_lock);
	fits = watch_left(hmm, start, end, left);
	pthread_mutex_unlock(&hmm->watch_lock);
	return fits;
}

/**
 * watch_leave() - end the registration of what a call is about to change
 * @left: out: what was registered, for watch_return()
 *
 * One step, as registering is: nobody takes for registered what is so no more. Where it has failed some
 * of it may be registered still; nothing of it is known to be.
 *
 * Return: whether the kernel has nothing to tell of the range any more.
 * Context: the caller has an active op on the range, of which nothing is away.
 */
bool watch_leave(struct hmm *hmm, unsigned long start, unsigned long end, struct watch_left *left)
{
	unsigned int i;
	bool all;

	pthread_mutex_lock(&hmm->watch_lock);
	all = watch_left(hmm, start, end, left);
	if (all) {
		hmm->left = true;
		watch_replace(hmm, start, end, NULL);
	}
	for (i = 0; all && i < left->n; i++)
		all = !uffd_leave(&hmm->mm, left->piece[i].start, left->piece[i].end);
	pthread_mutex_unlock(&hmm->watch_lock);
	return all;
}

/* As it was before, or, if that cannot be, when the next device asks for it. */
void watch_return(struct hmm *hmm, const struct watch_left *left)
{
	unsigned int i;

	for (i = 0; i < left->n; i++)
		watch_range(hmm, left->piece[i].start, left->piece[i].end,
			    (enum uffd_mode)left->piece[i].mode);
}

/*
 * The registration moves along; what stays of the old range (DONTUNMAP) keeps it. What is
 * left there may have been given another mode since it moved: so only the weaker one is
 * certain of what went. And where calls end registrations themselves (watch_leave()), a thread that
 * unmaps what another one just moves there leaves nothing of it: so look.
 */
void watch_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to)
{
	unsigned long pos = from;

	mark_set(to, to + (end - from));
	pthread_mutex_lock(&hmm->watch_lock);
	watch_replace(hmm, to, to + (end - from), NULL);
	while (pos < end) {
		struct extent *w = extent_first(&hmm->watch, pos), *moved;
		unsigned long stop;

		if (!w || w->start >= end)
			break;
		if (w->start > pos)
			pos = w->start;
		stop = w->end < end ? w->end : end;
		moved = hmm_alloc(sizeof(*moved));
		if (!moved)
			break;
		*moved = (struct extent){ .start = to + (pos - from),
					  .end = to + (stop - from),
					  .mode = MUTANT(WATCH_TOO_SURE) ? w->mode : UFFD_WATCH };
		if (hmm->left && !MUTANT(ARRIVAL_BELIEVED) &&
		    !watch_verify(hmm, moved->start, moved->end))
			hmm_free(moved);
		else
			extent_enter(&hmm->watch, moved);
		pos = stop;
	}
	pthread_mutex_unlock(&hmm->watch_lock);
}

/*
 * One mode for all of a range of which a part is registered: one mapping again. False:
 * none is.
 */
bool watch_unify(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned int retries = 0;
	enum uffd_mode mode = 0;
	unsigned long addr = start;
	struct extent *w;

	pthread_mutex_lock(&hmm->watch_lock);
	for (w = extent_first(&hmm->watch, start); w && w->start < end; w = extent_next(w))
		mode = w->mode > mode ? w->mode : mode;
	if (mode && special_next(hmm, &addr, end))
		mode = UFFD_CATCH; /* which we may not know: see watch_remap() */
	while (mode && watch_register(hmm, start, end, mode) == -EAGAIN &&
	       retries < UNIFY_RETRIES) {
		pthread_mutex_unlock(&hmm->watch_lock);
		retry_pause(retries++);
		pthread_mutex_lock(&hmm->watch_lock);
	}
	pthread_mutex_unlock(&hmm->watch_lock);
	return mode;
}

/*
 * A mapping is registered as a whole or not at all: one that grew where it was
 * (mremap) has more registered than we entered.
 */
static void watch_unregister(struct hmm *hmm, const struct extent *w)
{
	unsigned long pos = w->start;
	struct vma vma;

	while (pos < w->end && !vma_find(&hmm->mm, pos, &vma) && vma.start < w->end) {
		uffd_unregister(&hmm->mm, vma.start, vma.end);
		pos = vma.end;
	}
}

void watch_exit(struct hmm *hmm)
{
	struct extent *w;

	pthread_mutex_lock(&hmm->watch_lock);
	for (w = extent_first(&hmm->watch, 0); w; w = extent_next(w))
		watch_unregister(hmm, w);
	watch_replace(hmm, 0, USER_END, NULL);
	pthread_mutex_unlock(&hmm->watch_lock);
}
