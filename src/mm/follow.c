/* SPDX-License-Identifier: MIT */
/*
 * Which CPU the monitor runs on.
 *
 * A message wakes the monitor where it ran last, or on some CPU that is idle, and a CPU that is
 * idle takes long to wake: in a virtual machine twenty times what the answer itself costs. The
 * thread that sent the message meanwhile leaves its own CPU free. So while messages come in a
 * row, and from one CPU, the monitor is bound to that:
 *
 *	         ROW messages, none PAUSE after the one before; a look
 *	free ────────────────────────────────────────────────────────────► bound to a CPU
 *	  ▲                                                                    │
 *	  │ a look finds them on another; the next message after a PAUSE       │
 *	  └─────────────────────────────────────────────────────────────────────┘
 *
 * Where threads on several CPUs fault at once the scheduler does better than any binding
 * (bench/wake), so after a look that disagrees it takes AGREE of them that agree, or a PAUSE.
 *
 * It looks no more than once in LOOK_NS. A fault says which thread it is of, and /proc where that
 * thread runs; who calls our munmap(), madvise() or mremap() has left its CPU with us (@cpu).
 *
 * Only CPUs that the thread was allowed to use are taken: the mask that it had before is what
 * it has again when it is free. A mask that is neither that nor ours was set by somebody else,
 * and is the new one to be kept. Who wants the monitor on certain CPUs sets its mask (the
 * thread is called hmm-monitor), and a mask of one CPU leaves nothing to follow. An error, of a
 * sandbox for one, ends all of this: the scheduler decides, as it would have.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/mm.h"

#define ROW 16u
#define AGREE 4u
/* By a clock that ticks every few milliseconds, and costs little to read. */
#define PAUSE_NS 20000000ull
#define LOOK_NS 1000000ull

#define MASK_BITS (8 * sizeof(unsigned long))
#define STAT_CPU 36 /* of the fields of /proc/PID/task/TID/stat, from the state on, from 0 */

static bool mask_has(const struct follow_mask *mask, int cpu)
{
	return cpu >= 0 && (size_t)cpu < FOLLOW_CPUS &&
	       mask->bits[(size_t)cpu / MASK_BITS] >> ((size_t)cpu % MASK_BITS) & 1;
}

/* The system calls: libc's would be the sanitizers', which take locks. */
static bool mask_get(struct follow_mask *mask)
{
	memset(mask, 0, sizeof(*mask));
	return syscall(SYS_sched_getaffinity, 0, sizeof(mask->bits), mask->bits) > 0;
}

static bool mask_set(const struct follow_mask *mask)
{
	return !syscall(SYS_sched_setaffinity, 0, sizeof(mask->bits), mask->bits);
}

static void mask_one(struct follow_mask *mask, int cpu)
{
	memset(mask, 0, sizeof(*mask));
	mask->bits[(size_t)cpu / MASK_BITS] = 1ul << ((size_t)cpu % MASK_BITS);
}

/* The CPU that a thread of ours runs on, or ran on last; -1: it cannot be told. */
static int thread_cpu(uint32_t tid)
{
	char path[48], stat[512], *at;
	unsigned int i;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%u/stat", tid);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = syscall(SYS_read, fd, stat, sizeof(stat) - 1);
	syscall(SYS_close, fd);
	if (n <= 0)
		return -1;
	stat[n] = '\0';
	at = strrchr(stat, ')'); /* the name may have anything in it */
	for (i = 0; at && i <= STAT_CPU; i++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -1;
}

static void follow_free(struct follow *follow)
{
	struct follow_mask now;

	if (follow->cpu < 0)
		return;
	if (mask_get(&now) && !memcmp(&now, &follow->bound, sizeof(now)))
		mask_set(&follow->base);
	follow->cpu = -1;
}

static void follow_bind(struct follow *follow, int cpu)
{
	struct follow_mask now, one;

	if (!mask_get(&now)) {
		follow->off = true;
		return;
	}
	if (follow->cpu < 0 || memcmp(&now, &follow->bound, sizeof(now)))
		follow->base = now;
	if (!mask_has(&follow->base, cpu))
		return;
	mask_one(&one, cpu);
	if (!mask_set(&one)) {
		follow_free(follow);
		follow->off = true;
		return;
	}
	/* As the kernel gives it back, who may know of fewer CPUs. */
	if (!mask_get(&follow->bound))
		follow->bound = one;
	follow->cpu = cpu;
}

void follow_init(struct follow *follow)
{
	*follow = (struct follow){ .cpu = -1, .seen = -1, .wanted = 1 };
}

/* Messages come from @cpu. */
static void follow_look(struct follow *follow, int cpu)
{
	follow->agreed = cpu == follow->seen ? follow->agreed + 1 : 1;
	follow->seen = cpu;
	if (cpu == follow->cpu)
		return;
	if (follow->cpu >= 0) {
		follow_free(follow);
		follow->wanted = AGREE;
	} else if (follow->agreed >= follow->wanted) {
		follow_bind(follow, cpu);
	} else if (follow->agreed == 1) {
		follow->wanted = AGREE;
	}
}

static uint64_t tick_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void follow_message(struct follow *follow, uint32_t tid, int cpu)
{
	uint64_t now;

	if (follow->off)
		return;
	now = tick_ns();
	if (now - follow->last > PAUSE_NS) {
		follow->row = 0;
		follow->wanted = 1;
		follow_free(follow);
	}
	follow->last = now;
	if (++follow->row < ROW || now - follow->looked < LOOK_NS)
		return;
	follow->looked = now;
	if (tid)
		cpu = thread_cpu(tid);
	if (cpu >= 0)
		follow_look(follow, cpu);
}
