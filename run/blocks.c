/* SPDX-License-Identifier: MIT */
/*
 * What is on the device, for who looks from outside (struct hmm_run_block): the kernel does
 * not tell, for it takes what is away for never touched.
 *
 * A hash table of fixed size behind the counters, in the same file: a file has memory only
 * where something was stored. Blocks are never taken out. There is one writer, the engine.
 */
#include "run.h"

#define BITS 16
#define BLOCKS (1ul << BITS) /* 128 GiB, with small pages */
#define TRIES 64

static RUN_DATA struct hmm_run_block *blocks;

static uint64_t offset(void)
{
	uint64_t page = hmm_page_size();

	return (sizeof(struct hmm_run_stats) + page - 1) & ~(page - 1);
}

uint64_t blocks_size(void)
{
	return offset() + BLOCKS * sizeof(struct hmm_run_block);
}

void blocks_begin(struct hmm_run_stats *stats)
{
	blocks = (struct hmm_run_block *)((char *)stats + offset());
	stats->blocks_offset = offset();
	stats->blocks = BLOCKS;
}

void blocks_forget(void)
{
	blocks = NULL;
}

/* The entry gets its address last: who looks meanwhile takes it for free. */
void blocks_tell(unsigned long start, const uint64_t *away)
{
	unsigned long at = start / (HMM_RUN_BLOCK_PAGES * hmm_page_size());
	unsigned int tries, i;

	at = at * 0x9e3779b97f4a7c15ul >> (64 - BITS);
	for (tries = 0; blocks && tries < TRIES; tries++, at = (at + 1) % BLOCKS) {
		struct hmm_run_block *block = &blocks[at];

		if (block->start && block->start != start)
			continue;
		for (i = 0; i < HMM_RUN_BLOCK_PAGES / 64; i++)
			__atomic_store_n(&block->away[i], away[i], __ATOMIC_RELAXED);
		__atomic_store_n(&block->start, start, __ATOMIC_RELEASE);
		return;
	}
}
