/* SPDX-License-Identifier: MIT */
/*
 * The copy engine: a page becomes an entry, and an entry a page.
 *
 * An entry is 64 bits, the lowest two say what it is:
 *
 *	EMPTY	0: nothing
 *	SHORT	the page repeats a word of 64 bits whose upper three are alike, as those
 *		of 0, small numbers and pointers are; the others are here, shifted by two
 *	TWICE	the page repeats a word of 64 bits whose halves are alike; one is here
 *	OBJECT	the page is in the pool: its length less one, 16 bits, and the handle. Of
 *		a page's length it is the page itself, else what LZ4 made of it
 *
 * A page that repeats another word is left to LZ4, which makes some 30 bytes of it.
 *
 * LZ4 needs 16 KiB to work in and room for what comes of it: a compressor. A thread takes
 * one that nobody uses for as long as it works on one piece of a migration, and makes one
 * if there is none; so there are as many as ever migrated at the same time. To decompress
 * takes nothing.
 */
#include <errno.h>
#include <string.h>

#include <lz4.h>

#include "lz4_internal.h"

#define KIND_BITS 2
#define LENGTH_BITS 16
#define PLAIN_PART 16u /* to save less than this part of a page is not worth it */

enum entry_kind { ENTRY_EMPTY, ENTRY_SHORT, ENTRY_TWICE, ENTRY_OBJECT };

static enum entry_kind entry_kind(uint64_t entry)
{
	return (enum entry_kind)(entry & ((1u << KIND_BITS) - 1));
}

static uint64_t entry_of_object(uint64_t handle, size_t length)
{
	return handle << (LENGTH_BITS + KIND_BITS) | (uint64_t)(length - 1) << KIND_BITS |
	       ENTRY_OBJECT;
}

static size_t entry_length(uint64_t entry)
{
	return (entry >> KIND_BITS & ((1u << LENGTH_BITS) - 1)) + 1;
}

static uint64_t entry_handle(uint64_t entry)
{
	return entry >> (LENGTH_BITS + KIND_BITS);
}

/* ENTRY_EMPTY: there is no entry for that word. */
static uint64_t entry_of_word(uint64_t word)
{
	if ((int64_t)(word << KIND_BITS) >> KIND_BITS == (int64_t)word)
		return word << KIND_BITS | ENTRY_SHORT;
	if (word >> 32 == (uint32_t)word)
		return (uint64_t)(uint32_t)word << KIND_BITS | ENTRY_TWICE;
	return ENTRY_EMPTY;
}

static uint64_t entry_word(uint64_t entry)
{
	if (entry_kind(entry) == ENTRY_SHORT)
		return (uint64_t)((int64_t)entry >> KIND_BITS);
	return entry >> KIND_BITS | entry >> KIND_BITS << 32;
}

static bool page_repeats(const struct lz4_device *dev, const uint64_t *word)
{
	unsigned long n = dev->page_size / sizeof(*word), i;

	if (word[0] != word[n - 1]) /* most differ here already */
		return false;
	for (i = 1; i < n && word[i] == word[0]; i++)
		;
	return i == n;
}

/* Two 32-bit lanes of multiply and add, folded: to find damage, not malice. */
static uint32_t page_sum(const struct lz4_device *dev, const char *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page;
	unsigned long n = dev->page_size / sizeof(*word), i;
	uint64_t sum = 0x9e3779b97f4a7c15;

	for (i = 0; i < n; i++)
		sum = (sum ^ word[i]) * 0xff51afd7ed558ccd + (sum >> 29);
	return (uint32_t)(sum ^ sum >> 32);
}

/* ---- compressors ---- */

static uint64_t compressor_bytes(const struct lz4_device *dev)
{
	return sizeof(struct lz4_compressor) + (uint64_t)LZ4_sizeofState() + dev->page_size;
}

static struct lz4_compressor *compressor_new(struct lz4_device *dev)
{
	struct lz4_compressor *new;

	if (!lz4_charge(&dev->account, compressor_bytes(dev)))
		return NULL;
	new = hmm_alloc(compressor_bytes(dev));
	if (!new) {
		lz4_uncharge(&dev->account, compressor_bytes(dev));
		return NULL;
	}
	new->state = (char *)(new + 1);
	new->out = new->state + LZ4_sizeofState();
	return new;
}

static struct lz4_compressor *compressor_get(struct lz4_device *dev)
{
	struct lz4_compressor *c;

	pthread_mutex_lock(&dev->lock);
	c = dev->compressors;
	if (c)
		dev->compressors = c->next;
	pthread_mutex_unlock(&dev->lock);
	return c ? c : compressor_new(dev);
}

static void compressor_put(struct lz4_device *dev, struct lz4_compressor *c)
{
	pthread_mutex_lock(&dev->lock);
	c->next = dev->compressors;
	dev->compressors = c;
	pthread_mutex_unlock(&dev->lock);
}

/*
 * A page goes through it once: the first call of a function may look its symbols up, in
 * memory that is not the arena's, and later may be too late for that.
 */
static int compressor_try(struct lz4_device *dev, struct lz4_compressor *c)
{
	char *page = hmm_alloc(dev->page_size);
	bool good;
	int n;

	if (!page)
		return -ENOMEM;
	n = LZ4_compress_fast_extState(c->state, page, c->out, (int)dev->page_size,
				       (int)dev->plain_from, (int)dev->opt.acceleration);
	good = n > 0 &&
	       LZ4_decompress_safe(c->out, page, n, (int)dev->page_size) == (int)dev->page_size;
	hmm_free(page);
	return good ? 0 : -ENOMEM;
}

int lz4_engine_init(struct lz4_device *dev)
{
	struct lz4_compressor *c = compressor_get(dev);

	if (!c)
		return -ENOMEM;
	compressor_put(dev, c);
	dev->plain_from = (unsigned int)(dev->page_size - dev->page_size / PLAIN_PART);
	return compressor_try(dev, c);
}

void lz4_engine_fini(struct lz4_device *dev)
{
	struct lz4_compressor *c;

	while ((c = dev->compressors)) {
		dev->compressors = c->next;
		hmm_free(c);
	}
}

/* ---- in ---- */

/* What one op has counted. */
struct in {
	struct lz4_device *dev;
	struct lz4_compressor *c;
	struct lz4_counters count;
};

static uint64_t entry_store(struct in *in, const char *from, size_t length)
{
	uint64_t handle = lz4_pool_alloc(&in->dev->pool, length);

	if (!handle)
		return ENTRY_EMPTY;
	memcpy(lz4_pool_object(&in->dev->pool, handle, length), from, length);
	in->count.stored_bytes += length;
	in->count.plain += length == in->dev->page_size;
	return entry_of_object(handle, length);
}

/* ENTRY_EMPTY: there is no room. */
static uint64_t entry_make(struct in *in, const char *page)
{
	struct lz4_device *dev = in->dev;
	uint64_t entry = ENTRY_EMPTY;
	int n;

	if (page_repeats(dev, (const uint64_t *)(const void *)page))
		entry = entry_of_word(*(const uint64_t *)(const void *)page);
	if (entry) {
		in->count.same_filled++;
		return entry;
	}
	n = LZ4_compress_fast_extState(in->c->state, page, in->c->out, (int)dev->page_size,
				       (int)dev->plain_from, (int)dev->opt.acceleration);
	if (n > 0)
		return entry_store(in, in->c->out, (size_t)n);
	return entry_store(in, page, dev->page_size);
}

static hmm_pte_t page_in(struct in *in, const char *from)
{
	struct lz4_device *dev = in->dev;
	struct hmm_page *page = lz4_page_alloc(dev);
	uint64_t entry = page ? entry_make(in, from) : ENTRY_EMPTY;

	if (!entry) {
		if (page)
			hmm_page_put(page);
		in->count.declined++;
		return 0;
	}
	__atomic_store_n(&page->data, entry, __ATOMIC_RELAXED);
	if (dev->opt.check)
		lz4_region_of(page)->sum[hmm_page_index(page)] = page_sum(dev, from);
	in->count.pages++;
	return hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
}

static void in_end(struct in *in)
{
	struct lz4_counters *to = &in->dev->count;

	lz4_count(&to->pages, in->count.pages);
	lz4_count(&to->pages_in, in->count.pages);
	lz4_count(&to->same_filled, in->count.same_filled);
	lz4_count(&to->plain, in->count.plain);
	lz4_count(&to->stored_bytes, in->count.stored_bytes);
	lz4_count(&to->declined, in->count.declined);
	compressor_put(in->dev, in->c);
}

/* A page without memory stays: nothing would be won. */
int lz4_copy_in(struct lz4_device *dev, const hmm_pte_t *src, hmm_pte_t *dst, unsigned long n)
{
	struct in in = { .dev = dev, .c = compressor_get(dev) };
	unsigned long i;

	if (!in.c)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		if (hmm_pte_test_valid(src[i]) && !hmm_pte_test_zero(src[i]))
			dst[i] = page_in(&in, (const char *)hmm_pte_addr(src[i]));
	in_end(&in);
	return 0;
}

/* ---- out ---- */

static void word_fill(struct lz4_device *dev, char *to, uint64_t word)
{
	uint64_t *at = (uint64_t *)(void *)to;
	unsigned long n = dev->page_size / sizeof(*at), i;

	for (i = 0; i < n; i++)
		at[i] = word;
}

static bool object_out(struct lz4_device *dev, uint64_t entry, char *to)
{
	size_t length = entry_length(entry);
	const char *from = lz4_pool_object(&dev->pool, entry_handle(entry), length);

	if (!from)
		return false;
	if (length == dev->page_size) {
		memcpy(to, from, length);
		return true;
	}
	return LZ4_decompress_safe(from, to, (int)length, (int)dev->page_size) ==
	       (int)dev->page_size;
}

static bool page_out(struct lz4_device *dev, const struct hmm_page *page, char *to)
{
	uint64_t entry = __atomic_load_n(&page->data, __ATOMIC_RELAXED);
	bool good = true;

	if (entry_kind(entry) == ENTRY_OBJECT)
		good = object_out(dev, entry, to);
	else if (entry_kind(entry) == ENTRY_EMPTY)
		good = false;
	else
		word_fill(dev, to, entry_word(entry));
	if (good && dev->opt.check)
		good = lz4_region_of(page)->sum[hmm_page_index(page)] == page_sum(dev, to);
	return LZ4_CHECK(good);
}

int lz4_copy_out(struct hmm_devmem *devmem, enum hmm_etype etype, const hmm_pte_t *src,
		 hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct lz4_device *dev = hmm_container_of(devmem, struct lz4_region, devmem)->dev;
	unsigned long n = (end - start) >> dev->page_shift, out = 0, lost = 0, i;

	(void)etype; /* nobody writes here */
	for (i = 0; i < n; i++) {
		if (!src[i] || !dst[i])
			continue;
		if (page_out(dev, hmm_page_from_pfn(hmm_pte_pfn(src[i])),
			     (char *)hmm_pte_addr(dst[i]))) {
			out++;
		} else {
			dst[i] = 0;
			lost++;
		}
	}
	lz4_count(&dev->count.pages_out, out);
	lz4_count(&dev->count.lost, lost);
	return lost && !out ? -EIO : 0;
}

/* ---- gone ---- */

static void uncount(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_sub(counter, n, __ATOMIC_RELAXED);
}

/* A page that found no room has no entry. */
void lz4_entry_free(struct lz4_device *dev, struct hmm_page *page)
{
	uint64_t entry = __atomic_exchange_n(&page->data, ENTRY_EMPTY, __ATOMIC_RELAXED);

	if (entry_kind(entry) == ENTRY_EMPTY)
		return;
	uncount(&dev->count.pages, 1);
	if (entry_kind(entry) != ENTRY_OBJECT) {
		uncount(&dev->count.same_filled, 1);
		return;
	}
	uncount(&dev->count.stored_bytes, entry_length(entry));
	if (entry_length(entry) == dev->page_size)
		uncount(&dev->count.plain, 1);
	lz4_pool_free(&dev->pool, entry_handle(entry));
}
