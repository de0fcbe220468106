/* SPDX-License-Identifier: MIT */
/*
 * Where the kernel comes to migrated memory by other ways than copying a buffer:
 * populating, locking, collapsing, looking without touching, from another process,
 * writing a signal frame; and what changes a mapping while faults on it wait.
 *
 * Tries to break: G4, G9. As an ordinary user a call may fail, and nothing is lost:
 * see away.h.
 */
#include "away.h"

#include <sys/uio.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* ---- what brings memory, and what only looks ---- */

static long populate_read(void)
{
	return sys(SYS_madvise, mem, BYTES, MADV_POPULATE_READ);
}

static long populate_write(void)
{
	return sys(SYS_madvise, mem, BYTES, MADV_POPULATE_WRITE);
}

static void populate_brings_all_of_it(void **state)
{
	(void)state;
	BEGIN(40);
	assert_int_equal(call_away(populate_read, "MADV_POPULATE_READ"), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(call_away(populate_write, "MADV_POPULATE_WRITE"), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 1);
}

/* mlock() may fail where the kernel does not wait for the pages; it loses none. */
static void locking_what_is_away(void **state)
{
	long ret;

	(void)state;
	BEGIN(40);
	send_away(mem, PAGES);
	ret = sys(SYS_mlock, mem, BYTES);
	if (ret != -ENOMEM || !user_mode)
		assert_int_equal(ret, 0);
	if (!ret)
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(sys(SYS_munlock, mem, BYTES), 0);
	send_away(mem, PAGES);
	assert_int_equal(sys(SYS_mlock2, mem, BYTES, 1 /* MLOCK_ONFAULT */), 0);
	pattern_check(mem, PAGES, 1); /* of another protection now than staging */
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(sys(SYS_munlock, mem, BYTES), 0);
}

static void looking_takes_nothing(void **state)
{
	static const int advice[] = { MADV_WILLNEED, MADV_COLD,	    MADV_PAGEOUT,   MADV_SEQUENTIAL,
				      MADV_NORMAL,   MADV_HUGEPAGE, MADV_NOHUGEPAGE };
	unsigned char there[PAGES];
	size_t i, n;

	(void)state;
	BEGIN(40);
	send_away(mem, PAGES / 2);
	assert_int_equal(sys(SYS_mincore, mem, BYTES, there), 0);
	for (i = 0, n = 0; i < PAGES; i++)
		n += there[i] & 1;
	assert_int_equal(n, PAGES / 2);
	for (i = 0; i < sizeof(advice) / sizeof(advice[0]); i++)
		sys(SYS_madvise, mem, BYTES, advice[i]);
	assert_int_equal(count_away(mem, PAGES), PAGES / 2);
	pattern_check(mem, PAGES, 1);
}

/* Two aligned chunks, with all, half, or nothing away. */
static void collapsing_loses_nothing(void **state)
{
	size_t pages = 2 * THP / PAGE, away, round;
	struct dummy_device *big = device_new(2 * pages);
	char *huge = map_aligned(2 * THP);

	(void)state;
	BEGIN(40);
	pattern_fill(huge, pages, 3);
	for (round = 0; round < 6; round++) {
		away = round % 3 * pages / 2;
		assert_int_equal(dummy_evict(big, addr_of(huge), addr_of(huge) + 2 * THP, NULL), 0);
		sys(SYS_madvise, huge, 2 * THP, MADV_HUGEPAGE);
		if (away)
			migrate_all(big, huge + round * PAGE, away - round);
		sys(SYS_madvise, huge, 2 * THP, MADV_COLLAPSE);
		pattern_check(huge, pages, 3);
	}
	munmap(huge, 2 * THP);
	assert_int_equal(dummy_destroy(big), 0);
}

/* ---- while faults wait ---- */

static bool stop, dropped;
static unsigned long turns;

/* Each page's first word is its content, or nothing where it may be dropped. */
static void *reader(void *arg)
{
	size_t page = 0;
	uint64_t val;

	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		val = __atomic_load_n((uint64_t *)(mem + page * PAGE), __ATOMIC_RELAXED);
		if (val != pattern_word(1, page, 0) && (val || !dropped))
			return arg;
		page = (page + 1) % PAGES;
		__atomic_fetch_add(&turns, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static struct dummy_device *slow;
static pthread_t reader_thread;

static void reader_start(bool drops)
{
	struct dummy_options opt = { .memory = MIB, .copy_delay_us = 300 };

	stop = false;
	dropped = drops;
	turns = 0;
	assert_int_equal(dummy_create(&slow, &opt), 0);
	assert_int_equal(pthread_create(&reader_thread, NULL, reader, &stop), 0);
}

static bool reader_goes_on(uint64_t end)
{
	return test_now() < end || __atomic_load_n(&turns, __ATOMIC_RELAXED) < 100;
}

static void reader_end(int ret)
{
	void *bad;

	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	step("joining the reader");
	pthread_join(reader_thread, &bad);
	assert_null(bad);
	assert_int_equal(ret, 0);
	assert_int_equal(dummy_destroy(slow), 0);
}

/* The fault is under way when the event comes: it ends all the same, with zeros. */
static void dropped_while_faults_wait(void **state)
{
	uint64_t end, i, n = 0;
	int ret = 0;

	(void)state;
	BEGIN(40);
	reader_start(true);
	end = test_now() + 600000000;
	while (reader_goes_on(end) && !ret) {
		for (i = 0; i < PAGES; i++)
			__atomic_store_n((uint64_t *)(mem + i * PAGE), pattern_word(1, i, 0),
					 __ATOMIC_RELAXED);
		ret = dummy_migrate(slow, addr_of(mem), addr_of(mem) + BYTES, NULL);
		test_sleep_us(n++ % 4 * 150);
		ret |= madvise(mem, BYTES, MADV_DONTNEED);
	}
	reader_end(ret);
}

/* Who may read all the time neither fails nor waits for ever. */
static void protection_changes_while_faults_wait(void **state)
{
	uint64_t end;
	int ret = 0;

	(void)state;
	BEGIN(40);
	reader_start(false);
	end = test_now() + 600000000;
	while (reader_goes_on(end) && !ret) {
		ret = dummy_migrate(slow, addr_of(mem), addr_of(mem) + BYTES, NULL);
		ret |= mprotect(mem + 7 * PAGE, 30 * PAGE, PROT_READ);
		ret |= madvise(mem + 20 * PAGE, 30 * PAGE, MADV_HUGEPAGE);
		test_sleep_us(200);
		ret |= mprotect(mem, BYTES, PROT_READ | PROT_WRITE);
		ret |= madvise(mem, BYTES, MADV_NOHUGEPAGE);
	}
	reader_end(ret);
	pattern_check(mem, PAGES, 1);
}

/* It fails on a page that is away (see docs), and takes nothing with it. */
static void by_proc_self_mem(void **state)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char buf[PAGE];
	long ret;

	(void)state;
	BEGIN(40);
	assert_true(fd >= 0);
	send_away(mem, PAGES);
	ret = sys(SYS_pread64, fd, buf, PAGE, mem + 5 * PAGE);
	if (ret == (long)PAGE)
		pattern_check_from(buf, 1, 1, 5);
	else
		assert_int_equal(ret, -EIO);
	memset(buf, 0, sizeof(buf));
	ret = sys(SYS_pwrite64, fd, buf, PAGE, mem + 9 * PAGE);
	if (ret == (long)PAGE)
		pattern_page(mem + 9 * PAGE, 1, 9);
	else
		assert_int_equal(ret, -EIO);
	pattern_check(mem, PAGES, 1);
	close(fd);
}

/* ---- another process ---- */

static int to_child[2], from_child[2];

/* On each byte it gets, 'r' or 'w', the result as a long. */
static void other_process(pid_t parent)
{
	static char buf[BYTES];
	struct iovec here = { buf, BYTES }, there = { mem, BYTES };
	char what;
	long ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(to_child[1]);
	while (read(to_child[0], &what, 1) == 1) {
		if (what == 'r')
			ret = sys(SYS_process_vm_readv, parent, &here, 1, &there, 1, 0);
		else
			ret = sys(SYS_process_vm_writev, parent, &here, 1, &there, 1, 0);
		if (what == 'r')
			memset(buf + PAGE, 0x33, PAGE);
		if (write(from_child[1], &ret, sizeof(ret)) != sizeof(ret))
			break;
	}
	_exit(0);
}

static char other_does;

static long ask_other(void)
{
	long ret;

	assert_int_equal(write(to_child[1], &other_does, 1), 1);
	assert_int_equal(read(from_child[0], &ret, sizeof(ret)), sizeof(ret));
	return ret;
}

static void another_process_reads_and_writes(void **state)
{
	pid_t pid, me = getpid();
	size_t i;

	(void)state;
	BEGIN(40);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	assert_int_equal(pipe(to_child) | pipe(from_child), 0);
	pid = fork();
	if (!pid)
		other_process(me);
	close(from_child[1]);
	other_does = 'r';
	assert_int_equal(call_away(ask_other, "process_vm_readv by a child"), BYTES);
	touch_all();
	memset(mem, 0, BYTES);
	other_does = 'w';
	assert_int_equal(call_away(ask_other, "process_vm_writev by a child"), BYTES);
	for (i = 0; i < PAGE; i++)
		assert_int_equal(mem[PAGE + i], 0x33);
	pattern_page(mem + PAGE, 1, 1);
	pattern_check(mem, PAGES, 1);
	close(to_child[0]);
	close(to_child[1]);
	close(from_child[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- a signal frame ---- */

static volatile int handled;

static void handler(int sig)
{
	handled = sig;
}

static void a_signal_stack_that_is_away(void **state)
{
	stack_t stack = { .ss_sp = mem, .ss_size = BYTES }, none = { .ss_flags = SS_DISABLE }, old;
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	int i;

	(void)state;
	BEGIN(40);
	if (user_mode)
		skip_because("for an ordinary user this ends the program, with SIGSEGV");
	if (TEST_SANITIZED)
		skip_because("the thread sanitizer calls handlers on another stack");
	assert_int_equal(sigaltstack(&stack, &old), 0);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	for (i = 0; i < 20; i++) {
		send_away(mem, PAGES);
		handled = 0;
		raise(SIGUSR1);
		assert_int_equal(handled, SIGUSR1);
		assert_true(on_cpu(mem + BYTES - 1));
		wait_until(count_away(mem, PAGES) < PAGES && count_away(mem, PAGES) > PAGES / 2);
	}
	signal(SIGUSR1, SIG_DFL);
	assert_int_equal(sigaltstack(&none, NULL), 0);
	pattern_check(mem, PAGES / 2, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
	const struct CMUnitTest tests[] = {
		T(populate_brings_all_of_it),
		T(locking_what_is_away),
		T(looking_takes_nothing),
		T(collapsing_loses_nothing),
		T(dropped_while_faults_wait),
		T(protection_changes_while_faults_wait),
		T(by_proc_self_mem),
		T(another_process_reads_and_writes),
		T(a_signal_stack_that_is_away),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
