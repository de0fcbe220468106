/* SPDX-License-Identifier: MIT */
/*
 * Sources that more than one has: copy-on-write with relatives living and dead, in each
 * role, and pages that KSM has merged.
 *
 * Tries to break: G1, G4 and G7 (such a page is made exclusive and goes; nobody else
 * sees it change), G8 (a child keeps what it had), and that device memory is free again.
 */
#include "migrate/source.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)

/* ---- a relative that does what it is told ---- */

struct relative {
	pid_t pid;
	int tell;
	int answer;
};

/* 'c' are they the parent's words? 'w' write mine. 'm' are they mine? */
static void relative_main(int orders, int answers, char *mem, uint64_t seed)
{
	char order, answer;

	alarm(60);
	while (read(orders, &order, 1) == 1) {
		answer = order != 'w' && !has_pattern(mem, PAGES, order == 'c' ? seed : seed + 1);
		if (order == 'w')
			pattern_fill(mem, PAGES, seed + 1);
		if (write(answers, &answer, 1) != 1)
			break;
	}
	_exit(0);
}

/* @generations 2: the one between has ended by the time this returns. */
static struct relative relative_new(char *mem, uint64_t seed, int generations)
{
	int orders[2], answers[2], status = 0;
	struct relative relative;

	assert_int_equal(pipe(orders), 0);
	assert_int_equal(pipe(answers), 0);
	step("fork");
	relative.pid = fork();
	if (!relative.pid) {
		close(orders[1]);
		close(answers[0]);
		if (generations > 1 && fork())
			_exit(0);
		relative_main(orders[0], answers[1], mem, seed);
	}
	close(orders[0]);
	close(answers[1]);
	relative.tell = orders[1];
	relative.answer = answers[0];
	if (generations > 1) {
		assert_int_equal(waitpid(relative.pid, &status, 0), relative.pid);
		relative.pid = 0;
	}
	return relative;
}

static void tell(struct relative *relative, char order)
{
	char answer = 99;

	step("asking the relative");
	assert_int_equal(write(relative->tell, &order, 1), 1);
	assert_int_equal(read(relative->answer, &answer, 1), 1);
	if (answer)
		fail_msg("the relative's pages are not what they were ('%c')", order);
}

static void relative_end(struct relative *relative)
{
	close(relative->tell);
	close(relative->answer);
	if (relative->pid)
		child_ends_well(relative->pid);
}

/* ---- in the parent's role ---- */

static void device_writes(char *mem)
{
	char *page = map_anon(PAGE);
	size_t i;

	for (i = 0; i < PAGES; i++) {
		pattern_page(page, 50, i);
		assert_int_equal(dummy_store(dev, addr_of(mem) + i * PAGE, page, PAGE), 0);
	}
	munmap(page, PAGE);
}

static void check_shared_with(int generations)
{
	char *mem = map_aligned(BYTES);
	struct relative relative;

	pattern_fill(mem, PAGES, 1);
	relative = relative_new(mem, 1, generations);
	pattern_fill(mem, PAGES / 3, 1); /* some are exclusive already */
	all_go(mem, PAGES, PAGES);
	device_has(mem, PAGES, 1, 0);
	tell(&relative, 'c');
	device_writes(mem);
	tell(&relative, 'c');
	tell(&relative, 'w');
	device_has(mem, PAGES, 50, 0);
	comes_home(mem, PAGES / 2);
	pattern_check(mem, PAGES, 50);
	tell(&relative, 'm');
	all_go(mem, PAGES, PAGES);
	relative_end(&relative);
	pattern_check(mem, PAGES, 50);
	munmap(mem, BYTES);
}

static void with_a_living_child(void **state)
{
	(void)state;
	BEGIN(30);
	check_shared_with(1);
}

static void with_a_grandchild_whose_parent_is_dead(void **state)
{
	(void)state;
	BEGIN(30);
	check_shared_with(2);
}

/* Nobody else has them, but the kernel does not know that before they are written. */
static void with_a_child_that_is_dead(void **state)
{
	char *mem = map_aligned(BYTES);
	pid_t pid;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 2);
	pid = fork();
	if (!pid)
		_exit(0);
	child_ends_well(pid);
	all_go(mem, PAGES, PAGES);
	device_has(mem, PAGES, 2, 0);
	pattern_check(mem, PAGES, 2);
	munmap(mem, BYTES);
}

/* Holes and zero pages have nothing to share, and must not become pages for it. */
static void shared_pages_between_holes(void **state)
{
	char *mem = map_aligned(BYTES);
	struct relative relative;
	size_t i;

	(void)state;
	BEGIN(30);
	dirty_device();
	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			pattern_page(mem + i * PAGE, 3, i);
		else if (i % 3 == 1)
			touch_read(mem + i * PAGE, 1);
	}
	relative = relative_new(mem, 3, 1);
	all_go(mem, PAGES, PAGES / 3);
	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			device_has(mem + i * PAGE, 1, 3, i);
		else
			device_has_zeros(mem + i * PAGE, 1);
	}
	relative_end(&relative);
	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			pattern_check_from(mem + i * PAGE, 1, 3, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	}
	munmap(mem, BYTES);
}

/* ---- in the child's role ---- */

/* The child is a process like any other: with a device of its own. */
static void child_migrates(char *mem, bool leave)
{
	struct dummy_options opt = { .memory = 2 * BYTES, .scrub = true };
	char *page = map_anon(PAGE);
	struct dummy_device *own;
	unsigned long moved = 0;
	size_t i;

	alarm(60);
	CHECK(!dummy_create(&own, &opt));
	CHECK(!dummy_migrate(own, addr_of(mem), addr_of(mem) + BYTES, &moved));
	CHECK(moved == PAGES);
	CHECK(count_on_cpu(mem, PAGES) == 0);
	CHECK(dummy_memory_pages(own) - dummy_memory_free(own) == PAGES);
	for (i = 0; i < PAGES; i++) {
		CHECK(!dummy_load(own, addr_of(mem) + i * PAGE, page, PAGE));
		CHECK(*(uint64_t *)page == pattern_word(4, i, 0));
		CHECK(*(uint64_t *)(page + PAGE - 8) == pattern_word(4, i, PAGE / 8 - 1));
		if (leave)
			CHECK(!dummy_store(own, addr_of(mem) + i * PAGE, "child", 5));
	}
	if (leave)
		_exit(0);
	CHECK(has_pattern(mem, PAGES, 4));
	CHECK(!dummy_destroy(own));
	CHECK(has_pattern(mem, PAGES, 4));
	_exit(0);
}

static void child_of_a_child(char *mem, bool leave)
{
	int status = 1;
	pid_t pid = fork();

	alarm(60);
	if (!pid)
		child_migrates(mem, leave);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	CHECK(has_pattern(mem, PAGES, 4));
	_exit(0);
}

static void check_child_role(void (*role)(char *mem, bool leave), bool leave)
{
	char *mem = map_aligned(BYTES);
	uint64_t places[PAGES];
	size_t i;
	pid_t pid;

	pattern_fill(mem, PAGES, 4);
	pid = fork();
	if (!pid)
		role(mem, leave);
	for (i = 0; i < PAGES; i++)
		places[i] = place_of(mem + i * PAGE);
	child_ends_well(pid);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(place_of(mem + i * PAGE), places[i]);
	pattern_check(mem, PAGES, 4);
	all_go(mem, PAGES, PAGES);
	pattern_check(mem, PAGES, 4);
	munmap(mem, BYTES);
}

static void in_the_childs_role(void **state)
{
	(void)state;
	BEGIN(40);
	check_child_role(child_migrates, false);
	check_child_role(child_migrates, true);
}

static void in_the_grandchilds_role(void **state)
{
	(void)state;
	BEGIN(40);
	check_child_role(child_of_a_child, false);
	check_child_role(child_of_a_child, true);
}

/* ---- KSM ---- */

#define KSM "/sys/kernel/mm/ksm/"

static char ksm_run[32], ksm_pages[32], ksm_sleep[32];

static void ksm_undo(void)
{
	file_write(KSM "pages_to_scan", ksm_pages);
	file_write(KSM "sleep_millisecs", ksm_sleep);
	file_write(KSM "run", ksm_run);
}

static long ksm_merged(void)
{
	char buf[32];

	return file_read("/proc/self/ksm_merging_pages", buf, sizeof(buf)) ? atol(buf) : -1;
}

/* All the same but for the first word: half of the pages are twins. */
static void ksm_fill(char *mem)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		pattern_page(mem + i * PAGE, 5, i / 2);
}

static void ksm_check(const char *mem)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		pattern_check_from(mem + i * PAGE, 1, 5, i / 2);
}

static void check_merged(char *mem)
{
	size_t i;

	ksm_fill(mem);
	step("waiting for KSM");
	assert_int_equal(file_write(KSM "run", "1"), true);
	for (i = 0; i < 1500 && ksm_merged() < PAGES; i++)
		test_sleep_us(2000);
	assert_int_equal(ksm_merged(), PAGES);
	/* Merged they stay; but no new ones while we look. */
	assert_int_equal(file_write(KSM "run", "0"), true);
	assert_int_equal(place_of(mem), place_of(mem + PAGE));
	all_go(mem, PAGES, PAGES);
	for (i = 0; i < PAGES; i++)
		device_has(mem + i * PAGE, 1, 5, i / 2);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 1), 0);
	assert_int_equal(*(uint64_t *)mem, pattern_word(5, 0, 0));
	assert_int_equal(*(uint64_t *)(mem + PAGE), 1);
	*(uint64_t *)(mem + PAGE) = pattern_word(5, 0, 0);
	ksm_check(mem);
}

/* While it merges it may keep some; none is lost, and none is in two places. */
static void check_merging(char *mem)
{
	uint64_t end = test_now() + 400000000ull;
	size_t moved;

	ksm_fill(mem);
	assert_int_equal(file_write(KSM "run", "1"), true);
	while (test_now() < end) {
		moved = ask(mem, BYTES);
		assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), moved);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES - moved);
		ksm_check(mem);
		test_sleep_us(5000);
	}
	assert_int_equal(file_write(KSM "run", "0"), true);
}

static void merged_by_ksm(void **state)
{
	int lock = lock_file(KSM "run");
	char *mem = map_aligned(BYTES);
	struct undo undo;

	(void)state;
	BEGIN(40);
	if (lock < 0 || geteuid() || ksm_merged() < 0 ||
	    !file_read(KSM "run", ksm_run, sizeof(ksm_run)) ||
	    !file_read(KSM "pages_to_scan", ksm_pages, sizeof(ksm_pages)) ||
	    !file_read(KSM "sleep_millisecs", ksm_sleep, sizeof(ksm_sleep)) ||
	    madvise(mem, BYTES, MADV_MERGEABLE))
		skip_because("KSM cannot be had, or cannot be told to run");
	assert_true(undo_at_end(&undo, ksm_undo));
	file_write(KSM "pages_to_scan", "2000");
	file_write(KSM "sleep_millisecs", "1");
	check_merged(mem);
	check_merging(mem);
	undo_now(&undo);
	munmap(mem, BYTES);
	close(lock);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(with_a_living_child),
		T(with_a_grandchild_whose_parent_is_dead),
		T(with_a_child_that_is_dead),
		T(shared_pages_between_holes),
		T(in_the_childs_role),
		T(in_the_grandchilds_role),
		T(merged_by_ksm),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
