/* SPDX-License-Identifier: MIT */
/*
 * In a debug build (option hmm_debug) a test can hold a thread at a step of a protocol,
 * and let a system call or an allocation fail. In others nothing of it is left.
 *
 * The steps are where the opening comments of the files say that one ends: an event, a
 * fault or another thread can come there.
 */
#ifndef MM_DEBUG_H
#define MM_DEBUG_H

#include <stdbool.h>

/* Called at each step; may wait, for whatever does not wait for that step. */
typedef void debug_step_fn(const char *step, unsigned long start, unsigned long end);
/*
 * Called before each call that can fail: 0, or the negative errno to fail with. "short":
 * before one that can do less than it is asked for, and does if this is not 0.
 */
typedef int debug_fail_fn(const char *what);

/* False: this is no debug build. NULL: none any more. */
bool debug_set_step(debug_step_fn *fn);
bool debug_set_fail(debug_fail_fn *fn);

#ifdef HMM_DEBUG
void debug_step(const char *step, unsigned long start, unsigned long end);
int debug_fail(const char *what);
#else
static inline void debug_step(const char *step, unsigned long start, unsigned long end)
{
	(void)step;
	(void)start;
	(void)end;
}

static inline int debug_fail(const char *what)
{
	(void)what;
	return 0;
}
#endif

#endif
