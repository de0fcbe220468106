/* SPDX-License-Identifier: MIT */
/*
 * A minimal driver, for tests that count what it is told and hold it up: a page table
 * of its own (an hmm_pt), device memory if wanted, and a hook at the head of update().
 *
 * The table has the entries of the mirror page table, or what a test puts there by the
 * snapshot protocol; HMM_PTE_DIRTY in it is the hardware's dirty bit.
 */
#ifndef TESTS_MIRROR_MINI_H
#define TESTS_MIRROR_MINI_H

#include "test_util.h"

struct mini {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct hmm_devmem devmem;
	size_t pages; /* of device memory */
	char *memory;
	pthread_mutex_t lock; /* table, last */
	struct hmm_pt table;
	struct hmm_event last; /* the latest update() */
	unsigned long updates[HMM_DEVICE_EXCLUSIVE + 1]; /* atomic */
	int fail; /* atomic: what update() returns */
	enum hmm_etype fail_only; /* atomic: for this event alone; HMM_NONE: for all */
	void (*hook)(struct mini *dev, const struct hmm_event *event); /* atomic */
	bool block; /* atomic: copy_from_device() waits */
	bool blocked; /* atomic: it does */
	struct hmm_device_ops ops;
};

static inline struct mini *mini_of(struct hmm_mirror *mirror)
{
	return hmm_container_of(mirror, struct mini, mirror);
}

/* dev->lock held. @etype takes write permission away, or all. */
static inline void mini_take_away(struct mini *dev, const struct hmm_event *event)
{
	bool all = event->etype == HMM_MIGRATE || event->etype == HMM_MUNMAP;
	struct hmm_pt_iter iter, mirror;
	unsigned long addr = event->start;

	hmm_pt_iter_init(&iter, &dev->table);
	hmm_pt_iter_init(&mirror, &dev->mirror.pt);
	while (addr < event->end) {
		unsigned long next = event->end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next), *entry;

		for (; ptep && addr < next; addr += PAGE, ptep++) {
			hmm_pte_t old = *ptep;

			if (!old)
				continue;
			hmm_pt_iter_set(&iter, ptep,
					all ? 0 : old & ~(HMM_PTE_WRITE | HMM_PTE_DIRTY));
			entry = hmm_pte_test_dirty(old) ? hmm_pt_iter_lookup(&mirror, addr) : NULL;
			if (entry && hmm_pte_test_valid(*entry))
				hmm_pte_set_dirty(entry);
		}
	}
	hmm_pt_iter_fini(&mirror);
	hmm_pt_iter_fini(&iter);
}

/* dev->lock held. What libhmm has entered for a fault goes into the table. */
static inline int mini_enter(struct mini *dev, const struct hmm_event *event)
{
	struct hmm_pt_iter iter, mirror;
	unsigned long addr = event->start;
	int ret = 0;

	hmm_pt_iter_init(&iter, &dev->table);
	hmm_pt_iter_init(&mirror, &dev->mirror.pt);
	while (addr < event->end && !ret) {
		unsigned long next = event->end;
		hmm_pte_t *entry = hmm_pt_iter_walk(&mirror, &addr, &next), *ptep;

		for (; entry && addr < next && !ret; addr += PAGE, entry++) {
			hmm_pte_t pte = hmm_pte_load(entry), dirty;

			if (!hmm_pte_test_valid(pte) || hmm_pte_test_once(pte))
				continue;
			ptep = hmm_pt_iter_populate(&iter, addr);
			dirty = ptep ? *ptep & HMM_PTE_DIRTY : 0;
			if (ptep)
				hmm_pt_iter_set(&iter, ptep, (pte & ~HMM_PTE_DIRTY) | dirty);
			else
				ret = -ENOMEM;
		}
	}
	hmm_pt_iter_fini(&mirror);
	hmm_pt_iter_fini(&iter);
	return ret;
}

static inline char *mini_page(struct mini *dev, uint64_t pfn)
{
	return dev->memory + hmm_page_index(hmm_page_from_pfn(pfn)) * PAGE;
}

/* Where the device has a page that its translation @pte is of, at the program's @addr. */
static inline char *mini_at(struct mini *dev, hmm_pte_t pte, const char *addr)
{
	uint64_t offset = addr_of(addr) & (PAGE - 1);

	if (hmm_pte_test_device(pte))
		return mini_page(dev, hmm_pte_pfn(pte)) + offset;
	return (char *)(hmm_pte_addr(pte) + offset);
}

/*
 * dev->lock held. The device adds to a word, where it has the page for itself, and so is
 * alone with it.
 */
static inline bool mini_add_locked(struct mini *of, char *addr, uint64_t delta)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep, pte;
	uint64_t value;

	hmm_pt_iter_init(&iter, &of->table);
	ptep = hmm_pt_iter_lookup(&iter, addr_of(addr));
	pte = ptep ? *ptep : 0;
	if (!hmm_pte_test_valid(pte) || !hmm_pte_test_write(pte) || !hmm_pte_test_exclusive(pte)) {
		pte = 0;
	} else {
		hmm_pte_set_dirty(ptep);
		memcpy(&value, mini_at(of, pte, addr), sizeof(value));
		value += delta;
		memcpy(mini_at(of, pte, addr), &value, sizeof(value));
	}
	hmm_pt_iter_fini(&iter);
	return pte;
}

/* What an event's cookie is, if it has one: to be made in update(). */
struct mini_access {
	char *addr;
	uint64_t delta;
	bool done;
};

static inline bool mini_fault_event(enum hmm_etype etype)
{
	return etype == HMM_DEVICE_RFAULT || etype == HMM_DEVICE_WFAULT ||
	       etype == HMM_DEVICE_EXCLUSIVE;
}

static inline int mini_failing(struct mini *dev, enum hmm_etype etype)
{
	enum hmm_etype only = __atomic_load_n(&dev->fail_only, __ATOMIC_ACQUIRE);

	return only == HMM_NONE || only == etype ? __atomic_load_n(&dev->fail, __ATOMIC_ACQUIRE) :
						   0;
}

static inline int mini_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct mini *dev = mini_of(mirror);
	void (*hook)(struct mini * dev, const struct hmm_event *event) =
		__atomic_load_n(&dev->hook, __ATOMIC_ACQUIRE);
	struct mini_access *access = event->cookie;
	int ret = mini_failing(dev, event->etype);

	__atomic_add_fetch(&dev->updates[event->etype], 1, __ATOMIC_SEQ_CST);
	if (hook)
		hook(dev, event);
	pthread_mutex_lock(&dev->lock);
	dev->last = *event;
	if (!mini_fault_event(event->etype))
		mini_take_away(dev, event);
	else if (!ret)
		ret = mini_enter(dev, event);
	if (!ret && access && event->etype == HMM_DEVICE_EXCLUSIVE)
		access->done = mini_add_locked(dev, access->addr, access->delta);
	pthread_mutex_unlock(&dev->lock);
	return ret;
}

static inline int mini_copy_to(struct hmm_mirror *mirror, const struct hmm_event *event,
			       hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct mini *dev = mini_of(mirror);
	struct hmm_pt_iter iter;
	unsigned long addr;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (addr = start; addr < end; addr += PAGE, dst++) {
		hmm_pte_t *src = hmm_pt_iter_lookup(&iter, addr);
		struct hmm_page *page = src && *src ? hmm_devmem_alloc(&dev->devmem) : NULL;

		if (!page)
			continue;
		if (hmm_pte_test_valid(*src))
			memcpy(mini_page(dev, hmm_page_pfn(page)), (void *)hmm_pte_addr(*src),
			       PAGE);
		else
			memset(mini_page(dev, hmm_page_pfn(page)), 0, PAGE);
		*dst = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
	}
	hmm_pt_iter_fini(&iter);
	return 0;
}

static inline int mini_copy_from(struct hmm_mirror *mirror, const struct hmm_event *event,
				 hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct mini *dev = mini_of(mirror);
	struct hmm_pt_iter iter;
	unsigned long addr;

	(void)event;
	while (__atomic_load_n(&dev->block, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(&dev->blocked, true, __ATOMIC_RELEASE);
		test_sleep_us(100);
	}
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (addr = start; addr < end; addr += PAGE, dst++) {
		hmm_pte_t *src = hmm_pt_iter_lookup(&iter, addr);

		if (src && hmm_pte_test_device(*src) && hmm_pte_test_valid(*dst))
			memcpy((void *)hmm_pte_addr(*dst), mini_page(dev, hmm_pte_pfn(*src)), PAGE);
	}
	hmm_pt_iter_fini(&iter);
	return 0;
}

/* With @pages of device memory, HMM_DEVICE_* flags, and ops that @tune changes, or NULL. */
static inline struct mini *mini_make_with(size_t pages, uint32_t flags,
					  void (*tune)(struct hmm_device_ops *ops))
{
	struct mini *dev = hmm_alloc(sizeof(*dev));

	assert_non_null(dev);
	pthread_mutex_init(&dev->lock, NULL);
	dev->ops = (struct hmm_device_ops){
		.size = sizeof(dev->ops),
		.version = HMM_DEVICE_OPS_VERSION,
		.update = mini_update,
		.copy_to_device = pages ? mini_copy_to : NULL,
		.copy_from_device = pages ? mini_copy_from : NULL,
	};
	if (tune)
		tune(&dev->ops);
	dev->device = (struct hmm_device){
		.size = sizeof(dev->device), .flags = flags, .ops = &dev->ops, .name = "mini"
	};
	dev->mirror = (struct hmm_mirror){ .size = sizeof(dev->mirror), .device = &dev->device };
	dev->devmem.size = sizeof(dev->devmem);
	dev->pages = pages;
	assert_int_equal(hmm_pt_init(&dev->table, (1ul << 56) - 1), 0);
	assert_int_equal(hmm_device_register(&dev->device), 0);
	if (pages) {
		dev->memory = hmm_map(pages * PAGE);
		assert_non_null(dev->memory);
		assert_int_equal(hmm_devmem_add(&dev->devmem, &dev->device, pages * PAGE), 0);
	}
	assert_int_equal(hmm_mirror_register(&dev->mirror), 0);
	return dev;
}

static inline struct mini *mini_make(size_t pages, uint32_t flags)
{
	return mini_make_with(pages, flags, NULL);
}

static inline struct mini *mini_new(size_t pages)
{
	return mini_make(pages, 0);
}

/* The mirror may be unregistered already. */
static inline void mini_free(struct mini *dev)
{
	if (dev->mirror.state)
		assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	if (dev->pages) {
		assert_int_equal(hmm_devmem_remove(&dev->devmem), 0);
		hmm_unmap(dev->memory, dev->pages * PAGE);
	}
	assert_int_equal(hmm_device_unregister(&dev->device), 0);
	hmm_pt_fini(&dev->table);
	pthread_mutex_destroy(&dev->lock);
	hmm_free(dev);
}

static inline void mini_hook(struct mini *dev,
			     void (*hook)(struct mini *dev, const struct hmm_event *event))
{
	__atomic_store_n(&dev->hook, hook, __ATOMIC_RELEASE);
}

static inline void mini_fail(struct mini *dev, int err)
{
	__atomic_store_n(&dev->fail_only, HMM_NONE, __ATOMIC_RELEASE);
	__atomic_store_n(&dev->fail, err, __ATOMIC_RELEASE);
}

static inline void mini_fail_only(struct mini *dev, enum hmm_etype etype, int err)
{
	__atomic_store_n(&dev->fail_only, etype, __ATOMIC_RELEASE);
	__atomic_store_n(&dev->fail, err, __ATOMIC_RELEASE);
}

/* What takes permission away, of all kinds, so far. */
static inline unsigned long mini_told(struct mini *dev)
{
	unsigned long n = 0;
	int i;

	for (i = HMM_FORK; i <= HMM_WRITE_PROTECT; i++)
		n += __atomic_load_n(&dev->updates[i], __ATOMIC_SEQ_CST);
	return n;
}

static inline int mini_event(struct mini *dev, const void *mem, size_t pages, enum hmm_etype etype,
			     unsigned long *served)
{
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + pages * PAGE,
				   .etype = etype };
	int ret = hmm_mirror_fault(&dev->mirror, &event);

	if (served)
		*served = event.pages;
	return ret;
}

/* To the device, all of it. */
static inline void mini_migrate(struct mini *dev, const void *mem, size_t pages)
{
	unsigned long moved = 0;

	assert_int_equal(mini_event(dev, mem, pages, HMM_COPY_TO_DEVICE, &moved), 0);
	assert_int_equal(moved, pages);
}

static inline struct hmm_event mini_last(struct mini *dev)
{
	struct hmm_event last;

	pthread_mutex_lock(&dev->lock);
	last = dev->last;
	pthread_mutex_unlock(&dev->lock);
	return last;
}

/*
 * The event of a call that has returned was read, but perhaps not recorded yet: libhmm
 * has its lock over both, and every call takes it. See hmm_mirror_sync(), which waits
 * for update() as well.
 */
static inline void mini_recorded(struct mini *dev, const void *mem)
{
	assert_int_equal(mini_event(dev, mem, 1, HMM_NONE, NULL), -EINVAL);
}

static inline hmm_pte_t mini_get(struct mini *dev, const void *addr)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep, pte;

	pthread_mutex_lock(&dev->lock);
	hmm_pt_iter_init(&iter, &dev->table);
	ptep = hmm_pt_iter_lookup(&iter, addr_of(addr));
	pte = ptep ? *ptep : 0;
	hmm_pt_iter_fini(&iter);
	pthread_mutex_unlock(&dev->lock);
	return pte;
}

/* The device writes a word, by its own translation; its hardware sets the dirty bit. */
static inline bool mini_store(struct mini *of, char *addr, uint64_t value)
{
	struct hmm_pt_iter iter;
	bool ok = false;
	hmm_pte_t *ptep;

	pthread_mutex_lock(&of->lock);
	hmm_pt_iter_init(&iter, &of->table);
	ptep = hmm_pt_iter_lookup(&iter, addr_of(addr));
	if (ptep && hmm_pte_test_valid(*ptep) && hmm_pte_test_write(*ptep)) {
		hmm_pte_set_dirty(ptep);
		memcpy(mini_at(of, *ptep, addr), &value, sizeof(value));
		ok = true;
	}
	hmm_pt_iter_fini(&iter);
	pthread_mutex_unlock(&of->lock);
	return ok;
}

static inline bool mini_add(struct mini *of, char *addr, uint64_t delta)
{
	bool done;

	pthread_mutex_lock(&of->lock);
	done = mini_add_locked(of, addr, delta);
	pthread_mutex_unlock(&of->lock);
	return done;
}

/* ---- snapshots ---- */

static inline struct hmm_range mini_range(struct mini *dev, const void *mem, size_t pages,
					  uint32_t flags, hmm_pfn_t *pfns)
{
	return (struct hmm_range){
		.size = sizeof(struct hmm_range),
		.flags = flags,
		.mirror = &dev->mirror,
		.start = addr_of(mem),
		.end = addr_of(mem) + pages * PAGE,
		.pfns = pfns,
	};
}

/* Taken until it holds: what a test did before may still be on its way to the device. */
static inline void mini_snapshot(struct mini *dev, const void *mem, size_t pages, uint32_t flags,
				 hmm_pfn_t *pfns)
{
	struct hmm_range range = mini_range(dev, mem, pages, flags, pfns);

	do {
		int ret = hmm_range_snapshot(&range);

		assert_int_equal(ret, 0);
	} while (!hmm_range_done(&range));
}

/* The same by hmm_range_fault(); its result. */
static inline int mini_fault(struct mini *dev, const void *mem, size_t pages, uint32_t flags,
			     hmm_pfn_t *pfns)
{
	struct hmm_range range = mini_range(dev, mem, pages, flags, pfns);
	int ret;

	do
		ret = hmm_range_fault(&range);
	while (!ret && !hmm_range_done(&range));
	return ret;
}

#endif
