/* SPDX-License-Identifier: MIT */
/*
 * hmm_mirror_range_discard(), and the calls about dirty pages where they are large, odd
 * or refused.
 *
 * Tries to break: G4 (a write of the device that nobody hears of), G6 (the answer may
 * lie in the very range), G10 (what was discarded is nobody's), G11.
 */
#include <linux/magic.h>
#include <sys/vfs.h>

#include "mini.h"

#define PAGES 16

static struct mini *dev;
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = mini_new(4 * PAGES);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	munmap(mem, PAGES * PAGE);
	return 0;
}

static unsigned long told(void)
{
	hmm_mirror_sync(&dev->mirror);
	return mini_told(dev);
}

static void discard(const char *at, size_t pages)
{
	assert_int_equal(
		hmm_mirror_range_discard(&dev->mirror, addr_of(at), addr_of(at) + pages * PAGE), 0);
}

static int ask(const char *at, size_t pages, uint8_t *dirty)
{
	return hmm_mirror_range_isdirty(&dev->mirror, addr_of(at), addr_of(at) + pages * PAGE,
					dirty);
}

static void fault(const char *at, size_t pages, enum hmm_etype etype)
{
	assert_int_equal(mini_event(dev, at, pages, etype, NULL), 0);
}

/* Entries that hmm_mirror_range_dirty() can mark. */
static size_t entries(const char *at, size_t pages)
{
	uint8_t dirty[PAGES];
	size_t i, n = 0;

	assert_int_equal(ask(at, pages, dirty), 0);
	assert_int_equal(
		hmm_mirror_range_dirty(&dev->mirror, addr_of(at), addr_of(at) + pages * PAGE), 0);
	assert_int_equal(ask(at, pages, dirty), 0);
	for (i = 0; i < pages; i++)
		n += dirty[i];
	return n;
}

/* ---- discard ---- */

static void the_entries_are_gone_and_nobody_is_told(void **state)
{
	unsigned long before;

	(void)state;
	BEGIN(10);
	fault(mem, PAGES, HMM_DEVICE_WFAULT);
	assert_int_equal(entries(mem, PAGES), PAGES);
	before = told();
	discard(mem + 4 * PAGE, 8);
	assert_int_equal(told(), before);
	assert_int_equal(madvise(mem + 4 * PAGE, 8 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(mprotect(mem + 4 * PAGE, 8 * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(mem + 4 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(told(), before);
	assert_int_equal(entries(mem + 4 * PAGE, 8), 0);
	assert_int_equal(entries(mem, PAGES), PAGES - 8);
	before = told();
	assert_int_equal(madvise(mem + 3 * PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(madvise(mem + 12 * PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(told(), before + 2);
	/* And it can be had again. */
	fault(mem + 4 * PAGE, 8, HMM_DEVICE_WFAULT);
	before = told();
	assert_int_equal(madvise(mem + 4 * PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(told(), before + 1);
}

static void what_is_on_the_device_stays_there(void **state)
{
	unsigned long before;

	(void)state;
	BEGIN(10);
	mini_migrate(dev, mem, 4);
	assert_true(mini_store(dev, mem, 1) || !mini_event(dev, mem, 4, HMM_DEVICE_WFAULT, NULL));
	assert_true(mini_store(dev, mem, 5));
	before = told();
	discard(mem, 4);
	assert_int_equal(told(), before);
	assert_int_equal(count_on_cpu(mem, 4), 0);
	assert_int_equal(hmm_devmem_free_pages(&dev->devmem), 4 * PAGES - 4);
	fault(mem, 2, HMM_DEVICE_RFAULT);
	assert_true(hmm_pte_test_device(mini_get(dev, mem)));
	assert_int_equal(*(uint64_t *)mem, 5);
	pattern_check_from(mem + PAGE, 3, 1, 1);
}

/* As the driver said before: it has no translation any more, so nothing can come. */
static void dirty_bits_are_kept(void **state)
{
	uint8_t dirty[4];

	(void)state;
	BEGIN(10);
	assert_int_equal(ask(mem, 4, dirty), 0);
	fault(mem, 4, HMM_DEVICE_WFAULT);
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, addr_of(mem) + PAGE,
						addr_of(mem) + 3 * PAGE),
			 0);
	discard(mem, PAGES);
	assert_int_equal(ask(mem, 4, dirty), 0);
	assert_memory_equal(dirty, "\0\1\1\0", 4);
	assert_int_equal(ask(mem, 4, dirty), 0);
	assert_memory_equal(dirty, "\0\0\0\0", 4);
}

/* ---- memory that sends no event: its entry goes with the fault ---- */

static void mark(struct mini *of, const struct hmm_event *event)
{
	if (event->etype == HMM_DEVICE_WFAULT)
		hmm_mirror_range_dirty(&of->mirror, event->start, event->end);
}

static void a_write_to_a_file_is_kept(void **state)
{
	char name[] = "/var/tmp/hmm-test-XXXXXX";
	int fd = mkstemp(name);
	uint8_t dirty[2];
	struct statfs fs;
	char *file;

	(void)state;
	BEGIN(10);
	assert_true(fd >= 0);
	unlink(name);
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	assert_int_equal(fstatfs(fd, &fs), 0);
	if (fs.f_type == TMPFS_MAGIC) {
		close(fd);
		print_message("skipped: /var/tmp is in memory, that can be watched\n");
		skip();
	}
	file = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(file, MAP_FAILED);
	assert_int_equal(ask(file, 2, dirty), 0);
	mini_hook(dev, mark);
	fault(file + PAGE, 1, HMM_DEVICE_WFAULT);
	mini_hook(dev, NULL);
	assert_int_equal(ask(file, 2, dirty), 0);
	assert_memory_equal(dirty, "\0\1", 2);
	munmap(file, 2 * PAGE);
	close(fd);
}

/* ---- large, and where the answer lies ---- */

static void over_many_chunks(void **state)
{
	size_t n = 5 * MIB / PAGE, i;
	char *big = map_aligned(n * PAGE);
	uint8_t *dirty = malloc(n);

	(void)state;
	BEGIN(20);
	assert_non_null(dirty);
	fault(big, n, HMM_DEVICE_WFAULT);
	assert_int_equal(ask(big, n, dirty), 0);
	for (i = 5; i < n; i += 7)
		assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, addr_of(big) + i * PAGE,
							addr_of(big) + (i + 1) * PAGE),
				 0);
	discard(big + 300 * PAGE, 400); /* kept and not kept, in one answer */
	assert_int_equal(ask(big + PAGE, n - 2, dirty), 0);
	for (i = 1; i < n - 1; i++)
		assert_int_equal(dirty[i - 1], i % 7 == 5);
	assert_int_equal(ask(big, n, dirty), 0);
	for (i = 1; i < n - 1; i++)
		assert_int_equal(dirty[i], 0);
	free(dirty);
	munmap(big, n * PAGE);
}

static void the_answer_may_lie_anywhere(void **state)
{
	uint8_t *away = (void *)map_aligned(PAGE), *in = (void *)(mem + 2 * PAGE);

	(void)state;
	BEGIN(10);
	memset(away, 0xee, PAGE);
	fault(mem, PAGES, HMM_DEVICE_WFAULT);
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, addr_of(mem) + PAGE,
						addr_of(mem) + 2 * PAGE),
			 0);
	mini_migrate(dev, away, 1);
	assert_int_equal(ask(mem, 3, away), 0);
	assert_memory_equal(away, "\0\1\0", 3);
	assert_int_equal(away[3], 0xee);
	mini_migrate(dev, mem, PAGES);
	fault(mem, PAGES, HMM_DEVICE_WFAULT);
	assert_true(mini_store(dev, mem + PAGE, 1));
	assert_true(mini_store(dev, mem + 2 * PAGE, 1));
	assert_int_equal(ask(mem, PAGES, in), 0);
	assert_memory_equal(in, "\0\1\1\0", 4);
	munmap(away, PAGE);
}

/* ---- what is refused ---- */

static int results[3];

static void call_back(struct mini *of, const struct hmm_event *event)
{
	uint8_t dirty;

	results[0] =
		hmm_mirror_range_isdirty(&of->mirror, event->start, event->start + PAGE, &dirty);
	results[1] = hmm_mirror_range_discard(&of->mirror, event->start, event->start + PAGE);
	results[2] = hmm_mirror_range_dirty(&of->mirror, event->end, event->end + PAGE);
}

static void all_three(unsigned long start, unsigned long end, int err)
{
	uint8_t dirty[4] = { 9, 9, 9, 9 };

	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, start, end, dirty), err);
	assert_int_equal(dirty[0], 9);
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, start, end), err);
	assert_int_equal(hmm_mirror_range_discard(&dev->mirror, start, end), err);
}

static void bad_calls(void **state)
{
	unsigned long at = addr_of(mem);
	uint8_t dirty;

	(void)state;
	BEGIN(10);
	all_three(at, at, -EINVAL);
	all_three(at + PAGE, at, -EINVAL);
	all_three(at + 1, at + PAGE, -EINVAL);
	all_three(at, at + PAGE - 1, -EINVAL);
	all_three(at, ~0ul & ~(PAGE - 1), -EINVAL);
	assert_int_equal(hmm_mirror_range_isdirty(NULL, at, at + PAGE, &dirty), -EINVAL);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, at, at + PAGE, NULL), -EINVAL);
	assert_int_equal(hmm_mirror_range_dirty(NULL, at, at + PAGE), -EINVAL);
	assert_int_equal(hmm_mirror_range_discard(NULL, at, at + PAGE), -EINVAL);
	mini_hook(dev, call_back);
	fault(mem, 1, HMM_DEVICE_RFAULT);
	mini_hook(dev, NULL);
	assert_int_equal(results[0], -EDEADLK);
	assert_int_equal(results[1], -EDEADLK);
	assert_int_equal(results[2], -EDEADLK);
	assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	all_three(at, at + PAGE, -ENODEV);
}

/* The device has not said what it wrote: "nothing" would be a lie. */
static void a_device_that_cannot_answer(void **state)
{
	uint8_t dirty[2];

	(void)state;
	BEGIN(10);
	fault(mem, 2, HMM_DEVICE_WFAULT);
	hmm_set_log(HMM_LOG_NONE, NULL);
	mini_fail(dev, -EIO);
	assert_int_equal(ask(mem, 2, dirty), -ENODEV);
	mini_fail(dev, 0);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	all_three(addr_of(mem), addr_of(mem) + PAGE, -ENODEV);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_entries_are_gone_and_nobody_is_told),
		T(what_is_on_the_device_stays_there),
		T(dirty_bits_are_kept),
		T(a_write_to_a_file_is_kept),
		T(over_many_chunks),
		T(the_answer_may_lie_anywhere),
		T(bad_calls),
		T(a_device_that_cannot_answer),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
