/* SPDX-License-Identifier: MIT */
/*
 * Device memory: page descriptors, reference counts, hot-add and hot-remove.
 *
 * Device pfns are one space for the process, cut into slots of 2^20 pages. A
 * region takes as many slots in a row as it needs and begins with the first page
 * of the first. Slot 0 is never used, so pfn 0 is no page. Slots are handed out
 * in turn, not lowest first, so that the pfns of a removed region do not soon
 * mean something else.
 *
 * From pfn to descriptor: the slot says where the descriptor of its first page
 * is and how many pages it has. From descriptor to pfn and region: the
 * descriptor says which slot its region begins with (in `flags`), the slot the
 * rest. Both take no lock and a constant time, for every fault needs them.
 *
 * A page is in one of three states:
 *
 *	free		refcount 0, its bit in the bitmap is set
 *	in use		refcount > 0, bit clear
 *	on its way	refcount 0, bit clear: the driver's free() runs
 *
 * A region that is being removed is closed: it gives out no page, and what the process
 * has there comes home. Either it is empty then, or it opens again.
 *
 * Invariants:
 *
 * D1. slot[i].page is set, by the last write of hmm_devmem_add(), after all else
 *     in the slot and in its descriptors, and reset, by the first of
 *     hmm_devmem_remove(). Who reads it looks at memory of the slot table alone.
 * D2. A region is removed only with all of its pages free. So a pointer or pfn of
 *     a page stays good as long as its reference does. Without a reference,
 *     hmm_page_from_pfn() is a hint: the caller must know otherwise that the
 *     region stays.
 * D3. While state->callers is not 0 the region is not removed, free or not: its ops
 *     other than free() run.
 *
 * D4. The struct of a region is never freed, only used for another one: so a region can
 *     be removed while somebody asks it for a page.
 *
 * Locks: table.lock (adding and removing regions, devmem->state, and all writes
 * to the slots), then state->lock (the free pages of one region), then those of the
 * arena. No callback runs under either. The reference counts need none.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <hmm/driver.h>

#include "core/devmem.h"
#include "core/free_map.h"
#include "mm/arena.h"
#include "mm/mm.h"

#define SLOT_SHIFT 20
#define SLOT_PAGES (1ul << SLOT_SHIFT)
#define SLOTS 65536u

/* hmm_page.flags: the low bits are for flags, of which there is none yet. */
#define PAGE_SLOT_SHIFT 8

_Static_assert((uint64_t)SLOTS << PAGE_SLOT_SHIFT <= 1ull << 32, "slot number in hmm_page.flags");

struct hmm_devmem_state {
	struct hmm_devmem *devmem;
	struct hmm_device *device;
	struct hmm_devmem_ops ops;
	struct hmm_page *page;
	unsigned long pages;
	unsigned int slot;
	unsigned int slots;
	struct hmm_devmem_state *next; /* of all regions; table.lock */

	unsigned int callers; /* of its ops; table.lock */

	pthread_mutex_t lock; /* for what follows */
	struct free_map map;
	bool closed;
};

/* All of it atomic: written with table.lock held, read without. */
struct slot {
	struct hmm_page *page; /* descriptor of the first page */
	unsigned long pages;
	struct hmm_devmem_state *state;
};

static struct {
	pthread_mutex_t lock;
	struct slot *slot; /* SLOTS of them; made once, never freed; atomic */
	struct hmm_devmem_state *regions; /* those on the way in too */
	struct hmm_devmem_state *retired;
	unsigned int hint; /* where to look for free slots */
} table HMM_DATA = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- slots -------------------------------------------------------------- */

/* Pfns for which HMM_PTE_FLAGS and the pfn fit an entry. */
static unsigned int slots_usable(void)
{
	unsigned int bits = 64 - hmm_page_shift() - SLOT_SHIFT;

	return bits < 16 ? 1u << bits : SLOTS;
}

/* Return: the first of @n free slots in a row, or 0. Context: table.lock held. */
static unsigned int slots_find(unsigned int from, unsigned int n)
{
	unsigned int i, run = 0, usable = slots_usable();

	for (i = from; i < usable; i++) {
		run = table.slot[i].state ? 0 : run + 1;
		if (run == n)
			return i + 1 - n;
	}
	return 0;
}

/* Context: table.lock held. */
static int slots_take(struct hmm_devmem_state *state)
{
	unsigned int slot = slots_find(table.hint, state->slots), i;

	if (!slot)
		slot = slots_find(1, state->slots);
	if (!slot)
		return -ENOSPC;
	state->slot = slot;
	table.hint = slot + state->slots;
	for (i = 0; i < state->slots; i++) {
		struct slot *s = &table.slot[slot + i];
		unsigned long left = state->pages - i * SLOT_PAGES;

		__atomic_store_n(&s->state, state, __ATOMIC_RELAXED);
		__atomic_store_n(&s->pages, left < SLOT_PAGES ? left : SLOT_PAGES,
				 __ATOMIC_RELAXED);
	}
	return 0;
}

/* From here on lookups find the region. Context: table.lock held. */
static void slots_publish(struct hmm_devmem_state *state)
{
	unsigned int i;

	for (i = 0; i < state->slots; i++)
		__atomic_store_n(&table.slot[state->slot + i].page, state->page + i * SLOT_PAGES,
				 __ATOMIC_RELEASE);
}

/* Context: table.lock held. */
static void slots_release(struct hmm_devmem_state *state)
{
	unsigned int i;

	for (i = 0; i < state->slots; i++) {
		__atomic_store_n(&table.slot[state->slot + i].page, NULL, __ATOMIC_RELEASE);
		__atomic_store_n(&table.slot[state->slot + i].state, NULL, __ATOMIC_RELAXED);
	}
}

/* Context: table.lock held. */
static int table_make(void)
{
	struct slot *slot;

	if (table.slot)
		return 0;
	slot = hmm_map(SLOTS * sizeof(*slot));
	if (!slot)
		return -ENOMEM;
	table.hint = 1;
	__atomic_store_n(&table.slot, slot, __ATOMIC_RELEASE);
	return 0;
}

static struct slot *slot_of(const struct hmm_page *page)
{
	return &table.slot[page->flags >> PAGE_SLOT_SHIFT];
}

static struct hmm_devmem_state *state_of(const struct hmm_page *page)
{
	return __atomic_load_n(&slot_of(page)->state, __ATOMIC_RELAXED);
}

/* The region as others see it; it may be on its way out. */
static struct hmm_devmem_state *devmem_state(const struct hmm_devmem *devmem)
{
	return __atomic_load_n(&devmem->state, __ATOMIC_ACQUIRE);
}

/* --- regions ------------------------------------------------------------ */

/*
 * The struct itself stays, and is used again for a region: a hmm_devmem_alloc() that has
 * just looked it up finds it closed, or another's (D4).
 */
static void state_unmap(struct hmm_devmem_state *state)
{
	state->closed = true;
	state->devmem = NULL;
	free_map_fini(&state->map);
	hmm_unmap(state->page, state->page ? state->pages * sizeof(*state->page) : 0);
	state->page = NULL;
}

/* Context: table.lock held. */
static void state_retire(struct hmm_devmem_state *state)
{
	state->next = table.retired;
	table.retired = state;
}

static void state_free(struct hmm_devmem_state *state)
{
	signals_lock(&state->lock);
	state_unmap(state);
	signals_unlock(&state->lock);
	signals_lock(&table.lock);
	state_retire(state);
	signals_unlock(&table.lock);
}

static struct hmm_devmem_state *state_make(void)
{
	struct hmm_devmem_state *state;

	signals_lock(&table.lock);
	state = table.retired;
	if (state)
		table.retired = state->next;
	signals_unlock(&table.lock);
	if (state)
		return state;
	state = hmm_alloc(sizeof(*state));
	if (state)
		pthread_mutex_init(&state->lock, NULL);
	return state;
}

/* The smaller of the two sizes is copied, the rest is NULL. */
static void ops_copy(struct hmm_devmem_ops *to, const struct hmm_devmem_ops *from)
{
	memcpy(to, from, from->size < sizeof(*to) ? from->size : sizeof(*to));
}

static struct hmm_devmem_state *state_new(struct hmm_devmem *devmem, struct hmm_device *device,
					  unsigned long pages)
{
	struct hmm_devmem_state *state = state_make();

	if (!state)
		return NULL;
	state->device = device;
	memset(&state->ops, 0, sizeof(state->ops));
	if (devmem->ops)
		ops_copy(&state->ops, devmem->ops);
	state->callers = 0;
	state->pages = pages;
	state->slots = (unsigned int)((pages + SLOT_PAGES - 1) >> SLOT_SHIFT);
	state->page = hmm_map(pages * sizeof(*state->page));
	if (!state->page || free_map_init(&state->map, pages)) {
		state_free(state);
		return NULL;
	}
	signals_lock(&state->lock);
	state->devmem = devmem;
	state->closed = false;
	signals_unlock(&state->lock);
	return state;
}

static bool devmem_valid(const struct hmm_devmem *devmem, size_t bytes)
{
	const struct hmm_devmem_ops *ops = devmem->ops;

	if (devmem->size < sizeof(*devmem) || !bytes || bytes & (hmm_page_size() - 1))
		return false;
	return !ops || (ops->version == HMM_DEVMEM_OPS_VERSION &&
			ops->size >= offsetof(struct hmm_devmem_ops, free));
}

/* Is @devmem added, or on the way in? Context: table.lock held. */
static bool table_has(const struct hmm_devmem *devmem)
{
	const struct hmm_devmem_state *state = table.regions;

	while (state && state->devmem != devmem)
		state = state->next;
	return state || devmem->state;
}

/* Take pfns for a region; nobody finds it yet. */
static int table_insert(struct hmm_devmem_state *state)
{
	int ret;

	signals_lock(&table.lock);
	ret = table_has(state->devmem) ? -EBUSY : table_make();
	if (!ret)
		ret = slots_take(state);
	if (!ret) {
		state->next = table.regions;
		table.regions = state;
	}
	signals_unlock(&table.lock);
	return ret;
}

/* Much to write: not under the lock. */
static void pages_init(struct hmm_devmem_state *state)
{
	unsigned long i;

	for (i = 0; i < state->pages; i++)
		state->page[i].flags = (uint32_t)state->slot << PAGE_SLOT_SHIFT;
}

static void table_publish(struct hmm_devmem_state *state)
{
	signals_lock(&table.lock);
	slots_publish(state);
	__atomic_store_n(&state->devmem->state, state, __ATOMIC_RELEASE);
	signals_unlock(&table.lock);
}

/* Context: table.lock held. */
static void table_delete(struct hmm_devmem_state *state)
{
	struct hmm_devmem_state **p = &table.regions;

	slots_release(state);
	while (*p != state)
		p = &(*p)->next;
	*p = state->next;
	__atomic_store_n(&state->devmem->state, NULL, __ATOMIC_RELEASE);
}

int hmm_devmem_add(struct hmm_devmem *devmem, struct hmm_device *device, size_t bytes)
{
	unsigned long pages = bytes >> hmm_page_shift();
	struct hmm_devmem_state *state;
	int ret;

	if (!devmem || !device || !devmem_valid(devmem, bytes))
		return -EINVAL;
	if (pages > (SLOTS - 1) * SLOT_PAGES)
		return -ENOSPC;
	ret = device_get(device);
	if (ret)
		return ret;
	ret = -ENOMEM;
	state = state_new(devmem, device, pages);
	if (!state)
		goto err_device;
	ret = table_insert(state);
	if (ret)
		goto err_state;
	pages_init(state);
	table_publish(state);
	return 0;

err_state:
	state_free(state);
err_device:
	device_put(device);
	return ret;
}

static bool state_empty(struct hmm_devmem_state *state)
{
	bool empty;

	signals_lock(&state->lock);
	empty = state->map.free == state->pages;
	signals_unlock(&state->lock);
	return empty;
}

static void state_close(struct hmm_devmem_state *state, bool closed)
{
	signals_lock(&state->lock);
	state->closed = closed;
	signals_unlock(&state->lock);
}

/* Return: 0, and nobody finds the region any more; -EBUSY; -EAGAIN an op runs (D3). */
static int table_remove(struct hmm_devmem_state *state)
{
	int ret = -EBUSY;

	signals_lock(&table.lock);
	if (state->callers) {
		ret = -EAGAIN;
	} else if (state_empty(state) || MUTANT(REMOVED_IN_USE)) {
		table_delete(state);
		ret = 0;
	}
	signals_unlock(&table.lock);
	return ret;
}

/* Its device is known as long as nobody else removes it too: api_lock. */
static int devmem_remove(struct hmm_devmem *devmem)
{
	struct hmm_devmem_state *state = devmem->state;
	unsigned int retries = 0;
	struct hmm_device *device;
	int ret = 0, err;

	if (!state)
		return -EINVAL;
	device = state->device;
	state_close(state, true);
	if (!state_empty(state))
		ret = migrate_region_home(device, devmem);
	while ((err = table_remove(state)) == -EAGAIN)
		retry_pause(retries++);
	if (err) {
		state_close(state, false);
		return ret == -ENOMEM ? ret : err;
	}
	state_free(state);
	device_region_gone(device);
	return 0;
}

int hmm_devmem_remove(struct hmm_devmem *devmem)
{
	int ret;

	if (!devmem)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = devmem_remove(devmem);
	api_unlock();
	return ret;
}

/* @n pages, one or a run. */
static struct hmm_page *devmem_alloc(struct hmm_devmem *devmem, unsigned long n)
{
	struct hmm_devmem_state *state = devmem_state(devmem);
	struct hmm_page *page = NULL;
	unsigned long i, end;

	if (!state)
		return NULL;
	signals_lock(&state->lock);
	i = state->pages;
	if (!state->closed && state->devmem == devmem)
		i = n == 1 ? free_map_take(&state->map, &n) : free_map_take_run(&state->map, n);
	if (i != state->pages)
		page = &state->page[i];
	signals_unlock(&state->lock);
	for (i = 0, end = page ? n : 0; i < end; i++) {
		HMM_ASSERT(!__atomic_load_n(&page[i].refcount, __ATOMIC_RELAXED));
		__atomic_store_n(&page[i].refcount, 1, __ATOMIC_RELAXED);
	}
	return page;
}

struct hmm_page *hmm_devmem_alloc(struct hmm_devmem *devmem)
{
	return devmem_alloc(devmem, 1);
}

unsigned long hmm_devmem_alloc_pages(struct hmm_devmem *devmem, unsigned long n,
				     struct hmm_page **pages)
{
	struct hmm_devmem_state *state = devmem_state(devmem);
	unsigned long got = 0, i;

	if (!state)
		return 0;
	signals_lock(&state->lock);
	while (got < n && !state->closed && state->devmem == devmem) {
		unsigned long some = n - got;

		i = free_map_take(&state->map, &some);
		if (i == state->pages)
			break;
		while (some--)
			pages[got++] = &state->page[i++];
	}
	signals_unlock(&state->lock);
	for (i = 0; i < got; i++) {
		HMM_ASSERT(!__atomic_load_n(&pages[i]->refcount, __ATOMIC_RELAXED));
		__atomic_store_n(&pages[i]->refcount, 1, __ATOMIC_RELAXED);
	}
	return got;
}

unsigned long hmm_devmem_run_pages(void)
{
	return chunk_pages();
}

struct hmm_page *hmm_devmem_alloc_run(struct hmm_devmem *devmem)
{
	return devmem_alloc(devmem, chunk_pages());
}

struct hmm_page *hmm_devmem_next_used(struct hmm_devmem *devmem, unsigned long index)
{
	struct hmm_devmem_state *state = devmem_state(devmem);
	struct hmm_page *page = NULL;
	unsigned long i;

	if (!state)
		return NULL;
	signals_lock(&state->lock);
	if (state->devmem == devmem && index < state->pages) {
		i = free_map_next_used(&state->map, index);
		page = i < state->pages ? &state->page[i] : NULL;
	}
	signals_unlock(&state->lock);
	return page;
}

unsigned long hmm_devmem_free_pages(const struct hmm_devmem *devmem)
{
	struct hmm_devmem_state *state = devmem_state(devmem);

	return state ? __atomic_load_n(&state->map.free, __ATOMIC_RELAXED) : 0;
}

unsigned long hmm_devmem_pages(const struct hmm_devmem *devmem)
{
	struct hmm_devmem_state *state = devmem_state(devmem);

	return state ? state->pages : 0;
}

/* --- pages -------------------------------------------------------------- */

void hmm_page_get(struct hmm_page *page)
{
	uint32_t old = __atomic_fetch_add(&page->refcount, 1, __ATOMIC_RELAXED);

	HMM_ASSERT(old && old != UINT32_MAX);
	(void)old;
}

/* One reference less, which is the caller's. True: it was the last. */
static bool refcount_drop(uint32_t *refcount)
{
	uint32_t last = 1 + MUTANT(FREED_EARLY), old;

	/* Only who has a reference takes another: the last is nobody else's business. */
	if (__atomic_load_n(refcount, __ATOMIC_ACQUIRE) == 1) {
		__atomic_store_n(refcount, 0, __ATOMIC_RELAXED);
		return last == 1;
	}
	old = __atomic_fetch_sub(refcount, 1, __ATOMIC_ACQ_REL);
	HMM_ASSERT(old);
	return old == last;
}

/*
 * The driver is told, then their region has them again. As long as the bit of one there is
 * clear, the region cannot go.
 */
static void pages_free(struct hmm_devmem_state *state, struct hmm_page *page, unsigned long n)
{
	if (!n)
		return;
	if (state->ops.free)
		call_free(state->devmem, &state->ops, page, n);
	signals_lock(&state->lock);
	free_map_give(&state->map, (unsigned long)(page - state->page), n);
	signals_unlock(&state->lock);
}

/* Context: the caller has a reference on each, so their region stays until the last is freed. */
static void pages_put(struct hmm_page *page, unsigned long n)
{
	struct hmm_devmem_state *state = state_of(page);
	unsigned long i, first = 0;

	for (i = 0; i < n; i++)
		if (!refcount_drop(&page[i].refcount)) {
			pages_free(state, &page[first], i - first);
			first = i + 1;
		}
	pages_free(state, &page[first], n - first);
}

void hmm_page_put(struct hmm_page *page)
{
	pages_put(page, 1);
}

void devmem_put_run(uint64_t pfn, unsigned long n)
{
	pages_put(hmm_page_from_pfn(pfn), n);
}

uint64_t hmm_page_pfn(const struct hmm_page *page)
{
	const struct slot *s = slot_of(page);
	const struct hmm_page *first = __atomic_load_n(&s->page, __ATOMIC_RELAXED);

	return ((uint64_t)(s - table.slot) << SLOT_SHIFT) + (uint64_t)(page - first);
}

/* The page of a pfn, and how many there are from it on in its slot. */
static struct hmm_page *slot_page(uint64_t pfn, unsigned long *n)
{
	struct slot *slots = __atomic_load_n(&table.slot, __ATOMIC_ACQUIRE);
	uint64_t nr = pfn >> SLOT_SHIFT, i = pfn & (SLOT_PAGES - 1);
	struct hmm_page *first;
	unsigned long pages;

	if (!slots || nr >= SLOTS)
		return NULL;
	first = __atomic_load_n(&slots[nr].page, __ATOMIC_ACQUIRE);
	pages = __atomic_load_n(&slots[nr].pages, __ATOMIC_RELAXED);
	if (!first || i >= pages)
		return NULL;
	*n = pages - i;
	return first + i;
}

struct hmm_page *hmm_page_from_pfn(uint64_t pfn)
{
	unsigned long n;

	return slot_page(pfn, &n);
}

unsigned long devmem_run(const hmm_pte_t *ptes, unsigned long n)
{
	uint64_t step = hmm_page_size();
	unsigned long i = 1, left;

	if (!hmm_pte_test_device(ptes[0]) || !slot_page(hmm_pte_pfn(ptes[0]), &left))
		return 1;
	n = n < left ? n : left;
	while (i < n && ptes[i] == ptes[0] + i * step)
		i++;
	return i;
}

unsigned long hmm_page_index(const struct hmm_page *page)
{
	return (unsigned long)(page - state_of(page)->page);
}

struct hmm_devmem *hmm_page_devmem(const struct hmm_page *page)
{
	return state_of(page)->devmem;
}

struct hmm_device *devmem_device(const struct hmm_page *page)
{
	return state_of(page)->device;
}

/* --- inside libhmm ------------------------------------------------------ */

const struct hmm_devmem_ops *devmem_ops(const struct hmm_page *page)
{
	return &state_of(page)->ops;
}

bool devmem_can_copy_back(const struct hmm_device *device)
{
	struct hmm_devmem_state *state;

	signals_lock(&table.lock);
	for (state = table.regions; state; state = state->next)
		if (state->device == device && state->ops.copy_from_device)
			break;
	signals_unlock(&table.lock);
	return state;
}

/* A region of @device that is full and can be asked; it stays until devmem_put(). */
static struct hmm_devmem_state *devmem_full(const struct hmm_device *device, unsigned int skip)
{
	struct hmm_devmem_state *state;

	signals_lock(&table.lock);
	for (state = table.regions; state; state = state->next) {
		if (state->device != device || state->devmem->state != state || !state->ops.evict ||
		    __atomic_load_n(&state->map.free, __ATOMIC_RELAXED))
			continue;
		if (!skip--)
			break;
	}
	if (state)
		state->callers++;
	signals_unlock(&table.lock);
	return state;
}

static void devmem_put(struct hmm_devmem_state *state)
{
	signals_lock(&table.lock);
	state->callers--;
	signals_unlock(&table.lock);
}

bool devmem_evict(struct hmm_device *device, unsigned long pages, unsigned long *start,
		  unsigned long *end)
{
	struct hmm_devmem_state *state;
	unsigned int i;
	int ret = -ENOENT;

	for (i = 0; ret && (state = devmem_full(device, i)); i++) {
		unsigned long from = *start, to = *end;

		ret = call_evict(state->devmem, &state->ops, pages, &from, &to);
		if (!ret) {
			*start = from;
			*end = to;
		}
		devmem_put(state);
	}
	return !ret;
}

bool devmem_next(unsigned long *start, unsigned long *end)
{
	unsigned long mask = hmm_page_size() - 1, s, e;
	struct hmm_devmem_state *state;
	unsigned long best = 0, best_end = 0;

	signals_lock(&table.lock);
	for (state = table.regions; state; state = state->next) {
		s = (unsigned long)state->devmem & ~mask;
		e = ((unsigned long)(state->devmem + 1) + mask) & ~mask;
		s = s > *start ? s : *start;
		e = e < *end ? e : *end;
		if (s < e && (!best_end || s < best)) {
			best = s;
			best_end = e;
		}
	}
	signals_unlock(&table.lock);
	if (!best_end)
		return false;
	*start = best;
	*end = best_end;
	return true;
}

void devmem_fork_prepare(void)
{
	signals_lock(&table.lock);
}

void devmem_fork_parent(void)
{
	signals_unlock(&table.lock);
}

/*
 * A region's own lock may be held by a thread that the child does not have; its
 * memory is given back without it.
 *
 * What is in the parent's arena is ordinary memory here, which may go to the child's own
 * device: so neither the slots nor a retired region are used again (G6).
 */
void devmem_fork_child(void)
{
	struct hmm_devmem_state *state;

	while ((state = table.regions)) {
		table_delete(state);
		pthread_mutex_init(&state->lock, NULL);
		state_unmap(state);
	}
	table.retired = NULL;
	table.hint = 0;
	__atomic_store_n(&table.slot, NULL, __ATOMIC_RELEASE);
	signals_unlock(&table.lock);
}
