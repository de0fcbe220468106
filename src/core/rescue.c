/* SPDX-License-Identifier: MIT */
/*
 * What a dead mirror's device holds comes back (see mirror.c), and its entries go, with
 * their DMA mappings: done by the worker, a chunk at a time, and only where its op can
 * begin at once, since the worker is also the one that runs the events which that op
 * might have to wait for.
 */
#include "core/core.h"

/*
 * One chunk from *@addr on, if nobody else is there: true, and more may be done at
 * once. Else *@addr moves past the chunk, or to the end. hmm->lock held, dropped
 * meanwhile.
 */
static bool rescue_chunk(struct hmm *hmm, struct hmm_mirror_state *ms, unsigned long *addr)
{
	struct whose whose = { .device = ms->dev->device, .why = WHY_HOME };
	unsigned long pages, start, end;
	hmm_pte_t pte;
	struct op op;

	while ((pte = special_next(hmm, addr, USER_END))) {
		if (special_whose(pte, &whose))
			break;
		*addr += hmm_page_size();
	}
	if (!pte)
		return false;
	start = *addr;
	end = *addr = chunk_end(start, USER_END);
	op_init(&op, OP_BACK, start, end);
	if (!op_enqueue(hmm, &op)) {
		op_remove(hmm, &op);
		return false;
	}
	ms->users++;
	pthread_mutex_unlock(&hmm->lock);
	back_span(hmm, &op, hmm->worker_batch, &whose, start, end, BACK_WAIT | BACK_LOSE, &pages);
	pthread_mutex_lock(&hmm->lock);
	ms->users--;
	op_remove(hmm, &op);
	return true;
}

/* The same for the first directory with entries from *@addr on. */
static bool rescue_entries(struct hmm *hmm, struct hmm_mirror_state *ms, unsigned long *addr)
{
	unsigned long start = *addr, end = USER_END;
	struct op op;

	if (!pt_next(&ms->mirror->pt, &start, &end)) {
		*addr = USER_END;
		return false;
	}
	*addr = end;
	op_init(&op, OP_BACK, start, end);
	if (!op_enqueue(hmm, &op)) {
		op_remove(hmm, &op);
		return false;
	}
	ms->users++;
	pthread_mutex_unlock(&hmm->lock);
	mirror_clear(ms, start, end);
	pthread_mutex_lock(&hmm->lock);
	ms->users--;
	op_remove(hmm, &op);
	return true;
}

/*
 * The rescue is over when nobody is inside who could enter more, and a walk over
 * everything found nothing, not even busy.
 */
static bool rescue_mirror(struct hmm *hmm, struct hmm_mirror_state *ms)
{
	bool (*const find[])(struct hmm *, struct hmm_mirror_state *, unsigned long *) = {
		rescue_chunk,
		rescue_entries,
	};
	bool busy = mirror_callers(ms);
	unsigned int i;

	for (i = 0; i < 2; i++) {
		unsigned long addr = 0;

		for (;;) {
			if (find[i](hmm, ms, &addr))
				return true;
			if (addr >= USER_END)
				break;
			busy = true;
		}
	}
	if (!busy) {
		ms->rescue = false;
		hmm->rescues--;
		mirror_await(false);
	}
	return !busy;
}

bool mirror_rescue_next(struct hmm *hmm)
{
	struct hmm_mirror_state *ms;

	TAILQ_FOREACH(ms, &hmm->mirrors, link)
		if (ms->rescue && rescue_mirror(hmm, ms))
			return true;
	return false;
}
