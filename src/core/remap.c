/* SPDX-License-Identifier: MIT */
/*
 * mremap(), which takes one mapping, and would fail for our sake.
 *
 * A mapping of which only a part is registered is two mappings to the kernel: EFAULT
 * (after having moved some, from 6.17 on). A program that is linked with libhmm finds
 * this function first, which
 *
 *	1. has all of the range registered alike, and so makes it one mapping again;
 *	2. where it still is several (each part was first touched when they were two,
 *	   and the kernel does not join what has anonymous pages of its own), moves them
 *	   one after the other, to addresses that were reserved before.
 *
 * The second is what the kernel would do with one mapping, but for this: a thread that
 * uses the range meanwhile, which no program does, may find one part moved and another
 * not. Only for anonymous private mappings of one protection: others are several for
 * reasons of the program's own, and get the kernel's error.
 *
 * A place of the program's choice is kept clear of device faults meanwhile: a driver
 * that pins a page there would find it missing, where the page that was moved is away;
 * it would wait for us, and we, to know what was moved, for it (active.c, OP_HOLE).
 *
 * What would not fail goes without an event if it can (direct.c).
 *
 * libc's own calls do not come here: realloc() falls back to a copy by itself.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/core.h"

#define REMAP_TRIES 16

HMM_API void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...);

struct remap {
	struct hmm *hmm; /* NULL: there is no mirror, now */
	struct mm *mm;
	unsigned long old;
	unsigned long old_len; /* in whole pages, as the next */
	unsigned long new_len;
	int flags;
	unsigned long to; /* with MREMAP_FIXED, and once a place is reserved */
	unsigned long last; /* where the last of the mappings begins */
};

static long remap_call(unsigned long old, unsigned long old_len, unsigned long new_len, int flags,
		       unsigned long to)
{
	unsigned long end = old + page_round_up(old_len), kept = old + page_round_up(new_len);
	uint64_t moves, trims = 0, over = 0;
	long ret;

	moves = doing_begin(flags & MREMAP_DONTUNMAP ? DOING_REMAP_KEEPS : DOING_REMAP, old,
			    kept < end ? kept : end);
	if (kept < end)
		trims = doing_begin(DOING_UNMAP, kept, end);
	if (flags & MREMAP_FIXED)
		over = doing_begin(DOING_OTHER, to, to + page_round_up(new_len));
	ret = syscall(SYS_mremap, old, old_len, new_len, flags, to);
	doing_end(over);
	doing_end(trims);
	doing_end(moves);
	if (moves) {
		int err = errno;

		order_called();
		errno = err;
	}
	return ret;
}

/* How many mappings it is, if it could be one; else 0. */
static unsigned int remap_pieces(struct remap *remap)
{
	unsigned long pos = remap->old, end = remap->old + remap->old_len;
	struct vma first, vma;
	unsigned int n = 0;

	for (; pos < end; pos = vma.end, n++) {
		if (vma_find(remap->mm, pos, &vma) || vma.start > pos)
			return 0;
		if (!n)
			first = vma;
		if (vma.shared || vma.file || vma.read != first.read || vma.write != first.write ||
		    vma.exec != first.exec)
			return 0;
		remap->last = vma.start > remap->old ? vma.start : remap->old;
	}
	return n;
}

/*
 * One part after the other, the last of them growing by @grow; how much has moved, which
 * is less than @len on error.
 */
static unsigned long remap_parts(struct remap *remap, unsigned long from, unsigned long to,
				 unsigned long len, unsigned long grow, int flags)
{
	unsigned long done = 0, part;
	struct vma vma;

	for (; done < len; done += part) {
		if (vma_find(remap->mm, from + done, &vma) || vma.start > from + done)
			break;
		part = vma.end - (from + done);
		if (part > len - done)
			part = len - done;
		if (remap_call(from + done, part, done + part < len ? part : part + grow, flags,
			       to + done) == -1)
			break;
	}
	return done;
}

/* The place at remap->to, or any: all of it ours, and nothing there. */
static int remap_reserve(struct remap *remap)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *hint = NULL;

	if (remap->flags & MREMAP_FIXED) {
		flags |= MAP_FIXED;
		hint = (void *)remap->to;
	}
	hint = mmap(hint, remap->new_len, PROT_NONE, flags, -1, 0);
	if (hint == MAP_FAILED)
		return -1;
	remap->to = (unsigned long)hint;
	return 0;
}

static long remap_move(struct remap *remap)
{
	unsigned long len = remap->old_len < remap->new_len ? remap->old_len : remap->new_len;
	int how = MREMAP_MAYMOVE | MREMAP_FIXED, err;
	unsigned long done;

	if (remap_reserve(remap))
		return -1;
	done = remap_parts(remap, remap->old, remap->to, len, remap->new_len - len,
			   how | (remap->flags & MREMAP_DONTUNMAP));
	if (done < len) {
		err = errno;
		remap_parts(remap, remap->to, remap->old, done, 0, how);
		munmap((void *)remap->to, remap->new_len);
		errno = err;
		return -1;
	}
	if (remap->old_len > len)
		munmap((void *)(remap->old + len), remap->old_len - len);
	return (long)remap->to;
}

static bool remap_sane(const struct remap *remap)
{
	unsigned long mask = hmm_page_size() - 1;

	if ((remap->old | remap->to) & mask || !remap->new_len || !remap->old_len)
		return false;
	if (remap->flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP))
		return false;
	if (remap->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(remap->flags & MREMAP_MAYMOVE))
		return false;
	if (remap->flags & MREMAP_DONTUNMAP && remap->old_len != remap->new_len)
		return false;
	return !(remap->flags & MREMAP_FIXED) || remap->to >= remap->old + remap->old_len ||
	       remap->old >= remap->to + remap->new_len;
}

/* Several mappings that could be one. */
static long remap_several(struct remap *remap)
{
	unsigned long end = remap->old + remap->old_len, tail = end - remap->last;
	bool stays = !(remap->flags & (MREMAP_FIXED | MREMAP_DONTUNMAP));

	if (stays && remap->new_len <= remap->old_len) {
		if (remap->new_len < remap->old_len &&
		    munmap((void *)(remap->old + remap->new_len), remap->old_len - remap->new_len))
			return -1;
		return (long)remap->old;
	}
	if (stays &&
	    remap_call(remap->last, tail, tail + remap->new_len - remap->old_len, 0, 0) != -1)
		return (long)remap->old;
	if (!(remap->flags & MREMAP_MAYMOVE))
		return -1; /* errno is of the try */
	return remap_move(remap);
}

/*
 * The kernel has moved what lies before the first mapping that is still there, and would
 * not go on.
 */
static long remap_rest(struct remap *remap)
{
	unsigned long len = remap->old_len, done = len;
	struct vma vma;

	if (!(remap->flags & MREMAP_FIXED) || remap->old_len != remap->new_len)
		return -1;
	if (!vma_find(remap->mm, remap->old, &vma) && vma.start < remap->old + len)
		done = vma.start > remap->old ? vma.start - remap->old : 0;
	if (!done || done == len ||
	    remap_parts(remap, remap->old + done, remap->to + done, len - done, 0, remap->flags) <
		    len - done)
		return -1;
	return (long)remap->to;
}

/*
 * As one mapping, or one after the other. What is one when we look may be two when the
 * kernel does, for another thread's device has just begun to use a part: look again.
 */
static long remap_try(struct remap *remap)
{
	unsigned int tries = 0;
	long ret;
	int err;

	do {
		if (remap->hmm && tries)
			watch_unify(remap->hmm, remap->old, remap->old + remap->old_len);
		if (remap_pieces(remap) > 1)
			ret = remap_several(remap);
		else
			ret = remap_call(remap->old, remap->old_len, remap->new_len, remap->flags,
					 remap->to);
		err = errno;
	} while (ret == -1 && err == EFAULT && remap_pieces(remap) && ++tries < REMAP_TRIES);
	if (ret == -1 && err == EFAULT)
		ret = remap_rest(remap);
	errno = err;
	return ret;
}

static long remap_with(struct remap *remap)
{
	bool fixed = remap->flags & MREMAP_FIXED;
	struct op op;
	long ret;
	int err;

	if (!watch_unify(remap->hmm, remap->old, remap->old + remap->old_len)) {
		ret = remap_call(remap->old, remap->old_len, remap->new_len, remap->flags,
				 remap->to);
		if (ret != -1 || errno != EFAULT)
			return ret;
	}
	if (fixed) {
		op_init(&op, OP_PLACE, remap->to, remap->to + remap->new_len);
		op_begin(remap->hmm, &op);
	}
	ret = remap_try(remap);
	if (fixed) {
		err = errno;
		op_end(remap->hmm, &op);
		errno = err;
	}
	return ret;
}

/* What a mirror has left in several mappings, when there was one. */
static long remap_without(struct remap *remap)
{
	static HMM_DATA struct mm none = { .maps = -1 };
	long ret = remap_call(remap->old, remap->old_len, remap->new_len, remap->flags, remap->to);

	if (ret != -1 || errno != EFAULT || !process_was_there())
		return ret;
	remap->mm = &none;
	return remap_try(remap);
}

/*
 * What moves for certain, without an event (direct.c). That it cannot grow where it is is tried, as
 * the kernel would: then nothing need be told. False: not so; the call is still to be made, and what it
 * finds unregistered costs a device that asks again.
 */
static bool remap_direct(struct remap *remap, long *ret)
{
	unsigned long end = remap->old + remap->old_len;
	bool fixed = remap->flags & MREMAP_FIXED;
	struct direct direct;

	if (!(remap->flags & MREMAP_MAYMOVE) || remap->flags & MREMAP_DONTUNMAP ||
	    (fixed ? remap->new_len != remap->old_len : remap->new_len <= remap->old_len))
		return false;
	if (!fixed) {
		*ret = remap_call(remap->old, remap->old_len, remap->new_len, 0, 0);
		if (*ret != -1)
			return true;
	}
	if (!direct_begin(&direct, MM_REMAP, remap->old, end, fixed ? remap->to : 0))
		return false;
	*ret = syscall(SYS_mremap, remap->old, remap->old_len, remap->new_len, remap->flags,
		       remap->to);
	direct_end(&direct, *ret != -1);
	return *ret != -1;
}

void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	struct remap remap = {
		.old = (unsigned long)old,
		.old_len = page_round_up(old_len),
		.new_len = page_round_up(new_len),
		.flags = flags,
	};
	long ret;
	va_list ap;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(ap, flags);
		remap.to = (unsigned long)va_arg(ap, void *);
		va_end(ap);
	}
	interpose_yield();
	if (call_running() || !remap_sane(&remap))
		return (void *)remap_call(remap.old, old_len, new_len, flags, remap.to);
	if (!mark_any(remap.old, remap.old + remap.old_len)) {
		ret = remap_call(remap.old, old_len, new_len, flags, remap.to);
		if (ret != -1 || errno != EFAULT)
			return (void *)ret;
	} else if (remap_direct(&remap, &ret)) {
		return (void *)ret;
	}
	remap.hmm = process_pin();
	if (remap.hmm) {
		int err;

		remap.mm = &remap.hmm->mm;
		ret = remap_with(&remap);
		err = errno;
		if (ret != -1) /* what was registered is so there, before the event is run */
			mark_set((unsigned long)ret, (unsigned long)ret + remap.new_len);
		process_unpin(remap.hmm);
		errno = err;
	} else {
		ret = remap_without(&remap);
	}
	return (void *)ret;
}
