// SPDX-License-Identifier: MIT
/*
 * What every benchmark needs: see bench.h. Here is how: medians by sorting,
 * huge pages by smaps, placement by a child process with its own affinity mask,
 * which its threads inherit.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATTERN_STEP 0x9e3779b97f4a7c15ull

uint64_t bench_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

unsigned long bench_page_size(void)
{
	static unsigned long size;

	if (!size)
		size = (unsigned long)sysconf(_SC_PAGESIZE);
	return size;
}

const char *bench_placement_name(enum bench_placement placement)
{
	return placement == BENCH_SAME_CPU ? "same_cpu" : "free";
}

const char *bench_pages_name(enum bench_pages pages)
{
	return pages == BENCH_THP ? "thp" : "4k";
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_percentile(double *v, size_t n, double p)
{
	size_t i;

	if (!n)
		return 0;
	qsort(v, n, sizeof(*v), compare_double);
	i = (size_t)(p * (double)n);
	return v[i < n ? i : n - 1];
}

double bench_median(double *v, size_t n)
{
	double upper = bench_percentile(v, n, 0.5);

	return n && n % 2 == 0 ? (v[n / 2 - 1] + upper) / 2 : upper;
}

void bench_header(const char *what, const char *fmt, ...)
{
	struct utsname uts;
	cpu_set_t cpus;
	va_list ap;

	uname(&uts);
	CPU_ZERO(&cpus);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	printf("# %s: Linux %s, %d CPUs, ", what, uts.release, CPU_COUNT(&cpus));
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

/* A goal is a comparison sign and a number. */
static const char *goal_met(double ratio, const char *goal)
{
	if (!strncmp(goal, "<=", 2))
		return ratio <= strtod(goal + 2, NULL) ? "yes" : "no";
	if (!strncmp(goal, ">=", 2))
		return ratio >= strtod(goal + 2, NULL) ? "yes" : "no";
	return "none";
}

void bench_result(const char *name, double value, const char *unit, double ratio, const char *goal,
		  const char *extra, ...)
{
	va_list ap;

	printf("RESULT name=%s value=%.3f unit=%s ratio=%.3f goal=%s met=%s", name, value, unit,
	       ratio, goal, goal_met(ratio, goal));
	if (*extra) {
		printf(" ");
		va_start(ap, extra);
		vprintf(extra, ap);
		va_end(ap);
	}
	printf("\n");
	fflush(stdout);
}

void bench_skip(const char *fmt, ...)
{
	va_list ap;

	printf("# skipped: ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(0);
}

void bench_fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "bench: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

/* The first CPU that the process may use, alone. Returns how many there were. */
static int first_cpu(cpu_set_t *one)
{
	cpu_set_t all;
	int cpu = 0;

	CPU_ZERO(&all);
	if (sched_getaffinity(0, sizeof(all), &all))
		bench_fail("sched_getaffinity: %s", strerror(errno));
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(one);
	CPU_SET(cpu, one);
	return CPU_COUNT(&all);
}

int bench_run_placed(enum bench_placement placement, void (*fn)(enum bench_placement))
{
	cpu_set_t one;
	int cpus = first_cpu(&one);
	int status;
	pid_t pid;

	if (placement == BENCH_FREE && cpus < 2) {
		printf("# %s: left out, there is one CPU\n", bench_placement_name(placement));
		return 0;
	}
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bench_fail("fork: %s", strerror(errno));
	if (!pid) {
		if (placement == BENCH_SAME_CPU && sched_setaffinity(0, sizeof(one), &one))
			bench_fail("sched_setaffinity: %s", strerror(errno));
		fn(placement);
		exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		bench_fail("waitpid: %s", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

void *bench_map(size_t bytes, enum bench_pages pages)
{
	size_t span = bytes + 3 * BENCH_HUGE;
	char *base, *addr;

	base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		bench_fail("mmap %zu: %s", span, strerror(errno));
	addr = (char *)(((uintptr_t)base + 2 * BENCH_HUGE - 1) & ~(BENCH_HUGE - 1));
	if (addr - BENCH_HUGE > base)
		munmap(base, (size_t)(addr - BENCH_HUGE - base));
	if (addr + bytes + BENCH_HUGE < base + span)
		munmap(addr + bytes + BENCH_HUGE,
		       (size_t)(base + span - (addr + bytes + BENCH_HUGE)));
	if (mmap(addr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED)
		bench_fail("mmap %zu: %s", bytes, strerror(errno));
	madvise(addr, bytes, pages == BENCH_THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return addr;
}

void bench_unmap_guards(void *addr, size_t bytes)
{
	munmap((char *)addr - BENCH_HUGE, BENCH_HUGE);
	munmap((char *)addr + bytes, BENCH_HUGE);
}

void bench_unmap(void *addr, size_t bytes)
{
	munmap(addr, bytes);
	bench_unmap_guards(addr, bytes);
}

/* Add up a field of the mappings that lie within the range, or of all others. */
static size_t smaps_sum(const void *addr, size_t bytes, const char *field, bool within)
{
	uintptr_t lo = (uintptr_t)addr, hi = lo + bytes, start, end;
	bool counts = false;
	FILE *f = fopen("/proc/self/smaps", "re");
	size_t total = 0, len = strlen(field);
	char line[512];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			counts = (start >= lo && end <= hi) == within;
		else if (counts && !strncmp(line, field, len) && line[len] == ':')
			total += strtoul(line + len + 1, NULL, 10) << 10;
	}
	fclose(f);
	return total;
}

size_t bench_huge_bytes(const void *addr, size_t bytes)
{
	return smaps_sum(addr, bytes, "AnonHugePages", true);
}

size_t bench_rest_bytes(const void *addr, size_t bytes)
{
	return smaps_sum(addr, bytes, "Anonymous", false);
}

double bench_contiguous(const void *addr, size_t bytes)
{
	const uint64_t pfn_mask = (1ull << 55) - 1;
	size_t page = bench_page_size(), n = bytes / page, at, i, follow = 0, known = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry[512], last = 0;

	for (at = 0; fd >= 0 && at < n; at += 512) {
		size_t some = n - at < 512 ? n - at : 512;

		if (pread(fd, entry, some * 8, (off_t)((uintptr_t)addr / page + at) * 8) !=
		    (ssize_t)(some * 8))
			break;
		for (i = 0; i < some; i++) {
			uint64_t pfn = entry[i] & pfn_mask;

			known += pfn != 0;
			follow += pfn && pfn == last + 1;
			last = pfn;
		}
	}
	if (fd >= 0)
		close(fd);
	return known ? (double)follow / (double)known : -1;
}

uint64_t bench_word(size_t index, uint64_t seed)
{
	return (seed << 40) + (uint64_t)index * PATTERN_STEP;
}

void bench_fill(void *addr, size_t bytes, uint64_t seed)
{
	uint64_t *w = addr;
	size_t i;

	for (i = 0; i < bytes / sizeof(*w); i++)
		w[i] = bench_word(i, seed);
}

void bench_check(const void *addr, size_t bytes, uint64_t seed, const char *when)
{
	const uint64_t *w = addr;
	size_t i;

	for (i = 0; i < bytes / sizeof(*w); i++)
		if (w[i] != bench_word(i, seed))
			bench_fail("wrong data %s: word %zu is %#" PRIx64 ", not %#" PRIx64, when,
				   i, w[i], bench_word(i, seed));
}

void bench_shuffle(uint32_t *order, size_t n, uint64_t seed)
{
	uint64_t x = seed * 2 + 1;
	size_t i, j;

	for (i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (i = n; i > 1; i--) {
		uint32_t tmp;

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		j = (size_t)(x >> 33) % i;
		tmp = order[i - 1];
		order[i - 1] = order[j];
		order[j] = tmp;
	}
}
