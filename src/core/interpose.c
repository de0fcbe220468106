/* SPDX-License-Identifier: MIT */
/*
 * Two libc functions of which userfaultfd tells us nothing, or which would fail
 * for our sake. A program that is linked with libhmm finds them here first; each
 * makes the system call and looks after the rest. errno is the system call's.
 *
 * mprotect, pkey_mprotect: the kernel sends no event. When permission was taken
 * away, the mirrors lose it before the call returns (G3). Permission given needs
 * nothing: the device asks for it by a fault.
 *
 * mremap: a mapping of which only a part is registered is two mappings to the
 * kernel, and mremap takes one: EFAULT (after having moved some, from 6.17 on). So
 * all of it is registered alike before the call, which makes it one again.
 *
 * What comes here does not see: libc's own calls (realloc() falls back to a copy
 * by itself), system calls made by hand, and a program that got libhmm by
 * dlopen(). There a device goes on with the old permission until its translation
 * goes for another reason.
 *
 * Memory no mirror has entries of costs a look under two mutexes and no more
 * (G10). Neither function may be called from a signal handler that interrupts a
 * call into libhmm.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/core.h"

HMM_API int mprotect(void *addr, size_t len, int prot);
HMM_API int pkey_mprotect(void *addr, size_t len, int prot, int pkey);
HMM_API void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...);

static void protect_range(unsigned long start, unsigned long end, enum hmm_etype etype)
{
	struct hmm *hmm = process_pin();
	struct op op;

	if (!hmm)
		return;
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
	    !call_running())
		protect_range(start, end, prot & PROT_READ ? HMM_WRITE_PROTECT : HMM_MIGRATE);
	errno = err;
	return (int)ret;
}

int mprotect(void *addr, size_t len, int prot)
{
	return protect_done(syscall(SYS_mprotect, addr, len, prot), addr, len, prot);
}

int pkey_mprotect(void *addr, size_t len, int prot, int pkey)
{
	return protect_done(syscall(SYS_pkey_mprotect, addr, len, prot, pkey), addr, len, prot);
}

static void mremap_join(unsigned long start, unsigned long len)
{
	struct hmm *hmm = call_running() || !len ? NULL : process_pin();

	if (!hmm)
		return;
	watch_unify(hmm, page_round_down(start), page_round_up(start + len));
	process_unpin(hmm);
}

void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	void *to = NULL;
	va_list ap;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(ap, flags);
		to = va_arg(ap, void *);
		va_end(ap);
	}
	mremap_join((unsigned long)old, old_len);
	return (void *)syscall(SYS_mremap, old, old_len, new_len, flags, to);
}
