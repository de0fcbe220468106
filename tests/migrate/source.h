/* SPDX-License-Identifier: MIT */
/*
 * Kinds of source pages: what each of their tests asks, and of whom. Where a page is,
 * it asks the kernel (pagemap), the device (its counters) and the library, and all
 * three must agree.
 */
#ifndef MIGRATE_SOURCE_H
#define MIGRATE_SOURCE_H

#include "test_util.h"

#include <linux/io_uring.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#define SPACE_END (1ul << 56) /* of every address space */

static struct dummy_device *dev;

UNUSED static int setup(void **state)
{
	(void)state;
	dev = device_new(2048);
	return 0;
}

/* Whatever the test did: nothing of it may be left in the device's memory. */
UNUSED static int teardown(void **state)
{
	(void)state;
	step("waiting for the device's memory to be free");
	wait_until(device_used(dev) == 0);
	step("dummy_destroy");
	return dummy_destroy(dev);
}

/* All of the device's memory has been in use: what is not cleared shows. */
UNUSED static void dirty_device(void)
{
	size_t pages = dummy_memory_pages(dev);
	char *mem = map_aligned(pages * PAGE);

	pattern_fill(mem, pages, 99);
	migrate_all(dev, mem, pages);
	munmap(mem, pages * PAGE);
	wait_until(device_used(dev) == 0);
}

/* ---- where pages are ---- */

/* The page frame or swap slot; without privilege only whether there is one. */
UNUSED static uint64_t place_of(const void *addr)
{
	return pagemap_entry(addr) & (3ull << 62 | ((1ull << 55) - 1));
}

UNUSED static size_t count_where(const char *mem, size_t pages, enum hmm_where where)
{
	uint8_t *all = malloc(pages);
	size_t i, n = 0;

	assert_int_equal(hmm_range_where(addr_of(mem), addr_of(mem) + pages * PAGE, all), 0);
	for (i = 0; i < pages; i++)
		n += all[i] == where;
	free(all);
	return n;
}

/* ---- one call, and what must be so after it ---- */

UNUSED static size_t ask(const void *start, size_t len)
{
	unsigned long moved = 4711;

	step("dummy_migrate");
	assert_int_equal(dummy_migrate(dev, addr_of(start), addr_of(start) + len, &moved), 0);
	step("after dummy_migrate");
	return moved;
}

/*
 * All of it goes; @copied pages have content, and the rest is only cleared. Nothing
 * else is on the device. (A page that came by a CPU fault is free a little later.)
 */
UNUSED static void all_go(const char *mem, size_t pages, size_t copied)
{
	struct dummy_stats before, after;

	wait_until(device_used(dev) == 0);
	dummy_get_stats(dev, &before);
	assert_int_equal(ask(mem, pages * PAGE), pages);
	dummy_get_stats(dev, &after);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_DEVICE), pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
	assert_int_equal(device_used(dev), pages);
	assert_int_equal(after.pages_in - before.pages_in, pages);
	assert_int_equal(after.pages_zeroed - before.pages_zeroed, pages - copied);
	assert_int_equal(after.bytes_in - before.bytes_in, copied * PAGE);
}

/* Nothing of it goes, and nothing of it is touched. */
UNUSED static void all_stay(const char *mem, size_t pages)
{
	uint64_t *places = malloc(pages * sizeof(*places));
	struct dummy_stats before, after;
	size_t i;

	for (i = 0; i < pages; i++)
		places[i] = place_of(mem + i * PAGE);
	dummy_get_stats(dev, &before);
	assert_int_equal(ask(mem, pages * PAGE), 0);
	dummy_get_stats(dev, &after);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_DEVICE), 0);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_STAGED), 0);
	for (i = 0; i < pages; i++)
		if (place_of(mem + i * PAGE) != places[i])
			fail_msg("page %zu was at 0x%llx and is at 0x%llx", i,
				 (unsigned long long)places[i],
				 (unsigned long long)place_of(mem + i * PAGE));
	assert_int_equal(after.pages_in, before.pages_in);
	free(places);
}

/* By request, and all of it: the CPU page table has the pages again. */
UNUSED static void comes_home(const char *mem, size_t pages)
{
	unsigned long came = 4711;

	step("dummy_evict");
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + pages * PAGE, &came), 0);
	step("after dummy_evict");
	assert_int_equal(came, pages);
	assert_int_equal(count_on_cpu(mem, pages), pages);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_SYSTEM), pages);
}

/* ---- what the device sees, at whatever place the page is ---- */

UNUSED static void device_has(const char *mem, size_t pages, uint64_t seed, size_t first)
{
	char *page = malloc(PAGE);
	size_t i;

	for (i = 0; i < pages; i++) {
		memset(page, 0x77, PAGE);
		assert_int_equal(dummy_load(dev, addr_of(mem) + i * PAGE, page, PAGE), 0);
		pattern_check_from(page, 1, seed, first + i);
	}
	free(page);
}

UNUSED static void device_has_zeros(const char *mem, size_t pages)
{
	char *page = malloc(PAGE);
	size_t i;

	for (i = 0; i < pages; i++) {
		memset(page, 0x77, PAGE);
		assert_int_equal(dummy_load(dev, addr_of(mem) + i * PAGE, page, PAGE), 0);
		if (!is_zero(page, PAGE))
			fail_msg("the device's page %zu is not cleared", i);
	}
	free(page);
}

/* As pattern_check(), for who must not fail here: a child, a thread. */
UNUSED static bool has_pattern(const char *mem, size_t pages, uint64_t seed)
{
	size_t i, j;

	for (i = 0; i < pages; i++)
		for (j = 0; j < PAGE / 8; j++)
			if (((const uint64_t *)(const void *)(mem + i * PAGE))[j] !=
			    pattern_word(seed, i, j))
				return false;
	return true;
}

UNUSED static void touch_read(const char *mem, size_t pages)
{
	size_t i;

	for (i = 0; i < pages; i++)
		(void)*(volatile const char *)(mem + i * PAGE);
}

/* In a child, whose failures must not get into the parent's list of tests. */
#define CHECK(condition)                                                               \
	do {                                                                           \
		if (!(condition)) {                                                    \
			fprintf(stderr, "%s:%d: in a child: %s\n", __FILE__, __LINE__, \
				#condition);                                           \
			_exit(1);                                                      \
		}                                                                      \
	} while (0)

UNUSED static void child_ends_well(pid_t pid)
{
	int status = -1;

	step("waitpid");
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- pages that are pinned ---- */

/* An io_uring with the range as a buffer; -1: there is none here. close() unpins. */
UNUSED static int pin_pages(char *mem, size_t len)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { mem, len };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring >= 0 && syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1)) {
		close(ring);
		return -1;
	}
	return ring;
}

/* The kernel unpins later on, by a worker of its own. */
UNUSED static void goes_in_time(char *mem, size_t pages)
{
	wait_until(ask(mem, pages * PAGE) == pages);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_DEVICE), pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
}

/* ---- what belongs to the whole machine ---- */

UNUSED static bool file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	if (n >= 0)
		buf[n] = 0;
	return n >= 0;
}

UNUSED static bool file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text);
}

/*
 * Only one process at a time: whoever else wants this file waits, and that is not the
 * test's time. -1: it cannot be had.
 */
UNUSED static int lock_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	test_begin(path, 240);
	step("waiting for another test to have done with this");
	if (fd >= 0 && flock(fd, LOCK_EX)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

struct undo {
	pid_t pid;
	int fd;
};

/*
 * A process that calls @undo when told so or when this one is gone, however that comes
 * about. @undo runs there with no device. False: cannot be.
 */
UNUSED static bool undo_at_end(struct undo *how, void (*undo)(void))
{
	int pair[2];
	char c;

	*how = (struct undo){ -1, -1 };
	if (pipe2(pair, O_CLOEXEC))
		return false;
	how->pid = fork();
	if (!how->pid) {
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		close(pair[1]);
		while (read(pair[0], &c, 1) < 0 && errno == EINTR)
			;
		undo();
		_exit(0);
	}
	how->fd = pair[1];
	close(pair[0]);
	return how->pid > 0;
}

UNUSED static void undo_now(struct undo *how)
{
	close(how->fd);
	waitpid(how->pid, NULL, 0);
}

#endif
