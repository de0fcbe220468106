/* SPDX-License-Identifier: MIT */
/*
 * hmm_migrate_vma() and hmm_migrate_to_ram(): each error that is documented, and calls at
 * the wrong time or place; then changes of the address space under a migration.
 *
 * Tries to break: G6 (an op that calls back gets -EDEADLK and does not hang), G7, G11.
 */
#include "migrate/tiny.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define PAGES 600
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;
static uint8_t result[PAGES];

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	tiny = tiny_new(1024);
	mem = map_low(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	tiny_destroy(tiny);
	return 0;
}

static struct hmm_migrate whole(void)
{
	return (struct hmm_migrate){ .size = sizeof(struct hmm_migrate),
				     .device = &tiny->device,
				     .ops = &tiny_migrate_ops,
				     .start = addr_of(mem),
				     .end = addr_of(mem) + BYTES,
				     .cookie = tiny,
				     .pages = 4711,
				     .result = result };
}

/* Refused, with nothing written. */
static void is_invalid(struct hmm_migrate migrate)
{
	result[0] = 0xee;
	assert_int_equal(hmm_migrate_vma(&migrate), -EINVAL);
	assert_int_equal(migrate.pages, 4711);
	assert_int_equal(result[0], 0xee);
	assert_int_equal(tiny_calls(tiny, TINY_TAKE), 0);
}

#define INVALID(change)                        \
	do {                                   \
		struct hmm_migrate m = whole(); \
                                               \
		change;                        \
		is_invalid(m);                 \
	} while (0)

static void malformed_is_einval(void **state)
{
	struct hmm_migrate_ops ops = tiny_migrate_ops;

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_migrate_vma(NULL), -EINVAL);
	INVALID(m.size--);
	INVALID(m.flags = 1u << 31);
	INVALID(m.device = NULL);
	INVALID(m.ops = NULL);
	INVALID(m.start++);
	INVALID(m.end--);
	INVALID(m.end = m.start);
	INVALID(m.end = m.start - PAGE);
	INVALID(m.end = ~0ul & ~(PAGE - 1));
	ops.version++;
	INVALID(m.ops = &ops);
	ops = tiny_migrate_ops;
	ops.alloc_and_copy = NULL;
	INVALID(m.ops = &ops);
	ops = tiny_migrate_ops;
	ops.size = offsetof(struct hmm_migrate_ops, alloc_and_copy);
	INVALID(m.ops = &ops);
}

static void no_such_device_is_einval(void **state)
{
	struct tiny *empty = tiny_new(1);
	struct hmm_migrate m = whole();
	unsigned long pages = 4711;

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_devmem_remove(&empty->region[0].devmem), 0);
	m.device = &empty->device;
	assert_int_equal(hmm_migrate_vma(&m), -EINVAL); /* it has no memory */
	assert_int_equal(hmm_device_unregister(&empty->device), 0);
	assert_int_equal(hmm_migrate_vma(&m), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(&empty->device, m.start, m.end, &pages), -EINVAL);
	assert_int_equal(hmm_device_register(&empty->device), 0);
	tiny_destroy(empty);
}

/* Nobody could copy back: neither the region nor the device has a copy_from_device(). */
static void no_way_back_is_einval(void **state)
{
	struct hmm_devmem_ops *ops = hmm_alloc(sizeof(*ops));
	struct tiny *oneway = tiny_new(1);
	struct hmm_migrate m = whole();

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_devmem_remove(&oneway->region[0].devmem), 0);
	*ops = tiny_devmem_ops;
	ops->copy_from_device = NULL;
	oneway->region[0].devmem.ops = ops;
	assert_int_equal(hmm_devmem_add(&oneway->region[0].devmem, &oneway->device, PAGE), 0);
	m.device = &oneway->device;
	m.cookie = oneway;
	assert_int_equal(hmm_migrate_vma(&m), -EINVAL);
	assert_int_equal(tiny_used(oneway), 0);
	tiny_destroy(oneway);
	pattern_check(mem, PAGES, 1);
	hmm_free(ops);
}

static void to_ram_errors(void **state)
{
	unsigned long start = addr_of(mem), end = start + BYTES, pages = 4711;
	struct hmm_device *device = &tiny->device;

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_migrate_to_ram(NULL, start, end, &pages), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(device, start + 1, end, &pages), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(device, start, end - 1, &pages), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(device, end, start, &pages), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(device, start, start, &pages), -EINVAL);
	assert_int_equal(hmm_migrate_to_ram(device, start, ~0ul & ~(PAGE - 1), &pages), -EINVAL);
	/* Before its first migration there is nothing, and that is no error. */
	assert_int_equal(hmm_migrate_to_ram(device, start, end, &pages), 0);
	assert_int_equal(pages, 0);
}

static void a_lost_device_is_enodev(void **state)
{
	struct hmm_migrate m = whole();

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_device_lost(&tiny->device), 0);
	assert_int_equal(hmm_migrate_vma(&m), -ENODEV);
	assert_int_equal(tiny_calls(tiny, TINY_TAKE), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
}

/* ---- calls from an op ---- */

static int call_back[8];
static enum tiny_op call_from;

TINY_OP void calls_back(struct tiny *of, enum tiny_op op)
{
	struct hmm_migrate m = whole();
	struct hmm_device other = { .size = sizeof(other), .ops = &tiny_ops, .name = "other" };
	struct hmm_event event = { .start = m.start, .end = m.end, .etype = HMM_COPY_TO_DEVICE };

	if (op != call_from)
		return;
	call_back[0] = hmm_migrate_vma(&m);
	call_back[1] = hmm_migrate_to_ram(&of->device, m.start, m.end, NULL);
	call_back[2] = hmm_devmem_remove(&of->region[0].devmem);
	call_back[3] = hmm_device_register(&other);
	call_back[4] = hmm_device_unregister(&of->device);
	call_back[5] = hmm_mirror_register(&of->mirror);
	call_back[6] = hmm_mirror_fault(&of->mirror, &event);
	call_back[7] = hmm_mirror_unregister(&of->mirror);
}

static void an_op_that_calls_back_is_edeadlk(void **state)
{
	static const enum tiny_op ops[] = { TINY_TAKE, TINY_FINISH, TINY_COPY, TINY_AROUND,
					    TINY_EVICT };
	static const char *const names[] = { "take", "finish", "copy", "around", "evict" };
	struct tiny *small = tiny_new(10);
	size_t i, j;

	(void)state;
	BEGIN(10);
	small->evict_ret = -ENOENT;
	small->inside = calls_back;
	for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		step(names[i]);
		memset(call_back, 0, sizeof(call_back));
		call_from = ops[i];
		assert_int_equal(tiny_migrate(small, mem, 20, result, NULL), 0);
		pattern_check(mem, 20, 1);
		for (j = 0; j < 8; j++)
			if (call_back[j] != -EDEADLK)
				fail_msg("call %zu from %s: %d", j, names[i], call_back[j]);
	}
	small->inside = NULL;
	tiny_destroy(small);
}

/* ---- what a process may run into ---- */

/* Where system calls on migrated memory would fail, the process is asked first. */
static int as_an_ordinary_user(void)
{
	struct hmm_features f = { .size = sizeof(f) };
	struct hmm_migrate m;
	struct tiny *device;

	if (setresuid(65534, 65534, 65534) || prctl(PR_SET_DUMPABLE, 1) || hmm_probe(&f))
		return 1;
	if (f.error)
		return 77;
	device = tiny_new(PAGES);
	m = whole();
	m.device = &device->device;
	m.cookie = device;
	hmm_set_user_mode(false);
	if (f.user_mode_only && hmm_migrate_vma(&m) != -EPERM)
		return 2;
	hmm_set_user_mode(true);
	return hmm_migrate_vma(&m) || m.pages != PAGES ? 3 : 0;
}

/* The first use of libhmm, with too few descriptors. */
static int without_descriptors(void)
{
	struct rlimit few = { .rlim_max = 4096 };
	struct hmm_migrate m = whole();
	struct tiny *device = tiny_new(PAGES);
	int next = dup(0), ret;

	m.device = &device->device;
	m.cookie = device;
	close(next);
	few.rlim_cur = (rlim_t)next;
	if (setrlimit(RLIMIT_NOFILE, &few))
		return 1;
	ret = hmm_migrate_vma(&m);
	if (ret != -EMFILE || m.pages)
		return 2;
	few.rlim_cur = 1024;
	if (setrlimit(RLIMIT_NOFILE, &few))
		return 3;
	return hmm_migrate_vma(&m) || m.pages != PAGES ? 4 : 0;
}

static void in_child(int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		alarm(20);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip_because("no userfaultfd for an ordinary user");
	assert_int_equal(status, 0);
}

static void an_ordinary_user_must_accept(void **state)
{
	(void)state;
	BEGIN(10);
	if (geteuid())
		skip_because("not root");
	in_child(as_an_ordinary_user);
}

static void no_descriptors_is_emfile(void **state)
{
	(void)state;
	BEGIN(10);
	in_child(without_descriptors);
}

/* ---- changes meanwhile ---- */

static atomic_bool stop;

/* Pages 500 to 510 come and go. */
static void *changes(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		madvise(mem + 500 * PAGE, 10 * PAGE, MADV_DONTNEED);
		mem[505 * PAGE] = 1;
		test_sleep_us(50);
	}
	return NULL;
}

/*
 * G7. An event interrupts a migration; what it does not concern goes all the same, and
 * nobody says that the driver did not want it.
 */
static void a_neighbour_that_changes(void **state)
{
	unsigned long i, round, bad = PAGES;
	pthread_t thread;
	int ret = 0;

	(void)state;
	BEGIN(20);
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&thread, NULL, changes, NULL), 0);
	for (round = 0; round < (TEST_SANITIZED ? 50 : 200) && bad == PAGES && !ret; round++) {
		ret = tiny_migrate(tiny, mem, PAGES, result, NULL);
		for (i = 0; i < PAGES; i++)
			if (result[i] != HMM_MIGRATE_DONE && result[i] != HMM_MIGRATE_CHANGED)
				bad = i;
		for (i = 0; i < 500; i++)
			if (*(volatile uint64_t *)(mem + i * PAGE) != pattern_word(1, i, 0))
				bad = i;
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(ret, 0);
	if (bad < PAGES)
		fail_msg("round %lu page %lu: %u", round, bad, result[bad]);
	pattern_check(mem, 500, 1);
	pattern_check_from(mem + 510 * PAGE, PAGES - 510, 1, 510);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(malformed_is_einval),
		T(no_such_device_is_einval),
		T(no_way_back_is_einval),
		T(to_ram_errors),
		T(a_lost_device_is_enodev),
		T(an_op_that_calls_back_is_edeadlk),
		T(an_ordinary_user_must_accept),
		T(no_descriptors_is_emfile),
		T(a_neighbour_that_changes),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
