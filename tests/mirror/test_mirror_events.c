/* SPDX-License-Identifier: MIT */
/*
 * What the program does to its address space, and what the device sees afterwards.
 *
 * Tries to break: G3 (a device access after munmap, mremap, madvise, mprotect or
 * fork has returned sees the address space after that call), G4, G8.
 */
#include "test_util.h"

#include <dirent.h>

#define PAGES 32
#define ROUNDS (TEST_SANITIZED ? 50 : 300)

static struct dummy_device *dev;

static int setup(void **state)
{
	struct dummy_options opt = { .memory = 0 };

	(void)state;
	return dummy_create(&dev, &opt);
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

static void load_fails(const void *addr)
{
	uint64_t val;

	assert_int_equal(dummy_load_u64(dev, addr_of(addr), &val), -EFAULT);
	assert_int_equal(dummy_store_u64(dev, addr_of(addr), 1), -EFAULT);
}

/* At @at; elsewhere if somebody else (a sanitizer, the library) was quicker. */
static char *map_at(char *at, size_t len)
{
	char *mem = mmap(at, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	return mem == MAP_FAILED ? map_anon(len) : mem;
}

static void gone(const void *addr)
{
	load_is_efault(dev, addr);
	if (!taken(addr))
		assert_int_equal(dummy_store_u64(dev, addr_of(addr), 1), -EFAULT);
}

static void munmap_then_access_is_efault(void **state)
{
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		char *mem = map_anon(PAGES * PAGE);

		pattern_fill(mem, PAGES, 1);
		assert_int_equal(load(mem + PAGE), pattern_word(1, 1, 0));
		assert_int_equal(dummy_store_u64(dev, addr_of(mem), 5), 0);
		assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		gone(mem);
		gone(mem + PAGE);
	}
}

static void munmap_and_mmap_shows_the_new_mapping(void **state)
{
	char *mem = map_anon(PAGES * PAGE), *old;
	int i, same = 0;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		mem = map_at(mem, PAGES * PAGE);
		if (i & 1)
			*(uint64_t *)mem = (uint64_t)i;
		assert_int_equal(load(mem), i & 1 ? i : 0);
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 99), 0);
		assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		old = mem;
		mem = map_at(mem, PAGES * PAGE);
		assert_int_equal(load(mem + PAGE), 0);
		same += mem == old;
		*(uint64_t *)(mem + PAGE) = 3;
		assert_int_equal(load(mem + PAGE), 3);
	}
	assert_true(same > ROUNDS / 2);
	munmap(mem, PAGES * PAGE);
}

static void mmap_fixed_over_shows_the_new_mapping(void **state)
{
	char *mem = map_anon(PAGES * PAGE);
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		pattern_fill(mem, PAGES, 7);
		assert_int_equal(load(mem + 3 * PAGE), pattern_word(7, 3, 0));
		assert_ptr_equal(mmap(mem + 2 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 mem + 2 * PAGE);
		assert_int_equal(load(mem + 3 * PAGE), 0);
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 3 * PAGE, 8), 0);
		assert_int_equal(*(uint64_t *)(mem + 3 * PAGE), 8);
		assert_int_equal(load(mem + 4 * PAGE), pattern_word(7, 4, 0));
	}
	munmap(mem, PAGES * PAGE);
}

static void dontneed_reads_zero(void **state)
{
	char *mem = map_anon(PAGES * PAGE);
	int i;

	(void)state;
	BEGIN(15);
	for (i = 0; i < 15; i++) {
		pattern_fill(mem, 4, 9);
		assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 1), 0);
		assert_int_equal(load(mem + 2 * PAGE), pattern_word(9, 2, 0));
		assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		assert_int_equal(load(mem + PAGE), 0);
		assert_int_equal(load(mem + 2 * PAGE), 0);
		assert_int_equal(dummy_store_u64(dev, addr_of(mem), 4), 0);
		assert_int_equal(*(uint64_t *)mem, 4);
	}
	munmap(mem, PAGES * PAGE);
}

/* For how long threads of ours were ready to run, and did not, in ns: that is not libhmm's time. */
static uint64_t run_delay(void)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *task;
	uint64_t sum = 0;

	assert_non_null(tasks);
	while ((task = readdir(tasks))) {
		unsigned long long ran, delay;
		char path[300];
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", task->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%llu %llu", &ran, &delay) == 2)
			sum += delay;
		fclose(file);
	}
	closedir(tasks);
	return sum;
}

/* What the device's read of a word took, but for the time that another process had the CPU. */
static uint64_t time_load(const char *at, uint64_t wanted)
{
	uint64_t delay = run_delay(), start = test_now(), took;

	assert_int_equal(load(at), wanted);
	took = test_now() - start;
	delay = run_delay() - delay;
	return took > delay ? took - delay : 0;
}

/* A device access alone, with nobody touching the range in between. */
static void access_after_dontneed_costs_no_wait(void **state)
{
	char *mem = map_anon(PAGES * PAGE);
	uint64_t took, worst = 0;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 20; i++) {
		pattern_fill(mem, PAGES, 9);
		assert_int_equal(load(mem), pattern_word(9, 0, 0));
		assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		took = time_load(mem, 0);
		worst = took > worst ? took : worst;
	}
	munmap(mem, PAGES * PAGE);
	if (!TEST_SANITIZED && worst > 50000000)
		fail_msg("a device read after DONTNEED took %llu us",
			 (unsigned long long)worst / 1000);
}

/* The device must not wait out a time limit for pages that were written since. */
static void rewrite_after_dontneed_costs_no_wait(void **state)
{
	char *mem = map_anon(PAGES * PAGE);
	uint64_t took, worst = 0;
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 20; i++) {
		pattern_fill(mem, PAGES, 9);
		assert_int_equal(load(mem), pattern_word(9, 0, 0));
		assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		pattern_fill(mem, PAGES, 10);
		took = time_load(mem, pattern_word(10, 0, 0));
		worst = took > worst ? took : worst;
	}
	munmap(mem, PAGES * PAGE);
	if (!TEST_SANITIZED && worst > 50000000)
		fail_msg("a device read after DONTNEED and rewrite took %llu us",
			 (unsigned long long)worst / 1000);
}

static void mremap_moves_what_the_device_sees(void **state)
{
	char *from, *to = map_anon(PAGES * PAGE);
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < ROUNDS; i++) {
		from = to;
		to = map_anon(PAGES * PAGE); /* not a hole: the library might use it */

		pattern_fill(from, PAGES, (uint64_t)i);
		assert_int_equal(load(from + PAGE), pattern_word((uint64_t)i, 1, 0));
		assert_int_equal(dummy_store_u64(dev, addr_of(from) + 2 * PAGE, 5), 0);
		assert_ptr_equal(mremap(from, PAGES * PAGE, PAGES * PAGE,
					MREMAP_MAYMOVE | MREMAP_FIXED, to),
				 to);
		assert_int_equal(load(to + PAGE), pattern_word((uint64_t)i, 1, 0));
		assert_int_equal(load(to + 2 * PAGE), 5);
		assert_int_equal(dummy_store_u64(dev, addr_of(to) + 3 * PAGE, 6), 0);
		assert_int_equal(*(uint64_t *)(to + 3 * PAGE), 6);
	}
	munmap(to, PAGES * PAGE);
}

static void dontunmap_leaves_zeros_behind(void **state)
{
	char *mem = map_anon(PAGES * PAGE), *to;

	(void)state;
	BEGIN(5);
	pattern_fill(mem, PAGES, 4);
	assert_int_equal(load(mem + PAGE), pattern_word(4, 1, 0));
	to = mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	assert_ptr_not_equal(to, MAP_FAILED);
	assert_int_equal(load(mem + PAGE), 0);
	assert_int_equal(load(to + PAGE), pattern_word(4, 1, 0));
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + PAGE, 1), 0);
	pattern_check(to, PAGES, 4);
	munmap(mem, PAGES * PAGE);
	munmap(to, PAGES * PAGE);
}

/* The kernel sends no event for mprotect: G3 names it all the same. */
static void mprotect_readonly_stops_device_writes(void **state)
{
	char *mem = map_anon(PAGE);

	(void)state;
	BEGIN(5);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), 0);
	assert_int_equal(mprotect(mem, PAGE, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 2), -EFAULT);
	assert_int_equal(*(uint64_t *)mem, 1);
	munmap(mem, PAGE);
}

static void mprotect_none_stops_device_reads(void **state)
{
	char *mem = map_anon(PAGE);

	(void)state;
	BEGIN(5);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), 0);
	assert_int_equal(mprotect(mem, PAGE, PROT_NONE), 0);
	load_fails(mem);
	munmap(mem, PAGE);
}

/* One round of fork: neither side sees what the other writes from then on. */
static void fork_once(char *mem, uint64_t i)
{
	int to_child[2], status;
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe(to_child), 0);
	pattern_fill(mem, 4, i);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 100 + i), 0);
	pid = fork();
	if (!pid) {
		bool ok;

		alarm(10);
		ok = read(to_child[0], &c, 1) == 1;
		ok = ok && ((uint64_t *)mem)[0] == 100 + i;
		ok = ok && ((uint64_t *)mem)[1] == pattern_word(i, 0, 1);
		memset(mem, 0xee, 4 * PAGE);
		_exit(ok ? 0 : 1);
	}
	assert_true(pid > 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 200 + i), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 8, 1), 0);
	assert_int_equal(write(to_child[1], &c, 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(((uint64_t *)mem)[0], 200 + i);
	assert_int_equal(load(mem), 200 + i);
	assert_int_equal(load(mem + PAGE), pattern_word(i, 1, 0));
	close(to_child[0]);
	close(to_child[1]);
}

static void child_does_not_see_device_writes_after_fork(void **state)
{
	char *mem = map_anon(PAGES * PAGE);
	uint64_t i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < (TEST_SANITIZED ? 5 : 40); i++)
		fork_once(mem, i);
	munmap(mem, PAGES * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(munmap_then_access_is_efault, setup, teardown),
		cmocka_unit_test_setup_teardown(munmap_and_mmap_shows_the_new_mapping, setup,
						teardown),
		cmocka_unit_test_setup_teardown(mmap_fixed_over_shows_the_new_mapping, setup,
						teardown),
		cmocka_unit_test_setup_teardown(dontneed_reads_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(access_after_dontneed_costs_no_wait, setup,
						teardown),
		cmocka_unit_test_setup_teardown(rewrite_after_dontneed_costs_no_wait, setup,
						teardown),
		cmocka_unit_test_setup_teardown(mremap_moves_what_the_device_sees, setup, teardown),
		cmocka_unit_test_setup_teardown(dontunmap_leaves_zeros_behind, setup, teardown),
		cmocka_unit_test_setup_teardown(mprotect_readonly_stops_device_writes, setup,
						teardown),
		cmocka_unit_test_setup_teardown(mprotect_none_stops_device_reads, setup, teardown),
		cmocka_unit_test_setup_teardown(child_does_not_see_device_writes_after_fork, setup,
						teardown),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
