/* SPDX-License-Identifier: MIT */
/*
 * Pages of a device whose memory the CPU can read: cpu_page(). And where the monitor runs
 * while they come back.
 *
 * Tries to break: G4 (the page that comes is what the device wrote last, and is whole), the
 * copy engine is not asked for a page that was read, and is for all others; a device that is
 * lost has nothing to read; of a range that several devices have each page comes from where it
 * is; and a driver is asked when its device has stopped using the page, and not believed blindly.
 */
#include "migrate/tiny.h"

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

/* ---- pages of two devices in one range ---- */

#define GROUP 4

/* Which device has which page of a group, and which page of it is touched first. */
static void each_page_is_where_it_is(void **state)
{
	struct dummy_options opt = {
		.memory = BYTES, .scrub = true, .coherent = true, .around = GROUP
	};
	struct dummy_device *two[2];
	struct dummy_stats stats[2];
	size_t i, group, first, single = 0, masks = 1u << GROUP;

	(void)state;
	BEGIN(60);
	assert_true(masks * GROUP * GROUP <= PAGES);
	pattern_fill(mem, PAGES, 7);
	assert_int_equal(dummy_create(&two[0], &opt), 0);
	assert_int_equal(dummy_create(&two[1], &opt), 0);
	for (i = masks * GROUP * GROUP; i-- > 0;) /* device memory in another order than ours */
		migrate_all(two[i / GROUP % masks >> (i % GROUP) & 1], mem + i * PAGE, 1);
	for (group = 0; group < masks * GROUP; group++) {
		size_t mask = group % masks, ones = (size_t)__builtin_popcountl(mask);

		single += (ones == 1) + (ones == GROUP - 1);
		first = group * GROUP + group / masks;
		pattern_check_from(mem + first * PAGE, 1, 7, first);
		wait_until(count_on_cpu(mem + group * GROUP * PAGE, GROUP) == GROUP);
		pattern_check_from(mem + group * GROUP * PAGE, GROUP, 7, group * GROUP);
	}
	pattern_check(mem, PAGES, 7);
	wait_until(device_used(two[0]) + device_used(two[1]) == 0);
	dummy_get_stats(two[0], &stats[0]);
	dummy_get_stats(two[1], &stats[1]);
	assert_int_equal(stats[0].pages_coherent + stats[1].pages_coherent, single);
	assert_int_equal(stats[0].pages_out + stats[1].pages_out, masks * GROUP * GROUP - single);
	assert_int_equal(dummy_destroy(two[0]), 0);
	assert_int_equal(dummy_destroy(two[1]), 0);
}

/* ---- what a driver answers ---- */

static unsigned long told; /* updates, when cpu_page() was called last; atomic */

TINY_OP void note_told(struct tiny *tiny, enum tiny_op op)
{
	if (op == TINY_CPU_PAGE)
		__atomic_store_n(&told,
				 __atomic_load_n(&tiny->calls[TINY_UPDATE], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

static void touch(size_t i)
{
	pattern_check_from(mem + i * PAGE, 1, 8, i);
}

/* Far from each other: one page each. */
static void an_answer_that_is_no_page_is_not_used(void **state)
{
	static const unsigned long beside[] = { 1, 8, 64, PAGE / 2, PAGE - 1 };
	struct tiny *tiny = tiny_new(PAGES);
	size_t i, n = sizeof(beside) / sizeof(*beside);

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 8);
	tiny_migrate_all(tiny, mem, PAGES);
	tiny->readable = true;
	touch(40);
	touch(80);
	assert_int_equal(tiny_calls(tiny, TINY_CPU_PAGE), 2);
	assert_int_equal(tiny_calls(tiny, TINY_COPY), 0);
	for (i = 0; i < n; i++) {
		tiny->beside = beside[i];
		touch(120 + 40 * i);
		assert_int_equal(tiny_calls(tiny, TINY_COPY), i + 1);
	}
	tiny->readable = false;
	touch(160 + 40 * n);
	assert_int_equal(tiny_calls(tiny, TINY_COPY), n + 1);
	assert_int_equal(tiny_calls(tiny, TINY_CPU_PAGE), n + 2);
	pattern_check(mem, PAGES, 8);
	tiny_destroy(tiny);
}

/* When it is asked its device has stopped using the page, and knows. */
static void the_driver_is_asked_when_it_has_been_told(void **state)
{
	struct tiny *tiny = tiny_new(PAGES);
	unsigned long before;
	size_t i;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_mirror_register(&tiny->mirror), 0);
	pattern_fill(mem, PAGES, 8);
	tiny_migrate_all(tiny, mem, PAGES);
	tiny->readable = true;
	tiny->inside = note_told;
	for (i = 0; i < PAGES; i += 40) {
		before = tiny_calls(tiny, TINY_UPDATE);
		touch(i);
		assert_int_equal(tiny_calls(tiny, TINY_CPU_PAGE), i / 40 + 1);
		assert_true(__atomic_load_n(&told, __ATOMIC_RELAXED) > before);
	}
	tiny->readable = false;
	pattern_check(mem, PAGES, 8);
	tiny_destroy(tiny);
}

static void the_driver_of_a_lost_device_is_not_asked(void **state)
{
	struct tiny *tiny = tiny_new(PAGES);

	(void)state;
	BEGIN(20);
	pattern_fill(mem, 1, 8);
	tiny_migrate_all(tiny, mem, 1);
	tiny->readable = true;
	assert_int_equal(hmm_device_lost(&tiny->device), 0);
	assert_true(touch_is_sigbus(mem));
	assert_int_equal(tiny_calls(tiny, TINY_CPU_PAGE), 0);
	tiny_destroy(tiny);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(single_pages_need_no_engine),
		T(called_back_by_the_engine),
		T(what_the_device_wrote_comes),
		T(a_lost_device_has_nothing_to_read),
		T(each_page_is_where_it_is),
		T(an_answer_that_is_no_page_is_not_used),
		T(the_driver_is_asked_when_it_has_been_told),
		T(the_driver_of_a_lost_device_is_not_asked),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
