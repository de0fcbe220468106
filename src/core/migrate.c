/* SPDX-License-Identifier: MIT */
/*
 * Migration to a device: who asks for it.
 *
 *	hmm_migrate_vma()             hmm_mirror_fault(HMM_COPY_TO_DEVICE)
 *	the driver's callbacks        the ops of its device
 *	        \                        /
 *	         migrate_range(): what is there, and may go, chunk by chunk
 *	                    |
 *	         out_part(), which asks a taker (out.c)
 *
 * Both take the same way, with another taker. A taker gets what it works with from the
 * arena: what the caller passed may lie in the very range, and is read before and written
 * after.
 *
 * A device without a mirror gets a shadow of one (mirror.c), so that whatever looks for
 * the device of a page finds one: the way back, fork, the rescue of a device that fails.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

/* ---- takers ---- */

/* The mirror's entries are the sources, and then what the device may use. */
static void op_take(struct out *out, hmm_pte_t *src)
{
	if (!mirror_set(out->ms, out->start, out->end, src))
		call_copy_to_device(out->ms, src, out->batch->dst, out->start, out->end);
}

/* The directory is there from the sources: this needs no memory. */
static void op_finish(struct out *out, const hmm_pte_t *src)
{
	(void)src;
	mirror_set(out->ms, out->start, out->end, out->batch->dst);
}

static const struct taker op_taker = { .take = op_take, .finish = op_finish };

static void callback_take(struct out *out, hmm_pte_t *src)
{
	call_alloc_and_copy(out->ms, out->migrate, src, out->batch->dst, out->start, out->end);
}

/*
 * A device with a mirror may map the pages now, and is to hear what happens to them: so
 * its mirror has entries of them. Without memory for that it finds them by its next fault,
 * and is not told of them now.
 */
static void callback_finish(struct out *out, const hmm_pte_t *src)
{
	hmm_pte_t *dst = out->batch->dst;

	if (!out->migrate->ops->finalize_and_map)
		return;
	if (!out->ms->shadow && mirror_set(out->ms, out->start, out->end, dst))
		return;
	call_finalize_and_map(out->ms, out->migrate, src, dst, out->start, out->end);
}

static const struct taker callback_taker = { .take = callback_take, .finish = callback_finish };

/* ---- ranges ---- */

/* With nothing held: @result is the caller's memory, and may be away itself. */
static void range_result(const struct out *out, unsigned long from, unsigned long to,
			 unsigned long start, uint8_t *result)
{
	if (result && from < to)
		memcpy(result + ((from - start) >> hmm_page_shift()), out->batch->result,
		       (to - from) >> hmm_page_shift());
}

/* What may go of one chunk: a part between what is kept. */
static int range_part(struct out *out, const struct keep *keep, unsigned long *pos,
		      unsigned long end, bool tell)
{
	unsigned long start = *pos, stop = end, first = *pos;
	uint8_t *result = out->batch->result;
	uint64_t begun;
	int ret = 0;

	memset(result, HMM_MIGRATE_NONE, sizeof(out->batch->result));
	out->moved = out->refused = 0;
	out->unmapped = false;
	if (!keep_allowed(keep, &start, &stop)) {
		memset(result, HMM_MIGRATE_KIND, (end - first) >> hmm_page_shift());
		*pos = end;
		return 0;
	}
	result += (start - first) >> hmm_page_shift();
	memset(out->batch->result, HMM_MIGRATE_KIND, (start - first) >> hmm_page_shift());
	*pos = start;
	begun = trace_to_device_begin(out->ms->dev->label, start, stop, out->taker->hold != NULL);
	ret = out_part(out, pos, stop, tell ? result : NULL);
	trace_to_device_end(begun, out->ms->dev->label, start, *pos, out->taker->hold != NULL,
			    out->moved, out->refused, ret);
	return ret;
}

/* Over what is not mapped in one step: the range can be all there is. False: that was all. */
static bool migrate_skip(struct out *out, unsigned long *pos)
{
	struct vma vma;

	if (vma_find(&out->hmm->mm, *pos, &vma))
		return false;
	*pos = vma.start > *pos ? vma.start : *pos;
	return true;
}

static int migrate_spans(struct out *out, const struct keep *keep, unsigned long start,
			 unsigned long end, uint8_t *result, unsigned long *pages)
{
	unsigned long pos = start;

	while (pos < end) {
		unsigned long from = pos;
		int ret;

		ret = range_part(out, keep, &pos, chunk_end(pos, end), result);
		*pages += out->moved;
		stat_add(pages_refused, out->refused);
		range_result(out, from, pos, start, result);
		if (ret)
			return ret;
		if (out->unmapped && !migrate_skip(out, &pos))
			break;
	}
	return 0;
}

/* The driver's structs too: its ops reach them by their address. */
int migrate_keep(struct keep *keep, struct hmm *hmm, unsigned long start, unsigned long end,
		 bool stacks)
{
	unsigned long from = start, to = end;
	int ret = keep_init(keep, &hmm->mm, start, end, stacks);

	while (!ret && devmem_next(&from, &to)) {
		ret = keep_add(keep, from, to);
		from = to;
		to = end;
	}
	if (ret)
		keep_fini(keep);
	return ret;
}

int migrate_range(struct out *out, unsigned long start, unsigned long end, uint8_t *result,
		  unsigned long *pages)
{
	struct keep keep;
	int ret;

	if (!out->hmm->mm.staging)
		return -EOPNOTSUPP;
	if (out->hmm->mm.user_mode_only && !user_mode_accepted() && !MUTANT(USER_NOT_ASKED)) {
		log_err("migration is refused: system calls on migrated memory would fail "
			"(see hmm_set_user_mode())");
		return -EPERM;
	}
	out->from = start;
	out->to = end;
	out->stacks |= MUTANT(STACKS_MOVED);
	out->batch = batch_get(out->hmm);
	if (!out->batch)
		return -ENOMEM;
	ret = migrate_keep(&keep, out->hmm, start, end, out->stacks);
	if (!ret) {
		ret = migrate_spans(out, &keep, start, end, result, pages);
		keep_fini(&keep);
	}
	batch_put(out->hmm, out->batch);
	return ret;
}

int migrate_out(struct hmm_mirror_state *ms, struct hmm_event *event)
{
	struct out out = {
		.hmm = ms->hmm,
		.ms = ms,
		.taker = &op_taker,
		.peer = ms->dev->flags & HMM_DEVICE_PEER,
	};

	if (!ms->ops->copy_to_device)
		return -EOPNOTSUPP;
	return migrate_range(&out, event->start, event->end, NULL, &event->pages);
}

/* ---- the calls ---- */

static bool migrate_valid(const struct hmm_migrate *migrate)
{
	const struct hmm_migrate_ops *ops = migrate->ops;

	if (migrate->size < sizeof(*migrate) || !migrate->device ||
	    migrate->flags & ~(HMM_MIGRATE_PEER | HMM_MIGRATE_STACKS | HMM_MIGRATE_READ_ONLY) ||
	    !ops || ops->version != HMM_MIGRATE_OPS_VERSION ||
	    ops->size < offsetof(struct hmm_migrate_ops, finalize_and_map))
		return false;
	return ops->alloc_and_copy && range_valid(migrate->start, migrate->end);
}

/* The smaller of the two sizes is copied, the rest is NULL. */
static void migrate_ops_copy(struct hmm_migrate_ops *to, const struct hmm_migrate_ops *from)
{
	memset(to, 0, sizeof(*to));
	memcpy(to, from, from->size < sizeof(*to) ? from->size : sizeof(*to));
}

HMM_API int hmm_migrate_vma(struct hmm_migrate *migrate)
{
	struct hmm_migrate_ops ops;
	struct hmm_migrate mine;
	struct out out = { .taker = &callback_taker, .migrate = &mine };
	unsigned long pages = 0;
	int ret;

	if (!migrate || !migrate_valid(migrate))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	migrate->pages = 0;
	mine = *migrate; /* it may lie in the very range */
	migrate_ops_copy(&ops, migrate->ops);
	mine.ops = &ops;
	ret = mirror_enter_device(mine.device, true, &out.ms);
	if (ret)
		return ret;
	if (!out.ms->ops->copy_from_device && !devmem_can_copy_back(mine.device)) {
		mirror_leave(out.ms);
		return -EINVAL;
	}
	out.hmm = out.ms->hmm;
	out.peer = mine.flags & HMM_MIGRATE_PEER;
	out.stacks = mine.flags & HMM_MIGRATE_STACKS;
	out.read_only = mine.flags & HMM_MIGRATE_READ_ONLY;
	if (mine.result)
		memset(mine.result, HMM_MIGRATE_NONE, (mine.end - mine.start) >> hmm_page_shift());
	ret = migrate_range(&out, mine.start, mine.end, mine.result, &pages);
	mirror_leave(out.ms);
	migrate->pages = pages;
	return ret;
}

HMM_API int hmm_migrate_to_ram(struct hmm_device *device, unsigned long start, unsigned long end,
			       unsigned long *pages)
{
	struct whose whose = { .device = device };
	struct hmm_mirror_state *ms;
	unsigned long done = 0;
	int ret;

	if (!device || !range_valid(start, end))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	ret = mirror_enter_device(device, false, &ms);
	if (!ret && ms) {
		ret = migrate_back(ms->hmm, &whose, start, end, &done);
		mirror_leave(ms);
	}
	if (pages)
		*pages = done;
	return ret;
}
