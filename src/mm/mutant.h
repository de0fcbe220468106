/* SPDX-License-Identifier: MIT */
/*
 * libhmm broken on purpose, one fault at a time, to see whether the tests notice: see
 * docs/testing.md. This is all there is of it, but for a use of MUTANT() at the place of
 * each fault. In a build without the option hmm_mutants that is the constant false, and
 * the compiler leaves nothing of it.
 *
 * With the option the environment variable HMM_MUTANT names the one that is to live.
 */
#ifndef MM_MUTANT_H
#define MM_MUTANT_H

#include <stdbool.h>

/*
 * Name, what is wrong, which tests should find out: the runner asks those first. By
 * folder and name, "_user" for the run as an ordinary user.
 */
/* clang-format off */
#define MUTANTS(M) \
	/* A page on its way to a device. */ \
	M(KEPT_ON_CPU, "what goes to a device stays on the CPU as well", \
	  "migrate/test_migrate_basic") \
	M(ISOLATE_UNTOLD, "pages leave, and the devices keep their translations", \
	  "mirror/test_mirror_told") \
	M(STAGED_FORGOTTEN, "what cannot be put back is not recorded as staged", \
	  "migrate/test_steps_out") \
	M(STAGED_SLOT_REUSED, "a slot is used again while something is staged in it", \
	  "migrate/test_steps_out unit/test_page") \
	M(LENT_REUSED, "a page that was lent to the kernel is used again", \
	  "migrate/test_source_pinned") \
	M(EVICT_IGNORED, "a full device is not asked what could come home", \
	  "migrate/test_migrate_full") \
	M(PEER_PAGE_WRONG, "of another device's pages the first is copied for each", \
	  "migrate/test_migrate_peer") \
	M(STACKS_MOVED, "stacks migrate without having been asked for", \
	  "migrate/test_source_kept") \
	M(ROBUST_MOVED, "robust mutexes that are held migrate", \
	  "migrate/test_source_more") \
	M(USER_NOT_ASKED, "an ordinary user's memory migrates though nobody accepted that", \
	  "unit/test_features") \
	/* The way back. */ \
	M(BACK_AS_ZEROS, "what comes back is zeros", \
	  "migrate/test_migrate_basic") \
	M(COPIED_WHILE_WRITTEN, "the device can still write while it is copied from", \
	  "mirror/test_mirror_told") \
	M(DROPPED_BEFORE_MAPPED, "an entry goes though its page was not mapped", \
	  "migrate/test_windows_half") \
	M(LOST_READS_ZERO, "a page that the device has lost reads zeros", \
	  "faults/test_fail faults/test_lost") \
	M(FREED_TWICE, "a device page is freed twice", \
	  "migrate/test_migrate_basic") \
	M(AROUND_BELIEVED, "around() may name any range", \
	  "migrate/test_migrate_window") \
	M(NOT_RESCUED, "what a dead mirror's device has does not come back by itself", \
	  "faults/test_fail") \
	/* Exclusive access. */ \
	M(EXCLUSIVE_STILL, "a device keeps its exclusive access when the CPU has the page", \
	  "exclusive/test_exclusive") \
	M(PLACE_GIVEN_TWICE, "a place in a slot is given to a second page", \
	  "exclusive/test_exclusive") \
	/* Events. */ \
	M(UNMAP_IGNORED, "munmap is not heard of", \
	  "migrate/test_migrate_unmap") \
	M(REMOVE_IGNORED, "MADV_DONTNEED is not heard of", \
	  "migrate/test_migrate_unmap") \
	M(REMAP_IGNORED, "mremap is not heard of", \
	  "migrate/test_migrate_mremap") \
	M(FORK_IGNORED, "a fork behind libc's back is not heard of", \
	  "fork/test_fork_raw") \
	M(EVENT_DOES_NOT_WAIT, "an event is run beside what is active in its range", \
	  "migrate/test_steps_out") \
	M(NOT_INTERRUPTED, "an event does not interrupt what is active in its range", \
	  "mirror/test_mirror_told") \
	M(DROP_NOT_SETTLED, "after MADV_DONTNEED nobody waits for the zap", \
	  "migrate/test_windows_gone") \
	M(DROP_SETTLED_EARLY, "the zap is taken for done while madvise() runs", \
	  "migrate/test_windows_gone") \
	M(NEIGHBOUR_DROPPED, "munmap takes the next page's entry along", \
	  "migrate/test_migrate_unmap") \
	M(PAGE_LEAKED, "the device page of what is unmapped stays in use", \
	  "migrate/test_migrate_unmap") \
	M(ORDER_AS_READ, "events are run in the order in which they are read", \
	  "migrate/test_migrate_order") \
	M(CALL_END_UNTOLD, "the end of an mremap() is not told to who waits for it", \
	  "mirror/test_mirror_changes_move") \
	M(SNAPSHOT_NOT_BROKEN, "an event that is recorded breaks no snapshot", \
	  "mirror/test_mirror_range_order") \
	M(NOT_HELD, "devices are not held while events are read", \
	  "mirror/test_mirror_sync") \
	M(SYNC_DOES_NOT_WAIT, "hmm_mirror_sync() returns at once", \
	  "mirror/test_mirror_sync") \
	M(WATCH_KEPT, "a mapping is taken for registered as the one before it was", \
	  "unit/test_watch mirror/test_mirror_events") \
	M(WATCH_TOO_SURE, "what mremap brought is taken for registered as it was", \
	  "migrate/test_migrate_mremap unit/test_watch") \
	M(DIRECT_AWAY, "what is away somewhere is unmapped without an event", \
	  "mirror/test_mirror_direct") \
	M(DIRECT_WAITS, "who unmaps calls a device that is not prompt", \
	  "mirror/test_mirror_direct") \
	M(ARRIVAL_BELIEVED, "what was moved to where another unmaps is taken for registered", \
	  "mirror/test_mirror_direct") \
	M(DIRECT_UNTOLD, "who unmaps without an event does not tell the devices", \
	  "mirror/test_mirror_direct") \
	M(DIRECT_NOT_RETURNED, "what was discarded without an event is registered no more", \
	  "mirror/test_mirror_direct") \
	M(NEVER_MARKED, "where something is mirrored is not known without a lock", \
	  "mirror/test_mirror_events") \
	M(MPROTECT_UNTOLD, "mprotect is not told to the devices", \
	  "mirror/test_mirror_events") \
	M(GUARD_UNTOLD, "MADV_GUARD_INSTALL is not told to the devices", \
	  "mirror/test_mirror_changes_unseen") \
	/* Faults, and who waits for whom. */ \
	M(READ_ONLY_WRITTEN, "a device may write what is mapped read-only", \
	  "mirror/test_mirror_access") \
	M(ENTERED_UNCHECKED, "a translation is entered though an event may be unread", \
	  "migrate/test_windows_gone") \
	M(RETRIES_UNBOUNDED, "a device fault in a range that always changes never ends", \
	  "migrate/test_windows_gone") \
	M(ONCE_KEPT, "what may be used once stays in the mirror", \
	  "mirror/test_mirror_files") \
	M(FAULT_DROPPED, "a CPU fault that cannot be answered at once is dropped", \
	  "migrate/test_steps_fault") \
	M(WAKEUP_LOST, "who waits for an op is not woken when it ends", \
	  "unit/test_active_threads") \
	M(LONE_OVERLOOKED, "an op that comes does not see those in no list", \
	  "unit/test_active unit/test_active_threads") \
	M(LONE_WITH_OTHERS, "an op is in no list though another has to do with its chunk", \
	  "unit/test_active unit/test_active_threads") \
	M(GONE_BELIEVED, "ENOENT counts though an event waits to be read", \
	  "migrate/test_windows_gone") \
	/* Mirrors. */ \
	M(WRITABLE_STILL, "an entry stays writable when its permission goes", \
	  "mirror/test_mirror_dma") \
	M(DMA_STALE, "a DMA mapping outlives its entry", \
	  "mirror/test_mirror_dma") \
	M(DIRTY_NOT_SET, "hmm_mirror_range_dirty() sets nothing", \
	  "mirror/test_mirror_dirty") \
	M(DIRTY_LOST, "a dirty bit goes with its entry", \
	  "mirror/test_mirror_dirty") \
	M(DIRTY_STAYS_BEHIND, "a dirty bit does not follow mremap", \
	  "mirror/test_mirror_dirty") \
	M(FAILURE_IGNORED, "a mirror whose update() failed lives on", \
	  "mirror/test_mirror_failing") \
	M(ALWAYS_DONE, "hmm_range_done() is always true", \
	  "mirror/test_mirror_range_done") \
	M(AWAY_IS_A_HOLE, "a snapshot has holes for what is away", \
	  "mirror/test_mirror_range") \
	/* fork. */ \
	M(FORK_NOT_FROZEN, "migrations go on while the process forks", \
	  "mirror/test_mirror_told") \
	M(FORK_LETS_WRITE, "devices go on writing while the process forks", \
	  "mirror/test_mirror_told") \
	M(CHILD_NOT_FILLED, "a child does not get what is away", \
	  "fork/test_fork_raw") \
	M(GRANDCHILD_AS_PARENT, "a grandchild is filled where its grandparent's pages are", \
	  "migrate/test_windows_gone") \
	M(WIPED_FILLED, "MADV_WIPEONFORK memory is filled in a child", \
	  "migrate/test_source_more") \
	/* Device memory. */ \
	M(FREED_EARLY, "a page is free when one reference is left", \
	  "unit/test_devmem") \
	M(REMOVED_IN_USE, "a region is removed though pages of it are in use", \
	  "unit/test_devmem")
/* clang-format on */

#ifdef HMM_MUTANTS

#include <stdlib.h>
#include <string.h>

#include "mm/arena.h"

#define MUTANT_ENUM(name, fault, tests) MUTANT_##name,
#define MUTANT_NAME(name, fault, tests) [MUTANT_##name] = #name,

enum mutant { MUTANT_NONE, MUTANTS(MUTANT_ENUM) MUTANTS_END };

static HMM_DATA enum mutant mutant_chosen;

/* Before main(), as later the environment may be away. In each file, so that this is all. */
__attribute__((constructor)) static void mutant_choose(void)
{
	static const char *const names[] = { MUTANTS(MUTANT_NAME) };
	const char *name = getenv("HMM_MUTANT");
	enum mutant i;

	for (i = MUTANT_NONE + 1; name && i < MUTANTS_END; i++)
		if (!strcmp(name, names[i]))
			mutant_chosen = i;
}

#define MUTANT(name) (mutant_chosen == MUTANT_##name)

#else

#define MUTANT(name) false

#endif
#endif
