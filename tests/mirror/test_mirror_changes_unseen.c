/* SPDX-License-Identifier: MIT */
/*
 * Ways to change the address space of which the kernel sends no event, or another one
 * than it does.
 *
 * Tries to break: G3 and G2, by shmat() and shmdt(), remap_file_pages() and
 * madvise(MADV_GUARD_INSTALL); and the promise that a program's mremap works as it does
 * without a mirror.
 */
#include "changes.h"

#include <sys/shm.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

/* The kernel does not let it be watched: no translation lasts, so none is left. */
static void attached_and_detached_segment(size_t pages)
{
	int id = shmget(IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);
	char *mem = area(pages, 1);

	assert_true(id >= 0);
	assert_ptr_equal(shmat(id, mem, SHM_REMAP), mem);
	shmctl(id, IPC_RMID, NULL);
	pattern_fill(mem, pages, 2);
	sees_pattern(mem, pages, 2, 0);
	takes_store(mem);
	has_none(mem, pages);
	assert_int_equal(shmdt(mem), 0);
	gone(mem, pages);
	if (map_hole(mem, pages, PROT_READ)) {
		no_store(mem);
		sees_zeros(mem, pages);
	}
}

/* Over memory that the devices know, and read-only. */
static void segment_attached_over(size_t pages)
{
	char *mem = area(pages, 1);
	int id = shmget(IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);

	assert_true(id >= 0);
	mirror_write(mem, pages);
	assert_ptr_equal(shmat(id, mem, SHM_REMAP | SHM_RDONLY), mem);
	shmctl(id, IPC_RMID, NULL);
	has_none(mem, pages);
	no_store(mem);
	sees_zeros(mem, pages);
	map_over(mem, pages, PROT_READ | PROT_WRITE);
	mirror_write(mem, pages);
	map_over(mem, pages, PROT_READ);
	no_store(mem);
	area_free(mem, pages);
}

/* The pages of a shared mapping in another order; and it is still watched. */
static void pages_in_another_order(size_t pages)
{
	size_t len = pages * PAGE;
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *mem;

	assert_int_equal(ftruncate(fd, (off_t)(2 * len)), 0);
	mem = mmap(NULL, 2 * len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_fill(mem, 2 * pages, 1);
	mirror_write(mem, 2 * pages);
	if (remap_file_pages(mem, len, 0, pages, 0))
		skip_because("no remap_file_pages() on this kernel");
	has_none(mem, pages);
	sees_pattern(mem, pages, 1, pages);
	mirror_write(mem, 2 * pages);
	map_over(mem, 2 * pages, PROT_READ);
	has_none(mem, 2 * pages);
	no_store(mem);
	no_store(mem + len);
	munmap(mem, 2 * len);
	close(fd);
}

/* A guard region takes the content, and all access, away. */
static void guard_region(size_t pages)
{
	char *mem = area(pages, 1);

	mirror_write(mem, pages);
	if (madvise(mem, pages * PAGE, MADV_GUARD_INSTALL))
		skip_because("no guard regions on this kernel (Linux 6.13)");
	no_load(mem);
	no_store(mem);
	assert_int_equal(madvise(mem, pages * PAGE, MADV_GUARD_REMOVE), 0);
	sees_zeros(mem, pages);
	takes_store(mem);
	pattern_fill(mem, pages, 1);
	mirror_write(mem, pages);
	assert_int_equal(madvise(mem, pages * PAGE, MADV_GUARD_INSTALL), 0);
	has_none(mem, pages);
	area_free(mem, pages);
}

/*
 * A mapping whose first pages were touched when a part of it was watched and a part
 * not: it moves as it would without a mirror.
 */
static void first_touched_while_watched_in_part(size_t pages)
{
	char *mem, *to, *got;
	size_t i;

	pages += 600; /* more than one chunk */
	mem = area_bare(pages);
	to = area(pages, 2);
	for (i = 0; i < devs; i++)
		assert_int_equal(dummy_store_u64(dev[i], addr_of(mem), 1), 0);
	pattern_fill(mem, pages, 1);
	got = mremap(mem, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (got != to)
		fail_msg("mremap: %s", strerror(errno));
	has_none(mem, pages);
	sees_pattern(to, pages, 1, 0);
	area_free(to, pages);
}

static const struct change changes[] = {
	CHANGE(attached_and_detached_segment),
	CHANGE(segment_attached_over),
	CHANGE(pages_in_another_order),
	CHANGE(guard_region),
	CHANGE(first_touched_while_watched_in_part),
};

CHANGES_MAIN(changes)
