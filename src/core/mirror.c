/* SPDX-License-Identifier: MIT */
/*
 * Mirrors: one for each device in this process.
 *
 *	registered ──► closed ──► gone
 *	     └──► dead ───┘
 *
 * A mirror is found in hmm->mirrors, under hmm->lock, or by its device; no lock is held while a
 * driver's op runs. Who found it has an active op that changes things (no OP_FAULT: those enter
 * the mirror) from before he looked until he is through; or he counts himself in ms->users.
 * hmm_mirror_unregister() turns new callers away (closed), waits until those inside have
 * left, brings back what the device holds, takes the device's translations away, and when nobody
 * is counted any more takes the mirror out of the list. Then it begins an op on all addresses, and
 * ends it: who may still look had one that was in its way. It frees the mirror.
 *
 * A mirror whose update() failed is dead: its device may hold translations that
 * nobody can take away, so no op but copy_from_device() is called any more; the
 * worker brings its pages back, and hmm_mirror_fault() answers -ENODEV. So is one whose
 * device is lost; its pages cannot come back, and are poisoned.
 *
 * A device that migrates without a mirror (migrate.c) gets a shadow: a mirror of ours,
 * without ops, which stands for it wherever pages of its are looked for. It goes with
 * the last memory of the device, or when the driver registers a mirror.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "core/core.h"

/* By the CPU, so that two who enter do not meet; who changes mirror->state takes all of them. */
static HMM_DATA struct {
	pthread_mutex_t lock;
} __attribute__((aligned(64)))
enter[CPU_SHARDS] = { [0 ... CPU_SHARDS - 1] = { PTHREAD_MUTEX_INITIALIZER } };

/* Those who wait for callers to leave, and mirrors with ms->rescue; atomic. */
static HMM_DATA unsigned int awaited;

unsigned int cpu_shard(void)
{
	int cpu = sched_getcpu();

	return cpu < 0 ? 0 : (unsigned int)cpu % CPU_SHARDS;
}

/* Once mirror->state is NULL it only falls. */
unsigned int mirror_callers(const struct hmm_mirror_state *ms)
{
	unsigned int i, callers = 0;

	for (i = 0; i < CPU_SHARDS; i++)
		callers += __atomic_load_n(&ms->callers[i].n, __ATOMIC_SEQ_CST);
	return callers;
}

void mirror_await(bool begin)
{
	__atomic_fetch_add(&awaited, begin ? 1 : -1, __ATOMIC_SEQ_CST);
}

bool mirror_is_dead(const struct hmm_mirror_state *ms)
{
	return __atomic_load_n(&ms->dead, __ATOMIC_ACQUIRE) || device_is_lost(ms->dev);
}

/* The one after @ms, which is let go; NULL for the first. Ends with NULL. */
struct hmm_mirror_state *mirror_next(struct hmm *hmm, struct hmm_mirror_state *ms)
{
	struct hmm_mirror_state *next;

	pthread_mutex_lock(&hmm->lock);
	next = ms ? TAILQ_NEXT(ms, link) : TAILQ_FIRST(&hmm->mirrors);
	if (next)
		next->users++;
	if (ms && --ms->users == 0)
		hmm_notify(hmm);
	pthread_mutex_unlock(&hmm->lock);
	return next;
}

/* Good until the caller's op ends. */
struct hmm_mirror_state *mirror_of_device(const struct hmm_device *device)
{
	return __atomic_load_n(&device->state->mirror, __ATOMIC_ACQUIRE);
}

/*
 * A call may overlap with the unregister: what mirror->state points to is not
 * freed while a lock of enter[] is held, nor once it was entered. Signals are blocked until he leaves.
 *
 * Who comes from a system call that the monitor has just read of comes after its record (G3).
 */
struct hmm_mirror_state *mirror_enter(struct hmm_mirror *mirror)
{
	unsigned int i = cpu_shard();
	struct hmm_mirror_state *ms;

	signals_lock(&enter[i].lock);
	ms = mirror->state;
	if (ms && mirror_is_dead(ms))
		ms = NULL;
	if (ms)
		__atomic_fetch_add(&ms->callers[i].n, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&enter[i].lock);
	if (!ms) {
		hmm_signals_unblock();
	} else if (__atomic_load_n(&ms->hmm->unsettled, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&ms->hmm->lock);
		pthread_mutex_unlock(&ms->hmm->lock);
	}
	return ms;
}

static void mirror_publish(struct hmm_mirror *mirror, struct hmm_mirror_state *ms)
{
	unsigned int i;

	for (i = 0; i < CPU_SHARDS; i++)
		pthread_mutex_lock(&enter[i].lock);
	mirror->state = ms;
	for (i = 0; i < CPU_SHARDS; i++)
		pthread_mutex_unlock(&enter[i].lock);
}

static void mirror_left(void)
{
	struct hmm *hmm = process_pin();

	if (!hmm)
		return;
	pthread_mutex_lock(&hmm->lock);
	hmm_notify(hmm);
	pthread_mutex_unlock(&hmm->lock);
	process_unpin(hmm);
}

/* Who waits says so and then counts; here it is the other way round, and @ms may be gone between. */
void mirror_leave(struct hmm_mirror_state *ms)
{
	__atomic_fetch_sub(&ms->callers[cpu_shard()].n, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&awaited, __ATOMIC_SEQ_CST))
		mirror_left();
	hmm_signals_unblock();
}

/* The worker shall bring back what the device holds. */
void mirror_rescue(struct hmm_mirror_state *ms)
{
	pthread_mutex_lock(&ms->hmm->lock);
	if (!ms->rescue) {
		ms->rescue = true;
		ms->hmm->rescues++;
		mirror_await(true);
	}
	hmm_notify(ms->hmm);
	pthread_mutex_unlock(&ms->hmm->lock);
}

void mirror_kill(struct hmm_mirror_state *ms)
{
	if (__atomic_exchange_n(&ms->dead, true, __ATOMIC_ACQ_REL))
		return;
	if (!device_is_lost(ms->dev))
		log_err("device %s: update() failed: its mirror is dead, its memory comes back",
			ms->dev->device->name);
	if (!MUTANT(NOT_RESCUED))
		mirror_rescue(ms);
}

/* Some device was lost. Context: the monitor. */
void mirrors_bury(struct hmm *hmm)
{
	struct hmm_mirror_state *ms;

	for (ms = mirror_next(hmm, NULL); ms; ms = mirror_next(hmm, ms))
		if (device_is_lost(ms->dev))
			mirror_kill(ms);
}

/* None: they are called with the driver's mirror. */
static const struct hmm_device_ops shadow_ops;

static bool mirror_valid(const struct hmm_mirror *mirror)
{
	return mirror->size >= sizeof(*mirror) && !mirror->state && mirror->device &&
	       mirror->device->state && mirror->device->state->ops.update;
}

static int mirror_register(struct hmm_mirror *mirror, bool shadow)
{
	struct hmm_mirror_state *ms;
	struct hmm *hmm;
	int ret;

	if (mirror->device->state->mirror)
		return -EBUSY;
	ms = hmm_alloc(sizeof(*ms));
	if (!ms)
		return -ENOMEM;
	ret = hmm_pt_init(&mirror->pt, USER_END - 1);
	if (ret)
		goto out_free;
	ret = shadow ? 0 : keep_struct(mirror, mirror->size);
	if (ret)
		goto out_pt;
	ret = process_get(&hmm);
	if (ret)
		goto out_keep;

	ms->mirror = mirror;
	ms->dev = mirror->device->state;
	ms->ops = shadow ? &shadow_ops : &ms->dev->ops;
	ms->dev->users++;
	ms->hmm = hmm;
	ms->shadow = shadow;
	range_init(ms);
	pt_guard(&mirror->pt, ms);
	pthread_mutex_lock(&hmm->lock);
	TAILQ_INSERT_TAIL(&hmm->mirrors, ms, link);
	hmm->holders += ms->ops->hold != NULL;
	__atomic_store_n(&ms->dev->mirror, ms, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&hmm->lock);
	mirror_publish(mirror, ms);
	if (device_is_lost(ms->dev)) /* by now: then nobody may have seen the mirror */
		mirror_kill(ms);
	return 0;

out_keep:
	keep_forget(mirror);
out_pt:
	hmm_pt_fini(&mirror->pt);
out_free:
	hmm_free(ms);
	return ret;
}

HMM_API int hmm_mirror_register(struct hmm_mirror *mirror)
{
	int ret;

	if (!mirror)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = -EINVAL;
	if (mirror_valid(mirror)) {
		mirror_shadow_end(mirror->device);
		ret = mirror_register(mirror, false);
	}
	api_unlock();
	return ret;
}

static void mirror_wait(struct hmm *hmm, const struct hmm_mirror_state *ms)
{
	mirror_await(true);
	pthread_mutex_lock(&hmm->lock);
	while (mirror_callers(ms))
		pthread_cond_wait(&hmm->changed, &hmm->lock);
	pthread_mutex_unlock(&hmm->lock);
	mirror_await(false);
}

static void mirror_empty(struct hmm_mirror_state *ms)
{
	struct hmm *hmm = ms->hmm;
	struct op op;

	migrate_home(hmm, ms->dev->device);
	exclusive_end(hmm); /* also that of others: it is theirs until it ends */
	op_init(&op, OP_BACK, 0, USER_END);
	op_begin(hmm, &op);
	mirror_update(ms, 0, USER_END, HMM_MUNMAP);
	op_end(hmm, &op);
}

static int mirror_unregister(struct hmm_mirror *mirror)
{
	struct hmm_mirror_state *ms = mirror->state;
	struct hmm *hmm;
	struct op op;

	if (!ms)
		return -EINVAL;
	hmm = ms->hmm;
	mirror_publish(mirror, NULL);
	mirror_wait(hmm, ms);
	mirror_empty(ms);

	pthread_mutex_lock(&hmm->lock);
	while (ms->users || ms->held)
		pthread_cond_wait(&hmm->changed, &hmm->lock);
	TAILQ_REMOVE(&hmm->mirrors, ms, link);
	if (ms->rescue)
		mirror_await(false);
	hmm->rescues -= ms->rescue;
	hmm->holders -= ms->ops->hold != NULL;
	__atomic_store_n(&ms->dev->mirror, NULL, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&hmm->lock);
	op_init(&op, OP_BACK, 0, USER_END);
	op_begin(hmm, &op);
	op_end(hmm, &op);

	ms->dev->users--;
	range_exit(ms);
	dirty_exit(ms);
	hmm_pt_fini(&mirror->pt);
	keep_forget(mirror);
	hmm_free(ms);
	process_put(hmm);
	return 0;
}

/* api_lock held. */
void mirror_shadow_end(struct hmm_device *device)
{
	struct hmm_mirror_state *ms = device->state->mirror;
	struct hmm_mirror *mirror;

	if (!ms || !ms->shadow)
		return;
	mirror = ms->mirror;
	mirror_unregister(mirror);
	hmm_free(mirror);
}

static int mirror_shadow(struct hmm_device *device)
{
	struct hmm_mirror *mirror = hmm_alloc(sizeof(*mirror));
	int ret;

	if (!mirror)
		return -ENOMEM;
	mirror->size = sizeof(*mirror);
	mirror->device = device;
	ret = mirror_register(mirror, true);
	if (ret)
		hmm_free(mirror);
	return ret;
}

/*
 * The mirror of a device that migrates, its own or a shadow; to be left again. With
 * @make unset it is not made: *@out is NULL then.
 */
int mirror_enter_device(struct hmm_device *device, bool make, struct hmm_mirror_state **out)
{
	int ret = 0;

	*out = NULL;
	api_lock();
	if (!device->state)
		ret = -EINVAL;
	else if (!device->state->mirror && make)
		ret = device->state->regions ? mirror_shadow(device) : -EINVAL;
	if (!ret && device->state->mirror) {
		*out = mirror_enter(device->state->mirror->mirror);
		ret = *out ? 0 : -ENODEV;
	}
	api_unlock();
	return ret;
}

/* Context: api_lock held. */
int migrate_region_home(struct hmm_device *device, const struct hmm_devmem *devmem)
{
	struct hmm_mirror_state *ms = device->state->mirror;
	struct whose whose = { .device = device, .devmem = devmem, .why = WHY_HOME };
	unsigned long pages;
	struct op op;
	int ret;

	if (!ms)
		return 0;
	if (device_is_lost(ms->dev))
		return migrate_home(ms->hmm, device); /* nobody could ask again */
	ret = migrate_back(ms->hmm, &whose, 0, USER_END, &pages);
	/* Who is just letting go of a page has done so when he has left. */
	op_init(&op, OP_BACK, 0, USER_END);
	op_begin(ms->hmm, &op);
	op_end(ms->hmm, &op);
	return ret;
}

HMM_API int hmm_mirror_unregister(struct hmm_mirror *mirror)
{
	int ret;

	if (!mirror)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = mirror_unregister(mirror);
	api_unlock();
	return ret;
}

HMM_API int hmm_mirror_fault(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct whose whose = { .device = NULL };
	struct hmm_mirror_state *ms;
	struct hmm_event mine;
	uint64_t begun;
	int ret;

	if (!mirror || !event)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	mine = *event; /* it may lie in the very range */
	mine.pages = 0;
	if (!range_valid(mine.start, mine.end))
		return -EINVAL;
	ms = mirror_enter(mirror);
	if (!ms)
		return -ENODEV;
	switch (mine.etype) {
	case HMM_DEVICE_RFAULT:
	case HMM_DEVICE_WFAULT:
		ret = device_fault(ms, &mine);
		break;
	case HMM_COPY_TO_DEVICE:
		ret = migrate_out(ms, &mine);
		break;
	case HMM_COPY_FROM_DEVICE:
		whose.device = ms->dev->device;
		ret = migrate_back(ms->hmm, &whose, mine.start, mine.end, &mine.pages);
		break;
	case HMM_DEVICE_EXCLUSIVE:
		begun = trace_exclusive_begin(ms->dev->label, mine.start, mine.end);
		ret = device_exclusive(ms, &mine);
		trace_exclusive_end(begun, ms->dev->label, mine.start, mine.end, mine.pages, ret);
		break;
	default:
		ret = -EINVAL;
	}
	mirror_leave(ms);
	if (!ret)
		event->pages = mine.pages;
	return ret;
}

/* In a child: the mirrors are the parent's, and their structs free to be used. */
void mirrors_forget(struct hmm *hmm)
{
	struct hmm_mirror_state *ms;
	unsigned int i;

	for (i = 0; i < CPU_SHARDS; i++)
		pthread_mutex_init(&enter[i].lock, NULL);
	awaited = 0;
	TAILQ_FOREACH(ms, &hmm->mirrors, link)
		ms->mirror->state = NULL;
}
