/* SPDX-License-Identifier: MIT */
/*
 * madvise that discards, and holes that are punched: the mapping stays, its content
 * goes, and the devices know.
 *
 * Tries to break: G3, G4 (never what was discarded; what is written afterwards stays,
 * whoever writes), G10 (one event a call).
 */
#include "changes.h"

#include <linux/falloc.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* Zeros for all; then what anybody writes is there for all. */
static void is_new(char *mem, size_t pages)
{
	size_t last = (pages - 1) * PAGE;

	sees_zeros(mem, pages);
	takes_store(mem);
	takes_store(mem + last);
	*(uint64_t *)(mem + last) = 77;
	sees(mem + last, 77);
	assert_true(is_zero(mem + 8, pages == 1 ? PAGE - 8 : last - 8));
}

static void dontneed(size_t pages)
{
	char *mem = area(pages, 1);
	int i;

	for (i = 0; i < (pages == 1 ? 100 : 3); i++) {
		pattern_fill(mem, pages, 1);
		mirror_write(mem, pages);
		count_from_here();
		assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
		has_none(mem, pages);
		counted(HMM_MIGRATE, 1);
		if (i & 1) { /* the CPU comes first */
			assert_true(is_zero(mem, pages * PAGE));
			mem[0] = 5;
			sees(mem, 5);
			mem[0] = 0;
		}
		is_new(mem, pages);
	}
	area_free(mem, pages);
}

static void dontneed_of_the_middle(size_t pages)
{
	char *mem = area(3 * pages, 1), *mid = mem + pages * PAGE;

	mirror_write(mem, 3 * pages);
	count_from_here();
	assert_int_equal(madvise(mid, pages * PAGE, MADV_DONTNEED), 0);
	has_none(mid, pages);
	counted(HMM_MIGRATE, 1);
	has(mem, pages, pages, pages);
	has(mid + pages * PAGE, pages, pages, pages);
	is_new(mid, pages);
	sees_pattern(mem, pages, 1, 0);
	sees_pattern(mid + pages * PAGE, pages, 1, 2 * pages);
	takes_store(mem);
	area_free(mem, 3 * pages);
}

/* Over several mappings, one that may not be written, one that no device knows. */
static void dontneed_over_several_mappings(size_t pages)
{
	char *mem = area(3 * pages, 1), *mid = mem + pages * PAGE;

	assert_int_equal(mprotect(mid, pages * PAGE, PROT_READ), 0);
	mirror_write(mem, pages);
	mirror_read(mid, pages);
	assert_int_equal(madvise(mem, 3 * pages * PAGE, MADV_DONTNEED), 0);
	has_none(mem, 3 * pages);
	sees_zeros(mem, 3 * pages);
	no_store(mid);
	is_new(mem, pages);
	is_new(mid + pages * PAGE, pages);
	area_free(mem, 3 * pages);
}

static void dontneed_of_locked_memory(size_t pages)
{
	char *mem = area(pages, 1);

	if (syscall(SYS_mlock, mem, pages * PAGE)) /* sanitizers make mlock() do nothing */
		skip_because("this much cannot be locked (ulimit -l)");
	mirror_write(mem, pages);
	assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), -1);
	sees_pattern(mem, pages, 1, 0);
	if (madvise(mem, pages * PAGE, MADV_DONTNEED_LOCKED))
		skip_because("no MADV_DONTNEED_LOCKED on this kernel (Linux 5.18)");
	has_none(mem, pages);
	is_new(mem, pages);
	syscall(SYS_munlock, mem, pages * PAGE);
	area_free(mem, pages);
}

/* A private view of a file reads the file again. */
static void dontneed_of_private_file_pages(size_t pages)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *file, *mem;

	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	file = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(file != MAP_FAILED && mem != MAP_FAILED);
	pattern_fill(file, pages, 1);
	pattern_fill(mem, pages, 2);
	mirror_write(mem, pages);
	assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
	has_none(mem, pages);
	sees_pattern(mem, pages, 1, 0);
	takes_store(mem);
	pattern_check(file, pages, 1);
	munmap(mem, pages * PAGE);
	munmap(file, pages * PAGE);
	close(fd);
}

/* Old content or zeros, the same for the CPU and the devices; what is written stays. */
static void madv_free(size_t pages)
{
	char *mem = area(pages, 1);
	size_t i;
	int round;

	for (round = 0; round < (pages == 1 ? 50 : 2); round++) {
		pattern_fill(mem, pages, 1);
		mirror_write(mem, pages);
		count_from_here();
		assert_int_equal(madvise(mem, pages * PAGE, MADV_FREE), 0);
		has_none(mem, pages);
		counted(HMM_MIGRATE, 1);
		takes_store(mem);
		for (i = 1; i < pages; i++) {
			uint64_t val = 3;

			assert_int_equal(dummy_load_u64(dev[0], addr_of(mem) + i * PAGE, &val), 0);
			assert_true(!val || val == pattern_word(1, i, 0));
		}
		pattern_fill(mem, pages, 2);
		sees_pattern(mem, pages, 2, 0);
	}
	area_free(mem, pages);
}

/* Shared memory loses it for everybody, by whichever mapping. */
static void check_removed(int (*punch)(int fd, char *mem, size_t len), size_t pages, bool told)
{
	int fd = memfd_create("test", MFD_CLOEXEC), i;
	char *a, *b;

	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	a = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(a != MAP_FAILED && b != MAP_FAILED);
	for (i = 0; i < (pages == 1 ? 50 : 2); i++) {
		pattern_fill(a, pages, 1);
		mirror_write(a, pages);
		mirror_write(b, pages);
		count_from_here();
		assert_int_equal(punch(fd, a, pages * PAGE), 0);
		if (told) {
			has_none(a, pages);
			counted(HMM_MIGRATE, 1);
		}
		sees_zeros(b, pages);
		is_new(a, pages);
		sees(b, *(uint64_t *)a);
	}
	munmap(a, pages * PAGE);
	munmap(b, pages * PAGE);
	close(fd);
}

static int punch_by_madvise(int fd, char *mem, size_t len)
{
	(void)fd;
	return madvise(mem, len, MADV_REMOVE);
}

static int punch_by_fallocate(int fd, char *mem, size_t len)
{
	(void)mem;
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)len);
}

static int punch_by_truncate(int fd, char *mem, size_t len)
{
	(void)mem;
	return ftruncate(fd, 0) ? -1 : ftruncate(fd, (off_t)len);
}

static void madv_remove(size_t pages)
{
	check_removed(punch_by_madvise, pages, true);
}

/* The kernel sends no event here: the content is right all the same. */
static void hole_punched_by_descriptor(size_t pages)
{
	check_removed(punch_by_fallocate, pages, false);
}

static void truncated_and_extended(size_t pages)
{
	check_removed(punch_by_truncate, pages, false);
}

/* Hints that change no content leave the devices alone, or bring them back. */
static void hints_keep_the_content(size_t pages)
{
	static const int hints[] = { MADV_COLD,	       MADV_PAGEOUT,  MADV_WILLNEED,
				     MADV_RANDOM,      MADV_DONTDUMP, MADV_MERGEABLE,
				     MADV_UNMERGEABLE, MADV_DONTFORK, MADV_DOFORK };
	char *mem = area(pages, 1);
	size_t i;

	for (i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
		mirror_write(mem, pages);
		if (madvise(mem, pages * PAGE, hints[i]))
			assert_int_equal(errno, EINVAL); /* not in this kernel */
		sees_pattern(mem, pages, 1, 0);
		takes_store(mem);
		*(uint64_t *)mem = pattern_word(1, 0, 0);
		pattern_check(mem, pages, 1);
	}
	area_free(mem, pages);
}

static const struct change changes[] = {
	CHANGE(dontneed),
	CHANGE(dontneed_of_the_middle),
	CHANGE(dontneed_over_several_mappings),
	CHANGE(dontneed_of_locked_memory),
	CHANGE(dontneed_of_private_file_pages),
	CHANGE(madv_free),
	CHANGE(madv_remove),
	CHANGE(hole_punched_by_descriptor),
	CHANGE(truncated_and_extended),
	CHANGE(hints_keep_the_content),
};

CHANGES_MAIN(changes)
