/* SPDX-License-Identifier: MIT */
/*
 * fork() of a process whose other threads migrate, fault, unmap, and whose device
 * writes.
 *
 * G8: the child sees one moment: of two counters of which every writer adds to the
 * first first, the first is equal or ahead by as many as there are writers,
 * whichever pages they are on. G9: no fork hangs, whatever the monitor has to do
 * meanwhile.
 */
#include <stdatomic.h>

#include "faults/harness.h"

#define PAGES 1024
#define FORKS 60
#define DEVICE_WRITERS 2 /* at most, on the same even pairs */

struct world {
	struct dummy_device *dev;
	unsigned char *mem; /* pairs of counters: page i and page i + PAGES / 2 */
	unsigned char *side; /* chunks that come and go */
	atomic_bool stop;
	atomic_int error;
	atomic_ulong did[6];
};

static uint64_t *counter(const struct world *w, size_t page)
{
	return (void *)(w->mem + page * hmm_page_size());
}

/* Even pairs are the device's, odd ones the CPU's. */
static void *device_writer(void *arg)
{
	struct world *w = arg;
	size_t i = 0;

	while (!atomic_load(&w->stop)) {
		uint64_t a = (uint64_t)(unsigned long)counter(w, i);
		uint64_t b = (uint64_t)(unsigned long)counter(w, i + PAGES / 2);
		int ret = dummy_fetch_add_u64(w->dev, a, 1, NULL);

		if (!ret)
			ret = dummy_fetch_add_u64(w->dev, b, 1, NULL);
		if (ret)
			atomic_store(&w->error, ret);
		i = (i + 2 * 37) % (PAGES / 2);
		atomic_fetch_add(&w->did[0], 1);
	}
	return NULL;
}

static void *cpu_writer(void *arg)
{
	struct world *w = arg;
	size_t i = 1;

	while (!atomic_load(&w->stop)) {
		volatile uint64_t *a = counter(w, i), *b = counter(w, i + PAGES / 2);

		*a = *a + 1;
		atomic_signal_fence(memory_order_seq_cst);
		*b = *b + 1;
		i = (i + 2 * 41) % (PAGES / 2);
		atomic_fetch_add(&w->did[1], 1);
	}
	return NULL;
}

static void *migrator(void *arg)
{
	struct world *w = arg;
	uint64_t start = (uint64_t)(unsigned long)w->mem, i = 0;

	while (!atomic_load(&w->stop)) {
		uint64_t at = start + (i * 7 % (PAGES / 64)) * 64 * hmm_page_size();
		int ret = dummy_migrate(w->dev, at, at + 64 * hmm_page_size(), NULL);

		if (ret)
			atomic_store(&w->error, ret);
		i++;
		atomic_fetch_add(&w->did[2], 1);
	}
	return NULL;
}

/* Memory that is mapped, migrated, half read back, and unmapped. */
static void *unmapper(void *arg)
{
	struct world *w = arg;
	unsigned long page = hmm_page_size();

	while (!atomic_load(&w->stop)) {
		unsigned char *p = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint64_t at = (uint64_t)(unsigned long)p;
		int ret;

		if (p == MAP_FAILED)
			continue;
		keep_apart(p, 64 * page);
		p[0] = 1;
		ret = dummy_migrate(w->dev, at, at + 64 * page, NULL);
		if (ret)
			atomic_store(&w->error, ret);
		if (p[0] != 1)
			atomic_store(&w->error, -EBADMSG);
		munmap(p, 64 * page);
		atomic_fetch_add(&w->did[3], 1);
	}
	return NULL;
}

/* First touches in a chunk that missing faults are caught for, and DONTNEED. */
static void *toucher(void *arg)
{
	struct world *w = arg;
	unsigned long page = hmm_page_size(), i;

	while (!atomic_load(&w->stop)) {
		for (i = 0; i < 32; i++) {
			if (w->side[i * page])
				atomic_store(&w->error, -EBADMSG);
			w->side[i * page] = 1;
		}
		madvise(w->side, 32 * page, MADV_DONTNEED);
		atomic_fetch_add(&w->did[4], 1);
	}
	return NULL;
}

static void child_look(const struct world *w)
{
	size_t i;

	child_begin();
	for (i = 0; i < PAGES / 2; i++) {
		uint64_t ahead = *counter(w, i) - *counter(w, i + PAGES / 2);

		CHILD_CHECK(ahead <= (i % 2 ? 1 : DEVICE_WRITERS));
	}
	_exit(0);
}

static void fork_amid(void *(*const *fn)(void *), unsigned int n, const char *what)
{
	static struct world world;
	struct dummy_options opt = { .memory = 32 * MIB };
	struct world *w = &world;
	pthread_t thread[8];
	unsigned int i;
	int failed = 0;

	*w = (struct world){ .dev = device_new(&opt) };
	w->mem = map_bytes(PAGES * hmm_page_size());
	memset(w->mem, 0, PAGES * hmm_page_size());
	w->side = map_chunks(1);
	w->side[CHUNK - 1] = 1;
	migrate_all(w->dev, w->side + CHUNK - hmm_page_size(), 1); /* catch faults there */
	migrate_all(w->dev, w->mem, PAGES);
	limit(20, what);
	flush();
	for (i = 0; i < n; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fn[i], w), 0);
	for (i = 0; i < FORKS / SLOWER && !failed; i++) {
		pid_t pid;

		sleep_us(500);
		pid = fork();
		if (!pid)
			child_look(w);
		failed = child_wait(pid);
	}
	atomic_store(&w->stop, true);
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(failed, 0);
	assert_int_equal(atomic_load(&w->error), 0);
	munmap(w->mem, PAGES * hmm_page_size());
	munmap(w->side, CHUNK);
	assert_true(memory_comes_free(w->dev, 2)); /* the event runs after munmap returns */
	assert_int_equal(dummy_destroy(w->dev), 0);
	limit(0, "");
}

#define FORK_AMID(...)                                               \
	do {                                                         \
		void *(*const fn[])(void *) = { __VA_ARGS__ };       \
		(void)state;                                         \
		fork_amid(fn, sizeof(fn) / sizeof(fn[0]), __func__); \
	} while (0)

static void one_moment_of_what_the_device_writes(void **state)
{
	FORK_AMID(device_writer, device_writer, migrator);
}

static void one_moment_of_what_the_cpu_writes(void **state)
{
	FORK_AMID(cpu_writer, migrator);
}

static void fork_while_another_thread_unmaps(void **state)
{
	FORK_AMID(unmapper);
}

static void fork_while_another_thread_touches_first(void **state)
{
	FORK_AMID(toucher);
}

static void fork_while_all_of_it_goes_on(void **state)
{
	FORK_AMID(device_writer, cpu_writer, migrator, unmapper, toucher);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_moment_of_what_the_device_writes),
		cmocka_unit_test(one_moment_of_what_the_cpu_writes),
		cmocka_unit_test(fork_while_another_thread_unmaps),
		cmocka_unit_test(fork_while_another_thread_touches_first),
		cmocka_unit_test(fork_while_all_of_it_goes_on),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
