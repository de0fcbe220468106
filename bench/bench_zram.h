/* SPDX-License-Identifier: MIT */
/*
 * The kernel's compressed memory, to compare with: a zram device of our own, with LZ4, to
 * which the system swaps for as long as the benchmark runs.
 *
 * A system's swap is nothing that a benchmark should touch unasked: it needs root, and
 * HMM_BENCH_ZRAM=1 in the environment.
 */
#ifndef BENCH_ZRAM_H
#define BENCH_ZRAM_H

#include <stddef.h>

/* NULL: it is there, and goes when the program ends; else why not. */
const char *bench_zram_begin(size_t disk);
void bench_zram_end(void);

/* Bytes that it uses in all. */
double bench_zram_memory(void);

#endif
