/* SPDX-License-Identifier: MIT */
/*
 * Where the pages of the index are: as the device's page table has it, and as
 * the CPU's has it. The two must agree on every page.
 *
 * The pages are those that the device has used: its page table also has
 * neighbours of them, which it got with the same fault and which need not be the
 * index's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <dummy.h>
#include <hmm/hmm.h>

#include "wordindex.h"

#define CELLS 50u

/* Where dummy_for_each_page() has got to. */
struct cursor {
	struct wi_map *map;
	unsigned long at;
};

static int count_page(const struct dummy_page *page, void *arg)
{
	unsigned long *n = arg;

	*n += page->accessed;
	return 0;
}

static int list_page(const struct dummy_page *page, void *arg)
{
	struct cursor *cursor = arg;

	if (page->accessed && cursor->at < cursor->map->npages)
		cursor->map->addr[cursor->at++] = page->addr;
	return 0;
}

int wi_map_create(struct wi_map *map, struct dummy_device *dev)
{
	struct cursor cursor = { .map = map };
	int ret;

	*map = (struct wi_map){ .npages = 0 };
	ret = dummy_for_each_page(dev, count_page, &map->room);
	if (ret || !map->room)
		return ret;

	map->npages = map->room;
	map->addr = hmm_map(map->room * sizeof(*map->addr));
	map->where = hmm_map(map->room);
	map->translated = hmm_map(map->room);
	ret = -ENOMEM;
	if (map->addr && map->where && map->translated)
		ret = dummy_for_each_page(dev, list_page, &cursor);
	if (ret)
		wi_map_destroy(map);
	else
		map->npages = cursor.at;
	return ret;
}

void wi_map_destroy(struct wi_map *map)
{
	if (map->addr)
		hmm_unmap(map->addr, map->room * sizeof(*map->addr));
	if (map->where)
		hmm_unmap(map->where, map->room);
	if (map->translated)
		hmm_unmap(map->translated, map->room);
	*map = (struct wi_map){ .npages = 0 };
}

/* Both lists are in the order of addresses. */
static int match_page(const struct dummy_page *page, void *arg)
{
	struct cursor *cursor = arg;
	struct wi_map *map = cursor->map;

	while (cursor->at < map->npages && map->addr[cursor->at] < page->addr)
		cursor->at++;
	if (cursor->at < map->npages && map->addr[cursor->at] == page->addr)
		map->translated[cursor->at] = page->on_device ? WI_DEVICE : WI_SYSTEM;
	return 0;
}

/* Ask the CPU's page table, one run of adjacent pages at a time. */
static int look_cpu(struct wi_map *map)
{
	unsigned long page = hmm_page_size(), from = 0, to;
	int ret;

	for (; from < map->npages; from = to) {
		for (to = from + 1; to < map->npages; to++) {
			if (map->addr[to] != map->addr[to - 1] + page)
				break;
		}
		ret = hmm_range_where(map->addr[from], map->addr[to - 1] + page, map->where + from);
		if (ret)
			return ret;
	}
	return 0;
}

int wi_map_look(struct wi_map *map, struct dummy_device *dev)
{
	struct cursor cursor = { .map = map };
	unsigned long i;
	int ret;

	if (!map->npages)
		return 0;
	memset(map->translated, 0, map->npages);
	ret = dummy_for_each_page(dev, match_page, &cursor);
	if (!ret)
		ret = look_cpu(map);
	if (ret)
		return ret;

	map->system = map->device = map->on_device = map->disagree = 0;
	for (i = 0; i < map->npages; i++) {
		uint8_t cpu = map->where[i] == HMM_WHERE_DEVICE ? WI_DEVICE : WI_SYSTEM;

		if (cpu == WI_DEVICE)
			map->device++;
		else
			map->system++;
		if (map->translated[i] != WI_NOWHERE && map->translated[i] != cpu)
			map->disagree++;
		if (map->translated[i] == WI_DEVICE)
			map->on_device++;
	}
	return 0;
}

void wi_map_print(const struct wi_map *map)
{
	char strip[CELLS + 1];
	unsigned long cell, i, device, from, to;

	for (cell = 0; cell < CELLS; cell++) {
		from = map->npages * cell / CELLS;
		to = map->npages * (cell + 1) / CELLS;
		if (to == from && from < map->npages)
			to++;
		for (i = from, device = 0; i < to; i++)
			device += map->where[i] == HMM_WHERE_DEVICE;
		strip[cell] = from == to ? ' ' : !device ? 's' : device == to - from ? 'D' : '.';
	}
	strip[CELLS] = '\0';
	printf("  [%s] %10s s %10s D\n", strip, wi_number(map->system), wi_number(map->device));
}
