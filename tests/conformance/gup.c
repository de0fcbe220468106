/* SPDX-License-Identifier: MIT */
/*
 * /sys/kernel/debug/gup_test, for a kernel without it: each command has the kernel take
 * the pages by a system call that uses the very function which the command is about.
 *
 *	GUP_BASIC_TEST          get_user_pages()       MADV_POPULATE_WRITE
 *	GUP_FAST_BENCHMARK      get_user_pages_fast()  a futex that is not private
 *	PIN_FAST_BENCHMARK      pin_user_pages_fast()  io_uring's registered buffers, which
 *	PIN_LONGTERM_BENCHMARK  pin_user_pages()       are pinned for long (FOLL_LONGTERM)
 *	PIN_BASIC_TEST          the same
 *
 * The pages are given back before the call returns, as gup_test does. Where io_uring is not
 * to be had the file is not there either, and its test says that it is skipped.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim.h"
#include "uapi.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static int ring_open(void)
{
	struct io_uring_params params = { .flags = 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	return ring < 0 ? -errno : ring;
}

static int gup_open(unsigned int number, void **state)
{
	int ring = ring_open();

	(void)number;
	*state = NULL;
	if (ring < 0)
		return -ENOENT;
	close(ring);
	return 0;
}

static int gup_release(void *state)
{
	(void)state;
	return 0;
}

static int get(const struct gup_test *gup)
{
	int advice = gup->gup_flags & GUP_FOLL_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	return madvise((void *)gup->addr, gup->size, advice) ? -errno : 0;
}

/* Nobody is woken who was not to wake anyway: a waiter looks again. */
static int get_fast(const struct gup_test *gup)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), addr;

	for (addr = gup->addr; addr < gup->addr + gup->size; addr += page)
		if (syscall(SYS_futex, addr, FUTEX_WAKE, 0, NULL, NULL, 0) < 0)
			return -errno;
	return 0;
}

static int pin(const struct gup_test *gup)
{
	struct iovec buffer = { (void *)gup->addr, gup->size };
	int ret = 0, ring = ring_open();

	if (ring < 0)
		return ring;
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0) < 0)
		ret = -errno;
	close(ring);
	return ret;
}

static int gup_command(unsigned long request, const struct gup_test *gup)
{
	switch (request) {
	case GUP_BASIC_TEST:
		return get(gup);
	case GUP_FAST_BENCHMARK:
		return get_fast(gup);
	case PIN_FAST_BENCHMARK:
	case PIN_LONGTERM_BENCHMARK:
	case PIN_BASIC_TEST:
		return pin(gup);
	default:
		return -EINVAL;
	}
}

static int gup_ioctl(void *state, unsigned long request, void *arg)
{
	struct gup_test gup;
	int ret;

	(void)state;
	if (shim_read(&gup, (uint64_t)arg, sizeof(gup)))
		return -EFAULT;
	ret = gup_command(request, &gup);
	if (ret)
		return ret;
	gup.get_delta_usec = gup.put_delta_usec = 0; /* nobody measures here */
	return shim_write((uint64_t)arg, &gup, sizeof(gup));
}

const struct shim_file gup_file = {
	.open = gup_open,
	.ioctl = gup_ioctl,
	.release = gup_release,
};
