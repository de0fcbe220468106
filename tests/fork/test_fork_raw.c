/* SPDX-License-Identifier: MIT */
/*
 * Forks that bypass pthread_atfork: the system call by hand, and _Fork(). The
 * kernel tells us of them where it lets us ask (CAP_SYS_PTRACE).
 *
 * G8: such a child too finds its memory as it was, also where it unmaps, moves
 * or drops parts of it, or forks again, while it is being filled. G9: neither it
 * nor its parent hangs, whoever ends first.
 */
#include "faults/harness.h"

#define PAGES 1200
#define ROUNDS (16 / SLOWER / SLOWER + 2)

static struct dummy_device *dev;
static unsigned char *mem;
static unsigned int descriptors; /* open before: none of the first 16 may be lost */

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
}

static size_t bytes(size_t pages)
{
	return pages * hmm_page_size();
}

static unsigned int open_descriptors(void)
{
	unsigned int fd, open = 0;

	for (fd = 0; fd < 16; fd++)
		open |= (unsigned int)(fcntl((int)fd, F_GETFD) >= 0) << fd;
	return open;
}

static int setup(void **state)
{
	struct dummy_options opt = { .memory = 32 * MIB,
				     .scrub = true,
				     .looks_up = getenv("HMM_TEST_LOOKS_UP") };
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	dev = NULL;
	assert_int_equal(hmm_probe(&f), 0);
	if (!f.fork_event)
		return 0;
	limit(20, "set-up");
	descriptors = open_descriptors();
	dev = device_new(&opt);
	mem = map_bytes(bytes(PAGES));
	fill_pages(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	flush();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (!dev)
		return 0;
	munmap(mem, bytes(PAGES));
	assert_true(memory_comes_free(dev, 2));
	assert_int_equal(dummy_destroy(dev), 0);
	assert_int_equal(open_descriptors(), descriptors);
	limit(0, "");
	return 0;
}

static void need_fork_events(void)
{
	if (dev)
		return;
	print_message("skipped: fork events need CAP_SYS_PTRACE\n");
	skip();
}

static void child_checks_all(void)
{
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
}

static void child_keeps_half(void)
{
	size_t i;

	munmap(mem, bytes(PAGES / 2));
	for (i = PAGES / 2; i < PAGES; i++)
		CHILD_CHECK(*(uint64_t *)(mem + bytes(i)) == page_word(1, i, 0));
}

static void child_moves_all(void)
{
	unsigned char *to = mmap(NULL, bytes(PAGES), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	to = mremap(mem, bytes(PAGES), bytes(PAGES), MREMAP_MAYMOVE | MREMAP_FIXED, to);
	CHILD_CHECK(to != MAP_FAILED);
	CHILD_CHECK(check_pages(to, PAGES, 1) == PAGES);
}

static void child_moves_away_and_back(void)
{
	unsigned char *to = mmap(NULL, bytes(PAGES), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHILD_CHECK(mremap(mem, bytes(PAGES), bytes(PAGES), MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
		    to);
	CHILD_CHECK(mremap(to, bytes(PAGES), bytes(PAGES), MREMAP_MAYMOVE | MREMAP_FIXED, mem) ==
		    mem);
	child_checks_all();
}

static void child_drops_all(void)
{
	size_t i;

	madvise(mem, bytes(PAGES), MADV_DONTNEED);
	for (i = 0; i < PAGES; i++)
		CHILD_CHECK(mem[bytes(i)] == 0);
}

static void child_writes_all(void)
{
	child_checks_all();
	fill_pages(mem, PAGES, 2);
	CHILD_CHECK(check_pages(mem, PAGES, 2) == PAGES);
}

static void child_forks_at_once(void)
{
	int status = -1;
	pid_t pid = raw_fork();

	CHILD_CHECK(pid >= 0);
	child_checks_all();
	if (!pid)
		child_exit(true, 0);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	CHILD_CHECK(status == 0);
}

/* The child has its parent's libhmm in whatever state that was: it is not to be used. */
static void child_calls_what_libhmm_defines(void)
{
	size_t i;

	for (i = 0; i < 50; i++) {
		CHILD_CHECK(!mprotect(mem, bytes(PAGES), PROT_READ));
		CHILD_CHECK(!mprotect(mem, bytes(PAGES), PROT_READ | PROT_WRITE));
		CHILD_CHECK(mremap(mem, bytes(PAGES), bytes(PAGES), 0) == mem);
		CHILD_CHECK(!madvise(mem + bytes(PAGES / 2), bytes(PAGES / 2), MADV_NORMAL));
	}
	child_checks_all();
}

static void child_leaves(void)
{
}

/* @meanwhile: what the parent does while the child runs. */
static void raw_forks(void (*child)(void), void (*meanwhile)(void))
{
	unsigned int i;

	need_fork_events();
	for (i = 0; i < ROUNDS; i++) {
		pid_t pid;

		fill_pages(mem, PAGES, 1);
		migrate_all(dev, mem, PAGES);
		pid = raw_fork();
		if (!pid) {
			child();
			child_exit(true, 0);
		}
		if (meanwhile)
			meanwhile();
		assert_int_equal(child_wait(pid), 0);
		if (!meanwhile)
			assert_int_equal(check_pages(mem, PAGES, 1), PAGES);
	}
}

static void parent_writes(void)
{
	fill_pages(mem, PAGES, 5);
}

static void parent_drops(void)
{
	madvise(mem, bytes(PAGES), MADV_DONTNEED);
}

/* Once fork has returned, what the device writes is later: G3, G8. */
static void parent_device_writes(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_store_u64(dev, (unsigned long)mem + bytes(i), i), 0);
}

#define RAW_TEST(name, child, meanwhile)     \
	static void name(void **state)       \
	{                                    \
		(void)state;                 \
		LIMIT(20);                   \
		raw_forks(child, meanwhile); \
	}

RAW_TEST(the_child_is_filled, child_checks_all, NULL)
RAW_TEST(a_child_that_leaves_at_once, child_leaves, NULL)
RAW_TEST(a_child_that_unmaps_half, child_keeps_half, NULL)
RAW_TEST(a_child_that_moves_all, child_moves_all, NULL)
RAW_TEST(a_child_that_moves_away_and_back, child_moves_away_and_back, NULL)
RAW_TEST(a_child_that_drops_all, child_drops_all, NULL)
RAW_TEST(a_child_that_writes_all, child_writes_all, NULL)
RAW_TEST(a_child_that_forks_at_once, child_forks_at_once, NULL)
RAW_TEST(a_child_that_calls_what_libhmm_defines, child_calls_what_libhmm_defines, NULL)
RAW_TEST(the_parent_writes_at_once, child_checks_all, parent_writes)
RAW_TEST(the_parent_drops_at_once, child_checks_all, parent_drops)
RAW_TEST(the_device_writes_at_once, child_checks_all, parent_device_writes)

/* G4: SIGBUS, and never zeros. */
static void what_the_device_cannot_copy_is_poison_in_the_child(void **state)
{
	pid_t pid;

	(void)state;
	LIMIT(10);
	need_fork_events();
	hmm_set_log(HMM_LOG_NONE, NULL);
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 1, ULONG_MAX);
	pid = raw_fork();
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		child_exit(true, mem[bytes(5)] ? 0 : 99);
	}
	assert_int_equal(child_wait(pid), 128 + SIGBUS);
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 0, 0);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	assert_int_equal(check_pages(mem, PAGES, 1), PAGES);
}

static void libc_underscore_fork(void **state)
{
	pid_t pid;

	(void)state;
	LIMIT(10);
	need_fork_events();
	pid = _Fork();
	if (!pid) {
		child_checks_all();
		child_exit(true, 0);
	}
	assert_int_equal(child_wait(pid), 0);
}

/*
 * The child has inherited the userfaultfd. That must not keep the parent's
 * memory registered, with nobody to read, once the parent's device has gone.
 */
static void parent_ends_its_device_while_the_child_lives(void **state)
{
	unsigned char *late;
	pid_t pid;

	(void)state;
	LIMIT(5);
	need_fork_events();
	late = map_chunks(1);
	late[0] = 1;
	migrate_all(dev, late, 1); /* the rest of the chunk is caught now */
	pid = raw_fork();
	if (!pid) {
		pause();
		child_exit(true, 0);
	}
	sleep_us(10000);
	munmap(mem, bytes(PAGES));
	mem = map_bytes(bytes(PAGES));
	assert_int_equal(dummy_destroy(dev), 0);
	dev = NULL;
	assert_int_equal(late[0], 1);
	assert_int_equal(late[64 * hmm_page_size()], 0); /* a first touch */
	munmap(late, CHUNK);
	kill(pid, SIGKILL);
	assert_int_equal(child_wait(pid), 128 + SIGKILL);
	munmap(mem, bytes(PAGES));
}

#define FORK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FORK_TEST(the_child_is_filled),
		FORK_TEST(a_child_that_leaves_at_once),
		FORK_TEST(a_child_that_unmaps_half),
		FORK_TEST(a_child_that_moves_all),
		FORK_TEST(a_child_that_moves_away_and_back),
		FORK_TEST(a_child_that_drops_all),
		FORK_TEST(a_child_that_writes_all),
		FORK_TEST(a_child_that_forks_at_once),
		FORK_TEST(a_child_that_calls_what_libhmm_defines),
		FORK_TEST(the_parent_writes_at_once),
		FORK_TEST(the_parent_drops_at_once),
		FORK_TEST(the_device_writes_at_once),
		FORK_TEST(what_the_device_cannot_copy_is_poison_in_the_child),
		FORK_TEST(libc_underscore_fork),
		FORK_TEST(parent_ends_its_device_while_the_child_lives),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
