/* SPDX-License-Identifier: MIT */
/*
 * The cache: a driver on hmm/mirror.h.
 *
 *	rc_get() ──► sync ──► found ───────────────────────► a reference
 *	                       │ no                           ▲
 *	                       ▼                              │ found
 *	                   hmm_mirror_fault() ──► update(): pin, enter in the tree
 *
 *	munmap, mremap, madvise, fork ──► update(): out of the tree, wait for
 *	                                  transfers, unpin
 *
 * What keeps it right:
 *
 * - A page is pinned in update(), where libhmm keeps every event on the range away.
 *   So each registration is of what the address meant then, and whatever changes
 *   that later finds the registration in the tree.
 * - When update() for an event returns, the card has none of the range. So transfers
 *   are counted, and waited for: they take microseconds. For that the card is not
 *   HMM_DEVICE_PROMPT.
 * - libhmm hears of a munmap as it returns, and may tell us a little later. A program
 *   that asks for memory after its munmap must not be given what was there before:
 *   hmm_mirror_sync() waits for what is still to be told (G3).
 * - The card is HMM_DEVICE_PINS: it does not go through the page table, so a page
 *   that an madvise is about to take must not be pinned before it is gone.
 *
 * A fault comes to update() in as many parts as libhmm likes, and a part of it may
 * be registered already. So update() registers what is missing; registrations never
 * overlap; and a transfer may need more than one.
 *
 * A registration that was given to somebody can end under him: he gets -ESTALE at
 * the next transfer and asks again, as rc_rdma() does.
 */
#include <errno.h>
#include <string.h>

#include "regcache.h"

#define RETRIES 1000u

/*
 * A registration would be read from here if the card had page tables. It pins by
 * CPU address instead, so this only sees that all is as was asked for.
 */
static int check_entries(struct hmm_mirror *mirror, const struct hmm_event *event)
{
	unsigned long addr = event->start, pages = 0;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < event->end) {
		unsigned long next = event->end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++) {
			hmm_pte_t pte = hmm_pte_load(ptep);

			/* ONCE: nobody would say when it ends. DEVICE: there is none. */
			if (hmm_pte_test_valid(pte) && hmm_pte_test_write(pte) &&
			    !(pte & (HMM_PTE_ONCE | HMM_PTE_DEVICE)) && hmm_pte_addr(pte) == addr)
				pages++;
		}
	}
	hmm_pt_iter_fini(&iter);
	return pages == (event->end - event->start) >> hmm_page_shift() ? 0 : -EIO;
}

/* The card may have written @reg; of the event's range, which is all we may walk. */
static void tell_dirty(struct hmm_mirror *mirror, const struct hmm_event *event,
		       const struct rc_reg *reg)
{
	unsigned long addr = reg->start > event->start ? reg->start : event->start;
	unsigned long end = reg->end < event->end ? reg->end : event->end;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += hmm_page_size(), ptep++)
			if (hmm_pte_test_valid(hmm_pte_load(ptep)))
				hmm_pte_set_dirty(ptep);
	}
	hmm_pt_iter_fini(&iter);
}

/*
 * Permission goes: the card lets go of all that overlaps, whatever the event. What
 * was only write-protected is registered again when it is asked for.
 *
 * Two events on either side of one registration may both be here: the one that came
 * later waits for the other. It stays in the tree so that it is found.
 */
static void invalidate(struct rc_cache *cache, const struct hmm_event *event)
{
	struct rc_reg *reg;

	pthread_mutex_lock(&cache->lock);
	while ((reg = rc_reg_first(cache, event->start)) && reg->start < event->end) {
		if (reg->dirty)
			tell_dirty(&cache->mirror, event, reg);
		if (reg->gone) {
			pthread_cond_wait(&cache->changed, &cache->lock);
			continue;
		}
		reg->gone = true; /* no transfer begins any more */
		while (reg->transfers)
			pthread_cond_wait(&cache->changed, &cache->lock);
		rc_reg_unpin(cache, reg);
		cache->stats.invalidated++;
	}
	pthread_mutex_unlock(&cache->lock);
}

static int rc_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct rc_cache *cache = hmm_container_of(mirror, struct rc_cache, mirror);
	int ret;

	switch (event->etype) {
	case HMM_DEVICE_RFAULT:
	case HMM_DEVICE_WFAULT:
		ret = check_entries(mirror, event);
		if (!ret)
			ret = rc_register_range(cache, event->start, event->end);
		return !ret || ret == -ENOMEM ? ret : -EIO;
	default: /* and of a type not known here, the most that can be asked for */
		invalidate(cache, event);
		return 0;
	}
}

static const struct hmm_device_ops rc_ops = {
	.size = sizeof(struct hmm_device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = rc_update,
};

/* On a miss. With libhmm update() registers; without, nobody hears of the rest. */
static int fill(struct rc_cache *cache, unsigned long start, unsigned long end)
{
	struct hmm_event event = { .start = start, .end = end, .etype = HMM_DEVICE_WFAULT };
	int ret;

	if (!cache->naive)
		return hmm_mirror_fault(&cache->mirror, &event);
	pthread_mutex_lock(&cache->fill);
	ret = rc_register_range(cache, start, end);
	pthread_mutex_unlock(&cache->fill);
	return ret;
}

/*
 * Drop a registration to make room. No event will find it then, so what the card
 * wrote is told before; not under our lock, for libhmm may have to wait.
 */
static bool evict(struct rc_cache *cache)
{
	bool dirty;
	struct rc_reg *reg = rc_reg_victim(cache, &dirty);

	if (!reg)
		return false;
	if (dirty && !cache->naive)
		hmm_mirror_range_dirty(&cache->mirror, reg->start, reg->end);
	rc_reg_evict(cache, reg);
	return true;
}

/**
 * rc_get() - a registration for a transfer
 * @addr: first byte
 * @len: bytes
 * @out: a registration that has @addr, and may end before @addr + @len
 *
 * Return: 0, with a reference to be given back by rc_put(); -ENOMEM, also where
 * RLIMIT_MEMLOCK leaves no room; -EFAULT not mapped or not writable; or what
 * hmm_mirror_fault() says.
 * Context: as hmm_mirror_fault().
 */
int rc_get(struct rc_cache *cache, unsigned long addr, size_t len, struct rc_reg **out)
{
	unsigned long mask = hmm_page_size() - 1;
	unsigned long start = addr & ~mask, end = (addr + len + mask) & ~mask;
	unsigned int retries;
	int ret;

	if (!cache->naive)
		hmm_mirror_sync(&cache->mirror);
	*out = rc_reg_lookup(cache, addr);
	pthread_mutex_lock(&cache->lock);
	cache->stats.lookups++;
	cache->stats.hits += *out != NULL;
	pthread_mutex_unlock(&cache->lock);

	for (retries = 0; !*out && retries < RETRIES; retries++) {
		while (!rc_reg_room(cache, end - start) && evict(cache))
			;
		ret = fill(cache, start, end);
		if (ret && (ret != -ENOMEM || !evict(cache)))
			return ret;
		*out = rc_reg_lookup(cache, addr); /* none: an event was faster */
	}
	return *out ? 0 : -EBUSY;
}

/**
 * rc_transfer() - let the card work on a registration
 * @reg: the caller has a reference
 * @addr: in it, as is all of @len
 * @wire: place on the wire
 * @dir: which way
 *
 * From where it is counted to where it is no more, an event of the range waits for
 * us: no call into libhmm here, and no program memory touched by the CPU.
 *
 * Return: 0; -ESTALE the registration has ended; or the card's error.
 */
int rc_transfer(struct rc_cache *cache, struct rc_reg *reg, unsigned long addr, size_t len,
		size_t wire, enum rc_dir dir)
{
	int ret;

	pthread_mutex_lock(&cache->lock);
	if (reg->gone) {
		pthread_mutex_unlock(&cache->lock);
		return -ESTALE;
	}
	reg->transfers++;
	reg->dirty |= dir == RC_WRITE_MEMORY;
	pthread_mutex_unlock(&cache->lock);

	ret = rc_card_transfer(&cache->card, reg->slot, addr, len, wire, dir);

	pthread_mutex_lock(&cache->lock);
	if (!--reg->transfers && reg->gone)
		pthread_cond_broadcast(&cache->changed);
	pthread_mutex_unlock(&cache->lock);
	return ret;
}

/* All of a range, in as many pieces as there are registrations. */
int rc_rdma(struct rc_cache *cache, unsigned long addr, size_t len, size_t wire, enum rc_dir dir)
{
	while (len) {
		struct rc_reg *reg;
		size_t part;
		int ret = rc_get(cache, addr, len, &reg);

		if (ret)
			return ret;
		part = reg->end - addr < len ? reg->end - addr : len;
		ret = rc_transfer(cache, reg, addr, part, wire, dir);
		rc_put(cache, reg);
		if (ret == -ESTALE)
			continue;
		if (ret)
			return ret;
		addr += part;
		wire += part;
		len -= part;
	}
	return 0;
}

static int cache_register(struct rc_cache *cache)
{
	int ret;

	cache->device.size = sizeof(cache->device);
	cache->device.flags = HMM_DEVICE_PINS;
	cache->device.ops = &rc_ops;
	cache->device.name = "regcache";
	ret = hmm_device_register(&cache->device);
	if (ret)
		return ret;

	cache->mirror.size = sizeof(cache->mirror);
	cache->mirror.device = &cache->device;
	ret = hmm_mirror_register(&cache->mirror);
	if (ret)
		hmm_device_unregister(&cache->device);
	return ret;
}

/* Both are members of hmm_alloc() memory: update() takes the lock. */
static void cache_init(struct rc_cache *cache, bool naive)
{
	unsigned int i;

	cache->naive = naive;
	pthread_mutex_init(&cache->fill, NULL);
	pthread_mutex_init(&cache->lock, NULL);
	pthread_cond_init(&cache->changed, NULL);
	RB_INIT(&cache->tree);
	TAILQ_INIT(&cache->lru);
	TAILQ_INIT(&cache->free);
	for (i = 0; i < RC_SLOTS; i++) {
		cache->reg[i].slot = i;
		TAILQ_INSERT_TAIL(&cache->free, &cache->reg[i], link);
	}
}

static void cache_fini(struct rc_cache *cache)
{
	rc_card_fini(&cache->card); /* with what is still registered */
	pthread_cond_destroy(&cache->changed);
	pthread_mutex_destroy(&cache->lock);
	pthread_mutex_destroy(&cache->fill);
	hmm_free(cache);
}

/**
 * rc_create() - a cache with a card of its own
 * @naive: without libhmm
 */
int rc_create(struct rc_cache **out, size_t wire_size, bool naive)
{
	struct rc_cache *cache = hmm_alloc(sizeof(*cache));
	int ret;

	if (!cache)
		return -ENOMEM;
	ret = rc_card_init(&cache->card, wire_size);
	if (ret) {
		hmm_free(cache);
		return ret;
	}
	cache_init(cache, naive);
	ret = naive ? 0 : cache_register(cache);
	if (ret)
		cache_fini(cache);
	else
		*out = cache;
	return ret;
}

/* The mirror goes first: then no update() runs any more. Nobody has a reference. */
int rc_destroy(struct rc_cache *cache)
{
	int ret = 0;

	if (!cache)
		return 0;
	if (!cache->naive)
		ret = hmm_mirror_unregister(&cache->mirror);
	if (!ret && !cache->naive)
		ret = hmm_device_unregister(&cache->device);
	if (!ret)
		cache_fini(cache);
	return ret;
}
