/* SPDX-License-Identifier: MIT */
/*
 * hmm_range_done(): false once anything has happened to the range, true if not; and
 * what happens next reaches update(), though the mirror page table has no entry.
 *
 * Tries to break: G2 (a driver enters what is not so any more), G3 (what comes after a
 * call sees its effect: so the call was heard of), G10 (and what is nobody's is not).
 */
#include "mini.h"

#define PAGES 12
#define FIRST 4 /* of the snapshot */
#define END 8

static struct mini *dev, *other;
static char *mem, *spare;
static hmm_pfn_t pfns[PAGES];

static int setup(void **state)
{
	(void)state;
	dev = mini_new(4 * PAGES); /* a page that came home is freed a moment later */
	other = mini_new(4 * PAGES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	mini_free(other);
	return 0;
}

/* How many more update() calls, once all that happened has reached the device. */
static unsigned long told_since(struct mini *of, unsigned long *told)
{
	unsigned long now, before = *told;

	hmm_mirror_sync(&of->mirror);
	now = mini_told(of);
	*told = now;
	return now - before;
}

/* ---- what can happen to one page ---- */

static void map_over(char *at)
{
	assert_ptr_equal(mmap(at, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 at);
}

static void unmap(char *at)
{
	assert_int_equal(munmap(at, PAGE), 0);
}

static void read_only(char *at)
{
	assert_int_equal(mprotect(at, PAGE, PROT_READ), 0);
}

static void no_access(char *at)
{
	assert_int_equal(mprotect(at, PAGE, PROT_NONE), 0);
}

static void drop(char *at)
{
	assert_int_equal(madvise(at, PAGE, MADV_DONTNEED), 0);
}

static void let_go(char *at)
{
	assert_int_equal(madvise(at, PAGE, MADV_FREE), 0);
}

static void move_away(char *at)
{
	assert_ptr_equal(mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, spare), spare);
}

static void move_onto(char *at)
{
	assert_ptr_equal(mremap(spare, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at), at);
}

static void to_this_device(char *at)
{
	mini_migrate(dev, at, 1);
}

static void to_another_device(char *at)
{
	mini_migrate(other, at, 1);
}

static void discard(char *at)
{
	assert_int_equal(hmm_mirror_range_discard(&dev->mirror, addr_of(at), addr_of(at) + PAGE),
			 0);
}

static void ask_dirty(char *at)
{
	uint8_t dirty;

	assert_int_equal(
		hmm_mirror_range_isdirty(&dev->mirror, addr_of(at), addr_of(at) + PAGE, &dirty), 0);
}

/* All of it was on this device. */
static void back_by_request(char *at)
{
	assert_int_equal(mini_event(dev, at, 1, HMM_COPY_FROM_DEVICE, NULL), 0);
}

static void back_by_touch(char *at)
{
	*(volatile char *)at = 1;
}

static const struct {
	const char *name;
	void (*act)(char *at);
	bool away; /* begins on the device */
} changes[] = {
	{ "munmap", unmap, false },
	{ "mmap over", map_over, false },
	{ "mprotect read-only", read_only, false },
	{ "mprotect none", no_access, false },
	{ "MADV_DONTNEED", drop, false },
	{ "MADV_FREE", let_go, false },
	{ "mremap away", move_away, false },
	{ "mremap onto", move_onto, false },
	{ "to this device", to_this_device, false },
	{ "to another device", to_another_device, false },
	{ "discard", discard, false },
	{ "isdirty", ask_dirty, false },
	{ "back by request", back_by_request, true },
	{ "back by touch", back_by_touch, true },
	{ "munmap of a device page", unmap, true },
	{ "MADV_DONTNEED of a device page", drop, true },
	{ "mremap of a device page", move_away, true },
};

#define CHANGES (sizeof(changes) / sizeof(changes[0]))

/* A snapshot of [FIRST, END); what happens to page @at; is it still good? */
static void change_one(unsigned int c, size_t at, bool fault)
{
	bool good = at < FIRST || at >= END, done;
	struct hmm_range range;

	mem = map_aligned(PAGES * PAGE);
	spare = map_anon(PAGE);
	pattern_fill(mem, PAGES, 1);
	spare[0] = 1;
	if (changes[c].away)
		mini_migrate(dev, mem, PAGES);
	range = mini_range(dev, mem + FIRST * PAGE, END - FIRST, fault ? HMM_RANGE_WRITE : 0, pfns);
	hmm_mirror_sync(&dev->mirror);
	assert_int_equal(fault ? hmm_range_fault(&range) : hmm_range_snapshot(&range), 0);
	changes[c].act(mem + at * PAGE);
	hmm_mirror_sync(&dev->mirror); /* read is not recorded: see mini_recorded() */
	done = hmm_range_done(&range);
	if (done != good)
		fail_msg("%s, page %zu, %s: done() gives %d", changes[c].name, at,
			 fault ? "fault" : "snapshot", done);
	assert_false(hmm_range_done(&range)); /* once */
	munmap(mem, PAGES * PAGE);
	munmap(spare, PAGE);
	hmm_mirror_sync(&dev->mirror); /* then its device pages are free */
}

static void one_page_of_it_or_next_to_it(void **state)
{
	static const size_t pages[] = { FIRST - 1, FIRST, FIRST + 2, END - 1, END };
	unsigned int c, i;

	(void)state;
	BEGIN(30);
	for (c = 0; c < CHANGES; c++)
		for (i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
			step(changes[c].name);
			change_one(c, pages[i], false);
			change_one(c, pages[i], true);
		}
}

/* Nothing that happens to the pages alone. */
static void true_while_nothing_happens(void **state)
{
	struct hmm_range range;
	char *more;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	range = mini_range(dev, mem, PAGES, HMM_RANGE_WRITE, pfns);
	assert_int_equal(hmm_range_snapshot(&range), 0);
	mem[PAGE] = 2;
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_RFAULT, NULL), 0);
	assert_int_equal(mini_event(other, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	more = map_anon(PAGES * PAGE);
	assert_int_equal(mini_event(dev, more, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	munmap(more, PAGES * PAGE);
	hmm_mirror_sync(&dev->mirror);
	assert_true(hmm_range_done(&range));
	munmap(mem, PAGES * PAGE);
}

static void fork_takes_leave_to_write(void **state)
{
	unsigned long told = 0;
	struct hmm_range range;
	pid_t pid;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	range = mini_range(dev, mem, PAGES, HMM_RANGE_WRITE, pfns);
	assert_int_equal(hmm_range_snapshot(&range), 0);
	told_since(dev, &told);
	pid = fork();
	if (!pid)
		_exit(0);
	assert_false(hmm_range_done(&range));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(told_since(dev, &told)); /* twice, where the kernel has an event for it */
	assert_int_equal(mini_last(dev).etype, HMM_FORK);
	/* It may still be read: the next change is told. */
	drop(mem);
	assert_int_equal(told_since(dev, &told), 1);
	munmap(mem, PAGES * PAGE);
}

/* Several at once: each for itself, and each mirror's own. */
static void each_snapshot_for_itself(void **state)
{
	struct hmm_range low, high, all, theirs, more;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	low = mini_range(dev, mem, 6, 0, pfns);
	high = mini_range(dev, mem + 6 * PAGE, 6, 0, pfns);
	all = mini_range(dev, mem, PAGES, 0, pfns);
	more = theirs = mini_range(other, mem, PAGES, 0, pfns);
	assert_int_equal(hmm_range_snapshot(&low), 0);
	assert_int_equal(hmm_range_snapshot(&high), 0);
	assert_int_equal(hmm_range_snapshot(&all), 0);
	assert_int_equal(hmm_range_snapshot(&theirs), 0);
	assert_int_equal(hmm_range_snapshot(&more), 0);
	discard(mem + 7 * PAGE);
	ask_dirty(mem + 8 * PAGE);
	assert_true(hmm_range_done(&more)); /* it was the other mirror's business */
	assert_true(hmm_range_done(&low));
	assert_false(hmm_range_done(&high));
	assert_false(hmm_range_done(&all));
	assert_int_equal(hmm_range_snapshot(&all), 0);
	drop(mem + 2 * PAGE);
	hmm_mirror_sync(&dev->mirror);
	assert_false(hmm_range_done(&theirs));
	assert_false(hmm_range_done(&all));
	munmap(mem, PAGES * PAGE);
}

/* ---- update() ---- */

static void later_changes_are_told(void **state)
{
	unsigned long told = 0, theirs = 0;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	told_since(other, &theirs);
	told_since(dev, &told);
	drop(mem); /* nobody has asked for it */
	assert_int_equal(told_since(dev, &told), 0);
	mini_snapshot(dev, mem + FIRST * PAGE, END - FIRST, 0, pfns);
	read_only(mem + FIRST * PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	assert_int_equal(mini_last(dev).etype, HMM_WRITE_PROTECT);
	assert_int_equal(mini_last(dev).start, addr_of(mem) + FIRST * PAGE);
	read_only(mem + FIRST * PAGE); /* it may read still */
	assert_int_equal(told_since(dev, &told), 1);
	drop(mem + (FIRST - 1) * PAGE);
	drop(mem + END * PAGE);
	assert_int_equal(told_since(dev, &told), 0);
	drop(mem + (FIRST + 1) * PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	assert_int_equal(mini_last(dev).etype, HMM_MIGRATE);
	drop(mem + (FIRST + 1) * PAGE); /* it has none: it was told */
	assert_int_equal(told_since(dev, &told), 0);
	mini_migrate(other, mem + (END - 1) * PAGE, 1);
	assert_int_equal(told_since(dev, &told), 1);
	unmap(mem + (FIRST + 2) * PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	assert_int_equal(mini_last(dev).etype, HMM_MUNMAP);
	move_away(mem + FIRST * PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	assert_int_equal(munmap(mem, PAGES * PAGE), 0);
	assert_int_equal(told_since(dev, &told), 0); /* nothing of it is left */
	assert_int_equal(told_since(other, &theirs), 1); /* the page it had */
	munmap(spare, PAGE);
}

/* A snapshot is enough: it need not be done, or turn out good. */
static void a_snapshot_that_failed_is_told_of_too(void **state)
{
	struct hmm_range range;
	unsigned long told = 0;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	range = mini_range(dev, mem, PAGES, 0, pfns);
	assert_int_equal(hmm_range_snapshot(&range), 0);
	told_since(dev, &told);
	drop(mem);
	assert_int_equal(told_since(dev, &told), 1);
	assert_false(hmm_range_done(&range));
	drop(mem + PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	munmap(mem, PAGES * PAGE);
}

static void what_was_discarded_is_not_told(void **state)
{
	unsigned long told = 0;

	(void)state;
	BEGIN(10);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	mini_snapshot(dev, mem, PAGES, 0, pfns);
	told_since(dev, &told);
	assert_int_equal(hmm_mirror_range_discard(&dev->mirror, addr_of(mem) + 2 * PAGE,
						  addr_of(mem) + 10 * PAGE),
			 0);
	assert_int_equal(told_since(dev, &told), 0);
	drop(mem + 2 * PAGE);
	read_only(mem + 9 * PAGE);
	assert_int_equal(told_since(dev, &told), 0);
	drop(mem + PAGE);
	drop(mem + 10 * PAGE);
	assert_int_equal(told_since(dev, &told), 2);
	/* A new one, in the middle, joins no gap. */
	mini_snapshot(dev, mem + 5 * PAGE, 1, 0, pfns);
	drop(mem + 4 * PAGE);
	drop(mem + 6 * PAGE);
	assert_int_equal(told_since(dev, &told), 0);
	drop(mem + 5 * PAGE);
	assert_int_equal(told_since(dev, &told), 1);
	munmap(mem, PAGES * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(one_page_of_it_or_next_to_it),
		T(true_while_nothing_happens),
		T(fork_takes_leave_to_write),
		T(each_snapshot_for_itself),
		T(later_changes_are_told),
		T(a_snapshot_that_failed_is_told_of_too),
		T(what_was_discarded_is_not_told),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
