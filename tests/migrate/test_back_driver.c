/* SPDX-License-Identifier: MIT */
/*
 * The way back by the driver's wish, by its removal, and with other things going on:
 * CPU faults on the same pages, signals; and what comes back in
 * recycled system pages is the page's own content, not its neighbour's, not that of
 * whoever had the system page before.
 *
 * Tries to break: G4, G7, G9.
 */
/* Before away.h, which has a variable of a name that core.h has for others. */
#include "core/core.h"

#include "away.h"

#include <sys/uio.h>

#define BIG (2 * THP / PAGE + 100) /* pages: two chunks and a bit */
#define THREADS 3

static char *big;

static int setup(void **state)
{
	assert_int_equal(away_setup(state), 0);
	dummy_destroy(dev);
	dev = device_new(4 * THP / PAGE);
	big = map_apart(BIG * PAGE);
	return 0;
}

static int teardown(void **state)
{
	hmm_set_pool(HMM_POOL_DEFAULT);
	unmap_apart(big, BIG * PAGE);
	return away_teardown(state);
}

static void evict(const char *start, size_t pages)
{
	assert_int_equal(dummy_evict(dev, addr_of(start), addr_of(start) + pages * PAGE, NULL), 0);
}

static void parts_of_what_is_away(void **state)
{
	static const size_t parts[][2] = { { 0, 1 },	{ 3, 2 },	{ 250, 20 }, { 600, 400 },
					   { 1023, 2 }, { BIG - 1, 1 }, { 0, BIG },  { 5, 5 } };
	size_t i, j, back = 0;

	(void)state;
	BEGIN(40);
	pattern_fill(big, BIG, 2);
	migrate_all(dev, big, BIG);
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		const char *at = big + parts[i][0] * PAGE;
		size_t before = count_on_cpu(at, parts[i][1]);

		evict(at, parts[i][1]);
		assert_int_equal(count_on_cpu(at, parts[i][1]), parts[i][1]);
		back += parts[i][1] - before;
		assert_int_equal(device_used(dev), BIG - back);
		for (j = 0; j < parts[i][1]; j += 50)
			pattern_check_from(at + j * PAGE, 1, 2, parts[i][0] + j);
	}
	assert_int_equal(back, BIG);
	pattern_check(big, BIG, 2);
}

/* Every third page has content, the rest are holes or zero pages. */
static void sparse_fill(uint64_t seed)
{
	size_t i;

	assert_int_equal(madvise(big, BIG * PAGE, MADV_DONTNEED), 0);
	for (i = 0; i < BIG; i++) {
		if (i % 3 == 0)
			pattern_page(big + i * PAGE, seed, i);
		else if (i % 3 == 1)
			(void)*(volatile char *)(big + i * PAGE); /* a zero page */
	}
}

static void sparse_check(uint64_t seed)
{
	size_t i;

	for (i = 0; i < BIG; i++) {
		if (i % 3 == 0)
			pattern_check_from(big + i * PAGE, 1, seed, i);
		else if (!is_zero(big + i * PAGE, PAGE))
			fail_msg("page %zu is not zeros", i);
	}
}

/* A page with content comes back, then a hole is first touched by a write, which is undone. */
static void write_holes(char *at)
{
	size_t i;

	for (i = 0; i < 6; i++) { /* in one instruction: a write fault */
		char *at_byte = at + i % 3 * 3 * PAGE + 77, by = i < 3 ? 1 : -1;

		__atomic_fetch_add(at_byte, by, __ATOMIC_RELAXED);
		__atomic_fetch_add(at_byte + 29 * PAGE, by, __ATOMIC_RELAXED);
	}
}

/* The system pages, and the device's, are full of what must not be seen again. */
static void leave_secrets(void)
{
	char *secret = map_apart(BIG * PAGE);

	memset(secret, 0xee, BIG * PAGE);
	migrate_all(dev, secret, BIG);
	unmap_apart(secret, BIG * PAGE);
	wait_until(device_used(dev) == 0);
}

static void no_content_leaks(size_t pool, bool strict)
{
	size_t i;

	staging_pool(pool, strict);
	for (i = 0; i < 6; i++) {
		leave_secrets();
		sparse_fill(10 + i);
		step("all of it there and back");
		migrate_all(dev, big, BIG);
		evict(big, BIG);
		sparse_check(10 + i);
		leave_secrets();
		sparse_fill(20 + i);
		step("parts there, more back");
		migrate_all(dev, big + 100 * PAGE, 30);
		migrate_all(dev, big + 140 * PAGE, 7);
		migrate_all(dev, big + 500 * PAGE, 200);
		if (i % 2)
			evict(big, BIG);
		write_holes(big + 120 * PAGE);
		sparse_check(20 + i); /* or by faults, which read on */
		wait_until(device_used(dev) == 0);
	}
}

#define NO_LEAKS(name, pool, strict)            \
	static void name(void **state)          \
	{                                       \
		(void)state;                    \
		BEGIN(40);                      \
		no_content_leaks(pool, strict); \
	}

NO_LEAKS(no_content_leaks_with_recycled_pages, 32 * MIB, true)
NO_LEAKS(no_content_leaks_with_few_of_them, THP, true)
NO_LEAKS(no_content_leaks_with_none, 0, true)
NO_LEAKS(no_content_leaks_with_pages_on_offer, 0, false)

struct taker_of_pages {
	char *staging;
	bool stop;
	unsigned long turns;
};

/* The kernel, short of memory: what is on offer goes, the rest cannot without swap. */
static void *take_pages(void *arg)
{
	struct taker_of_pages *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		madvise(t->staging, 16 * CHUNK_SIZE, MADV_PAGEOUT);
		__atomic_fetch_add(&t->turns, 1, __ATOMIC_RELAXED);
		test_sleep_us(t->turns % 8 * 100);
	}
	return NULL;
}

static void pages_on_offer_may_be_taken_at_any_time(void **state)
{
	struct taker_of_pages taker = { .stop = false };
	struct hmm *hmm = process_pin();
	struct slot *slot;
	pthread_t thread;
	size_t i;

	(void)state;
	BEGIN(60);
	assert_non_null(hmm);
	staging_pool(0, false);
	slot = slot_get_empty(&hmm->mm);
	assert_non_null(slot);
	taker.staging = (char *)slot_addr(slot);
	slot_put(&hmm->mm, slot);
	process_unpin(hmm);
	assert_int_equal(pthread_create(&thread, NULL, take_pages, &taker), 0);
	for (i = 0; i < 60 || __atomic_load_n(&taker.turns, __ATOMIC_RELAXED) <= 20; i++) {
		madvise(big, BIG * PAGE, i % 20 < 10 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		madvise(big, BIG * PAGE, MADV_DONTNEED);
		pattern_fill(big, BIG, i);
		step("there, back, there");
		migrate_all(dev, big, BIG);
		evict(big, BIG);
		migrate_all(dev, big, BIG);
		pattern_fill(big, 10, i);
		evict(big, BIG);
		pattern_check(big, BIG, i);
	}
	__atomic_store_n(&taker.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
}

static bool readable(const char *page)
{
	char c;
	struct iovec here = { &c, 1 }, there = { (char *)page, 1 };

	return sys(SYS_process_vm_readv, getpid(), &here, 1, &there, 1, 0) == 1;
}

/* It stays where it is, or is poison: never what was in the recycled page. */
static void a_lost_page_shows_no_other(void **state)
{
	size_t i, lost = 0;

	(void)state;
	BEGIN(40);
	leave_secrets();
	pattern_fill(big, BIG, 6);
	migrate_all(dev, big, BIG);
	dummy_inject(dev, DUMMY_FAIL_PAGE, 1, 1);
	assert_int_equal(dummy_evict(dev, addr_of(big), addr_of(big) + BIG * PAGE, NULL), -EIO);
	assert_int_equal(device_used(dev), 1);
	pattern_check(big, BIG, 6);
	migrate_all(dev, big, BIG);
	hmm_set_log(HMM_LOG_NONE, NULL);
	dummy_inject(dev, DUMMY_FAIL_PAGE, 1, 1);
	assert_int_equal(dummy_destroy(dev), 0);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	dev = device_new(4 * THP / PAGE);
	for (i = 0; i < BIG; i++) {
		if (readable(big + i * PAGE))
			pattern_check_from(big + i * PAGE, 1, 6, i);
		else
			lost++;
	}
	assert_int_equal(lost, 1);
}

/* ---- while the CPU is at it ---- */

static bool stop;
static int bad;
static unsigned long turns[THREADS];

#define RUNNING (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))

/* Reads on, or jumps; adds to its own word of each page it comes to. */
static void *counting(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg, page = 0, n, *word;
	static uint64_t done[THREADS][PAGES];

	memset(done[id], 0, sizeof(done[id]));
	for (n = 0; RUNNING; n++) {
		word = (uint64_t *)(mem + page * PAGE);
		if (__atomic_add_fetch(&word[id], 1, __ATOMIC_RELAXED) !=
		    pattern_word(1, page, id) + ++done[id][page])
			__atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
		if (__atomic_load_n(&word[300], __ATOMIC_RELAXED) != pattern_word(1, page, 300))
			__atomic_store_n(&bad, 2, __ATOMIC_RELAXED);
		page = (page + (id ? 1 : 37)) % PAGES;
		__atomic_fetch_add(&turns[id], 1, __ATOMIC_RELAXED);
	}
	for (page = 0; page < PAGES; page++)
		*(uint64_t *)(mem + page * PAGE + id * 8) -= done[id][page];
	return NULL;
}

static void threads_start(pthread_t *threads)
{
	size_t i;

	stop = false;
	bad = 0;
	memset(turns, 0, sizeof(turns));
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, counting, (void *)i), 0);
}

static void threads_end(pthread_t *threads)
{
	size_t i;

	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining");
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(bad, 0);
	pattern_check(mem, PAGES, 1);
}

static bool all_had_turns(void)
{
	size_t i = 0;

	while (i < THREADS && __atomic_load_n(&turns[i], __ATOMIC_RELAXED) > 100)
		i++;
	return i == THREADS;
}

static void eviction_and_faults_at_once(void **state)
{
	pthread_t threads[THREADS];
	uint64_t end, start = addr_of(mem), i;

	(void)state;
	BEGIN(40);
	threads_start(threads);
	end = test_now() + 600000000;
	for (i = 0; test_now() < end || !all_had_turns(); i++) {
		size_t at = i * 13 % PAGES, n = i % 17 + 1;

		if (dummy_migrate(dev, start, start + BYTES, NULL) ||
		    dummy_evict(dev, start + at * PAGE, start + (at + n) * PAGE, NULL))
			bad = 3;
	}
	threads_end(threads);
}

/* Faults wait on a slow device that is taken away; the next one comes at once. */
static void the_device_goes_while_faults_wait(void **state)
{
	struct dummy_options opt = { .memory = 2 * MIB, .scrub = true };
	pthread_t threads[THREADS];
	struct dummy_device *one;
	unsigned int i;
	int ret = 0;

	(void)state;
	BEGIN(40);
	threads_start(threads);
	for (i = 0; i < 40 && !ret; i++) {
		opt.copy_delay_us = i % 2 ? 0 : 200;
		ret = dummy_create(&one, &opt);
		if (ret)
			break;
		ret = dummy_migrate(one, addr_of(mem), addr_of(mem) + BYTES, NULL);
		test_sleep_us(i % 4 * 300);
		ret = ret ? ret : dummy_destroy(one);
	}
	threads_end(threads);
	assert_int_equal(ret, 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
}

static unsigned long signals;

/* Itself in need of pages that are away. */
static void on_signal(int sig)
{
	static unsigned int page;

	(void)sig;
	page = (page + 11) % PAGES;
	if (*(volatile uint64_t *)(mem + page * PAGE + 3200) != pattern_word(1, page, 400))
		bad = 4;
	__atomic_fetch_add(&signals, 1, __ATOMIC_RELAXED);
}

static void signals_while_faults_wait(void **state)
{
	struct dummy_options opt = { .memory = 2 * MIB, .copy_delay_us = 300 };
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t threads[THREADS];
	struct dummy_device *slow;
	uint64_t end;
	int ret = 0;

	(void)state;
	BEGIN(40);
	assert_int_equal(dummy_create(&slow, &opt), 0);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	signals = 0;
	threads_start(threads);
	end = test_now() + 500000000;
	while ((test_now() < end || __atomic_load_n(&signals, __ATOMIC_RELAXED) < 50) && !ret) {
		ret = dummy_migrate(slow, addr_of(mem), addr_of(mem) + BYTES, NULL);
		pthread_kill(threads[0], SIGUSR1);
		test_sleep_us(100);
		pthread_kill(threads[0], SIGUSR1);
	}
	threads_end(threads);
	signal(SIGUSR1, SIG_DFL);
	assert_int_equal(ret, 0);
	assert_int_equal(dummy_destroy(slow), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(parts_of_what_is_away),
		T(no_content_leaks_with_recycled_pages),
		T(no_content_leaks_with_few_of_them),
		T(no_content_leaks_with_none),
		T(no_content_leaks_with_pages_on_offer),
		T(pages_on_offer_may_be_taken_at_any_time),
		T(a_lost_page_shows_no_other),
		T(eviction_and_faults_at_once),
		T(the_device_goes_while_faults_wait),
		T(signals_while_faults_wait),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
