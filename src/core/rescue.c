/* SPDX-License-Identifier: MIT */
/*
 * What a dead mirror's device holds comes back (see mirror.c): done by the worker, a
 * chunk at a time, and only where its op can begin at once, since the worker is also
 * the one that runs the events which that op might have to wait for.
 */
#include "core/core.h"

/*
 * The worker, for a dead mirror: one chunk of what its device holds, if nobody
 * else is there. hmm->lock held, dropped meanwhile. False: nothing could be done.
 */
static bool mirror_rescue_chunk(struct hmm *hmm, struct hmm_mirror_state *ms, unsigned long *addr)
{
	unsigned long pages, end;
	hmm_pte_t pte;
	struct op op;

	while ((pte = special_next(hmm, addr, USER_END))) {
		if (special_device(pte) == ms->dev->device)
			break;
		*addr += hmm_page_size();
	}
	if (!pte) {
		ms->rescue = false;
		hmm->rescues--;
		return true;
	}
	end = chunk_end(*addr, USER_END);
	op_init(&op, OP_BACK, *addr, end);
	if (!op_enqueue(hmm, &op)) {
		op_remove(hmm, &op);
		*addr = end;
		return false;
	}
	ms->users++;
	pthread_mutex_unlock(&hmm->lock);
	back_span(hmm, &op, hmm->worker_batch, ms->dev->device, *addr, end, true, &pages);
	pthread_mutex_lock(&hmm->lock);
	ms->users--;
	op_remove(hmm, &op);
	return true;
}

bool mirror_rescue_next(struct hmm *hmm)
{
	struct hmm_mirror_state *ms;

	TAILQ_FOREACH(ms, &hmm->mirrors, link) {
		unsigned long addr = 0;

		while (ms->rescue && addr < USER_END)
			if (mirror_rescue_chunk(hmm, ms, &addr))
				return true;
	}
	return false;
}
