/* SPDX-License-Identifier: MIT */
/*
 * Migration by hmm_migrate_vma(), the device's own way of asking for it: the sources
 * come in an array instead of the mirror's table, and the pages are mapped when it is
 * known which of them have moved for good. The copying is the same.
 */
#include <errno.h>

#include "internal.h"

static int alloc_and_copy(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
			  unsigned long start, unsigned long end)
{
	return dummy_copy_in(migrate->cookie, src, dst, start, end);
}

static void finalize_and_map(struct hmm_migrate *migrate, const hmm_pte_t *src,
			     const hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	(void)src;
	dummy_map_copied(migrate->cookie, dst, start, end);
}

static const struct hmm_migrate_ops migrate_ops = {
	.size = sizeof(migrate_ops),
	.version = HMM_MIGRATE_OPS_VERSION,
	.alloc_and_copy = alloc_and_copy,
	.finalize_and_map = finalize_and_map,
};

int dummy_migrate_vma(struct dummy_device *dev, uint64_t start, uint64_t end, uint8_t *result,
		      unsigned long *pages)
{
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.flags = (dev->opt.peer ? HMM_MIGRATE_PEER : 0) |
			 (dev->opt.read_only ? HMM_MIGRATE_READ_ONLY : 0),
		.device = &dev->device,
		.ops = &migrate_ops,
		.start = start & ~dummy_page_mask(dev),
		.end = (end + dummy_page_mask(dev)) & ~dummy_page_mask(dev),
		.cookie = dev,
		.result = result,
	};
	int ret = hmm_migrate_vma(&migrate);

	if (!ret && pages)
		*pages = migrate.pages;
	return ret;
}
