/* SPDX-License-Identifier: MIT */
/*
 * Everything at once: the whole heap, every mapping of the process, threads that are
 * busy, start and end meanwhile.
 *
 * Tries to break: G4, G6 (libhmm must not fault on what it takes away itself), G9.
 *
 * Not in sanitizer builds: their shadow memory would go too, and the driver, being
 * instrumented, would need it.
 */
#include "test_util.h"

#define TOP 0x7ffffffff000ull
#define WORKERS 4

static struct dummy_device *dev;

static int setup(void **state)
{
	(void)state;
	dev = device_new(65536);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return dummy_destroy(dev);
}

/* Mapping by mapping: see one_call_for_the_whole_address_space() for the other way. */
static unsigned long migrate_everything(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned long start, end, moved, sum = 0;
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) != 2 || end > TOP)
			continue;
		moved = 0;
		assert_int_equal(dummy_migrate(dev, start, end, &moved), 0);
		sum += moved;
	}
	fclose(file);
	return sum;
}

/* 128 TiB, nearly all of it unmapped: what is not there must not cost. */
static void one_call_for_the_whole_address_space(void **state)
{
	char *mem = map_aligned(64 * PAGE);
	unsigned long moved = 0;

	(void)state;
	BEGIN(3);
	pattern_fill(mem, 64, 1);
	step("migrating [0x1000, top) in one call");
	assert_int_equal(dummy_migrate(dev, PAGE, TOP, &moved), 0);
	step("after that");
	assert_true(moved >= 64);
	pattern_check(mem, 64, 1);
	munmap(mem, 64 * PAGE);
}

static void whole_heap_goes_and_malloc_works(void **state)
{
	struct node {
		struct node *next;
		uint64_t value;
		char pad[200];
	} *list = NULL, *node;
	char *start, *end = sbrk(0);
	uint64_t sum = 0;
	int i;

	(void)state;
	BEGIN(8);
	for (i = 0; i < 5000; i++) {
		node = malloc(sizeof(*node));
		node->next = list;
		node->value = (uint64_t)i;
		list = node;
	}
	end = sbrk(0);
	start = (char *)(addr_of(list) & ~(16 * PAGE - 1)) - 512 * PAGE;
	step("migrating the heap");
	assert_int_equal(dummy_migrate(dev, addr_of(start), addr_of(end), NULL), 0);
	assert_false(on_cpu(list));
	assert_int_equal(dummy_store_u64(dev, addr_of(&list->value), 10000), 0);
	step("walking the heap");
	for (node = list; node; node = node->next)
		sum += node->value;
	assert_int_equal(sum, 4998ull * 4999 / 2 + 10000);
	assert_int_equal(dummy_migrate(dev, addr_of(start), addr_of(end), NULL), 0);
	step("malloc and free after the heap went");
	while ((node = list)) {
		list = node->next;
		free(node);
	}
	for (i = 0; i < 200; i++)
		free(malloc((size_t)i * 1000));
}

static void every_mapping_goes_and_the_process_lives(void **state)
{
	char *mem = map_aligned(64 * PAGE), *copy = malloc(100000);
	unsigned long moved;
	char text[64];
	int i;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 10; i++) {
		pattern_fill(mem, 64, (uint64_t)i);
		memset(copy, i, 100000);
		step("migrating everything");
		moved = migrate_everything();
		assert_true(moved >= 64 + 20);
		step("living on");
		pattern_check(mem, 64, (uint64_t)i);
		assert_int_equal(copy[99999], i);
		snprintf(text, sizeof(text), "%d %f", i, 1.5);
		assert_true(strlen(text) > 8);
	}
	free(copy);
	munmap(mem, 64 * PAGE);
}

/* ---- with other threads ---- */

struct busy {
	bool stop;
	uint64_t count;
	int bad;
};

static void *busy_main(void *arg)
{
	struct busy *busy = arg;
	uint64_t mine = 0;
	char local[4096];

	while (!__atomic_load_n(&busy->stop, __ATOMIC_ACQUIRE)) {
		char *block = malloc(3000 + mine % 100000);

		memset(block, (int)mine, 3000);
		memset(local, (int)mine, sizeof(local));
		if (memcmp(block, local, 3000))
			__atomic_store_n(&busy->bad, 1, __ATOMIC_RELAXED);
		snprintf(local, sizeof(local), "%llu %s", (unsigned long long)mine, "text");
		free(block);
		mine++;
		__atomic_fetch_add(&busy->count, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void everything_goes_under_busy_threads(void **state)
{
	struct busy *busy = calloc(1, sizeof(*busy));
	pthread_t threads[WORKERS];
	uint64_t end;
	int i;

	(void)state;
	BEGIN(12);
	for (i = 0; i < WORKERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, busy_main, busy), 0);
	end = test_now() + 1000000000ull;
	while (test_now() < end || !__atomic_load_n(&busy->count, __ATOMIC_RELAXED)) {
		step("migrating everything under busy threads");
		migrate_everything();
	}
	__atomic_store_n(&busy->stop, true, __ATOMIC_RELEASE);
	step("joining the busy threads");
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(busy->bad, 0);
	free(busy);
}

/* ---- threads that come and go ---- */

static void *short_main(void *arg)
{
	volatile char local[20000];

	memset((void *)(uintptr_t)local, 1, sizeof(local));
	errno = EINTR;
	return errno == EINTR ? arg : NULL;
}

static void *spawn_main(void *arg)
{
	struct busy *busy = arg;
	pthread_t threads[4];

	while (!__atomic_load_n(&busy->stop, __ATOMIC_ACQUIRE)) {
		void *ret;
		int i;

		for (i = 0; i < 4; i++)
			if (pthread_create(&threads[i], NULL, short_main, busy))
				__atomic_store_n(&busy->bad, 2, __ATOMIC_RELAXED);
		for (i = 0; i < 4; i++) {
			pthread_join(threads[i], &ret);
			if (ret != busy)
				__atomic_store_n(&busy->bad, 3, __ATOMIC_RELAXED);
		}
		__atomic_fetch_add(&busy->count, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void threads_start_and_end_while_everything_goes(void **state)
{
	struct busy *busy = calloc(1, sizeof(*busy));
	pthread_t thread;
	uint64_t end;

	(void)state;
	BEGIN(12);
	assert_int_equal(pthread_create(&thread, NULL, spawn_main, busy), 0);
	end = test_now() + 1500000000ull;
	while (test_now() < end || !__atomic_load_n(&busy->count, __ATOMIC_RELAXED)) {
		step("migrating everything while threads come and go");
		migrate_everything();
	}
	__atomic_store_n(&busy->stop, true, __ATOMIC_RELEASE);
	step("a thread that does not end: its descriptor was away?");
	pthread_join(thread, NULL);
	assert_int_equal(busy->bad, 0);
	free(busy);
}

/* glibc keeps stacks for later threads: they may go, and are used again. */
static void cached_stacks_go_and_are_used_again(void **state)
{
	pthread_t threads[8];
	int i, j;

	(void)state;
	BEGIN(8);
	for (j = 0; j < 20; j++) {
		for (i = 0; i < 8; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, short_main, threads), 0);
		step("join");
		for (i = 0; i < 8; i++)
			assert_int_equal(pthread_join(threads[i], NULL), 0);
		step("migrating cached stacks");
		migrate_everything();
	}
}

/* fork with everything away: the child has all of it. */
static void fork_with_everything_away(void **state)
{
	char *mem = map_aligned(64 * PAGE);
	int i, status;

	(void)state;
	BEGIN(10);
	for (i = 0; i < 5; i++) {
		pid_t pid;

		pattern_fill(mem, 64, (uint64_t)i);
		migrate_everything();
		step("fork with everything away");
		pid = fork();
		if (!pid) {
			alarm(5);
			pattern_check(mem, 64, (uint64_t)i);
			free(malloc(100000));
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		pattern_check(mem, 64, (uint64_t)i);
	}
	munmap(mem, 64 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(whole_heap_goes_and_malloc_works),
		T(every_mapping_goes_and_the_process_lives),
		T(everything_goes_under_busy_threads),
		T(threads_start_and_end_while_everything_goes),
		T(cached_stacks_go_and_are_used_again),
		T(fork_with_everything_away),
		T(one_call_for_the_whole_address_space),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
