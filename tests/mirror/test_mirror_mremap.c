/* SPDX-License-Identifier: MIT */
/*
 * mremap of memory that is one mapping to the program and several to the kernel, since
 * a device has used a part of it first. What works without libhmm works with it.
 *
 * Tries to break: G3, G10 (the program notices nothing), G4 for the content.
 */
#include "test_util.h"

#define PAGES 8 /* half on either side of a chunk's end */
#define LEN (PAGES * PAGE)

static struct dummy_device *dev;

static int setup(void **state)
{
	(void)state;
	dev = device_new(64);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return dummy_destroy(dev);
}

static unsigned int mappings(const char *mem, size_t len)
{
	char line[512];
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	unsigned int n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start < addr_of(mem) + len &&
		    end > addr_of(mem))
			n++;
	fclose(f);
	return n;
}

/*
 * In a reservation of its own, so that it is not joined with anything. The device comes
 * first on one side, the CPU on the other, and the kernel gives each an anon_vma.
 */
static char *split(unsigned long seed, bool migrate)
{
	char *room = map_aligned(4 * MIB), *mem = room + 2 * MIB - LEN / 2;

	munmap(room, 4 * MIB);
	assert_ptr_equal(mmap(mem, LEN, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), 0);
	mem[LEN - 1] = 1;
	assert_true(mappings(mem, LEN) > 1);
	pattern_fill(mem, PAGES, seed);
	if (migrate)
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + LEN, NULL), 0);
	return mem;
}

/* The first @pages pages of @mem have the pattern, for CPU and device. */
static void check(char *mem, size_t pages, unsigned long seed)
{
	uint64_t val;
	size_t i;

	for (i = 0; i < pages; i++) {
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE + 8, &val), 0);
		assert_int_equal(val, pattern_word(seed, i, 1));
	}
	pattern_check(mem, pages, seed);
}

static void check_gone(const char *mem)
{
	uint64_t val;
	size_t i;

	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE, &val), -EFAULT);
}

static void grows_somewhere_else(void **state)
{
	int migrate;

	(void)state;
	BEGIN(10);
	for (migrate = 0; migrate < 2; migrate++) {
		char *mem = split(1, migrate), *wall, *to;

		wall = mmap(mem + LEN, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			    0);
		assert_ptr_equal(wall, mem + LEN);
		errno = 0;
		assert_ptr_equal(mremap(mem, LEN, 2 * LEN, 0), MAP_FAILED);
		assert_int_equal(errno, ENOMEM);
		to = mremap(mem, LEN, 2 * LEN, MREMAP_MAYMOVE);
		assert_ptr_not_equal(to, MAP_FAILED);
		check_gone(mem);
		check(to, PAGES, 1);
		pattern_fill(to, 2 * PAGES, 2);
		check(to, 2 * PAGES, 2);
		munmap(to, 2 * LEN);
		munmap(wall, PAGE);
	}
}

static void grows_in_place(void **state)
{
	char *mem = split(3, true);

	(void)state;
	BEGIN(10);
	munmap(mem + LEN, LEN);
	assert_ptr_equal(mremap(mem, LEN, 2 * LEN, 0), mem);
	check(mem, PAGES, 3);
	pattern_fill(mem, 2 * PAGES, 4);
	check(mem, 2 * PAGES, 4);
	munmap(mem, 2 * LEN);
}

static void shrinks(void **state)
{
	char *mem = split(5, true);

	(void)state;
	BEGIN(10);
	assert_ptr_equal(mremap(mem, LEN, LEN - PAGE, 0), mem);
	check(mem, PAGES - 1, 5);
	assert_ptr_equal(mremap(mem, LEN - PAGE, PAGE, MREMAP_MAYMOVE), mem);
	check(mem, 1, 5);
	check_gone(mem + PAGE);
	munmap(mem, PAGE);
}

static void to_a_place_of_the_programs_choice(void **state)
{
	size_t lens[] = { LEN / 2, LEN, 2 * LEN }, i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 3; i++) {
		char *mem = split(6, i == 1), *to = map_anon(2 * LEN);
		size_t pages = lens[i] < LEN ? lens[i] / PAGE : PAGES;

		assert_int_equal(dummy_store_u64(dev, addr_of(to), 7), 0);
		assert_ptr_equal(mremap(mem, LEN, lens[i], MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
		check(to, pages, 6);
		check_gone(mem);
		munmap(to, 2 * LEN);
	}
}

static void leaves_the_place_mapped_if_asked_to(void **state)
{
	char *mem = split(8, true), *to;
	size_t i;

	(void)state;
	BEGIN(10);
	to = mremap(mem, LEN, LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	assert_ptr_not_equal(to, MAP_FAILED);
	check(to, PAGES, 8);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), 0);
	munmap(mem, LEN);
	munmap(to, LEN);
}

/* A part of it was mapped over: one mapping still, as the program sees it. */
static void after_a_part_was_mapped_over(void **state)
{
	char *mem = split(9, false), *to;

	(void)state;
	BEGIN(10);
	assert_ptr_equal(mmap(mem + PAGE, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + PAGE);
	pattern_fill(mem, PAGES, 9);
	to = mremap(mem, LEN, 3 * LEN, MREMAP_MAYMOVE);
	assert_ptr_not_equal(to, MAP_FAILED);
	check(to, PAGES, 9);
	munmap(to, 3 * LEN);
}

/* What the kernel refuses is refused, and nothing has moved. */
static void errors_are_the_kernels(void **state)
{
	char *mem = split(10, false);
	void *to;

	(void)state;
	BEGIN(10);
	errno = 0;
	assert_ptr_equal(mremap(mem, LEN, 2 * LEN, MREMAP_MAYMOVE | MREMAP_FIXED, mem + PAGE),
			 MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_ptr_equal(mremap(mem + 1, LEN, LEN, 0), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_ptr_equal(mremap(mem, LEN, 2 * LEN, MREMAP_FIXED, mem + MIB), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	check(mem, PAGES, 10);

	/* Two mappings of the program's own making. */
	assert_int_equal(mprotect(mem, LEN / 2, PROT_READ), 0);
	errno = 0;
	to = mremap(mem, LEN, 2 * LEN, MREMAP_MAYMOVE);
	assert_ptr_equal(to, MAP_FAILED);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(mprotect(mem, LEN / 2, PROT_READ | PROT_WRITE), 0);
	check(mem, PAGES, 10);
	munmap(mem, LEN);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(grows_somewhere_else),
		T(grows_in_place),
		T(shrinks),
		T(to_a_place_of_the_programs_choice),
		T(leaves_the_place_mapped_if_asked_to),
		T(after_a_part_was_mapped_over),
		T(errors_are_the_kernels),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
