/* SPDX-License-Identifier: MIT */
/*
 * Huge pages to test with: set aside as root, and given back by a process that waits for
 * the end of the one that runs the tests.
 */
#ifndef MIRROR_HUGEPAGES_H
#define MIRROR_HUGEPAGES_H

#include "test_util.h"

#include <sys/file.h>

#define HUGE ((size_t)2 << 20)
#define HUGE_PAGES (HUGE / PAGE)
#define NEEDED 24

static struct dummy_device *dev;

UNUSED static int setup(void **state)
{
	struct dummy_options opt = { .memory = 0 };

	(void)state;
	return dummy_create(&dev, &opt);
}

UNUSED static int teardown(void **state)
{
	(void)state;
	return dummy_destroy(dev);
}

UNUSED static char *huge_new(size_t pages, int flags)
{
	char *mem = mmap(NULL, pages * HUGE, PROT_READ | PROT_WRITE,
			 flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (mem == MAP_FAILED)
		fail_msg("%zu huge pages: %s", pages, strerror(errno));
	return mem;
}

UNUSED static uint64_t load(const void *addr)
{
	uint64_t val = ~0ull;

	assert_int_equal(dummy_load_u64(dev, addr_of(addr), &val), 0);
	return val;
}

UNUSED static void store(void *addr, uint64_t val)
{
	assert_int_equal(dummy_store_u64(dev, addr_of(addr), val), 0);
	assert_int_equal(*(volatile uint64_t *)addr, val);
}

UNUSED static int no_access(const void *addr)
{
	uint64_t val;
	int ret = dummy_load_u64(dev, addr_of(addr), &val);

	return ret == dummy_store_u64(dev, addr_of(addr), 1) ? ret : 0;
}

static int count_page(const struct dummy_page *page, void *arg)
{
	uint64_t *range = arg;

	if (page->addr >= range[0] && page->addr < range[1])
		range[2]++;
	return 0;
}

/* Translations that the device has, once it has been told what happened. */
UNUSED static size_t translations(const char *mem, size_t len)
{
	uint64_t range[3] = { addr_of(mem), addr_of(mem) + len, 0 };

	hmm_mirror_sync(dummy_mirror(dev));
	assert_int_equal(dummy_for_each_page(dev, count_page, range), 0);
	return range[2];
}

/* All of it, by one fault and then by loads and stores. */
UNUSED static void mirror(char *mem, size_t len)
{
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + len,
				   .etype = HMM_DEVICE_WFAULT };
	size_t i;

	assert_int_equal(hmm_mirror_fault(dummy_mirror(dev), &event), 0);
	assert_int_equal(event.pages, len / PAGE);
	for (i = 0; i < len; i += 61 * PAGE)
		store(mem + i, *(uint64_t *)(mem + i));
	assert_int_equal(translations(mem, len), len / PAGE);
}

struct pool {
	const char *path;
	int fd;
	unsigned long was;
	unsigned long added;
};

static struct pool pools[] = {
	{ .path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", .fd = -1 },
	{ .path = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", .fd = -1 },
};

static unsigned long pool_read(const struct pool *pool)
{
	char buf[32] = "";

	return pread(pool->fd, buf, sizeof(buf) - 1, 0) > 0 ? strtoul(buf, NULL, 10) : 0;
}

static void pool_write(const struct pool *pool, unsigned long n)
{
	char buf[32];
	int len = snprintf(buf, sizeof(buf), "%lu\n", n);

	if (pwrite(pool->fd, buf, (size_t)len, 0) != len)
		perror(pool->path);
}

/* The lock: two of this program, of two builds, would take each other's pages. */
static bool pool_grow(struct pool *pool, unsigned long n)
{
	pool->fd = open(pool->path, O_RDWR | O_CLOEXEC);
	if (pool->fd < 0 || flock(pool->fd, LOCK_EX))
		return false;
	pool->was = pool_read(pool);
	pool_write(pool, pool->was + n);
	pool->added = pool_read(pool) - pool->was;
	return pool->added >= n;
}

static void pool_shrink(struct pool *pool)
{
	if (pool->fd >= 0 && pool->added)
		pool_write(pool, pool_read(pool) - pool->added);
}

static volatile sig_atomic_t ended;

static void end(int sig)
{
	ended = sig;
}

/*
 * -1 in a new process, which runs the tests; its exit status in the old one, when it has
 * ended in whatever way.
 */
static int pool_guard(void)
{
	struct sigaction act = { .sa_handler = end };
	int status = 0;
	pid_t pid;

	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGHUP, &act, NULL);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return -1;
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0)
		if (ended)
			kill(pid, SIGKILL);
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

UNUSED static int huge_main(const struct CMUnitTest *tests, size_t n, unsigned int gigantic)
{
	int ret;

	if (!pool_grow(&pools[0], NEEDED)) {
		pool_shrink(&pools[0]);
		printf("1..0 # SKIP %d huge pages of 2 MiB are not to be had: %s\n", NEEDED,
		       pools[0].fd < 0 ? strerror(errno) : "no memory in one piece");
		return 77;
	}
	if (gigantic)
		pool_grow(&pools[1], gigantic); /* the test sees whether there is one */
	ret = pool_guard();
	if (ret >= 0) {
		pool_shrink(&pools[1]);
		pool_shrink(&pools[0]);
		return ret;
	}
	test_init();
	return _cmocka_run_group_tests(__FILE__, tests, n, NULL, NULL);
}

#endif
