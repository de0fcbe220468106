/* SPDX-License-Identifier: MIT */
/*
 * A device is lost inside each of its ops, and while faults, migrations, forks and unmaps
 * run. What is lost and what not: test_lost.c.
 *
 * Tries to break: G4 (each read gives the content or SIGBUS, never anything else), G6, G7,
 * G9 (nothing hangs), and that the device can be taken away afterwards.
 */
#include "migrate/tiny.h"

#include <stdatomic.h>

#define PAGES 600
#define BYTES (PAGES * PAGE)

static char *mem;

/* ---- SIGBUS ---- */

static __thread sigjmp_buf jump;
static __thread volatile uintptr_t bus_addr;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_addr = (uintptr_t)info->si_addr;
	siglongjmp(jump, 1);
}

static void catch_bus(void)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
}

enum seen { SEEN_WRONG, SEEN_RIGHT, SEEN_LOST };

static enum seen look(const char *page, uint64_t seed, size_t number)
{
	size_t i = number % 512;
	uint64_t val;

	if (sigsetjmp(jump, 1))
		return (bus_addr & ~(PAGE - 1)) == addr_of(page) ? SEEN_LOST : SEEN_WRONG;
	val = ((const volatile uint64_t *)(const void *)page)[i];
	return val == pattern_word(seed, number, i) ? SEEN_RIGHT : SEEN_WRONG;
}

/* How many pages are lost; all others are right. */
static size_t count_lost(void)
{
	size_t i, lost = 0;

	for (i = 0; i < PAGES; i++) {
		enum seen seen = look(mem + i * PAGE, 1, i);

		if (seen == SEEN_WRONG)
			fail_msg("page %zu is wrong", i);
		lost += seen == SEEN_LOST;
	}
	return lost;
}

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return 0;
}

/* ---- inside each op ---- */

static enum tiny_op lose_in;

TINY_OP void is_lost(struct tiny *tiny, enum tiny_op op)
{
	if (op == lose_in)
		tiny_check(tiny, hmm_device_lost(&tiny->device) == 0);
}

static void lost_in(enum tiny_op op, bool mirror, bool full)
{
	struct tiny *tiny = tiny_new(full ? 400 : 1024);
	unsigned long moved;
	size_t lost, calls;
	int ret;

	lose_in = op;
	tiny->inside = is_lost;
	tiny->readable = op == TINY_CPU_PAGE;
	tiny->evict_start = addr_of(mem);
	tiny->evict_end = addr_of(mem) + 100 * PAGE;
	if (mirror)
		assert_int_equal(hmm_mirror_register(&tiny->mirror), 0);
	ret = tiny_migrate(tiny, mem, 400, NULL, NULL);
	assert_true(ret == 0 || ret == -ENODEV);
	ret = tiny_migrate(tiny, mem + 400 * PAGE, 100, NULL, NULL);
	assert_true(ret == 0 || ret == -ENODEV);
	(void)look(mem + 3 * PAGE, 1, 3);
	hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + 10 * PAGE, NULL);
	munmap(mem + 20 * PAGE, PAGE);
	assert_ptr_equal(mmap(mem + 20 * PAGE, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem + 20 * PAGE);
	pattern_page(mem + 20 * PAGE, 1, 20);
	wait_until(tiny_calls(tiny, op) > 0);
	/* From now on nothing is copied, and there is nothing left of it soon. */
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, NULL, &moved), -ENODEV);
	calls = tiny_calls(tiny, TINY_COPY) + tiny_calls(tiny, TINY_TAKE);
	wait_until(!tiny_used(tiny));
	lost = count_lost();
	assert_int_equal(tiny_calls(tiny, TINY_COPY) + tiny_calls(tiny, TINY_TAKE), calls);
	if (op != TINY_UPDATE && op != TINY_TAKE)
		assert_true(lost > 0);
	assert_true(lost <= 500);
	if (tiny->mirror.state)
		assert_int_equal(hmm_mirror_unregister(&tiny->mirror), 0);
	tiny_destroy(tiny);
	assert_int_equal(count_lost(), lost);
	assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
	pattern_fill(mem, PAGES, 1);
	assert_int_equal(count_lost(), 0);
}

static void lost_inside_an_op(void **state)
{
	static const char *const names[] = { "take",   "finish", "copy",   "free",
					     "around", "evict",	 "update", "cpu_page" };
	int op, mirror;

	(void)state;
	BEGIN(20);
	catch_bus();
	for (op = 0; op < TINY_OPS; op++) {
		for (mirror = op == TINY_UPDATE; mirror < 2; mirror++) {
			step(names[op]);
			lost_in((enum tiny_op)op, mirror, op == TINY_EVICT);
		}
	}
}

/* The reference driver, at each of the first calls of its ops. */
static void lost_at_the_nth_call(void **state)
{
	struct dummy_options opt = { .memory = 300 * PAGE, .scrub = true, .evict = true };
	unsigned long n;
	uint64_t val;

	(void)state;
	catch_bus();
	for (n = 1; n <= 24; n++) {
		struct dummy_device *dev;

		BEGIN(10);
		opt.iommu = n % 2;
		assert_int_equal(dummy_create(&dev, &opt), 0);
		dummy_inject(dev, DUMMY_FAIL_LOST, n, 1);
		dummy_load_u64(dev, addr_of(mem) + 5 * PAGE, &val);
		dummy_migrate(dev, addr_of(mem), addr_of(mem) + 256 * PAGE, NULL);
		dummy_load_u64(dev, addr_of(mem) + 100 * PAGE, &val);
		dummy_migrate_vma(dev, addr_of(mem) + 256 * PAGE, addr_of(mem) + BYTES, NULL, NULL);
		(void)look(mem + 30 * PAGE, 1, 30);
		dummy_evict(dev, addr_of(mem) + 40 * PAGE, addr_of(mem) + 300 * PAGE, NULL);
		dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
		assert_true(count_lost() <= 300);
		wait_until(!device_used(dev));
		assert_int_equal(dummy_destroy(dev), 0);
		assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
		pattern_fill(mem, PAGES, 1);
	}
}

/* ---- while all goes on ---- */

static struct dummy_device *lost, *other;
static atomic_bool stop;
static atomic_int wrong;
static atomic_ulong done[5];

static void *reads(void *arg)
{
	size_t i;

	while (!atomic_load(&stop))
		for (i = 0; i < 300 && !atomic_load(&stop); i++) {
			if (look(mem + i * PAGE, 1, i) == SEEN_WRONG)
				atomic_store(&wrong, 1);
			atomic_fetch_add((atomic_ulong *)arg, 1);
		}
	return NULL;
}

static void *migrates(void *arg)
{
	struct dummy_device *dev = arg;

	while (!atomic_load(&stop)) {
		int ret = dummy_migrate(dev, addr_of(mem), addr_of(mem) + 400 * PAGE, NULL);

		if (ret && !(dev == lost && ret == -ENODEV))
			atomic_store(&wrong, 2);
		atomic_fetch_add(&done[dev == lost ? 1 : 2], 1);
		test_sleep_us(100);
	}
	return NULL;
}

/* Of its own, at the end of the memory. */
static void *unmaps(void *arg)
{
	char *own = mem + 400 * PAGE;
	size_t i;

	(void)arg;
	while (!atomic_load(&stop)) {
		dummy_migrate(lost, addr_of(own), addr_of(own) + 200 * PAGE, NULL);
		for (i = 0; i < 200; i += 20)
			if (look(own + i * PAGE, 1, 400 + i) == SEEN_WRONG)
				atomic_store(&wrong, 3);
		if (munmap(own, 100 * PAGE) || madvise(own + 100 * PAGE, 100 * PAGE, MADV_DONTNEED))
			atomic_store(&wrong, 4);
		if (mmap(own, 100 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != own)
			atomic_store(&wrong, 5);
		for (i = 0; i < 200; i++)
			pattern_page(own + i * PAGE, 1, 400 + i);
		atomic_fetch_add(&done[3], 1);
	}
	return NULL;
}

static void *forks(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		pid_t pid = fork();
		int status = 0, i;

		if (!pid) {
			alarm(20);
			for (i = 0; i < 300; i += 10)
				if (look(mem + i * PAGE, 1, (size_t)i) == SEEN_WRONG)
					_exit(1);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			atomic_store(&wrong, 6);
		atomic_fetch_add(&done[4], 1);
	}
	return NULL;
}

static void lost_once(unsigned int round)
{
	pthread_t thread[5];
	unsigned int i;

	lost = device_new(1024);
	other = device_new(1024);
	atomic_store(&stop, false);
	memset(done, 0, sizeof(done));
	assert_int_equal(pthread_create(&thread[0], NULL, reads, &done[0]), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, migrates, lost), 0);
	assert_int_equal(pthread_create(&thread[2], NULL, migrates, other), 0);
	assert_int_equal(pthread_create(&thread[3], NULL, unmaps, NULL), 0);
	assert_int_equal(pthread_create(&thread[4], NULL, forks, NULL), 0);
	test_sleep_us(20000 + round * 3777 % 10000);
	step("losing it");
	assert_int_equal(dummy_lost(lost), 0);
	for (i = 0; i < 5; i++)
		done[i] = 0;
	step("going on without it");
	for (i = 0; i < 5; i++)
		wait_until(atomic_load(&done[i]) > 0);
	atomic_store(&stop, true);
	for (i = 0; i < 5; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(atomic_load(&wrong), 0);
	wait_until(!device_used(lost));
	count_lost();
	step("destroying both");
	assert_int_equal(dummy_destroy(lost), 0);
	assert_int_equal(dummy_destroy(other), 0);
	assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
	pattern_fill(mem, PAGES, 1);
}

static void lost_amid_all_of_it(void **state)
{
	unsigned int round;

	(void)state;
	catch_bus();
	for (round = 0; round < (TEST_SANITIZED ? 5 : 12); round++) {
		BEGIN(15);
		lost_once(round);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(lost_inside_an_op),
		T(lost_at_the_nth_call),
		T(lost_amid_all_of_it),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
