/* SPDX-License-Identifier: MIT */
/* What the tests of the HMM page table share. */
#ifndef PT_UTIL_H
#define PT_UTIL_H

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <hmm/driver.h>

#include "core/pt.h"
#include "mm/arena.h"

#define USER_LAST ((1ul << 47) - 1)
#define LEAF (hmm_page_size() * HMM_PT_DIR_ENTRIES)

static uint64_t test_seed;

static inline uint64_t next_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline void set_one(struct hmm_pt *pt, unsigned long addr, hmm_pte_t pte)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;

	hmm_pt_iter_init(&iter, pt);
	ptep = hmm_pt_iter_populate(&iter, addr);
	assert_non_null(ptep);
	hmm_pt_iter_set(&iter, ptep, pte);
	hmm_pt_iter_fini(&iter);
}

static inline hmm_pte_t get_one(struct hmm_pt *pt, unsigned long addr)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep, pte;

	hmm_pt_iter_init(&iter, pt);
	ptep = hmm_pt_iter_lookup(&iter, addr);
	pte = ptep ? hmm_pte_load(ptep) : 0;
	hmm_pt_iter_fini(&iter);
	return pte;
}

static inline unsigned long dir_bytes(struct hmm_pt *pt, unsigned long empty)
{
	return (pt_bytes(pt) - empty) / 4096; /* a directory is a little more than 4096 */
}

/* HMM_TEST_SEED repeats a run. 77: skip. */
static inline int pt_test_begin(void)
{
	const char *seed = getenv("HMM_TEST_SEED");

	test_seed = seed ? strtoull(seed, NULL, 0) :
			   (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	printf("HMM_TEST_SEED=%llu\n", (unsigned long long)test_seed);
	if (hmm_page_size() != 4096) {
		printf("skipped: the windows of this test are for pages of 4096 bytes\n");
		return 77;
	}
	return 0;
}

#endif
