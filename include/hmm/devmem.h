/* SPDX-License-Identifier: MIT */
/*
 * Device memory: page descriptors for memory that the CPU cannot address.
 *
 * The user-space counterpart of ZONE_DEVICE: each page of a device's memory
 * gets a struct hmm_page with a reference count, and a device pfn that is
 * unique in the process. Stands alone: no mirror and no migration needed.
 *
 * The ops after free() are for pages that libhmm has moved there (migrate.h).
 *
 * Source: seeds, v14 cover, patches 2 to 6; design, section 3.
 */
#ifndef HMM_DEVMEM_H
#define HMM_DEVMEM_H

#include <hmm/device.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hmm_devmem;
struct hmm_devmem_state;

/**
 * struct hmm_page - descriptor of one page of device memory
 * @refcount: references; 0 when free. Use hmm_page_get() and hmm_page_put()
 * @flags: libhmm's
 * @data: the driver's; kept as it is while the page is free
 */
struct hmm_page {
	uint32_t refcount;
	uint32_t flags;
	uint64_t data;
};

#define HMM_DEVMEM_OPS_VERSION 1

/**
 * struct hmm_devmem_ops - callbacks of a region; @size and @version as in
 * struct hmm_device_ops, and the same rules for all of them
 *
 * All are optional.
 */
struct hmm_devmem_ops {
	uint32_t size;
	uint32_t version;

	/**
	 * @free: the last reference to @page is gone.
	 *
	 * The device uses it no more when this returns, and libhmm makes it available
	 * again: somewhat later than the CPU goes on that wanted it back.
	 */
	void (*free)(struct hmm_devmem *devmem, struct hmm_page *page);

	/**
	 * @copy_from_device: copy pages to system memory.
	 *
	 * For a device without a mirror, or whose mirror has no copy_from_device() of its
	 * own. @src[i] is %HMM_PTE_VALID and %HMM_PTE_DEVICE with the device pfn of a page
	 * of this region, or 0; @dst[i] a CPU address with %HMM_PTE_VALID (or
	 * %HMM_PTE_DMA, where the device has a mirror with dma_map()), or 0: a hole, to be
	 * ignored. The driver sets @dst[i] to 0 where it could not copy.
	 *
	 * @etype is %HMM_COPY_FROM_DEVICE: the device has stopped using the pages before
	 * they are copied, and does not use them again; or %HMM_FORK: it goes on, and
	 * what it writes meanwhile may be in the copy or not.
	 *
	 * Return: 0, also if some were set to 0; -EIO if none was copied.
	 */
	int (*copy_from_device)(struct hmm_devmem *devmem, enum hmm_etype etype,
				const hmm_pte_t *src, hmm_pte_t *dst, unsigned long start,
				unsigned long end);

	/**
	 * @around: what should come back along with a page that the CPU wants?
	 *
	 * @addr is the page's address. [*@start, *@end) is what libhmm would bring: the
	 * page alone, or more where the CPU reads on. The driver may make it more or less;
	 * libhmm clips it to the 2 MiB that @addr lies in, and always brings the page.
	 * Of the range comes what is away.
	 *
	 * Context: called with a lock held under which every CPU fault is dealt with.
	 * Computes and returns: takes no lock that is held across a call into libhmm.
	 */
	void (*around)(struct hmm_devmem *devmem, unsigned long addr, unsigned long *start,
		       unsigned long *end);

	/**
	 * @evict: the region is full. Which range shall go home?
	 *
	 * Called while a migration to the device found no room for @pages more pages of
	 * some 2 MiB of it. [*@start, *@end) is the whole range that is being migrated:
	 * what of that comes home makes room for the rest, if that is what is wanted. The
	 * driver stores a range of addresses that has pages of this region, and libhmm
	 * brings it back and goes on. It is asked again if there is still no room, or
	 * nothing was there (an mremap moved it), up to a limit.
	 *
	 * Return: 0; -ENOENT nothing shall go: what does not fit stays in system memory.
	 * Context: the thread that migrates, with no other op running and nothing held.
	 * hmm_devmem_next_used() and what reads a page may be called, as in all ops.
	 */
	int (*evict)(struct hmm_devmem *devmem, unsigned long pages, unsigned long *start,
		     unsigned long *end);

	/**
	 * @cpu_page: where can the CPU read @page?
	 *
	 * For memory that the CPU can address, and reads as fast as its own: a device that
	 * shares its memory coherently, a simulated one. A single page that the CPU wants
	 * is then copied from there by the kernel in the one step that maps it, and
	 * copy_from_device() is not called for it. The device has stopped using the page,
	 * as for copy_from_device() with %HMM_COPY_FROM_DEVICE; what the driver answers is
	 * valid until free() of the page.
	 *
	 * Return: the address, aligned to the page; NULL: this one by copy_from_device().
	 * Context: as copy_from_device().
	 */
	const void *(*cpu_page)(struct hmm_devmem *devmem, struct hmm_page *page);
};

/**
 * struct hmm_devmem - a region of device memory; embed it
 * @size: sizeof(struct hmm_devmem), as the driver was compiled
 * @ops: may be NULL
 * @state: libhmm's; NULL while not added
 */
struct hmm_devmem {
	uint32_t size;
	const struct hmm_devmem_ops *ops;
	struct hmm_devmem_state *state;
};

/**
 * hmm_devmem_add() - make a region of device memory known
 * @devmem: the region
 * @device: its device; registered
 * @bytes: its size; a multiple of the page size
 *
 * Costs sizeof(struct hmm_page), 16 bytes, and 1.02 bits a page; 8 KiB for 2 MiB of 4 KiB
 * pages (0.4 percent). A device can have several regions.
 *
 * Return: 0; -EINVAL; -EBUSY @devmem is added already; -ENOSPC no more regions
 * or device pfns; -ENOMEM; -EDEADLK called from an op.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_devmem_add(struct hmm_devmem *devmem, struct hmm_device *device, size_t bytes);

/**
 * hmm_devmem_remove() - take a region away
 *
 * What the process has there comes back first; meanwhile nothing is to be had from
 * hmm_devmem_alloc(). If pages are left, those that the device could not copy or that
 * somebody else has references on, the region stays as it was, without what came
 * back: hmm_devmem_next_used() says which.
 *
 * Return: 0, and @devmem may be freed; -EBUSY pages are still in use; -EINVAL not added;
 * -ENOMEM no memory to bring them back to; -EDEADLK called from an op.
 * Context: any thread, not from an op. May sleep.
 * Source: seeds, v14 cover, "allow early removal of device memory".
 */
HMM_API int hmm_devmem_remove(struct hmm_devmem *devmem);

/**
 * hmm_devmem_alloc() - take a free page
 *
 * Return: a page with one reference, or NULL if the region is full or being removed.
 * Context: any, ops included. Never sleeps for long.
 */
HMM_API struct hmm_page *hmm_devmem_alloc(struct hmm_devmem *devmem);

/**
 * hmm_devmem_alloc_pages() - take several free pages at once
 * @devmem: the region
 * @n: how many
 * @pages: out
 *
 * They may lie anywhere. Costs less than @n times hmm_devmem_alloc().
 *
 * Return: how many there were, @n at most; each has one reference.
 * Context: any, ops included. Never sleeps for long.
 */
HMM_API unsigned long hmm_devmem_alloc_pages(struct hmm_devmem *devmem, unsigned long n,
					     struct hmm_page **pages);

/**
 * hmm_devmem_run_pages() - pages of a run: 2 MiB worth of them
 */
HMM_API unsigned long hmm_devmem_run_pages(void);

/**
 * hmm_devmem_alloc_run() - take 2 MiB in one piece
 *
 * Pages hmm_page_index() to hmm_page_index() + hmm_devmem_run_pages() - 1, aligned to
 * their number; their descriptors lie one after the other. Each has one reference and is
 * put, and freed, by itself.
 *
 * Return: the first of them, or NULL if there is no such run free.
 * Context: any, ops included. Looks at one word for 64 runs.
 */
HMM_API struct hmm_page *hmm_devmem_alloc_run(struct hmm_devmem *devmem);

/**
 * hmm_devmem_next_used() - the first page in use from a number on
 * @devmem: the region
 * @index: number of a page within it
 *
 * Return: the page; it may be free by now. NULL: none.
 * Context: any.
 */
HMM_API struct hmm_page *hmm_devmem_next_used(struct hmm_devmem *devmem, unsigned long index);

/** hmm_devmem_free_pages() - how many pages are free now */
HMM_API unsigned long hmm_devmem_free_pages(const struct hmm_devmem *devmem);

/** hmm_devmem_pages() - how many pages the region has */
HMM_API unsigned long hmm_devmem_pages(const struct hmm_devmem *devmem);

/** hmm_page_get() - take one more reference; the caller holds one */
HMM_API void hmm_page_get(struct hmm_page *page);

/**
 * hmm_page_put() - drop a reference; the last one calls free() and frees
 * Context: any, ops included.
 */
HMM_API void hmm_page_put(struct hmm_page *page);

/** hmm_page_pfn() - the device pfn of a page */
HMM_API uint64_t hmm_page_pfn(const struct hmm_page *page);

/** hmm_page_from_pfn() - the page of a device pfn; NULL if there is none */
HMM_API struct hmm_page *hmm_page_from_pfn(uint64_t pfn);

/** hmm_page_index() - the page's number within its region, from 0 */
HMM_API unsigned long hmm_page_index(const struct hmm_page *page);

/** hmm_page_devmem() - the region that owns the page */
HMM_API struct hmm_devmem *hmm_page_devmem(const struct hmm_page *page);

#ifdef __cplusplus
}
#endif

#endif
