/* SPDX-License-Identifier: MIT */
/*
 * The pool: where compressed pages are packed. An allocator of objects of up to a page, in
 * memory that comes from the system page by page and goes back so. The essay is in pool.c;
 * spans and their pages are in span.c.
 *
 * Nothing here waits for anything but its own short locks and the kernel's memory
 * management: for callbacks.
 */
#ifndef LZ4_POOL_H
#define LZ4_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LZ4_SPAN_PAGES 64u
#define LZ4_CHUNK_SPANS 128u
#define LZ4_CHUNKS_MAX (1u << 17)
#define LZ4_CLASSES_MAX 224u
#define LZ4_CLASS_NONE 255u
#define LZ4_STEPS 256u /* sizes are multiples of a page's 256th part */
#define LZ4_GROUPS 4u
#define LZ4_HANDLE_BITS 40

#ifdef HMM_DEBUG
void lz4_bug(const char *what) __attribute__((noreturn, cold));
#define LZ4_CHECK(cond) ((cond) ? true : (lz4_bug(#cond), false))
#else
#define LZ4_CHECK(cond) (cond)
#endif

/**
 * struct lz4_account - how much memory the device has
 * @limit: the most; 0: none. Constant
 * @used: bytes; atomic
 * @peak: the most it was; atomic
 */
struct lz4_account {
	uint64_t limit;
	uint64_t used;
	uint64_t peak;
};

/* lz4_charge() - may the device have @bytes more? If so it has */
bool lz4_charge(struct lz4_account *account, uint64_t bytes);
void lz4_uncharge(struct lz4_account *account, uint64_t bytes);

/**
 * struct lz4_span - 64 pages of address space, cut into objects of one class
 * @resident: pages that have memory, a bit each
 * @busy: pages that some object in use lies in; those of @resident that are not are idle
 * @free: the objects that are free, a bit each
 * @next: number of another one on the same list; 0: none
 * @prev: the same
 * @used: objects in use
 * @first: no object is free in the words of @free before this one
 * @class: which; %LZ4_CLASS_NONE while it is on the list of free ones. Atomic; constant
 *	while an object is in use
 * @group: which list of its class it is on, by how full it is; %LZ4_GROUPS: none
 * @live: for each page the objects in use that lie in it, if in part
 *
 * All but @class is under the lock of its class; of a free one, under the pool's.
 */
struct lz4_span {
	uint64_t resident;
	uint64_t busy;
	uint64_t *free;
	uint32_t next;
	uint32_t prev;
	uint16_t used;
	uint16_t first;
	uint8_t class;
	uint8_t group;
	uint8_t live[LZ4_SPAN_PAGES];
};

/* Made when spans run out, never freed before the pool is. */
struct lz4_chunk {
	char *memory;
	struct lz4_span span[LZ4_CHUNK_SPANS];
};

/**
 * struct lz4_class - objects of one size
 * @lock: of the class and all of its spans
 * @size: of an object, in bytes; constant
 * @objects: how many a span has; constant
 * @head: spans that have a free object, fuller ones in later lists
 * @spare: a span on @head[0] with none in use, or 0; a second one is freed
 */
struct lz4_class {
	pthread_mutex_t lock;
	uint32_t size;
	uint32_t objects;
	uint32_t head[LZ4_GROUPS];
	uint32_t spare;
} __attribute__((aligned(64)));

/**
 * struct lz4_pool - the pool
 * @account: what its memory is charged to
 * @page_shift: of the system; constant
 * @classes: how many; constant
 * @class_of: by the size of an object in steps, rounded up; constant
 * @chunk: by span number / %LZ4_CHUNK_SPANS; written under @lock, before @carved
 * @lock: of the spans that are free. After a class's lock
 * @free: list of spans
 * @carved: spans that there are, and number 0, which is none; atomic
 * @hand: which span is looked at next for idle pages; atomic
 * @resident: pages that have memory; atomic
 * @idle: of these, those with no object in use; atomic
 * @object_bytes: what objects in use have, rounded up; atomic
 * @class: see above
 */
struct lz4_pool {
	struct lz4_account *account;
	unsigned int page_shift;
	unsigned int classes;
	uint8_t class_of[LZ4_STEPS + 1];
	struct lz4_chunk **chunk;
	pthread_mutex_t lock;
	uint32_t free;
	uint32_t carved;
	uint32_t hand;
	uint64_t resident;
	uint64_t idle;
	uint64_t object_bytes;
	struct lz4_class class[LZ4_CLASSES_MAX];
};

/**
 * lz4_pool_init() - an empty pool
 * @pool: zeroed, in the arena
 *
 * Return: 0 or -ENOMEM.
 */
int lz4_pool_init(struct lz4_pool *pool, struct lz4_account *account);

/* lz4_pool_fini() - give all of its memory back, objects or not */
void lz4_pool_fini(struct lz4_pool *pool);

/**
 * lz4_pool_alloc() - room for an object
 * @size: bytes, 1 to a page
 *
 * Return: a handle of %LZ4_HANDLE_BITS bits; 0: no memory, or the limit.
 */
uint64_t lz4_pool_alloc(struct lz4_pool *pool, size_t size);

/**
 * lz4_pool_free() - the object is not needed any more
 *
 * In a debug build a handle that is none ends the program; in others it is ignored.
 */
void lz4_pool_free(struct lz4_pool *pool, uint64_t handle);

/**
 * lz4_pool_object() - where an object is
 * @size: what it was allocated for, at least
 *
 * Return: its first byte, aligned to 16; NULL, or in a debug build the end of the program,
 * if @handle is none. Takes no lock.
 */
void *lz4_pool_object(struct lz4_pool *pool, uint64_t handle, size_t size);

/**
 * lz4_pool_trim() - give idle pages back to the system
 * @pages: how many will do
 * @spans: how many spans to look at, at most
 *
 * Return: how many.
 */
unsigned long lz4_pool_trim(struct lz4_pool *pool, unsigned long pages, unsigned long spans);

/* ---- span.c: a span and its pages; under the lock of the span's class ---- */

static inline size_t lz4_span_bytes(const struct lz4_pool *pool)
{
	return (size_t)LZ4_SPAN_PAGES << pool->page_shift;
}

struct lz4_span *lz4_span(const struct lz4_pool *pool, uint32_t nr);
char *lz4_span_memory(const struct lz4_pool *pool, uint32_t nr);

/* lz4_span_new() - one for @class, all of it free, without memory. Return: its number; 0: none */
uint32_t lz4_span_new(struct lz4_pool *pool, unsigned int class);

/* lz4_span_delete() - it has no object, and is on no list */
void lz4_span_delete(struct lz4_pool *pool, uint32_t nr);

/* lz4_span_commit() - these pages are to have memory; false: the limit */
bool lz4_span_commit(struct lz4_pool *pool, struct lz4_span *span, uint64_t pages);

/* lz4_span_release() - these, which are idle, are not. Return: how many the kernel took */
unsigned long lz4_span_release(struct lz4_pool *pool, uint32_t nr, uint64_t pages);

#endif
