/* SPDX-License-Identifier: MIT */
/*
 * The policy: which memory goes to the device, and when.
 *
 * What can be known
 * -----------------
 * Without privilege the kernel does not tell which pages a program uses. But a page that
 * was taken away comes back when it is used, and that is seen. So: take memory away in the
 * order of addresses, round and round, as a clock does, and see what comes back.
 *
 * The clock
 * ---------
 * The hand goes over the program's memory a block of 2 MiB at a time. For each block it
 * remembers which pages it took away. When it comes by again:
 *
 *	there, and was taken away last time	it came back: it is in use. Let it be for
 *						this round (second chance), and forget that
 *						it was away
 *	there, otherwise			goes
 *	not there				nothing to do
 *
 * A block of which most pages came back is hot as a whole: it is left alone for 1, then 3, 7,
 * 15 rounds, as long as it is found so again; a block that stays away is cold again. So a
 * program whose working set fits keeps it, and one that goes round through more than fits
 * loses each page once a round, not more.
 *
 * When the hand has been round and found nothing but what is spared, the next round spares
 * nothing: the limit comes first.
 *
 * Levels
 * ------
 *	limit ─┬─ no more comes: threads wait in their page faults (gate)
 *	       ├─ high: evict, until
 *	       ├─ low
 *	       ├─ engage: what comes from here on is gated
 *	       └─ prepare: nothing is done before
 *
 * The upper three lie within 1/16 of the limit, but for small ones: it takes some MiB to have
 * the time to react. The lower two are further away: until what the program has is gated it
 * grows as fast as memory is, 4 GB/s and more for each CPU, and to make a device, or only to
 * get a CPU that others want too, takes milliseconds. It costs a program that stays there
 * little: the first touch of a page, and no more.
 */
#include <errno.h>
#include <string.h>

#include "run.h"

#define MIB (1ull << 20)
#define BLOCK_SHIFT 21
#define BLOCK (1ul << BLOCK_SHIFT)
#define BLOCK_PAGES_MAX 512
#define WORDS (BLOCK_PAGES_MAX / 64)
#define TABLE_BITS 16
#define TABLE (1ul << TABLE_BITS)
#define HEAT_MAX 4
#define STAYS_SKIP 255 /* rounds, for a block of which nothing can go */
#define GAP 2 /* pages that may go along, to save a call */

/* What is remembered of a block. A table of fixed size: what has no room is not. */
struct block {
	unsigned long addr; /* 0: free */
	uint8_t heat;
	uint8_t skip; /* rounds to leave it alone */
	bool stays; /* because nothing of it can go */
	uint16_t taken; /* pages, when the hand last came by */
	uint64_t away[WORDS]; /* which */
};

struct clock {
	struct block *table;
	unsigned long hand;
	unsigned long spared; /* pages, in this round */
	uint64_t took; /* bytes, in this round */
	bool ruthless; /* spare nothing */
};

static RUN_DATA struct clock clock_;
static RUN_DATA uint8_t where[BLOCK_PAGES_MAX] = { 1 };
static RUN_DATA uint8_t result[BLOCK_PAGES_MAX] = { 1 };

/* A part of a block that the hand is at: pages first to first + n of it. */
struct sweep {
	unsigned long addr;
	unsigned int first;
	unsigned int n;
	unsigned int stays; /* pages that cannot go */
};

static uint64_t between(uint64_t value, uint64_t low, uint64_t high)
{
	return value < low ? low : value > high ? high : value;
}

void policy_levels(uint64_t limit, struct run_levels *levels)
{
	uint64_t step = between(limit / 64, MIB, 16 * MIB);

	levels->gate = limit - between(limit / 64, MIB / 2, 16 * MIB);
	levels->high = levels->gate - step;
	levels->low = levels->high - step;
	if (limit < 16 * MIB) {
		levels->gate = limit - limit / 32;
		levels->high = limit - limit / 8;
		levels->low = limit - limit / 4;
	}
	levels->engage = limit - between(limit / 4, 4 * MIB, 64 * MIB);
	levels->prepare = levels->engage - between(limit / 4, 4 * MIB / 2, 64 * MIB);
}

int policy_start(void)
{
	clock_ = (struct clock){ .table = hmm_map(TABLE * sizeof(struct block)) };
	return clock_.table ? 0 : -ENOMEM;
}

static struct block *block_find(unsigned long addr)
{
	unsigned long i = (addr >> BLOCK_SHIFT) * 0x9e3779b97f4a7c15ul >> (64 - TABLE_BITS);
	unsigned int tries;

	for (tries = 0; tries < 64; tries++, i = (i + 1) % TABLE) {
		struct block *block = &clock_.table[i];

		if (!block->addr)
			block->addr = addr;
		if (block->addr == addr)
			return block;
	}
	return NULL;
}

static bool bit(const uint64_t *words, unsigned int i)
{
	return words[i / 64] >> (i % 64) & 1;
}

/* The pages that are there, were taken away last time, and so are in use. */
static unsigned int block_came_back(const struct block *block, unsigned int first, unsigned int n)
{
	unsigned int i, back = 0;

	for (i = 0; i < n; i++)
		back += where[i] == HMM_WHERE_SYSTEM && bit(block->away, first + i);
	return back;
}

/* Leave it alone in this round? */
static bool block_hot(struct block *block, unsigned int back)
{
	if (block->taken && back * 2 > block->taken) {
		block->heat += block->heat < HEAT_MAX;
		block->skip = (uint8_t)((1u << block->heat) - 1);
		block->taken = 0;
		memset(block->away, 0, sizeof(block->away));
		return true;
	}
	block->heat -= block->heat > 0;
	return false;
}

/* May page @i of the block go in this round? */
static bool page_goes(const struct block *block, unsigned int first, unsigned int i)
{
	return where[i] == HMM_WHERE_SYSTEM && (clock_.ruthless || !bit(block->away, first + i));
}

/*
 * From page @i on: a run that goes. Over what is not there it goes on, since a call costs more
 * than the pages in between; a few that are in use go along.
 */
static unsigned int run_end(const struct block *block, unsigned int first, unsigned int i,
			    unsigned int n)
{
	unsigned int end = i, gap = 0;

	for (; i < n && gap <= GAP; i++) {
		if (page_goes(block, first, i))
			end = i + 1;
		if (end == i + 1)
			gap = 0;
		else
			gap += where[i] == HMM_WHERE_SYSTEM;
	}
	return end;
}

/* Of the run [i, end) of a block: what went, and what never will. Pages that went. */
static unsigned int run_evict(const struct run_device_ops *ops, struct sweep *sweep, unsigned int i,
			      unsigned int end)
{
	unsigned long start = sweep->addr + ((unsigned long)i << hmm_page_shift()), pages = 0;
	unsigned int k, gone = 0;

	memset(result + i, HMM_MIGRATE_NONE, end - i);
	if (ops->migrate(start, sweep->addr + ((unsigned long)end << hmm_page_shift()), result + i,
			 &pages))
		return 0;
	stats_count(migrations, 1);
	for (k = i; k < end; k++) {
		sweep->stays += result[k] == HMM_MIGRATE_KIND || result[k] == HMM_MIGRATE_BUSY;
		if (result[k] != HMM_MIGRATE_DONE || where[k] != HMM_WHERE_SYSTEM)
			continue;
		where[k] = HMM_WHERE_DEVICE;
		gone++;
	}
	return gone;
}

/* Remember what is away now; what came back and was spared is not. */
static void block_remember(struct block *block, const struct sweep *sweep)
{
	unsigned int i;

	for (i = 0; i < sweep->n; i++) {
		uint64_t *word = &block->away[(sweep->first + i) / 64];
		uint64_t mask = 1ull << ((sweep->first + i) % 64);

		*word = where[i] == HMM_WHERE_DEVICE ? *word | mask : *word & ~mask;
	}
	for (i = 0, block->taken = 0; i < WORDS; i++)
		block->taken += (uint16_t)__builtin_popcountll(block->away[i]);
	blocks_tell(block->addr, block->away);
}

/* What may go of a part of a block, of which where[] is known: bytes that went. */
static uint64_t block_evict(const struct run_device_ops *ops, struct block *block,
			    struct sweep *sweep)
{
	unsigned int back = block_came_back(block, sweep->first, sweep->n);
	unsigned int i, end, there = 0, gone = 0;

	for (i = 0; i < sweep->n; i++)
		there += where[i] == HMM_WHERE_SYSTEM;
	if (!there)
		return 0;
	if (!clock_.ruthless && block_hot(block, back)) {
		clock_.spared += there;
		return 0;
	}
	for (i = 0; i < sweep->n; i = end) {
		end = i + 1;
		if (!page_goes(block, sweep->first, i))
			continue;
		end = run_end(block, sweep->first, i, sweep->n);
		gone += run_evict(ops, sweep, i, end);
	}
	block_remember(block, sweep);
	block->stays = !gone && sweep->stays > there / 2;
	if (block->stays)
		block->skip = STAYS_SKIP;
	else
		clock_.spared += there - gone;
	return (uint64_t)gone << hmm_page_shift();
}

/* The hand has been round. */
static bool clock_round(void)
{
	bool idle = !clock_.took && (!clock_.spared || clock_.ruthless);

	clock_.ruthless = !clock_.took && clock_.spared && !clock_.ruthless;
	clock_.took = clock_.spared = 0;
	clock_.hand = 0;
	return !idle;
}

/* The part of a block that the hand is at; false: there is no more. */
static bool clock_next(struct sweep *sweep)
{
	unsigned long end;
	struct run_span span;

	if (!run_span_next(clock_.hand, &span))
		return false;
	end = (span.start & ~(BLOCK - 1)) + BLOCK;
	end = end < span.end ? end : span.end;
	clock_.hand = end;
	*sweep = (struct sweep){
		.addr = span.start,
		.first = (unsigned int)((span.start & (BLOCK - 1)) >> hmm_page_shift()),
		.n = (unsigned int)((end - span.start) >> hmm_page_shift()),
	};
	return true;
}

uint64_t policy_evict(const struct run_device_ops *ops, uint64_t want)
{
	uint64_t until = run_now() + 4000000, gone = 0;
	unsigned int rounds = 0;

	while (gone < want && run_now() < until) {
		struct block *block;
		struct sweep sweep;
		uint64_t went;

		if (!clock_next(&sweep)) {
			if (!clock_round() || ++rounds > 2)
				break;
			continue;
		}
		block = block_find(sweep.addr & ~(BLOCK - 1));
		if (!block)
			continue;
		if (block->skip && (!clock_.ruthless || block->stays)) {
			block->skip--;
			clock_.spared += !block->stays;
			continue;
		}
		if (hmm_range_where(sweep.addr, clock_.hand, where))
			continue;
		went = block_evict(ops, block, &sweep);
		gone += went;
		clock_.took += went;
	}
	return gone;
}
