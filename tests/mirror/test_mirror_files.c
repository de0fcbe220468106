/* SPDX-License-Identifier: MIT */
/*
 * Mappings of regular files. Nobody tells libhmm when they change, so the device gets
 * a translation for each access alone. With and without an IOMMU.
 *
 * Tries to break: the device sees what the CPU would at the very access (G2, G3), no
 * translation of it lasts, a write goes where the CPU's would (G4), and what the CPU
 * could not do is an errno (G11).
 */
#include "mirror/files.h"

static void shared_file(void **state)
{
	int fd = numbered_file(100);
	char *mem = map_file(fd, RW, MAP_SHARED, NULL);
	size_t i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(load(mem + i * PAGE), 100 + i);
	for (i = 0; i < PAGES; i++) {
		store(mem + i * PAGE, 200 + i);
		assert_int_equal(file_word(fd, (off_t)(i * PAGE)), 200 + i);
		assert_int_equal(*(volatile uint64_t *)(mem + i * PAGE), 200 + i);
	}
	assert_int_equal(msync(mem, LEN, MS_SYNC), 0);
	store(mem + 8, 5); /* the kernel has write-protected it for the write-back */
	assert_int_equal(file_word(fd, 8), 5);
	*(volatile uint64_t *)mem = 6;
	assert_int_equal(load(mem), 6);
	file_set(fd, 0, 7);
	assert_int_equal(load(mem), 7);
	munmap(mem, LEN);
	load_is_efault(dev, mem);
	close(fd);
}

static void private_file(void **state)
{
	int fd = numbered_file(100);
	char *mem = map_file(fd, RW, MAP_PRIVATE, NULL);

	(void)state;
	BEGIN(10);
	assert_int_equal(load(mem + PAGE), 101);
	file_set(fd, PAGE, 102);
	assert_int_equal(load(mem + PAGE), 102);
	store(mem + PAGE, 9);
	assert_int_equal(load(mem + PAGE), 9);
	assert_int_equal(*(volatile uint64_t *)(mem + PAGE), 9);
	assert_int_equal(file_word(fd, PAGE), 102);
	*(volatile uint64_t *)(mem + 2 * PAGE) = 10;
	assert_int_equal(load(mem + 2 * PAGE), 10);
	store(mem + 2 * PAGE + 8, 11);
	assert_int_equal(*(volatile uint64_t *)(mem + 2 * PAGE), 10);
	assert_int_equal(file_word(fd, 2 * PAGE), 102);
	assert_int_equal(madvise(mem, LEN, MADV_DONTNEED), 0);
	assert_int_equal(load(mem + PAGE), 102); /* the file's again, and no event */
	munmap(mem, LEN);
	close(fd);
}

static void read_only_file(void **state)
{
	int fd = numbered_file(100), ro;
	char path[64], *mem;

	(void)state;
	BEGIN(10);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	mem = map_file(ro, PROT_READ, MAP_SHARED, NULL);
	assert_int_equal(load(mem), 100);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -EFAULT);
	assert_int_equal(load(mem), 100);
	map_file(ro, PROT_READ, MAP_PRIVATE, mem);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -EFAULT);
	assert_int_equal(load(mem), 100);
	map_file(ro, RW, MAP_PRIVATE, mem);
	store(mem, 1);
	assert_int_equal(load(mem), 1);
	assert_int_equal(mprotect(mem, PAGE, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 2), -EFAULT);
	assert_int_equal(mprotect(mem, LEN, PROT_NONE), 0);
	load_is_efault(dev, mem);
	assert_int_equal(file_word(fd, 0), 100);
	munmap(mem, LEN);
	close(ro);
	close(fd);
}

static void past_the_end(void **state)
{
	int fd = numbered_file(100);
	char *mem = map_file(fd, RW, MAP_SHARED, NULL);
	uint64_t val = 77;

	(void)state;
	BEGIN(10);
	store(mem + 20 * PAGE, 1);
	assert_int_equal(ftruncate(fd, 3 * PAGE + 8), 0);
	assert_int_equal(load(mem + 2 * PAGE), 102); /* its window has no end */
	assert_int_equal(load(mem + 3 * PAGE), 103);
	assert_int_equal(load(mem + 3 * PAGE + 8), 0);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 4 * PAGE, &val), -EFAULT);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 20 * PAGE, &val), -EFAULT);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 20 * PAGE, 2), -EFAULT);
	assert_int_equal(val, 77);
	assert_int_equal(ftruncate(fd, LEN), 0);
	assert_int_equal(load(mem + 20 * PAGE), 0);
	store(mem + 20 * PAGE, 3);
	assert_int_equal(file_word(fd, 20 * PAGE), 3);
	munmap(mem, LEN);
	close(fd);
}

static void another_file_in_its_place(void **state)
{
	int a = numbered_file(100), b = numbered_file(200);
	char *mem = map_file(a, RW, MAP_SHARED, NULL);
	size_t i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 50; i++) {
		map_file(a, RW, MAP_SHARED, mem);
		assert_int_equal(load(mem + 5 * PAGE), 105);
		store(mem, 100);
		munmap(mem, LEN);
		map_file(b, RW, MAP_PRIVATE, mem);
		assert_int_equal(load(mem + 5 * PAGE), 205);
		store(mem, 1);
		assert_int_equal(file_word(b, 0), 200);
		mmap(mem, LEN, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		assert_int_equal(load(mem + 5 * PAGE), 0);
		store(mem + 5 * PAGE, 300);
		assert_int_equal(load(mem + 5 * PAGE), 300);
	}
	assert_int_equal(file_word(a, 5 * PAGE), 105);
	assert_int_equal(file_word(b, 5 * PAGE), 205);
	munmap(mem, LEN);
	close(a);
	close(b);
}

/* ---- what gets into the device's table ---- */

struct seen {
	const char *mem;
	size_t file, other;
};

/* Pages 4 to 11 of each 16 are the file's. */
static int see(const struct dummy_page *page, void *arg)
{
	struct seen *seen = arg;
	size_t i = (page->addr - addr_of(seen->mem)) / PAGE;

	if (page->addr >= addr_of(seen->mem) && i < PAGES)
		(i % 16 >= 4 && i % 16 < 12 ? seen->file++ : seen->other++);
	return 0;
}

static void anonymous_and_file_pages_in_one_window(void **state)
{
	int fd = numbered_file(100);
	char *mem = map_aligned(LEN);
	struct seen seen = { .mem = mem };
	uint64_t faults;
	size_t i;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 1);
	for (i = 4; i < PAGES; i += 16)
		assert_ptr_equal(mmap(mem + i * PAGE, 8 * PAGE, RW, MAP_SHARED | MAP_FIXED, fd,
				      (off_t)(i * PAGE)),
				 mem + i * PAGE);
	for (i = 0; i < PAGES; i += 16)
		assert_int_equal(load(mem + i * PAGE), pattern_word(1, i, 0));
	faults = dma_stats().faults;
	assert_int_equal(faults, PAGES / 16);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(load(mem + i * PAGE),
				 i % 16 >= 4 && i % 16 < 12 ? 100 + i : pattern_word(1, i, 0));
	assert_int_equal(dma_stats().faults - faults, PAGES / 2); /* one for each access */
	assert_int_equal(dummy_for_each_page(dev, see, &seen), 0);
	assert_int_equal(seen.file, 0);
	assert_int_equal(seen.other, PAGES / 2);
	assert_int_equal(mapped(), dma_options.iommu ? PAGES / 2 : 0);
	device_writes(mem, PAGES, 500);
	cpu_reads(mem, PAGES, 500);
	assert_int_equal(file_word(fd, 4 * PAGE), 504);
	assert_int_equal(mapped(), dma_options.iommu ? PAGES / 2 : 0);
	munmap(mem, LEN);
	close(fd);
}

static void what_the_device_wrote_is_dirty(void **state)
{
	int fd = numbered_file(100);
	char *mem = map_file(fd, RW, MAP_SHARED, NULL);
	struct hmm_mirror *mirror = dummy_mirror(dev);
	uint8_t dirty[PAGES];
	size_t i;

	(void)state;
	BEGIN(10);
	assert_int_equal(hmm_mirror_range_isdirty(mirror, addr_of(mem), addr_of(mem) + LEN, dirty),
			 0);
	load(mem);
	store(mem + 7 * PAGE, 1);
	assert_int_equal(hmm_mirror_range_isdirty(mirror, addr_of(mem), addr_of(mem) + LEN, dirty),
			 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dirty[i], i == 7);
	munmap(mem, LEN);
	close(fd);
}

/* ---- while it changes ---- */

#define THREADS 4u

struct race {
	char *mem;
	bool stop;
	uint64_t loads, bad;
};

static void *race_load(void *arg)
{
	struct race *race = arg;
	uint64_t val;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		int ret = dummy_load_u64(dev, addr_of(race->mem) + 3 * PAGE, &val);

		if (ret ? ret != -EFAULT && ret != -EBUSY : val != 0 && val != 103 && val != 203)
			__atomic_fetch_add(&race->bad, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&race->loads, !ret, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void files_change_under_the_device(void **state)
{
	int a = numbered_file(100), b = numbered_file(200);
	struct race race = { .mem = map_file(a, RW, MAP_SHARED, NULL) };
	uint64_t end, turns;
	pthread_t thread[THREADS];
	size_t i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, race_load, &race), 0);
	end = test_now() + 700000000ull;
	for (turns = 0;
	     test_now() < end || turns < 4 || !__atomic_load_n(&race.loads, __ATOMIC_RELAXED);
	     turns++) {
		map_file(turns & 1 ? a : b, RW, turns & 2 ? MAP_SHARED : MAP_PRIVATE, race.mem);
		assert_int_equal(load(race.mem + 4 * PAGE), turns & 1 ? 104 : 204);
		if (turns % 5)
			continue;
		mmap(race.mem, LEN, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		assert_int_equal(load(race.mem + 4 * PAGE), 0);
	}
	__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(race.bad, 0);
	assert_no_errors();
	munmap(race.mem, LEN);
	close(a);
	close(b);
}

static const struct CMUnitTest tests[] = {
	DMA_TEST(shared_file),
	DMA_TEST(private_file),
	DMA_TEST(read_only_file),
	DMA_TEST(past_the_end),
	DMA_TEST(another_file_in_its_place),
	DMA_TEST(anonymous_and_file_pages_in_one_window),
	DMA_TEST(what_the_device_wrote_is_dirty),
	DMA_TEST(files_change_under_the_device),
};

int main(void)
{
	test_init();
	return FILES_RUN(tests);
}
