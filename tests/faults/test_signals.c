/* SPDX-License-Identifier: MIT */
/*
 * A signal handler touches memory that is away, or maps some, and interrupts a thread that is inside
 * libhmm: what the handler waits for must not wait for the thread that it has interrupted.
 *
 * Tries to break: G9 (the fault ends, the thread goes on), G4 (each count is there in the end).
 */
#include <stdatomic.h>

#include "test_util.h"

#define PAGES 16u
#define ROUNDS (TEST_SANITIZED ? 150 : 1000)

struct tormentor {
	pthread_t target;
	pthread_t thread;
	atomic_bool stop;
};

static char *mem;
static struct dummy_device *dev;
static volatile unsigned long hits;

static uint64_t *word(unsigned int page)
{
	return (uint64_t *)(mem + page * PAGE);
}

/* It changes the address space too, as a handler may that interrupts such a change. */
static void handler(int sig)
{
	char *map;

	(void)sig;
	++*(volatile uint64_t *)word(hits % PAGES);
	if (hits++ % 4)
		return;
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return;
	*map = 1;
	mprotect(map, PAGE, PROT_READ);
	munmap(map, PAGE);
}

static void *torment(void *arg)
{
	struct tormentor *t = arg;

	while (!atomic_load(&t->stop)) {
		pthread_kill(t->target, SIGUSR1);
		test_sleep_us(30);
	}
	return NULL;
}

/* Signals are for the caller alone. */
static void torment_begin(struct tormentor *t)
{
	struct sigaction act = { .sa_handler = handler, .sa_flags = SA_RESTART };
	sigset_t set, old;
	unsigned int i;

	dev = device_new(4 * PAGES);
	mem = map_aligned(PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		*word(i) = 0;
	hits = 0;
	t->target = pthread_self();
	atomic_store(&t->stop, false);
	sigaction(SIGUSR1, &act, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	assert_int_equal(pthread_create(&t->thread, NULL, torment, t), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void torment_end(struct tormentor *t)
{
	uint64_t sum = 0;
	unsigned int i;

	while (!hits) /* a quick machine is through before it begins */
		dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, NULL);
	atomic_store(&t->stop, true);
	pthread_join(t->thread, NULL);
	signal(SIGUSR1, SIG_DFL);
	for (i = 0; i < PAGES; i++)
		sum += *word(i);
	assert_int_equal(sum, hits);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, PAGES * PAGE);
}

/* What the handler touches is away, most of it. */
static void send_away(void)
{
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, NULL), 0);
}

static void in_torment(unsigned int rounds, void (*round)(unsigned int i))
{
	struct tormentor t;
	unsigned int i;

	step("signals");
	torment_begin(&t);
	for (i = 0; i < rounds; i++)
		round(i);
	torment_end(&t);
}

static void migrate_round(unsigned int i)
{
	send_away();
	if (i % 4 == 0)
		assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, NULL),
				 0);
}

static void migrates(void **state)
{
	(void)state;
	BEGIN(60);
	in_torment(ROUNDS, migrate_round);
}

static void fault_round(unsigned int i)
{
	uint64_t val;

	if (i % 8 == 0)
		send_away();
	assert_int_equal(dummy_load_u64(dev, addr_of(word(i % PAGES)), &val), 0);
}

static void faults(void **state)
{
	(void)state;
	BEGIN(60);
	in_torment(ROUNDS, fault_round);
}

static void change_round(unsigned int i)
{
	char *map = map_aligned(4 * PAGE), *to;
	uint64_t val;

	(void)i;
	memset(map, 1, 4 * PAGE);
	assert_int_equal(dummy_load_u64(dev, addr_of(map), &val), 0);
	send_away();
	assert_int_equal(mprotect(map, 4 * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(map, 4 * PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(madvise(map, PAGE, MADV_DONTNEED), 0);
	to = mremap(map, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
	assert_ptr_not_equal(to, MAP_FAILED);
	munmap(to, 8 * PAGE);
}

static void changes(void **state)
{
	(void)state;
	BEGIN(60);
	in_torment(ROUNDS, change_round);
}

static void fork_round(unsigned int i)
{
	pid_t pid;

	(void)i;
	send_away();
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void forks(void **state)
{
	(void)state;
	BEGIN(60);
	in_torment(ROUNDS / 10, fork_round);
}

static void look_round(unsigned int i)
{
	hmm_pfn_t pfns[PAGES];
	struct hmm_range range = {
		.size = sizeof(range),
		.mirror = dummy_mirror(dev),
		.start = addr_of(mem),
		.end = addr_of(mem) + PAGES * PAGE,
		.pfns = pfns,
	};

	(void)i;
	send_away();
	if (!hmm_range_snapshot(&range))
		hmm_range_done(&range);
	hmm_mirror_sync(dummy_mirror(dev));
	hmm_free(hmm_alloc(5000));
}

static void looks(void **state)
{
	(void)state;
	BEGIN(60);
	in_torment(ROUNDS, look_round);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(migrates), cmocka_unit_test(faults), cmocka_unit_test(changes),
		cmocka_unit_test(looks),    cmocka_unit_test(forks),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
