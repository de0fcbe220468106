/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: what the CPU page table says of a range, for a device that keeps its own
 * page table without the mirror's; and where the pages of a range are.
 *
 * Source: seeds, v14 cover, "helper to snapshot CPU page table" and "device page
 * fault handler"; design, section 3.
 */
#ifndef HMM_RANGE_H
#define HMM_RANGE_H

#include <hmm/mirror.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * typedef hmm_pfn_t - what a snapshot says of one page
 *
 * A page-aligned address in the upper bits, flags in the low twelve; 0: nothing is
 * there yet, and a fault would bring it.
 *
 * ================== ==========================================================
 * HMM_PFN_VALID      there is a page, and this device can use it where it is: the
 *                    address is the CPU address, or see HMM_PFN_DEVICE
 * HMM_PFN_WRITE      the device may write it: the mapping allows it, and the page is
 *                    neither the zero page nor shared copy-on-write. Of private
 *                    memory known only with HMM_RANGE_WRITE
 * HMM_PFN_ZERO       it is the zero page: reads as zeros, has no memory
 * HMM_PFN_DEVICE     valid, in this device's memory: the address is the device pfn
 * HMM_PFN_ELSEWHERE  in the memory of another device, or on its way: not valid, no
 *                    address; a fault brings it to system memory
 * HMM_PFN_HUGE       valid, and mapped by the CPU as part of a huge page
 * HMM_PFN_SPECIAL    memory whose changes cannot be heard of (a regular file's, an
 *                    I/O mapping, another userfaultfd's): a snapshot cannot be kept
 *                    right, use hmm_mirror_fault()
 * HMM_PFN_ERROR      not mapped, or not readable: a fault would fail
 * ================== ==========================================================
 *
 * Source: seeds, v14 to v23, the flags of hmm_pfn_t.
 */
typedef uint64_t hmm_pfn_t;

#define HMM_PFN_VALID ((hmm_pfn_t)1 << 0)
#define HMM_PFN_WRITE ((hmm_pfn_t)1 << 1)
#define HMM_PFN_ZERO ((hmm_pfn_t)1 << 2)
#define HMM_PFN_DEVICE ((hmm_pfn_t)1 << 3)
#define HMM_PFN_ELSEWHERE ((hmm_pfn_t)1 << 4)
#define HMM_PFN_HUGE ((hmm_pfn_t)1 << 5)
#define HMM_PFN_SPECIAL ((hmm_pfn_t)1 << 6)
#define HMM_PFN_ERROR ((hmm_pfn_t)1 << 7)
#define HMM_PFN_FLAGS ((hmm_pfn_t)0xfff)

/** hmm_pfn_addr() - the CPU address of a valid page that is not in device memory */
static inline uint64_t hmm_pfn_addr(hmm_pfn_t pfn)
{
	return pfn & ~HMM_PFN_FLAGS;
}

/** hmm_pfn_device() - the device pfn of a page with HMM_PFN_DEVICE */
static inline uint64_t hmm_pfn_device(hmm_pfn_t pfn)
{
	return hmm_pfn_addr(pfn) >> hmm_page_shift();
}

/** define HMM_RANGE_WRITE - the device wants to write the range */
#define HMM_RANGE_WRITE (1u << 0)

struct hmm_range_state;

/**
 * struct hmm_range - a range that a driver takes a snapshot of
 * @size: sizeof(struct hmm_range), as the driver was compiled
 * @flags: HMM_RANGE_*
 * @mirror: a registered mirror
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 * @pfns: out: one entry a page; the driver's, in any memory
 * @state: libhmm's; NULL before and after
 *
 * The protocol, for a driver whose update() takes the lock that protects the device
 * page table (examples/snapshot.c)::
 *
 *	do {
 *		ret = hmm_range_fault(&range);
 *		if (ret)
 *			return ret;
 *		lock(device page table);
 *		done = hmm_range_done(&range);
 *		if (done)
 *			enter range.pfns[] in the device page table;
 *		unlock(device page table);
 *	} while (!done);
 *
 * From the snapshot on, update() is called for what happens to the range, whether or
 * not the mirror page table has entries of it. With these, entries, dirty bits and
 * DMA mappings are the driver's own business; hmm_mirror_range_discard() says that a
 * range is of no interest any more.
 */
struct hmm_range {
	uint32_t size;
	uint32_t flags;
	struct hmm_mirror *mirror;
	unsigned long start;
	unsigned long end;
	hmm_pfn_t *pfns;
	struct hmm_range_state *state;
};

/**
 * hmm_range_snapshot() - what is where, without changing it
 * @range: the range; @range->pfns is written
 *
 * Faults nothing in and moves nothing.
 *
 * Return: 0, and hmm_range_done() must be called once; -EINVAL @range is malformed;
 * -EBUSY the last one is not done, or the range kept changing; -EDEADLK called from
 * an op; -ENODEV the mirror was killed or is being unregistered; -ENOMEM no memory, or
 * too many mappings; -EIO the kernel's page map cannot be read. On error @range->pfns
 * is undefined, and hmm_range_done() must not be called.
 * Context: any thread, not from an op, and not while holding a lock that an op takes.
 * May sleep.
 */
HMM_API int hmm_range_snapshot(struct hmm_range *range);

/**
 * hmm_range_fault() - the same, with every page there
 * @range: the range
 *
 * Makes all pages present, as hmm_mirror_fault() does for a read, or with
 * %HMM_RANGE_WRITE for a write; then all entries are valid, and writable if so asked.
 * What this device has in its memory stays there; what another has comes home.
 *
 * Return: as hmm_range_snapshot(); -EFAULT the range is not all mapped, or not with
 * that permission; -EOPNOTSUPP some of it is special (see %HMM_PFN_SPECIAL).
 * Context: as hmm_range_snapshot().
 */
HMM_API int hmm_range_fault(struct hmm_range *range);

/**
 * hmm_range_done() - is what was read still so?
 * @range: after hmm_range_snapshot() or hmm_range_fault() returned 0
 *
 * To be called with the lock held that update() takes. If true, libhmm knows of nothing
 * that has happened to the range since, and what has happened or will reaches update()
 * after the lock is dropped. If false, the driver must not use @range->pfns, and starts
 * again. As after a fault, hmm_mirror_sync() comes before work is handed to the device.
 *
 * Return: true or false; also false if the mirror was unregistered.
 * Context: any thread, under any lock of the driver's, not from an op. Never sleeps.
 */
HMM_API bool hmm_range_done(struct hmm_range *range);

/**
 * enum hmm_where - where a page is
 * @HMM_WHERE_NONE: nowhere: not mapped, or never touched
 * @HMM_WHERE_SYSTEM: in system memory
 * @HMM_WHERE_ZERO: the zero page: mapped, no memory of its own
 * @HMM_WHERE_SWAP: in the kernel's swap
 * @HMM_WHERE_DEVICE: in a device's memory
 * @HMM_WHERE_STAGED: in system memory, on its way: the next access maps it
 * @HMM_WHERE_EXCLUSIVE: in system memory, and a device has it for itself
 */
enum hmm_where {
	HMM_WHERE_NONE = 0,
	HMM_WHERE_SYSTEM,
	HMM_WHERE_ZERO,
	HMM_WHERE_SWAP,
	HMM_WHERE_DEVICE,
	HMM_WHERE_STAGED,
	HMM_WHERE_EXCLUSIVE,
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
