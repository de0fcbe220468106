/* SPDX-License-Identifier: MIT */
/*
 * What `hmm run` tells of a program that it keeps below a limit.
 *
 * Each such process has one struct hmm_run_stats in a memfd named "hmm-stats", mapped shared
 * and writable. Another process finds it by the link in /proc/PID/fd that reads
 * "/memfd:hmm-stats (deleted)", opens that and maps it; where the program has closed the
 * descriptor, by the mapping of that name in /proc/PID/maps. There is one writer, the
 * process, which stores each member whole; members are not of one moment.
 */
#ifndef HMM_RUN_STATS_H
#define HMM_RUN_STATS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HMM_RUN_STATS_NAME "hmm-stats"
#define HMM_RUN_STATS_MAGIC 0x7461747372756d68ull /* "hmrustat" */
#define HMM_RUN_STATS_VERSION 1
#define HMM_RUN_STATS_TIMES 40

/**
 * enum hmm_run_state - how far it has come
 * @HMM_RUN_WATCHING: the program is far from its limit; nothing is registered
 * @HMM_RUN_HOLDING: its memory is kept below the limit
 * @HMM_RUN_FAILED: it is not, for a reason that was told on standard error
 */
enum hmm_run_state {
	HMM_RUN_WATCHING = 0,
	HMM_RUN_HOLDING,
	HMM_RUN_FAILED,
};

/**
 * struct hmm_run_stats - the counters; bytes and counts since the program began
 * @magic: %HMM_RUN_STATS_MAGIC
 * @version: %HMM_RUN_STATS_VERSION; members are only ever appended
 * @size: sizeof(struct hmm_run_stats) of who writes
 * @pid: the process
 * @state: enum hmm_run_state
 * @device: the device's name
 * @updates: how often what follows was brought up to date
 * @started_ns: CLOCK_MONOTONIC when the program began
 * @now_ns: and at the last update
 * @limit: bytes
 * @resident: anonymous memory that is resident, without the device's
 * @resident_peak: the most that was seen of it
 * @on_device: bytes of the program that are in the device
 * @device_memory: bytes of system memory that the device uses for them
 * @faults: CPU faults answered
 * @fault_ns: of these by their time: [i] took 2^i to 2^(i+1) ns, the last: or more
 * @migrations: calls that moved memory to the device
 * @pages_out: pages that went to the device
 * @pages_back: pages that came back
 * @refaults: of these, by a fault
 * @pages_refused: pages that were to go and could not (pinned, locked, …)
 * @gated: times that a thread waited for room
 * @gate_overruns: times that it was let go on for want of anything to evict
 * @engaged_ns: CLOCK_MONOTONIC when the limit came near, or 0
 * @page_size: bytes
 * @blocks_offset: of the table of struct hmm_run_block in the same file; 0: there is none
 * @blocks: its entries
 */
struct hmm_run_stats {
	uint64_t magic;
	uint32_t version;
	uint32_t size;
	uint32_t pid;
	uint32_t state;
	char device[16];
	uint64_t updates;
	uint64_t started_ns;
	uint64_t now_ns;
	uint64_t limit;
	uint64_t resident;
	uint64_t resident_peak;
	uint64_t on_device;
	uint64_t device_memory;
	uint64_t faults;
	uint64_t fault_ns[HMM_RUN_STATS_TIMES];
	uint64_t migrations;
	uint64_t pages_out;
	uint64_t pages_back;
	uint64_t refaults;
	uint64_t pages_refused;
	uint64_t gated;
	uint64_t gate_overruns;
	uint64_t engaged_ns;
	uint64_t page_size;
	uint64_t blocks_offset;
	uint64_t blocks;
};

#define HMM_RUN_BLOCK_PAGES 512

/**
 * struct hmm_run_block - what of %HMM_RUN_BLOCK_PAGES pages went to the device
 * @start: address of the first, a multiple of their size; 0: the entry is free
 * @away: bit i: page i went there when the program last looked, and was not seen to have
 *	come back. One that is resident has come back since
 *
 * Where a page is, the kernel tells if it is resident (/proc/PID/pagemap); of one that is
 * not, this table. It is in no order, and a block that found no room is not in it.
 */
struct hmm_run_block {
	uint64_t start;
	uint64_t away[HMM_RUN_BLOCK_PAGES / 64];
};

#ifdef __cplusplus
}
#endif

#endif
