/* SPDX-License-Identifier: MIT */
#ifndef HMM_BENCH_H
#define HMM_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "memory.h"

#define BENCH_ROUNDS 9
#define BENCH_FAULTS 1024

enum bench_figure { BENCH_TO, BENCH_BACK, BENCH_READ, BENCH_FAULT, BENCH_FAULT_P99, FIGURES };

/**
 * struct bench - one device and one kind of pages
 * @ops: in: the device
 * @bytes: in: how much moves at a time; whole 2 MiB
 * @huge: in: huge pages
 * @until: in: CLOCK_MONOTONIC, ns: begin no round after that
 * @rounds: out; 0: there are no huge pages
 * @value: out, each round's: GB/s or us
 * @ref: the same of the reference
 * @failed: out, where bench_run() failed: at what
 * @dev: the device
 * @range: what moves
 * @source: what it holds
 * @target: where it is copied to
 * @fresh: pages that are touched for the first time
 */
struct bench {
	const struct tool_device *ops;
	uint64_t bytes;
	bool huge;
	uint64_t until;
	int rounds;
	double value[FIGURES][BENCH_ROUNDS];
	double ref[FIGURES][BENCH_ROUNDS];
	const char *failed;
	void *dev;
	char *range;
	char *source;
	char *target;
	char *fresh;
};

/* 0; a negative errno; or 1: something else is wrong. Then @b->failed tells. */
int bench_run(struct bench *b);

static inline bool bench_has(const struct bench *b, enum bench_figure figure)
{
	return !b->huge || figure < BENCH_FAULT;
}

double bench_median(const double *v, int n);
/* The median of the rounds' ratios. */
double bench_ratio(const struct bench *b, enum bench_figure figure);

#endif
