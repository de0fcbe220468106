/* SPDX-License-Identifier: MIT */
#include <dummy.h>

#include "device.h"

static int create(void **dev, size_t bytes)
{
	struct dummy_options opt = { .memory = bytes };

	return dummy_create((struct dummy_device **)dev, &opt);
}

static int migrate(void *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return dummy_migrate_vma(dev, start, end, NULL, pages);
}

static int evict(void *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return dummy_evict(dev, start, end, pages);
}

static int destroy(void *dev)
{
	return dummy_destroy(dev);
}

const struct tool_device tool_dummy = {
	.name = "dummy",
	.create = create,
	.migrate = migrate,
	.evict = evict,
	.destroy = destroy,
};
