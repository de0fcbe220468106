/* SPDX-License-Identifier: MIT */
/*
 * Which pages has the device written? hmm_mirror_range_dirty(), _isdirty(), _discard().
 *
 * Tries to break: that no write of a device is ever missed (G4 for whoever saves what
 * is dirty), that a bit goes where its content goes, and ends with it; G11.
 */
#include "mini.h"

#define PAGES 16

static struct mini *dev, *other;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = mini_new(4 * PAGES);
	other = mini_new(4 * PAGES);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	mini_free(other);
	munmap(mem, PAGES * PAGE);
	return 0;
}

static void store(struct mini *of, size_t page, uint64_t value)
{
	while (!mini_store(of, mem + page * PAGE, value))
		assert_int_equal(mini_event(of, mem + page * PAGE, 1, HMM_DEVICE_WFAULT, NULL), 0);
}

/* One letter a page from @at on: 'd' dirty, '-' not. Asking clears. */
static void expect_at(struct mini *of, const char *at, const char *want)
{
	size_t i, n = strlen(want);
	uint8_t dirty[1024];

	memset(dirty, 0xee, sizeof(dirty));
	assert_int_equal(hmm_mirror_range_isdirty(&of->mirror, addr_of(at), addr_of(at) + n * PAGE,
						  dirty),
			 0);
	for (i = 0; i < n; i++)
		if (dirty[i] != (want[i] == 'd'))
			fail_msg("page %zu of %s: %d", i, want, dirty[i]);
	assert_int_equal(dirty[n], 0xee);
}

static void expect(const char *want)
{
	expect_at(dev, mem, want);
}

static void begin_tracking(void)
{
	uint8_t dirty[PAGES];

	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(mem),
						  addr_of(mem) + PAGES * PAGE, dirty),
			 0);
}

static void bits_are_taken_and_cleared(void **state)
{
	unsigned long asked;

	(void)state;
	BEGIN(10);
	expect("----"); /* nothing mirrored */
	assert_int_equal(dev->updates[HMM_ISDIRTY], 0);
	assert_int_equal(mini_event(dev, mem, 8, HMM_DEVICE_WFAULT, NULL), 0);
	expect("--------"); /* may be written, was not */
	store(dev, 1, 7);
	store(dev, 3, 7);
	store(dev, 3, 8);
	asked = dev->updates[HMM_ISDIRTY];
	expect_at(dev, mem + PAGE, "d");
	assert_int_equal(dev->updates[HMM_ISDIRTY], asked + 1);
	expect("---d----");
	expect("--------");
	assert_int_equal(*(uint64_t *)(mem + 3 * PAGE), 8);
}

/* The question takes leave to write away, or the next write would not be seen. */
static void a_write_after_the_question_shows_in_the_next(void **state)
{
	unsigned long faults;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 5; i++) {
		store(dev, 2, (uint64_t)i);
		expect("--d-");
		assert_false(mini_store(dev, mem + 2 * PAGE, 99));
		assert_true(hmm_pte_test_valid(mini_get(dev, mem + 2 * PAGE)));
		/* Nor does a read give it back. */
		assert_int_equal(mini_event(dev, mem, 4, HMM_DEVICE_RFAULT, NULL), 0);
		assert_false(mini_store(dev, mem + 2 * PAGE, 99));
	}
	faults = dev->updates[HMM_DEVICE_WFAULT];
	store(dev, 2, 5);
	assert_int_equal(dev->updates[HMM_DEVICE_WFAULT], faults + 1);
	expect("--d-");
}

static void each_mirror_has_its_own(void **state)
{
	(void)state;
	BEGIN(10);
	store(dev, 0, 1);
	store(other, 1, 1);
	expect("d-");
	expect_at(other, mem, "-d");
	expect("--");
}

/* ---- what happens between the write and the question ---- */

static void protect(int prot)
{
	assert_int_equal(mprotect(mem, PAGES * PAGE, prot), 0);
}

static void kept_by_mprotect(void **state)
{
	(void)state;
	BEGIN(10);
	begin_tracking();
	store(dev, 1, 5);
	protect(PROT_READ);
	protect(PROT_READ | PROT_WRITE);
	expect("-d-");
	store(dev, 1, 5);
	protect(PROT_NONE);
	protect(PROT_READ | PROT_WRITE);
	assert_int_equal(mini_get(dev, mem + PAGE), 0);
	expect("-d-");
	expect("---");
	store(dev, 2, 5);
	protect(PROT_NONE);
	protect(PROT_READ | PROT_WRITE);
	store(dev, 0, 5); /* and a bit in an entry beside it */
	assert_int_equal(mini_event(dev, mem + 2 * PAGE, 1, HMM_DEVICE_RFAULT, NULL), 0);
	expect("d-d");
}

static void kept_by_fork(void **state)
{
	pid_t pid;

	(void)state;
	BEGIN(10);
	begin_tracking();
	store(dev, 1, 5);
	pid = fork();
	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	expect("-d-");
}

static void kept_by_migration(void **state)
{
	(void)state;
	BEGIN(10);
	begin_tracking();
	store(dev, 1, 5);
	mini_migrate(other, mem, 4);
	expect("-d--");
	store(dev, 1, 6); /* comes home for it */
	assert_int_equal(*(uint64_t *)(mem + PAGE), 6);
	mini_migrate(dev, mem, 4);
	expect("-d--");
	store(dev, 2, 7); /* in the device's memory */
	assert_true(hmm_pte_test_device(mini_get(dev, mem + 2 * PAGE)));
	expect("--d-");
	store(dev, 3, 8);
	assert_int_equal(*(uint64_t *)(mem + 3 * PAGE), 8); /* home, by a touch */
	assert_int_equal(mini_get(dev, mem + 3 * PAGE), 0);
	expect("---d");
	store(dev, 2, 9);
	assert_int_equal(mini_event(dev, mem, 4, HMM_COPY_FROM_DEVICE, NULL), 0);
	assert_int_equal(*(uint64_t *)(mem + 2 * PAGE), 9);
	expect("--d-");
	expect("----");
}

static void moved_by_mremap(void **state)
{
	char *to = map_aligned(PAGES * PAGE), *back;

	(void)state;
	BEGIN(10);
	begin_tracking();
	memset(to, 1, PAGES * PAGE);
	assert_int_equal(mini_event(dev, to, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, addr_of(to) + 3 * PAGE,
						addr_of(to) + 5 * PAGE),
			 0);
	store(dev, 2, 5);
	store(dev, 4, 5);
	assert_ptr_equal(mremap(mem, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	expect_at(dev, to, "--d-d"); /* 3: its content is gone, 4 had none come over it */
	expect_at(dev, mem + 4 * PAGE, "d");
	/* Left behind is nothing. */
	back = mremap(to, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	assert_ptr_not_equal(back, MAP_FAILED);
	expect_at(dev, back, "----");
	munmap(back, 4 * PAGE);
	munmap(to, PAGES * PAGE);
}

static void moved_without_its_old_place_unmapped(void **state)
{
	char *to;

	(void)state;
	BEGIN(10);
	begin_tracking();
	store(dev, 2, 5);
	mini_migrate(dev, mem + 3 * PAGE, 1);
	store(dev, 3, 6);
	to = mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	assert_ptr_not_equal(to, MAP_FAILED);
	expect("------");
	expect_at(dev, to, "--dd--");
	assert_int_equal(*(uint64_t *)(to + 3 * PAGE), 6);
	munmap(to, PAGES * PAGE);
}

static void ends_with_the_content(void **state)
{
	(void)state;
	BEGIN(10);
	begin_tracking();
	store(dev, 1, 5);
	store(dev, 2, 5);
	store(dev, 3, 5);
	store(dev, 4, 5);
	assert_int_equal(madvise(mem + PAGE, PAGE, MADV_DONTNEED), 0);
	assert_ptr_equal(mmap(mem + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + 2 * PAGE);
	expect("---dd-");
	/* Also of what was kept. */
	store(dev, 1, 5);
	store(dev, 2, 5);
	store(dev, 3, 5);
	protect(PROT_NONE);
	protect(PROT_READ | PROT_WRITE);
	assert_int_equal(madvise(mem + PAGE, PAGE, MADV_DONTNEED), 0);
	assert_ptr_equal(mmap(mem + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + 2 * PAGE);
	expect("---d--");
}

/* Who never asks pays nothing: before the first question a bit goes with its entry. */
static void not_tracked_before_the_first_question(void **state)
{
	(void)state;
	BEGIN(10);
	store(dev, 1, 5);
	store(dev, 2, 5);
	assert_int_equal(mprotect(mem + PAGE, PAGE, PROT_NONE), 0);
	expect("--d-");
	store(dev, 2, 5);
	assert_int_equal(mprotect(mem + 2 * PAGE, PAGE, PROT_NONE), 0);
	expect("--d-");
	protect(PROT_READ | PROT_WRITE);
}

/* ---- hmm_mirror_range_dirty() ---- */

static void said_of_a_range(void **state)
{
	(void)state;
	BEGIN(10);
	assert_int_equal(mini_event(dev, mem + PAGE, 4, HMM_DEVICE_RFAULT, NULL), 0);
	assert_int_equal(
		hmm_mirror_range_dirty(&dev->mirror, addr_of(mem), addr_of(mem) + 3 * PAGE), 0);
	expect("-dd----"); /* where it has an entry */
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, 0, 1ul << 47), 0);
	expect("-dddd--");
	expect("-------");
}

static int results[4];

/* Of its event's range, or what the event is not for. */
static void say_dirty(struct mini *of, const struct hmm_event *event)
{
	if (event->etype != HMM_MIGRATE)
		return;
	results[0] = hmm_mirror_range_dirty(&of->mirror, event->start, event->end);
	results[1] = hmm_mirror_range_dirty(&of->mirror, event->start, event->end + PAGE);
	results[2] = hmm_mirror_range_dirty(&other->mirror, event->start, event->end);
	results[3] = hmm_mirror_range_dirty(&of->mirror, event->start - PAGE, event->end);
}

static void said_in_an_op(void **state)
{
	(void)state;
	BEGIN(10);
	begin_tracking();
	assert_int_equal(mini_event(dev, mem, 4, HMM_DEVICE_WFAULT, NULL), 0);
	assert_int_equal(mini_event(other, mem, 4, HMM_DEVICE_WFAULT, NULL), 0);
	mini_hook(dev, say_dirty);
	assert_int_equal(mprotect(mem + PAGE, PAGE, PROT_NONE), 0);
	mini_hook(dev, NULL);
	assert_int_equal(results[0], 0);
	assert_int_equal(results[1], -EDEADLK);
	assert_int_equal(results[2], -EDEADLK);
	assert_int_equal(results[3], -EDEADLK);
	expect("-d--");
	expect_at(other, mem, "----");
	protect(PROT_READ | PROT_WRITE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(bits_are_taken_and_cleared),
		T(a_write_after_the_question_shows_in_the_next),
		T(each_mirror_has_its_own),
		T(kept_by_mprotect),
		T(kept_by_fork),
		T(kept_by_migration),
		T(moved_by_mremap),
		T(moved_without_its_old_place_unmapped),
		T(ends_with_the_content),
		T(not_tracked_before_the_first_question),
		T(said_of_a_range),
		T(said_in_an_op),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
