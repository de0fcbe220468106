/* SPDX-License-Identifier: MIT */
/* The size of a page, which nothing here takes for granted. */
#include <unistd.h>

#include "mm/arena.h"

struct geometry geometry HMM_DATA;

unsigned int(hmm_page_shift)(void)
{
	unsigned int shift = __atomic_load_n(&geometry.page_shift, __ATOMIC_RELAXED);

	if (__builtin_expect(!shift, 0)) {
		shift = (unsigned int)__builtin_ctzl((unsigned long)sysconf(_SC_PAGESIZE));
		__atomic_store_n(&geometry.page_shift, shift, __ATOMIC_RELAXED);
	}
	return shift;
}

unsigned long(hmm_page_size)(void)
{
	return 1ul << hmm_page_shift();
}
