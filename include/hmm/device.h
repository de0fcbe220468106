/* SPDX-License-Identifier: MIT */
/*
 * What a driver gives libhmm: a device and its operations.
 */
#ifndef HMM_DEVICE_H
#define HMM_DEVICE_H

#include <hmm/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hmm_mirror;
struct hmm_device_state;

#define HMM_DEVICE_OPS_VERSION 1

/**
 * struct hmm_device_ops - the driver's callbacks
 * @size: sizeof(struct hmm_device_ops), as the driver was compiled
 * @version: %HMM_DEVICE_OPS_VERSION
 *
 * Members are only ever appended; libhmm copies the smaller of the two sizes
 * and takes the rest as NULL.
 *
 * All of them: called from any of libhmm's threads or from the thread that
 * called into libhmm, which a thread of the program does by mprotect(), munmap(), madvise() and
 * mremap() too. So while a driver has a lock that an op of its takes it must make no such
 * call. Never twice at once for overlapping ranges of one
 * mirror. They must not touch memory that could be migrated by its CPU address
 * (their own memory comes from hmm_alloc(), hmm_map() or static data of a
 * shared library), must not call malloc(), and must not call back into
 * hmm_mirror_*() or hmm_device_*(). The mirror's page table may be walked for
 * the event's range until the op returns.
 */
struct hmm_device_ops {
	uint32_t size;
	uint32_t version;

	/**
	 * @update: bring the device page table in step. Required for a mirror; a device
	 * that only has memory (devmem.h, migrate.h) leaves it NULL.
	 *
	 * %HMM_DEVICE_RFAULT, %HMM_DEVICE_WFAULT: read the entries of the range
	 * from @mirror->pt and write them to the device page table. Called in the
	 * thread that called hmm_mirror_fault(), with its @event->cookie.
	 * %HMM_DEVICE_EXCLUSIVE: the same, for the entries with %HMM_PTE_EXCLUSIVE; where
	 * there is none the device has no translation. All others take permission away:
	 * see enum hmm_etype. When it returns, the device no longer uses the old
	 * translation.
	 *
	 * An entry with %HMM_PTE_ONCE is of memory whose changes nobody can hear
	 * of: a regular file's, or what another userfaultfd watches. It must not
	 * get into the device page table. The driver makes the access that
	 * faulted before it returns, or keeps the translation for that access
	 * alone. No invalidation follows; the entry is gone when this returns.
	 *
	 * Return: 0; -ENOMEM or -EIO. On a failed fault, or exclusive access, the caller of
	 * hmm_mirror_fault() gets the error. A failed invalidation kills the
	 * mirror: it gets no update() any more, so before it returns the error
	 * the driver must see to it that the device uses no translation at all.
	 */
	int (*update)(struct hmm_mirror *mirror, struct hmm_event *event);

	/**
	 * @copy_to_device: move [@start, @end) into device memory.
	 *
	 * The entries of @mirror->pt for the range are the sources: either
	 * %HMM_PTE_VALID with the CPU address of a page that nobody else can
	 * reach (not the address in the program!), or %HMM_PTE_ZERO alone, with no
	 * memory, or (%HMM_DEVICE_PEER) %HMM_PTE_VALID with %HMM_PTE_DEVICE, or 0, to be
	 * left alone. No device has a translation of the
	 * range: update() came first, with %HMM_MIGRATE. For each source the driver takes a device page
	 * (hmm_devmem_alloc()), copies or clears it, and stores
	 * hmm_pte_from_device_pfn() with %HMM_PTE_VALID and, if the device may
	 * write, %HMM_PTE_WRITE in @dst[i], where i counts pages from @start.
	 * An entry left 0 stays in system memory. The reference on the device
	 * page goes over to libhmm.
	 *
	 * It may map the pages in the device page table at once; the device may
	 * then use them before this returns.
	 *
	 * Return: 0, also if some or all were left; -ENOMEM or -EIO, and then
	 * every @dst entry must be 0.
	 * NULL: the device has no memory; %HMM_COPY_TO_DEVICE gives -EOPNOTSUPP.
	 */
	int (*copy_to_device)(struct hmm_mirror *mirror, const struct hmm_event *event,
			      hmm_pte_t *dst, unsigned long start, unsigned long end);

	/**
	 * @copy_from_device: copy device pages of [@start, @end) to system memory.
	 *
	 * The entries of @mirror->pt with %HMM_PTE_DEVICE are the sources; the
	 * device does not use them any more (update() came first, with
	 * %HMM_MIGRATE) or, with %HMM_FORK, goes on using them for reads.
	 * @dst[i] is valid with a CPU address to copy to, or 0: a hole, to be
	 * ignored. The driver sets an entry to 0 that it could not copy.
	 * It frees nothing: libhmm drops its reference on the device page.
	 *
	 * Return: 0, also if some were cleared; -EIO if none was copied.
	 * NULL: the regions have one of their own (struct hmm_devmem_ops), which is given
	 * the sources and need not look them up.
	 */
	int (*copy_from_device)(struct hmm_mirror *mirror, const struct hmm_event *event,
				hmm_pte_t *dst, unsigned long start, unsigned long end);

	/**
	 * @hold: use no translation from now on, until @release.
	 *
	 * For a device that can stop within microseconds, as one in software
	 * can: called before libhmm reads what the process did to its address
	 * space. The call that did it (munmap, …) returns to the program as soon
	 * as that is read; with the device held, no access of it can come between
	 * that return and update(). When it returns, none is under way.
	 * Translations may still be changed, by update() and the copy ops.
	 *
	 * A device that cannot stop leaves both NULL. Either driver calls
	 * hmm_mirror_sync() before it hands work to the device.
	 *
	 * Never nested. Neither may wait for anything but accesses under way.
	 */
	void (*hold)(struct hmm_mirror *mirror);
	void (*release)(struct hmm_mirror *mirror);

	/**
	 * @dma_map: make system pages reachable for the device.
	 *
	 * For a device that does not use CPU addresses: one behind an IOMMU, or
	 * one whose memory must be registered. Called a directory of the page
	 * table at a time (512 pages at most), before update() of a fault and
	 * before the copy ops. @ptes[i] is page i from @start: %HMM_PTE_VALID with
	 * the CPU address of a page that is there, and %HMM_PTE_WRITE where the
	 * device shall write it; or 0, to be left alone. For a fault that address
	 * is the program's; for a copy it is one of libhmm's own memory.
	 *
	 * The driver maps each (pins it, where that is what it takes) and stores
	 * hmm_pte_from_dma(); what cannot be mapped it sets to 0: a failed entry,
	 * which is no translation and which the next fault tries again. On the way
	 * back from the device that means until it works: nothing is lost.
	 *
	 * Return: 0, also if some failed; -ENOMEM or -EIO, and then none is
	 * mapped. -EIO on the way back: the device will never reach memory again,
	 * and these of its pages are lost.
	 * NULL: entries hold CPU addresses.
	 */
	int (*dma_map)(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		       hmm_pte_t *ptes);

	/**
	 * @dma_unmap: end mappings.
	 *
	 * @ptes as @dma_map left them, with %HMM_PTE_DIRTY where the device has
	 * written; 0: nothing to do. update() came first: the device uses them no
	 * more. Each mapping is ended once, whatever happens: by an event, a
	 * migration, a newer mapping with more permission, a failed update(), the
	 * end of the mirror. Also called for a mirror that was killed.
	 * NULL only where @dma_map is.
	 */
	void (*dma_unmap)(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
			  const hmm_pte_t *ptes);
};

/**
 * define HMM_DEVICE_PROMPT - update(), copy_from_device() and the DMA ops never wait
 *
 * None of them sleeps, nor waits for work that could itself take a fault. libhmm's
 * monitor then calls them itself, which saves a CPU fault one thread switch.
 */
#define HMM_DEVICE_PROMPT (1u << 0)

/**
 * define HMM_DEVICE_PINS - the device holds on to the page behind an address
 *
 * It pins or registers what update() names, instead of going through the CPU page
 * table at each access. Faults then wait for a madvise(MADV_DONTNEED) to have
 * taken effect, since the page that it finds before would be the wrong one for
 * ever: until libhmm's madvise() has returned, or the range has been seen empty, or, of a
 * system call made by hand, 100 ms have passed. It takes that long there where the program
 * has filled the range again at once, and after MADV_FREE, which libhmm cannot tell from it
 * and which need never take effect. Implied by @dma_map.
 */
#define HMM_DEVICE_PINS (1u << 1)

/**
 * define HMM_DEVICE_PEER - copy_to_device() also takes pages from other devices' memory
 *
 * Its sources may then be %HMM_PTE_VALID with %HMM_PTE_DEVICE: hmm_pte_pfn() is a page
 * that another device owns (hmm_page_devmem()), which does not use it meanwhile. One that
 * is left comes home first, and goes on from there, as without this flag.
 */
#define HMM_DEVICE_PEER (1u << 2)

/**
 * struct hmm_device - a device; embed it in the driver's own struct
 * @size: sizeof(struct hmm_device), as the driver was compiled
 * @flags: HMM_DEVICE_*
 * @ops: the callbacks; must stay as long as the device is registered. NULL for one that
 *	only has memory
 * @name: for messages; must stay as well
 * @state: libhmm's; NULL while not registered
 *
 * The pages that hold this struct are never migrated while it is registered,
 * wherever it was allocated.
 */
struct hmm_device {
	uint32_t size;
	uint32_t flags;
	const struct hmm_device_ops *ops;
	const char *name;
	struct hmm_device_state *state;
};

/**
 * hmm_device_register() - make a device known to libhmm
 * @device: with all of the driver's members set, @state zero
 *
 * One for each physical device. Source: seeds, v12 documentation, "Locking".
 *
 * Return: 0; -EINVAL a required member is missing or the ops' version is
 * unknown; -EBUSY already registered; -EDEADLK called from an op; -ENOSPC too
 * many devices and mirrors; -ENOMEM.
 * Context: any thread, not from an op. May sleep.
 */
HMM_API int hmm_device_register(struct hmm_device *device);

/**
 * hmm_device_unregister() - forget a device
 * @device: the device
 *
 * After it returns 0, no op runs or will run, and @device may be freed.
 *
 * Return: 0; -EINVAL not registered; -EBUSY it has a mirror or device memory;
 * -EDEADLK called from an op.
 * Context: any thread, not from an op. May sleep.
 */
HMM_API int hmm_device_unregister(struct hmm_device *device);

/**
 * hmm_device_lost() - the device is gone, and with it what was in its memory
 * @device: a registered device
 *
 * For a driver that finds its device unplugged, reset or broken. No op of it that moves
 * data or changes translations is called any more; before the driver calls this, it has
 * seen to it that the device uses no system memory. Its mirror is killed
 * (hmm_mirror_fault() gives -ENODEV). Each page that was in its memory is poisoned: a CPU
 * access there gets SIGBUS with the address, a system call EFAULT, until the program
 * unmaps the page or discards it with MADV_DONTNEED. All else goes on. The driver then
 * takes everything away as usual.
 *
 * Return: 0, also the second time; -EINVAL not registered.
 * Context: any, ops included. Returns at once; the pages are poisoned soon after, and
 * before any access to them is answered.
 */
HMM_API int hmm_device_lost(struct hmm_device *device);

#ifdef __cplusplus
}
#endif

#endif
