/* SPDX-License-Identifier: MIT */
/*
 * hmm_migrate_vma() by a driver of the test's own, which has memory and no mirror: what
 * moves, what is said of each page, and what the callbacks are told.
 *
 * Tries to break: G1, G4, G7 (each page moved or where it was; the result says which),
 * G11 (what is written, also where it lies in the very range).
 */
#include "migrate/tiny.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#define PAGES 1200
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;
static uint8_t result[4 * PAGES];

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_ERROR, NULL);
	tiny = tiny_new(4096);
	mem = map_low(BYTES);
	pattern_fill(mem, PAGES, 1);
	memset(result, 0xee, sizeof(result));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	tiny_destroy(tiny);
	return 0;
}

static void results_are(size_t first, size_t n, enum hmm_migrate_result what)
{
	size_t i;

	for (i = first; i < first + n; i++)
		if (result[i] != what)
			fail_msg("page %zu: result %u, not %u", i, result[i], what);
}

/* There is one copy, the device's: what it writes there is what the CPU reads. */
static void pages_go_and_come_back_by_fault(void **state)
{
	unsigned long moved;
	size_t i;

	(void)state;
	BEGIN(5);
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, result, &moved), 0);
	assert_int_equal(moved, PAGES);
	results_are(0, PAGES, HMM_MIGRATE_DONE);
	assert_int_equal(result[PAGES], 0xee);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	assert_int_equal(tiny_used(tiny), PAGES);
	for (i = 0; i < PAGES; i++)
		pattern_page(tiny_memory(tiny_find(tiny, mem + i * PAGE)), 2, i);
	step("CPU faults");
	for (i = 0; i < PAGES; i += 7)
		assert_int_equal(*(volatile uint64_t *)(mem + i * PAGE), pattern_word(2, i, 0));
	pattern_check(mem, PAGES, 2);
	wait_until(!tiny_used(tiny));
	assert_int_equal(tiny->region[0].copied, PAGES);
	assert_int_equal(tiny_calls(tiny, TINY_UPDATE), 0);
}

static bool third_declined(struct tiny *of, unsigned long addr)
{
	(void)of;
	return addr / PAGE % 3 != 0;
}

static void what_the_driver_leaves_stays(void **state)
{
	unsigned long moved, i, expect = 0;

	(void)state;
	BEGIN(5);
	tiny->wants = third_declined;
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, result, &moved), 0);
	for (i = 0; i < PAGES; i++) {
		bool goes = third_declined(tiny, addr_of(mem) + i * PAGE);

		results_are(i, 1, goes ? HMM_MIGRATE_DONE : HMM_MIGRATE_DECLINED);
		assert_int_equal(on_cpu(mem + i * PAGE), !goes);
		expect += goes;
	}
	assert_int_equal(moved, expect);
	assert_int_equal(tiny->finished, expect);
	pattern_check(mem, PAGES, 1);
	tiny->wants = NULL;
	tiny_migrate_all(tiny, mem, PAGES);
	pattern_check(mem, PAGES, 1);
}

static hmm_pte_t foreign;

/* In the middle of a row of good ones: what no driver may give. Its own page it puts first. */
static void bend_some(hmm_pte_t *dst)
{
	const hmm_pte_t bad[] = { foreign, HMM_PTE_VALID | HMM_PTE_DEVICE | (~0ull << 52),
				  dst[30] & ~HMM_PTE_VALID, dst[40] & ~HMM_PTE_DEVICE };
	unsigned int i;

	for (i = 0; i < 4; i++) {
		hmm_page_put(hmm_page_from_pfn(hmm_pte_pfn(dst[10 * (i + 1)])));
		dst[10 * (i + 1)] = bad[i];
	}
	dst[50] = dst[51]; /* of 50 it was not asked */
	dst[51] = 0;
}

static void what_a_driver_may_not_give_is_refused(void **state)
{
	static const size_t stay[] = { 10, 20, 30, 40, 51 };
	struct tiny *other = tiny_new(1);
	struct hmm_page *page = hmm_devmem_alloc(&other->region[0].devmem);
	size_t i;

	(void)state;
	BEGIN(5);
	foreign = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
	tiny_migrate_all(tiny, mem + 50 * PAGE, 1);
	tiny->bend = bend_some;
	hmm_set_log(HMM_LOG_NONE, NULL);
	assert_int_equal(tiny_migrate(tiny, mem, 100, result, NULL), 0);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	tiny->bend = NULL;
	for (i = 0; i < 5; i++) {
		results_are(stay[i], 1, HMM_MIGRATE_DECLINED);
		assert_true(on_cpu(mem + stay[i] * PAGE));
	}
	assert_int_equal(count_on_cpu(mem, 100), 5);
	assert_int_equal(tiny_used(tiny), 95);
	assert_int_equal(page->refcount, 1);
	pattern_check(mem, PAGES, 1);
	hmm_page_put(page);
	tiny_destroy(other);
}

static void a_copy_that_fails_leaves_all(void **state)
{
	int errors[] = { -EIO, -ENOMEM };
	unsigned long moved;
	size_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < 2; i++) {
		tiny->take_ret = errors[i];
		assert_int_equal(tiny_migrate(tiny, mem, PAGES, result, &moved), 0);
		assert_int_equal(moved, 0);
		results_are(0, PAGES, HMM_MIGRATE_DECLINED);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
		pattern_check(mem, PAGES, 1);
	}
}

/* What each source is; the zero page and the hole have no memory. */
static void sources_say_what_a_page_is(void **state)
{
	volatile char *zero = mem + 10 * PAGE;
	unsigned long i;

	(void)state;
	BEGIN(5);
	assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
	test_sleep_us(1000);
	pattern_fill(mem, 10, 1);
	assert_int_equal(*zero, 0);
	assert_int_equal(tiny_migrate(tiny, mem + 5 * PAGE, 2, result, NULL), 0);
	assert_int_equal(tiny_migrate(tiny, mem, 20, result, NULL), 0);
	for (i = 0; i < 20; i++) {
		hmm_pte_t src = tiny->src[i];

		if (i == 5 || i == 6)
			assert_int_equal(src, 0); /* it is there already */
		else if (i >= 10)
			assert_int_equal(src, HMM_PTE_ZERO);
		else
			assert_true(hmm_pte_test_valid(src) && !hmm_pte_test_device(src) &&
				    hmm_pte_addr(src) != addr_of(mem) + i * PAGE);
		assert_int_equal(tiny->seen[i], tiny->dst[i]);
	}
	results_are(0, 20, HMM_MIGRATE_DONE);
	pattern_check(mem, 10, 1);
	assert_true(is_zero(mem + 10 * PAGE, 10 * PAGE));
}

static void finalize_is_told_each_piece_once(void **state)
{
	(void)state;
	BEGIN(5);
	tiny->wants = third_declined;
	tiny_migrate(tiny, mem + 500 * PAGE, 600, result, NULL);
	assert_int_equal(tiny_calls(tiny, TINY_TAKE), 3); /* 500 to 512, to 1024, to 1100 */
	assert_int_equal(tiny_calls(tiny, TINY_FINISH), 3);
	assert_int_equal(tiny->start, addr_of(mem) + 1024 * PAGE);
	assert_int_equal(tiny->end, addr_of(mem) + 1100 * PAGE);
	assert_int_equal(tiny->finished, tiny_used(tiny));
	/* Where all is there, nobody is asked. */
	tiny->wants = NULL;
	tiny_migrate_all(tiny, mem + 500 * PAGE, 600);
	tiny_migrate(tiny, mem + 500 * PAGE, 600, result, NULL);
	results_are(0, 600, HMM_MIGRATE_DONE);
	assert_int_equal(tiny->finished, 600);
	assert_int_equal(tiny_used(tiny), 600);
}

static void finalize_is_optional(void **state)
{
	struct hmm_migrate_ops *ops = hmm_alloc(sizeof(*ops));
	struct hmm_migrate migrate = { .size = sizeof(migrate),
				       .device = &tiny->device,
				       .ops = ops,
				       .start = addr_of(mem),
				       .end = addr_of(mem) + BYTES,
				       .cookie = tiny };

	(void)state;
	BEGIN(5);
	*ops = tiny_migrate_ops;
	ops->finalize_and_map = NULL;
	assert_int_equal(hmm_migrate_vma(&migrate), 0);
	assert_int_equal(migrate.pages, PAGES);
	pattern_check(mem, PAGES, 1);
	*ops = tiny_migrate_ops;
	ops->size = offsetof(struct hmm_migrate_ops, finalize_and_map);
	assert_int_equal(hmm_migrate_vma(&migrate), 0);
	assert_int_equal(migrate.pages, PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(tiny_calls(tiny, TINY_FINISH), 0);
	hmm_free(ops);
}

/* Page @i of mem becomes something that does not move; the kinds of enum hmm_migrate_result. */
static void make_kinds(char *at, size_t pages, int file)
{
	int flags = MAP_FIXED | MAP_SHARED;

	assert_int_equal(munmap(at, pages * PAGE), 0);
	assert_int_equal(mprotect(at + pages * PAGE, pages * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(at + 2 * pages * PAGE, pages * PAGE, PROT_NONE), 0);
	assert_ptr_not_equal(mmap(at + 3 * pages * PAGE, pages * PAGE, PROT_READ | PROT_WRITE,
				  flags | MAP_ANONYMOUS, -1, 0),
			     MAP_FAILED);
	assert_ptr_not_equal(mmap(at + 4 * pages * PAGE, pages * PAGE, PROT_READ | PROT_WRITE,
				  MAP_FIXED | MAP_PRIVATE, file, 0),
			     MAP_FAILED);
}

/* Mappings and holes of every kind, across two chunks, between what moves. */
static void several_mappings_in_one_call(void **state)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	unsigned long moved;
	size_t n = 3;

	(void)state;
	BEGIN(5);
	make_kinds(mem + 100 * PAGE, n, file);
	make_kinds(mem + 510 * PAGE, n, file);
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, result, &moved), 0);
	assert_int_equal(moved, PAGES - 2 * 5 * n);
	results_are(0, 100, HMM_MIGRATE_DONE);
	results_are(100, n, HMM_MIGRATE_NONE);
	results_are(100 + n, 4 * n, HMM_MIGRATE_KIND);
	results_are(100 + 5 * n, 410 - 5 * n, HMM_MIGRATE_DONE);
	results_are(510, n, HMM_MIGRATE_NONE);
	results_are(510 + n, 4 * n, HMM_MIGRATE_KIND);
	results_are(510 + 5 * n, PAGES - 510 - 5 * n, HMM_MIGRATE_DONE);
	assert_int_equal(result[PAGES], 0xee);
	pattern_check(mem, 100, 1);
	pattern_check_from(mem + (100 + n) * PAGE, n, 1, 100 + n);
	pattern_check_from(mem + (525) * PAGE, PAGES - 525, 1, 525);
	close(file);
}

/* Nothing but a hole; a hole at both ends. */
static void holes_are_none(void **state)
{
	unsigned long moved;

	(void)state;
	BEGIN(5);
	munmap(mem, 10 * PAGE);
	munmap(mem + (PAGES - 20) * PAGE, 20 * PAGE);
	assert_int_equal(tiny_migrate(tiny, mem, 10, result, &moved), 0);
	assert_int_equal(moved, 0);
	results_are(0, 10, HMM_MIGRATE_NONE);
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, result, &moved), 0);
	assert_int_equal(moved, PAGES - 30);
	results_are(0, 10, HMM_MIGRATE_NONE);
	results_are(10, PAGES - 30, HMM_MIGRATE_DONE);
	results_are(PAGES - 20, 20, HMM_MIGRATE_NONE);
	assert_int_equal(tiny->calls[TINY_TAKE], 3);
}

/* An io_uring that has registered page 20 as a buffer. */
static int ring_with_pinned_page(void)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { mem + 20 * PAGE, PAGE };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0)
		skip_because("no io_uring");
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1)) {
		close(ring);
		skip_because("an io_uring that pins nothing");
	}
	return ring;
}

static void a_pinned_page_is_busy(void **state)
{
	unsigned long moved;
	int ring;

	(void)state;
	BEGIN(8);
	ring = ring_with_pinned_page();
	assert_int_equal(tiny_migrate(tiny, mem, 40, result, &moved), 0);
	assert_int_equal(moved, 39);
	results_are(0, 20, HMM_MIGRATE_DONE);
	results_are(20, 1, HMM_MIGRATE_BUSY);
	results_are(21, 19, HMM_MIGRATE_DONE);
	assert_true(on_cpu(mem + 20 * PAGE));
	assert_int_equal(tiny->src[20], 0);
	close(ring);
	pattern_check(mem, PAGES, 1);
}

/* The structs by which drivers and libhmm know each other, wherever they lie. */
static void what_drivers_need_stays(void **state)
{
	struct hmm_device *device = (void *)(mem + 10 * PAGE + 64);
	struct hmm_devmem *devmem = (void *)(mem + 13 * PAGE);
	unsigned long moved;

	(void)state;
	BEGIN(5);
	*device = (struct hmm_device){ .size = sizeof(*device), .ops = &tiny_ops, .name = "there" };
	*devmem = (struct hmm_devmem){ .size = sizeof(*devmem) };
	assert_int_equal(hmm_device_register(device), 0);
	assert_int_equal(hmm_devmem_add(devmem, device, PAGE), 0);
	assert_int_equal(tiny_migrate(tiny, mem, 20, result, &moved), 0);
	assert_int_equal(moved, 18);
	results_are(0, 10, HMM_MIGRATE_DONE);
	results_are(10, 1, HMM_MIGRATE_KIND);
	results_are(11, 2, HMM_MIGRATE_DONE);
	results_are(13, 1, HMM_MIGRATE_KIND);
	results_are(14, 6, HMM_MIGRATE_DONE);
	assert_int_equal(tiny_migrate(tiny, mem + 10 * PAGE, 1, result, &moved), 0);
	assert_int_equal(moved, 0);
	results_are(0, 1, HMM_MIGRATE_KIND);
	assert_int_equal(hmm_devmem_remove(devmem), 0);
	assert_int_equal(hmm_device_unregister(device), 0);
	tiny_migrate_all(tiny, mem + 10 * PAGE, 4);
	pattern_check(mem, 10, 1);
}

/* What the caller passes lies in the range that goes, or is away already. */
static void what_is_passed_may_itself_move(void **state)
{
	struct hmm_migrate *migrate = (void *)(mem + 30 * PAGE);
	uint8_t *there = (void *)(mem + 600 * PAGE + 100);
	size_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < 2; i++) {
		*migrate = (struct hmm_migrate){ .size = sizeof(*migrate),
						 .device = &tiny->device,
						 .ops = &tiny_migrate_ops,
						 .start = addr_of(mem),
						 .end = addr_of(mem) + BYTES,
						 .cookie = tiny,
						 .result = there };
		assert_int_equal(hmm_migrate_vma(migrate), 0);
		assert_int_equal(migrate->pages, PAGES);
	}
	memcpy(result, there, PAGES);
	results_are(0, PAGES, HMM_MIGRATE_DONE);
	pattern_check(mem, 30, 1);
	pattern_check_from(mem + 31 * PAGE, 569, 1, 31);
	pattern_check_from(mem + 602 * PAGE, PAGES - 602, 1, 602);
}

/* A full device, with nothing that should go: what does not fit stays. */
static void a_full_device_takes_what_it_can(void **state)
{
	struct tiny *small = tiny_new(700);
	unsigned long moved, i, done = 0;

	(void)state;
	BEGIN(5);
	small->evict_ret = -ENOENT;
	assert_int_equal(tiny_migrate(small, mem, PAGES, result, &moved), 0);
	assert_int_equal(moved, 700);
	for (i = 0; i < PAGES; i++) {
		done += result[i] == HMM_MIGRATE_DONE;
		assert_true(result[i] == HMM_MIGRATE_DONE || result[i] == HMM_MIGRATE_DECLINED);
		assert_int_equal(on_cpu(mem + i * PAGE), result[i] == HMM_MIGRATE_DECLINED);
	}
	assert_int_equal(done, 700);
	assert_true(tiny_calls(small, TINY_EVICT) > 0);
	pattern_check(mem, PAGES, 1);
	tiny_destroy(small);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pages_go_and_come_back_by_fault),
		T(what_the_driver_leaves_stays),
		T(what_a_driver_may_not_give_is_refused),
		T(a_copy_that_fails_leaves_all),
		T(sources_say_what_a_page_is),
		T(finalize_is_told_each_piece_once),
		T(finalize_is_optional),
		T(several_mappings_in_one_call),
		T(holes_are_none),
		T(a_pinned_page_is_busy),
		T(what_drivers_need_stays),
		T(what_is_passed_may_itself_move),
		T(a_full_device_takes_what_it_can),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
