/* SPDX-License-Identifier: MIT */
/*
 * The lz4 device: device memory that is compressed memory.
 *
 * Pages of the program that migrate there are compressed by LZ4 and packed; they come back
 * when the CPU touches them. A page that repeats one word costs no memory but its
 * descriptor's, one that LZ4 cannot make smaller is kept as it is. The device has memory
 * and nothing else: no page table, no mirror, no thread.
 *
 * What a page costs, with 4 KiB pages: what LZ4 makes of it, rounded up to a size class
 * (0.8 percent on average), and 21 bytes of descriptors and tables. A system page of packed
 * objects is given back when the last one in it is gone; objects do not move. So after many
 * have gone at random, those that are left lie thinly: at worst one object, of any size,
 * holds on to the two pages that it lies in. What is free between them is used for the next
 * pages of that size; and the device never has more memory than its limit.
 *
 * All functions return 0 or a negative errno and write their outputs only on success,
 * unless they say otherwise. Unless said otherwise: Context: any thread, not from an op,
 * and not while holding a lock that an op takes; may sleep. What the caller hands in may
 * lie in any memory, migrated memory too.
 *
 * A process made by fork() has all of its memory, and must call nothing here with a
 * device of its parent.
 */
#ifndef LZ4DEV_H
#define LZ4DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lz4_device;
struct hmm_device;

#define LZ4_ACCELERATION_MAX 65537u
#define LZ4_AROUND_MAX 512u

/**
 * struct lz4_options - what device to make; all zero is a valid device
 * @limit: bytes of system memory that the device may use in all: what it stores, its
 *	tables, the descriptors of its pages. What finds no room stays where it is.
 *	0: no limit of its own
 * @pages: how many pages it can have, however small they get; 0: 8 times @limit or, if
 *	that is 0 too, 4 times the system's memory
 * @acceleration: of LZ4: 1, the default of 0, packs best; more is faster, and larger.
 *	%LZ4_ACCELERATION_MAX at most
 * @around: pages that a CPU fault brings, a window aligned to that size,
 *	%LZ4_AROUND_MAX at most; 0: as many as libhmm proposes: one, and more where the
 *	CPU reads on
 * @check: keep a checksum of each page and compare it on the way back, for tests; 4
 *	bytes a page
 */
struct lz4_options {
	size_t limit;
	unsigned long pages;
	unsigned int acceleration;
	unsigned int around;
	bool check;
};

/**
 * lz4_create() - make a device
 * @out: the device
 * @opt: what kind; NULL: all default
 *
 * Costs some 70 KiB, and 16 bytes for each page as they are needed.
 *
 * Return: 0; -EINVAL options out of range; -ENOMEM no memory, or @limit is less than the
 * device takes when it is empty; what hmm_device_register() and hmm_devmem_add() return.
 */
int lz4_create(struct lz4_device **out, const struct lz4_options *opt);

/**
 * lz4_destroy() - take the device away; what it has comes home first
 * @dev: the device, or NULL. No thread may be using it
 *
 * Return: 0, and @dev is freed; what hmm_devmem_remove() returns, -EBUSY or -ENOMEM, and
 * then it is not: nothing is lost, and the call can be repeated.
 */
int lz4_destroy(struct lz4_device *dev);

/**
 * lz4_migrate() - move a range into the device
 * @dev: the device
 * @start: first address; rounded down to a page
 * @end: end, exclusive; rounded up
 * @result: out, also on error: one enum hmm_migrate_result a page, as far as it came; may
 *	be NULL
 * @pages: out, also on error: pages of the range that are in the device, whenever they
 *	came; may be NULL
 *
 * Pages that have no memory stay (%HMM_MIGRATE_DECLINED): those that were never touched,
 * and the zero page. Memory that the device needs for it is taken from the system before
 * the pages' own goes back.
 *
 * Return: 0, also if some or all stayed; what hmm_migrate_vma() returns.
 */
int lz4_migrate(struct lz4_device *dev, uint64_t start, uint64_t end, uint8_t *result,
		unsigned long *pages);

/**
 * lz4_evict() - bring a range back
 * @start: first address; rounded down to a page
 * @end: end, exclusive; rounded up
 * @pages: out, also on error: how many came; may be NULL
 *
 * Return: 0; what hmm_migrate_to_ram() returns.
 */
int lz4_evict(struct lz4_device *dev, uint64_t start, uint64_t end, unsigned long *pages);

/**
 * struct lz4_stats - what the device has, and what it has done since lz4_create()
 * @pages: pages in the device now
 * @same_filled: of these, those that repeat one word, and are stored as it
 * @plain: of these, those that LZ4 could not make smaller
 * @stored_bytes: what all of them are stored in, same-filled ones as 0 bytes
 * @object_bytes: the same, rounded up to size classes
 * @memory: bytes of system memory that the device has now, in all: at most its limit
 * @memory_peak: the most it ever had
 * @packed_bytes: of @memory, the pages that objects are packed in, those that are
 *	kept ready too. The rest is tables, descriptors and compressors
 * @idle_bytes: of @packed_bytes, what is kept ready
 * @capacity: pages for which there are descriptors now
 * @pages_in: pages that came, ever
 * @pages_out: pages that were copied back, ever; one that a process made by _Fork() got
 *	counts too
 * @declined: pages that had no room, ever
 * @lost: pages that could not be read back, ever: the device's memory was damaged.
 *	Should be 0
 */
struct lz4_stats {
	uint64_t pages;
	uint64_t same_filled;
	uint64_t plain;
	uint64_t stored_bytes;
	uint64_t object_bytes;
	uint64_t memory;
	uint64_t memory_peak;
	uint64_t packed_bytes;
	uint64_t idle_bytes;
	uint64_t capacity;
	uint64_t pages_in;
	uint64_t pages_out;
	uint64_t declined;
	uint64_t lost;
};

/**
 * lz4_get_stats() - read the counters
 *
 * A page that the CPU took back leaves @pages a moment after the CPU goes on.
 *
 * Context: any.
 */
void lz4_get_stats(struct lz4_device *dev, struct lz4_stats *stats);

/** lz4_hmm_device() - the device as libhmm knows it, for hmm_migrate_*() by hand */
struct hmm_device *lz4_hmm_device(struct lz4_device *dev);

#ifdef __cplusplus
}
#endif

#endif
