/* SPDX-License-Identifier: MIT */
/*
 * The device's pages: descriptors, in regions that are added as they are needed.
 *
 * A descriptor costs its 16 bytes when its region is added, and how many pages the
 * device will have cannot be known before it is seen how small they get. So a region is
 * a quarter of what there is already, and at least 16 MiB of pages.
 */
#include <errno.h>

#include <hmm/driver.h>

#include "lz4_internal.h"

#define REGION_MIN 4096ul
#define REGION_PART 4ul

static void region_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	lz4_entry_free(hmm_container_of(devmem, struct lz4_region, devmem)->dev, page);
}

/* Under libhmm's lock: computes and returns. */
static void region_around(struct hmm_devmem *devmem, unsigned long addr, unsigned long *start,
			  unsigned long *end)
{
	struct lz4_device *dev = hmm_container_of(devmem, struct lz4_region, devmem)->dev;
	unsigned long window = (unsigned long)dev->opt.around << dev->page_shift;

	if (!window)
		return;
	*start = addr - addr % window;
	*end = *start + window;
}

static const struct hmm_devmem_ops region_ops = {
	.size = sizeof(struct hmm_devmem_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = region_free,
	.copy_from_device = lz4_copy_out,
	.around = region_around,
};

/* Descriptors, a bit for each free one and some, and the checksum. */
static uint64_t region_cost(const struct lz4_device *dev, unsigned long pages)
{
	return pages * sizeof(struct hmm_page) + pages * 33 / 256 +
	       (dev->opt.check ? pages * sizeof(uint32_t) : 0);
}

static unsigned long region_pages(const struct lz4_device *dev)
{
	unsigned long pages = dev->capacity / REGION_PART;

	if (pages < REGION_MIN)
		pages = REGION_MIN;
	return pages < dev->opt.pages - dev->capacity ? pages : dev->opt.pages - dev->capacity;
}

static void region_fini(struct lz4_device *dev, struct lz4_region *region, unsigned long pages)
{
	hmm_unmap(region->sum, region->sum ? pages * sizeof(*region->sum) : 0);
	region->sum = NULL;
	lz4_uncharge(&dev->account, region->bytes);
	region->bytes = 0;
}

static int region_init(struct lz4_device *dev, struct lz4_region *region, unsigned long pages)
{
	uint64_t bytes = region_cost(dev, pages);
	int ret = -ENOMEM;

	if (!lz4_charge(&dev->account, bytes))
		return -ENOMEM;
	region->bytes = bytes;
	region->dev = dev;
	region->devmem.size = sizeof(region->devmem);
	region->devmem.ops = &region_ops;
	if (dev->opt.check)
		region->sum = hmm_map(pages * sizeof(*region->sum));
	if (!dev->opt.check || region->sum)
		ret = hmm_devmem_add(&region->devmem, &dev->device, pages << dev->page_shift);
	if (ret)
		region_fini(dev, region, pages);
	return ret;
}

int lz4_regions_add(struct lz4_device *dev)
{
	unsigned long pages;
	int ret = -ENOSPC;

	pthread_mutex_lock(&dev->grow);
	pages = region_pages(dev);
	if (pages && dev->regions < LZ4_REGIONS_MAX)
		ret = region_init(dev, &dev->region[dev->regions], pages);
	if (!ret) {
		__atomic_store_n(&dev->capacity, dev->capacity + pages, __ATOMIC_RELAXED);
		__atomic_store_n(&dev->regions, dev->regions + 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&dev->grow);
	return ret;
}

/* Those that are gone have a state of NULL: it can be called again. */
int lz4_regions_remove(struct lz4_device *dev)
{
	unsigned long pages;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < dev->regions && !ret; i++) {
		struct lz4_region *region = &dev->region[i];

		if (!region->devmem.state)
			continue;
		pages = hmm_devmem_pages(&region->devmem);
		ret = hmm_devmem_remove(&region->devmem);
		if (!ret)
			region_fini(dev, region, pages);
	}
	return ret;
}

static unsigned long regions_free(const struct lz4_device *dev)
{
	unsigned int i, n = __atomic_load_n(&dev->regions, __ATOMIC_ACQUIRE);
	unsigned long pages = 0;

	for (i = 0; i < n; i++)
		pages += hmm_devmem_free_pages(&dev->region[i].devmem);
	return pages;
}

void lz4_regions_want(struct lz4_device *dev, unsigned long pages)
{
	unsigned long wanted = __atomic_add_fetch(&dev->wanted, pages, __ATOMIC_RELAXED);

	while (regions_free(dev) < wanted && !lz4_regions_add(dev))
		;
}

void lz4_regions_done(struct lz4_device *dev, unsigned long pages)
{
	__atomic_fetch_sub(&dev->wanted, pages, __ATOMIC_RELAXED);
}

struct hmm_page *lz4_page_alloc(struct lz4_device *dev)
{
	unsigned int n = __atomic_load_n(&dev->regions, __ATOMIC_ACQUIRE), i;
	unsigned int last = __atomic_load_n(&dev->last, __ATOMIC_RELAXED);
	struct hmm_page *page;

	for (i = 0; i < n; i++) {
		unsigned int at = (last + i) % n;

		page = hmm_devmem_alloc(&dev->region[at].devmem);
		if (!page)
			continue;
		if (i)
			__atomic_store_n(&dev->last, at, __ATOMIC_RELAXED);
		return page;
	}
	return NULL;
}
