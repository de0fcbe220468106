/* SPDX-License-Identifier: MIT */
/* System calls on memory that is away: the kernel has to wait for it as the program does. */
#include <linux/futex.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#ifdef HAVE_URING
#include <liburing.h>
#endif

#include "act.h"

#define STEP (256 * 1024ul)

static int file_new(int flags)
{
	char name[] = "act-XXXXXX"; /* where behave.py runs it */
	int fd = mkostemp(name, flags);

	must(fd >= 0);
	must(!unlink(name));
	return fd;
}

/* Out to a file and in again, by each of the calls. */
static int io_file(char **args)
{
	uint64_t *data = data_new(DATA, 1), *copy;
	int fd = file_new(0);
	char *pos;
	size_t i;

	(void)args;
	for (i = 0, pos = (char *)data; i < DATA; i += STEP) {
		struct iovec iov[2] = { { pos + i, STEP / 2 }, { pos + i + STEP / 2, STEP / 2 } };

		if (i / STEP % 2)
			must(writev(fd, iov, 2) == STEP);
		else
			must(write(fd, pos + i, STEP) == STEP);
	}
	copy = data_new(DATA, 2); /* so that there is something to replace */
	for (i = 0, pos = (char *)copy; i < DATA; i += STEP)
		must(pread(fd, pos + i, STEP, (off_t)i) == STEP);
	data_check(copy, DATA, 1);
	data_check(data, DATA, 1);
	puts("file");
	return 0;
}

/* Past the page cache: the device is to read from, and write to, pages of ours. */
static int io_direct(char **args)
{
	char *data = aligned_alloc(PAGE, DATA), *copy = aligned_alloc(PAGE, DATA);
	int fd = file_new(O_DIRECT);
	size_t i;

	(void)args;
	data_fill((uint64_t *)data, DATA, 3);
	data_fill((uint64_t *)copy, DATA, 4);
	for (i = 0; i < DATA; i += STEP) {
		ssize_t n = pwrite(fd, data + i, STEP, (off_t)i);

		must(n == STEP || (!i && errno == EINVAL));
		if (n != STEP)
			return 77; /* this file system has none */
	}
	for (i = 0; i < DATA; i += STEP)
		must(pread(fd, copy + i, STEP, (off_t)i) == STEP);
	data_check((uint64_t *)copy, DATA, 3);
	puts("direct");
	return 0;
}

static void copy_through(int from, int to, char *copy, const char *data)
{
	pid_t pid = fork();
	size_t i;
	int status;

	must(pid >= 0);
	if (!pid) {
		for (i = 0; i < DATA;) {
			ssize_t n = write(to, data + i, STEP);

			must(n > 0);
			i += (size_t)n;
		}
		_exit(0);
	}
	close(to);
	for (i = 0; i < DATA;) {
		ssize_t n = read(from, copy + i, DATA - i < STEP ? DATA - i : STEP);

		must(n > 0);
		i += (size_t)n;
	}
	must(waitpid(pid, &status, 0) == pid && !status);
}

/* From a child, by a pipe and by a socket. */
static int io_pipe(char **args)
{
	uint64_t *data = data_new(DATA, 5), *copy = data_new(DATA, 6);
	int ends[2];

	(void)args;
	must(!pipe(ends));
	copy_through(ends[0], ends[1], (char *)copy, (char *)data);
	data_check(copy, DATA, 5);
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	data_fill(copy, DATA, 6);
	copy_through(ends[0], ends[1], (char *)copy, (char *)data);
	data_check(copy, DATA, 5);
	puts("pipe and socket");
	return 0;
}

/* Of another process, and words that are waited for. */
static int io_odd(char **args)
{
	uint64_t *data = data_new(DATA, 7), *copy = data_new(MIB, 8);
	struct iovec local = { copy, MIB }, remote = { NULL, MIB };
	struct timespec soon = { 0, 1000000 };
	size_t i;

	(void)args;
	for (i = 0; i < DATA; i += MIB) {
		remote.iov_base = (char *)data + i;
		must(process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == MIB);
		must(!memcmp(copy, (char *)data + i, MIB));
	}
	for (i = 0; i < DATA; i += MIB) {
		uint32_t *futex = (uint32_t *)((char *)data + i);

		must(syscall(SYS_futex, futex, FUTEX_WAIT, *futex, &soon, NULL, 0) == -1);
		must(errno == ETIMEDOUT || errno == EINTR);
		must(!syscall(SYS_futex, futex, FUTEX_WAKE, 1, NULL, NULL, 0));
	}
	data_check(data, DATA, 7);
	puts("process_vm_readv and futex");
	return 0;
}

#ifdef HAVE_URING
static void submit(struct io_uring *ring, struct io_uring_sqe *sqe, int expected)
{
	struct io_uring_cqe *cqe;

	(void)sqe;
	must(io_uring_submit(ring) == 1);
	must(!io_uring_wait_cqe(ring, &cqe));
	must(cqe->res == expected);
	io_uring_cqe_seen(ring, cqe);
}

/* Plain and registered buffers: the kernel holds the pages of the latter, which stay. */
static int io_ring(char **args)
{
	char *data = (char *)data_new(DATA, 9), *copy = (char *)data_new(DATA, 10);
	char *fixed = aligned_alloc(PAGE, STEP);
	struct iovec iov = { fixed, STEP };
	struct io_uring ring;
	int fd = file_new(0);
	size_t i;

	(void)args;
	if (io_uring_queue_init(8, &ring, 0))
		return 77; /* not allowed here */
	memset(fixed, 1, STEP);
	must(!io_uring_register_buffers(&ring, &iov, 1));
	for (i = 0; i < DATA; i += STEP) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (i / STEP % 2) {
			memcpy(fixed, data + i, STEP);
			io_uring_prep_write_fixed(sqe, fd, fixed, STEP, i, 0);
		} else {
			io_uring_prep_write(sqe, fd, data + i, STEP, i);
		}
		submit(&ring, sqe, STEP);
	}
	for (i = 0; i < DATA; i += STEP) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (i / STEP % 2)
			io_uring_prep_read_fixed(sqe, fd, fixed, STEP, i, 0);
		else
			io_uring_prep_read(sqe, fd, copy + i, STEP, i);
		submit(&ring, sqe, STEP);
		if (i / STEP % 2)
			memcpy(copy + i, fixed, STEP);
	}
	data_check((uint64_t *)copy, DATA, 9);
	data_check((uint64_t *)data, DATA, 9);
	io_uring_queue_exit(&ring);
	puts("io_uring");
	return 0;
}
#else
static int io_ring(char **args)
{
	(void)args;
	return 77;
}
#endif

const struct act acts_io[] = {
	{ "file", io_file }, { "direct", io_direct }, { "pipe", io_pipe },
	{ "odd", io_odd },   { "uring", io_ring },    { NULL, NULL },
};
