/* SPDX-License-Identifier: MIT */
/* Rates, and percentiles of a histogram by powers of two. */
#include <stdbool.h>

#include "text.h"
#include "watch.h"

/* Within a class the times are taken to be spread evenly. */
static double percentile(const uint64_t *count, uint64_t total, double p)
{
	double want = p * (double)total, below = 0;
	unsigned int i;

	for (i = 0; i < HMM_RUN_STATS_TIMES; i++) {
		double n = (double)count[i], low = (double)(1ull << i);

		if (n > 0 && below + n >= want)
			return low + low * (want - below) / n;
		below += n;
	}
	return 0;
}

static double rate(uint64_t before, uint64_t now, double seconds)
{
	return now > before && seconds > 0 ? (double)(now - before) / seconds : 0;
}

void rates_between(struct rates *rates, const struct hmm_run_stats *before,
		   const struct hmm_run_stats *now, double seconds)
{
	static const struct hmm_run_stats zero;
	uint64_t count[HMM_RUN_STATS_TIMES], total = 0;
	double page = (double)now->page_size;
	unsigned int i;

	if (!before)
		before = &zero;
	for (i = 0; i < HMM_RUN_STATS_TIMES; i++) {
		uint64_t n = now->fault_ns[i];

		count[i] = n > before->fault_ns[i] ? n - before->fault_ns[i] : 0;
		total += count[i];
	}
	*rates = (struct rates){
		.seconds = seconds,
		.faults = rate(before->faults, now->faults, seconds),
		.migrations = rate(before->migrations, now->migrations, seconds),
		.out = rate(before->pages_out, now->pages_out, seconds) * page,
		.back = rate(before->pages_back, now->pages_back, seconds) * page,
		.waits = rate(before->gated, now->gated, seconds),
	};
	if (total) {
		rates->p50 = percentile(count, total, 0.5);
		rates->p99 = percentile(count, total, 0.99);
	}
}

double rates_age(const struct hmm_run_stats *stats)
{
	uint64_t now = text_now();

	return now > stats->started_ns ? (double)(now - stats->started_ns) / 1e9 : 0;
}
