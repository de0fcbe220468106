/* SPDX-License-Identifier: MIT */
/*
 * The HMM page table: a radix tree of directories with 512 entries of 64 bits.
 *
 * A directory of level 0 is a leaf: its entries are hmm_pte_t, one a page. The
 * entries of the others point to a directory one level below, or are 0. How many
 * levels there are follows from the last address that the table is for. The tree
 * holds no leaf that nobody needs. What is above the leaves stays once it is there: a
 * directory for each GiB of addresses (with pages of 4 KiB) that was ever used, 8 bytes for
 * 2 MiB; and who walks down needs neither lock nor reference until the leaf. An empty table
 * costs one small object, and a dense one 8 bytes a page and 64 bytes a leaf. What stays has
 * another size than the leaves, and so is never among them in the arena: the memory of leaves
 * that are gone can go too.
 *
 * The count of a leaf is the number of its entries in use plus the number of iterators that
 * stand in it. Invariants:
 *
 * P1. A leaf that can be found in the tree has a count above 0, or somebody
 *     is about to take it out and holds the lock of its link.
 * P2. A leaf is found, put in, or taken out only under the lock of its link: one of its
 *     parent's, always the same, or the root's lock where it is the topmost directory.
 *     A reference on it is taken by who found it before that lock is dropped. So once
 *     the count has become 0 under that lock, nobody has the leaf or will find it: it is
 *     freed at once, while others walk.
 * P3. A directory that is no leaf is put in under the lock of its link, with what is in it to be
 *     seen by who finds it (release, acquire), and stays until the table goes.
 * P4. Only who has a reference on a leaf changes its entries (who only looks at them, or empties
 *     some, may hold the lock of its link instead), and the count is
 *     never too low: it goes up before an entry comes into use, and down after
 *     one has gone out of use. Were it raised afterwards, another thread could
 *     empty the entry, lower the count, leave, and so take away with the last
 *     reference it sees the one that this thread still has.
 * P5. A leaf entry is in use if any bit but HMM_PTE_DIRTY is set. A driver sets
 *     that bit by itself (hmm_pte_set_dirty()); did it so in an empty entry by
 *     mistake, the count would not follow, and need not.
 *
 * Locks: a few mutexes a directory above the leaves, so that who walks in one 2 MiB is not in
 * the way of who walks in the next, and one for the root; innermost, never two at once, held
 * for a few instructions; memory is allocated and freed outside of them. The entries of a leaf
 * need no lock: they are exchanged atomically.
 *
 * Addresses: a range is handled by its last byte, so that it may end with the
 * address space: an end of 0 means just that, and a returned *@next of 0 does
 * too. [0, 0) is therefore everything. What lies past the table's last address
 * is simply empty.
 *
 * After fork() a child finds its parent's locks and counts as other threads left
 * them. It may do one thing with such a table, hmm_pt_fini(), which looks at
 * neither; what another thread was about to put in or take out is then lost.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include <hmm/driver.h>

#include "core/core.h"
#include "mm/arena.h"

struct hmm_pt_dir {
	struct hmm_pt_dir *parent; /* NULL: the topmost; constant, as all below */
	uint32_t count; /* atomic; a leaf's */
	uint16_t slot; /* in the parent */
	uint8_t level;
	uint64_t entry[HMM_PT_DIR_ENTRIES] __attribute__((aligned(64)));
};

/* 4160 bytes have a size class of their own in the arena. */
_Static_assert(sizeof(struct hmm_pt_dir) <= 4160, "a directory is too large");

/* Finding, putting in, taking out a child. */
struct hmm_pt_link {
	pthread_mutex_t lock;
} __attribute__((aligned(64)));

#define UPPER_LINKS 8u
#define FEW_PAGES 16u

/* One that is no leaf: a child's lock is that of its slot, modulo their number. */
struct hmm_pt_upper {
	struct hmm_pt_dir dir;
	struct hmm_pt_link link[UPPER_LINKS];
};

struct hmm_pt_root {
	pthread_mutex_t lock; /* finding, putting in, taking out the topmost directory */
	struct hmm_pt_dir *top;
	unsigned long last;
	unsigned int levels;
	unsigned int page_shift;
	unsigned long entries; /* leaf entries in use; atomic */
	unsigned long dirs; /* atomic */
	unsigned long leaves; /* of them; atomic */
	const struct hmm_mirror_state *guard; /* constant; see pt_guard() */
};

/* --- geometry ----------------------------------------------------------- */

/* What one entry of a directory of @level covers, as a shift. */
static unsigned int entry_shift(const struct hmm_pt_root *root, unsigned int level)
{
	return root->page_shift + level * HMM_PT_DIR_SHIFT;
}

/* The bits of an address within a directory of @level. */
static unsigned long dir_mask(const struct hmm_pt_root *root, unsigned int level)
{
	unsigned int shift = entry_shift(root, level + 1);

	return shift >= sizeof(long) * CHAR_BIT ? ~0ul : (1ul << shift) - 1;
}

static unsigned int dir_index(const struct hmm_pt_root *root, unsigned int level,
			      unsigned long addr)
{
	return addr >> entry_shift(root, level) & (HMM_PT_DIR_ENTRIES - 1);
}

/* P5; good for the entries of upper directories too: pointers are aligned. */
static bool entry_used(uint64_t entry)
{
	return entry & ~HMM_PTE_DIRTY;
}

/* --- directories -------------------------------------------------------- */

static struct hmm_pt_upper *upper_of(struct hmm_pt_dir *dir)
{
	return hmm_container_of(dir, struct hmm_pt_upper, dir);
}

/* The lock and the place that lead to a child of @parent, or to the topmost. */
static pthread_mutex_t *link_lock(struct hmm_pt_root *root, struct hmm_pt_dir *parent,
				  unsigned int slot)
{
	return parent ? &upper_of(parent)->link[slot % UPPER_LINKS].lock : &root->lock;
}

static struct hmm_pt_dir *link_load(struct hmm_pt_root *root, struct hmm_pt_dir *parent,
				    unsigned int slot)
{
	if (!parent)
		return __atomic_load_n(&root->top, __ATOMIC_ACQUIRE);
	return (void *)(uintptr_t)__atomic_load_n(&parent->entry[slot], __ATOMIC_ACQUIRE);
}

static void link_store(struct hmm_pt_root *root, struct hmm_pt_dir *parent, unsigned int slot,
		       struct hmm_pt_dir *dir)
{
	if (parent)
		__atomic_store_n(&parent->entry[slot], (uintptr_t)dir, __ATOMIC_RELEASE);
	else
		__atomic_store_n(&root->top, dir, __ATOMIC_RELEASE);
}

/* Return: an empty directory, a leaf with one reference, not in the tree yet, or NULL. */
static struct hmm_pt_dir *dir_new(struct hmm_pt_root *root, struct hmm_pt_dir *parent,
				  unsigned int level, unsigned int slot)
{
	struct hmm_pt_dir *dir = hmm_alloc(level ? sizeof(struct hmm_pt_upper) : sizeof(*dir));
	unsigned int i;

	if (!dir)
		return NULL;
	for (i = 0; level && i < UPPER_LINKS; i++)
		pthread_mutex_init(&upper_of(dir)->link[i].lock, NULL);
	dir->parent = parent;
	dir->level = (uint8_t)level;
	dir->slot = (uint16_t)slot;
	dir->count = 1;
	__atomic_fetch_add(&root->dirs, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&root->leaves, !level, __ATOMIC_RELAXED);
	return dir;
}

static void dir_free(struct hmm_pt_root *root, struct hmm_pt_dir *dir)
{
	unsigned int i;

	__atomic_fetch_sub(&root->dirs, 1, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&root->leaves, !dir->level, __ATOMIC_RELAXED);
	for (i = 0; dir->level && i < UPPER_LINKS; i++)
		pthread_mutex_destroy(&upper_of(dir)->link[i].lock);
	hmm_free(dir);
}

/* One reference less, unless it may be the last. */
static bool dir_put_unless_last(struct hmm_pt_dir *dir)
{
	uint32_t count = __atomic_load_n(&dir->count, __ATOMIC_RELAXED);

	while (count > 1)
		if (__atomic_compare_exchange_n(&dir->count, &count, count - 1, true,
						__ATOMIC_RELEASE, __ATOMIC_RELAXED))
			return true;
	HMM_ASSERT(count);
	return false;
}

/* The lock of its link held. True: the leaf has left the tree, and is freed when that is not. */
static bool leaf_lower(struct hmm_pt_root *root, struct hmm_pt_dir *leaf, uint32_t n)
{
	if (__atomic_sub_fetch(&leaf->count, n, __ATOMIC_ACQ_REL))
		return false;
	link_store(root, leaf->parent, leaf->slot, NULL);
	return true;
}

/* Drop a reference on a leaf. One whose last that was leaves the tree. */
static void leaf_put(struct hmm_pt_root *root, struct hmm_pt_dir *leaf)
{
	pthread_mutex_t *lock;
	bool last;

	if (!leaf || dir_put_unless_last(leaf))
		return;
	lock = link_lock(root, leaf->parent, leaf->slot);
	pthread_mutex_lock(lock);
	last = leaf_lower(root, leaf, 1);
	pthread_mutex_unlock(lock);
	if (last)
		dir_free(root, leaf);
}

/*
 * Find the child of @parent in @slot (or the topmost directory, with @parent
 * NULL), and take a reference on it if it is a leaf.
 */
static struct hmm_pt_dir *dir_get(struct hmm_pt_root *root, struct hmm_pt_dir *parent,
				  unsigned int level, unsigned int slot)
{
	struct hmm_pt_dir *dir = link_load(root, parent, slot);
	pthread_mutex_t *lock;

	if (level || !dir)
		return dir;
	lock = link_lock(root, parent, slot);
	pthread_mutex_lock(lock);
	dir = link_load(root, parent, slot);
	if (dir)
		__atomic_fetch_add(&dir->count, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(lock);
	return dir;
}

/* As dir_get(), and make it if it does not exist. Return: NULL for want of memory. */
static struct hmm_pt_dir *dir_get_or_new(struct hmm_pt_root *root, struct hmm_pt_dir *parent,
					 unsigned int level, unsigned int slot)
{
	struct hmm_pt_dir *dir = dir_get(root, parent, level, slot), *fresh;
	pthread_mutex_t *lock = link_lock(root, parent, slot);

	if (dir)
		return dir;
	fresh = dir_new(root, parent, level, slot);
	if (!fresh)
		return NULL;
	pthread_mutex_lock(lock);
	dir = link_load(root, parent, slot);
	if (!dir)
		link_store(root, parent, slot, fresh);
	else if (!level)
		__atomic_fetch_add(&dir->count, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(lock);
	if (!dir)
		return fresh;
	dir_free(root, fresh);
	return dir;
}

/* --- tables ------------------------------------------------------------- */

int hmm_pt_init(struct hmm_pt *pt, unsigned long last)
{
	struct hmm_pt_root *root;
	unsigned int levels = 1;
	unsigned int shift = hmm_page_shift() + HMM_PT_DIR_SHIFT;

	for (; shift < sizeof(long) * CHAR_BIT && last >> shift; shift += HMM_PT_DIR_SHIFT)
		levels++;
	if (levels > HMM_PT_LEVELS_MAX)
		return -EINVAL;
	root = hmm_alloc(sizeof(*root));
	if (!root)
		return -ENOMEM;
	pthread_mutex_init(&root->lock, NULL);
	root->last = last;
	root->levels = levels;
	root->page_shift = hmm_page_shift();
	pt->root = root;
	return 0;
}

/* Free @dir and all below it. Context: the table's only user; no locks. */
static void dir_free_tree(struct hmm_pt_root *root, struct hmm_pt_dir *dir)
{
	unsigned int i;

	for (i = 0; dir->level && i < HMM_PT_DIR_ENTRIES; i++)
		if (dir->entry[i])
			dir_free_tree(root, (void *)(uintptr_t)dir->entry[i]);
	dir_free(root, dir);
}

void hmm_pt_fini(struct hmm_pt *pt)
{
	struct hmm_pt_root *root = pt->root;

	if (!root)
		return;
	if (root->top)
		dir_free_tree(root, root->top);
	pthread_mutex_destroy(&root->lock);
	hmm_free(root);
	pt->root = NULL;
}

/* --- iterators ---------------------------------------------------------- */

void pt_guard(struct hmm_pt *pt, const struct hmm_mirror_state *guard)
{
	pt->root->guard = guard;
}

void pt_iter_init(struct hmm_pt_iter *iter, struct hmm_pt *pt)
{
	iter->root = pt->root;
	iter->base = 0;
	iter->held = pt->root->levels;
	iter->guarded = 0;
	memset(iter->path, 0, sizeof(iter->path));
}

void hmm_pt_iter_init(struct hmm_pt_iter *iter, struct hmm_pt *pt)
{
	pt_iter_init(iter, pt);
	iter->guarded = pt->root->guard != NULL;
}

#ifdef HMM_DEBUG
/* May the driver look at [@addr, @last]? */
static bool iter_allowed(const struct hmm_pt_iter *iter, unsigned long addr, unsigned long last)
{
	if (!iter->guarded || call_covers(iter->root->guard, addr, last + 1))
		return true;
	log_err("a driver walks its mirror's page table at 0x%lx, outside of an op for it", addr);
	return false;
}
#else
static bool iter_allowed(const struct hmm_pt_iter *iter, unsigned long addr, unsigned long last)
{
	(void)iter;
	(void)addr;
	(void)last;
	return true;
}
#endif

/* Give up what is held below @level. */
static void iter_ascend(struct hmm_pt_iter *iter, unsigned int level)
{
	if (!iter->held && level)
		leaf_put(iter->root, iter->path[0]);
	while (iter->held < level)
		iter->path[iter->held++] = NULL;
}

void hmm_pt_iter_fini(struct hmm_pt_iter *iter)
{
	iter_ascend(iter, iter->root->levels);
}

/* Keep those directories of the path that cover @addr. */
static void iter_turn(struct hmm_pt_iter *iter, unsigned long addr)
{
	unsigned int level = iter->held;

	while (level < iter->root->levels && (iter->base ^ addr) & ~dir_mask(iter->root, level))
		level++;
	iter_ascend(iter, level);
	iter->base = addr;
}

/*
 * Go as near to the leaf of @addr as directories exist, or with @populate all
 * the way. Return: true if the leaf was reached.
 */
static bool iter_descend(struct hmm_pt_iter *iter, unsigned long addr, bool populate)
{
	struct hmm_pt_root *root = iter->root;

	iter_turn(iter, addr);
	while (iter->held) {
		unsigned int level = iter->held - 1;
		struct hmm_pt_dir *parent = NULL, *dir;
		unsigned int slot = 0;

		if (iter->held < root->levels) {
			parent = iter->path[iter->held];
			slot = dir_index(root, iter->held, addr);
		}
		dir = populate ? dir_get_or_new(root, parent, level, slot) :
				 dir_get(root, parent, level, slot);
		if (!dir)
			return false;
		iter->path[level] = dir;
		iter->held = level;
	}
	return true;
}

static hmm_pte_t *iter_entry(struct hmm_pt_iter *iter, unsigned long addr)
{
	return &iter->path[0]->entry[dir_index(iter->root, 0, addr)];
}

hmm_pte_t *hmm_pt_iter_lookup(struct hmm_pt_iter *iter, unsigned long addr)
{
	if (addr > iter->root->last || !iter_allowed(iter, addr, addr) ||
	    !iter_descend(iter, addr, false))
		return NULL;
	return iter_entry(iter, addr);
}

hmm_pte_t *hmm_pt_iter_populate(struct hmm_pt_iter *iter, unsigned long addr)
{
	if (addr > iter->root->last || !iter_descend(iter, addr, true))
		return NULL;
	return iter_entry(iter, addr);
}

/*
 * There is no leaf at *@addr: go on to the first address behind it that may have
 * one, as far as the deepest directory held can tell.
 *
 * Return: false if there is none up to @last.
 */
static bool iter_skip(struct hmm_pt_iter *iter, unsigned long *addr, unsigned long last)
{
	struct hmm_pt_root *root = iter->root;
	unsigned int level = iter->held, i;
	unsigned int shift = entry_shift(root, level);
	unsigned long mask, next;

	if (level == root->levels)
		return false; /* no directory at all */
	if ((*addr | ((1ul << shift) - 1)) >= last)
		return false; /* as a rule: nobody asks for more than that entry covers */
	for (i = dir_index(root, level, *addr) + 1; i < HMM_PT_DIR_ENTRIES; i++)
		if (__atomic_load_n(&iter->path[level]->entry[i], __ATOMIC_RELAXED))
			break;
	mask = dir_mask(root, level);
	if (i < HMM_PT_DIR_ENTRIES)
		next = (*addr & ~mask) | (unsigned long)i << shift;
	else
		next = (*addr | mask) + 1;
	if (next <= *addr || next > last) /* the first: the address space has ended */
		return false;
	*addr = next;
	return true;
}

hmm_pte_t *hmm_pt_iter_walk(struct hmm_pt_iter *iter, unsigned long *addr, unsigned long *next)
{
	struct hmm_pt_root *root = iter->root;
	unsigned long a = *addr & ~((1ul << root->page_shift) - 1);
	unsigned long end = *next, last = end - 1, dir_last;

	if (last > root->last)
		last = root->last;
	if (*addr > last || !iter_allowed(iter, *addr, last))
		goto none;
	while (!iter_descend(iter, a, false))
		if (!iter_skip(iter, &a, last))
			goto none;
	dir_last = a | dir_mask(root, 0);
	*addr = a;
	*next = dir_last < end - 1 ? dir_last + 1 : end;
	return iter_entry(iter, a);
none:
	*addr = end;
	return NULL;
}

/* Context: the caller's iterator has a reference on @dir. */
static void dir_account(struct hmm_pt_root *root, struct hmm_pt_dir *dir, long delta)
{
	if (!delta)
		return;
	__atomic_fetch_add(&dir->count, (uint32_t)delta, __ATOMIC_RELEASE);
	__atomic_fetch_add(&root->entries, (unsigned long)delta, __ATOMIC_RELAXED);
}

static bool iter_owns(const struct hmm_pt_iter *iter, const hmm_pte_t *ptep, unsigned int n)
{
	const struct hmm_pt_dir *dir = iter->path[0];

	return !iter->held && ptep >= dir->entry && n <= HMM_PT_DIR_ENTRIES &&
	       ptep + n <= dir->entry + HMM_PT_DIR_ENTRIES;
}

hmm_pte_t hmm_pt_iter_set(struct hmm_pt_iter *iter, hmm_pte_t *ptep, hmm_pte_t pte)
{
	hmm_pte_t old = hmm_pte_load(ptep);
	bool raised = false;

	HMM_ASSERT(iter_owns(iter, ptep, 1));
	do {
		if (entry_used(pte) && !entry_used(old) && !raised) {
			dir_account(iter->root, iter->path[0], 1);
			raised = true;
		}
	} while (!__atomic_compare_exchange_n(ptep, &old, pte, true, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
	dir_account(iter->root, iter->path[0],
		    (long)entry_used(pte) - (long)entry_used(old) - (long)raised);
	return old;
}

/* --- inside libhmm ------------------------------------------------------ */

void pt_iter_fill(struct hmm_pt_iter *iter, hmm_pte_t *ptep, const hmm_pte_t *pte, unsigned int n)
{
	long delta = 0;
	unsigned int i;

	HMM_ASSERT(iter_owns(iter, ptep, n));
	/*
	 * The count may follow here (P4): what others could take out again are
	 * other entries than these.
	 */
	for (i = 0; i < n; i++) {
		hmm_pte_t new = pte ? pte[i] : 0;

		delta += entry_used(new);
		delta -= entry_used(__atomic_load_n(&ptep[i], __ATOMIC_RELAXED));
		__atomic_store_n(&ptep[i], new, __ATOMIC_RELEASE);
	}
	dir_account(iter->root, iter->path[0], delta);
}

bool pt_next(struct hmm_pt *pt, unsigned long *start, unsigned long *end)
{
	unsigned long addr = *start, next = *end, n;
	struct hmm_pt_iter iter;
	bool empty = true;
	hmm_pte_t *ptep;

	pt_iter_init(&iter, pt);
	while ((ptep = hmm_pt_iter_walk(&iter, &addr, &next))) {
		n = (next - 1 - addr) >> pt->root->page_shift;
		do
			empty = !entry_used(__atomic_load_n(ptep++, __ATOMIC_RELAXED));
		while (empty && n--);
		if (!empty || next == *end)
			break;
		addr = next;
		next = *end;
	}
	hmm_pt_iter_fini(&iter);
	if (empty)
		return false;
	*start = addr;
	*end = next;
	return true;
}

/*
 * A few entries of one leaf are dealt with under the lock of its link, which keeps the leaf where
 * it is: a reference would cost as much again.
 */
static bool range_few(const struct hmm_pt_root *root, unsigned long start, unsigned long end)
{
	unsigned long n = (end - start) >> root->page_shift;

	return n && n <= FEW_PAGES && end - 1 <= root->last &&
	       !((start ^ (end - 1)) & ~dir_mask(root, 0)) &&
	       !((start | end) & ((1ul << root->page_shift) - 1));
}

/* The leaf of @addr, and the lock of its link, held; or NULL, and it is not. */
static struct hmm_pt_dir *leaf_lock(struct hmm_pt_root *root, unsigned long addr,
				    pthread_mutex_t **lock)
{
	struct hmm_pt_dir *parent = NULL, *leaf;
	unsigned int level = root->levels, slot = 0;

	for (; level > 1; level--) {
		parent = link_load(root, parent, slot);
		if (!parent)
			return NULL;
		slot = dir_index(root, level - 1, addr);
	}
	if (!link_load(root, parent, slot))
		return NULL;
	*lock = link_lock(root, parent, slot);
	pthread_mutex_lock(*lock);
	leaf = link_load(root, parent, slot);
	if (!leaf)
		pthread_mutex_unlock(*lock);
	return leaf;
}

static hmm_pte_t pt_peek(struct hmm_pt_root *root, unsigned long addr, unsigned long n)
{
	pthread_mutex_t *lock;
	struct hmm_pt_dir *leaf = leaf_lock(root, addr, &lock);
	unsigned int i = dir_index(root, 0, addr);
	hmm_pte_t any = 0;

	if (!leaf)
		return 0;
	for (; n; i++, n--)
		any |= hmm_pte_load(&leaf->entry[i]);
	pthread_mutex_unlock(lock);
	return any;
}

static void pt_wipe(struct hmm_pt_root *root, unsigned long addr, unsigned long n)
{
	pthread_mutex_t *lock;
	struct hmm_pt_dir *leaf = leaf_lock(root, addr, &lock);
	unsigned int i = dir_index(root, 0, addr), used = 0;
	bool last;

	if (!leaf)
		return;
	for (; n; i++, n--) {
		used += entry_used(__atomic_load_n(&leaf->entry[i], __ATOMIC_RELAXED));
		__atomic_store_n(&leaf->entry[i], 0, __ATOMIC_RELEASE);
	}
	last = used && leaf_lower(root, leaf, used);
	pthread_mutex_unlock(lock);
	__atomic_fetch_sub(&root->entries, used, __ATOMIC_RELAXED);
	if (last)
		dir_free(root, leaf);
}

hmm_pte_t pt_get(struct hmm_pt *pt, unsigned long addr)
{
	return addr > pt->root->last ? 0 : pt_peek(pt->root, addr, 1);
}

bool pt_range_empty(struct hmm_pt *pt, unsigned long start, unsigned long end)
{
	if (range_few(pt->root, start, end))
		return !entry_used(pt_peek(pt->root, start, (end - start) >> pt->root->page_shift));
	return !pt_next(pt, &start, &end);
}

void pt_clear(struct hmm_pt *pt, unsigned long start, unsigned long end)
{
	struct hmm_pt_iter iter;
	unsigned long next;
	hmm_pte_t *ptep;

	if (range_few(pt->root, start, end)) {
		pt_wipe(pt->root, start, (end - start) >> pt->root->page_shift);
		return;
	}
	pt_iter_init(&iter, pt);
	for (; start < end; start = next) {
		next = end;
		ptep = hmm_pt_iter_walk(&iter, &start, &next);
		if (ptep)
			pt_iter_fill(&iter, ptep, NULL,
				     (unsigned int)((next - start) >> pt->root->page_shift));
	}
	hmm_pt_iter_fini(&iter);
}

unsigned long pt_count(struct hmm_pt *pt)
{
	return __atomic_load_n(&pt->root->entries, __ATOMIC_RELAXED);
}

unsigned long pt_bytes(struct hmm_pt *pt)
{
	unsigned long leaves = __atomic_load_n(&pt->root->leaves, __ATOMIC_RELAXED);
	unsigned long dirs = __atomic_load_n(&pt->root->dirs, __ATOMIC_RELAXED);

	return sizeof(struct hmm_pt_root) + leaves * sizeof(struct hmm_pt_dir) +
	       (dirs - leaves) * sizeof(struct hmm_pt_upper);
}

unsigned long pt_leaves(struct hmm_pt *pt)
{
	return __atomic_load_n(&pt->root->leaves, __ATOMIC_RELAXED);
}

static unsigned int dir_used(const struct hmm_pt_dir *dir)
{
	unsigned int i, used = 0;

	for (i = 0; i < HMM_PT_DIR_ENTRIES; i++)
		used += entry_used(dir->entry[i]);
	return used;
}

struct pt_sum {
	unsigned long entries;
	unsigned long dirs;
};

/* Check @dir and all below. Return: iterators in it, or -EUCLEAN. */
static long dir_verify(struct hmm_pt_root *root, struct hmm_pt_dir *dir, struct pt_sum *sum)
{
	unsigned int used = dir_used(dir), i;
	long iterators = 0, n;

	sum->dirs++;
	if (dir->level >= root->levels)
		return -EUCLEAN;
	if (!dir->level) {
		sum->entries += used;
		iterators = (long)dir->count - (long)used;
		if (!dir->count || iterators < 0)
			return -EUCLEAN;
	}
	for (i = 0; dir->level && i < HMM_PT_DIR_ENTRIES; i++) {
		struct hmm_pt_dir *child = (void *)(uintptr_t)dir->entry[i];

		if (!child)
			continue;
		if (child->parent != dir || child->slot != i || child->level + 1 != dir->level)
			return -EUCLEAN;
		n = dir_verify(root, child, sum);
		if (n < 0)
			return n;
		iterators += n;
	}
	return iterators;
}

unsigned long pt_iterators(struct hmm_pt *pt)
{
	struct pt_sum sum = { 0 };
	long n = pt->root->top ? dir_verify(pt->root, pt->root->top, &sum) : 0;

	return n < 0 ? ULONG_MAX : (unsigned long)n;
}

int pt_verify(struct hmm_pt *pt)
{
	struct hmm_pt_root *root = pt->root;
	struct hmm_pt_dir *top = root->top;
	struct pt_sum sum = { 0 };
	long n;

	if (top) {
		if (top->parent || top->level + 1u != root->levels)
			return -EUCLEAN;
		n = dir_verify(root, top, &sum);
		if (n < 0)
			return (int)n;
	}
	if (sum.entries != root->entries || sum.dirs != root->dirs)
		return -EUCLEAN;
	return 0;
}

int pt_store(struct hmm_pt *pt, unsigned long start, unsigned long end, const hmm_pte_t *pte)
{
	unsigned int i, n = (unsigned int)((end - start) >> pt->root->page_shift);
	struct hmm_pt_iter iter;
	bool any = false;
	hmm_pte_t *ptep;

	for (i = 0; i < n && !any; i++)
		any = entry_used(pte[i]);
	pt_iter_init(&iter, pt);
	ptep = any ? hmm_pt_iter_populate(&iter, start) : hmm_pt_iter_lookup(&iter, start);
	if (ptep)
		pt_iter_fill(&iter, ptep, pte, n);
	hmm_pt_iter_fini(&iter);
	return ptep || !any ? 0 : -ENOMEM;
}

bool pt_load(struct hmm_pt *pt, unsigned long start, unsigned long end, hmm_pte_t *pte)
{
	unsigned int i, n = (unsigned int)((end - start) >> pt->root->page_shift);
	struct hmm_pt_iter iter;
	hmm_pte_t any = 0;
	hmm_pte_t *ptep;

	pt_iter_init(&iter, pt);
	ptep = hmm_pt_iter_lookup(&iter, start);
	for (i = 0; ptep && i < n; i++) {
		pte[i] = hmm_pte_load(&ptep[i]);
		any |= pte[i];
	}
	hmm_pt_iter_fini(&iter);
	if (!any)
		memset(pte, 0, n * sizeof(*pte));
	return any;
}
