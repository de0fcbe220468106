/* SPDX-License-Identifier: MIT */
/*
 * DMA mappings of what the device faults in, and all the ways in which they end.
 *
 * Tries to break: a mapping ends once, after update() and whatever ends it; none is
 * left behind, none is used afterwards; one that will do is not made again; what
 * cannot be mapped is an error for the access that needed it and for no other.
 */
#include "mirror/dma.h"

static void a_page_is_mapped_once(void **state)
{
	char *mem = map_filled(PAGES, 1);
	unsigned long served = 0;

	(void)state;
	BEGIN(5);
	assert_int_equal(mapped(), 0);
	device_reads(mem, 1, 1);
	assert_int_equal(mapped(), WINDOW);
	device_reads(mem, PAGES, 1);
	assert_int_equal(mapped(), PAGES);
	device_reads(mem, PAGES, 1);
	assert_int_equal(fault(mem, PAGES, HMM_DEVICE_RFAULT, &served), 0);
	assert_int_equal(served, PAGES);
	assert_int_equal(dma_stats().dma_maps, PAGES);
	assert_int_equal(fault(mem, PAGES, HMM_DEVICE_WFAULT, &served), 0);
	assert_int_equal(dma_stats().dma_maps, 2 * PAGES); /* they were read-only */
	assert_int_equal(fault(mem, PAGES, HMM_DEVICE_WFAULT, &served), 0);
	assert_int_equal(fault(mem, PAGES, HMM_DEVICE_RFAULT, &served), 0);
	device_writes(mem, PAGES, 7);
	assert_int_equal(dma_stats().dma_maps, 2 * PAGES);
	assert_int_equal(mapped(), PAGES);
	cpu_reads(mem, PAGES, 7);
	munmap(mem, PAGES * PAGE);
}

static void munmap_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1);

	(void)state;
	BEGIN(5);
	device_reads(mem, PAGES, 1);
	munmap(mem + 3 * PAGE, PAGE);
	assert_int_equal(mapped(), PAGES - 1);
	load_is_efault(dev, mem + 3 * PAGE);
	munmap(mem + PAGES / 2 * PAGE, PAGES / 2 * PAGE);
	assert_int_equal(mapped(), PAGES / 2 - 1);
	device_reads(mem, 3, 1);
	assert_int_equal(dma_stats().dma_maps, PAGES);
	munmap(mem, PAGES / 2 * PAGE);
	assert_int_equal(mapped(), 0);
	assert_no_errors();
}

static void a_new_mapping_in_its_place_is_mapped_anew(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < 100; i++) {
		store(mem + 8, 1);
		assert_ptr_equal(mmap(mem, PAGES * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 mem);
		*(uint64_t *)mem = i;
		assert_int_equal(load(mem), i);
		assert_int_equal(load(mem + 8), 0);
	}
	assert_no_errors();
	munmap(mem, PAGES * PAGE);
}

static void mremap_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1), *to = map_aligned(2 * PAGES * PAGE);

	(void)state;
	BEGIN(5);
	device_reads(mem, PAGES, 1);
	device_writes(to, PAGES, 5); /* what it moves over ends too */
	assert_int_equal(mapped(), 2 * PAGES);
	assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	assert_int_equal(mapped(), 0);
	device_reads(to, PAGES, 1);
	assert_int_equal(mapped(), PAGES);
	load_is_efault(dev, mem);
	assert_int_equal(mapped(), PAGES);
	assert_ptr_equal(mremap(to, PAGES * PAGE, PAGES / 2 * PAGE, 0), to); /* shrinks */
	assert_int_equal(mapped(), PAGES / 2);
	munmap(to, 2 * PAGES * PAGE);
	assert_int_equal(mapped(), 0);
}

static void dontneed_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1);
	size_t i;

	(void)state;
	BEGIN(5);
	device_reads(mem, PAGES, 1);
	assert_int_equal(madvise(mem, PAGES / 2 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(mapped(), PAGES / 2);
	for (i = 0; i < PAGES / 2; i++)
		assert_int_equal(load(mem + i * PAGE), 0);
	assert_int_equal(load(mem + i * PAGE), pattern_word(1, i, 0));
	assert_int_equal(mapped(), PAGES);
	store(mem, 9);
	assert_int_equal(*(volatile uint64_t *)mem, 9);
	munmap(mem, PAGES * PAGE);
}

/* The device sees the old page or none, but never the old one after madvise(). */
static void dontneed_over_and_over(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t i;

	(void)state;
	BEGIN(20);
	for (i = 1; i < 200; i++) {
		*(volatile uint64_t *)mem = i;
		assert_int_equal(load(mem), i);
		assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		assert_int_equal(load(mem), 0);
		if (i % 3)
			store(mem, i + 1);
	}
	munmap(mem, PAGES * PAGE);
	assert_int_equal(mapped(), 0);
}

/* A read-only mapping is replaced for a write, and only then. */
static void an_upgrade_replaces_it(void **state)
{
	char *mem = map_filled(PAGES, 1);
	struct dummy_stats stats;

	(void)state;
	BEGIN(5);
	device_reads(mem, PAGES, 1);
	store(mem, 5);
	stats = dma_stats();
	assert_int_equal(stats.dma_mapped, PAGES);
	assert_int_equal(stats.dma_maps, PAGES + WINDOW);
	assert_int_equal(stats.dma_unmaps, WINDOW);
	assert_int_equal(*(volatile uint64_t *)mem, 5);
	assert_int_equal(load(mem), 5);
	munmap(mem, PAGES * PAGE);
}

static void mprotect_takes_the_write_permission(void **state)
{
	char *mem = map_filled(PAGES, 1);

	(void)state;
	BEGIN(5);
	device_writes(mem, PAGES, 5);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 6), -EFAULT);
	assert_int_equal(load(mem), 5);
	assert_true(mapped() <= PAGES);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	device_writes(mem, PAGES, 7);
	cpu_reads(mem, PAGES, 7);
	assert_int_equal(mapped(), PAGES);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_NONE), 0);
	assert_int_equal(mapped(), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 6), -EFAULT);
	load_is_efault(dev, mem);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ), 0);
	assert_int_equal(load(mem), 7);
	munmap(mem, PAGES * PAGE);
}

static void fork_takes_the_write_permission(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t maps;
	int status, i;
	pid_t pid;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 5; i++) {
		int go[2];
		char c;

		assert_int_equal(pipe(go), 0);
		device_writes(mem, PAGES, 10);
		pid = fork();
		if (!pid) {
			alarm(5);
			close(go[1]);
			_exit(read(go[0], &c, 1) == 0 && *(volatile uint64_t *)mem == 10 ? 0 : 1);
		}
		close(go[0]);
		maps = dma_stats().dma_maps;
		device_writes(mem, PAGES, 20);
		assert_int_equal(dma_stats().dma_maps - maps, PAGES);
		close(go[1]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		cpu_reads(mem, PAGES, 20);
		assert_int_equal(mapped(), PAGES);
	}
	munmap(mem, PAGES * PAGE);
}

static void discard_ends_it(void **state)
{
	uint64_t start, end;
	char *mem = map_filled(PAGES, 1);
	uint8_t dirty[PAGES];
	size_t i;

	(void)state;
	BEGIN(5);
	start = addr_of(mem);
	end = start + PAGES * PAGE;
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), start, end, dirty), 0);
	device_reads(mem, PAGES, 1);
	store(mem + 5 * PAGE, 55);
	store(mem + 6 * PAGE, 66);
	store(mem + 40 * PAGE, 44);
	assert_int_equal(dummy_discard(dev, start, start + 32 * PAGE), 0);
	assert_int_equal(mapped(), PAGES - 32);
	assert_int_equal(load(mem + 5 * PAGE), 55);
	assert_int_equal(mapped(), PAGES - 32 + WINDOW);
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), start, end, dirty), 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dirty[i], i == 5 || i == 6 || i == 40);
	assert_int_equal(dummy_discard(dev, start, end), 0);
	assert_int_equal(mapped(), 0);
	assert_int_equal(dummy_discard(dev, start, end), 0);
	assert_int_equal(dummy_discard(dev, start, start), -EINVAL);
	store(mem + 5 * PAGE, 56);
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), start, end, dirty), 0);
	assert_int_equal(dirty[5], 1);
	assert_int_equal(dirty[6], 0);
	store(mem + 5 * PAGE, 57); /* write permission was taken */
	assert_int_equal(*(volatile uint64_t *)(mem + 5 * PAGE), 57);
	munmap(mem, PAGES * PAGE);
}

/* Unregistered with all of it mapped: see dma_teardown(). */
static void unregister_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1);

	(void)state;
	BEGIN(5);
	device_writes(mem, PAGES, 3);
	assert_int_equal(mapped(), PAGES);
}

/* No update() any more, and yet each mapping ends. */
static void a_killed_mirror_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t val;

	(void)state;
	BEGIN(5);
	hmm_set_log(HMM_LOG_NONE, NULL);
	device_writes(mem, PAGES, 3);
	dummy_inject(dev, DUMMY_FAIL_UPDATE, 1, 1);
	munmap(mem, PAGE);
	hmm_mirror_sync(dummy_mirror(dev));
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 9 * PAGE, &val), -ENODEV);
	assert_int_equal(dummy_discard(dev, addr_of(mem) + PAGE, addr_of(mem) + 2 * PAGE), -ENODEV);
	assert_int_equal(munmap(mem + 2 * PAGE, 2 * PAGE), 0);
	assert_int_equal(madvise(mem + 4 * PAGE, 2 * PAGE, MADV_DONTNEED), 0);
	wait_until(mapped() == 0); /* by itself: the rest of the range too */
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

/* update() fails for a fault: what was mapped for it is not left behind. */
static void a_failed_fault_ends_it(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t val;

	(void)state;
	BEGIN(5);
	dummy_inject(dev, DUMMY_FAIL_UPDATE, 1, 1);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), -EIO);
	assert_int_equal(mapped(), 0);
	device_reads(mem, PAGES, 1);
	dummy_inject(dev, DUMMY_FAIL_UPDATE, 1, 1); /* of an upgrade */
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -EIO);
	assert_int_equal(mapped(), PAGES - WINDOW);
	device_reads(mem, PAGES, 1);
	assert_int_equal(mapped(), PAGES);
	munmap(mem, PAGES * PAGE);
}

static void what_cannot_be_mapped_is_enomem(void **state)
{
	char *mem = map_filled(PAGES, 1);
	uint64_t val = 77;

	(void)state;
	BEGIN(5);
	dummy_inject(dev, DUMMY_FAIL_DMA, 1, 1); /* the window cannot, the page can */
	assert_int_equal(load(mem), pattern_word(1, 0, 0));
	assert_int_equal(mapped(), 1);
	dummy_inject(dev, DUMMY_FAIL_DMA, 1, ~0ul);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 20 * PAGE, &val), -ENOMEM);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 20 * PAGE, 1), -ENOMEM);
	assert_int_equal(val, 77);
	assert_int_equal(load(mem), pattern_word(1, 0, 0)); /* mapped before */
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -ENOMEM); /* the upgrade */
	assert_int_equal(load(mem), pattern_word(1, 0, 0)); /* as it was */
	assert_int_equal(mapped(), 1);
	dummy_inject(dev, DUMMY_FAIL_DMA, 0, 0);
	device_writes(mem, PAGES, 4);
	cpu_reads(mem, PAGES, 4);
	assert_int_equal(mapped(), PAGES);
	munmap(mem, PAGES * PAGE);
}

static void one_page_cannot_be_mapped(void **state)
{
	char *mem = map_filled(PAGES, 1);
	unsigned long served = 0;
	uint64_t val = 77, faults;
	size_t n;

	(void)state;
	BEGIN(10);
	for (n = 1; n <= WINDOW; n++) { /* of a window: some neighbour, or the page itself */
		dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, n, 1);
		assert_int_equal(load(mem + 4 * PAGE), pattern_word(1, 4, 0));
		assert_int_equal(mapped(), n == 5 ? WINDOW : WINDOW - 1);
		device_reads(mem, WINDOW, 1);
		assert_int_equal(mapped(), WINDOW);
		assert_int_equal(madvise(mem, WINDOW * PAGE, MADV_DONTNEED), 0);
		pattern_fill(mem, WINDOW, 1);
	}
	/* The last of the window, and again when it is asked for alone: no third time. */
	faults = dma_stats().faults;
	dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, WINDOW, 2);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + (WINDOW - 1) * PAGE, &val), -EIO);
	assert_int_equal(val, 77);
	assert_int_equal(dma_stats().faults - faults, 2);
	assert_int_equal(mapped(), WINDOW - 1);
	dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, 3, 5); /* by hand: how many are there */
	assert_int_equal(fault(mem + WINDOW * PAGE, 10, HMM_DEVICE_RFAULT, &served), 0);
	assert_int_equal(served, 5);
	dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, 1, 10);
	assert_int_equal(fault(mem + 40 * PAGE, 10, HMM_DEVICE_RFAULT, &served), -EIO);
	device_reads(mem, PAGES, 1);
	munmap(mem, PAGES * PAGE);
}

static const struct CMUnitTest tests[] = {
	DMA_TEST(a_page_is_mapped_once),
	DMA_TEST(munmap_ends_it),
	DMA_TEST(a_new_mapping_in_its_place_is_mapped_anew),
	DMA_TEST(mremap_ends_it),
	DMA_TEST(dontneed_ends_it),
	DMA_TEST(dontneed_over_and_over),
	DMA_TEST(an_upgrade_replaces_it),
	DMA_TEST(mprotect_takes_the_write_permission),
	DMA_TEST(fork_takes_the_write_permission),
	DMA_TEST(discard_ends_it),
	DMA_TEST(unregister_ends_it),
	DMA_TEST(a_killed_mirror_ends_it),
	DMA_TEST(a_failed_fault_ends_it),
	DMA_TEST(what_cannot_be_mapped_is_enomem),
	DMA_TEST(one_page_cannot_be_mapped),
};

int main(void)
{
	test_init();
	return DMA_RUN(tests);
}
