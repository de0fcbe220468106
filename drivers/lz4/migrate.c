/* SPDX-License-Identifier: MIT */
/* To the device and back, because the program says so. */
#include "lz4_internal.h"

/*
 * Descriptors are made for one part of a range after the other: of a range with holes,
 * only some may be needed.
 */
#define PART ((uint64_t)256 << 20)

static int alloc_and_copy(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
			  unsigned long start, unsigned long end)
{
	return lz4_copy_in(migrate->cookie, src, dst, (end - start) >> hmm_page_shift());
}

static const struct hmm_migrate_ops migrate_ops = {
	.size = sizeof(migrate_ops),
	.version = HMM_MIGRATE_OPS_VERSION,
	.alloc_and_copy = alloc_and_copy,
};

static int migrate_part(struct lz4_device *dev, uint64_t start, uint64_t end, uint8_t *result,
			unsigned long *pages)
{
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.device = &dev->device,
		.ops = &migrate_ops,
		.start = start,
		.end = end,
		.cookie = dev,
		.result = result,
	};
	unsigned long n = (unsigned long)(end - start) >> dev->page_shift;
	int ret;

	lz4_regions_want(dev, n);
	ret = hmm_migrate_vma(&migrate);
	lz4_regions_done(dev, n);
	*pages += migrate.pages;
	return ret;
}

static uint64_t round_down(const struct lz4_device *dev, uint64_t addr)
{
	return addr & ~(uint64_t)(dev->page_size - 1);
}

static uint64_t round_up(const struct lz4_device *dev, uint64_t addr)
{
	return round_down(dev, addr + dev->page_size - 1);
}

int lz4_migrate(struct lz4_device *dev, uint64_t start, uint64_t end, uint8_t *result,
		unsigned long *pages)
{
	uint64_t first = round_down(dev, start), at = first, last = round_up(dev, end), next;
	unsigned long sum = 0;
	int ret;

	do {
		next = at - at % PART + PART;
		if (next > last || next < at)
			next = last;
		ret = migrate_part(dev, at, next,
				   result ? result + ((at - first) >> dev->page_shift) : NULL,
				   &sum);
		at = next;
	} while (!ret && at < last);
	if (pages)
		*pages = sum;
	return ret;
}

int lz4_evict(struct lz4_device *dev, uint64_t start, uint64_t end, unsigned long *pages)
{
	return hmm_migrate_to_ram(&dev->device, round_down(dev, start), round_up(dev, end), pages);
}
