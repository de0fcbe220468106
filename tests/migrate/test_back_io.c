/* SPDX-License-Identifier: MIT */
/*
 * I/O that the kernel does for a program by other hands than its own: io_uring, whose
 * workers fault, and whose registered buffers are pinned; O_DIRECT; pages given to a
 * pipe; sendfile and splice; and a migration that comes while it is under way.
 *
 * Tries to break: G1 and G4 (a page in flight may not be left behind), G9. As an
 * ordinary user: EFAULT, and nothing lost; see away.h.
 */
#include "away.h"

#include <linux/io_uring.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define UNTOUCHED 48 /* of the pages, no test's I/O goes here */

static int temp_file(int flags)
{
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	int first = mkstemp(name), fd = open(name, O_RDWR | O_CLOEXEC | flags);

	unlink(name);
	close(first);
	return fd;
}

/* ---- io_uring, by hand ---- */

static struct ring {
	int fd;
	struct io_uring_params params;
	char *rings;
	struct io_uring_sqe *sqes;
} ring;

#define RING_BYTES (2 * PAGE)

static int ring_setup(void **state)
{
	assert_int_equal(away_setup(state), 0);
	memset(&ring, 0, sizeof(ring));
	ring.fd = (int)syscall(SYS_io_uring_setup, 8, &ring.params);
	if (ring.fd < 0)
		return 0;
	ring.rings = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			  IORING_OFF_SQ_RING);
	ring.sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	assert_ptr_not_equal(ring.rings, MAP_FAILED);
	assert_ptr_not_equal(ring.sqes, MAP_FAILED);
	return 0;
}

static int ring_teardown(void **state)
{
	if (ring.fd >= 0) {
		munmap(ring.rings, RING_BYTES);
		munmap(ring.sqes, PAGE);
		close(ring.fd);
	}
	return away_teardown(state);
}

static void need_ring(void)
{
	if (ring.fd < 0)
		skip_because("no io_uring here");
	assert_true(ring.params.features & IORING_FEAT_SINGLE_MMAP);
}

static uint32_t *ring_word(uint32_t offset)
{
	return (uint32_t *)(void *)(ring.rings + offset);
}

static struct io_uring_sqe request;

/* It is submitted and waited for; its result. */
static long ring_do(void)
{
	uint32_t mask = *ring_word(ring.params.sq_off.ring_mask), *tail, *head;
	struct io_uring_cqe *cqes = (void *)(ring.rings + ring.params.cq_off.cqes);
	long ret, res;

	tail = ring_word(ring.params.sq_off.tail);
	ring.sqes[*tail & mask] = request;
	ring_word(ring.params.sq_off.array)[*tail & mask] = *tail & mask;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	do
		ret = sys(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	while (ret == -EINTR);
	assert_int_equal(ret, 1);
	head = ring_word(ring.params.cq_off.head);
	tail = ring_word(ring.params.cq_off.tail);
	assert_int_equal(__atomic_load_n(tail, __ATOMIC_ACQUIRE) - *head, 1);
	res = cqes[*head & *ring_word(ring.params.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return res;
}

static void ring_reads_and_writes(uint8_t flags)
{
	struct iovec *iov = before_end(60, 24);
	int fd = memfd_create("ring", MFD_CLOEXEC);

	request = (struct io_uring_sqe){ .opcode = IORING_OP_WRITE,
					 .flags = flags,
					 .fd = fd,
					 .addr = addr_of(mem) + 7,
					 .len = 40 * PAGE };
	assert_int_equal(call_away(ring_do, "io_uring write"), 40 * PAGE);
	memset(mem + 7, 0, 40 * PAGE);
	request.opcode = IORING_OP_READ;
	assert_int_equal(call_away(ring_do, "io_uring read"), 40 * PAGE);
	pattern_check(mem, 60, 1);
	iov[0] = (struct iovec){ mem + 1, 9 };
	iov[1] = (struct iovec){ mem + 10, 40 * PAGE };
	request.opcode = IORING_OP_WRITEV;
	request.addr = addr_of(iov);
	request.len = 2;
	assert_int_equal(call_away(ring_do, "io_uring writev"), 40 * PAGE + 9);
	memset(mem + 1, 0, 40 * PAGE + 9);
	request.opcode = IORING_OP_READV;
	assert_int_equal(call_away(ring_do, "io_uring readv"), 40 * PAGE + 9);
	pattern_check(mem, 60, 1);
	close(fd);
}

static void io_uring_in_the_calling_thread(void **state)
{
	(void)state;
	BEGIN(40);
	need_ring();
	ring_reads_and_writes(0);
}

static void io_uring_in_its_workers(void **state)
{
	(void)state;
	BEGIN(40);
	need_ring();
	ring_reads_and_writes(IOSQE_ASYNC);
}

static long ring_register(void)
{
	struct iovec iov = { mem, 16 * PAGE };

	return sys(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &iov, 1);
}

/* Registering brings the pages and pins them: they stay, and I/O goes to them. */
static void registered_buffers(void **state)
{
	int i, fd = memfd_create("ring", MFD_CLOEXEC);
	unsigned long moved;

	(void)state;
	BEGIN(40);
	need_ring();
	assert_int_equal(call_away(ring_register, "IORING_REGISTER_BUFFERS"), 0);
	request = (struct io_uring_sqe){
		.opcode = IORING_OP_WRITE_FIXED, .fd = fd, .addr = addr_of(mem), .len = 16 * PAGE
	};
	for (i = 2; i < 12; i++) {
		pattern_fill(mem, 16, (uint64_t)i);
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &moved), 0);
		assert_int_equal(moved, PAGES - 16);
		request.opcode = IORING_OP_WRITE_FIXED;
		assert_int_equal(ring_do(), 16 * PAGE);
		memset(mem, 0, 16 * PAGE);
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
		request.opcode = IORING_OP_READ_FIXED;
		assert_int_equal(ring_do(), 16 * PAGE);
		pattern_check(mem, 16, (uint64_t)i);
	}
	pattern_check_from(mem + 16 * PAGE, PAGES - 16, 1, 16);
	close(fd);
}

/* ---- O_DIRECT ---- */

static int io_fd;

static long direct_write(void)
{
	return sys(SYS_pwrite64, io_fd, mem, UNTOUCHED * PAGE, 0);
}

static long direct_read(void)
{
	return sys(SYS_pread64, io_fd, mem, UNTOUCHED * PAGE, 0);
}

static void direct_io_both_ways(void **state)
{
	(void)state;
	BEGIN(40);
	io_fd = temp_file(O_DIRECT);
	if (io_fd < 0)
		skip_because("no O_DIRECT in /var/tmp");
	assert_int_equal(call_away(direct_write, "O_DIRECT write"), UNTOUCHED * PAGE);
	memset(mem, 0, UNTOUCHED * PAGE);
	assert_int_equal(call_away(direct_read, "O_DIRECT read"), UNTOUCHED * PAGE);
	pattern_check(mem, PAGES, 1);
	close(io_fd);
}

/* ---- while a thread migrates all the time ---- */

static bool stop;
static unsigned long turns;

static void *migrator(void *arg)
{
	uint64_t at = addr_of(mem);

	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		if (dummy_migrate(dev, at, at + BYTES, NULL))
			return arg; /* it failed */
		__atomic_fetch_add(&turns, 1, __ATOMIC_RELAXED);
		test_sleep_us(20);
	}
	return NULL;
}

/* How much of [0, len) of @fd went between mem and the file; goes on after EFAULT. */
static void transfer(int fd, bool write, size_t len)
{
	size_t done = 0;
	long ret;

	while (done < len) {
		ret = sys(write ? SYS_pwrite64 : SYS_pread64, fd, mem + done, len - done, done);
		if (ret == -EFAULT && user_mode)
			(void)*(volatile char *)(mem + done); /* then at least this page */
		else if (ret <= 0)
			fail_msg("%s: %ld at %zu", write ? "write" : "read", ret, done);
		else
			done += (size_t)ret;
		done -= done % 512; /* O_DIRECT */
	}
}

static void io_under_migration(int fd)
{
	pthread_t thread;
	uint64_t i, end;
	void *ret;

	__atomic_store_n(&stop, false, __ATOMIC_RELEASE);
	turns = 0;
	assert_int_equal(pthread_create(&thread, NULL, migrator, &stop), 0);
	end = test_now() + 700000000;
	for (i = 2; test_now() < end || __atomic_load_n(&turns, __ATOMIC_RELAXED) < 10; i++) {
		pattern_fill(mem, UNTOUCHED, i % 1000);
		transfer(fd, true, UNTOUCHED * PAGE);
		memset(mem, 0, UNTOUCHED * PAGE);
		transfer(fd, false, UNTOUCHED * PAGE);
		pattern_check(mem, UNTOUCHED, i % 1000);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, &ret);
	assert_null(ret);
	pattern_check_from(mem + UNTOUCHED * PAGE, PAGES - UNTOUCHED, 1, UNTOUCHED);
	close(fd);
}

static void direct_io_under_migration(void **state)
{
	int fd = temp_file(O_DIRECT);

	(void)state;
	BEGIN(40);
	if (fd < 0)
		skip_because("no O_DIRECT in /var/tmp");
	if (user_mode)
		skip_because("a short write of O_DIRECT for EFAULT may end anywhere");
	io_under_migration(fd);
}

static void plain_io_under_migration(void **state)
{
	(void)state;
	BEGIN(40);
	io_under_migration(memfd_create("io", MFD_CLOEXEC));
}

/* ---- pipes ---- */

static int pipe_fds[2];

static long give_pages(void)
{
	struct iovec iov = { mem + 3 * PAGE, 8 * PAGE };

	return sys(SYS_vmsplice, pipe_fds[1], &iov, 1, 0);
}

static void pages_given_to_a_pipe(void **state)
{
	static char got[8 * PAGE];

	(void)state;
	BEGIN(40);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(call_away(give_pages, "vmsplice"), 8 * PAGE);
	assert_int_equal(read(pipe_fds[0], got, sizeof(got)), sizeof(got));
	pattern_check_from(got, 8, 1, 3);
	pattern_check(mem, PAGES, 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static long take_from_pipe(void)
{
	return sys(SYS_read, pipe_fds[0], before_end(9, 100), 5 * PAGE);
}

static void what_a_pipe_holds_is_not_lost(void **state)
{
	char *text = before_end(9, 100);

	(void)state;
	BEGIN(40);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(write(pipe_fds[1], text, 5 * PAGE), 5 * PAGE);
	memset(text, 0, 5 * PAGE);
	assert_int_equal(call_away(take_from_pipe, "read of a pipe"), 5 * PAGE);
	pattern_check(mem, PAGES, 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static int socks[2];

static long call_sendfile(void)
{
	return sys(SYS_sendfile, socks[0], io_fd, before_end(20, 4), 3 * PAGE);
}

static long call_splice(void)
{
	return sys(SYS_splice, io_fd, before_end(20, 4), pipe_fds[1], NULL, 3 * PAGE, 0);
}

static long call_recv(void)
{
	return sys(SYS_recvfrom, socks[1], before_end(30, 3), 3 * PAGE, MSG_WAITALL, NULL, NULL);
}

/* The offset is away, not the data: read, then written. */
static void offsets_that_are_away(void **state)
{
	off_t offset = PAGE;
	char got[3 * PAGE];

	(void)state;
	BEGIN(40);
	io_fd = memfd_create("io", MFD_CLOEXEC);
	assert_int_equal(write(io_fd, mem, 10 * PAGE), 10 * PAGE);
	assert_int_equal(pipe(pipe_fds) | socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
	memcpy(before_end(20, 4), &offset, sizeof(offset));
	assert_int_equal(call_away(call_sendfile, "sendfile"), 3 * PAGE);
	assert_int_equal(call_away(call_splice, "splice"), 3 * PAGE);
	assert_int_equal(read(pipe_fds[0], got, sizeof(got)), 3 * PAGE);
	pattern_check_from(got, 3, 1, 4);
	memcpy(&offset, before_end(20, 4), sizeof(offset));
	assert_int_equal(offset, 7 * PAGE);
	assert_int_equal(call_away(call_recv, "recv"), 3 * PAGE);
	pattern_check_from(memmove(got, before_end(30, 3), 3 * PAGE), 3, 1, 1);
	close(io_fd);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(socks[0]);
	close(socks[1]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
#define R(f) cmocka_unit_test_setup_teardown(f, ring_setup, ring_teardown)
	const struct CMUnitTest tests[] = {
		R(io_uring_in_the_calling_thread),
		R(io_uring_in_its_workers),
		R(registered_buffers),
		T(direct_io_both_ways),
		T(direct_io_under_migration),
		T(plain_io_under_migration),
		T(pages_given_to_a_pipe),
		T(what_a_pipe_holds_is_not_lost),
		T(offsets_that_are_away),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
