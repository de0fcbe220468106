/* SPDX-License-Identifier: MIT */
/* See debug.h. */
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "mm/arena.h"
#include "mm/debug.h"

#ifdef HMM_DEBUG

void hmm_assert_failed(const char *what)
{
	static const char prefix[] = "libhmm: assertion failed: ";
	ssize_t ignored;

	ignored = write(STDERR_FILENO, prefix, sizeof(prefix) - 1);
	ignored = write(STDERR_FILENO, what, strlen(what));
	(void)ignored;
	__builtin_trap();
}

static HMM_DATA debug_step_fn *step_fn;
static HMM_DATA debug_fail_fn *fail_fn;

bool debug_set_step(debug_step_fn *fn)
{
	__atomic_store_n(&step_fn, fn, __ATOMIC_RELEASE);
	return true;
}

bool debug_set_fail(debug_fail_fn *fn)
{
	__atomic_store_n(&fail_fn, fn, __ATOMIC_RELEASE);
	return true;
}

void debug_step(const char *step, unsigned long start, unsigned long end)
{
	debug_step_fn *fn = __atomic_load_n(&step_fn, __ATOMIC_ACQUIRE);

	if (fn)
		fn(step, start, end);
}

int debug_fail(const char *what)
{
	debug_fail_fn *fn = __atomic_load_n(&fail_fn, __ATOMIC_ACQUIRE);

	return fn ? fn(what) : 0;
}

#else

bool debug_set_step(debug_step_fn *fn)
{
	(void)fn;
	return false;
}

bool debug_set_fail(debug_fail_fn *fn)
{
	(void)fn;
	return false;
}

#endif
