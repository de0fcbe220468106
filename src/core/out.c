/* SPDX-License-Identifier: MIT */
/*
 * To the device: HMM_COPY_TO_DEVICE, chunk by chunk.
 *
 * For a part of one mapping in one chunk, with an active OP_OUT on it:
 *
 *	1. take every device's translations away, HMM_MIGRATE
 *	2. isolate: move the pages into a slot of staging  (CPU accesses wait now)
 *	3. see what came: pages, zero pages, holes
 *	4. the device's copy engine takes what it can
 *	5. special entries for what it took
 *	6. the rest goes home; what cannot, for an event came, is left STAGED
 *	7. the slot keeps the system pages, to be used again
 *
 * The devices are told before the pages are isolated, not after: a device of ours
 * reaches system memory by its CPU address, and so would wait for a page that is
 * isolated. Pages that then cannot be isolated only lost their translation.
 *
 * What cannot go stays, and the call goes on: pinned pages, pages shared by
 * copy-on-write or KSM (those are made exclusive and tried once more), mappings
 * that are read-only, shared or not anonymous, stacks and what mm/keep.c names.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/core.h"
#include "mm/uapi.h"

#define OUT_RETRIES 1000 /* for a mapping that keeps changing */
#define OUT_STUCK 1 /* batch->failed: could not be isolated */
#define OUT_DECLINED 2 /* the driver did not take it */
#define OUT_PASSES 16 /* for a migration that keeps being interrupted */

/* A part of one chunk, of one mapping. */
struct out {
	struct hmm *hmm;
	struct hmm_mirror_state *ms;
	struct batch *batch;
	struct op op;
	struct slot *slot;
	unsigned long start;
	unsigned long end;
	unsigned int pages;
	unsigned int staged;
	unsigned long moved; /* are where they were asked to go */
	unsigned long refused; /* batch->failed says which */
};

static unsigned long out_addr(const struct out *out, unsigned int i)
{
	return out->start + ((unsigned long)i << hmm_page_shift());
}

static unsigned int out_index(const struct out *out, unsigned int i)
{
	return (unsigned int)((out_addr(out, i) & ~CHUNK_MASK) >> hmm_page_shift());
}

static unsigned long out_staged_addr(const struct out *out, unsigned int i)
{
	return slot_addr(out->slot) + (out_addr(out, i) & ~CHUNK_MASK);
}

/*
 * What is away already: on this device, done; elsewhere it has to come home
 * first. batch->failed is by index in the chunk: not 0 for all that stays put.
 */
static bool out_skip_away(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i;

	memset(batch->failed, 0, sizeof(batch->failed));
	special_fill(out->hmm, out->start, out->end, batch->src);
	for (i = 0; i < out->pages; i++) {
		if (!batch->src[i])
			continue;
		if (special_device(batch->src[i]) != out->ms->dev->device)
			return false;
		out->moved++;
	}
	return true;
}

/* Runs of pages that are not on the device yet. */
static int out_isolate(struct out *out)
{
	struct uffd_how how = op_how(&out->op, true);
	struct batch *batch = out->batch;
	unsigned int i = 0;
	int ret = 0;

	while (i < out->pages) {
		unsigned int end = i;

		while (end < out->pages && !batch->src[end])
			end++;
		if (end > i && !ret)
			ret = page_isolate(&out->hmm->mm, &how, out->slot, out_addr(out, i),
					   out_addr(out, end), batch->failed);
		else if (end > i)
			memset(batch->failed + out_index(out, i), 1, end - i);
		i = end + 1;
	}
	return ret;
}

/*
 * Step 3: the engine's sources. What is in the slot was moved, whatever the ioctl
 * said: of a run that ends with an error the kernel can report fewer pages than it
 * moved (6.18 moves them in batches), and the next try finds the slot occupied.
 */
static unsigned int out_sources(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i, n = 0;

	for (i = 0; i < out->pages; i++) {
		uint8_t flags = batch->flags[out_index(out, i)];

		batch->from[i] = 0;
		if (batch->src[i])
			continue;
		if (flags)
			batch->failed[out_index(out, i)] = 0;
		if (batch->failed[out_index(out, i)]) {
			out->refused++;
			continue;
		}
		if (flags & (WALK_PRESENT | WALK_SWAPPED) && !(flags & WALK_ZERO))
			batch->from[i] = hmm_pte_from_addr(out_staged_addr(out, i), HMM_PTE_VALID);
		else
			batch->from[i] = HMM_PTE_ZERO;
		n++;
	}
	return n;
}

/* What came into the slot must be known, or it would be lost: so insist. */
static void out_scan(struct out *out)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	while (slot_scan(&out->hmm->mm, out->slot, out->batch->flags))
		nanosleep(&pause, NULL);
}

static void out_copy(struct out *out)
{
	struct batch *batch = out->batch;
	hmm_pte_t from[CHUNK_PAGES_MAX]; /* as the device sees it */

	memset(batch->dst, 0, out->pages * sizeof(batch->dst[0]));
	if (op_backoff(&out->op))
		return; /* an event waits for us: leave all of it STAGED */
	if (mirror_is_dead(out->ms))
		return; /* just now: what went there would be forgotten */
	memcpy(from, batch->from, out->pages * sizeof(from[0]));
	if (dma_map_copy(out->ms, out->start, out->end, from))
		return;
	if (!mirror_set(out->ms, out->start, out->end, from))
		call_copy_to_device(out->ms, batch->dst, out->start, out->end);
	dma_unmap(out->ms, out->start, out->end, from);
}

/*
 * Step 5. This cannot fail, and must not: the device may have written already. The
 * directory of the special entries is there, see out_run().
 */
static void out_record(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i, n = 0;

	for (i = 0; i < out->pages; i++) {
		n += batch->dst[i] != 0;
		if (batch->dst[i])
			batch->src[i] = batch->dst[i];
	}
	if (!n)
		return;
	pt_store(&out->hmm->special, out->start, out->end, batch->src);
	out->moved += n;
	stat_add(pages_to_device, n);
}

/* Step 6 for one page that the device did not take. */
static void out_put_back(struct out *out, unsigned int i)
{
	struct uffd_how how = op_how(&out->op, true);
	unsigned long from = out_staged_addr(out, i), done;
	int ret;

	out->batch->failed[out_index(out, i)] = OUT_DECLINED;
	out->refused++;
	ret = page_map(&out->hmm->mm, &how, out_addr(out, i), from, hmm_page_size(), &done);
	if (!ret || ret == -EEXIST)
		return;
	special_set(out->hmm, out_addr(out, i), hmm_pte_from_addr(from, HMM_PTE_VALID));
	out->staged++;
	stat_inc(pages_staged);
}

/*
 * Steps 5 and 6. A hole needs nothing to be a hole again, and a zero page reads
 * the same as one; only real pages have to go home. The mirror's entries are there
 * as sources, so no memory is needed to make them what they are now.
 */
static void out_commit(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i;

	out_record(out);
	for (i = 0; i < out->pages; i++)
		if (!batch->dst[i] && hmm_pte_test_valid(batch->from[i]))
			out_put_back(out, i);
	mirror_set(out->ms, out->start, out->end, batch->dst);
}

static int out_run(struct out *out)
{
	struct hmm_pt_iter guard;
	int ret = -ENOMEM;

	if (out->moved == out->pages)
		return 0;
	/* While we stand in the directory, no entry there needs memory. */
	hmm_pt_iter_init(&guard, &out->hmm->special);
	if (!hmm_pt_iter_populate(&guard, out->start))
		goto out_guard;
	out->slot = slot_get_empty(&out->hmm->mm);
	if (!out->slot)
		goto out_guard;
	mirrors_update(out->hmm, out->start, out->end, HMM_MIGRATE);
	ret = out_isolate(out);
	out_scan(out);
	if (out_sources(out)) {
		out_copy(out);
		out_commit(out);
	}
	if (out->staged || out->refused)
		out_scan(out);
	slot_recycle(out->slot, out->batch->flags);
	slot_stage(&out->hmm->mm, out->slot, out->staged);
	slot_put(&out->hmm->mm, out->slot);
	if (mirror_is_dead(out->ms)) /* meanwhile: the worker may have been through */
		mirror_rescue(out->ms);
out_guard:
	hmm_pt_iter_fini(&guard);
	return ret;
}

/* Can pages of this mapping move? Those that cannot are no error. */
static bool vma_movable(const struct vma *vma)
{
	return vma->read && vma->write && !vma->shared && !vma->file &&
	       strcmp(vma->name, "[stack]") != 0;
}

/*
 * Within the op, so that what is found stays true: an event would interrupt it.
 * Clips the part to its mapping. 0 there is something to do, 1 there is not.
 */
static int out_look(struct out *out, unsigned long *end)
{
	unsigned long from;
	struct vma vma;
	int ret = vma_find(&out->hmm->mm, out->start, &vma);

	if (ret == -ENOENT || (!ret && vma.start >= *end))
		return 1; /* nothing mapped up to the end */
	if (ret)
		return ret;
	if (vma.start > out->start)
		out->start = vma.start;
	if (vma.end < *end)
		*end = vma.end;
	if (!vma_movable(&vma))
		return 1;
	from = out->start & CHUNK_MASK;
	ret = watch_vma(out->hmm, &vma, from, from + CHUNK_SIZE, UFFD_CATCH);
	return watch_refused(ret) ? 1 : ret;
}

/*
 * One pass over [out->start, *end), which it may clip; out->op ends in it.
 * -EAGAIN: something changed, look again; -EXDEV: something must come home first.
 */
static int out_pass(struct out *out, unsigned long *end)
{
	int ret;

	out->moved = out->refused = 0;
	out->staged = 0;
	memset(out->batch->failed, 0, sizeof(out->batch->failed));
	op_init(&out->op, OP_OUT, out->start, *end);
	op_begin(out->hmm, &out->op);
	ret = out_look(out, end);
	if (!ret) {
		out->end = *end;
		out->pages = (unsigned int)((out->end - out->start) >> hmm_page_shift());
		ret = out_skip_away(out) ? out_run(out) : -EXDEV;
	}
	op_end(out->hmm, &out->op);
	return ret == -ECANCELED ? -EAGAIN : ret;
}

/*
 * Make what is shared by copy-on-write or KSM exclusive. No op is active: the
 * kernel may fault on our behalf. Whatever happens to the range meanwhile is seen
 * by the next pass.
 */
static bool out_mend(struct out *out)
{
	bool mended = false;
	unsigned int i;

	if (walk_pages(&out->hmm->mm, out->start, out->end, out->batch->flags))
		return false;
	for (i = 0; i < out->pages; i++) {
		if (out->batch->failed[out_index(out, i)] != OUT_STUCK ||
		    !(out->batch->flags[i] & (WALK_PRESENT | WALK_SWAPPED)))
			continue;
		if (!madvise((void *)out_addr(out, i), hmm_page_size(), MADV_POPULATE_WRITE))
			mended = true;
	}
	return mended;
}

/* [*start, end) lies in one chunk; moves *start past what was dealt with. */
static int out_part(struct out *out, unsigned long *start, unsigned long end)
{
	unsigned int passes = 0, retries = 0;
	bool mended = false;
	unsigned long stop;
	int ret;

	do {
		unsigned long pages;

		stop = end;
		out->start = *start;
		ret = out_pass(out, &stop);
		if (ret == -EAGAIN && !out->staged) {
			retry_pause(retries);
			if (retries++ < OUT_RETRIES)
				continue;
			break;
		}
		if (ret == -EXDEV) {
			if (migrate_back(out->hmm, NULL, out->start, stop, &pages) == -ENOMEM)
				return -ENOMEM;
		} else if (ret != -EAGAIN) {
			if (ret || !out->refused || mended || !out_mend(out))
				break;
			mended = true;
		}
		passes++;
	} while (passes < OUT_PASSES);
	*start = stop;
	return ret == -EAGAIN || ret == -EXDEV || ret == 1 ? 0 : ret;
}

static int out_range(struct out *out, const struct keep *keep, struct hmm_event *event)
{
	unsigned long pos = event->start;
	struct vma vma;

	/* Over what is not mapped in one step: the range can be all there is. */
	while (pos < event->end && !vma_find(&out->hmm->mm, pos, &vma)) {
		unsigned long start, stop, end;
		int ret;

		pos = vma.start > pos ? vma.start : pos;
		if (pos >= event->end)
			break;
		end = chunk_end(pos, event->end);
		start = pos;
		stop = end;
		if (!keep_allowed(keep, &start, &stop)) {
			pos = end;
			continue;
		}
		ret = out_part(out, &start, stop);
		if (ret)
			return ret;
		event->pages += out->moved;
		stat_add(pages_refused, out->refused);
		out->moved = out->refused = 0;
		pos = start;
	}
	return 0;
}

/* The driver's structs too: its ops reach them by their address. */
static int out_keep(struct keep *keep, struct mm *mm, unsigned long start, unsigned long end)
{
	unsigned long from = start, to = end;
	int ret = keep_init(keep, mm, start, end);

	while (!ret && devmem_next(&from, &to)) {
		ret = keep_add(keep, from, to);
		from = to;
		to = end;
	}
	if (ret)
		keep_fini(keep);
	return ret;
}

int migrate_out(struct hmm_mirror_state *ms, struct hmm_event *event)
{
	struct out out = { .hmm = ms->hmm, .ms = ms };
	struct keep keep;
	int ret;

	if (!ms->dev->ops.copy_to_device || !ms->hmm->mm.staging)
		return -EOPNOTSUPP;
	if (ms->hmm->mm.user_mode_only && !user_mode_accepted()) {
		log_err("migration is refused: system calls on migrated memory would fail "
			"(see hmm_set_user_mode())");
		return -EPERM;
	}
	out.batch = batch_get(ms->hmm);
	if (!out.batch)
		return -ENOMEM;
	ret = out_keep(&keep, &ms->hmm->mm, event->start, event->end);
	if (!ret) {
		ret = out_range(&out, &keep, event);
		keep_fini(&keep);
	}
	batch_put(ms->hmm, out.batch);
	return ret;
}
