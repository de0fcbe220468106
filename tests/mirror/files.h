/* SPDX-License-Identifier: MIT */
/*
 * Files on a disk, whose changes nobody tells libhmm of.
 */
#ifndef TESTS_MIRROR_FILES_H
#define TESTS_MIRROR_FILES_H

#include <linux/magic.h>
#include <sys/statfs.h>

#include "mirror/dma.h"

#define LEN (PAGES * PAGE)
#define RW (PROT_READ | PROT_WRITE)

static int temp_file(size_t len)
{
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);
	struct statfs fs;

	assert_true(fd >= 0);
	unlink(name);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	assert_int_equal(fstatfs(fd, &fs), 0);
	if (fs.f_type == TMPFS_MAGIC)
		skip(); /* the kernel watches that */
	return fd;
}

static uint64_t file_word(int fd, off_t at)
{
	uint64_t val = ~0ull;

	assert_int_equal(pread(fd, &val, sizeof(val), at), sizeof(val));
	return val;
}

static void file_set(int fd, off_t at, uint64_t val)
{
	assert_int_equal(pwrite(fd, &val, sizeof(val), at), sizeof(val));
}

/* A file whose pages say which they are: word 0 is @base plus the page's number. */
static int numbered_file(uint64_t base)
{
	int fd = temp_file(LEN);
	size_t i;

	for (i = 0; i < PAGES; i++)
		file_set(fd, (off_t)(i * PAGE), base + i);
	return fd;
}

static char *map_file(int fd, int prot, int flags, void *at)
{
	char *mem = mmap(at, LEN, prot, flags | (at ? MAP_FIXED : 0), fd, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	return mem;
}

static void files_plain(void)
{
	dma_options.iommu = false;
}

/* With and without an IOMMU. */
#define FILES_RUN(tests) run_twice(#tests, tests, sizeof(tests) / sizeof(tests[0]), files_plain)

#endif
