/* SPDX-License-Identifier: MIT */
/*
 * close(2) and its kin, for a program that closes what it does not know of: see mm/fd.c.
 * libhmm's own descriptors are as if they were not there: EBADF, or passed over. Of all
 * others the C library's function, or the system call, decides.
 */
#include <errno.h>
#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/mm.h"

/* The C library's, under names of which it keeps the ABI. */
extern int __close(int fd);
extern int __dup2(int from, int to);

HMM_API int close(int fd);
HMM_API int dup2(int from, int to);
HMM_API int dup3(int from, int to, int flags);
HMM_API int close_range(unsigned int first, unsigned int last, int flags);
HMM_API void closefrom(int low);

#define UNSHARE 2 /* CLOSE_RANGE_UNSHARE */
#define CLOEXEC 4

int close(int fd)
{
	if (fd_kept(fd)) {
		errno = EBADF;
		return -1;
	}
	return __close(fd);
}

int dup2(int from, int to)
{
	if (fd_kept(to) || fd_kept(from)) {
		errno = EBADF;
		return -1;
	}
	return __dup2(from, to);
}

int dup3(int from, int to, int flags)
{
	if (fd_kept(to) || fd_kept(from)) {
		errno = EBADF;
		return -1;
	}
	return (int)syscall(SYS_dup3, from, to, flags);
}

int close_range(unsigned int first, unsigned int last, int flags)
{
	long ret = 0;
	int next;

	if (first > last || flags & CLOEXEC) /* ours are so anyway */
		return (int)syscall(SYS_close_range, first, last, flags);
	while (!ret && first <= last && first <= INT_MAX) {
		next = fd_kept_next((int)first);
		if (next < 0 || (unsigned int)next > last)
			return (int)syscall(SYS_close_range, first, last, flags);
		if ((unsigned int)next > first)
			ret = syscall(SYS_close_range, first, next - 1, flags);
		else if (flags & UNSHARE) /* and no more than that */
			ret = syscall(SYS_close_range, INT_MAX, INT_MAX, flags);
		flags &= ~UNSHARE;
		first = (unsigned int)next + 1;
	}
	return (int)ret;
}

void closefrom(int low)
{
	int err = errno, fd;

	low = low < 0 ? 0 : low;
	if (close_range((unsigned int)low, ~0u, 0))
		for (fd = low; fd < sysconf(_SC_OPEN_MAX); fd++)
			close(fd);
	errno = err;
}
