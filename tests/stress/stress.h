/* SPDX-License-Identifier: MIT */
/*
 * The stage of the stress test.
 *
 * A few chunks, whose pages are owned in turn: page i belongs to role i % ROLES.
 * Each owner knows what its pages hold, exactly; all of them share chunks,
 * mappings and ioctls with all others.
 */
#ifndef TESTS_STRESS_H
#define TESTS_STRESS_H

#include <stdatomic.h>

#include "faults/harness.h"

#define CHUNKS 4
#define WRITERS 2 /* of the CPU, and as many of the device */

enum role {
	ROLE_CPU, /* a counter of CPU writer 0 */
	ROLE_CPU_1, /* ... 1 */
	ROLE_DEVICE, /* a counter of device writer 0 */
	ROLE_DEVICE_1, /* ... 1 */
	ROLE_BOTH, /* one word of CPU writer 0, one of device writer 0 */
	ROLE_UNMAP, /* unmapped and mapped */
	ROLE_DROP, /* MADV_DONTNEED */
	ROLE_MOVE, /* mremap there and back */
	ROLES,
};

#define DEVICE_WORD 256 /* of the device, in a page of ROLE_BOTH */

struct stress {
	struct dummy_device *dev;
	unsigned char *mem;
	unsigned char *side; /* where pages are moved to */
	size_t pages;
	uint64_t *cpu; /* what each page's CPU word holds, or is about to */
	uint64_t *device; /* the same of the device's */
	uint64_t *stamp; /* of the pages that come and go */
	atomic_bool stop;
	atomic_uint failures;
	atomic_ulong turns[16];
};

static inline unsigned char *page_of(const struct stress *s, size_t i)
{
	return s->mem + i * hmm_page_size();
}

static inline uint64_t address(const void *p)
{
	return (uint64_t)(unsigned long)p;
}

/* On any thread: noted, reported by the main one. The first few are printed. */
static inline void complain(struct stress *s, const char *what, size_t page, uint64_t have,
			    uint64_t want)
{
	if (atomic_fetch_add(&s->failures, 1) < 10)
		fprintf(stderr, "%s: page %zu: 0x%llx, not 0x%llx\n", what, page,
			(unsigned long long)have, (unsigned long long)want);
}

static inline uint32_t roll(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* A random page of a role. */
static inline size_t pick(const struct stress *s, uint32_t *seed, enum role role)
{
	return roll(seed) % (s->pages / ROLES) * ROLES + role;
}

/* roles.c */
void *cpu_writer(void *arg);
void *device_writer(void *arg);
void *unmapper(void *arg);
void *dropper(void *arg);
void *mover(void *arg);
void *to_device(void *arg);
void *from_device(void *arg);

struct actor {
	struct stress *s;
	unsigned int n;
	uint32_t seed;
};

#endif
