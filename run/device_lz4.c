/* SPDX-License-Identifier: MIT */
/*
 * The lz4 device: what goes is compressed, and stays in memory.
 *
 *	limit=BYTES		of system memory that it may use; 0: none of its own
 *	acceleration=N		of LZ4: 1 packs best
 *	around=PAGES		that a fault brings: a window of so many; 0: one page, and more
 *				where the program reads on
 */
#include <lz4dev.h>

#include "run.h"

static RUN_DATA struct lz4_device *lz4;

static int create(const char *options, uint64_t limit)
{
	struct lz4_options opt = { .limit = 0 };
	uint64_t value;

	(void)limit;
	if (run_option(options, "limit", &value))
		opt.limit = value;
	if (run_option(options, "acceleration", &value))
		opt.acceleration = (unsigned int)value;
	if (run_option(options, "around", &value))
		opt.around = (unsigned int)value;
	return lz4_create(&lz4, &opt);
}

static int migrate(unsigned long start, unsigned long end, uint8_t *result, unsigned long *pages)
{
	return lz4_migrate(lz4, start, end, result, pages);
}

static void usage(struct run_usage *usage)
{
	struct lz4_stats stats;

	lz4_get_stats(lz4, &stats);
	usage->stored = stats.pages << hmm_page_shift();
	usage->memory = stats.memory;
}

const struct run_device_ops run_lz4_ops = {
	.name = "lz4",
	.create = create,
	.migrate = migrate,
	.usage = usage,
};
