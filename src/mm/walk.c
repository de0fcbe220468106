/* SPDX-License-Identifier: MIT */
/*
 * Reading the CPU page table: PAGEMAP_SCAN (Linux 6.7), else /proc/self/pagemap.
 *
 * The answer is true for a moment. What is asked for is in the page table itself:
 * PAGE_IS_FILE would look at each page's descriptor, which costs three times as much
 * as all the rest. Buffers are on the stack: the kernel writes to them, and it must not
 * fault on memory that is away.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "mm/mm.h"
#include "mm/uapi.h"

/* With more than 512 regions in a call, walk_end can be wrong: ask for few. */
#define WALK_REGIONS 64

static uint8_t walk_flags(uint64_t categories)
{
	uint8_t flags = 0;

	if (categories & PAGE_IS_PRESENT)
		flags |= WALK_PRESENT;
	if (categories & PAGE_IS_SWAPPED)
		flags |= WALK_SWAPPED;
	if (categories & PAGE_IS_PFNZERO)
		flags |= WALK_ZERO;
	if (categories & PAGE_IS_HUGE)
		flags |= WALK_HUGE;
	return flags;
}

static int scan_call(struct mm *mm, unsigned long start, unsigned long end,
		     struct page_region *regions, unsigned int n, unsigned long *stop)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (unsigned long)regions,
		.vec_len = n,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
	};
	int ret = ioctl(mm->pagemap, PAGEMAP_SCAN, &arg);

	*stop = arg.walk_end;
	return ret < 0 ? -EIO : ret;
}

static int scan_pages(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags)
{
	struct page_region regions[WALK_REGIONS];
	unsigned long pos = start;
	unsigned int shift = hmm_page_shift();

	memset(flags, 0, (end - start) >> shift);
	while (pos < end) {
		unsigned long stop;
		int i, n = scan_call(mm, pos, end, regions, WALK_REGIONS, &stop);

		if (n < 0)
			return n;
		for (i = 0; i < n; i++)
			memset(flags + ((regions[i].start - start) >> shift),
			       walk_flags(regions[i].categories),
			       (regions[i].end - regions[i].start) >> shift);
		if (n < WALK_REGIONS)
			break;
		if (stop <= pos)
			return -EIO;
		pos = stop;
	}
	return 0;
}

#define PM_PRESENT (1ull << 63)
#define PM_SWAP (1ull << 62)
#define PM_FILE (1ull << 61)
#define PM_EXCLUSIVE (1ull << 56)

/* The zero page is not to be told apart here: it counts as a page. */
static uint8_t read_flags(uint64_t entry)
{
	uint8_t flags = 0;

	if (entry & PM_PRESENT)
		flags |= WALK_PRESENT;
	if (entry & PM_SWAP)
		flags |= WALK_SWAPPED;
	if (entry & PM_FILE)
		flags |= WALK_FILE;
	else if (entry & PM_PRESENT && entry & PM_EXCLUSIVE)
		flags |= WALK_EXCLUSIVE;
	return flags;
}

static int read_pages(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags)
{
	unsigned int shift = hmm_page_shift();
	uint64_t entries[256];
	unsigned long pfn = start >> shift, last = end >> shift;

	while (pfn < last) {
		size_t i, n = last - pfn < 256 ? last - pfn : 256;
		ssize_t got = pread(mm->pagemap, entries, n * 8, (off_t)(pfn * 8));

		if (got < 8)
			return -EIO;
		n = (size_t)got / 8;
		for (i = 0; i < n; i++)
			*flags++ = read_flags(entries[i]);
		pfn += n;
	}
	return 0;
}

int walk_pages(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags)
{
	size_t i;
	int ret = debug_fail("walk");

	if (ret)
		return ret;
	if (mm->pagemap_scan)
		return scan_pages(mm, start, end, flags);
	ret = read_pages(mm, start, end, flags);
	for (i = 0; i < (end - start) >> hmm_page_shift(); i++)
		flags[i] &= (uint8_t) ~(WALK_EXCLUSIVE | WALK_FILE);
	return ret;
}

int walk_owned(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags)
{
	return read_pages(mm, start, end, flags);
}

static int scan_regions(struct mm *mm, unsigned long start, unsigned long *end,
			struct walk_region *out)
{
	struct page_region regions[WALK_REGIONS_MAX];
	unsigned long stop;
	int i, n = scan_call(mm, start, *end, regions, WALK_REGIONS_MAX, &stop);

	for (i = 0; i < n; i++)
		out[i] = (struct walk_region){ .start = regions[i].start,
					       .end = regions[i].end,
					       .flags = walk_flags(regions[i].categories) };
	if (n < WALK_REGIONS_MAX)
		return n;
	if (stop <= start)
		return -EIO;
	*end = stop;
	return n;
}

/* Page by page; the two looks may differ, and then it is not exclusive. */
static int read_regions(struct mm *mm, unsigned long start, unsigned long *end,
			struct walk_region *out)
{
	unsigned long addr, part = start + ((unsigned long)CHUNK_PAGES_MAX << hmm_page_shift());
	uint8_t flags[CHUNK_PAGES_MAX], seen[CHUNK_PAGES_MAX], *f = flags, *s = seen;
	int n = 0, ret;

	*end = *end < part ? *end : part;
	ret = read_pages(mm, start, *end, seen);
	if (!ret)
		ret = walk_pages(mm, start, *end, flags);
	if (ret)
		return ret;
	for (addr = start; addr < *end; addr += hmm_page_size(), f++, s++) {
		uint8_t now = *f;

		if (now & WALK_PRESENT && *s & WALK_EXCLUSIVE)
			now |= WALK_EXCLUSIVE;
		if (n && out[n - 1].end == addr && out[n - 1].flags == now) {
			out[n - 1].end += hmm_page_size();
			continue;
		}
		if (!now)
			continue;
		if (n == WALK_REGIONS_MAX) {
			*end = addr;
			break;
		}
		out[n++] = (struct walk_region){ addr, addr + hmm_page_size(), now };
	}
	return n;
}

/* What is being gathered: regions up to where there is no room for more. */
struct gather {
	struct mm *mm;
	struct walk_region *out;
	int n;
	unsigned long end;
	unsigned long full; /* 0: not yet */
	unsigned long from, to; /* of the entries here */
	uint64_t entries[1024];
};

static bool gather_add(struct gather *g, unsigned long start, unsigned long end, uint8_t flags)
{
	if (g->n == WALK_REGIONS_MAX) {
		g->full = start;
		return false;
	}
	g->out[g->n++] = (struct walk_region){ start, end, flags };
	return true;
}

/* From @addr on, so many at once as there is room for: also past a hole, which is soon read. */
static int gather_read(struct gather *g, unsigned long addr)
{
	unsigned int shift = hmm_page_shift();
	size_t n = (g->end - addr) >> shift;
	ssize_t got;

	n = n < 1024 ? n : 1024;
	got = pread(g->mm->pagemap, g->entries, n * 8, (off_t)((addr >> shift) * 8));
	if (got < 8)
		return -EIO;
	g->from = addr;
	g->to = addr + ((unsigned long)got / 8 << shift);
	return 0;
}

static bool entry_exclusive(uint64_t entry)
{
	return (entry & (PM_PRESENT | PM_EXCLUSIVE | PM_FILE)) == (PM_PRESENT | PM_EXCLUSIVE);
}

/* A region of present pages, by who else has them: only the page map itself knows. */
static int gather_split(struct gather *g, const struct walk_region *region)
{
	unsigned long addr = region->start, from = addr, page = hmm_page_size();
	uint8_t flags = region->flags;

	while (addr < region->end) {
		unsigned long stop;
		const uint64_t *entry;

		if ((addr < g->from || addr >= g->to) && gather_read(g, addr))
			return -EIO;
		stop = region->end < g->to ? region->end : g->to;
		entry = &g->entries[(addr - g->from) >> hmm_page_shift()];
		for (; addr < stop; addr += page) {
			uint8_t now = region->flags;

			now |= entry_exclusive(*entry++) ? WALK_EXCLUSIVE : 0;
			if (now == flags)
				continue;
			if (addr > from && !gather_add(g, from, addr, flags))
				return 0;
			from = addr;
			flags = now;
		}
	}
	gather_add(g, from, region->end, flags);
	return 0;
}

/* The two looks may differ; what only one of them saw is not exclusive. */
static int scan_exclusive(struct mm *mm, unsigned long start, unsigned long *end,
			  struct walk_region *out)
{
	struct walk_region seen[WALK_REGIONS_MAX];
	int i, n, ret = debug_fail("walk");
	struct gather g;

	n = ret ? ret : scan_regions(mm, start, end, seen);
	if (n < 0)
		return n;
	g.mm = mm;
	g.out = out;
	g.n = 0;
	g.end = *end;
	g.full = g.from = g.to = 0;
	for (i = 0; i < n && !g.full && !ret; i++) {
		if ((seen[i].flags & (WALK_PRESENT | WALK_ZERO)) == WALK_PRESENT)
			ret = gather_split(&g, &seen[i]);
		else
			gather_add(&g, seen[i].start, seen[i].end, seen[i].flags);
	}
	if (g.full)
		*end = g.full;
	return ret ? ret : g.n;
}

int walk_regions(struct mm *mm, unsigned long start, unsigned long *end,
		 struct walk_region *regions, bool exclusive)
{
	if (!mm->pagemap_scan)
		return read_regions(mm, start, end, regions);
	return (exclusive ? scan_exclusive : scan_regions)(mm, start, end, regions);
}

int walk_empty(struct mm *mm, unsigned long start, unsigned long end)
{
	struct page_region region;
	unsigned long stop;
	uint8_t flags[64];
	size_t i;
	int ret;

	if (mm->pagemap_scan) {
		ret = scan_call(mm, start, end, &region, 1, &stop);
		return ret < 0 ? ret : ret == 0;
	}
	while (start < end) {
		unsigned long part = sizeof(flags) << hmm_page_shift();

		if (part > end - start)
			part = end - start;
		ret = read_pages(mm, start, start + part, flags);
		if (ret)
			return ret;
		for (i = 0; i < part >> hmm_page_shift(); i++)
			if (flags[i] & (WALK_PRESENT | WALK_SWAPPED))
				return 0;
		start += part;
	}
	return 1;
}
