/* SPDX-License-Identifier: MIT */
/*
 * The index on the device: the same walk, by the same pointers.
 *
 * To the device a pointer is a number. It loads what it points to, a struct or a
 * block at a time, into memory of its own, and reads the next pointer from
 * there. Where the page happens to be is the translation's business.
 *
 * Threads take buckets in pieces from a common counter, and each has a result of
 * its own; both are in memory that is never migrated, where a device would keep
 * its registers.
 */
#include <errno.h>
#include <string.h>

#include <dummy.h>
#include <hmm/hmm.h>

#include "wordindex.h"

#define PIECE 256u /* buckets */

/**
 * struct walk - one walk
 * @root: address of the index; all that the CPU tells the device
 * @change: leave marks
 * @index: the device's copy of what is at @root
 * @next: first bucket that no thread has taken; atomic
 * @result: one a thread
 */
struct walk {
	uint64_t root;
	bool change;
	struct wi_index index;
	uint64_t next;
	struct wi_result *result;
};

/* One thread's copy of the word that it works on. */
struct local {
	struct wi_word word;
	char text[WI_TEXT_MAX];
	union {
		struct wi_block block;
		char room[sizeof(struct wi_block) + WI_BLOCK_ROOM_MAX * sizeof(uint64_t)];
	};
};

static uint64_t address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

/* Add the mark to each position of the block at @addr, which is loaded. */
static int mark_block(struct dummy_device *dev, struct local *local, uint64_t addr)
{
	uint64_t n;

	for (n = 0; n < local->block.used; n++)
		local->block.pos[n] += WI_MARK;
	return dummy_store(dev, addr + offsetof(struct wi_block, pos), local->block.pos,
			   local->block.used * sizeof(uint64_t));
}

/* Walk the blocks of the word that is loaded; *@hash takes in what they hold. */
static int walk_blocks(struct dummy_device *dev, const struct walk *walk, struct local *local,
		       uint64_t *hash, uint64_t *found)
{
	uint64_t addr = address(local->word.first), n;
	uint32_t rank;
	int ret;

	for (rank = 0; addr; rank++, addr = address(local->block.next)) {
		if (rank >= local->word.nblocks)
			return -EILSEQ;
		ret = dummy_load(dev, addr, &local->block, wi_block_bytes(rank));
		if (ret)
			return ret;
		if (local->block.used > wi_block_room(rank))
			return -EILSEQ;

		for (n = 0; n < local->block.used; n++)
			*hash = wi_hash_pos(*hash, local->block.pos[n]);
		*found += local->block.used;
		if (walk->change) {
			ret = mark_block(dev, local, addr);
			if (ret)
				return ret;
		}
	}
	return 0;
}

/* Write down what was found, and that the device was here. */
static int mark_word(struct dummy_device *dev, const struct local *local, uint64_t addr,
		     uint64_t found)
{
	const uint64_t counts[2] = { local->word.count + 1, found };

	_Static_assert(offsetof(struct wi_word, device_count) ==
			       offsetof(struct wi_word, count) + sizeof(uint64_t),
		       "stored together");
	return dummy_store(dev, addr + offsetof(struct wi_word, count), counts, sizeof(counts));
}

static int walk_word(struct dummy_device *dev, const struct walk *walk, struct local *local,
		     uint64_t addr, struct wi_result *result)
{
	uint64_t hash, found = 0;
	int ret;

	ret = dummy_load(dev, addr, &local->word, sizeof(local->word));
	if (ret)
		return ret;
	if (local->word.len > WI_TEXT_MAX || result->words > walk->index.words)
		return -EILSEQ; /* or a ring would keep us here for ever */
	ret = dummy_load(dev, address(local->word.text), local->text, local->word.len);
	if (ret)
		return ret;

	hash = wi_hash_text(local->text, local->word.len);
	ret = walk_blocks(dev, walk, local, &hash, &found);
	if (!ret && walk->change)
		ret = mark_word(dev, local, addr, found);
	if (!ret)
		wi_result_add(result, local->text, local->word.len, hash, local->word.count, found);
	return ret;
}

/* What one device thread runs. */
static int walk_thread(struct dummy_device *dev, unsigned int thread, void *arg)
{
	struct walk *walk = arg;
	struct wi_result *result = &walk->result[thread];
	uint64_t heads[PIECE], from, n, i, addr;
	struct local local;
	int ret;

	while ((from = __atomic_fetch_add(&walk->next, PIECE, __ATOMIC_RELAXED)) <
	       walk->index.nbuckets) {
		n = walk->index.nbuckets - from < PIECE ? walk->index.nbuckets - from : PIECE;
		ret = dummy_load(dev, address(walk->index.bucket) + from * sizeof(*heads), heads,
				 n * sizeof(*heads));
		if (ret)
			return ret;
		for (i = 0; i < n; i++) {
			for (addr = heads[i]; addr; addr = address(local.word.next)) {
				ret = walk_word(dev, walk, &local, addr, result);
				if (ret)
					return ret;
			}
		}
	}
	return 0;
}

/* The device finds the index, before its threads share it out. */
static int walk_root(struct dummy_device *dev, unsigned int thread, void *arg)
{
	struct walk *walk = arg;

	(void)thread;
	return dummy_load(dev, walk->root, &walk->index, sizeof(walk->index));
}

int wi_device_walk(struct dummy_device *dev, unsigned int threads, uint64_t root, bool change,
		   struct wi_result *result)
{
	struct walk *walk = hmm_alloc(sizeof(*walk));
	unsigned int i;
	int ret = -ENOMEM;

	if (!walk)
		return ret;
	walk->root = root;
	walk->change = change;
	walk->result = hmm_alloc(threads * sizeof(*walk->result));
	if (!walk->result)
		goto free_walk;

	ret = dummy_run(dev, 1, walk_root, walk);
	if (!ret)
		ret = dummy_run(dev, threads, walk_thread, walk);
	if (!ret) {
		*result = walk->result[0];
		for (i = 1; i < threads; i++)
			wi_result_merge(result, &walk->result[i]);
	}

	hmm_free(walk->result);
free_walk:
	hmm_free(walk);
	return ret;
}
