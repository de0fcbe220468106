/* SPDX-License-Identifier: MIT */
/*
 * The stage of the stress test of migration.
 *
 *	mem                                                   side
 *	┌──────────── mosaic ───────────┬────── field ──────┐ ┌───────┐
 *	│ 0 1 2 … 15 0 1 2 … 15 0 1 2 … │ claimed in ranges │ │ holes │      tents
 *	└───────────────────────────────┴───────────────────┘ └───────┘  (anywhere)
 *
 * In the mosaic page i belongs to role i % ROLES, so that all roles share chunks,
 * mappings and ioctls with all others. In the field ranges of up to 1024 pages are
 * claimed, changed and let go. Tents are moved to wherever the kernel likes. Each
 * owner knows what its pages hold, exactly. Devices migrate all of it all the time,
 * and ask nobody.
 *
 * Mosaic, field and side are low, where the kernel puts no other mapping into a hole.
 */
#ifndef TESTS_STAGE_H
#define TESTS_STAGE_H

#include <stdatomic.h>

#include "faults/harness.h"

#define MOSAIC_CHUNKS 3
#define FIELD_CHUNKS 5
#define RANGE_MAX 1024 /* pages */
#define SETTLERS 2
#define DEVICES 2
#define CAST_MAX 26
#define ADDERS 2
#define POOL (8 * MIB)

/*
 * The thread sanitizer hears neither of a fork by hand nor of mremap(), and would see
 * races in the child, and with the last owner of an address.
 */
#define UNSEEN __attribute__((no_sanitize("thread")))

/*
 * Are there places that the kernel chooses? The thread sanitizer's own memory gets such places
 * too, and where one was a tent's, or a range's that has left, a moment ago it can be watched
 * in its place: the sanitizer then waits for its page with its own locks held, and so does
 * everybody else.
 */
#ifdef __SANITIZE_THREAD__
#define KERNEL_PLACES false
#else
#define KERNEL_PLACES true
#endif

enum role {
	ROLE_CPU, /* a counter of CPU writer 0 */
	ROLE_CPU_1, /* ... 1 */
	ROLE_DEVICE, /* a counter of device writer 0, through one device or the other */
	ROLE_DEVICE_1, /* ... 1 */
	ROLE_BOTH, /* one word of CPU writer 0, one of each device writer */
	ROLE_ATOMIC, /* a counter of all adders, by CPU and devices */
	ROLE_FIRST, /* counted by the CPU before the next page, always */
	ROLE_SECOND,
	ROLE_DEVICE_FIRST, /* the same, by devices */
	ROLE_DEVICE_SECOND,
	ROLE_UNMAP, /* unmapped and mapped */
	ROLE_DROP, /* MADV_DONTNEED */
	ROLE_FREE, /* MADV_FREE */
	ROLE_PROTECT, /* read-only, and not even that, and back */
	ROLE_MOVE, /* mremap there and back */
	ROLE_LEAVE, /* MREMAP_DONTUNMAP */
	ROLE_IO, /* read(2) and write(2) */
	ROLES,
};

/* Words of the devices in a page of ROLE_BOTH. */
#define DEVICE_WORD 256
#define DEVICE_WORD_1 384

struct plan {
	const char *name;
	unsigned int devices;
	struct dummy_options opt[DEVICES];
	bool forks;
	bool huge; /* MADV_HUGEPAGE, MADV_COLLAPSE */
	bool life; /* devices go, and come again */
};

struct stage {
	const struct plan *plan;
	uint32_t seed;
	struct dummy_device *dev[DEVICES];
	pthread_rwlock_t life[DEVICES]; /* whoever uses the device reads */
	uint64_t pages_in; /* of devices that are gone */
	struct hmm_stats before;

	unsigned char *mem;
	unsigned char *side;
	size_t mosaic; /* pages */
	size_t pages; /* of mosaic and field */
	uint64_t *cpu; /* what each page's CPU word holds, or is about to */
	uint64_t *device; /* the same of the devices' */
	uint64_t *device_1; /* and of device writer 1 in a page of ROLE_BOTH */
	uint64_t *atomic; /* of ROLE_ATOMIC: what has been added for certain; atomic */
	uint64_t *stamp; /* of the pages that come and go; both ends of the page */
	pthread_mutex_t claims;
	uint8_t *claimed; /* of the field; claims */
	pthread_mutex_t placing; /* see place_lock() */
	bool apart;
	bool by_hand; /* see roles_move.c */

	atomic_bool stop;
	atomic_uint failures;
	atomic_ulong turns[CAST_MAX];
};

struct actor {
	struct stage *s;
	const char *name;
	unsigned int n;
	unsigned int taken; /* device_take() */
	uint32_t seed;
	atomic_ulong *turns;
};

static inline uint64_t address(const void *p)
{
	return (uint64_t)(unsigned long)p;
}

static inline unsigned char *page_of(const struct stage *s, size_t i)
{
	return s->mem + i * hmm_page_size();
}

static inline uint32_t roll(struct actor *a)
{
	a->seed ^= a->seed << 13;
	a->seed ^= a->seed >> 17;
	a->seed ^= a->seed << 5;
	return a->seed;
}

/* A random page of a role, of the mosaic. */
static inline size_t pick(struct actor *a, enum role role)
{
	return roll(a) % (a->s->mosaic / ROLES) * ROLES + role;
}

static inline uint64_t new_stamp(struct actor *a, size_t i)
{
	return ((uint64_t)roll(a) << 32) | i | 1;
}

static inline bool going_on(struct actor *a)
{
	return !atomic_load(&a->s->stop);
}

static inline void turn(struct actor *a)
{
	atomic_fetch_add(a->turns, 1);
}

/* ---- access.c: through a device, and told when it is wrong ---- */
/* On any thread: noted, reported by the main one. The first few are printed. */
void wrong(struct actor *a, const char *what, const void *addr, uint64_t got, uint64_t want);
/* Some device, which then stays. */
struct dummy_device *device_take(struct actor *a);
void device_leave(struct actor *a);
int device_load(struct actor *a, const void *p, uint64_t *val);
int device_store(struct actor *a, void *p, uint64_t val);
int device_add(struct actor *a, void *p, uint64_t *old);
/* The same, atomic against the CPU and the other device. */
int device_add_atomic(struct actor *a, void *p);
void device_send(struct actor *a, const void *p, size_t bytes);
void device_fetch(struct actor *a, const void *p, size_t bytes);
/* The stamp at either end of a page, by the CPU or a device. */
void look(struct actor *a, const void *page, uint64_t want, const char *what);
void look_device(struct actor *a, const void *page, uint64_t want, const char *what);
/* Both ends. */
bool put(struct actor *a, void *page, uint64_t val);
void refused(struct actor *a, int ret, const void *page, const char *what);

/*
 * An address that the kernel chooses can be one that another thread is just giving up:
 * whose munmap() or mremap() has freed it and has not yet told of it. HMM_STRESS_RACE=0
 * keeps the two apart, =1 does not.
 */
#define RACE_DEFAULT true
void place_lock(struct stage *s);
void place_unlock(struct stage *s);

/* ---- the roles: threads ---- */
void *cpu_writer(void *arg);
void *device_writer(void *arg);
void *pair_writer(void *arg);
void *adder(void *arg);
void *to_device(void *arg);
void *from_device(void *arg);
void *unmapper(void *arg);
void *dropper(void *arg);
void *freer(void *arg);
void *protector(void *arg);
void *reader_writer(void *arg);
void *mover(void *arg);
void *leaver(void *arg);
void *nomad(void *arg);
void *settler(void *arg);
void *collapser(void *arg);
void *reaper(void *arg);

/* ---- forks.c ---- */
void fork_once(struct actor *a, bool raw);

/* ---- stage.c ---- */
void stage_set(struct stage *s, const struct plan *plan, uint32_t seed);
void stage_clear(struct stage *s);
void field_release(struct stage *s, size_t first, size_t n);
bool field_claim(struct stage *s, size_t first, size_t n);

/* ---- leaks.c ---- */
void leaks_begin(void);
void leaks_check(size_t allowed, const char *when);
void stats_check(struct stage *s);

/* ---- run.c ---- */
void stress_begin(void);
double stress_seconds(void);
void stress(const struct plan *plan, double seconds);

#endif
