/* SPDX-License-Identifier: MIT */
/*
 * Two devices and the CPU count in the same words, each by its own atomic add, and others
 * do to the memory whatever can be done to it: migrations both ways, mremap, munmap,
 * MADV_DONTNEED, mprotect, fork. Each add is counted by who made it; in the end the sums
 * are those. (An add that is said to have failed was not made.)
 *
 * Tries to break: G1, G3, G4, G8, G9; and nothing of a device's memory, of the mappings of
 * its IOMMU, or of staging may be lost for good.
 */
#include <stdatomic.h>

#include "test_util.h"

#define PAGES 12 /* with a counter each */
#define DEVICES 2
#define UNCOUNTED 4 /* adds that are made: one of each device thread */
#define ROUND_NS 700000000ull

struct kind {
	const char *name;
	struct dummy_options opt[DEVICES];
};

static const struct kind prompt = {
	"two prompt devices",
	{ { .memory = 128 * PAGE, .scrub = true }, { .memory = 128 * PAGE, .scrub = true } },
};

static const struct kind iommu = {
	"two behind an IOMMU, one to be waited for",
	{ { .memory = 128 * PAGE, .iommu = true, .scrub = true },
	  { .memory = 128 * PAGE, .iommu = true, .not_prompt = true } },
};

static const struct kind mixed = {
	"one that takes from the other, one that must be waited for",
	{ { .memory = 128 * PAGE, .peer = true }, { .memory = 128 * PAGE, .not_prompt = true } },
};

static const struct kind *kind;
static struct dummy_device *dev[DEVICES];
static char *mem; /* 2 MiB: the counters' pages at an offset that is no multiple of theirs */
static char *counters;
static char *aside; /* a place to move to */

static struct {
	atomic_bool stop;
	atomic_ulong added[PAGES]; /* that is certain */
	atomic_ulong turns[8];
	atomic_int error;
	bool may_fail; /* a device may not find the memory just now */
	bool unmaps;
} work;

static int setup(void **state)
{
	unsigned int i;

	kind = *state;
	mem = map_aligned(2 * THP);
	counters = mem + THP - PAGES / 2 * PAGE;
	aside = map_aligned(THP);
	memset(counters, 0, PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		atomic_store(&work.added[i], 0);
	for (i = 0; i < 8; i++)
		atomic_store(&work.turns[i], 0);
	atomic_store(&work.stop, false);
	atomic_store(&work.error, 0);
	work.may_fail = work.unmaps = false;
	for (i = 0; i < DEVICES; i++)
		if (dummy_create(&dev[i], &kind->opt[i]))
			return -1;
	return 0;
}

static int teardown(void **state)
{
	struct dummy_stats stats;
	unsigned int i;
	int ret = 0;

	(void)state;
	munmap(mem, 2 * THP);
	munmap(aside, THP);
	for (i = 0; i < DEVICES; i++) {
		wait_until(device_used(dev[i]) == 0);
		ret |= hmm_mirror_unregister(dummy_mirror(dev[i]));
		dummy_get_stats(dev[i], &stats);
		if (stats.dma_mapped || stats.dma_errors || stats.iommu_faults)
			ret = -1;
		ret |= dummy_destroy(dev[i]);
	}
	return ret;
}

static char *counter(size_t i)
{
	return counters + i * PAGE + 8 * i;
}

static bool working(void)
{
	return !atomic_load(&work.stop);
}

static void failed(int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&work.error, &none, error);
}

/* ---- who adds ---- */

static int device_main(struct dummy_device *of, unsigned int thread, void *arg)
{
	atomic_ulong *turns = arg;
	size_t i;

	for (i = thread; working(); i += 5) {
		int ret = dummy_atomic_add_u64(of, addr_of(counter(i % PAGES)), 1, NULL);

		if (!ret)
			atomic_fetch_add(&work.added[i % PAGES], 1);
		else if (!work.may_fail || (ret != -EFAULT && ret != -EOPNOTSUPP))
			failed(ret);
		atomic_fetch_add(turns, 1);
	}
	return 0;
}

static void *device_runs(void *arg)
{
	size_t n = (size_t)arg;

	dummy_run(dev[n], 2, device_main, &work.turns[n]);
	return NULL;
}

static void *cpu_main(void *arg)
{
	size_t i;

	for (i = 0; working(); i += 7) {
		__atomic_fetch_add((uint64_t *)counter(i % PAGES), 1, __ATOMIC_RELAXED);
		atomic_fetch_add(&work.added[i % PAGES], 1);
		atomic_fetch_add(&work.turns[2], 1);
		test_sleep_us(10);
	}
	return arg;
}

/* ---- who changes where it is ---- */

static void *migrates(void *arg)
{
	uint64_t start = addr_of(counters), end = start + PAGES * PAGE;
	size_t i;

	for (i = 0; working(); i++) {
		uint64_t from = start + i % PAGES * PAGE;
		int ret;

		ret = dummy_migrate(dev[i % 2], from, i % 3 ? from + PAGE : end, NULL);
		if (!ret && i % 5 == 0)
			ret = dummy_evict(dev[i % 2], start, end, NULL);
		if (ret)
			failed(ret);
		atomic_fetch_add(&work.turns[3], 1);
		test_sleep_us(200);
	}
	return arg;
}

/* Rights that stay as they are; neighbours that go; what the kernel moves about. */
static void *disturbs(void *arg)
{
	char *beside = mem + THP + 64 * PAGE;
	size_t i;

	for (i = 0; working(); i++) {
		mprotect(counters, PAGES * PAGE, PROT_READ | PROT_WRITE);
		*(volatile char *)beside = 1;
		madvise(beside, PAGE, MADV_DONTNEED);
		if (i % 16 == 0)
			madvise(mem, 2 * THP, 25 /* MADV_COLLAPSE */);
		atomic_fetch_add(&work.turns[4], 1);
		test_sleep_us(500);
	}
	return arg;
}

/* What was counted before the fork is in the child, and nothing that came after it. */
static void fork_once(void)
{
	unsigned long before[PAGES];
	int status = 0;
	size_t i;
	pid_t pid;

	for (i = 0; i < PAGES; i++)
		before[i] = atomic_load(&work.added[i]);
	pid = fork();
	if (!pid) {
		alarm(60);
		for (i = 0; i < PAGES; i++)
			if (*(volatile uint64_t *)counter(i) < before[i])
				_exit(1);
		before[0] = *(volatile uint64_t *)counter(0);
		test_sleep_us(2000);
		_exit(*(volatile uint64_t *)counter(0) != before[0] ? 2 : 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		failed(status ? status : errno);
}

static void *forks(void *arg)
{
	while (working()) {
		fork_once();
		atomic_fetch_add(&work.turns[5], 1);
		test_sleep_us(10000);
	}
	return arg;
}

/* ---- all at once ---- */

typedef void *(*role_fn)(void *arg);

static void run_with(const role_fn *roles, size_t n)
{
	uint64_t end = test_now() + ROUND_NS;
	pthread_t thread[8];
	size_t i;
	bool all;

	for (i = 0; i < DEVICES; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, device_runs, (void *)i), 0);
	for (i = 0; i < n; i++)
		assert_int_equal(pthread_create(&thread[DEVICES + i], NULL, roles[i], NULL), 0);
	do { /* on a busy machine longer, so that each device has had its turn */
		test_sleep_us(5000);
		all = atomic_load(&work.turns[0]) > 20 && atomic_load(&work.turns[1]) > 20;
	} while ((test_now() < end || !all) && !atomic_load(&work.error));
	atomic_store(&work.stop, true);
	step("waiting for all of them");
	for (i = 0; i < DEVICES + n; i++)
		pthread_join(thread[i], NULL);
	print_message("turns:");
	for (i = 0; i < 8; i++)
		print_message(" %lu", (unsigned long)work.turns[i]);
	print_message("\n");
	assert_int_equal(atomic_load(&work.error), 0);
	for (i = 0; i < PAGES; i++) {
		uint64_t sum = *(uint64_t *)counter(i);

		assert_int_equal(sum, atomic_load(&work.added[i]));
		*(uint64_t *)counter(i) = 0;
		assert_true(is_zero(counters + i * PAGE, PAGE));
	}
}

static void in_system_memory(void **state)
{
	const role_fn roles[] = { cpu_main, cpu_main };

	(void)state;
	BEGIN(60);
	run_with(roles, 2);
}

static void while_it_migrates(void **state)
{
	const role_fn roles[] = { cpu_main, cpu_main, migrates, disturbs };

	(void)state;
	BEGIN(60);
	run_with(roles, 4);
}

static void while_others_fork(void **state)
{
	const role_fn roles[] = { cpu_main, migrates, disturbs, forks };

	(void)state;
	BEGIN(60);
#ifdef __SANITIZE_THREAD__ /* it stops all threads for a fork that waits for them */
	run_with(roles, 3);
#else
	run_with(roles, 4);
#endif
}

/*
 * The whole of it goes elsewhere and comes back. No CPU adds then; what a device adds at an
 * address that it still finds stays with the page.
 */
static void *moves(void *arg)
{
	size_t len = PAGES * PAGE, i;

	for (i = 0; working(); i++) {
		char *to = aside + i % 7 * PAGE;

		if (mremap(counters, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to ||
		    mremap(to, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, counters) != counters)
			failed(-errno);
		atomic_fetch_add(&work.turns[6], 1);
		test_sleep_us(300);
	}
	return arg;
}

static void while_it_moves(void **state)
{
	const role_fn roles[] = { moves, migrates };

	(void)state;
	BEGIN(60);
	work.may_fail = true;
	run_with(roles, 2);
}

/* Read-only for a while: no add of a device goes through then. */
static void *protects(void *arg)
{
	uint64_t old, now;
	size_t i;

	for (i = 0; working(); i++) {
		char *at = counter(i % PAGES);

		if (mprotect(counters, PAGES * PAGE, i % 2 ? PROT_READ : PROT_NONE))
			failed(-errno);
		if (i % 2) {
			old = *(volatile uint64_t *)at;
			test_sleep_us(100);
			now = *(volatile uint64_t *)at;
			if (now != old)
				failed(-EILSEQ);
		}
		if (mprotect(counters, PAGES * PAGE, PROT_READ | PROT_WRITE))
			failed(-errno);
		atomic_fetch_add(&work.turns[6], 1);
		test_sleep_us(300);
	}
	return arg;
}

static void while_it_is_protected(void **state)
{
	const role_fn roles[] = { protects, migrates };

	(void)state;
	BEGIN(60);
	work.may_fail = true;
	run_with(roles, 2);
}

/* ---- what goes for good ---- */

/*
 * Dropped or unmapped by who owns them, again and again: nobody may see what was before, and
 * a device that has adds to make is told nothing that is not so.
 */
static void *drops(void *arg)
{
	size_t len = PAGES * PAGE, i, j;
	unsigned long before[PAGES];

	for (i = 0; working(); i++) {
		for (j = 0; j < PAGES; j++)
			before[j] = atomic_load(&work.added[j]);
		if (i % 2)
			syscall(SYS_madvise, counters, len, MADV_DONTNEED);
		else if (!work.unmaps)
			madvise(counters, len, MADV_DONTNEED);
		else if (mmap(counters, len, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != counters)
			failed(-errno);
		for (j = 0; j < PAGES; j++) { /* not more than can have come since */
			uint64_t now = *(volatile uint64_t *)counter(j);

			if (now > atomic_load(&work.added[j]) + UNCOUNTED - before[j])
				failed(-EILSEQ);
		}
		for (j = 0; j < PAGES; j++)
			*(volatile uint64_t *)(counters + j * PAGE + PAGE - 8) = 1ull << 40;
		atomic_fetch_add(&work.turns[6], 1);
		if (i % 4 == 0)
			test_sleep_us(300);
	}
	return arg;
}

static void run_dropped(void)
{
	uint64_t end = test_now() + ROUND_NS;
	pthread_t thread[4];
	size_t i;

	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, device_runs, (void *)i), 0);
	assert_int_equal(pthread_create(&thread[2], NULL, drops, NULL), 0);
	assert_int_equal(pthread_create(&thread[3], NULL, migrates, NULL), 0);
	while ((test_now() < end || atomic_load(&work.turns[6]) < 20) && !atomic_load(&work.error))
		test_sleep_us(5000);
	atomic_store(&work.stop, true);
	step("waiting for all of them");
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(atomic_load(&work.error), 0);
}

/* It is there all the time, if only a hole: no add may fail. */
static void while_it_is_dropped(void **state)
{
	(void)state;
	BEGIN(60);
	run_dropped();
}

static void while_it_is_unmapped(void **state)
{
	(void)state;
	BEGIN(60);
	work.may_fail = work.unmaps = true;
	run_dropped();
}

/* ---- nothing is used up ---- */

#define CHUNKS 40

static void end_of_round(char *all, size_t round)
{
	size_t i;

	for (i = 0; i < CHUNKS; i++) {
		char *at = all + i * THP + round % 512 * PAGE;

		if (round % 4 == 0)
			assert_int_equal(*(uint64_t *)at, i);
		else if (round % 4 == 1)
			madvise(at, PAGE, MADV_DONTNEED);
		else if (round % 4 == 2)
			assert_int_equal(dummy_evict(dev[0], addr_of(at), addr_of(at) + PAGE, NULL),
					 0);
	}
	if (round % 4 == 3)
		assert_ptr_not_equal(mmap(all, CHUNKS * THP, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
					  -1, 0),
				     MAP_FAILED);
}

/* Twice as many slots of staging as there are have been used in the end. */
static void slots_come_back(void **state)
{
	char *all = map_aligned(CHUNKS * THP);
	unsigned long pages;
	size_t round, i;

	(void)state;
	BEGIN(60);
	for (round = 0; round < 30; round++) {
		for (i = 0; i < CHUNKS; i++) {
			uint64_t at = addr_of(all) + i * THP + round % 512 * PAGE;

			assert_int_equal(dummy_exclusive(dev[i % 2], at, at + PAGE, &pages), 0);
			assert_int_equal(pages, 1);
			assert_int_equal(dummy_atomic_add_u64(dev[i % 2], at, i, NULL), 0);
		}
		end_of_round(all, round);
	}
	munmap(all, CHUNKS * THP);
}

#define T(f, how) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, (void *)&how)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(in_system_memory, prompt),	  T(in_system_memory, iommu),
		T(while_it_migrates, prompt),	  T(while_it_migrates, iommu),
		T(while_it_migrates, mixed),	  T(while_others_fork, prompt),
		T(while_others_fork, iommu),	  T(while_it_moves, prompt),
		T(while_it_moves, iommu),	  T(while_it_moves, mixed),
		T(while_it_is_protected, prompt), T(while_it_is_protected, iommu),
		T(while_it_is_dropped, prompt),	  T(while_it_is_dropped, iommu),
		T(while_it_is_dropped, mixed),	  T(while_it_is_unmapped, prompt),
		T(while_it_is_unmapped, iommu),	  T(while_it_is_unmapped, mixed),
		T(slots_come_back, prompt),	  T(slots_come_back, iommu),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
