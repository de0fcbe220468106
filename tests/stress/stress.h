/* SPDX-License-Identifier: MIT */
/* What the stress test of mirroring counts with. That of migration: stage.h. */
#ifndef TESTS_STRESS_H
#define TESTS_STRESS_H

#include <stdatomic.h>

#include "faults/harness.h"

struct stress {
	unsigned char *mem;
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

struct actor {
	struct stress *s;
	unsigned int n;
	uint32_t seed;
};

#endif
