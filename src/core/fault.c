/* SPDX-License-Identifier: MIT */
/*
 * The device fault: HMM_DEVICE_RFAULT and HMM_DEVICE_WFAULT.
 *
 *	activate ──► look ──► read ──► quiet? ──► enter, update() ──► done
 *	   ▲                   │          │
 *	   │                   │ missing  │ no: somebody changed the range (bounded)
 *	   │                   ▼          │
 *	   │               op ends        │
 *	   └── populate ◄── prepare ◄─────┘
 *
 * Once active nothing can change the range unnoticed: what the CPU page table says
 * is entered in the mirror page table, and the driver is told. Where all pages are
 * there, that is all.
 *
 * Where some are missing, the op first only listens (PREPARING): pages are populated
 * then, by the kernel, as a touch by the CPU would; that may take a CPU fault, which
 * must find nobody active. Then it activates and reads again.
 *
 * Where something is away or pinned, it must be known, just before the entries are made,
 * that no event waits to be read. Such an event happened before; the page table shows
 * its effect, but the special entries do not (another thread may have unmapped, and a
 * third mapped at the same place). An entry for system memory is an address. If the page
 * table shows what an unread event has made, the entry is right, and goes once too often.
 *
 * A page of another device comes home first. Holes are filled: a read gets the
 * zero page, a write a page. For a device that pins, a write also ends copy-on-write,
 * as the CPU's would: it must not hold on to a page that the process is about to lose.
 *
 * Memory that the kernel cannot watch (regular files, another userfaultfd's) sends no
 * event. Its entries are for once: gone when update() has returned.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/fault.h"
#include "mm/uapi.h"

#define FAULT_GIVE_UP_NS 10000000000ull /* for a range that is discarded all the time */
#define FAULT_RETRIES 1000
#define POPULATE_TRIES 20

/* What fault_try() returns besides an errno: what has to be done first. */
enum { FAULT_MISSING = 1, FAULT_AWAY };

/* How the part of a mapping from @pos on can be watched: FAULT_ONCE, or registered. */
static int look_watch(struct fault *fault, const struct vma *vma, unsigned long pos,
		      unsigned long stop)
{
	unsigned long from = pos & CHUNK_MASK, to = from + CHUNK_SIZE;
	unsigned int first = (unsigned int)((pos - fault->start) >> hmm_page_shift());
	unsigned int n = (unsigned int)((stop - pos) >> hmm_page_shift());
	int ret;

	/* Of the arena nobody shall hear: unmapping it would wait for ourselves. */
	if (arena_overlaps(pos, stop))
		ret = -EINVAL;
	else
		ret = watch_vma(fault->hmm, vma, from, to, UFFD_WATCH);
	memset(fault->batch->kind + first,
	       (watch_refused(ret) ? FAULT_ONCE : 0) | (vma->shared ? FAULT_SHARED : 0), n);
	if (!watch_refused(ret))
		return ret;
	fault->once = true;
	return 0;
}

/* All mapped, with that permission, and registered where that is possible. */
static int fault_look(struct fault *fault)
{
	unsigned long pos = fault->start, stop;

	fault->once = false;
	for (; pos < fault->end; pos = stop) {
		struct vma vma;
		int ret = vma_find(&fault->hmm->mm, pos, &vma);

		if (ret == -ENOENT || (!ret && vma.start > pos))
			return -EFAULT;
		if (ret)
			return ret;
		if (!vma.read || (fault->write && !vma.write && !MUTANT(READ_ONLY_WRITTEN)))
			return -EFAULT;
		stop = vma.end < fault->end ? vma.end : fault->end;
		ret = look_watch(fault, &vma, pos, stop);
		if (ret)
			return ret;
	}
	return 0;
}

static bool fault_granted(const struct fault *fault, unsigned int i)
{
	hmm_pte_t want = HMM_PTE_VALID | HMM_PTE_WRITE;

	return (fault->batch->from[i] & (want | HMM_PTE_DEVICE)) == want;
}

/* An earlier write fault has looked at all of these, and nothing has happened since. */
static bool fault_known(const struct fault *fault)
{
	unsigned int i;

	for (i = 0; fault->known && i < fault->pages; i++)
		if (!fault_granted(fault, i))
			return false;
	return fault->known;
}

/* What there is; nothing is decided yet. */
static int fault_scan(struct fault *fault)
{
	struct batch *batch = fault->batch;

	fault->away = special_fill(fault->hmm, fault->start, fault->end, batch->src);
	fault->known = mirror_read(fault->ms, fault->start, fault->end, batch->from);
	if (fault->write && fault->own && !fault_known(fault))
		return walk_owned(&fault->hmm->mm, fault->start, fault->end, batch->flags);
	return walk_pages(&fault->hmm->mm, fault->start, fault->end, batch->flags);
}

static bool fault_away(const struct fault *fault, unsigned int i)
{
	hmm_pte_t special = fault->batch->src[i];

	return special && special_device(special) != fault->ms->dev->device;
}

/*
 * Present, but may the device write it? Not the zero page. One that pins must find the
 * page that a write stays in: not what is shared copy-on-write, with another process or
 * with a file. Where it writes by the CPU address, the kernel sees to that.
 */
static bool fault_writable(const struct fault *fault, unsigned int i)
{
	uint8_t flags = fault->batch->flags[i];

	if (fault_granted(fault, i))
		return true;
	if (!fault->own) /* a file's page: as the kernel says, which was asked by then */
		return !(flags & WALK_ZERO) &&
		       (fault->populate || !(fault->batch->kind[i] & FAULT_ONCE));
	return flags & WALK_EXCLUSIVE ||
	       (flags & WALK_FILE && fault->batch->kind[i] & FAULT_SHARED);
}

static bool fault_lacks(const struct fault *fault, unsigned int i)
{
	if (fault->batch->src[i])
		return false;
	if (!(fault->batch->flags[i] & WALK_PRESENT))
		return true;
	return fault->write && !fault_writable(fault, i);
}

/* Nothing is lacking and nothing away, seen at one glance. */
static bool fault_plain(const struct fault *fault)
{
	uint8_t all = WALK_PRESENT, any = 0;
	unsigned int i;

	if (fault->away || (fault->write && (fault->once || fault->own)))
		return false;
	for (i = 0; i < fault->pages; i++) {
		all &= fault->batch->flags[i];
		any |= fault->batch->flags[i];
	}
	return all && !(fault->write && any & WALK_ZERO);
}

/* What another device has, or staging, comes home; what is ours stays. */
static int fault_bring_home(struct fault *fault)
{
	struct whose anyone = { .why = WHY_DEVICE };
	unsigned int i = 0;

	special_fill(fault->hmm, fault->start, fault->end, fault->batch->src);
	while (i < fault->pages) {
		unsigned int end = i;
		unsigned long pages;
		int ret = 0;

		while (end < fault->pages && fault_away(fault, end))
			end++;
		if (end > i)
			ret = migrate_back(fault->hmm, &anyone, fault_addr(fault, i),
					   fault_addr(fault, end), &pages);
		if (ret &&
		    ret != -EIO) /* what stays is looked for again, and lost, by the access */
			return ret;
		i = end + 1;
	}
	return 0;
}

/*
 * The mapping may have gone or changed since we looked (ENOMEM, EINVAL, EFAULT), with an
 * event or without: looking again will tell. If it says the same again and again, it is
 * so.
 */
static int fault_populate_error(struct fault *fault, int err)
{
	if (err == EFAULT && fault->hmm->mm.user_mode_only && !fault->once &&
	    fault->refused++ < POPULATE_TRIES)
		return 0; /* see fault_fill(), and what it cannot fill is tried again */
	if (err == EAGAIN || err == EINTR || fault_look(fault) || fault->refused++ < POPULATE_TRIES)
		return -EAGAIN;
	switch (err) {
	case EHWPOISON:
		return -EFAULT;
	case EINVAL: /* it has no pages */
		return -EOPNOTSUPP;
	default:
		return -err;
	}
}

/*
 * As the CPU would touch it. Where the kernel may not wait for us on its own
 * account (UFFD_USER_MODE_ONLY), a missing page is -EFAULT here and is put there
 * by fault_fill() instead.
 */
static int fault_populate(struct fault *fault)
{
	int advice = fault->write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
	unsigned int i = 0;

	while (i < fault->pages) {
		unsigned int end = i;

		while (end < fault->pages && fault_lacks(fault, end))
			end++;
		if (end > i && madvise((void *)fault_addr(fault, i),
				       (unsigned long)(end - i) << hmm_page_shift(), advice))
			return fault_populate_error(fault, errno);
		i = end + 1;
	}
	return 0;
}

/* The op is active: the holes that are left, one ioctl each. */
static int fault_fill(struct fault *fault)
{
	struct uffd_how how = op_how(&fault->op, true);
	unsigned long page = hmm_page_size();
	unsigned int i;

	for (i = 0; i < fault->pages; i++) {
		long ret;

		if (fault->batch->src[i] || fault->batch->kind[i] & FAULT_ONCE ||
		    fault->batch->flags[i] & (WALK_PRESENT | WALK_SWAPPED))
			continue;
		if (fault->write) {
			memset(fault->batch->bounce, 0, page);
			ret = uffd_copy(&fault->hmm->mm, &how, fault_addr(fault, i),
					fault->batch->bounce, page);
		} else {
			ret = uffd_zero(&fault->hmm->mm, &how, fault_addr(fault, i), page);
		}
		if (ret == -EINVAL) /* not of this kind: the kernel's own EFAULT stands */
			return -EFAULT;
		if (ret < 0 && ret != -EEXIST)
			return ret == -ECANCELED ? -EAGAIN : (int)ret;
		fault->batch->flags[i] = WALK_PRESENT | (fault->write ? WALK_EXCLUSIVE : 0);
	}
	return 0;
}

/* The op is active: does the range have what was asked for, and nothing else? */
static int fault_read(struct fault *fault)
{
	unsigned int i;
	int ret = fault_scan(fault);

	if (!ret && fault->populate && fault->hmm->mm.user_mode_only)
		ret = fault_fill(fault);
	if (ret)
		return ret;
	if (fault_plain(fault))
		return 0; /* as a rule */
	for (i = 0; i < fault->pages; i++) {
		if (fault_away(fault, i))
			return FAULT_AWAY;
		if (fault_lacks(fault, i))
			return fault->populate ? -EAGAIN : FAULT_MISSING;
	}
	return 0;
}

/*
 * Nothing happened that we have not been told of. What is in system memory needs no such
 * proof: its entry is an address, and what is there is what the page table says. Unless
 * the device has pinned what was there before.
 */
static int fault_check(struct fault *fault)
{
	struct uffd_how how = op_how(&fault->op, true);

	if (!fault->away && !(fault->op.pins && fault->known))
		return op_backoff(&fault->op) ? -EAGAIN : 0;
	return uffd_quiet(&fault->hmm->mm, &how) ? -EAGAIN : 0;
}

static int fault_active(struct fault *fault)
{
	int ret;

	if (op_backoff(&fault->op))
		return -EAGAIN;
	if (mirror_is_dead(fault->ms))
		return -ENODEV;
	ret = fault_look(fault);
	if (!ret)
		ret = fault_read(fault);
	debug_step("device:read", fault->start, fault->end);
	if (!ret && !MUTANT(ENTERED_UNCHECKED))
		ret = fault_check(fault);
	debug_step("device:looked", fault->start, fault->end);
	if (!ret)
		ret = fault_enter(fault);
	debug_step("device:entered", fault->start, fault->end);
	return ret;
}

/* The op only listens: see to it that the pages are there. */
static int fault_prepare(struct fault *fault)
{
	int ret;

	op_prepare(fault->hmm, &fault->op);
	ret = fault_look(fault);
	if (!ret)
		ret = fault_scan(fault);
	if (!ret)
		ret = fault_populate(fault);
	return ret;
}

static void fault_op_init(struct fault *fault)
{
	op_init(&fault->op, OP_FAULT, fault->start, fault->end);
	fault->op.owner = fault->ms;
	fault->op.pins = fault->ms->dev->flags & HMM_DEVICE_PINS;
	fault->op.give_up = op_patience(FAULT_GIVE_UP_NS);
}

static int fault_try(struct fault *fault)
{
	int ret = 0;

	fault_op_init(fault);
	if (fault->populate) {
		ret = fault_prepare(fault);
		if (!ret && !op_activate(fault->hmm, &fault->op))
			return -EBUSY;
	} else if (!op_begin(fault->hmm, &fault->op)) {
		return -EBUSY;
	}
	if (!ret)
		ret = fault_active(fault);
	op_end(fault->hmm, &fault->op);
	return ret;
}

/* A part of one chunk. */
static int fault_part(struct fault *fault)
{
	unsigned int retries = 0;

	fault->pages = (unsigned int)((fault->end - fault->start) >> hmm_page_shift());
	fault->populate = false;
	fault->refused = 0;
	while (retries < FAULT_RETRIES || MUTANT(RETRIES_UNBOUNDED)) {
		int ret = fault_try(fault);

		if (ret == FAULT_AWAY) {
			ret = fault_bring_home(fault);
			if (ret)
				return ret;
			retries++;
		} else if (ret == FAULT_MISSING) {
			fault->populate = true;
		} else if (ret == -EAGAIN) {
			stat_inc(retries);
			retry_pause(retries++);
		} else {
			return ret;
		}
	}
	return -EBUSY;
}

int device_fault(struct hmm_mirror_state *ms, struct hmm_event *event)
{
	struct fault fault = {
		.hmm = ms->hmm,
		.ms = ms,
		.batch = batch_get(ms->hmm),
		.cookie = event->cookie,
		.write = event->etype == HMM_DEVICE_WFAULT,
		.own = ms->dev->flags & HMM_DEVICE_PINS,
	};
	uint64_t begun = trace_device_fault_begin(ms->dev->label, event->start, event->end,
						  fault.write);
	int ret = 0;

	if (!fault.batch)
		return -ENOMEM;
	for (fault.start = event->start; fault.start < event->end && !ret;
	     fault.start = fault.end) {
		fault.end = chunk_end(fault.start, event->end);
		ret = fault_part(&fault);
	}
	batch_put(ms->hmm, fault.batch);
	if (!ret && !fault.mapped)
		ret = fault.error;
	trace_device_fault_end(begun, ms->dev->label, event->start, event->end, fault.write,
			       fault.mapped, ret);
	if (ret)
		return ret;
	event->pages = fault.mapped;
	stat_inc(device_faults);
	return 0;
}

/*
 * For hmm_range_fault(): see to it that the pages of the range are there, for a read
 * or a write, and enter nothing. What was brought may be gone again at once.
 */
int device_fault_populate(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
			  bool write)
{
	struct fault fault = {
		.hmm = ms->hmm,
		.ms = ms,
		.batch = batch_get(ms->hmm),
		.write = write,
		.own = true,
		.populate = true,
	};
	int ret = 0;

	if (!fault.batch)
		return -ENOMEM;
	for (fault.start = start; fault.start < end && !ret; fault.start = fault.end) {
		fault.end = chunk_end(fault.start, end);
		fault.pages = (unsigned int)((fault.end - fault.start) >> hmm_page_shift());
		ret = fault_bring_home(&fault);
		if (ret)
			break;
		fault_op_init(&fault);
		ret = fault_prepare(&fault);
		if (!ret && ms->hmm->mm.user_mode_only) {
			if (!op_activate(ms->hmm, &fault.op)) {
				ret = -EBUSY;
				break;
			}
			ret = fault_look(&fault); /* who waits is not told of events */
			if (!ret)
				ret = fault_read(&fault);
		}
		op_end(ms->hmm, &fault.op);
		if (ret == -EAGAIN || ret > 0) /* the caller looks, and asks again */
			ret = 0;
	}
	batch_put(ms->hmm, fault.batch);
	return ret;
}
