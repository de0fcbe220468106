/* SPDX-License-Identifier: MIT */
/*
 * The engine: sees to it that the program stays below its limit. Two threads:
 *
 *	lookout    watching ──► near: wants the device ──► gating what comes
 *	                              │
 *	evictor                       └► prepares ──► holding: evicts, where there is too much
 *	                                    │ not possible here
 *	                                    ▼
 *	                                  failed: says why, and both end
 *
 * The lookout looks at /proc/self/statm now and then: as often as the program could cover
 * what is left at GROWTH bytes a second. Nothing is registered and there is no device; of a
 * program that stays well below its limit there is nothing more to tell. At the first level
 * the second thread is made, and makes the device, which takes its time; at the next what
 * the program has is gated (hmm/gate.h): growth by a page fault that nobody answers is no
 * growth.
 *
 * What is mapped later says so (hook.c). As long as it would stay below that level with all
 * that was mapped since the last look nothing is done; else it is gated before the program
 * sees it, and the first time that waits for the device.
 *
 * What does not say so is gated when the lookout next looks. It looks again when
 * the address space has changed, or more has come than was let through; and it does nothing
 * else, least of all anything that takes long: so what can come unseen is what can come in
 * HOLD_MIN, and not in the time that it takes to compress some MiB. Room is kept for it below
 * the limit (policy.c), and more where more has come (engine.reserve): how much that is,
 * nobody can know of a machine that others use too.
 *
 * The gate is a number of pages that may still come. It is set after each look; each fault
 * that comes takes some off. Who finds too little waits, and the evictor, if it sleeps,
 * is woken. When for GATE_PATIENCE nothing at all could be evicted they go on: a limit that
 * cannot be held does not stop the program. The same where the evictor has not got on for
 * STUCK: it needs locks (the dynamic linker's, for one), and who holds them may be waiting
 * at the gate.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

#define GROWTH 4ull /* bytes a nanosecond */
#define HOLD_GROWING 250000ull /* ns */
#define HOLD_MIN 1000000ull
#define HOLD_MAX 20000000ull
#define WATCH_MAX 100000000ull
#define GROWING 50000000ull /* so long it is taken to go on */
#define UNSEEN (256ull << 10) /* bytes that may have come otherwise than by the gate */
#define GATE_COST 4 /* to gate takes a 4th of the lookout's time at most */
#define STEP (16ull << 20) /* evict so much before looking again */
#define GATE_PATIENCE 100000000ull
#define STUCK 500000000ull
#define PREPARE_PATIENCE 900000000ull
#define RESERVE_MIN (128ul << 10) /* see hmm_gate_watch() */

struct engine {
	struct hmm_thread *lookout;
	struct hmm_thread *evictor;
	const struct run_device_ops *ops;
	struct run_levels levels;
	uint32_t bell; /* futex: the evictor is wanted */
	uint32_t look_bell; /* futex: so is the lookout */
	uint32_t hurry; /* engage now */
	uint64_t asked; /* atomic: when somebody first wanted to wait for it */
	uint32_t engaged; /* atomic: HMM_RUN_HOLDING or _FAILED, once it is known */
	uint32_t known; /* futex: that it is */
	uint32_t tids[2]; /* of the two */
	uint32_t over; /* atomic, to the evictor: there is too much */
	uint32_t changed; /* atomic, to the evictor: of what there is */
	long room; /* atomic: pages that may come */
	long unseen; /* atomic: bytes that may be mapped and not gated */
	uint32_t waiting; /* atomic: somebody found too little */
	uint64_t admitted; /* atomic: pages that were let through, ever */
	uint64_t gone; /* atomic: bytes that were evicted, ever */
	uint64_t reserve; /* atomic: bytes, for what has come unseen */
	bool told; /* that it cannot be held */
	uint64_t futile; /* atomic: since when nothing could be evicted, or 0 */
	uint64_t step; /* atomic: since when the evictor is at what it does, or 0 */
	uint32_t stuck; /* atomic: it waits for something that nobody gives it */
};

static RUN_DATA struct engine engine = { .unseen = LONG_MAX };

#define get(member) __atomic_load_n(&engine.member, __ATOMIC_ACQUIRE)
#define set(member, value) __atomic_store_n(&engine.member, (value), __ATOMIC_RELEASE)

/* ---- the gate ---- */

static bool since(uint64_t begun, uint64_t patience)
{
	return begun && run_now() - begun > patience;
}

/* hmm/gate.h */
static unsigned long admit(void *cookie, unsigned long pages, uint32_t tid, uint64_t waited)
{
	long room = get(room);

	(void)cookie;
	if (tid && (tid == engine.tids[0] || tid == engine.tids[1]))
		return pages;
	while (room > 0) {
		long take = room < (long)pages ? 1 : (long)pages;

		if (!__atomic_compare_exchange_n(&engine.room, &room, room - take, false,
						 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			continue;
		__atomic_fetch_add(&engine.admitted, take, __ATOMIC_RELAXED);
		return (unsigned long)take;
	}
	if (since(get(futile), GATE_PATIENCE) || get(stuck) || since(get(step), 4 * STUCK) ||
	    waited > 4 * STUCK) {
		stats_count(gate_overruns, 1);
		return pages;
	}
	if (!waited)
		stats_count(gated, 1);
	if (!__atomic_exchange_n(&engine.waiting, 1, __ATOMIC_ACQ_REL))
		run_wake(&engine.bell);
	return 0;
}

/* A level, less what comes unseen. */
static uint64_t level(uint64_t bytes)
{
	return bytes - get(reserve);
}

static void room_set(const struct run_memory *memory)
{
	uint64_t gate = level(engine.levels.gate);
	long room = 0;

	if (memory->resident < gate)
		room = (long)((gate - memory->resident) >> hmm_page_shift());
	set(room, room);
	if (room && __atomic_exchange_n(&engine.waiting, 0, __ATOMIC_ACQ_REL))
		hmm_gate_retry();
}

/* What is resident of the program; false: nobody tells us any more. */
static bool look(struct run_memory *memory)
{
	struct run_usage usage = { 0 };

	if (get(engaged) == HMM_RUN_HOLDING)
		engine.ops->usage(&usage);
	if (!run_memory(memory))
		return false;
	memory->resident -= usage.memory < memory->resident ? usage.memory : 0;
	stats_set(resident, memory->resident);
	stats_set(device_memory, usage.memory);
	stats_set(on_device, usage.stored);
	if (memory->resident > run_stats->resident_peak)
		stats_set(resident_peak, memory->resident);
	return true;
}

/* ---- the evictor ---- */

static int prepare(void)
{
	struct hmm_gate gate = { .size = sizeof(gate), .admit = admit };
	uint64_t pool = run_config.limit / 64;
	int ret = policy_start();

	hmm_set_pool(pool < 32u << 20 ? pool : 32u << 20);
	if (!ret)
		ret = engine.ops->create(run_config.options, run_config.limit);
	return ret ? ret : hmm_gate_set(&gate);
}

static bool engage(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	int ret;

	engine.ops = run_device(run_config.device);
	if (!engine.ops) {
		run_say("there is no device %s", run_config.device);
		return false;
	}
	if (!run_config.first)
		trace_begin();
	ret = prepare();
	if (!ret) {
		stats_set(engaged_ns, run_now());
		return true;
	}
	hmm_probe(&features);
	run_say("the limit of process %u cannot be held: %s", run_stats->pid,
		features.reason[0] ? features.reason : strerrordesc_np(-ret));
	return false;
}

static void evict(const struct run_memory *memory)
{
	uint64_t low = level(engine.levels.low), gone;
	uint64_t want = memory->resident > low ? memory->resident - low : 0;

	set(step, run_now());
	if (__atomic_exchange_n(&engine.changed, 0, __ATOMIC_ACQ_REL))
		run_span_refresh();
	gone = policy_evict(engine.ops, want < STEP ? want : STEP);
	set(step, 0);
	set(stuck, 0);
	__atomic_fetch_add(&engine.gone, gone, __ATOMIC_RELAXED);
	if (gone)
		set(futile, 0);
	else if (!engine.futile)
		set(futile, run_now());
	if (!gone)
		run_sleep(HOLD_MIN);
	if (!gone && since(engine.futile, 10 * GATE_PATIENCE) && !engine.told) {
		run_say("the limit of process %u cannot be held: nothing more of it can go",
			run_stats->pid);
		engine.told = true;
	}
}

static void hold(void)
{
	struct run_memory memory;
	bool evicting = false;

	while (look(&memory)) {
		uint32_t bell = get(bell);

		room_set(&memory);
		if (memory.resident >= level(engine.levels.high) || get(waiting))
			evicting = true;
		if (memory.resident <= level(engine.levels.low))
			evicting = false;
		if (evicting)
			evict(&memory);
		else
			run_wait(&engine.bell, bell, HOLD_MAX);
		stats_update();
	}
	hmm_gate_set(NULL);
}

static void *evictor_main(void *arg)
{
	bool engaged;

	engine.tids[1] = (uint32_t)syscall(SYS_gettid);
	syscall(SYS_prctl, PR_SET_NAME, "hmm-run");
	engaged = engage();
	stats_set(state, engaged ? HMM_RUN_HOLDING : HMM_RUN_FAILED);
	set(engaged, engaged ? HMM_RUN_HOLDING : HMM_RUN_FAILED);
	run_wake(&engine.known);
	if (engaged)
		hold();
	return arg;
}

/* ---- the lookout ---- */

/* What it remembers from one look to the next. */
struct lookout {
	struct run_memory last;
	uint64_t admitted;
	uint64_t gone;
	uint64_t grown; /* when it last had */
	uint64_t gated; /* when that was done, */
	uint64_t cost; /* and how long it took */
	bool stale; /* not all is gated */
	uint64_t step; /* the evictor's */
	uint64_t asleep; /* since when it has been seen asleep in it, or 0 */
};

/* Has there something come that was not let through? */
static bool unseen(const struct lookout *lookout, const struct run_memory *memory)
{
	uint64_t come = memory->resident + get(gone) - lookout->gone;
	uint64_t known =
		lookout->last.resident + ((get(admitted) - lookout->admitted) << hmm_page_shift());

	return come > known + UNSEEN;
}

static void lookout_compare(struct lookout *lookout, const struct run_memory *memory)
{
	bool changed = memory->mapped != lookout->last.mapped ||
		       memory->writable != lookout->last.writable;

	if (changed || unseen(lookout, memory)) {
		lookout->stale = true;
		lookout->grown = run_now();
	}
	lookout->last = *memory;
	lookout->admitted = get(admitted);
	lookout->gone = get(gone);
}

/* It may take long where there are many mappings: not too much of the time. */
static void gate_all(struct lookout *lookout)
{
	uint64_t now = run_now();

	if (!lookout->stale || now - lookout->gated < GATE_COST * lookout->cost)
		return;
	set(changed, 1);
	hmm_gate_watch(0, 1ul << 47);
	lookout->stale = false;
	lookout->gated = run_now();
	lookout->cost = lookout->gated - now;
}

/* What has come unseen may come again; for a second or so. */
static void reserve_set(const struct run_memory *memory)
{
	uint64_t reserve = engine.reserve, most = run_config.limit / 8, over = 0;

	if (memory->resident > engine.levels.gate)
		over = memory->resident - engine.levels.gate;
	if (over > reserve)
		reserve = over < most ? over : most;
	else
		reserve -= reserve / 1024;
	set(reserve, reserve);
}

/*
 * Has the evictor been waiting for STUCK, in one step? One that only gets no CPU is not
 * stuck, and may take longer.
 */
static void stuck_set(struct lookout *lookout)
{
	uint64_t step = get(step);

	if (!step || step != lookout->step || !run_sleeps(engine.tids[1]))
		lookout->asleep = 0;
	else if (!lookout->asleep)
		lookout->asleep = run_now();
	else if (since(lookout->asleep, STUCK) && get(step) == step)
		set(stuck, 1);
	lookout->step = step;
}

/* So much may be mapped until the next look and not be gated: see engine_mapped(). */
static void unseen_set(const struct run_memory *memory)
{
	set(unseen, (long)(engine.levels.engage - memory->resident));
}

/* How long it takes at least until @bytes is reached. */
static uint64_t reach(const struct run_memory *memory, uint64_t bytes, uint64_t least,
		      uint64_t most)
{
	uint64_t ns;

	if (memory->resident >= bytes)
		return least;
	ns = (bytes - memory->resident) / GROWTH;
	return ns < least ? least : ns > most ? most : ns;
}

static uint64_t lookout_hold(struct lookout *lookout, const struct run_memory *memory)
{
	bool growing = run_now() - lookout->grown < GROWING;

	if (memory->resident >= engine.levels.engage)
		gate_all(lookout);
	reserve_set(memory);
	room_set(memory);
	if (since(get(step), STUCK))
		stuck_set(lookout);
	if (memory->resident >= level(engine.levels.high))
		run_wake(&engine.bell);
	return reach(memory, engine.levels.engage, growing ? HOLD_GROWING : HOLD_MIN, HOLD_MAX);
}

static bool evictor_wanted(const struct run_memory *memory)
{
	return !engine.evictor && (memory->resident >= engine.levels.prepare || get(hurry));
}

static void lookout_run(struct lookout *lookout)
{
	struct run_memory memory;

	lookout->stale = true;
	while (get(engaged) != HMM_RUN_FAILED) {
		uint32_t bell = get(look_bell);
		uint64_t ns;

		if (!look(&memory)) {
			run_say("/proc is not there any more: the limit is not held");
			return;
		}
		lookout_compare(lookout, &memory);
		unseen_set(&memory);
		if (evictor_wanted(&memory) &&
		    hmm_thread_create(&engine.evictor, evictor_main, NULL)) {
			run_say("the limit is not held: no thread can be made");
			return;
		}
		if (get(engaged) == HMM_RUN_HOLDING)
			ns = lookout_hold(lookout, &memory);
		else
			ns = reach(&memory, engine.levels.prepare, HOLD_MIN / 2, WATCH_MAX);
		run_wait(&engine.look_bell, bell, ns);
	}
}

static void *lookout_main(void *arg)
{
	static RUN_DATA struct lookout lookout = { .stale = true };

	engine.tids[0] = (uint32_t)syscall(SYS_gettid);
	syscall(SYS_prctl, PR_SET_NAME, "hmm-lookout");
	lookout = (struct lookout){ .stale = true };
	lookout_run(&lookout);
	if (!engine.evictor) {
		stats_set(state, HMM_RUN_FAILED);
		set(engaged, HMM_RUN_FAILED);
		run_wake(&engine.known);
	}
	return arg;
}

/* ---- from outside ---- */

int engine_start(void)
{
	struct run_memory memory;
	int ret = run_space_open();

	if (ret)
		return ret;
	engine = (struct engine){ .unseen = LONG_MAX };
	policy_levels(run_config.limit, &engine.levels);
	if (run_memory(&memory))
		unseen_set(&memory);
	return hmm_thread_create(&engine.lookout, lookout_main, NULL);
}

void engine_forget(void)
{
	engine = (struct engine){ .unseen = LONG_MAX };
	run_space_forget();
}

void engine_engage_now(void)
{
	if (!engine.lookout || get(engaged))
		return;
	set(hurry, 1);
	run_wake(&engine.look_bell);
	while (!get(engaged))
		run_wait(&engine.known, 0, WATCH_MAX);
}

/*
 * Who is the first to want that much memory waits until there is a device. Not for ever: it
 * may hold a lock that is needed for it.
 */
static bool ready(void)
{
	uint64_t now = run_now(), asked = 0;

	if (!get(engaged) && __atomic_compare_exchange_n(&engine.asked, &asked, now, false,
							 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		asked = now;
		set(hurry, 1);
		run_wake(&engine.look_bell);
	}
	while (!get(engaged) && run_now() - asked < PREPARE_PATIENCE)
		run_wait(&engine.known, 0, PREPARE_PATIENCE);
	return get(engaged) == HMM_RUN_HOLDING;
}

void engine_mapped(unsigned long start, size_t len, int prot)
{
	uint32_t tid;
	int err = errno;

	if (!engine.lookout)
		return;
	if (prot ? __atomic_sub_fetch(&engine.unseen, (long)len, __ATOMIC_ACQ_REL) >= 0 :
		   len < RESERVE_MIN || !get(engaged))
		return;
	tid = (uint32_t)syscall(SYS_gettid);
	if (tid != engine.tids[0] && tid != engine.tids[1] && ready()) {
		unsigned long mask = hmm_page_size() - 1;

		hmm_gate_watch_new(start & ~mask, (start + len + mask) & ~mask);
	}
	errno = err;
}
