// SPDX-License-Identifier: MIT
/*
 * Does memory that no device mirrors pay for memory that one does (G10)?
 *
 * A child process times calls on memory of its own: once when it is linked with
 * libhmm and has no mirror yet, and once more when it has
 *
 *	mirror	a mirror on the dummy device, and 64 MiB of other memory mirrored
 *	bare	the same 64 MiB watched by a bare userfaultfd, whose thread reads
 *		events and does nothing
 *	nothing	changed nothing
 *
 * The second time divided by the first is 1 where there is no difference. What "bare"
 * has too is the kernel's, or the C library's for having a thread (malloc takes locks);
 * what "nothing" has is noise. So the ratio that counts is that of "mirror" divided by
 * that of "bare", if that is more than 1; the two themselves are whole= and bare=. A child
 * process a round and kind, in turns; each call many times, p50.
 *
 * libhmm stands before libc's mprotect() and mremap() and has handlers for fork();
 * raw is the system call by hand. Calls are on 16 touched pages; fork, timed until
 * the child has exited, is of all memory, the 64 MiB included.
 */
#include "bench_hmm.h"
#include "bench_uffd.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define OTHER (64 * BENCH_MIB)
#define TOUCHED (8 * BENCH_MIB)
#define RESIDENT 16
#define CALLS 200
#define FORKS 12
#define TOUCHES 7
#define BLOCKS 256
#define ROUNDS 7

enum kind { NOTHING, BARE, MIRROR, KINDS };
enum call { TOUCH, UNMAP, DROP, PROTECT, PROTECT_RAW, MOVE, MOVE_RAW, HEAP, FORK, FORK_RAW, CALL };

static const char *const call_name[CALL] = {
	"first_touch", "munmap",     "dontneed", "mprotect", "mprotect_raw",
	"mremap",      "mremap_raw", "malloc",	 "fork",     "fork_raw",
};

/* Shared with the children. */
struct unmirrored {
	double us[2][CALL]; /* of one child: before and after */
	double before[ROUNDS][CALL], after[ROUNDS][CALL];
	double ratio[KINDS][CALL][ROUNDS];
};

static struct unmirrored *shared;

static char *map_touched(size_t bytes)
{
	char *range = bench_map(bytes, BENCH_SMALL);
	size_t at;

	for (at = 0; at < bytes; at += bench_page_size())
		*(volatile char *)(range + at) = 1;
	return range;
}

static double time_touch(void)
{
	char *range = bench_map(TOUCHED, BENCH_SMALL);
	uint64_t t0 = bench_ns(), t1;
	size_t at;

	for (at = 0; at < TOUCHED; at += bench_page_size())
		*(volatile char *)(range + at) = 1;
	t1 = bench_ns();
	bench_unmap(range, TOUCHED);
	return (double)(t1 - t0);
}

static bool protect(enum call call, char *range, size_t bytes, int prot)
{
	if (call == PROTECT)
		return !mprotect(range, bytes, prot);
	return !syscall(SYS_mprotect, range, bytes, prot);
}

static bool move(enum call call, char *range, size_t bytes, char *to)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	if (call == MOVE)
		return mremap(range, bytes, bytes, flags, to) == to;
	return syscall(SYS_mremap, range, bytes, bytes, flags, to) == (long)to;
}

static double time_call(enum call call)
{
	size_t bytes = RESIDENT * bench_page_size();
	char *range = map_touched(bytes), *to = NULL;
	uint64_t t0, t1;
	bool ok;

	if (call == MOVE || call == MOVE_RAW)
		to = bench_map(bytes, BENCH_SMALL);
	t0 = bench_ns();
	if (call == UNMAP)
		ok = !munmap(range, bytes);
	else if (call == DROP)
		ok = !madvise(range, bytes, MADV_DONTNEED);
	else if (to)
		ok = move(call, range, bytes, to);
	else
		ok = protect(call, range, bytes, PROT_READ) &&
		     protect(call, range, bytes, PROT_READ | PROT_WRITE);
	t1 = bench_ns();
	if (!ok)
		bench_fail("%s failed", call_name[call]);
	if (to)
		bench_unmap(to, bytes);
	bench_unmap(range, bytes); /* of what is not there any more too */
	return (double)(t1 - t0);
}

/* Blocks of 16 bytes to 64 KiB, freed in another order; one that needs mmap(). */
static double time_malloc(void)
{
	static void *block[BLOCKS];
	uint64_t t0 = bench_ns(), t1;
	unsigned int i;
	void *large;

	for (i = 0; i < BLOCKS; i++) {
		block[i] = malloc(16ul << (i % 13));
		if (!block[i])
			bench_fail("malloc");
		*(volatile char *)block[i] = 1;
	}
	large = malloc(64 * BENCH_MIB);
	if (!large)
		bench_fail("malloc");
	*(volatile char *)large = 1;
	free(large);
	for (i = 0; i < BLOCKS; i++)
		free(block[i * 7 % BLOCKS]);
	t1 = bench_ns();
	return (double)(t1 - t0);
}

static double time_fork(enum call call)
{
	uint64_t t0 = bench_ns(), t1;
	pid_t child = call == FORK ? fork() : _Fork();

	if (!child)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		bench_fail("fork");
	t1 = bench_ns();
	return (double)(t1 - t0);
}

static double time_p50(enum call call)
{
	int n = call == FORK || call == FORK_RAW ? FORKS : call == TOUCH ? TOUCHES : CALLS, i;
	double ns[CALLS];

	for (i = 0; i < n; i++) {
		if (call == TOUCH)
			ns[i] = time_touch();
		else if (call == HEAP)
			ns[i] = time_malloc();
		else if (call == FORK || call == FORK_RAW)
			ns[i] = time_fork(call);
		else
			ns[i] = time_call(call);
	}
	return bench_median(ns, (size_t)n) / 1000;
}

static void bare_open(struct bench_uffd *u, char *other)
{
	struct hmm_features features = { .size = sizeof(features) };

	bench_uffd_drop(u, !hmm_probe(&features) && features.fork_event);
	bench_uffd_register(u, other, OTHER, UFFDIO_REGISTER_MODE_WP);
}

static void child_time(double us[CALL])
{
	int call;

	for (call = 0; call < CALL; call++)
		us[call] = time_p50((enum call)call);
}

static void child_run(enum kind kind)
{
	char *other = map_touched(OTHER);
	static struct bench_uffd uffd;
	struct bench_dev dev;

	child_time(shared->us[0]); /* to warm up */
	child_time(shared->us[0]);
	if (kind == BARE)
		bare_open(&uffd, other);
	if (kind == MIRROR) {
		bench_dev_open(&dev, BENCH_HUGE);
		bench_dev_mirror(&dev, other, OTHER, true);
	}
	child_time(shared->us[1]);
	child_time(shared->us[1]);
}

static void one_child(enum kind kind, int round)
{
	pid_t pid = fork();
	int status, call;

	if (!pid) {
		child_run(kind);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		bench_fail("a child failed");
	for (call = 0; call < CALL; call++) {
		shared->ratio[kind][call][round] = shared->us[1][call] / shared->us[0][call];
		if (kind == MIRROR) {
			shared->before[round][call] = shared->us[0][call];
			shared->after[round][call] = shared->us[1][call];
		}
	}
}

static void report(enum call call, enum bench_placement placement)
{
	double bare = bench_median(shared->ratio[BARE][call], ROUNDS);
	double whole = bench_median(shared->ratio[MIRROR][call], ROUNDS);
	double before[ROUNDS], after[ROUNDS];
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		before[i] = shared->before[i][call];
		after[i] = shared->after[i][call];
	}
	snprintf(name, sizeof(name), "unmirrored_%s_%s", call_name[call],
		 bench_placement_name(placement));
	bench_result(name, bench_median(after, ROUNDS), "us", bare > 1 ? whole / bare : whole,
		     "<=1.05",
		     "ref=before_the_first_mirror ref_value=%.3f whole=%.3f bare=%.3f nothing=%.3f",
		     bench_median(before, ROUNDS), whole, bare,
		     bench_median(shared->ratio[NOTHING][call], ROUNDS));
}

static void run(enum bench_placement placement)
{
	int round, kind, call;

	for (round = 0; round < ROUNDS; round++)
		for (kind = 0; kind < KINDS; kind++)
			one_child((enum kind)((kind + round) % KINDS), round);
	for (call = 0; call < CALL; call++)
		report((enum call)call, placement);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("unmirrored", "%d processes of each kind, %d calls, medians", ROUNDS, CALLS);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		bench_fail("mmap");
	return bench_run_placed(BENCH_SAME_CPU, run) | bench_run_placed(BENCH_FREE, run);
}
