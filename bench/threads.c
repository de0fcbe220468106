// SPDX-License-Identifier: MIT
/*
 * Do two threads on ranges of their own get twice as far as one?
 *
 * 1, 2 and 4 threads do each of these at once, each with its own range; how much more is
 * done than by one thread in the same time:
 *
 *	device_fault	faults of 2 MiB of present pages, by a device that only counts
 *	snapshot	hmm_range_snapshot() of the range
 *	to_device	the range migrates to the dummy device, in calls of 2 MiB
 *	back		and comes back, likewise
 *	cpu_fault	the CPU reads a word of each page that is in the device, in random order
 *
 * The machine does not always let two threads get twice as far: the kernel has locks of its
 * own for each address space, memory has a bandwidth, and other programs run. So each has
 * a reference of the same rounds, which is what it must come down to, bare, in as many
 * threads: PAGEMAP_SCAN; UFFDIO_MOVE and memcpy(); one reader of a userfaultfd that
 * answers by UFFDIO_COPY. "alu" is mere arithmetic: where two threads do not get 1.9 times
 * as far even with that, the CPUs were not free, and no goal is set. It is the best of all
 * rounds that counts: what else runs takes more from two threads than from one.
 */
#include "bench_hmm.h"
#include "bench_scan.h"
#include "bench_team.h"
#include "bench_uffd.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define BYTES (32 * BENCH_MIB) /* a thread */
#define THREADS_MAX 4u
#define COUNTS 3 /* of threads: 1, 2, 4 */
#define ROUNDS 15
#define FAULTS 20 /* times the range, for what is soon done */
#define TOUCHED 1024ul /* pages of it by CPU faults */
#define FREE_ALU 1.9
#define ALU_STEPS 5000000ul

enum way { ALU, DEVICE_FAULT, SNAPSHOT, TO_DEVICE, BACK, CPU_FAULT, WAYS };

struct noop {
	struct hmm_device device;
	struct hmm_mirror mirror;
};

struct lane {
	char *range; /* libhmm's */
	char *bare, *staging, *copy; /* the references' */
	hmm_pfn_t *pfns;
	uint32_t *order;
	uint64_t seed;
	uint64_t sum;
	char apart[64];
};

struct threads_bench {
	struct bench_team team;
	struct noop *noop;
	struct bench_dev dev;
	struct bench_uffd move, serve;
	char *source; /* of serve */
	int pagemap;
	struct lane lane[THREADS_MAX];
	double own[WAYS][COUNTS][ROUNDS], ref[WAYS][COUNTS][ROUNDS]; /* ns */
	double waits[WAYS][COUNTS]; /* context switches, in all rounds */
};

static const unsigned int counts[COUNTS] = { 1, 2, 4 };
static const char *const way_name[WAYS] = { "alu",	 "device_fault", "snapshot",
					    "to_device", "back",	 "cpu_fault" };
static const char *const ref_name[WAYS] = { "none",	 "bare_pagemap_scan", "bare_pagemap_scan",
					    "bare_move", "bare_move",	      "bare_uffd_copy" };

static int noop_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	return 0;
}

static const struct hmm_device_ops noop_ops = {
	.size = sizeof(noop_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = noop_update,
};

static struct noop *noop_open(void)
{
	struct noop *noop = hmm_alloc(sizeof(*noop));

	if (!noop)
		bench_fail("no memory");
	noop->device.size = sizeof(noop->device);
	noop->device.flags = HMM_DEVICE_PROMPT;
	noop->device.ops = &noop_ops;
	noop->device.name = "noop";
	noop->mirror.size = sizeof(noop->mirror);
	noop->mirror.device = &noop->device;
	if (hmm_device_register(&noop->device) || hmm_mirror_register(&noop->mirror))
		bench_fail("the noop device was refused");
	return noop;
}

/* ---- libhmm ---- */

static void own_device_fault(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	unsigned long start = (uintptr_t)b->lane[thread].range, at;
	int i;

	for (i = 0; i < FAULTS; i++)
		for (at = start; at < start + BYTES; at += BENCH_HUGE) {
			struct hmm_event event = { .start = at,
						   .end = at + BENCH_HUGE,
						   .etype = HMM_DEVICE_RFAULT };

			if (hmm_mirror_fault(&b->noop->mirror, &event) ||
			    event.pages * bench_page_size() != BENCH_HUGE)
				bench_fail("device fault");
		}
}

static void own_snapshot(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	struct lane *lane = &b->lane[thread];
	int i;

	for (i = 0; i < FAULTS; i++) {
		struct hmm_range range = {
			.size = sizeof(range),
			.mirror = &b->noop->mirror,
			.start = (uintptr_t)lane->range,
			.end = (uintptr_t)lane->range + BYTES,
			.pfns = lane->pfns,
		};

		if (hmm_range_snapshot(&range) || !hmm_range_done(&range) ||
		    !(lane->pfns[BYTES / bench_page_size() - 1] & HMM_PFN_VALID))
			bench_fail("snapshot");
	}
}

static void own_to_device(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE)
		bench_dev_migrate(&b->dev, b->lane[thread].range + at, BENCH_HUGE);
}

static void own_back(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE)
		bench_dev_evict(&b->dev, b->lane[thread].range + at, BENCH_HUGE);
}

static void touch(const struct lane *lane, const char *range)
{
	size_t page = bench_page_size(), i;

	for (i = 0; i < TOUCHED; i++) {
		size_t word = lane->order[i] * (page / 8);

		if (((volatile const uint64_t *)range)[word] != bench_word(word, lane->seed))
			bench_fail("wrong data after a CPU fault");
	}
}

static void own_cpu_fault(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;

	touch(&b->lane[thread], b->lane[thread].range);
}

static void alu(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	uint64_t x = thread + 1;
	unsigned long i;

	for (i = 0; i < ALU_STEPS; i++)
		x = x * 6364136223846793005ull + 1442695040888963407ull;
	b->lane[thread].sum = x;
}

/* ---- the references ---- */

static void scan(struct threads_bench *b, unsigned int thread, size_t step)
{
	unsigned long start = (uintptr_t)b->lane[thread].range, at;
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO,
	};
	int i;

	for (i = 0; i < FAULTS; i++)
		for (at = start; at < start + BYTES; at += step) {
			arg.start = at;
			arg.end = at + step;
			if (ioctl(b->pagemap, PAGEMAP_SCAN, &arg) != 1)
				bench_fail("PAGEMAP_SCAN");
		}
}

static void ref_device_fault(void *arg, unsigned int thread)
{
	scan(arg, thread, BENCH_HUGE);
}

static void ref_snapshot(void *arg, unsigned int thread)
{
	scan(arg, thread, BYTES);
}

static void move(struct threads_bench *b, char *dst, char *src)
{
	size_t done = 0;

	while (done < BENCH_HUGE) {
		struct uffdio_move m = { .dst = (uintptr_t)dst + done,
					 .src = (uintptr_t)src + done,
					 .len = BENCH_HUGE - done };

		if (!ioctl(b->move.fd, UFFDIO_MOVE, &m))
			return;
		if (m.move <= 0 && errno != EAGAIN && errno != EBUSY)
			bench_fail("UFFDIO_MOVE: %s", strerror(errno));
		done += m.move > 0 ? (size_t)m.move : 0;
	}
}

static void ref_to_device(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	struct lane *lane = &b->lane[thread];
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		move(b, lane->staging + at, lane->bare + at);
		memcpy(lane->copy + at, lane->staging + at, BENCH_HUGE);
	}
}

static void ref_back(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	struct lane *lane = &b->lane[thread];
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		memcpy(lane->staging + at, lane->copy + at, BENCH_HUGE);
		move(b, lane->bare + at, lane->staging + at);
	}
}

static char *served(struct threads_bench *b, unsigned int thread)
{
	return (char *)b->serve.base + thread * BYTES;
}

static void ref_cpu_fault(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;

	touch(&b->lane[thread], served(b, thread));
}

static void (*const own_fn[WAYS])(void *, unsigned int) = {
	alu, own_device_fault, own_snapshot, own_to_device, own_back, own_cpu_fault,
};
static void (*const ref_fn[WAYS])(void *, unsigned int) = {
	NULL, ref_device_fault, ref_snapshot, ref_to_device, ref_back, ref_cpu_fault,
};

/* ---- a round ---- */

static void fill(struct threads_bench *b, unsigned int threads, uint64_t seed)
{
	unsigned int i;

	for (i = 0; i < threads; i++) {
		struct lane *lane = &b->lane[i];

		lane->seed = seed + i;
		bench_fill(lane->range, BYTES, lane->seed);
		bench_fill(lane->bare, BYTES, lane->seed);
		bench_shuffle(lane->order, BYTES / bench_page_size(), lane->seed);
	}
}

/* What is away before: for who measures the way back, and the CPU faults. */
static void prepare(struct threads_bench *b, enum way way, unsigned int threads)
{
	unsigned int i;

	for (i = 0; i < threads && way == CPU_FAULT; i++) {
		own_to_device(b, i);
		bench_dev_expect(b->lane[i].range, BYTES, HMM_WHERE_DEVICE);
		madvise(served(b, i), BYTES, MADV_DONTNEED);
		bench_fill(b->source + i * BYTES, BYTES, b->lane[i].seed);
	}
}

static void check(struct threads_bench *b, enum way way, unsigned int threads)
{
	unsigned int i;

	for (i = 0; i < threads; i++) {
		if (way == TO_DEVICE) {
			bench_dev_expect(b->lane[i].range, BYTES, HMM_WHERE_DEVICE);
			continue;
		}
		if (way == CPU_FAULT)
			dummy_evict_all(b->dev.dummy, NULL);
		bench_check(b->lane[i].range, BYTES, b->lane[i].seed, way_name[way]);
		bench_check(b->lane[i].bare, BYTES, b->lane[i].seed, ref_name[way]);
	}
}

static double switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_nvcsw + usage.ru_nivcsw);
}

static void measure(struct threads_bench *b, enum way way, int count, int round)
{
	double own, ref = 0, before;

	prepare(b, way, counts[count]);
	if (ref_fn[way] && round & 1)
		ref = bench_team_run(&b->team, counts[count], ref_fn[way], b);
	before = switches();
	own = bench_team_run(&b->team, counts[count], own_fn[way], b);
	before = switches() - before;
	if (ref_fn[way] && !(round & 1))
		ref = bench_team_run(&b->team, counts[count], ref_fn[way], b);
	check(b, way, counts[count]);
	if (round < 0)
		return;
	b->own[way][count][round] = own;
	b->ref[way][count][round] = ref;
	b->waits[way][count] += before;
}

static void one_round(struct threads_bench *b, int first, int last, int round)
{
	int count, way;

	for (count = 0; count < COUNTS; count++) {
		fill(b, counts[count], (uint64_t)(round + 2) * COUNTS + (uint64_t)count);
		for (way = first; way <= last; way++)
			measure(b, (enum way)way, count, round);
	}
}

static double least(const double ns[ROUNDS])
{
	double min = ns[0];
	int i;

	for (i = 1; i < ROUNDS; i++)
		min = ns[i] < min ? ns[i] : min;
	return min;
}

/* So many times what one thread does. */
static double speedup(double ns[COUNTS][ROUNDS], int count)
{
	return counts[count] * least(ns[0]) / least(ns[count]);
}

static void report(struct threads_bench *b)
{
	double free_cpus = speedup(b->own[ALU], 1);
	int way, count;
	char name[64];

	printf("# two threads of mere arithmetic get %.2f times as far as one: the CPUs were %s\n",
	       free_cpus, free_cpus >= FREE_ALU ? "free" : "not free, so no goal is set");
	for (way = ALU + 1; way < WAYS; way++)
		for (count = 1; count < COUNTS; count++) {
			snprintf(name, sizeof(name), "threads_%s", way_name[way]);
			bench_result(name, least(b->own[way][count]) / 1000, "us",
				     speedup(b->own[way], count),
				     counts[count] == 2 && free_cpus >= FREE_ALU ? ">=1.7" : "none",
				     "threads=%u ref=%s_same_threads ref_value=%.3f alu=%.3f "
				     "one_us=%.3f switches=%.0f",
				     counts[count], ref_name[way], speedup(b->ref[way], count),
				     speedup(b->own[ALU], count), least(b->own[way][0]) / 1000,
				     b->waits[way][count] / ROUNDS);
		}
}

static void set_up(struct threads_bench *b)
{
	size_t all = THREADS_MAX * BYTES;
	char *move_all = bench_map(2 * all, BENCH_SMALL), *serve_all = bench_map(all, BENCH_SMALL);
	unsigned int i;

	b->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bench_team_init(&b->team);
	bench_dev_open(&b->dev, all);
	b->noop = noop_open();
	hmm_set_pool(all);
	b->source = bench_map(all, BENCH_SMALL);
	bench_uffd_serve(&b->serve, serve_all, all, b->source, bench_page_size());
	bench_fill(move_all, all, 1); /* nobody would answer a fault there */
	b->move.fd = bench_uffd_open(UFFD_FEATURE_MOVE);
	bench_uffd_register(&b->move, move_all, 2 * all, UFFDIO_REGISTER_MODE_MISSING);
	for (i = 0; i < THREADS_MAX; i++) {
		struct lane *lane = &b->lane[i];

		lane->range = bench_map(BYTES, BENCH_SMALL);
		lane->copy = bench_map(BYTES, BENCH_SMALL);
		bench_fill(lane->copy, BYTES, 1);
		lane->bare = move_all + i * BYTES;
		lane->staging = move_all + all + i * BYTES;
		lane->pfns = malloc(BYTES / bench_page_size() * sizeof(*lane->pfns));
		lane->order = malloc(BYTES / bench_page_size() * sizeof(*lane->order));
		if (!lane->pfns || !lane->order)
			bench_fail("no memory");
	}
}

int main(void)
{
	static struct threads_bench b;
	struct hmm_features features = { .size = sizeof(features) };
	int round;

	bench_hmm_probe();
	if (hmm_probe(&features) || !features.pagemap_scan)
		bench_skip("the kernel has no PAGEMAP_SCAN");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		bench_skip("there is one CPU");
	bench_header("threads", "%lu MiB a thread, %d rounds, the best", BYTES / BENCH_MIB, ROUNDS);
	set_up(&b);
	for (round = -1; round < ROUNDS; round++)
		one_round(&b, ALU, BACK, round);
	for (round = -1; round < ROUNDS; round++) /* apart: it changes what the pool has */
		one_round(&b, CPU_FAULT, CPU_FAULT, round);
	report(&b);
	return 0;
}
