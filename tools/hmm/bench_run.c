/* SPDX-License-Identifier: MIT */
/* The rounds of hmm bench. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <hmm/hmm.h>

#include "bench.h"
#include "text.h"

double bench_median(const double *v, int n)
{
	double sorted[BENCH_ROUNDS];

	memcpy(sorted, v, (size_t)n * sizeof(*v));
	return memory_percentile(sorted, (size_t)n, 0.5);
}

double bench_ratio(const struct bench *b, enum bench_figure figure)
{
	double ratio[BENCH_ROUNDS];
	int i;

	for (i = 0; i < b->rounds; i++)
		ratio[i] = b->value[figure][i] / b->ref[figure][i];
	return bench_median(ratio, b->rounds);
}

static int fail(struct bench *b, const char *at, int ret)
{
	b->failed = at;
	return ret ? ret : 1;
}

static double speed(const struct bench *b, uint64_t t0)
{
	uint64_t ns = text_now() - t0;

	return (double)b->bytes / (double)(ns ? ns : 1);
}

static double copy_speed(struct bench *b, const char *from)
{
	uint64_t t0 = text_now();

	memcpy(b->target, from, b->bytes);
	return speed(b, t0);
}

static int migrate(struct bench *b, double *value)
{
	uint64_t start = (uintptr_t)b->range, t0 = text_now();
	unsigned long pages = 0;
	int ret = b->ops->migrate(b->dev, start, start + b->bytes, &pages);

	if (value)
		*value = speed(b, t0);
	if (ret || pages != b->bytes / hmm_page_size() || !memory_where(b->range, b->bytes, true))
		return fail(b, "not all went to the device", ret);
	return 0;
}

static int evict(struct bench *b, double *value)
{
	uint64_t start = (uintptr_t)b->range, t0 = text_now();
	unsigned long pages = 0;
	int ret = b->ops->evict(b->dev, start, start + b->bytes, &pages);

	if (value)
		*value = speed(b, t0);
	if (ret || !memory_where(b->range, b->bytes, false))
		return fail(b, "not all came back", ret);
	return 0;
}

static int bulk(struct bench *b, int at)
{
	int ret;

	b->ref[BENCH_TO][at] = copy_speed(b, b->source);
	ret = migrate(b, &b->value[BENCH_TO][at]);
	if (ret)
		return ret;
	b->ref[BENCH_BACK][at] = copy_speed(b, b->source);
	ret = evict(b, &b->value[BENCH_BACK][at]);
	if (!ret && memcmp(b->range, b->source, b->bytes))
		ret = fail(b, "what came back is wrong", 0);
	return ret;
}

static int read_in_order(struct bench *b, int at)
{
	int ret = migrate(b, NULL);

	if (ret)
		return ret;
	b->ref[BENCH_READ][at] = copy_speed(b, b->source);
	memset(b->target, 0, b->bytes);
	b->value[BENCH_READ][at] = copy_speed(b, b->range);
	if (memcmp(b->target, b->source, b->bytes))
		return fail(b, "what was read back is wrong", 0);
	return 0;
}

/* Microseconds that one access to each of the pages takes, in no order. */
static void touch(char *range, const uint32_t *order, size_t n, size_t step, bool write, double *us)
{
	size_t i;

	for (i = 0; i < n; i++) {
		volatile char *at = range + order[i] * step;
		uint64_t t0 = text_now();

		if (write)
			*at = 1;
		else
			(void)*at;
		us[i] = (double)(text_now() - t0) / 1000;
	}
}

static int faults(struct bench *b, int at)
{
	static uint32_t order[BENCH_FAULTS];
	static double us[BENCH_FAULTS];
	size_t pages = b->bytes / hmm_page_size();
	size_t n = pages < BENCH_FAULTS ? pages : BENCH_FAULTS;
	int ret = migrate(b, NULL);

	if (ret)
		return ret;
	memory_shuffle(order, n, (uint64_t)at);
	madvise(b->fresh, b->bytes, MADV_DONTNEED);
	touch(b->fresh, order, n, b->bytes / n, true, us);
	b->ref[BENCH_FAULT][at] = memory_percentile(us, n, 0.5);
	b->ref[BENCH_FAULT_P99][at] = memory_percentile(us, n, 0.99);
	touch(b->range, order, n, b->bytes / n, false, us);
	b->value[BENCH_FAULT][at] = memory_percentile(us, n, 0.5);
	b->value[BENCH_FAULT_P99][at] = memory_percentile(us, n, 0.99);
	ret = evict(b, NULL);
	if (!ret && memcmp(b->range, b->source, b->bytes))
		ret = fail(b, "what the faults brought is wrong", 0);
	return ret;
}

static int one_round(struct bench *b, int at)
{
	int ret;

	memory_fill(b->source, b->bytes, (uint64_t)at + 1);
	memcpy(b->range, b->source, b->bytes);
	if (b->huge && !memory_make_huge(b->range, b->bytes))
		return -ENODATA;
	ret = bulk(b, at);
	if (!ret && b->huge && !memory_make_huge(b->range, b->bytes))
		ret = -ENODATA;
	if (!ret)
		ret = read_in_order(b, at);
	if (!ret && !b->huge)
		ret = faults(b, at);
	return ret;
}

/* The first is for warming up, and not counted if there is time for another. */
static int rounds(struct bench *b)
{
	uint64_t t0 = text_now(), took;
	int ret = one_round(b, 0), at;

	if (ret)
		return ret;
	took = text_now() - t0;
	b->rounds = 1;
	for (at = 0; at < BENCH_ROUNDS && text_now() + took < b->until; at++) {
		ret = one_round(b, at);
		if (ret)
			return ret;
		b->rounds = at + 1;
	}
	return 0;
}

static int device_with(struct bench *b)
{
	int ret = b->ops->create(&b->dev, 2 * b->bytes), err;

	if (ret)
		return fail(b, "cannot be made", ret);
	ret = rounds(b);
	err = b->ops->destroy(b->dev);
	if (ret == -ENODATA) {
		b->rounds = 0;
		ret = 0;
	}
	return ret ? ret : err ? fail(b, "does not end", err) : 0;
}

int bench_run(struct bench *b)
{
	int ret;

	hmm_set_pool(b->bytes < 1ull << 30 ? b->bytes : 1ull << 30);
	b->range = memory_map(b->bytes, b->huge);
	b->source = memory_map(b->bytes, b->huge);
	b->target = memory_map(b->bytes, b->huge);
	b->fresh = memory_map(b->bytes, false);
	if (b->range && b->source && b->target && b->fresh) {
		memset(b->target, 1, b->bytes);
		ret = device_with(b);
	} else {
		ret = fail(b, "no memory", -ENOMEM);
	}
	memory_unmap(b->range, b->bytes);
	memory_unmap(b->source, b->bytes);
	memory_unmap(b->target, b->bytes);
	memory_unmap(b->fresh, b->bytes);
	return ret;
}
