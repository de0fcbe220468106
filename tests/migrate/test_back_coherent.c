/* SPDX-License-Identifier: MIT */
/*
 * Pages of a device whose memory the CPU can read: cpu_page(). And where the monitor runs
 * while they come back.
 *
 * Tries to break: G4 (the page that comes is what the device wrote last, and is whole), the
 * copy engine is not asked for a page that was read, and is for all others; a device that is
 * lost has nothing to read.
 */
#include "test_util.h"

#define PAGES 512
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem;

static int setup(void **state)
{
	struct dummy_options opt = { .memory = 2 * BYTES, .scrub = true, .coherent = true };

	(void)state;
	mem = map_aligned(BYTES);
	return dummy_create(&dev, &opt);
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return dummy_destroy(dev);
}

static struct dummy_stats engine(void)
{
	struct dummy_stats stats;

	dummy_get_stats(dev, &stats);
	return stats;
}

/* Too far from each other for a reader or a stride: one page a fault. */
static void single_pages_need_no_engine(void **state)
{
	size_t i;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 4);
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < PAGES; i += 16)
		pattern_check_from(mem + i * PAGE, 1, 4, i);
	assert_int_equal(engine().pages_coherent, PAGES / 16);
	assert_int_equal(engine().pages_out, 0);
	pattern_check(mem, PAGES, 4);
	wait_until(device_used(dev) == 0);
	assert_int_equal(engine().pages_coherent + engine().pages_out, PAGES);
	assert_true(engine().pages_out > PAGES / 2); /* who reads on gets many at once */
}

static void called_back_by_the_engine(void **state)
{
	unsigned long pages = 0;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_evict(dev, (uintptr_t)mem, (uintptr_t)mem + BYTES, &pages), 0);
	assert_int_equal(pages, PAGES);
	assert_int_equal(engine().pages_coherent, 0);
	pattern_check(mem, PAGES, 5);
}

static uint64_t *word;
static struct {
	uint64_t done; /* atomic: what is certainly in memory */
	bool stop; /* atomic */
	int error;
} writer;

static void *writer_main(void *arg)
{
	uint64_t next = 1;

	(void)arg;
	while (!__atomic_load_n(&writer.stop, __ATOMIC_ACQUIRE) && !writer.error) {
		writer.error = dummy_store(dev, (uintptr_t)word, &next, sizeof(next));
		__atomic_store_n(&writer.done, next++, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* The device writes all the time; what it has written is never seen to go back. */
static void what_the_device_wrote_comes(void **state)
{
	uint64_t i, done, seen, moved = 0;
	pthread_t thread;

	(void)state;
	BEGIN(60);
	word = (uint64_t *)(mem + BYTES / 2); /* not beside the thread's descriptor */
	*word = 0;
	writer.stop = false;
	assert_int_equal(pthread_create(&thread, NULL, writer_main, NULL), 0);
	for (i = 0; i < 2000; i++) {
		unsigned long pages = 0;

		assert_int_equal(dummy_migrate(dev, (uintptr_t)word, (uintptr_t)(word + 1), &pages),
				 0);
		moved += pages;
		done = __atomic_load_n(&writer.done, __ATOMIC_ACQUIRE);
		seen = __atomic_load_n(word, __ATOMIC_RELAXED);
		assert_true(seen >= done);
	}
	__atomic_store_n(&writer.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(writer.error, 0);
	assert_true(moved && engine().pages_coherent);
}

static sigjmp_buf lost;

static void on_sigbus(int sig)
{
	(void)sig;
	siglongjmp(lost, 1);
}

static bool touch_is_sigbus(const char *at)
{
	bool killed = true;

	signal(SIGBUS, on_sigbus);
	if (!sigsetjmp(lost, 1)) {
		(void)*(const volatile char *)at;
		killed = false;
	}
	signal(SIGBUS, SIG_DFL);
	return killed;
}

static void a_lost_device_has_nothing_to_read(void **state)
{
	(void)state;
	BEGIN(20);
	pattern_fill(mem, 1, 6);
	migrate_all(dev, mem, 1);
	assert_int_equal(dummy_lost(dev), 0);
	assert_true(touch_is_sigbus(mem));
	assert_int_equal(engine().pages_coherent, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(single_pages_need_no_engine),
		T(called_back_by_the_engine),
		T(what_the_device_wrote_comes),
		T(a_lost_device_has_nothing_to_read),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
