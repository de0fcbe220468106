/* SPDX-License-Identifier: MIT */
/*
 * Migration: move a range of the process into device memory and back, with the device's
 * own copy engine. Needs a device and its memory; no mirror.
 *
 * A driver with a mirror can also ask for it by %HMM_COPY_TO_DEVICE (mirror.h), which
 * is this with the ops of the device in place of the callbacks.
 *
 * Source: seeds, v14 cover, patches 11 to 14, and v23: migrate_vma().
 */
#ifndef HMM_MIGRATE_H
#define HMM_MIGRATE_H

#include <hmm/devmem.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hmm_migrate;

#define HMM_MIGRATE_OPS_VERSION 1

/**
 * struct hmm_migrate_ops - what the driver does for a migration to its device
 * @size: sizeof(struct hmm_migrate_ops), as the driver was compiled
 * @version: %HMM_MIGRATE_OPS_VERSION
 *
 * Called in the thread that called hmm_migrate_vma(), for one piece of the range after
 * the other, each within 2 MiB and one mapping; arrays count pages from @start. What
 * holds for the ops of a device (device.h) holds here: no memory that could be migrated,
 * no malloc(), no call back. @migrate is libhmm's copy.
 */
struct hmm_migrate_ops {
	uint32_t size;
	uint32_t version;

	/**
	 * @alloc_and_copy: take device pages and copy.
	 *
	 * @src[i] is what page i is: %HMM_PTE_VALID with the CPU address of a page that
	 * nobody else can reach (not the address in the program; with %HMM_PTE_DMA what
	 * the dma_map() of the device's mirror made of it); %HMM_PTE_ZERO alone: reads as
	 * zeros and has no memory; with %HMM_MIGRATE_PEER also %HMM_PTE_VALID and
	 * %HMM_PTE_DEVICE: a page of another device's memory; or 0: does not move.
	 * For each that it takes the driver stores hmm_pte_from_device_pfn() of a page of
	 * its own with %HMM_PTE_VALID, and %HMM_PTE_WRITE if the device may write, in
	 * @dst[i]; one reference on it goes over to libhmm. What is left 0 stays.
	 *
	 * Return: 0, also if some or all were left; -ENOMEM or -EIO, and then every
	 * @dst[i] must be 0.
	 */
	int (*alloc_and_copy)(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
			      unsigned long start, unsigned long end);

	/**
	 * @finalize_and_map: what has moved, for good.
	 *
	 * @dst[i] is 0 where page i stayed. The driver may enter the others in the
	 * device page table now; no event of their addresses comes between. Optional.
	 */
	void (*finalize_and_map)(struct hmm_migrate *migrate, const hmm_pte_t *src,
				 const hmm_pte_t *dst, unsigned long start, unsigned long end);
};

/**
 * enum hmm_migrate_result - what became of a page
 * @HMM_MIGRATE_NONE: nothing is mapped there
 * @HMM_MIGRATE_DONE: it is in the device's memory, now or already
 * @HMM_MIGRATE_KIND: it stays for what it is: not readable, or not writable (but see
 *	%HMM_MIGRATE_READ_ONLY), executable, shared, a file's, another userfaultfd's, a
 *	stack, or needed by libhmm and its drivers
 * @HMM_MIGRATE_BUSY: it stays, being pinned, locked, poisoned or a guard page, or shared
 *	by copy-on-write in a way that could not be ended
 * @HMM_MIGRATE_DECLINED: the driver did not take it
 * @HMM_MIGRATE_CHANGED: it stays, for its range kept changing
 */
enum hmm_migrate_result {
	HMM_MIGRATE_NONE = 0,
	HMM_MIGRATE_DONE,
	HMM_MIGRATE_KIND,
	HMM_MIGRATE_BUSY,
	HMM_MIGRATE_DECLINED,
	HMM_MIGRATE_CHANGED,
};

/**
 * define HMM_MIGRATE_PEER - sources may be pages of another device's memory
 *
 * Without it, or where the driver leaves such a page, it comes home first and goes on
 * from there. Only pages of a device that has a mirror come this way.
 */
#define HMM_MIGRATE_PEER (1u << 0)

/**
 * define HMM_MIGRATE_STACKS - stacks of threads move too
 *
 * But for what the kernel writes on its own (thread descriptors, TLS) and the part that
 * the calling thread is using. The caller answers for it that the threads whose stacks
 * these are do not call libhmm meanwhile, nor fork(), mprotect(), mremap() or madvise().
 */
#define HMM_MIGRATE_STACKS (1u << 1)

/**
 * define HMM_MIGRATE_READ_ONLY - private anonymous memory that is read-only moves too
 *
 * The kernel moves pages only out of writable mappings. So libhmm makes such a mapping
 * writable, 2 MiB at a time, for as long as it takes to move them; who writes there meanwhile
 * waits, and then gets its SIGSEGV. The device may read what moved: %HMM_PTE_WRITE is taken
 * away from what alloc_and_copy() stores. It comes back as it was, by a copy.
 *
 * The caller answers for it that meanwhile nobody changes the mappings of the range but by
 * libhmm's mprotect(), pkey_mprotect(), munmap() and mremap(), which wait: not by mmap() with
 * MAP_FIXED, nor by a system call made by hand or a call within libc; that no child is made
 * but by fork() and posix_spawn(); and that KSM does not merge it (docs/limits.md). Pages that
 * are shared by copy-on-write stay.
 */
#define HMM_MIGRATE_READ_ONLY (1u << 2)

/**
 * struct hmm_migrate - one migration
 * @size: sizeof(struct hmm_migrate), as the driver was compiled
 * @flags: HMM_MIGRATE_*
 * @device: where to; registered, with memory
 * @ops: the callbacks
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 * @cookie: the driver's; what it points to is used in the callbacks
 * @pages: out, also on error (but for a @migrate that is malformed): pages of the range
 *	that are in the device's memory
 * @result: out, once the migration has begun: one enum hmm_migrate_result a page; any
 *	memory, or NULL
 */
struct hmm_migrate {
	uint32_t size;
	uint32_t flags;
	struct hmm_device *device;
	const struct hmm_migrate_ops *ops;
	unsigned long start;
	unsigned long end;
	void *cookie;
	unsigned long pages;
	uint8_t *result;
};

/**
 * hmm_migrate_vma() - move a range into device memory
 * @migrate: what, where to and how; itself in any memory
 *
 * Every page of the range that can move is offered to @alloc_and_copy; partial success
 * is the normal case. Mappings are looked up by libhmm: the range may have several, and
 * holes between them. From now on, and until the last memory of the device is removed,
 * libhmm watches for CPU accesses to what moved; it comes back by the copy_from_device()
 * of the region that has the page, or of the device if it has a mirror.
 *
 * Return: 0, also if some or all pages stayed; -EINVAL @migrate is malformed, the device
 * is not registered or has no memory, or nobody could copy back from it;
 * -EOPNOTSUPP the kernel cannot move pages; -EPERM system calls on migrated memory would
 * fail here and the process has not accepted that (hmm_set_user_mode()); -ENODEV the
 * device was lost, or its mirror killed; -EDEADLK called from an op; -ENOMEM no memory,
 * or too many mappings; where it is the first use of libhmm in the process, also what
 * hmm_mirror_register() returns.
 * Context: any thread, not from an op, and not while holding a lock that an op or a
 * callback takes. May sleep.
 */
HMM_API int hmm_migrate_vma(struct hmm_migrate *migrate);

/**
 * hmm_migrate_to_ram() - bring a range back
 * @device: whose pages; registered
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 * @pages: out, also on error: how many came; may be NULL
 *
 * Return: 0; -EINVAL; -EIO some could not be copied and are still in the device; -ENODEV
 * the device was lost, or its mirror killed: all comes back, or is poisoned, by itself;
 * -EDEADLK called from an op; -ENOMEM.
 * Context: as hmm_migrate_vma().
 */
HMM_API int hmm_migrate_to_ram(struct hmm_device *device, unsigned long start, unsigned long end,
			       unsigned long *pages);

#ifdef __cplusplus
}
#endif

#endif
