/* SPDX-License-Identifier: MIT */
/*
 * The device reads and writes the process's memory through its mirror.
 *
 * Tries to break: G2 (a translation that the CPU page table does not have), G4
 * (the last write wins, whoever wrote), G10 (what was not asked for is not
 * touched), G11 (errors are values, outputs written only on success).
 */
#include "test_util.h"

#define PAGES 64

static int fault(struct dummy_device *dev, uint64_t start, uint64_t end, enum hmm_etype etype,
		 unsigned long *pages)
{
	struct hmm_event event = { .start = start, .end = end, .etype = etype, .pages = 4711 };
	int ret = hmm_mirror_fault(dummy_mirror(dev), &event);

	*pages = event.pages;
	return ret;
}

static void device_reads_what_cpu_wrote(void **state)
{
	struct dummy_device *dev;
	char *mem, *copy;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(PAGES * PAGE);
	copy = map_anon(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(dummy_load(dev, addr_of(mem), copy, PAGES * PAGE), 0);
	pattern_check(copy, PAGES, 1);
	pattern_fill(mem, PAGES, 2);
	assert_int_equal(dummy_load(dev, addr_of(mem), copy, PAGES * PAGE), 0);
	pattern_check(copy, PAGES, 2);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, PAGES * PAGE);
	munmap(copy, PAGES * PAGE);
}

static void cpu_reads_what_device_wrote(void **state)
{
	struct dummy_device *dev;
	char *mem, *from;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(PAGES * PAGE);
	from = map_anon(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	pattern_fill(from, PAGES, 3);
	assert_int_equal(dummy_store(dev, addr_of(mem), from, PAGES * PAGE), 0);
	pattern_check(mem, PAGES, 3);
	mem[5 * PAGE] = 77;
	assert_int_equal(dummy_load(dev, addr_of(mem) + 5 * PAGE, from, 1), 0);
	assert_int_equal(from[0], 77);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, PAGES * PAGE);
	munmap(from, PAGES * PAGE);
}

/* Not aligned, across pages and across mappings that differ. */
static void access_across_several_mappings(void **state)
{
	struct dummy_device *dev;
	char buf[3 * PAGE], *mem;
	size_t i;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(9 * PAGE);
	assert_int_equal(madvise(mem + 3 * PAGE, 3 * PAGE, MADV_DONTDUMP), 0);
	assert_ptr_equal(mmap(mem + 6 * PAGE, 3 * PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + 6 * PAGE);
	for (i = 0; i < 9 * PAGE; i++)
		mem[i] = (char)(i * 7 + i / PAGE);
	for (i = 0; i < 6; i++) {
		size_t at = i * PAGE + 13;

		assert_int_equal(dummy_load(dev, addr_of(mem) + at, buf, sizeof(buf) - 100), 0);
		assert_memory_equal(buf, mem + at, sizeof(buf) - 100);
	}
	memset(buf, 0x42, sizeof(buf));
	assert_int_equal(dummy_store(dev, addr_of(mem) + 4 * PAGE - 1, buf, 3 * PAGE), 0);
	assert_memory_equal(mem + 4 * PAGE - 1, buf, 3 * PAGE);
	assert_int_equal(mem[4 * PAGE - 2], (char)((4 * PAGE - 2) * 7 + 3));
	assert_int_equal(mem[7 * PAGE - 1], (char)((7 * PAGE - 1) * 7 + 6));
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, 9 * PAGE);
}

static void event_of_many_mappings_and_chunks(void **state)
{
	size_t len = 5 * MIB, pages = len / PAGE, i;
	struct dummy_device *dev;
	unsigned long served;
	char *mem;

	(void)state;
	BEGIN(8);
	dev = device_new(0);
	mem = map_aligned(len);
	for (i = 0; i < pages; i += 100)
		assert_int_equal(madvise(mem + i * PAGE, PAGE, MADV_DONTDUMP), 0);
	for (i = 0; i < pages; i += 3)
		mem[i * PAGE] = (char)(i | 1);
	assert_int_equal(fault(dev, addr_of(mem), addr_of(mem) + len,
			       HMM_DEVICE_RFAULT, &served), 0);
	assert_int_equal(served, pages);
	for (i = 0; i < pages; i++) {
		uint8_t val = 9;

		assert_int_equal(dummy_load_u8(dev, addr_of(mem) + i * PAGE, &val), 0);
		assert_int_equal(val, i % 3 ? 0 : (uint8_t)(i | 1));
	}
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, len);
}

static void hole_reads_zero_and_takes_writes(void **state)
{
	struct dummy_device *dev;
	char buf[PAGE], *mem;
	size_t i;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_aligned(PAGES * PAGE);
	for (i = 0; i < PAGES; i++) {
		memset(buf, 1, PAGE);
		assert_int_equal(dummy_load(dev, addr_of(mem) + i * PAGE, buf, PAGE), 0);
		assert_true(is_zero(buf, PAGE));
	}
	/* Over the zero page now, and over real holes in the second half. */
	assert_int_equal(madvise(mem + PAGES / 2 * PAGE, PAGES / 2 * PAGE, MADV_DONTNEED), 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + i * PAGE + 8, i + 1), 0);
	for (i = 0; i < PAGES; i++) {
		assert_int_equal(((uint64_t *)(mem + i * PAGE))[1], i + 1);
		assert_int_equal(((uint64_t *)(mem + i * PAGE))[0], 0);
	}
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, PAGES * PAGE);
}

/* A read translation is no leave to write. */
static void read_fault_gives_no_write(void **state)
{
	struct dummy_device *dev;
	uint64_t val = 0;
	char *mem;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(PAGE);
	mem[0] = 1;
	assert_int_equal(mprotect(mem, PAGE, PROT_READ), 0);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
	assert_int_equal(val, 1);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 2), -EFAULT);
	assert_int_equal(mem[0], 1);
	assert_int_equal(mprotect(mem, PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 3), 0);
	assert_int_equal(mem[0], 3);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, PAGE);
}

/* What the device's page table has and no more, whole pages of it. */
static void present_access_takes_no_fault(void **state)
{
	struct dummy_stats stats;
	struct dummy_device *dev;
	char buf[4 * PAGE], *mem;
	unsigned long pages;
	size_t done = 4711;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(4 * PAGE);
	pattern_fill(mem, 4, 1);
	assert_int_equal(dummy_load_present(dev, addr_of(mem), buf, sizeof(buf), &done), -EAGAIN);
	assert_int_equal(done, 0);
	assert_int_equal(fault(dev, addr_of(mem), addr_of(mem) + 3 * PAGE, HMM_DEVICE_RFAULT,
			       &pages), 0);
	assert_int_equal(dummy_load_present(dev, addr_of(mem) + 8, buf, 3 * PAGE, &done), -EAGAIN);
	assert_int_equal(done, 3 * PAGE - 8);
	assert_memory_equal(buf, mem + 8, done);
	assert_int_equal(dummy_store_present(dev, addr_of(mem), buf, 1, &done), -EAGAIN);
	assert_int_equal(done, 0);
	assert_int_equal(fault(dev, addr_of(mem), addr_of(mem) + PAGE, HMM_DEVICE_WFAULT,
			       &pages), 0);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(dummy_store_present(dev, addr_of(mem), buf, PAGE, &done), 0);
	assert_int_equal(done, PAGE);
	assert_memory_equal(mem, buf, PAGE);
	dummy_get_stats(dev, &stats);
	assert_int_equal(stats.faults, 0);
	assert_int_equal(dummy_load_present(dev, UINT64_MAX - 9, buf, 20, &done), -EFAULT);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, 4 * PAGE);
}

static void no_permission_is_efault(void **state)
{
	struct dummy_device *dev;
	unsigned long pages;
	uint64_t val = 5;
	char *mem;

	(void)state;
	BEGIN(5);
	dev = device_new(0);
	mem = map_anon(4 * PAGE);
	memset(mem, 1, 4 * PAGE);
	assert_int_equal(mprotect(mem + PAGE, PAGE, PROT_NONE), 0);
	assert_int_equal(munmap(mem + 3 * PAGE, PAGE), 0);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + PAGE, &val), -EFAULT);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 1), -EFAULT);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 3 * PAGE, &val), -EFAULT);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 3 * PAGE, 1), -EFAULT);
	assert_int_equal(dummy_load_u64(dev, 0, &val), -EFAULT);
	assert_int_equal(dummy_load_u64(dev, PAGE, &val), -EFAULT);
	assert_int_equal(val, 5);
	/* Its neighbours work all the same. */
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 7), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 2 * PAGE, 7), 0);
	/* The whole range or nothing; and the output is left alone. */
	assert_int_equal(fault(dev, addr_of(mem), addr_of(mem) + 3 * PAGE, HMM_DEVICE_RFAULT,
			       &pages), -EFAULT);
	assert_int_equal(pages, 4711);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, 4 * PAGE);
}

static void bad_ranges_are_einval(void **state)
{
	enum hmm_etype types[] = { HMM_DEVICE_RFAULT, HMM_DEVICE_WFAULT, HMM_COPY_TO_DEVICE,
				   HMM_COPY_FROM_DEVICE };
	struct dummy_device *dev;
	unsigned long pages;
	uint64_t at;
	size_t i;
	char *mem;

	(void)state;
	BEGIN(5);
	dev = device_new(16);
	mem = map_anon(4 * PAGE);
	at = addr_of(mem);
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		assert_int_equal(fault(dev, at, at, types[i], &pages), -EINVAL);
		assert_int_equal(fault(dev, at + PAGE, at, types[i], &pages), -EINVAL);
		assert_int_equal(fault(dev, at + 8, at + PAGE, types[i], &pages), -EINVAL);
		assert_int_equal(fault(dev, at, at + PAGE + 1, types[i], &pages), -EINVAL);
		assert_int_equal(fault(dev, at, ~0ul & ~(PAGE - 1), types[i], &pages), -EINVAL);
		assert_int_equal(pages, 4711);
	}
	assert_int_equal(fault(dev, at, at + PAGE, HMM_NONE, &pages), -EINVAL);
	assert_int_equal(fault(dev, at, at + PAGE, HMM_MUNMAP, &pages), -EINVAL);
	assert_int_equal(fault(dev, at, at + PAGE, HMM_MIGRATE, &pages), -EINVAL);
	assert_int_equal(fault(dev, at, at + PAGE, 99, &pages), -EINVAL);
	assert_int_equal(hmm_mirror_fault(dummy_mirror(dev), NULL), -EINVAL);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, 4 * PAGE);
}

/* G10: only the page asked for is touched, and nothing else is even registered. */
static void unasked_memory_is_left_alone(void **state)
{
	struct dummy_options opt = { .memory = 16 * PAGE, .fault_window = 1 };
	struct dummy_device *dev;
	char *mem, *other;
	uint64_t val;

	(void)state;
	BEGIN(5);
	assert_int_equal(dummy_create(&dev, &opt), 0);
	other = map_aligned(2 * MIB);
	mem = map_aligned(2 * MIB);
	mem[0] = 1;
	other[0] = 1;
	assert_false(registered(mem));
	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
	assert_true(registered(mem));
	assert_false(registered(other));
	assert_int_equal(count_on_cpu(mem, 512), 1);
	assert_int_equal(count_on_cpu(other, 512), 1);
	/* Mirrored, not migrated: a first touch sends no message. */
	{
		struct hmm_stats before = { .size = sizeof(before) }, after = before;

		hmm_get_stats(&before);
		memset(mem, 2, 2 * MIB);
		hmm_get_stats(&after);
		assert_int_equal(before.cpu_faults, after.cpu_faults);
	}
	assert_int_equal(dummy_destroy(dev), 0);
	assert_false(registered(mem));
	munmap(mem, 2 * MIB);
	munmap(other, 2 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_reads_what_cpu_wrote),
		cmocka_unit_test(cpu_reads_what_device_wrote),
		cmocka_unit_test(access_across_several_mappings),
		cmocka_unit_test(event_of_many_mappings_and_chunks),
		cmocka_unit_test(hole_reads_zero_and_takes_writes),
		cmocka_unit_test(read_fault_gives_no_write),
		cmocka_unit_test(present_access_takes_no_fault),
		cmocka_unit_test(no_permission_is_efault),
		cmocka_unit_test(bad_ranges_are_einval),
		cmocka_unit_test(unasked_memory_is_left_alone),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
