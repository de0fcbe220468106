/* SPDX-License-Identifier: MIT */
/*
 * Inside libhmm: what the core does with device memory besides
 * include/hmm/devmem.h. The essay is in devmem.c.
 */
#ifndef HMM_CORE_DEVMEM_H
#define HMM_CORE_DEVMEM_H

#include <hmm/devmem.h>

/* What devmem.c needs of devices; defined in device.c. */

/**
 * device_get() - keep a device from being unregistered
 * Return: 0; -EINVAL it is not registered.
 */
bool call_running(void); /* call.c: is this thread in an op? */
int device_get(struct hmm_device *device);

/** device_put() - let it go again */
void device_put(struct hmm_device *device);

/** device_region_gone() - the same, when a region is removed. Context: api_lock held */
void device_region_gone(struct hmm_device *device);

void api_lock(void);
void api_unlock(void);

/**
 * migrate_region_home() - bring back what the process has in a region
 * Return: 0; -EIO some could not be copied; -ENOMEM.
 * Context: api_lock held.
 */
int migrate_region_home(struct hmm_device *device, const struct hmm_devmem *devmem);

/* call.c: the ops, checked. evict() gives a valid range or an error. */
int call_evict(struct hmm_devmem *devmem, const struct hmm_devmem_ops *ops, unsigned long pages,
	       unsigned long *start, unsigned long *end);
void call_free(struct hmm_devmem *devmem, const struct hmm_devmem_ops *ops, struct hmm_page *page,
	       unsigned long n);
struct hmm_mirror_state;
const void *call_cpu_page(struct hmm_mirror_state *ms, struct hmm_page *page, unsigned long addr);
void call_around(const struct hmm_page *page, unsigned long addr, unsigned long *start,
		 unsigned long *end);
void retry_pause(unsigned int retries);

/**
 * devmem_device() - the device that a page belongs to
 * Context: any; the caller has a reference on @page.
 */
struct hmm_device *devmem_device(const struct hmm_page *page);

/**
 * devmem_run() - how many entries name pages that lie one behind the other in a region
 *
 * Return: how many of @n, from the first on, with the same flags; 1 where that is no
 * device page.
 * Context: as devmem_device(), for the first.
 */
unsigned long devmem_run(const hmm_pte_t *ptes, unsigned long n);

/** devmem_put_run() - hmm_page_put() for @n pages of a region from a device pfn on */
void devmem_put_run(uint64_t pfn, unsigned long n);

/**
 * devmem_ops() - the ops of the region that a page belongs to
 * Context: as devmem_device().
 */
const struct hmm_devmem_ops *devmem_ops(const struct hmm_page *page);

/** devmem_can_copy_back() - has the device a region with a copy_from_device()? */
bool devmem_can_copy_back(const struct hmm_device *device);

/**
 * devmem_evict() - ask full regions of a device for something to bring home
 * @pages: how many more are wanted
 * @start, @end: in: what is being migrated; out: what is to come home
 *
 * Return: false if there is no such region, or it gave no range.
 * Context: nothing held, no op active.
 */
bool devmem_evict(struct hmm_device *device, unsigned long pages, unsigned long *start,
		  unsigned long *end);

/**
 * devmem_next() - the first page with a driver's struct hmm_devmem in a range
 * @start: in: start of the range; out: start of the piece
 * @end: in: end of the range, exclusive; out: end of the piece
 *
 * Ops reach a region by its struct, which may lie anywhere: these pages must not
 * be migrated while the region is there. Used as arena_next().
 *
 * Return: false if there is none; nothing is written then.
 * Context: any.
 */
bool devmem_next(unsigned long *start, unsigned long *end);

/**
 * devmem_fork_prepare() - take the lock of the regions, for fork()
 * devmem_fork_parent() - let it go again, in the parent
 * devmem_fork_child() - in the child: forget all regions, which are the parent's
 *
 * Context: pthread_atfork() handlers; the child's after arena_fork_child(). The
 * child's writes to @state of each struct hmm_devmem, and gives the references
 * on devices to nobody: the child has no devices either.
 */
void devmem_fork_prepare(void);
void devmem_fork_parent(void);
void devmem_fork_child(void);

#endif
