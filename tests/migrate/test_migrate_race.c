/* SPDX-License-Identifier: MIT */
/*
 * CPU threads count in pages that go to the device and back under them, while the
 * device reads the same pages. All counters must add up.
 *
 * Tries to break: G1 and G4 (a write that goes to a page left behind is a count
 * lost), G2 (the device sees both words of a page equal or on their way), G7, G9.
 * HMM_TEST_SEED repeats a run's choices, HMM_TEST_MS sets its length.
 */
#include "test_util.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)
#define CPUS 3

/* At the start of each page. The owner of a counter is one CPU thread. */
struct cell {
	uint64_t count[CPUS];
	uint64_t before; /* written in this order by thread 0, read the other way */
	uint64_t after;
	uint64_t device;
};

static struct dummy_device *dev;
static char *mem;
static bool stop;
static int bad; /* first failure */
static uint64_t seed;

static uint64_t next_random(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void blame(int what)
{
	int none = 0;

	__atomic_compare_exchange_n(&bad, &none, what, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static bool running(void)
{
	return !__atomic_load_n(&stop, __ATOMIC_ACQUIRE);
}

static struct cell *cell_of(size_t page)
{
	return (struct cell *)(mem + page * PAGE);
}

struct cpu {
	pthread_t thread;
	unsigned int id;
	uint64_t done[PAGES];
};

static void *cpu_main(void *arg)
{
	struct cpu *cpu = arg;
	uint64_t s = seed + cpu->id;

	while (running()) {
		size_t page = next_random(&s) % PAGES;
		struct cell *cell = cell_of(page);

		cpu->done[page]++;
		if (__atomic_add_fetch(&cell->count[cpu->id], 1, __ATOMIC_RELAXED) !=
		    cpu->done[page])
			blame(10 + (int)cpu->id);
		if (cpu->id)
			continue;
		__atomic_store_n(&cell->before, cpu->done[page], __ATOMIC_RELEASE);
		__atomic_store_n(&cell->after, cpu->done[page], __ATOMIC_RELEASE);
	}
	return NULL;
}

/* On the device: nothing goes backwards, and `after` is never ahead of `before`. */
static int device_main(struct dummy_device *device, unsigned int thread, void *arg)
{
	static uint64_t seen[4][PAGES];
	uint64_t s = seed + 100 + thread, before, after;

	(void)arg;
	memset(seen[thread], 0, sizeof(seen[thread]));
	while (running()) {
		size_t page = next_random(&s) % PAGES;
		uint64_t at = addr_of(cell_of(page));
		int ret = dummy_load_u64(device, at + offsetof(struct cell, after), &after);

		if (!ret)
			ret = dummy_load_u64(device, at + offsetof(struct cell, before), &before);
		if (ret) {
			blame(20);
			return ret;
		}
		if (before < after)
			blame(21);
		if (after < seen[thread][page])
			blame(22);
		seen[thread][page] = after;
	}
	return 0;
}

struct runner {
	pthread_t thread;
	unsigned int threads;
	int (*fn)(struct dummy_device *device, unsigned int thread, void *arg);
	void *arg;
	int ret;
};

static void *runner_main(void *arg)
{
	struct runner *runner = arg;

	runner->ret = dummy_run(dev, runner->threads, runner->fn, runner->arg);
	return NULL;
}

static void *migrate_main(void *arg)
{
	uint64_t s = seed + 200 + (uintptr_t)arg;

	while (running()) {
		size_t first = next_random(&s) % PAGES, n = next_random(&s) % (PAGES - first) + 1;
		uint64_t start = addr_of(mem) + first * PAGE, end = start + n * PAGE;
		int ret = next_random(&s) % 3 ? dummy_migrate(dev, start, end, NULL) :
						dummy_evict(dev, start, end, NULL);

		if (ret)
			blame(30);
	}
	return NULL;
}

static unsigned int run_ms(void)
{
	const char *ms = getenv("HMM_TEST_MS");

	return ms ? (unsigned int)atoi(ms) : 1200;
}

static void race_begin(bool prompt)
{
	struct dummy_options opt = { .memory = 200 * PAGE,
				     .scrub = true,
				     .not_prompt = !prompt,
				     .coherent = test_coherent() };

	assert_int_equal(dummy_create(&dev, &opt), 0);
	mem = map_aligned(BYTES);
	memset(mem, 0, BYTES);
	__atomic_store_n(&stop, false, __ATOMIC_RELEASE);
	bad = 0;
}

static void race_end(void)
{
	munmap(mem, BYTES);
	wait_until(device_used(dev) == 0);
	assert_int_equal(dummy_destroy(dev), 0);
}

static void cpus_count_while_pages_travel(bool prompt, unsigned int device_threads,
					  unsigned int movers)
{
	struct runner runner = { .threads = device_threads, .fn = device_main };
	static struct cpu cpus[CPUS];
	pthread_t threads[4];
	unsigned int i;
	size_t page;

	race_begin(prompt);
	memset(cpus, 0, sizeof(cpus));
	for (i = 0; i < CPUS; i++) {
		cpus[i].id = i;
		assert_int_equal(pthread_create(&cpus[i].thread, NULL, cpu_main, &cpus[i]), 0);
	}
	if (device_threads)
		assert_int_equal(pthread_create(&runner.thread, NULL, runner_main, &runner), 0);
	for (i = 0; i < movers; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, migrate_main, (void *)(uintptr_t)i), 0);
	test_sleep_us(run_ms() * 1000);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining movers");
	for (i = 0; i < movers; i++)
		pthread_join(threads[i], NULL);
	step("joining CPU threads");
	for (i = 0; i < CPUS; i++)
		pthread_join(cpus[i].thread, NULL);
	step("joining device threads");
	if (device_threads)
		pthread_join(runner.thread, NULL);
	assert_int_equal(bad, 0);
	assert_int_equal(runner.ret, 0);
	for (page = 0; page < PAGES; page++)
		for (i = 0; i < CPUS; i++)
			assert_int_equal(cell_of(page)->count[i], cpus[i].done[page]);
	race_end();
}

static void counters_add_up(void **state)
{
	(void)state;
	BEGIN(8);
	cpus_count_while_pages_travel(true, 0, 1);
}

static void counters_add_up_with_device_readers(void **state)
{
	(void)state;
	BEGIN(8);
	cpus_count_while_pages_travel(true, 2, 1);
}

static void counters_add_up_on_a_device_that_waits(void **state)
{
	(void)state;
	BEGIN(8);
	cpus_count_while_pages_travel(false, 2, 2);
}

/* ---- the device counts too ---- */

static uint64_t device_done[2][PAGES];

static int device_add(struct dummy_device *device, unsigned int thread, void *arg)
{
	uint64_t s = seed + 300 + thread;

	(void)arg;
	while (running()) {
		size_t page = next_random(&s) % PAGES;
		int ret = dummy_fetch_add_u64(device, addr_of(&cell_of(page)->device), 1, NULL);

		if (ret) {
			blame(40);
			return ret;
		}
		device_done[thread][page]++;
	}
	return 0;
}

static void device_counters_add_up(void **state)
{
	struct runner runner = { .threads = 2, .fn = device_add };
	struct cpu cpu = { .id = 1 };
	pthread_t mover;
	size_t page;

	(void)state;
	BEGIN(8);
	race_begin(true);
	memset(device_done, 0, sizeof(device_done));
	assert_int_equal(pthread_create(&cpu.thread, NULL, cpu_main, &cpu), 0);
	assert_int_equal(pthread_create(&runner.thread, NULL, runner_main, &runner), 0);
	assert_int_equal(pthread_create(&mover, NULL, migrate_main, NULL), 0);
	test_sleep_us(run_ms() * 1000);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining");
	pthread_join(mover, NULL);
	pthread_join(cpu.thread, NULL);
	pthread_join(runner.thread, NULL);
	assert_int_equal(bad, 0);
	for (page = 0; page < PAGES; page++) {
		assert_int_equal(cell_of(page)->device,
				 device_done[0][page] + device_done[1][page]);
		assert_int_equal(cell_of(page)->count[1], cpu.done[page]);
	}
	race_end();
}

/* A fault that had to back off looks again: it must not give up for having tried. */
static void device_fault_that_backs_off_succeeds(void **state)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	uint64_t end, errors = 0, retries, faults = 0;
	pthread_t mover;

	(void)state;
	BEGIN(8);
	race_begin(true);
	hmm_get_stats(&stats);
	retries = stats.retries;
	assert_int_equal(pthread_create(&mover, NULL, migrate_main, NULL), 0);
	end = test_now() + run_ms() * 1000000ull;
	while (test_now() < end) {
		struct hmm_event event = { .start = addr_of(mem),
					   .end = addr_of(mem) + 16 * PAGE,
					   .etype = HMM_DEVICE_RFAULT };

		errors += hmm_mirror_fault(dummy_mirror(dev), &event) != 0;
		faults++;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(mover, NULL);
	hmm_get_stats(&stats);
	if (errors)
		fail_msg("%llu of %llu faults failed, after %llu retries",
			 (unsigned long long)errors, (unsigned long long)faults,
			 (unsigned long long)(stats.retries - retries));
	assert_int_equal(bad, 0);
	race_end();
}

/* ---- madvise(DONTNEED) sends its message before it zaps ---- */

static void *migrate_only_main(void *arg)
{
	(void)arg;
	while (running())
		if (dummy_migrate(dev, addr_of(mem), addr_of(mem) + 4 * PAGE, NULL))
			blame(31);
	return NULL;
}

static void discarded_pages_do_not_survive_on_the_device(void **state)
{
	uint64_t end, stale = 0, rounds = 0;
	pthread_t movers[3];
	size_t page, i;

	(void)state;
	BEGIN(8);
	race_begin(true);
	for (i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&movers[i], NULL, migrate_only_main, NULL), 0);
	end = test_now() + run_ms() * 1000000ull;
	while (test_now() < end && !stale) {
		size_t n = rounds++ % 4 + 1;

		for (page = 0; page < n; page++)
			cell_of(page)->before = rounds;
		madvise(mem, n * PAGE, MADV_DONTNEED);
		for (page = 0; page < n; page++)
			stale += cell_of(page)->before != 0;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining movers");
	for (i = 0; i < 3; i++)
		pthread_join(movers[i], NULL);
	assert_int_equal(stale, 0);
	assert_int_equal(bad, 0);
	race_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counters_add_up),
		cmocka_unit_test(counters_add_up_with_device_readers),
		cmocka_unit_test(counters_add_up_on_a_device_that_waits),
		cmocka_unit_test(device_counters_add_up),
		cmocka_unit_test(device_fault_that_backs_off_succeeds),
		cmocka_unit_test(discarded_pages_do_not_survive_on_the_device),
	};
	const char *env = getenv("HMM_TEST_SEED");

	seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	test_init();
	printf("HMM_TEST_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
