/* SPDX-License-Identifier: MIT */
/*
 * Isolated pages, and recycled ones.
 *
 * Staging is an area of slots, one chunk each, in memory registered with our own
 * userfaultfd. To isolate is to UFFDIO_MOVE pages from the program into the slot
 * at the same offset: from then on the CPU waits at the old address, and the
 * pages are ours. To map is to move them from a slot to the program.
 *
 *	   slot_get_empty(), _room()             slot_put(), pages left in it
 *	 EMPTY ───────────────────────► BUSY ─────────────────────────────► READY
 *	   ▲                            ▲ │ ▲                                 │
 *	   │  slot_put(), nothing left  │ │ └─────────────────────────────────┤
 *	   ├────────────────────────────┼─┘      slot_get_ready(), _room()    │
 *	   │                            │ slot_put() with staged pages        │
 *	   │                            ▼                                     │
 *	   │                          STAGED ─── last slot_unstage() ────► READY
 *	   └──────────────── discard: over the limit, or wanted empty ────────┘
 *
 * READY: the pages in the slot are nobody's; their content is rubbish. They come
 * in handy as destinations of the way back, which then needs no fresh page: a
 * slot whose pages a device has filled is moved over the hole in the program.
 * Its other places are free: slot_get_room() takes a READY slot that has nothing where
 * something is to be isolated, so that what leaves page by page fills one slot and not
 * many. Places are counted, not believed: slot->filled says where anything at all is, and
 * is read from the page table where a move may have ended half-way.
 * STAGED: some pages are still the program's, left here by a migration that was
 * interrupted, or for a device to have them for itself; a special entry says for which
 * address. The second kind can be many, for long, of a page or two each, and so share a
 * slot where their places in it differ: slot_get_shared() takes a STAGED one of which no
 * place that is asked for has been given out since it was EMPTY.
 *
 * OFFERED: what is over the limit is not thrown away, unless the program has set the limit:
 * a slot that is full of pages is offered to the kernel (MADV_FREE), which takes them, before
 * anything else, when it wants memory. Until then they are as good as READY for a whole chunk
 * that comes back. Such a slot is not registered: who fills it gets a fresh page where the
 * kernel has taken one, from a source that is not registered UFFDIO_MOVE takes all the same,
 * and madvise() sends no message. It is touched, page by page, before anybody fills it, so
 * that the kernel takes no page that a device has written in a way that it does not see.
 * It leaves the state by BUSY, and is registered again by slot_put(), empty.
 *
 * BUSY belongs to one thread, which alone changes slot->present. Everything else
 * is protected by staging->lock, a leaf, never held across a wait.
 *
 * To discard means MADV_DONTNEED, which on a registered range sends a message to
 * ourselves and waits until it is read: unregister around it instead.
 *
 * Staging is not copied by fork: an isolated page must stay exclusive, or it
 * could not be moved again.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/mm.h"
#include "mm/uapi.h"

#define STAGING_SLOTS 512
#define STAGING_SHARED (STAGING_SLOTS / 2) /* at most: the rest is for migrations */
#define STAGING_SIZE (STAGING_SLOTS * CHUNK_SIZE)

enum slot_state { SLOT_EMPTY, SLOT_BUSY, SLOT_READY, SLOT_OFFERED, SLOT_STAGED, SLOT_DEAD };

struct slot {
	unsigned long addr;
	enum slot_state state;
	unsigned int staged;
	bool shared; /* by several that stay: slot_get_shared() */
	bool offered; /* it is not registered: OFFERED, or BUSY that was so */
	unsigned int present_pages;
	unsigned int filled_pages;
	uint64_t present[CHUNK_WORDS];
	uint64_t filled[CHUNK_WORDS]; /* with anything, if only a swap entry or the zero page */
	uint64_t given[CHUNK_WORDS]; /* shared: places, since it was EMPTY; staging->lock */
};

struct staging {
	pthread_mutex_t lock;
	unsigned long base;
	unsigned int ready;
	unsigned int offered; /* or about to be */
	unsigned int shared;
	struct slot slots[STAGING_SLOTS];
};

#define POOL_DEFAULT (32ul << 20)
#define POOL_OFFERED ((224ul << 20) >> CHUNK_SHIFT) /* slots: what is offered counts as resident */

static HMM_DATA unsigned int pool_limit = POOL_DEFAULT >> CHUNK_SHIFT;
static HMM_DATA bool pool_strict; /* the program has set it: nothing is offered */

/*
 * From now on the program may have given pages to the kernel by reference, which isolating
 * does not see: their holder goes on reading them, so none is used again.
 */
static HMM_DATA bool pages_lent;

void staging_lent(void)
{
	if (MUTANT(LENT_REUSED))
		return;
	__atomic_store_n(&pages_lent, true, __ATOMIC_RELAXED);
}

void staging_pool(size_t bytes, bool strict)
{
	size_t slots = bytes >> CHUNK_SHIFT;

	__atomic_store_n(&pool_limit, slots < STAGING_SLOTS ? (unsigned int)slots : STAGING_SLOTS,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&pool_strict, strict, __ATOMIC_RELAXED);
}

HMM_API void hmm_set_pool(size_t bytes)
{
	bool strict = bytes != HMM_POOL_DEFAULT;

	staging_pool(strict ? bytes : POOL_DEFAULT, strict);
}

int staging_init(struct mm *mm)
{
	struct staging *staging = hmm_map(sizeof(*staging));
	void *base = hmm_map(STAGING_SIZE);
	int i, ret = -ENOMEM;

	if (!staging || !base)
		goto out_free;
	staging->base = (unsigned long)base;
	pthread_mutex_init(&staging->lock, NULL);
	for (i = 0; i < STAGING_SLOTS; i++)
		staging->slots[i].addr = staging->base + (unsigned long)i * CHUNK_SIZE;
	if (madvise(base, STAGING_SIZE, MADV_DONTFORK)) {
		ret = -errno;
		goto out_free;
	}
	ret = uffd_register(mm, staging->base, staging->base + STAGING_SIZE, UFFD_CATCH);
	if (ret)
		goto out_free;
	mm->staging = staging;
	return 0;

out_free:
	if (base)
		hmm_unmap(base, STAGING_SIZE);
	if (staging)
		hmm_unmap(staging, sizeof(*staging));
	return ret;
}

void staging_unregister(struct mm *mm)
{
	if (mm->staging)
		uffd_unregister(mm, mm->staging->base, mm->staging->base + STAGING_SIZE);
}

/* Unregistered by then, or its unmap would wait for a reader. */
void staging_exit(struct mm *mm)
{
	if (!mm->staging)
		return;
	hmm_unmap((void *)mm->staging->base, STAGING_SIZE);
	hmm_unmap(mm->staging, sizeof(*mm->staging));
	mm->staging = NULL;
}

unsigned long slot_addr(const struct slot *slot)
{
	return slot->addr;
}

static unsigned int bits_count(const uint64_t *bits)
{
	unsigned int i, n = 0;

	for (i = 0; i < CHUNK_WORDS; i++)
		n += (unsigned int)__builtin_popcountll(bits[i]);
	return n;
}

static bool bits_any(const uint64_t *bits, unsigned int first, unsigned int last)
{
	unsigned int i;

	for (i = first; i <= last; i++)
		if (bits[i / 64] & (1ull << (i % 64)))
			return true;
	return false;
}

/*
 * What the page table says of @n places from @first on; @flags NULL: nothing is there. The
 * zero page cannot be written to: no destination.
 */
static void slot_set(struct slot *slot, unsigned int first, unsigned int n, const uint8_t *flags)
{
	unsigned int i = first, end = first + n;

	while (i < end) {
		unsigned int stop = (i | 63) + 1 < end ? (i | 63) + 1 : end, word = i / 64;
		uint64_t all = 0, present = 0, filled = 0;

		for (; i < stop; i++) {
			uint8_t f = flags ? flags[i] : 0;

			all |= 1ull << (i % 64);
			present |= (uint64_t)((f & (WALK_PRESENT | WALK_ZERO)) == WALK_PRESENT)
				   << (i % 64);
			filled |= (uint64_t)(f != 0) << (i % 64);
		}
		slot->present[word] = (slot->present[word] & ~all) | present;
		slot->filled[word] = (slot->filled[word] & ~all) | filled;
	}
	slot->present_pages = bits_count(slot->present);
	slot->filled_pages = bits_count(slot->filled);
}

int slot_scan(struct mm *mm, struct slot *slot, uint8_t *flags)
{
	return slot_scan_part(mm, slot, 0, chunk_pages(), flags);
}

int slot_scan_part(struct mm *mm, struct slot *slot, unsigned int first, unsigned int n,
		   uint8_t *flags)
{
	unsigned long start = slot->addr + ((unsigned long)first << hmm_page_shift());

	return walk_pages(mm, start, start + ((unsigned long)n << hmm_page_shift()), flags + first);
}

/* What is in it is not known. */
void slot_distrust(struct slot *slot)
{
	memset(slot->present, 0, sizeof(slot->present));
	memset(slot->filled, 0xff, sizeof(slot->filled));
	slot->present_pages = 0;
	slot->filled_pages = chunk_pages();
}

static void slot_look(struct mm *mm, struct slot *slot)
{
	uint8_t flags[CHUNK_PAGES_MAX];

	if (!slot_scan(mm, slot, flags))
		slot_recycle(slot, flags);
	else
		slot_distrust(slot);
}

void slot_recycle(struct slot *slot, const uint8_t *flags)
{
	slot_set(slot, 0, chunk_pages(), flags);
}

void slot_recycle_part(struct slot *slot, unsigned int first, unsigned int n, const uint8_t *flags)
{
	slot_set(slot, first, n, flags);
}

/* All of these were moved out of it. */
void slot_taken(struct slot *slot, unsigned int first, unsigned int n)
{
	slot_set(slot, first, n, NULL);
}

/* The caller owns the slot (BUSY). */
static int slot_discard(struct mm *mm, struct slot *slot)
{
	unsigned long end = slot->addr + CHUNK_SIZE;
	int ret = uffd_unregister(mm, slot->addr, end);

	/* Of a program that has locked all of its memory (mlockall) only the second will. */
	if (!ret && madvise((void *)slot->addr, CHUNK_SIZE, MADV_DONTNEED) &&
	    madvise((void *)slot->addr, CHUNK_SIZE, MADV_DONTNEED_LOCKED))
		ret = -errno;
	if (!ret)
		ret = uffd_register(mm, slot->addr, end, UFFD_CATCH);
	slot_taken(slot, 0, chunk_pages());
	slot->offered = false;
	if (ret)
		log_err("staging: a slot is lost: error %d", ret);
	return ret;
}

/* The same for BUSY to OFFERED. False: the caller is to discard it. */
static bool slot_offer(struct mm *mm, struct slot *slot)
{
	if (slot->present_pages < chunk_pages() ||
	    __atomic_load_n(&pool_strict, __ATOMIC_RELAXED) ||
	    uffd_unregister(mm, slot->addr, slot->addr + CHUNK_SIZE))
		return false;
	slot->offered = true;
	return !madvise((void *)slot->addr, CHUNK_SIZE, MADV_FREE);
}

/* What was OFFERED is to be filled: it is not on offer any more, page by page. */
static void slot_touch(const struct slot *slot)
{
	unsigned int i;

	for (i = 0; i < chunk_pages(); i++)
		*(volatile char *)(slot->addr + ((unsigned long)i << hmm_page_shift())) = 0;
}

/* Filled, and moved out of, or not: registered again, empty. */
static int slot_register(struct mm *mm, struct slot *slot)
{
	if (slot->filled_pages)
		return slot_discard(mm, slot);
	slot->offered = false;
	return uffd_register(mm, slot->addr, slot->addr + CHUNK_SIZE, UFFD_CATCH);
}

static bool slot_covers(const struct slot *slot, unsigned int first, unsigned int last)
{
	unsigned int i;

	if (slot->present_pages == chunk_pages())
		return true;
	for (i = first; i <= last; i++)
		if (!(slot->present[i / 64] & (1ull << (i % 64))))
			return false;
	return true;
}

static struct slot *slot_take(struct staging *staging, enum slot_state state, unsigned int first,
			      unsigned int last)
{
	unsigned int i;

	for (i = 0; i < STAGING_SLOTS; i++) {
		struct slot *slot = &staging->slots[i];

		if (slot->state != state)
			continue;
		if (state == SLOT_READY && !slot_covers(slot, first, last))
			continue;
		if (state == SLOT_READY)
			staging->ready--;
		if (state == SLOT_OFFERED)
			staging->offered--;
		slot->state = SLOT_BUSY;
		return slot;
	}
	return NULL;
}

struct slot *slot_get_empty(struct mm *mm)
{
	struct staging *staging = mm->staging;
	struct slot *slot;

	pthread_mutex_lock(&staging->lock);
	slot = slot_take(staging, SLOT_EMPTY, 0, 0);
	if (!slot) {
		slot = slot_take(staging, SLOT_OFFERED, 0, 0);
		if (!slot)
			slot = slot_take(staging, SLOT_READY, 1, 0);
		pthread_mutex_unlock(&staging->lock);
		if (slot && slot_discard(mm, slot)) {
			__atomic_store_n(&slot->state, SLOT_DEAD, __ATOMIC_RELAXED);
			slot = NULL;
		}
		return slot;
	}
	pthread_mutex_unlock(&staging->lock);
	return slot;
}

/* Nothing is in its places from @first to @last. */
struct slot *slot_get_room(struct mm *mm, unsigned int first, unsigned int last)
{
	struct staging *staging = mm->staging;
	struct slot *slot = NULL;
	unsigned int i;

	if (last - first + 1 == chunk_pages())
		return slot_get_empty(mm);
	pthread_mutex_lock(&staging->lock);
	for (i = 0; i < STAGING_SLOTS && staging->ready && !slot; i++) {
		slot = &staging->slots[i];
		if (slot->state != SLOT_READY || bits_any(slot->filled, first, last))
			slot = NULL;
	}
	if (slot) {
		slot->state = SLOT_BUSY;
		staging->ready--;
	}
	pthread_mutex_unlock(&staging->lock);
	return slot ? slot : slot_get_empty(mm);
}

struct slot *slot_get_ready(struct mm *mm, unsigned int first, unsigned int last)
{
	struct staging *staging = mm->staging;
	struct slot *slot = NULL;

	pthread_mutex_lock(&staging->lock);
	if (!__atomic_load_n(&pages_lent, __ATOMIC_RELAXED)) {
		if (staging->ready)
			slot = slot_take(staging, SLOT_READY, first, last);
		if (!slot && last - first + 1 == chunk_pages())
			slot = slot_take(staging, SLOT_OFFERED, first, last);
	}
	pthread_mutex_unlock(&staging->lock);
	if (slot && slot->offered)
		slot_touch(slot);
	return slot;
}

static void slot_settle(struct staging *staging, struct slot *slot)
{
	if (slot->staged && !MUTANT(STAGED_SLOT_REUSED)) {
		slot->state = SLOT_STAGED;
	} else if (slot->filled_pages) {
		slot->state = SLOT_READY;
		staging->ready++;
	} else {
		slot->state = SLOT_EMPTY;
	}
}

static struct slot *slot_take_shared(struct staging *staging, unsigned int first, unsigned int last)
{
	unsigned int i;

	for (i = 0; i < STAGING_SLOTS; i++) {
		struct slot *slot = &staging->slots[i];

		if (slot->state != SLOT_STAGED || !slot->shared ||
		    (bits_any(slot->given, first, last) && !MUTANT(PLACE_GIVEN_TWICE)))
			continue;
		slot->state = SLOT_BUSY;
		return slot;
	}
	return NULL;
}

/* For pages that stay: the places from @first to @last are free. NULL: too many do. */
struct slot *slot_get_shared(struct mm *mm, unsigned int first, unsigned int last)
{
	struct staging *staging = mm->staging;
	bool full = false;
	struct slot *slot;
	unsigned int i;

	pthread_mutex_lock(&staging->lock);
	slot = slot_take_shared(staging, first, last);
	if (!slot) {
		full = staging->shared >= STAGING_SHARED;
		staging->shared += !full;
	}
	pthread_mutex_unlock(&staging->lock);
	if (full)
		return NULL;
	if (!slot)
		slot = slot_get_empty(mm);
	pthread_mutex_lock(&staging->lock);
	if (!slot) {
		staging->shared--;
	} else {
		slot->shared = true;
		for (i = first; i <= last; i++)
			slot->given[i / 64] |= 1ull << (i % 64);
	}
	pthread_mutex_unlock(&staging->lock);
	return slot;
}

/* True: it stays so. Else it is the caller's, and like any other. */
static bool slot_put_shared(struct mm *mm, struct slot *slot)
{
	struct staging *staging = mm->staging;
	bool stays;

	pthread_mutex_lock(&staging->lock);
	stays = slot->staged;
	if (stays) {
		slot->state = SLOT_STAGED;
	} else {
		slot->shared = false;
		staging->shared--;
		memset(slot->given, 0, sizeof(slot->given));
	}
	pthread_mutex_unlock(&staging->lock);
	if (stays)
		return true;
	slot_look(mm, slot); /* others have taken theirs out of it since it was looked at */
	return false;
}

/*
 * Is it one too many? What comes in page by page is given back by the slot all the same: so one
 * that has room may stay beyond the limit. Where nothing is to be kept, nothing is.
 */
static bool slot_over(const struct staging *staging, const struct slot *slot, unsigned int limit)
{
	if (limit && slot->filled_pages <= chunk_pages() / 2)
		return staging->ready > limit;
	return staging->ready >= limit;
}

void slot_put(struct mm *mm, struct slot *slot)
{
	struct staging *staging = mm->staging;
	unsigned int limit = __atomic_load_n(&pool_limit, __ATOMIC_RELAXED);
	bool over, lent, offer;

	if (slot->shared && slot_put_shared(mm, slot))
		return;
	if (slot->offered && slot_register(mm, slot)) {
		__atomic_store_n(&slot->state, SLOT_DEAD, __ATOMIC_RELAXED);
		return;
	}
	lent = __atomic_load_n(&pages_lent, __ATOMIC_RELAXED);
	if (lent)
		limit = 0;

	pthread_mutex_lock(&staging->lock);
	over = !slot->staged && slot->filled_pages && slot_over(staging, slot, limit);
	offer = over && !lent && staging->offered < POOL_OFFERED;
	staging->offered += offer;
	if (!over)
		slot_settle(staging, slot);
	pthread_mutex_unlock(&staging->lock);
	if (!over)
		return;

	if (offer) {
		offer = slot_offer(mm, slot);
		pthread_mutex_lock(&staging->lock);
		if (offer)
			slot->state = SLOT_OFFERED;
		else
			staging->offered--;
		pthread_mutex_unlock(&staging->lock);
	}
	if (offer)
		return;
	if (slot_discard(mm, slot)) {
		slot->state = SLOT_DEAD;
		return;
	}
	pthread_mutex_lock(&staging->lock);
	slot_settle(staging, slot);
	pthread_mutex_unlock(&staging->lock);
}

void slot_stage(struct mm *mm, struct slot *slot, unsigned int pages)
{
	pthread_mutex_lock(&mm->staging->lock);
	slot->staged += pages;
	pthread_mutex_unlock(&mm->staging->lock);
}

void slot_unstage(struct mm *mm, unsigned long addr)
{
	struct staging *staging = mm->staging;
	struct slot *slot = &staging->slots[(addr - staging->base) >> CHUNK_SHIFT];
	bool last;

	pthread_mutex_lock(&staging->lock);
	last = --slot->staged == 0 && slot->state == SLOT_STAGED;
	if (last)
		slot->state = SLOT_BUSY;
	pthread_mutex_unlock(&staging->lock);
	if (!last)
		return;
	if (!slot->shared)
		slot_look(mm, slot);
	slot_put(mm, slot);
}

/*
 * The kernel takes a range only where it lies in one mapping, and the program's
 * may be many small ones: then go on page by page.
 */
static bool page_step(long err, unsigned long *step)
{
	if ((err != -ENOENT && err != -EINVAL) || *step == hmm_page_size())
		return false;
	*step = hmm_page_size();
	return true;
}

/*
 * The slot has a page there. Either this one was moved (see uffd.c: fewer are told of than
 * were), or the slot was not empty: mlockall() fills it like all memory.
 */
static bool page_is_there(struct mm *mm, unsigned long addr)
{
	uint8_t flags;

	return walk_pages(mm, addr, addr + hmm_page_size(), &flags) ||
	       flags & (WALK_PRESENT | WALK_SWAPPED);
}

/*
 * @failed has one byte for each page of the chunk; those that stay are set, and
 * perhaps some that were moved all the same: what the slot has is what counts.
 * What stays: pinned, shared by copy-on-write, of a mapping that cannot move.
 * Two errors are taken twice: a huge page's move into leftover page tables can
 * be EBUSY in passing, and a range that just became two mappings is EINVAL as a
 * whole.
 */
int page_isolate(struct mm *mm, const struct uffd_how *how, struct slot *slot, unsigned long start,
		 unsigned long end, uint8_t *failed)
{
	unsigned long page = hmm_page_size(), pos = start, len = end - start;
	unsigned long again = 0;

	while (pos < end) {
		unsigned long offset = pos & ~CHUNK_MASK;
		long n;

		if (len > end - pos)
			len = end - pos;
		n = MUTANT(KEPT_ON_CPU) && page_is_there(mm, pos) ?
			    uffd_copy(mm, how, slot->addr + offset, (void *)pos, page) :
			    uffd_move(mm, how, slot->addr + offset, pos, len);
		if (n > 0) {
			pos += (unsigned long)n;
			continue;
		}
		if (n == -ECANCELED || n == -ENOMEM) {
			memset(failed + (offset >> hmm_page_shift()), 1,
			       (end - pos) >> hmm_page_shift());
			return (int)n;
		}
		if (n == -EBUSY && again != pos) {
			again = pos;
			continue;
		}
		if (page_step(n, &len))
			continue;
		if (n == -EEXIST && page_is_there(mm, pos)) {
			failed[offset >> hmm_page_shift()] = PAGE_STAYS;
			pos += page;
			continue;
		}
		failed[offset >> hmm_page_shift()] = 1;
		pos += page;
	}
	return 0;
}

int page_map(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long src,
	     unsigned long len, unsigned long *done)
{
	unsigned long step = len;
	bool again = false;

	*done = 0;
	while (*done < len) {
		long n;

		if (step > len - *done)
			step = len - *done;
		n = uffd_move(mm, how, dst + *done, src + *done, step);
		if (n > 0) {
			*done += (unsigned long)n;
			again = false;
		} else if (n == -EBUSY && !again) {
			again = true;
		} else if (!page_step(n, &step)) {
			return (int)n;
		}
	}
	return 0;
}

/* As page_map(), into fresh pages. */
int page_copy(struct mm *mm, const struct uffd_how *how, unsigned long dst, const void *src,
	      unsigned long len, unsigned long *done)
{
	unsigned long step = len;

	while (*done < len) {
		long n;

		if (step > len - *done)
			step = len - *done;
		n = uffd_copy(mm, how, dst + *done, (const char *)src + *done, step);
		if (n > 0)
			*done += (unsigned long)n;
		else if (!page_step(n, &step))
			return (int)n;
	}
	return 0;
}
