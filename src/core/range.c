/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: hmm_range_snapshot(), hmm_range_fault(), hmm_range_done().
 *
 * A snapshot is a promise for the future as well: what happens to the range from now
 * on reaches update(). Two things keep it.
 *
 *	ms->ranges	the ranges that snapshots were taken of, a set. An invalidation
 *			of any part calls update(), and takes that part out if the
 *			device has no translation of it afterwards.
 *	range->state	one snapshot that is not done. "broken" once anything has
 *			happened to its range.
 *
 *	snapshot: in ms->ranges, not broken ──► read, part by part ──► done(): broken?
 *
 * Both are set before the first page is looked at, and under an op: an invalidation that
 * is being carried out would forget the range again. A change is either seen by the
 * read, or it breaks the range: when its event is recorded, before update(). So if done()
 * says that it is not broken, update() for the next change has yet to come; and since
 * the driver calls done() with the lock that update() takes, it comes after what the
 * driver does with that lock. The call that made a change may return a moment before
 * its event is recorded: who asks a device then calls hmm_mirror_sync(), as always.
 *
 * Each part is read under an op of its own, which keeps migrations and events out: so
 * no state is seen that is none. It is written to the caller's memory afterwards,
 * since that may be away. Large parts make it cheap: one look-up and one op for up to
 * PART_MAX bytes of one mapping.
 *
 * Locks: state_lock and ms->ranges_lock, leaves, never held across an op of a driver:
 * done() runs under the driver's locks.
 */
#include <errno.h>

#include "core/core.h"

#define PART_MAX (32ul << 20)
#define PART_RETRIES 1000

struct hmm_range_state {
	TAILQ_ENTRY(hmm_range_state) link; /* state_lock, as all of it */
	struct hmm_mirror_state *ms; /* NULL: unregistered */
	unsigned long start;
	unsigned long end;
	bool broken;
};

static HMM_DATA TAILQ_HEAD(, hmm_range_state) states = TAILQ_HEAD_INITIALIZER(states);
static HMM_DATA pthread_mutex_t state_lock = PTHREAD_MUTEX_INITIALIZER;
static HMM_DATA unsigned int nstates; /* atomic: is there any? */

bool range_valid(unsigned long start, unsigned long end)
{
	return start < end && !((start | end) & (hmm_page_size() - 1)) && end <= USER_END;
}

/* ---- what update() is called for ---- */

void range_init(struct hmm_mirror_state *ms)
{
	pthread_mutex_init(&ms->ranges_lock, NULL);
	RB_INIT(&ms->ranges);
}

bool range_watched(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct extent *first;
	bool watched;

	if (!__atomic_load_n(&ms->ranged, __ATOMIC_ACQUIRE))
		return false;
	pthread_mutex_lock(&ms->ranges_lock);
	first = extent_first(&ms->ranges, start);
	watched = first && first->start < end;
	pthread_mutex_unlock(&ms->ranges_lock);
	return watched;
}

static int range_watch(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct extent *extent, *spare = NULL;

	pthread_mutex_lock(&ms->ranges_lock);
	if (extent_covers(&ms->ranges, start, end, 0)) {
		pthread_mutex_unlock(&ms->ranges_lock);
		return 0;
	}
	pthread_mutex_unlock(&ms->ranges_lock);
	extent = hmm_alloc(sizeof(*extent));
	spare = hmm_alloc(sizeof(*spare));
	if (!extent || !spare) {
		hmm_free(extent);
		hmm_free(spare);
		return -ENOMEM;
	}
	*extent = (struct extent){ .start = start, .end = end };
	pthread_mutex_lock(&ms->ranges_lock);
	extent_cut(&ms->ranges, start, end, &spare);
	extent_enter(&ms->ranges, extent);
	__atomic_store_n(&ms->ranged, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&ms->ranges_lock);
	hmm_free(spare);
	return 0;
}

/* Without memory to cut, the range stays: update() is called once too often. */
void range_forget(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct extent *spare;

	if (!range_watched(ms, start, end))
		return;
	spare = hmm_alloc(sizeof(*spare));
	if (!spare)
		return;
	pthread_mutex_lock(&ms->ranges_lock);
	extent_cut(&ms->ranges, start, end, &spare);
	__atomic_store_n(&ms->ranged, !RB_EMPTY(&ms->ranges), __ATOMIC_RELEASE);
	pthread_mutex_unlock(&ms->ranges_lock);
	hmm_free(spare);
}

/* ---- snapshots that are not done ---- */

void range_break(struct hmm_mirror_state *ms, unsigned long start, unsigned long end)
{
	struct hmm_range_state *state;

	if (!__atomic_load_n(&nstates, __ATOMIC_SEQ_CST))
		return;
	signals_lock(&state_lock);
	TAILQ_FOREACH(state, &states, link)
		if ((!ms || state->ms == ms) && state->start < end && start < state->end)
			state->broken = true;
	signals_unlock(&state_lock);
}

static int range_begin(struct hmm_mirror_state *ms, struct hmm_range *range)
{
	struct hmm_range_state *state = hmm_alloc(sizeof(*state));

	if (!state)
		return -ENOMEM;
	state->ms = ms;
	state->start = range->start;
	state->end = range->end;
	signals_lock(&state_lock);
	__atomic_fetch_add(&nstates, 1, __ATOMIC_SEQ_CST);
	TAILQ_INSERT_TAIL(&states, state, link);
	signals_unlock(&state_lock);
	range->state = state;
	return 0;
}

HMM_API bool hmm_range_done(struct hmm_range *range)
{
	struct hmm_range_state *state = range->state;
	bool good;

	if (!state)
		return false;
	signals_lock(&state_lock);
	good = MUTANT(ALWAYS_DONE) || (state->ms && !state->broken && !mirror_is_dead(state->ms));
	TAILQ_REMOVE(&states, state, link);
	__atomic_fetch_sub(&nstates, 1, __ATOMIC_SEQ_CST);
	signals_unlock(&state_lock);
	range->state = NULL;
	hmm_free(state);
	return good;
}

void range_exit(struct hmm_mirror_state *ms)
{
	struct hmm_range_state *state;
	struct extent *none = NULL;

	signals_lock(&state_lock);
	TAILQ_FOREACH(state, &states, link)
		if (state->ms == ms)
			state->ms = NULL;
	signals_unlock(&state_lock);
	extent_cut(&ms->ranges, 0, USER_END, &none);
}

void range_forget_all(void)
{
	pthread_mutex_init(&state_lock, NULL);
	TAILQ_INIT(&states);
	nstates = 0;
}

/* ---- reading ---- */

struct snap {
	struct hmm *hmm;
	struct hmm_mirror_state *ms;
	struct batch *batch;
	bool write; /* HMM_RANGE_WRITE */
	unsigned int shift; /* hmm_page_shift() */
	unsigned long reach; /* bytes that the next part is at most */
	hmm_pfn_t *pfns; /* of the part that is read next */
	hmm_pfn_t any; /* flags of all pages so far, or */
	hmm_pfn_t all; /* and */
	/* The part: [start, end) of one mapping, or of none. */
	unsigned long start;
	unsigned long end;
	struct vma vma;
	hmm_pfn_t flags; /* HMM_PFN_ERROR, _SPECIAL: of all of it */
	bool special; /* some of it is away: one chunk, in batch->src and ->flags */
	int regions; /* else so many of batch->regions */
};

static void snap_note(struct snap *snap, hmm_pfn_t pfn)
{
	snap->any |= pfn;
	snap->all &= pfn;
}

/* Many pages with the same flags, at consecutive addresses if those are valid. */
static hmm_pfn_t *snap_fill(struct snap *snap, hmm_pfn_t *pfns, unsigned long addr,
			    unsigned long end, hmm_pfn_t flags)
{
	unsigned long i, n = (end - addr) >> snap->shift, step = 1ul << snap->shift;
	hmm_pfn_t pfn = flags | addr;

	if (!n)
		return pfns;
	if (!(flags & HMM_PFN_VALID)) {
		step = 0;
		pfn = flags;
	}
	if (!snap->special)
		snap_note(snap, flags);
	for (i = 0; i < n; i++)
		pfns[i] = pfn + i * step;
	return pfns + n;
}

static hmm_pfn_t snap_flags(const struct snap *snap, uint8_t flags)
{
	hmm_pfn_t pfn = HMM_PFN_VALID;

	if (!(flags & WALK_PRESENT))
		return 0;
	if (flags & WALK_ZERO)
		pfn |= HMM_PFN_ZERO;
	if (flags & WALK_HUGE)
		pfn |= HMM_PFN_HUGE;
	if (!snap->vma.write || flags & WALK_ZERO)
		return pfn;
	if (snap->vma.shared || flags & WALK_EXCLUSIVE)
		pfn |= HMM_PFN_WRITE;
	return pfn;
}

/* The device pfn is kept as an address is: see hmm_pfn_device(). */
static hmm_pfn_t snap_special(const struct snap *snap, hmm_pte_t pte)
{
	if (special_device(pte) != snap->ms->dev->device)
		return HMM_PFN_ELSEWHERE;
	return hmm_pte_addr(pte) | HMM_PFN_VALID | HMM_PFN_DEVICE |
	       (snap->vma.write ? HMM_PFN_WRITE : 0);
}

/* The mapping at snap->start; the part ends with it. */
static int snap_look(struct snap *snap, unsigned long end)
{
	unsigned long limit = (snap->start & CHUNK_MASK) + PART_MAX;
	int ret = vma_find(&snap->hmm->mm, snap->start, &snap->vma);

	snap->flags = 0;
	snap->regions = 0;
	snap->special = false;
	snap->end = end;
	if (ret && ret != -ENOENT)
		return ret;
	if (ret || snap->vma.start > snap->start) {
		if (!ret && snap->vma.start < end)
			snap->end = snap->vma.start;
		snap->flags = HMM_PFN_ERROR;
		return 0;
	}
	snap->end = snap->vma.end < end ? snap->vma.end : end;
	if (!snap->vma.read) {
		snap->flags = HMM_PFN_ERROR;
		return 0;
	}
	snap->end = snap->end < limit ? snap->end : limit;
	ret = -EINVAL;
	if (!arena_overlaps(snap->start, snap->end))
		ret = watch_vma(snap->hmm, &snap->vma, snap->start & CHUNK_MASK,
				(snap->end + CHUNK_SIZE - 1) & CHUNK_MASK, UFFD_WATCH);
	if (watch_refused(ret))
		snap->flags = HMM_PFN_SPECIAL;
	return watch_refused(ret) ? 0 : ret;
}

/* The part is what one call of the walk gives, or a chunk if some of it is away. */
static int snap_read(struct snap *snap)
{
	struct hmm *hmm = snap->hmm;

	snap->special =
		!pt_range_empty(&hmm->special, snap->start, snap->end) && !MUTANT(AWAY_IS_A_HOLE);
	if (snap->special) {
		snap->end = chunk_end(snap->start, snap->end);
		special_fill(hmm, snap->start, snap->end, snap->batch->src);
	}
	snap->regions = walk_regions(&hmm->mm, snap->start, &snap->end, snap->batch->regions,
				     snap->write && !snap->vma.shared);
	return snap->regions < 0 ? snap->regions : 0;
}

/* With nothing held: the caller's memory may be away. */
static void snap_write(struct snap *snap)
{
	hmm_pfn_t *pfns = snap->pfns;
	unsigned long addr = snap->start, i;
	int r;

	if (snap->flags) {
		snap->pfns = snap_fill(snap, pfns, snap->start, snap->end, snap->flags);
		return;
	}
	for (r = 0; r < snap->regions; r++) {
		const struct walk_region *region = &snap->batch->regions[r];

		pfns = snap_fill(snap, pfns, addr, region->start, 0);
		pfns = snap_fill(snap, pfns, region->start, region->end,
				 snap_flags(snap, region->flags));
		addr = region->end;
	}
	pfns = snap_fill(snap, pfns, addr, snap->end, 0);
	for (i = 0; snap->special && snap->pfns + i < pfns; i++) {
		if (snap->batch->src[i])
			snap->pfns[i] = snap_special(snap, snap->batch->src[i]);
		snap_note(snap, snap->pfns[i]);
	}
	snap->pfns = pfns;
}

/* Where so much is in so many regions that a call of the walk ends early, the next op need not reach on. */
static void snap_reach(struct snap *snap, unsigned long end)
{
	unsigned long got = snap->end - snap->start;

	if (snap->regions == WALK_REGIONS_MAX && snap->end < end)
		snap->reach = got;
	else if (snap->reach < PART_MAX)
		snap->reach *= 2;
}

static int snap_part(struct snap *snap, unsigned long end)
{
	struct uffd_how how = { .wait = true };
	struct op op;
	int ret;

	op_init(&op, OP_FAULT, snap->start,
		end - snap->start < snap->reach ? end : snap->start + snap->reach);
	op.owner = snap; /* shares with every fault: nothing is entered */
	op.pins = snap->ms->dev->flags & HMM_DEVICE_PINS;
	how.cancel = &op.backoff;
	op_begin(snap->hmm, &op);
	ret = snap_look(snap, op.end);
	if (!ret && !snap->flags)
		ret = snap_read(snap);
	snap_reach(snap, op.end);
	if (!ret && (snap->special || op.pins) && uffd_quiet(&snap->hmm->mm, &how))
		ret = -EAGAIN;
	op_end(snap->hmm, &op);
	return ret;
}

/* Everything about the range; in ms->ranges and among the states already. */
static int snap_range(struct snap *snap, const struct hmm_range *range)
{
	unsigned int retries = 0;
	int ret;

	snap->pfns = range->pfns;
	snap->any = 0;
	snap->all = HMM_PFN_FLAGS;
	for (snap->start = range->start; snap->start < range->end; snap->start = snap->end) {
		ret = snap_part(snap, range->end);
		if (ret == -EAGAIN && retries < PART_RETRIES) {
			retry_pause(retries++);
			snap->end = snap->start;
			continue;
		}
		if (ret)
			return ret == -EAGAIN ? -EBUSY : ret;
		snap_write(snap);
	}
	return 0;
}

static int range_take(struct snap *snap, struct hmm_range *range)
{
	struct op op;
	int ret;

	op_init(&op, OP_FAULT, range->start, range->end);
	op.owner = snap;
	op_begin(snap->hmm, &op);
	ret = range_watch(snap->ms, range->start, range->end);
	if (!ret)
		ret = range_begin(snap->ms, range);
	op_end(snap->hmm, &op);
	if (ret)
		return ret;
	ret = snap_range(snap, range);
	if (ret)
		hmm_range_done(range);
	return ret;
}

/* What was populated may be gone when it is read: then again. */
static int range_fault(struct snap *snap, struct hmm_range *range)
{
	hmm_pfn_t want = HMM_PFN_VALID | (snap->write ? HMM_PFN_WRITE : 0);
	unsigned int retries;
	int ret;

	for (retries = 0; retries < PART_RETRIES; retries++) {
		ret = range_take(snap, range);
		if (ret || (snap->all & want) == want)
			return ret;
		hmm_range_done(range);
		if (snap->any & HMM_PFN_ERROR)
			return -EFAULT;
		if (snap->any & HMM_PFN_SPECIAL)
			return -EOPNOTSUPP;
		ret = device_fault_populate(snap->ms, range->start, range->end, snap->write);
		if (ret)
			return ret;
		if (retries)
			retry_pause(retries);
	}
	return -EBUSY;
}

static int range_call(struct hmm_range *range,
		      int (*fn)(struct snap *snap, struct hmm_range *range))
{
	struct snap snap = {
		.write = range && range->flags & HMM_RANGE_WRITE,
		.shift = hmm_page_shift(),
		.reach = PART_MAX,
	};
	int ret = -ENOMEM;

	if (!range || range->size < sizeof(*range) || range->flags & ~HMM_RANGE_WRITE ||
	    !range->mirror || !range->pfns || !range_valid(range->start, range->end))
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	if (range->state)
		return -EBUSY;
	snap.ms = mirror_enter(range->mirror);
	if (!snap.ms)
		return -ENODEV;
	snap.hmm = snap.ms->hmm;
	snap.batch = batch_get(snap.hmm);
	if (snap.batch) {
		ret = fn(&snap, range);
		batch_put(snap.hmm, snap.batch);
	}
	mirror_leave(snap.ms);
	return ret;
}

HMM_API int hmm_range_snapshot(struct hmm_range *range)
{
	return range_call(range, range_take);
}

HMM_API int hmm_range_fault(struct hmm_range *range)
{
	return range_call(range, range_fault);
}
