// SPDX-License-Identifier: MIT
/*
 * Who should answer a fault, and where?
 *
 * Bare userfaultfd loops, one for each way that a library could take, and libhmm:
 *
 *	free	a thread waits in read(), the scheduler places it
 *	bound	the same, bound to the CPU of the first of the threads that fault
 *	latency	as free, with /dev/cpu_dma_latency held at 0: idle CPUs stay awake
 *	spin	a thread reads without ever sleeping
 *	signal	UFFD_FEATURE_SIGBUS: each thread answers its own faults, in a handler
 *	hmm	what libhmm does (src/mm/follow.c), of pages on a coherent dummy device
 *
 * One, two and four threads read pages of their own, each bound to a CPU of its own as far as
 * there are any. Printed is the median time of a fault, beside a native anonymous write fault
 * of the same threads; how many faults all threads had in a second (value_rate); the CPU time
 * of the whole process for one (cpu_us); and the CPU time that the way takes while nobody
 * faults, in percent (idle_percent).
 *
 * A system call that meets such a page fails with EFAULT in the way of the signal.
 */
#include "bench_hmm.h"
#include "bench_uffd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGES 1024ul /* of each thread */
#define THREADS_MAX 4u
#define ROUNDS 5
#define IDLE_NS 20000000

enum way { NATIVE, FREE, BOUND, LATENCY, SPIN, SIGNAL, HMM, WAYS };

static const char *const way_name[WAYS] = { "native", "free",	"bound", "latency",
					    "spin",   "signal", "hmm" };

static struct {
	enum way way;
	unsigned int threads;
	size_t bytes; /* of all */
	char *range;
	char *source;
	char *device; /* what goes to the device and comes back */
	struct bench_dev dev;
	int fd;
	bool stop; /* atomic */
	pthread_barrier_t begin;
	double sample[THREADS_MAX * PAGES];
} wake;

static void cpu_bind(pthread_t thread, unsigned int nr)
{
	cpu_set_t all, one;
	int cpu, n;

	sched_getaffinity(0, sizeof(all), &all);
	n = CPU_COUNT(&all);
	nr %= (unsigned int)n;
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && !nr--)
			break;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

static void answer(unsigned long addr)
{
	unsigned long page = bench_page_size();
	struct uffdio_copy copy = { .dst = addr & ~(page - 1), .len = page };

	copy.src = (uintptr_t)wake.source + (copy.dst - (uintptr_t)wake.range);
	if (ioctl(wake.fd, UFFDIO_COPY, &copy))
		bench_fail("UFFDIO_COPY: %s", strerror(errno));
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	answer((unsigned long)info->si_addr);
}

static void *monitor_main(void *arg)
{
	struct uffd_msg msg;
	bool last = false;

	(void)arg;
	while (!last) {
		if (read(wake.fd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		last = __atomic_load_n(&wake.stop, __ATOMIC_RELAXED) &&
		       msg.arg.pagefault.address - (uintptr_t)wake.range < bench_page_size();
		answer(msg.arg.pagefault.address);
	}
	return NULL;
}

static void *fault_main(void *arg)
{
	size_t nr = (uintptr_t)arg, page = bench_page_size(), i;
	volatile char *range = (wake.way == HMM ? wake.device : wake.range) + nr * PAGES * page;
	double *sample = wake.sample + nr * PAGES;
	uint64_t t0;

	pthread_barrier_wait(&wake.begin);
	for (i = 0; i < PAGES; i++) {
		volatile char *at = range + i * 509 % PAGES * page; /* in no order */

		t0 = bench_ns();
		if (wake.way == NATIVE)
			*at = 7;
		else if (*at != 7)
			bench_fail("wrong data after a fault");
		sample[i] = (double)(bench_ns() - t0) / 1000;
	}
	return NULL;
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct result {
	double p50, rate, cpu, idle;
};

/* All threads through all their pages once. */
static void faults(struct result *result)
{
	pthread_t thread[THREADS_MAX];
	uint64_t t0, cpu;
	unsigned int i;

	madvise(wake.range, wake.bytes, MADV_DONTNEED);
	pthread_barrier_init(&wake.begin, NULL, wake.threads + 1);
	for (i = 0; i < wake.threads; i++) {
		if (pthread_create(&thread[i], NULL, fault_main, (void *)(uintptr_t)i))
			bench_fail("pthread_create");
		cpu_bind(thread[i], i);
	}
	cpu = cpu_ns();
	t0 = bench_ns();
	pthread_barrier_wait(&wake.begin);
	for (i = 0; i < wake.threads; i++)
		pthread_join(thread[i], NULL);
	result->rate = (double)(wake.threads * PAGES) * 1e9 / (double)(bench_ns() - t0);
	result->cpu = (double)(cpu_ns() - cpu) / 1000 / (double)(wake.threads * PAGES);
	result->p50 = bench_median(wake.sample, wake.threads * PAGES);
	pthread_barrier_destroy(&wake.begin);
}

static double idle_percent(void)
{
	struct timespec pause = { .tv_nsec = IDLE_NS };
	uint64_t cpu = cpu_ns(), t0 = bench_ns();

	nanosleep(&pause, NULL);
	return (double)(cpu_ns() - cpu) * 100 / (double)(bench_ns() - t0);
}

static void uffd_up(void)
{
	struct bench_uffd u = { .fd = -1 };

	wake.fd = u.fd = bench_uffd_open(wake.way == SIGNAL ? UFFD_FEATURE_SIGBUS : 0);
	if (wake.way == SPIN)
		fcntl(u.fd, F_SETFL, O_NONBLOCK);
	bench_uffd_register(&u, wake.range, wake.bytes, UFFDIO_REGISTER_MODE_MISSING);
}

/* One last fault gets the monitor out of read(). */
static void monitor_end(pthread_t monitor)
{
	__atomic_store_n(&wake.stop, true, __ATOMIC_RELAXED);
	madvise(wake.range, bench_page_size(), MADV_DONTNEED);
	if (*(volatile char *)wake.range != 7)
		bench_fail("wrong data at the end");
	pthread_join(monitor, NULL);
	wake.stop = false;
}

static void measure(struct result *result)
{
	bool thread = wake.way >= FREE && wake.way <= SPIN;
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	pthread_t monitor;

	if (wake.way == HMM)
		bench_dev_migrate(&wake.dev, wake.device, wake.threads * PAGES * bench_page_size());
	else if (wake.way != NATIVE)
		uffd_up();
	if (wake.way == SIGNAL)
		sigaction(SIGBUS, &sa, NULL);
	if (thread && pthread_create(&monitor, NULL, monitor_main, NULL))
		bench_fail("pthread_create");
	if (wake.way == BOUND)
		cpu_bind(monitor, 0);
	faults(result);
	result->idle = idle_percent();
	if (thread)
		monitor_end(monitor);
	if (wake.way != NATIVE && wake.way != HMM)
		close(wake.fd);
	signal(SIGBUS, SIG_DFL);
}

static void report(enum way way, struct result result[WAYS][ROUNDS])
{
	double p50[ROUNDS], ratio[ROUNDS], rate[ROUNDS], cpu[ROUNDS], idle[ROUNDS];
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		const struct result *r = &result[way][i];

		p50[i] = r->p50;
		ratio[i] = r->p50 / result[NATIVE][i].p50;
		rate[i] = r->rate / 1000;
		cpu[i] = r->cpu;
		idle[i] = r->idle;
	}
	snprintf(name, sizeof(name), "wake_%s_%u", way_name[way], wake.threads);
	bench_result(name, bench_median(p50, ROUNDS), "us", bench_median(ratio, ROUNDS), "none",
		     "ref=native_write_fault kfaults_per_s=%.1f cpu_us=%.3f idle_percent=%.2f",
		     bench_median(rate, ROUNDS), bench_median(cpu, ROUNDS),
		     bench_median(idle, ROUNDS));
}

int main(void)
{
	static const unsigned int threads[] = { 1, 2, 4 };
	static struct result result[WAYS][ROUNDS];
	int latency = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC), way, round;
	bool may = latency >= 0;
	unsigned int i;

	bench_hmm_probe();
	bench_header("wake", "%lu pages a thread, %d rounds, medians", PAGES, ROUNDS);
	if (!may)
		printf("# latency: left out, /dev/cpu_dma_latency: %s\n", strerror(errno));
	else
		close(latency);
	wake.bytes = THREADS_MAX * PAGES * bench_page_size();
	wake.range = bench_map(wake.bytes, BENCH_SMALL);
	wake.source = bench_map(wake.bytes, BENCH_SMALL);
	memset(wake.source, 7, wake.bytes);
	wake.device = bench_map(wake.bytes, BENCH_SMALL);
	memset(wake.device, 7, wake.bytes);
	bench_dev_make(&wake.dev, wake.bytes, true);
	for (i = 0; i < sizeof(threads) / sizeof(*threads); i++) {
		wake.threads = threads[i];
		for (round = 0; round < ROUNDS; round++)
			for (way = 0; way < WAYS; way++) {
				wake.way = (enum way)way;
				if (way == LATENCY && !may)
					continue;
				latency = way == LATENCY ? open("/dev/cpu_dma_latency", O_WRONLY) :
							   -1;
				if (latency >= 0 && write(latency, &(int){ 0 }, 4) != 4)
					bench_fail("/dev/cpu_dma_latency: %s", strerror(errno));
				measure(&result[way][round]);
				if (latency >= 0)
					close(latency);
			}
		for (way = FREE; way < WAYS; way++)
			if (way != LATENCY || may)
				report((enum way)way, result);
	}
	bench_dev_close(&wake.dev);
	return 0;
}
