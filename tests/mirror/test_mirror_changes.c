/* SPDX-License-Identifier: MIT */
/*
 * munmap, mmap over what is there, and brk: every mirror loses what went.
 *
 * Tries to break: G3 (what a device is asked after the call has returned sees the
 * address space after it), G2 (a translation of what the CPU has no more, or may no
 * more write), G10 (one event a call; nobody else is told).
 */
#include "changes.h"

static void munmap_of_all(size_t pages)
{
	char *mem = area(pages, 1);

	mirror_write(mem, pages);
	count_from_here();
	assert_int_equal(munmap(mem, pages * PAGE), 0);
	has_none(mem, pages);
	counted(HMM_MUNMAP, 1);
	gone(mem, pages);
}

/* A length that is no multiple of a page takes the whole of the last one. */
static void munmap_of_the_middle(size_t pages)
{
	char *mem = area(3 * pages, 1);

	mirror_write(mem, 3 * pages);
	count_from_here();
	assert_int_equal(munmap(mem + pages * PAGE, pages * PAGE - PAGE + 1), 0);
	has_none(mem + pages * PAGE, pages);
	counted(HMM_MUNMAP, 1);
	has(mem, pages, pages, pages);
	has(mem + 2 * pages * PAGE, pages, pages, pages);
	gone(mem + pages * PAGE, pages);
	sees_pattern(mem, pages, 1, 0);
	sees_pattern(mem + 2 * pages * PAGE, pages, 1, 2 * pages);
	takes_store(mem);
	takes_store(mem + 2 * pages * PAGE);
	munmap(mem, pages * PAGE);
	munmap(mem + 2 * pages * PAGE, pages * PAGE);
}

/* Mappings of all kinds, one that no device knows, and a hole. */
static void munmap_over_several_mappings(size_t pages)
{
	char *mem = area(6 * pages, 1), *shared = mem + 2 * pages * PAGE;
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	assert_ptr_equal(mmap(shared, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			      fd, 0),
			 shared);
	pattern_fill(shared, pages, 2);
	assert_int_equal(mprotect(mem + pages * PAGE, pages * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(mem + 3 * pages * PAGE, pages * PAGE, PROT_NONE), 0);
	assert_int_equal(munmap(mem + 4 * pages * PAGE, pages * PAGE), 0);
	mirror_write(mem, pages);
	mirror_read(mem + pages * PAGE, pages);
	mirror_write(shared, pages);
	count_from_here();
	assert_int_equal(munmap(mem, 6 * pages * PAGE), 0);
	has_none(mem, 6 * pages);
	counted(HMM_MUNMAP, 1);
	gone(mem, 6 * pages);
	close(fd);
}

/* What could be written before must not be because of that. */
static void munmap_then_map_with_less(size_t pages)
{
	int rounds = pages == 1 ? 100 : 3, i, same = 0;
	char *mem = area(pages, 1);

	for (i = 0; i < rounds; i++) {
		mirror_write(mem, pages);
		assert_int_equal(munmap(mem, pages * PAGE), 0);
		if (map_hole(mem, pages, i & 1 ? PROT_READ : PROT_NONE)) {
			same++;
			if (i & 1)
				sees(mem, 0);
			else
				no_load(mem);
			no_store(mem);
			no_store(mem + (pages - 1) * PAGE);
			munmap(mem, pages * PAGE);
		}
		mem = area(pages, (uint64_t)i);
	}
	assert_true(TEST_SANITIZED || same);
	area_free(mem, pages);
}

static void map_over_with_less(size_t pages)
{
	int rounds = pages == 1 ? 100 : 3, i;
	char *mem = area(pages, 1);
	size_t j;

	for (i = 0; i < rounds; i++) {
		mirror_write(mem, pages);
		count_from_here();
		map_over(mem, pages, PROT_READ);
		no_store(mem);
		no_store(mem + (pages - 1) * PAGE);
		sees_zeros(mem, pages);
		counted(HMM_MUNMAP, 1);
		mirror_read(mem, pages);
		map_over(mem, pages, PROT_NONE);
		has_none(mem, pages);
		no_load(mem);
		no_store(mem);
		map_over(mem, pages, PROT_READ | PROT_WRITE);
		for (j = 0; j < pages; j++)
			sees(mem + j * PAGE, 0);
		takes_store(mem + (pages - 1) * PAGE);
		pattern_fill(mem, pages, (uint64_t)i);
	}
	area_free(mem, pages);
}

/* Over a part, with a file's pages, private and shared. */
static void map_a_file_over_the_middle(size_t pages)
{
	char *mem = area(3 * pages, 1), *mid = mem + pages * PAGE, *other;
	int fd = memfd_create("test", MFD_CLOEXEC), i;

	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	other = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(other, MAP_FAILED);
	for (i = 0; i < 4; i++) {
		int flags = (i & 1 ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED;

		pattern_fill(other, pages, 10);
		mirror_write(mem, 3 * pages);
		assert_ptr_equal(mmap(mid, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0),
				 mid);
		has_none(mid, pages);
		sees_pattern(mid, pages, 10, 0);
		takes_store(mid);
		assert_int_equal(*(uint64_t *)other == *(uint64_t *)mid, i & 1);
		sees_pattern(mem, pages, 1, 0);
		sees_pattern(mem + 2 * pages * PAGE, pages, 1, 2 * pages);
	}
	munmap(other, pages * PAGE);
	close(fd);
	area_free(mem, 3 * pages);
}

/*
 * Nothing here may allocate between one brk and the next: malloc's own memory would
 * be on top.
 */
static void brk_down_and_up_again(size_t pages)
{
	char *top = sbrk(0), *base = (char *)((addr_of(top) + PAGE - 1) & ~(PAGE - 1));
	int rounds = pages == 1 ? 50 : 2, i;
	size_t j;

	if (brk(base + 2 * pages * PAGE))
		skip_because("brk has no room here");
	for (i = 0; i < rounds; i++) {
		pattern_fill(base, 2 * pages, 3);
		mirror_write(base, 2 * pages);
		assert_ptr_equal(sbrk(0), base + 2 * pages * PAGE);
		count_from_here();
		assert_int_equal(brk(base + pages * PAGE), 0);
		has_none(base + pages * PAGE, pages);
		counted(HMM_MUNMAP, 1);
		gone(base + pages * PAGE, pages);
		has(base, pages, pages, pages);
		assert_int_equal(brk(base + 2 * pages * PAGE), 0);
		for (j = 0; j < pages; j++)
			sees(base + (pages + j) * PAGE, 0);
		takes_store(base + pages * PAGE);
		sees_pattern(base, pages, 3, 0);
	}
	assert_int_equal(brk(top), 0);
}

/* A device that has nothing there hears nothing (G10). */
static void others_are_not_told(size_t pages)
{
	char *mem = area(pages, 1);
	struct dummy_stats was, is;
	unsigned int all = devs;

	devs = 1;
	mirror_write(mem, pages);
	count_from_here();
	if (all == 2)
		dummy_get_stats(dev[1], &was);
	map_over(mem, pages, PROT_READ);
	counted(HMM_MUNMAP, 1);
	devs = all;
	if (all == 2) {
		dummy_get_stats(dev[1], &is);
		assert_memory_equal(was.updates, is.updates, sizeof(is.updates));
	}
	area_free(mem, pages);
}

static const struct change changes[] = {
	CHANGE(munmap_of_all),
	CHANGE(munmap_of_the_middle),
	CHANGE(munmap_over_several_mappings),
	CHANGE(munmap_then_map_with_less),
	CHANGE(map_over_with_less),
	CHANGE(map_a_file_over_the_middle),
	CHANGE(brk_down_and_up_again),
	CHANGE(others_are_not_told),
};

CHANGES_MAIN(changes)
