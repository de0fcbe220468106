/* SPDX-License-Identifier: MIT */
/*
 * Which pages of a region of device memory are free: see free_map.c. All functions
 * with the lock of the region held, but for free_map_init() and _fini().
 */
#ifndef HMM_CORE_FREE_MAP_H
#define HMM_CORE_FREE_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct free_map {
	unsigned long pages;
	unsigned long free; /* atomic, so as to be read without the lock */
	unsigned long hint;
	uint64_t *bitmap;
	uint64_t *summary;
};

/* All free. 0 or -ENOMEM. */
int free_map_init(struct free_map *map, unsigned long pages);
void free_map_fini(struct free_map *map);
/* The first of *@n pages in a row, at the most, which it makes fewer; map->pages: there is none. */
unsigned long free_map_take(struct free_map *map, unsigned long *n);
/* The first of a run of @n, which is a power of 2; map->pages: there is none. */
unsigned long free_map_take_run(struct free_map *map, unsigned long n);
void free_map_give(struct free_map *map, unsigned long i, unsigned long n);
/* The first page from @from on that is not free; map->pages: there is none. */
unsigned long free_map_next_used(const struct free_map *map, unsigned long from);

#endif
