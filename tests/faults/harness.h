/* SPDX-License-Identifier: MIT */
/*
 * What the tests of faults, fork and stress share: memory with a content that
 * says which page it is, children with a verdict, and a time limit of their own,
 * so that a hang is a failure with a name.
 */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <hmm/hmm.h>

#include "apart.h"
#include "dummy.h"

#define MIB (1ul << 20)
#define CHUNK (2 * MIB)

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOWER 4u /* sanitizers */
#else
#define SLOWER 1u
#endif

/* ---- a time limit ----
 *
 * The process that main() started watches; the tests run in its child. A thread
 * that waits in the kernel for userfaultfd does not take a signal, and an alarm
 * would never be heard.
 */

struct limit_note {
	pid_t pid;
	unsigned int seconds; /* 0: no limit */
	char what[72];
};

static int limit_pipe[2];

static inline void limit_say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return;
}

/* The test, with all its children, dies after @seconds; 0: no limit. */
static inline void limit(unsigned int seconds, const char *what)
{
	struct limit_note note = { .pid = getpid(), .seconds = seconds * SLOWER };

	strncpy(note.what, what, sizeof(note.what) - 1);
	if (write(limit_pipe[1], &note, sizeof(note)) != (ssize_t)sizeof(note))
		limit_say("the time limit was not heard\n");
}

#define LIMIT(seconds) limit(seconds, __func__)

static inline uint64_t limit_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static inline void limit_over(pid_t pid, const struct limit_note *note)
{
	fprintf(stderr, "HANG: %s\n", note->what);
	fflush(stderr);
	if (getenv("HMM_TEST_STOP")) { /* for a debugger */
		fprintf(stderr, "stopped: process %d\n", (int)pid);
		pause();
	}
	kill(-pid, SIGKILL);
}

static inline void limit_hear(struct limit_note *note, uint64_t *deadline)
{
	struct limit_note heard;

	if (read(limit_pipe[0], &heard, sizeof(heard)) != (ssize_t)sizeof(heard))
		return;
	*note = heard;
	*deadline = heard.seconds ? limit_now() + heard.seconds * 1000000000ull : UINT64_MAX;
}

static volatile sig_atomic_t limit_ended;

static inline void limit_end(int sig)
{
	limit_ended = sig;
}

static inline void limit_watch(pid_t pid)
{
	struct limit_note note = { .seconds = 0 };
	struct pollfd pfd = { .fd = limit_pipe[0], .events = POLLIN };
	uint64_t deadline = UINT64_MAX;
	bool over = false;
	int status;

	for (;;) {
		if (poll(&pfd, 1, 20) == 1)
			limit_hear(&note, &deadline);
		if (limit_ended)
			kill(-pid, SIGKILL);
		if (!over && limit_now() > deadline) {
			limit_over(pid, &note);
			over = true;
		}
		if (waitpid(pid, &status, WNOHANG) != pid)
			continue;
		kill(-pid, SIGKILL);
		exit(WIFEXITED(status) && !over ? WEXITSTATUS(status) : 1);
	}
}

/* First thing in main(). */
static inline void limit_lead(void)
{
	pid_t pid;

	if (pipe2(limit_pipe, O_CLOEXEC)) {
		perror("pipe2");
		exit(1);
	}
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	if (pid) {
		setpgid(pid, pid);
		signal(SIGTERM, limit_end);
		signal(SIGINT, limit_end);
		signal(SIGHUP, limit_end);
		limit_watch(pid);
	}
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* ---- memory ---- */

#define MARGIN (256ul << 10)

/*
 * Anonymous memory, away from all else: what is near to a thread's descriptor
 * does not migrate.
 */
static inline unsigned char *map_bytes(size_t bytes)
{
	unsigned char *p =
		mmap(NULL, bytes + 2 * MARGIN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + MARGIN, bytes, PROT_READ | PROT_WRITE)) {
		perror("map_bytes");
		_exit(1);
	}
	return p + MARGIN;
}

/* Anonymous memory that begins with a chunk. */
static inline unsigned char *map_chunks(unsigned int chunks)
{
	size_t bytes = chunks * CHUNK;
	unsigned char *p = map_bytes(bytes + CHUNK);
	unsigned char *q = (void *)(((unsigned long)p + CHUNK - 1) & ~(CHUNK - 1));

	if (q > p)
		munmap(p, (size_t)(q - p));
	munmap(q + bytes, (size_t)(p + bytes + CHUNK - (q + bytes)));
	return q;
}

static inline uint64_t page_word(uint64_t seed, size_t page, size_t word)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + page * 0xbf58476d1ce4e5b9ull + word;

	x ^= x >> 31;
	x *= 0x94d049bb133111ebull;
	return (x ^ (x >> 29)) | 1;
}

/* Every word of every page. */
static inline void fill_pages(void *mem, size_t pages, uint64_t seed)
{
	size_t n = hmm_page_size() / 8, i, j;
	volatile uint64_t *word = mem;

	for (i = 0; i < pages; i++)
		for (j = 0; j < n; j += 64)
			word[i * n + j] = page_word(seed, i, j);
}

/* The number of the first page that is not as it was filled, or @pages. */
static inline size_t check_pages(const void *mem, size_t pages, uint64_t seed)
{
	size_t n = hmm_page_size() / 8, i, j;
	const volatile uint64_t *word = mem;

	for (i = 0; i < pages; i++)
		for (j = 0; j < n; j += 64)
			if (word[i * n + j] != page_word(seed, i, j))
				return i;
	return pages;
}

static inline size_t count_where(const void *mem, size_t pages, enum hmm_where what)
{
	unsigned long start = (unsigned long)mem;
	uint8_t *where = malloc(pages);
	size_t i, n = 0;

	assert_non_null(where);
	assert_int_equal(hmm_range_where(start, start + pages * hmm_page_size(), where), 0);
	for (i = 0; i < pages; i++)
		n += where[i] == what;
	free(where);
	return n;
}

/* ---- devices ---- */

static inline struct dummy_device *device_new(const struct dummy_options *opt)
{
	struct dummy_device *dev = NULL;

	assert_int_equal(dummy_create(&dev, opt), 0);
	return dev;
}

/* All of it goes, or the test has nothing to test. */
static inline void migrate_all(struct dummy_device *dev, const void *mem, size_t pages)
{
	unsigned long n = 0, start = (unsigned long)mem;

	assert_int_equal(dummy_migrate(dev, start, start + pages * hmm_page_size(), &n), 0);
	assert_int_equal(n, pages);
}

static inline void sleep_us(unsigned long us)
{
	struct timespec ts = { .tv_sec = (time_t)(us / 1000000),
			       .tv_nsec = (long)(us % 1000000 * 1000) };

	nanosleep(&ts, NULL);
}

/* All of the device's memory is free within @seconds. */
static inline bool memory_comes_free(struct dummy_device *dev, unsigned int seconds)
{
	unsigned int i;

	for (i = 0; i < seconds * SLOWER * 1000; i++) {
		if (dummy_memory_free(dev) == dummy_memory_pages(dev))
			return true;
		sleep_us(1000);
	}
	return false;
}

/* ---- children ---- */

/* In a child: say where, and fail. No stdio: its buffers may be anywhere. */
#define CHILD_CHECK(cond)                                              \
	do {                                                           \
		if (!(cond)) {                                         \
			limit_say("child: " __FILE__ ": " #cond "\n"); \
			_exit(1);                                      \
		}                                                      \
	} while (0)

/* Not cmocka's handlers. The limit is the test's. */
static inline void child_begin(void)
{
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
}

/* Its exit status, or 128 and the signal. */
static inline int child_wait(pid_t pid)
{
	int status = 0;

	assert_true(pid > 0);
	while (waitpid(pid, &status, 0) < 0)
		assert_int_equal(errno, EINTR);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Before a fork, so that no child prints the parent's buffers. */
static inline void flush(void)
{
	fflush(stdout);
	fflush(stderr);
}

#endif
