/* SPDX-License-Identifier: MIT */
/*
 * The dummy device: the reference driver, a device in software.
 *
 * It has what a real one has: a page table of its own, memory of its own that
 * the CPU has no pointer to, a copy engine, an IOMMU if it is wanted, and threads
 * that run a caller's function. Such a function reads and writes the process's memory with
 * dummy_load() and dummy_store(), by plain addresses; each goes through the
 * device's translation and takes a device fault where there is none. Nothing
 * else here ever uses a program's pointer: not to read ahead, not to copy.
 *
 * Addresses are uint64_t and not pointers on purpose: what a device may only
 * reach by translation should not look as if one could dereference it.
 *
 * All functions return 0 or a negative errno and write their outputs only on
 * success. Unless said otherwise: Context: any thread, the device's own
 * included; not from an op or a log callback; may sleep. Buffers and structs
 * given by the caller may lie in any memory, migrated memory too. The stack of
 * a calling thread must not be migrated (libhmm never does so by itself).
 */
#ifndef DUMMY_H
#define DUMMY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hmm/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dummy_device;
struct hmm_mirror;

/**
 * enum dummy_fail - where the device can be made to fail, for tests
 * @DUMMY_FAIL_UPDATE: update() returns -EIO. For an invalidation, which kills the
 *	mirror, the device is reset: it drops all of its translations
 * @DUMMY_FAIL_COPY_TO: copy_to_device() returns -EIO and has copied nothing
 * @DUMMY_FAIL_COPY_FROM: copy_from_device() returns -EIO and has copied nothing
 * @DUMMY_FAIL_PAGE: copy_from_device() loses one page of those it was to copy
 * @DUMMY_FAIL_ALLOC: no device page is to be had; the page stays in system memory
 * @DUMMY_FAIL_DMA: dma_map() returns -ENOMEM and has mapped nothing
 * @DUMMY_FAIL_DMA_PAGE: dma_map() does not map one page of those it was to map
 * @DUMMY_FAIL_PEER: a page of another device is not taken from there
 * @DUMMY_FAIL_RUN: no run of 2 MiB is to be had
 * @DUMMY_FAIL_EVICT: a full device names nothing that should go home
 * @DUMMY_FAIL_LOST: the device is lost in the middle of the program's work, as by
 *	dummy_lost(): when update(), one of the copies, dma_map() or evict() begins
 */
enum dummy_fail {
	DUMMY_FAIL_UPDATE,
	DUMMY_FAIL_COPY_TO,
	DUMMY_FAIL_COPY_FROM,
	DUMMY_FAIL_PAGE,
	DUMMY_FAIL_ALLOC,
	DUMMY_FAIL_DMA,
	DUMMY_FAIL_DMA_PAGE,
	DUMMY_FAIL_PEER,
	DUMMY_FAIL_RUN,
	DUMMY_FAIL_EVICT,
	DUMMY_FAIL_LOST,
	DUMMY_FAIL_TYPES,
};

#define DUMMY_MEMORY_DEFAULT ((size_t)256 << 20)
#define DUMMY_WINDOW_DEFAULT 16u

/**
 * struct dummy_options - what device to make; all zero is a valid device
 * @memory: bytes of device memory, rounded up to pages; 0: none, and then
 *	dummy_migrate() gives -EOPNOTSUPP. Memory is taken as it is used
 * @fault_window: pages that one device fault asks for, aligned to that size;
 *	0: %DUMMY_WINDOW_DEFAULT. Where the window cannot be had as a whole the
 *	fault is for the one page
 * @copy_delay_us: each copy op sleeps so long first; implies @not_prompt
 * @not_prompt: do not set %HMM_DEVICE_PROMPT
 * @scrub: fill a device page with 0xa5 when it is freed
 * @iommu: the device reaches system memory through an IOMMU, by DMA addresses that
 *	its driver maps; see struct dummy_stats for what that counts
 * @peer: the copy engine takes pages straight from another dummy device's memory
 * @evict: when its memory is full, what it has not used for long goes home
 * @read_only: dummy_migrate_vma() takes read-only memory too (%HMM_MIGRATE_READ_ONLY)
 * @around: pages that a CPU fault brings, a window aligned to that size; 0: as many as
 *	libhmm proposes
 * @runs: 2 MiB that come as a whole get 2 MiB of device memory in one piece, if there
 *	is one
 * @coherent: the CPU can address the device's memory: a single page that it wants is read
 *	there, without the copy engine
 * @looks_up: what comes back is looked up in the mirror's table, by the device's
 *	copy_from_device(), not handed to that of its regions
 * @regions: the memory is so many regions, each used when those before it are full;
 *	0: 1. At most 16, and no more than there are pages
 * @fail: for each enum dummy_fail, the number, from 1, of the call that fails;
 *	0: none. dummy_inject() does so later on
 */
struct dummy_options {
	size_t memory;
	unsigned int fault_window;
	unsigned int copy_delay_us;
	bool not_prompt;
	bool scrub;
	bool iommu;
	bool peer;
	bool evict;
	bool runs;
	bool read_only;
	unsigned int around;
	bool coherent;
	bool looks_up;
	unsigned int regions;
	unsigned long fail[DUMMY_FAIL_TYPES];
};

/**
 * dummy_create() - make a device and mirror the process on it
 * @out: the device
 * @opt: what kind; NULL: %DUMMY_MEMORY_DEFAULT of memory, the rest default
 *
 * Return: 0; what hmm_device_register(), hmm_devmem_add() and
 * hmm_mirror_register() return; -ENOMEM; -EINVAL options out of range; or the
 * errno of opening /proc/self/mem, which is how the device reaches memory.
 */
int dummy_create(struct dummy_device **out, const struct dummy_options *opt);

/**
 * dummy_destroy() - take the device away; its memory's content comes back first
 * @dev: the device, or NULL. No thread may be using it
 *
 * A process made by fork() must not call it, nor anything else here, with a
 * device of its parent.
 *
 * Return: 0, and @dev is freed; what the unregister calls return, and then it
 * is not, and the call can be repeated.
 */
int dummy_destroy(struct dummy_device *dev);

/**
 * dummy_lost() - the device is unplugged
 * @dev: the device; dummy_destroy() it afterwards
 *
 * It drops all translations, its copy engine stops, what is in its memory is gone, and
 * libhmm is told (hmm_device_lost()). Calls for it that touch memory give -ENODEV.
 *
 * Return: 0, also the second time. Context: any thread, not with a lock of libhmm held.
 */
int dummy_lost(struct dummy_device *dev);

/**
 * dummy_load() - the device reads process memory
 * @dev: the device
 * @addr: address in the process; any alignment, page crossing is fine
 * @buf: out; some of it may be written on error
 * @len: bytes
 *
 * In device memory, naturally aligned words of 2, 4 and 8 bytes are read whole,
 * never torn. System memory is read as by DMA, without that promise.
 *
 * Memory whose changes libhmm cannot hear of, a regular file's for one, takes a
 * device fault at each access.
 *
 * Return: 0; what hmm_mirror_fault() returns for %HMM_DEVICE_RFAULT: -EFAULT
 * not mapped or not readable, -ENODEV the mirror was killed, …; -EBUSY only after
 * many tries; -EFAULT also where the translation was lost 1000 times before it
 * could be used; -ENOMEM or -EIO where dma_map() could not map the page; -EIO an
 * IOMMU fault.
 */
int dummy_load(struct dummy_device *dev, uint64_t addr, void *buf, size_t len);

/**
 * dummy_store() - the device writes process memory
 *
 * As dummy_load(), with %HMM_DEVICE_WFAULT; on error a part that ends at a page
 * boundary may be written.
 */
int dummy_store(struct dummy_device *dev, uint64_t addr, const void *buf, size_t len);

/**
 * dummy_load_present() - the device reads as far as its page table goes
 * @done: out, on error too: bytes that were read
 *
 * As dummy_load(), but takes no device fault. For who faults by himself, a range at
 * once: hmm_mirror_fault() with dummy_mirror().
 *
 * Return: 0; -EAGAIN there is no translation at @addr + *@done, or not any more; -EFAULT
 * the range is none; -EIO an IOMMU fault.
 */
int dummy_load_present(struct dummy_device *dev, uint64_t addr, void *buf, size_t len,
		       size_t *done);

/** dummy_store_present() - the same for dummy_store(): -EAGAIN also where it may only read */
int dummy_store_present(struct dummy_device *dev, uint64_t addr, const void *buf, size_t len,
			size_t *done);

/**
 * dummy_fetch_add_u64() - the device adds to a word
 * @dev: the device
 * @addr: address, a multiple of 8
 * @delta: what to add
 * @old: out: the value before; may be NULL
 *
 * Atomic against dummy_fetch_add_u64() by other threads of this device, and
 * while the page is in device memory against their stores as well. Not atomic
 * against the CPU or another device: see dummy_atomic_add_u64().
 *
 * Return: as dummy_store(); -EINVAL @addr is not aligned.
 */
int dummy_fetch_add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old);

/**
 * dummy_atomic_add_u64() - the same, atomic also against the CPU and other devices
 *
 * Takes the page for the device alone (%HMM_DEVICE_EXCLUSIVE) where it is neither so nor in
 * the device's memory. Whoever wants it next takes it back.
 *
 * Return: as dummy_fetch_add_u64(), -EBUSY also for a page that is pinned; -EOPNOTSUPP the
 * page cannot be the device's alone: it is of a file, shared or on a stack, or not mapped
 * for writing.
 */
int dummy_atomic_add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old);

/**
 * dummy_exclusive() - take a range for the device alone
 * @start: first address; rounded down to a page
 * @end: end, exclusive; rounded up
 * @pages: out: pages of the range that are the device's; may be NULL
 *
 * Return: 0, also if that is true of some or none; what hmm_mirror_fault() returns for
 * %HMM_DEVICE_EXCLUSIVE.
 */
int dummy_exclusive(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages);

/**
 * dummy_exclusive_pages() - how much of a range the device has for itself, just now
 * @pages: out: pages that it may use so, in system memory or its own
 *
 * Return: 0.
 */
int dummy_exclusive_pages(struct dummy_device *dev, uint64_t start, uint64_t end,
			  unsigned long *pages);

static inline int dummy_load_u8(struct dummy_device *dev, uint64_t addr, uint8_t *val)
{
	return dummy_load(dev, addr, val, sizeof(*val));
}

static inline int dummy_load_u32(struct dummy_device *dev, uint64_t addr, uint32_t *val)
{
	return dummy_load(dev, addr, val, sizeof(*val));
}

static inline int dummy_load_u64(struct dummy_device *dev, uint64_t addr, uint64_t *val)
{
	return dummy_load(dev, addr, val, sizeof(*val));
}

static inline int dummy_store_u8(struct dummy_device *dev, uint64_t addr, uint8_t val)
{
	return dummy_store(dev, addr, &val, sizeof(val));
}

static inline int dummy_store_u32(struct dummy_device *dev, uint64_t addr, uint32_t val)
{
	return dummy_store(dev, addr, &val, sizeof(val));
}

static inline int dummy_store_u64(struct dummy_device *dev, uint64_t addr, uint64_t val)
{
	return dummy_store(dev, addr, &val, sizeof(val));
}

/**
 * dummy_run() - run a function on the device
 * @dev: the device
 * @nthreads: on so many of its threads at once
 * @fn: gets the thread's number, from 0, and @arg; returns 0 or a negative errno
 * @arg: handed on
 *
 * Waits for all of them. They are ordinary threads with signals blocked: what
 * @fn does by plain pointers it does as the CPU, CPU faults included. They stay
 * for the next run; @fn may itself call dummy_run(), and gets other ones.
 *
 * Return: 0, or the result of the lowest thread whose result is not 0; -EINVAL
 * no threads; -ENOMEM, -EAGAIN there are not threads enough, and nothing was run.
 */
int dummy_run(struct dummy_device *dev, unsigned int nthreads,
	      int (*fn)(struct dummy_device *dev, unsigned int thread, void *arg), void *arg);

/**
 * dummy_migrate() - move a range into the device's memory
 * @start: first address; rounded down to a page
 * @end: end, exclusive; rounded up
 * @pages: out: pages of the range that are in the device's memory; may be NULL
 *
 * Return: 0, also if some or all pages stayed; what hmm_mirror_fault() returns
 * for %HMM_COPY_TO_DEVICE.
 */
int dummy_migrate(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages);

/**
 * dummy_migrate_vma() - the same by hmm_migrate_vma(), which says what became of each page
 * @result: out, also on error: one enum hmm_migrate_result a page; may be NULL
 *
 * Return: as hmm_migrate_vma().
 */
int dummy_migrate_vma(struct dummy_device *dev, uint64_t start, uint64_t end, uint8_t *result,
		      unsigned long *pages);

/** dummy_evict() - move a range back; as dummy_migrate(), %HMM_COPY_FROM_DEVICE */
int dummy_evict(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages);

/** dummy_evict_all() - move back all that is in its memory; as dummy_evict() */
int dummy_evict_all(struct dummy_device *dev, unsigned long *pages);

/**
 * dummy_discard() - the device has done with a range
 * @dev: the device
 * @start: first address; rounded down to a page
 * @end: end, exclusive; rounded up
 *
 * It forgets its translations of the range by itself and tells libhmm, which ends
 * the DMA mappings; what it has written is told before. What is in its memory
 * stays there. The next access takes a device fault; one that comes while this
 * runs waits for its end.
 *
 * Return: 0; what hmm_mirror_range_discard() returns; -ENOMEM.
 */
int dummy_discard(struct dummy_device *dev, uint64_t start, uint64_t end);

/**
 * dummy_migrate_mapped() - move all that the device works on into its memory
 * @dev: the device
 * @pages: out: how many moved; may be NULL
 *
 * All pages that its page table maps in system memory: what it has touched, and
 * the neighbours that its fault window brought. Pages that it begins to map
 * while this runs may be left out.
 *
 * Return: as dummy_migrate().
 */
int dummy_migrate_mapped(struct dummy_device *dev, unsigned long *pages);

/**
 * dummy_migrate_accessed() - the same, for the pages that it really touched
 *
 * As dummy_migrate_mapped(), but leaves the neighbours where they are: pages
 * whose accessed bit is clear in the device page table.
 */
int dummy_migrate_accessed(struct dummy_device *dev, unsigned long *pages);

/**
 * struct dummy_page - one entry of the device's page table
 * @addr: the page's address in the process
 * @on_device: it translates to device memory
 * @writable: the device may write
 * @accessed: the device has used this translation
 * @dirty: the device has written and nobody has asked since
 */
struct dummy_page {
	uint64_t addr;
	bool on_device;
	bool writable;
	bool accessed;
	bool dirty;
};

/**
 * dummy_for_each_page() - what the device's page table translates, in order
 * @fn: gets each page; no lock is held; a result other than 0 ends the walk
 *
 * The table may change meanwhile; each page is told as it was when looked at.
 *
 * Return: 0; -ENOMEM; what @fn returned.
 */
int dummy_for_each_page(struct dummy_device *dev,
			int (*fn)(const struct dummy_page *page, void *arg), void *arg);

/**
 * struct dummy_stats - counters since dummy_create()
 * @loads: dummy_load() calls
 * @stores: dummy_store() and dummy_fetch_add_u64() calls
 * @faults: device faults taken: calls of hmm_mirror_fault()
 * @faults_retried: accesses that found their translation gone again after a fault
 * @pages_in: pages copied into device memory
 * @pages_zeroed: of these, how many were cleared without a copy
 * @pages_out: pages copied back
 * @bytes_in: bytes the copy engine moved in
 * @bytes_out: and out
 * @updates: update() calls by enum hmm_etype
 * @dma_maps: pages that dma_map() mapped
 * @dma_unmaps: pages that dma_unmap() unmapped
 * @dma_mapped: pages that are mapped now
 * @dma_errors: what libhmm should not have asked for: to map what is mapped, to
 *	unmap what is not, or not so; to use a page that was not mapped. Each is
 *	reported to standard error, and should be 0
 * @iommu_faults: accesses of the device, its copy engine included, to what was not
 *	mapped, or not for that, or not until they were through. The same
 * @pages_peer: of @pages_in, those that came straight from another device
 * @pages_coherent: pages that the CPU read where they were; not among @pages_out
 * @runs: runs of 2 MiB that were taken in one piece
 * @evictions: how often a full region named something that should go home
 */
struct dummy_stats {
	uint64_t loads;
	uint64_t stores;
	uint64_t faults;
	uint64_t faults_retried;
	uint64_t pages_in;
	uint64_t pages_zeroed;
	uint64_t pages_out;
	uint64_t bytes_in;
	uint64_t bytes_out;
	uint64_t updates[HMM_DEVICE_EXCLUSIVE + 1];
	uint64_t dma_maps;
	uint64_t dma_unmaps;
	uint64_t dma_mapped;
	uint64_t dma_errors;
	uint64_t iommu_faults;
	uint64_t pages_peer;
	uint64_t pages_coherent;
	uint64_t runs;
	uint64_t evictions;
};

/** dummy_get_stats() - read the counters; Context: any */
void dummy_get_stats(struct dummy_device *dev, struct dummy_stats *stats);

/** dummy_memory_pages() - size of the device's memory, in pages */
unsigned long dummy_memory_pages(struct dummy_device *dev);

/** dummy_memory_free() - pages of it that are free now */
unsigned long dummy_memory_free(struct dummy_device *dev);

/**
 * dummy_mirror() - the device's mirror, for hmm_mirror_*() by hand
 *
 * The cookie of an event is the driver's: leave it NULL.
 */
struct hmm_mirror *dummy_mirror(struct dummy_device *dev);

/**
 * dummy_inject() - make the device fail, for tests
 * @what: where
 * @nth: from the nth call from now, counting from 1; 0: no more failures
 * @count: so many calls in a row
 *
 * libhmm also calls update() on its own, for events of the address space, and
 * somewhat later than they happen: count on the next one only if there are none.
 */
void dummy_inject(struct dummy_device *dev, enum dummy_fail what, unsigned long nth,
		  unsigned long count);

#ifdef __cplusplus
}
#endif

#endif
