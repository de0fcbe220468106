/* SPDX-License-Identifier: MIT */
/*
 * What a kernel's core mm gives HMM, made of userfaultfd(2) and /proc: the only
 * part of libhmm that knows either.
 *
 * The gate
 * --------
 * Every ioctl that changes the page table is issued with mm->gate held shared, but for
 * those of the monitor, which holds it exclusively while it reads messages and records them.
 * With the kernel's own rule (an ioctl answers EAGAIN while an event waits to
 * be read) this leaves exactly three cases for an ioctl and an event:
 *
 *   1. the ioctl came first: the event finds its result;
 *   2. the event waits: EAGAIN; let go of the gate, yield, try again;
 *   3. the event was read: it was also recorded, and everything in progress
 *      that overlaps has been told to back off (*how->cancel), which is checked
 *      with the gate held, before the ioctl.
 *
 * So nothing is ever put into a page table that the caller has not seen change.
 *
 * A thread that holds the gate touches no program memory, waits for nothing
 * else and calls no driver. Lock order: gate, then what the monitor's record
 * callback takes.
 */
#ifndef MM_MM_H
#define MM_MM_H

#include <pthread.h>

#include <hmm/hmm.h>

#include "mm/arena.h"
#include "mm/debug.h"
#include "mm/log.h"
#include "mm/mutant.h"

/* A chunk: the unit of isolation, of a staging slot and of registration. */
#define CHUNK_SHIFT 21
#define CHUNK_SIZE (1ul << CHUNK_SHIFT)
#define CHUNK_MASK (~(CHUNK_SIZE - 1))
#define CHUNK_PAGES_MAX 512
#define CHUNK_WORDS (CHUNK_PAGES_MAX / 64)

struct staging;

struct mm {
	int uffd;
	int probe; /* another userfaultfd, to see what is taken: uffd_owned() */
	int pagemap;
	int maps;
	int tasks; /* /proc/self/task, or -1; who has set the next uses it */
	bool tasks_used; /* atomic */
	int spare_fd; /* given up when a fork message needs a descriptor */
	bool user_mode_only;
	bool fork_event;
	bool pagemap_scan;
	bool procmap_query;
	pthread_rwlock_t gate;
	uint64_t heard; /* events read; written with the gate held exclusive */
	struct staging *staging;
};

/* features.c */
int features_open(struct mm *mm, struct hmm_features *features);
int mm_init(struct mm *mm);
void mm_exit(struct mm *mm);
void mm_forget(struct mm *mm); /* in a child: close what describes the parent */

static inline unsigned long page_round_down(unsigned long addr)
{
	return addr & ~(hmm_page_size() - 1);
}

static inline unsigned long page_round_up(unsigned long addr)
{
	return page_round_down(addr + hmm_page_size() - 1);
}

static inline unsigned int chunk_pages(void)
{
	return (unsigned int)(CHUNK_SIZE >> hmm_page_shift());
}

static inline unsigned long chunk_end(unsigned long addr, unsigned long end)
{
	unsigned long next = (addr & CHUNK_MASK) + CHUNK_SIZE;

	return next < end ? next : end;
}

/* ---- fd.c: descriptors that the program shall not close; see hmm_fd_keep() ---- */

bool fd_kept(int fd);
int fd_kept_next(int fd);
/* One descriptor more than the program has allowed itself; *@old: what it has, or 0. */
bool fd_raise(uint64_t *old);
void fd_restore(uint64_t *old);

/* ---- uffd.c: every ioctl, with EAGAIN and partial results handled ---- */

/**
 * struct uffd_how - how patient an ioctl is
 * @cancel: give up with -ECANCELED once this is true; may be NULL
 * @wait: wait for unread events to be read; the thread that reads them must
 *	not, and gets -EAGAIN. Nobody but that thread may leave it out: it takes no gate, which
 *	is there to keep it from reading
 */
struct uffd_how {
	const bool *cancel;
	bool wait;
};

enum uffd_mode {
	UFFD_WATCH = 1, /* events only: first touch stays native */
	UFFD_CATCH = 2, /* and missing faults: for chunks that have pages away */
};

int uffd_register(struct mm *mm, unsigned long start, unsigned long end, enum uffd_mode mode);
int uffd_unregister(struct mm *mm, unsigned long start, unsigned long end);
int uffd_leave(struct mm *mm, unsigned long start, unsigned long end);
/* Is the mapping at [start, end), which is a page of it, registered? Never waits. */
bool uffd_owned(struct mm *mm, unsigned long start, unsigned long end);
bool uffd_free(struct mm *mm, unsigned long start, unsigned long end);
/* Bytes done (> 0, perhaps not all: call again for the rest) or negative errno. */
long uffd_copy(struct mm *mm, const struct uffd_how *how, unsigned long dst, const void *src,
	       unsigned long len);
long uffd_move(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long src,
	       unsigned long len);
long uffd_zero(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long len);
long uffd_poison(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long len);
/* Of what is there: on a hole it leaves a marker, which uffd_move() does not take. */
int uffd_protect(struct mm *mm, const struct uffd_how *how, unsigned long addr, unsigned long len);
int uffd_unprotect(struct mm *mm, const struct uffd_how *how, unsigned long addr,
		   unsigned long len);
void uffd_wake(struct mm *mm, unsigned long addr, unsigned long len);
/* Does somebody wait in vain for no event to be under way? */
bool uffd_starves(void);
void uffd_starve(bool on); /* somebody begins to, or does not any more */
void uffd_forget(void); /* in a child */
/* Is an event under way: waits to be read, or its originator has not run since? */
bool uffd_pending(struct mm *mm);
/*
 * Has every event been read that happened before this call? 0, -EAGAIN, -ECANCELED. While
 * several threads change the address space all the time, the kernel never says that none is
 * about to: who waits gets 0 after UFFD_STORM_NS in which UFFD_STORM events were read. Where
 * none come it is one thread that is kept from running, or its event from being read; that
 * is waited for, but not for ever: UFFD_QUIET_NS.
 */
#define UFFD_STORM_NS 100000000ull
#define UFFD_STORM 16
#define UFFD_QUIET_NS 5000000000ull
int uffd_quiet(struct mm *mm, const struct uffd_how *how);

/* ---- follow.c: whether the monitor sleeps ---- */

struct follow {
	uint64_t last; /* ns; the last message */
	uint64_t looked;
	unsigned int row; /* messages in a row */
	unsigned int counted; /* of these, up to the last look */
	bool apart; /* they come from another CPU, and nobody else wants this one */
	unsigned int vain; /* so many messages are skipped after a look in vain */
	unsigned int skip; /* of these, still to come */
	int mem; /* /proc/self/mem, or -1 */
	int latency; /* /dev/cpu_dma_latency, or -1 */
	bool awake; /* idle CPUs are kept so */
	unsigned long rseq; /* see rseq_distance() */
	long switches; /* involuntary, of the thread, at the last look */
};

void follow_init(struct follow *follow);
void follow_exit(struct follow *follow);
/*
 * A message came, and has been answered. @tid: whose it is, or 0, and then @cpu where it came
 * from, or -1. Return: for how long to look for the next, in ns; 0: sleep. Context: the thread
 * that reads them.
 */
uint64_t follow_message(struct follow *follow, uint32_t tid, int cpu);
/* It has looked. */
void follow_spun(struct follow *follow, bool in_vain);
/* How long it may sleep, in ms or -1, and that it has slept so long. */
int follow_timeout(const struct follow *follow);
void follow_rest(struct follow *follow);

/* ---- monitor.c: messages ---- */

enum mm_event_type { MM_FAULT, MM_UNMAP, MM_REMOVE, MM_REMAP, MM_FORK };

struct mm_event {
	enum mm_event_type type;
	unsigned long start;
	unsigned long end;
	unsigned long to; /* MM_REMAP: where start went */
	bool write; /* MM_FAULT */
	bool protect; /* MM_FAULT: of write protection */
	uint32_t tid; /* MM_FAULT: the thread that waits, or 0 */
	int fd; /* MM_FORK: the child's userfaultfd; the receiver closes it */
};

/**
 * struct monitor_ops - who hears of messages
 * @hold: the monitor is about to read; called with nothing held
 * @release: it has read, and recorded what there was; after @unlock
 * @lock, @unlock: around reading and recording; whoever starts something on a
 *	range takes the same lock, and so starts it before or after the read
 * @record: an event was read; its originator is running again
 * @fault: a fault was read, at @now (ns) or a moment later; called after @unlock; returns the
 *	time when it was through
 * @events: events were recorded; called after @unlock
 * @kicked: monitor_kick() was called; nothing held
 * @cpu: the CPU that the last event came from, or -1; nothing held
 */
struct monitor_ops {
	void (*hold)(void *ctx);
	void (*release)(void *ctx);
	void (*lock)(void *ctx);
	void (*unlock)(void *ctx);
	void (*record)(void *ctx, const struct mm_event *event);
	uint64_t (*fault)(void *ctx, const struct mm_event *event, uint64_t now);
	void (*events)(void *ctx);
	void (*kicked)(void *ctx);
	int (*cpu)(void *ctx);
};

uint64_t clock_ns(void); /* CLOCK_MONOTONIC */

struct monitor;
int monitor_start(struct monitor **monitor, struct mm *mm, const struct monitor_ops *ops,
		  void *ctx);
void monitor_stop(struct monitor *monitor);
/* Have @kicked called soon, by the monitor. Never waits, takes no lock. */
void monitor_kick(struct monitor *monitor);
/* Read one batch from another process's descriptor; number of messages or -errno. */
int monitor_read(int fd, struct mm_event *events, int max);

/* ---- vma.c ---- */

#define VMA_NAME_MAX 32

struct vma {
	unsigned long start;
	unsigned long end;
	bool read;
	bool write;
	bool exec;
	bool shared;
	bool file; /* backed by an inode: a file, shmem, memfd, hugetlb */
	unsigned long page_size; /* of hugetlbfs: its own, where PROCMAP_QUERY tells */
	char name[VMA_NAME_MAX];
};

/* The first mapping that ends after addr. 0, -ENOENT, -EIO. */
int vma_find(struct mm *mm, unsigned long addr, struct vma *vma);
/* The mappings with MADV_WIPEONFORK, in order. */
int vma_each_wiped(int (*fn)(void *arg, unsigned long start, unsigned long end), void *arg);

/* ---- walk.c ---- */

#define WALK_PRESENT 1
#define WALK_SWAPPED 2
#define WALK_ZERO 4
#define WALK_HUGE 8
#define WALK_FILE 16 /* a file's, or shared; as the next, only of walk_owned() */
#define WALK_EXCLUSIVE 32 /* anonymous, and mapped nowhere else; of walk_regions() too */

/* Pages with the same flags. */
struct walk_region {
	unsigned long start;
	unsigned long end;
	uint8_t flags;
};

#define WALK_REGIONS_MAX 256

/* One byte of WALK_* a page. 0 or -EIO. */
int walk_pages(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags);
/*
 * What there is from @start on, in at most WALK_REGIONS_MAX regions; *@end moves back
 * to where they end. @exclusive: also find out about WALK_EXCLUSIVE, which costs
 * another look. How many, or -EIO.
 */
int walk_regions(struct mm *mm, unsigned long start, unsigned long *end,
		 struct walk_region *regions, bool exclusive);
/* The same, with WALK_FILE and WALK_EXCLUSIVE, without WALK_ZERO and WALK_HUGE. */
int walk_owned(struct mm *mm, unsigned long start, unsigned long end, uint8_t *flags);
/* Has the range no page, present or swapped? 1, 0 or -EIO. */
int walk_empty(struct mm *mm, unsigned long start, unsigned long end);

/* ---- keep.c: what is never migrated ---- */

struct span {
	unsigned long start;
	unsigned long end;
};

struct keep {
	struct span *spans; /* sorted, from the arena */
	unsigned int n;
	unsigned int room;
};

/* @stacks: but not stacks, beyond what the kernel writes on its own. */
int keep_init(struct keep *keep, struct mm *mm, unsigned long start, unsigned long end,
	      bool stacks);
void keep_fini(struct keep *keep);
int keep_add(struct keep *keep, unsigned long start, unsigned long end);
/* The first part of [*start, *end) that may go; false if there is none. */
bool keep_allowed(const struct keep *keep, unsigned long *start, unsigned long *end);
int keep_struct(const void *ptr, size_t size);
void keep_forget(const void *ptr);
void keep_forget_all(void);

/* ---- page.c: isolated pages and recycled ones ---- */

struct slot; /* one chunk of staging */

int staging_init(struct mm *mm);
void staging_unregister(struct mm *mm);
/* As hmm_set_pool(); not @strict: what is above the limit is offered to the kernel. */
void staging_pool(size_t bytes, bool strict);
/* No page is recycled any more: see page.c. */
void staging_lent(void);
void staging_exit(struct mm *mm);
/* A slot without pages, to isolate into; NULL if there is none. */
struct slot *slot_get_empty(struct mm *mm);
/* The same for what goes to the places from first to last alone: others may be taken. */
struct slot *slot_get_room(struct mm *mm, unsigned int first, unsigned int last);
/* A slot that has a page at every index from first to last; NULL if there is none. */
struct slot *slot_get_shared(struct mm *mm, unsigned int first, unsigned int last);
struct slot *slot_get_ready(struct mm *mm, unsigned int first, unsigned int last);
void slot_put(struct mm *mm, struct slot *slot);
unsigned long slot_addr(const struct slot *slot);
/* Which pages the slot has, after something moved in or out of it. */
int slot_scan(struct mm *mm, struct slot *slot, uint8_t *flags);
/* The same of @n places from @first on; @flags are of the chunk. */
int slot_scan_part(struct mm *mm, struct slot *slot, unsigned int first, unsigned int n,
		   uint8_t *flags);
/* Pages in the slot that are nobody's any more: known without looking. */
void slot_distrust(struct slot *slot);
void slot_recycle(struct slot *slot, const uint8_t *flags);
void slot_recycle_part(struct slot *slot, unsigned int first, unsigned int n, const uint8_t *flags);
/* They were moved out of it, all of them. */
void slot_taken(struct slot *slot, unsigned int first, unsigned int n);
/* A staged page keeps its slot from being used until it has left. */
void slot_stage(struct mm *mm, struct slot *slot, unsigned int pages);
void slot_unstage(struct mm *mm, unsigned long addr);

#define PAGE_STAYS 3 /* in @failed: for sure */
int page_isolate(struct mm *mm, const struct uffd_how *how, struct slot *slot, unsigned long start,
		 unsigned long end, uint8_t *failed);
int page_map(struct mm *mm, const struct uffd_how *how, unsigned long dst, unsigned long src,
	     unsigned long len, unsigned long *done);
/* From @done on, which the caller sets. */
int page_copy(struct mm *mm, const struct uffd_how *how, unsigned long dst, const void *src,
	      unsigned long len, unsigned long *done);

#endif
