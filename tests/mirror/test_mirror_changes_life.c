/* SPDX-License-Identifier: MIT */
/*
 * fork, and threads that end: what a device knows of memory whose owner changes.
 *
 * Tries to break: G3, G8 (a child sees nothing that a device writes after fork has
 * returned, and a parent's device nothing that the child writes), G9, G10.
 */
#include "changes.h"

static bool told(int fd)
{
	char c;

	return read(fd, &c, 1) == 1;
}

/*
 * In the child: what was there at the fork is there, and stays; and what it writes is
 * its own. No stdio, no assert: cmocka is the parent's.
 */
static int child_main(char *mem, size_t pages, uint64_t seed, int go)
{
	size_t i;

	alarm(60);
	if (!told(go))
		return 2;
	for (i = 0; i < pages; i++) {
		uint64_t *word = (uint64_t *)(mem + i * PAGE);

		if (word[0] != i + 100 || word[1] != pattern_word(seed, i, 1))
			return 3;
		word[0] = word[1] = 0xee;
	}
	return 0;
}

static void end_child(pid_t pid, const int *go)
{
	int status;

	assert_int_equal(write(go[1], "", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(go[0]);
	close(go[1]);
}

static void check_fork(pid_t (*do_fork)(void), size_t pages)
{
	char *mem = area(pages, 1);
	int go[2], round;
	size_t i;

	for (round = 0; round < (pages == 1 && !TEST_SANITIZED ? 20 : 3); round++) {
		pid_t pid;

		pattern_fill(mem, pages, 1);
		mirror_write(mem, pages);
		for (i = 0; i < pages; i++)
			assert_int_equal(dummy_store_u64(dev[0], addr_of(mem) + i * PAGE, i + 100),
					 0);
		assert_int_equal(pipe(go), 0);
		count_from_here();
		pid = do_fork();
		if (!pid)
			_exit(child_main(mem, pages, 1, go[0]));
		assert_true(pid > 0);
		counted(HMM_FORK, 1);
		has(mem, pages, pages, 0);
		for (i = 0; i < pages; i++)
			assert_int_equal(dummy_store_u64(dev[i % devs], addr_of(mem) + i * PAGE,
							 i + 900),
					 0);
		end_child(pid, go);
		for (i = 0; i < pages; i++) {
			sees(mem + i * PAGE, i + 900);
			sees(mem + i * PAGE + 8, pattern_word(1, i, 1));
			assert_int_equal(*(uint64_t *)(mem + i * PAGE), i + 900);
		}
		takes_store(mem);
	}
	area_free(mem, pages);
}

static void fork_by_libc(size_t pages)
{
	check_fork(fork, pages);
}

static pid_t fork_by_hand(void)
{
	return (pid_t)syscall(SYS_fork);
}

static void fork_behind_libc(size_t pages)
{
	struct hmm_features features = { .size = sizeof(features) };

	assert_int_equal(hmm_probe(&features), 0);
	if (TEST_SANITIZED)
		skip_because("sanitizers do not bear a child made by hand");
	if (!features.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
	check_fork(fork_by_hand, pages);
}

/* Shared memory goes on being shared, both ways. */
static void fork_and_shared_memory(size_t pages)
{
	size_t len = pages * PAGE, i;
	int go[2], round;
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_fill(mem, pages, 1);
	for (round = 0; round < 3; round++) {
		pid_t pid;

		mirror_write(mem, pages);
		assert_int_equal(pipe(go), 0);
		pid = fork();
		if (!pid)
			_exit(child_main(mem, pages, 1, go[0]));
		assert_true(pid > 0);
		for (i = 0; i < pages; i++) {
			assert_int_equal(dummy_store_u64(dev[i % devs], addr_of(mem) + i * PAGE,
							 i + 100),
					 0);
			assert_int_equal(dummy_store_u64(dev[0], addr_of(mem) + i * PAGE + 8,
							 pattern_word(1, i, 1)),
					 0);
		}
		end_child(pid, go);
		for (i = 0; i < pages; i++)
			sees(mem + i * PAGE, 0xee);
	}
	munmap(mem, len);
}

/* What the child does not get (DONTFORK), or gets empty (WIPEONFORK), is the parent's. */
static void fork_without_the_range(size_t pages)
{
	static const int advice[] = { MADV_DONTFORK, MADV_WIPEONFORK };
	char *mem = area(pages, 1);
	int i, status;
	pid_t pid;

	for (i = 0; i < 2; i++) {
		assert_int_equal(madvise(mem, pages * PAGE, advice[i]), 0);
		mirror_write(mem, pages);
		pid = fork();
		if (!pid)
			_exit(0);
		assert_true(pid > 0);
		takes_store(mem);
		*(uint64_t *)mem = pattern_word(1, 0, 0);
		sees_pattern(mem, pages, 1, 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		pattern_check(mem, pages, 1);
	}
	map_over(mem, pages, PROT_READ);
	no_store(mem);
	area_free(mem, pages);
}

/* ---- threads ---- */

struct worker {
	size_t pages;
	uint64_t number;
	uint64_t *word; /* where on its stack; told to the main thread */
	bool ok;
};

static __thread uint64_t thread_word;

/* The devices work on the stack and the TLS of the thread, while it lives. */
static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	volatile uint64_t *buf = __builtin_alloca(worker->pages * PAGE);
	size_t i, words = PAGE / sizeof(*buf);
	unsigned int d;

	worker->word = (uint64_t *)(uintptr_t)&buf[worker->pages / 2 * words];
	worker->ok = true;
	thread_word = worker->number;
	for (i = 0; i < worker->pages; i++)
		buf[i * words] = worker->number + i;
	for (d = 0; d < devs; d++)
		for (i = 0; i < worker->pages; i++) {
			uint64_t val = 0;

			worker->ok &=
				!dummy_load_u64(dev[d], addr_of((void *)&buf[i * words]), &val) &&
				val == worker->number + i;
			worker->ok &= !dummy_store_u64(dev[d], addr_of((void *)&buf[i * words]),
						       worker->number + i);
			worker->ok &= !dummy_load_u64(dev[d], addr_of(&thread_word), &val) &&
				      val == worker->number;
		}
	return NULL;
}

static void run_thread(struct worker *worker, const pthread_attr_t *attr)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, attr, worker_main, worker), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(worker->ok);
}

#define THREAD_PAGES(pages) ((pages) == 1 ? 1 : 300)
#define STACK_PAGES (TEST_SANITIZED ? 512 : 64) /* for all else */

/* glibc keeps the stack of a thread that ended for the next, and discards its pages. */
static void threads_on_one_stack_after_the_other(size_t pages)
{
	struct worker worker = { .pages = THREAD_PAGES(pages) };
	uint64_t val, *last = NULL;
	int i, same = 0;

	for (i = 0; i < (pages == 1 ? 60 : 6); i++) {
		unsigned int d;

		worker.number = (uint64_t)i << 32;
		run_thread(&worker, NULL);
		same += worker.word == last;
		last = worker.word;
		/* Discarded, kept, or unmapped: but no device hangs or sees anything else. */
		for (d = 0; d < devs; d++) {
			int ret = dummy_load_u64(dev[d], addr_of(worker.word), &val);

			assert_true(ret == -EFAULT || !ret);
			if (!ret && val && !TEST_SANITIZED)
				assert_int_equal(val, worker.number + worker.pages / 2);
		}
	}
	assert_true(TEST_SANITIZED || same);
}

/* A stack of the program's own: what comes after the thread is another mapping. */
static void thread_stack_is_unmapped(size_t pages)
{
	struct worker worker = { .pages = THREAD_PAGES(pages), .number = 7 };
	size_t stack_pages = THREAD_PAGES(pages) + STACK_PAGES;
	pthread_attr_t attr;
	int i;

	assert_int_equal(pthread_attr_init(&attr), 0);
	for (i = 0; i < (pages == 1 ? 30 : 3); i++) {
		char *stack = area_bare(stack_pages), *at;

		assert_int_equal(pthread_attr_setstack(&attr, stack, stack_pages * PAGE), 0);
		run_thread(&worker, &attr);
		at = (char *)worker.word;
		assert_true(at > stack && at < stack + stack_pages * PAGE);
		takes_store(at);
		map_over(stack, stack_pages, i & 1 ? PROT_READ : PROT_NONE);
		has_none(stack, stack_pages);
		no_store(at);
		if (i & 1)
			sees(at, 0);
		else
			no_load(at);
		area_free(stack, stack_pages);
	}
	pthread_attr_destroy(&attr);
}

static const struct change changes[] = {
	CHANGE(fork_by_libc),
	CHANGE(fork_behind_libc),
	CHANGE(fork_and_shared_memory),
	CHANGE(fork_without_the_range),
	CHANGE(threads_on_one_stack_after_the_other),
	CHANGE(thread_stack_is_unmapped),
};

CHANGES_MAIN(changes)
