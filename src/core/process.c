/* SPDX-License-Identifier: MIT */
/*
 * The process: one struct hmm, from its first mirror to its last.
 *
 * It lives in the arena, and so do the stacks of its two threads: the monitor
 * (mm/monitor.c) and the worker below, which does what the monitor must not wait
 * for.
 */
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"

#define WORKER_POLL_NS 100000

HMM_DATA pthread_mutex_t api_mutex = PTHREAD_MUTEX_INITIALIZER;
static HMM_DATA pthread_mutex_t pin_lock = PTHREAD_MUTEX_INITIALIZER;
static HMM_DATA struct hmm *current; /* api_lock and pin_lock */
static HMM_DATA bool was_there;
/*
 * True, in a page that a child finds empty: one that was made behind libc's back has
 * @current, but it is its parent's, with locks as they were.
 */
static HMM_DATA bool *ours;

void api_lock(void)
{
	signals_lock(&api_mutex);
}

bool api_trylock(void)
{
	hmm_signals_block();
	if (!pthread_mutex_trylock(&api_mutex))
		return true;
	hmm_signals_unblock();
	return false;
}

void api_unlock(void)
{
	signals_unlock(&api_mutex);
}

uint64_t now_ns(void)
{
	return clock_ns();
}

/* Somebody else has to get on first: at once as a rule, so yield; then sleep. */
void retry_pause(unsigned int retries)
{
	struct timespec pause = { .tv_nsec = 100000 };

	if (retries < 64)
		sched_yield();
	else
		nanosleep(&pause, NULL);
}

struct hmm *process_current(void)
{
	return current;
}

/* In a child: what it inherited describes the parent. */
void process_forget(void)
{
	pthread_mutex_init(&pin_lock, NULL);
	current = NULL;
	ours = NULL; /* in the parent's arena, which is ordinary memory here */
	marks_forget(); /* likewise */
}

/* Signals are blocked as long as it is pinned. */
struct hmm *process_pin(void)
{
	struct hmm *hmm;

	if (!__atomic_load_n(&current, __ATOMIC_ACQUIRE) ||
	    !__atomic_load_n(ours, __ATOMIC_RELAXED))
		return NULL;
	signals_lock(&pin_lock);
	hmm = current;
	if (hmm)
		hmm->pins++;
	pthread_mutex_unlock(&pin_lock);
	if (!hmm)
		hmm_signals_unblock();
	return hmm;
}

void process_unpin(struct hmm *hmm)
{
	pthread_mutex_lock(&pin_lock);
	hmm->pins--;
	signals_unlock(&pin_lock);
}

bool process_is_there(void)
{
	return __atomic_load_n(&current, __ATOMIC_ACQUIRE);
}

/* Now or earlier, or in a parent. */
bool process_was_there(void)
{
	return __atomic_load_n(&was_there, __ATOMIC_RELAXED);
}

static void process_publish(struct hmm *hmm)
{
	__atomic_store_n(&was_there, true, __ATOMIC_RELAXED);
	pthread_mutex_lock(&pin_lock);
	__atomic_store_n(&current, hmm, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&pin_lock);
}

/* Nobody finds it any more; who has it is about to let go. */
static void process_retire(struct hmm *hmm)
{
	unsigned int retries = 0;
	bool pinned = true;

	process_publish(NULL);
	while (pinned) {
		pthread_mutex_lock(&pin_lock);
		pinned = hmm->pins;
		pthread_mutex_unlock(&pin_lock);
		if (pinned)
			retry_pause(retries++);
	}
}

/*
 * One thing at a time, events first; each of the three looks for something that
 * can be done without waiting for another op. hmm->lock held.
 */
static bool worker_turn(struct hmm *hmm)
{
	return event_run_next(hmm, false) || mirror_rescue_next(hmm) || cpu_fault_run_parked(hmm);
}

/*
 * For want of anybody who tells: until it is clear that no event is to come, or the gate is to
 * be asked again.
 */
static void worker_pause(struct hmm *hmm, long ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ns;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&hmm->work, &hmm->lock, &until);
}

static void *worker_main(void *arg)
{
	struct hmm *hmm = arg;

	syscall(SYS_prctl, PR_SET_NAME,
		"hmm-worker"); /* for who looks at threads; as the monitor */
	pthread_mutex_lock(&hmm->lock);
	for (;;) {
		if (worker_turn(hmm))
			continue;
		order_settle(hmm);
		if (hmm->order_waits || order_open(hmm)) {
			worker_pause(hmm, WORKER_POLL_NS);
			continue;
		}
		if (!TAILQ_EMPTY(&hmm->gated)) {
			worker_pause(hmm, GATE_POLL_NS);
			gate_poll(hmm);
			continue;
		}
		if (hmm->stop) /* only with nothing left to do */
			break;
		pthread_cond_wait(&hmm->work, &hmm->lock);
	}
	pthread_mutex_unlock(&hmm->lock);
	return NULL;
}

static void worker_stop(struct hmm *hmm)
{
	pthread_mutex_lock(&hmm->lock);
	hmm->stop = true;
	hmm_notify(hmm);
	pthread_mutex_unlock(&hmm->lock);
	hmm_thread_join(hmm->worker);
}

static void process_init(struct hmm *hmm)
{
	pthread_condattr_t attr;
	unsigned int i;

	pthread_mutex_init(&hmm->lock, NULL);
	hmm->recorded = hmm->done = doing_events();
	pthread_mutex_init(&hmm->watch_lock, NULL);
	for (i = 0; i < CPU_SHARDS; i++)
		pthread_mutex_init(&hmm->shelf[i].lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&hmm->changed, &attr);
	pthread_cond_init(&hmm->work, &attr);
	pthread_condattr_destroy(&attr);
	TAILQ_INIT(&hmm->ops);
	lone_init(hmm);
	TAILQ_INIT(&hmm->changes);
	TAILQ_INIT(&hmm->parked);
	TAILQ_INIT(&hmm->gated);
	TAILQ_INIT(&hmm->mirrors);
	RB_INIT(&hmm->watch);
}

static void process_free(struct hmm *hmm)
{
	struct batch *batch;
	unsigned int i;

	for (i = 0; i < CPU_SHARDS; i++) {
		while ((batch = hmm->shelf[i].first)) {
			hmm->shelf[i].first = batch->next;
			batch_free(batch);
		}
		pthread_mutex_destroy(&hmm->shelf[i].lock);
	}
	batch_free(hmm->monitor_batch);
	batch_free(hmm->worker_batch);
	hmm_free(hmm->next_parked);
	pthread_cond_destroy(&hmm->changed);
	pthread_cond_destroy(&hmm->work);
	pthread_mutex_destroy(&hmm->lock);
	pthread_mutex_destroy(&hmm->watch_lock);
	hmm_free(hmm);
}

static int process_start(struct hmm **out)
{
	struct hmm *hmm = hmm_alloc(sizeof(*hmm));
	int ret;

	if (!hmm)
		return -ENOMEM;
	process_init(hmm);
	ret = -ENOMEM;
	if (!marks_init())
		goto out_free;
	hmm->monitor_batch = batch_new();
	hmm->worker_batch = batch_new();
	hmm->next_parked = hmm_alloc(sizeof(*hmm->next_parked));
	if (!hmm->monitor_batch || !hmm->worker_batch || !hmm->next_parked)
		goto out_free;
	ret = fork_init();
	if (ret)
		goto out_free;
	ret = mm_init(&hmm->mm);
	if (ret)
		goto out_free;
	ret = hmm_pt_init(&hmm->special, USER_END - 1);
	if (ret)
		goto out_mm;
	ret = hmm_thread_create(&hmm->worker, worker_main, hmm);
	if (ret)
		goto out_pt;
	ret = monitor_start(&hmm->monitor, &hmm->mm, &event_monitor_ops, hmm);
	if (ret)
		goto out_worker;
	*out = hmm;
	return 0;

out_worker:
	worker_stop(hmm);
out_pt:
	hmm_pt_fini(&hmm->special);
out_mm:
	mm_exit(&hmm->mm);
out_free:
	process_free(hmm);
	return ret;
}

static int process_own(void)
{
	if (!ours)
		ours = hmm_map(hmm_page_size());
	if (!ours || syscall(SYS_madvise, ours, hmm_page_size(), MADV_WIPEONFORK))
		return -ENOMEM;
	__atomic_store_n(ours, true, __ATOMIC_RELAXED);
	return 0;
}

int process_get(struct hmm **hmm)
{
	if (!current) {
		struct hmm *started;
		int ret = process_own();

		if (!ret)
			ret = process_start(&started);
		if (ret)
			return ret;
		process_publish(started);
	}
	current->users++;
	*hmm = current;
	return 0;
}

/* The monitor may have had something more to do after the worker had stopped. */
static void process_finish(struct hmm *hmm)
{
	pthread_mutex_lock(&hmm->lock);
	while (worker_turn(hmm))
		;
	pthread_mutex_unlock(&hmm->lock);
}

/*
 * Nothing is away any more. First all is unregistered, with the monitor there to
 * read what comes of it: closing the descriptor would do that too, but not while a
 * child has it that was forked behind libc's back. Then nobody needs the monitor.
 */
void process_put(struct hmm *hmm)
{
	struct uffd_how how = { .wait = true };

	if (--hmm->users)
		return;
	migrate_home(hmm, NULL); /* what was left in staging */
	process_retire(hmm);
	watch_exit(hmm);
	staging_unregister(&hmm->mm);
	uffd_quiet(&hmm->mm, &how); /* what was told before, and nothing will be from now on */
	worker_stop(hmm);
	monitor_stop(hmm->monitor);
	process_finish(hmm);
	event_discard_all(hmm);
	hmm_pt_fini(&hmm->special);
	mm_exit(&hmm->mm);
	process_free(hmm);
}
