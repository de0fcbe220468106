/* SPDX-License-Identifier: MIT */
/*
 * The arena: sizes, alignment, zeroes, no two objects at one place, guard pages
 * that fault, what a migration has to step over, fork, and threads.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <hmm/driver.h>

#include "apart.h"
#include "core/core.h"
#include "mm/arena.h"

#define SLAB (256ul << 10)
#define HUGE (2ul << 20)
#define THREADS 4

/*
 * Run @fn in a forked child, with an arena of its own or, where no other thread
 * is about, its parent's. Return: its wait status.
 */
static int run_child(void (*fn)(void *), void *arg, bool own_arena)
{
	int status;
	pid_t pid;

	fflush(stdout);
	fflush(stderr);
	assert_int_equal(fork_init(), 0);
	/* By hand: libhmm's handler does not run, which begins a new arena. */
	pid = own_arena ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	if (!pid) {
		/* Neither cmocka's handler nor a sanitizer's. */
		signal(SIGSEGV, SIG_DFL);
		signal(SIGILL, SIG_DFL);
		signal(SIGTRAP, SIG_DFL);
		fn(arg);
		child_exit(!own_arena, 0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int in_child(void (*fn)(void *), void *arg)
{
	return run_child(fn, arg, true);
}

static bool all_bytes(const void *p, int value, size_t n)
{
	const unsigned char *c = p;
	size_t i;

	for (i = 0; i < n; i++)
		if (c[i] != value)
			return false;
	return true;
}

static void test_page_size(void **state)
{
	(void)state;
	assert_int_equal(hmm_page_size(), sysconf(_SC_PAGESIZE));
	assert_int_equal(1ul << hmm_page_shift(), hmm_page_size());
}

static void check_size(size_t size)
{
	unsigned char *p = hmm_alloc(size);

	assert_non_null(p);
	assert_int_equal((unsigned long)p % (size >= 64 ? 64 : 16), 0);
	assert_true(all_bytes(p, 0, size));
	memset(p, 0xa5, size);
	assert_true(arena_overlaps((unsigned long)p, (unsigned long)p + size));
	hmm_free(p);
}

static void test_sizes(void **state)
{
	size_t size;

	(void)state;
	/* Twice each, so that the second gets the first one's dirty memory. */
	for (size = 1; size < 40000; size += size < 300 ? 1 : 61) {
		check_size(size);
		check_size(size);
	}
	for (size = 40000; size < 9ul << 20; size = size * 3 + 1) {
		check_size(size);
		check_size(size);
	}
	check_size(4160);
	check_size(32768);
	check_size(32769);
	check_size(HUGE);
	hmm_free(hmm_alloc(0));
	hmm_free(NULL);
}

static void test_refuses(void **state)
{
	(void)state;
	assert_null(hmm_alloc(SIZE_MAX));
	assert_null(hmm_alloc(SIZE_MAX - 100000));
	assert_null(hmm_alloc(1ul << 56));
	assert_null(hmm_map(0));
	assert_null(hmm_map(SIZE_MAX));
	assert_null(hmm_map(SIZE_MAX - hmm_page_size()));
	hmm_unmap(NULL, 0);
}

static void test_directory_waste(void **state)
{
	enum { N = 63 * 40 };
	unsigned long before, used;
	void *p[N];
	int i;

	(void)state;
	before = arena_bytes();
	for (i = 0; i < N; i++) {
		p[i] = hmm_alloc(4160);
		assert_non_null(p[i]);
	}
	used = arena_bytes() - before;
	/* One spare slab may have been there before, */
	assert_in_range(used, N * 4096 - SLAB, N * 4096 * 103 / 100);
	for (i = 0; i < N; i++)
		hmm_free(p[i]);
	/* and one may stay. */
	assert_true(arena_bytes() <= before + SLAB);
}

static void test_memory_returns(void **state)
{
	static const size_t sizes[] = { 16, 100, 4096, 4160, 20000 };
	enum { N = 300 };
	unsigned long before = arena_bytes();
	unsigned int s, i, round;
	void *p[N];

	(void)state;
	for (round = 0; round < 3; round++) {
		for (s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
			for (i = 0; i < N; i++) {
				p[i] = hmm_alloc(sizes[s]);
				assert_non_null(p[i]);
				assert_true(all_bytes(p[i], 0, sizes[s]));
				memset(p[i], 0xff, sizes[s]);
			}
			for (i = 0; i < N; i++)
				hmm_free(p[(i * 7) % N]);
		}
	}
	assert_true(arena_bytes() <= before + SLAB * (sizeof(sizes) / sizeof(sizes[0])));
}

/* Locked memory cannot be given back, and so is not zero when it comes again. */
static void test_memory_locked(void **state)
{
	enum { N = 300, SIZE = 5000 };
	unsigned char *p[N];
	int i, locked = 0;

	(void)state;
	for (i = 0; i < N; i++) {
		p[i] = hmm_alloc(SIZE);
		assert_non_null(p[i]);
		memset(p[i], 0xff, SIZE);
		locked += !mlock(p[i], SIZE);
	}
	for (i = 0; i < N; i++)
		hmm_free(p[i]);
	for (i = 0; i < N; i++) {
		p[i] = hmm_alloc(SIZE);
		assert_true(all_bytes(p[i], 0, SIZE));
	}
	for (i = 0; i < N; i++) {
		munlock(p[i], SIZE);
		hmm_free(p[i]);
	}
	if (locked < N)
		skip(); /* RLIMIT_MEMLOCK */
}

/* The kernel's answer, which kills nobody. */
static bool accessible(const void *p)
{
	char c;
	struct iovec to = { &c, 1 }, from = { (void *)p, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

static void test_map(void **state)
{
	size_t sizes[] = { 1, hmm_page_size(), hmm_page_size() + 1, HUGE - 1, HUGE, 3 * HUGE + 5 };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned char *p = hmm_map(sizes[i]);
		unsigned long addr = (unsigned long)p;

		assert_non_null(p);
		assert_int_equal(addr % (sizes[i] >= HUGE ? HUGE : hmm_page_size()), 0);
		assert_true(all_bytes(p, 0, sizes[i]));
		memset(p, 1, sizes[i]);
		assert_true(arena_overlaps(addr, addr + 1));
		assert_true(arena_overlaps(addr + sizes[i] - 1, addr + sizes[i]));
		assert_true(arena_overlaps(addr - 1, addr));
		hmm_unmap(p, sizes[i]);
		assert_false(accessible(p));
		assert_false(accessible(p + sizes[i] - 1));
	}
}

/*
 * Where there is no room in the reservation a map has a mapping of its own, and what is given
 * back then is not the arena's any more.
 */
static void test_map_outside(void **state)
{
	size_t bytes = 6ul << 30;
	unsigned char *p[4];
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++) {
		p[i] = hmm_map(bytes);
		if (!p[i])
			break; /* RLIMIT_AS, or no overcommit */
		p[i][0] = p[i][bytes - 1] = 1;
	}
	if (i < 4) {
		while (i--)
			hmm_unmap(p[i], bytes);
		skip();
	}
	for (i = 0; i < 4; i++) {
		assert_true(arena_overlaps((unsigned long)p[i], (unsigned long)p[i] + bytes));
		hmm_unmap(p[i], bytes);
		assert_false(accessible(p[i]));
	}
	assert_false(arena_overlaps((unsigned long)p[3], (unsigned long)p[3] + bytes));
}

/* What the program has left, and may map again where it was, is not taken. */
static void test_map_takes_no_hole(void **state)
{
	enum { N = 64 };
	unsigned char *hole, *p[N];
	unsigned int i;

	(void)state;
#if defined(HMM_ASAN) || defined(HMM_TSAN)
	skip(); /* each has a mapping of its own there */
#endif
	hmm_free(hmm_alloc(1)); /* the reservation is made */
	hole = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(hole, MAP_FAILED);
	munmap(hole, 4 * HUGE);
	for (i = 0; i < N; i++) {
		p[i] = hmm_map(i % 2 ? HUGE : hmm_page_size());
		assert_non_null(p[i]);
		assert_true(p[i] >= hole + 4 * HUGE || p[i] + HUGE <= hole);
	}
	for (i = 0; i < N; i++)
		hmm_unmap(p[i], i % 2 ? HUGE : hmm_page_size());
}

static void child_read(void *arg)
{
	(void)*(volatile unsigned char *)arg;
}

static void assert_faults(unsigned char *p)
{
	int status = in_child(child_read, p);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
}

static void test_guards(void **state)
{
	size_t page = hmm_page_size(), sizes[] = { page, 5 * page, HUGE, 2 * HUGE + page };
	unsigned long start = 1, end = 1ul << 47;
	unsigned int i;
	void *obj = hmm_alloc(16);

	(void)state;
	for (i = 0; i < 4; i++) {
		unsigned char *p = hmm_map(sizes[i]);

		assert_non_null(p);
		assert_faults(p - 1);
		assert_faults(p + sizes[i]);
		assert_int_equal(in_child(child_read, p), 0);
		assert_int_equal(in_child(child_read, p + sizes[i] - 1), 0);
		hmm_unmap(p, sizes[i]);
	}

	/* The reservation that small objects are in. */
	start = (unsigned long)obj;
	for (start = 1; arena_next(&start, &end); start = end, end = 1ul << 47)
		if (start <= (unsigned long)obj && end > (unsigned long)obj)
			break;
	assert_in_range(obj, start, end - 1);
	assert_faults((unsigned char *)start);
	assert_faults((unsigned char *)end - 1);
	hmm_free(obj);
}

static void test_overlaps(void **state)
{
	unsigned long page = hmm_page_size(), s, e, addr, n = 0, last = 0;
	int on_stack, *heap = malloc(sizeof(*heap));
	unsigned char *a = hmm_map(page), *b = hmm_map(7 * page), *big = hmm_alloc(100000);
	bool seen_a = false, seen_b = false, seen_big = false;

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	assert_non_null(big);
	assert_false(arena_overlaps((unsigned long)&on_stack, (unsigned long)(&on_stack + 1)));
	assert_false(arena_overlaps((unsigned long)heap, (unsigned long)(heap + 1)));
	free(heap);

	addr = (unsigned long)b;
	assert_false(arena_overlaps(addr, addr));
	assert_false(arena_overlaps(addr + 1, addr));
	s = addr + page;
	e = addr + 3 * page;
	assert_true(arena_next(&s, &e)); /* inside: clipped on both sides */
	assert_int_equal(s, addr + page);
	assert_int_equal(e, addr + 3 * page);

	for (s = 0, e = ULONG_MAX; arena_next(&s, &e); s = e, e = ULONG_MAX) {
		assert_true(s < e && s >= last);
		last = e;
		n++;
		seen_a |= s < (unsigned long)a && e > (unsigned long)a + page;
		seen_b |= s < addr && e > addr + 7 * page;
		seen_big |= s < (unsigned long)big && e > (unsigned long)big + 100000;
	}
	assert_true(n >= 1 && seen_a && seen_b && seen_big);
	hmm_unmap(a, page);
	hmm_unmap(b, 7 * page);
	hmm_free(big);
	s = addr = (unsigned long)&on_stack & ~(page - 1);
	e = addr + page;
	assert_false(arena_next(&s, &e));
	assert_int_equal(s, addr); /* nothing written */
	assert_int_equal(e, addr + page);
}

#if !defined(HMM_ASAN) && !defined(HMM_TSAN)
/* What may be written to. */
static unsigned long address_space(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages), 1);
	fclose(f);
	return pages * hmm_page_size();
}

/* Of the room that alignment takes nothing is left behind. */
static void test_map_leaves_nothing(void **state)
{
	unsigned long before, i;
	void *p[50];

	(void)state;
	(void)address_space(); /* stdio's buffer */
	before = address_space();
	for (i = 0; i < 50; i++)
		assert_non_null(p[i] = hmm_map(HUGE + i));
	assert_in_range(address_space() - before, 50 * HUGE, 51 * HUGE);
	for (i = 0; i < 50; i++)
		hmm_unmap(p[i], HUGE + i);
	assert_int_equal(address_space(), before);
}
#else
static void test_map_leaves_nothing(void **state)
{
	(void)state;
	skip(); /* a sanitizer maps memory of its own */
}
#endif

/* Many maps at once, given back in another order: the table stays sorted. */
static void test_many_maps(void **state)
{
	enum { N = 500 };
	unsigned long page = hmm_page_size();
	unsigned char *p[N];
	unsigned int i, j;

	(void)state;
	for (i = 0; i < N; i++) {
		p[i] = hmm_map((i % 5 + 1) * page);
		assert_non_null(p[i]);
		p[i][0] = (unsigned char)i;
	}
	for (i = 0; i < N; i++) {
		j = i * 77 % N;
		assert_int_equal(p[j][0], j & 0xff);
		assert_true(arena_overlaps((unsigned long)p[j], (unsigned long)p[j] + 1));
		hmm_unmap(p[j], (j % 5 + 1) * page);
	}
	for (i = 0; i < N; i++)
		assert_false(accessible(p[i]));
}

struct churn {
	uint64_t seed;
	unsigned int rounds;
	atomic_bool *stop;
	bool failed;
};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static size_t random_size(uint64_t *seed)
{
	uint64_t r = next_random(seed);

	if (r % 64 == 0)
		return 32769 + r / 64 % 200000;
	if (r % 8 == 0)
		return 4160;
	return 1 + (r / 64 % 32768 >> r % 13);
}

/*
 * Fill each object with a pattern of one's own, and look whether it is still
 * there later: an object that overlaps another loses it.
 */
static void *churn(void *arg)
{
	enum { SLOTS = 64 };
	struct churn *job = arg;
	unsigned char *p[SLOTS] = { 0 }, tag[SLOTS];
	uint64_t seed = job->seed;
	size_t size[SLOTS];
	unsigned int i, n;

	for (n = 0; n < job->rounds && !(job->stop && atomic_load(job->stop)); n++) {
		i = next_random(&seed) % SLOTS;
		if (p[i]) {
			job->failed |= !all_bytes(p[i], tag[i], size[i]);
			hmm_free(p[i]);
			p[i] = NULL;
			continue;
		}
		size[i] = random_size(&seed);
		tag[i] = (unsigned char)(next_random(&seed) | 1);
		p[i] = hmm_alloc(size[i]);
		if (!p[i] || !all_bytes(p[i], 0, size[i])) {
			job->failed = true;
			break;
		}
		memset(p[i], tag[i], size[i]);
	}
	for (i = 0; i < SLOTS; i++) {
		if (p[i])
			job->failed |= !all_bytes(p[i], tag[i], size[i]);
		hmm_free(p[i]);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct churn job[THREADS];
	pthread_t id[THREADS];
	unsigned int i;

	(void)state;
	for (i = 0; i < THREADS; i++) {
		job[i] = (struct churn){ .seed = 0x9e3779b97f4a7c15ull * (i + 1), .rounds = 20000 };
		assert_int_equal(pthread_create(&id[i], NULL, churn, &job[i]), 0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		assert_false(job[i].failed);
	}
}

static void child_alloc(void *arg)
{
	struct churn job = { .seed = (uint64_t)(unsigned long)arg, .rounds = 500 };

	churn(&job);
	if (job.failed)
		_exit(1);
}

/* Fork while others allocate: the child's arena works, and its locks are free. */
static void test_fork(void **state)
{
	struct churn job[THREADS];
	pthread_t id[THREADS];
	atomic_bool stop = false;
	unsigned int i;

	(void)state;
	for (i = 0; i < THREADS; i++) {
		job[i] = (struct churn){ .seed = i + 77, .rounds = UINT_MAX, .stop = &stop };
		assert_int_equal(pthread_create(&id[i], NULL, churn, &job[i]), 0);
	}
	for (i = 0; i < 30; i++)
		assert_int_equal(in_child(child_alloc, (void *)(unsigned long)(i + 1)), 0);
	atomic_store(&stop, true);
	for (i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		assert_false(job[i].failed);
	}
}

#ifdef HMM_DEBUG
/* A child's new arena takes what it does not know for its parent's: use the old one. */
static bool caught(void (*fn)(void *), void *arg)
{
	return WIFSIGNALED(run_child(fn, arg, false));
}

static void child_double_free(void *arg)
{
	size_t size = (size_t)arg;
	void *keep = hmm_alloc(size), *p = hmm_alloc(size);

	hmm_free(p);
	hmm_free(p);
	hmm_free(keep);
}

static void child_wild_free(void *arg)
{
	char *p = hmm_alloc(256);

	hmm_free(p + (size_t)arg);
}

static void child_unknown_free(void *arg)
{
	hmm_free(arg);
}

#ifndef HMM_ASAN
static void child_use_after_free(void *arg)
{
	volatile char *p = hmm_alloc(256);

	(void)arg;
	hmm_free((void *)p);
	p[100] = 1;
	(void)hmm_alloc(256);
}
#endif
#endif

static void test_misuse(void **state)
{
	(void)state;
#ifdef HMM_DEBUG
	int x;

	assert_true(caught(child_double_free, (void *)16));
	assert_true(caught(child_double_free, (void *)4160));
	assert_true(caught(child_double_free, (void *)100000));
	assert_true(caught(child_wild_free, (void *)16));
	assert_true(caught(child_wild_free, (void *)(SLAB * 1000)));
	assert_true(caught(child_unknown_free, &x));
#ifndef HMM_ASAN
	assert_true(caught(child_use_after_free, NULL));
#endif
#else
	skip(); /* only a debug build looks */
#endif
}

struct thread_report {
	unsigned long stack;
	int on_stack_of_arena;
	int signals_blocked;
};

static void *thread_look(void *arg)
{
	struct thread_report *report = arg;
	pthread_attr_t attr;
	size_t size;
	sigset_t set;
	void *stack;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &stack, &size);
	pthread_attr_destroy(&attr);
	report->stack = (unsigned long)stack;
	report->on_stack_of_arena =
		arena_overlaps((unsigned long)stack, (unsigned long)stack + 1) &&
		arena_overlaps(pthread_self(), pthread_self() + 1) && size >= 256ul << 10;
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	report->signals_blocked = sigismember(&set, SIGINT) && sigismember(&set, SIGSEGV) &&
				  sigismember(&set, SIGALRM) && sigismember(&set, SIGRTMAX);
	return NULL;
}

static void test_thread(void **state)
{
	struct hmm_thread *thread[8];
	struct thread_report report[8];
	sigset_t before, after;
	unsigned int i, round;

	(void)state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	for (round = 0; round < 50; round++) {
		for (i = 0; i < 8; i++)
			assert_int_equal(hmm_thread_create(&thread[i], thread_look, &report[i]), 0);
		for (i = 0; i < 8; i++) {
			hmm_thread_join(thread[i]);
			assert_true(report[i].on_stack_of_arena);
			assert_true(report[i].signals_blocked);
			assert_false(accessible((void *)report[i].stack));
		}
	}
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
	assert_false(sigismember(&after, SIGUSR1));
}

/* In a program of its own, whose arena does not exist yet. */
static int limited_main(void)
{
	struct rlimit limit = { .rlim_cur = 32ul << 20, .rlim_max = RLIM_INFINITY };
	unsigned long s = 0, e = ULONG_MAX;
	void *p;

	if (arena_overlaps(0, ULONG_MAX))
		return 1; /* must come into being at first use only */
	if (setrlimit(RLIMIT_AS, &limit))
		return 2;
	if (hmm_alloc(100) || hmm_map(4096))
		return 3;
	limit.rlim_cur = 300ul << 20;
	if (setrlimit(RLIMIT_AS, &limit))
		return 4;
	p = hmm_alloc(100);
	if (!p || !arena_next(&s, &e))
		return 5;
	if (e - s < 64ul << 20 || e - s > 300ul << 20)
		return 6;
	if (!hmm_map(4096) || hmm_map(300ul << 20))
		return 7;
	return 0;
}

static void *last_small(void *arg)
{
	unsigned long n = 0;
	void *p, *list = NULL;

	(void)arg;
	while ((p = hmm_alloc(32768))) {
		*(void **)p = list;
		list = p;
		n++;
	}
	if (n < 1000)
		return (void *)1;
	/* Full; what is given back can be had again. */
	for (p = list; p; p = list) {
		list = *(void **)p;
		hmm_free(p);
	}
	p = hmm_alloc(4160);
	return p ? NULL : (void *)2;
}

static void test_limited(void **state)
{
	int status;
	pid_t pid;

	(void)state;
#if defined(HMM_ASAN) || defined(HMM_TSAN)
	skip(); /* the sanitizer needs all of the address space */
#endif
	fflush(stdout);
	pid = fork();
	if (!pid) {
		execl("/proc/self/exe", "test_arena", "--limited", NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limited),		cmocka_unit_test(test_page_size),
		cmocka_unit_test(test_sizes),		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_directory_waste), cmocka_unit_test(test_memory_returns),
		cmocka_unit_test(test_memory_locked),	cmocka_unit_test(test_map),
		cmocka_unit_test(test_guards),		cmocka_unit_test(test_overlaps),
		cmocka_unit_test(test_map_outside),	cmocka_unit_test(test_map_takes_no_hole),
		cmocka_unit_test(test_many_maps),	cmocka_unit_test(test_map_leaves_nothing),
		cmocka_unit_test(test_threads),		cmocka_unit_test(test_fork),
		cmocka_unit_test(test_misuse),		cmocka_unit_test(test_thread),
	};

	if (argc > 1 && !strcmp(argv[1], "--limited")) {
		int ret = limited_main();

		return ret ? ret : (int)(long)last_small(NULL);
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
