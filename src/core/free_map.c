/* SPDX-License-Identifier: MIT */
/*
 * Free pages are found by a bitmap with one bit a page and, above it, one with a
 * bit for each of its words that is not 0. The search starts after the page that
 * was handed out last: pages asked for one after the other lie one after the
 * other as long as there is room. A run is aligned to its length: whole words of
 * ones, or a part of a word where pages are large.
 *
 * Invariant: map->free is the number of bits set, and a summary bit is set if and only
 * if its word is not 0.
 */
#include <errno.h>
#include <string.h>

#include <hmm/driver.h>

#include "core/free_map.h"
#include "mm/arena.h"

static unsigned long words_for(unsigned long bits)
{
	return (bits + 63) / 64;
}

static size_t bitmap_bytes(unsigned long pages)
{
	return words_for(pages) * 8;
}

static size_t summary_bytes(unsigned long pages)
{
	return words_for(words_for(pages)) * 8;
}

/* The first bit of [@from, @bits) that is set, or @bits. */
static unsigned long bits_find(const uint64_t *word, unsigned long bits, unsigned long from)
{
	unsigned long i = from / 64;
	uint64_t w;

	if (from >= bits)
		return bits;
	for (w = word[i] & ~0ull << from % 64; !w; w = word[i])
		if (++i >= words_for(bits))
			return bits;
	return i * 64 + (unsigned long)__builtin_ctzll(w);
}

static void bits_set_all(uint64_t *word, unsigned long bits)
{
	memset(word, 0xff, bits / 64 * 8);
	if (bits % 64)
		word[bits / 64] = (1ull << bits % 64) - 1;
}

int free_map_init(struct free_map *map, unsigned long pages)
{
	*map = (struct free_map){ .pages = pages, .free = pages };
	map->bitmap = hmm_map(bitmap_bytes(pages));
	map->summary = hmm_map(summary_bytes(pages));
	if (!map->bitmap || !map->summary) {
		free_map_fini(map);
		return -ENOMEM;
	}
	bits_set_all(map->bitmap, pages);
	bits_set_all(map->summary, words_for(pages));
	return 0;
}

void free_map_fini(struct free_map *map)
{
	hmm_unmap(map->summary, map->summary ? summary_bytes(map->pages) : 0);
	hmm_unmap(map->bitmap, map->bitmap ? bitmap_bytes(map->pages) : 0);
	map->summary = map->bitmap = NULL;
}

/* The first free page from @from on, or map->pages. */
static unsigned long map_find(const struct free_map *map, unsigned long from)
{
	unsigned long words = words_for(map->pages), word = from / 64;

	if (from >= map->pages)
		return map->pages;
	if (map->bitmap[word] & ~0ull << from % 64)
		return bits_find(map->bitmap, map->pages, from);
	word = bits_find(map->summary, words, word + 1);
	HMM_ASSERT(word == words || map->bitmap[word]);
	return word < words ? bits_find(map->bitmap, map->pages, word * 64) : map->pages;
}

static void map_clear(struct free_map *map, unsigned long word, uint64_t mask)
{
	HMM_ASSERT((map->bitmap[word] & mask) == mask);
	map->bitmap[word] &= ~mask;
	if (!map->bitmap[word])
		map->summary[word / 64] &= ~(1ull << word % 64);
	__atomic_store_n(&map->free, map->free - (unsigned long)__builtin_popcountll(mask),
			 __ATOMIC_RELAXED);
}

/* @n bits, 1 to 64, from bit @i % 64 on, as far as they are in its word. */
static uint64_t word_mask(unsigned long i, unsigned long n)
{
	return (n < 64 ? (1ull << n) - 1 : ~0ull) << i % 64;
}

unsigned long free_map_take(struct free_map *map, unsigned long *n)
{
	unsigned long i = map->pages, room;
	uint64_t used;

	if (!map->free)
		return i;
	i = map_find(map, map->hint);
	if (i == map->pages)
		i = map_find(map, 0);
	HMM_ASSERT(i < map->pages);
	used = ~map->bitmap[i / 64] >> i % 64;
	room = used ? (unsigned long)__builtin_ctzll(used) : 64 - i % 64;
	*n = *n < room ? *n : room;
	map_clear(map, i / 64, word_mask(i, *n));
	map->hint = i + *n;
	return i;
}

static bool run_free(const struct free_map *map, unsigned long i, unsigned long n)
{
	unsigned long word;

	if (n < 64) {
		uint64_t mask = word_mask(i, n);

		return (map->bitmap[i / 64] & mask) == mask;
	}
	for (word = i / 64; word < (i + n) / 64; word++)
		if (map->bitmap[word] != ~0ull)
			return false;
	return true;
}

/* In [@from, @to), both multiples of @n. */
static unsigned long run_find(const struct free_map *map, unsigned long from, unsigned long to,
			      unsigned long n)
{
	unsigned long i;

	for (i = from; i + n <= to; i += n)
		if (run_free(map, i, n))
			return i;
	return map->pages;
}

unsigned long free_map_take_run(struct free_map *map, unsigned long n)
{
	unsigned long end = map->pages & ~(n - 1), hint = (map->hint + n - 1) & ~(n - 1);
	unsigned long i, word;

	if (map->free < n)
		return map->pages;
	i = run_find(map, hint, end, n);
	if (i == map->pages)
		i = run_find(map, 0, hint < end ? hint : end, n);
	if (i == map->pages)
		return i;
	if (n < 64)
		map_clear(map, i / 64, word_mask(i, n));
	for (word = i / 64; n >= 64 && word < (i + n) / 64; word++)
		map_clear(map, word, ~0ull);
	map->hint = i + n;
	return i;
}

void free_map_give(struct free_map *map, unsigned long i, unsigned long n)
{
	unsigned long end = i + n, next;

	HMM_ASSERT(i < end && end <= map->pages);
	__atomic_store_n(&map->free, map->free + n, __ATOMIC_RELAXED);
	for (; i < end; i = next) {
		unsigned long word = i / 64;
		uint64_t mask;

		next = (i | 63) + 1;
		next = next < end ? next : end;
		mask = word_mask(i, next - i);
		HMM_ASSERT(!(map->bitmap[word] & mask));
		map->bitmap[word] |= mask;
		map->summary[word / 64] |= 1ull << word % 64;
	}
}

unsigned long free_map_next_used(const struct free_map *map, unsigned long from)
{
	unsigned long i = from;

	while (i < map->pages) {
		uint64_t used = ~map->bitmap[i / 64] & ~0ull << i % 64;

		if (used) {
			i = (i & ~63ul) + (unsigned long)__builtin_ctzll(used);
			break;
		}
		i = (i & ~63ul) + 64;
	}
	return i < map->pages ? i : map->pages;
}
