/* SPDX-License-Identifier: MIT */
/*
 * Transparent huge pages that a device uses: they are neither split nor kept from being
 * made, and what happens to a part of one happens to that part.
 *
 * Tries to break: G5 (AnonHugePages in smaps, and that khugepaged's collapse, which no
 * page with a reference from outside survives, goes through), G3, G4, G8.
 */
#include "changes.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGES (THP / PAGE)
#define COUNT(pages) ((size_t)((pages) == 1 ? 1 : 4)) /* huge pages in a test */
#define PART ((size_t)100) /* from here on, so many pages are a part */

/* Bytes in huge pages, over all mappings of the range. */
static size_t huge_bytes(const char *mem, size_t len)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	unsigned long start, end, kib;
	bool inside = false;
	size_t sum = 0;
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = end > addr_of(mem) && start < addr_of(mem) + len;
		else if (inside && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			sum += kib * 1024;
	}
	fclose(file);
	return sum;
}

/* Where huge pages fit, and nothing else comes beside. */
static char *place(size_t n)
{
	char *mem = map_aligned((n + 2) * THP);

	assert_int_equal(mprotect(mem, (n + 2) * THP, PROT_NONE), 0);
	mem += THP;
	assert_int_equal(mprotect(mem, n * THP, PROT_READ | PROT_WRITE), 0);
	if (madvise(mem, n * THP, MADV_HUGEPAGE))
		skip_because("no transparent huge pages on this kernel");
	return mem;
}

static void place_free(char *mem, size_t n)
{
	munmap(mem - THP, (n + 2) * THP);
}

/* Skips where the system gives none: switched off, or memory in small pieces. */
static char *huge(size_t n, uint64_t seed)
{
	char *mem = place(n);

	pattern_fill(mem, n * HUGE_PAGES, seed);
	if (huge_bytes(mem, n * THP) != n * THP)
		skip_because("no transparent huge pages: switched off, or memory in pieces");
	return mem;
}

static void use_leaves_them_whole(size_t pages)
{
	size_t n = COUNT(pages), len = n * THP;
	char *mem = huge(n, 1);

	mirror_read(mem, n * HUGE_PAGES);
	assert_int_equal(huge_bytes(mem, len), len);
	sees_pattern(mem, n * HUGE_PAGES, 1, 0);
	mirror_write(mem, n * HUGE_PAGES);
	takes_store(mem + len - PAGE);
	assert_int_equal(huge_bytes(mem, len), len);
	while (devs)
		assert_int_equal(dummy_destroy(dev[--devs]), 0);
	assert_int_equal(huge_bytes(mem, len), len);
	place_free(mem, n);
}

/* A device's first touch, and the CPU's beside a device, bring what the CPU's brings. */
static void first_touch_brings_them(size_t pages)
{
	size_t n = COUNT(pages) + 1, len = n * THP;
	char *mem = place(n), *other = huge(1, 1);

	assert_int_equal(dummy_store_u64(dev[0], addr_of(mem) + 7 * PAGE, 5), 0);
	assert_int_equal(huge_bytes(mem, len), THP);
	sees(mem + 7 * PAGE, 5);
	pattern_fill(mem, n * HUGE_PAGES, 1);
	assert_int_equal(huge_bytes(mem, len), len);
	sees_pattern(mem, n * HUGE_PAGES, 1, 0);
	place_free(mem, n);
	place_free(other, 1);
}

static void dontneed_of_a_part(size_t pages)
{
	size_t n = COUNT(pages), part = n * HUGE_PAGES - 2 * PART;
	char *mem = huge(n, 1), *from = mem + PART * PAGE, *end = from + part * PAGE;

	mirror_write(mem, n * HUGE_PAGES);
	assert_int_equal(madvise(from, part * PAGE, MADV_DONTNEED), 0);
	has_none(from, part);
	has(mem, PART, PART, PART);
	has(end, PART, PART, PART);
	sees_zeros(from, part);
	sees_pattern(mem, PART, 1, 0);
	sees_pattern(end, PART, 1, PART + part);
	takes_store(from);
	takes_store(end - PAGE);
	pattern_check(mem, PART, 1);
	pattern_check_from(end, PART, 1, PART + part);
	place_free(mem, n);
}

/* What comes in its place may only be read. */
static void munmap_of_a_part(size_t pages)
{
	size_t n = COUNT(pages), part = n * HUGE_PAGES - 2 * PART;
	char *mem = huge(n, 1), *from = mem + PART * PAGE, *end = from + part * PAGE;

	mirror_write(mem, n * HUGE_PAGES);
	assert_int_equal(munmap(from, part * PAGE), 0);
	has_none(from, part);
	gone(from, part);
	if (map_hole(from, part, PROT_READ))
		no_store(from + 50 * PAGE);
	sees_pattern(mem, PART, 1, 0);
	takes_store(end);
	sees_pattern(end, PART, 1, PART + part);
	munmap(mem, PART * PAGE);
	munmap(end, PART * PAGE);
}

static void mprotect_of_a_part(size_t pages)
{
	size_t n = COUNT(pages), part = n * HUGE_PAGES - 2 * PART;
	char *mem = huge(n, 1), *from = mem + PART * PAGE, *end = from + part * PAGE;

	mirror_write(mem, n * HUGE_PAGES);
	assert_int_equal(mprotect(from, part * PAGE, PROT_READ), 0);
	has(mem, n * HUGE_PAGES, n * HUGE_PAGES, 2 * PART);
	no_store(from);
	no_store(end - PAGE);
	takes_store(from - PAGE);
	takes_store(end);
	assert_int_equal(mprotect(from, part * PAGE, PROT_READ | PROT_WRITE), 0);
	takes_store(from);
	sees_pattern(mem, n * HUGE_PAGES, 1, 0);
	place_free(mem, n);
}

/* A part of them, to where no huge page fits. */
static void mremap_of_a_part(size_t pages)
{
	size_t n = COUNT(pages), part = n * HUGE_PAGES - 2 * PART;
	char *mem = huge(n, 1), *to = area(part, 2);
	char *from = mem + PART * PAGE, *end = from + part * PAGE;

	mirror_write(mem, n * HUGE_PAGES);
	mirror_write(to, part);
	assert_ptr_equal(mremap(from, part * PAGE, part * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	has_none(from, part);
	has_none(to, part);
	sees_pattern(to, part, 1, PART);
	gone(from, part);
	takes_store(to);
	sees_pattern(mem, PART, 1, 0);
	sees_pattern(end, PART, 1, PART + part);
	munmap(mem, PART * PAGE);
	munmap(end, PART * PAGE);
	area_free(to, part);
}

static void mremap_keeps_them_whole(size_t pages)
{
	size_t n = COUNT(pages), len = n * THP;
	char *mem = huge(n, 1), *to = place(n);

	mirror_write(mem, n * HUGE_PAGES);
	assert_ptr_equal(mremap(mem, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(huge_bytes(to, len), len);
	has_none(mem, n * HUGE_PAGES);
	sees_pattern(to, n * HUGE_PAGES, 1, 0);
	takes_store(to);
	assert_int_equal(huge_bytes(to, len), len);
	place_free(to, n);
}

static void small_pages(char *mem, size_t n)
{
	assert_int_equal(madvise(mem, n * THP, MADV_NOHUGEPAGE), 0);
	pattern_fill(mem, n * HUGE_PAGES, 1);
	assert_int_equal(huge_bytes(mem, n * THP), 0);
	assert_int_equal(madvise(mem, n * THP, MADV_HUGEPAGE), 0);
}

/*
 * Small pages that a device uses become huge ones, where those that none uses do. Not
 * where there are holes: the kernel does not fill those of memory that is watched.
 */
static void collapse(size_t pages)
{
	size_t n = COUNT(pages), len = n * THP;
	char *mem = place(n), *other = place(1);

	small_pages(other, 1);
	if (madvise(other, THP, MADV_COLLAPSE))
		skip_because("no MADV_COLLAPSE (Linux 6.1), or memory in pieces");
	small_pages(mem, n);
	mirror_write(mem, n * HUGE_PAGES);
	if (madvise(mem, len, MADV_COLLAPSE))
		fail_msg("collapse: %s", strerror(errno));
	assert_int_equal(huge_bytes(mem, len), len);
	sees_pattern(mem, n * HUGE_PAGES, 1, 0);
	takes_store(mem + len - PAGE);
	assert_int_equal(huge_bytes(mem, len), len);
	place_free(mem, n);
	place_free(other, 1);
}

/* Nobody's write is lost while small pages become huge ones and small again. */
struct adder {
	pthread_t thread;
	struct dummy_device *dev; /* NULL: the CPU */
	char *mem;
	size_t pages;
	uint64_t n;
	bool ok;
};

static bool adders_stop; /* atomic */

static void *adder_main(void *arg)
{
	struct adder *adder = arg;
	uint64_t n;

	for (n = 0; !__atomic_load_n(&adders_stop, __ATOMIC_ACQUIRE) && adder->ok; n++) {
		uint64_t *word = (uint64_t *)(adder->mem + n * 17 % adder->pages * PAGE);

		if (adder->dev)
			adder->ok = !dummy_fetch_add_u64(adder->dev, addr_of(word), 1, NULL);
		else
			*(volatile uint64_t *)word += 1;
	}
	adder->n = n;
	return NULL;
}

static void collapse_under_load(size_t pages)
{
	struct adder adders[3] = { { .ok = true }, { .ok = true }, { .ok = true } };
	size_t n = COUNT(pages), len = n * THP, i, j;
	char *mem = huge(n, 1);

	memset(mem, 0, len);
	adders_stop = false;
	for (i = 0; i <= devs; i++) {
		adders[i].dev = i < devs ? dev[i] : NULL;
		adders[i].mem = mem + i * 64; /* each has its own words */
		adders[i].pages = n * HUGE_PAGES;
		assert_int_equal(pthread_create(&adders[i].thread, NULL, adder_main, &adders[i]),
				 0);
	}
	for (i = 0; i < (TEST_SANITIZED ? 10 : 50); i++) {
		/* A lock on one page cuts the huge one's mapping; no event, and no loss. */
		syscall(SYS_mlock, mem + PAGE * (i * 37 % HUGE_PAGES), PAGE);
		syscall(SYS_munlock, mem, len);
		madvise(mem, len, MADV_COLLAPSE);
	}
	__atomic_store_n(&adders_stop, true, __ATOMIC_RELEASE);
	for (i = 0; i <= devs; i++)
		pthread_join(adders[i].thread, NULL);
	for (i = 0; i <= devs; i++) {
		uint64_t sum = 0;

		for (j = 0; j < n * HUGE_PAGES; j++)
			sum += *(uint64_t *)(mem + j * PAGE + i * 64);
		assert_true(adders[i].ok);
		assert_int_equal(sum, adders[i].n);
	}
	place_free(mem, n);
}

/* A program that wants no huge pages any more gets none, and loses nothing. */
static void nohugepage(size_t pages)
{
	size_t n = COUNT(pages), len = n * THP;
	char *mem = huge(n, 1);

	mirror_write(mem, n * HUGE_PAGES);
	assert_int_equal(madvise(mem, len, MADV_NOHUGEPAGE), 0);
	sees_pattern(mem, n * HUGE_PAGES, 1, 0);
	takes_store(mem);
	assert_int_equal(madvise(mem, len, MADV_DONTNEED), 0);
	has_none(mem, n * HUGE_PAGES);
	sees_zeros(mem, n * HUGE_PAGES);
	takes_store(mem);
	assert_int_equal(huge_bytes(mem, len), 0);
	place_free(mem, n);
}

static const struct change changes[] = {
	CHANGE(use_leaves_them_whole),	 CHANGE(first_touch_brings_them),
	CHANGE(dontneed_of_a_part),	 CHANGE(munmap_of_a_part),
	CHANGE(mprotect_of_a_part),	 CHANGE(mremap_of_a_part),
	CHANGE(mremap_keeps_them_whole), CHANGE(collapse),
	CHANGE(collapse_under_load),	 CHANGE(nohugepage),
};

CHANGES_MAIN(changes)
