/* SPDX-License-Identifier: MIT */
/*
 * The kernel reads and writes migrated buffers on the program's behalf.
 *
 * Tries to break: G4, G9 (a system call must neither fail nor hang on a page that
 * is away). Skipped where the kernel gives only UFFD_USER_MODE_ONLY.
 */
#include "test_util.h"

#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define PAGES 64
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem, *plain;

static int setup(void **state)
{
	(void)state;
	dev = device_new(512);
	mem = map_aligned(BYTES);
	plain = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	munmap(plain, BYTES);
	return dummy_destroy(dev);
}

static void need_kernel_faults(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	assert_int_equal(hmm_probe(&features), 0);
	if (features.user_mode_only) {
		print_message("only UFFD_USER_MODE_ONLY here\n");
		skip();
	}
}

static int temp_file(void)
{
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	int fd = mkstemp(name);

	assert_true(fd >= 0);
	unlink(name);
	return fd;
}

static void write_from_and_read_into(void **state)
{
	int i, fd = temp_file();

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	for (i = 0; i < 20; i++) {
		pattern_fill(mem, PAGES, (uint64_t)i);
		migrate_all(dev, mem, PAGES);
		step("pwrite from migrated memory");
		assert_int_equal(pwrite(fd, mem, BYTES, 0), BYTES);
		migrate_all(dev, mem, PAGES);
		assert_int_equal(pread(fd, plain, BYTES, 0), BYTES);
		pattern_check(plain, PAGES, (uint64_t)i);
		pattern_fill(plain, PAGES, 100);
		assert_int_equal(pwrite(fd, plain, BYTES, 0), BYTES);
		step("pread into migrated memory");
		assert_int_equal(pread(fd, mem + 10, BYTES - 20, 10), BYTES - 20);
		memcpy(mem, plain, 10);
		memcpy(mem + BYTES - 10, plain + BYTES - 10, 10);
		pattern_check(mem, PAGES, 100);
	}
	close(fd);
}

static void direct_io(void **state)
{
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	int fd = mkstemp(name);

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	close(fd);
	fd = open(name, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(name);
	if (fd < 0)
		skip();
	migrate_all(dev, mem, PAGES);
	step("O_DIRECT write");
	assert_int_equal(pwrite(fd, mem, BYTES, 0), BYTES);
	memset(mem, 0, BYTES);
	migrate_all(dev, mem, PAGES);
	step("O_DIRECT read");
	assert_int_equal(pread(fd, mem, BYTES, 0), BYTES);
	pattern_check(mem, PAGES, 1);
	close(fd);
}

static void pipes_and_sockets(void **state)
{
	struct iovec iov[3] = { { mem, 100 }, { mem + 3 * PAGE - 5, 10 }, { mem + 9 * PAGE, 7 } };
	char got[117];
	int fds[2];

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(writev(fds[0], iov, 3), 117);
	assert_int_equal(read(fds[1], got, 117), 117);
	assert_memory_equal(got, mem, 100);
	assert_memory_equal(got + 100, mem + 3 * PAGE - 5, 10);
	assert_memory_equal(got + 110, mem + 9 * PAGE, 7);
	close(fds[0]);
	close(fds[1]);
}

static void process_vm_both_ways(void **state)
{
	struct iovec here = { plain, BYTES }, there = { mem, BYTES };

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	migrate_all(dev, mem, PAGES);
	assert_int_equal(process_vm_readv(getpid(), &here, 1, &there, 1, 0), BYTES);
	pattern_check(plain, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	pattern_fill(plain, PAGES, 2);
	assert_int_equal(process_vm_writev(getpid(), &here, 1, &there, 1, 0), BYTES);
	pattern_check(mem, PAGES, 2);
}

/* ---- futexes ---- */

static void *futex_waiter(void *arg)
{
	uint32_t *word = arg;

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == 0)
		syscall(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
	return NULL;
}

/* The waiter sleeps on a word that leaves under it; the wake finds it all the same. */
static void futex_wake_on_migrated_word(void **state)
{
	uint32_t *word = (uint32_t *)(mem + 5 * PAGE);
	int i;

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	for (i = 0; i < 50; i++) {
		pthread_t thread;

		*word = 0;
		assert_int_equal(pthread_create(&thread, NULL, futex_waiter, word), 0);
		if (i & 1)
			test_sleep_us(1000);
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
		if (i & 2)
			__atomic_store_n(word, 1, __ATOMIC_RELEASE);
		else
			assert_int_equal(dummy_store_u32(dev, addr_of(word), 1), 0);
		if (i & 4)
			assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES,
						       NULL), 0);
		syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
		step("waiter of a futex in migrated memory");
		pthread_join(thread, NULL);
	}
}

static void futex_wait_on_migrated_word(void **state)
{
	struct timespec timeout = { .tv_nsec = 1000000 };
	uint32_t *word = (uint32_t *)(mem + 7 * PAGE);

	(void)state;
	BEGIN(10);
	need_kernel_faults();
	*word = 5;
	migrate_all(dev, mem, PAGES);
	assert_int_equal(syscall(SYS_futex, word, FUTEX_WAIT, 4, &timeout, NULL, 0), -1);
	assert_int_equal(errno, EAGAIN);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(syscall(SYS_futex, word, FUTEX_WAIT, 5, &timeout, NULL, 0), -1);
	assert_int_equal(errno, ETIMEDOUT);
}

static void mutex_and_condition_in_migrated_memory(void **state)
{
	pthread_mutex_t *mutex = (pthread_mutex_t *)(mem + 11 * PAGE);
	int i;

	(void)state;
	BEGIN(10);
	assert_int_equal(pthread_mutex_init(mutex, NULL), 0);
	for (i = 0; i < 50; i++) {
		assert_int_equal(pthread_mutex_lock(mutex), 0);
		migrate_all(dev, mem, PAGES);
		assert_int_equal(pthread_mutex_unlock(mutex), 0);
	}
	pthread_mutex_destroy(mutex);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(write_from_and_read_into),
		T(direct_io),
		T(pipes_and_sockets),
		T(process_vm_both_ways),
		T(futex_wake_on_migrated_word),
		T(futex_wait_on_migrated_word),
		T(mutex_and_condition_in_migrated_memory),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
