/* SPDX-License-Identifier: MIT */
/*
 * fork.
 *
 * Through libc (fork(2) as programs call it) pthread_atfork handlers run first:
 *
 *	prepare	keep device faults and migrations out (OP_FREEZE);
 *		take write permission away from the devices (HMM_FORK);
 *		bring everything back
 *	(fork: the child has all of its memory, as it is now)
 *	parent	go on
 *	child	forget what describes the parent
 *
 * The parent wakes from fork() because the monitor has read of it, and may find hmm->lock
 * taken by the monitor, still. It does not wait: it says that it has come (@thaw), and the
 * monitor ends the freeze when it lets go of the lock. So who has both a parent and a child
 * to run does not run the child first.
 *
 * So the child sees one moment of all its memory (G8), also for an ordinary user,
 * to whom the kernel sends no fork event. The way back stays open meanwhile: the
 * forking thread may itself run into a hole.
 *
 * A system call that bypasses libc (clone(2) by hand, _Fork()) runs no handlers.
 * Where the kernel lets us have it (CAP_SYS_PTRACE) it sends an event with a
 * userfaultfd of the child; the child runs, and waits where a page is away. It is
 * filled from the special entries, which the event's OP_INVAL keeps as they were:
 * what was on the way is on one side by then. Pages that a device writes between
 * the system call and the event are copied with what it wrote. Without that
 * privilege such a child reads zeros where the parent's pages are away: docs.
 *
 * The child's descriptor has events of its own, and as long as one is unread no
 * page can be put: its unmaps and remaps are kept as edits of addresses, its own
 * forks become children to fill from where we are.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/core.h"
#include "mm/uapi.h"

#define EXIT_RETRIES 20000 /* two seconds, when nothing happens */

static HMM_DATA bool wipes; /* some memory has MADV_WIPEONFORK, or has had */
static HMM_DATA struct op freeze;
static HMM_DATA struct hmm *frozen;
static HMM_DATA bool thaw; /* atomic: the fork is over, @freeze is still to be ended */
static HMM_DATA bool registered;
static HMM_DATA uint64_t forked; /* in a child: when, or 0 */
static HMM_DATA uint64_t fork_begun; /* for the trace */

/* The event of a fork that comes while this is set need not do it again. */
static void fork_shield(struct hmm *hmm)
{
	pthread_mutex_lock(&hmm->lock);
	hmm->shielded = true;
	pthread_mutex_unlock(&hmm->lock);
}

/*
 * hmm->lock held. The monitor looks after it has said that it reads no more, we whether it
 * reads after we have said that we are there: one of the two sees the other.
 */
void fork_thaw_locked(struct hmm *hmm)
{
	if (!__atomic_load_n(&thaw, __ATOMIC_SEQ_CST))
		return;
	hmm->shielded = false;
	op_remove(hmm, &freeze);
	__atomic_store_n(&thaw, false, __ATOMIC_RELEASE); /* the next fork may use it again */
}

static void fork_thaw(struct hmm *hmm)
{
	if (!__atomic_load_n(&thaw, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&hmm->lock);
	fork_thaw_locked(hmm);
	pthread_mutex_unlock(&hmm->lock);
}

static void fork_prepare(void)
{
	struct hmm *hmm;
	struct op op;

	api_lock();
	fork_begun = trace_fork_begin();
	hmm = process_current();
	__atomic_store_n(&frozen, hmm, __ATOMIC_RELEASE);
	if (hmm) {
		fork_thaw(hmm); /* of the last one */
		op_init(&freeze, OP_FREEZE, 0, USER_END);
		if (MUTANT(FORK_NOT_FROZEN))
			freeze.start = freeze.end; /* nowhere */
		op_begin(hmm, &freeze);
		debug_step("fork:frozen", 0, USER_END);
		op_init(&op, OP_BACK, 0, USER_END); /* alone with all of it */
		op_begin(hmm, &op);
		if (!MUTANT(FORK_LETS_WRITE))
			mirrors_update(hmm, 0, USER_END, HMM_FORK);
		fork_shield(hmm);
		op_end(hmm, &op);
		debug_step("fork:protected", 0, USER_END);
		migrate_home(hmm, NULL);
		debug_step("fork:home", 0, USER_END);
	}
	devmem_fork_prepare();
}

static void fork_parent(void)
{
	struct hmm *hmm = frozen;

	devmem_fork_parent();
	if (hmm) {
		__atomic_store_n(&frozen, NULL, __ATOMIC_RELEASE);
		__atomic_store_n(&thaw, true, __ATOMIC_SEQ_CST);
		if (!doing_is_read())
			fork_thaw(hmm);
	}
	trace_fork_end(fork_begun);
	api_unlock();
}

static void fork_child(void)
{
	arena_fork_child();
	trace_forget();
	devmem_fork_child();
	if (frozen) {
		mirrors_forget(frozen);
		mm_forget(&frozen->mm);
	}
	frozen = NULL;
	forked = now_ns();
	process_forget();
	devices_forget();
	uffd_forget();
	doing_forget();
	window_forget();
	event_forget();
	range_forget_all();
	keep_forget_all();
	pthread_mutex_init(&api_mutex, NULL);
	hmm_signals_unblock(); /* see fork_prepare(), api_lock() */
}

/* By libc's fork(): from its first handler to its last. */
bool fork_under_way(void)
{
	return __atomic_load_n(&frozen, __ATOMIC_ACQUIRE);
}

/*
 * In a young child, memory may still be registered with the userfaultfd that the
 * parent got for it, until the parent has closed that.
 */
bool fork_recent(void)
{
	return forked && now_ns() - forked < 2000000000ull;
}

/*
 * A child that was made behind libc's back is filled by its parent, which is about to end.
 * It cannot be waited for where exit() is not called.
 */
static void fork_exit(void)
{
	struct hmm *hmm = process_pin();
	unsigned int retries = 0;

	if (!hmm)
		return;
	if (pt_count(&hmm->special))
		while (!event_idle(hmm) && retries < EXIT_RETRIES)
			retry_pause(retries++);
	process_unpin(hmm);
}

/*
 * When the library is loaded: so that handlers of a child that are registered by who uses us
 * run after ours. What could not be done then is tried again. The thread sanitizer looks away
 * between its own handlers, and those would be the outer ones.
 */
#ifndef HMM_TSAN
__attribute__((constructor)) static void fork_start(void)
{
	fork_init();
}
#endif

int fork_init(void)
{
	int ret = registered ? 0 : -pthread_atfork(fork_prepare, fork_parent, fork_child);

	if (!ret && !registered)
		atexit(fork_exit);
	registered = !ret;
	return ret;
}

/* ---- the event: a child that was made behind libc's back ---- */

#define EDITS_MAX 256

/* In the child [start, end) went to @to, or away if @to is 0. */
struct edit {
	unsigned long start;
	unsigned long end;
	unsigned long to;
};

struct child {
	struct child *next;
	struct mm mm; /* only its userfaultfd and gate */
	unsigned long cursor;
	unsigned int edits;
	struct edit edit[EDITS_MAX];
};

struct fill {
	struct hmm *hmm;
	struct batch *batch;
	struct child *children;
};

static struct child *child_new(struct fill *fill, int fd, unsigned long cursor)
{
	unsigned int retries = 0;
	struct child *child;

	while (!(child = hmm_alloc(sizeof(*child)))) {
		if (!retries)
			log_err("fork: no memory to fill the child: waiting for some");
		retry_pause(64 + retries++);
	}
	child->mm.uffd = fd;
	child->mm.probe = child->mm.pagemap = child->mm.maps = -1;
	child->mm.tasks = child->mm.spare_fd = -1;
	pthread_rwlock_init(&child->mm.gate, NULL);
	child->cursor = cursor;
	child->next = fill->children;
	fill->children = child;
	return child;
}

static void child_free(struct child *child)
{
	mm_forget(&child->mm);
	pthread_rwlock_destroy(&child->mm.gate);
	hmm_free(child);
}

static void child_edit(struct child *child, unsigned long start, unsigned long end,
		       unsigned long to)
{
	if (child->edits == EDITS_MAX) {
		log_err("fork: the child changes its address space too fast to be filled");
		child->cursor = USER_END;
		return;
	}
	child->edit[child->edits++] = (struct edit){ start, end, to };
}

void fork_wipes(void)
{
	__atomic_store_n(&wipes, true, __ATOMIC_RELAXED);
}

/* MADV_WIPEONFORK: there it is to read zeros, as it does. */
static int child_wiped(void *arg, unsigned long start, unsigned long end)
{
	if (!MUTANT(WIPED_FILLED))
		child_edit(arg, start, end, 0);
	return 0;
}

/* What the child does meanwhile. */
static void child_read(struct fill *fill, struct child *child)
{
	struct child *grandchild;
	struct mm_event event;

	while (monitor_read(child->mm.uffd, &event, 1) == 1) {
		switch (event.type) {
		case MM_UNMAP:
		case MM_REMOVE:
			child_edit(child, event.start, event.end, 0);
			break;
		case MM_REMAP:
			child_edit(child, event.start, event.end, event.to);
			break;
		case MM_FORK:
			grandchild = child_new(fill, event.fd, child->cursor);
			grandchild->edits = MUTANT(GRANDCHILD_AS_PARENT) ? 0 : child->edits;
			memcpy(grandchild->edit, child->edit, sizeof(child->edit));
			break;
		case MM_FAULT:
			break; /* it waits for what is being filled in */
		}
	}
}

static unsigned long child_address(const struct child *child, unsigned long addr)
{
	unsigned int i;

	for (i = 0; i < child->edits && addr; i++) {
		const struct edit *edit = &child->edit[i];

		if (addr >= edit->start && addr < edit->end)
			addr = edit->to ? edit->to + (addr - edit->start) : 0;
	}
	return addr;
}

/*
 * @content NULL: nobody has it any more, and SIGBUS is better than zeros (G4).
 * 0 also where the child has no use for the page; -ESRCH when it is gone.
 */
static int child_put(struct fill *fill, struct child *child, unsigned long addr,
		     const void *content)
{
	struct uffd_how how = { .wait = false };

	for (;;) {
		unsigned long dst = child_address(child, addr);
		long ret;

		if (!dst)
			return 0;
		if (content)
			ret = uffd_copy(&child->mm, &how, dst, content, hmm_page_size());
		else
			ret = uffd_poison(&child->mm, &how, dst, hmm_page_size());
		if (ret == -ESRCH)
			return -ESRCH;
		if (ret != -EAGAIN && ret != -ENOMEM)
			return 0;
		child_read(fill, child);
		sched_yield();
	}
}

/* The content of what is away in one chunk, page by page in the bounce buffer. */
static void fill_copy(struct fill *fill, unsigned long start, unsigned long end)
{
	struct batch *batch = fill->batch;
	unsigned int i, n = (unsigned int)((end - start) >> hmm_page_shift()), retries;
	struct hmm_mirror_state *ms;

	special_fill(fill->hmm, start, end, batch->src);
	for (i = 0; i < n; i++) {
		void *buffer = batch->bounce + ((unsigned long)i << hmm_page_shift());

		batch->flags[i] = special_staged(batch->src[i]);
		if (batch->flags[i])
			memcpy(buffer, (void *)hmm_pte_addr(batch->src[i]), hmm_page_size());
	}
	for (ms = mirror_next(fill->hmm, NULL); ms; ms = mirror_next(fill->hmm, ms)) {
		for (i = 0; i < n; i++) {
			bool mine = special_device(batch->src[i]) == ms->dev->device;
			unsigned long buffer = (unsigned long)batch->bounce +
					       ((unsigned long)i << hmm_page_shift());

			batch->from[i] = mine ? batch->src[i] | HMM_PTE_VALID : 0;
			batch->dst[i] =
				mine ? hmm_pte_from_addr(buffer, HMM_PTE_VALID | HMM_PTE_WRITE) : 0;
		}
		retries = 0;
		while (call_copy_from_device(ms, HMM_FORK, batch->from, batch->dst, start, end) ==
		       -ENOMEM)
			retry_pause(64 + retries++);
		for (i = 0; i < n; i++)
			batch->flags[i] |= hmm_pte_test_valid(batch->dst[i]);
	}
}

static void child_fill(struct fill *fill, struct child *child)
{
	struct hmm *hmm = fill->hmm;

	while (!MUTANT(CHILD_NOT_FILLED) && child->cursor < USER_END &&
	       special_next(hmm, &child->cursor, USER_END)) {
		unsigned long start = child->cursor, end = chunk_end(start, USER_END), addr;
		unsigned int i;

		debug_step("fork:fill", start, end);
		fill_copy(fill, start, end);
		for (addr = start, i = 0; addr < end; addr += hmm_page_size(), i++) {
			const void *content =
				fill->batch->bounce + ((unsigned long)i << hmm_page_shift());

			child->cursor = addr;
			if (!fill->batch->src[i])
				continue;
			if (!fill->batch->flags[i])
				log_err("fork: a device could not copy the page at 0x%lx", addr);
			if (child_put(fill, child, addr, fill->batch->flags[i] ? content : NULL))
				return;
		}
		child->cursor = end;
	}
	child_read(fill, child);
}

/* The whole of @hmm is ours: see change_run(). Closes @fd: the child is on its own. */
void fork_fill_child(struct hmm *hmm, int fd)
{
	struct fill fill = { .hmm = hmm, .batch = hmm->worker_batch };
	struct child *child;

	if (!pt_count(&hmm->special)) {
		close(fd);
		return;
	}
	child = child_new(&fill, fd, 0);
	if (__atomic_load_n(&wipes, __ATOMIC_RELAXED))
		vma_each_wiped(child_wiped, child);
	while (fill.children) {
		child = fill.children;
		fill.children = child->next;
		child_fill(&fill, child);
		child_free(child);
	}
}
