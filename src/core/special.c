/* SPDX-License-Identifier: MIT */
/*
 * Special entries: where a page is that is not in the CPU page table.
 *
 * Kept in an HMM page table of the process. What may change an entry has an
 * active op on its address that is alone there (core.h), so nobody sees another
 * thread's change half done; the page table's own locks keep the directories.
 *
 * An entry owns one reference on its device page, or one page of staging.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

hmm_pte_t special_get(struct hmm *hmm, unsigned long addr)
{
	return pt_get(&hmm->special, addr);
}

int special_set(struct hmm *hmm, unsigned long addr, hmm_pte_t pte)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;

	hmm_pt_iter_init(&iter, &hmm->special);
	ptep = pte ? hmm_pt_iter_populate(&iter, addr) : hmm_pt_iter_lookup(&iter, addr);
	if (ptep)
		hmm_pt_iter_set(&iter, ptep, pte);
	hmm_pt_iter_fini(&iter);
	return ptep || !pte ? 0 : -ENOMEM;
}

hmm_pte_t special_next(struct hmm *hmm, unsigned long *addr, unsigned long end)
{
	struct hmm_pt_iter iter;
	hmm_pte_t pte = 0;

	hmm_pt_iter_init(&iter, &hmm->special);
	while (*addr < end && !pte) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, addr, &next);

		for (; ptep && *addr < next; *addr += hmm_page_size(), ptep++) {
			pte = hmm_pte_load(ptep);
			if (pte)
				break;
		}
	}
	hmm_pt_iter_fini(&iter);
	return pte;
}

/* The entries of a part of one chunk, 0 where there is none; false: none at all. */
bool special_fill(struct hmm *hmm, unsigned long start, unsigned long end, hmm_pte_t *ptes)
{
	return pt_load(&hmm->special, start, end, ptes);
}

/*
 * Which device has the page; NULL for none. Without an op on the address the
 * answer can be old, and the page gone.
 */
const struct hmm_device *special_device(hmm_pte_t pte)
{
	struct hmm_page *page;

	if (!pte || special_staged(pte))
		return NULL;
	page = hmm_page_from_pfn(hmm_pte_pfn(pte));
	return page ? devmem_device(page) : NULL;
}

/* Is the page one of those? Staged ones are nobody's. */
bool special_whose(hmm_pte_t pte, const struct whose *whose)
{
	if (whose->exclusive)
		return special_exclusive(pte);
	if (!whose->device)
		return pte && (!whose->but || special_device(pte) != whose->but);
	return special_device(pte) == whose->device &&
	       (!whose->devmem ||
		hmm_page_devmem(hmm_page_from_pfn(hmm_pte_pfn(pte))) == whose->devmem);
}

void special_release(struct hmm *hmm, hmm_pte_t pte)
{
	if (special_staged(pte))
		slot_unstage(&hmm->mm, hmm_pte_addr(pte));
	else if (pte)
		hmm_page_put(hmm_page_from_pfn(hmm_pte_pfn(pte)));
}

/* The same for @n, which are 0 afterwards. */
void special_release_all(struct hmm *hmm, hmm_pte_t *ptes, unsigned int n)
{
	unsigned long i, run;

	for (i = 0; i < n; i += run) {
		run = devmem_run(ptes + i, n - i);
		if (hmm_pte_test_device(ptes[i]))
			devmem_put_run(hmm_pte_pfn(ptes[i]), run);
		else
			special_release(hmm, ptes[i]);
	}
	memset(ptes, 0, n * sizeof(*ptes));
}

/* The addresses are gone, or their content is: nobody wants the pages back. */
void special_drop(struct hmm *hmm, unsigned long start, unsigned long end)
{
	unsigned long addr = start;
	hmm_pte_t pte;

	if (!pt_count(&hmm->special))
		return;
	while (addr < end && (pte = special_next(hmm, &addr, end))) {
		special_set(hmm, addr, 0);
		if (!MUTANT(PAGE_LEAKED))
			special_release(hmm, pte);
		addr += hmm_page_size();
	}
}

void special_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to)
{
	unsigned long addr = from;
	hmm_pte_t pte;

	if (!pt_count(&hmm->special))
		return;
	while (addr < end && (pte = special_next(hmm, &addr, end))) {
		unsigned long dst = to + (addr - from);

		special_set(hmm, addr, 0);
		while (special_set(hmm, dst, pte)) /* or it could not be found any more */
			retry_pause(100);
		addr += hmm_page_size();
	}
}
