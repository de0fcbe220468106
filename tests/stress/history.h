/* SPDX-License-Identifier: MIT */
/*
 * What each page held, and when.
 *
 * A change is entered before it is made (begun) and counted after it (done), by who
 * holds the page's lock. A read that takes no lock must give something that the page
 * held between what was done when it began and what was begun when it ended.
 */
#ifndef TESTS_HISTORY_H
#define TESTS_HISTORY_H

#include "stress/stress.h"

#define PAGES 96
#define HISTORY 64
#define NOTHING (~0ull) /* no read gets through */

struct page {
	pthread_mutex_t lock;
	atomic_ulong begun, done;
	_Atomic uint64_t history[HISTORY];
};

static struct page pages[PAGES];

/* ---- with the page's lock held ---- */

static inline void begin(size_t i, uint64_t holds)
{
	unsigned long n = atomic_load(&pages[i].begun) + 1;

	atomic_store(&pages[i].history[n % HISTORY], holds);
	atomic_store(&pages[i].begun, n);
}

static inline void end(size_t i)
{
	atomic_store(&pages[i].done, atomic_load(&pages[i].begun));
}

static inline uint64_t holds(size_t i)
{
	return atomic_load(&pages[i].history[atomic_load(&pages[i].done) % HISTORY]);
}

static inline void begin_all(size_t first, size_t n, uint64_t what)
{
	for (; n; n--)
		begin(first++, what);
}

static inline void end_all(size_t first, size_t n)
{
	for (; n; n--)
		end(first++);
}

static inline void lock(size_t first, size_t n)
{
	for (; n; n--)
		pthread_mutex_lock(&pages[first++].lock);
}

static inline void unlock(size_t first, size_t n)
{
	for (; n; n--)
		pthread_mutex_unlock(&pages[first++].lock);
}

static inline uint64_t next_value(size_t i)
{
	return (uint64_t)(i + 1) << 40 | (atomic_load(&pages[i].begun) + 1);
}

/* Is @val something the page held between @from and now? -1: the history is too short. */
static inline int held_since(size_t i, unsigned long from, uint64_t val)
{
	struct page *page = &pages[i];
	unsigned long to = atomic_load(&page->begun), n;
	bool found = false;

	for (n = from; n <= to && to - from < HISTORY && !found; n++)
		found = atomic_load(&page->history[n % HISTORY]) == val;
	return atomic_load(&page->begun) - from >= HISTORY ? -1 : found;
}

/* Low, where no other mapping of the process is ever put into a hole. */
static inline unsigned char *map_low(void)
{
	unsigned char *at = (void *)0x40000000, *mem = MAP_FAILED;
	int i;

	for (i = 0; i < 64 && mem == MAP_FAILED; i++, at += 8 * MIB)
		mem = mmap(at, PAGES * hmm_page_size(), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	return mem;
}

#endif
