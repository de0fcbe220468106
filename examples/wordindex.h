/* SPDX-License-Identifier: MIT */
/*
 * The index: an ordinary data structure of an ordinary program.
 *
 * A hash table of chained words; each word has its text and a list of blocks
 * with its positions. Everything is a pointer to something that malloc() gave,
 * in the order in which the text happened to need it.
 *
 *	index ── bucket[] ──► word ──► word ──► 0
 *	                       │ └─ text
 *	                       └─ first ──► block ──► block ──► 0
 *
 * Invariants: a word's blocks are full but for the last; block number i of a
 * list has room for wi_block_room(i) positions; positions of a word grow.
 *
 * CPU and device share these definitions as they would share a header: same
 * layout, same pointers. What differs is how they follow a pointer: the CPU
 * dereferences it, the device loads from that address.
 */
#ifndef WORDINDEX_H
#define WORDINDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WI_TEXT_MAX 63u /* bytes of a word; a longer one is cut in pieces */
#define WI_TOP_MAX 20u
#define WI_BLOCK_RANK_MAX 6u
#define WI_BLOCK_ROOM_MAX ((4u << WI_BLOCK_RANK_MAX) - 2)

/* What the device adds to each position, in step 3: no text is that long. */
#define WI_MARK ((uint64_t)1 << 48)

struct wi_block {
	struct wi_block *next;
	uint64_t used;
	uint64_t pos[];
};

struct wi_word {
	struct wi_word *next;
	char *text;
	struct wi_block *first;
	struct wi_block *last;
	uint32_t len;
	uint32_t hash;
	uint32_t nblocks;
	uint32_t spare;
	uint64_t count; /* positions; the device adds one */
	uint64_t device_count; /* positions that the device has found */
};

struct wi_index {
	struct wi_word **bucket;
	uint64_t nbuckets; /* a power of two */
	uint64_t words;
	uint64_t postings;
	uint64_t bytes; /* of all of it */
};

static inline unsigned int wi_block_room(uint32_t rank)
{
	return (4u << (rank < WI_BLOCK_RANK_MAX ? rank : WI_BLOCK_RANK_MAX)) - 2;
}

static inline size_t wi_block_bytes(uint32_t rank)
{
	return sizeof(struct wi_block) + wi_block_room(rank) * sizeof(uint64_t);
}

/*
 * The result of a walk. The checksum covers each text, count and position, and
 * does not depend on the order of the words, so that threads can share the work.
 */
struct wi_top {
	uint64_t count;
	char text[WI_TEXT_MAX + 1];
};

struct wi_result {
	uint64_t words;
	uint64_t postings;
	uint64_t checksum;
	unsigned int ntop;
	struct wi_top top[WI_TOP_MAX];
};

static inline uint64_t wi_hash_text(const char *text, uint32_t len)
{
	uint64_t hash = 0xcbf29ce484222325u;

	while (len--)
		hash = (hash ^ (unsigned char)*text++) * 0x100000001b3u;
	return hash;
}

static inline uint64_t wi_hash_pos(uint64_t hash, uint64_t pos)
{
	return (hash ^ pos) * 0x9e3779b97f4a7c15u;
}

static inline uint64_t wi_hash_end(uint64_t hash, uint64_t count)
{
	hash = (hash ^ (hash >> 29) ^ count) * 0xbf58476d1ce4e5b9u;
	return hash ^ (hash >> 32);
}

/* wordindex_index.c: the CPU's side */
int wi_index_create(struct wi_index **index);
int wi_index_add(struct wi_index *index, const char *text, uint32_t len, uint64_t pos);
void wi_index_free(struct wi_index *index);
void wi_index_walk(const struct wi_index *index, struct wi_result *result);

/**
 * struct wi_verdict - what wi_index_verify() found
 * @bad_words: words whose counts are not what the device should have left
 * @bad_postings: positions without the device's mark, or out of order
 */
struct wi_verdict {
	uint64_t bad_words;
	uint64_t bad_postings;
};

/* Every word and position, after the device's change; @result as before it. */
void wi_index_verify(const struct wi_index *index, struct wi_result *result,
		     struct wi_verdict *verdict);

void wi_result_add(struct wi_result *result, const char *text, uint32_t len, uint64_t hash,
		   uint64_t count, uint64_t walked);
void wi_result_merge(struct wi_result *into, const struct wi_result *from);
bool wi_result_same(const struct wi_result *a, const struct wi_result *b, unsigned int ntop);

/* wordindex_options.c */

/**
 * struct wi_options - what was asked for
 * @path: what to read; NULL: the package database
 * @memory: of the device, in bytes; 0: enough
 * @threads: of the device
 * @top: how many words to print
 */
struct wi_options {
	const char *path;
	size_t memory;
	unsigned int threads;
	unsigned int top;
};

/* 0; 1, help was asked for and printed; -EINVAL, and the usage was printed. */
int wi_options_parse(int argc, char **argv, struct wi_options *options);

/* wordindex_input.c */

/**
 * struct wi_input - what was read
 * @bytes: of text
 * @files: regular files
 */
struct wi_input {
	uint64_t bytes;
	uint64_t files;
};

/* Index a file, or all files below a directory; NULL: the package database. */
int wi_input_read(const char *path, struct wi_index *index, struct wi_input *input);

/* wordindex_device.c: the device's side */
struct dummy_device;

/*
 * Walk the index at address @root on the device's threads; with @change, leave
 * the marks that wi_index_verify() looks for.
 */
int wi_device_walk(struct dummy_device *dev, unsigned int threads, uint64_t root, bool change,
		   struct wi_result *result);

/* wordindex_map.c: where the pages are */
enum { WI_NOWHERE, WI_SYSTEM, WI_DEVICE };

/**
 * struct wi_map - the pages that the device has used, in the order of addresses
 * @npages: so many
 * @room: of the arrays, which are in memory that is never migrated
 * @addr: their addresses
 * @where: enum hmm_where by the CPU's page table, as of the last wi_map_look()
 * @translated: WI_* by the device's page table
 * @system: pages in system memory, by the CPU's page table
 * @device: pages in device memory, by the CPU's page table
 * @on_device: pages in device memory, by the device's page table
 * @disagree: pages that the device has in one place and the CPU in the other
 */
struct wi_map {
	unsigned long npages;
	unsigned long room;
	uint64_t *addr;
	uint8_t *where;
	uint8_t *translated;
	unsigned long system;
	unsigned long device;
	unsigned long on_device;
	unsigned long disagree;
};

int wi_map_create(struct wi_map *map, struct dummy_device *dev);
void wi_map_destroy(struct wi_map *map);
int wi_map_look(struct wi_map *map, struct dummy_device *dev);
void wi_map_print(const struct wi_map *map);

/* A number with commas, in one of a few static buffers. */
const char *wi_number(uint64_t n);

#endif
