/* SPDX-License-Identifier: MIT */
/*
 * What `hmm run` was told. It comes in environment variables, so that the programs that this
 * one starts are told the same:
 *
 *	HMM_RUN_LIMIT    bytes
 *	HMM_RUN_DEVICE   name[,option=value]...
 *	HMM_RUN_STATS    file for the summary; %p in it is the process
 *	HMM_RUN_TRACE    for the trace; without %p other processes add their number to it
 *	HMM_RUN_PID      the process that `hmm run` became: without %p only that one writes
 *			 a summary
 *	HMM_RUN_STARTED  when that was, CLOCK_REALTIME in ns
 *	HMM_RUN_QUIET    1: no message where the limit cannot be held
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

RUN_DATA struct run_config run_config = { .limit = 1 };

static bool copy(char *to, size_t size, const char *from, size_t len)
{
	if (len >= size)
		return false;
	memcpy(to, from, len);
	to[len] = 0;
	return true;
}

/* @path with the process in place of each %p; "": there is none. */
static void expand(char *to, size_t size, const char *path)
{
	size_t n = 0;
	char digits[24];

	to[0] = 0;
	if (!path)
		return;
	while (*path && n + sizeof(digits) < size) {
		unsigned int pid = (unsigned int)getpid(), i = 0;

		if (path[0] != '%' || path[1] != 'p') {
			to[n++] = *path++;
			continue;
		}
		do
			digits[i++] = (char)('0' + pid % 10);
		while (pid /= 10);
		while (i)
			to[n++] = digits[--i];
		path += 2;
	}
	to[n] = 0;
}

/* `hmm run' has seen that it is one. */
static uint64_t number(const char *text)
{
	static const char units[] = "KMGT";
	char *end;
	uint64_t value = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end & ~0x20) : NULL;

	return unit && *unit ? value << 10 * (unit - units + 1) : value;
}

bool run_option(const char *options, const char *name, uint64_t *value)
{
	size_t len = strlen(name);

	while (options && *options) {
		if (!strncmp(options, name, len) && options[len] == '=') {
			*value = number(options + len + 1);
			return true;
		}
		options = strchr(options, ',');
		options += options ? 1 : 0;
	}
	return false;
}

bool run_config_read(void)
{
	const char *limit = getenv("HMM_RUN_LIMIT"), *device = getenv("HMM_RUN_DEVICE");
	const char *pid = getenv("HMM_RUN_PID"), *quiet = getenv("HMM_RUN_QUIET");
	const char *stats = getenv("HMM_RUN_STATS"), *trace = getenv("HMM_RUN_TRACE");
	const char *started = getenv("HMM_RUN_STARTED");
	size_t len;

	if (!limit || !device)
		return false;
	run_config.limit = strtoull(limit, NULL, 10);
	len = strcspn(device, ",");
	if (!run_config.limit || !copy(run_config.device, sizeof(run_config.device), device, len) ||
	    !copy(run_config.options, sizeof(run_config.options), device + len,
		  strlen(device + len)))
		return false;
	if (run_config.options[0])
		memmove(run_config.options, run_config.options + 1, strlen(run_config.options));
	run_config.quiet = quiet && quiet[0] == '1';
	run_config.started = started ? strtoull(started, NULL, 10) : 0;
	run_config.first = !pid || atol(pid) == getpid();
	if (stats && !run_config.first && !strstr(stats, "%p"))
		stats = NULL;
	expand(run_config.stats, sizeof(run_config.stats), stats);
	expand(run_config.trace, sizeof(run_config.trace), trace);
	len = strlen(run_config.trace);
	if (len && !run_config.first && !strstr(trace, "%p"))
		expand(run_config.trace + len, sizeof(run_config.trace) - len, ".%p");
	return true;
}
