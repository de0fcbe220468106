/* SPDX-License-Identifier: MIT */
/*
 * Inside the dummy device.
 *
 * All of its state lives in the arena (hmm_alloc(), hmm_map()): callbacks run
 * while libhmm waits for them, and must not touch what only libhmm could bring
 * back.
 *
 * Locks, in the order in which they are taken:
 *
 *   port->owner      whoever uses the port and its bounce page. Held across
 *                    device faults and while the caller's buffer is copied, both
 *                    of which may wait for libhmm; so no callback may take it
 *   dev->writer      one change of the page table at a time
 *   port->xlat       the translation lock, in shards: any one of them lets its
 *                    holder translate and access; all of them are needed to
 *                    change the page table
 *   dev->stripe      read-modify-write of system memory
 *
 * Under port->xlat nothing waits: no fault is taken, no lock of libhmm, and no
 * memory is touched but the arena's. Callbacks take dev->writer and all of
 * port->xlat, and so wait for one access of each thread at the most. That is
 * what makes update() prompt, and its promise true: when it has held all of
 * port->xlat, no access uses the old translation any more.
 */
#ifndef DUMMY_INTERNAL_H
#define DUMMY_INTERNAL_H

#include <pthread.h>

#include <hmm/hmm.h>

#include "dummy.h"
#include "pgtable.h"

#define DUMMY_PORTS 16u
#define DUMMY_STRIPES 16u

/**
 * struct dummy_counters - counts of one port; written by its owner only
 */
struct dummy_counters {
	uint64_t loads;
	uint64_t stores;
	uint64_t faults;
	uint64_t faults_retried;
};

/**
 * struct dummy_port - a way into the translation unit
 * @owner: see above
 * @xlat: see above
 * @used: has ever been; changed under dev->writer. Locking all ports means those
 * @bounce: one page, where data waits between the caller's buffer and memory;
 *	protected by @owner
 * @word: another place of that kind, for read-modify-write
 * @count: read by anybody, atomically
 */
struct dummy_port {
	pthread_mutex_t owner;
	pthread_mutex_t xlat;
	bool used;
	char *bounce;
	uint64_t word;
	struct dummy_counters count;
} __attribute__((aligned(64)));

struct dummy_job;
struct dummy_worker;

/**
 * struct dummy_pool - the device's threads; see threads.c
 * @lock: protects all of it; no callback takes it
 * @work: there is a job, or @stop
 * @done: the last job of some run has ended
 * @queue: jobs that no thread has taken
 * @queue_end: where the next one is linked in
 * @workers: all threads, idle or not
 * @idle: how many wait for a job
 * @claimed: how many of these have one coming
 * @stop: the device goes
 */
struct dummy_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t done;
	struct dummy_job *queue;
	struct dummy_job **queue_end;
	struct dummy_worker *workers;
	unsigned int idle;
	unsigned int claimed;
	bool stop;
};

/**
 * struct dummy_injection - which calls are to fail; under dev->inject_lock
 * @wait: calls that still go well before the first one that fails
 * @count: calls that are to fail; read without the lock to see that there are none
 */
struct dummy_injection {
	uint64_t wait;
	uint64_t count;
};

/**
 * struct dummy_device - the device
 * @device: what libhmm knows it by
 * @mirror: of this process
 * @devmem: descriptors of @memory; not added where there is none
 * @opt: as given; constant
 * @page_size: constant
 * @page_shift: constant
 * @memory: the device's memory; page content belongs to who owns the page
 * @bounce: all ports' bounce pages
 * @mem_fd: /proc/self/mem
 * @pgtable: changed under dummy_xlat_lock(), read under any port's xlat
 * @writers: how many want the translation lock for writing; a hint
 * @writer: see above
 * @held: no access may begin; atomic, see xlat.c
 * @hold_lock: a leaf, for @hold_end
 * @hold_end: @held was reset
 * @stripe: see above
 * @port: see above
 * @pool: threads
 * @inject_lock: a leaf, taken only where something is to fail
 * @inject: by enum dummy_fail
 * @stats: of the copy engine and update(); atomics
 */
struct dummy_device {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct hmm_devmem devmem;
	struct dummy_options opt;
	unsigned long page_size;
	unsigned int page_shift;
	char *memory;
	char *bounce;
	int mem_fd;
	struct dummy_pgtable pgtable;
	unsigned int writers;
	pthread_mutex_t writer;
	bool held;
	pthread_mutex_t hold_lock;
	pthread_cond_t hold_end;
	pthread_mutex_t stripe[DUMMY_STRIPES];
	struct dummy_port port[DUMMY_PORTS];
	struct dummy_pool pool;
	pthread_mutex_t inject_lock;
	struct dummy_injection inject[DUMMY_FAIL_TYPES];
	struct dummy_stats stats;
};

static inline void dummy_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static inline uint64_t dummy_page_mask(const struct dummy_device *dev)
{
	return dev->page_size - 1;
}

/* xlat.c */

/* dummy_port_get() - own a port; put it back soon. Context: no lock held */
struct dummy_port *dummy_port_get(struct dummy_device *dev);
void dummy_port_put(struct dummy_port *port);

/* dummy_port_enter() - take the translation lock to use it; the port is owned */
void dummy_port_enter(struct dummy_device *dev, struct dummy_port *port);
void dummy_port_leave(struct dummy_port *port);

/* dummy_xlat_lock() - take it to change the page table; for callbacks too */
void dummy_xlat_lock(struct dummy_device *dev);
void dummy_xlat_unlock(struct dummy_device *dev);
void dummy_hold(struct hmm_mirror *mirror);
void dummy_release(struct hmm_mirror *mirror);

/* device.c */

/* dummy_fails() - is this call of @what to fail? */
bool dummy_fails(struct dummy_device *dev, enum dummy_fail what);

/* threads.c */
void dummy_pool_init(struct dummy_pool *pool);
void dummy_pool_fini(struct dummy_pool *pool);

/* ops.c */
extern const struct hmm_device_ops dummy_ops;
extern const struct hmm_device_ops dummy_ops_no_memory;
extern const struct hmm_devmem_ops dummy_devmem_ops;

#endif
