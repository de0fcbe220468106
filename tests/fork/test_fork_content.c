/* SPDX-License-Identifier: MIT */
/*
 * fork() through libc with pages on the device.
 *
 * G8: the child sees the memory as it was at fork, whatever the parent or the
 * device does next, and keeps it when the parent exits or its device goes.
 * G4: neither side reads zeros or stale data. G9: no fork and no child hangs.
 */
#include "faults/harness.h"

#define PAGES 1200 /* more than two chunks */
#define OPTIONS                                   \
	{                                         \
		.memory = 64 * MIB, .scrub = true \
	}

struct fixture {
	struct dummy_device *dev;
	unsigned char *mem;
};

static int setup(void **state)
{
	static struct fixture f;
	struct dummy_options opt = OPTIONS;

	limit(20, "set-up: migrate all");
	f.dev = device_new(&opt);
	f.mem = map_bytes(PAGES * hmm_page_size());
	fill_pages(f.mem, PAGES, 1);
	migrate_all(f.dev, f.mem, PAGES);
	*state = &f;
	flush();
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->dev)
		assert_int_equal(dummy_destroy(f->dev), 0);
	munmap(f->mem, PAGES * hmm_page_size());
	limit(0, "");
	return 0;
}

static uint64_t addr_of(const struct fixture *f, size_t page)
{
	return (uint64_t)(unsigned long)f->mem + page * hmm_page_size();
}

static void child_sees_memory_as_it_was_at_fork(void **state)
{
	struct fixture *f = *state;
	size_t i;
	pid_t pid;

	LIMIT(10);
	for (i = 0; i < PAGES; i += 7)
		assert_int_equal(dummy_store_u64(f->dev, addr_of(f, i), ~i), 0);
	pid = fork();
	if (!pid) {
		child_begin();
		for (i = 0; i < PAGES; i++) {
			uint64_t *word = (void *)addr_of(f, i);

			CHILD_CHECK(*word == (i % 7 ? page_word(1, i, 0) : ~i));
			CHILD_CHECK(word[64] == page_word(1, i, 64));
		}
		_exit(0);
	}
	assert_int_equal(child_wait(pid), 0);
}

/* One byte from whoever is on the other side. */
static void await(int fd)
{
	char c;

	while (read(fd, &c, 1) < 0 && errno == EINTR)
		;
}

static void tell(int fd)
{
	if (write(fd, "x", 1) != 1)
		abort();
}

static void child_does_not_see_what_the_device_writes_later(void **state)
{
	struct fixture *f = *state;
	int go[2];
	size_t i;
	pid_t pid;

	LIMIT(10);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		child_begin();
		await(go[0]);
		CHILD_CHECK(check_pages(f->mem, PAGES, 1) == PAGES);
		_exit(0);
	}
	migrate_all(f->dev, f->mem, PAGES / 2);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_store_u64(f->dev, addr_of(f, i), i), 0);
	tell(go[1]);
	assert_int_equal(child_wait(pid), 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)addr_of(f, i), i);
	close(go[0]);
	close(go[1]);
}

static void both_write_and_neither_sees_the_other(void **state)
{
	struct fixture *f = *state;
	int go[2];
	pid_t pid;

	LIMIT(10);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		child_begin();
		CHILD_CHECK(check_pages(f->mem, PAGES, 1) == PAGES);
		fill_pages(f->mem, PAGES, 2);
		await(go[0]);
		CHILD_CHECK(check_pages(f->mem, PAGES, 2) == PAGES);
		_exit(0);
	}
	fill_pages(f->mem, PAGES, 3);
	migrate_all(f->dev, f->mem, PAGES);
	tell(go[1]);
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(check_pages(f->mem, PAGES, 3), PAGES);
	close(go[0]);
	close(go[1]);
}

static void child_keeps_its_memory_when_the_device_goes(void **state)
{
	struct fixture *f = *state;
	int go[2];
	pid_t pid;

	LIMIT(10);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		child_begin();
		await(go[0]);
		CHILD_CHECK(check_pages(f->mem, PAGES, 1) == PAGES);
		_exit(0);
	}
	migrate_all(f->dev, f->mem, PAGES);
	assert_int_equal(dummy_destroy(f->dev), 0);
	f->dev = NULL;
	fill_pages(f->mem, PAGES, 4);
	tell(go[1]);
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(check_pages(f->mem, PAGES, 4), PAGES);
	close(go[0]);
	close(go[1]);
}

/* The page table of the device, after a fork: nothing of it may be written. */
static int count_writable(const struct dummy_page *page, void *arg)
{
	*(unsigned int *)arg += page->writable;
	return 0;
}

static void the_device_loses_write_permission_at_fork(void **state)
{
	struct fixture *f = *state;
	struct dummy_stats before, after;
	unsigned int writable = 0;
	pid_t pid;

	LIMIT(10);
	assert_int_equal(dummy_evict(f->dev, addr_of(f, 0), addr_of(f, PAGES), NULL), 0);
	assert_int_equal(dummy_store_u64(f->dev, addr_of(f, 0), page_word(1, 0, 0)), 0);
	assert_int_equal(dummy_for_each_page(f->dev, count_writable, &writable), 0);
	assert_true(writable > 0);
	dummy_get_stats(f->dev, &before);
	pid = fork();
	if (!pid)
		_exit(0);
	dummy_get_stats(f->dev, &after);
	assert_int_equal(child_wait(pid), 0);
	assert_true(after.updates[HMM_FORK] > before.updates[HMM_FORK]);
	writable = 0;
	assert_int_equal(dummy_for_each_page(f->dev, count_writable, &writable), 0);
	assert_int_equal(writable, 0);
}

/* A userfaultfd of the parent's memory is nothing for a child to have. */
static void child_inherits_no_userfaultfd(void **state)
{
	char path[64], to[64];
	ssize_t n;
	pid_t pid;
	int fd;

	(void)state;
	LIMIT(10);
	pid = fork();
	if (!pid) {
		for (fd = 3; fd < 256; fd++) {
			snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
			n = readlink(path, to, sizeof(to) - 1);
			to[n > 0 ? n : 0] = '\0';
			CHILD_CHECK(!strstr(to, "userfaultfd"));
		}
		_exit(0);
	}
	assert_int_equal(child_wait(pid), 0);
}

static void two_hundred_forks(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	LIMIT(40);
	for (i = 0; i < 200 / SLOWER; i++) {
		size_t page = i * 37 % (PAGES - 64);
		pid_t pid;

		migrate_all(f->dev, (void *)addr_of(f, page), 64);
		pid = fork();
		if (!pid) {
			child_begin();
			CHILD_CHECK(check_pages(f->mem, PAGES, 1) == PAGES);
			_exit(0);
		}
		assert_int_equal(child_wait(pid), 0);
	}
	assert_int_equal(check_pages(f->mem, PAGES, 1), PAGES);
}

#define FORK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FORK_TEST(child_sees_memory_as_it_was_at_fork),
		FORK_TEST(child_does_not_see_what_the_device_writes_later),
		FORK_TEST(both_write_and_neither_sees_the_other),
		FORK_TEST(child_keeps_its_memory_when_the_device_goes),
		FORK_TEST(the_device_loses_write_permission_at_fork),
		FORK_TEST(child_inherits_no_userfaultfd),
		FORK_TEST(two_hundred_forks),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
