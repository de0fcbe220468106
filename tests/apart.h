/* SPDX-License-Identifier: MIT */
/*
 * A sanitizer's own memory beside a test's would be one mapping with it, and so watched
 * where the test's is: and a sanitizer that waits for a page while an op of libhmm's runs,
 * within any lock, waits for ever. With a flag of its own the test's is a mapping of its own.
 */
#ifndef TESTS_APART_H
#define TESTS_APART_H

#include <sys/mman.h>

static inline void keep_apart(void *mem, size_t len)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	madvise(mem, len, MADV_DONTDUMP);
#else
	(void)mem;
	(void)len;
#endif
}

#endif
