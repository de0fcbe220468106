/* SPDX-License-Identifier: MIT */
/*
 * A set of disjoint ranges of addresses, each with a mode; neighbours of one mode
 * are joined. The caller has the lock. Nodes come from hmm_alloc().
 */
#ifndef HMM_CORE_EXTENT_H
#define HMM_CORE_EXTENT_H

#include <bsd/sys/tree.h>
#include <stdbool.h>

struct extent {
	RB_ENTRY(extent) node;
	unsigned long start;
	unsigned long end;
	unsigned int mode;
};

RB_HEAD(extent_tree, extent);

/* The first range that ends after @addr; and the one after @extent. */
struct extent *extent_first(struct extent_tree *tree, unsigned long addr);
struct extent *extent_next(struct extent *extent);
/* Is all of [@start, @end) in the set, with at least that mode? */
bool extent_covers(struct extent_tree *tree, unsigned long start, unsigned long end,
		   unsigned int mode);
/*
 * Cut [@start, @end) out. *@spare is used if one range becomes two; if it is
 * needed and NULL, what lies behind the cut is gone too: false.
 */
bool extent_cut(struct extent_tree *tree, unsigned long start, unsigned long end,
		struct extent **spare);
/* Enter a range that touches none in the set; @extent is the set's from then on. */
void extent_enter(struct extent_tree *tree, struct extent *extent);

#endif
