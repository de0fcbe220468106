/* SPDX-License-Identifier: MIT */
/*
 * A mapping that goes between the two looks of an ioctl: the kernel looks for events, then
 * for the mapping, and finds neither, though the event is about to be told. So its ENOENT
 * says nothing as long as one waits (mm/uffd.c). Here the mapping goes before the ioctl is
 * made, which then is not, and ENOENT is what it gives. And changes without end, and a
 * discard whose pages are still there.
 *
 * Tries to break: G3, G4, G8, G9, G11.
 */
#include "windows.h"

#include "core/core.h"

static char *to; /* where it goes */
static const char *call; /* before which */
static atomic_bool armed;

struct shared {
	atomic_bool go;
	atomic_bool forked; /* the child has */
	atomic_int child; /* in which it goes; 0: here */
};

static struct shared *shared;

static bool is_mapped(const char *at)
{
	unsigned long start, end;
	bool found = false;
	char path[40], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps",
		 atomic_load(&shared->child) ? atomic_load(&shared->child) : (int)getpid());
	file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%lx-%lx", &start, &end) == 2 && addr_of(at) >= start &&
			addr_of(at) < end;
	if (file)
		fclose(file);
	return found;
}

/* Once. The event is not read meanwhile: we are on the inside of the gate. */
static int fail_gone(const char *what)
{
	if (strcmp(what, call) || !atomic_exchange(&armed, false))
		return 0;
	atomic_store(&shared->go, true);
	while (is_mapped(mem))
		test_sleep_us(100);
	return -ENOENT;
}

static void *move(void *arg)
{
	while (!atomic_load(&shared->go))
		test_sleep_us(100);
	return (void *)syscall(SYS_mremap, mem, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arg);
}

/* Some pages are in the device, and leave their place when @what is called. */
static void arm(const char *what, size_t pages)
{
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
	to = map_aligned(THP);
	munmap(mem + pages * PAGE, THP - pages * PAGE);
	pattern_fill(mem, pages, 7);
	migrate_all(dev, mem, pages);
	call = what;
	if (!debug_set_fail(fail_gone))
		skip_because("no debug build: nothing can be made to fail");
	atomic_store(&armed, true);
}

static void disarm(void)
{
	debug_set_fail(NULL);
	assert_false(atomic_load(&armed));
	munmap(to, THP);
	munmap(shared, PAGE);
}

static void what_moves_as_it_comes_back_is_no_error(void **state)
{
	pthread_t thread;
	void *moved;

	(void)state;
	BEGIN(20);
	arm("copy", 1);
	assert_int_equal(pthread_create(&thread, NULL, move, to), 0);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + PAGE, NULL), 0);
	pthread_join(thread, &moved);
	assert_ptr_equal(moved, to);
	pattern_check(to, 1, 7);
	disarm();
}

/* The device fails when it copies for the old address, and not any more for the new one. */
static void what_moves_as_it_is_given_up_is_not(void **state)
{
	pthread_t thread;
	void *moved;
	int fd[2];

	(void)state;
	BEGIN(20);
	hmm_set_log(HMM_LOG_NONE, NULL);
	assert_int_equal(pipe(fd), 0);
	arm("poison", 1);
	assert_int_equal(pthread_create(&thread, NULL, move, to), 0);
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 1, 1);
	step("a system call reads it");
	assert_int_equal(write(fd[1], mem, 8), -1); /* not mapped any more */
	pthread_join(thread, &moved);
	assert_ptr_equal(moved, to);
	pattern_check(to, 1, 7);
	disarm();
	close(fd[0]);
	close(fd[1]);
}

/* System calls only: no libc of the parent's after a clone by hand. */
static void child_moves(size_t pages)
{
	atomic_store(&shared->child, (int)syscall(SYS_getpid));
	while (!atomic_load(&shared->go))
		syscall(SYS_sched_yield);
	if (syscall(SYS_mremap, mem, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    to) != (long)to)
		syscall(SYS_exit_group, 2);
}

static void child_looks(size_t pages)
{
	const uint64_t *word = (const void *)to;
	size_t i;

	for (i = 0; i < pages * PAGE / 8; i++)
		if (word[i] != pattern_word(7, i * 8 / PAGE, i % (PAGE / 8)))
			syscall(SYS_exit_group, 1);
}

static int fail_gone_child(const char *what)
{
	while (atomic_load(&armed) && !atomic_load(&shared->child))
		test_sleep_us(100);
	return fail_gone(what);
}

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
}

static void child_ends(pid_t pid, size_t pages)
{
	int status = -1;

	assert_true(pid > 0);
	step("the child");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pattern_check(mem, pages, 7);
	disarm();
}

static void need_fork_events(void)
{
	struct hmm_features f = { .size = sizeof(f) };

	if (hmm_probe(&f) || !f.fork_event)
		skip_because("fork events need CAP_SYS_PTRACE");
}

static void what_a_child_moves_as_it_is_filled_is_filled(void **state)
{
	pid_t pid;

	(void)state;
	BEGIN(20);
	need_fork_events();
	arm("copy", 1);
	debug_set_fail(fail_gone_child);
	pid = raw_fork();
	if (!pid) {
		child_moves(1);
		child_looks(1);
		syscall(SYS_exit_group, 0);
	}
	child_ends(pid, 1);
}

/* Is the child in that system call, and waits there to be read? */
static bool child_waits(int call_number)
{
	char path[40], line[200] = "", state = 0;
	const char *after;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", atomic_load(&shared->child));
	file = fopen(path, "re");
	if (file && fgets(line, sizeof(line), file) && (after = strrchr(line, ')')))
		state = after[2];
	if (file)
		fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/syscall", atomic_load(&shared->child));
	file = fopen(path, "re");
	if (!file || !fgets(line, sizeof(line), file))
		line[0] = 0;
	if (file)
		fclose(file);
	return state == 'D' && atoi(line) == call_number;
}

/* Not before the child waits: for us to read of its move, and in the end of its fork. */
static int hold_copies(const char *what)
{
	if (strcmp(what, "copy") || !atomic_load(&armed))
		return 0;
	while (!atomic_load(&shared->child))
		test_sleep_us(100);
	atomic_store(&shared->go, true);
	while (!child_waits(SYS_mremap) && atomic_load(&armed)) {
		test_sleep_us(100);
		if (atomic_load(&shared->forked) || child_waits(SYS_clone))
			atomic_store(&armed, false);
	}
	return 0;
}

static void what_a_child_moves_its_child_has_there(void **state)
{
	int status = -1;
	pid_t pid;

	(void)state;
	BEGIN(20);
	need_fork_events();
	arm("copy", PAGES);
	debug_set_fail(hold_copies);
	pid = raw_fork();
	if (!pid) {
		child_moves(PAGES);
		pid = raw_fork();
		atomic_store(&shared->forked, true);
		child_looks(PAGES);
		if (pid && (syscall(SYS_wait4, pid, &status, 0, NULL) != pid || status))
			syscall(SYS_exit_group, 3);
		syscall(SYS_exit_group, 0);
	}
	child_ends(pid, PAGES);
}

/* What is told of by now is also recorded: the monitor holds the gate from before to after. */
static void recorded(void)
{
	struct mm *mm = &process_current()->mm;

	pthread_rwlock_rdlock(&mm->gate);
	pthread_rwlock_unlock(&mm->gate);
}

/* ---- changes without end ---- */

static atomic_uint changes;

/* Told, and recorded: but not run, as long as this fault is active. */
static void change(const char *name, unsigned long start, unsigned long end)
{
	if (strcmp(name, "device:read") || start > addr_of(mem) || end <= addr_of(mem) ||
	    atomic_fetch_add(&changes, 1) >= 5000)
		return;
	syscall(SYS_madvise, mem, PAGE, MADV_DONTNEED);
	recorded();
}

static void a_fault_where_all_changes_all_the_time_ends(void **state)
{
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + PAGE,
				   .etype = HMM_DEVICE_WFAULT };

	(void)state;
	BEGIN(60);
	if (!debug_set_step(change))
		skip_because("no debug build: nobody can come between");
	assert_int_equal(hmm_mirror_fault(dummy_mirror(dev), &event), -EBUSY);
	debug_set_step(NULL);
	assert_true(atomic_load(&changes) < 5000);
}

/* ---- another mapping, as the device asks ---- */

static atomic_bool entered;

static bool device_has(const char *at)
{
	hmm_pte_t pte = 0;

	pt_load(&dummy_mirror(dev)->pt, addr_of(at), addr_of(at) + PAGE, &pte);
	return hmm_pte_test_valid(pte);
}

/* What was read is of the old one by then. */
static void replace(const char *name, unsigned long start, unsigned long end)
{
	if (start > addr_of(mem) || end <= addr_of(mem))
		return;
	if (!strcmp(name, "device:entered") && !atomic_load(&armed)) {
		debug_set_step(NULL);
		atomic_store(&entered, device_has(mem));
	}
	if (strcmp(name, "device:read") || !atomic_exchange(&armed, false))
		return;
	syscall(SYS_mmap, mem, BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	recorded();
}

static void what_is_mapped_over_is_not_entered(void **state)
{
	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	dummy_discard(dev, addr_of(mem), addr_of(mem) + BYTES);
	if (!debug_set_step(replace))
		skip_because("no debug build: nobody can come between");
	atomic_store(&armed, true);
	assert_int_equal(device_word(mem), 0);
	assert_false(atomic_load(&armed));
	assert_false(atomic_load(&entered));
}

/* ---- a discard that takes its time ---- */

/*
 * As if MADV_DONTNEED had told of it, and not dropped anything yet: MADV_FREE tells the same,
 * and drops nothing.
 */
static void what_is_being_dropped_does_not_migrate(void **state)
{
	unsigned long pages = 1;
	uint64_t drop;

	(void)state;
	BEGIN(20);
	pattern_fill(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
	drop = doing_begin(DOING_DROP, addr_of(mem), addr_of(mem) + BYTES);
	assert_true(drop);
	assert_int_equal(syscall(SYS_madvise, mem, BYTES, MADV_FREE), 0);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, 0);
	doing_end(drop);
	migrate_all(dev, mem, PAGES);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_moves_as_it_comes_back_is_no_error),
		T(what_moves_as_it_is_given_up_is_not),
		T(what_a_child_moves_as_it_is_filled_is_filled),
		T(what_a_child_moves_its_child_has_there),
		T(a_fault_where_all_changes_all_the_time_ends),
		T(what_is_mapped_over_is_not_entered),
		T(what_is_being_dropped_does_not_migrate),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
