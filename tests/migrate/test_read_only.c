/* SPDX-License-Identifier: MIT */
/*
 * Read-only memory that moves because the caller asked for it (HMM_MIGRATE_READ_ONLY), and
 * for that is writable for a moment (src/core/window.c).
 *
 * Tries to break: what read-only means, for the CPU and for the device, at each moment; G4,
 * G7, G9; that nothing is left of the moment: no protection, no mapping.
 */
#include <setjmp.h>

#include "windows.h"

#include <hmm/migrate.h>

#define WP_BIT (1ull << 57) /* of pagemap: write-protected by userfaultfd */

/* A third with content, a third zero pages, a third holes. */
static void fill(char *at, size_t pages, int prot)
{
	size_t i;

	assert_int_equal(mprotect(at, pages * PAGE, PROT_READ | PROT_WRITE), 0);
	madvise(at, pages * PAGE, MADV_DONTNEED);
	for (i = 0; i < pages; i++)
		if (i % 3 == 0)
			pattern_page(at + i * PAGE, 7, i);
		else if (i % 3 == 1)
			(void)*(volatile char *)(at + i * PAGE);
	assert_int_equal(mprotect(at, pages * PAGE, prot), 0);
}

static void check_from(const char *at, size_t first, size_t end)
{
	size_t i;

	for (i = first; i < end; i++)
		if (i % 3 == 0)
			pattern_check_from(at + i * PAGE, 1, 7, i);
		else
			assert_true(is_zero(at + i * PAGE, PAGE));
}

static void check(const char *at, size_t pages)
{
	check_from(at, 0, pages);
}

static size_t go(char *at, size_t pages)
{
	unsigned long moved = 4711;

	step("dummy_migrate_vma");
	assert_int_equal(
		dummy_migrate_vma(dev, addr_of(at), addr_of(at) + pages * PAGE, NULL, &moved), 0);
	step("after dummy_migrate_vma");
	return moved;
}

/* How many pages are mapped so that they can be written. */
static size_t count_writable(const char *at, size_t pages)
{
	size_t i, n = 0;
	char perms[32];
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long start, end;

	assert_non_null(maps);
	while (fscanf(maps, "%lx-%lx %4s%*[^\n]", &start, &end, perms) == 3)
		for (i = 0; i < pages; i++)
			n += addr_of(at) + i * PAGE >= start && addr_of(at) + i * PAGE < end &&
			     perms[1] == 'w';
	fclose(maps);
	return n;
}

static size_t count_protected(const char *at, size_t pages)
{
	size_t i, n = 0;

	for (i = 0; i < pages; i++)
		n += !!(pagemap_entry(at + i * PAGE) & WP_BIT);
	return n;
}

static void is_clean(const char *at, size_t pages)
{
	assert_int_equal(count_writable(at, pages), 0);
	assert_int_equal(count_protected(at, pages), 0);
}

static int ro_setup(void **state)
{
	struct dummy_options opt = { .memory = 1024 * PAGE, .scrub = true, .read_only = true };

	(void)state;
	hmm_set_user_mode(true);
	assert_int_equal(dummy_create(&dev, &opt), 0);
	mem = map_aligned(THP);
	return 0;
}

/* ---- what moves, and how it is afterwards ---- */

static void it_goes_and_comes_as_it_was(void **state)
{
	unsigned long came = 0;

	(void)state;
	BEGIN(30);
	fill(mem, PAGES, PROT_READ);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &came), 0);
	assert_int_equal(came, 0); /* by the call that has no flags */
	assert_int_equal(go(mem, PAGES), PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), 0);
	is_clean(mem, PAGES);
	assert_int_equal(device_word(mem + 3 * PAGE), pattern_word(7, 3, 0));
	assert_int_equal(device_word(mem + PAGE), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 1), -EFAULT);
	assert_int_equal(go(mem, PAGES), PAGES);
	check(mem, PAGES);
	is_clean(mem, PAGES);
	assert_int_equal(go(mem + 5 * PAGE, 9), 9);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, &came), 0);
	assert_int_equal(came, 9);
	check(mem, PAGES);
	is_clean(mem, PAGES);
	assert_int_equal(go(mem, PAGES), PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 8, 5), 0);
	assert_int_equal(((uint64_t *)mem)[1], 5);
	((uint64_t *)mem)[1] = pattern_word(7, 0, 1);
	check(mem, PAGES);
}

static void never_written_memory(void **state)
{
	char *none = mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	BEGIN(30);
	assert_ptr_not_equal(none, MAP_FAILED);
	assert_int_equal(go(none, PAGES), PAGES);
	assert_true(is_zero(none, BYTES));
	is_clean(none, PAGES);
	munmap(none, BYTES);
}

static void a_huge_page(void **state)
{
	(void)state;
	BEGIN(30);
	madvise(mem, THP, MADV_HUGEPAGE);
	pattern_fill(mem, THP / PAGE, 9);
	assert_int_equal(mprotect(mem, THP, PROT_READ), 0);
	assert_int_equal(go(mem + 7 * PAGE, 3), 3);
	assert_int_equal(go(mem, THP / PAGE), THP / PAGE);
	pattern_check(mem, THP / PAGE, 9);
	is_clean(mem, THP / PAGE);
}

static void what_the_device_does_not_take(void **state)
{
	struct hmm_stats before = { .size = sizeof(before) }, now = { .size = sizeof(now) };

	(void)state;
	BEGIN(30);
	fill(mem, PAGES, PROT_READ);
	hmm_get_stats(&before);
	dummy_inject(dev, DUMMY_FAIL_COPY_TO, 1, 1);
	assert_int_equal(go(mem, PAGES), 0);
	hmm_get_stats(&now);
	assert_int_equal(now.pages_staged, before.pages_staged);
	is_clean(mem, PAGES);
	check(mem, PAGES);
	assert_int_equal(go(mem, PAGES), PAGES);
	check(mem, PAGES);
}

static void what_a_child_shares_stays(void **state)
{
	int fds[2], status = -1;
	pid_t pid;
	char c;

	(void)state;
	BEGIN(30);
	fill(mem, PAGES, PROT_READ);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		close(fds[1]);
		(void)!read(fds[0], &c, 1);
		_exit(*(volatile uint64_t *)(mem + 3 * PAGE) != pattern_word(7, 3, 0));
	}
	assert_int_equal(go(mem, PAGES), PAGES - (PAGES / 3 + 1));
	is_clean(mem, PAGES);
	check(mem, PAGES);
	close(fds[1]);
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	check(mem, PAGES);
}

/* ---- who writes all the time ---- */

static __thread sigjmp_buf back;
static atomic_bool writers_stop;
static atomic_ulong through, refused;

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

/* Which of them gets nowhere first is not the point. */
__attribute__((noinline, no_sanitize("thread"))) static void write_at(volatile char *at)
{
	*at = 0x55;
}

static void *writer_main(void *arg)
{
	volatile char *at = arg;
	volatile size_t i = 0;

	while (!atomic_load(&writers_stop)) {
		if (!sigsetjmp(back, 1)) {
			write_at(at + i % PAGES * PAGE + 16);
			atomic_fetch_add(&through, 1);
		} else {
			atomic_fetch_add(&refused, 1);
		}
		i += 7;
	}
	return NULL;
}

static void no_write_gets_through(void **state)
{
	struct sigaction act = { .sa_handler = on_segv, .sa_flags = SA_NODEFER }, old;
	uint64_t until = test_now() + 1500000000ull;
	pthread_t threads[3];
	unsigned int i, rounds;

	(void)state;
	BEGIN(60);
	fill(mem, PAGES, PROT_READ);
	sigaction(SIGSEGV, &act, &old);
	atomic_store(&writers_stop, false);
	for (i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer_main, mem), 0);
	for (rounds = 0; test_now() < until || !atomic_load(&refused); rounds++) {
		size_t first = rounds % 5 * 8;

		go(mem + first * PAGE, PAGES - first);
		if (rounds % 3)
			dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	}
	atomic_store(&writers_stop, true);
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	sigaction(SIGSEGV, &old, NULL);
	print_message("%lu writes refused in %u rounds\n", atomic_load(&refused), rounds);
	assert_int_equal(atomic_load(&through), 0);
	dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	is_clean(mem, PAGES);
	check(mem, PAGES);
}

/* ---- at each step ---- */

static const char *const steps[] = { "out:protected", "out:writable", "out:moved",
				     "out:isolated",  "out:copied",   "out:end" };
#define STEPS (sizeof(steps) / sizeof(steps[0]))

static void *go_main(void *arg)
{
	(void)arg;
	dummy_migrate_vma(dev, addr_of(mem), addr_of(mem) + BYTES, NULL, NULL);
	return NULL;
}

static volatile bool wrote;

static bool try_write(char *at)
{
	struct sigaction act = { .sa_handler = on_segv, .sa_flags = SA_NODEFER }, old;

	sigaction(SIGSEGV, &act, &old);
	wrote = false;
	if (!sigsetjmp(back, 1)) {
		*(volatile char *)at = 1;
		wrote = true;
	}
	sigaction(SIGSEGV, &old, NULL);
	return wrote;
}

enum {
	DO_WRITE,
	DO_WRITE_ZERO,
	DO_WRITE_HOLE,
	DO_UNMAP,
	DO_REMAP,
	DO_DROP,
	DO_GIVE,
	DO_TAKE,
	DO_FORK,
	DO_ALL
};

static void act(unsigned int what, char *to)
{
	char *part = mem + 15 * PAGE;
	int status = 0;
	pid_t pid;

	if (what <= DO_WRITE_HOLE)
		assert_false(try_write(mem + what * PAGE));
	else if (what == DO_UNMAP)
		assert_int_equal(munmap(part, 9 * PAGE), 0);
	else if (what == DO_REMAP)
		assert_ptr_equal(
			mremap(part, 9 * PAGE, 9 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	else if (what == DO_DROP)
		assert_int_equal(madvise(part, 9 * PAGE, MADV_DONTNEED), 0);
	else if (what == DO_GIVE)
		assert_int_equal(mprotect(part, 9 * PAGE, PROT_READ | PROT_WRITE), 0);
	else if (what == DO_TAKE)
		assert_int_equal(mprotect(part, 9 * PAGE, PROT_NONE), 0);
	if (what != DO_FORK)
		return;
	pid = fork();
	if (!pid)
		_exit(*(volatile uint64_t *)(mem + 3 * PAGE) != pattern_word(7, 3, 0));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void after(unsigned int what, char *to)
{
	char *part = mem + 15 * PAGE;

	check_from(mem, 0, 15);
	check_from(mem, 24, PAGES);
	is_clean(mem, 15);
	is_clean(mem + 24 * PAGE, PAGES - 24);
	if (what == DO_UNMAP || what == DO_REMAP)
		assert_false(taken(part));
	else if (what == DO_DROP)
		assert_true(is_zero(part, 9 * PAGE));
	else if (what == DO_TAKE)
		assert_int_equal(mprotect(part, 9 * PAGE, PROT_READ), 0);
	if (what == DO_GIVE) {
		assert_int_equal(count_writable(part, 9), 9);
		assert_true(try_write(part + 1000));
	} else if (what == DO_REMAP) {
		pattern_check_from(to, 1, 7, 15);
		pattern_check_from(to + 6 * PAGE, 1, 7, 21);
		is_clean(to, 9);
	} else if (what != DO_UNMAP && what != DO_DROP) {
		pattern_check_from(part, 1, 7, 15);
		is_clean(part, 9);
	}
}

static bool round_at(const char *name, unsigned int what)
{
	char *to = map_aligned(THP);
	pthread_t thread;
	bool window;

	munmap(mem, THP);
	assert_ptr_equal(mmap(mem, THP, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
			 mem);
	fill(mem, PAGES, PROT_READ);
	hold_arm(name, mem, PAGES);
	assert_int_equal(pthread_create(&thread, NULL, go_main, NULL), 0);
	window = hold_hit();
	act(what, to);
	atomic_store(&hold.go, true);
	pthread_join(thread, NULL);
	after(what, to);
	munmap(to, THP);
	return window;
}

static void whatever_happens_at_each_step(void **state)
{
	unsigned int i, what, n = 0;
	char name[80];

	(void)state;
	BEGIN(120);
	hold_need();
	for (i = 0; i < STEPS; i++)
		for (what = 0; what < DO_ALL; what++) {
			snprintf(name, sizeof(name), "%s, action %u", steps[i], what);
			step(name);
			n += round_at(steps[i], what);
		}
	print_message("held in %u of %u\n", n, (unsigned int)(STEPS * DO_ALL));
	assert_true(n > STEPS * DO_ALL * 3 / 4);
}

/* ---- what fails ---- */

static const char *_Atomic fail_what;
static atomic_uint fail_times;

static int fail_some(const char *what)
{
	if (strcmp(what, atomic_load(&fail_what)) || !atomic_load(&fail_times))
		return 0;
	atomic_fetch_sub(&fail_times, 1);
	return -ENOMEM;
}

static void fails(const char *what, unsigned int times, size_t moved)
{
	fill(mem, PAGES, PROT_READ);
	atomic_store(&fail_what, what);
	atomic_store(&fail_times, times);
	assert_int_equal(go(mem, PAGES), moved);
	assert_int_equal(atomic_load(&fail_times), 0);
	is_clean(mem, PAGES);
	check(mem, PAGES);
}

static void what_fails_leaves_it_read_only(void **state)
{
	(void)state;
	BEGIN(60);
	atomic_store(&fail_what, "");
	if (!debug_set_fail(fail_some))
		skip_because("no debug build: nothing can be made to fail");
	fails("protect", 1, 0);
	fails("mprotect", 1, 0);
	fails("restore", 20, PAGES);
	fails("unprotect", 2, PAGES);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, ro_setup, teardown)
	const struct CMUnitTest tests[] = {
		T(it_goes_and_comes_as_it_was),
		T(never_written_memory),
		T(a_huge_page),
		T(what_the_device_does_not_take),
		T(what_a_child_shares_stays),
		T(no_write_gets_through),
		T(whatever_happens_at_each_step),
		T(what_fails_leaves_it_read_only),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
