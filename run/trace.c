/* SPDX-License-Identifier: MIT */
/*
 * The trace (docs/tracing.md): one file for each process number.
 *
 *	what `hmm run` became	FILE, from its beginning on
 *	any other		FILE.PID, from when its limit comes near: before, nothing happens
 *				in it, and a shell may have thousands of children
 *
 * The same process may be a new program, by exec; that goes on behind what the one before it
 * left, which is whole (src/core/trace_json.c). What is older than `hmm run` is replaced.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "run.h"

/* A file of this run. It may be a pipe, to which this makes no difference. */
static bool ours(const char *path)
{
	struct stat st;

	return !stat(path, &st) &&
	       (uint64_t)st.st_mtim.tv_sec * 1000000000ull + (uint64_t)st.st_mtim.tv_nsec >
		       run_config.started;
}

void trace_begin(void)
{
	const char *path = run_config.trace;
	int ret;

	if (!path[0])
		return;
	ret = ours(path) ? hmm_trace_resume(path) : hmm_trace_start(path);
	if (ret && ret != -EBUSY) /* the program may be one that traces */
		run_say("%s: no trace: %s", path, strerrordesc_np(-ret));
}
