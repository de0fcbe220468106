/* SPDX-License-Identifier: MIT */
/*
 * The libc functions of which userfaultfd tells us nothing. A program that is linked
 * with libhmm finds them here first; each makes the system call and looks after the
 * rest. errno is the system call's. (mremap is in remap.c.)
 *
 * mprotect, pkey_mprotect: the kernel sends no event. When permission was taken
 * away, the mirrors lose it before the call returns (G3). Permission given needs
 * nothing: the device asks for it by a fault.
 *
 * And while a migration has read-only memory writable (window.c), mprotect, munmap and mremap
 * of that wait.
 *
 * munmap, madvise, mremap: while somebody in libhmm waits for no event to be under way,
 * and has waited for long (mm/uffd.c), they wait a moment before they begin. So threads
 * that do nothing but change the address space do not keep a CPU fault from being
 * answered (G9).
 *
 * madvise with MADV_GUARD_INSTALL, shmdt, shmat with SHM_REMAP, remap_file_pages: the
 * content goes, or the mapping, and no event says so.
 *
 * munmap, and madvise with MADV_DONTNEED and the like: without an event where that can be
 * (direct.c); else, of the latter, when it has taken effect (doing.c).
 *
 * madvise with MADV_WIPEONFORK: which memory has that is slow to find out, so remember
 * that some has (fork.c).
 *
 * vmsplice, setsockopt with SO_ZEROCOPY: pages are given to the kernel by a reference that
 * is no pin. The page of such an address can move all the same, and its holder keeps the
 * old one: so that must not be used again for something else.
 *
 * What comes here does not see: libc's own calls (realloc() falls back to a copy
 * by itself), system calls made by hand, and a program that got libhmm by
 * dlopen(). There a device goes on with the old permission until its translation
 * goes for another reason.
 *
 * Memory of which nothing is mirrored costs a look without a lock (marks.c; G10). A signal
 * handler may call them too: what has a lock of libhmm's has signals blocked.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "mm/uapi.h"

HMM_API int mprotect(void *addr, size_t len, int prot);
HMM_API int pkey_mprotect(void *addr, size_t len, int prot, int pkey);

HMM_API int munmap(void *addr, size_t len);
HMM_API int madvise(void *addr, size_t len, int advice);
HMM_API int shmdt(const void *addr);
HMM_API ssize_t vmsplice(int fd, const struct iovec *iov, size_t n, unsigned int flags);
HMM_API int setsockopt(int fd, int level, int name, const void *value, socklen_t len);
HMM_API void *shmat(int id, const void *addr, int flags);
HMM_API int remap_file_pages(void *addr, size_t len, int prot, size_t pgoff, int flags);

/*
 * With PROT_GROWSDOWN and _GROWSUP it reaches to where the mapping begins, or ends: what
 * is there now has that protection.
 */
static void protect_reach(struct hmm *hmm, int prot, unsigned long *start, unsigned long *end)
{
	struct vma vma;

	if (prot & PROT_GROWSDOWN && !vma_find(&hmm->mm, *start, &vma) && vma.start < *start)
		*start = vma.start;
	if (prot & PROT_GROWSUP && !vma_find(&hmm->mm, *end - 1, &vma) && vma.end > *end)
		*end = vma.end;
}

static void protect_range(unsigned long start, unsigned long end, int prot)
{
	enum hmm_etype etype = prot & PROT_READ ? HMM_WRITE_PROTECT : HMM_MIGRATE;
	bool reaches = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
	struct hmm *hmm = reaches || mark_any(start, end) ? process_pin() : NULL;
	struct op op;

	if (!hmm)
		return;
	if (reaches)
		protect_reach(hmm, prot, &start, &end);
	/* A fault may have looked before, and enter after. */
	if (mirrors_touched(hmm, start, end)) {
		op_init(&op, OP_BACK, start, end);
		op_begin(hmm, &op);
		mirrors_update(hmm, start, end, etype);
		op_end(hmm, &op);
	}
	process_unpin(hmm);
}

/* A call that failed may have changed the first mappings of its range. */
static int protect_done(long ret, void *addr, size_t len, int prot)
{
	unsigned long start = (unsigned long)addr, end = page_round_up(start + len);
	int err = errno;

	if ((prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE) && start < end &&
	    !call_running() && !MUTANT(MPROTECT_UNTOLD))
		protect_range(start, end, prot);
	errno = err;
	return (int)ret;
}

/* Not while such memory is, for a moment, not what the program made it: window.c. */
static uint64_t protect_begin(void *addr, size_t len, int prot)
{
	unsigned long start = (unsigned long)addr, end = page_round_up(start + len);

	if (prot & (PROT_GROWSDOWN | PROT_GROWSUP)) {
		start = 0; /* a stack: how far it reaches is not known */
		end = USER_END;
	}
	return doing_begin(DOING_OTHER, start, end);
}

int mprotect(void *addr, size_t len, int prot)
{
	uint64_t doing = protect_begin(addr, len, prot);
	long ret = syscall(SYS_mprotect, addr, len, prot);

	doing_end(doing);
	return protect_done(ret, addr, len, prot);
}

int pkey_mprotect(void *addr, size_t len, int prot, int pkey)
{
	uint64_t doing = protect_begin(addr, len, prot);
	long ret = syscall(SYS_pkey_mprotect, addr, len, prot, pkey);

	doing_end(doing);
	return protect_done(ret, addr, len, prot);
}

/*
 * A call that takes away what is in a range, without an event: nothing else happens
 * there from before the call until all know of it. No page of the program is touched
 * meanwhile.
 */
struct gone {
	struct hmm *hmm;
	struct op op;
};

static void gone_begin(struct gone *gone, unsigned long start, unsigned long end)
{
	gone->hmm = start < end && !call_running() ? process_pin() : NULL;
	if (!gone->hmm)
		return;
	op_init(&gone->op, OP_BACK, start, end);
	op_begin(gone->hmm, &gone->op);
}

static void gone_end(struct gone *gone, bool content)
{
	unsigned long start = gone->op.start, end = gone->op.end;
	struct hmm *hmm = gone->hmm;
	int err = errno;

	if (!hmm)
		return;
	mirrors_update(hmm, start, end, HMM_MUNMAP);
	if (content) {
		dirty_drop(hmm, start, end);
		special_drop(hmm, start, end);
	}
	watch_remove(hmm, start, end); /* or it is told again: harmless */
	op_end(hmm, &gone->op);
	process_unpin(hmm);
	errno = err;
}

/* Not for longer: who wants to go on may be the one that is waited for. */
#define YIELD_NS 20000000ull
#define YIELD_PAUSE_NS 50000

void interpose_yield(void)
{
	struct timespec pause = { .tv_nsec = YIELD_PAUSE_NS };
	struct hmm *hmm;
	uint64_t end;
	int err = errno;

	if (!uffd_starves() || call_running())
		return;
	hmm = process_pin(); /* not so in a child, which has its parent's count */
	if (!hmm)
		return;
	process_unpin(hmm);
	end = now_ns() + YIELD_NS;
	while (uffd_starves() && now_ns() < end)
		nanosleep(&pause, NULL);
	errno = err;
}

int munmap(void *addr, size_t len)
{
	unsigned long start = (unsigned long)addr;
	struct direct direct;
	uint64_t doing;
	bool told;
	long ret;

	interpose_yield();
	doing = doing_begin(DOING_UNMAP, start, page_round_up(start + len));
	told = !direct_begin(&direct, MM_UNMAP, start, page_round_up(start + len), 0);
	ret = syscall(SYS_munmap, addr, len);
	if (!told)
		direct_end(&direct, ret == 0);
	doing_end(doing);
	return (int)ret;
}

/* Those that send REMOVE before they do anything. */
static bool madvise_drops(int advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
	       advice == MADV_DONTNEED_LOCKED;
}

int madvise(void *addr, size_t len, int advice)
{
	unsigned long start = (unsigned long)addr;
	struct gone gone = { .hmm = NULL };
	struct direct direct;
	uint64_t drop = 0;
	bool told = true;
	long ret;

	interpose_yield();
	if (advice == MADV_WIPEONFORK)
		fork_wipes();
	if (advice == MADV_GUARD_INSTALL && !MUTANT(GUARD_UNTOLD))
		gone_begin(&gone, start, page_round_up(start + len));
	if (madvise_drops(advice)) {
		drop = doing_begin(DOING_DROP, start, page_round_up(start + len));
		told = !direct_begin(&direct, MM_REMOVE, start, page_round_up(start + len), 0);
	}
	ret = syscall(SYS_madvise, addr, len, advice);
	if (!told)
		direct_end(&direct, ret == 0);
	doing_end(drop);
	gone_end(&gone, ret == 0);
	return (int)ret;
}

/* The segment at @start, or more, if another follows at once; @start: none. */
static unsigned long shm_end(unsigned long start)
{
	struct hmm *hmm = call_running() ? NULL : process_pin();
	unsigned long end = start;
	struct vma vma;

	if (!hmm)
		return start;
	while (!vma_find(&hmm->mm, end, &vma) && vma.start <= end && vma.shared && vma.file)
		end = vma.end;
	process_unpin(hmm);
	return end;
}

int shmdt(const void *addr)
{
	struct gone gone;
	long ret;

	gone_begin(&gone, (unsigned long)addr, shm_end((unsigned long)addr));
	ret = syscall(SYS_shmdt, addr);
	gone_end(&gone, false); /* what is shared was never away */
	return (int)ret;
}

/* How much will be mapped over is known afterwards; and nothing of that moves. */
void *shmat(int id, const void *addr, int flags)
{
	void *ret = (void *)syscall(SYS_shmat, id, addr, flags);
	struct gone gone;

	if (ret != MAP_FAILED && flags & SHM_REMAP) {
		gone_begin(&gone, (unsigned long)ret, shm_end((unsigned long)ret));
		gone_end(&gone, true);
	}
	return ret;
}

int remap_file_pages(void *addr, size_t len, int prot, size_t pgoff, int flags)
{
	unsigned long start = (unsigned long)addr;
	struct gone gone;
	long ret;

	gone_begin(&gone, start, page_round_up(start + len));
	ret = syscall(SYS_remap_file_pages, addr, len, prot, pgoff, flags);
	gone_end(&gone, false);
	return (int)ret;
}

ssize_t vmsplice(int fd, const struct iovec *iov, size_t n, unsigned int flags)
{
	staging_lent();
	return syscall(SYS_vmsplice, fd, iov, n, flags);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	if (level == SOL_SOCKET && name == SO_ZEROCOPY)
		staging_lent();
	return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}
