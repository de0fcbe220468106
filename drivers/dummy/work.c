/* SPDX-License-Identifier: MIT */
/*
 * What a user of the dummy device asks of it as a whole: move a range, move what
 * is mapped, tell what is.
 *
 * Rule for the two walks here: the page table is read under a port's translation
 * lock and into memory of the arena, in pieces; then the lock is released; only
 * then does anything happen that may wait. What was read may be old by then, and
 * that is fine: migration asks libhmm, which knows.
 */
#include <errno.h>

#include <hmm/hmm.h>

#include "internal.h"

#define RUNS_MAX 64u
#define SCAN_MAX 32768u /* pages looked at under one hold of the lock */
#define PAGES_MAX 256u

static int range_event(struct dummy_device *dev, uint64_t start, uint64_t end, enum hmm_etype etype,
		       unsigned long *pages)
{
	struct hmm_event event = {
		.start = start & ~dummy_page_mask(dev),
		.end = (end + dummy_page_mask(dev)) & ~dummy_page_mask(dev),
		.etype = etype,
	};
	int ret = hmm_mirror_fault(&dev->mirror, &event);

	if (!ret && pages)
		*pages = event.pages;
	return ret;
}

int dummy_migrate(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return range_event(dev, start, end, HMM_COPY_TO_DEVICE, pages);
}

int dummy_evict(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return range_event(dev, start, end, HMM_COPY_FROM_DEVICE, pages);
}

int dummy_exclusive(struct dummy_device *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return range_event(dev, start, end, HMM_DEVICE_EXCLUSIVE, pages);
}

int dummy_exclusive_pages(struct dummy_device *dev, uint64_t start, uint64_t end,
			  unsigned long *pages)
{
	uint64_t need = DUMMY_PTE_VALID | DUMMY_PTE_EXCLUSIVE, addr = start, *ptep;
	struct dummy_port *port = dummy_port_get(dev);
	unsigned long n = 0;

	dummy_port_enter(dev, port);
	while ((ptep = dummy_pgtable_next(&dev->pgtable, &addr, end))) {
		n += (__atomic_load_n(ptep, __ATOMIC_RELAXED) & need) == need;
		addr += dev->page_size;
	}
	dummy_port_leave(port);
	dummy_port_put(port);
	*pages = n;
	return 0;
}

int dummy_evict_all(struct dummy_device *dev, unsigned long *pages)
{
	return dummy_evict(dev, 0, HMM_USER_END, pages);
}

/**
 * struct run - adjacent pages in system memory
 */
struct run {
	uint64_t start;
	uint64_t end;
};

/*
 * Runs of system pages whose entries have all of @need, from *@addr on, which
 * moves to where the next call goes on.
 *
 * Return: how many runs; 0 at the end of the table.
 */
static unsigned int collect_runs(struct dummy_device *dev, uint64_t *addr, uint64_t need,
				 struct run *runs)
{
	uint64_t end = dummy_pgtable_last(&dev->pgtable) + 1;
	struct dummy_port *port = dummy_port_get(dev);
	unsigned int n = 0, seen = 0;
	uint64_t *ptep;

	dummy_port_enter(dev, port);
	while ((ptep = dummy_pgtable_next(&dev->pgtable, addr, end))) {
		uint64_t pte = __atomic_load_n(ptep, __ATOMIC_RELAXED);
		bool wanted = (pte & need) == need && !(pte & DUMMY_PTE_DEVICE);

		if (wanted && n && runs[n - 1].end == *addr) {
			runs[n - 1].end += dev->page_size;
		} else if (wanted) {
			if (n == RUNS_MAX || seen >= SCAN_MAX)
				break;
			runs[n++] = (struct run){ *addr, *addr + dev->page_size };
		}
		*addr += dev->page_size;
		seen++;
	}
	dummy_port_leave(port);
	dummy_port_put(port);
	return n;
}

static int migrate_entries(struct dummy_device *dev, uint64_t need, unsigned long *pages)
{
	unsigned long total = 0, moved;
	unsigned int n, i;
	struct run *runs;
	uint64_t addr = 0;
	int ret = 0;

	runs = hmm_alloc(RUNS_MAX * sizeof(*runs));
	if (!runs)
		return -ENOMEM;

	while (!ret && (n = collect_runs(dev, &addr, need, runs))) {
		for (i = 0; i < n && !ret; i++) {
			moved = 0;
			ret = dummy_migrate(dev, runs[i].start, runs[i].end, &moved);
			total += moved;
		}
	}

	hmm_free(runs);
	if (!ret && pages)
		*pages = total;
	return ret;
}

int dummy_migrate_mapped(struct dummy_device *dev, unsigned long *pages)
{
	return migrate_entries(dev, DUMMY_PTE_VALID, pages);
}

int dummy_migrate_accessed(struct dummy_device *dev, unsigned long *pages)
{
	return migrate_entries(dev, DUMMY_PTE_VALID | DUMMY_PTE_ACCESSED, pages);
}

static unsigned int collect_pages(struct dummy_device *dev, uint64_t *addr,
				  struct dummy_page *pages)
{
	uint64_t end = dummy_pgtable_last(&dev->pgtable) + 1;
	struct dummy_port *port = dummy_port_get(dev);
	unsigned int n = 0;
	uint64_t *ptep;

	dummy_port_enter(dev, port);
	while (n < PAGES_MAX && (ptep = dummy_pgtable_next(&dev->pgtable, addr, end))) {
		uint64_t pte = __atomic_load_n(ptep, __ATOMIC_RELAXED);

		if (pte & DUMMY_PTE_VALID)
			pages[n++] = (struct dummy_page){
				.addr = *addr,
				.on_device = pte & DUMMY_PTE_DEVICE,
				.writable = pte & DUMMY_PTE_WRITE,
				.accessed = pte & DUMMY_PTE_ACCESSED,
				.dirty = pte & DUMMY_PTE_DIRTY,
			};
		*addr += dev->page_size;
	}
	dummy_port_leave(port);
	dummy_port_put(port);
	return n;
}

int dummy_for_each_page(struct dummy_device *dev,
			int (*fn)(const struct dummy_page *page, void *arg), void *arg)
{
	struct dummy_page *pages;
	unsigned int n, i;
	uint64_t addr = 0;
	int ret = 0;

	pages = hmm_alloc(PAGES_MAX * sizeof(*pages));
	if (!pages)
		return -ENOMEM;

	while (!ret && (n = collect_pages(dev, &addr, pages))) {
		for (i = 0; i < n && !ret; i++)
			ret = fn(&pages[i], arg);
	}
	hmm_free(pages);
	return ret;
}
