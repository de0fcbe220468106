/* SPDX-License-Identifier: MIT */
/*
 * Inside the lz4 device.
 *
 * All of its state lies in the arena: callbacks run while libhmm waits for them, and must
 * not touch what only libhmm could bring back. They run at the same time in several
 * threads, and share no lock for longer than it takes to find a place in a list.
 *
 * What is known of a device page is one word, its entry, kept in the data of its
 * descriptor. It is written by the thread that stores the page, before libhmm gets the
 * page, and reset by free(); in between it is constant.
 *
 * Locks:
 *
 *   dev->grow	adding regions; no callback takes it, and it is held while libhmm is called
 *   dev->lock	the compressors that nobody uses; a leaf
 *   those of the pool, see pool.c; leaves
 */
#ifndef LZ4_INTERNAL_H
#define LZ4_INTERNAL_H

#include <pthread.h>

#include <hmm/hmm.h>

#include "lz4dev.h"
#include "lz4_pool.h"

#define LZ4_REGIONS_MAX 64u

/**
 * struct lz4_region - descriptors of some of the device's pages; see region.c
 * @devmem: of libhmm
 * @dev: the device; constant
 * @sum: checksums by page number, with opt.check; else NULL
 * @bytes: what is charged for it; constant
 */
struct lz4_region {
	struct hmm_devmem devmem;
	struct lz4_device *dev;
	uint32_t *sum;
	uint64_t bytes;
};

/**
 * struct lz4_compressor - what one thread needs to compress; see engine.c
 * @next: on the list of those that nobody uses
 * @out: a page, for what comes of it
 * @state: LZ4's
 */
struct lz4_compressor {
	struct lz4_compressor *next;
	char *out;
	char *state;
};

/**
 * struct lz4_counters - see struct lz4_stats; atomic
 */
struct lz4_counters {
	uint64_t pages;
	uint64_t same_filled;
	uint64_t plain;
	uint64_t stored_bytes;
	uint64_t pages_in;
	uint64_t pages_out;
	uint64_t declined;
	uint64_t lost;
};

/**
 * struct lz4_device - the device
 * @device: what libhmm knows it by
 * @opt: as given, completed; constant
 * @page_size: constant
 * @page_shift: constant
 * @plain_from: compressed to so many bytes or more, a page is stored plain; constant
 * @account: all of its memory
 * @pool: where objects are
 * @grow: see above
 * @wanted: pages that lz4_migrate() calls under way may need; atomic
 * @capacity: pages of all regions; under @grow, read as an atomic
 * @regions: how many there are; written under @grow, read as an atomic
 * @last: the region that had a page last; a hint, atomic
 * @region: see above; those below @regions are constant
 * @lock: see above
 * @compressors: that nobody uses
 * @count: see above
 */
struct lz4_device {
	struct hmm_device device;
	struct lz4_options opt;
	unsigned long page_size;
	unsigned int page_shift;
	unsigned int plain_from;
	struct lz4_account account;
	struct lz4_pool pool;
	pthread_mutex_t grow;
	unsigned long wanted;
	unsigned long capacity;
	unsigned int regions;
	unsigned int last;
	struct lz4_region region[LZ4_REGIONS_MAX];
	pthread_mutex_t lock;
	struct lz4_compressor *compressors;
	struct lz4_counters count;
};

static inline void lz4_count(uint64_t *counter, uint64_t n)
{
	if (n)
		__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* ---- engine.c ---- */

/* lz4_engine_init() - the first compressor. Return: 0 or -ENOMEM */
int lz4_engine_init(struct lz4_device *dev);
void lz4_engine_fini(struct lz4_device *dev);

/* The ops that copy; see migrate.h and devmem.h */
int lz4_copy_in(struct lz4_device *dev, const hmm_pte_t *src, hmm_pte_t *dst, unsigned long n);
int lz4_copy_out(struct hmm_devmem *devmem, enum hmm_etype etype, const hmm_pte_t *src,
		 hmm_pte_t *dst, unsigned long start, unsigned long end);

/* lz4_entry_free() - what @page holds is not needed any more */
void lz4_entry_free(struct lz4_device *dev, struct hmm_page *page);

/* ---- region.c ---- */

/* lz4_regions_add() - descriptors for one page at least. Return: as hmm_devmem_add() */
int lz4_regions_add(struct lz4_device *dev);

/* lz4_regions_remove() - all; what is there comes home. Return: as hmm_devmem_remove() */
int lz4_regions_remove(struct lz4_device *dev);

/*
 * lz4_regions_want() - @pages pages are about to come; see to descriptors for them
 *
 * For so many pages as there can be: what finds none stays. To be followed by
 * lz4_regions_done().
 */
void lz4_regions_want(struct lz4_device *dev, unsigned long pages);
void lz4_regions_done(struct lz4_device *dev, unsigned long pages);

/* lz4_page_alloc() - a page of any region, or NULL. For callbacks */
struct hmm_page *lz4_page_alloc(struct lz4_device *dev);

static inline struct lz4_region *lz4_region_of(const struct hmm_page *page)
{
	return hmm_container_of(hmm_page_devmem(page), struct lz4_region, devmem);
}

#endif
