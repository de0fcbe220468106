/* SPDX-License-Identifier: MIT */
#include <lz4dev.h>

#include <hmm/types.h>

#include "device.h"

static int create(void **dev, size_t bytes)
{
	struct lz4_options opt = { .pages = bytes >> hmm_page_shift() };

	return lz4_create((struct lz4_device **)dev, &opt);
}

static int migrate(void *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return lz4_migrate(dev, start, end, NULL, pages);
}

static int evict(void *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return lz4_evict(dev, start, end, pages);
}

static int destroy(void *dev)
{
	return lz4_destroy(dev);
}

const struct tool_device tool_lz4 = {
	.name = "lz4",
	.create = create,
	.migrate = migrate,
	.evict = evict,
	.destroy = destroy,
};
