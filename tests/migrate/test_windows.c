/* SPDX-License-Identifier: MIT */
/*
 * The windows that the kernel leaves open between what happens and what is told of it
 * (design, "kernel facts"), each hit, and counted, before anything is said.
 *
 * Tries to break: G3, G4, G9.
 */
#include "windows.h"

/* ---- a thread that is kept from running when its message is read ---- */

static atomic_bool hog_stop;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *hog(void *arg)
{
	(void)arg;
	pin(0);
	while (!atomic_load(&hog_stop))
		;
	return NULL;
}

static atomic_bool late_go, late_done;

static void *late_drop(void *arg)
{
	struct sched_param none = { .sched_priority = 0 };

	pin(0);
	sched_setscheduler(0, SCHED_IDLE, &none);
	while (!atomic_load(&late_go))
		;
	madvise(arg, BYTES, MADV_DONTNEED);
	atomic_store(&late_done, true);
	return NULL;
}

/*
 * MADV_DONTNEED: read, and not zapped yet. What migrates now would come back. True: that
 * is how it was.
 */
static bool drop_round(unsigned int round)
{
	struct hmm_stats before = { .size = sizeof(before) }, now = { .size = sizeof(now) };
	uint64_t until = test_now() + 2000000000ull;
	pthread_t thread;
	bool window;
	size_t i;

	pattern_fill(mem, PAGES, round);
	migrate(mem, PAGES);
	dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	hmm_get_stats(&before);
	atomic_store(&late_go, false);
	atomic_store(&late_done, false);
	assert_int_equal(pthread_create(&thread, NULL, late_drop, mem), 0);
	atomic_store(&late_go, true);
	do
		hmm_get_stats(&now);
	while (now.events == before.events && test_now() < until);
	window = !atomic_load(&late_done) && count_on_cpu(mem, PAGES) == PAGES;
	migrate(mem, PAGES);
	pthread_join(thread, NULL);
	for (i = 0; i < PAGES; i++) {
		if (round % 2 && device_word(mem + i * PAGE))
			fail_msg("round %u: the device reads what was dropped", round);
		if (!is_zero(mem + i * PAGE, PAGE))
			fail_msg("round %u: the CPU reads what was dropped", round);
	}
	return window;
}

static void what_is_dropped_does_not_migrate_before_it_is_gone(void **state)
{
	unsigned int i, n = 0;
	pthread_t thread;

	(void)state;
	BEGIN(60);
	atomic_store(&hog_stop, false);
	assert_int_equal(pthread_create(&thread, NULL, hog, NULL), 0);
	for (i = 0; i < 100 && n < 6; i++) /* until it was hit often enough */
		n += drop_round(i);
	atomic_store(&hog_stop, true);
	pthread_join(thread, NULL);
	print_message("dropped, and still there, in %u of %u\n", n, i);
	if (!n)
		skip_because("the window was never hit");
}

/* ---- a new mapping under an old event ---- */

static void *unmap_main(void *arg)
{
	munmap(arg, BYTES);
	return NULL;
}

static bool is_mapped(const void *at)
{
	unsigned char vec;

	return mincore((void *)at, PAGE, &vec) == 0;
}

/*
 * The monitor is held before it reads on; munmap waits to be read, and its place is given
 * away and filled. What is in the books for it is not what is there.
 */
static bool remapped_round(unsigned int round)
{
	char *other = map_aligned(THP), *got;
	pthread_t thread;
	uint64_t until = test_now() + 100000000;
	bool window;

	pattern_fill(mem, PAGES, 100);
	migrate(mem, PAGES);
	hold_arm("event:done", other, PAGES);
	migrate(other, 1);
	madvise(other, PAGE, MADV_DONTNEED);
	window = hold_hit();
	assert_int_equal(pthread_create(&thread, NULL, unmap_main, mem), 0);
	while (is_mapped(mem) && test_now() < until)
		;
	window = window && !atomic_load(&hold.go) && !is_mapped(mem);
	got = mmap(mem, BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (round % 3 == 1 && got == mem)
		pattern_fill(mem, PAGES, 200);
	atomic_store(&hold.go, true);
	if (round % 3 == 2 && got == mem)
		pattern_fill(mem, PAGES, 200);
	if (round % 2)
		migrate(mem, PAGES);
	pthread_join(thread, NULL);
	assert_ptr_equal(got, mem);
	hmm_mirror_sync(dummy_mirror(dev));
	if (round % 3) {
		assert_int_equal(device_word(mem + PAGE), pattern_word(200, 1, 0));
		pattern_check(mem, PAGES, 200);
	} else {
		assert_int_equal(device_word(mem + PAGE), 0);
		assert_true(is_zero(mem, BYTES));
	}
	munmap(other, THP);
	return window;
}

static void a_new_mapping_has_nothing_of_the_old_one(void **state)
{
	unsigned int i, n = 0;

	(void)state;
	BEGIN(20);
	hold_need();
	for (i = 0; i < ROUNDS; i++)
		n += remapped_round(i);
	print_message("mapped anew before munmap was read in %u of %u\n", n, i);
	if (!n)
		skip_because("the window was never hit");
}

/* ---- faults that overtake events ---- */

static struct {
	char *to;
	uint64_t val;
} early;

static void *early_read(void *arg)
{
	(void)arg;
	early.val = *(volatile uint64_t *)(early.to + 5 * PAGE);
	return NULL;
}

static void *move_main(void *arg)
{
	syscall(SYS_mremap, arg, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, early.to);
	return NULL;
}

/* The monitor is held, and finds both: the kernel gives it the fault first. */
static bool overtaking_round(unsigned int round)
{
	char *from = map_aligned(THP), *other = map_aligned(THP);
	uint64_t until = test_now() + 100000000;
	pthread_t mover, reader;
	bool window;

	early.to = map_aligned(THP);
	pattern_fill(from, PAGES, round + 1);
	migrate(from, PAGES);
	migrate(other, 1);
	hold_arm("event:done", other, PAGES);
	madvise(other, PAGE, MADV_DONTNEED);
	window = hold_hit();
	assert_int_equal(pthread_create(&mover, NULL, move_main, from), 0);
	while (is_mapped(from) && test_now() < until)
		;
	assert_int_equal(pthread_create(&reader, NULL, early_read, NULL), 0);
	test_sleep_us(1000);
	window = window && !is_mapped(from) && !atomic_load(&hold.go);
	atomic_store(&hold.go, true);
	step("the early reader");
	pthread_join(reader, NULL);
	pthread_join(mover, NULL);
	assert_int_equal(early.val, pattern_word(round + 1, 5, 0));
	assert_int_equal(device_word(early.to + PAGE), pattern_word(round + 1, 1, 0));
	pattern_check(early.to, PAGES, round + 1);
	munmap(early.to, THP);
	munmap(from, THP);
	munmap(other, THP);
	return window;
}

static void a_fault_that_overtakes_its_mremap_waits_for_it(void **state)
{
	unsigned int i, n = 0;

	(void)state;
	BEGIN(20);
	hold_need();
	for (i = 0; i < ROUNDS; i++)
		n += overtaking_round(i);
	print_message("a fault before its mremap in %u of %u\n", n, i);
	if (!n)
		skip_because("the window was never hit");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_dropped_does_not_migrate_before_it_is_gone),
		T(a_new_mapping_has_nothing_of_the_old_one),
		T(a_fault_that_overtakes_its_mremap_waits_for_it),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
