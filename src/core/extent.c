/* SPDX-License-Identifier: MIT */
/* Sets of ranges; see extent.h. */
#include <hmm/driver.h>

#include "core/extent.h"

static int extent_compare(const struct extent *a, const struct extent *b)
{
	return a->start < b->start ? -1 : a->start > b->start;
}

#define EXTENT_STATIC __attribute__((unused)) static
RB_PROTOTYPE_INTERNAL(extent_tree, extent, node, extent_compare, EXTENT_STATIC)
RB_GENERATE_INTERNAL(extent_tree, extent, node, extent_compare, EXTENT_STATIC)

struct extent *extent_first(struct extent_tree *tree, unsigned long addr)
{
	struct extent *e = RB_ROOT(tree), *best = NULL;

	while (e) {
		if (e->end > addr) {
			best = e;
			e = RB_LEFT(e, node);
		} else {
			e = RB_RIGHT(e, node);
		}
	}
	return best;
}

struct extent *extent_next(struct extent *extent)
{
	return extent_tree_RB_NEXT(extent);
}

bool extent_covers(struct extent_tree *tree, unsigned long start, unsigned long end,
		   unsigned int mode)
{
	struct extent *e = extent_first(tree, start);

	while (e && e->start <= start && e->mode >= mode) {
		if (e->end >= end)
			return true;
		start = e->end;
		e = extent_next(e);
	}
	return false;
}

bool extent_cut(struct extent_tree *tree, unsigned long start, unsigned long end,
		struct extent **spare)
{
	struct extent *e, *next;

	for (e = extent_first(tree, start); e && e->start < end; e = next) {
		unsigned long e_end = e->end;

		next = extent_next(e);
		if (e->start >= start && e->end <= end) {
			RB_REMOVE(extent_tree, tree, e);
			hmm_free(e);
		} else if (e->start >= start) {
			e->start = end; /* the order does not change */
		} else {
			e->end = start;
			if (e_end <= end)
				continue;
			if (!*spare)
				return false;
			**spare = (struct extent){ .start = end, .end = e_end, .mode = e->mode };
			RB_INSERT(extent_tree, tree, *spare);
			*spare = NULL;
		}
	}
	return true;
}

void extent_enter(struct extent_tree *tree, struct extent *extent)
{
	struct extent *other;

	RB_INSERT(extent_tree, tree, extent);
	other = extent_tree_RB_PREV(extent);
	if (other && other->end == extent->start && other->mode == extent->mode) {
		RB_REMOVE(extent_tree, tree, other);
		extent->start = other->start;
		hmm_free(other);
	}
	other = extent_next(extent);
	if (other && other->start == extent->end && other->mode == extent->mode) {
		RB_REMOVE(extent_tree, tree, other);
		extent->end = other->end;
		hmm_free(other);
	}
}
