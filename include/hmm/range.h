/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: where the pages of a range are.
 */
#ifndef HMM_RANGE_H
#define HMM_RANGE_H

#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * enum hmm_where - where a page is
 * @HMM_WHERE_NONE: nowhere: not mapped, or never touched
 * @HMM_WHERE_SYSTEM: in system memory
 * @HMM_WHERE_ZERO: the zero page: mapped, no memory of its own
 * @HMM_WHERE_SWAP: in the kernel's swap
 * @HMM_WHERE_DEVICE: in a device's memory
 * @HMM_WHERE_STAGED: in system memory, on its way: the next access maps it
 */
enum hmm_where {
	HMM_WHERE_NONE = 0,
	HMM_WHERE_SYSTEM,
	HMM_WHERE_ZERO,
	HMM_WHERE_SWAP,
	HMM_WHERE_DEVICE,
	HMM_WHERE_STAGED,
};

/**
 * hmm_range_where() - where the pages of [@start, @end) are
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 * @where: out: one enum hmm_where a page
 *
 * Moves nothing and faults nothing in. The answer may be old when it arrives.
 *
 * Return: 0; -EINVAL; -ENOMEM; -EIO the kernel's page map cannot be read;
 * -EDEADLK called from an op; without a mirror in the process also what
 * hmm_mirror_register() returns where userfaultfd is refused.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_range_where(unsigned long start, unsigned long end, uint8_t *where);

#ifdef __cplusplus
}
#endif

#endif
