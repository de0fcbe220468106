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

/*
 * Several threads in a loop of munmap() or madvise() keep the kernel at EAGAIN for as long
 * as they like, and who waits would starve: one at a time they do not leave a gap. So who
 * has waited for STARVE_NS says so, and those that come by our munmap() and madvise()
 * (core/interpose.c) let him go first.
 */
#define STARVE_NS 1000000ull
#define LEAVE_WALK 8 /* pages that are looked at sooner than an ioctl is made */

static HMM_DATA unsigned int starving;

bool uffd_starves(void)
{
	return __atomic_load_n(&starving, __ATOMIC_RELAXED);
}

/*
 * A leaf: what the probe has for a moment would be refused to a registration just then, as
 * if it were another userfaultfd's of the program's.
 */
static HMM_DATA pthread_mutex_t probe_lock = PTHREAD_MUTEX_INITIALIZER;

void uffd_forget(void)
{
	pthread_mutex_init(&probe_lock, NULL);
	__atomic_store_n(&starving, 0, __ATOMIC_RELAXED);
}

void uffd_starve(bool on)
{
	__atomic_fetch_add(&starving, on ? 1 : -1, __ATOMIC_RELAXED);
}

struct patience {
	uint64_t since; /* ns; 0: has not waited */
	bool starving;
};

static void patience_wait(struct patience *p)
{
	uint64_t now = clock_ns();

	if (!p->since)
		p->since = now;
	if (!p->starving && now > p->since + STARVE_NS) {
		p->starving = true;
		__atomic_fetch_add(&starving, 1, __ATOMIC_RELAXED);
	}
	sched_yield();
}

static void patience_end(const struct patience *p)
{
	if (p->starving)
		__atomic_fetch_sub(&starving, 1, __ATOMIC_RELAXED);
}

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

/* One try, while nobody reads: 0 or errno, -ECANCELED; the result is in *@done. */
static int uffd_try(struct mm *mm, const struct uffd_how *how, unsigned long request, void *arg,
		    volatile __s64 *done, const char *name)
{
	int err = 0;

	if (how->wait)
		pthread_rwlock_rdlock(&mm->gate);
	*done = 0;
	if (how_canceled(how)) {
		err = ECANCELED;
	} else {
		err = -debug_fail(name);
		if (!err && ioctl(mm->uffd, request, arg))
			err = errno;
		if ((err == ENOENT || err == EINVAL) && !MUTANT(GONE_BELIEVED) && uffd_pending(mm))
			err = EAGAIN;
	}
	if (how->wait)
		pthread_rwlock_unlock(&mm->gate);
	return err;
}

/* Bytes done, or negative errno if none. @done is the result field within @arg. */
static long uffd_call(struct mm *mm, const struct uffd_how *how, unsigned long request, void *arg,
		      volatile __s64 *done, const char *name)
{
	struct patience patience = { .since = 0 };
	long ret;

	for (;;) {
		int err = uffd_try(mm, how, request, arg, done, name);

		ret = *done > 0 ? (long)*done : -err;
		if (ret != -EAGAIN || !how->wait)
			break;
		patience_wait(&patience);
	}
	patience_end(&patience);
	return ret;
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
	pthread_mutex_lock(&probe_lock);
	ret = ioctl(mm->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
	pthread_mutex_unlock(&probe_lock);
	return ret;
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
 * The same where nothing is write-protected or away, and nobody wants to hear of it any more. To be
 * registered for write protection has the kernel look at each page that is there when that ends, in
 * case it is protected: 20 ns each. So first it is registered for what costs nothing to end. A fault
 * that comes of it is woken by the end. What already has that mode, UFFD_CATCH, cannot be helped.
 */
int uffd_leave(struct mm *mm, unsigned long start, unsigned long end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (end - start > LEAVE_WALK * hmm_page_size()) {
		pthread_mutex_lock(&probe_lock);
		ioctl(mm->uffd, UFFDIO_REGISTER, &reg); /* if not, it takes longer */
		pthread_mutex_unlock(&probe_lock);
	}
	return uffd_unregister(mm, start, end);
}

/* Could it be registered with another userfaultfd? Nothing of it is left. */
static int uffd_probe(struct mm *mm, struct uffdio_register *reg)
{
	int ret = 0;

	pthread_mutex_lock(&probe_lock);
	if (ioctl(mm->probe, UFFDIO_REGISTER, reg))
		ret = -errno;
	else
		ioctl(mm->probe, UFFDIO_UNREGISTER, &reg->range);
	pthread_mutex_unlock(&probe_lock);
	return ret;
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

	return uffd_probe(mm, &reg) == -EBUSY;
}

long uffd_copy(struct mm *mm, const struct uffd_how *how, unsigned long dst, const void *src,
	       unsigned long len)
{
	struct uffdio_copy copy = { .dst = dst, .src = (unsigned long)src, .len = len };

	if (debug_fail("short"))
		copy.len = hmm_page_size();
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

	if (debug_fail("short")) /* as when the kernel is interrupted */
		move.len = hmm_page_size();
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

int uffd_protect(struct mm *mm, const struct uffd_how *how, unsigned long addr, unsigned long len)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = addr, .len = len },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	__s64 none;

	return (int)uffd_call(mm, how, UFFDIO_WRITEPROTECT, &wp, &none, "protect");
}

int uffd_unprotect(struct mm *mm, const struct uffd_how *how, unsigned long addr, unsigned long len)
{
	struct uffdio_writeprotect wp = { .range = { .start = addr, .len = len } };
	__s64 none;

	return (int)uffd_call(mm, how, UFFDIO_WRITEPROTECT, &wp, &none, "unprotect");
}

/* Certainly not, also not with another userfaultfd. */
bool uffd_free(struct mm *mm, unsigned long start, unsigned long end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return !uffd_probe(mm, &reg);
}

void uffd_wake(struct mm *mm, unsigned long addr, unsigned long len)
{
	struct uffdio_range range = { .start = addr, .len = len };

	ioctl(mm->uffd, UFFDIO_WAKE, &range);
}

static bool quiet_never(const struct patience *p, uint64_t heard)
{
	uint64_t waited = p->since ? clock_ns() - p->since : 0;

	return waited > (heard < UFFD_STORM ? UFFD_QUIET_NS : UFFD_STORM_NS);
}

/* What was read by now was also recorded: the monitor holds the gate over both. */
int uffd_quiet(struct mm *mm, const struct uffd_how *how)
{
	struct patience patience = { .since = 0 };
	uint64_t heard, before = 0;
	int ret;

	for (;;) {
		bool pending = false;

		pthread_rwlock_rdlock(&mm->gate);
		ret = how_canceled(how) ? -ECANCELED : 0;
		if (!ret)
			pending = uffd_pending(mm);
		heard = mm->heard;
		pthread_rwlock_unlock(&mm->gate);
		if (!pending)
			break;
		if (!patience.since)
			before = heard;
		ret = how->wait ? 0 : -EAGAIN;
		if (ret || quiet_never(&patience, heard - before))
			break;
		patience_wait(&patience);
	}
	patience_end(&patience);
	return ret;
}
