/* SPDX-License-Identifier: MIT */
/* The dummy device: its memory is ordinary memory. To try things out, and for tests. */
#include <dummy.h>

#include "run.h"

static RUN_DATA struct dummy_device *dummy;

static int create(const char *options, uint64_t limit)
{
	struct dummy_options opt = { .memory = limit * 8 };
	uint64_t value;
	int ret;

	if (opt.memory < 1ull << 30)
		opt.memory = 1ull << 30;
	if (run_option(options, "memory", &value))
		opt.memory = value;
	if (run_option(options, "around", &value))
		opt.around = (unsigned int)value;
	ret = dummy_create(&dummy, &opt);
	return ret;
}

static int migrate(unsigned long start, unsigned long end, uint8_t *result, unsigned long *pages)
{
	return dummy_migrate_vma(dummy, start, end, result, pages);
}

/* It gives no memory back, and takes a page that it has not had before as long as there is one. */
static void usage(struct run_usage *usage)
{
	unsigned long all = dummy_memory_pages(dummy), had;
	struct dummy_stats stats;

	dummy_get_stats(dummy, &stats);
	had = stats.pages_in < all ? stats.pages_in : all;
	usage->stored = (uint64_t)(all - dummy_memory_free(dummy)) << hmm_page_shift();
	usage->memory = (uint64_t)had << hmm_page_shift();
}

const struct run_device_ops run_dummy_ops = {
	.name = "dummy",
	.create = create,
	.migrate = migrate,
	.usage = usage,
};
