/* SPDX-License-Identifier: MIT */
/*
 * Messages.
 *
 * A message may come from the monitor, so everything here lives on the stack
 * of a library thread or in .data (G6), and standard error is written by
 * write(2), never through stdio, whose buffer is the program's memory.
 */
#include "mm/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "mm/arena.h"

static HMM_DATA int log_level = HMM_LOG_ERROR;
static HMM_DATA void (*log_fn)(enum hmm_log_level, const char *);

HMM_API void hmm_set_log(enum hmm_log_level level, void (*fn)(enum hmm_log_level, const char *))
{
	__atomic_store_n(&log_fn, fn, __ATOMIC_RELEASE);
	__atomic_store_n(&log_level, (int)level, __ATOMIC_RELEASE);
}

void mm_log(enum hmm_log_level level, const char *fmt, ...)
{
	static const char prefix[] = "libhmm: ";
	void (*fn)(enum hmm_log_level, const char *);
	char line[640];
	size_t skip = sizeof(prefix) - 1;
	va_list ap;
	int n;

	if ((int)level > __atomic_load_n(&log_level, __ATOMIC_ACQUIRE))
		return;
	__builtin_memcpy(line, prefix, skip);
	va_start(ap, fmt);
	n = vsnprintf(line + skip, sizeof(line) - skip - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	fn = __atomic_load_n(&log_fn, __ATOMIC_ACQUIRE);
	if (fn) {
		fn(level, line + skip);
		return;
	}
	if ((size_t)n > sizeof(line) - skip - 2)
		n = (int)(sizeof(line) - skip - 2);
	line[skip + (size_t)n] = '\n';
	if (write(STDERR_FILENO, line, skip + (size_t)n + 1) < 0)
		return;
}
