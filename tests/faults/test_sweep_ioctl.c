/* SPDX-License-Identifier: MIT */
/*
 * Each system call that libhmm makes on a page table, and each allocation, failing: the
 * nth one for each n, once, and then many times in a row.
 *
 * Tries to break: G4, G7, G9, G11; see scenario.h. HMM_FAULTS_ALL=1 tries every n.
 */
#include "mm/debug.h"
#include "scenario.h"

#define ROW 20 /* so many in a row */

static struct {
	const char *what;
	int error;
	unsigned long from; /* the first call that fails, from 1; 0: none */
	unsigned long count;
	atomic_ulong calls, failed;
	atomic_bool on;
} inject;

static int inject_fail(const char *what)
{
	unsigned long n;

	if (!atomic_load(&inject.on) || strcmp(what, inject.what))
		return 0;
	n = atomic_fetch_add(&inject.calls, 1) + 1;
	if (!inject.from || n < inject.from || n >= inject.from + inject.count)
		return 0;
	atomic_fetch_add(&inject.failed, 1);
	return inject.error;
}

/* Pages are poisoned only if the device loses some. */
static bool poisons(void)
{
	return !strcmp(inject.what, "poison");
}

static void arm(struct dummy_device *dev)
{
	if (dev && poisons())
		dummy_inject(dev, DUMMY_FAIL_PAGE, 1, 5);
	atomic_store(&inject.calls, 0);
	atomic_store(&inject.failed, 0);
	atomic_store(&inject.on, true);
}

static void disarm(struct dummy_device *dev)
{
	if (dev)
		dummy_inject(dev, DUMMY_FAIL_PAGE, 0, 0);
	atomic_store(&inject.on, false);
}

static bool run_with(const char *what, int error, unsigned long from, unsigned long count)
{
	static char name[80];
	struct scenario s = { .name = name, .arm = arm, .disarm = disarm };

	inject.what = what;
	s.loses = poisons();
	inject.error = error;
	inject.from = from;
	inject.count = count;
	snprintf(name, sizeof(name), "%s %s at %lu, %lu times", what, strerror(-error), from,
		 count);
	return scenario_run(&s);
}

/*
 * Staging is registered and unregistered where its pages are not kept. A call that only
 * the first run makes, for what is then there for good, is not to be had again.
 */
static void sweep(const char *test, const char *what, int error, unsigned long most)
{
	unsigned long calls, n, runs = 0, failed = 0, bad = 0;
	struct scenario plain = { .name = "nothing fails" };

	scenario_begin(test, 60);
	if (!debug_set_fail(inject_fail))
		skip_because("no debug build: nothing can be made to fail");
	hmm_set_pool(strstr(what, "register") ? 0 : 32 * MIB);
	bad += !run_with(what, error, 0, 0);
	bad += !run_with(what, error, 0, 0);
	calls = atomic_load(&inject.calls);
	for (n = 1; n <= calls; n = scenario_next(n, calls, most)) {
		bad += !run_with(what, error, n, 1);
		failed += atomic_load(&inject.failed);
		runs++;
		if (runs % 3)
			continue;
		bad += !run_with(what, error, n, ROW);
		bad += !scenario_run(&plain);
	}
	debug_set_fail(NULL);
	print_message("%s: %lu calls, %lu of them failed in %lu runs\n", what, calls, failed, runs);
	assert_true(calls < 3 || failed);
	assert_int_equal(bad, 0);
}

#define SWEEP(name, what, error, most)              \
	static void name(void **state)              \
	{                                           \
		(void)state;                        \
		sweep(__func__, what, error, most); \
	}

SWEEP(move_without_memory, "move", -ENOMEM, 20)
SWEEP(move_of_what_is_busy, "move", -EBUSY, 20)
SWEEP(results_that_are_partial, "short", -EAGAIN, 20)
SWEEP(copy_without_memory, "copy", -ENOMEM, 20)
SWEEP(zero_without_memory, "zero", -ENOMEM, 10)
SWEEP(poison_without_memory, "poison", -ENOMEM, 10)
SWEEP(unprotect_without_memory, "unprotect", -ENOMEM, 10)
SWEEP(register_without_memory, "register", -ENOMEM, 10)
SWEEP(unregister_without_memory, "unregister", -ENOMEM, 10)
SWEEP(walk_that_fails, "walk", -EIO, 20)
SWEEP(mappings_not_to_be_read, "vma", -EIO, 20)
SWEEP(alloc_without_memory, "alloc", -ENOMEM, 20)
SWEEP(map_without_memory, "map", -ENOMEM, 10)

/* ---- creation: every call of it, with nothing there before ---- */

static bool create_once(const char *what, unsigned long n, unsigned long *calls)
{
	struct dummy_options opt = { .memory = 1024 * PAGE, .iommu = true };
	struct dummy_device *dev = NULL;
	int ret;

	inject.what = what;
	inject.error = -ENOMEM;
	inject.from = n;
	inject.count = 1;
	arm(NULL);
	ret = dummy_create(&dev, &opt);
	*calls = atomic_load(&inject.calls);
	disarm(NULL);
	if (!ret)
		return !dummy_destroy(dev);
	if (ret != -ENOMEM || dev)
		fprintf(stderr, "BAD create, %s at %lu: returns %d\n", what, n, ret);
	return ret == -ENOMEM && !dev;
}

#define SWEEPS 5

static bool create_sweep(const char *what)
{
	unsigned long n, calls, ignored;
	bool good = create_once(what, 0, &calls);

	for (n = 1; n <= calls && n < 200; n++)
		good = create_once(what, n, &ignored) && good;
	print_message("create, %s: %lu calls\n", what, calls);
	return create_once(what, 0, &calls) && good;
}

/*
 * What is left behind is left by every sweep. What a sanitizer maps for itself, when it likes, is
 * not: so there is one that adds nothing, among a few.
 */
static bool sweep_leaves_nothing(const char *what)
{
	size_t maps = 0, fds = 0;
	unsigned int i;

	for (i = 0; i < SWEEPS; i++) {
		maps = count_maps();
		fds = count_dir("/proc/self/fd");
		if (!create_sweep(what))
			return false;
		if (count_dir("/proc/self/fd") != fds)
			break;
		if (count_maps() <= maps + 4)
			return true;
	}
	fprintf(stderr, "BAD create, %s: %zu mappings were %zu, %zu files %zu\n", what,
		count_maps(), maps, count_dir("/proc/self/fd"), fds);
	return false;
}

static void creation_leaves_nothing_behind(void **state)
{
	static const char *const what[] = { "alloc", "map", "register", "unregister" };
	size_t i, bad = 0;

	(void)state;
	scenario_begin(__func__, 30);
	if (!debug_set_fail(inject_fail))
		skip_because("no debug build: nothing can be made to fail");
	for (i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
		bad += !create_sweep(what[i]); /* what stays for good is there */
		bad += !sweep_leaves_nothing(what[i]);
	}
	debug_set_fail(NULL);
	assert_int_equal(bad, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, scenario_setup, scenario_teardown)
	const struct CMUnitTest tests[] = {
		T(move_without_memory),	      T(move_of_what_is_busy),
		T(results_that_are_partial),  T(copy_without_memory),
		T(zero_without_memory),	      T(poison_without_memory),
		T(unprotect_without_memory),  T(register_without_memory),
		T(unregister_without_memory), T(walk_that_fails),
		T(mappings_not_to_be_read),   T(alloc_without_memory),
		T(map_without_memory),	      cmocka_unit_test(creation_leaves_nothing_behind),
	};

	scenario_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
