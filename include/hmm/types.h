/* SPDX-License-Identifier: MIT */
/*
 * The words that every other header uses: page geometry, the page table entry
 * and the export macro.
 */
#ifndef HMM_TYPES_H
#define HMM_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HMM_API __attribute__((visibility("default")))

/**
 * hmm_page_size() - size of a page of this system, in bytes
 * hmm_page_shift() - its logarithm to base 2
 *
 * The unit of mirroring and migration. Asked from the system once; nothing in
 * libhmm assumes 4 KiB, only that a page is at least that large.
 *
 * Context: any.
 */
HMM_API unsigned long hmm_page_size(void) __attribute__((const));
HMM_API unsigned int hmm_page_shift(void) __attribute__((const));

/**
 * define HMM_USER_END - no range reaches beyond this address
 *
 * Where user memory can end: five levels of page table on x86-64, and no more anywhere.
 */
#define HMM_USER_END (1ul << 56)

/**
 * typedef hmm_pte_t - one entry of an HMM page table
 *
 * A page-aligned address in the upper bits, flags in the low twelve:
 *
 * ================== ==========================================================
 * HMM_PTE_VALID      the entry translates; without it the rest means nothing
 * HMM_PTE_WRITE      the device may write
 * HMM_PTE_DIRTY      the device has written (set by the driver, and only this)
 * HMM_PTE_DEVICE     the address is a device page (hmm_pte_pfn() is its device
 *                    pfn, see devmem.h), not system memory
 * HMM_PTE_DMA        the address is what the device's dma_map() returned
 * HMM_PTE_ZERO       source of a copy only: the page reads as zeros and has no
 *                    memory; clear the destination instead of copying
 * HMM_PTE_ONCE       nobody will say when this translation ends: it is good until
 *                    update() returns, and for the access that faulted (device.h)
 * HMM_PTE_EXCLUSIVE  the device has the page for itself: no CPU access reaches it, until
 *                    update() takes the translation away. The address is the CPU address
 *                    of the page where it is now, which is not the program's
 * HMM_PTE_DRIVER     four bits that libhmm keeps and never reads
 * ================== ==========================================================
 *
 * For system memory the address is the CPU address: user space has no other
 * page frame number. Source: seeds, v12 documentation, "HMM mirror page table".
 */
typedef uint64_t hmm_pte_t;

#define HMM_PTE_VALID ((hmm_pte_t)1 << 0)
#define HMM_PTE_WRITE ((hmm_pte_t)1 << 1)
#define HMM_PTE_DIRTY ((hmm_pte_t)1 << 2)
#define HMM_PTE_DEVICE ((hmm_pte_t)1 << 3)
#define HMM_PTE_DMA ((hmm_pte_t)1 << 4)
#define HMM_PTE_ZERO ((hmm_pte_t)1 << 5)
#define HMM_PTE_ONCE ((hmm_pte_t)1 << 6)
#define HMM_PTE_EXCLUSIVE ((hmm_pte_t)1 << 7)
#define HMM_PTE_DRIVER_SHIFT 8
#define HMM_PTE_DRIVER ((hmm_pte_t)15 << HMM_PTE_DRIVER_SHIFT)
#define HMM_PTE_FLAGS ((hmm_pte_t)0xfff)

static inline bool hmm_pte_test_valid(hmm_pte_t pte)
{
	return pte & HMM_PTE_VALID;
}

static inline bool hmm_pte_test_write(hmm_pte_t pte)
{
	return pte & HMM_PTE_WRITE;
}

static inline bool hmm_pte_test_dirty(hmm_pte_t pte)
{
	return pte & HMM_PTE_DIRTY;
}

static inline bool hmm_pte_test_device(hmm_pte_t pte)
{
	return pte & HMM_PTE_DEVICE;
}

static inline bool hmm_pte_test_zero(hmm_pte_t pte)
{
	return pte & HMM_PTE_ZERO;
}

static inline bool hmm_pte_test_dma(hmm_pte_t pte)
{
	return pte & HMM_PTE_DMA;
}

static inline bool hmm_pte_test_once(hmm_pte_t pte)
{
	return pte & HMM_PTE_ONCE;
}

static inline bool hmm_pte_test_exclusive(hmm_pte_t pte)
{
	return pte & HMM_PTE_EXCLUSIVE;
}

/** hmm_pte_addr() - the address part: a CPU address, where not DEVICE or DMA */
static inline uint64_t hmm_pte_addr(hmm_pte_t pte)
{
	return pte & ~HMM_PTE_FLAGS;
}

/** hmm_pte_dma_addr() - the DMA address, in an entry with HMM_PTE_DMA */
static inline uint64_t hmm_pte_dma_addr(hmm_pte_t pte)
{
	return hmm_pte_addr(pte);
}

/** hmm_pte_pfn() - page frame number: device pfn with HMM_PTE_DEVICE, else CPU */
static inline uint64_t hmm_pte_pfn(hmm_pte_t pte)
{
	return hmm_pte_addr(pte) >> hmm_page_shift();
}

/** hmm_pte_from_addr() - an entry for the system page at CPU address @addr */
static inline hmm_pte_t hmm_pte_from_addr(uint64_t addr, hmm_pte_t flags)
{
	return (addr & ~HMM_PTE_FLAGS) | flags;
}

/** hmm_pte_from_dma() - what dma_map() makes of @pte: the page at DMA address @dma */
static inline hmm_pte_t hmm_pte_from_dma(hmm_pte_t pte, uint64_t dma)
{
	return (dma & ~HMM_PTE_FLAGS) | (pte & HMM_PTE_FLAGS) | HMM_PTE_DMA;
}

/** hmm_pte_from_device_pfn() - an entry for the device page @pfn */
static inline hmm_pte_t hmm_pte_from_device_pfn(uint64_t pfn, hmm_pte_t flags)
{
	return (pfn << hmm_page_shift()) | HMM_PTE_DEVICE | flags;
}

/** hmm_pte_load() - read an entry that others may be changing */
static inline hmm_pte_t hmm_pte_load(const hmm_pte_t *ptep)
{
	return __atomic_load_n(ptep, __ATOMIC_ACQUIRE);
}

/**
 * hmm_pte_set_dirty() - say that the device has written the page
 * @ptep: entry, from hmm_pt_iter_walk()
 *
 * The only change to a mirror's page table that a driver makes.
 * Context: from update().
 */
static inline void hmm_pte_set_dirty(hmm_pte_t *ptep)
{
	__atomic_fetch_or(ptep, HMM_PTE_DIRTY, __ATOMIC_RELEASE);
}

/** hmm_pte_test_and_clear_dirty() - take the dirty bit; true if it was set */
static inline bool hmm_pte_test_and_clear_dirty(hmm_pte_t *ptep)
{
	return __atomic_fetch_and(ptep, ~HMM_PTE_DIRTY, __ATOMIC_ACQ_REL) & HMM_PTE_DIRTY;
}

#ifdef __cplusplus
}
#endif

#endif
