/* SPDX-License-Identifier: MIT */
/* Programs under `hmm run`, seen from outside: found, and their counters read. */
#ifndef HMM_WATCH_H
#define HMM_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <hmm/run_stats.h>

/**
 * struct watched - a process under `hmm run`
 * @pid: the process, as it is called here
 * @fd: what its counters are read from; -1: nothing
 * @base: at which place there
 * @inode: of what is read; where it is another, the process has begun another program
 * @number: of the descriptor in the process; -1: read from its memory
 */
struct watched {
	pid_t pid;
	int fd;
	off_t base;
	ino_t inode;
	int number;
};

/*
 * 0; -ESRCH there is no such process; -EACCES this user may not look into it; -ENOENT it is
 * not under `hmm run`; -EPROTO it is, of another version.
 */
int watched_open(struct watched *w, pid_t pid);
void watched_close(struct watched *w);

/*
 * The counters now. *@restarted: the process has begun another program since the last call,
 * and they began at 0. Return: as watched_open().
 */
int watched_read(struct watched *w, struct hmm_run_stats *stats, bool *restarted);

/* @bytes at @offset of the shared file: false: they cannot be read. */
bool watched_bytes(const struct watched *w, uint64_t offset, void *buf, size_t bytes);

/* All that this user may look into, sorted by process number; *@pids is to be freed. */
size_t watched_list(pid_t **pids);

/* What watched_open() returned, in words. */
const char *watched_error(int error);

/* The command line, or else the name, in a line; "?" if it is not to be had. */
void watched_command(pid_t pid, char *buf, size_t size);
const char *watched_state(const struct hmm_run_stats *stats);

/* ---- rates.c ---- */

/**
 * struct rates - what happened between two looks
 * @seconds: between them
 * @faults: a second
 * @migrations: a second
 * @out: bytes a second that went to the device
 * @back: bytes a second that came back
 * @waits: a second, of threads for room
 * @p50: of the faults' time, ns; 0: there was none
 * @p99: the same
 */
struct rates {
	double seconds;
	double faults;
	double migrations;
	double out;
	double back;
	double waits;
	double p50;
	double p99;
};

/* @before NULL: since the program began. */
void rates_between(struct rates *rates, const struct hmm_run_stats *before,
		   const struct hmm_run_stats *now, double seconds);
/* The seconds since the program began. */
double rates_age(const struct hmm_run_stats *stats);

#endif
