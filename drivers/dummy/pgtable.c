/* SPDX-License-Identifier: MIT */
/*
 * The device's page table: a radix tree of 512-entry directories, as an MMU
 * would walk it.
 *
 * Invariants:
 *  - a directory's count is the number of its slots that are not 0; no directory
 *    but the root has a count of 0, so an empty table is one directory;
 *  - an entry in use is not 0.
 *
 * Who may do what: set() and clear() change the tree, and dummy_xlat_lock() must
 * be held. lookup() and next() may run under any port's translation lock; what
 * they return is good until that is released. Under it alone, an entry may still
 * be changed in place, atomically, as long as it does not become 0: that is how
 * the accessed and dirty bits are set.
 *
 * Directories come from the arena: this runs inside callbacks, where nothing may
 * be touched that could itself be migrated.
 */
#include <errno.h>
#include <stddef.h>

#include <hmm/driver.h>

#include "pgtable.h"

#define DIR_SHIFT 9
#define DIR_SLOTS (1u << DIR_SHIFT)
#define ADDR_BITS 57 /* of the largest user address space that we know of */
#define LEVELS_MAX 6

/**
 * struct dummy_dir - one directory
 * @slot: pointers to directories, or, at level 0, entries
 * @count: slots in use
 */
struct dummy_dir {
	union {
		struct dummy_dir *dir;
		uint64_t pte;
	} slot[DIR_SLOTS];
	unsigned int count;
};

static unsigned int level_shift(const struct dummy_pgtable *pt, unsigned int level)
{
	return pt->page_shift + level * DIR_SHIFT;
}

static unsigned int slot_index(const struct dummy_pgtable *pt, uint64_t addr, unsigned int level)
{
	return (addr >> level_shift(pt, level)) & (DIR_SLOTS - 1);
}

uint64_t dummy_pgtable_last(const struct dummy_pgtable *pt)
{
	return ((uint64_t)1 << level_shift(pt, pt->levels)) - 1;
}

int dummy_pgtable_init(struct dummy_pgtable *pt, unsigned int page_shift)
{
	pt->page_shift = page_shift;
	pt->levels = (ADDR_BITS - page_shift + DIR_SHIFT - 1) / DIR_SHIFT;
	if (pt->levels > LEVELS_MAX || level_shift(pt, pt->levels) > 63)
		return -EINVAL;

	pt->root = hmm_alloc(sizeof(*pt->root));
	return pt->root ? 0 : -ENOMEM;
}

static void dir_free(struct dummy_dir *dir, unsigned int level)
{
	unsigned int i;

	for (i = 0; level && dir->count && i < DIR_SLOTS; i++) {
		if (dir->slot[i].dir)
			dir_free(dir->slot[i].dir, level - 1);
	}
	hmm_free(dir);
}

void dummy_pgtable_fini(struct dummy_pgtable *pt)
{
	if (pt->root)
		dir_free(pt->root, pt->levels - 1);
	pt->root = NULL;
}

uint64_t *dummy_pgtable_lookup(const struct dummy_pgtable *pt, uint64_t addr)
{
	struct dummy_dir *dir = pt->root;
	unsigned int level;

	if (addr > dummy_pgtable_last(pt))
		return NULL;

	for (level = pt->levels - 1; level && dir; level--)
		dir = dir->slot[slot_index(pt, addr, level)].dir;
	return dir ? &dir->slot[slot_index(pt, addr, 0)].pte : NULL;
}

/* First entry in use of the leaf @dir from *@addr on. */
static uint64_t *leaf_next(const struct dummy_pgtable *pt, struct dummy_dir *dir, uint64_t *addr,
			   uint64_t end)
{
	unsigned int i = slot_index(pt, *addr, 0);

	for (; i < DIR_SLOTS && *addr < end; i++, *addr += (uint64_t)1 << pt->page_shift) {
		if (__atomic_load_n(&dir->slot[i].pte, __ATOMIC_RELAXED))
			return &dir->slot[i].pte;
	}
	return NULL;
}

uint64_t *dummy_pgtable_next(const struct dummy_pgtable *pt, uint64_t *addr, uint64_t end)
{
	*addr &= ~(((uint64_t)1 << pt->page_shift) - 1);
	if (end > dummy_pgtable_last(pt))
		end = dummy_pgtable_last(pt) + 1;

	while (*addr < end) {
		struct dummy_dir *dir = pt->root;
		unsigned int level = pt->levels - 1;
		uint64_t *pte;

		while (level && dir) {
			dir = dir->slot[slot_index(pt, *addr, level)].dir;
			if (dir)
				level--;
		}
		if (dir) {
			pte = leaf_next(pt, dir, addr, end);
			if (pte)
				return pte;
		} else {
			/* Nothing below this slot: go on with the next one. */
			*addr |= ((uint64_t)1 << level_shift(pt, level)) - 1;
			*addr += 1;
		}
	}
	return NULL;
}

unsigned int dummy_pgtable_next_run(const struct dummy_pgtable *pt, uint64_t *addr, uint64_t end,
				    uint64_t **run)
{
	unsigned int n;

	if (end > dummy_pgtable_last(pt))
		end = dummy_pgtable_last(pt) + 1;
	*run = dummy_pgtable_next(pt, addr, end);
	if (!*run)
		return 0;
	n = DIR_SLOTS - slot_index(pt, *addr, 0);
	end = (end - 1 - *addr) >> pt->page_shift;
	return end < n ? (unsigned int)end + 1 : n;
}

/* Free the empty directories on the way to @addr, from the leaf up. */
static void dir_prune(struct dummy_pgtable *pt, uint64_t addr)
{
	struct dummy_dir *path[LEVELS_MAX], *dir = pt->root;
	unsigned int level = pt->levels - 1;

	path[level] = dir;
	while (level && dir->slot[slot_index(pt, addr, level)].dir) {
		dir = dir->slot[slot_index(pt, addr, level)].dir;
		path[--level] = dir;
	}
	for (; level < pt->levels - 1 && !path[level]->count; level++) {
		path[level + 1]->slot[slot_index(pt, addr, level + 1)].dir = NULL;
		path[level + 1]->count--;
		hmm_free(path[level]);
	}
}

/* The directory of the entry, made if it is missing. */
static struct dummy_dir *leaf_make(struct dummy_pgtable *pt, uint64_t addr)
{
	struct dummy_dir *dir = pt->root;
	unsigned int level, i;

	for (level = pt->levels - 1; level; level--) {
		i = slot_index(pt, addr, level);
		if (!dir->slot[i].dir) {
			dir->slot[i].dir = hmm_alloc(sizeof(*dir));
			if (!dir->slot[i].dir) {
				dir_prune(pt, addr);
				return NULL;
			}
			dir->count++;
		}
		dir = dir->slot[i].dir;
	}
	return dir;
}

int dummy_pgtable_set(struct dummy_pgtable *pt, uint64_t addr, uint64_t pte)
{
	return pte ? dummy_pgtable_set_run(pt, addr, &pte, 1) : -EINVAL;
}

int dummy_pgtable_set_run(struct dummy_pgtable *pt, uint64_t addr, const uint64_t *pte,
			  unsigned int n)
{
	struct dummy_dir *leaf = NULL;
	unsigned int i;

	if (addr > dummy_pgtable_last(pt))
		return -EINVAL;
	for (; n; n--, pte++, addr += (uint64_t)1 << pt->page_shift) {
		i = slot_index(pt, addr, 0);
		if (!i)
			leaf = NULL;
		if (!*pte)
			continue;
		if (!leaf)
			leaf = leaf_make(pt, addr);
		if (!leaf)
			return -ENOMEM;
		leaf->count += !leaf->slot[i].pte;
		leaf->slot[i].pte = *pte;
	}
	return 0;
}

void dummy_pgtable_clear(struct dummy_pgtable *pt, uint64_t addr)
{
	dummy_pgtable_clear_run(pt, addr, 1);
}

void dummy_pgtable_clear_run(struct dummy_pgtable *pt, uint64_t addr, unsigned int n)
{
	struct dummy_dir *dir = pt->root;
	unsigned int level, i;

	if (addr > dummy_pgtable_last(pt))
		return;

	for (level = pt->levels - 1; level && dir; level--)
		dir = dir->slot[slot_index(pt, addr, level)].dir;
	if (!dir)
		return;

	for (i = slot_index(pt, addr, 0); n; i++, n--) {
		dir->count -= dir->slot[i].pte != 0;
		dir->slot[i].pte = 0;
	}
	if (!dir->count)
		dir_prune(pt, addr);
}
