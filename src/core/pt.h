/* SPDX-License-Identifier: MIT */
/*
 * Inside libhmm: what the core does with an HMM page table besides
 * include/hmm/pt.h. The essay is in pt.c.
 */
#ifndef HMM_CORE_PT_H
#define HMM_CORE_PT_H

#include <hmm/pt.h>

/**
 * pt_guard() - make this a mirror's table
 * @guard: the mirror, for call_covers()
 *
 * In a debug build, what hmm_pt_iter_init() sets up finds entries only within the
 * range of an op of that mirror that the thread is in.
 */
struct hmm_mirror_state;
void pt_guard(struct hmm_pt *pt, const struct hmm_mirror_state *guard);

/** pt_iter_init() - hmm_pt_iter_init() for the core, which has its own rules */
void pt_iter_init(struct hmm_pt_iter *iter, struct hmm_pt *pt);

/**
 * pt_iter_fill() - store many entries of one directory
 * @iter: iterator that returned @ptep last
 * @ptep: first entry
 * @pte: new values, or NULL to empty the entries
 * @n: how many, within what the iterator returned
 *
 * hmm_pt_iter_set() costs three atomic operations an entry; this costs two for
 * all of them.
 *
 * Context: nobody else changes these entries meanwhile: the caller owns the
 * range. Others may change other entries, and read these.
 */
void pt_iter_fill(struct hmm_pt_iter *iter, hmm_pte_t *ptep, const hmm_pte_t *pte, unsigned int n);

/**
 * pt_store() - store the entries of a range that lies in one directory
 * @start: first address
 * @end: end, exclusive
 * @pte: one entry a page, 0 empties
 *
 * Return: 0; -ENOMEM, and nothing was changed.
 * Context: as pt_iter_fill().
 */
int pt_store(struct hmm_pt *pt, unsigned long start, unsigned long end, const hmm_pte_t *pte);

/** pt_clear() - empty all entries of a range, however large. Context: as pt_iter_fill() */
void pt_clear(struct hmm_pt *pt, unsigned long start, unsigned long end);

/**
 * pt_load() - read the entries of a range that lies in one directory
 * Return: false if none is there, and all of @pte is 0. Context: as pt_iter_fill().
 */
bool pt_load(struct hmm_pt *pt, unsigned long start, unsigned long end, hmm_pte_t *pte);

/** pt_get() - one entry; 0 where there is none. Context: as pt_range_empty(). */
hmm_pte_t pt_get(struct hmm_pt *pt, unsigned long addr);

/**
 * pt_range_empty() - is no entry of [@start, @end) in use
 * @pt: the table
 * @start: first address
 * @end: end, exclusive; 0 is the end of the address space
 *
 * Context: any thread; others may be at work, and then the answer may be old.
 */
bool pt_range_empty(struct hmm_pt *pt, unsigned long start, unsigned long end);

/**
 * pt_next() - the first directory in a range that has entries in use
 * @start: in: where to begin; out: where it begins, or the part of it in the range
 * @end: in: end of the range; out: its end
 *
 * Return: false if there is none. Context: as pt_range_empty().
 */
bool pt_next(struct hmm_pt *pt, unsigned long *start, unsigned long *end);

/** pt_count() - how many entries are in use: not 0, HMM_PTE_DIRTY aside */
unsigned long pt_count(struct hmm_pt *pt);

/** pt_bytes() - memory that the table takes now */
unsigned long pt_bytes(struct hmm_pt *pt);

/** pt_leaves() - how many leaves it has: 0 when no entry is in use and no iterator stands */
unsigned long pt_leaves(struct hmm_pt *pt);

/**
 * pt_iterators() - how many iterators hold a directory
 * Context: nobody else uses the table meanwhile.
 */
unsigned long pt_iterators(struct hmm_pt *pt);

/**
 * pt_verify() - check every invariant of the table
 * Return: 0, or -EUCLEAN if one is broken.
 * Context: nobody else uses the table meanwhile; iterators may stand in it.
 */
int pt_verify(struct hmm_pt *pt);

#endif
