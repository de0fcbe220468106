/* SPDX-License-Identifier: MIT */
/*
 * Swap to test with: what there is, or else an unused zram device, which a process gives back
 * that waits for the end of the one that runs the tests.
 */
#ifndef MIGRATE_SWAP_H
#define MIGRATE_SWAP_H

#include "migrate/source.h"

#include <sys/swap.h>

static void swap_undo(void)
{
	swapoff("/dev/zram0");
	file_write("/sys/block/zram0/reset", "1");
}

/* 32 MiB of an unused zram device, where there is one and we may. */
static bool swap_make(struct undo *undo)
{
	unsigned char head[PAGE] = { 0 };
	uint32_t info[3] = { 1, (32 << 20) / PAGE - 1, 0 };
	char size[32];
	int fd;

	if (!file_read("/sys/block/zram0/disksize", size, sizeof(size)) || atol(size))
		return false;
	if (!undo_at_end(undo, swap_undo))
		return false;
	memcpy(head + 1024, info, sizeof(info));
	memcpy(head + PAGE - 10, "SWAPSPACE2", 10);
	if (file_write("/sys/block/zram0/disksize", "33554432")) {
		fd = open("/dev/zram0", O_WRONLY | O_CLOEXEC);
		if (pwrite(fd, head, PAGE, 0) == (ssize_t)PAGE && !fsync(fd) && !close(fd) &&
		    !swapon("/dev/zram0", 0))
			return true;
	}
	undo_now(undo);
	return false;
}

UNUSED static bool swap_out(char *mem, size_t pages)
{
	int i;

	for (i = 0; i < 50 && count_where(mem, pages, HMM_WHERE_SWAP) < pages; i++) {
		madvise(mem, pages * PAGE, MADV_PAGEOUT);
		test_sleep_us(2000);
	}
	return count_where(mem, pages, HMM_WHERE_SWAP) == pages;
}

/*
 * @check with swap, or the test is skipped. It says whether what should be swapped out was;
 * if not it is run again, with swap that was made.
 */
UNUSED static void with_swap(void (*check)(bool *swapped))
{
	int lock = lock_file("/sys/block/zram0/disksize");
	bool swapped, made = false;
	struct undo undo;

	test_begin("with swap", 30);
	check(&swapped);
	if (!swapped && lock >= 0) {
		made = swap_make(&undo);
		if (made)
			check(&swapped);
		if (made)
			undo_now(&undo);
	}
	if (lock >= 0)
		close(lock);
	if (!swapped)
		skip_because("no swap, and no unused zram device to make some on");
}

#endif
