/* SPDX-License-Identifier: MIT */
/*
 * The HMM page table: a radix tree of 512-entry directories that mirrors, in
 * libhmm's own generic format, what a device sees of an address space.
 *
 * Source: seeds, v12 documentation, "HMM mirror page table".
 */
#ifndef HMM_PT_H
#define HMM_PT_H

#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HMM_PT_DIR_SHIFT 9
#define HMM_PT_DIR_ENTRIES (1u << HMM_PT_DIR_SHIFT)
#define HMM_PT_LEVELS_MAX 6

struct hmm_pt_root;
struct hmm_pt_dir;

/** struct hmm_pt - a page table; opaque */
struct hmm_pt {
	struct hmm_pt_root *root;
};

/**
 * struct hmm_pt_iter - a place in a page table; opaque, lives on the stack
 *
 * One thread uses it. It holds a reference on every directory on the way to
 * where it stands, and so keeps the entries it returned valid.
 */
struct hmm_pt_iter {
	struct hmm_pt_root *root;
	unsigned long base;
	unsigned int held; /* path[held..levels-1] is referenced; leaf is 0 */
	unsigned int guarded; /* a mirror's table, in a driver's hands */
	struct hmm_pt_dir *path[HMM_PT_LEVELS_MAX];
};

/**
 * hmm_pt_init() - make an empty page table
 * @pt: the table
 * @last: the last address it will ever hold; decides the number of levels
 *
 * A mirror's own table is made by hmm_mirror_register(); this is for tables
 * that a driver keeps on its own.
 *
 * Return: 0; -EINVAL @last needs more than %HMM_PT_LEVELS_MAX levels; -ENOMEM.
 * Context: any thread; allocates from the arena, never from malloc.
 */
HMM_API int hmm_pt_init(struct hmm_pt *pt, unsigned long last);

/**
 * hmm_pt_fini() - free a page table with all it holds
 * @pt: the table; no iterator may be in use
 */
HMM_API void hmm_pt_fini(struct hmm_pt *pt);

/** hmm_pt_iter_init() - stand nowhere in @pt; takes no reference */
HMM_API void hmm_pt_iter_init(struct hmm_pt_iter *iter, struct hmm_pt *pt);

/** hmm_pt_iter_fini() - drop every reference; entries returned become invalid */
HMM_API void hmm_pt_iter_fini(struct hmm_pt_iter *iter);

/**
 * hmm_pt_iter_walk() - the first existing entry directory in a range
 * @iter: iterator
 * @addr: in: where to start; out: the address of the entry returned
 * @next: in: end of the range, exclusive; out: end of what the pointer covers
 *
 * The loop over a range is::
 *
 *	for (addr = start; addr < end;) {
 *		unsigned long next = end;
 *		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);
 *
 *		for (; ptep && addr < next; addr += hmm_page_size(), ptep++)
 *			...
 *	}
 *
 * Return: pointer to the entry of *@addr, good up to *@next and until the next
 * call with @iter for another directory or hmm_pt_iter_fini(); or NULL with
 * *@addr = *@next = the end, if the range holds no directory. Entries within a
 * directory may be empty (0).
 * Context: for a mirror's table, only from an op of the device, within the range
 * that the op is called for; a walk at any other time gives an undefined result. A
 * debug build finds nothing there, and says so. Source: as above.
 */
HMM_API hmm_pte_t *hmm_pt_iter_walk(struct hmm_pt_iter *iter, unsigned long *addr,
				    unsigned long *next);

/**
 * hmm_pt_iter_lookup() - the entry of one address, if its directory exists
 *
 * Return: pointer, valid as for hmm_pt_iter_walk(), or NULL.
 */
HMM_API hmm_pte_t *hmm_pt_iter_lookup(struct hmm_pt_iter *iter, unsigned long addr);

/**
 * hmm_pt_iter_populate() - the entry of one address, with its directories made
 *
 * Return: pointer, valid as for hmm_pt_iter_walk(); NULL for want of memory or
 * for an address past the table's last.
 * Context: not for a driver on a mirror's table.
 */
HMM_API hmm_pte_t *hmm_pt_iter_populate(struct hmm_pt_iter *iter, unsigned long addr);

/**
 * hmm_pt_iter_set() - store an entry
 * @iter: iterator that returned @ptep last
 * @ptep: the entry
 * @pte: new value; 0 empties the entry
 *
 * Keeps count of the entries in use, so that an empty directory can leave at
 * once when the last iterator leaves it.
 *
 * Return: the old value.
 * Context: not for a driver on a mirror's table.
 */
HMM_API hmm_pte_t hmm_pt_iter_set(struct hmm_pt_iter *iter, hmm_pte_t *ptep, hmm_pte_t pte);

#ifdef __cplusplus
}
#endif

#endif
