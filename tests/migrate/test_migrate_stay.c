/* SPDX-License-Identifier: MIT */
/*
 * What must not move stays where it is, and the call goes on with the rest.
 *
 * Tries to break: G1 (a pinned or shared page in two places), G4, G7 (each page
 * moved or where it was), G8, G11.
 */
#include "test_util.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#define PAGES 64
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = device_new(1024);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return dummy_destroy(dev);
}

static unsigned long migrate(const void *start, size_t len)
{
	unsigned long moved = 4711;

	assert_int_equal(dummy_migrate(dev, addr_of(start), addr_of(start) + len, &moved), 0);
	return moved;
}

/* An io_uring with page 20 of mem registered as a buffer, and a way to read from it. */
static int ring_with_pinned_page(void)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { mem + 20 * PAGE, PAGE };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0) {
		print_message("io_uring_setup: %s\n", strerror(errno));
		skip();
	}
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1)) {
		print_message("io_uring_register: %s\n", strerror(errno));
		close(ring);
		skip();
	}
	return ring;
}

static void pinned_page_stays_and_its_neighbours_go(void **state)
{
	int ring, i;

	(void)state;
	BEGIN(8);
	ring = ring_with_pinned_page();
	for (i = 0; i < 5; i++) {
		assert_int_equal(migrate(mem, BYTES), PAGES - 1);
		assert_int_equal(count_on_cpu(mem, PAGES), 1);
		assert_true(on_cpu(mem + 20 * PAGE));
		assert_int_equal(device_used(dev), PAGES - 1);
		pattern_check(mem, PAGES, 1);
	}
	close(ring);
	/* Unpinned by work that the kernel does later. */
	for (i = 0; i < 1000 && migrate(mem + 20 * PAGE, PAGE) != 1; i++)
		test_sleep_us(2000);
	assert_false(on_cpu(mem + 20 * PAGE));
	pattern_check(mem, PAGES, 1);
}

static void page_shared_with_a_living_child(void **state)
{
	int to_child[2], status;
	unsigned long moved;
	pid_t pid;
	char c = 0;

	(void)state;
	BEGIN(8);
	assert_int_equal(pipe(to_child), 0);
	pid = fork();
	if (!pid) {
		bool ok = true;
		size_t i;

		alarm(8);
		ok = read(to_child[0], &c, 1) == 1;
		for (i = 0; i < PAGES; i++)
			ok = ok && ((uint64_t *)(mem + i * PAGE))[3] == pattern_word(1, i, 3);
		_exit(ok ? 0 : 1);
	}
	step("migrating what a child shares");
	moved = migrate(mem, BYTES);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - moved);
	assert_int_equal(moved, PAGES); /* broken by a write: exclusive again */
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 24, 5), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 30 * PAGE + 24, 5), 0);
	assert_int_equal(write(to_child[1], &c, 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(((uint64_t *)mem)[3], 5);
	((uint64_t *)mem)[3] = pattern_word(1, 0, 3);
	((uint64_t *)(mem + 30 * PAGE))[3] = pattern_word(1, 30, 3);
	pattern_check(mem, PAGES, 1);
	close(to_child[0]);
	close(to_child[1]);
}

static void locked_memory_stays_locked_and_correct(void **state)
{
	unsigned long moved;

	(void)state;
	BEGIN(5);
	/* Not by mlock(): sanitizers make that do nothing. */
	if (syscall(SYS_mlock, mem + 16 * PAGE, 16 * PAGE))
		skip();
	moved = migrate(mem, BYTES);
	assert_int_equal(moved, PAGES - 16);
	assert_int_equal(count_on_cpu(mem + 16 * PAGE, 16), 16);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(syscall(SYS_munlock, mem, BYTES), 0);
	/* What is away when it is locked comes home: mlock promises that. */
	migrate_all(dev, mem, PAGES);
	assert_int_equal(syscall(SYS_mlock, mem, BYTES), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 1);
}

static void readonly_mapping_is_no_error(void **state)
{
	(void)state;
	BEGIN(5);
	assert_int_equal(mprotect(mem + 8 * PAGE, 8 * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(mem + 24 * PAGE, 8 * PAGE, PROT_NONE), 0);
	assert_true(migrate(mem, BYTES) >= PAGES - 16);
	assert_int_equal(count_on_cpu(mem, 8), 0);
	assert_int_equal(count_on_cpu(mem + 32 * PAGE, PAGES - 32), 0);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	pattern_check(mem, PAGES, 1);
}

static void file_and_shared_mappings_stay(void **state)
{
	char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char name[] = "/var/tmp/hmm-test-XXXXXX", *file;
	int fd = mkstemp(name);
	size_t before, moved;

	(void)state;
	BEGIN(5);
	unlink(name);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	file = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	pattern_fill(shared, PAGES, 2);
	pattern_fill(file, PAGES, 3);
	before = device_used(dev);
	moved = migrate(shared, BYTES);
	assert_int_equal(moved, device_used(dev) - before);
	migrate(file, BYTES);
	pattern_check(shared, PAGES, 2);
	pattern_check(file, PAGES, 3);
	munmap(shared, BYTES);
	munmap(file, BYTES);
	close(fd);
}

static void nothing_mapped_is_no_error(void **state)
{
	char *hole = map_aligned(16 * MIB);

	(void)state;
	BEGIN(5);
	memset(hole + 8 * MIB, 1, PAGE);
	munmap(hole, 8 * MIB);
	munmap(hole + 8 * MIB + PAGE, 8 * MIB - PAGE);
	assert_true(migrate(hole, 16 * MIB) >= 1);
	assert_false(on_cpu(hole + 8 * MIB));
	assert_int_equal(hole[8 * MIB], 1);
	munmap(hole + 8 * MIB, PAGE);
}

static __thread uint64_t thread_local_word = 5;

static void *stay_thread(void *arg)
{
	volatile char local[3 * PAGE];
	uint64_t here = addr_of((const void *)local) & ~(PAGE - 1);
	uint64_t tls = addr_of(&thread_local_word) & ~(PAGE - 1);
	bool *ok = arg;

	memset((void *)(uintptr_t)local, 7, sizeof(local));
	thread_local_word = 6;
	*ok = !dummy_migrate(dev, here, here + 3 * PAGE, NULL) &&
	      !dummy_migrate(dev, tls, tls + PAGE, NULL) &&
	      on_cpu((const void *)(uintptr_t)here) && on_cpu(&thread_local_word);
	return NULL;
}

static void stacks_tls_and_libc_data_stay(void **state)
{
	volatile char local[2 * PAGE];
	uint64_t here = addr_of((const void *)local) & ~(PAGE - 1);
	pthread_t thread;
	bool ok = false;

	(void)state;
	BEGIN(5);
	memset((void *)(uintptr_t)local, 1, sizeof(local));
	migrate((const void *)(uintptr_t)here, 2 * PAGE);
	assert_true(on_cpu((const void *)(uintptr_t)here));
	migrate((const void *)(addr_of(&errno) & ~(PAGE - 1)), PAGE);
	assert_true(on_cpu(&errno));
	migrate((const void *)(addr_of(stdout) & ~(PAGE - 1)), PAGE);
	assert_true(on_cpu(stdout)); /* in libc's data */
	assert_int_equal(pthread_create(&thread, NULL, stay_thread, &ok), 0);
	pthread_join(thread, NULL);
	assert_true(ok);
}

static int parked_ready;

static void *parked_thread(void *arg)
{
	char c;

	__atomic_store_n(&parked_ready, 1, __ATOMIC_RELEASE);
	return read(*(int *)arg, &c, 1) == 1 ? arg : NULL;
}

/* The kernel writes to a thread's descriptor when it ends, and waits for no fault. */
static void descriptor_of_a_sleeping_thread_stays(void **state)
{
	pthread_t thread;
	int fds[2];
	char *page;
	void *ret;

	(void)state;
	BEGIN(5);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(pthread_create(&thread, NULL, parked_thread, &fds[0]), 0);
	while (!__atomic_load_n(&parked_ready, __ATOMIC_ACQUIRE))
		test_sleep_us(1000);
	page = (char *)((uintptr_t)thread & ~(PAGE - 1));
	migrate(page - 16 * PAGE, 20 * PAGE);
	assert_true(on_cpu(page));
	assert_int_equal(write(fds[1], "x", 1), 1);
	step("joining a thread whose stack was asked to go");
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_ptr_equal(ret, &fds[0]);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pinned_page_stays_and_its_neighbours_go),
		T(page_shared_with_a_living_child),
		T(locked_memory_stays_locked_and_correct),
		T(readonly_mapping_is_no_error),
		T(file_and_shared_mappings_stay),
		T(nothing_mapped_is_no_error),
		T(stacks_tls_and_libc_data_stay),
		T(descriptor_of_a_sleeping_thread_stays),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
