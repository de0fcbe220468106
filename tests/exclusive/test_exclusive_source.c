/* SPDX-License-Identifier: MIT */
/*
 * Every kind of page that a device can want for itself: what it gets, what is in it, and what
 * the CPU finds afterwards. What cannot be had is left out, and stays as it is.
 *
 * Tries to break: G1, G4, G7, G8.
 */
#include "migrate/source.h"
#include "migrate/swap.h"

#define PAGES 96
#define BYTES (PAGES * PAGE)
#define IN_HUGE (THP / PAGE)

/* Each page of the range has a word of the device's, which the CPU reads. */
static void add_to(const char *mem, size_t pages, uint64_t seed, bool zeros)
{
	uint64_t old;
	size_t i;

	step("dummy_atomic_add_u64");
	for (i = 0; i < pages; i++) {
		uint64_t at = addr_of(mem) + i * PAGE + 8;

		assert_int_equal(dummy_atomic_add_u64(dev, at, i + 5, &old), 0);
		assert_int_equal(old, zeros ? 0 : pattern_word(seed, i, 1));
	}
}

static void find_added(char *mem, size_t pages, uint64_t seed, bool zeros)
{
	size_t i;

	step("reading");
	for (i = 0; i < pages; i++) {
		uint64_t *word = (uint64_t *)(mem + i * PAGE + 8);

		assert_int_equal(*word, (zeros ? 0 : pattern_word(seed, i, 1)) + i + 5);
		*word -= i + 5;
	}
	if (zeros)
		assert_true(is_zero(mem, pages * PAGE));
	else
		pattern_check(mem, pages, seed);
}

static size_t take(const char *mem, size_t pages)
{
	unsigned long n = 4711;
	int ret;

	step("dummy_exclusive");
	ret = dummy_exclusive(dev, addr_of(mem), addr_of(mem) + pages * PAGE, &n);
	if (ret == -EBUSY)
		return 0;
	assert_int_equal(ret, 0);
	return n;
}

/* All of it can be had; content is the pattern of @seed, or zeros. */
static void all_is_given(char *mem, size_t pages, uint64_t seed, bool zeros)
{
	unsigned long held;

	assert_int_equal(take(mem, pages), pages);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_EXCLUSIVE), pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
	add_to(mem, pages, seed, zeros);
	assert_int_equal(
		dummy_exclusive_pages(dev, addr_of(mem), addr_of(mem) + pages * PAGE, &held), 0);
	assert_int_equal(held, pages);
	find_added(mem, pages, seed, zeros);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_EXCLUSIVE), 0);
	assert_int_equal(count_on_cpu(mem, pages), pages);
}

/* None of it can, and it is where it was. */
static void nothing_is_given(char *mem, size_t pages, int error)
{
	uint64_t place = place_of(mem);

	assert_int_equal(take(mem, pages), 0);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_EXCLUSIVE), 0);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_STAGED), 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), error);
	assert_int_equal(place_of(mem), place);
}

static void pages_holes_and_zero_pages(void **state)
{
	char *mem = map_aligned(BYTES);
	size_t i;

	(void)state;
	BEGIN(30);
	all_is_given(mem, 8, 0, true); /* never touched */
	assert_int_equal(munmap(mem, BYTES), 0);
	mem = map_aligned(BYTES);
	touch_read(mem, 8);
	all_is_given(mem, 8, 0, true);
	pattern_fill(mem, PAGES, 1);
	all_is_given(mem, PAGES, 1, false);
	for (i = 0; i < PAGES; i += 3)
		madvise(mem + i * PAGE, PAGE, MADV_DONTNEED);
	assert_int_equal(take(mem, PAGES), PAGES);
	for (i = 0; i < PAGES; i++)
		if (i % 3)
			pattern_check_from(mem + i * PAGE, 1, 1, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	munmap(mem, BYTES);
}

static char *huge_new(uint64_t seed)
{
	char value[64] = "", *mem = map_aligned(THP);

	if (!madvise(mem, THP, MADV_HUGEPAGE))
		mem[0] = 1;
	if (!smaps_value(mem, "AnonHugePages", value, sizeof(value)) || atoi(value) != THP / 1024)
		skip_because("no transparent huge pages to be had");
	if (seed)
		pattern_fill(mem, IN_HUGE, seed);
	return mem;
}

static void huge_pages(void **state)
{
	char *mem;

	(void)state;
	BEGIN(30);
	mem = huge_new(3);
	all_is_given(mem, IN_HUGE, 3, false);
	munmap(mem, THP);
	mem = huge_new(4);
	assert_int_equal(take(mem + 7 * PAGE, 3), 3); /* in part */
	assert_int_equal(count_on_cpu(mem, IN_HUGE), IN_HUGE - 3);
	pattern_check(mem, 7, 4);
	assert_int_equal(count_where(mem, IN_HUGE, HMM_WHERE_EXCLUSIVE), 3);
	all_is_given(mem, IN_HUGE, 4, false);
	munmap(mem, THP);
	mem = map_aligned(THP);
	madvise(mem, THP, MADV_HUGEPAGE);
	touch_read(mem, 1); /* the huge zero page, if there is one */
	all_is_given(mem, IN_HUGE, 0, true);
	munmap(mem, THP);
}

/* A huge page that one page of has gone home from; and its content when it goes bit by bit. */
static void huge_pages_that_come_home_in_parts(void **state)
{
	char *mem;
	size_t i;

	(void)state;
	BEGIN(30);
	mem = huge_new(5);
	assert_int_equal(take(mem, IN_HUGE), IN_HUGE);
	for (i = 0; i < IN_HUGE; i += 37)
		pattern_check_from(mem + i * PAGE, 1, 5, i);
	add_to(mem, IN_HUGE, 5, false);
	assert_int_equal(munmap(mem + 100 * PAGE, 50 * PAGE), 0);
	find_added(mem, 100, 5, false);
	assert_int_equal(take(mem, 100), 100);
	munmap(mem, THP);
}

static void check_swapped(bool *swapped)
{
	char *mem = map_aligned(BYTES);

	pattern_fill(mem, PAGES, 6);
	*swapped = swap_out(mem, PAGES);
	if (*swapped)
		all_is_given(mem, PAGES, 6, false);
	/* Some of it, between pages that are there. */
	if (*swapped && swap_out(mem + 10 * PAGE, 20))
		all_is_given(mem, PAGES, 6, false);
	munmap(mem, BYTES);
}

static void pages_in_swap(void **state)
{
	(void)state;
	with_swap(check_swapped);
}

static void shared_with_a_living_child(void **state)
{
	char *mem = map_aligned(BYTES), c;
	int go[2];
	pid_t pid;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 7);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		alarm(60);
		close(go[1]);
		CHECK(read(go[0], &c, 1) == 1);
		CHECK(has_pattern(mem, PAGES, 7));
		_exit(0);
	}
	assert_int_equal(take(mem, PAGES), PAGES);
	add_to(mem, PAGES, 7, false);
	assert_int_equal(write(go[1], "", 1), 1);
	child_ends_well(pid);
	find_added(mem, PAGES, 7, false);
	close(go[0]);
	close(go[1]);
	munmap(mem, BYTES);
}

static void of_the_same_content(void **state)
{
	char *mem = map_aligned(BYTES);
	size_t i;

	(void)state;
	BEGIN(30);
	if (madvise(mem, BYTES, MADV_MERGEABLE))
		skip_because("the kernel has no KSM");
	for (i = 0; i < PAGES; i++)
		pattern_page(mem + i * PAGE, 8, 0);
	test_sleep_us(300000); /* it merges, if it runs */
	assert_int_equal(take(mem, PAGES), PAGES);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem) + i * PAGE, i, NULL), 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), pattern_word(8, 0, 0) + i);
	munmap(mem, BYTES);
}

static void locked(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 9);
	if (syscall(SYS_mlock, mem, 4 * PAGE)) /* a sanitizer has none */
		skip_because("no memory may be locked");
	nothing_is_given(mem, 4, -EBUSY);
	assert_int_equal(take(mem, PAGES), PAGES - 4);
	if (getenv("HMM_TEST_USER")) /* the kernel does not wait for us */
		touch_read(mem + 8 * PAGE, 4);
	assert_int_equal(syscall(SYS_mlock, mem + 8 * PAGE, 4 * PAGE), 0); /* it comes home */
	assert_int_equal(count_on_cpu(mem + 8 * PAGE, 4), 4);
	pattern_check(mem, PAGES, 9);
	syscall(SYS_munlock, mem, BYTES);
	all_is_given(mem, PAGES, 9, false);
	munmap(mem, BYTES);
}

static void not_writable(void **state)
{
	char *mem = map_aligned(BYTES);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 10);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	nothing_is_given(mem, PAGES, -EOPNOTSUPP);
	assert_int_equal(mprotect(mem, BYTES, PROT_NONE), 0);
	nothing_is_given(mem, PAGES, -EOPNOTSUPP);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	/* It becomes so, and the device has it. */
	assert_int_equal(take(mem, PAGES), PAGES);
	assert_int_equal(mprotect(mem, BYTES / 2, PROT_READ), 0);
	assert_int_equal(mprotect(mem + BYTES / 2, BYTES / 2, PROT_NONE), 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), -EOPNOTSUPP);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem) + BYTES / 2, 1, NULL), -EOPNOTSUPP);
	pattern_check(mem, PAGES / 2, 10);
	device_has(mem, PAGES / 2, 10, 0);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	pattern_check(mem, PAGES, 10);
	munmap(mem, BYTES);
}

/* In this device's memory first, and then not to be written. */
static void not_writable_and_in_the_device(void **state)
{
	char *mem = map_aligned(BYTES);
	uint64_t now;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 11);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	assert_int_equal(take(mem, PAGES), 0);
	now = test_now();
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(mem), 1, NULL), -EOPNOTSUPP);
	if (test_now() - now > 50000000)
		print_message("a no took long\n");
	pattern_check(mem, PAGES, 11);
	munmap(mem, BYTES);
}

static void of_a_file_or_shared(void **state)
{
	int fd = memfd_create("exclusive", MFD_CLOEXEC), file = open("/proc/self/exe", O_RDONLY);
	char *mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 12);
	nothing_is_given(mem, PAGES, -EOPNOTSUPP);
	munmap(mem, BYTES);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	pattern_fill(mem, PAGES, 12);
	nothing_is_given(mem, PAGES, -EOPNOTSUPP);
	munmap(mem, BYTES);
	mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	mem[0] = 1;
	nothing_is_given(mem, 4, -EOPNOTSUPP);
	munmap(mem, 4 * PAGE);
	close(file);
	close(fd);
}

static void of_the_stack_or_the_heap(void **state)
{
	char local[2 * PAGE], *page = (char *)((addr_of(local) + PAGE - 1) & ~(PAGE - 1));
	char *old = sbrk(0), *mem = (char *)((addr_of(old) + PAGE - 1) & ~(PAGE - 1));

	(void)state;
	BEGIN(30);
	page[0] = 1;
	assert_int_equal(take(page, 1), 0);
	assert_int_equal(dummy_atomic_add_u64(dev, addr_of(page), 1, NULL), -EOPNOTSUPP);
	assert_int_equal(page[0], 1);
	if (sbrk((intptr_t)(mem + 8 * PAGE - old)) != old)
		skip_because("the heap does not grow here");
	pattern_fill(mem, 8, 13);
	all_is_given(mem, 8, 13, false);
}

static void exclusive_already_or_away(void **state)
{
	struct dummy_device *other = device_new(128);
	char *mem = map_aligned(BYTES);
	unsigned long pages;
	uint64_t val;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 14);
	assert_int_equal(take(mem, PAGES), PAGES);
	add_to(mem, PAGES, 14, false);
	assert_int_equal(take(mem, PAGES), PAGES); /* again */
	assert_int_equal(dummy_exclusive(other, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, PAGES);
	assert_int_equal(dummy_exclusive_pages(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, 0);
	assert_int_equal(dummy_load_u64(other, addr_of(mem) + 8, &val), 0);
	assert_int_equal(val, pattern_word(14, 0, 1) + 5);
	find_added(mem, PAGES, 14, false);
	/* In the other's memory: home, and here. In its own: as it is. */
	migrate_all(other, mem, PAGES / 2);
	migrate_all(dev, mem + BYTES / 2, PAGES / 2);
	assert_int_equal(take(mem, PAGES), PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_EXCLUSIVE), PAGES / 2);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES / 2);
	assert_int_equal(device_used(other), 0);
	add_to(mem, PAGES, 14, false);
	/* To the other's memory from there. */
	migrate_all(other, mem, PAGES);
	find_added(mem, PAGES, 14, false);
	munmap(mem, BYTES);
	wait_until(device_used(other) == 0);
	assert_int_equal(dummy_destroy(other), 0);
}

/* All that there is, when some of it is of each kind. */
static void a_range_of_many_kinds(void **state)
{
	char *mem = map_aligned(4 * THP);
	size_t i, pages = 4 * IN_HUGE;

	(void)state;
	BEGIN(30);
	madvise(mem, THP, MADV_HUGEPAGE);
	pattern_fill(mem, pages, 15);
	assert_int_equal(munmap(mem + 700 * PAGE, 10 * PAGE), 0);
	assert_int_equal(mprotect(mem + 800 * PAGE, 10 * PAGE, PROT_READ), 0);
	assert_ptr_equal(mmap(mem + 900 * PAGE, 10 * PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + 900 * PAGE);
	migrate_all(dev, mem + 1000 * PAGE, 100);
	assert_int_equal(take(mem, pages), pages - 30);
	assert_int_equal(count_where(mem, pages, HMM_WHERE_EXCLUSIVE), pages - 130);
	for (i = 0; i < pages; i++)
		if ((i < 700 || i >= 710) && (i < 900 || i >= 910))
			pattern_check_from(mem + i * PAGE, 1, 15, i);
	munmap(mem, 4 * THP);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pages_holes_and_zero_pages),
		T(huge_pages),
		T(huge_pages_that_come_home_in_parts),
		T(pages_in_swap),
		T(shared_with_a_living_child),
		T(of_the_same_content),
		T(locked),
		T(not_writable),
		T(not_writable_and_in_the_device),
		T(of_a_file_or_shared),
		T(of_the_stack_or_the_heap),
		T(exclusive_already_or_away),
		T(a_range_of_many_kinds),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
