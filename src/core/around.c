/* SPDX-License-Identifier: MIT */
/*
 * Who reads on gets more than the page that he asks for.
 *
 * A thread that reads on would fault on each page in turn. So when a fault is just where one
 * of the last answers ended, the answer brings twice as many pages as that one, up to all of
 * a chunk; anywhere else, the one page. Random access pays nothing for it, and who stops has got
 * no more in vain than he has read. A few such readers are remembered: a program that merges has
 * one for each input. One that leaves out the same few pages each time (a stride) is one too,
 * once he has done so twice: to copy a few pages in vain costs less than a fault.
 *
 * All of a chunk is more than twice as fast as a quarter of it: it goes past the cache, and its
 * recycled pages are moved as a whole. To have a thread of its own bring what comes next was
 * tried, and gains nothing (docs/performance.md).
 *
 * The range is a proposal: the driver that has the first page of it may make it another one
 * (around()). The op of a fault is for the one page at first, and grows to the range when it
 * is active, if nobody is there.
 *
 * All of struct around is protected by hmm->lock.
 */
#include "core/core.h"

#define AROUND_SKIP 2ul /* pages that may have been there */
#define AROUND_GATED 64u /* pages, where there is little room */
#define STRIDE_MAX 8ul

static unsigned long pages_bytes(unsigned long pages)
{
	return pages << hmm_page_shift();
}

/*
 * Who reads on here? A page or two that were there make no difference. If nobody, the one
 * that has not been heard of for longest makes room.
 */
static struct around *around_find(struct hmm *hmm, unsigned long addr)
{
	struct around *oldest = &hmm->around[0], *around;
	unsigned long reach = pages_bytes(STRIDE_MAX);
	uint64_t used;

	for (around = hmm->around; around < hmm->around + AROUND_READERS; around++) {
		if (around->next && addr - around->next < reach)
			return around;
		if (around->used < oldest->used)
			oldest = around;
	}
	used = oldest->used;
	*oldest = (struct around){ .used = used };
	return oldest;
}

/* A fault behind the last answer: how many pages is that worth? */
static void around_grow(struct around *around, unsigned long addr, unsigned int most)
{
	unsigned long step = addr - around->last;
	bool reads = addr - around->next <= pages_bytes(AROUND_SKIP) ||
		     (around->stride && step % around->stride == 0);

	around->last = addr;
	if (around->next && !reads)
		around->stride = around->pages == 1 ? step : 0;
	if (!around->next || !reads)
		around->pages = 1;
	else if (around->pages < most)
		around->pages *= 2;
}

/* What a fault there should bring ends at around->next, within its chunk. */
static struct around *around_next(struct hmm *hmm, unsigned long addr)
{
	struct around *around = around_find(hmm, addr);

	around->used = ++hmm->around_clock;
	around_grow(around, addr, hmm->gate.admit ? AROUND_GATED : CHUNK_PAGES_MAX);
	around->next = chunk_end(addr, addr + pages_bytes(around->pages));
	return around;
}

/* The op active: the page that it is for is the device's until it ends. */
static void around_ask(hmm_pte_t pte, unsigned long addr, unsigned long *start, unsigned long *end)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(pte));
	unsigned long low = addr & CHUNK_MASK, high = low + CHUNK_SIZE;

	if (!devmem_ops(page)->around)
		return;
	call_around(page, addr, start, end);
	if (MUTANT(AROUND_BELIEVED))
		return;
	*start = page_round_down(*start);
	*end = page_round_up(*end);
	if (*start > addr || *start < low)
		*start = *start < low ? low : addr;
	if (*end < addr + hmm_page_size() || *end > high)
		*end = *end > high ? high : addr + hmm_page_size();
}

void around_widen(struct hmm *hmm, struct op *op, unsigned long addr, hmm_pte_t pte)
{
	struct around *around = around_next(hmm, addr);
	unsigned long start = addr, end = around->next, next = addr;

	if (hmm_pte_test_device(pte))
		around_ask(pte, addr, &start, &end);
	else if (!pte && !hmm->gate.admit)
		return;
	else if (!pte && special_next(hmm, &next, end))
		end = next;
	if (start == addr && end == addr + hmm_page_size())
		return;
	if (op_widen(hmm, op, start, end))
		around->next = end;
}
