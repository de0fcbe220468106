/* SPDX-License-Identifier: MIT */
/*
 * Kinds of memory: what can be mirrored, what cannot, and that the device's writes
 * go where the CPU's would.
 *
 * Tries to break: G4 (one content, however many mappings show it), G5 (mirroring
 * holds no page), G11.
 */
#include "test_util.h"

#define PAGES 16

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

static uint64_t load(const void *addr)
{
	uint64_t val = ~0ull;

	assert_int_equal(dummy_load_u64(dev, addr_of(addr), &val), 0);
	return val;
}

/* Two mappings of one object, the device on one of them. */
static void check_shared(char *a, char *b)
{
	size_t i;

	pattern_fill(a, PAGES / 2, 1);
	for (i = 0; i < PAGES / 2; i++)
		assert_int_equal(load(a + i * PAGE + 8), pattern_word(1, i, 1));
	for (i = 0; i < PAGES; i++)
		assert_int_equal(dummy_store_u64(dev, addr_of(a) + i * PAGE, i + 1), 0);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(b + i * PAGE), i + 1);
	*(uint64_t *)(b + PAGE) = 99;
	assert_int_equal(load(a + PAGE), 99);
	assert_int_equal(load(b + PAGE), 99);
}

static void memfd_is_mirrored(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *a, *b;

	(void)state;
	BEGIN(5);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	a = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(a, MAP_FAILED);
	assert_ptr_not_equal(b, MAP_FAILED);
	check_shared(a, b);
	munmap(a, PAGES * PAGE);
	munmap(b, PAGES * PAGE);
	close(fd);
}

static void private_memfd_copies_on_device_write(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *a, *b;
	size_t i;

	(void)state;
	BEGIN(5);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	a = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	pattern_fill(a, PAGES, 2);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(load(b + i * PAGE), pattern_word(2, i, 0));
	*(uint64_t *)a = 5;
	assert_int_equal(load(b), 5);
	assert_int_equal(dummy_store_u64(dev, addr_of(b), 6), 0);
	assert_int_equal(*(uint64_t *)a, 5);
	assert_int_equal(*(uint64_t *)b, 6);
	assert_int_equal(((uint64_t *)b)[1], pattern_word(2, 0, 1));
	assert_int_equal(load(b), 6);
	munmap(a, PAGES * PAGE);
	munmap(b, PAGES * PAGE);
	close(fd);
}

static void shared_anonymous_is_mirrored_also_with_a_child(void **state)
{
	char *mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	int status;
	pid_t pid;

	(void)state;
	BEGIN(5);
	check_shared(mem, mem);
	pid = fork();
	if (!pid) {
		alarm(5);
		*(uint64_t *)mem = 1234;
		_exit(*(uint64_t *)(mem + PAGE) == 99 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(load(mem), 1234);
	munmap(mem, PAGES * PAGE);
}

static void truncated_memfd_is_an_error_not_a_signal(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	uint64_t val = 7;
	char *mem;

	(void)state;
	BEGIN(5);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 4 * PAGE, 1), 0);
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	assert_int_not_equal(dummy_load_u64(dev, addr_of(mem) + 4 * PAGE, &val), 0);
	assert_int_equal(val, 7);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 1), 0);
	munmap(mem, PAGES * PAGE);
	close(fd);
}

static void stack_heap_and_globals_are_mirrored(void **state)
{
	static uint64_t global = 11;
	uint64_t local = 12, *heap = malloc(8);

	(void)state;
	BEGIN(5);
	*heap = 13;
	assert_int_equal(load(&local), 12);
	assert_int_equal(load(heap), 13);
	assert_int_equal(dummy_store_u64(dev, addr_of(heap), 14), 0);
	assert_int_equal(*(volatile uint64_t *)heap, 14);
	assert_int_equal(dummy_store_u64(dev, addr_of(&local), 15), 0);
	assert_int_equal(*(volatile uint64_t *)&local, 15);
	assert_int_equal(load(&global), 11);
	free(heap);
}

/* G5: what the device maps can still be discarded, also page by page. */
static void mirrored_pages_are_not_held(void **state)
{
	char *mem = map_aligned(2 * MIB), value[64];

	(void)state;
	BEGIN(5);
	memset(mem, 1, 2 * MIB);
	assert_int_equal(load(mem), 0x0101010101010101);
	assert_int_equal(load(mem + MIB), 0x0101010101010101);
	assert_int_equal(madvise(mem, 2 * MIB, MADV_DONTNEED), 0);
	assert_int_equal(count_on_cpu(mem, 512), 0);
	assert_true(smaps_value(mem, "Rss", value, sizeof(value)));
	assert_int_equal(atoi(value), 0);
	munmap(mem, 2 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(memfd_is_mirrored, setup, teardown),
		cmocka_unit_test_setup_teardown(private_memfd_copies_on_device_write, setup,
						teardown),
		cmocka_unit_test_setup_teardown(shared_anonymous_is_mirrored_also_with_a_child,
						setup, teardown),
		cmocka_unit_test_setup_teardown(truncated_memfd_is_an_error_not_a_signal, setup,
						teardown),
		cmocka_unit_test_setup_teardown(stack_heap_and_globals_are_mirrored, setup,
						teardown),
		cmocka_unit_test_setup_teardown(mirrored_pages_are_not_held, setup, teardown),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
