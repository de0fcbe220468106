/* SPDX-License-Identifier: MIT */
/* Where the pages of a range are: the CPU page table, and the special entries. */
#include <errno.h>

#include "core/core.h"

static enum hmm_where where_page(uint8_t flags, hmm_pte_t pte)
{
	if (flags & WALK_PRESENT && !(flags & WALK_ZERO))
		return HMM_WHERE_SYSTEM; /* also while it comes back */
	if (pte)
		return !special_staged(pte)   ? HMM_WHERE_DEVICE :
		       special_exclusive(pte) ? HMM_WHERE_EXCLUSIVE :
						HMM_WHERE_STAGED;
	if (flags & WALK_SWAPPED)
		return HMM_WHERE_SWAP;
	if (flags & WALK_ZERO)
		return HMM_WHERE_ZERO;
	return flags & WALK_PRESENT ? HMM_WHERE_SYSTEM : HMM_WHERE_NONE;
}

/* @where is the caller's memory, perhaps away itself: written with nothing held. */
static int where_range(struct hmm *hmm, struct batch *batch, unsigned long start, unsigned long end,
		       uint8_t *where)
{
	unsigned long i, stop;
	int ret;

	for (; start < end; start = stop) {
		stop = chunk_end(start, end);
		special_fill(hmm, start, stop, batch->src);
		ret = walk_pages(&hmm->mm, start, stop, batch->flags);
		if (ret)
			return ret;
		for (i = 0; i < (stop - start) >> hmm_page_shift(); i++)
			*where++ = (uint8_t)where_page(batch->flags[i], batch->src[i]);
	}
	return 0;
}

HMM_API int hmm_range_where(unsigned long start, unsigned long end, uint8_t *where)
{
	struct batch *batch;
	struct hmm *hmm;
	int ret;

	if (!range_valid(start, end) || !where)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = process_get(&hmm);
	api_unlock();
	if (ret)
		return ret;
	batch = batch_get(hmm);
	ret = batch ? where_range(hmm, batch, start, end, where) : -ENOMEM;
	if (batch)
		batch_put(hmm, batch);
	api_lock();
	process_put(hmm);
	api_unlock();
	return ret;
}
