/* SPDX-License-Identifier: MIT */
/*
 * The IOMMU: what stands between the device and system memory, if opt.iommu says so.
 *
 *	address ──► device page table ──► IOVA ──► IOMMU ──► CPU address
 *	            (update(), ops.c)             (dma_map(), dma_unmap())
 *
 * A real one protects the system from the device. This one is there to protect
 * libhmm from its own mistakes: it knows exactly what is mapped, so it sees what is
 * unmapped twice, used too late, used for what was not asked, or never unmapped.
 *
 * For that an IOVA is used for one mapping only, as long as the device lives: what
 * was unmapped stays unmapped, and a translation that should be gone cannot reach
 * somebody else's page unseen. The pages of one call lie side by side, as a driver
 * would have it for an engine that likes long runs. IOVAs begin where no CPU has
 * addresses, so that one taken for the other is seen too. 2^36 pages last for a day
 * at 800,000 mappings a second; then dma_map() returns -ENOMEM.
 *
 * What is checked, and counted in struct dummy_stats:
 *  - dma_map() gets a valid entry that is not mapped (dma_errors);
 *  - dma_unmap() gets what dma_map() gave, once, at the address it was mapped for, with
 *    no more permission than it has (dma_errors);
 *  - an access of the device or its engine is to a mapping that is there, permits it,
 *    and is still there when the access is through (iommu_faults).
 *
 * A mapping leads to the page by its CPU address and does not pin it. So what is
 * wrong with the order of things is seen here, but not a page that a device which
 * holds on to it would have kept after the process got another one.
 *
 * The table is an HMM page table, from the public API; it needs no lock of ours. An
 * entry holds the CPU address, HMM_PTE_VALID, HMM_PTE_WRITE, and FOREIGN where that
 * address is not the program's own for it: a copy's source or destination.
 *
 * All of this runs in callbacks. It touches the arena, waits for nothing, and
 * reports by write(2).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "internal.h"

#define IOVA_BASE ((uint64_t)1 << 60)
#define IOVA_PAGES ((uint64_t)1 << 36)
#define FOREIGN ((hmm_pte_t)1 << HMM_PTE_DRIVER_SHIFT)
#define REPORTS_MAX 20u

int dummy_iommu_init(struct dummy_device *dev)
{
	return hmm_pt_init(&dev->iommu.pt, (IOVA_PAGES << dev->page_shift) - 1);
}

static void report(struct dummy_device *dev, const char *what, uint64_t addr, uint64_t value)
{
	char line[160];
	int len;

	if (__atomic_fetch_add(&dev->iommu.reports, 1, __ATOMIC_RELAXED) >= REPORTS_MAX)
		return;
	len = snprintf(line, sizeof(line), "dummy IOMMU: %s: 0x%" PRIx64 ", 0x%" PRIx64 "\n", what,
		       addr, value);
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return;
}

static void dma_error(struct dummy_device *dev, const char *what, uint64_t addr, hmm_pte_t pte)
{
	dummy_count(&dev->stats.dma_errors, 1);
	report(dev, what, addr, pte);
}

void dummy_iommu_fini(struct dummy_device *dev)
{
	uint64_t left = __atomic_load_n(&dev->stats.dma_mapped, __ATOMIC_RELAXED);

	if (left)
		report(dev, "pages left mapped at the end, errors", left, dev->stats.dma_errors);
	hmm_pt_fini(&dev->iommu.pt);
}

bool dummy_can_reach(struct dummy_device *dev, hmm_pte_t pte)
{
	if (hmm_pte_test_dma(pte) == dev->opt.iommu)
		return true;
	dma_error(dev, "an entry that is not for this device", 0, pte);
	return false;
}

/* The entry of @iova; NULL: there can be none. */
static hmm_pte_t *find(struct hmm_pt_iter *iter, uint64_t iova)
{
	return iova < IOVA_BASE ? NULL : hmm_pt_iter_lookup(iter, iova - IOVA_BASE);
}

uint64_t dummy_iommu_lookup(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t iova,
			    bool write)
{
	hmm_pte_t *ptep = find(iter, iova);
	hmm_pte_t pte = ptep ? hmm_pte_load(ptep) : 0;

	if (hmm_pte_test_valid(pte) && (!write || hmm_pte_test_write(pte)))
		return hmm_pte_addr(pte);
	dummy_count(&dev->stats.iommu_faults, 1);
	report(dev, write ? "fault, write" : "fault, read", iova, pte);
	return 0;
}

/* Map one page at @iova; false: for want of memory, or it may not be. */
static bool map_page(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t iova,
		     uint64_t addr, hmm_pte_t given)
{
	hmm_pte_t pte = given & (~HMM_PTE_FLAGS | HMM_PTE_VALID | HMM_PTE_WRITE);
	hmm_pte_t *ptep;

	if (!hmm_pte_test_valid(given) || hmm_pte_test_device(given) || hmm_pte_test_dma(given)) {
		dma_error(dev, "dma_map() of what cannot be mapped", addr, given);
		return false;
	}
	if (hmm_pte_addr(given) != addr)
		pte |= FOREIGN;
	ptep = hmm_pt_iter_populate(iter, iova - IOVA_BASE);
	if (ptep)
		hmm_pt_iter_set(iter, ptep, pte);
	return ptep;
}

int dummy_dma_map(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		  hmm_pte_t *ptes)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long i, n = (end - start) >> dev->page_shift, mapped = 0;
	struct hmm_pt_iter iter;
	uint64_t page;

	if (!dummy_op_begin(dev))
		return -EIO;
	if (dummy_fails(dev, DUMMY_FAIL_DMA))
		return -ENOMEM;
	page = __atomic_fetch_add(&dev->iommu.next, n, __ATOMIC_RELAXED);
	if (page + n > IOVA_PAGES)
		return -ENOMEM;

	hmm_pt_iter_init(&iter, &dev->iommu.pt);
	for (i = 0; i < n; i++) {
		uint64_t iova = IOVA_BASE + ((page + i) << dev->page_shift);

		if (!ptes[i])
			continue;
		if (!dummy_fails(dev, DUMMY_FAIL_DMA_PAGE) &&
		    map_page(dev, &iter, iova, start + (i << dev->page_shift), ptes[i])) {
			ptes[i] = hmm_pte_from_dma(ptes[i], iova);
			mapped++;
		} else {
			ptes[i] = 0;
		}
	}
	hmm_pt_iter_fini(&iter);
	dummy_count(&dev->stats.dma_maps, mapped);
	dummy_count(&dev->stats.dma_mapped, mapped);
	return 0;
}

/* Is @old, which was mapped, what libhmm says of it? */
static bool mapping_is(hmm_pte_t old, hmm_pte_t given, uint64_t addr)
{
	if (hmm_pte_test_write(given) && !hmm_pte_test_write(old))
		return false;
	return (hmm_pte_addr(old) != addr) == !!(old & FOREIGN);
}

/* True: there was a mapping to end. */
static bool unmap_page(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t addr,
		       hmm_pte_t given)
{
	hmm_pte_t *ptep = NULL, old = 0;

	if (hmm_pte_test_dma(given))
		ptep = find(iter, hmm_pte_dma_addr(given));
	if (ptep)
		old = hmm_pt_iter_set(iter, ptep, 0);
	if (!old)
		dma_error(dev, "dma_unmap() of what is not mapped", addr, given);
	else if (!mapping_is(old, given, addr))
		dma_error(dev, "dma_unmap() of what was not mapped so", addr, given);
	return old;
}

void dummy_dma_unmap(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		     const hmm_pte_t *ptes)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long i, n = (end - start) >> dev->page_shift, unmapped = 0;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &dev->iommu.pt);
	for (i = 0; i < n; i++)
		if (ptes[i])
			unmapped += unmap_page(dev, &iter, start + (i << dev->page_shift), ptes[i]);
	hmm_pt_iter_fini(&iter);
	dummy_count(&dev->stats.dma_unmaps, unmapped);
	__atomic_fetch_sub(&dev->stats.dma_mapped, unmapped, __ATOMIC_RELAXED);
}
