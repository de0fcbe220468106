/* SPDX-License-Identifier: MIT */
/*
 * What must hold for each device once a call that changes the address space has
 * returned.
 *
 * The dummy device reaches system memory by the CPU's address, so a translation that
 * should be gone can look right: it shows what is there now. It does not heed the
 * CPU's permissions, though. So tests look at the device's own page table, and map
 * something with less permission where the old memory was.
 */
#ifndef MIRROR_CHANGES_H
#define MIRROR_CHANGES_H

#include <sys/uio.h>

#include "ways.h"

#define GUARD ((size_t)5) /* PROT_NONE pages on both sides of an area */

/* ---- memory ---- */

/* Readable and writable pages, not aligned to a chunk, with no hole beside them. */
UNUSED static char *area_bare(size_t pages)
{
	size_t len = (pages + 2 * GUARD) * PAGE;
	char *mem = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	madvise(mem, len, MADV_NOHUGEPAGE);
	mem += GUARD * PAGE;
	assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
	return mem;
}

UNUSED static char *area(size_t pages, uint64_t seed)
{
	char *mem = area_bare(pages);

	pattern_fill(mem, pages, seed);
	return mem;
}

/* Only where the test opened no hole, which somebody else may have filled. */
UNUSED static void area_free(char *mem, size_t pages)
{
	munmap(mem - GUARD * PAGE, (pages + 2 * GUARD) * PAGE);
}

UNUSED static void map_over(void *at, size_t pages, int prot)
{
	assert_ptr_equal(
		mmap(at, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), at);
}

/* Into a hole. False: somebody else (a sanitizer, the library) was quicker. */
UNUSED static bool map_hole(void *at, size_t pages, int prot)
{
	return mmap(at, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		    0) == at;
}

/* ---- what each device sees ---- */

static void sees_at(const void *addr, uint64_t want, int line)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		uint64_t val = ~want;
		int ret = dummy_load_u64(dev[i], addr_of(addr), &val);

		if (ret || val != want)
			fail_msg("line %d: device %u: result %d, 0x%llx, not 0x%llx", line, i, ret,
				 (unsigned long long)val, (unsigned long long)want);
	}
}

#define sees(addr, want) sees_at(addr, want, __LINE__)

UNUSED static void sees_pattern_at(const char *mem, size_t pages, uint64_t seed, size_t first,
				   int line)
{
	size_t i;

	for (i = 0; i < pages; i++)
		sees_at(mem + i * PAGE + 8, pattern_word(seed, first + i, 1), line);
}

#define sees_pattern(mem, pages, seed, first) sees_pattern_at(mem, pages, seed, first, __LINE__)

UNUSED static void sees_zeros_at(const char *mem, size_t pages, int line)
{
	size_t i;

	for (i = 0; i < pages; i++)
		sees_at(mem + i * PAGE + 8, 0, line);
}

#define sees_zeros(mem, pages) sees_zeros_at(mem, pages, __LINE__)

UNUSED static void no_store_at(const void *addr, int line)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		int ret = dummy_store_u64(dev[i], addr_of(addr), 0xbad);

		if (ret != -EFAULT)
			fail_msg("line %d: device %u: a store gave %d", line, i, ret);
	}
}

#define no_store(addr) no_store_at(addr, __LINE__)

UNUSED static void no_load_at(const void *addr, int line)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		uint64_t val;
		int ret = dummy_load_u64(dev[i], addr_of(addr), &val);

		if (ret != -EFAULT)
			fail_msg("line %d: device %u: a load gave %d", line, i, ret);
	}
}

#define no_load(addr) no_load_at(addr, __LINE__)

/* No access, because nothing is mapped; nothing is said if something is again. */
UNUSED static void gone_at(const char *mem, size_t pages, int line)
{
	size_t i;

	for (i = 0; i<pages; i += pages> 64 ? 61 : 1) {
		const char *addr = mem + i * PAGE;
		uint64_t val;
		unsigned int d;

		for (d = 0; d < devs; d++)
			if ((dummy_load_u64(dev[d], addr_of(addr), &val) != -EFAULT ||
			     dummy_store_u64(dev[d], addr_of(addr), 1) != -EFAULT) &&
			    !taken(addr))
				fail_msg("line %d: device %u: page %zu is still there", line, d, i);
	}
}

#define gone(mem, pages) gone_at(mem, pages, __LINE__)

/* A store by each device in turn, seen by the CPU and by the others. */
UNUSED static void takes_store_at(void *addr, int line)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		int ret = dummy_store_u64(dev[i], addr_of(addr), 1000 + i);

		if (ret || *(volatile uint64_t *)addr != 1000 + i)
			fail_msg("line %d: device %u: a store gave %d", line, i, ret);
		sees_at(addr, 1000 + i, line);
	}
}

#define takes_store(addr) takes_store_at(addr, __LINE__)

/* ---- what each device has ---- */

struct tally {
	uint64_t start;
	uint64_t end;
	size_t pages;
	size_t writable;
};

static int tally_page(const struct dummy_page *page, void *arg)
{
	struct tally *tally = arg;

	if (page->addr >= tally->start && page->addr < tally->end) {
		tally->pages++;
		tally->writable += page->writable;
	}
	return 0;
}

/* Once all that returned has been told, so many translations, so many for writing. */
static void has_at(const char *mem, size_t pages, size_t want, size_t writable, int line)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		struct tally tally = { .start = addr_of(mem), .end = addr_of(mem) + pages * PAGE };

		hmm_mirror_sync(dummy_mirror(dev[i]));
		assert_int_equal(dummy_for_each_page(dev[i], tally_page, &tally), 0);
		if (tally.pages != want || tally.writable != writable)
			fail_msg("line %d: device %u translates %zu pages, %zu to write, "
				 "not %zu and %zu",
				 line, i, tally.pages, tally.writable, want, writable);
	}
}

#define has(mem, pages, want, writable) has_at(mem, pages, want, writable, __LINE__)
#define has_none(mem, pages) has_at(mem, pages, 0, 0, __LINE__)

/* Each device gets a translation of each page; the content stays. */
UNUSED static void mirror_at(const char *mem, size_t pages, bool write, int line)
{
	struct hmm_event event = { .start = addr_of(mem), .end = addr_of(mem) + pages * PAGE };
	unsigned int d;
	size_t i;

	event.etype = write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT;
	for (d = 0; d < devs; d++) {
		int ret = hmm_mirror_fault(dummy_mirror(dev[d]), &event);

		if (ret || event.pages != pages)
			fail_msg("line %d: device %u: fault: %d, %lu pages", line, d, ret,
				 event.pages);
		for (i = 0; i < pages; i++) {
			const char *addr = mem + i * PAGE;
			uint64_t val = 0;

			assert_int_equal(dummy_load_u64(dev[d], addr_of(addr), &val), 0);
			assert_int_equal(val, *(const uint64_t *)addr);
			if (write)
				assert_int_equal(dummy_store_u64(dev[d], addr_of(addr), val), 0);
		}
	}
	has_at(mem, pages, pages, write ? pages : 0, line);
}

#define mirror_write(mem, pages) mirror_at(mem, pages, true, __LINE__)
#define mirror_read(mem, pages) mirror_at(mem, pages, false, __LINE__)

/* ---- the CPU and the devices agree ---- */

UNUSED static int cpu_copy(bool write, void *addr, uint64_t *val)
{
	struct iovec local = { val, sizeof(*val) }, remote = { addr, sizeof(*val) };
	ssize_t done = write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0) :
			       process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

	return done == sizeof(*val) ? 0 : -EFAULT;
}

/* What the one can read or write the other can, and it is the same. Adds 1 to words. */
UNUSED static void agree_at(char *addr, int line)
{
	uint64_t cpu = 0, val = 0, next = 0;
	unsigned int i;
	int want, got;

	for (i = 0; i < devs; i++) {
		want = cpu_copy(false, addr, &cpu);
		got = dummy_load_u64(dev[i], addr_of(addr), &val);
		if (got != want || (!want && val != cpu))
			fail_msg("line %d: device %u at %p: load %d 0x%llx, CPU %d 0x%llx", line, i,
				 (void *)addr, got, (unsigned long long)val, want,
				 (unsigned long long)cpu);
		want = cpu_copy(true, addr, &cpu); /* what was there */
		next = cpu + 1;
		got = dummy_store_u64(dev[i], addr_of(addr), next);
		if (got != want)
			fail_msg("line %d: device %u at %p: store %d, CPU %d", line, i,
				 (void *)addr, got, want);
		if (!cpu_copy(false, addr, &val) && val != (want ? cpu : next))
			fail_msg("line %d: device %u at %p: the CPU reads 0x%llx, not 0x%llx", line,
				 i, (void *)addr, (unsigned long long)val,
				 (unsigned long long)(want ? cpu : next));
	}
}

#define agree(addr) agree_at(addr, __LINE__)

/* ---- what each device was told ---- */

static struct dummy_stats before[2];

UNUSED static void count_from_here(void)
{
	unsigned int i;

	for (i = 0; i < devs; i++) {
		hmm_mirror_sync(dummy_mirror(dev[i]));
		dummy_get_stats(dev[i], &before[i]);
	}
}

/* Since then: so many of this, and no other invalidation. */
UNUSED static void counted_at(enum hmm_etype etype, unsigned int n, int line)
{
	enum hmm_etype each;
	unsigned int i;

	for (i = 0; i < devs; i++) {
		struct dummy_stats now;

		hmm_mirror_sync(dummy_mirror(dev[i]));
		dummy_get_stats(dev[i], &now);
		for (each = HMM_COPY_TO_DEVICE; each <= HMM_WRITE_PROTECT; each++) {
			uint64_t got = now.updates[each] - before[i].updates[each];

			if (got != (each == etype ? n : 0))
				fail_msg("line %d: device %u: %llu updates of type %d", line, i,
					 (unsigned long long)got, each);
		}
	}
}

#define counted(etype, n) counted_at(etype, n, __LINE__)

#endif
