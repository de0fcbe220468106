/* SPDX-License-Identifier: MIT */
/*
 * To the device, chunk by chunk. (Who asks for it, and which range: migrate.c.)
 *
 * For a part of one mapping in one chunk, with an active OP_OUT on it:
 *
 *	1. take every device's translations away, HMM_MIGRATE
 *	2. isolate: move the pages into a slot of staging  (CPU accesses wait now)
 *	3. see what came: pages, zero pages, holes
 *	4. the taker, which is the driver, copies what it can
 *	5. special entries for what it took
 *	6. the rest goes home; what cannot, for an event came, is left STAGED
 *	7. the slot keeps the system pages, to be used again
 *
 * The devices are told before the pages are isolated, not after: a device of ours
 * reaches system memory by its CPU address, and so would wait for a page that is
 * isolated. Pages that then cannot be isolated only lost their translation.
 *
 * What another device has is not in the CPU page table, and needs no isolation: where
 * the taker can copy from there (HMM_DEVICE_PEER), it is a source as it is, and step 5
 * puts one special entry in the place of the other. Else, or if the taker leaves it, it
 * comes home and the part is looked at again.
 *
 * Memory that is read-only moves too where the caller asked for it: step 2 then goes by way
 * of window.c, and what goes home is copied. A device gets no permission to write to it.
 *
 * What cannot go stays, and the call goes on: pinned pages, pages shared by
 * copy-on-write or KSM (those are made exclusive and tried once more), mappings
 * that are read-only, shared or not anonymous, stacks and what mm/keep.c names.
 *
 * A device that wants pages for itself where they are takes the same way up to step 3
 * (exclusive.c, taker->hold).
 *
 * Where the device is full the driver may say what should come home instead (evict());
 * that is done with no op active, and the part is looked at again.
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
#define OUT_GIVE_UP_NS 200000000 /* for a range that is discarded all the time */
#define OUT_PASSES 16 /* for a migration that keeps being interrupted */
#define OUT_ASKED 16 /* for something that is there to come home */
#define OUT_EVICTIONS 64 /* for a part of one chunk */

/* Can this taker copy from where that page is? No device of a shadow stops using it. */
static bool out_peer(const struct out *out, hmm_pte_t pte)
{
	const struct hmm_device *device = special_device(pte);
	struct hmm_mirror_state *ms;

	if (!out->peer || !device)
		return false;
	ms = mirror_of_device(device);
	return ms && !ms->shadow && !mirror_is_dead(ms);
}

/*
 * What is away already: on this device, done; elsewhere a source for who can copy from
 * there, or it has to come home first: false. batch->failed is by index in the chunk:
 * not 0 for all that stays put.
 */
static bool out_look_away(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i;

	memset(batch->failed, 0, sizeof(batch->failed));
	if (!special_fill(out->hmm, out->start, out->end, batch->src))
		return true;
	for (i = 0; i < out->pages; i++) {
		if (!batch->src[i])
			continue;
		if (special_device(batch->src[i]) == out->ms->dev->device ||
		    (out->taker->hold && special_exclusive(batch->src[i])))
			out->moved++;
		else if (out->stranded)
			batch->failed[out_index(out, i)] = OUT_STUCK;
		else if (!out_peer(out, batch->src[i]))
			return false;
	}
	return true;
}

static bool out_here(const struct out *out, unsigned int i)
{
	return special_device(out->batch->src[i]) == out->ms->dev->device;
}

/*
 * Of a kind that does not move, or not any more: what is here already is. It is not given
 * to a device for itself: it may be read-only by now.
 */
static void out_count_here(struct out *out)
{
	unsigned int i;

	special_fill(out->hmm, out->start, out->end, out->batch->src);
	for (i = 0; i < out->pages; i++)
		out->moved += !out->taker->hold && out_here(out, i);
}

/* Runs of pages that are not away. */
static int out_isolate_runs(struct out *out)
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

static int out_isolate(struct out *out)
{
	int ret = out->window ? window_open(out) : 0;

	if (!ret) {
		ret = out_isolate_runs(out);
		if (out->window)
			window_close(out);
		return ret;
	}
	memset(out->batch->failed, OUT_STUCK, sizeof(out->batch->failed));
	return ret == -ECANCELED ? ret : 0;
}

/*
 * Step 3: the engine's sources. What is in the slot was moved, whatever the ioctl
 * said: of a run that ends with an error the kernel can report fewer pages than it
 * moved (6.18 moves them in batches), and the next try finds the slot occupied.
 */
static unsigned int out_sources(struct out *out)
{
	hmm_pte_t staged = hmm_pte_from_addr(out_staged_addr(out, 0), HMM_PTE_VALID);
	const uint8_t *flag = out->batch->flags + out_index(out, 0);
	uint8_t *failed = out->batch->failed + out_index(out, 0);
	unsigned long page = hmm_page_size();
	struct batch *batch = out->batch;
	unsigned int i, n = 0;

	for (i = 0; i < out->pages; i++, staged += page) {
		uint8_t flags = flag[i];

		batch->from[i] = 0;
		if (batch->src[i]) {
			if (special_device(batch->src[i]) == out->ms->dev->device ||
			    out->stranded || out->taker->hold)
				continue;
			batch->from[i] =
				batch->src[MUTANT(PEER_PAGE_WRONG) ? 0 : i] | HMM_PTE_VALID;
			n++;
			continue;
		}
		if (flags && failed[i] != PAGE_STAYS)
			failed[i] = 0;
		if (failed[i]) {
			out->refused++;
			continue;
		}
		if (flags & (WALK_PRESENT | WALK_SWAPPED) && !(flags & WALK_ZERO))
			batch->from[i] = staged;
		else
			batch->from[i] = HMM_PTE_ZERO;
		out->isolated = true;
		n++;
	}
	return n;
}

/* What came into the slot must be known, or it would be lost: so insist. */
static void out_scan(struct out *out)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	while (slot_scan_part(&out->hmm->mm, out->slot, out_index(out, 0), out->pages,
			      out->batch->flags))
		nanosleep(&pause, NULL);
}

/*
 * Step 7: what the slot has now. Where something went wrong all of it is looked at: it may
 * have been filled by others (see page_isolate()).
 */
static void out_recycle(struct out *out)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	uint8_t *flags = out->batch->flags;

	if (!out->staged && !out->refused) {
		slot_recycle_part(out->slot, out_index(out, 0), out->pages, flags);
		return;
	}
	while (slot_scan(&out->hmm->mm, out->slot, flags))
		nanosleep(&pause, NULL);
	slot_recycle(out->slot, flags);
}

/* Step 4. False: the taker was not asked. */
static bool out_copy(struct out *out)
{
	struct batch *batch = out->batch;
	bool dma = dma_used(out->ms);
	hmm_pte_t mapped[CHUNK_PAGES_MAX];
	unsigned int i;

	memset(batch->dst, 0, out->pages * sizeof(batch->dst[0]));
	memcpy(batch->seen, batch->from, out->pages * sizeof(batch->seen[0]));
	if (op_backoff(&out->op))
		return false; /* an event waits for us: leave all of it STAGED */
	if (mirror_is_dead(out->ms))
		return false; /* just now: what went there would be forgotten */
	if (dma_map_copy(out->ms, out->start, out->end, batch->seen))
		return false;
	if (dma)
		memcpy(mapped, batch->seen, out->pages * sizeof(mapped[0]));
	out->taker->take(out, batch->seen);
	if (dma)
		dma_unmap(out->ms, out->start, out->end, mapped);
	for (i = 0; i < out->pages; i++) {
		out->declined += batch->from[i] && !batch->dst[i];
		if (out->window)
			batch->dst[i] &= ~HMM_PTE_WRITE;
	}
	return true;
}

/*
 * Step 5. This cannot fail, and must not: the device may have written already. The
 * directory of the special entries is there, see out_run().
 */
static void out_record(struct out *out)
{
	struct batch *batch = out->batch;
	unsigned int i, n = 0;
	hmm_pte_t olds = 0;

	for (i = 0; i < out->pages; i++)
		if (batch->dst[i]) {
			hmm_pte_t old = batch->src[i];

			batch->src[i] = batch->dst[i];
			batch->from[i] = old; /* not needed any more but for this */
			olds |= old;
			n++;
		}
	if (!n)
		return;
	pt_store(&out->hmm->special, out->start, out->end, batch->src);
	for (i = 0; olds && i < out->pages; i++)
		if (batch->dst[i])
			special_release(out->hmm, batch->from[i]);
	out->moved += n;
	stat_add(pages_to_device, n);
	trace_moved(out->ms->dev->label, out->start, out->end, n);
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
	if (ret == -EINVAL && out->window)
		ret = page_copy(&out->hmm->mm, &how, out_addr(out, i), (void *)from,
				hmm_page_size(), &done);
	if (!ret || ret == -EEXIST)
		return;
	if (!MUTANT(STAGED_FORGOTTEN))
		special_set(out->hmm, out_addr(out, i), hmm_pte_from_addr(from, HMM_PTE_VALID));
	out->staged++;
	stat_inc(pages_staged);
}

/*
 * Steps 4 to 6. A hole needs nothing to be a hole again, and a zero page reads
 * the same as one; only real pages have to go home. What is another device's is there
 * as before, and can still come by way of the system. -ECANCELED: an event came first,
 * and the driver was not asked.
 */
static int out_commit(struct out *out)
{
	struct batch *batch = out->batch;
	bool asked = out_copy(out);
	unsigned int i;

	debug_step("out:copied", out->start, out->end);
	out_record(out);
	debug_step("out:recorded", out->start, out->end);
	for (i = 0; (!asked || out->declined) && i < out->pages; i++) {
		if (batch->dst[i] || !batch->from[i])
			continue;
		if (hmm_pte_test_device(batch->from[i]))
			out->elsewhere++;
		else if (hmm_pte_test_valid(batch->from[i]))
			out_put_back(out, i);
		else
			batch->failed[out_index(out, i)] = OUT_DECLINED;
	}
	if (asked)
		out->taker->finish(out, batch->seen);
	return asked || !op_backoff(&out->op) ? 0 : -ECANCELED;
}

static struct slot *out_slot(struct out *out)
{
	if (out->taker->hold)
		return slot_get_shared(&out->hmm->mm, out_index(out, 0),
				       out_index(out, out->pages - 1));
	return slot_get_room(&out->hmm->mm, out_index(out, 0), out_index(out, out->pages - 1));
}

/* What is in the slot, to where it goes. */
static int out_give(struct out *out)
{
	unsigned int sources = out_sources(out);

	if (sources && out->isolated && !op_backoff(&out->op))
		order_forget(out->hmm, out->start, out->end);
	if (out->taker->hold)
		return out->taker->hold(out);
	return sources ? out_commit(out) : 0;
}

/* All of it is out of the CPU's reach as it is: only the devices change. */
static int out_hold_again(struct out *out)
{
	int ret;

	mirrors_update(out->hmm, out->start, out->end, HMM_MIGRATE);
	ret = out->taker->hold(out);
	if (mirror_is_dead(out->ms))
		mirror_rescue(out->ms);
	return ret;
}

static int out_run(struct out *out)
{
	struct hmm_pt_iter guard;
	int ret = -ENOMEM, err;

	if (out->moved == out->pages)
		return out->taker->hold ? out_hold_again(out) : 0;
	/* While we stand in the directory, no entry there needs memory. */
	hmm_pt_iter_init(&guard, &out->hmm->special);
	if (!hmm_pt_iter_populate(&guard, out->start))
		goto out_guard;
	out->slot = out_slot(out);
	if (!out->slot) {
		ret = out->taker->hold ? -ENOSPC : -ENOMEM;
		goto out_guard;
	}
	debug_step("out:begin", out->start, out->end);
	if (!MUTANT(ISOLATE_UNTOLD))
		mirrors_update(out->hmm, out->start, out->end, HMM_MIGRATE);
	debug_step("out:updated", out->start, out->end);
	ret = out_isolate(out);
	out_scan(out);
	debug_step("out:isolated", out->start, out->end);
	err = out_give(out);
	if (err)
		ret = err;
	out_recycle(out);
	slot_stage(&out->hmm->mm, out->slot, out->staged);
	slot_put(&out->hmm->mm, out->slot);
	debug_step("out:end", out->start, out->end);
	if (mirror_is_dead(out->ms)) /* meanwhile: the worker may have been through */
		mirror_rescue(out->ms);
out_guard:
	hmm_pt_iter_fini(&guard);
	return ret;
}

/* Can pages of this mapping move? Those that cannot are no error. */
bool vma_migrates(const struct vma *vma, bool stacks, bool read_only)
{
	return vma->read && (vma->write || read_only) && !vma->exec && !vma->shared && !vma->file &&
	       (stacks || strcmp(vma->name, "[stack]") != 0);
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

	out->unmapped = ret == -ENOENT || (!ret && vma.start >= *end);
	if (out->unmapped)
		return 1;
	if (ret)
		return ret;
	if (vma.start > out->start)
		out->start = vma.start;
	if (vma.end < *end)
		*end = vma.end;
	out->kind = true;
	if (!vma_migrates(&vma, out->stacks, out->read_only))
		return 1;
	out->window = window_takes(&vma);
	from = out->start & CHUNK_MASK;
	ret = watch_vma(out->hmm, &vma, from, from + CHUNK_SIZE, UFFD_CATCH);
	if (watch_refused(ret))
		return 1;
	out->kind = false;
	return ret;
}

/*
 * One pass over [out->start, *end), which it may clip; out->op ends in it.
 * -EAGAIN: something changed, look again; -EXDEV: something must come home first; -EBUSY:
 * the range is discarded again and again.
 */
static int out_pass(struct out *out, unsigned long *end)
{
	int ret;

	out->moved = out->refused = out->declined = 0;
	out->pages = 0;
	out->staged = out->elsewhere = 0;
	out->isolated = out->window = false;
	out->kind = false;
	memset(out->batch->failed, 0, sizeof(out->batch->failed));
	op_init(&out->op, OP_OUT, out->start, *end);
	out->op.give_up = op_patience(OUT_GIVE_UP_NS);
	if (!op_begin(out->hmm, &out->op))
		return -EBUSY;
	ret = out_look(out, end);
	out->end = *end;
	out->pages = (unsigned int)((out->end - out->start) >> hmm_page_shift());
	if (ret == 1 && out->kind) {
		out_count_here(out);
	} else if (!ret) {
		ret = out_look_away(out) ? out_run(out) : -EXDEV;
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
		uint8_t flags = out->batch->flags[i];

		if (out->batch->failed[out_index(out, i)] != OUT_STUCK || flags & WALK_ZERO ||
		    !(flags & (WALK_PRESENT | WALK_SWAPPED)))
			continue;
		if (!madvise((void *)out_addr(out, i), hmm_page_size(), MADV_POPULATE_WRITE))
			mended = true;
	}
	return mended;
}

/* The driver had no room: what it names comes home. False: nothing did. */
static bool out_evict(struct out *out)
{
	struct whose whose = { .device = out->ms->dev->device, .why = WHY_EVICT };
	unsigned long pages = 0;
	unsigned int asked;

	/* What it names may have moved, or gone, without its knowing. */
	for (asked = 0; !pages && asked < OUT_ASKED; asked++) {
		unsigned long start = out->from, end = out->to;

		if (!devmem_evict(out->ms->dev->device, out->declined, &start, &end))
			return false;
		trace_evict(out->ms->dev->label, start, end, out->declined);
		migrate_back(out->hmm, &whose, start, end, &pages);
	}
	return pages;
}

/*
 * After a pass: is there something that another could do better? What is to be done is
 * done. -ENOMEM: not.
 */
static int out_again(struct out *out, int ret, unsigned long stop)
{
	struct whose others = { .but = out->ms->dev->device, .why = WHY_DEVICE };
	unsigned long pages;
	int err;

	if (ret == -EAGAIN)
		return 1;
	if (ret == -EXDEV || (!ret && out->elsewhere)) {
		err = migrate_back(out->hmm, &others, out->start, stop, &pages);
		if (err == -EIO)
			out->stranded = true;
		return err == -ENOMEM ? err : 1;
	}
	if (ret)
		return 0;
	if (!MUTANT(EVICT_IGNORED) && out->declined && out->evictions++ < OUT_EVICTIONS &&
	    out_evict(out))
		return 1;
	if (!out->refused || out->mended)
		return 0;
	out->mended = true;
	return out_mend(out);
}

/* What became of the pages of the last pass; @result, or NULL, is of what @start begins. */
static void out_tell(struct out *out, int ret, unsigned long start, unsigned long stop,
		     uint8_t *result)
{
	unsigned int i;

	if (!result || (ret == 1 && !out->kind))
		return;
	result += (out->start - start) >> hmm_page_shift();
	for (i = 0; i < (stop - out->start) >> hmm_page_shift(); i++) {
		uint8_t failed = out->batch->failed[out_index(out, i)];

		if (ret == 1)
			result[i] = out_here(out, i) ? HMM_MIGRATE_DONE : HMM_MIGRATE_KIND;
		else if (ret == -EAGAIN || ret == -EXDEV || ret == -EBUSY)
			result[i] = HMM_MIGRATE_CHANGED;
		else if (failed)
			result[i] =
				failed == OUT_DECLINED ? HMM_MIGRATE_DECLINED : HMM_MIGRATE_BUSY;
		else
			result[i] = out->batch->src[i] ? HMM_MIGRATE_DONE : HMM_MIGRATE_CHANGED;
	}
}

/**
 * out_part() - move what can move of a part of one chunk
 * @out: what does not change from part to part
 * @start: in: where it begins; out: past what was dealt with
 * @end: where it ends
 * @result: out: one enum hmm_migrate_result a page from @start on, where one is known; or NULL
 *
 * out->moved and out->refused are of what was dealt with.
 *
 * Return: 0; -ENOMEM, -EIO as of the kernel's page map.
 * Context: no op active. May wait.
 */
int out_part(struct out *out, unsigned long *start, unsigned long end, uint8_t *result)
{
	unsigned int passes = 0, retries = 0;
	unsigned long stop;
	int ret, again;

	out->mended = out->stranded = false;
	out->evictions = 0;
	for (;;) {
		stop = end;
		out->start = *start;
		ret = out_pass(out, &stop);
		if (ret == -EAGAIN && !out->staged) {
			if (retries >= OUT_RETRIES)
				break;
			retry_pause(retries++);
			continue;
		}
		again = out_again(out, ret, stop);
		if (again < 0)
			return again;
		if (!again || ++passes >= OUT_PASSES + out->evictions)
			break;
	}
	out_tell(out, ret, *start, stop, result);
	*start = stop;
	if (ret == -EAGAIN || ret == -EXDEV || ret == -EBUSY) {
		out->left = -EBUSY;
		return 0;
	}
	if (out->refused || out->stranded)
		out->left = -EBUSY;
	return ret == 1 ? 0 : ret;
}
