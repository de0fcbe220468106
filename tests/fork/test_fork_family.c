/* SPDX-License-Identifier: MIT */
/*
 * Children of children, children that leave at once, parents that do, children
 * with a device of their own, and forks without a descriptor to spare.
 *
 * G8: each sees the memory as it was when it was forked, and keeps it when its
 * parent exits. G9: no fork and no child hangs.
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

static void tell(int fd)
{
	if (write(fd, "x", 1) != 1)
		abort();
}

static int nest(struct fixture *f, uint64_t level)
{
	pid_t pid;

	CHILD_CHECK(check_pages(f->mem, PAGES, level) == PAGES);
	fill_pages(f->mem, PAGES, level + 1);
	if (level < 4) {
		pid = fork();
		if (!pid) {
			child_begin();
			_exit(nest(f, level + 1));
		}
		CHILD_CHECK(child_wait(pid) == 0);
	}
	CHILD_CHECK(check_pages(f->mem, PAGES, level + 1) == PAGES);
	return 0;
}

static void nested_forks_each_see_their_parent(void **state)
{
	struct fixture *f = *state;
	pid_t pid;

	LIMIT(10);
	pid = fork();
	if (!pid) {
		child_begin();
		_exit(nest(f, 1));
	}
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(check_pages(f->mem, PAGES, 1), PAGES);
}

static void leave_at_once(struct fixture *f, unsigned int how)
{
	child_begin();
	if (how == 0)
		_exit(0);
	if (how == 1)
		execl("/bin/true", "true", (char *)NULL);
	if (how == 2)
		munmap(f->mem, PAGES * hmm_page_size());
	if (how == 3)
		madvise(f->mem, PAGES * hmm_page_size(), MADV_DONTNEED);
	_exit(how < 2);
}

static void children_that_leave_at_once_do_no_harm(void **state)
{
	struct fixture *f = *state;
	unsigned int how;

	LIMIT(20);
	for (how = 0; how < 40; how++) {
		pid_t pid;

		migrate_all(f->dev, f->mem, PAGES);
		pid = fork();
		if (!pid)
			leave_at_once(f, how % 4);
		assert_int_equal(child_wait(pid), 0);
		assert_int_equal(check_pages(f->mem, PAGES, 1), PAGES);
	}
}

/* In a process of its own: make a device, migrate, fork, and die. */
static void die_early(int verdict, unsigned int delay_us)
{
	struct dummy_options opt = { .memory = 16 * MIB, .copy_delay_us = delay_us };
	unsigned char *mem = map_bytes(PAGES * hmm_page_size());
	struct dummy_device *dev;
	unsigned long n;
	pid_t me = getpid(), pid;

	child_begin();
	fill_pages(mem, PAGES, 9);
	CHILD_CHECK(dummy_create(&dev, &opt) == 0);
	CHILD_CHECK(dummy_migrate(dev, (unsigned long)mem,
				  (unsigned long)mem + PAGES * hmm_page_size(), &n) == 0);
	CHILD_CHECK(n == PAGES);
	pid = fork();
	if (pid)
		_exit(pid < 0);
	while (getppid() == me)
		sched_yield();
	CHILD_CHECK(check_pages(mem, PAGES, 9) == PAGES);
	tell(verdict);
	_exit(0);
}

static void child_keeps_its_memory_when_the_parent_exits_at_once(void **state)
{
	unsigned int i;

	(void)state;
	LIMIT(20);
	for (i = 0; i < 10; i++) {
		int verdict[2];
		pid_t pid;
		char c;

		assert_int_equal(pipe(verdict), 0);
		pid = fork();
		if (!pid)
			die_early(verdict[1], i % 2 ? 500 : 0);
		close(verdict[1]);
		assert_int_equal(child_wait(pid), 0);
		assert_int_equal(read(verdict[0], &c, 1), 1); /* 0: the orphan failed */
		close(verdict[0]);
	}
}

static void child_makes_a_device_of_its_own(void **state)
{
	struct fixture *f = *state;
	pid_t pid;

	LIMIT(15);
	pid = fork();
	if (!pid) {
		struct dummy_options opt = OPTIONS;
		struct dummy_device *dev;
		unsigned long n = 0;
		uint64_t val = 0;

		child_begin();
		CHILD_CHECK(dummy_create(&dev, &opt) == 0);
		CHILD_CHECK(dummy_migrate(dev, addr_of(f, 0), addr_of(f, PAGES), &n) == 0);
		CHILD_CHECK(n == PAGES);
		CHILD_CHECK(dummy_load_u64(dev, addr_of(f, 5), &val) == 0);
		CHILD_CHECK(val == page_word(1, 5, 0));
		CHILD_CHECK(dummy_store_u64(dev, addr_of(f, 5), 55) == 0);
		CHILD_CHECK(*(uint64_t *)addr_of(f, 5) == 55);
		*(uint64_t *)addr_of(f, 5) = page_word(1, 5, 0);
		CHILD_CHECK(check_pages(f->mem, PAGES, 1) == PAGES);
		CHILD_CHECK(memory_comes_free(dev, 2));
		CHILD_CHECK(dummy_destroy(dev) == 0);
		_exit(0);
	}
	migrate_all(f->dev, f->mem, PAGES);
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(check_pages(f->mem, PAGES, 1), PAGES);
}

static void take_descriptors(struct fixture *f)
{
	struct rlimit rl;
	int last = 0, fd;

	child_begin();
	(void)f;
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = 64;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &rl) == 0);
	while ((fd = dup(STDERR_FILENO)) >= 0)
		last = fd;
	CHILD_CHECK(last > 0);
}

static void fork_without_a_descriptor_does_not_hang(void **state)
{
	struct fixture *f = *state;
	unsigned int i;
	pid_t pid;

	LIMIT(20);
	pid = fork();
	if (!pid) {
		struct dummy_options opt = OPTIONS;
		struct dummy_device *dev;
		unsigned long n;

		CHILD_CHECK(dummy_create(&dev, &opt) == 0);
		CHILD_CHECK(dummy_migrate(dev, addr_of(f, 0), addr_of(f, PAGES), &n) == 0);
		take_descriptors(f);
		for (i = 0; i < 5; i++) {
			pid = fork();
			if (!pid)
				_exit(check_pages(f->mem, PAGES, 1) != PAGES);
			CHILD_CHECK(child_wait(pid) == 0);
		}
		_exit(0);
	}
	assert_int_equal(child_wait(pid), 0);
}

#define FORK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FORK_TEST(nested_forks_each_see_their_parent),
		FORK_TEST(children_that_leave_at_once_do_no_harm),
		FORK_TEST(child_keeps_its_memory_when_the_parent_exits_at_once),
		FORK_TEST(child_makes_a_device_of_its_own),
		FORK_TEST(fork_without_a_descriptor_does_not_hang),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
