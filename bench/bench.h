/* SPDX-License-Identifier: MIT */
/*
 * What every benchmark needs and none of them is about: a clock, medians, the
 * one form of a result line, placement, memory of a known page size, and a
 * pattern that shows whether the bytes that were measured are the right ones.
 *
 * A benchmark exits 0 when it has measured, whatever it measured; 0 with one
 * line "# skipped: why" where it cannot; 1 where data was wrong or a call
 * failed. Each goal is a ratio against a reference of the same run: reference
 * and measurement take turns within a round, and the median of the rounds'
 * ratios counts, for the machine is never quiet.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_MIB (1ul << 20)
#define BENCH_HUGE (2ul << 20)

enum bench_pages { BENCH_SMALL, BENCH_THP };

/* Where the faulting thread and whoever answers it run. */
enum bench_placement { BENCH_SAME_CPU, BENCH_FREE };

uint64_t bench_ns(void);
unsigned long bench_page_size(void);
const char *bench_placement_name(enum bench_placement placement);
const char *bench_pages_name(enum bench_pages pages);

/* Both sort @v. @p from 0 to 1. */
double bench_percentile(double *v, size_t n, double p);
double bench_median(double *v, size_t n);

/* "# what (kernel, CPUs); conditions" */
void bench_header(const char *what, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * One RESULT line. @goal is "<=x", ">=x" or "none"; @extra holds further
 * key=value fields, or is empty.
 */
void bench_result(const char *name, double value, const char *unit, double ratio, const char *goal,
		  const char *extra, ...) __attribute__((format(printf, 6, 7)));

void bench_skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
void bench_fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Run @fn in a child with that placement, so that every thread it makes, also
 * inside a library, has it. Returns the child's exit status. Where there is but
 * one CPU, BENCH_FREE says so in a comment and does nothing.
 */
int bench_run_placed(enum bench_placement placement, void (*fn)(enum bench_placement));

/* Untouched anonymous memory, 2 MiB aligned, between guards it cannot merge with. */
void *bench_map(size_t bytes, enum bench_pages pages);
void bench_unmap(void *addr, size_t bytes);

/* Unmap the guards alone: for whoever times the munmap() of the rest. */
void bench_unmap_guards(void *addr, size_t bytes);

/* How many bytes of the range lie in huge pages, by /proc/self/smaps. */
size_t bench_huge_bytes(const void *addr, size_t bytes);

/* How many bytes of anonymous memory the process has but for those of the range, likewise. */
size_t bench_rest_bytes(const void *addr, size_t bytes);

/*
 * The share of the range's pages that in memory lie right after the one before: what the
 * processor fetches ahead, of them and of the kernel's descriptors of them. -1: the kernel
 * does not tell this process.
 */
double bench_contiguous(const void *addr, size_t bytes);

/* Every word of the range is different, and different for each seed. */
void bench_fill(void *addr, size_t bytes, uint64_t seed);
void bench_check(const void *addr, size_t bytes, uint64_t seed, const char *when);
uint64_t bench_word(size_t index, uint64_t seed);

/* 0 .. n-1 in an order that no read-ahead guesses. */
void bench_shuffle(uint32_t *order, size_t n, uint64_t seed);

#endif
