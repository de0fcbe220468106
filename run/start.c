/* SPDX-License-Identifier: MIT */
/*
 * From the dynamic linker's call to the end of the process.
 *
 * fork(): libhmm brings all home first, and the child begins anew: its own engine, counters
 * and limit. Its handler runs after libhmm's has forgotten the parent's device: those of a
 * child run in the order in which they were registered, and libhmm's was when it was loaded.
 *
 * vfork() and posix_spawn() share the memory with the parent, whose engine goes on. exec
 * ends all of it, and the environment starts it again.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

static RUN_DATA pid_t pid;

/* Of the process that `hmm run` became, or of a child. */
static void begin(void)
{
	int err = errno, ret;

	pid = getpid();
	if (run_config.first)
		trace_begin();
	ret = stats_open();
	if (!ret)
		ret = engine_start();
	if (ret)
		run_say("process %d is not limited: error %d", (int)pid, -ret);
	errno = err;
}

bool run_is_here(void)
{
	return pid == getpid();
}

static void forked(void)
{
	if (pid == getpid())
		return; /* has begun */
	engine_forget();
	stats_forget();
	/* Who has cleared its environment is limited as before, and writes no files. */
	run_config.first = false;
	run_config.stats[0] = run_config.trace[0] = 0;
	run_config_read();
	begin();
}

__attribute__((constructor)) static void start(void)
{
	if (!run_config_read())
		return;
	begin();
	hook_start();
	privilege_start();
	pthread_atfork(NULL, NULL, forked);
}

/* Not of a child made by vfork(), which has its parent's memory. */
__attribute__((destructor)) static void finish(void)
{
	if (pid == getpid())
		stats_write();
}

/* Shells end so. No destructor runs then. */
HMM_API void _exit(int status)
{
	finish();
	for (;;)
		syscall(SYS_exit_group, status);
}

HMM_API void _Exit(int status) __attribute__((alias("_exit")));
