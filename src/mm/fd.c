/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that live as long as libhmm does.
 *
 * The program does not know of them, and may be counting on its own: it takes for granted
 * that the next open() gives 3, that dup2() to a number of its choice hits nothing, and a
 * daemon closes all there are. If it closed the userfaultfd every page that is away would
 * read as zeros from then on. So they are put where programs seldom look, and close(2) and its
 * kin, which libhmm defines (core/interpose_fd.c), leave them out. A system call made by hand
 * still hits them.
 *
 * A table of fixed size, since whoever closes may be in a signal handler or a child made by
 * vfork(): no lock, no memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "mm/mm.h"

#define KEPT 32
#define HIGH 960 /* the kernel's table of descriptors grows with the highest number */
#define ROOM 32

static HMM_DATA int kept[KEPT] = { [0 ... KEPT - 1] = -1 };
static HMM_DATA int lowest = INT32_MAX; /* no number below it is kept; only ever goes down */

static int fd_high(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= HIGH + ROOM)
		return HIGH;
	return limit.rlim_cur > 2 * ROOM ? (int)limit.rlim_cur - ROOM : ROOM / 2;
}

/* Of one that cannot be put elsewhere the number stays. */
HMM_API int hmm_fd_keep(int fd)
{
	int i, high, old = -1, err = errno;

	if (fd < 0)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, fd_high());
	if (high >= 0) {
		close(fd);
		fd = high;
	}
	errno = err;
	for (i = 0; i < KEPT; i++, old = -1)
		if (__atomic_compare_exchange_n(&kept[i], &old, fd, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			break;
	old = __atomic_load_n(&lowest, __ATOMIC_RELAXED);
	while (fd < old && !__atomic_compare_exchange_n(&lowest, &old, fd, false, __ATOMIC_ACQ_REL,
							__ATOMIC_RELAXED))
		;
	return fd;
}

HMM_API void hmm_fd_close(int fd)
{
	int i, old;

	if (fd < 0)
		return;
	for (i = 0; i < KEPT; i++) {
		old = fd;
		if (__atomic_compare_exchange_n(&kept[i], &old, -1, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			break;
	}
	close(fd);
}

bool fd_kept(int fd)
{
	int i;

	if (fd < __atomic_load_n(&lowest, __ATOMIC_ACQUIRE))
		return false;
	for (i = 0; i < KEPT; i++)
		if (__atomic_load_n(&kept[i], __ATOMIC_ACQUIRE) == fd)
			return true;
	return false;
}

/* The lowest number from @fd on that is kept, or -1. */
int fd_kept_next(int fd)
{
	int i, next = -1;

	for (i = 0; i < KEPT; i++) {
		int one = __atomic_load_n(&kept[i], __ATOMIC_ACQUIRE);

		if (one >= fd && one >= 0 && (next < 0 || one < next))
			next = one;
	}
	return next;
}

bool fd_raise(uint64_t *old)
{
	struct rlimit limit;
	rlim_t was;

	if (*old || getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= limit.rlim_max)
		return false;
	was = limit.rlim_cur;
	limit.rlim_cur++;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		return false;
	*old = was;
	return true;
}

void fd_restore(uint64_t *old)
{
	struct rlimit limit;

	if (!*old || getrlimit(RLIMIT_NOFILE, &limit))
		return;
	if (limit.rlim_cur == *old + 1) { /* else the program has changed it since */
		limit.rlim_cur = *old;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	*old = 0;
}
