/* SPDX-License-Identifier: MIT */
/*
 * The index on the CPU: build it, walk it, check it. Nothing here knows that
 * there is a device.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wordindex.h"

#define BUCKETS_FIRST 1024u

int wi_index_create(struct wi_index **out)
{
	struct wi_index *index = calloc(1, sizeof(*index));

	if (!index)
		return -ENOMEM;
	index->nbuckets = BUCKETS_FIRST;
	index->bucket = calloc(index->nbuckets, sizeof(*index->bucket));
	if (!index->bucket) {
		free(index);
		return -ENOMEM;
	}
	index->bytes = sizeof(*index) + index->nbuckets * sizeof(*index->bucket);
	*out = index;
	return 0;
}

void wi_index_free(struct wi_index *index)
{
	uint64_t i;

	if (!index)
		return;
	for (i = 0; i < index->nbuckets; i++) {
		struct wi_word *word = index->bucket[i], *next_word;

		for (; word; word = next_word) {
			struct wi_block *block = word->first, *next_block;

			for (; block; block = next_block) {
				next_block = block->next;
				free(block);
			}
			next_word = word->next;
			free(word->text);
			free(word);
		}
	}
	free(index->bucket);
	free(index);
}

/* As many buckets as words: the lists stay short. */
static int index_grow(struct wi_index *index)
{
	uint64_t n = index->nbuckets * 2, i;
	struct wi_word **bucket = calloc(n, sizeof(*bucket));

	if (!bucket)
		return -ENOMEM;
	for (i = 0; i < index->nbuckets; i++) {
		struct wi_word *word = index->bucket[i], *next;

		for (; word; word = next) {
			next = word->next;
			word->next = bucket[word->hash & (n - 1)];
			bucket[word->hash & (n - 1)] = word;
		}
	}
	free(index->bucket);
	index->bytes += (n - index->nbuckets) * sizeof(*bucket);
	index->bucket = bucket;
	index->nbuckets = n;
	return 0;
}

static struct wi_word *index_find(const struct wi_index *index, const char *text, uint32_t len,
				  uint32_t hash)
{
	struct wi_word *word = index->bucket[hash & (index->nbuckets - 1)];

	for (; word; word = word->next) {
		if (word->hash == hash && word->len == len && !memcmp(word->text, text, len))
			return word;
	}
	return NULL;
}

static struct wi_word *index_insert(struct wi_index *index, const char *text, uint32_t len,
				    uint32_t hash)
{
	struct wi_word *word, **head;

	if (index->words >= index->nbuckets && index_grow(index))
		return NULL;

	word = calloc(1, sizeof(*word));
	if (!word)
		return NULL;
	word->text = malloc(len + 1);
	if (!word->text) {
		free(word);
		return NULL;
	}
	memcpy(word->text, text, len);
	word->text[len] = '\0';
	word->len = len;
	word->hash = hash;

	head = &index->bucket[hash & (index->nbuckets - 1)];
	word->next = *head;
	*head = word;
	index->words++;
	index->bytes += sizeof(*word) + len + 1;
	return word;
}

static int word_add_block(struct wi_index *index, struct wi_word *word)
{
	size_t bytes = wi_block_bytes(word->nblocks);
	struct wi_block *block = calloc(1, bytes);

	if (!block)
		return -ENOMEM;
	if (word->last)
		word->last->next = block;
	else
		word->first = block;
	word->last = block;
	word->nblocks++;
	index->bytes += bytes;
	return 0;
}

int wi_index_add(struct wi_index *index, const char *text, uint32_t len, uint64_t pos)
{
	uint64_t full = wi_hash_text(text, len);
	uint32_t hash = (uint32_t)(full ^ (full >> 32));
	struct wi_word *word = index_find(index, text, len, hash);

	if (!word)
		word = index_insert(index, text, len, hash);
	if (!word)
		return -ENOMEM;
	if (!word->last || word->last->used == wi_block_room(word->nblocks - 1)) {
		if (word_add_block(index, word))
			return -ENOMEM;
	}

	word->last->pos[word->last->used++] = pos;
	word->count++;
	index->postings++;
	return 0;
}

static bool top_before(const struct wi_top *a, const struct wi_top *b)
{
	if (a->count != b->count)
		return a->count > b->count;
	return strcmp(a->text, b->text) < 0;
}

static void top_add(struct wi_result *result, const struct wi_top *new)
{
	unsigned int i;

	if (result->ntop < WI_TOP_MAX)
		result->ntop++;
	else if (!top_before(new, &result->top[WI_TOP_MAX - 1]))
		return;

	for (i = result->ntop - 1; i && top_before(new, &result->top[i - 1]); i--)
		result->top[i] = result->top[i - 1];
	result->top[i] = *new;
}

/* One word: @hash of its text and positions, @walked positions found. */
void wi_result_add(struct wi_result *result, const char *text, uint32_t len, uint64_t hash,
		   uint64_t count, uint64_t walked)
{
	struct wi_top new = { .count = walked };

	result->words++;
	result->postings += walked;
	result->checksum += wi_hash_end(hash, count);
	if (result->ntop == WI_TOP_MAX && walked < result->top[WI_TOP_MAX - 1].count)
		return;
	memcpy(new.text, text, len < WI_TEXT_MAX ? len : WI_TEXT_MAX);
	top_add(result, &new);
}

void wi_result_merge(struct wi_result *into, const struct wi_result *from)
{
	unsigned int i;

	into->words += from->words;
	into->postings += from->postings;
	into->checksum += from->checksum;
	for (i = 0; i < from->ntop; i++)
		top_add(into, &from->top[i]);
}

bool wi_result_same(const struct wi_result *a, const struct wi_result *b, unsigned int ntop)
{
	unsigned int i;

	if (a->words != b->words || a->postings != b->postings || a->checksum != b->checksum)
		return false;
	if (a->ntop != b->ntop)
		return false;
	for (i = 0; i < ntop && i < a->ntop; i++) {
		if (a->top[i].count != b->top[i].count || strcmp(a->top[i].text, b->top[i].text))
			return false;
	}
	return true;
}

/* Each word once; @mark was added to each position and, if not 0, 1 to each count. */
static void walk(const struct wi_index *index, uint64_t mark, struct wi_result *result,
		 struct wi_verdict *verdict)
{
	uint64_t i, n;

	*result = (struct wi_result){ .words = 0 };
	*verdict = (struct wi_verdict){ .bad_words = 0 };
	for (i = 0; i < index->nbuckets; i++) {
		const struct wi_word *word = index->bucket[i];

		for (; word; word = word->next) {
			uint64_t hash = wi_hash_text(word->text, word->len), walked = 0, last = 0;
			const struct wi_block *block = word->first;

			for (; block; block = block->next) {
				for (n = 0; n < block->used; n++, walked++) {
					uint64_t pos = block->pos[n] - mark;

					if (pos >= WI_MARK || (walked && pos <= last))
						verdict->bad_postings++;
					last = pos;
					hash = wi_hash_pos(hash, pos);
				}
			}
			if (word->count != walked + !!mark ||
			    word->device_count != (mark ? walked : 0))
				verdict->bad_words++;
			wi_result_add(result, word->text, word->len, hash, word->count - !!mark,
				      walked);
		}
	}
}

void wi_index_walk(const struct wi_index *index, struct wi_result *result)
{
	struct wi_verdict verdict;

	walk(index, 0, result, &verdict);
}

void wi_index_verify(const struct wi_index *index, struct wi_result *result,
		     struct wi_verdict *verdict)
{
	walk(index, WI_MARK, result, verdict);
}
