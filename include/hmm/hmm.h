/* SPDX-License-Identifier: MIT */
/*
 * libhmm: heterogeneous memory management in user space. All of the API.
 */
#ifndef HMM_HMM_H
#define HMM_HMM_H

#include <hmm/device.h>
#include <hmm/devmem.h>
#include <hmm/driver.h>
#include <hmm/event.h>
#include <hmm/gate.h>
#include <hmm/migrate.h>
#include <hmm/mirror.h>
#include <hmm/pt.h>
#include <hmm/range.h>
#include <hmm/trace.h>
#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct hmm_features - what this kernel gives this process
 * @size: in: sizeof(struct hmm_features), as the caller was compiled
 * @uffd_features: the UFFD_FEATURE_* bits offered; 0 without userfaultfd
 * @can_mirror: device page tables can be kept in step
 * @can_migrate: pages can move to a device and back
 * @user_mode_only: system calls on migrated memory fail with EFAULT
 * @fork_event: fork is seen however it is called, not only through libc's fork()
 * @pagemap_scan: PAGEMAP_SCAN is there
 * @procmap_query: PROCMAP_QUERY is there
 * @error: 0, or the negative errno hmm_mirror_register() would return
 * @reason: what is missing and what to do about it; empty if nothing is
 */
struct hmm_features {
	uint32_t size;
	uint64_t uffd_features;
	bool can_mirror;
	bool can_migrate;
	bool user_mode_only;
	bool fork_event;
	bool pagemap_scan;
	bool procmap_query;
	int error;
	char reason[512];
};

/**
 * hmm_probe() - what can be done here
 * @features: filled in, @size set by the caller
 *
 * Return: 0; -EINVAL @size is 0 or larger than this library knows; what is
 * missing is told in @features, not by the return value.
 * Context: any thread.
 */
HMM_API int hmm_probe(struct hmm_features *features);

/**
 * hmm_set_user_mode() - accept that system calls on migrated memory fail
 * @accept: true to allow migration all the same
 *
 * An ordinary user gets only UFFD_USER_MODE_ONLY from the kernel, unless
 * vm.unprivileged_userfaultfd is 1 or /dev/userfaultfd is readable: a read(2)
 * into a migrated page then fails with EFAULT instead of waiting for it.
 * Migration is refused with -EPERM there until the program accepts.
 */
HMM_API void hmm_set_user_mode(bool accept);

#define HMM_POOL_DEFAULT ((size_t)-1)

/**
 * hmm_set_pool() - how much system memory is kept ready for pages that come back
 * @bytes: limit; 0 for none, 1 GiB at most; %HMM_POOL_DEFAULT: as if it were never called
 *
 * A page that went to a device leaves its system page behind. Kept mapped and
 * used again it makes the way back about three times as fast as a fresh one.
 * What is above the limit goes back to the system in pieces of 1 to 2 MiB.
 *
 * Unless this is called 32 MiB are kept, and up to 224 MiB more are offered to the system
 * (MADV_FREE): it takes that before anything else when memory is short, also within a
 * control group. Until then it is used again. It counts as resident, and is what
 * /proc/self/smaps calls LazyFree.
 */
HMM_API void hmm_set_pool(size_t bytes);

enum hmm_log_level { HMM_LOG_NONE, HMM_LOG_ERROR, HMM_LOG_WARN, HMM_LOG_DEBUG };

/**
 * hmm_set_log() - where messages go
 * @level: the most talkative level passed on; %HMM_LOG_ERROR by default
 * @fn: gets one line without a newline; NULL for standard error. Called on any
 *	thread; must not touch memory that may be migrated, nor call libhmm
 */
HMM_API void hmm_set_log(enum hmm_log_level level, void (*fn)(enum hmm_log_level, const char *));

#define HMM_STATS_TIMES 40

/**
 * struct hmm_stats - counters of the process since its first mirror
 * @size: in: sizeof(struct hmm_stats)
 * @cpu_faults: CPU faults answered
 * @cpu_faults_deferred: of these, how many had to wait for something
 * @device_faults: device faults answered
 * @retries: device faults that had to back off and start again
 * @pages_to_device: pages moved to a device
 * @pages_from_device: pages moved back
 * @pages_by_fault: of these, how many by a CPU fault
 * @pages_staged: pages left in staging when a migration was interrupted
 * @pages_refused: pages a migration left in system memory (pinned, shared, …)
 * @pages_poisoned: pages a device lost
 * @events: changes of the address space dealt with (unmap, remove, remap, fork), with an event
 *	of the kernel's or without
 * @invalidations: update() calls that took permission away
 * @cpu_fault_ns: CPU faults by the time from when libhmm turned to them to when they were answered:
 *	[i] is how many took 2^i ns to 2^(i+1) ns, the last: or more
 */
struct hmm_stats {
	uint32_t size;
	uint64_t cpu_faults;
	uint64_t cpu_faults_deferred;
	uint64_t device_faults;
	uint64_t retries;
	uint64_t pages_to_device;
	uint64_t pages_from_device;
	uint64_t pages_by_fault;
	uint64_t pages_staged;
	uint64_t pages_refused;
	uint64_t pages_poisoned;
	uint64_t events;
	uint64_t invalidations;
	uint64_t cpu_fault_ns[HMM_STATS_TIMES];
};

/**
 * hmm_get_stats() - read the counters
 * Return: 0; -EINVAL @stats->size is 0 or unknown.
 * Context: any.
 */
HMM_API int hmm_get_stats(struct hmm_stats *stats);

#ifdef __cplusplus
}
#endif

#endif
