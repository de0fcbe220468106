/* SPDX-License-Identifier: MIT */
/*
 * Whether the monitor goes to sleep when it has answered.
 *
 * A message wakes the monitor where it ran last. Is that the CPU of the thread that sent it, then
 * the one leaves it to the other, and nothing is lost. Is it another one, which is idle then, it
 * has to wake up first: in a virtual machine that takes twenty times what the answer costs. And
 * the scheduler keeps the two apart once they are: who is woken goes to the idle CPU, whichever
 * of them is moved to the other's (bench/wake). So while messages come in quick succession from
 * another CPU the monitor does not sleep between them, but looks for the next one for a while:
 *
 *	asleep ── message ──► answers ──► looks, SPIN_NS at most ── message ──► answers …
 *	  ▲                      │           │
 *	  └──────────────────────┴───────────┘ not in a row; of its own CPU; in vain lately; somebody
 *	                                       else wants this CPU
 *
 * The thread that waits for the answer has its own CPU go idle meanwhile. Where this process may
 * hold /dev/cpu_dma_latency (as root, as a rule), it does so as long as messages come like that, one
 * in SELDOM_NS or more, and REST_MS more: idle CPUs then stay awake.
 *
 * In a row: ROW messages, none more than PAUSE_NS after the one before. Where they come from it
 * finds out once in LOOK_NS: a fault says which thread it is of, and that thread's rseq area, which
 * the C library has registered, where it runs; who calls our munmap(), madvise() or mremap() has
 * left his CPU (@cpu). Who wants this CPU shows by involuntary switches since the last time. Each
 * look for a message that is in vain doubles the number of messages, up to VAIN_MAX, after which
 * the monitor just goes to sleep; so what is wasted is bounded, also where messages are never
 * quick enough. A process that sends none costs nothing.
 *
 * That area is found as keep.c finds descriptors: at a fixed distance from the list of robust
 * mutexes. It is read through /proc/self/mem, which fails where a page is away: the monitor must
 * not wait for itself. What cannot be found out lets the monitor sleep.
 *
 * Nothing is opened here but at the start: a program may count on the number that the next open()
 * gives. A child of fork() has the description of cpu_dma_latency too, so what is asked for is
 * taken back by writing.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/mm.h"

#define ROW 16u
/* By a clock that ticks every few milliseconds, and costs little to read. */
#define PAUSE_NS 20000000ull
#define LOOK_NS 1000000ull
#define SPIN_NS 50000ull
#define REST_MS 20
#define LATENCY_ANY (-1) /* see the kernel's pm_qos_interface.rst */
#define VAIN_MAX 255u
#define SELDOM_NS 1000000ull
#define SWITCHES_MAX 2 /* between two looks: a tick, an interrupt's thread */

/* Since glibc 2.35; NULL elsewhere. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
#define RSEQ_CPU_ID 4

/* The CPU that a thread of ours runs on, or ran on last; -1: it cannot be told. */
static int thread_cpu(const struct follow *follow, uint32_t tid)
{
	unsigned long head;
	size_t len;
	int32_t cpu;

	if (!follow->rseq || syscall(SYS_get_robust_list, tid, &head, &len) || !head ||
	    pread(follow->mem, &cpu, sizeof(cpu), (off_t)(head + follow->rseq)) != sizeof(cpu))
		return -1;
	return cpu;
}

/* From a thread's list of robust mutexes to where its CPU is; 0: there is no such place. */
static unsigned long rseq_distance(void)
{
	unsigned long head, self = (unsigned long)__builtin_thread_pointer();
	size_t len;

	if (!&__rseq_offset || syscall(SYS_get_robust_list, 0, &head, &len) || !head)
		return 0;
	return self + (unsigned long)__rseq_offset + RSEQ_CPU_ID - head;
}

void follow_init(struct follow *follow)
{
	*follow = (struct follow){
		.mem = hmm_fd_keep(open("/proc/self/mem", O_RDONLY | O_CLOEXEC)),
		.latency = hmm_fd_keep(open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC)),
	};
	if (follow->mem >= 0)
		follow->rseq = rseq_distance();
}

/* Idle CPUs stay awake, or need not. */
static void follow_latency(struct follow *follow, int32_t us)
{
	follow->awake = follow->latency >= 0 &&
			write(follow->latency, &us, sizeof(us)) == sizeof(us) && !us;
}

void follow_rest(struct follow *follow)
{
	if (follow->awake)
		follow_latency(follow, LATENCY_ANY);
}

void follow_exit(struct follow *follow)
{
	follow_rest(follow);
	if (follow->mem >= 0)
		hmm_fd_close(follow->mem);
	if (follow->latency >= 0)
		hmm_fd_close(follow->latency);
}

int follow_timeout(const struct follow *follow)
{
	return follow->awake ? REST_MS : -1;
}

static bool follow_wanted(struct follow *follow)
{
	struct rusage usage;
	long before = follow->switches;

	if (syscall(SYS_getrusage, RUSAGE_THREAD, &usage))
		return true;
	follow->switches = usage.ru_nivcsw;
	return usage.ru_nivcsw - before > SWITCHES_MAX;
}

/* Messages come from @cpu, and @often. */
static void follow_look(struct follow *follow, int cpu, bool often)
{
	unsigned int here;

	follow->apart = !follow_wanted(follow) && cpu >= 0 &&
			!syscall(SYS_getcpu, &here, NULL, NULL) && (int)here != cpu;
	if (follow->apart && often && !follow->awake)
		follow_latency(follow, 0);
	else if (!follow->apart || !often)
		follow_rest(follow);
}

static uint64_t tick_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t follow_message(struct follow *follow, uint32_t tid, int cpu)
{
	uint64_t now = tick_ns();
	bool often;

	if (now - follow->last > PAUSE_NS) {
		follow->row = follow->counted = 0;
		follow->apart = false;
		follow_rest(follow);
	}
	follow->last = now;
	if (++follow->row < ROW)
		return 0;
	if (now - follow->looked >= LOOK_NS) {
		often = (follow->row - follow->counted) * SELDOM_NS >= now - follow->looked;
		follow->looked = now;
		follow->counted = follow->row;
		follow_look(follow, tid ? thread_cpu(follow, tid) : cpu, often);
	}
	if (!follow->apart)
		return 0;
	if (follow->skip) {
		follow->skip--;
		return 0;
	}
	return SPIN_NS;
}

void follow_spun(struct follow *follow, bool in_vain)
{
	if (!in_vain)
		follow->vain /= 2;
	else if (follow->vain < VAIN_MAX)
		follow->vain = follow->vain * 2 + 1;
	follow->skip = in_vain ? follow->vain : 0;
}
