/* SPDX-License-Identifier: MIT */
/*
 * regcache: a cache of memory registrations that stays right.
 *
 * A network card that moves data without the CPU wants memory registered first:
 * its pages are pinned, and the card is told where they are. That is slow, so the
 * libraries of such cards keep registrations and use them again, found by address.
 * But the address may by then be another page's: the program has freed the memory,
 * or mapped something over it, or given the page back. Then the card goes on with
 * the old page, and nobody notices until the data is wrong. To hear of it such
 * libraries replace malloc(), free() and munmap(); that misses whatever does not go
 * through them.
 *
 * With libhmm the cache is a mirror, and hears it from the kernel.
 *
 *	regcache.c	the driver: the cache's side of hmm/mirror.h
 *	regcache_reg.c	the registrations it has
 *	regcache_card.c	the card
 *	regcache_work.c	a program that has its memory transferred
 *	regcache_change.c	and does to it all that programs do
 *	regcache_main.c	options, set-up, the table at the end
 *
 * The same cache without libhmm works beside it, to be compared.
 */
#ifndef REGCACHE_H
#define REGCACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include <bsd/sys/tree.h>
#include <liburing.h>

#include <hmm/hmm.h>

#define RC_SLOTS 256u /* registrations that a card can hold */
#define RC_PINNED_MAX ((size_t)2 << 20) /* bytes that a cache keeps registered */
#define RC_WINDOW ((size_t)128 << 10) /* the largest transfer */

/**
 * struct rc_card - a card
 * @ring: the card itself; its fixed buffers are the registrations
 * @lock: one transfer at a time; a leaf
 * @wire_fd: a memory file that plays the wire
 * @wire: the same, for the CPU to look at
 * @wire_size: its size
 */
struct rc_card {
	struct io_uring ring;
	pthread_mutex_t lock;
	int wire_fd;
	unsigned char *wire;
	size_t wire_size;
};

/* Which way, as the card sees it. */
enum rc_dir { RC_READ_MEMORY, RC_WRITE_MEMORY };

/* regcache_card.c; all return 0 or a negative errno */
int rc_card_init(struct rc_card *card, size_t wire_size);
void rc_card_fini(struct rc_card *card);
int rc_card_pin(struct rc_card *card, unsigned int slot, unsigned long start, unsigned long end);
void rc_card_unpin(struct rc_card *card, unsigned int slot);
int rc_card_transfer(struct rc_card *card, unsigned int slot, unsigned long addr, size_t len,
		     size_t wire, enum rc_dir dir);

/**
 * struct rc_reg - a registration, and the slot of the card that it is in
 * @node: in cache->tree, while the card has it
 * @link: in cache->lru with @node, in cache->free when nobody has it
 * @start: first address
 * @end: end, exclusive
 * @slot: of the card; the index of this struct
 * @refs: rc_get() less rc_put()
 * @transfers: under way
 * @pinned: the card has it
 * @gone: it is not to be found any more
 * @dirty: the card may have written
 */
struct rc_reg {
	RB_ENTRY(rc_reg) node;
	TAILQ_ENTRY(rc_reg) link;
	unsigned long start;
	unsigned long end;
	unsigned int slot;
	unsigned int refs;
	unsigned int transfers;
	bool pinned;
	bool gone;
	bool dirty;
};

RB_HEAD(rc_tree, rc_reg);
TAILQ_HEAD(rc_list, rc_reg);

struct rc_stats {
	uint64_t lookups;
	uint64_t hits;
	uint64_t registrations;
	uint64_t invalidated;
	uint64_t evicted;
};

/**
 * struct rc_cache - the driver: a card and its registrations
 * @device: what libhmm knows of the card
 * @mirror: this process as the card sees it
 * @card: the card
 * @naive: no libhmm: nobody says when a registration ends
 * @fill: naive only: one registration at a time
 * @lock: all that follows, and the registrations; a leaf but for the card
 * @changed: a registration that was gone is no longer pinned, or is not used
 * @tree: by address; they never overlap
 * @lru: the same, the one used last at the end
 * @free: those not in use
 * @pinned: bytes
 * @stats: for the table
 * @reg: all of them
 *
 * From hmm_alloc(), as all that an op touches.
 */
struct rc_cache {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct rc_card card;
	bool naive;
	pthread_mutex_t fill;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct rc_tree tree;
	struct rc_list lru;
	struct rc_list free;
	size_t pinned;
	struct rc_stats stats;
	struct rc_reg reg[RC_SLOTS];
};

/* regcache_reg.c; with @cache->lock held: */
struct rc_reg *rc_reg_first(struct rc_cache *cache, unsigned long addr);
void rc_reg_unpin(struct rc_cache *cache, struct rc_reg *reg);
/* without: */
int rc_register_range(struct rc_cache *cache, unsigned long start, unsigned long end);
struct rc_reg *rc_reg_lookup(struct rc_cache *cache, unsigned long addr);
struct rc_reg *rc_reg_victim(struct rc_cache *cache, bool *dirty);
void rc_reg_evict(struct rc_cache *cache, struct rc_reg *reg);
bool rc_reg_room(struct rc_cache *cache, size_t bytes);
void rc_put(struct rc_cache *cache, struct rc_reg *reg);
void rc_get_stats(struct rc_cache *cache, struct rc_stats *stats);

/* regcache.c */
int rc_create(struct rc_cache **cache, size_t wire_size, bool naive);
int rc_destroy(struct rc_cache *cache);
int rc_get(struct rc_cache *cache, unsigned long addr, size_t len, struct rc_reg **reg);
int rc_transfer(struct rc_cache *cache, struct rc_reg *reg, unsigned long addr, size_t len,
		size_t wire, enum rc_dir dir);
int rc_rdma(struct rc_cache *cache, unsigned long addr, size_t len, size_t wire, enum rc_dir dir);

/* What the program last did to a piece of memory, before a transfer. */
enum rc_change {
	RC_NOTHING,
	RC_RENEW,
	RC_REALLOC,
	RC_MMAP_OVER,
	RC_MMAP_AGAIN,
	RC_MREMAP,
	RC_DONTNEED,
	RC_TRIM,
	RC_FORK,
	RC_CHANGES,
};

enum { RC_LIBHMM, RC_NAIVE, RC_CACHES };

/**
 * struct rc_counts - what the work brought
 * @changes: made
 * @transfers: checked
 * @stale: of these, to or from the wrong memory; by what was done to it before
 * @strange: transfers by somebody else than the owner, unchecked
 * @damaged: memory that changed by itself, in the parent or in a child
 * @errors: transfers and calls that failed
 */
struct rc_counts {
	uint64_t changes[RC_CHANGES];
	uint64_t transfers[RC_CACHES];
	uint64_t stale[RC_CACHES][RC_CHANGES];
	uint64_t strange;
	uint64_t damaged;
	uint64_t errors;
};

struct rc_options {
	unsigned int threads;
	uint64_t seed;
	uint64_t rounds; /* of each thread; 0: until the time is over */
	double seconds;
};

/* regcache_work.c */
int rc_work(const struct rc_options *opt, struct rc_cache *const cache[RC_CACHES],
	    struct rc_counts *counts);

#endif
