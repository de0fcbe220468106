/* SPDX-License-Identifier: MIT */
/*
 * Device memory: page descriptors for memory that the CPU cannot address.
 *
 * The user-space counterpart of ZONE_DEVICE: each page of a device's memory
 * gets a struct hmm_page with a reference count, and a device pfn that is
 * unique in the process. Stands alone: no mirror and no migration needed.
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
 * struct hmm_device_ops
 * @free: the last reference to @page is gone; libhmm makes the page available
 *	again when this returns. Same rules as for the ops of a device. Optional.
 */
struct hmm_devmem_ops {
	uint32_t size;
	uint32_t version;
	void (*free)(struct hmm_devmem *devmem, struct hmm_page *page);
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
 * Costs sizeof(struct hmm_page) and one bit a page.
 *
 * Return: 0; -EINVAL; -EBUSY @devmem is added already; -ENOSPC no more regions
 * or device pfns; -ENOMEM.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_devmem_add(struct hmm_devmem *devmem, struct hmm_device *device, size_t bytes);

/**
 * hmm_devmem_remove() - take a region away
 *
 * Return: 0, and @devmem may be freed; -EBUSY pages are still in use: migrate
 * them back first; -EINVAL not added; -EDEADLK called from an op.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_devmem_remove(struct hmm_devmem *devmem);

/**
 * hmm_devmem_alloc() - take a free page
 *
 * Return: a page with one reference, or NULL if the region is full.
 * Context: any, ops included. Never sleeps for long.
 */
HMM_API struct hmm_page *hmm_devmem_alloc(struct hmm_devmem *devmem);

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
