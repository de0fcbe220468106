/* SPDX-License-Identifier: MIT */
/*
 * The device's memory: which page is where, which are free, and which go home when
 * none is.
 *
 * It is one piece, dev->memory, that is cut into opt.regions regions, each a struct
 * hmm_devmem with page descriptors of its own. Pages come from the first region that
 * has some.
 *
 * Who goes home is found by a clock: a hand goes round the device's page table, 2 MiB
 * at a time. Where the device has used a translation to a page of the full region since
 * the hand last came by, it clears the accessed bits and goes on; else that is the
 * victim. The range that is just being migrated is never one: its pages would take each
 * other's place for ever. What the device holds without a translation the hand does not
 * see; it stays.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

#define TURNS 3u /* of the hand, at most: after two, all accessed bits are clear */

/* The region of a page; NULL: it is no dummy device's. */
static struct dummy_region *region_of(const struct hmm_page *page)
{
	struct hmm_devmem *devmem = hmm_page_devmem(page);

	if (devmem->ops != &dummy_devmem_ops)
		return NULL;
	return hmm_container_of(devmem, struct dummy_region, devmem);
}

static char *region_page(const struct dummy_region *region, const struct hmm_page *page)
{
	return region->dev->memory + region->offset +
	       ((size_t)hmm_page_index(page) << region->dev->page_shift);
}

char *dummy_memory_run(uint64_t pfn, unsigned long *n, struct dummy_device **owner)
{
	struct hmm_page *page = hmm_page_from_pfn(pfn);
	struct dummy_region *region = page ? region_of(page) : NULL;
	unsigned long left;

	*owner = region ? region->dev : NULL;
	if (!region)
		return NULL;
	left = (region->bytes >> region->dev->page_shift) - hmm_page_index(page);
	*n = *n < left ? *n : left;
	return region_page(region, page);
}

static size_t region_bytes(const struct dummy_device *dev, unsigned int i)
{
	size_t each = (dev->opt.memory >> dev->page_shift) / dev->opt.regions << dev->page_shift;

	return i < dev->opt.regions - 1 ? each : dev->opt.memory - i * each;
}

int dummy_memory_add(struct dummy_device *dev)
{
	size_t offset = 0;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < dev->opt.regions && !ret; i++) {
		struct dummy_region *region = &dev->region[i];

		region->dev = dev;
		region->offset = offset;
		region->bytes = region_bytes(dev, i);
		region->devmem.size = sizeof(region->devmem);
		region->devmem.ops = &dummy_devmem_ops;
		ret = hmm_devmem_add(&region->devmem, &dev->device, region->bytes);
		offset += region->bytes;
	}
	return ret;
}

int dummy_memory_remove(struct dummy_device *dev)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < dev->opt.regions && !ret; i++)
		if (dev->region[i].devmem.state)
			ret = hmm_devmem_remove(&dev->region[i].devmem);
	return ret;
}

unsigned long dummy_memory_pages(struct dummy_device *dev)
{
	unsigned long pages = 0;
	unsigned int i;

	for (i = 0; i < dev->opt.regions; i++)
		pages += hmm_devmem_pages(&dev->region[i].devmem);
	return pages;
}

unsigned long dummy_memory_free(struct dummy_device *dev)
{
	unsigned long pages = 0;
	unsigned int i;

	for (i = 0; i < dev->opt.regions; i++)
		pages += hmm_devmem_free_pages(&dev->region[i].devmem);
	return pages;
}

unsigned long dummy_memory_alloc_pages(struct dummy_device *dev, unsigned long n,
				       struct hmm_page **pages)
{
	unsigned long got = 0;
	unsigned int i;

	for (i = 0; i < dev->opt.regions && got < n; i++)
		got += hmm_devmem_alloc_pages(&dev->region[i].devmem, n - got, pages + got);
	return got;
}

struct hmm_page *dummy_memory_alloc_run(struct dummy_device *dev)
{
	struct hmm_page *page = NULL;
	unsigned int i;

	if (dummy_fails(dev, DUMMY_FAIL_RUN))
		return NULL;
	for (i = 0; i < dev->opt.regions && !page; i++)
		page = hmm_devmem_alloc_run(&dev->region[i].devmem);
	return page;
}

static void memory_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct dummy_region *region = hmm_container_of(devmem, struct dummy_region, devmem);

	if (region->dev->opt.scrub)
		memset(region_page(region, page), 0xa5, region->dev->page_size);
}

static int memory_copy(struct hmm_devmem *devmem, enum hmm_etype etype, const hmm_pte_t *src,
		       hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(devmem, struct dummy_region, devmem)->dev;

	(void)etype;
	return dummy_copy_out(dev, src, dst, (end - start) >> dev->page_shift);
}

/* ---- what goes home ---- */

void dummy_memory_short(struct dummy_device *dev, uint64_t start, uint64_t end)
{
	dummy_xlat_lock(dev);
	dev->clock.busy_start = start;
	dev->clock.busy_end = end;
	dummy_xlat_unlock(dev);
}

/* May the page at @addr go home, to make room in @region? */
static bool may_go(const struct dummy_region *region, uint64_t addr, uint64_t pte)
{
	const struct dummy_clock *clock = &region->dev->clock;
	uint64_t offset = pte & ~DUMMY_PTE_FLAGS;

	return (pte & DUMMY_PTE_VALID) && (pte & DUMMY_PTE_DEVICE) && offset >= region->offset &&
	       offset - region->offset < region->bytes &&
	       (addr < clock->busy_start || addr >= clock->busy_end);
}

/**
 * struct victim - what the hand is looking for, and what it found
 * @pages: so many pages
 * @start: of the range
 * @end: its end, exclusive
 */
struct victim {
	unsigned long pages;
	uint64_t start;
	uint64_t end;
};

/* The 2 MiB that *@addr is in, which moves past them. True: they have the victim. */
static bool clock_tick(struct dummy_region *region, uint64_t *addr, struct victim *victim)
{
	struct dummy_device *dev = region->dev;
	uint64_t piece = (uint64_t)hmm_devmem_run_pages() << dev->page_shift;
	uint64_t end = (*addr | (piece - 1)) + 1, *ptep;
	unsigned long n = 0;
	bool used = false;

	while ((ptep = dummy_pgtable_next(&dev->pgtable, addr, end))) {
		if (may_go(region, *addr, *ptep)) {
			used = used || *ptep & DUMMY_PTE_ACCESSED;
			*ptep &= ~DUMMY_PTE_ACCESSED;
			if (!n)
				victim->start = *addr;
			if (n++ < victim->pages)
				victim->end = *addr + dev->page_size;
		}
		*addr += dev->page_size;
	}
	*addr = *addr < end ? end : *addr;
	return n && !used;
}

static bool clock_run(struct dummy_region *region, struct victim *victim)
{
	struct dummy_device *dev = region->dev;
	uint64_t end = dummy_pgtable_last(&dev->pgtable) + 1, addr = dev->clock.hand;
	bool found = false;
	unsigned int turn;

	for (turn = 0; turn < TURNS && !found; turn++) {
		while (!found && dummy_pgtable_next(&dev->pgtable, &addr, end))
			found = clock_tick(region, &addr, victim);
		addr = 0;
	}
	dev->clock.hand = found ? victim->end : 0;
	return found;
}

static int memory_evict(struct hmm_devmem *devmem, unsigned long pages, unsigned long *start,
			unsigned long *end)
{
	struct dummy_region *region = hmm_container_of(devmem, struct dummy_region, devmem);
	struct dummy_device *dev = region->dev;
	struct victim victim = { .pages = pages };
	bool found;

	if (!dev->opt.evict || !dummy_op_begin(dev) || dummy_fails(dev, DUMMY_FAIL_EVICT))
		return -ENOENT;
	dummy_xlat_lock(dev);
	found = clock_run(region, &victim);
	dummy_xlat_unlock(dev);
	if (!found)
		return -ENOENT;
	*start = victim.start;
	*end = victim.end;
	dummy_count(&dev->stats.evictions, 1);
	return 0;
}

/* Under libhmm's lock: computes and returns. */
static void memory_around(struct hmm_devmem *devmem, unsigned long addr, unsigned long *start,
			  unsigned long *end)
{
	struct dummy_region *region = hmm_container_of(devmem, struct dummy_region, devmem);
	unsigned long window = (unsigned long)region->dev->opt.around << region->dev->page_shift;

	if (!window)
		return;
	*start = addr - addr % window;
	*end = *start + window;
}

/* As the engine's page_out(): what that would fail is for that to fail. */
static const void *memory_cpu_page(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct dummy_region *region = hmm_container_of(devmem, struct dummy_region, devmem);
	struct dummy_device *dev = region->dev;

	if (!dev->opt.coherent || dummy_is_lost(dev))
		return NULL;
	dummy_count(&dev->stats.pages_coherent, 1);
	return region_page(region, page);
}

const struct hmm_devmem_ops dummy_devmem_ops = {
	.size = sizeof(struct hmm_devmem_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = memory_free,
	.copy_from_device = memory_copy,
	.around = memory_around,
	.evict = memory_evict,
	.cpu_page = memory_cpu_page,
};
