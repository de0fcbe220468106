/* SPDX-License-Identifier: MIT */
/*
 * What several test programs need: a watchdog, patterns, and a look at /proc that
 * does not go through the library under test.
 *
 * The watchdog is a child process made before anything else runs. Each test says
 * how long it may take (BEGIN) and, where it might hang, what it is about to do
 * (step). When the time is up the child prints that, and what the program's threads
 * wait for in the kernel, and kills the program: so a hang is a failure that says
 * where, even with every thread stuck in a page fault.
 */
#ifndef TEST_UTIL_H
#define TEST_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <dummy.h>
#include <hmm/hmm.h>

#include "apart.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#else
#define TEST_SANITIZED 0
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)
#define THP ((size_t)2 << 20)
#define UNUSED __attribute__((unused))

/* ---- time ---- */

struct test_watch {
	uint64_t deadline; /* ns; 0: none. atomic */
	char test[64];
	char step[128];
};

static struct test_watch *test_watch;

UNUSED static uint64_t test_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

UNUSED static void test_show_file(const char *dir, const char *tid, const char *name)
{
	char path[300], buf[800];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s/%s", dir, tid, name);
	fd = open(path, O_RDONLY);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (fd >= 0)
		close(fd);
	if (n > 0)
		fprintf(stderr, "  %s %s: %.*s%s", tid, name, (int)n, buf,
			buf[n - 1] == '\n' ? "" : "\n");
}

UNUSED static void test_show_threads(pid_t pid)
{
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		test_show_file(path, entry->d_name, "wchan");
		test_show_file(path, entry->d_name, "syscall");
	}
	if (dir)
		closedir(dir);
}

UNUSED static void test_watchdog(pid_t parent)
{
	struct timespec pause = { .tv_nsec = 50000000 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent) {
		uint64_t deadline = __atomic_load_n(&test_watch->deadline, __ATOMIC_ACQUIRE);

		if (deadline && test_now() > deadline) {
			fprintf(stderr, "TIMEOUT in %s: %s\n", test_watch->test, test_watch->step);
			test_show_threads(parent);
			if (!getenv("TEST_KEEP_HUNG"))
				kill(parent, SIGKILL);
			_exit(1);
		}
		nanosleep(&pause, NULL);
	}
	_exit(0);
}

/*
 * HMM_TEST_USER is set: from here on as an ordinary user, to whom the kernel gives less
 * of userfaultfd. Who is one already stays who he is.
 */
UNUSED static void test_user(void)
{
	uid_t nobody = 65534;

	if (!getenv("HMM_TEST_USER"))
		return;
	hmm_set_user_mode(true);
	if (geteuid())
		return;
	if (setgroups(0, NULL) || setresgid(nobody, nobody, nobody) ||
	    setresuid(nobody, nobody, nobody)) {
		printf("1..0 # SKIP cannot become an ordinary user: %s\n", strerror(errno));
		exit(77);
	}
	prctl(PR_SET_DUMPABLE, 1); /* /proc/self is ours, as after an exec */
}

/* Call it first in main(). */
UNUSED static void test_init(void)
{
	pid_t parent;

	test_user();
	parent = getpid();
	test_watch = mmap(NULL, sizeof(*test_watch), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (test_watch == MAP_FAILED)
		exit(99);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!fork())
		test_watchdog(parent);
}

UNUSED static void step(const char *what)
{
	snprintf(test_watch->step, sizeof(test_watch->step), "%s", what);
}

/* A child that the test forks has no watchdog: give it an alarm. */
UNUSED static void test_begin(const char *name, unsigned int seconds)
{
	if (TEST_SANITIZED)
		seconds *= 4;
	snprintf(test_watch->test, sizeof(test_watch->test), "%s", name);
	step("begin");
	__atomic_store_n(&test_watch->deadline, test_now() + seconds * 1000000000ull,
			 __ATOMIC_RELEASE);
}

#define BEGIN(seconds) test_begin(__func__, seconds)

/* Instead of skip(): says why. */
#define skip_because(why)                            \
	do {                                         \
		print_message("skipped: %s\n", why); \
		skip();                              \
	} while (0)

/*
 * By the system call: the thread sanitizer's nanosleep() takes a lock, which in a child that
 * was made by a system call may be taken, by a thread that is not there.
 */
UNUSED static void test_sleep_us(unsigned int us)
{
	struct timespec pause = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000l };

	syscall(SYS_nanosleep, &pause, NULL);
}

/* Until @condition, for ten seconds at most: a busy machine takes its time. */
#define wait_until(condition)                                    \
	do {                                                     \
		uint64_t wait_end = test_now() + 10000000000ull; \
		while (!(condition) && test_now() < wait_end)    \
			test_sleep_us(200);                      \
		assert_true(condition);                          \
	} while (0)

/* ---- memory ---- */

UNUSED static char *map_anon(size_t len)
{
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	keep_apart(mem, len);
	return mem;
}

/* Aligned to 2 MiB, with nothing mapped for a page before and behind. */
UNUSED static char *map_aligned(size_t len)
{
	char *mem = map_anon(len + 2 * THP);
	char *at = (char *)(((uintptr_t)mem + THP) & ~(THP - 1));

	munmap(mem, (size_t)(at - mem));
	munmap(at + len, (size_t)(mem + 2 * THP - at));
	madvise(at, len, MADV_NOHUGEPAGE);
	return at;
}

/*
 * As map_aligned(), between guards that stay. What a thread's descriptor reaches into does not
 * migrate while the thread lives, and a stack that is made later would lie right below: for who
 * counts to the page.
 */
UNUSED static char *map_guarded(size_t len)
{
	char *at = map_aligned(len + 2 * THP) + THP;

	assert_int_equal(mprotect(at - THP, THP, PROT_NONE), 0);
	assert_int_equal(mprotect(at + len, THP, PROT_NONE), 0);
	return at;
}

UNUSED static void unmap_guarded(char *at, size_t len)
{
	assert_int_equal(munmap(at - THP, len + 2 * THP), 0);
}

UNUSED static uint64_t addr_of(const void *ptr)
{
	return (uint64_t)(uintptr_t)ptr;
}

UNUSED static uint64_t pattern_word(uint64_t seed, size_t page, size_t i)
{
	return (seed << 48) ^ ((uint64_t)page << 16) ^ i ^ 0x5bd1e995;
}

UNUSED static void pattern_page(void *page, uint64_t seed, size_t number)
{
	uint64_t *word = page;
	size_t i;

	for (i = 0; i < PAGE / 8; i++)
		word[i] = pattern_word(seed, number, i);
}

UNUSED static void pattern_fill(char *mem, size_t pages, uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		pattern_page(mem + i * PAGE, seed, i);
}

UNUSED static void pattern_check_from(const char *mem, size_t pages, uint64_t seed, size_t first)
{
	size_t i, j;

	for (i = 0; i < pages; i++) {
		const uint64_t *word = (const void *)(mem + i * PAGE);

		for (j = 0; j < PAGE / 8; j++)
			if (word[j] != pattern_word(seed, first + i, j))
				fail_msg("page %zu word %zu: 0x%llx, not 0x%llx", first + i, j,
					 (unsigned long long)word[j],
					 (unsigned long long)pattern_word(seed, first + i, j));
	}
}

UNUSED static void pattern_check(const char *mem, size_t pages, uint64_t seed)
{
	pattern_check_from(mem, pages, seed, 0);
}

UNUSED static bool is_zero(const char *mem, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (mem[i])
			return false;
	return true;
}

/* ---- what the kernel says ---- */

UNUSED static uint64_t pagemap_entry(const void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, 8, (off_t)(addr_of(addr) / PAGE * 8)), 8);
	close(fd);
	return entry;
}

/* Present or swapped out: the CPU page table has it. */
UNUSED static bool on_cpu(const void *addr)
{
	return pagemap_entry(addr) >> 62;
}

UNUSED static size_t count_on_cpu(const char *mem, size_t pages)
{
	size_t i, n = 0;

	for (i = 0; i < pages; i++)
		n += on_cpu(mem + i * PAGE);
	return n;
}

/* A value of the mapping's paragraph in smaps, as text; false if it is not mapped. */
UNUSED static bool smaps_value(const void *addr, const char *key, char *value, size_t size)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	unsigned long start, end;
	bool inside = false, found = false;
	char line[512];

	assert_non_null(file);
	while (!found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = addr_of(addr) >= start && addr_of(addr) < end;
		else if (inside && !strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			found = true;
	}
	if (found) {
		line[strlen(key) + size < sizeof(line) ? strlen(key) + size : sizeof(line) - 1] = 0;
		strcpy(value, line + strlen(key) + 1);
	}
	fclose(file);
	return found;
}

/* Registered with a userfaultfd, in any mode? */
UNUSED static bool registered(const void *addr)
{
	char flags[256];

	assert_true(smaps_value(addr, "VmFlags", flags, sizeof(flags)));
	return strstr(flags, " um") || strstr(flags, " uw") || strstr(flags, " ui");
}

UNUSED static size_t count_dir(const char *path)
{
	DIR *dir = opendir(path);
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

UNUSED static size_t count_maps(void)
{
	int c, fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	char buf[4096];

	assert_true(fd >= 0);
	while ((c = (int)read(fd, buf, sizeof(buf))) > 0)
		while (c--)
			n += buf[c] == '\n';
	close(fd);
	return n;
}

/* ---- device ---- */

/* Is this run about device memory that the CPU can read? */
UNUSED static bool test_coherent(void)
{
	return getenv("HMM_TEST_COHERENT");
}

/* Is it about a device that looks up what it is to copy back? */
UNUSED static bool test_looks_up(void)
{
	return getenv("HMM_TEST_LOOKS_UP");
}

UNUSED static struct dummy_device *device_new(size_t pages)
{
	struct dummy_options opt = { .memory = pages * PAGE, .scrub = true };
	struct dummy_device *dev;

	assert_int_equal(dummy_create(&dev, &opt), 0);
	return dev;
}

UNUSED static size_t device_used(struct dummy_device *dev)
{
	return dummy_memory_pages(dev) - dummy_memory_free(dev);
}

/* To the device, all of it, and seen to be gone from the CPU's page table. */
/*
 * Has somebody else (a sanitizer, the library) mapped something at @addr, which the
 * test has unmapped? Then nothing can be said of it any more.
 */
UNUSED static bool taken(const void *addr)
{
	unsigned char vec;

	return mincore((void *)((uintptr_t)addr & ~(PAGE - 1)), PAGE, &vec) == 0;
}

/* What was unmapped must not be there for the device. */
UNUSED static void load_is_efault(struct dummy_device *dev, const void *addr)
{
	uint64_t val;
	int ret = dummy_load_u64(dev, addr_of(addr), &val);

	assert_true(ret == -EFAULT || (!ret && taken(addr)));
}

UNUSED static void migrate_all(struct dummy_device *dev, const char *mem, size_t pages)
{
	unsigned long moved = 0;

	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + pages * PAGE, &moved), 0);
	assert_int_equal(moved, pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
}

#endif
