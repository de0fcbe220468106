/* SPDX-License-Identifier: MIT */
/*
 * Sources that the kernel holds for somebody: pinned for long (io_uring), for the time of
 * a system call (process_vm_readv, O_DIRECT), and by a plain reference (vmsplice).
 *
 * Tries to break: G1 and G4 (a page that moves under a pin: the device or the program
 * gets what the other end has not written), G7 (its neighbours go, it stays in place),
 * and that it goes once it is not pinned.
 */
#include "migrate/source.h"

#include <linux/userfaultfd.h>
#include <poll.h>

#define PAGES 64
#define BYTES (PAGES * PAGE)

static char *mem;

static int setup_mem(void **state)
{
	mem = map_guarded(BYTES); /* a thread that waits must not keep one of its pages */
	pattern_fill(mem, PAGES, 1);
	return setup(state);
}

static int teardown_mem(void **state)
{
	unmap_guarded(mem, BYTES);
	return teardown(state);
}

/* [first, first + n) stays, at its place; all else goes. */
static void only_these_stay(size_t first, size_t n)
{
	uint64_t places[PAGES];
	size_t i;

	wait_until(device_used(dev) == 0);
	for (i = 0; i < PAGES; i++)
		places[i] = place_of(mem + i * PAGE);
	assert_int_equal(ask(mem, BYTES), PAGES - n);
	assert_int_equal(device_used(dev), PAGES - n);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES - n);
	for (i = 0; i < PAGES; i++) {
		assert_int_equal(on_cpu(mem + i * PAGE), i >= first && i < first + n);
		if (i >= first && i < first + n)
			assert_int_equal(place_of(mem + i * PAGE), places[i]);
	}
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
}

static void check_pinned(size_t first, size_t n)
{
	int i, ring = pin_pages(mem + first * PAGE, n * PAGE);

	if (ring < 0)
		skip_because("io_uring cannot be had, or pins nothing");
	for (i = 0; i < 3; i++)
		only_these_stay(first, n);
	/* Asked for alone, and what is written there is not lost. */
	all_stay(mem + first * PAGE, n);
	memset(mem + first * PAGE, 9, PAGE);
	all_stay(mem + first * PAGE, n);
	assert_int_equal(mem[first * PAGE + 100], 9);
	pattern_page(mem + first * PAGE, 1, first);
	close(ring);
	goes_in_time(mem, PAGES);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
}

static void first_page_pinned(void **state)
{
	(void)state;
	BEGIN(30);
	check_pinned(0, 1);
}

static void last_pages_pinned(void **state)
{
	(void)state;
	BEGIN(30);
	check_pinned(PAGES - 3, 3);
}

static void all_pages_pinned(void **state)
{
	(void)state;
	BEGIN(30);
	check_pinned(0, PAGES);
}

/* Some of a huge page: what stays is at its place and what goes has its content. */
static void huge_page_pinned_in_part(void **state)
{
	size_t pages = THP / PAGE, i, moved;
	char *huge = map_aligned(THP);
	uint64_t *places;
	int ring;

	(void)state;
	BEGIN(30);
	madvise(huge, THP, MADV_HUGEPAGE);
	pattern_fill(huge, pages, 2);
	places = malloc(pages * sizeof(*places));
	for (i = 0; i < pages; i++)
		places[i] = place_of(huge + i * PAGE);
	ring = pin_pages(huge + 100 * PAGE, 2 * PAGE);
	if (ring < 0)
		skip_because("io_uring cannot be had, or pins nothing");
	moved = ask(huge, THP);
	assert_int_equal(count_where(huge, pages, HMM_WHERE_DEVICE), moved);
	assert_int_equal(device_used(dev), moved);
	assert_int_equal(count_on_cpu(huge, pages), pages - moved);
	assert_true(on_cpu(huge + 100 * PAGE) && on_cpu(huge + 101 * PAGE));
	for (i = 0; i < pages; i++)
		if (on_cpu(huge + i * PAGE))
			assert_int_equal(place_of(huge + i * PAGE), places[i]);
	device_has(huge, pages, 2, 0);
	close(ring);
	goes_in_time(huge, pages);
	device_has(huge, pages, 2, 0);
	pattern_check(huge, pages, 2);
	munmap(huge, THP);
	free(places);
}

/* ---- for the time of a system call ---- */

struct reader {
	int uffd; /* the test's own: makes the call wait where it writes to */
	char *to;
	long got;
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	struct iovec to = { reader->to, 2 * PAGE }, from = { mem + 30 * PAGE, 2 * PAGE };

	reader->got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	return NULL;
}

/* The kernel has pinned what it reads, and waits for a page to write to. */
static void call_that_waits_with_a_pin(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct reader *reader = (void *)map_anon(PAGE);
	struct uffdio_register reg;
	struct uffdio_zeropage zero;
	struct pollfd fd;
	struct uffd_msg msg;
	pthread_t thread;

	(void)state;
	BEGIN(30);
	reader->to = map_aligned(2 * PAGE);
	reader->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	reg = (struct uffdio_register){ .range = { addr_of(reader->to), 2 * PAGE },
					.mode = UFFDIO_REGISTER_MODE_MISSING };
	if (reader->uffd < 0 || ioctl(reader->uffd, UFFDIO_API, &api) ||
	    ioctl(reader->uffd, UFFDIO_REGISTER, &reg))
		skip_because("no second userfaultfd");
	assert_int_equal(pthread_create(&thread, NULL, reader_main, reader), 0);
	fd = (struct pollfd){ reader->uffd, POLLIN, 0 };
	step("the call's own fault");
	assert_int_equal(poll(&fd, 1, 5000), 1);
	assert_int_equal(read(reader->uffd, &msg, sizeof(msg)), sizeof(msg));
	only_these_stay(30, 2);
	only_these_stay(30, 2);
	zero = (struct uffdio_zeropage){ .range = reg.range };
	assert_int_equal(ioctl(reader->uffd, UFFDIO_ZEROPAGE, &zero), 0);
	pthread_join(thread, NULL);
	assert_int_equal(reader->got, 2 * PAGE);
	pattern_check_from(reader->to, 2, 1, 30);
	goes_in_time(mem, PAGES);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
	close(reader->uffd);
	munmap(reader->to, 2 * PAGE);
	munmap(reader, PAGE);
}

/* ---- direct reads all the time ---- */

struct direct {
	int fd;
	bool stop;
	size_t rounds; /* atomic */
	size_t bad;
	size_t failed;
};

static void *direct_main(void *arg)
{
	struct direct *direct = arg;

	while (!__atomic_load_n(&direct->stop, __ATOMIC_ACQUIRE)) {
		direct->failed += pread(direct->fd, mem, BYTES, 0) != (ssize_t)BYTES;
		direct->bad += !has_pattern(mem, PAGES, 1);
		memset(mem, (int)__atomic_add_fetch(&direct->rounds, 1, __ATOMIC_RELAXED), BYTES);
	}
	return NULL;
}

static void direct_reads_under_migration(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	struct direct *direct = (void *)map_anon(PAGE);
	uint64_t end;
	int fd = mkstemp(name);
	pthread_t thread;
	size_t moved = 0;

	(void)state;
	BEGIN(30);
	assert_int_equal(hmm_probe(&features), 0);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, mem, BYTES), BYTES);
	fsync(fd);
	direct->fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(name);
	close(fd);
	if (direct->fd < 0 || features.user_mode_only)
		skip_because("no O_DIRECT here, or no system calls on migrated memory");
	assert_int_equal(pthread_create(&thread, NULL, direct_main, direct), 0);
	end = test_now() + 700000000ull;
	while (test_now() < end || !moved || !__atomic_load_n(&direct->rounds, __ATOMIC_RELAXED))
		moved += ask(mem, BYTES);
	__atomic_store_n(&direct->stop, true, __ATOMIC_RELEASE);
	step("joining the thread that reads");
	pthread_join(thread, NULL);
	assert_int_equal(direct->failed, 0);
	assert_int_equal(direct->bad, 0);
	close(direct->fd);
	munmap(direct, PAGE);
}

/* ---- a plain reference: not seen, so the page goes; the program's data stays its own ---- */

static void pages_in_a_pipe(void **state)
{
	struct iovec iov = { mem + 8 * PAGE, 4 * PAGE };
	char *got = map_anon(4 * PAGE);
	int fds[2];

	(void)state;
	BEGIN(30);
	assert_int_equal(pipe(fds), 0);
	if (vmsplice(fds[1], &iov, 1, 0) != (ssize_t)(4 * PAGE))
		skip_because("vmsplice is refused");
	assert_true(ask(mem, BYTES) >= PAGES - 4);
	device_has(mem, PAGES, 1, 0);
	pattern_check(mem, PAGES, 1);
	pattern_fill(mem, PAGES, 2); /* the pipe's reader may get that or not */
	ask(mem, BYTES);
	device_has(mem, PAGES, 2, 0);
	assert_int_equal(read(fds[0], got, 4 * PAGE), 4 * PAGE);
	pattern_check(mem, PAGES, 2);
	close(fds[0]);
	close(fds[1]);
	wait_until(device_used(dev) == 0);
	all_go(mem, PAGES, PAGES);
	pattern_check(mem, PAGES, 2);
	munmap(got, 4 * PAGE);
}

/*
 * Two ranges at the same place of their 2 MiB come and go: each could be given the pages that
 * the other has left behind, and so those that are in the pipe.
 */
static void pages_in_a_pipe_are_not_used_again(void **state)
{
	struct iovec iov = { mem + 8 * PAGE, 4 * PAGE };
	char *got = map_anon(4 * PAGE), *other = map_aligned(BYTES);
	int fds[2];

	(void)state;
	BEGIN(30);
	assert_int_equal(addr_of(mem) % THP, 0);
	pattern_fill(other, PAGES, 9);
	assert_int_equal(pipe(fds), 0);
	if (vmsplice(fds[1], &iov, 1, 0) != (ssize_t)(4 * PAGE))
		skip_because("vmsplice is refused");
	ask(other, BYTES);
	ask(mem, BYTES);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
	assert_int_equal(dummy_evict(dev, addr_of(other), addr_of(other) + BYTES, NULL), 0);
	assert_int_equal(read(fds[0], got, 4 * PAGE), 4 * PAGE);
	pattern_check_from(got, 4, 1, 8);
	pattern_check(mem, PAGES, 1);
	pattern_check(other, PAGES, 9);
	close(fds[0]);
	close(fds[1]);
	munmap(other, BYTES);
	munmap(got, 4 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_mem, teardown_mem)
	const struct CMUnitTest tests[] = {
		T(first_page_pinned),
		T(last_pages_pinned),
		T(all_pages_pinned),
		T(huge_page_pinned_in_part),
		T(call_that_waits_with_a_pin),
		T(direct_reads_under_migration),
		T(pages_in_a_pipe),
		T(pages_in_a_pipe_are_not_used_again),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
