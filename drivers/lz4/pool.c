/* SPDX-License-Identifier: MIT */
/*
 * Objects of up to a page, packed.
 *
 * Memory is cut into spans of 64 pages (256 KiB), and a span into objects of one size
 * class. Two sources of waste are kept small:
 *
 *  - Rounding up to a class. The large classes are the sizes that divide a span without
 *    rest: 64, 65, 66 … objects. Below half a page, where those lie closer than 16 bytes,
 *    each multiple of 16 is a class. Averaged over sizes from 200 bytes to a page, an
 *    object is rounded up by 14 bytes, 0.6 percent, and a span's rest is 0.2 percent.
 *
 *  - Room between objects, when others have gone. It goes back to the system by the page
 *    and not by the span: for each page of a span the objects in use that lie in it are
 *    counted, and when there is none the page is idle. So a large span, which the
 *    first point wants, holds on to no more than a small one would.
 *
 * Some idle pages stay, for the next objects: 1 MiB and a 16th of the rest. Beyond that a
 * hand goes round the spans and gives them back, some at each object that is freed, so
 * that none of those calls takes long. At the limit they are given back before an object
 * is refused.
 *
 * A new object goes into the fullest of four groups of spans, and there to the lowest free
 * place: so what is thinly used gets a chance to get empty. Objects never move.
 *
 * Invariants:
 *
 * P1. A span is free (on pool->free, class LZ4_CLASS_NONE), or on exactly one list of its
 *     class, or full and on none.
 * P2. busy is the set of pages with live > 0, and part of resident. An object lies in
 *     resident pages only.
 * P3. What is charged: a page for each bit of resident, each span's map, each chunk.
 *
 * Locks: the class's, then the pool's, then those of the arena. A handle needs none to be
 * looked up: the class of a span does not change while an object of it is in use.
 */
#include <errno.h>
#include <limits.h>

#include <hmm/driver.h>

#include "lz4_pool.h"

#define IDLE_MIN 256u /* pages that are kept ready, */
#define IDLE_PART 16u /* and this part of all */
#define TRIM_PAGES 64u
#define TRIM_SPANS 256u
#define INDEX_BITS 16
#define SEARCH_SPANS 8u

/* ---- classes ---- */

/* From a page down; each the largest that puts one more object into a span. */
static void classes_make(struct lz4_pool *pool)
{
	size_t page = (size_t)1 << pool->page_shift, step = page / LZ4_STEPS;
	size_t span = lz4_span_bytes(pool), size = page;
	unsigned int n = 0, i;

	while (n < LZ4_CLASSES_MAX && size >= 2 * step) {
		pool->class[n].size = (uint32_t)size;
		pool->class[n].objects = (uint32_t)(span / size);
		for (i = 0; i <= size / step; i++)
			pool->class_of[i] = (uint8_t)n;
		size = span / (span / size + 1) / step * step;
		n++;
	}
	pool->classes = n;
}

int lz4_pool_init(struct lz4_pool *pool, struct lz4_account *account)
{
	unsigned int i;

	pool->account = account;
	pool->page_shift = hmm_page_shift();
	pool->chunk = hmm_map(LZ4_CHUNKS_MAX * sizeof(struct lz4_chunk *));
	if (!pool->chunk)
		return -ENOMEM;
	pool->carved = 1; /* a handle is never 0 */
	pthread_mutex_init(&pool->lock, NULL);
	classes_make(pool);
	for (i = 0; i < pool->classes; i++)
		pthread_mutex_init(&pool->class[i].lock, NULL);
	return 0;
}

void lz4_pool_fini(struct lz4_pool *pool)
{
	uint32_t nr, i;

	for (nr = 1; nr < pool->carved; nr++)
		hmm_free(lz4_span(pool, nr)->free);
	for (i = 0; i < LZ4_CHUNKS_MAX && pool->chunk[i]; i++) {
		hmm_unmap(pool->chunk[i]->memory, LZ4_CHUNK_SPANS * lz4_span_bytes(pool));
		hmm_free(pool->chunk[i]);
	}
	hmm_unmap(pool->chunk, LZ4_CHUNKS_MAX * sizeof(struct lz4_chunk *));
}

/* ---- lists of a class; its lock is held ---- */

static void list_remove(struct lz4_pool *pool, struct lz4_class *class, struct lz4_span *span)
{
	if (span->group == LZ4_GROUPS)
		return;
	if (span->next)
		lz4_span(pool, span->next)->prev = span->prev;
	if (span->prev)
		lz4_span(pool, span->prev)->next = span->next;
	else
		class->head[span->group] = span->next;
	span->group = LZ4_GROUPS;
}

static void list_add(struct lz4_pool *pool, struct lz4_class *class, uint32_t nr,
		     unsigned int group)
{
	struct lz4_span *span = lz4_span(pool, nr);

	span->group = (uint8_t)group;
	span->prev = 0;
	span->next = class->head[group];
	if (span->next)
		lz4_span(pool, span->next)->prev = nr;
	class->head[group] = nr;
}

/* @used has changed: onto the list that it belongs on. */
static void list_update(struct lz4_pool *pool, struct lz4_class *class, uint32_t nr)
{
	struct lz4_span *span = lz4_span(pool, nr);
	unsigned int group = span->used * LZ4_GROUPS / class->objects; /* full: LZ4_GROUPS */

	if (group == span->group)
		return;
	list_remove(pool, class, span);
	if (group < LZ4_GROUPS)
		list_add(pool, class, nr, group);
}

/* ---- objects; the lock of the class is held ---- */

/* The pages that object @index lies in. */
static uint64_t object_pages(const struct lz4_pool *pool, const struct lz4_class *class,
			     unsigned int index)
{
	size_t start = (size_t)index * class->size, end = start + class->size - 1;
	unsigned int first = (unsigned int)(start >> pool->page_shift);
	unsigned int last = (unsigned int)(end >> pool->page_shift);

	return (first == last ? 1ull : 3ull) << first; /* it is no larger than a page */
}

static bool object_is_free(const struct lz4_span *span, unsigned int index)
{
	return span->free[index / 64] >> index % 64 & 1;
}

/* Its pages are resident. */
static void object_take(struct lz4_pool *pool, struct lz4_span *span, unsigned int index,
			uint64_t pages)
{
	unsigned int woken = (unsigned int)__builtin_popcountll(pages & ~span->busy);

	span->free[index / 64] &= ~(1ull << index % 64);
	span->used++;
	span->busy |= pages;
	for (; pages; pages &= pages - 1)
		span->live[__builtin_ctzll(pages)]++;
	if (woken)
		__atomic_fetch_sub(&pool->idle, woken, __ATOMIC_RELAXED);
}

static void object_drop(struct lz4_pool *pool, struct lz4_span *span, unsigned int index,
			uint64_t pages)
{
	unsigned int idle = 0;

	span->free[index / 64] |= 1ull << index % 64;
	if (index / 64 < span->first)
		span->first = (uint16_t)(index / 64);
	span->used--;
	for (; pages; pages &= pages - 1) {
		unsigned int page = (unsigned int)__builtin_ctzll(pages);

		if (--span->live[page])
			continue;
		span->busy &= ~(1ull << page);
		idle++;
	}
	if (idle)
		__atomic_fetch_add(&pool->idle, idle, __ATOMIC_RELAXED);
}

/* The lowest free object; there is one. */
static unsigned int object_first(struct lz4_span *span)
{
	while (!span->free[span->first])
		span->first++;
	return span->first * 64u + (unsigned int)__builtin_ctzll(span->free[span->first]);
}

/* Now it is in use. Return: its handle. */
static uint64_t class_give(struct lz4_pool *pool, struct lz4_class *class, uint32_t nr,
			   unsigned int index)
{
	struct lz4_span *span = lz4_span(pool, nr);

	object_take(pool, span, index, object_pages(pool, class, index));
	if (class->spare == nr)
		class->spare = 0;
	list_update(pool, class, nr);
	return (uint64_t)nr << INDEX_BITS | index;
}

static uint32_t class_fullest(const struct lz4_class *class)
{
	unsigned int group = LZ4_GROUPS;

	while (group--)
		if (class->head[group])
			return class->head[group];
	return 0;
}

/* The usual way: the fullest span, and memory for it if need be. */
static uint64_t class_take(struct lz4_pool *pool, struct lz4_class *class)
{
	uint32_t nr = class_fullest(class);
	unsigned int index;

	if (!nr) {
		nr = lz4_span_new(pool, (unsigned int)(class - pool->class));
		if (!nr)
			return 0;
		class->spare = nr;
		list_update(pool, class, nr);
	}
	index = object_first(lz4_span(pool, nr));
	if (!lz4_span_commit(pool, lz4_span(pool, nr), object_pages(pool, class, index)))
		return 0;
	return class_give(pool, class, nr, index);
}

/* A free object whose pages have memory; UINT_MAX: none. */
static unsigned int object_resident(const struct lz4_pool *pool, const struct lz4_class *class,
				    const struct lz4_span *span)
{
	unsigned int i;

	for (i = 0; i < class->objects; i++)
		if (object_is_free(span, i) && !(object_pages(pool, class, i) & ~span->resident))
			return i;
	return UINT_MAX;
}

/* At the limit: what needs no more memory. */
static uint64_t class_take_resident(struct lz4_pool *pool, struct lz4_class *class)
{
	unsigned int group, index, left = SEARCH_SPANS;
	uint32_t nr;

	for (group = LZ4_GROUPS; group--;)
		for (nr = class->head[group]; nr && left; nr = lz4_span(pool, nr)->next, left--) {
			index = object_resident(pool, class, lz4_span(pool, nr));
			if (index != UINT_MAX)
				return class_give(pool, class, nr, index);
		}
	return 0;
}

/* ---- the pool ---- */

uint64_t lz4_pool_alloc(struct lz4_pool *pool, size_t size)
{
	size_t step = (size_t)1 << pool->page_shift >> 8;
	struct lz4_class *class = &pool->class[pool->class_of[(size + step - 1) / step]];
	uint64_t handle;

	pthread_mutex_lock(&class->lock);
	handle = class_take(pool, class);
	if (!handle)
		handle = class_take_resident(pool, class);
	pthread_mutex_unlock(&class->lock);
	if (!handle && lz4_pool_trim(pool, TRIM_PAGES, ULONG_MAX)) {
		pthread_mutex_lock(&class->lock);
		handle = class_take(pool, class);
		pthread_mutex_unlock(&class->lock);
	}
	if (handle)
		__atomic_fetch_add(&pool->object_bytes, class->size, __ATOMIC_RELAXED);
	return handle;
}

/* The class of a handle, which may be anything; NULL: it is none. */
static struct lz4_class *class_of_handle(struct lz4_pool *pool, uint64_t handle)
{
	uint32_t nr = (uint32_t)(handle >> INDEX_BITS);
	unsigned int class;

	if (!nr || handle >> LZ4_HANDLE_BITS ||
	    nr >= __atomic_load_n(&pool->carved, __ATOMIC_ACQUIRE))
		return NULL;
	class = __atomic_load_n(&lz4_span(pool, nr)->class, __ATOMIC_ACQUIRE);
	if (class == LZ4_CLASS_NONE)
		return NULL;
	return (handle & ((1u << INDEX_BITS) - 1)) < pool->class[class].objects ?
		       &pool->class[class] :
		       NULL;
}

/* The last object of @nr is gone. */
static void class_emptied(struct lz4_pool *pool, struct lz4_class *class, uint32_t nr)
{
	if (class->spare) {
		list_remove(pool, class, lz4_span(pool, nr));
		lz4_span_delete(pool, nr);
	} else {
		class->spare = nr;
	}
}

static bool too_many_idle(const struct lz4_pool *pool)
{
	return __atomic_load_n(&pool->idle, __ATOMIC_RELAXED) >
	       IDLE_MIN + __atomic_load_n(&pool->resident, __ATOMIC_RELAXED) / IDLE_PART;
}

void lz4_pool_free(struct lz4_pool *pool, uint64_t handle)
{
	struct lz4_class *class = class_of_handle(pool, handle);
	unsigned int index = (unsigned int)(handle & ((1u << INDEX_BITS) - 1));
	uint32_t nr = (uint32_t)(handle >> INDEX_BITS);
	struct lz4_span *span;
	bool in_use;

	if (!LZ4_CHECK(class != NULL))
		return;
	pthread_mutex_lock(&class->lock);
	span = lz4_span(pool, nr);
	in_use = LZ4_CHECK(!object_is_free(span, index));
	if (in_use) {
		object_drop(pool, span, index, object_pages(pool, class, index));
		list_update(pool, class, nr);
		if (!span->used)
			class_emptied(pool, class, nr);
	}
	pthread_mutex_unlock(&class->lock);
	if (in_use)
		__atomic_fetch_sub(&pool->object_bytes, class->size, __ATOMIC_RELAXED);
	if (too_many_idle(pool))
		lz4_pool_trim(pool, TRIM_PAGES, TRIM_SPANS);
}

void *lz4_pool_object(struct lz4_pool *pool, uint64_t handle, size_t size)
{
	struct lz4_class *class = class_of_handle(pool, handle);

	if (!LZ4_CHECK(class && size <= class->size))
		return NULL;
	return lz4_span_memory(pool, (uint32_t)(handle >> INDEX_BITS)) +
	       (handle & ((1u << INDEX_BITS) - 1)) * class->size;
}

static unsigned long span_trim(struct lz4_pool *pool, uint32_t nr)
{
	struct lz4_span *span = lz4_span(pool, nr);
	unsigned int class = __atomic_load_n(&span->class, __ATOMIC_ACQUIRE);
	unsigned long n = 0;

	if (class == LZ4_CLASS_NONE)
		return 0;
	pthread_mutex_lock(&pool->class[class].lock);
	if (__atomic_load_n(&span->class, __ATOMIC_RELAXED) == class)
		n = lz4_span_release(pool, nr, span->resident & ~span->busy);
	pthread_mutex_unlock(&pool->class[class].lock);
	return n;
}

unsigned long lz4_pool_trim(struct lz4_pool *pool, unsigned long pages, unsigned long spans)
{
	uint32_t all = __atomic_load_n(&pool->carved, __ATOMIC_ACQUIRE) - 1;
	unsigned long n = 0, i;

	for (i = 0; i < all && i < spans && n < pages; i++) {
		if (!__atomic_load_n(&pool->idle, __ATOMIC_RELAXED))
			break;
		n += span_trim(pool,
			       __atomic_fetch_add(&pool->hand, 1, __ATOMIC_RELAXED) % all + 1);
	}
	return n;
}
