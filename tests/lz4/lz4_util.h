/* SPDX-License-Identifier: MIT */
/*
 * Pages of known kinds, and an lz4 device that compares checksums.
 */
#ifndef TESTS_LZ4_LZ4_UTIL_H
#define TESTS_LZ4_LZ4_UTIL_H

#include "test_util.h"

#include <hmm/hmm.h>
#include <lz4dev.h>

/*
 * HALF compresses to about half, TEXT to about a third, RANDOM not at all; WORD repeats
 * a word that an entry has no room for.
 */
enum content { ZERO, SMALL, POINTER, BYTES, WORD, TEXT, HALF, RANDOM, ALMOST, CONTENTS };

/* The thread sanitizer looks at each byte of them for nothing. */
#define FILL UNUSED __attribute__((no_sanitize("thread"))) static

FILL uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

FILL void random_fill(void *to, size_t bytes, uint64_t seed)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15 + 1, *word = to;
	size_t i;

	for (i = 0; i < bytes / 8; i++)
		word[i] = random_next(&state);
}

FILL void words_fill(void *page, uint64_t value)
{
	uint64_t *word = page;
	size_t i;

	for (i = 0; i < PAGE / 8; i++)
		word[i] = value;
}

FILL void text_fill(char *page, uint64_t seed)
{
	static const char *const words[] = { "page",   "memory ", "device", " of the",	 "comes ",
					     "back, ", "where",	  "\n",	    "by itself", " " };
	uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
	size_t at = 0, i;

	while (at < PAGE) {
		const char *word = words[random_next(&state) % 10];

		for (i = 0; word[i] && at < PAGE; i++)
			page[at++] = word[i];
		if (at < PAGE)
			page[at++] = (char)('a' + random_next(&state) % 26);
	}
}

/* The page's content is known by its kind and @seed. */
UNUSED static void content_fill(char *page, enum content kind, uint64_t seed)
{
	switch (kind) {
	case ZERO:
		memset(page, 0, PAGE);
		break;
	case SMALL:
		words_fill(page, seed % 2 ? seed : -seed);
		break;
	case POINTER:
		words_fill(page, 0x00007f0000000000 + seed * 16);
		break;
	case BYTES:
		words_fill(page, (0xa5000000 + seed % 0x1000000) * 0x100000001);
		break;
	case WORD:
		words_fill(page, 0x8123456789abcdef + seed);
		break;
	case TEXT:
		text_fill(page, seed);
		break;
	case HALF:
		memset(page, 'x', PAGE);
		random_fill(page + PAGE / 4, PAGE / 2, seed);
		break;
	case RANDOM:
		random_fill(page, PAGE, seed);
		break;
	default: /* all but the last word alike */
		words_fill(page, seed);
		((uint64_t *)(void *)page)[PAGE / 8 - 1] = seed + 1;
	}
}

UNUSED static void content_check(const char *page, enum content kind, uint64_t seed,
				 const char *when)
{
	char expect[PAGE];

	content_fill(expect, kind, seed);
	if (memcmp(page, expect, PAGE))
		fail_msg("%s: kind %d seed %llu at %p: not what it was", when, kind,
			 (unsigned long long)seed, (const void *)page);
}

/* Page i is of kind i % CONTENTS. */
UNUSED static void all_fill(char *mem, size_t pages, uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		content_fill(mem + i * PAGE, i % CONTENTS, seed + i);
}

UNUSED static void all_check(const char *mem, size_t pages, uint64_t seed, const char *when)
{
	size_t i;

	for (i = 0; i < pages; i++)
		content_check(mem + i * PAGE, i % CONTENTS, seed + i, when);
}

/*
 * As map_aligned(), with guards around it that stay: what lies within 16 KiB of a thread's
 * descriptor does not move, and libhmm's own threads could lie beside it.
 */
UNUSED static char *map_apart(size_t len)
{
	char *base = mmap(NULL, len + 3 * THP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *mem = (char *)(((uintptr_t)base + 2 * THP) & ~(THP - 1));

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_int_equal(mprotect(mem, len, PROT_READ | PROT_WRITE), 0);
	madvise(mem, len, MADV_NOHUGEPAGE);
	return mem;
}

UNUSED static struct lz4_device *lz4_new(size_t limit)
{
	struct lz4_options opt = { .limit = limit, .check = true };
	struct lz4_device *dev = NULL;

	assert_int_equal(lz4_create(&dev, &opt), 0);
	return dev;
}

UNUSED static struct lz4_stats lz4_stats_of(struct lz4_device *dev)
{
	struct lz4_stats stats;

	lz4_get_stats(dev, &stats);
	return stats;
}

/* All of it, at most 4096 pages, and seen to be gone. */
UNUSED static void lz4_migrate_all(struct lz4_device *dev, char *mem, size_t pages)
{
	static uint8_t result[4096];
	unsigned long moved = 0;
	size_t i;
	int ret = lz4_migrate(dev, addr_of(mem), addr_of(mem) + pages * PAGE, result, &moved);

	assert_int_equal(ret, 0);
	for (i = 0; i < pages; i++)
		if (result[i] != HMM_MIGRATE_DONE)
			fail_msg("page %zu of %zu: result %u; %lu moved", i, pages, result[i],
				 moved);
	assert_int_equal(moved, pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
}

/* The device holds nothing: every count that is of now is 0. */
UNUSED static void lz4_expect_empty(struct lz4_device *dev)
{
	struct lz4_stats stats;

	wait_until(!lz4_stats_of(dev).pages);
	stats = lz4_stats_of(dev);
	assert_int_equal(stats.same_filled, 0);
	assert_int_equal(stats.plain, 0);
	assert_int_equal(stats.stored_bytes, 0);
	wait_until(!lz4_stats_of(dev).object_bytes);
	stats = lz4_stats_of(dev);
	assert_int_equal(stats.packed_bytes, stats.idle_bytes);
	assert_int_equal(stats.lost, 0);
}

#endif
