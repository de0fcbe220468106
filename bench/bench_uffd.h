/* SPDX-License-Identifier: MIT */
/*
 * The references: the least that userfaultfd can do for one question, with
 * nothing around it. One fd, one thread that waits in read(), and one answer:
 *
 *	bench_uffd_serve():  fill each fault from a warm buffer, by UFFDIO_COPY
 *	bench_uffd_drop():   read each event, and no more (a fork's brings a descriptor)
 *
 * The thread inherits its creator's placement and runs until the process ends.
 */
#ifndef BENCH_UFFD_H
#define BENCH_UFFD_H

#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Debian 12's headers are Linux 6.1's. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFDIO_MOVE
#define _UFFDIO_MOVE (0x05)
#define UFFD_FEATURE_MOVE (1 << 16)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

struct bench_uffd {
	int fd;
	pthread_t thread;
	/* bench_uffd_serve() */
	unsigned long base;
	const char *source;
	size_t unit;
	int error;
	/* bench_uffd_drop(): waits in poll(), as who has to do something before the caller goes on */
	bool polls;
};

/* An fd with these features, in whatever way this process may have one. */
static inline int bench_uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd, dev;

	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0) {
		dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		if (dev >= 0) {
			fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
			close(dev);
		}
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		bench_skip("userfaultfd is not allowed: %s", strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api))
		bench_skip("userfaultfd lacks features %#llx: %s", (unsigned long long)features,
			   strerror(errno));
	return fd;
}

static inline void bench_uffd_register(struct bench_uffd *u, void *addr, size_t bytes,
				       uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, bytes },
		.mode = mode,
	};

	if (ioctl(u->fd, UFFDIO_REGISTER, &reg))
		bench_fail("UFFDIO_REGISTER: %s", strerror(errno));
}

static inline void *bench_uffd_serve_main(void *arg)
{
	struct bench_uffd *u = arg;
	struct uffd_msg msg;

	while (read(u->fd, &msg, sizeof(msg)) == sizeof(msg)) {
		unsigned long addr = msg.arg.pagefault.address & ~(u->unit - 1);
		struct uffdio_copy copy = {
			.dst = addr,
			.src = (uintptr_t)u->source + (addr - u->base),
			.len = u->unit,
		};

		if (ioctl(u->fd, UFFDIO_COPY, &copy))
			bench_fail("UFFDIO_COPY: %s", strerror(errno));
	}
	return NULL;
}

static inline void *bench_uffd_drop_main(void *arg)
{
	struct bench_uffd *u = arg;
	struct pollfd fds = { .fd = u->fd, .events = POLLIN };
	struct uffd_msg msg;

	while ((!u->polls || poll(&fds, 1, -1) == 1) &&
	       read(u->fd, &msg, sizeof(msg)) == sizeof(msg))
		if (msg.event == UFFD_EVENT_FORK)
			close((int)msg.arg.fork.ufd);
	return NULL;
}

static inline void bench_uffd_start(struct bench_uffd *u, void *(*fn)(void *))
{
	if (pthread_create(&u->thread, NULL, fn, u))
		bench_fail("pthread_create");
	pthread_detach(u->thread);
}

/*
 * From now on a fault at @addr + x, within @bytes, is filled with @unit bytes
 * (a power of two, from a page up) of @source + x.
 */
static inline void bench_uffd_serve(struct bench_uffd *u, void *addr, size_t bytes,
				    const void *source, size_t unit)
{
	u->fd = bench_uffd_open(0);
	u->base = (uintptr_t)addr;
	u->source = source;
	u->unit = unit;
	bench_uffd_register(u, addr, bytes, UFFDIO_REGISTER_MODE_MISSING);
	bench_uffd_start(u, bench_uffd_serve_main);
}

/*
 * From now on the events of what is registered with @u are read and forgotten; those of
 * fork too, where the kernel lets this process have them (@forks).
 */
static inline void bench_uffd_drop(struct bench_uffd *u, bool forks)
{
	u->fd = bench_uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_UNMAP |
				UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_REMAP |
				(forks ? UFFD_FEATURE_EVENT_FORK : 0));
	if (u->polls) /* else the kernel answers POLLERR */
		fcntl(u->fd, F_SETFL, O_NONBLOCK);
	bench_uffd_start(u, bench_uffd_drop_main);
}

#endif
