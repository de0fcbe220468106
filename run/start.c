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
#include <unistd.h>

#include "run.h"

static RUN_DATA pid_t pid;

/* Of the process that `hmm run` became, or of a child. */
static void begin(void)
{
	int err = errno, ret;

	pid = getpid();
	ret = stats_open();
	if (!ret)
		ret = engine_start();
	if (ret)
		run_say("process %d is not limited: error %d", (int)pid, -ret);
	errno = err;
}

static void forked(void)
{
	bool ran = engine_runs();

	if (pid == getpid())
		return; /* has begun */
	engine_forget();
	stats_forget();
	if (ran)
		run_config_read();
	begin();
}

__attribute__((constructor)) static void start(void)
{
	if (!run_config_read())
		return;
	begin();
	pthread_atfork(NULL, NULL, forked);
}

__attribute__((destructor)) static void finish(void)
{
	if (pid == getpid())
		stats_write();
}
