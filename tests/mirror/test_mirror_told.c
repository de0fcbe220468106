/* SPDX-License-Identifier: MIT */
/*
 * What a device has in its own table at the steps of a fork and of the ways out and back:
 * looked at there, so that nothing depends on who is quicker.
 *
 * Tries to break: G1 (a copy of what can still be written), G3, G4, G7, G8 (one moment).
 */
#include <stdatomic.h>

#include "mirror/mini.h"

#include "core/core.h"

#define PAGES 4
#define BYTES (PAGES * PAGE)

static struct mini *dev;
static char *mem;

static void begin(size_t device_pages)
{
	dev = mini_new(device_pages);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
}

static int end(void **state)
{
	(void)state;
	debug_set_step(NULL);
	munmap(mem, BYTES);
	mini_free(dev);
	return 0;
}

static bool is_mem(unsigned long from, unsigned long to)
{
	return from <= addr_of(mem) && to > addr_of(mem);
}

static void *evict(void *arg)
{
	(void)arg;
	return (void *)(long)mini_event(dev, mem, 1, HMM_COPY_FROM_DEVICE, NULL);
}

static void it_has_nothing_of_what_is_copied_home(void **state)
{
	pthread_t thread;
	bool stored;
	void *ret;

	(void)state;
	BEGIN(20);
	begin(PAGES);
	mini_migrate(dev, mem, PAGES);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	assert_true(mini_store(dev, mem, 77));
	__atomic_store_n(&dev->block, true, __ATOMIC_RELEASE);
	assert_int_equal(pthread_create(&thread, NULL, evict, NULL), 0);
	step("until it is copied");
	while (!__atomic_load_n(&dev->blocked, __ATOMIC_ACQUIRE))
		test_sleep_us(100);
	stored = mini_store(dev, mem, 88);
	__atomic_store_n(&dev->block, false, __ATOMIC_RELEASE);
	pthread_join(thread, &ret);
	assert_null(ret);
	assert_false(stored);
	assert_int_equal(*(uint64_t *)mem, 77);
}

static hmm_pte_t seen;

static void see_isolated(const char *name, unsigned long from, unsigned long to)
{
	if (is_mem(from, to) && !strcmp(name, "out:isolated"))
		seen = mini_get(dev, mem);
}

static void it_has_nothing_of_what_is_isolated(void **state)
{
	(void)state;
	BEGIN(20);
	begin(PAGES);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	seen = 1;
	if (!debug_set_step(see_isolated))
		skip_because("no debug build: nobody can look");
	mini_migrate(dev, mem, PAGES);
	assert_int_equal(seen, 0);
}

/* ---- fork ---- */

static void fork_and_wait(void)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void see_fork(const char *name, unsigned long from, unsigned long to)
{
	(void)from;
	(void)to;
	if (!strcmp(name, "fork:home"))
		seen = mini_get(dev, mem);
}

static void it_cannot_write_while_the_process_forks(void **state)
{
	(void)state;
	BEGIN(20);
	begin(PAGES);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	assert_true(hmm_pte_test_write(mini_get(dev, mem)));
	seen = HMM_PTE_WRITE;
	if (!debug_set_step(see_fork))
		skip_because("no debug build: nobody can look");
	fork_and_wait();
	assert_false(hmm_pte_test_write(seen));
}

static atomic_bool go, done, overtook;

static void *migrate_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&go))
		test_sleep_us(100);
	mini_migrate(dev, mem, PAGES);
	atomic_store(&done, true);
	return NULL;
}

static bool migration_waits(void)
{
	struct hmm *hmm = process_current();
	const struct op *op;

	pthread_mutex_lock(&hmm->lock);
	TAILQ_FOREACH(op, &hmm->ops, link)
		if (op->kind == OP_OUT && op->state == OP_WAITING)
			break;
	pthread_mutex_unlock(&hmm->lock);
	return op;
}

/* What was brought home for the child, and would leave before it has it. */
static void let_migrate(const char *name, unsigned long from, unsigned long to)
{
	(void)from;
	(void)to;
	if (strcmp(name, "fork:home"))
		return;
	atomic_store(&go, true);
	while (!atomic_load(&done) && !migration_waits())
		test_sleep_us(100);
	atomic_store(&overtook, atomic_load(&done));
}

static void nothing_leaves_while_the_process_forks(void **state)
{
	pthread_t thread;

	(void)state;
	BEGIN(20);
	begin(PAGES);
	if (!debug_set_step(let_migrate))
		skip_because("no debug build: nobody can come between");
	atomic_store(&go, false);
	atomic_store(&done, false);
	assert_int_equal(pthread_create(&thread, NULL, migrate_main, NULL), 0);
	step("fork");
	fork_and_wait();
	step("the migration");
	pthread_join(thread, NULL);
	assert_true(atomic_load(&go));
	assert_false(atomic_load(&overtook));
	pattern_check(mem, PAGES, 1);
}

/* ---- dropped as it is put back ---- */

static atomic_bool dropped;

static void drop(const char *name, unsigned long from, unsigned long to)
{
	if (strcmp(name, "out:copied") || !is_mem(from, to) || atomic_exchange(&dropped, true))
		return;
	syscall(SYS_madvise, mem, BYTES, MADV_DONTNEED);
	mini_recorded(dev, mem);
}

/* The device takes one, the others go home; but nobody wants them any more. */
static void what_is_dropped_is_not_put_back(void **state)
{
	(void)state;
	BEGIN(20);
	begin(1);
	atomic_store(&dropped, false);
	if (!debug_set_step(drop))
		skip_because("no debug build: nobody can come between");
	mini_event(dev, mem, PAGES, HMM_COPY_TO_DEVICE, NULL);
	assert_true(atomic_load(&dropped));
	assert_true(is_zero(mem, BYTES));
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, end)
	const struct CMUnitTest tests[] = {
		T(it_has_nothing_of_what_is_copied_home),
		T(it_has_nothing_of_what_is_isolated),
		T(it_cannot_write_while_the_process_forks),
		T(nothing_leaves_while_the_process_forks),
		T(what_is_dropped_is_not_put_back),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
