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
 *   dev->discard_lock  what is being discarded; a leaf
 *
 * The IOMMU's table needs none of these: an HMM page table locks itself.
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
#define DUMMY_REGIONS_MAX 16u

/**
 * struct dummy_counters - counts of one port; written by its owner only
 */
struct dummy_counters {
	uint64_t loads;
	uint64_t stores;
	uint64_t faults;
	uint64_t faults_retried;
};

enum dummy_access_op {
	DUMMY_LOAD,
	DUMMY_STORE,
	DUMMY_ADD, /* u64: adds what is in the bounce page, leaves the old value there */
};

/**
 * struct dummy_access - one piece of an access, within one page
 * @addr: where
 * @len: bytes; they are, or come, in the port's bounce page at the same offset
 * @op: what
 * @exclusive: nobody else may reach the page meanwhile
 * @done: it was made while its device fault was answered; see dummy_access_now()
 * @ret: its result then
 */
struct dummy_access {
	uint64_t addr;
	size_t len;
	enum dummy_access_op op;
	bool exclusive;
	bool done;
	int ret;
};

/**
 * struct dummy_port - a way into the translation unit
 * @owner: see above
 * @xlat: see above
 * @bounce: one page, where data waits between the caller's buffer and memory;
 *	protected by @owner
 * @word: another place of that kind, for read-modify-write
 * @access: what its owner is at; update() for its faults, which runs in the owner's
 *	thread, finds it by the event's cookie
 * @once: the window of the last access that was made there and then
 * @count: read by anybody, atomically
 */
struct dummy_port {
	pthread_mutex_t owner;
	pthread_mutex_t xlat;
	char *bounce;
	uint64_t word;
	struct dummy_access access;
	uint64_t once;
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
 * struct dummy_iommu - the IOMMU; see iommu.c
 * @pt: by IOVA, from %DUMMY_IOVA_BASE on
 * @next: the first IOVA never used; atomic
 * @reports: how many were written; atomic
 */
struct dummy_iommu {
	struct hmm_pt pt;
	uint64_t next;
	unsigned int reports;
};

/**
 * struct dummy_region - a part of the device's memory; see memory.c
 * @devmem: its descriptors; not added where there is no memory
 * @dev: the device; constant
 * @offset: where in dev->memory; constant
 * @bytes: how much; constant
 */
struct dummy_region {
	struct hmm_devmem devmem;
	struct dummy_device *dev;
	size_t offset;
	size_t bytes;
};

/**
 * struct dummy_clock - what goes home when the memory is full; see memory.c. Changed
 * under dummy_xlat_lock()
 * @hand: the address to look at next
 * @busy_start: what is being migrated and found no room, and does not go home
 * @busy_end: its end, exclusive
 */
struct dummy_clock {
	uint64_t hand;
	uint64_t busy_start;
	uint64_t busy_end;
};

struct dummy_discard;

/**
 * struct dummy_device - the device
 * @device: what libhmm knows it by
 * @ops: its callbacks: those of dummy_ops that the options leave; constant
 * @mirror: of this process
 * @region: descriptors of @memory; opt.regions of them
 * @lost: by dummy_lost(); atomic, set under dummy_xlat_lock(): no translation is entered
 *	afterwards
 * @opt: as given; constant
 * @page_size: constant
 * @page_shift: constant
 * @memory: the device's memory; page content belongs to who owns the page
 * @bounce: all ports' bounce pages
 * @mem_fd: /proc/self/mem
 * @iommu: empty without opt.iommu
 * @pgtable: changed under dummy_xlat_lock(), read under any port's xlat
 * @clock: see above
 * @writers: how many want the translation lock for writing; a hint
 * @writer: see above
 * @ports: which have ever been owned, a bit for each; changed under @writer, and atomic for
 *	who looks without. Locking all ports means those
 * @held: no access may begin; atomic, see xlat.c
 * @hold_lock: a leaf, for @hold_end
 * @hold_end: @held was reset
 * @waiters: for that; atomic, changed under @hold_lock
 * @discard_lock: see above
 * @discard_end: one of @discards is through
 * @discards: those that run; changed under dummy_xlat_lock() too
 * @stripe: see above
 * @port: see above
 * @pool: threads
 * @inject_lock: a leaf, taken only where something is to fail
 * @inject: by enum dummy_fail
 * @stats: of the copy engine, the IOMMU and update(); atomics
 */
struct dummy_device {
	struct hmm_device device;
	struct hmm_device_ops ops;
	struct hmm_mirror mirror;
	struct dummy_region region[DUMMY_REGIONS_MAX];
	bool lost;
	struct dummy_options opt;
	unsigned long page_size;
	unsigned int page_shift;
	char *memory;
	char *bounce;
	int mem_fd;
	struct dummy_iommu iommu;
	struct dummy_pgtable pgtable;
	struct dummy_clock clock;
	unsigned int writers;
	pthread_mutex_t writer;
	unsigned int ports;
	bool held;
	pthread_mutex_t hold_lock;
	pthread_cond_t hold_end;
	unsigned int waiters;
	pthread_mutex_t discard_lock;
	pthread_cond_t discard_end;
	struct dummy_discard *discards;
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

/* dummy_port_enter_now() - the same, but false if the device is held; for callbacks */
bool dummy_port_enter_now(struct dummy_device *dev, struct dummy_port *port);

/* dummy_xlat_lock() - take it to change the page table; for callbacks too */
void dummy_xlat_lock(struct dummy_device *dev);
void dummy_xlat_unlock(struct dummy_device *dev);
void dummy_hold(struct hmm_mirror *mirror);
void dummy_release(struct hmm_mirror *mirror);

/* device.c */

/* dummy_fails() - is this call of @what to fail? */
bool dummy_fails(struct dummy_device *dev, enum dummy_fail what);
/* dummy_may_fail() - is one to come? */
bool dummy_may_fail(struct dummy_device *dev, enum dummy_fail what);

static inline bool dummy_is_lost(const struct dummy_device *dev)
{
	return __atomic_load_n(&dev->lost, __ATOMIC_ACQUIRE);
}

/* dummy_op_begin() - an op begins that %DUMMY_FAIL_LOST is for; false: the device is lost */
bool dummy_op_begin(struct dummy_device *dev);

/* threads.c */

/* dummy_asked() - the program asks for something. Context: no lock held, not from an op */
void dummy_asked(struct dummy_device *dev);
void dummy_pool_init(struct dummy_pool *pool);
void dummy_pool_fini(struct dummy_pool *pool);

/* transfer.c */

/*
 * dummy_transfer() - make @port->access on system memory
 * @page: of the page, what the device uses: its DMA address, or without IOMMU its
 *	CPU address
 *
 * Return: 0; -EAGAIN the page is not there; -EIO an IOMMU fault.
 * Context: the port's translation lock is held.
 */
int dummy_transfer(struct dummy_device *dev, struct dummy_port *port, uint64_t page);

/* dummy_transfer_exclusive() - the same, on what only the device reaches */
int dummy_transfer_exclusive(struct dummy_device *dev, struct dummy_port *port, uint64_t page);

/* dummy_transfer_memory() - make @port->access on the device page at @page */
void dummy_transfer_memory(struct dummy_device *dev, struct dummy_port *port, char *page);

/* access.c */

/*
 * dummy_access_now() - make @port->access by a translation that is good for it alone
 * @ptep: the mirror's entry, with %HMM_PTE_ONCE; is told if the page is dirty
 *
 * Context: update() for the fault of that access.
 */
void dummy_access_now(struct dummy_device *dev, struct dummy_port *port, hmm_pte_t *ptep);

/* dummy_access_exclusive() - make @port->access. Context: update() for its exclusive access */
void dummy_access_exclusive(struct dummy_device *dev, struct dummy_port *port);

/* iommu.c */
int dummy_iommu_init(struct dummy_device *dev);
void dummy_iommu_fini(struct dummy_device *dev);

/* dummy_iommu_lookup() - the CPU address behind @iova; 0: an IOMMU fault, counted */
uint64_t dummy_iommu_lookup(struct dummy_device *dev, struct hmm_pt_iter *iter, uint64_t iova,
			    bool write);

/* dummy_can_reach() - is @pte, of system memory, for this device? If not, it is counted */
bool dummy_can_reach(struct dummy_device *dev, hmm_pte_t pte);

int dummy_dma_map(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		  hmm_pte_t *ptes);
void dummy_dma_unmap(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		     const hmm_pte_t *ptes);

/* discard.c */

/*
 * dummy_discarding() - is the page being discarded?
 * Context: dummy_xlat_lock() or dev->discard_lock is held
 */
bool dummy_discarding(struct dummy_device *dev, uint64_t addr);

/* dummy_discard_wait() - until it is not. Context: no lock held, not from an op */
void dummy_discard_wait(struct dummy_device *dev, uint64_t addr);

/* engine.c */
int dummy_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			 unsigned long start, unsigned long end);

/* The same way back, in the place of what the regions have; with opt.looks_up */
int dummy_copy_from_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			   unsigned long start, unsigned long end);

/* dummy_copy_in() - what copy_to_device() does, with the sources in an array; maps nothing */
int dummy_copy_in(struct dummy_device *dev, const hmm_pte_t *src, hmm_pte_t *dst,
		  unsigned long start, unsigned long end);

/* dummy_copy_out() - what copy_from_device() of a region does, for @n pages of the device's */
int dummy_copy_out(struct dummy_device *dev, const hmm_pte_t *src, hmm_pte_t *dst, unsigned long n);

/* dummy_map_copied() - enter what was copied; the next fault enters what finds no directory */
void dummy_map_copied(struct dummy_device *dev, const hmm_pte_t *dst, unsigned long start,
		      unsigned long end);

/* memory.c */
int dummy_memory_add(struct dummy_device *dev);
int dummy_memory_remove(struct dummy_device *dev);

/*
 * dummy_memory_run() - the content of a dummy device's page, and whose it is; or NULL
 *
 * *@n is no more than the pages from this one on that follow it by pfn and in memory.
 */
char *dummy_memory_run(uint64_t pfn, unsigned long *n, struct dummy_device **owner);

/* Up to @n pages, or hmm_devmem_run_pages() in one piece; 0 or NULL: there is none. For callbacks. */
unsigned long dummy_memory_alloc_pages(struct dummy_device *dev, unsigned long n,
				       struct hmm_page **pages);
struct hmm_page *dummy_memory_alloc_run(struct dummy_device *dev);

/* dummy_memory_short() - there was no room for some of [@start, @end). For callbacks */
void dummy_memory_short(struct dummy_device *dev, uint64_t start, uint64_t end);

/* ops.c */

/*
 * dummy_translate() - what the device's table shall hold for an entry; 0: nothing
 *
 * For the next of *@n entries, each of which names the page behind, it is the page behind.
 */
uint64_t dummy_translate(struct dummy_device *dev, hmm_pte_t hmm, unsigned long *n);

/*
 * dummy_revoke() - take away what the device's table holds for a range
 * @drop: the translations; else their write permission
 * @tell: hand the dirty bits to the mirror's table. Context: an op for the range
 */
void dummy_revoke(struct dummy_device *dev, uint64_t start, uint64_t end, bool drop, bool tell);

extern const struct hmm_device_ops dummy_ops;
extern const struct hmm_devmem_ops dummy_devmem_ops;

#endif
