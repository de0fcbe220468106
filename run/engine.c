/* SPDX-License-Identifier: MIT */
/*
 * The engine: one thread, which sees to it that the program stays below its limit.
 *
 *	watching ──► engaging ──► holding
 *	               │ not possible here
 *	               ▼
 *	             failed: says why, and ends
 *
 * Watching costs a look at /proc/self/statm now and then: as often as the program could
 * cover what is left to the limit at GROWTH bytes a second. Nothing is registered and there
 * is no device; a program that fits never gets further.
 *
 * Holding, the memory that the program has is gated (hmm/gate.h): growth by a page fault
 * that nobody answers is no growth. What is not gated is what was mapped since the engine
 * looked, which it does when the size of the address space has changed; so that is what can
 * come in a millisecond. Below the limit there is room for it (policy.c).
 *
 * The gate is a number of pages that may still come. The engine sets it when it has
 * looked; each fault that comes takes some off. Who finds too little waits, and the engine,
 * if it sleeps, is woken. When for GATE_PATIENCE nothing at all could be evicted they go on: a
 * limit that cannot be held does not stop the program.
 */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

#define GROWTH 4ull /* bytes a nanosecond */
#define WATCH_MIN 500000ull /* ns */
#define WATCH_MAX 100000000ull
#define HOLD_MIN 1000000ull
#define HOLD_MAX 20000000ull
#define STEP (16ull << 20) /* evict so much before looking again */
#define GATE_PATIENCE 100000000ull

struct engine {
	struct hmm_thread *thread;
	const struct run_device_ops *ops;
	struct run_levels levels;
	struct run_memory memory;
	struct run_memory gated; /* when it was last gated */
	uint32_t bell; /* futex: somebody wants something */
	uint32_t hurry; /* engage now */
	uint32_t engaged; /* futex */
	uint32_t tid; /* its thread's */
	bool created; /* the device */
	long room; /* atomic: pages that may come */
	uint32_t waiting; /* atomic: somebody found too little */
	bool told; /* that it cannot be held */
	uint64_t futile; /* atomic: since when nothing could be evicted, or 0 */
};

static RUN_DATA struct engine engine = { .room = 1 };

/* hmm/gate.h */
static unsigned long admit(void *cookie, unsigned long pages, uint32_t tid, uint64_t waited)
{
	long room = __atomic_load_n(&engine.room, __ATOMIC_RELAXED);
	uint64_t futile;

	(void)cookie;
	if (tid && tid == engine.tid)
		return pages;
	while (room > 0) {
		long take = room < (long)pages ? 1 : (long)pages;

		if (__atomic_compare_exchange_n(&engine.room, &room, room - take, false,
						__ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return (unsigned long)take;
	}
	futile = __atomic_load_n(&engine.futile, __ATOMIC_RELAXED);
	if ((futile && run_now() - futile > GATE_PATIENCE) || waited > 20 * GATE_PATIENCE) {
		stats_count(gate_overruns, 1);
		return pages;
	}
	if (!waited)
		stats_count(gated, 1);
	if (!__atomic_exchange_n(&engine.waiting, 1, __ATOMIC_ACQ_REL))
		run_wake(&engine.bell);
	return 0;
}

/* What is resident of the program; false: nobody tells us any more. */
static bool look(void)
{
	struct run_usage usage = { 0 };

	if (engine.created)
		engine.ops->usage(&usage);
	if (!run_memory(&engine.memory))
		return false;
	engine.memory.resident -= usage.memory < engine.memory.resident ? usage.memory : 0;
	stats_set(resident, engine.memory.resident);
	stats_set(device_memory, usage.memory);
	stats_set(on_device, usage.stored);
	if (engine.memory.resident > run_stats->resident_peak)
		stats_set(resident_peak, engine.memory.resident);
	return true;
}

/* How long it takes at least until @level is reached. */
static uint64_t reach(uint64_t level, uint64_t least, uint64_t most)
{
	uint64_t ns;

	if (engine.memory.resident >= level)
		return 0;
	ns = (level - engine.memory.resident) / GROWTH;
	return ns < least ? least : ns > most ? most : ns;
}

/* ---- watching ---- */

static bool watch(void)
{
	while (look()) {
		uint32_t bell = __atomic_load_n(&engine.bell, __ATOMIC_ACQUIRE);
		uint64_t ns = reach(engine.levels.engage, WATCH_MIN, WATCH_MAX);

		if (!ns || __atomic_load_n(&engine.hurry, __ATOMIC_ACQUIRE))
			return true;
		run_wait(&engine.bell, bell, ns);
	}
	run_say("/proc is not there any more: the limit is not held");
	return false;
}

/* ---- engaging ---- */

static void gate_all(void)
{
	engine.gated = engine.memory;
	run_span_refresh();
	hmm_gate_watch(0, 1ul << 47);
}

static bool engage(void)
{
	struct hmm_gate gate = { .size = sizeof(gate), .admit = admit };
	uint64_t pool = run_config.limit / 64;
	int ret = policy_start();

	engine.ops = run_device(run_config.device);
	if (!engine.ops) {
		run_say("there is no device %s", run_config.device);
		return false;
	}
	if (!run_config.first)
		trace_begin();
	hmm_set_pool(pool < 32u << 20 ? pool : 32u << 20);
	if (!ret)
		ret = engine.ops->create(run_config.options, run_config.limit);
	if (ret) {
		struct hmm_features features = { .size = sizeof(features) };

		hmm_probe(&features);
		run_say("the limit of process %u cannot be held: %s", run_stats->pid,
			features.reason[0] ? features.reason : strerrordesc_np(-ret));
		return false;
	}
	engine.created = true;
	stats_set(engaged_ns, run_now());
	stats_set(state, HMM_RUN_HOLDING);
	return !hmm_gate_set(&gate);
}

/* ---- holding ---- */

static void room_set(void)
{
	long room = 0;

	if (engine.memory.resident < engine.levels.gate)
		room = (long)((engine.levels.gate - engine.memory.resident) >> hmm_page_shift());
	__atomic_store_n(&engine.room, room, __ATOMIC_RELEASE);
	if (room && __atomic_exchange_n(&engine.waiting, 0, __ATOMIC_ACQ_REL))
		hmm_gate_retry();
}

static void evict(void)
{
	uint64_t want = engine.memory.resident - engine.levels.low, gone;

	gone = policy_evict(engine.ops, want < STEP ? want : STEP);
	if (gone)
		__atomic_store_n(&engine.futile, 0, __ATOMIC_RELAXED);
	else if (!engine.futile)
		__atomic_store_n(&engine.futile, run_now(), __ATOMIC_RELAXED);
	if (!gone)
		run_sleep(HOLD_MIN);
	if (!gone && run_now() - engine.futile > 10 * GATE_PATIENCE && !engine.told) {
		run_say("the limit of process %u cannot be held: nothing more of it can go",
			run_stats->pid);
		engine.told = true;
	}
}

static void hold(void)
{
	bool evicting = false;

	while (look()) {
		uint32_t bell = __atomic_load_n(&engine.bell, __ATOMIC_ACQUIRE);
		uint64_t ns = reach(engine.levels.high, HOLD_MIN, HOLD_MAX);

		if (engine.memory.mapped != engine.gated.mapped ||
		    engine.memory.writable != engine.gated.writable)
			gate_all();
		room_set();
		if (!ns || __atomic_load_n(&engine.waiting, __ATOMIC_ACQUIRE))
			evicting = true;
		if (engine.memory.resident <= engine.levels.low)
			evicting = false;
		if (evicting)
			evict();
		else
			run_wait(&engine.bell, bell, ns);
		stats_update();
	}
	hmm_gate_set(NULL);
	run_say("/proc is not there any more: the limit is not held");
}

static void *engine_main(void *arg)
{
	bool engaged;

	engine.tid = (uint32_t)syscall(SYS_gettid);
	syscall(SYS_prctl, PR_SET_NAME, "hmm-run");
	engaged = watch() && engage();

	if (!engaged)
		stats_set(state, HMM_RUN_FAILED);
	run_wake(&engine.engaged);
	if (engaged)
		hold();
	return arg;
}

/* ---- from outside ---- */

int engine_start(void)
{
	int ret = run_space_open();

	if (ret)
		return ret;
	engine = (struct engine){ .room = 0 };
	policy_levels(run_config.limit, &engine.levels);
	return hmm_thread_create(&engine.thread, engine_main, NULL);
}

void engine_forget(void)
{
	engine = (struct engine){ .room = 0 };
	run_space_forget();
}

void engine_engage_now(void)
{
	if (!engine.thread || __atomic_load_n(&engine.engaged, __ATOMIC_ACQUIRE))
		return;
	__atomic_store_n(&engine.hurry, 1, __ATOMIC_RELEASE);
	run_wake(&engine.bell);
	while (!__atomic_load_n(&engine.engaged, __ATOMIC_ACQUIRE))
		run_wait(&engine.engaged, 0, WATCH_MAX);
}
