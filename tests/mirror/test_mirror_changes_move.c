/* SPDX-License-Identifier: MIT */
/*
 * mremap, every way of it: the devices follow.
 *
 * Tries to break: G3 (after mremap has returned a device sees the pages at the new
 * address and what is at the old one now), G2 (it writes where the CPU may not), G4
 * (content page by page).
 */
#include "changes.h"

#define MOVE (MREMAP_MAYMOVE | MREMAP_FIXED)

static char *move(char *from, size_t pages, char *to)
{
	char *got = mremap(from, pages * PAGE, pages * PAGE, MOVE, to);

	if (got != to)
		fail_msg("mremap: %s", strerror(errno));
	return to;
}

/* A hole in an area: with less permission, if nobody was quicker. */
static void nothing_is_left(char *mem, size_t pages)
{
	gone(mem, pages);
	if (map_hole(mem, pages, PROT_READ)) {
		no_store(mem);
		no_store(mem + (pages - 1) * PAGE);
		sees_zeros(mem, pages);
	}
}

static void moved_to_a_free_place(size_t pages)
{
	int rounds = pages == 1 ? 50 : 2, i;
	char *mem = area(pages, 1), *to;

	for (i = 0; i < rounds; i++) {
		to = area(pages, 2);
		map_over(to, pages, PROT_NONE);
		mirror_write(mem, pages);
		count_from_here();
		move(mem, pages, to);
		has_none(mem, pages);
		counted(HMM_MUNMAP, 1);
		sees_pattern(to, pages, 1, 0);
		takes_store(to);
		*(uint64_t *)to = pattern_word(1, 0, 0);
		nothing_is_left(mem, pages);
		pattern_check(to, pages, 1);
		mem = to;
	}
	area_free(mem, pages);
}

/* The permission that devices have at the destination is not that of what came. */
static void moved_onto_another(size_t pages)
{
	int rounds = pages == 1 ? 50 : 2, i;
	char *mem = area(pages, 1), *to;

	for (i = 0; i < rounds; i++) {
		to = area(pages, 2);
		mirror_write(to, pages);
		mirror_write(mem, pages);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ), 0);
		if (i & 1)
			mirror_read(mem, pages);
		move(mem, pages, to);
		has_none(mem, pages);
		has_none(to, pages);
		no_store(to);
		no_store(to + (pages - 1) * PAGE);
		sees_pattern(to, pages, 1, 0);
		nothing_is_left(mem, pages);
		assert_int_equal(mprotect(to, pages * PAGE, PROT_READ | PROT_WRITE), 0);
		takes_store(to);
		pattern_fill(to, pages, 1);
		mem = to;
	}
	area_free(mem, pages);
}

/* The one can be written, the other not; so it is where they come to. */
static void two_change_places(size_t pages)
{
	char *a = area(pages, 1), *b = area(pages, 2), *c = area(pages, 3);
	int i;

	for (i = 0; i < (pages == 1 ? 50 : 2); i++) {
		mirror_write(a, pages);
		assert_int_equal(mprotect(b, pages * PAGE, PROT_READ), 0);
		mirror_read(b, pages);
		move(a, pages, c);
		move(b, pages, a);
		move(c, pages, b);
		no_store(a);
		no_store(a + (pages - 1) * PAGE);
		sees_pattern(a, pages, i & 1 ? 1 : 2, 0);
		sees_pattern(b, pages, i & 1 ? 2 : 1, 0);
		pattern_check(b, pages, i & 1 ? 2 : 1);
		takes_store(b);
		*(uint64_t *)b = pattern_word(i & 1 ? 2 : 1, 0, 0);
		assert_int_equal(mprotect(a, pages * PAGE, PROT_READ | PROT_WRITE), 0);
		if (!map_hole(c, pages, PROT_NONE))
			c = area(pages, 3);
	}
	area_free(a, pages);
	area_free(b, pages);
}

static void a_part_moves(size_t pages)
{
	char *mem = area(3 * pages, 1), *to = area(pages, 2);

	mirror_write(mem, 3 * pages);
	mirror_write(to, pages);
	move(mem + pages * PAGE, pages, to);
	has_none(mem + pages * PAGE, pages);
	has_none(to, pages);
	has(mem, pages, pages, pages);
	has(mem + 2 * pages * PAGE, pages, pages, pages);
	sees_pattern(to, pages, 1, pages);
	sees_pattern(mem, pages, 1, 0);
	sees_pattern(mem + 2 * pages * PAGE, pages, 1, 2 * pages);
	nothing_is_left(mem + pages * PAGE, pages);
	area_free(to, pages);
}

/*
 * Several mappings in one call: the kernel refuses that for memory that is watched, and
 * may have moved some by then. Whatever it did, the devices know.
 */
static void mappings_of_different_permission_move(size_t pages)
{
	char *mem = area(3 * pages, 1), *to = area(3 * pages, 2), *got;
	size_t i;

	mirror_write(mem, 3 * pages);
	mirror_write(to, 3 * pages);
	assert_int_equal(mprotect(mem + pages * PAGE, pages * PAGE, PROT_READ), 0);
	got = mremap(mem, 3 * pages * PAGE, 3 * pages * PAGE, MOVE, to);
	if (got != to)
		assert_int_equal(errno, EFAULT);
	for (i = 0; i < 3 * pages; i++) {
		agree(mem + i * PAGE);
		agree(to + i * PAGE);
	}
}

/* What grew belongs to a mapping of which a part was known: it is heard of as well. */
static void grown_in_place(size_t pages)
{
	char *mem = area(2 * pages, 1), *more = mem + pages * PAGE;
	int i, grown = 0;

	for (i = 0; i < 20 && !grown; i++) {
		munmap(more, pages * PAGE);
		mirror_write(mem, pages);
		count_from_here();
		if (mremap(mem, pages * PAGE, 2 * pages * PAGE, 0) != mem) {
			assert_int_equal(errno, ENOMEM); /* somebody was quicker */
			mem = area(2 * pages, 1);
			more = mem + pages * PAGE;
			continue;
		}
		grown = 1;
		counted(HMM_MUNMAP, 0);
		has(mem, pages, pages, pages);
		sees_zeros(more, pages);
		takes_store(more);
		mirror_write(more, pages);
		map_over(more, pages, PROT_READ);
		has_none(more, pages);
		no_store(more);
		sees_pattern(mem, pages, 1, 0);
		takes_store(mem);
		area_free(mem, 2 * pages);
	}
	assert_true(TEST_SANITIZED || grown);
}

/* The end goes, and what is there when it grows again is new. */
static void shrunk_and_grown_again(size_t pages)
{
	char *mem = area(2 * pages, 1), *more = mem + pages * PAGE;
	int i;

	for (i = 0; i < (pages == 1 ? 50 : 2); i++) {
		mirror_write(mem, 2 * pages);
		count_from_here();
		assert_ptr_equal(mremap(mem, 2 * pages * PAGE, pages * PAGE, 0), mem);
		has_none(more, pages);
		counted(HMM_MUNMAP, 1);
		has(mem, pages, pages, pages);
		gone(more, pages);
		if (mremap(mem, pages * PAGE, 2 * pages * PAGE, 0) == mem) {
			sees_zeros(more, pages);
			takes_store(more);
			area_free(mem, 2 * pages);
		} else {
			munmap(mem, pages * PAGE);
		}
		mem = area(2 * pages, 1);
		more = mem + pages * PAGE;
	}
	area_free(mem, 2 * pages);
}

/* One call that moves and cuts, one that moves and grows. */
static void moved_with_another_size(size_t pages)
{
	char *mem = area(2 * pages, 1), *to = area(pages, 2), *wide = area(2 * pages, 3);

	mirror_write(mem, 2 * pages);
	mirror_write(to, pages);
	assert_ptr_equal(mremap(mem, 2 * pages * PAGE, pages * PAGE, MOVE, to), to);
	has_none(mem, 2 * pages);
	has_none(to, pages);
	sees_pattern(to, pages, 1, 0);
	nothing_is_left(mem, 2 * pages);
	mirror_write(to, pages);
	mirror_write(wide, 2 * pages);
	assert_ptr_equal(mremap(to, pages * PAGE, 2 * pages * PAGE, MOVE, wide), wide);
	has_none(to, pages);
	has_none(wide, 2 * pages);
	sees_pattern(wide, pages, 1, 0);
	sees_zeros(wide + pages * PAGE, pages);
	takes_store(wide + pages * PAGE);
	nothing_is_left(to, pages);
	area_free(wide, 2 * pages);
}

static void dontunmap(size_t pages)
{
	char *mem = area(pages, 1), *to;
	int i;

	for (i = 0; i < (pages == 1 ? 50 : 2); i++) {
		pattern_fill(mem, pages, 1);
		mirror_write(mem, pages);
		count_from_here();
		to = mremap(mem, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
			    NULL);
		assert_ptr_not_equal(to, MAP_FAILED);
		has_none(mem, pages);
		counted(HMM_MUNMAP, 1);
		sees_zeros(mem, pages);
		takes_store(mem);
		sees_pattern(to, pages, 1, 0);
		takes_store(to + (pages - 1) * PAGE);
		*(uint64_t *)(to + (pages - 1) * PAGE) = pattern_word(1, pages - 1, 0);
		pattern_check(to, pages, 1);
		/* Both are still watched. */
		mirror_write(mem, pages);
		mirror_write(to, pages);
		map_over(mem, pages, PROT_READ);
		map_over(to, pages, PROT_READ);
		no_store(mem);
		no_store(to);
		munmap(to, pages * PAGE);
		map_over(mem, pages, PROT_READ | PROT_WRITE);
	}
	area_free(mem, pages);
}

/* An old size of 0: a second view of shared memory, and nothing goes. */
static void second_view_of_shared_memory(size_t pages)
{
	char *mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			 0),
	     *view;

	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_fill(mem, pages, 1);
	mirror_write(mem, pages);
	count_from_here();
	view = mremap(mem, 0, pages * PAGE, MREMAP_MAYMOVE);
	assert_ptr_not_equal(view, MAP_FAILED);
	counted(HMM_MUNMAP, 0);
	has(mem, pages, pages, pages);
	sees_pattern(view, pages, 1, 0);
	takes_store(view);
	sees(mem, *(uint64_t *)view);
	mirror_write(view, pages);
	map_over(view, pages, PROT_READ);
	has_none(view, pages);
	no_store(view);
	takes_store(mem);
	munmap(view, pages * PAGE);
	munmap(mem, pages * PAGE);
}

/* A call that fails may have taken the destination away; the devices know. */
static void a_move_of_nothing(size_t pages)
{
	char *mem = area(pages, 1), *hole = area(pages, 2);
	size_t i, len = pages * PAGE;

	munmap(hole, len);
	mirror_write(mem, pages);
	if (mremap(hole, len, len, MOVE, mem) != MAP_FAILED)
		skip_because("somebody else filled the hole");
	for (i = 0; i < pages; i++)
		agree(mem + i * PAGE);
	munmap(mem, len);
}

/*
 * Onto itself, which is not allowed; also of what is several mappings to the kernel,
 * because a device used a part before the rest was touched.
 */
static void a_move_that_overlaps(size_t pages)
{
	char *mem = area_bare(pages + 600);
	size_t len;

	pages += 600;
	len = pages * PAGE;
	assert_int_equal(dummy_store_u64(dev[0], addr_of(mem), 1), 0);
	pattern_fill(mem, pages, 1);
	mirror_write(mem, pages);
	assert_ptr_equal(mremap(mem, len, len, MOVE, mem + PAGE), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_ptr_equal(mremap(mem + PAGE, len - PAGE, len - PAGE, MOVE, mem), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	pattern_check(mem, pages, 1);
	sees_pattern(mem, pages, 1, 0);
	takes_store(mem + PAGE);
	area_free(mem, pages);
}

static const struct change changes[] = {
	CHANGE(moved_to_a_free_place),
	CHANGE(moved_onto_another),
	CHANGE(two_change_places),
	CHANGE(a_part_moves),
	CHANGE(mappings_of_different_permission_move),
	CHANGE(grown_in_place),
	CHANGE(shrunk_and_grown_again),
	CHANGE(moved_with_another_size),
	CHANGE(dontunmap),
	CHANGE(second_view_of_shared_memory),
	CHANGE(a_move_of_nothing),
	CHANGE(a_move_that_overlaps),
};

CHANGES_MAIN(changes)
