/* SPDX-License-Identifier: MIT */
/*
 * The dummy device's callbacks: its side of the contract in hmm/device.h. Those
 * that copy are in engine.c, those that map in iommu.c, its memory's in memory.c.
 *
 * They touch the arena, the copy's sources and destinations, and nothing else;
 * they wait for the translation lock and the leaf locks below it. So they are prompt,
 * unless the options say otherwise.
 *
 * The device's own table, not the mirror's, tells what the device may be using.
 * So what takes permission away walks that: it is complete, whatever libhmm has
 * forgotten, and short, because a range may be all of the address space.
 */
#include <errno.h>

#include "internal.h"

static void tell_dirty(struct hmm_pt_iter *iter, uint64_t addr)
{
	hmm_pte_t *hmm = hmm_pt_iter_lookup(iter, addr);

	if (hmm && hmm_pte_test_valid(hmm_pte_load(hmm)))
		hmm_pte_set_dirty(hmm);
}

/* All of it goes, directory by directory. */
static void revoke_all(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t addr,
		       uint64_t end, bool tell)
{
	uint64_t *run;
	unsigned int i, n;

	while ((n = dummy_pgtable_next_run(&dev->pgtable, &addr, end, &run))) {
		for (i = 0; i < n && tell; i++)
			if (run[i] & DUMMY_PTE_DIRTY)
				tell_dirty(iter, addr + i * dev->page_size);
		dummy_pgtable_clear_run(&dev->pgtable, addr, n);
		addr += n * dev->page_size;
	}
}

static void revoke_write(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t addr,
			 uint64_t end, bool tell)
{
	uint64_t *ptep;

	while ((ptep = dummy_pgtable_next(&dev->pgtable, &addr, end))) {
		if (tell && (*ptep & DUMMY_PTE_DIRTY))
			tell_dirty(iter, addr);
		if (!(*ptep & DUMMY_PTE_VALID))
			dummy_pgtable_clear(&dev->pgtable, addr);
		else if (*ptep &
			 (DUMMY_PTE_WRITE | DUMMY_PTE_DIRTY)) /* not to copy pages after fork */
			*ptep &= ~(DUMMY_PTE_WRITE | DUMMY_PTE_DIRTY);
		addr += dev->page_size;
	}
}

void dummy_revoke(struct dummy_device *dev, uint64_t start, uint64_t end, bool drop, bool tell)
{
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	dummy_xlat_lock(dev);
	(drop ? revoke_all : revoke_write)(dev, &iter, start, end, tell);
	dummy_xlat_unlock(dev);
	hmm_pt_iter_fini(&iter);
}

uint64_t dummy_translate(struct dummy_device *dev, hmm_pte_t hmm, unsigned long *n)
{
	struct dummy_device *owner;
	uint64_t pte = DUMMY_PTE_VALID;
	char *page;

	if (!hmm_pte_test_valid(hmm) || hmm_pte_test_once(hmm) || dummy_is_lost(dev))
		return 0;
	if (hmm_pte_test_write(hmm))
		pte |= DUMMY_PTE_WRITE;
	if (hmm_pte_test_exclusive(hmm))
		pte |= DUMMY_PTE_EXCLUSIVE;
	if (!hmm_pte_test_device(hmm))
		return dummy_can_reach(dev, hmm) ? pte | hmm_pte_addr(hmm) : 0;

	page = dummy_memory_run(hmm_pte_pfn(hmm), n, &owner);
	return owner == dev ? pte | DUMMY_PTE_DEVICE | (uint64_t)(page - dev->memory) : 0;
}

/* Enter one page; what the device did there before is still to be told. */
static int map_page(struct dummy_device *dev, uint64_t addr, hmm_pte_t hmm)
{
	unsigned long one = 1;
	uint64_t pte = dummy_translate(dev, hmm, &one), *old;

	if (!pte || dummy_discarding(dev, addr))
		return 0;
	old = dummy_pgtable_lookup(&dev->pgtable, addr);
	if (old)
		pte |= *old & (DUMMY_PTE_DIRTY | DUMMY_PTE_ACCESSED);
	return dummy_pgtable_set(&dev->pgtable, addr, pte);
}

/* Take over the mirror's entries. *@once: some are for once. */
static int map_range(struct dummy_device *dev, const struct hmm_event *event, bool *once)
{
	struct hmm_pt_iter iter;
	unsigned long addr = event->start;
	int ret = 0;

	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	dummy_xlat_lock(dev);
	while (addr < event->end && !ret) {
		unsigned long next = event->end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; hmm && addr < next && !ret; addr += dev->page_size, hmm++) {
			hmm_pte_t entry = hmm_pte_load(hmm);

			*once = *once || hmm_pte_test_once(entry);
			ret = map_page(dev, addr, entry);
		}
	}
	dummy_xlat_unlock(dev);
	hmm_pt_iter_fini(&iter);
	return ret;
}

/*
 * The page that the fault was for may be one whose translation ends when we return
 * (HMM_PTE_ONCE). Then the access is made now.
 */
static void access_now(struct dummy_device *dev, const struct hmm_event *event)
{
	struct dummy_port *port = event->cookie;
	struct hmm_pt_iter iter;
	hmm_pte_t *hmm;
	uint64_t addr;

	if (!port)
		return; /* hmm_mirror_fault() by hand */
	addr = port->access.addr & ~dummy_page_mask(dev);
	if (addr < event->start || addr >= event->end)
		return;
	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	hmm = hmm_pt_iter_lookup(&iter, addr);
	if (hmm && hmm_pte_test_valid(*hmm) && hmm_pte_test_once(*hmm))
		dummy_access_now(dev, port, hmm);
	hmm_pt_iter_fini(&iter);
}

/* A fault was answered. */
static int update_fault(struct dummy_device *dev, const struct hmm_event *event)
{
	bool once = false;
	int ret = map_range(dev, event, &once);

	/* All or nothing: the mirror forgets the range, so must the device. */
	if (ret)
		dummy_revoke(dev, event->start, event->end, true, true);
	else if (once)
		access_now(dev, event);
	return ret;
}

/*
 * What is not exclusive any more has no entry, and no translation since HMM_MIGRATE. The
 * access is made now: the CPU may be waiting for the page, and takes it when we return.
 */
static int update_exclusive(struct dummy_device *dev, const struct hmm_event *event)
{
	bool once = false;
	int ret = map_range(dev, event, &once);

	if (ret)
		dummy_revoke(dev, event->start, event->end, true, true);
	else if (event->cookie)
		dummy_access_exclusive(dev, event->cookie);
	return ret;
}

static bool fault_event(const struct hmm_event *event)
{
	return event->etype == HMM_DEVICE_RFAULT || event->etype == HMM_DEVICE_WFAULT ||
	       event->etype == HMM_DEVICE_EXCLUSIVE;
}

static int dummy_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);

	if (event->etype <= HMM_DEVICE_EXCLUSIVE)
		dummy_count(&dev->stats.updates[event->etype], 1);
	if (!dummy_op_begin(dev)) /* it has no translation */
		return fault_event(event) ? -EIO : 0;
	if (dummy_fails(dev, DUMMY_FAIL_UPDATE)) {
		/* Nobody will ask to take away the rest: a dead mirror gets no update(). */
		if (!fault_event(event))
			dummy_revoke(dev, 0, UINT64_MAX, true, false);
		return -EIO;
	}

	switch (event->etype) {
	case HMM_DEVICE_RFAULT:
	case HMM_DEVICE_WFAULT:
		return update_fault(dev, event);
	case HMM_DEVICE_EXCLUSIVE:
		return update_exclusive(dev, event);
	case HMM_FORK:
	case HMM_ISDIRTY:
	case HMM_WRITE_PROTECT:
		dummy_revoke(dev, event->start, event->end, false, true);
		return 0;
	default: /* and of a type not known here, the most that can be asked for */
		dummy_revoke(dev, event->start, event->end, true, true);
		return 0;
	}
}

const struct hmm_device_ops dummy_ops = {
	.size = sizeof(struct hmm_device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = dummy_update,
	.copy_to_device = dummy_copy_to_device,
	.hold = dummy_hold,
	.release = dummy_release,
	.dma_map = dummy_dma_map,
	.dma_unmap = dummy_dma_unmap,
};
