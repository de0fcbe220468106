/* SPDX-License-Identifier: MIT */
/*
 * The device fault: HMM_DEVICE_RFAULT and HMM_DEVICE_WFAULT.
 *
 *	prepare ──► populate ──► activate ──► read, enter, update() ──► done
 *	   ▲                        │              │
 *	   └──── somebody changed the range ───────┘   (bounded)
 *
 * Preparing, the op only listens, once events that came before are done with: pages are populated then, by the kernel, as a
 * touch by the CPU would; that may take a CPU fault, which must find nobody
 * active. Once active nothing can change the range unnoticed: what the CPU page
 * table says is entered in the mirror page table, and the driver is told.
 *
 * Just before update() it must be known that no event waits to be read. Such an
 * event happened before; the page table shows its effect, but the special entries
 * do not (another thread may have unmapped, and a third mapped at the same place).
 *
 * A page of another device comes home first. Holes are filled: a read gets the
 * zero page, a write a page. For a write everything is populated for writing, so
 * that no copy-on-write is left.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/core.h"
#include "mm/uapi.h"

#define FAULT_RETRIES 1000

struct fault {
	struct hmm *hmm;
	struct hmm_mirror_state *ms;
	struct batch *batch;
	struct op op;
	bool write;
	unsigned long start; /* a part of one chunk */
	unsigned long end;
	unsigned int pages;
};

static unsigned long fault_addr(const struct fault *fault, unsigned int i)
{
	return fault->start + ((unsigned long)i << hmm_page_shift());
}

/* All mapped, with that permission, and registered. */
static int fault_look(struct fault *fault)
{
	unsigned long pos = fault->start;

	while (pos < fault->end) {
		unsigned long from = pos & CHUNK_MASK, to = from + CHUNK_SIZE;
		struct vma vma;
		int ret = vma_find(&fault->hmm->mm, pos, &vma);

		if (ret == -ENOENT || (!ret && vma.start > pos))
			return -EFAULT;
		if (ret)
			return ret;
		if (!vma.read || (fault->write && !vma.write))
			return -EFAULT;
		/* Unmapping it would wait for our own monitor, with our own locks held. */
		if (arena_overlaps(pos, vma.end < fault->end ? vma.end : fault->end))
			return -EOPNOTSUPP;
		ret = watch_range(fault->hmm, vma.start > from ? vma.start : from,
				  vma.end < to ? vma.end : to, UFFD_WATCH);
		if (ret)
			return ret == -EINVAL || ret == -EBUSY ? -EOPNOTSUPP : ret;
		pos = vma.end;
	}
	return 0;
}

/*
 * What another device has, or staging, comes home: true, and it is to be looked
 * at again. What our own device has needs nothing.
 */
static bool fault_bring_home(struct fault *fault, int *err)
{
	bool away = false;
	unsigned long pages;
	unsigned int i;

	special_fill(fault->hmm, fault->start, fault->end, fault->batch->src);
	for (i = 0; i < fault->pages; i++)
		if (fault->batch->src[i] &&
		    special_device(fault->batch->src[i]) != fault->ms->dev->device)
			away = true;
	if (away) {
		*err = migrate_back(fault->hmm, NULL, fault->start, fault->end, &pages);
		if (*err == -EIO)
			*err = 0; /* poisoned: found below */
	}
	return away;
}

static bool fault_wants(const struct fault *fault, unsigned int i)
{
	if (fault->batch->src[i])
		return false;
	return fault->write || !(fault->batch->flags[i] & WALK_PRESENT);
}

/*
 * The mapping may have gone or changed since we looked (ENOMEM, EINVAL, EFAULT): if
 * so there is an event, read or not, and looking again will tell.
 */
static int fault_populate_error(struct fault *fault, int err)
{
	struct uffd_how how = op_how(&fault->op, true);

	if (uffd_quiet(&fault->hmm->mm, &how))
		return -EAGAIN;
	switch (err) {
	case EFAULT:
		return fault->hmm->mm.user_mode_only ? 0 : -EFAULT;
	case EHWPOISON:
		return -EFAULT;
	case EAGAIN:
	case EINTR:
	case EINVAL: /* its protection changed, without an event */
		return -EAGAIN;
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

		while (end < fault->pages && fault_wants(fault, end))
			end++;
		if (end > i &&
		    madvise((void *)fault_addr(fault, i),
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

		if (fault->batch->src[i] || fault->batch->flags[i] & (WALK_PRESENT | WALK_SWAPPED))
			continue;
		if (fault->write) {
			memset(fault->batch->bounce, 0, page);
			ret = uffd_copy(&fault->hmm->mm, &how, fault_addr(fault, i),
					fault->batch->bounce, page);
		} else {
			ret = uffd_zero(&fault->hmm->mm, &how, fault_addr(fault, i), page);
		}
		if (ret < 0 && ret != -EEXIST)
			return ret == -ECANCELED ? -EAGAIN : (int)ret;
		fault->batch->flags[i] = WALK_PRESENT;
	}
	return 0;
}

/* The op is active: does the range have what was asked for, and nothing else? */
static int fault_read(struct fault *fault)
{
	struct batch *batch = fault->batch;
	unsigned int i;
	int ret;

	special_fill(fault->hmm, fault->start, fault->end, batch->src);
	ret = walk_pages(&fault->hmm->mm, fault->start, fault->end, batch->flags);
	if (ret)
		return ret;
	if (fault->hmm->mm.user_mode_only) {
		ret = fault_fill(fault);
		if (ret)
			return ret;
	}
	for (i = 0; i < fault->pages; i++) {
		if (batch->src[i]) {
			if (special_device(batch->src[i]) != fault->ms->dev->device)
				return -EAGAIN;
			continue;
		}
		if (!(batch->flags[i] & WALK_PRESENT))
			return -EAGAIN;
		if (fault->write && batch->flags[i] & WALK_ZERO)
			return -EAGAIN;
	}
	return 0;
}

/*
 * New entries, but what the driver or an earlier fault knows of the same page is
 * kept: its dirty bit, its private bits, and that it could be written.
 */
static int fault_enter(struct fault *fault)
{
	hmm_pte_t keep = HMM_PTE_DIRTY | HMM_PTE_DRIVER | HMM_PTE_WRITE;
	hmm_pte_t grant = HMM_PTE_VALID | (fault->write ? HMM_PTE_WRITE : 0);
	struct batch *batch = fault->batch;
	unsigned int i;

	mirror_read(fault->ms, fault->start, fault->end, batch->dst);
	for (i = 0; i < fault->pages; i++) {
		hmm_pte_t old = batch->dst[i], pte;

		if (batch->src[i])
			pte = hmm_pte_addr(batch->src[i]) | HMM_PTE_DEVICE | grant;
		else
			pte = hmm_pte_from_addr(fault_addr(fault, i), grant);
		if (hmm_pte_addr(old) == hmm_pte_addr(pte) &&
		    hmm_pte_test_device(old) == hmm_pte_test_device(pte))
			pte |= old & keep;
		batch->dst[i] = pte;
	}
	return mirror_set(fault->ms, fault->start, fault->end, batch->dst);
}

/* Nothing happened that we have not been told of. */
static int fault_check(struct fault *fault)
{
	struct uffd_how how = op_how(&fault->op, true);

	return uffd_quiet(&fault->hmm->mm, &how) ? -EAGAIN : 0;
}

static int fault_active(struct fault *fault)
{
	int ret;

	if (op_backoff(&fault->op))
		return -EAGAIN;
	ret = fault_read(fault);
	if (!ret)
		ret = fault_check(fault);
	if (!ret)
		ret = fault_enter(fault);
	if (ret)
		return ret;
	ret = call_update(fault->ms, fault->start, fault->end,
			  fault->write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT);
	if (ret) {
		/* It may have taken some: take all of them away. */
		if (call_update(fault->ms, fault->start, fault->end, HMM_MIGRATE))
			mirror_kill(fault->ms);
		mirror_clear(fault->ms, fault->start, fault->end);
	}
	return ret;
}

static int fault_try(struct fault *fault)
{
	int ret;

	op_init(&fault->op, OP_FAULT, fault->start, fault->end);
	fault->op.owner = fault->ms;
	op_prepare(fault->hmm, &fault->op);
	ret = fault_look(fault);
	if (!ret) {
		special_fill(fault->hmm, fault->start, fault->end, fault->batch->src);
		ret = walk_pages(&fault->hmm->mm, fault->start, fault->end, fault->batch->flags);
	}
	if (!ret)
		ret = fault_populate(fault);
	if (!ret) {
		op_activate(fault->hmm, &fault->op);
		ret = fault_active(fault);
	}
	op_end(fault->hmm, &fault->op);
	return ret;
}

/* A part of one chunk. */
static int fault_part(struct fault *fault)
{
	unsigned int retries;
	int ret = 0;

	fault->pages = (unsigned int)((fault->end - fault->start) >> hmm_page_shift());
	for (retries = 0; retries < FAULT_RETRIES; retries++) {
		ret = 0;
		if (!fault_bring_home(fault, &ret) && !ret)
			ret = fault_try(fault);
		else if (!ret)
			continue;
		if (ret != -EAGAIN)
			return ret;
		stat_inc(retries);
		retry_pause(retries);
	}
	return -EBUSY;
}

int device_fault(struct hmm_mirror_state *ms, struct hmm_event *event)
{
	struct fault fault = {
		.hmm = ms->hmm,
		.ms = ms,
		.batch = batch_get(ms->hmm),
		.write = event->etype == HMM_DEVICE_WFAULT,
	};
	int ret = 0;

	if (!fault.batch)
		return -ENOMEM;
	for (fault.start = event->start; fault.start < event->end && !ret; fault.start = fault.end) {
		fault.end = chunk_end(fault.start, event->end);
		ret = fault_part(&fault);
	}
	batch_put(ms->hmm, fault.batch);
	if (ret)
		return ret;
	event->pages = (event->end - event->start) >> hmm_page_shift();
	stat_inc(device_faults);
	return 0;
}
