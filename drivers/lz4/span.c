/* SPDX-License-Identifier: MIT */
/*
 * Spans, the chunks they are cut from, and which of their pages have memory.
 *
 * A chunk is one mapping of 32 MiB. It is never given back before the pool is: without
 * memory it is address space, which costs nothing. A page is charged before it is first
 * touched, and uncharged when the kernel has taken it back; where the kernel refuses, as
 * for locked memory, it stays resident, and charged.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hmm/driver.h>

#include "lz4_pool.h"

#ifdef HMM_DEBUG
/* No stdio: its memory may be away. */
void lz4_bug(const char *what)
{
	static const char text[] = "lz4 device: not true: ";
	ssize_t ignored = write(2, text, sizeof(text) - 1);

	ignored += write(2, what, strlen(what));
	ignored += write(2, "\n", 1);
	(void)ignored;
	__builtin_trap();
}
#endif

bool lz4_charge(struct lz4_account *account, uint64_t bytes)
{
	uint64_t now = __atomic_add_fetch(&account->used, bytes, __ATOMIC_RELAXED);
	uint64_t peak = __atomic_load_n(&account->peak, __ATOMIC_RELAXED);

	if (account->limit && now > account->limit) {
		lz4_uncharge(account, bytes);
		return false;
	}
	while (now > peak && !__atomic_compare_exchange_n(&account->peak, &peak, now, true,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return true;
}

void lz4_uncharge(struct lz4_account *account, uint64_t bytes)
{
	__atomic_fetch_sub(&account->used, bytes, __ATOMIC_RELAXED);
}

struct lz4_span *lz4_span(const struct lz4_pool *pool, uint32_t nr)
{
	return &pool->chunk[nr / LZ4_CHUNK_SPANS]->span[nr % LZ4_CHUNK_SPANS];
}

char *lz4_span_memory(const struct lz4_pool *pool, uint32_t nr)
{
	return pool->chunk[nr / LZ4_CHUNK_SPANS]->memory +
	       nr % LZ4_CHUNK_SPANS * lz4_span_bytes(pool);
}

/* Context: pool->lock held. */
static bool chunk_there(const struct lz4_pool *pool, uint32_t nr)
{
	return nr < LZ4_CHUNKS_MAX && pool->chunk[nr];
}

/* Context: pool->lock held. */
static bool chunk_make(struct lz4_pool *pool, uint32_t nr)
{
	size_t bytes = LZ4_CHUNK_SPANS * lz4_span_bytes(pool);
	struct lz4_chunk *chunk;

	if (nr >= LZ4_CHUNKS_MAX || !lz4_charge(pool->account, sizeof(*chunk)))
		return false;
	chunk = hmm_alloc(sizeof(*chunk));
	if (!chunk)
		goto uncharge;
	chunk->memory = hmm_map(bytes);
	if (!chunk->memory)
		goto free;
	/* A huge page would be more memory than was charged. */
	madvise(chunk->memory, bytes, MADV_NOHUGEPAGE);
	pool->chunk[nr] = chunk;
	return true;

free:
	hmm_free(chunk);
uncharge:
	lz4_uncharge(pool->account, sizeof(*chunk));
	return false;
}

static uint32_t span_take(struct lz4_pool *pool)
{
	uint32_t nr;

	pthread_mutex_lock(&pool->lock);
	nr = pool->free;
	if (nr) {
		pool->free = lz4_span(pool, nr)->next;
	} else {
		nr = pool->carved;
		if (chunk_there(pool, nr / LZ4_CHUNK_SPANS) ||
		    chunk_make(pool, nr / LZ4_CHUNK_SPANS))
			__atomic_store_n(&pool->carved, nr + 1, __ATOMIC_RELEASE);
		else
			nr = 0;
	}
	pthread_mutex_unlock(&pool->lock);
	return nr;
}

static void span_put(struct lz4_pool *pool, uint32_t nr)
{
	struct lz4_span *span = lz4_span(pool, nr);

	pthread_mutex_lock(&pool->lock);
	span->next = pool->free;
	pool->free = nr;
	pthread_mutex_unlock(&pool->lock);
}

static size_t map_bytes(const struct lz4_class *class)
{
	return (class->objects + 63) / 64 * sizeof(uint64_t);
}

static void map_fill(uint64_t *map, unsigned int objects)
{
	unsigned int i;

	for (i = 0; i < objects / 64; i++)
		map[i] = ~0ull;
	if (objects % 64)
		map[i] = (1ull << objects % 64) - 1;
}

uint32_t lz4_span_new(struct lz4_pool *pool, unsigned int class)
{
	struct lz4_class *cl = &pool->class[class];
	size_t bytes = map_bytes(cl);
	struct lz4_span *span;
	uint64_t *map;
	uint32_t nr;

	if (!lz4_charge(pool->account, bytes))
		return 0;
	map = hmm_alloc(bytes);
	nr = map ? span_take(pool) : 0;
	if (!nr) {
		hmm_free(map);
		lz4_uncharge(pool->account, bytes);
		return 0;
	}
	map_fill(map, cl->objects);
	span = lz4_span(pool, nr);
	span->free = map;
	span->used = 0;
	span->first = 0;
	span->group = LZ4_GROUPS;
	__atomic_store_n(&span->class, (uint8_t) class, __ATOMIC_RELEASE);
	return nr;
}

/* What the kernel does not take back stays with the span, for its next class. */
void lz4_span_delete(struct lz4_pool *pool, uint32_t nr)
{
	struct lz4_span *span = lz4_span(pool, nr);

	lz4_span_release(pool, nr, span->resident);
	hmm_free(span->free);
	span->free = NULL;
	lz4_uncharge(pool->account, map_bytes(&pool->class[span->class]));
	__atomic_store_n(&span->class, LZ4_CLASS_NONE, __ATOMIC_RELAXED);
	span_put(pool, nr);
}

bool lz4_span_commit(struct lz4_pool *pool, struct lz4_span *span, uint64_t pages)
{
	uint64_t more = pages & ~span->resident;
	unsigned int n = (unsigned int)__builtin_popcountll(more);

	if (!n)
		return true;
	if (!lz4_charge(pool->account, (uint64_t)n << pool->page_shift))
		return false;
	span->resident |= more;
	__atomic_fetch_add(&pool->resident, n, __ATOMIC_RELAXED);
	__atomic_fetch_add(&pool->idle, n, __ATOMIC_RELAXED);
	return true;
}

/* The lowest bits of @pages that are set in a row, from *@first on. */
static uint64_t next_run(uint64_t pages, unsigned int *first, unsigned int *n)
{
	uint64_t rest;

	*first = (unsigned int)__builtin_ctzll(pages);
	rest = ~(pages >> *first);
	*n = rest ? (unsigned int)__builtin_ctzll(rest) : 64;
	return (*n == 64 ? ~0ull : (1ull << *n) - 1) << *first;
}

unsigned long lz4_span_release(struct lz4_pool *pool, uint32_t nr, uint64_t pages)
{
	struct lz4_span *span = lz4_span(pool, nr);
	char *memory = lz4_span_memory(pool, nr);
	unsigned int first, n, gone = 0;
	uint64_t run;

	for (; pages; pages &= ~run) {
		run = next_run(pages, &first, &n);
		if (madvise(memory + ((size_t)first << pool->page_shift),
			    (size_t)n << pool->page_shift, MADV_DONTNEED))
			continue;
		span->resident &= ~run;
		gone += n;
	}
	__atomic_fetch_sub(&pool->resident, gone, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&pool->idle, gone, __ATOMIC_RELAXED);
	lz4_uncharge(pool->account, (uint64_t)gone << pool->page_shift);
	return gone;
}
