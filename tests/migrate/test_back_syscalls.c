/* SPDX-License-Identifier: MIT */
/*
 * System calls whose arguments lie in migrated memory: structures and arrays that the
 * kernel reads and writes, most of them across a page end, and path names.
 *
 * Tries to break: G4, G9. As an ordinary user each call fails with EFAULT and does
 * nothing: see away.h.
 */
#include "away.h"

#include <poll.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>

static int pipe_fds[2]; /* a byte is in it */
static int socks[2];
static int file;
static int poller;

static int setup(void **state)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };

	assert_int_equal(away_setup(state), 0);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(write(pipe_fds[1], "x", 1), 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	file = memfd_create("away", MFD_CLOEXEC);
	assert_true(file >= 0);
	poller = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(epoll_ctl(poller, EPOLL_CTL_ADD, pipe_fds[0], &event), 0);
	return 0;
}

static int teardown(void **state)
{
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(socks[0]);
	close(socks[1]);
	close(file);
	close(poller);
	return away_teardown(state);
}

/* ---- what the kernel writes ---- */

static long get_time(void)
{
	return sys(SYS_clock_gettime, CLOCK_MONOTONIC, before_end(1, 8));
}

static long get_random(void)
{
	return sys(SYS_getrandom, before_end(2, 100), 3 * PAGE, 0);
}

static long get_name(void)
{
	return sys(SYS_uname, before_end(7, 65));
}

static long get_cwd(void)
{
	return sys(SYS_getcwd, before_end(9, 1), PAGE);
}

static long get_limit(void)
{
	return sys(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, before_end(11, 8));
}

static long get_pipe(void)
{
	return sys(SYS_pipe2, before_end(13, 4), O_CLOEXEC);
}

static void results_arrive(void **state)
{
	struct utsname name;
	struct rlimit limit;
	size_t fds = count_dir("/proc/self/fd");
	int *made = before_end(13, 4);
	char cwd[PAGE];
	uint64_t now;

	(void)state;
	BEGIN(40);
	assert_int_equal(call_away(get_time, "clock_gettime"), 0);
	now = test_now() / 1000000000;
	assert_in_range(*(time_t *)before_end(1, 8), now - 5, now);
	assert_int_equal(call_away(get_random, "getrandom"), 3 * PAGE);
	assert_memory_not_equal(mem + 3 * PAGE, mem + 4 * PAGE, PAGE);
	assert_int_equal(call_away(get_name, "uname"), 0);
	uname(&name);
	assert_memory_equal(before_end(7, 65), &name, 2 * 65);
	assert_true(call_away(get_cwd, "getcwd") > 0);
	assert_string_equal(before_end(9, 1), getcwd(cwd, sizeof(cwd)));
	assert_int_equal(call_away(get_limit, "prlimit"), 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	assert_memory_equal(before_end(11, 8), &limit, sizeof(limit));
	assert_int_equal(call_away(get_pipe, "pipe2"), 0);
	close(made[0]);
	close(made[1]);
	assert_int_equal(count_dir("/proc/self/fd"), fds);
	pattern_check_from(mem + 16 * PAGE, PAGES - 16, 1, 16);
}

/* ---- what it reads ---- */

static long open_path(void)
{
	return sys(SYS_openat, AT_FDCWD, before_end(1, 5), O_RDONLY | O_CLOEXEC);
}

static long stat_path(void)
{
	return sys(SYS_newfstatat, AT_FDCWD, before_end(1, 5), before_end(3, 40), 0);
}

static long sleep_shortly(void)
{
	return sys(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, before_end(5, 8), NULL);
}

static long block_signal(void)
{
	return sys(SYS_rt_sigprocmask, SIG_BLOCK, before_end(7, 4), before_end(8, 4), 8);
}

static void arguments_arrive(void **state)
{
	struct timespec wait = { .tv_nsec = 1000 };
	uint64_t set = 1ull << (SIGUSR2 - 1), was;
	struct stat st;
	long fd;

	(void)state;
	BEGIN(40);
	memcpy(before_end(1, 5), "/proc/self/status", 18);
	fd = call_away(open_path, "openat");
	assert_true(fd >= 0);
	close((int)fd);
	assert_int_equal(call_away(stat_path, "stat"), 0);
	memcpy(&st, before_end(3, 40), sizeof(st));
	assert_true(S_ISREG(st.st_mode));
	memcpy(before_end(5, 8), &wait, sizeof(wait));
	assert_int_equal(call_away(sleep_shortly, "clock_nanosleep"), 0);
	memcpy(before_end(7, 4), &set, 8);
	assert_int_equal(call_away(block_signal, "rt_sigprocmask"), 0);
	assert_int_equal(sys(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, &was, 8), 0);
	assert_true(was & set);
	pattern_check_from(mem + 10 * PAGE, PAGES - 10, 1, 10);
}

/* ---- poll and its kind ---- */

static long call_poll(void)
{
	return sys(SYS_poll, before_end(3, 12), 3, 1000);
}

static long call_select(void)
{
	return sys(SYS_select, pipe_fds[0] + 1, before_end(5, 8), NULL, NULL, before_end(6, 8));
}

static long call_epoll_ctl(void)
{
	return sys(SYS_epoll_ctl, poller, EPOLL_CTL_MOD, pipe_fds[0], before_end(8, 6));
}

static long call_epoll_wait(void)
{
	return sys(SYS_epoll_wait, poller, before_end(10, 6), 16, 1000);
}

static void what_is_ready_is_told(void **state)
{
	struct pollfd *fds = before_end(3, 12);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 78 };
	struct timeval second = { .tv_sec = 1 };
	fd_set *set = before_end(5, 8);

	(void)state;
	BEGIN(40);
	fds[0] = (struct pollfd){ .fd = pipe_fds[0], .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = pipe_fds[0], .events = POLLIN };
	fds[2] = (struct pollfd){ .fd = socks[0], .events = POLLIN, .revents = 55 };
	assert_int_equal(call_away(call_poll, "poll"), 2);
	assert_int_equal(fds[1].revents, POLLIN);
	assert_int_equal(fds[2].revents, 0);
	FD_ZERO(set);
	FD_SET(pipe_fds[0], set);
	memcpy(before_end(6, 8), &second, sizeof(second));
	assert_int_equal(call_away(call_select, "select"), 1);
	assert_true(FD_ISSET(pipe_fds[0], set));
	memcpy(before_end(8, 6), &event, sizeof(event));
	assert_int_equal(call_away(call_epoll_ctl, "epoll_ctl"), 0);
	assert_int_equal(call_away(call_epoll_wait, "epoll_wait"), 1);
	memcpy(&event, before_end(10, 6), sizeof(event));
	assert_int_equal(event.data.u64, 78);
	pattern_check_from(mem + 20 * PAGE, PAGES - 20, 1, 20);
}

/* ---- vectors ---- */

#define VECTORS 400 /* more than a page of them */

static long call_pwritev(void)
{
	return sys(SYS_pwritev, file, before_end(1, 8), VECTORS, 0, 0);
}

static long call_preadv(void)
{
	return sys(SYS_preadv, file, before_end(1, 8), VECTORS, 0, 0);
}

/* Each of 24 bytes, in pages from 8 on, every other across a page end. */
static char *piece(size_t i)
{
	return mem + (8 + i % 50) * PAGE + (i & 1 ? PAGE - 10 : 0) - i / 50 * 24 +
	       (i & 1 ? 0 : 300);
}

static void many_vectors(void **state)
{
	struct iovec iov;
	char got[24];
	size_t i;

	(void)state;
	BEGIN(40);
	for (i = 0; i < VECTORS; i++) {
		memset(piece(i), (int)i % 251, 24);
		iov = (struct iovec){ piece(i), 24 };
		memcpy((char *)before_end(1, 8) + i * sizeof(iov), &iov, sizeof(iov));
	}
	assert_int_equal(call_away(call_pwritev, "pwritev"), VECTORS * 24);
	for (i = 0; i < VECTORS; i++) {
		assert_int_equal(pread(file, got, 24, (off_t)(i * 24)), 24);
		assert_memory_equal(got, piece(i), 24);
		memset(piece(i), 255, 24);
	}
	assert_int_equal(call_away(call_preadv, "preadv"), VECTORS * 24);
	for (i = 0; i < VECTORS; i++) {
		memset(got, (int)i % 251, 24);
		assert_memory_equal(piece(i), got, 24);
	}
	pattern_check_from(mem + 60 * PAGE, PAGES - 60, 1, 60);
}

/* What came before the page that is away has been written. */
static void a_call_that_finds_one_page_away(void **state)
{
	char got[3 * PAGE];
	ssize_t want = user_mode ? (ssize_t)PAGE : (ssize_t)(3 * PAGE);

	(void)state;
	BEGIN(40);
	send_away(mem + PAGE, 1);
	assert_int_equal(sys(SYS_pwrite64, file, mem, 3 * PAGE, 0), want);
	wait_until(count_away(mem, PAGES) == (user_mode ? 1 : 0));
	assert_int_equal(pread(file, got, sizeof(got), 0), want);
	assert_memory_equal(got, mem, (size_t)want);
	pattern_check(mem, PAGES, 1);
}

/* ---- messages, with a descriptor ---- */

static struct msghdr *message(void)
{
	return (void *)(mem + 3 * PAGE - 32);
}

static long call_sendmsg(void)
{
	return sys(SYS_sendmsg, socks[0], message(), 0);
}

static long call_recvmsg(void)
{
	return sys(SYS_recvmsg, socks[1], message(), MSG_CMSG_CLOEXEC);
}

static void a_message_goes_and_comes(void **state)
{
	struct iovec *iov = (void *)(mem + 5 * PAGE - 24);
	struct cmsghdr *cmsg = (void *)(mem + 8 * PAGE - 16);
	int fd;

	(void)state;
	BEGIN(40);
	iov[0] = (struct iovec){ before_end(10, 50), 100 };
	iov[1] = (struct iovec){ before_end(20, 1), 3 * PAGE };
	*cmsg = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(cmsg), &file, sizeof(int));
	*message() = (struct msghdr){ .msg_iov = iov,
				      .msg_iovlen = 2,
				      .msg_control = cmsg,
				      .msg_controllen = CMSG_SPACE(sizeof(int)) };
	assert_int_equal(call_away(call_sendmsg, "sendmsg"), 100 + 3 * PAGE);
	memset(before_end(10, 50), 0, 100);
	memset(before_end(20, 1), 0, 3 * PAGE);
	memset(cmsg, 0, CMSG_SPACE(sizeof(int)));
	assert_int_equal(call_away(call_recvmsg, "recvmsg"), 100 + 3 * PAGE);
	pattern_check_from(mem + 10 * PAGE, PAGES - 10, 1, 10);
	assert_int_equal(cmsg->cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
	assert_true(fd >= 0 && fd != file);
	assert_int_equal(close(fd), 0);
}

/* ---- a new program ---- */

static long call_spawn(void)
{
	char *env[] = { NULL };
	pid_t pid;
	int ret, status;

	/* What libc looks at itself, the array, is there. */
	ret = posix_spawn(&pid, "/bin/sh", NULL, NULL, *(char ***)(mem + 60 * PAGE), env);
	if (ret)
		return -ret;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

static long call_spawn_away(void)
{
	long ret;

	if (count_away(mem, PAGES)) { /* the two pages that libc reads */
		(void)*(volatile char *)(mem + 60 * PAGE);
		(void)*(volatile char *)(mem + 40 * PAGE);
		wait_until(count_away(mem, PAGES) == PAGES - 2);
	}
	ret = call_spawn();
	if (ret == -EFAULT) /* for call_away(), which counts */
		send_away(mem, PAGES);
	return ret;
}

static void the_arguments_of_a_program(void **state)
{
	char **argv = (char **)(mem + 40 * PAGE); /* not where one reads on from 60 */
	size_t i;

	(void)state;
	BEGIN(40);
	if (TEST_SANITIZED && user_mode)
		skip_because("a sanitizer looks at the arguments itself");
	*(char ***)(mem + 60 * PAGE) = argv;
	argv[0] = strcpy(before_end(1, 1), "sh");
	argv[1] = strcpy(before_end(3, 2), "-c");
	argv[2] = strcpy(before_end(5, 4), "test ${#1} = 60000 && exit 33");
	argv[3] = strcpy(before_end(7, 3), "name");
	argv[4] = memset(before_end(10, 7), 'a', 60000); /* 15 pages */
	argv[4][60000] = '\0';
	argv[5] = NULL;
	assert_int_equal(call_away(call_spawn_away, "execve"), 33);
	for (i = 0; i < 60000; i++)
		assert_true(argv[4][i] == 'a');
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(results_arrive),
		T(arguments_arrive),
		T(what_is_ready_is_told),
		T(many_vectors),
		T(a_call_that_finds_one_page_away),
		T(a_message_goes_and_comes),
		T(the_arguments_of_a_program),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
