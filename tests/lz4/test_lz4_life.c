/* SPDX-License-Identifier: MIT */
/*
 * What happens to memory while it is compressed: unmapped, discarded, moved, inherited,
 * read by the kernel; and the device taken away. Nothing leaks: in the end the device
 * holds nothing.
 *
 * Tries to break: G4, G8, G9.
 */
#include "lz4/lz4_util.h"

#define PAGES 600ul
#define BYTES (PAGES * PAGE)

static struct lz4_device *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = lz4_new(0);
	mem = map_apart(BYTES);
	all_fill(mem, PAGES, 1);
	lz4_migrate_all(dev, mem, PAGES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	if (dev) {
		lz4_expect_empty(dev);
		assert_int_equal(lz4_destroy(dev), 0);
	}
	return 0;
}

static void munmap_frees(void **state)
{
	(void)state;
	BEGIN(10);
	munmap(mem, 500 * PAGE);
	wait_until(lz4_stats_of(dev).pages == 100);
	content_check(mem + 500 * PAGE, 500 % CONTENTS, 501, "beside what was unmapped");
}

static void discarded_pages_are_freed_and_zero(void **state)
{
	(void)state;
	BEGIN(10);
	assert_int_equal(madvise(mem, 300 * PAGE, MADV_DONTNEED), 0);
	wait_until(lz4_stats_of(dev).pages == 300);
	assert_true(is_zero(mem, 300 * PAGE));
	content_check(mem + 300 * PAGE, 300 % CONTENTS, 301, "beside what was discarded");
}

static void pages_move_with_mremap(void **state)
{
	char *to = map_apart(BYTES);

	(void)state;
	BEGIN(10);
	assert_ptr_equal(mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(lz4_stats_of(dev).pages, PAGES);
	all_check(to, PAGES, 1, "moved");
	munmap(to, BYTES);
}

/* System calls wait for a page as loads do. */
static void the_kernel_reads_and_writes(void **state)
{
	static char back[BYTES];
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	(void)state;
	BEGIN(20);
	if (fd < 0)
		skip_because("no temporary file");
	assert_int_equal(pwrite(fd, mem, BYTES, 0), BYTES);
	assert_int_equal(pread(fd, back, BYTES, 0), BYTES);
	all_check(back, PAGES, 1, "written out");
	lz4_migrate_all(dev, mem, PAGES);
	assert_int_equal(pread(fd, mem, BYTES, 0), BYTES);
	all_check(mem, PAGES, 1, "read in");
	close(fd);
}

static int child(pid_t pid)
{
	int status = -1;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void a_child_has_its_own(void **state)
{
	pid_t pid;

	(void)state;
	BEGIN(20);
	pid = fork();
	if (!pid) {
		alarm(20);
		all_check(mem, PAGES, 1, "in the child");
		memset(mem, 7, BYTES);
		_exit(0);
	}
	assert_int_equal(child(pid), 0);
	all_check(mem, PAGES, 1, "in the parent");
	lz4_migrate_all(dev, mem, PAGES);
	all_check(mem, PAGES, 1, "in the parent, once more");
}

/* A child can have a device of its own. */
static void a_child_makes_a_device(void **state)
{
	struct lz4_device *own = NULL;
	pid_t pid;

	(void)state;
	BEGIN(20);
	pid = fork();
	if (!pid) {
		alarm(20);
		own = lz4_new(0);
		lz4_migrate_all(own, mem, PAGES);
		all_check(mem, PAGES, 1, "by the child's device");
		_exit(lz4_destroy(own) ? 1 : 0);
	}
	assert_int_equal(child(pid), 0);
	all_check(mem, PAGES, 1, "in the parent");
}

/* Behind libc's back: the child is filled from the device, which goes on. */
static void a_raw_child_is_filled(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	pid_t pid;
	size_t i;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_probe(&features), 0);
	if (!features.fork_event)
		skip_because("the kernel does not tell of forks");
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid) {
		char expect[PAGE];

		for (i = 0; i < PAGES; i++) {
			content_fill(expect, i % CONTENTS, 1 + i);
			if (memcmp(mem + i * PAGE, expect, PAGE))
				syscall(SYS_exit_group, 1);
		}
		syscall(SYS_exit_group, 0);
	}
	assert_int_equal(child(pid), 0);
	all_check(mem, PAGES, 1, "in the parent");
}

static void the_device_goes(void **state)
{
	(void)state;
	BEGIN(10);
	assert_int_equal(lz4_destroy(dev), 0);
	dev = NULL;
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	all_check(mem, PAGES, 1, "without the device");
}

static void pages_go_from_one_device_to_another(void **state)
{
	struct lz4_device *other = lz4_new(0);
	unsigned long back = 0;

	(void)state;
	BEGIN(20);
	lz4_migrate_all(other, mem, PAGES);
	lz4_expect_empty(dev);
	assert_int_equal(lz4_stats_of(other).pages, PAGES);
	assert_int_equal(lz4_evict(dev, addr_of(mem), addr_of(mem) + BYTES, &back), 0);
	assert_int_equal(back, 0);
	assert_int_equal(lz4_destroy(other), 0);
	all_check(mem, PAGES, 1, "from the other device");
}

/* around: a fault brings a window. */
static void a_fault_brings_a_window(void **state)
{
	struct lz4_options opt = { .around = 16, .check = true };
	struct lz4_device *wide = NULL;

	(void)state;
	BEGIN(10);
	assert_int_equal(lz4_create(&wide, &opt), 0);
	lz4_migrate_all(wide, mem, PAGES);
	content_check(mem + 100 * PAGE, 100 % CONTENTS, 101, "in a window");
	wait_until(lz4_stats_of(wide).pages == PAGES - 16);
	assert_int_equal(count_on_cpu(mem + 96 * PAGE, 16), 16);
	all_check(mem, PAGES, 1, "window by window");
	lz4_expect_empty(wide);
	assert_int_equal(lz4_destroy(wide), 0);
}

/* Devices come and go; the memory that the process has does not grow. */
static void devices_leave_nothing(void **state)
{
	size_t maps = 0, i;

	(void)state;
	BEGIN(30);
	for (i = 0; i < 20; i++) {
		struct lz4_device *more = lz4_new(0);

		lz4_migrate_all(more, mem, PAGES);
		assert_int_equal(lz4_destroy(more), 0);
		if (i == 5)
			maps = count_maps();
	}
	assert_true(count_maps() <= maps + 8);
	all_check(mem, PAGES, 1, "after twenty devices");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(munmap_frees),
		T(discarded_pages_are_freed_and_zero),
		T(pages_move_with_mremap),
		T(the_kernel_reads_and_writes),
		T(a_child_has_its_own),
		T(a_child_makes_a_device),
		T(a_raw_child_is_filled),
		T(the_device_goes),
		T(pages_go_from_one_device_to_another),
		T(a_fault_brings_a_window),
		T(devices_leave_nothing),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
