// SPDX-License-Identifier: MIT
/*
 * Do two threads on ranges of their own get twice as far as one?
 *
 * 1, 2 and 4 threads do each of these at once, each with its own range; how much more is
 * done than by one thread in the same time:
 *
 *	device_fault	faults of 2 MiB of present pages, by a device that only counts
 *	snapshot	hmm_range_snapshot() of the range
 *	invalidate	the range is written, faulted by the device and discarded, in pieces of 64 KiB
 *	to_device	the range migrates to the dummy device, in calls of 2 MiB
 *	back		and comes back, likewise
 *	cpu_fault	the CPU reads a word of each page that is in the device, in random order
 *
 * The machine does not always let two threads get twice as far: the kernel has locks of its
 * own for each address space, memory has a bandwidth, and other programs run. So each has
 * a reference, which is what it must come down to, bare, in as many
 * threads: PAGEMAP_SCAN; the same writes and madvise() of memory that nobody watches; UFFDIO_MOVE and a copy past the caches, as the dummy device's engine
 * makes it (one through them is half as fast, and two of those leave memory more to give);
 * one reader of a userfaultfd that
 * answers by UFFDIO_COPY. And each has a control: "alu", mere arithmetic.
 *
 * All three take turns of some milliseconds, in each: the first thread alone, both, the second
 * alone, and then four. What both do at once is so compared with what each did alone just before
 * and just after, on its own range and its own CPU. The median of the turns counts. A turn in which
 * the control did not get two CPUs (or only while both worked: then the ratio is too good) is
 * repeated. "turns" and "repeated" say how often, "all_turns" what comes out with none left out.
 * Where too few are left no goal is set, and the figures are of all turns.
 */
#include "bench_hmm.h"
#include "bench_scan.h"
#include "bench_team.h"
#include "bench_uffd.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BYTES (16 * BENCH_MIB) /* a thread */
#define THREADS_MAX 4u
#define TURNS 31
#define TURNS_FEWEST 15 /* else no goal is set */
#define TRIES 62
#define LONGEST_NS 12000000000ull /* of a group: on a machine that is never free */
#define PIECE (64ul << 10)
#define FAULTS 40 /* times the range, for what is soon done */
#define TOUCHED 512ul /* pages of it by CPU faults */
#define FREE_ALU 1.9
#define ALONE_ALU 2.1
#define ALU_STEPS 800000ul

enum way { DEVICE_FAULT, SNAPSHOT, INVALIDATE, TO_DEVICE, BACK, CPU_FAULT, WAYS };

/* Who works, in the order of a turn. */
enum slice { FIRST, BOTH, SECOND, FOUR, SLICES };

static const struct {
	unsigned int first, threads;
} slices[SLICES] = { { 0, 1 }, { 0, 2 }, { 1, 1 }, { 0, 4 } };

/* What is measured in the same turns, for one is what the other needs. */
static const struct group {
	enum way first, last;
} groups[] = { { DEVICE_FAULT, DEVICE_FAULT },
	       { SNAPSHOT, SNAPSHOT },
	       { INVALIDATE, INVALIDATE },
	       { TO_DEVICE, BACK },
	       { CPU_FAULT, CPU_FAULT } };

/* How many times as far as one thread two or four got, by turn; and what one took. */
struct got {
	double two[TRIES], four[TRIES], one_ns[TRIES], two_ns[TRIES], four_ns[TRIES];
};

struct noop {
	struct hmm_device device;
	struct hmm_mirror mirror;
};

struct lane {
	char *range; /* libhmm's */
	char *bare, *staging, *copy, *plain; /* the references' */
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
	double ns[WAYS][SLICES], ref_ns[WAYS][SLICES], alu_ns[SLICES]; /* of this turn */
	struct got own[WAYS], ref[WAYS], alu; /* alu: of this group */
	bool good[TRIES];
	int tries, turns; /* all, good ones */
	double waits[WAYS][SLICES]; /* context switches, in all turns */
};

static const char *const way_name[WAYS] = { "device_fault", "snapshot", "invalidate",
					    "to_device",    "back",	"cpu_fault" };
static const char *const ref_name[WAYS] = { "bare_pagemap_scan", "bare_pagemap_scan",
					    "unwatched_madvise", "bare_move",
					    "bare_move",	 "bare_uffd_copy" };

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

static void write_piece(char *piece)
{
	size_t at;

	for (at = 0; at < PIECE; at += bench_page_size())
		*(volatile char *)(piece + at) = 1;
}

static void discard(char *piece)
{
	if (madvise(piece, PIECE, MADV_DONTNEED))
		bench_fail("madvise");
}

static void own_invalidate(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	size_t at;

	for (at = 0; at < BYTES; at += PIECE) {
		char *piece = b->lane[thread].range + at;
		struct hmm_event event = { .start = (uintptr_t)piece,
					   .end = (uintptr_t)piece + PIECE,
					   .etype = HMM_DEVICE_WFAULT };

		write_piece(piece);
		if (hmm_mirror_fault(&b->noop->mirror, &event))
			bench_fail("device fault");
		discard(piece);
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

static void ref_invalidate(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	size_t at;

	for (at = 0; at < BYTES; at += PIECE) {
		write_piece(b->lane[thread].plain + at);
		discard(b->lane[thread].plain + at);
	}
}

#ifdef __SSE2__
static void copy_line(char *dst, const char *src)
{
	int i;

	for (i = 0; i < 64; i += 16)
		_mm_stream_si128((__m128i *)(dst + i), _mm_load_si128((const __m128i *)(src + i)));
}

/* 2 MiB: eight lines of the first quarter, eight of the second, and so on. */
static void copy(char *dst, const char *src)
{
	const size_t quarter = BENCH_HUGE / 4;
	size_t part, stream, at;

	for (part = 0; part < quarter; part += 512)
		for (stream = part; stream < BENCH_HUGE; stream += quarter)
			for (at = stream; at < stream + 512; at += 64)
				copy_line(dst + at, src + at);
	_mm_sfence();
}
#else
static void copy(char *dst, const char *src)
{
	memcpy(dst, src, BENCH_HUGE);
}
#endif

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
		copy(lane->copy + at, lane->staging + at);
	}
}

static void ref_back(void *arg, unsigned int thread)
{
	struct threads_bench *b = arg;
	struct lane *lane = &b->lane[thread];
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		copy(lane->staging + at, lane->copy + at);
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
	own_device_fault, own_snapshot, own_invalidate, own_to_device, own_back, own_cpu_fault,
};
static void (*const ref_fn[WAYS])(void *, unsigned int) = {
	ref_device_fault, ref_snapshot, ref_invalidate, ref_to_device, ref_back, ref_cpu_fault,
};

/* ---- a turn ---- */

static void fill(struct threads_bench *b, uint64_t seed)
{
	unsigned int i;

	for (i = 0; i < THREADS_MAX; i++) {
		struct lane *lane = &b->lane[i];

		lane->seed = seed + i;
		bench_fill(lane->range, BYTES, lane->seed);
		bench_fill(lane->bare, BYTES, lane->seed);
		bench_fill(b->source + i * BYTES, BYTES, lane->seed);
		bench_shuffle(lane->order, BYTES / bench_page_size(), lane->seed);
	}
}

static void check(struct threads_bench *b, enum way way)
{
	unsigned int i;

	for (i = 0; i < THREADS_MAX; i++) {
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

static double work(struct threads_bench *b, enum slice slice, void (*fn)(void *, unsigned int))
{
	return bench_team_run_from(&b->team, slices[slice].first, slices[slice].threads, fn, b);
}

static void expect(struct threads_bench *b, enum slice slice, enum hmm_where where)
{
	unsigned int i;

	for (i = 0; i < slices[slice].threads; i++)
		bench_dev_expect(b->lane[slices[slice].first + i].range, BYTES, where);
}

static void own_work(struct threads_bench *b, const struct group *group, enum slice slice)
{
	int way;

	for (way = (int)group->first; way <= (int)group->last; way++) {
		double before;

		if (way == CPU_FAULT) {
			work(b, slice, own_to_device);
			expect(b, slice, HMM_WHERE_DEVICE);
		}
		before = switches();
		b->ns[way][slice] = work(b, slice, own_fn[way]);
		b->waits[way][slice] += switches() - before;
		if (way == TO_DEVICE)
			expect(b, slice, HMM_WHERE_DEVICE);
		if (way == CPU_FAULT)
			dummy_evict_all(b->dev.dummy, NULL);
	}
}

static void ref_work(struct threads_bench *b, const struct group *group, enum slice slice)
{
	int way;

	for (way = (int)group->first; way <= (int)group->last; way++) {
		if (way == CPU_FAULT)
			madvise(served(b, 0), THREADS_MAX * BYTES, MADV_DONTNEED);
		b->ref_ns[way][slice] = work(b, slice, ref_fn[way]);
	}
}

/* The control is around what it is to control. */
static void one_slice(struct threads_bench *b, const struct group *group, enum slice slice,
		      int turn)
{
	b->alu_ns[slice] = work(b, slice, alu);
	if (turn & 1)
		ref_work(b, group, slice);
	own_work(b, group, slice);
	if (!(turn & 1))
		ref_work(b, group, slice);
	b->alu_ns[slice] += work(b, slice, alu);
}

static void note(struct got *got, const double ns[SLICES], int turn)
{
	double one = (ns[FIRST] + ns[SECOND]) / 2;

	got->one_ns[turn] = one;
	got->two_ns[turn] = ns[BOTH];
	got->four_ns[turn] = ns[FOUR];
	got->two[turn] = 2 * one / ns[BOTH];
	got->four[turn] = 4 * one / ns[FOUR];
}

static void one_turn(struct threads_bench *b, const struct group *group, int turn)
{
	bool moves = group->first >= TO_DEVICE; /* and what is discarded is filled again there */
	int slice, way;

	if (moves || turn < 0)
		fill(b, (uint64_t)(turn + 2) * THREADS_MAX);
	for (slice = 0; slice < SLICES; slice++)
		one_slice(b, group, (enum slice)slice, turn);
	if (moves)
		check(b, group->first);
	if (turn < 0)
		return;
	note(&b->alu, b->alu_ns, turn);
	for (way = (int)group->first; way <= (int)group->last; way++) {
		note(&b->own[way], b->ns[way], turn);
		note(&b->ref[way], b->ref_ns[way], turn);
	}
	b->good[turn] = b->alu.two[turn] >= FREE_ALU && b->alu.two[turn] <= ALONE_ALU;
	b->turns += b->good[turn];
}

/* Of the good turns; of all of them, where there are too few. */
static double typical(const struct threads_bench *b, const double v[TRIES])
{
	double good[TRIES];
	size_t n = 0;
	int i;

	for (i = 0; i < b->tries; i++)
		if (b->good[i] || b->turns < TURNS_FEWEST)
			good[n++] = v[i];
	return bench_median(good, n);
}

static double of_all(const struct threads_bench *b, const double v[TRIES])
{
	double sorted[TRIES];

	memcpy(sorted, v, sizeof(sorted));
	return bench_median(sorted, (size_t)b->tries);
}

static void report(const struct threads_bench *b, enum way way)
{
	const struct got *own = &b->own[way], *ref = &b->ref[way];
	bool goal = b->turns >= TURNS_FEWEST;
	char name[64];

	snprintf(name, sizeof(name), "threads_%s", way_name[way]);
	bench_result(
		name, typical(b, own->two_ns) / 1000, "us", typical(b, own->two),
		goal ? ">=1.7" : "none",
		"threads=2 ref=%s_same_threads ref_value=%.3f alu=%.3f one_us=%.3f switches=%.0f "
		"turns=%d repeated=%d all_turns=%.3f ref_all_turns=%.3f alu_all_turns=%.3f%s",
		ref_name[way], typical(b, ref->two), typical(b, b->alu.two),
		typical(b, own->one_ns) / 1000, b->waits[way][BOTH] / (b->tries + 1), b->turns,
		b->tries - b->turns, of_all(b, own->two), of_all(b, ref->two),
		of_all(b, b->alu.two), goal ? "" : " why=no_two_free_cpus");
	bench_result(
		name, typical(b, own->four_ns) / 1000, "us", typical(b, own->four), "none",
		"threads=4 ref=%s_same_threads ref_value=%.3f alu=%.3f one_us=%.3f switches=%.0f",
		ref_name[way], typical(b, ref->four), typical(b, b->alu.four),
		typical(b, own->one_ns) / 1000, b->waits[way][FOUR] / (b->tries + 1));
}

static void run(struct threads_bench *b, const struct group *group)
{
	uint64_t last = bench_ns() + LONGEST_NS;
	int way;

	b->tries = b->turns = 0;
	one_turn(b, group, -1);
	while (b->tries < TRIES && b->turns < TURNS && bench_ns() < last)
		one_turn(b, group, b->tries++);
	for (way = (int)group->first; way <= (int)group->last; way++)
		report(b, (enum way)way);
}

static void set_up(struct threads_bench *b)
{
	size_t all = THREADS_MAX * BYTES;
	char *move_all = bench_map(2 * all, BENCH_SMALL), *serve_all = bench_map(all, BENCH_SMALL);
	unsigned int i;

	b->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bench_team_init(&b->team);
	b->team.bound = true;
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
		lane->plain = bench_map(BYTES, BENCH_SMALL);
		lane->copy = bench_map(BYTES, BENCH_THP);
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
	size_t i;

	bench_hmm_probe();
	if (hmm_probe(&features) || !features.pagemap_scan)
		bench_skip("the kernel has no PAGEMAP_SCAN");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		bench_skip("there is one CPU");
	bench_header("threads", "%lu MiB a thread, %d turns in which the CPUs were free, medians",
		     BYTES / BENCH_MIB, TURNS);
	set_up(&b);
	for (i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		run(&b, &groups[i]);
	return 0;
}
