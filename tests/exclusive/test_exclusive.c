/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access (src/core/exclusive.c): who has it, who takes it, and what is in the page
 * meanwhile. G1 (one place), G3 (ends with its event), G4 (content).
 */
#include "test_util.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#define PAGES 64
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *area; /* 2 MiB; no thread's descriptor is near what is tested */
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = device_new(512);
	area = map_aligned(THP);
	mem = area + THP / 2;
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(area, THP);
	wait_until(device_used(dev) == 0);
	return dummy_destroy(dev);
}

static unsigned long held(void)
{
	unsigned long pages;

	assert_int_equal(dummy_exclusive_pages(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	return pages;
}

static void take(size_t first, size_t n, unsigned long expected)
{
	unsigned long pages = 0;

	assert_int_equal(dummy_exclusive(dev, addr_of(mem) + first * PAGE,
					 addr_of(mem) + (first + n) * PAGE, &pages),
			 0);
	assert_int_equal(pages, expected);
}

static enum hmm_where where(size_t page)
{
	uint64_t at = addr_of(mem) + page * PAGE;
	uint8_t where;

	assert_int_equal(hmm_range_where(at, at + PAGE, &where), 0);
	return where;
}

static void the_cpu_takes_it_back(void **state)
{
	uint64_t val;
	size_t i;

	(void)state;
	BEGIN(20);
	take(0, PAGES, PAGES);
	assert_int_equal(held(), PAGES);
	assert_int_equal(where(5), HMM_WHERE_EXCLUSIVE);
	for (i = 0; i < PAGES; i++) {
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + i * PAGE, i), 0);
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE + 8, &val), 0);
		assert_int_equal(val, pattern_word(1, i, 1));
	}
	assert_int_equal(held(), PAGES);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), i);
	assert_int_equal(held(), 0);
	assert_int_equal(where(5), HMM_WHERE_SYSTEM);
}

static void a_hole_is_zeros(void **state)
{
	uint64_t val;

	(void)state;
	BEGIN(20);
	madvise(mem, 4 * PAGE, MADV_DONTNEED);
	assert_int_equal(*(volatile char *)mem, 0); /* the zero page */
	take(0, 4, 4);
	assert_int_equal(held(), 4);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 3, &val), 0);
	assert_int_equal(val, 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem) + PAGE, 4, &val), 0);
	assert_int_equal(val, 0);
	assert_int_equal(held(), 4);
	assert_int_equal(*(uint64_t *)mem, 3);
	assert_int_equal(*(uint64_t *)(mem + PAGE), 4);
	assert_int_equal(*(uint64_t *)(mem + 2 * PAGE), 0);
}

static void in_the_devices_memory(void **state)
{
	unsigned long pages;
	uint64_t val;

	(void)state;
	BEGIN(20);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES / 2, &pages), 0);
	assert_int_equal(pages, PAGES / 2);
	take(0, PAGES, PAGES);
	assert_int_equal(held(), PAGES);
	assert_int_equal(device_used(dev), PAGES / 2);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, &val), 0);
	assert_int_equal(val, pattern_word(1, 0, 0));
	assert_int_equal(*(uint64_t *)mem, pattern_word(1, 0, 0) + 1);
	assert_int_equal(held(), PAGES - 1);
}

static void what_cannot_move_is_left_out(void **state)
{
	char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned long pages = 1;

	(void)state;
	BEGIN(20);
	assert_int_equal(dummy_exclusive(dev, addr_of(shared), addr_of(shared) + BYTES, &pages), 0);
	assert_int_equal(pages, 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(shared), 1, NULL), -EOPNOTSUPP);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	take(0, PAGES, 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), -EOPNOTSUPP);
	munmap(shared, BYTES);
}

/* Not now, and not never: the driver asks again. */
static void what_is_pinned_is_busy(void **state)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { mem, PAGE };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	unsigned long pages = 0;
	uint64_t end;

	(void)state;
	BEGIN(20);
	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1))
		skip_because("io_uring cannot be had here");
	assert_int_equal(dummy_exclusive(dev, addr_of(mem), addr_of(mem) + PAGE, &pages), -EBUSY);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), -EBUSY);
	take(0, 4, 3);
	close(ring);
	end = test_now() + 2000000000ull; /* a worker of the kernel's unpins it */
	while (dummy_exclusive(dev, addr_of(mem), addr_of(mem) + PAGE, &pages) && test_now() < end)
		test_sleep_us(1000);
	assert_int_equal(pages, 1);
	pattern_check(mem, PAGES, 1);
}

static void what_cannot_be_mapped_says_why(void **state)
{
	struct dummy_options opt = { .iommu = true };
	struct dummy_device *far;
	unsigned long pages;

	(void)state;
	BEGIN(20);
	assert_int_equal(dummy_create(&far, &opt), 0);
	dummy_inject(far, DUMMY_FAIL_DMA, 1, 1);
	assert_int_equal(dummy_exclusive(far, addr_of(mem), addr_of(mem) + 8 * PAGE, &pages),
			 -ENOMEM);
	dummy_inject(far, DUMMY_FAIL_DMA_PAGE, 1, 1);
	assert_int_equal(dummy_exclusive(far, addr_of(mem), addr_of(mem) + PAGE, &pages), -EIO);
	dummy_inject(far, DUMMY_FAIL_DMA_PAGE, 1, 1);
	assert_int_equal(dummy_exclusive(far, addr_of(mem), addr_of(mem) + 8 * PAGE, &pages), 0);
	assert_int_equal(pages, 7);
	assert_int_equal(dummy_atomic_add_u64(far, addr_of(mem) + PAGE, 1, NULL), 0);
	assert_int_equal(*(uint64_t *)(mem + PAGE), pattern_word(1, 1, 0) + 1);
	assert_int_equal(dummy_destroy(far), 0);
}

static void events_end_it(void **state)
{
	char *to = map_anon(PAGE), *end = mem + PAGES * PAGE;
	uint64_t val;

	(void)state;
	BEGIN(20);
	take(0, PAGES, PAGES);
	assert_int_equal(mprotect(mem, PAGE, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -EFAULT);
	assert_int_equal(*(uint64_t *)mem, pattern_word(1, 0, 0));
	assert_int_equal(madvise(mem + PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + PAGE, &val), 0);
	assert_int_equal(val, 0);
	assert_ptr_equal(mremap(mem + 2 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(*(uint64_t *)to, pattern_word(1, 2, 0));
	assert_int_equal(munmap(end - PAGE, PAGE), 0);
	assert_int_equal(dummy_load_u64(dev, addr_of(end) - PAGE, &val), -EFAULT);
	pattern_check_from(mem + 3 * PAGE, PAGES - 4, 1, 3);
	munmap(to, PAGE);
}

static void each_has_a_copy_after_fork(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	BEGIN(20);
	take(0, PAGES, PAGES);
	pid = fork();
	if (!pid) {
		alarm(20);
		_exit(*(uint64_t *)mem != pattern_word(1, 0, 0));
	}
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(*(uint64_t *)mem, pattern_word(1, 0, 0) + 1);
}

/* A child that libc does not know of, and the device at work all the time. */
static void so_has_one_made_by_hand(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	int status = 0, go[2];
	size_t i;
	pid_t pid;
	char c;

	(void)state;
	BEGIN(20);
#ifdef __SANITIZE_THREAD__
	skip_because("the thread sanitizer does not hear of such a child");
#endif
	assert_int_equal(hmm_probe(&features), 0);
	if (!features.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
	assert_int_equal(pipe(go), 0);
	take(0, PAGES, PAGES);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem) + i * PAGE, i, NULL), 0);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	if (!pid) {
		alarm(20);
		if (syscall(SYS_read, go[0], &c, 1) != 1)
			syscall(SYS_exit_group, 9);
		for (i = 0; i < PAGES; i++)
			if (*(uint64_t *)(mem + i * PAGE) != pattern_word(1, i, 0) + i)
				status = 1;
		syscall(SYS_exit_group, status);
	}
	hmm_mirror_sync(dummy_mirror(dev)); /* the child is filled: what comes now is ours */
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem) + i * PAGE, 1, NULL), 0);
	assert_int_equal(held(), PAGES);
	assert_int_equal(write(go[1], "", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), pattern_word(1, i, 0) + i + 1);
	close(go[0]);
	close(go[1]);
}

/* The child is in our memory, until it ends. */
static void vfork_shares_the_memory(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	BEGIN(20);
#ifdef __SANITIZE_THREAD__
	skip_because("the thread sanitizer makes it a fork");
#endif
	take(0, PAGES, PAGES);
	pid = vfork();
	if (!pid)
		_exit((*(volatile uint64_t *)mem)++ != pattern_word(1, 0, 0));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(held() < PAGES);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), 0);
	assert_int_equal(*(uint64_t *)mem, pattern_word(1, 0, 0) + 2);
}

/* More pages at one place of their 2 MiB than staging has room for. */
static void many_at_one_place(void **state)
{
	size_t i, n = 600;
	char *all = mmap(NULL, (n + 1) * THP, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *at = (char *)((addr_of(all) + THP) & ~(THP - 1));

	(void)state;
	BEGIN(40);
	madvise(all, (n + 1) * THP, MADV_NOHUGEPAGE);
	for (i = 0; i < n; i++)
		assert_int_equal(dummy_atomic_add_u64(dev, addr_of(at + i * THP), i, NULL), 0);
	take(0, PAGES, PAGES);
	for (i = 0; i < n; i++)
		assert_int_equal(*(uint64_t *)(at + i * THP), i);
	munmap(all, (n + 1) * THP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_cpu_takes_it_back, setup, teardown),
		cmocka_unit_test_setup_teardown(a_hole_is_zeros, setup, teardown),
		cmocka_unit_test_setup_teardown(in_the_devices_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_move_is_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_pinned_is_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_mapped_says_why, setup, teardown),
		cmocka_unit_test_setup_teardown(events_end_it, setup, teardown),
		cmocka_unit_test_setup_teardown(each_has_a_copy_after_fork, setup, teardown),
		cmocka_unit_test_setup_teardown(so_has_one_made_by_hand, setup, teardown),
		cmocka_unit_test_setup_teardown(vfork_shares_the_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(many_at_one_place, setup, teardown),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
