/* SPDX-License-Identifier: MIT */
/*
 * System calls by hand: libc's functions may be the program's, or another preload's, and
 * those may touch anything.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

static long sys_result(long ret)
{
	return ret < 0 ? -errno : ret;
}

int sys_open(const char *path, int flags, int mode)
{
	return (int)sys_result(syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode));
}

long sys_read(int fd, void *buf, size_t len)
{
	return sys_result(syscall(SYS_read, fd, buf, len));
}

void sys_close(int fd)
{
	syscall(SYS_close, fd);
}

long sys_write(int fd, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		long n = sys_result(syscall(SYS_write, fd, (const char *)buf + done, len - done));

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n ? n : -EIO;
		done += (size_t)n;
	}
	return (long)done;
}

long sys_file(const char *path, char *buf, size_t size)
{
	int fd = sys_open(path, O_RDONLY, 0);
	long n;

	if (fd < 0)
		return fd;
	n = sys_read(fd, buf, size - 1);
	sys_close(fd);
	if (n >= 0)
		buf[n] = 0;
	return n;
}

uint64_t run_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void run_sleep(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = (long)ns };

	syscall(SYS_nanosleep, &ts, NULL);
}

void run_wait(uint32_t *word, uint32_t value, uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000ull),
			       .tv_nsec = (long)(ns % 1000000000ull) };

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &ts, NULL, 0);
}

void run_wake(uint32_t *word)
{
	__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void run_say(const char *format, ...)
{
	char line[512] = "hmm run: ";
	size_t len = strlen(line);
	va_list args;
	int err = errno;
	int n;

	if (run_config.quiet)
		return;
	va_start(args, format);
	n = vsnprintf(line + len, sizeof(line) - len - 1, format, args);
	va_end(args);
	len += n < 0 ? 0 : (size_t)n;
	if (len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	sys_write(2, line, len);
	errno = err;
}
