/* SPDX-License-Identifier: MIT */
/* Memory to migrate, for `hmm bench` and `hmm doctor`. */
#ifndef HMM_MEMORY_H
#define HMM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_HUGE ((size_t)2 << 20)

/*
 * Anonymous memory of whole 2 MiB, for small pages or huge ones, in a mapping of its own;
 * NULL: there is none.
 */
char *memory_map(size_t bytes, bool huge);
void memory_unmap(char *addr, size_t bytes);
/* Of each page one half is noise and one half repeats; no two pages are the same. */
void memory_fill(char *addr, size_t bytes, uint64_t seed);
/* Does all of it lie in huge pages? Tries to bring that about. */
bool memory_make_huge(char *addr, size_t bytes);
/* Are all of its pages in a device's memory, or none? */
bool memory_where(const char *addr, size_t bytes, bool on_device);

/* Sorts. @p from 0 to 1. */
double memory_percentile(double *v, size_t n, double p);
void memory_shuffle(uint32_t *order, size_t n, uint64_t seed);

#endif
