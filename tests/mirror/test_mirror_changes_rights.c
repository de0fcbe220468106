/* SPDX-License-Identifier: MIT */
/*
 * mprotect and pkey_mprotect, of which the kernel sends no event: the devices lose what
 * the CPU lost before the call returns, and get what it got by asking.
 *
 * Tries to break: G3, G2 (a device that writes what the CPU may only read), G10
 * (permission that is given is told to nobody), and what docs/limits.md says of a
 * system call made by hand.
 */
#include "changes.h"

typedef int protect_fn(void *mem, size_t len, int prot);

static int by_pkey(void *mem, size_t len, int prot)
{
	return pkey_mprotect(mem, len, prot, -1);
}

static int by_hand(void *mem, size_t len, int prot)
{
	return (int)syscall(SYS_mprotect, mem, len, prot);
}

static void readable(char *mem, size_t pages)
{
	no_store(mem);
	no_store(mem + (pages - 1) * PAGE);
	sees_pattern(mem, pages, 1, 0);
	pattern_check(mem, pages, 1);
	has(mem, pages, pages, 0);
}

/* What a store leaves is made good again. */
static void writable(char *mem, size_t pages)
{
	char *last = mem + (pages - 1) * PAGE;

	takes_store(mem);
	*(uint64_t *)mem = pattern_word(1, 0, 0);
	takes_store(last);
	*(uint64_t *)last = pattern_word(1, pages - 1, 0);
}

static void check_rights(protect_fn *protect, size_t pages)
{
	char *mem = area(pages, 1);
	size_t len = pages * PAGE;
	int i;

	for (i = 0; i < (pages == 1 ? 50 : 2); i++) {
		mirror_write(mem, pages);
		count_from_here();
		assert_int_equal(protect(mem, len, PROT_READ), 0);
		counted(HMM_WRITE_PROTECT, 1);
		has(mem, pages, pages, 0);
		readable(mem, pages);
		count_from_here();
		assert_int_equal(protect(mem, len, PROT_READ | PROT_WRITE), 0);
		counted(HMM_WRITE_PROTECT, 0);
		writable(mem, pages);

		mirror_write(mem, pages);
		count_from_here();
		assert_int_equal(protect(mem, len, PROT_NONE), 0);
		counted(HMM_MIGRATE, 1);
		has_none(mem, pages);
		no_load(mem);
		no_load(mem + len - PAGE);
		no_store(mem);
		assert_int_equal(protect(mem, len, PROT_READ), 0);
		readable(mem, pages);
		mirror_read(mem, pages);
		assert_int_equal(protect(mem, len, PROT_NONE), 0);
		has_none(mem, pages);
		no_load(mem);
		assert_int_equal(protect(mem, len, PROT_READ | PROT_WRITE), 0);
		writable(mem, pages);
	}
	area_free(mem, pages);
}

static void by_mprotect(size_t pages)
{
	check_rights(mprotect, pages);
}

static void by_pkey_mprotect(size_t pages)
{
	check_rights(by_pkey, pages);
}

static int key;

static int with_key(void *mem, size_t len, int prot)
{
	return pkey_mprotect(mem, len, prot, key);
}

static void with_a_protection_key(size_t pages)
{
	key = pkey_alloc(0, 0);
	if (key < 0)
		skip_because("no protection keys on this machine");
	check_rights(with_key, pages);
	pkey_free(key);
}

static void in_the_middle(size_t pages)
{
	char *mem = area(3 * pages, 1), *mid = mem + pages * PAGE;

	mirror_write(mem, 3 * pages);
	assert_int_equal(mprotect(mid, pages * PAGE - PAGE + 1, PROT_READ), 0);
	has(mem, 3 * pages, 3 * pages, 2 * pages);
	no_store(mid);
	no_store(mid + (pages - 1) * PAGE);
	takes_store(mid - PAGE);
	takes_store(mid + pages * PAGE);
	assert_int_equal(mprotect(mid, pages * PAGE, PROT_NONE), 0);
	has_none(mid, pages);
	no_load(mid);
	has(mem, pages, pages, pages);
	area_free(mem, 3 * pages);
}

/* mprotect stops at a hole with ENOMEM, and has changed what is before. */
static void a_call_that_fails_half_way(size_t pages)
{
	char *mem = area(3 * pages, 1), *mid = mem + pages * PAGE;

	munmap(mid, pages * PAGE);
	mirror_write(mem, pages);
	if (!mprotect(mem, 3 * pages * PAGE, PROT_READ))
		skip_because("somebody else filled the hole");
	assert_int_equal(errno, ENOMEM);
	no_store(mem);
	no_store(mem + (pages - 1) * PAGE);
	sees_pattern(mem, pages, 1, 0);
	takes_store(mid + pages * PAGE);
}

/* Write permission alone is none for a device, and neither is execution. */
static void without_read(size_t pages)
{
	static const int prots[] = { PROT_WRITE, PROT_EXEC, PROT_WRITE | PROT_EXEC };
	char *mem = area(pages, 1);
	size_t i;

	for (i = 0; i < sizeof(prots) / sizeof(prots[0]); i++) {
		mirror_write(mem, pages);
		if (mprotect(mem, pages * PAGE, prots[i]))
			continue;
		has_none(mem, pages);
		no_load(mem);
		no_store(mem);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
		sees_pattern(mem, pages, 1, 0);
	}
	area_free(mem, pages);
}

/* Shared memory: the other view keeps its permission. */
static void of_one_view(size_t pages)
{
	char *mem, *other;
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	other = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(mem != MAP_FAILED && other != MAP_FAILED);
	pattern_fill(mem, pages, 1);
	mirror_write(mem, pages);
	mirror_write(other, pages);
	assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ), 0);
	has(mem, pages, pages, 0);
	has(other, pages, pages, pages);
	no_store(mem);
	takes_store(other);
	sees(mem, *(uint64_t *)other);
	munmap(mem, pages * PAGE);
	munmap(other, pages * PAGE);
	close(fd);
}

/*
 * docs/limits.md: "the device keeps the old permission until its translation goes for
 * another reason". What it has no translation of it asks for, and gets what holds.
 */
static void by_hand_is_seen_late(size_t pages)
{
	char *mem = area(2 * pages, 1), *other = mem + pages * PAGE;

	mirror_write(mem, pages);
	count_from_here();
	assert_int_equal(by_hand(mem, 2 * pages * PAGE, PROT_READ), 0);
	counted(HMM_WRITE_PROTECT, 0);
	has(mem, pages, pages, pages);
	no_store(other);
	no_store(other + (pages - 1) * PAGE);
	assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0); /* another reason */
	no_store(mem);
	sees_zeros(mem, pages);
	assert_int_equal(by_hand(mem, 2 * pages * PAGE, PROT_READ | PROT_WRITE), 0);
	takes_store(mem);
	takes_store(other);
	area_free(mem, 2 * pages);
}

static const struct change changes[] = {
	CHANGE(by_mprotect),   CHANGE(by_pkey_mprotect),	   CHANGE(with_a_protection_key),
	CHANGE(in_the_middle), CHANGE(a_call_that_fails_half_way), CHANGE(without_read),
	CHANGE(of_one_view),   CHANGE(by_hand_is_seen_late),
};

CHANGES_MAIN(changes)
