/* SPDX-License-Identifier: MIT */
/*
 * One line of a curve: what a unit of work costs where there is so much of something else.
 * Flat is as it should be. The ratio is to the cost at the axis's first point of that name,
 * and the goal, at the last point, is 2: a cost that grew faster than the work would be many
 * times dearer there; caches that are too small for more make up the rest.
 */
#ifndef BENCH_SCALE_H
#define BENCH_SCALE_H

#include "bench.h"

#include <stdio.h>
#include <time.h>

struct bench_curve {
	const char *name; /* of the line: scale_NAME_AXIS */
	const char *axis;
	const char *unit;
	double first;
};

/* Of the process, all threads: what a long way costs, whatever else runs. */
static inline uint64_t bench_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void bench_scale(struct bench_curve *curve, unsigned long at, double value, bool last)
{
	char name[64];

	if (curve->first <= 0)
		curve->first = value;
	snprintf(name, sizeof(name), "scale_%s_%s", curve->name, curve->axis);
	bench_result(name, value, curve->unit, curve->first > 0 ? value / curve->first : 1,
		     last ? "<=2" : "none", "%s=%lu", curve->axis, at);
}

#endif
