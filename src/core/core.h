/* SPDX-License-Identifier: MIT */
/*
 * The core: what dispatches between one process and all its mirrors.
 *
 * Where a page is
 * ---------------
 * For each address one of these holds (G1):
 *
 *	SYSTEM	no special entry; the CPU page table says what there is
 *	DEVICE	special entry with HMM_PTE_DEVICE: in that device page
 *	STAGED	special entry without: in that page of staging (mm/page.c), on its way, or
 *		because a device has it for itself (exclusive.c)
 *
 * Special entries are kept in hmm->special, an HMM page table of their own, so
 * that migration does not depend on what mirrors hold. An entry changes only
 * while its changer has an active op on the address, of a kind that is alone
 * there: OP_OUT, OP_BACK or OP_INVAL.
 *
 * Ops (active.c)
 * --------------
 * Whatever works on a range enters it as an op in one list, hmm->ops; or, as long as it meets nobody
 * there, in a shard of it (lone.c), of which the following need not know:
 *
 *	OP_FAULT   a device fault; shares a range with those of other mirrors
 *	OP_OUT     a migration to a device
 *	OP_BACK    a migration back, by CPU fault or by request; and what a call of the program's
 *		   does by itself (direct.c, interpose.c)
 *	OP_HOLE    a CPU fault where nothing is away
 *	OP_INVAL   an event of the address space: munmap, mremap, madvise, fork
 *	OP_FREEZE  fork, called through libc: no device may write or take pages
 *	OP_SETTLE  madvise(DONTNEED) was seen, its effect not yet
 *	OP_PLACE   where mremap() goes, until it has: no device may look for pages there
 *
 *	           PREPARING ──► WAITING ──► ACTIVE ──► gone
 *	           (faults)         ▲           │
 *	                            └───────────┘ demoted by a back-off
 *
 * An op waits for those it conflicts with that are active or came before it; an
 * event waits for the active only, and everything that overlaps it waits for the
 * event. Conflicts: see op_conflicts(). A thread has at most one op (or two, and then it waited for
 * neither: direct.c), and waits for no other while its own is active; so the active always end.
 *
 * An event marks what overlaps it (op->backoff): that op's ioctls end with
 * -ECANCELED, and it ends, leaving each page in one of the three states above. A
 * page that was isolated and cannot go to either side becomes STAGED. So the
 * event finds no state but those three, and moves or drops special entries
 * without ever meeting a migration half-way (G7).
 *
 * While an op is active its owner touches no program memory by CPU address: the
 * fault would wait for the op (G6). What the caller passed is read before and
 * written after; pages are populated while no op is active.
 *
 * Threads
 * -------
 * The monitor records events and answers the faults that need not wait, and
 * runs events when no device needs to be waited for. The worker does the rest:
 * events in the order in which they happened (order.c), then parked faults. Neither
 * waits while there is something else it could do: see worker_turn().
 *
 * Locks, in order
 * ---------------
 *	api_lock	one hmm a process; register and unregister
 *	enter[]		from mirror->state to a counted mirror (mirror.c)
 *	watch_lock	what is registered; asks the kernel, which takes the gate
 *	mm->gate	see mm.h
 *	hmm->lock	ops, events, parked faults, mirror list and their users
 *	a shard's (lone.c), pin_lock, staging lock, shelves, page table directories, devmem, arena:
 *	leaves
 *
 * Only api_lock is held across a driver's op, and hmm->lock across release() and
 * around(), which wait for nothing. A mirror is kept by an op of the caller's that is active, or by
 * its count of users: see mirror.c.
 */
#ifndef CORE_CORE_H
#define CORE_CORE_H

#include <errno.h>
#include <sys/queue.h>

#include <hmm/gate.h>

#include "core/devmem.h"
#include "core/extent.h"
#include "core/pt.h"
#include "core/trace.h"
#include "mm/mm.h"

/* Ops on everything and page tables reach up to here. */
#define USER_END HMM_USER_END

enum op_kind { OP_FAULT, OP_OUT, OP_BACK, OP_HOLE, OP_INVAL, OP_FREEZE, OP_SETTLE, OP_PLACE };
enum op_state { OP_PREPARING, OP_WAITING, OP_ACTIVE };

struct op {
	TAILQ_ENTRY(op) link; /* hmm->lock, or that of a shard: see lone.c, as the next */
	bool lone; /* atomic */
	unsigned long closes; /* the first chunk of those that it closes; hmm->lock */
	unsigned long nclosed;
	enum op_kind kind;
	enum op_state state; /* as link */
	bool backoff; /* set with hmm->lock, read by anyone */
	bool pins; /* OP_FAULT: what it finds will be held on to */
	bool moves; /* OP_INVAL: what is away elsewhere will be away here */
	const void *owner; /* OP_FAULT: the mirror */
	unsigned long start;
	unsigned long end;
	uint64_t deadline; /* OP_SETTLE: ns, when to stop waiting for the zap */
	uint64_t drop; /* OP_SETTLE: the call that zaps, see doing.c; 0: not known */
	uint64_t give_up; /* ns: when to stop waiting for ops of OP_SETTLE; 0: never */
};

/* A few ranges of addresses: see order.c. */
#define PLACES_MAX 64
#define STAYS_MAX 8
struct place {
	unsigned long start;
	unsigned long end;
	uint64_t number; /* of the REMAP that it is of */
};
struct places {
	unsigned int n; /* of which some may be empty */
	struct place place[PLACES_MAX];
};

/* An event that was read, until it is done with. */
struct change {
	TAILQ_ENTRY(change) link;
	struct mm_event event;
	struct op op[2]; /* the second for where a remap went */
	unsigned int events; /* how many it stands for */
	bool shielded; /* a fork for which the devices lost write permission before */
	unsigned int nops;
	bool running;
	uint64_t waits; /* ns: since when, for what is in order.c; 0: it has not had to */
	uint64_t number; /* of events read before */
	uint64_t call; /* of which it is, see doing.c; 0: not known, or not asked for */
	/* The rest: see order.c; hmm->lock. */
	uint64_t since; /* how many events its call came after for certain */
	bool before; /* it truly came before one that was read earlier */
	bool late; /* what is in the way of its place is gone */
	bool judged; /* the following is known */
	bool void_; /* it says nothing new */
	bool plain; /* a remap whose source is gone */
	bool expects; /* the UNMAP of its source, though that was not waited for */
	unsigned int nstays;
	struct place stays[STAYS_MAX]; /* of its range: does not concern it */
};

/* A CPU fault that could not be answered at once. */
struct parked {
	TAILQ_ENTRY(parked) link;
	struct mm_event event;
	struct op op;
	hmm_pte_t away; /* the special entry at the address, since its op is active */
	uint64_t read; /* ns: when */
	uint64_t since; /* ns: when the gate was first asked, or 0 */
	bool gated; /* it is in hmm->gated, and its op in no list */
};

/*
 * Pages of a device, or of one region of it only; or those that some device has for itself;
 * else of all but one, and staged ones.
 */
struct whose {
	const struct hmm_device *device;
	const struct hmm_devmem *devmem;
	const struct hmm_device *but;
	bool exclusive;
	enum trace_why why; /* they come back */
};

TAILQ_HEAD(op_list, op);
TAILQ_HEAD(change_list, change);
TAILQ_HEAD(parked_list, parked);

/* What a migration of one chunk needs; too large for a stack. */
struct batch {
	struct batch *next; /* its shelf's lock */
	unsigned char *bounce; /* CHUNK_SIZE of arena memory */
	hmm_pte_t src[CHUNK_PAGES_MAX]; /* special entries */
	hmm_pte_t from[CHUNK_PAGES_MAX]; /* what the engine copies */
	hmm_pte_t dst[CHUNK_PAGES_MAX]; /* where to */
	hmm_pte_t seen[CHUNK_PAGES_MAX]; /* from, as the device sees it */
	uint8_t result[CHUNK_PAGES_MAX]; /* enum hmm_migrate_result */
	uint8_t flags[CHUNK_PAGES_MAX];
	uint8_t failed[CHUNK_PAGES_MAX];
	uint8_t kind[CHUNK_PAGES_MAX]; /* of a device fault: see fault.h */
	struct walk_region regions[WALK_REGIONS_MAX]; /* of a snapshot */
};

struct hmm_device_state {
	TAILQ_ENTRY(hmm_device_state) link; /* api_lock */
	struct hmm_device *device;
	struct hmm_device_ops ops;
	uint32_t flags;
	unsigned int users; /* mirrors and devmem regions; api_lock */
	unsigned int regions; /* api_lock */
	bool lost; /* atomic: hmm_device_lost() */
	struct hmm_mirror_state *mirror; /* of this process; hmm->lock, and atomic */
	char label[TRACE_DEVICE]; /* its name, where a trace may read it */
};

/* So many of what each thread needs for a moment, by the CPU that it runs on. */
#define CPU_SHARDS 8u

struct hmm_mirror_state {
	TAILQ_ENTRY(hmm_mirror_state) link; /* hmm->lock */
	struct hmm_mirror *mirror;
	struct hmm_device_state *dev;
	const struct hmm_device_ops *ops; /* those of dev, or none */
	struct hmm *hmm;
	unsigned int users; /* hmm->lock: whoever looks at it without an op */
	struct {
		unsigned int n; /* atomic; only their sum says how many */
	} __attribute__((aligned(64))) callers[CPU_SHARDS]; /* calls of hmm_mirror_fault() */
	bool dead; /* atomic: an update() failed, or the device was lost */
	bool shadow; /* of a device without a mirror: see mirror.c */
	bool rescue; /* hmm->lock: the worker shall bring its pages back */
	bool held; /* see event_hold() */
	bool tracking; /* atomic: dirty bits are kept; see dirty.c */
	bool dirty_all; /* some could not be: an op on the range */
	struct hmm_pt dirty; /* of entries that are gone */
	pthread_mutex_t ranges_lock; /* a leaf */
	struct extent_tree ranges; /* what snapshots were taken of; ranges_lock */
	bool ranged; /* atomic: is there any? */
};

TAILQ_HEAD(mirror_list, hmm_mirror_state);

/* Free ones: one for each thread at work, as a rule. */
struct batch_shelf {
	pthread_mutex_t lock;
	struct batch *first;
} __attribute__((aligned(64)));

#define WATCHED_MAX 32u

/* See lone.c. */
#define OP_SHARDS 64u
struct op_shard {
	pthread_mutex_t lock;
	struct op_list ops;
	unsigned int n; /* of these; atomic */
	unsigned int closers; /* atomic */
} __attribute__((aligned(64)));

/* Somebody who reads on: see around.c. */
#define AROUND_READERS 16
struct around {
	unsigned long next; /* where he would fault; 0: nobody */
	unsigned int pages; /* that he got last */
	unsigned long last; /* where he faulted last */
	unsigned long stride; /* bytes from one page that he wants to the next, or 0 */
	uint64_t used;
};

struct hmm {
	struct mm mm;
	unsigned int users; /* api_lock: mirrors */
	unsigned int pins; /* pin_lock */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* an op ended, or a user left: hmm_notify() */
	pthread_cond_t work; /* the worker's: there may be something to do */
	struct op_list ops;
	unsigned int closers; /* atomic: of all shards, see lone.c */
	struct change_list changes; /* in the order they were read */
	struct parked_list parked;
	struct parked_list gated; /* see gate.c */
	struct hmm_gate gate; /* admit NULL: there is none */
	struct mirror_list mirrors;
	unsigned int frozen; /* OP_FREEZE and OP_SETTLE in the list */
	unsigned int rescues; /* mirrors with ms->rescue */
	unsigned int holders; /* mirrors whose device can be held */
	unsigned int tracking; /* atomic: mirrors with dirty bits kept; see dirty.c */
	uint64_t recorded; /* events so far */
	uint64_t done;
	bool unsettled; /* atomic: an event may be read or queued */
	bool reading; /* the monitor is about to read: devices stay held */
	unsigned int remaps; /* hmm->lock: in the queue */
	bool order_waits; /* hmm->lock: see order_next(), as the next */
	bool order_told;
	bool attended; /* hmm->lock: the monitor is about to look at the queue */
	struct places arrivals; /* hmm->lock; see order.c, as the next */
	struct places expected;
	bool shielded; /* hmm->lock: fork_prepare() has taken write permission away */
	bool stop;

	struct hmm_pt special;

	pthread_mutex_t watch_lock;
	struct extent_tree watch; /* what is registered; mode: enum uffd_mode */
	unsigned long watched[WATCHED_MAX]; /* atomic: see watch.c */
	bool left; /* watch_lock: registrations were ended by watch_leave() */

	struct batch_shelf shelf[CPU_SHARDS];
	struct batch *monitor_batch;
	struct batch *worker_batch;
	struct parked *next_parked; /* the monitor's: for the next fault */
	struct around around[AROUND_READERS]; /* hmm->lock */
	uint64_t around_clock; /* hmm->lock */
	struct op_shard shard[OP_SHARDS];

	struct monitor *monitor;
	struct hmm_thread *worker;
};

/* ---- process.c ---- */
/* All with api_lock held. */
int process_get(struct hmm **hmm);
void process_put(struct hmm *hmm);
struct hmm *process_current(void);
/* Without api_lock, for a short while: NULL if there is none. */
struct hmm *process_pin(void);
void process_unpin(struct hmm *hmm);
void process_forget(void);
bool process_was_there(void);
bool process_is_there(void); /* may be gone at once */
void api_lock(void);
bool api_trylock(void);
void api_unlock(void);
extern pthread_mutex_t api_mutex;
uint64_t now_ns(void);
void retry_pause(unsigned int retries);

/* ---- active.c ---- */
void op_init(struct op *op, enum op_kind kind, unsigned long start, unsigned long end);
/* False: it was given up (op->give_up), and is not in the list. */
bool op_begin(struct hmm *hmm, struct op *op);
/* The same, if nobody has to be waited for. */
bool op_try(struct hmm *hmm, struct op *op);
void op_prepare(struct hmm *hmm, struct op *op);
bool op_activate(struct hmm *hmm, struct op *op); /* as op_begin() */
uint64_t op_patience(uint64_t ns);
void op_end(struct hmm *hmm, struct op *op);
bool op_backoff(const struct op *op);
/* With hmm->lock held: */
void op_add(struct hmm *hmm, struct op *op);
bool op_enqueue(struct hmm *hmm, struct op *op);
bool op_widen(struct hmm *hmm, struct op *op, unsigned long start, unsigned long end);
bool op_promote(struct hmm *hmm, struct op *op);
void op_demote(struct hmm *hmm, struct op *op);
void op_remove(struct hmm *hmm, struct op *op);
void hmm_notify(struct hmm *hmm);
bool hmm_has_work(const struct hmm *hmm);
bool op_range_busy(struct hmm *hmm, const struct op *op);
bool op_sees_event(struct hmm *hmm, const struct op *op);
bool op_any_fault(struct hmm *hmm, unsigned long start, unsigned long end);
bool op_excludes(const struct op *op, const struct op *other);
struct uffd_how op_how(const struct op *op, bool wait);

/* ---- lone.c ---- */
void lone_init(struct hmm *hmm);
/* As op_begin() and op_end(), without hmm->lock; false: not so. */
bool lone_begin(struct hmm *hmm, struct op *op);
bool lone_end(struct hmm *hmm, struct op *op);
/* With hmm->lock held: */
void lone_close(struct hmm *hmm, struct op *op);
void lone_open(struct hmm *hmm, struct op *op);
void lone_pull(struct hmm *hmm, unsigned long start, unsigned long end);
void lone_resize(struct hmm *hmm, struct op *op, unsigned long start, unsigned long end);

/* ---- event.c: what happens to the address space ---- */
extern const struct monitor_ops event_monitor_ops;
bool event_run_next(struct hmm *hmm, bool monitor);
void event_settle_all(struct hmm *hmm);
void event_discard_all(struct hmm *hmm);
void event_forget(void);
bool event_idle(struct hmm *hmm);
void event_inject(struct hmm *hmm, unsigned long start, unsigned long end);

/* ---- device.c ---- */
bool device_is_lost(const struct hmm_device_state *dev);

/* ---- doing.c ---- */
enum doing_kind { DOING_DROP, DOING_UNMAP, DOING_REMAP, DOING_REMAP_KEEPS, DOING_OTHER };
uint64_t doing_begin(enum doing_kind kind, unsigned long start, unsigned long end);
void doing_end(uint64_t number);
bool doing_runs(uint64_t number);
uint64_t doing_drop(unsigned long start, unsigned long end, bool *any);
uint64_t doing_since(enum doing_kind kind, unsigned long start, unsigned long end, uint64_t *which);
bool doing_remaps(void);
bool doing_moves(unsigned long start, unsigned long end);
void doing_reading(void);
void doing_recorded(uint64_t events);
bool doing_is_read(void);
uint64_t doing_events(void);
int doing_cpu(void);
void doing_forget(void);

/* ---- window.c: read-only memory, writable for a moment ---- */
struct out;
bool window_takes(const struct vma *vma);
int window_open(struct out *out);
void window_close(struct out *out);
bool window_over(unsigned long start, unsigned long end);
void window_wait(unsigned long start, unsigned long end);
void window_forget(void);

/* ---- interpose.c ---- */
void interpose_yield(void);

/* ---- order.c ---- */
struct change *order_next(struct hmm *hmm);
void order_record(struct hmm *hmm, struct change *unmap);
void order_done(struct hmm *hmm, const struct change *change);
void order_settle(struct hmm *hmm);
void order_called(void);
bool order_open(const struct hmm *hmm);
bool order_unsettled(struct hmm *hmm);
void order_forget(struct hmm *hmm, unsigned long start, unsigned long end);
bool order_free(struct hmm *hmm, unsigned long start, unsigned long end);

/* ---- mirror.c ---- */
struct hmm_mirror_state *mirror_next(struct hmm *hmm, struct hmm_mirror_state *ms);
struct hmm_mirror_state *mirror_enter(struct hmm_mirror *mirror);
void mirror_leave(struct hmm_mirror_state *ms);
unsigned int mirror_callers(const struct hmm_mirror_state *ms);
void mirror_await(bool begin);
unsigned int cpu_shard(void);
struct hmm_mirror_state *mirror_of_device(const struct hmm_device *device);
bool mirror_is_dead(const struct hmm_mirror_state *ms);
void mirror_kill(struct hmm_mirror_state *ms);
void mirrors_bury(struct hmm *hmm);
void mirror_shadow_end(struct hmm_device *device);
int mirror_enter_device(struct hmm_device *device, bool make, struct hmm_mirror_state **out);
void mirror_rescue(struct hmm_mirror_state *ms);
bool mirror_rescue_next(struct hmm *hmm);
/* Take permission away in every mirror that has entries in the range. */
void mirrors_update(struct hmm *hmm, unsigned long start, unsigned long end, enum hmm_etype etype);
void mirror_update(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		   enum hmm_etype etype);
bool mirrors_touched(struct hmm *hmm, unsigned long start, unsigned long end);
bool mirrors_prompt(struct hmm *hmm, unsigned long start, unsigned long end);
void mirror_clear(struct hmm_mirror_state *ms, unsigned long start, unsigned long end);
bool mirror_read(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes);
/* Entries for copy_from_device() to read, kept beside what else is there. */
int mirror_sources(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		   const hmm_pte_t *ptes);
void mirrors_forget(struct hmm *hmm);
void devices_forget(void);
int mirror_set(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
	       const hmm_pte_t *ptes);

/* ---- call.c: the driver's ops, checked ---- */
int call_update(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		enum hmm_etype etype, void *cookie);
int call_dma_map(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes);
void call_dma_unmap(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		    const hmm_pte_t *ptes);
int call_copy_to_device(struct hmm_mirror_state *ms, const hmm_pte_t *src, hmm_pte_t *dst,
			unsigned long start, unsigned long end);
int call_copy_from_device(struct hmm_mirror_state *ms, enum hmm_etype etype, const hmm_pte_t *src,
			  hmm_pte_t *dst, unsigned long start, unsigned long end);
int call_alloc_and_copy(struct hmm_mirror_state *ms, struct hmm_migrate *migrate,
			const hmm_pte_t *src, hmm_pte_t *dst, unsigned long start,
			unsigned long end);
void call_finalize_and_map(struct hmm_mirror_state *ms, struct hmm_migrate *migrate,
			   const hmm_pte_t *src, const hmm_pte_t *dst, unsigned long start,
			   unsigned long end);
void call_hold(struct hmm_mirror_state *ms);
void call_release(struct hmm_mirror_state *ms);
struct hmm_mirror_state *call_current(void); /* whose op this thread is in, or NULL */
/* Is this thread in an op of that mirror, called for a range that has this in it? */
bool call_covers(const struct hmm_mirror_state *ms, unsigned long start, unsigned long end);

/* ---- dma.c ---- */
bool dma_used(const struct hmm_mirror_state *ms);
int dma_map(struct hmm_mirror_state *ms, unsigned long start, unsigned long end, hmm_pte_t *ptes);
void dma_unmap(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
	       hmm_pte_t *ptes);
int dma_map_copy(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		 hmm_pte_t *ptes);

/* ---- dirty.c ---- */
bool dirty_tracked(const struct hmm_mirror_state *ms);
void dirty_keep(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		const hmm_pte_t *ptes);
void dirty_drop(struct hmm *hmm, unsigned long start, unsigned long end);
void dirty_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to);
void dirty_exit(struct hmm_mirror_state *ms);

/* ---- range.c ---- */
bool range_valid(unsigned long start, unsigned long end);
bool range_watched(struct hmm_mirror_state *ms, unsigned long start, unsigned long end);
/* The device has no translation there any more. */
void range_forget(struct hmm_mirror_state *ms, unsigned long start, unsigned long end);
/* What was read there is no longer so; @ms NULL: for all mirrors. */
void range_break(struct hmm_mirror_state *ms, unsigned long start, unsigned long end);
void range_init(struct hmm_mirror_state *ms);
void range_exit(struct hmm_mirror_state *ms);
void range_forget_all(void); /* in a child */

/* ---- special.c ---- */
hmm_pte_t special_get(struct hmm *hmm, unsigned long addr);
int special_set(struct hmm *hmm, unsigned long addr, hmm_pte_t pte);
/* The first entry in [*addr, end): its value, with *addr moved there; or 0. */
hmm_pte_t special_next(struct hmm *hmm, unsigned long *addr, unsigned long end);
bool special_fill(struct hmm *hmm, unsigned long start, unsigned long end, hmm_pte_t *ptes);
void special_release(struct hmm *hmm, hmm_pte_t pte);
void special_release_all(struct hmm *hmm, hmm_pte_t *ptes, unsigned int n);
const struct hmm_device *special_device(hmm_pte_t pte);
bool special_whose(hmm_pte_t pte, const struct whose *whose);
void special_drop(struct hmm *hmm, unsigned long start, unsigned long end);
void special_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to);

static inline bool special_staged(hmm_pte_t pte)
{
	return pte && !hmm_pte_test_device(pte);
}

static inline bool special_exclusive(hmm_pte_t pte)
{
	return special_staged(pte) && hmm_pte_test_exclusive(pte);
}

/* ---- watch.c: what is registered ---- */
int watch_range(struct hmm *hmm, unsigned long start, unsigned long end, enum uffd_mode mode);
/* Memory that cannot be watched: of that kind, read-only and shared, or another's. */
static inline bool watch_refused(int err)
{
	return err == -EINVAL || err == -EBUSY || err == -EPERM;
}
int watch_vma(struct hmm *hmm, const struct vma *vma, unsigned long from, unsigned long to,
	      enum uffd_mode mode);
void watch_remove(struct hmm *hmm, unsigned long start, unsigned long end);
#define WATCH_LEFT_MAX 8
struct watch_left {
	unsigned int n;
	struct extent piece[WATCH_LEFT_MAX];
};
bool watch_look(struct hmm *hmm, unsigned long start, unsigned long end, struct watch_left *left);
bool watch_leave(struct hmm *hmm, unsigned long start, unsigned long end, struct watch_left *left);
void watch_return(struct hmm *hmm, const struct watch_left *left);
void watch_remap(struct hmm *hmm, unsigned long from, unsigned long end, unsigned long to);
bool watch_unify(struct hmm *hmm, unsigned long start, unsigned long end);
void watch_exit(struct hmm *hmm);

/* ---- marks.c: where there is anything; any thread, without a lock ---- */
bool marks_init(void); /* there is no mirror, and no caller; false: no memory */
void marks_forget(void); /* in a child */
void mark_set(unsigned long start, unsigned long end);
bool mark_any(unsigned long start, unsigned long end);
void mark_clear(unsigned long start, unsigned long end);

/* ---- direct.c: a call that changes the address space, without an event ---- */
struct direct {
	struct hmm *hmm;
	enum mm_event_type type;
	struct direct_part {
		struct op op;
		struct watch_left left;
	} part[2]; /* the second for where an mremap() goes */
	unsigned int parts;
	unsigned int begun; /* ops */
	uint64_t traced;
};
bool direct_begin(struct direct *direct, enum mm_event_type type, unsigned long start,
		  unsigned long end, unsigned long to);
void direct_end(struct direct *direct, bool done);

/* ---- migrate.c, out.c ---- */

/* Who takes the pages of a migration to a device: see out.c. */
struct out;
struct taker {
	/* Fill batch->dst from @src; what is 0 afterwards stays. */
	void (*take)(struct out *out, hmm_pte_t *src);
	/* Tell what has moved: batch->dst. */
	void (*finish)(struct out *out, const hmm_pte_t *src);
	/* Or, in the place of both: what was isolated stays so, for the device. */
	int (*hold)(struct out *out);
};

/* A migration, and within it a part of one chunk, of one mapping. */
struct out {
	struct hmm *hmm;
	struct hmm_mirror_state *ms;
	const struct taker *taker;
	struct hmm_migrate *migrate; /* the taker's; or NULL */
	void *cookie; /* the taker's */
	bool peer; /* pages of other devices are offered as they are */
	bool stacks; /* stacks move too */
	bool read_only; /* and what is read-only */
	unsigned long from; /* all of the migration */
	unsigned long to;
	struct batch *batch;
	struct op op;
	struct slot *slot;
	unsigned long start;
	unsigned long end;
	unsigned int pages;
	unsigned int staged;
	unsigned long moved; /* are where they were asked to go */
	unsigned long refused; /* batch->failed says which */
	unsigned long declined; /* were offered to the driver, and not taken */
	unsigned int elsewhere; /* of these, pages of other devices */
	bool window; /* it is read-only: see window.c */
	bool isolated; /* some page, or hole, was taken out of the CPU page table */
	bool kind; /* it is of a kind that does not move */
	bool unmapped; /* from where the last part began up to its end */
	bool mended; /* what could be made exclusive has been */
	bool stranded; /* another device cannot give up what it has */
	int left; /* of all parts so far: why something stays that could go another time */
	unsigned int evictions;
};

static inline unsigned long out_addr(const struct out *out, unsigned int i)
{
	return out->start + ((unsigned long)i << hmm_page_shift());
}

static inline unsigned int out_index(const struct out *out, unsigned int i)
{
	return (unsigned int)((out_addr(out, i) & ~CHUNK_MASK) >> hmm_page_shift());
}

static inline unsigned long out_staged_addr(const struct out *out, unsigned int i)
{
	return slot_addr(out->slot) + (out_addr(out, i) & ~CHUNK_MASK);
}

struct keep;
int migrate_keep(struct keep *keep, struct hmm *hmm, unsigned long start, unsigned long end,
		 bool stacks);
bool vma_migrates(const struct vma *vma, bool stacks, bool read_only);
int out_part(struct out *out, unsigned long *start, unsigned long end, uint8_t *result);
int migrate_out(struct hmm_mirror_state *ms, struct hmm_event *event);
int migrate_range(struct out *out, unsigned long start, unsigned long end, uint8_t *result,
		  unsigned long *pages);

/* ---- exclusive.c ---- */
int device_exclusive(struct hmm_mirror_state *ms, struct hmm_event *event);
void exclusive_end(struct hmm *hmm);

/* ---- fault.c, back.c, cpu_fault.c ---- */
int device_fault(struct hmm_mirror_state *ms, struct hmm_event *event);
int device_fault_populate(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
			  bool write);
bool user_mode_accepted(void);
/*
 * What is away in the range comes back. What a device cannot copy stays in it: -EIO;
 * migrate_home() poisons that.
 */
int migrate_back(struct hmm *hmm, const struct whose *whose, unsigned long start, unsigned long end,
		 unsigned long *pages);
int migrate_home(struct hmm *hmm, const struct hmm_device *device);
/* How back_span() goes about it. */
#define BACK_WAIT 1u /* may wait for events to be read and for devices */
#define BACK_LOSE 2u /* what a device cannot copy is lost: poison it */
#define BACK_KNOWN 4u /* batch->src says already what is away */
int back_span(struct hmm *hmm, struct op *op, struct batch *batch, const struct whose *whose,
	      unsigned long start, unsigned long end, unsigned int how, unsigned long *pages);
struct batch *batch_get(struct hmm *hmm);
void batch_put(struct hmm *hmm, struct batch *batch);
struct batch *batch_new(void);
void batch_free(struct batch *batch);

/* ---- around.c ---- */

/*
 * The op of a fault at @addr, where @pte is, gets all that should come with it; it is active,
 * for one page. Context: hmm->lock held.
 */
void around_widen(struct hmm *hmm, struct op *op, unsigned long addr, hmm_pte_t pte);

uint64_t cpu_fault(struct hmm *hmm, const struct mm_event *event, uint64_t now);
bool cpu_fault_run_parked(struct hmm *hmm);

/* ---- gate.c: CPU faults that wait for room; hmm->lock held ---- */
#define GATE_POLL_NS 20000000
bool gate_admit(struct hmm *hmm, struct parked *parked);
void gate_poll(struct hmm *hmm);
void gate_retry(struct hmm *hmm);

/* ---- fork.c ---- */
int fork_init(void);
bool fork_recent(void);
bool fork_under_way(void);
void fork_wipes(void); /* MADV_WIPEONFORK was called for */
void fork_thaw_locked(struct hmm *hmm);
void fork_fill_child(struct hmm *hmm, int fd);

/* ---- stats.c ---- */
extern struct hmm_stats stats;
#define stat_add(name, n) __atomic_fetch_add(&stats.name, (uint64_t)(n), __ATOMIC_RELAXED)
#define stat_inc(name) stat_add(name, 1)

#endif
