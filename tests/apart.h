/* SPDX-License-Identifier: MIT */
/* What a sanitizer needs: that its memory and its locks are left alone. */
#ifndef TESTS_APART_H
#define TESTS_APART_H

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * A sanitizer's own memory beside a test's would be one mapping with it, and so watched
 * where the test's is: and a sanitizer that waits for a page while an op of libhmm's runs,
 * within any lock, waits for ever. With a flag of its own the test's is a mapping of its own.
 */
static inline void keep_apart(void *mem, size_t len)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	madvise(mem, len, MADV_DONTDUMP);
#else
	(void)mem;
	(void)len;
#endif
}

/*
 * The end of a child. In one that was made by hand (clone(2), _Fork()) the sanitizer's locks
 * may be taken for ever, and its _exit() would wait for them.
 */
static inline _Noreturn void child_exit(bool by_hand, int status)
{
	if (by_hand)
		syscall(SYS_exit_group, status);
	_exit(status);
}

#endif
