/* SPDX-License-Identifier: MIT */
/*
 * The device forgets a range by itself.
 *
 *	1. no new translations of the range from now on   (dev->discards)
 *	2. the old ones end; which pages are dirty stays in the table
 *	3. tell libhmm what is dirty                      (hmm_mirror_range_dirty())
 *	4. let libhmm forget the range                    (hmm_mirror_range_discard())
 *	5. empty the table, let translations come again
 *
 * 1, because in 4 the device must have no translation: a fault of another thread,
 * or the end of a migration, could bring one at any time, and nobody would ever take
 * it away. They go their way in libhmm; only the device's table takes nothing in. An
 * access that finds no translation for that reason waits for 5, with no lock held
 * and no op active.
 *
 * 2 and 3 in this order and not at once: an event that comes between them still
 * finds the dirty bit in the table and tells it. So none is lost; one may be told
 * twice, where somebody asks just then.
 */
#include <errno.h>

#include "internal.h"

/**
 * struct dummy_discard - a discard that runs; in the arena, for callbacks look at it
 */
struct dummy_discard {
	struct dummy_discard *next;
	uint64_t start;
	uint64_t end;
};

bool dummy_discarding(struct dummy_device *dev, uint64_t addr)
{
	const struct dummy_discard *discard;

	for (discard = dev->discards; discard; discard = discard->next)
		if (addr >= discard->start && addr < discard->end)
			return true;
	return false;
}

void dummy_discard_wait(struct dummy_device *dev, uint64_t addr)
{
	if (!__atomic_load_n(&dev->discards, __ATOMIC_RELAXED))
		return;
	hmm_signals_block();
	pthread_mutex_lock(&dev->discard_lock);
	while (dummy_discarding(dev, addr))
		pthread_cond_wait(&dev->discard_end, &dev->discard_lock);
	pthread_mutex_unlock(&dev->discard_lock);
	hmm_signals_unblock();
}

/* Clear the entries of the range; the dirty ones stay, without translation, if @keep. */
static void clear_entries(struct dummy_device *dev, const struct dummy_discard *discard, bool keep)
{
	uint64_t addr = discard->start, *ptep;

	while ((ptep = dummy_pgtable_next(&dev->pgtable, &addr, discard->end))) {
		if (keep && (*ptep & DUMMY_PTE_DIRTY))
			*ptep &= ~(DUMMY_PTE_VALID | DUMMY_PTE_WRITE);
		else
			dummy_pgtable_clear(&dev->pgtable, addr);
		addr += dev->page_size;
	}
}

/* Steps 1 and 2. */
static void discard_begin(struct dummy_device *dev, struct dummy_discard *discard)
{
	dummy_xlat_lock(dev);
	pthread_mutex_lock(&dev->discard_lock);
	discard->next = dev->discards;
	__atomic_store_n(&dev->discards, discard, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&dev->discard_lock);
	clear_entries(dev, discard, true);
	dummy_xlat_unlock(dev);
}

/* Step 5. */
static void discard_end(struct dummy_device *dev, struct dummy_discard *discard)
{
	struct dummy_discard **link = &dev->discards;

	dummy_xlat_lock(dev);
	clear_entries(dev, discard, false);
	pthread_mutex_lock(&dev->discard_lock);
	while (*link != discard)
		link = &(*link)->next;
	__atomic_store_n(link, discard->next, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&dev->discard_end);
	pthread_mutex_unlock(&dev->discard_lock);
	dummy_xlat_unlock(dev);
}

/* The next run of dirty pages in [*start, @end). */
static bool dirty_run(struct dummy_device *dev, struct dummy_port *port, uint64_t *start,
		      uint64_t *stop, uint64_t end)
{
	uint64_t *ptep, addr = *start;

	*stop = 0;
	dummy_port_enter(dev, port);
	while ((ptep = dummy_pgtable_next(&dev->pgtable, &addr, end))) {
		bool dirty = __atomic_load_n(ptep, __ATOMIC_RELAXED) & DUMMY_PTE_DIRTY;

		if (*stop && (!dirty || addr != *stop))
			break;
		if (dirty && !*stop)
			*start = addr;
		addr += dev->page_size;
		if (dirty)
			*stop = addr;
	}
	dummy_port_leave(port);
	return *stop;
}

/* Step 3. An error is one that step 4 meets as well. */
static void tell_dirty(struct dummy_device *dev, struct dummy_port *port,
		       const struct dummy_discard *discard)
{
	uint64_t start = discard->start, stop;

	while (dirty_run(dev, port, &start, &stop, discard->end)) {
		if (hmm_mirror_range_dirty(&dev->mirror, start, stop))
			return;
		start = stop;
	}
}

/* With a port from the beginning: those that wait for the end of a discard have one each. */
int dummy_discard(struct dummy_device *dev, uint64_t start, uint64_t end)
{
	struct dummy_discard *discard = hmm_alloc(sizeof(*discard));
	struct dummy_port *port;
	int ret;

	if (!discard)
		return -ENOMEM;
	discard->start = start & ~dummy_page_mask(dev);
	discard->end = (end + dummy_page_mask(dev)) & ~dummy_page_mask(dev);

	port = dummy_port_get(dev);
	discard_begin(dev, discard);
	tell_dirty(dev, port, discard);
	dummy_port_put(port);
	ret = hmm_mirror_range_discard(&dev->mirror, discard->start, discard->end);
	discard_end(dev, discard);
	hmm_free(discard);
	return ret;
}
