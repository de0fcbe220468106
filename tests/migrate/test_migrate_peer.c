/* SPDX-License-Identifier: MIT */
/*
 * From one device to another without system memory in between: HMM_DEVICE_PEER,
 * HMM_MIGRATE_PEER.
 *
 * Tries to break: G1 (one place: the first device's page is freed when the other has it),
 * G4 (content, the device's last writes too), G7 (what the peer does not take comes by way
 * of the system, what nobody can move stays where it is and says so).
 */
#include "migrate/tiny.h"

#include <stdatomic.h>

#define PAGES 1100
#define BYTES (PAGES * PAGE)

static struct dummy_device *from, *to;
static char *mem;
static uint8_t result[PAGES];

static struct dummy_device *new_device(bool peer)
{
	struct dummy_options opt = {
		.memory = 2048 * PAGE, .scrub = true, .peer = peer, .runs = peer
	};
	struct dummy_device *dev;

	assert_int_equal(dummy_create(&dev, &opt), 0);
	return dev;
}

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	from = new_device(false);
	to = new_device(true);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	assert_int_equal(dummy_destroy(from), 0);
	return dummy_destroy(to);
}

static struct dummy_stats stats_of(struct dummy_device *dev)
{
	struct dummy_stats stats;

	dummy_get_stats(dev, &stats);
	return stats;
}

/* @seed by the device that has them, so that its memory is what counts. */
static void device_fill(struct dummy_device *dev, size_t first, size_t n, uint64_t seed)
{
	uint64_t page[PAGE / 8];
	size_t i;

	for (i = first; i < first + n; i++) {
		pattern_page(page, seed, i);
		assert_int_equal(dummy_store(dev, addr_of(mem) + i * PAGE, page, PAGE), 0);
	}
}

static int to_peer(size_t first, size_t n)
{
	return dummy_migrate_vma(to, addr_of(mem) + first * PAGE, addr_of(mem) + (first + n) * PAGE,
				 result, NULL);
}

static void results_are(size_t first, size_t n, enum hmm_migrate_result what)
{
	size_t i;

	for (i = first; i < first + n; i++)
		if (result[i] != what)
			fail_msg("page %zu: result %u, not %u", i, result[i], what);
}

static void not_through_the_system(struct dummy_device *source, size_t n)
{
	assert_int_equal(stats_of(to).pages_peer, n);
	assert_int_equal(stats_of(to).pages_in, n);
	assert_int_equal(stats_of(source).pages_out, 0);
	assert_int_equal(device_used(source), 0);
	assert_int_equal(device_used(to), n);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
}

static void straight_by_event(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(from, mem, PAGES);
	device_fill(from, 0, PAGES, 2);
	migrate_all(to, mem, PAGES);
	not_through_the_system(from, PAGES);
	assert_int_equal(stats_of(to).runs, 2);
	pattern_check(mem, PAGES, 2);
	wait_until(!device_used(to));
}

static void straight_by_callbacks(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(from, mem, PAGES);
	device_fill(from, 0, PAGES, 2);
	assert_int_equal(to_peer(0, PAGES), 0);
	results_are(0, PAGES, HMM_MIGRATE_DONE);
	not_through_the_system(from, PAGES);
	device_fill(to, 0, PAGES, 3); /* it has been mapped, and the other one not */
	assert_int_equal(dummy_store_u64(from, addr_of(mem) + 5 * PAGE, 55), 0);
	assert_int_equal(*(uint64_t *)(mem + 5 * PAGE), 55);
	pattern_check(mem, 5, 3);
	pattern_check_from(mem + 6 * PAGE, PAGES - 6, 3, 6);
}

/* There and back between two that can. */
static void back_and_forth(void **state)
{
	struct dummy_device *two[2] = { new_device(true), to };
	uint64_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < 10; i++) {
		migrate_all(two[i % 2], mem, PAGES);
		device_fill(two[i % 2], 0, PAGES, i);
	}
	assert_int_equal(stats_of(two[0]).pages_out + stats_of(two[1]).pages_out, 0);
	assert_int_equal(stats_of(two[0]).pages_peer, 4 * PAGES);
	assert_int_equal(stats_of(two[1]).pages_peer, 5 * PAGES);
	assert_int_equal(device_used(two[0]), 0);
	assert_int_equal(dummy_destroy(two[0]), 0);
	assert_int_equal(device_used(to), PAGES);
	pattern_check(mem, PAGES, 9);
}

/* Pages of two devices, of the system, and of nobody, in one call. */
static void of_all_kinds_at_once(void **state)
{
	struct dummy_device *third = new_device(false);
	struct tiny *tiny = tiny_new(64); /* no mirror: nobody could stop it meanwhile */

	(void)state;
	BEGIN(5);
	assert_int_equal(madvise(mem + 300 * PAGE, 100 * PAGE, MADV_DONTNEED), 0);
	migrate_all(from, mem, 100);
	migrate_all(third, mem + 50 * PAGE, 100);
	tiny_migrate_all(tiny, mem + 200 * PAGE, 50);
	migrate_all(to, mem + 900 * PAGE, 50);
	assert_int_equal(stats_of(to).pages_in, 50);
	assert_int_equal(to_peer(0, PAGES), 0);
	results_are(0, PAGES, HMM_MIGRATE_DONE);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	assert_int_equal(device_used(to), PAGES);
	assert_int_equal(device_used(from) + device_used(third) + tiny_used(tiny), 0);
	assert_int_equal(tiny->region[0].copied, 50);
	assert_int_equal(stats_of(to).pages_in, PAGES);
	pattern_check(mem, 300, 1);
	assert_true(is_zero(mem + 300 * PAGE, 100 * PAGE));
	pattern_check_from(mem + 400 * PAGE, PAGES - 400, 1, 400);
	assert_int_equal(dummy_destroy(third), 0);
	tiny_destroy(tiny);
}

static void by_way_of_the_system(struct dummy_device *source, size_t n)
{
	assert_int_equal(stats_of(source).pages_out, n);
	assert_int_equal(device_used(source), 0);
	assert_int_equal(device_used(to), PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	pattern_check(mem, PAGES, 2);
}

static void what_the_peer_declines_takes_the_other_way(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(from, mem, PAGES);
	device_fill(from, 0, PAGES, 2);
	dummy_inject(to, DUMMY_FAIL_PEER, 100, 7);
	assert_int_equal(to_peer(0, PAGES), 0);
	results_are(0, PAGES, HMM_MIGRATE_DONE);
	assert_int_equal(stats_of(to).pages_peer, PAGES - 7);
	by_way_of_the_system(from, 7);
}

static void who_cannot_gets_them_from_the_system(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(to, mem, PAGES);
	device_fill(to, 0, PAGES, 2);
	migrate_all(from, mem, PAGES); /* it has no peers */
	assert_int_equal(stats_of(to).pages_out, PAGES);
	assert_int_equal(stats_of(from).pages_peer, 0);
	dummy_inject(to, DUMMY_FAIL_PEER, 1, ~0ul);
	migrate_all(to, mem, PAGES);
	assert_int_equal(stats_of(to).pages_peer, 0);
	by_way_of_the_system(from, PAGES);
}

/* G7: it stays in the device that has it, and the others go on. */
static void what_cannot_leave_is_busy(void **state)
{
	unsigned long moved = 0;
	uint64_t val;

	(void)state;
	BEGIN(5);
	migrate_all(from, mem + 200 * PAGE, 50);
	dummy_inject(from, DUMMY_FAIL_COPY_FROM, 1, ~0ul);
	dummy_inject(to, DUMMY_FAIL_PEER, 1, ~0ul);
	assert_int_equal(dummy_migrate_vma(to, addr_of(mem), addr_of(mem) + BYTES, result, &moved),
			 0);
	assert_int_equal(moved, PAGES - 50);
	results_are(0, 200, HMM_MIGRATE_DONE);
	results_are(200, 50, HMM_MIGRATE_BUSY);
	results_are(250, PAGES - 250, HMM_MIGRATE_DONE);
	assert_int_equal(device_used(from), 50);
	assert_int_equal(device_used(to), PAGES - 50);
	dummy_inject(from, DUMMY_FAIL_COPY_FROM, 0, 0);
	dummy_inject(to, DUMMY_FAIL_PEER, 0, 0);
	assert_int_equal(dummy_load_u64(from, addr_of(mem) + 220 * PAGE, &val), 0);
	assert_int_equal(val, pattern_word(1, 220, 0));
	migrate_all(to, mem, PAGES);
	assert_int_equal(stats_of(to).pages_peer, 50);
	pattern_check(mem, PAGES, 1);
}

/* No room for all of them: what is left over is at home, or where it was. */
static void a_peer_without_room(void **state)
{
	struct dummy_options opt = { .memory = 300 * PAGE, .peer = true };
	struct dummy_device *small;

	(void)state;
	BEGIN(5);
	assert_int_equal(dummy_create(&small, &opt), 0);
	migrate_all(from, mem, PAGES);
	device_fill(from, 0, PAGES, 2);
	assert_int_equal(dummy_migrate_vma(small, addr_of(mem), addr_of(mem) + BYTES, result, NULL),
			 0);
	assert_int_equal(device_used(small), 300);
	assert_int_equal(device_used(from) + 300 + count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 2);
	assert_int_equal(dummy_destroy(small), 0);
}

/* ---- all at once ---- */

static atomic_bool stop;
static atomic_int failed;
static struct dummy_device *third;

static void *moves(void *arg)
{
	struct dummy_device *dev = arg;

	while (!atomic_load(&stop))
		if (dummy_migrate(dev, addr_of(mem), addr_of(mem) + 600 * PAGE, NULL))
			atomic_store(&failed, 1);
	return NULL;
}

static void *adds(void *arg)
{
	struct dummy_device *dev = arg;
	size_t i = 0;
	long n = 0;

	do {
		if (dummy_fetch_add_u64(dev, addr_of(mem) + i++ % 600 * PAGE, 1, NULL))
			atomic_store(&failed, 2);
		n += i % 600 == 0;
	} while (!atomic_load(&stop) || i % 600);
	return (void *)n;
}

/* Two devices pull at the same pages, a third adds to them: every add counts. */
static void tug_of_war(void **state)
{
	struct dummy_device *other = new_device(true);
	pthread_t thread[3];
	void *rounds;
	size_t i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 600; i++)
		*(uint64_t *)(mem + i * PAGE) = i << 32;
	third = new_device(false);
	atomic_store(&stop, false);
	atomic_store(&failed, 0);
	assert_int_equal(pthread_create(&thread[0], NULL, moves, to), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, moves, other), 0);
	assert_int_equal(pthread_create(&thread[2], NULL, adds, third), 0);
	test_sleep_us(700000);
	atomic_store(&stop, true);
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	pthread_join(thread[2], &rounds);
	assert_int_equal(atomic_load(&failed), 0);
	assert_true((long)rounds > 0);
	for (i = 0; i < 600; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), (i << 32) + (uint64_t)(long)rounds);
	assert_int_equal(dummy_destroy(other), 0);
	assert_int_equal(dummy_destroy(third), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(straight_by_event),
		T(straight_by_callbacks),
		T(back_and_forth),
		T(of_all_kinds_at_once),
		T(what_the_peer_declines_takes_the_other_way),
		T(who_cannot_gets_them_from_the_system),
		T(what_cannot_leave_is_busy),
		T(a_peer_without_room),
		T(tug_of_war),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
