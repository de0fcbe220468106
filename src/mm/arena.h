/* SPDX-License-Identifier: MIT */
/*
 * The arena: memory that libhmm and drivers may touch from a callback, because
 * it is never migrated and never shared with the program's malloc. The essay is
 * in arena.c; hmm_alloc(), hmm_free(), hmm_map() and hmm_unmap() are in
 * include/hmm/driver.h.
 */
#ifndef HMM_MM_ARENA_H
#define HMM_MM_ARENA_H

#include <pthread.h>
#include <stdbool.h>

#include <hmm/driver.h>

/*
 * For each mutable global of the library, zero or not. A page of .bss is
 * anonymous memory and could be migrated like any other; .data of a file cannot
 * be registered with userfaultfd and so never goes away.
 */
#define HMM_DATA __attribute__((section(".data")))

/* geometry.c: read for everything, so nothing in its cache line is ever written. */
extern struct geometry {
	unsigned int page_shift; /* 0: not asked for yet */
} __attribute__((aligned(64))) geometry;

/* What drivers call is a load here. */
static inline unsigned int geometry_page_shift(void)
{
	unsigned int shift = __atomic_load_n(&geometry.page_shift, __ATOMIC_RELAXED);

	return __builtin_expect(!!shift, 1) ? shift : hmm_page_shift();
}

#define hmm_page_shift() geometry_page_shift()
#define hmm_page_size() (1ul << geometry_page_shift())

#if defined(__SANITIZE_ADDRESS__)
#define HMM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HMM_ASAN 1
#endif
#endif

#if defined(__SANITIZE_THREAD__)
#define HMM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HMM_TSAN 1
#endif
#endif

/*
 * A check that only debug builds make. It must not touch malloc or stdio, which
 * assert(3) does: the memory they use may be away, and the thread that would
 * bring it back may be the one that failed.
 */
#define HMM_ASSERT_STR2(x) #x
#define HMM_ASSERT_STR(x) HMM_ASSERT_STR2(x)
#ifdef HMM_DEBUG
void hmm_assert_failed(const char *what) __attribute__((noreturn, cold));
#define HMM_ASSERT(cond)    \
	((cond) ? (void)0 : \
		  hmm_assert_failed(__FILE__ ":" HMM_ASSERT_STR(__LINE__) ": " #cond "\n"))
#else
#define HMM_ASSERT(cond) ((void)(false && (cond)))
#endif

/* For a lock that ops or the monitor take too, where signals may not be blocked yet. */
static inline void signals_lock(pthread_mutex_t *lock)
{
	hmm_signals_block();
	pthread_mutex_lock(lock);
}

static inline void signals_unlock(pthread_mutex_t *lock)
{
	pthread_mutex_unlock(lock);
	hmm_signals_unblock();
}

/**
 * arena_overlaps() - does [@start, @end) touch the arena, guard pages included
 * Context: any.
 */
bool arena_overlaps(unsigned long start, unsigned long end);

/**
 * arena_next() - the first piece of the arena in a range
 * @start: in: start of the range; out: start of the piece
 * @end: in: end of the range, exclusive; out: end of the piece
 *
 * The piece is clipped to the range. To step over all of them::
 *
 *	for (s = start, e = end; arena_next(&s, &e); s = e, e = end)
 *		... [s, e) is not to be touched ...
 *
 * Pieces that touch each other are returned one by one.
 *
 * Return: false if there is none; nothing is written then.
 * Context: any. The answer can be old when it comes, but a mapping of the arena
 * that could be seen in /proc/self/maps before the call is told.
 */
bool arena_next(unsigned long *start, unsigned long *end);

/**
 * arena_bytes() - bytes of the small-object slabs in use, holes included
 * Context: any. For statistics and tests.
 */
unsigned long arena_bytes(void);

/**
 * arena_fork_child() - in a child of fork(): start a new arena
 *
 * What was allocated before stays readable and is never freed.
 *
 * Context: pthread_atfork() child handler.
 */
void arena_fork_child(void);

#endif
