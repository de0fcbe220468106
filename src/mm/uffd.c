/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: every ioctl, and what is peculiar about them, in one place.
 *
 *  - EAGAIN without progress: an event waits to be read, or was read and its
 *    originator has not run yet. Only time helps: let go of the gate, yield.
 *  - EAGAIN with progress: a partial result; the real error shows at the next
 *    call, which the caller makes for the rest.
 *  - ENOENT or EINVAL may only mean that the mapping just went or was cut, by a call
 *    whose event waits: the kernel looks the mapping up before it looks for events.
 *    It counts only if no event waits, and none was read that concerns us.
 *  - The result field is cleared first: old kernels do not always write it.
 *
 * See mm.h for the gate.
 */
#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <time.h>

#include "mm/mm.h"
#include "mm/uapi.h"

static bool how_canceled(const struct uffd_how *how)
{
	return how->cancel && __atomic_load_n(how->cancel, __ATOMIC_ACQUIRE);
}

/*
 * Does an event wait to be read? The kernel looks for one before it looks at the
 * range, and an empty range is EINVAL.
 */
bool uffd_pending(struct mm *mm)
{
	struct uffdio_zeropage zero = { .range = { .start = 0, .len = 0 } };

	return ioctl(mm->uffd, UFFDIO_ZEROPAGE, &zero) && errno == EAGAIN;
}

/* Bytes done, or negative errno if none. @done is the result field within @arg. */
static long uffd_call(struct mm *mm, const struct uffd_how *how, unsigned long request, void *arg,
		      volatile __s64 *done, const char *name)
{
	for (;;) {
		int err = 0;

		pthread_rwlock_rdlock(&mm->gate);
		if (how_canceled(how)) {
			pthread_rwlock_unlock(&mm->gate);
			return -ECANCELED;
		}
		*done = 0;
		err = -debug_fail(name);
		if (!err && ioctl(mm->uffd, request, arg))
			err = errno;
		if ((err == ENOENT || err == EINVAL) && uffd_pending(mm))
			err = EAGAIN;
		pthread_rwlock_unlock(&mm->gate);

		if (*done > 0)
			return (long)*done;
		if (err != EAGAIN)
			return -err;
		if (!how->wait)
			return -EAGAIN;
		sched_yield();
	}
}

int uffd_register(struct mm *mm, unsigned long start, unsigned long end, enum uffd_mode mode)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int ret;

	if (mode == UFFD_CATCH)
		reg.mode |= UFFDIO_REGISTER_MODE_MISSING;
	ret = debug_fail("register");
	if (ret)
		return ret;
	return ioctl(mm->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

int uffd_unregister(struct mm *mm, unsigned long start, unsigned long end)
{
	struct uffdio_range range = { .start = start, .len = end - start };
	int ret = debug_fail("unregister");

	if (ret)
		return ret;
	return ioctl(mm->uffd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

/*
 * What is registered with one userfaultfd is refused to another, EBUSY; and unlike what
 * changes pages, that is answered also while events are under way. What is not, the
 * other one gets, for a moment; it asks for no events.
 */
bool uffd_owned(struct mm *mm, unsigned long start, unsigned long end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(mm->probe, UFFDIO_REGISTER, &reg))
		return errno == EBUSY;
	ioctl(mm->probe, UFFDIO_UNREGISTER, &reg.range);
	return false;
}

long uffd_copy(struct mm *mm, const struct uffd_how *how, unsigned long dst, const void *src,
	       unsigned long len)
{
	struct uffdio_copy copy = { .dst = dst, .src = (unsigned long)src, .len = len };

	return uffd_call(mm, how, UFFDIO_COPY, &copy, &copy.copy, "copy");
}

long uffd_move(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long src,
	       unsigned long len)
{
	struct uffdio_move move = {
		.dst = dst,
		.src = src,
		.len = len,
		.mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};

	return uffd_call(mm, how, UFFDIO_MOVE, &move, &move.move, "move");
}

long uffd_zero(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long len)
{
	struct uffdio_zeropage zero = { .range = { .start = dst, .len = len } };

	return uffd_call(mm, how, UFFDIO_ZEROPAGE, &zero, &zero.zeropage, "zero");
}

long uffd_poison(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long len)
{
	struct uffdio_poison poison = { .range = { .start = dst, .len = len } };

	return uffd_call(mm, how, UFFDIO_POISON, &poison, &poison.updated, "poison");
}

int uffd_unprotect(struct mm *mm, const struct uffd_how *how, unsigned long addr, unsigned long len)
{
	struct uffdio_writeprotect wp = { .range = { .start = addr, .len = len } };
	__s64 none;

	return (int)uffd_call(mm, how, UFFDIO_WRITEPROTECT, &wp, &none, "unprotect");
}

void uffd_wake(struct mm *mm, unsigned long addr, unsigned long len)
{
	struct uffdio_range range = { .start = addr, .len = len };

	ioctl(mm->uffd, UFFDIO_WAKE, &range);
}

static uint64_t quiet_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* What was read by now was also recorded: the monitor holds the gate over both. */
int uffd_quiet(struct mm *mm, const struct uffd_how *how)
{
	uint64_t end = 0;

	for (;;) {
		bool canceled, pending;

		pthread_rwlock_rdlock(&mm->gate);
		canceled = how_canceled(how);
		pending = !canceled && uffd_pending(mm);
		pthread_rwlock_unlock(&mm->gate);
		if (canceled)
			return -ECANCELED;
		if (!pending)
			return 0;
		if (!how->wait)
			return -EAGAIN;
		if (!end)
			end = quiet_clock() + UFFD_QUIET_NS;
		else if (quiet_clock() > end)
			return 0;
		sched_yield();
	}
}
