/* SPDX-License-Identifier: MIT */
/*
 * Threads migrate memory to an lz4 device while others read it, write it, discard it and
 * fork: each page always holds what its owner last wrote.
 *
 * Tries to break: G4, G8, G9; the device's locks and counts.
 * The seed is printed; HMM_TEST_SEED repeats its choices, not their order.
 */
#include <stdatomic.h>

#include "lz4/lz4_util.h"

#define OWNERS 3u
#define MIGRATORS 2u
#define SLICE 400ul /* pages of one owner */
#define PAGES (OWNERS * SLICE)
#define BYTES (PAGES * PAGE)

struct owner {
	uint64_t state;
	uint64_t seed[SLICE]; /* what each page holds; 0: zeros */
	char *mem;
	unsigned long looks;
};

static struct lz4_device *dev;
static char *mem;
static struct owner owner[OWNERS];
static atomic_bool stop;
static atomic_ulong migrated, wrong;
static uint64_t seed;

static enum content kind_of(uint64_t state)
{
	return state ? (enum content)(state % CONTENTS) : ZERO;
}

static bool page_right(const char *page, uint64_t state)
{
	char expect[PAGE];

	content_fill(expect, kind_of(state), state);
	return !memcmp(page, expect, PAGE);
}

static void owner_touch(struct owner *own)
{
	unsigned long i = random_next(&own->state) % SLICE, n;
	char *page = own->mem + i * PAGE;

	if (!page_right(page, own->seed[i]))
		atomic_fetch_add(&wrong, 1);
	own->looks++;
	switch (random_next(&own->state) % 8) {
	case 0:
		own->seed[i] = random_next(&own->state) >> 16 | 1;
		content_fill(page, kind_of(own->seed[i]), own->seed[i]);
		break;
	case 1:
		n = 1 + random_next(&own->state) % 4;
		n = n < SLICE - i ? n : SLICE - i;
		madvise(page, n * PAGE, MADV_DONTNEED);
		memset(&own->seed[i], 0, n * sizeof(own->seed[0]));
		break;
	default:
		break;
	}
}

static void *owner_main(void *arg)
{
	struct owner *own = arg;

	while (!atomic_load(&stop))
		owner_touch(own);
	return NULL;
}

static void *migrator_main(void *arg)
{
	uint64_t state = addr_of(arg) * 77 + seed;

	while (!atomic_load(&stop)) {
		unsigned long first = random_next(&state) % PAGES;
		unsigned long n = 1 + random_next(&state) % 200, moved = 0;
		uint64_t at = addr_of(mem) + first * PAGE;

		n = n < PAGES - first ? n : PAGES - first;
		if (random_next(&state) % 16 == 0)
			lz4_evict(dev, at, at + n * PAGE, NULL);
		else if (lz4_migrate(dev, at, at + n * PAGE, NULL, &moved))
			atomic_fetch_add(&wrong, 1);
		atomic_fetch_add(&migrated, moved);
	}
	return NULL;
}

static void owners_init(void)
{
	unsigned int i, j;

	for (i = 0; i < OWNERS; i++) {
		struct owner *own = &owner[i];

		own->state = seed * (i + 1) | 1;
		own->mem = mem + i * SLICE * PAGE;
		for (j = 0; j < SLICE; j++) {
			own->seed[j] = random_next(&own->state) >> 16 | 1;
			content_fill(own->mem + j * PAGE, kind_of(own->seed[j]), own->seed[j]);
		}
	}
}

static void owners_check(void)
{
	unsigned int i, j;

	for (i = 0; i < OWNERS; i++)
		for (j = 0; j < SLICE; j++)
			assert_true(page_right(owner[i].mem + j * PAGE, owner[i].seed[j]));
}

/* A child while all of that goes on: it ends well if it could read all. */
static void fork_one(void)
{
	volatile char sum = 0;
	int status = -1;
	unsigned long i;
	pid_t pid = fork();

	if (!pid) {
		alarm(60);
		for (i = 0; i < PAGES; i++)
			sum += mem[i * PAGE];
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void run(size_t limit, unsigned int ms, bool forks)
{
	struct lz4_options opt = { .limit = limit, .check = true };
	pthread_t thread[OWNERS + MIGRATORS];
	uint64_t end = test_now() + ms * 1000000ull;
	unsigned int i;

	print_message("seed %llu\n", (unsigned long long)seed);
	assert_int_equal(lz4_create(&dev, &opt), 0);
	mem = map_apart(BYTES);
	owners_init();
	atomic_store(&stop, false);
	for (i = 0; i < OWNERS + MIGRATORS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL,
						i < OWNERS ? owner_main : migrator_main,
						i < OWNERS ? (void *)&owner[i] : &thread[i]),
				 0);
	while (test_now() < end || !atomic_load(&migrated)) {
		test_sleep_us(5000);
		if (forks)
			fork_one();
		if (limit)
			assert_true(lz4_stats_of(dev).memory_peak <= limit);
	}
	atomic_store(&stop, true);
	for (i = 0; i < OWNERS + MIGRATORS; i++)
		pthread_join(thread[i], NULL);
	owners_check();
	print_message("%lu pages moved, %lu looks\n", atomic_load(&migrated),
		      owner[0].looks + owner[1].looks + owner[2].looks);
	assert_int_equal(atomic_load(&wrong), 0);
	munmap(mem, BYTES);
	lz4_expect_empty(dev);
	assert_int_equal(lz4_destroy(dev), 0);
}

static void all_at_once(void **state)
{
	(void)state;
	BEGIN(40);
	run(0, 1500, false);
}

static void all_at_once_and_hardly_room(void **state)
{
	(void)state;
	BEGIN(40);
	run(MIB, 1500, false);
}

static void all_at_once_and_children(void **state)
{
	(void)state;
	BEGIN(60);
	run(0, 1500, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_at_once),
		cmocka_unit_test(all_at_once_and_hardly_room),
		cmocka_unit_test(all_at_once_and_children),
	};
	const char *given = getenv("HMM_TEST_SEED");

	test_init();
	seed = given ? strtoull(given, NULL, 0) : test_now() | 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
