// SPDX-License-Identifier: MIT
/*
 * What does `hmm run` cost a program?
 *
 * The same small program, this one, runs plain and under `hmm run`, in turn, as a whole
 * process each: nothing at all (what it takes to start); one that fits its limit, and should
 * not be slowed; and three that need twice their limit: passes from front to back, words at
 * random, and a merge sort. They have what a program builds by malloc() in their memory. What
 * comes out must be the same.
 *
 * The kernel's way to do this, where it may be measured (bench_zram.h): a memory cgroup with
 * the same limit, and zram as swap. There the limit is on page tables and the like too.
 */
#include "bench_lz4.h"
#include "bench_zram.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_MIB 64
#define LIMIT "64M"
#define FITS (48 * BENCH_MIB)
#define LARGE (128 * BENCH_MIB)
#define ROUNDS 3
#define CHUNK (128ul << 10)
#define DISK (1024 * BENCH_MIB)

enum how { PLAIN, HMM, ZRAM, HOWS };

static char self[PATH_MAX], hmm_path[PATH_MAX + 32];
static char cgroup[64]; /* "": none */

/* ---- the programs ---- */

/* Memory as a program gets it: many pieces by malloc(). */
static uint64_t **pieces_new(size_t bytes)
{
	uint64_t **piece = calloc(bytes / CHUNK, sizeof(*piece)), state = 88172645463325252ull;
	size_t i;

	for (i = 0; piece && i < bytes / CHUNK; i++) {
		piece[i] = malloc(CHUNK);
		if (!piece[i])
			exit(1);
		bench_heap((char *)piece[i], CHUNK, &state);
	}
	return piece;
}

static uint64_t passes(size_t bytes, unsigned int n)
{
	uint64_t **piece = pieces_new(bytes), sum = 0;
	size_t i, k;

	while (n--)
		for (i = 0; i < bytes / CHUNK; i++)
			for (k = 0; k < CHUNK / 8; k++)
				sum = sum * 31 + piece[i][k];
	return sum;
}

static uint64_t at_random(size_t bytes, unsigned int n)
{
	uint64_t **piece = pieces_new(bytes), sum = 0, state = 12345;

	while (n--) {
		uint64_t r = bench_random(&state);

		sum = sum * 31 + piece[r % (bytes / CHUNK)][(r >> 32) % (CHUNK / 8)]++;
	}
	return sum;
}

static uint64_t merge_sort(size_t bytes)
{
	size_t n = bytes / 16, width, i, a, b, out;
	uint64_t *from = malloc(n * 8), *to = malloc(n * 8), *swap, state = 7;

	if (!from || !to)
		exit(1);
	for (i = 0; i < n; i++)
		from[i] = bench_random(&state) >> 40;
	for (width = 1; width < n; width *= 2) {
		for (i = 0; i < n; i += 2 * width) {
			size_t middle = i + width < n ? i + width : n;
			size_t end = i + 2 * width < n ? i + 2 * width : n;

			for (a = i, b = middle, out = i; out < end; out++)
				to[out] = a < middle && (b == end || from[a] <= from[b]) ?
						  from[a++] :
						  from[b++];
		}
		swap = from;
		from = to;
		to = swap;
	}
	for (i = 1; i < n; i++)
		if (from[i - 1] > from[i])
			exit(1);
	return from[n / 2];
}

static int work(const char *what)
{
	uint64_t sum = 0;

	if (!strcmp(what, "fits"))
		sum = passes(FITS, 30);
	else if (!strcmp(what, "passes"))
		sum = passes(LARGE, 4);
	else if (!strcmp(what, "random"))
		sum = at_random(LARGE, 50000);
	else if (!strcmp(what, "sort"))
		sum = merge_sort(LARGE);
	printf("%llx\n", (unsigned long long)sum);
	return 0;
}

/* ---- running them ---- */

static bool put(const char *dir, const char *name, const char *text)
{
	char path[128];
	int fd;
	bool good;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return good;
}

static void cgroup_end(void)
{
	if (cgroup[0])
		rmdir(cgroup);
	cgroup[0] = 0;
}

static bool cgroup_make(const char *parent, const char *limit, const char *value)
{
	snprintf(cgroup, sizeof(cgroup), "%s/hmm-bench-%d", parent, (int)getpid());
	if (!mkdir(cgroup, 0755)) {
		if (put(cgroup, limit, value))
			return true;
		rmdir(cgroup);
	}
	cgroup[0] = 0;
	return false;
}

/* NULL: there is one, of cgroup v2 or v1; else why not. */
static const char *cgroup_begin(void)
{
	char bytes[32];

	snprintf(bytes, sizeof(bytes), "%lu", LIMIT_MIB * BENCH_MIB);
	if (!cgroup_make("/sys/fs/cgroup", "memory.max", bytes) &&
	    !cgroup_make("/sys/fs/cgroup/memory", "memory.limit_in_bytes", bytes))
		return "no memory cgroup to be had";
	atexit(cgroup_end);
	return NULL;
}

static void child(enum how how, const char *what, int out)
{
	dup2(out, 1);
	if (how == ZRAM && !put(cgroup, "cgroup.procs", "0"))
		_exit(126);
	if (how == HMM)
		execl(hmm_path, "hmm", "run", "--limit=" LIMIT, "--", self, "work", what, NULL);
	else
		execl(self, "run", "work", what, NULL);
	_exit(127);
}

/* Milliseconds; @text is what it said. */
static double timed(enum how how, const char *what, char *text, size_t size)
{
	int out[2], status;
	uint64_t t0 = bench_ns();
	ssize_t n;
	pid_t pid;

	if (pipe(out))
		bench_fail("pipe");
	pid = fork();
	if (!pid) {
		close(out[0]);
		child(how, what, out[1]);
	}
	close(out[1]);
	n = read(out[0], text, size - 1);
	text[n > 0 ? n : 0] = 0;
	close(out[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status || n <= 0)
		bench_fail("%s did not end well", what);
	return (double)(bench_ns() - t0) / 1e6;
}

static double ratio(const double *a, const double *b)
{
	double r[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		r[i] = a[i] / b[i];
	return bench_median(r, ROUNDS);
}

static void measure(const char *what, const char *goal, bool zram)
{
	double ms[HOWS][ROUNDS], vs_zram = 0;
	char want[32], got[32], name[32];
	int round;
	enum how how;

	timed(PLAIN, what, want, sizeof(want));
	for (round = 0; round < ROUNDS; round++) {
		for (how = PLAIN; how < HOWS; how++) {
			if (how == ZRAM && !zram)
				continue;
			ms[how][round] = timed(how, what, got, sizeof(got));
			if (strcmp(got, want))
				bench_fail("%s: %s, not %s", what, got, want);
		}
	}
	if (zram)
		vs_zram = ratio(ms[HMM], ms[ZRAM]);
	snprintf(name, sizeof(name), "run_%s", what);
	bench_result(name, bench_median(ms[HMM], ROUNDS), "ms", ratio(ms[HMM], ms[PLAIN]), goal,
		     zram ? "ref=plain ref_value=%.3f zram_ms=%.3f vs_zram=%.3f" :
			    "ref=plain ref_value=%.3f",
		     bench_median(ms[PLAIN], ROUNDS), zram ? bench_median(ms[ZRAM], ROUNDS) : 0.0,
		     vs_zram);
}

int main(int argc, char **argv)
{
	const char *why;
	char dir[PATH_MAX];
	ssize_t n;

	if (argc == 3 && !strcmp(argv[1], "work"))
		return work(argv[2]);
	bench_hmm_probe();
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n <= 0)
		bench_fail("/proc/self/exe");
	memcpy(dir, self, (size_t)n + 1);
	snprintf(hmm_path, sizeof(hmm_path), "%s/../tools/hmm/hmm", dirname(dir));
	if (access(hmm_path, X_OK))
		bench_skip("the program hmm is not built");
	bench_header("run", "limit %d MiB, whole processes, %d rounds, medians", LIMIT_MIB, ROUNDS);
	why = cgroup_begin();
	why = why ? why : bench_zram_begin(DISK);
	if (why)
		printf("# zram skipped: %s\n", why);
	measure("start", "none", false);
	measure("fits", "<=1.05", false);
	measure("passes", "none", !why);
	measure("random", "none", !why);
	measure("sort", "none", !why);
	return 0;
}
