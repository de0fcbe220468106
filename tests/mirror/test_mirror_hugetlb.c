/* SPDX-License-Identifier: MIT */
/*
 * hugetlbfs memory, mirrored where it is: pages of 2 MiB, private and shared.
 *
 * Tries to break: G2 (a device writes what the CPU may not), G3, G4 (content, holes),
 * G8 (fork), G11 (memory that cannot be mirrored is an error and no more).
 */
#include "hugepages.h"

static void check_access(int flags)
{
	char *mem = huge_new(3, flags), *copy = map_anon(HUGE);
	size_t i;

	pattern_fill(mem, 2 * HUGE_PAGES, 1);
	assert_int_equal(dummy_load(dev, addr_of(mem) + HUGE / 2, copy, HUGE), 0);
	pattern_check_from(copy, HUGE_PAGES, 1, HUGE_PAGES / 2);
	pattern_fill(copy, HUGE_PAGES, 2);
	assert_int_equal(dummy_store(dev, addr_of(mem) + HUGE / 2, copy, HUGE), 0);
	pattern_check(mem, HUGE_PAGES / 2, 1);
	pattern_check(mem + HUGE / 2, HUGE_PAGES, 2);
	/* A hole: to a load first, then to a store. */
	for (i = 0; i < HUGE; i += 37 * PAGE)
		assert_int_equal(load(mem + 2 * HUGE + i), 0);
	store(mem + 3 * HUGE - 8, 5);
	assert_true(is_zero(mem + 2 * HUGE, HUGE - 8));
	munmap(mem, 3 * HUGE);
	/* And to a store that begins in the midst of a page. */
	mem = huge_new(2, flags);
	store(mem + HUGE + 300 * PAGE, 6);
	assert_true(is_zero(mem + HUGE, 300 * PAGE));
	assert_int_equal(load(mem + HUGE - 8), 0);
	munmap(mem, 2 * HUGE);
	munmap(copy, HUGE);
}

static void private_access(void **state)
{
	(void)state;
	BEGIN(15);
	check_access(MAP_PRIVATE);
}

static void shared_access(void **state)
{
	(void)state;
	BEGIN(15);
	check_access(MAP_SHARED);
}

/* Two mappings of one object; private ones copy when they are written. */
static void memfd_of_huge_pages(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_HUGETLB);
	char *a, *b, *priv;

	(void)state;
	BEGIN(15);
	if (fd < 0)
		skip_because("no memfd of huge pages on this kernel");
	assert_int_equal(ftruncate(fd, 2 * HUGE), 0);
	a = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	priv = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(a != MAP_FAILED && b != MAP_FAILED && priv != MAP_FAILED);
	pattern_fill(a, 2 * HUGE_PAGES, 1);
	assert_int_equal(load(b + HUGE + 8), pattern_word(1, HUGE_PAGES, 1));
	assert_int_equal(load(priv + HUGE + 8), pattern_word(1, HUGE_PAGES, 1));
	store(b + HUGE, 7);
	assert_int_equal(*(uint64_t *)(a + HUGE), 7);
	assert_int_equal(load(priv + HUGE), 7);
	store(priv + HUGE, 8);
	assert_int_equal(load(a + HUGE), 7);
	assert_int_equal(load(priv + HUGE + 16), pattern_word(1, HUGE_PAGES, 2));
	/* A hole that is punched is one for all of them; the private copy: as for the CPU. */
	assert_int_equal(madvise(a + HUGE, HUGE, MADV_REMOVE), 0);
	assert_int_equal(translations(a + HUGE, HUGE), 0);
	assert_int_equal(load(a + HUGE), 0);
	assert_int_equal(load(b + HUGE), 0);
	assert_int_equal(load(priv + HUGE), *(volatile uint64_t *)(priv + HUGE));
	munmap(a, 2 * HUGE);
	munmap(b, 2 * HUGE);
	munmap(priv, 2 * HUGE);
	close(fd);
}

/* Over what was unmapped comes memory that may only be read. */
static void check_munmap(int flags)
{
	char *mem = huge_new(3, flags), *mid = mem + HUGE;
	struct dummy_stats before, after;

	pattern_fill(mem, 3 * HUGE_PAGES, 1);
	mirror(mem, 3 * HUGE);
	dummy_get_stats(dev, &before);
	assert_int_equal(munmap(mid, HUGE), 0);
	assert_int_equal(translations(mid, HUGE), 0);
	dummy_get_stats(dev, &after);
	assert_int_equal(after.updates[HMM_MUNMAP], before.updates[HMM_MUNMAP] + 1);
	load_is_efault(dev, mid);
	if (mmap(mid, HUGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
	    mid) {
		assert_int_equal(load(mid + 5 * PAGE), 0);
		assert_int_equal(dummy_store_u64(dev, addr_of(mid), 1), -EFAULT);
	}
	assert_int_equal(translations(mem, HUGE), HUGE_PAGES);
	pattern_check(mem, HUGE_PAGES, 1);
	assert_int_equal(load(mid + HUGE + 8), pattern_word(1, 2 * HUGE_PAGES, 1));
	munmap(mem, HUGE);
	munmap(mid + HUGE, HUGE);
}

static void munmap_of_a_part(void **state)
{
	(void)state;
	BEGIN(15);
	check_munmap(MAP_PRIVATE);
	check_munmap(MAP_SHARED);
}

static void dontneed_of_a_part(void **state)
{
	char *mem = huge_new(3, MAP_PRIVATE), *mid = mem + HUGE;
	int i;

	(void)state;
	BEGIN(15);
	for (i = 0; i < 5; i++) {
		pattern_fill(mem, 3 * HUGE_PAGES, 1);
		mirror(mem, 3 * HUGE);
		if (madvise(mid, HUGE, MADV_DONTNEED))
			skip_because("no MADV_DONTNEED of huge pages (Linux 5.18)");
		assert_int_equal(translations(mid, HUGE), 0);
		assert_int_equal(load(mid + 100 * PAGE), 0);
		store(mid, 4);
		assert_true(is_zero(mid + 8, HUGE - 8));
		pattern_check(mem, HUGE_PAGES, 1);
		pattern_check_from(mid + HUGE, HUGE_PAGES, 1, 2 * HUGE_PAGES);
	}
	munmap(mem, 3 * HUGE);
}

static void mprotect_of_a_part(void **state)
{
	char *mem = huge_new(3, MAP_PRIVATE), *mid = mem + HUGE;

	(void)state;
	BEGIN(15);
	pattern_fill(mem, 3 * HUGE_PAGES, 1);
	mirror(mem, 3 * HUGE);
	assert_int_equal(mprotect(mid, HUGE, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mid) + 9 * PAGE, 1), -EFAULT);
	assert_int_equal(load(mid + 8), pattern_word(1, HUGE_PAGES, 1));
	assert_int_equal(mprotect(mid, HUGE, PROT_NONE), 0);
	assert_int_equal(no_access(mid), -EFAULT);
	assert_int_equal(mprotect(mid, HUGE, PROT_READ | PROT_WRITE), 0);
	pattern_check(mem, 3 * HUGE_PAGES, 1);
	store(mid, 3);
	munmap(mem, 3 * HUGE);
}

/* The child has its own copy: there are huge pages enough for that. */
static void fork_copies_private_pages(void **state)
{
	char *mem = huge_new(3, MAP_PRIVATE);
	int i, go[2], status;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 5; i++) {
		pid_t pid;
		char c;

		pattern_fill(mem, 3 * HUGE_PAGES, 1);
		mirror(mem, 3 * HUGE);
		assert_int_equal(pipe(go), 0);
		pid = fork();
		if (!pid) {
			alarm(60);
			if (read(go[0], &c, 1) != 1)
				_exit(2);
			for (c = 0; c < 3; c++)
				if (*(uint64_t *)(mem + c * HUGE) !=
				    pattern_word(1, (size_t)c * HUGE_PAGES, 0))
					_exit(1);
			*(uint64_t *)(mem + 8) = 0xee;
			_exit(0);
		}
		assert_true(pid > 0);
		store(mem, 11);
		store(mem + HUGE, 12);
		assert_int_equal(write(go[1], "", 1), 1);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		assert_int_equal(load(mem), 11);
		assert_int_equal(load(mem + 8), pattern_word(1, 0, 1));
		store(mem + 2 * HUGE, 13);
		close(go[0]);
		close(go[1]);
	}
	munmap(mem, 3 * HUGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(private_access),
		T(shared_access),
		T(memfd_of_huge_pages),
		T(munmap_of_a_part),
		T(dontneed_of_a_part),
		T(mprotect_of_a_part),
		T(fork_copies_private_pages),
	};

	return huge_main(tests, sizeof(tests) / sizeof(tests[0]), 0);
}
