/* SPDX-License-Identifier: MIT */
/*
 * Events: what a device asks of libhmm, and what libhmm asks of a device.
 */
#ifndef HMM_EVENT_H
#define HMM_EVENT_H

#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * enum hmm_etype - type of an event
 *
 * From the driver, to hmm_mirror_fault():
 *
 * @HMM_DEVICE_RFAULT: the device wants to read the range
 * @HMM_DEVICE_WFAULT: the device wants to read and write the range
 * @HMM_COPY_TO_DEVICE: move the range's pages into the device's memory
 * @HMM_COPY_FROM_DEVICE: move them back
 * @HMM_DEVICE_EXCLUSIVE: the device wants the range for itself, to read, write and change
 *	atomically; see hmm_mirror_fault()
 *
 * From libhmm, to the driver's update() (besides the two faults and the last):
 *
 * @HMM_FORK: the process forks: take write permission away, set the dirty bit
 *	of what was written
 * @HMM_ISDIRTY: somebody asks what is dirty; the same
 * @HMM_WRITE_PROTECT: the same
 * @HMM_MIGRATE: the pages are about to move: make the entries invalid, set the
 *	dirty bit of what was written
 * @HMM_MUNMAP: the range is gone: as %HMM_MIGRATE, and the driver may free what
 *	it keeps for the range
 *
 * @HMM_NONE: never sent
 *
 * Source: seeds, v12 documentation; design, section 5.
 */
enum hmm_etype {
	HMM_NONE = 0,
	HMM_DEVICE_RFAULT,
	HMM_DEVICE_WFAULT,
	HMM_COPY_TO_DEVICE,
	HMM_COPY_FROM_DEVICE,
	HMM_FORK,
	HMM_ISDIRTY,
	HMM_MIGRATE,
	HMM_MUNMAP,
	HMM_WRITE_PROTECT,
	HMM_DEVICE_EXCLUSIVE,
};

/**
 * struct hmm_event - a range of addresses and what is to happen to it
 * @start: first address, a multiple of the page size
 * @end: end, exclusive, a multiple of the page size
 * @etype: what
 * @pages: out, on success of hmm_mirror_fault(): pages that the event served:
 *	for a fault the pages now mapped (all of them, but for those that
 *	dma_map() could not map); for a copy those that are where they were asked
 *	to go, which may be fewer than the range has
 * @cookie: the driver's: update() finds here what the driver gave to
 *	hmm_mirror_fault(), for the two faults and exclusive access; else NULL. The event that
 *	update() gets is a copy, since the driver's may lie in any memory
 */
struct hmm_event {
	unsigned long start;
	unsigned long end;
	enum hmm_etype etype;
	unsigned long pages;
	void *cookie;
};

#ifdef __cplusplus
}
#endif

#endif
