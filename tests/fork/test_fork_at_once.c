/* SPDX-License-Identifier: MIT */
/*
 * What parent and child do in the moment after a fork, each with each: the child has
 * the memory as it was, whatever the parent, its devices, or itself does first. By
 * libc's fork(), also as an ordinary user, and by the system call, of which only the
 * kernel's event tells.
 *
 * Tries to break: G8, and G9 (nobody hangs, whoever ends first). On a device that is
 * prompt, on one whose copies take time, and on one that is full.
 */
#define PAGES 600 /* parts of two chunks */
#include "migrate/away.h"

static bool raw;
static const char *doing;

static pid_t any_fork(void)
{
	return raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
}

static int wait_for(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return;
}

/* In a child: cmocka is its parent's. */
#define CHILD_CHECK(cond)                                       \
	do {                                                    \
		if (!(cond)) {                                  \
			say("child: " #cond " is not so, in "); \
			say(doing);                             \
			say("\n");                              \
			child_exit(raw, 1);                     \
		}                                               \
	} while (0)

static bool intact(const char *at, size_t pages, uint64_t seed, size_t first)
{
	size_t i, j;

	for (i = 0; i < pages; i++) {
		const uint64_t *word = (const void *)(at + i * PAGE);

		for (j = 0; j < PAGE / 8; j += 3)
			if (word[j] != pattern_word(seed, first + i, j))
				return false;
	}
	return true;
}

/* ---- what the child does first ---- */

static void child_checks(void)
{
	CHILD_CHECK(intact(mem, PAGES, 1, 0));
}

static void child_waits(void)
{
	test_sleep_us(3000); /* the parent has done its part by then */
	CHILD_CHECK(intact(mem, PAGES, 1, 0));
}

static void child_forks(void)
{
	pid_t pid = any_fork(), grandchild;

	CHILD_CHECK(pid >= 0);
	if (!pid) {
		grandchild = any_fork();
		CHILD_CHECK(grandchild >= 0);
		CHILD_CHECK(intact(mem, PAGES, 1, 0));
		child_exit(raw, grandchild ? wait_for(grandchild) != 0 : 0);
	}
	memset(mem, 0, BYTES / 2); /* not the grandchild's business */
	CHILD_CHECK(intact(mem + BYTES / 2, PAGES / 2, 1, PAGES / 2));
	CHILD_CHECK(wait_for(pid) == 0);
}

static void child_unmaps(void)
{
	CHILD_CHECK(munmap(mem, BYTES / 2) == 0);
	CHILD_CHECK(intact(mem + BYTES / 2, PAGES / 2, 1, PAGES / 2));
}

/* Of each of its two mappings a part: see test_fork_mremap.c. */
static void child_moves(void)
{
	char *to = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t first = MARGIN, part = BYTES / 4, n = part / PAGE;
	int how = MREMAP_MAYMOVE | MREMAP_FIXED;

	CHILD_CHECK(mremap(mem, part, part, how, to) == to);
	CHILD_CHECK(mremap(mem + first, part, part, how, to + first) == to + first);
	CHILD_CHECK(intact(to, n, 1, 0));
	CHILD_CHECK(intact(to + first, n, 1, first / PAGE));
	CHILD_CHECK(intact(mem + part, first / PAGE - n, 1, n));
	CHILD_CHECK(intact(mem + first + part, PAGES - first / PAGE - n, 1, first / PAGE + n));
}

static void child_drops(void)
{
	CHILD_CHECK(madvise(mem, BYTES / 2, MADV_DONTNEED) == 0);
	CHILD_CHECK(is_zero(mem, BYTES / 2));
	CHILD_CHECK(intact(mem + BYTES / 2, PAGES / 2, 1, PAGES / 2));
}

static void child_writes(void)
{
	size_t i;

	for (i = 0; i < PAGES; i += 2)
		pattern_page(mem + i * PAGE, 2, i);
	for (i = 0; i < PAGES; i++)
		CHILD_CHECK(intact(mem + i * PAGE, 1, 2 - i % 2, i));
}

static void child_execs(void)
{
	execl("/bin/true", "true", (char *)NULL);
	CHILD_CHECK(!"exec");
}

static void child_dies(void)
{
	kill(getpid(), SIGKILL);
}

/* ---- what the parent does first ---- */

static void parent_waits(void)
{
}

static void parent_writes(void)
{
	pattern_fill(mem, PAGES, 5);
}

static void parent_migrates(void)
{
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
}

static void parent_evicts(void)
{
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
}

static void parent_unmaps(void)
{
	assert_int_equal(munmap(mem, BYTES), 0);
}

static char *moved;

static void parent_moves(void)
{
	assert_ptr_equal(mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, moved), moved);
	pattern_fill(moved, PAGES, 5);
}

static void parent_drops(void)
{
	assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
	memset(mem, 5, BYTES);
}

static int store_all(struct dummy_device *device, unsigned int thread, void *arg)
{
	size_t i;
	int ret = 0;

	(void)arg;
	for (i = thread; i < PAGES && !ret; i += 2)
		ret = dummy_store_u64(device, addr_of(mem) + i * PAGE, 5);
	return ret;
}

static void device_writes(void)
{
	assert_int_equal(dummy_run(dev, 2, store_all, NULL), 0);
}

/* ---- each with each ---- */

struct act {
	const char *name;
	void (*fn)(void);
};

static const struct act children[] = {
	{ "child_checks", child_checks }, { "child_waits", child_waits },
	{ "child_forks", child_forks },	  { "child_unmaps", child_unmaps },
	{ "child_moves", child_moves },	  { "child_drops", child_drops },
	{ "child_writes", child_writes }, { "child_execs", child_execs },
	{ "child_dies", child_dies },
};

static const struct act parents[] = {
	{ "parent_waits", parent_waits },	{ "parent_writes", parent_writes },
	{ "parent_migrates", parent_migrates }, { "parent_evicts", parent_evicts },
	{ "parent_unmaps", parent_unmaps },	{ "parent_moves", parent_moves },
	{ "parent_drops", parent_drops },	{ "device_writes", device_writes },
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void map_again(void)
{
	void *at = mmap(mem, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			-1, 0);

	assert_ptr_equal(at, mem);
	madvise(mem, BYTES, MADV_NOHUGEPAGE);
	/* A page of nothing: seen to be so, or what was dropped is waited for later. */
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGE, NULL), 0);
	pattern_fill(mem, PAGES, 1);
	wait_until(device_used(dev) == 0);
	at = mmap(moved, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(at, moved);
}

static void one_pair(const struct act *child, const struct act *parent, size_t expect)
{
	static char text[100];
	unsigned long out = 0;
	pid_t pid;
	int status;

	snprintf(text, sizeof(text), "%s, %s", child->name, parent->name);
	doing = text;
	step(text);
	map_again();
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &out), 0);
	assert_int_equal(out, expect);
	pid = any_fork();
	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		child->fn();
		child_exit(raw, 0);
	}
	parent->fn();
	status = wait_for(pid);
	if (status != (child->fn == child_dies ? SIGKILL : 0))
		fail_msg("%s: the child ended with status 0x%x", text, status);
	if (parent->fn == parent_waits || parent->fn == parent_migrates ||
	    parent->fn == parent_evicts)
		pattern_check(mem, PAGES, 1);
}

static void each_with_each(size_t device_pages, unsigned int delay_us)
{
	struct dummy_options opt = { .memory = device_pages * PAGE,
				     .scrub = true,
				     .copy_delay_us = delay_us };
	size_t i, j, out = device_pages < PAGES ? device_pages : PAGES;

	assert_int_equal(dummy_destroy(dev), 0);
	assert_int_equal(dummy_create(&dev, &opt), 0);
	moved = map_apart(BYTES);
	for (i = 0; i < COUNT(children); i++)
		for (j = 0; j < COUNT(parents); j++)
			if (!TEST_SANITIZED || (i + j) % 3 == 0) /* forks take long there */
				one_pair(&children[i], &parents[j], out);
	unmap_apart(moved, BYTES);
}

static void need_fork_events(void)
{
	struct hmm_features f = { .size = sizeof(f) };

	assert_int_equal(hmm_probe(&f), 0);
	if (!f.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
}

#define AT_ONCE(name, by_hand, pages, delay)  \
	static void name(void **state)        \
	{                                     \
		(void)state;                  \
		BEGIN(40);                    \
		raw = by_hand;                \
		if (raw)                      \
			need_fork_events();   \
		each_with_each(pages, delay); \
	}

AT_ONCE(a_prompt_device, false, 2048, 0)
AT_ONCE(a_slow_device, false, 2048, 100)
AT_ONCE(a_full_device, false, PAGES / 2, 0)
AT_ONCE(a_prompt_device_by_the_system_call, true, 2048, 0)
AT_ONCE(a_slow_device_by_the_system_call, true, 2048, 100)
AT_ONCE(a_full_device_by_the_system_call, true, PAGES / 2, 0)

/* ---- a parent that is gone at once ---- */

static void go(int how)
{
	if (how == 0)
		kill(getpid(), SIGKILL);
	if (how == 1)
		execl("/bin/true", "true", (char *)NULL);
	if (how == 2)
		munmap(mem, BYTES);
	_exit(0);
}

/* A process with a device: forks, and goes. Its child tells what it has. */
static void a_family(int how, int verdict)
{
	struct dummy_options opt = { .memory = 8 * MIB, .copy_delay_us = how % 2 ? 200 : 0 };
	struct dummy_device *own;
	unsigned long out = 0;
	pid_t me = getpid(), pid;

	alarm(60);
	pattern_fill(mem, PAGES, 1);
	CHILD_CHECK(dummy_create(&own, &opt) == 0);
	CHILD_CHECK(dummy_migrate(own, addr_of(mem), addr_of(mem) + BYTES, &out) == 0);
	CHILD_CHECK(out == PAGES);
	pid = fork();
	if (pid)
		go(how);
	while (getppid() == me)
		sched_yield();
	CHILD_CHECK(intact(mem, PAGES, 1, 0));
	CHILD_CHECK(write(verdict, "x", 1) == 1);
	_exit(0);
}

static void the_parent_is_gone(void **state)
{
	int i, fds[2];
	pid_t pid;
	char c;

	(void)state;
	BEGIN(40);
	doing = "a parent that goes";
	for (i = 0; i < 12; i++) {
		assert_int_equal(pipe(fds), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid)
			a_family(i % 4, fds[1]);
		close(fds[1]);
		assert_int_equal(wait_for(pid), i % 4 ? 0 : SIGKILL);
		step("the verdict of a child whose parent is gone");
		assert_int_equal(read(fds[0], &c, 1), 1);
		close(fds[0]);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
	const struct CMUnitTest tests[] = {
		T(a_prompt_device),
		T(a_slow_device),
		T(a_full_device),
		T(a_prompt_device_by_the_system_call),
		T(a_slow_device_by_the_system_call),
		T(a_full_device_by_the_system_call),
		T(the_parent_is_gone),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
