/* SPDX-License-Identifier: MIT */
/*
 * The device's threads, and running a function on them.
 *
 * They are made as they are needed and stay until the device goes: a thread costs
 * a stack, and making one makes the C library call malloc(), which touches just
 * the memory that may have moved to the device.
 *
 * Invariant, under pool->lock: pool->idle is at least pool->claimed, the number of
 * jobs that are queued or about to be. So all jobs of a run go at once, as their
 * functions may rely on, and a function that itself calls dummy_run() does not
 * wait for a thread that waits for it.
 *
 * pool->lock is a leaf, but for what hmm_thread_create() does under it. No callback
 * takes it.
 */
#include <errno.h>

#include "internal.h"

/**
 * struct run - one call of dummy_run()
 * @left: jobs that have not ended; pool->lock
 */
struct run {
	struct dummy_device *dev;
	int (*fn)(struct dummy_device *dev, unsigned int thread, void *arg);
	void *arg;
	unsigned int left;
};

/**
 * struct dummy_job - what one thread does of it
 * @next: in the queue; pool->lock
 * @ret: the function's result, once @run is through
 */
struct dummy_job {
	struct dummy_job *next;
	struct run *run;
	unsigned int number;
	int ret;
};

struct dummy_worker {
	struct dummy_worker *next;
	struct hmm_thread *thread;
};

static __thread bool on_device;

/*
 * The program asks something of the device: what it did to its memory before, the
 * device is to know. What runs on the device was asked when it was started.
 */
void dummy_asked(struct dummy_device *dev)
{
	if (!on_device)
		hmm_mirror_sync(&dev->mirror);
}

void dummy_pool_init(struct dummy_pool *pool)
{
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->done, NULL);
	pool->queue_end = &pool->queue;
}

void dummy_pool_fini(struct dummy_pool *pool)
{
	struct dummy_worker *worker, *next;

	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);

	for (worker = pool->workers; worker; worker = next) {
		next = worker->next;
		hmm_thread_join(worker->thread);
		hmm_free(worker);
	}
}

static void *worker_main(void *arg)
{
	struct dummy_pool *pool = arg;
	struct dummy_job *job;

	on_device = true;
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!pool->queue && !pool->stop)
			pthread_cond_wait(&pool->work, &pool->lock);
		job = pool->queue;
		if (!job)
			break;
		pool->queue = job->next;
		if (!pool->queue)
			pool->queue_end = &pool->queue;
		pool->idle--;
		pool->claimed--;
		pthread_mutex_unlock(&pool->lock);

		job->ret = job->run->fn(job->run->dev, job->number, job->run->arg);

		pthread_mutex_lock(&pool->lock);
		pool->idle++;
		if (!--job->run->left)
			pthread_cond_broadcast(&pool->done);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* One more idle thread. pool->lock is held. */
static int pool_grow(struct dummy_pool *pool)
{
	struct dummy_worker *worker = hmm_alloc(sizeof(*worker));
	int ret;

	if (!worker)
		return -ENOMEM;
	ret = hmm_thread_create(&worker->thread, worker_main, pool);
	if (ret) {
		hmm_free(worker);
		return ret;
	}
	worker->next = pool->workers;
	pool->workers = worker;
	pool->idle++;
	return 0;
}

/* A thread for each of @n jobs, or none at all. pool->lock is held. */
static int pool_claim(struct dummy_pool *pool, unsigned int n)
{
	int ret = 0;

	while (!ret && pool->idle < pool->claimed + n)
		ret = pool_grow(pool);
	if (!ret)
		pool->claimed += n;
	return ret;
}

static void pool_queue(struct dummy_pool *pool, struct dummy_job *job)
{
	job->next = NULL;
	*pool->queue_end = job;
	pool->queue_end = &job->next;
}

/* Queue the jobs and wait for all of them. */
static int run_jobs(struct dummy_pool *pool, struct run *run, struct dummy_job *jobs,
		    unsigned int n)
{
	unsigned int i;
	int ret;

	run->left = n;
	pthread_mutex_lock(&pool->lock);
	ret = pool_claim(pool, n);
	if (ret)
		goto unlock;
	for (i = 0; i < n; i++) {
		jobs[i].run = run;
		jobs[i].number = i;
		pool_queue(pool, &jobs[i]);
	}
	pthread_cond_broadcast(&pool->work);
	while (run->left)
		pthread_cond_wait(&pool->done, &pool->lock);
unlock:
	pthread_mutex_unlock(&pool->lock);
	for (i = 0; i < n && !ret; i++)
		ret = jobs[i].ret;
	return ret;
}

int dummy_run(struct dummy_device *dev, unsigned int nthreads,
	      int (*fn)(struct dummy_device *dev, unsigned int thread, void *arg), void *arg)
{
	struct dummy_job *jobs;
	struct run *run;
	int ret = -ENOMEM;

	if (!nthreads || !fn)
		return -EINVAL;
	dummy_asked(dev);
	run = hmm_alloc(sizeof(*run));
	jobs = hmm_alloc(nthreads * sizeof(*jobs));
	if (run && jobs) {
		run->dev = dev;
		run->fn = fn;
		run->arg = arg;
		ret = run_jobs(&dev->pool, run, jobs, nthreads);
	}
	hmm_free(jobs);
	hmm_free(run);
	return ret;
}
