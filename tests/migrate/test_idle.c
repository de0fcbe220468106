/* SPDX-License-Identifier: MIT */
/*
 * Nothing happens, and nothing runs: no thread of libhmm or of a driver wakes up by itself,
 * whatever is mirrored, away or half over.
 *
 * Tries to break: G10 (pay for what you use).
 *
 * A second in which none of their context switches is counted is enough. There are many
 * tries, for what happened before may not be over on a slow machine; who wakes up once in a
 * while does so in each of them.
 */
#include "test_util.h"

#define PAGES 1024
#define BYTES (PAGES * PAGE)
#define TRIES 20
#define THREADS 64

static pid_t before[THREADS]; /* threads that are not libhmm's */
static unsigned int nbefore;

/* A sanitizer has a thread of its own, made with the first other; it has the program's name. */
static bool named_hmm(pid_t tid)
{
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
	f = fopen(path, "r");
	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	return !strncmp(name, "hmm-", 4);
}

static bool not_ours(pid_t tid)
{
	unsigned int i;

	for (i = 0; i < nbefore; i++)
		if (before[i] == tid)
			return true;
	return TEST_SANITIZED && !named_hmm(tid);
}

/* Each thread of the process. */
static void each_thread(void (*fn)(pid_t tid, unsigned long *sum), unsigned long *sum)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;

	assert_non_null(dir);
	while ((entry = readdir(dir)))
		if (atoi(entry->d_name))
			fn(atoi(entry->d_name), sum);
	closedir(dir);
}

static void note(pid_t tid, unsigned long *sum)
{
	(void)sum;
	assert_true(nbefore < THREADS);
	before[nbefore++] = tid;
}

static void add_switches(pid_t tid, unsigned long *sum)
{
	char path[64], line[256];
	unsigned long n;
	FILE *f;

	if (not_ours(tid))
		return;
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			*sum += n;
	if (f)
		fclose(f);
}

static void count(pid_t tid, unsigned long *sum)
{
	*sum += !not_ours(tid);
}

static unsigned long switches(void)
{
	unsigned long sum = 0;

	each_thread(add_switches, &sum);
	return sum;
}

static void expect_idle(const char *when)
{
	unsigned long was, now, threads = 0;
	int i;

	each_thread(count, &threads);
	assert_true(threads >= 2); /* or nobody was looked at */
	for (i = 0; i < TRIES; i++) {
		was = switches();
		test_sleep_us(1000000);
		now = switches();
		if (now == was)
			return;
	}
	fail_msg("%s: %lu context switches in the last second", when, now - was);
}

static struct dummy_device *dev[2];
static char *mem, *away;

static int setup(void **state)
{
	(void)state;
	nbefore = 0;
	each_thread(note, NULL);
	dev[0] = device_new(2 * PAGES);
	dev[1] = device_new(2 * PAGES);
	mem = map_aligned(BYTES);
	away = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	pattern_fill(away, PAGES, 2);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	munmap(away, BYTES);
	return dummy_destroy(dev[0]) || dummy_destroy(dev[1]);
}

static void mirror_it(struct dummy_device *d)
{
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + BYTES,
				   .etype = HMM_DEVICE_RFAULT };

	assert_int_equal(hmm_mirror_fault(dummy_mirror(d), &event), 0);
}

static void with_mirrors_and_memory_away(void **state)
{
	(void)state;
	BEGIN(60);
	mirror_it(dev[0]);
	mirror_it(dev[1]);
	migrate_all(dev[0], away, PAGES);
	expect_idle("mirrored and migrated");
	pattern_check(away, PAGES / 2, 2);
	expect_idle("after CPU faults");
}

/* Some of which libhmm cannot know when they are over: a drop by hand, MADV_FREE, half an mremap. */
static void after_events(void **state)
{
	char *to = map_aligned(BYTES);
	pid_t child;

	(void)state;
	BEGIN(120);
	mirror_it(dev[0]);
	migrate_all(dev[1], away, PAGES);
	assert_int_equal(madvise(mem, 16 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(syscall(SYS_madvise, mem + 16 * PAGE, 16 * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(syscall(SYS_madvise, mem + 64 * PAGE, 16 * PAGE, MADV_FREE), 0);
	assert_int_equal(munmap(mem + 128 * PAGE, 16 * PAGE), 0);
	assert_int_equal(mprotect(mem + 256 * PAGE, 16 * PAGE, PROT_READ), 0);
	expect_idle("after madvise(), munmap() and mprotect()");
	assert_ptr_equal(mremap(away, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	away = to;
	expect_idle("after mremap()");
	child = fork();
	if (!child)
		_exit(0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	expect_idle("after fork()");
	pattern_check(away, PAGES, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(with_mirrors_and_memory_away, setup, teardown),
		cmocka_unit_test_setup_teardown(after_events, setup, teardown),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
