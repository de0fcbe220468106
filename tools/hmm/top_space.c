/* SPDX-License-Identifier: MIT */
/*
 * What another process can see of where a program's memory is.
 *
 * What is resident is in the kernel's page map. What is on a device is not: for the kernel
 * nothing is there. So the program's table of blocks (hmm/run_stats.h) says what went to
 * the device; what of it is there all the same has come back since.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <hmm/types.h>

#include "mm/uapi.h"
#include "top.h"

#define REGIONS 1024
#define BLOCKS_MAX (1u << 20)
#define BLOCK_BYTES(page) ((uint64_t)(page)*HMM_RUN_BLOCK_PAGES)

struct blocks {
	struct hmm_run_block *list; /* those that are in use, sorted */
	size_t n;
	uint64_t page;
};

static bool extent_add(struct extents *extents, uint64_t start, uint64_t end)
{
	if (extents->n && extents->list[extents->n - 1].end == start) {
		extents->list[extents->n - 1].end = end;
		return true;
	}
	if (extents->n == extents->room) {
		size_t room = extents->room * 2 + 256;
		struct extent *more = realloc(extents->list, room * sizeof(*more));

		if (!more)
			return false;
		extents->list = more;
		extents->room = room;
	}
	extents->list[extents->n++] = (struct extent){ start, end };
	return true;
}

/* ---- mappings ---- */

/* start-end rwxp offset device inode [name]: false: not private anonymous memory. */
static bool line_area(const char *line, struct area *area)
{
	unsigned long start, end;
	unsigned long long inode;
	char rights[8] = "", name[256] = "";

	if (sscanf(line, "%lx-%lx %7s %*s %*s %llu %255[^\n]", &start, &end, rights, &inode, name) <
	    4)
		return false;
	if (inode || rights[1] != 'w' || rights[3] != 'p')
		return false;
	*area = (struct area){ .extent = { start, end } };
	snprintf(area->name, sizeof(area->name), "%.15s", name + strspn(name, " "));
	return true;
}

static bool areas_add(struct space *space, const struct area *area, size_t *room)
{
	struct area *last = space->n_areas ? &space->areas[space->n_areas - 1] : NULL;

	if (last && last->extent.end == area->extent.start && !strcmp(last->name, area->name)) {
		last->extent.end = area->extent.end;
		return true;
	}
	if (space->n_areas == *room) {
		struct area *more = realloc(space->areas, (*room = *room * 2 + 64) * sizeof(*more));

		if (!more)
			return false;
		space->areas = more;
	}
	space->areas[space->n_areas++] = *area;
	return true;
}

static int areas_read(struct space *space, pid_t pid)
{
	char path[64], line[4096];
	struct area area;
	size_t room = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (fgets(line, sizeof(line), maps))
		if (line_area(line, &area) && !areas_add(space, &area, &room))
			break;
	fclose(maps);
	return 0;
}

/* ---- what went to the device ---- */

static int compare(const void *a, const void *b)
{
	const struct hmm_run_block *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

static bool blocks_read(struct blocks *blocks, const struct program *program)
{
	const struct hmm_run_stats *stats = &program->now;
	size_t i, n = 0;

	*blocks = (struct blocks){ .page = stats->page_size };
	if (!stats->blocks_offset || !stats->blocks || stats->blocks > BLOCKS_MAX ||
	    stats->page_size != hmm_page_size())
		return false;
	blocks->list = malloc(stats->blocks * sizeof(*blocks->list));
	if (!blocks->list || !watched_bytes(&program->w, stats->blocks_offset, blocks->list,
					    stats->blocks * sizeof(*blocks->list)))
		return false;
	for (i = 0; i < stats->blocks; i++)
		if (blocks->list[i].start)
			blocks->list[n++] = blocks->list[i];
	blocks->n = n;
	qsort(blocks->list, n, sizeof(*blocks->list), compare);
	return true;
}

/* The first block that ends after @addr. */
static size_t block_after(const struct blocks *blocks, uint64_t addr)
{
	size_t low = 0, high = blocks->n;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (blocks->list[middle].start + BLOCK_BYTES(blocks->page) <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What is there is not away. */
static void blocks_there(struct blocks *blocks, uint64_t start, uint64_t end)
{
	size_t i;

	for (i = block_after(blocks, start); i < blocks->n && blocks->list[i].start < end; i++) {
		struct hmm_run_block *block = &blocks->list[i];
		uint64_t at = start > block->start ? start : block->start;

		for (; at < end && at < block->start + BLOCK_BYTES(blocks->page);
		     at += blocks->page) {
			uint64_t page = (at - block->start) / blocks->page;

			block->away[page / 64] &= ~(1ull << page % 64);
		}
	}
}

/* What is still away, within an area. */
static bool blocks_away(const struct blocks *blocks, struct extents *to, const struct extent *area)
{
	size_t i;

	for (i = block_after(blocks, area->start);
	     i < blocks->n && blocks->list[i].start < area->end; i++) {
		const struct hmm_run_block *block = &blocks->list[i];
		unsigned int page;

		for (page = 0; page < HMM_RUN_BLOCK_PAGES; page++) {
			uint64_t at = block->start + page * blocks->page;

			if (!(block->away[page / 64] >> page % 64 & 1))
				continue;
			if (at >= area->start && at < area->end &&
			    !extent_add(to, at, at + blocks->page))
				return false;
		}
	}
	return true;
}

/* ---- what is resident ---- */

static int area_scan(int pagemap, const struct extent *area, struct extents *resident,
		     struct blocks *blocks)
{
	static struct page_region regions[REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = area->start,
		.end = area->end,
		.vec = (uint64_t)(uintptr_t)regions,
		.vec_len = REGIONS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO,
	};
	long n, i;

	for (; arg.start < arg.end; arg.start = arg.walk_end) {
		n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++) {
			const struct page_region *r = &regions[i];

			blocks_there(blocks, r->start, r->end);
			if (r->categories & PAGE_IS_PRESENT && !(r->categories & PAGE_IS_PFNZERO) &&
			    !extent_add(resident, r->start, r->end))
				return -ENOMEM;
		}
		if (arg.walk_end <= arg.start)
			break;
	}
	return 0;
}

static int areas_scan(struct space *space, struct blocks *blocks, pid_t pid)
{
	char path[64];
	int fd, ret = 0;
	size_t i;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (i = 0; i < space->n_areas && !ret; i++)
		ret = area_scan(fd, &space->areas[i].extent, &space->resident, blocks);
	close(fd);
	for (i = 0; i < space->n_areas && !ret; i++)
		if (!blocks_away(blocks, &space->device, &space->areas[i].extent))
			ret = -ENOMEM;
	return ret;
}

int space_read(struct space *space, const struct program *program)
{
	struct blocks blocks;
	int ret;

	*space = (struct space){ .device_known = blocks_read(&blocks, program) };
	ret = areas_read(space, program->w.pid);
	if (!ret)
		ret = areas_scan(space, &blocks, program->w.pid);
	free(blocks.list);
	if (ret)
		space_free(space);
	return ret;
}

void space_free(struct space *space)
{
	free(space->areas);
	free(space->resident.list);
	free(space->device.list);
	*space = (struct space){ 0 };
}
