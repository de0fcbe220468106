/* SPDX-License-Identifier: MIT */
/*
 * A trace while others are at work, over fork, and when the process ends: the file can be
 * read, has nothing of another process, and nobody waits for it. (G8, G9)
 */
#include <sys/stat.h>

#include "trace/trace_read.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)
#define THREADS 4

static char path[64];

static int setup(void **state)
{
	(void)state;
	strcpy(path, "/tmp/hmm-trace-XXXXXX");
	close(mkstemp(path));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hmm_trace_stop();
	unlink(path);
	return 0;
}

static void turn(struct dummy_device *dev, char *mem)
{
	uint64_t val;

	dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	if (dummy_load_u64(dev, addr_of(mem) + 3 * PAGE, &val))
		abort();
	((volatile char *)mem)[5 * PAGE] = 1;
	dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	madvise(mem, BYTES / 2, MADV_DONTNEED);
}

static void check(bool whole)
{
	struct trace trace;

	trace_read(&trace, path, whole);
	if (whole)
		trace_check(&trace);
	else
		trace_check_nesting(&trace);
	trace_free(&trace);
}

/* ---- threads ---- */

static struct dummy_device *shared;
static bool stop; /* atomic */

static void *worker(void *arg)
{
	char *mem = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		turn(shared, mem);
	return NULL;
}

static void it_starts_and_stops_while_threads_work(void **state)
{
	char *mem[THREADS];
	pthread_t id[THREADS];
	size_t records = 0;
	struct trace trace;
	int i;

	(void)state;
	BEGIN(30);
	shared = device_new(THREADS * PAGES);
	stop = false;
	for (i = 0; i < THREADS; i++) {
		mem[i] = map_aligned(THP);
		assert_int_equal(pthread_create(&id[i], NULL, worker, mem[i]), 0);
	}
	for (i = 0; i < 20; i++) {
		assert_int_equal(hmm_trace_start(path), 0);
		test_sleep_us(i % 4 * 10000);
		assert_int_equal(hmm_trace_stop(), 0);
		trace_read(&trace, path, true);
		trace_check(&trace);
		records += (size_t)trace_total(&trace, "records");
		trace_free(&trace);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	assert_true(records > 100);
	for (i = 0; i < THREADS; i++)
		munmap(mem[i], THP);
	assert_int_equal(dummy_destroy(shared), 0);
}

/* What a thread did is with its number, also when it is gone. */
static void each_thread_has_its_own(void **state)
{
	size_t i, n, threads = 0;
	struct trace trace;
	int seen[THREADS] = { 0 };
	pthread_t id;
	char *mem;

	(void)state;
	BEGIN(20);
	shared = device_new(PAGES);
	mem = map_aligned(THP);
	assert_int_equal(hmm_trace_start(path), 0);
	for (i = 0; i < THREADS; i++) {
		stop = false;
		assert_int_equal(pthread_create(&id, NULL, worker, mem), 0);
		test_sleep_us(20000);
		__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		pthread_join(id, NULL);
	}
	assert_int_equal(dummy_destroy(shared), 0);
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(&trace, path, true);
	trace_check(&trace);
	for (i = 0; i < trace.n; i++) {
		if (strcmp(trace.event[i].name, "to device"))
			continue;
		for (n = 0; n < threads && seen[n] != trace.event[i].tid; n++)
			;
		assert_true(n < THREADS && trace.event[i].tid != gettid());
		seen[n] = trace.event[i].tid;
		threads = n == threads ? n + 1 : threads;
	}
	assert_true(threads > 0);
	trace_free(&trace);
	munmap(mem, THP);
}

/* ---- fork and exit ---- */

static void child_wait(pid_t child, int status)
{
	int got = -1;

	assert_true(child > 0);
	assert_int_equal(waitpid(child, &got, 0), child);
	assert_int_equal(got, status);
}

static void work(void)
{
	struct dummy_device *dev = device_new(PAGES);
	char *mem = map_aligned(THP);
	int i;

	for (i = 0; i < 5; i++)
		turn(dev, mem);
	dummy_destroy(dev);
	munmap(mem, THP);
}

static int child_traces(const char *own)
{
	struct trace trace;

	alarm(20);
	if (hmm_trace_stop() != -EINVAL)
		return 1;
	work();
	if (hmm_trace_start(own))
		return 2;
	work();
	if (hmm_trace_stop())
		return 3;
	trace_read(&trace, own, true);
	trace_check(&trace);
	return trace.event[0].pid == getpid() && trace_count(&trace, 'X', "copy to device") ? 0 : 4;
}

static void a_child_does_not_write_its_parents(void **state)
{
	struct dummy_device *dev;
	char own[80], *mem = map_aligned(THP);
	struct trace trace;
	pid_t child;

	(void)state;
	BEGIN(30);
	snprintf(own, sizeof(own), "%s.child", path);
	assert_int_equal(hmm_trace_start(path), 0);
	dev = device_new(PAGES);
	turn(dev, mem);
	fflush(NULL);
	child = fork();
	if (!child)
		exit(child_traces(own));
	turn(dev, mem);
	child_wait(child, 0);
	turn(dev, mem);
	assert_int_equal(dummy_destroy(dev), 0);
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(&trace, path, true);
	trace_check(&trace);
	assert_int_equal(trace.event[0].pid, getpid());
	assert_int_equal(trace_count(&trace, 'X', "fork"), 1);
	trace_free(&trace);
	unlink(own);
	munmap(mem, THP);
}

static const char *handler_path; /* what the next child begins at once */

static void fork_handler(void)
{
	if (handler_path && hmm_trace_start(handler_path))
		_exit(9);
	handler_path = NULL;
}

/* As who traces a whole family does. */
static void a_child_can_begin_in_its_fork_handler(void **state)
{
	struct trace trace;
	char own[80];
	pid_t child;

	(void)state;
	BEGIN(20);
	snprintf(own, sizeof(own), "%s.child", path);
	assert_int_equal(hmm_trace_start(path), 0); /* libhmm's handlers are there */
	assert_int_equal(pthread_atfork(NULL, NULL, fork_handler), 0);
	handler_path = own;
	fflush(NULL);
	child = fork();
	if (!child) {
		work();
		exit(0);
	}
	handler_path = NULL;
	child_wait(child, 0);
	work();
	assert_int_equal(hmm_trace_stop(), 0);
	check(true);
	trace_read(&trace, own, true);
	trace_check(&trace);
	assert_int_equal(trace.event[0].pid, child);
	assert_true(trace_count(&trace, 'X', "copy to device") > 0);
	trace_free(&trace);
	unlink(own);
}

/* It knows nothing of having been made, and has no writer. */
static void nor_one_made_behind_libcs_back(void **state)
{
	struct trace trace;
	pid_t child;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_trace_start(path), 0);
	work();
	fflush(NULL);
	child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!child) {
		alarm(10);
		munmap(map_anon(PAGE), PAGE);
		exit(0);
	}
	child_wait(child, 0);
	work();
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(&trace, path, true);
	trace_check(&trace);
	assert_int_equal(trace.event[0].pid, getpid());
	trace_free(&trace);
}

enum way { EXIT, QUICK, KILLED };

/* Without hmm_trace_stop(), and with the device at work. */
static void leave(enum way way)
{
	char *mem = map_aligned(THP);

	alarm(20);
	shared = device_new(PAGES);
	if (hmm_trace_start(path))
		_exit(1);
	turn(shared, mem);
	if (way == EXIT)
		exit(0);
	test_sleep_us(100000);
	if (way == QUICK)
		_exit(0);
	kill(getpid(), SIGKILL);
}

static void what_is_left(enum way way)
{
	struct trace trace;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child)
		leave(way);
	child_wait(child, way == KILLED ? SIGKILL : 0);
	trace_read(&trace, path, true);
	assert_int_equal(trace.event[0].pid, child);
	assert_true(trace_count(&trace, 'X', "to device") > 0);
	trace_check(&trace);
	trace_free(&trace);
}

static void exit_ends_it(void **state)
{
	(void)state;
	BEGIN(20);
	what_is_left(EXIT);
}

static void so_does_any_other_end(void **state)
{
	(void)state;
	BEGIN(20);
	what_is_left(QUICK);
	what_is_left(KILLED);
}

static long lines(const char *text)
{
	long n = 0;

	while ((text = strchr(text, '\n'))) {
		text++;
		n++;
	}
	return n;
}

/* What is there stays, whole or cut off; what is no trace is left alone. */
static void one_can_go_on_behind_another(void **state)
{
	struct trace trace;
	long before;
	char *text;

	(void)state;
	BEGIN(20);
	unlink(path);
	assert_int_equal(hmm_trace_resume(path), 0);
	work();
	assert_int_equal(hmm_trace_stop(), 0);
	check(true);
	text = file_read(path);
	before = lines(text);
	free(text);
	assert_int_equal(hmm_trace_resume(path), 0);
	work();
	assert_int_equal(hmm_trace_resume(path), -EBUSY);
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(&trace, path, true);
	assert_true(lines(trace.text) > before + 10);
	assert_int_equal(trace_count(&trace, 'M', "process_name"), 2);
	assert_int_equal(trace_count(&trace, 'M', "hmm_trace"), 2);
	assert_int_equal(truncate(path, (off_t)strlen(trace.text) - 30), 0);
	before = lines(trace.text);
	trace_free(&trace);
	assert_int_equal(hmm_trace_resume(path), 0);
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(&trace, path, true);
	assert_true(labs(lines(trace.text) - before) < 5);
	assert_int_equal(trace_count(&trace, 'M', "process_name"), 3);
	trace_free(&trace);
	assert_int_equal(truncate(path, 1), 0);
	assert_int_equal(hmm_trace_resume(path), -EINVAL);
	text = file_read(path);
	assert_string_equal(text, "[");
	free(text);
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The descriptor does not stay behind, here or in a child. */
static void no_descriptor_is_left(void **state)
{
	size_t fds = count_dir("/proc/self/fd");
	pid_t child;

	(void)state;
	BEGIN(10);
	assert_int_equal(hmm_trace_start(path), 0);
	child = fork();
	if (!child) {
		int fd, own = open(path, O_RDONLY | O_CLOEXEC);

		for (fd = 3; fd < 4096; fd++)
			if (fd != own && same_file(fd, own))
				_exit(1);
		_exit(0);
	}
	child_wait(child, 0);
	assert_int_equal(hmm_trace_stop(), 0);
	assert_int_equal(count_dir("/proc/self/fd"), fds);
	check(true);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(it_starts_and_stops_while_threads_work),
		T(each_thread_has_its_own),
		T(a_child_does_not_write_its_parents),
		T(a_child_can_begin_in_its_fork_handler),
		T(nor_one_made_behind_libcs_back),
		T(exit_ends_it),
		T(so_does_any_other_end),
		T(one_can_go_on_behind_another),
		T(no_descriptor_is_left),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
