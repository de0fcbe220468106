/* SPDX-License-Identifier: MIT */
/*
 * The lz4 device when memory cannot be had, and when its own is damaged.
 *
 * Tries to break: G4 (what could not be read back is SIGBUS, all else is as it was), G7,
 * G11; that nothing leaks on a way that fails.
 */
#include <stdatomic.h>

#include "lz4/lz4_util.h"
#include "mm/debug.h"

#include <lz4_internal.h>

#define PAGES 300ul
#define BYTES (PAGES * PAGE)

static char *mem;
static atomic_uint calls, fails_from, fails;

static int no_memory(const char *what)
{
	unsigned int n;

	if (strcmp(what, "alloc") && strcmp(what, "map"))
		return 0;
	n = atomic_fetch_add(&calls, 1) + 1;
	return n >= fails_from && n - fails_from < fails ? -ENOMEM : 0;
}

static void fail_at(unsigned int from, unsigned int count)
{
	atomic_store(&calls, 0);
	atomic_store(&fails_from, from);
	atomic_store(&fails, count);
	debug_set_fail(from ? no_memory : NULL);
}

static void quiet(enum hmm_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_ERROR, quiet);
	mem = map_apart(BYTES);
	all_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	return 0;
}

/* lz4_create() with the nth allocation failing, for each n that there is. */
static void create_fails(void **state)
{
	struct lz4_options opt = { .check = true };
	struct lz4_device *dev = NULL;
	unsigned int n, ret = 1;
	size_t maps = 0;

	(void)state;
	BEGIN(30);
	if (!debug_set_fail(NULL))
		skip_because("only a debug build lets allocations fail");
	for (n = 1; ret && n < 100; n++) {
		fail_at(n, 1);
		ret = (unsigned int)-lz4_create(&dev, &opt);
		fail_at(0, 0);
		assert_true(!ret || ret == ENOMEM);
		if (n == 3)
			maps = count_maps();
	}
	print_message("%u allocations\n", n - 2);
	assert_true(n > 5 && n < 100);
	assert_true(count_maps() < maps + 40);
	lz4_migrate_all(dev, mem, PAGES);
	all_check(mem, PAGES, 1, "at last");
	assert_int_equal(lz4_destroy(dev), 0);
}

/* Out and back with the nth allocation failing, some in a row and for good. */
static void work_fails(void **state)
{
	static const unsigned int rows[] = { 1, 5, 1000000 };
	unsigned int n, r, declined = 0;

	(void)state;
	BEGIN(60);
	if (!debug_set_fail(NULL))
		skip_because("only a debug build lets allocations fail");
	for (n = 1; n < 60; n += n < 20 ? 1 : 7)
		for (r = 0; r < 3; r++) {
			struct lz4_device *dev = lz4_new(0);
			unsigned long moved = 0;
			int ret;

			fail_at(n, rows[r]);
			ret = lz4_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL, &moved);
			fail_at(0, 0);
			assert_true(!ret || ret == -ENOMEM);
			declined += moved < PAGES;
			all_check(mem, PAGES, 1, "after a failure");
			lz4_expect_empty(dev);
			assert_int_equal(lz4_destroy(dev), 0);
		}
	print_message("%u times, some stayed\n", declined);
	assert_true(declined > 10);
}

/* ---- damage ---- */

static sigjmp_buf bus_env;

static void bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	siglongjmp(bus_env, 1);
}

static bool page_reads(const char *page)
{
	if (sigsetjmp(bus_env, 1))
		return false;
	return *(const volatile char *)page || true;
}

/* The entry of the only page of its kind that the device has. */
static struct hmm_page *entry_find(struct lz4_device *dev)
{
	return hmm_devmem_next_used(&dev->region[0].devmem, 0);
}

/*
 * Exit status 0: the page was lost, and no other. With checks on an HMM_DEBUG build ends
 * before.
 */
static void damaged_child(void (*damage)(struct lz4_device *dev, struct hmm_page *page))
{
	struct sigaction sa = { .sa_sigaction = bus, .sa_flags = SA_SIGINFO };
	struct lz4_device *dev = lz4_new(0);
	char *page = mem + TEXT * PAGE;

	alarm(30);
	signal(SIGILL, SIG_DFL);
	signal(SIGTRAP, SIG_DFL);
	sigaction(SIGBUS, &sa, NULL);
	lz4_migrate_all(dev, page, 1);
	damage(dev, entry_find(dev));
	lz4_migrate_all(dev, mem, TEXT);
	if (page_reads(page) || lz4_stats_of(dev).lost != 1)
		_exit(1);
	all_check(mem, TEXT, 1, "beside damage");
	_exit(0);
}

static void damaged(void (*damage)(struct lz4_device *dev, struct hmm_page *page))
{
	int status = 0;
	pid_t pid = fork();

	if (!pid)
		damaged_child(damage);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (debug_set_fail(NULL))
		assert_true(!WIFEXITED(status) || WEXITSTATUS(status) > 1);
	else
		assert_int_equal(status, 0);
}

static void damage_object(struct lz4_device *dev, struct hmm_page *page)
{
	char *at = lz4_pool_object(&dev->pool, page->data >> 18, 1);

	at[20] ^= 1;
}

static void damage_length(struct lz4_device *dev, struct hmm_page *page)
{
	(void)dev;
	page->data -= 4;
}

static void damage_handle(struct lz4_device *dev, struct hmm_page *page)
{
	(void)dev;
	page->data ^= 1ull << 50;
}

static void damage_entry(struct lz4_device *dev, struct hmm_page *page)
{
	(void)dev;
	page->data = 0;
}

static void damage_is_found(void **state)
{
	(void)state;
	BEGIN(60);
	damaged(damage_object);
	damaged(damage_length);
	damaged(damage_handle);
	damaged(damage_entry);
	all_check(mem, PAGES, 1, "in the parent");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(create_fails),
		T(work_fails),
		T(damage_is_found),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
