// SPDX-License-Identifier: MIT
/*
 * What does libhmm keep in memory, and what does it do when nothing happens?
 *
 *	mirrored	bytes for a page that a device mirrors, of a dense range: entries of
 *			the mirror's page table. Reference: 8 bytes
 *	mirrored_sparse	for one page of each 2 MiB: a directory each
 *	migrated	for a page that is in a device: the special entry, the mirror's, the
 *			page's descriptor (16) and its bit; not the device's own memory
 *	migrated_vma	the same by hmm_migrate_vma(), without a mirror
 *	fixed		for the first mirror of the process: threads, tables, staging's
 *	pool		system pages that are kept to be used again, once enough have moved
 *
 * as growth of what the process has resident but for the range itself; and then, of a
 * process that has 4 mirrors and 64 MiB in a device, and does nothing for two seconds:
 *
 *	idle_cpu	CPU time of all threads, microseconds a second
 *	idle_switches	context switches of all threads but the one that looks
 *
 * The same of a program that sleeps under "hmm run", if that is found beside this one: its
 * policy looks at the program from time to time, so that is not 0.
 */
#include "bench_tag.h"

#include <dirent.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES (256 * BENCH_MIB)
#define SPARSE (512 * BENCH_HUGE)
#define AWAY (64 * BENCH_MIB)
#define MIRRORS 4
#define IDLE_S 2

static size_t pages_of(size_t bytes)
{
	return bytes / bench_page_size();
}

static char *touched(size_t bytes, size_t step)
{
	char *range = bench_map(bytes, BENCH_SMALL);
	size_t at;

	for (at = 0; at < bytes; at += step)
		*(volatile uint64_t *)(range + at) = at / bench_page_size() + 1;
	return range;
}

static void result(const char *name, size_t before, size_t after, size_t pages, double ref,
		   const char *goal)
{
	double bytes = ((double)after - (double)before) / (double)pages;

	bench_result(name, bytes, "bytes", ref > 0 ? bytes / ref : 0, goal,
		     "pages=%zu ref_value=%g", pages, ref);
}

/* One fault elsewhere, so that what is there but once is there. */
static struct bench_tag *warm(size_t memory)
{
	struct bench_tag *tag = bench_tag_open(memory);
	char *range = touched(BENCH_HUGE, bench_page_size());

	bench_tag_event(tag, HMM_DEVICE_RFAULT, range, BENCH_HUGE, pages_of(BENCH_HUGE));
	return tag;
}

static void fixed(void)
{
	size_t before = bench_rest_bytes(NULL, 0);

	bench_tag_open(0);
	result("lean_fixed", before, bench_rest_bytes(NULL, 0), 1, 0, "none");
}

static void mirrored(void)
{
	struct bench_tag *tag = warm(0);
	char *range = touched(BYTES, bench_page_size());
	size_t before = bench_rest_bytes(range, BYTES);

	bench_tag_event(tag, HMM_DEVICE_RFAULT, range, BYTES, pages_of(BYTES));
	result("lean_mirrored", before, bench_rest_bytes(range, BYTES), pages_of(BYTES), 8,
	       "<=1.05");
}

static void mirrored_sparse(void)
{
	struct bench_tag *tag = warm(0);
	char *range = touched(SPARSE, BENCH_HUGE);
	size_t before = bench_rest_bytes(range, SPARSE), at;

	for (at = 0; at < SPARSE; at += BENCH_HUGE)
		bench_tag_event(tag, HMM_DEVICE_RFAULT, range + at, bench_page_size(), 1);
	result("lean_mirrored_sparse", before, bench_rest_bytes(range, SPARSE), SPARSE / BENCH_HUGE,
	       0, "none");
}

static int take(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
		unsigned long start, unsigned long end)
{
	struct bench_tag *tag = migrate->cookie;
	size_t i;

	for (i = 0; i < pages_of(end - start); i++) {
		struct hmm_page *page = src[i] ? hmm_devmem_alloc(&tag->devmem) : NULL;

		if (!page)
			continue;
		page->data = hmm_pte_test_valid(src[i]) ?
				     *(uint64_t *)(uintptr_t)hmm_pte_addr(src[i]) :
				     0;
		dst[i] = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
	}
	return 0;
}

static const struct hmm_migrate_ops take_ops = {
	.size = sizeof(take_ops),
	.version = HMM_MIGRATE_OPS_VERSION,
	.alloc_and_copy = take,
};

static void away(struct bench_tag *tag, char *range, size_t bytes, bool vma)
{
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.device = &tag->device,
		.ops = &take_ops,
		.start = (uintptr_t)range,
		.end = (uintptr_t)range + bytes,
		.cookie = tag,
	};

	if (!vma)
		bench_tag_event(tag, HMM_COPY_TO_DEVICE, range, bytes, pages_of(bytes));
	else if (hmm_migrate_vma(&migrate) || migrate.pages != pages_of(bytes))
		bench_fail("hmm_migrate_vma: %lu pages", migrate.pages);
	bench_dev_expect(range, bytes, HMM_WHERE_DEVICE);
}

/* The pool is filled by something else before. */
static void migrated(const char *name, bool vma)
{
	char *range = touched(BYTES, bench_page_size()), *other = touched(AWAY, bench_page_size());
	struct bench_tag *tag = bench_tag_open(AWAY);
	size_t before = bench_rest_bytes(range, BYTES), at;

	hmm_set_pool(32 * BENCH_MIB); /* what would be offered to the kernel counts as resident */
	away(tag, other, AWAY, vma);
	if (!vma)
		result("lean_pool", before + pages_of(AWAY) * (8 + 8 + 16),
		       bench_rest_bytes(range, BYTES) + AWAY, 1, 0, "none");
	before = bench_rest_bytes(range, BYTES);
	tag = bench_tag_open(BYTES);
	away(tag, range, BYTES, vma);
	result(name, before, bench_rest_bytes(range, BYTES), pages_of(BYTES), 8, "none");
	for (at = 0; at < BYTES; at += BENCH_HUGE)
		bench_tag_check(range + at, pages_of(at) + 1, "after it was away");
}

static void migrated_by_mirror(void)
{
	migrated("lean_migrated", false);
}

static void migrated_by_vma(void)
{
	migrated("lean_migrated_vma", true);
}

/* ---- when nothing happens ---- */

struct idle {
	uint64_t cpu_ns;
	unsigned long switches;
};

/* Of all threads of a process but @but: from /proc, so that it costs them nothing. */
static struct idle idle_read(pid_t pid, pid_t but)
{
	struct idle idle = { 0 };
	struct dirent *entry;
	char path[320], line[256];
	unsigned long n;
	FILE *f;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == but)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, entry->d_name);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
			    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
				idle.switches += n;
		if (f)
			fclose(f);
		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, entry->d_name);
		f = fopen(path, "re");
		if (f && fscanf(f, "%lu", &n) == 1)
			idle.cpu_ns += n;
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return idle;
}

static void idle_watch(const char *name, pid_t pid, pid_t but, const char *goal)
{
	struct timespec ts = { .tv_sec = IDLE_S };
	struct idle before = idle_read(pid, but), after;
	char line[64];

	nanosleep(&ts, NULL);
	after = idle_read(pid, but);
	snprintf(line, sizeof(line), "%s_cpu", name);
	bench_result(line, (double)(after.cpu_ns - before.cpu_ns) / 1000 / IDLE_S, "us/s",
		     (double)(after.cpu_ns - before.cpu_ns) / 1e9 / IDLE_S, goal, "ref=one_cpu");
	snprintf(line, sizeof(line), "%s_switches", name);
	bench_result(line, (double)(after.switches - before.switches) / IDLE_S, "1/s",
		     (double)(after.switches - before.switches), goal, "seconds=%d", IDLE_S);
}

/* Mirrors that were used, memory that is away, an event that was heard. */
static void idle_process(void)
{
	char *range = touched(2 * AWAY, bench_page_size());
	struct timespec settle = { .tv_nsec = 500000000 };
	struct bench_tag *tag[MIRRORS];
	int i;

	for (i = 0; i < MIRRORS; i++) {
		tag[i] = bench_tag_open(i ? 0 : AWAY);
		bench_tag_event(tag[i], HMM_DEVICE_RFAULT, range, AWAY, pages_of(AWAY));
	}
	away(tag[0], range + AWAY, AWAY, false);
	madvise(range, BENCH_HUGE, MADV_DONTNEED);
	if (*(volatile uint64_t *)(range + AWAY) != pages_of(AWAY) + 1)
		bench_fail("wrong data");
	nanosleep(&settle, NULL);
	idle_watch("lean_idle", getpid(), (pid_t)gettid(), "<=0");
	bench_unmap(range, 2 * AWAY);
	for (i = 0; i < MIRRORS; i++)
		bench_tag_close(tag[i]);
}

/* The program hmm of the same build; false: it is not there. */
static bool hmm_program(char *path, size_t size)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return false;
	self[n] = '\0';
	snprintf(path, size, "%s/../tools/hmm/hmm", dirname(self));
	return !access(path, X_OK);
}

static void idle_run(void)
{
	struct timespec settle = { .tv_sec = 1 };
	char path[PATH_MAX + 32];
	pid_t pid;

	if (!hmm_program(path, sizeof(path))) {
		printf("# lean_idle_run: left out, there is no program hmm\n");
		return;
	}
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl(path, "hmm", "run", "--limit=64M", "--", "sleep", "60", (char *)NULL);
		_exit(127);
	}
	nanosleep(&settle, NULL);
	idle_watch("lean_idle_run", pid, 0, "none");
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
}

/* In a process of its own: what another has freed would be used again, and not grow. */
static int in_child(void (*fn)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		fn();
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		bench_fail("fork");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(void)
{
	static void (*const all[])(void) = {
		fixed, mirrored, mirrored_sparse, migrated_by_mirror, migrated_by_vma, idle_process,
	};
	int ret = 0;
	size_t i;

	bench_hmm_probe();
	bench_header("lean", "%lu MiB", BYTES / BENCH_MIB);
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		ret |= in_child(all[i]);
	idle_run();
	return ret;
}
