/* SPDX-License-Identifier: MIT */
/*
 * Read-only memory, writable for a moment.
 *
 * UFFDIO_MOVE takes pages only from a mapping that is writable, and the kernel has no other
 * call that takes a page and keeps out who wants it meanwhile. So, where the caller asked for
 * it (HMM_MIGRATE_READ_ONLY), a part of a read-only mapping, with an active OP_OUT on it, is
 *
 *	1. write-protected by userfaultfd, page by page    ("protected": all but the holes)
 *	2. made writable by mprotect                       ("writable")
 *	3. isolated, as ever (out.c)                       ("moved")
 *	4. made read-only by mprotect
 *	5. no longer write-protected, where pages stayed
 *
 * Between 2 and 4 the program cannot write either. A write to a page that is there is a
 * write-protect fault, to a hole or to what was isolated a missing fault, and both wait for
 * our op (cpu_fault.c); when that ends the thread tries again, and gets the SIGSEGV that it
 * would have got. A hole is not write-protected: it would be no hole any more, and nobody
 * but us can fill it.
 *
 * Our mprotect must find the mapping that we looked at, and the program's must not come
 * between the two. The kernel has no lock for that, so a window is in a list from before
 * to after, and libhmm's mprotect(), munmap() and mremap() wait for one that overlaps, as it
 * waits for those that have begun (doing.c). Calls that come from elsewhere are the caller's
 * to answer for. What can be done about them is: an event that waits to be read, or was
 * recorded, keeps us from beginning; and 4 looks at what is there, and touches only
 * what is registered and writable, mapping by mapping.
 *
 * 4 must succeed, and so is repeated until it does. It splits a mapping only if 2 has joined
 * the part with a neighbour that is writable, and so has given one back.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"

#define WINDOWS_MAX 64
#define TRIES 1000 /* while the program changes its address space all the time */

/* Entered and left without a lock, as calls are, and in the same order: see doing.c. */
static struct window {
	bool taken; /* atomic */
	unsigned long start; /* atomic */
	unsigned long end; /* atomic; 0: is not open */
} windows[WINDOWS_MAX] HMM_DATA;

static HMM_DATA unsigned int open_windows; /* atomic */

static void pause_shortly(void)
{
	struct timespec pause = { .tv_nsec = 50000 };

	nanosleep(&pause, NULL);
}

bool window_over(unsigned long start, unsigned long end)
{
	unsigned int i;

	if (!__atomic_load_n(&open_windows, __ATOMIC_SEQ_CST))
		return false;
	for (i = 0; i < WINDOWS_MAX; i++) {
		unsigned long stop = __atomic_load_n(&windows[i].end, __ATOMIC_SEQ_CST);

		if (start < stop && __atomic_load_n(&windows[i].start, __ATOMIC_SEQ_CST) < end)
			return true;
	}
	return false;
}

void window_wait(unsigned long start, unsigned long end)
{
	struct hmm *hmm = process_pin();

	if (!hmm) {
		window_forget(); /* a child, by a system call: those are its parent's */
		return;
	}
	process_unpin(hmm);
	while (window_over(start, end))
		pause_shortly();
}

void window_forget(void)
{
	unsigned int i;

	for (i = 0; i < WINDOWS_MAX; i++) {
		__atomic_store_n(&windows[i].end, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&windows[i].taken, false, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&open_windows, 0, __ATOMIC_SEQ_CST);
}

/* Two that overlap there are not: each has an OP_OUT. */
static void window_leave(const struct out *out)
{
	unsigned int i;

	for (i = 0; i < WINDOWS_MAX; i++)
		if (__atomic_load_n(&windows[i].end, __ATOMIC_RELAXED) == out->end)
			break;
	if (i == WINDOWS_MAX)
		return;
	__atomic_store_n(&windows[i].end, 0, __ATOMIC_SEQ_CST);
	__atomic_sub_fetch(&open_windows, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&windows[i].taken, false, __ATOMIC_RELEASE);
}

/* From now on nobody changes the mapping by a call of ours. */
static int window_enter(const struct out *out)
{
	unsigned int i;

	for (i = 0; i < WINDOWS_MAX; i++)
		if (!__atomic_exchange_n(&windows[i].taken, true, __ATOMIC_ACQUIRE))
			break;
	if (i == WINDOWS_MAX)
		return -EBUSY;
	__atomic_store_n(&windows[i].start, out->start, __ATOMIC_SEQ_CST);
	__atomic_store_n(&windows[i].end, out->end, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&open_windows, 1, __ATOMIC_SEQ_CST);
	while (doing_moves(out->start, out->end)) {
		if (op_backoff(&out->op)) {
			window_leave(out);
			return -ECANCELED;
		}
		pause_shortly();
	}
	return 0;
}

bool window_takes(const struct vma *vma)
{
	return vma->read && !vma->write && !vma->exec && !vma->shared && !vma->file;
}

/* Not by the event, which would tell us to back off: for what has to be done. */
static void window_unprotect(struct mm *mm, unsigned long start, unsigned long end)
{
	struct uffd_how how = { .cancel = NULL, .wait = true };

	while (start < end && uffd_unprotect(mm, &how, start, end - start) == -ENOMEM)
		pause_shortly();
}

/* Step 1. */
static int window_protect(struct out *out)
{
	struct uffd_how how = op_how(&out->op, true);
	const uint8_t *flags = out->batch->flags;
	struct mm *mm = &out->hmm->mm;
	unsigned int i = 0;
	int ret = walk_pages(mm, out->start, out->end, out->batch->flags);

	while (i < out->pages && !ret) {
		unsigned int end = i;

		while (end < out->pages && flags[end] & (WALK_PRESENT | WALK_SWAPPED))
			end++;
		if (end > i)
			ret = uffd_protect(mm, &how, out_addr(out, i),
					   out_addr(out, end) - out_addr(out, i));
		i = end + 1;
	}
	return ret;
}

/* Step 2, with the gate held: 0, -EAGAIN an event waits to be read. */
static int window_try(struct out *out)
{
	struct mm *mm = &out->hmm->mm;
	struct vma vma;
	int ret;

	if (op_backoff(&out->op))
		return -ECANCELED;
	if (uffd_pending(mm))
		return -EAGAIN;
	ret = vma_find(mm, out->start, &vma);
	if (!ret && (vma.start > out->start || vma.end < out->end || !window_takes(&vma)))
		ret = -ECANCELED; /* it changed since out_look() */
	if (!ret)
		ret = debug_fail("mprotect");
	if (!ret &&
	    syscall(SYS_mprotect, out->start, out->end - out->start, PROT_READ | PROT_WRITE))
		ret = errno == EAGAIN ? -EBUSY : -errno;
	return ret;
}

static int window_writable(struct out *out)
{
	struct uffd_how how = op_how(&out->op, true);
	struct mm *mm = &out->hmm->mm;
	unsigned int tries;
	int ret = -EAGAIN;

	for (tries = 0; tries < TRIES && ret == -EAGAIN; tries++) {
		if (tries && uffd_quiet(mm, &how))
			return -ECANCELED;
		pthread_rwlock_rdlock(&mm->gate);
		ret = window_try(out);
		pthread_rwlock_unlock(&mm->gate);
	}
	return ret;
}

/*
 * Steps 1 and 2. Return: 0, and window_close() is to come; -ECANCELED it changed, look
 * again; another error: it stays.
 */
int window_open(struct out *out)
{
	int ret = window_enter(out);

	if (ret)
		return ret;
	ret = window_protect(out);
	debug_step("out:protected", out->start, out->end);
	if (!ret)
		ret = window_writable(out);
	if (!ret) {
		debug_step("out:writable", out->start, out->end);
		return 0;
	}
	window_unprotect(&out->hmm->mm, out->start, out->end);
	window_leave(out);
	return ret;
}

/* Step 4 for one mapping. It may have gone, by a system call: then there is nothing to do. */
static bool window_restore(struct mm *mm, const struct vma *vma, unsigned long start,
			   unsigned long end)
{
	if (!vma->write || vma->shared || vma->file ||
	    !uffd_owned(mm, start, start + vma->page_size))
		return true;
	return !debug_fail("restore") && !syscall(SYS_mprotect, start, end - start, PROT_READ);
}

/*
 * Steps 4 and 5. In the slot a page has lost its protection, but not a swap entry, which
 * would have it again.
 */
void window_close(struct out *out)
{
	unsigned long pos = out->start, staged = out_staged_addr(out, 0);
	struct mm *mm = &out->hmm->mm;
	unsigned int tries = 0;
	struct vma vma;

	debug_step("out:moved", out->start, out->end);
	while (pos < out->end) {
		unsigned long start, end;
		int ret = vma_find(mm, pos, &vma);

		if (ret == -ENOENT || (!ret && vma.start >= out->end))
			break;
		start = vma.start > pos ? vma.start : pos;
		end = vma.end < out->end ? vma.end : out->end;
		if (ret || !window_restore(mm, &vma, start, end)) {
			if (tries++ == TRIES)
				log_err("0x%lx cannot be made read-only again: waiting", pos);
			retry_pause(tries);
			continue;
		}
		window_unprotect(mm, start, end);
		pos = end;
	}
	window_unprotect(mm, staged, staged + (out->end - out->start));
	window_leave(out);
}
