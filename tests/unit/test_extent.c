/* SPDX-License-Identifier: MIT */
/*
 * Sets of ranges against a plain array: random ranges entered, cut and asked for, with
 * and without a spare node. HMM_TEST_SEED repeats a run.
 *
 * G3 and G10 rest on it: what is registered, and what update() is called for. After
 * each step the ranges are disjoint, in order, joined with a neighbour of their mode,
 * and the tree is a red-black tree.
 */
#include "pt_util.h"

#include "core/core.h"

#define UNITS 300
#define UNIT 4096ul
#define MODES 3

static struct extent_tree tree;
static uint8_t model[UNITS + 1]; /* 0, or mode + 1; the last: never anything */
static unsigned long base;

static unsigned long addr_at(size_t i)
{
	return base + i * UNIT;
}

/* Black nodes on the way down, the same on every way. */
static unsigned int black_height(const struct extent *e)
{
	unsigned int left, right;

	if (!e)
		return 1;
	left = black_height(RB_LEFT(e, node));
	right = black_height(RB_RIGHT(e, node));
	assert_int_equal(left, right);
	if (RB_COLOR(e, node) == RB_RED) {
		assert_true(!RB_LEFT(e, node) || RB_COLOR(RB_LEFT(e, node), node) == RB_BLACK);
		assert_true(!RB_RIGHT(e, node) || RB_COLOR(RB_RIGHT(e, node), node) == RB_BLACK);
	}
	return left + (RB_COLOR(e, node) == RB_BLACK);
}

/* The ranges in order: each is one run of the model, and there are no others. */
static void check(void)
{
	const struct extent *e = extent_first(&tree, 0);
	size_t i = 0, end;

	for (; i < UNITS; i = end) {
		for (end = i + 1; end < UNITS && model[end] == model[i]; end++)
			;
		if (!model[i])
			continue;
		assert_non_null(e);
		assert_int_equal(e->start, addr_at(i));
		assert_int_equal(e->end, addr_at(end));
		assert_int_equal(e->mode + 1, model[i]);
		e = extent_next((struct extent *)(uintptr_t)e);
	}
	assert_null(e);
	black_height(RB_ROOT(&tree));
}

static struct extent *node_new(size_t start, size_t end, unsigned int mode)
{
	struct extent *e = hmm_alloc(sizeof(*e));

	assert_non_null(e);
	*e = (struct extent){ .start = addr_at(start), .end = addr_at(end), .mode = mode };
	return e;
}

/* Is the cut in the middle of one range, and what lies behind it there? */
static size_t behind(size_t start, size_t end)
{
	size_t i, stop = end;

	if (!start)
		return end;
	for (i = start - 1; i < end; i++)
		if (!model[i] || model[i] != model[start - 1])
			return end;
	while (model[stop] == model[start - 1])
		stop++;
	return stop;
}

static void cut(size_t start, size_t end, bool have_spare)
{
	struct extent *spare = have_spare ? node_new(0, 0, 0) : NULL;
	size_t stop = behind(start, end);
	bool split = stop > end;

	assert_int_equal(extent_cut(&tree, addr_at(start), addr_at(end), &spare),
			 have_spare || !split);
	assert_int_equal(spare != NULL, have_spare && !split);
	hmm_free(spare);
	memset(model + start, 0, (split && !have_spare ? stop : end) - start);
}

static void enter(size_t start, size_t end, unsigned int mode)
{
	cut(start, end, true);
	extent_enter(&tree, node_new(start, end, mode));
	memset(model + start, (int)mode + 1, end - start);
}

static void ask(size_t start, size_t end, unsigned int mode)
{
	bool covered = true;
	struct extent *e;
	size_t i;

	for (i = start; i < end; i++)
		covered = covered && model[i] > mode;
	assert_int_equal(extent_covers(&tree, addr_at(start), addr_at(end), mode), covered);

	for (i = start; i < UNITS && !model[i]; i++)
		;
	e = extent_first(&tree, addr_at(start));
	assert_int_equal(e != NULL, i < UNITS);
	assert_true(!e || (e->start <= addr_at(i) && e->end > addr_at(i)));
	/* In the middle of a page as well. */
	assert_ptr_equal(extent_first(&tree, addr_at(start) + 1), e);
}

static void clear(void)
{
	struct extent *none = NULL;

	assert_true(extent_cut(&tree, 0, USER_END, &none));
	assert_true(RB_EMPTY(&tree));
	memset(model, 0, sizeof(model));
}

static int setup(void **state)
{
	(void)state;
	RB_INIT(&tree);
	memset(model, 0, sizeof(model));
	base = 0;
	return 0;
}

static void random_changes(void **state)
{
	uint64_t seed = test_seed;
	unsigned int round;

	(void)state;
	for (round = 0; round < 20000; round++) {
		size_t start = next_random(&seed) % UNITS;
		size_t end = start + 1 + next_random(&seed) % (UNITS - start);
		unsigned int mode = (unsigned int)(next_random(&seed) % MODES);

		if (round % 2000 == 0) { /* low, or at the end of user memory */
			clear();
			base = round % 4000 ? USER_END - UNITS * UNIT : 0;
		}
		if (next_random(&seed) % 4 && end - start > 9)
			end = start + 1 + end % 9;
		switch (next_random(&seed) % 8) {
		case 0:
		case 1:
		case 2:
			enter(start, end, mode);
			break;
		case 3:
		case 4:
			cut(start, end, true);
			break;
		case 5:
			cut(start, end, false);
			break;
		default:
			ask(start, end, mode);
			continue;
		}
		check();
	}
	clear();
}

/* One range, cut in each of the ways there are. */
static void cuts_of_one_range(void **state)
{
	size_t start, end;
	int spare;

	(void)state;
	for (start = 0; start < 12; start++)
		for (end = start + 1; end < 13; end++)
			for (spare = 0; spare < 2; spare++) {
				enter(3, 10, 1);
				cut(start, end, spare);
				check();
				clear();
			}
}

static void neighbours_of_one_mode_are_one(void **state)
{
	struct extent *e;

	(void)state;
	enter(10, 20, 1);
	enter(30, 40, 1);
	enter(20, 30, 1);
	e = extent_first(&tree, 0);
	assert_int_equal(e->start, addr_at(10));
	assert_int_equal(e->end, addr_at(40));
	assert_null(extent_next(e));
	enter(40, 50, 2);
	assert_ptr_equal(extent_first(&tree, 0), e);
	assert_non_null(extent_next(e));
	assert_true(extent_covers(&tree, addr_at(10), addr_at(50), 1));
	assert_false(extent_covers(&tree, addr_at(10), addr_at(50), 2));
	assert_false(extent_covers(&tree, addr_at(9), addr_at(11), 0));
	assert_false(extent_covers(&tree, addr_at(49), addr_at(51), 0));
	check();
	clear();
}

/* Nodes that are joined or cut away are freed. */
static void nothing_is_left_behind(void **state)
{
	unsigned long before = 0;
	unsigned int round;
	size_t i;

	(void)state;
	for (round = 0; round < 300; round++) {
		for (i = 0; i < UNITS; i += 2)
			enter(i, i + 1, 0);
		for (i = 1; i < UNITS; i += 2)
			enter(i, i + 1, round % 2);
		clear();
		if (round == 10)
			before = arena_bytes();
	}
	assert_int_equal(arena_bytes(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(random_changes, setup),
		cmocka_unit_test_setup(cuts_of_one_range, setup),
		cmocka_unit_test_setup(neighbours_of_one_mode_are_one, setup),
		cmocka_unit_test_setup(nothing_is_left_behind, setup),
	};
	int ret = pt_test_begin();

	return ret ? ret : cmocka_run_group_tests(tests, NULL, NULL);
}
