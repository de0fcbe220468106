/* SPDX-License-Identifier: MIT */
/*
 * Mirrors and devices that come and go, several at once, and calls from inside ops.
 *
 * Tries to break: G1 (one place, with two devices), G4, G6 (re-entry), G9, G11,
 * and the promise that nothing is left behind after unregister.
 */
#include "test_util.h"

#define PAGES 64

/* ---- a device whose ops call back into the library ---- */

static struct hmm_device rude_device;
static struct hmm_mirror rude_mirror;
static int rude_results[8], rude_calls; /* atomic */

static void rude_result(int which, int ret)
{
	__atomic_store_n(&rude_results[which], ret, __ATOMIC_RELAXED);
}

static int rude_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct hmm_event again = { .start = event->start, .end = event->end,
				   .etype = HMM_DEVICE_RFAULT };
	uint8_t where[1];

	rude_result(0, hmm_mirror_fault(mirror, &again));
	rude_result(1, hmm_mirror_unregister(mirror));
	rude_result(2, hmm_mirror_register(mirror));
	rude_result(3, hmm_device_unregister(mirror->device));
	rude_result(4, hmm_device_register(mirror->device));
	rude_result(5, hmm_range_where(event->start, event->start + PAGE, where));
	__atomic_add_fetch(&rude_calls, 1, __ATOMIC_RELEASE);
	return 0;
}

static const struct hmm_device_ops rude_ops = {
	.size = sizeof(rude_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = rude_update,
};

static void reentry_from_an_op_is_edeadlk(void **state)
{
	struct hmm_event event = { .etype = HMM_DEVICE_RFAULT };
	char *mem = map_anon(PAGE);
	int i, first[6];

	(void)state;
	BEGIN(5);
	rude_device = (struct hmm_device){ .size = sizeof(rude_device), .ops = &rude_ops,
					   .name = "rude" };
	rude_mirror = (struct hmm_mirror){ .size = sizeof(rude_mirror), .device = &rude_device };
	assert_int_equal(hmm_device_register(&rude_device), 0);
	assert_int_equal(hmm_device_register(&rude_device), -EBUSY);
	assert_int_equal(hmm_mirror_register(&rude_mirror), 0);
	assert_int_equal(hmm_device_unregister(&rude_device), -EBUSY);
	event.start = addr_of(mem);
	event.end = event.start + PAGE;
	step("an op that calls the library");
	assert_int_equal(hmm_mirror_fault(&rude_mirror, &event), 0);
	assert_int_equal(__atomic_load_n(&rude_calls, __ATOMIC_ACQUIRE), 1);
	for (i = 0; i < 6; i++)
		first[i] = __atomic_load_n(&rude_results[i], __ATOMIC_RELAXED);
	munmap(mem, PAGE); /* now from the monitor */
	wait_until(__atomic_load_n(&rude_calls, __ATOMIC_ACQUIRE) == 2);
	assert_int_equal(hmm_mirror_unregister(&rude_mirror), 0);
	assert_int_equal(hmm_mirror_unregister(&rude_mirror), -EINVAL);
	assert_int_equal(hmm_device_unregister(&rude_device), 0);
	for (i = 0; i < 6; i++) {
		assert_int_equal(first[i], -EDEADLK);
		assert_int_equal(__atomic_load_n(&rude_results[i], __ATOMIC_RELAXED), -EDEADLK);
	}
}

/* ---- several devices ---- */

static void second_device_reads_what_the_first_has(void **state)
{
	struct dummy_device *a, *b;
	char *mem, *copy;
	int i;

	(void)state;
	BEGIN(10);
	a = device_new(PAGES);
	b = device_new(PAGES);
	mem = map_aligned(PAGES * PAGE);
	copy = map_anon(PAGES * PAGE);
	for (i = 0; i < 20; i++) {
		pattern_fill(mem, PAGES, (uint64_t)i);
		migrate_all(a, mem, PAGES);
		assert_int_equal(dummy_store_u64(a, addr_of(mem) + PAGE, 5), 0);
		step("the other device reads");
		assert_int_equal(dummy_load(b, addr_of(mem), copy, PAGES * PAGE), 0);
		assert_int_equal(((uint64_t *)(copy + PAGE))[0], 5);
		((uint64_t *)(copy + PAGE))[0] = pattern_word((uint64_t)i, 1, 0);
		pattern_check(copy, PAGES, (uint64_t)i);
		assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
		wait_until(device_used(a) == 0);
		step("and the first writes again");
		assert_int_equal(dummy_store_u64(a, addr_of(mem), 6), 0);
		assert_int_equal(*(uint64_t *)mem, 6);
	}
	assert_int_equal(dummy_destroy(a), 0);
	assert_int_equal(dummy_destroy(b), 0);
	munmap(mem, PAGES * PAGE);
	munmap(copy, PAGES * PAGE);
}

static void pages_go_from_device_to_device(void **state)
{
	struct dummy_device *a, *b;
	unsigned long moved;
	char *mem;
	int i;

	(void)state;
	BEGIN(10);
	a = device_new(PAGES);
	b = device_new(PAGES);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 8);
	for (i = 0; i < 20; i++) {
		struct dummy_device *to = i & 1 ? b : a, *from = i & 1 ? a : b;

		migrate_all(to, mem, PAGES);
		assert_int_equal(device_used(to), PAGES);
		wait_until(device_used(from) == 0);
		/* What it has not got it does not bring back. */
		assert_int_equal(dummy_evict(from, addr_of(mem), addr_of(mem) + PAGES * PAGE,
					     &moved), 0);
		assert_int_equal(count_on_cpu(mem, PAGES), 0);
	}
	pattern_check(mem, PAGES, 8);
	assert_int_equal(dummy_destroy(a), 0);
	assert_int_equal(dummy_destroy(b), 0);
	munmap(mem, PAGES * PAGE);
}

/* ---- leaks ---- */

static void come_and_go(char *mem, int pages)
{
	struct dummy_device *dev = device_new(PAGES);
	uint64_t val;

	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0);
	assert_int_equal(val, pattern_word(3, 0, 0));
	if (pages)
		migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_destroy(dev), 0);
}

static void coming_and_going_leaves_nothing(void **state)
{
	char *mem = map_aligned(PAGES * PAGE), value[64], after[64];
	size_t fds, threads, maps, now;
	int i;

	(void)state;
	BEGIN(12);
	pattern_fill(mem, PAGES, 3);
	for (i = 0; i < 5; i++)
		come_and_go(mem, i & 1);
	fds = count_dir("/proc/self/fd");
	threads = count_dir("/proc/self/task");
	maps = count_maps();
	assert_true(smaps_value(mem, "VmFlags", value, sizeof(value)));
	for (i = 0; i < (TEST_SANITIZED ? 30 : 150); i++)
		come_and_go(mem, i & 1);
	assert_int_equal(count_dir("/proc/self/fd"), fds);
	wait_until(count_dir("/proc/self/task") == threads); /* join is a little early */
	now = count_maps();
	if (!TEST_SANITIZED && now > maps + 2)
		fail_msg("%zu mappings, %zu before", now, maps);
	assert_true(smaps_value(mem, "VmFlags", after, sizeof(after)));
	assert_string_equal(value, after);
	assert_false(registered(mem));
	pattern_check(mem, PAGES, 3);
	munmap(mem, PAGES * PAGE);
}

/* ---- unregister while others fault ---- */

struct hammer {
	struct hmm_mirror *mirror;
	char *mem;
	int bad; /* atomic: a result that may not be */
	bool stop;
};

static void *hammer_main(void *arg)
{
	struct hammer *hammer = arg;
	unsigned int i = 0;

	while (!__atomic_load_n(&hammer->stop, __ATOMIC_ACQUIRE)) {
		uint64_t at = addr_of(hammer->mem) + i++ % PAGES * PAGE;
		struct hmm_event event = { .start = at, .end = at + PAGE,
					   .etype = HMM_DEVICE_RFAULT + i % 4 };
		int ret = hmm_mirror_fault(hammer->mirror, &event);

		if (ret && ret != -ENODEV && ret != -EOPNOTSUPP)
			__atomic_store_n(&hammer->bad, ret, __ATOMIC_RELEASE);
	}
	return NULL;
}

static int mild_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	return 0;
}

static const struct hmm_device_ops mild_ops = {
	.size = sizeof(mild_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = mild_update,
};

static void unregister_while_threads_fault(void **state)
{
	static struct hmm_device device;
	static struct hmm_mirror mirror, other;
	static struct hmm_device other_device;
	struct hammer hammer = { .mirror = &mirror };
	pthread_t threads[3];
	int i, j;

	(void)state;
	BEGIN(15);
	device = (struct hmm_device){ .size = sizeof(device), .ops = &mild_ops, .name = "mild" };
	other_device = device;
	hammer.mem = map_anon(PAGES * PAGE);
	assert_int_equal(hmm_device_register(&device), 0);
	assert_int_equal(hmm_device_register(&other_device), 0);
	/* Half the time another mirror keeps the process's state alive. */
	for (i = 0; i < (TEST_SANITIZED ? 20 : 60); i++) {
		mirror = (struct hmm_mirror){ .size = sizeof(mirror), .device = &device };
		other = (struct hmm_mirror){ .size = sizeof(other), .device = &other_device };
		if (i & 1)
			assert_int_equal(hmm_mirror_register(&other), 0);
		assert_int_equal(hmm_mirror_register(&mirror), 0);
		hammer.stop = false;
		for (j = 0; j < 3; j++)
			assert_int_equal(pthread_create(&threads[j], NULL, hammer_main,
							&hammer), 0);
		test_sleep_us(3000);
		step("unregister");
		assert_int_equal(hmm_mirror_unregister(&mirror), 0);
		__atomic_store_n(&hammer.stop, true, __ATOMIC_RELEASE);
		for (j = 0; j < 3; j++)
			pthread_join(threads[j], NULL);
		assert_int_equal(hammer.bad, 0);
		if (i & 1)
			assert_int_equal(hmm_mirror_unregister(&other), 0);
	}
	assert_int_equal(hmm_device_unregister(&device), 0);
	assert_int_equal(hmm_device_unregister(&other_device), 0);
	munmap(hammer.mem, PAGES * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reentry_from_an_op_is_edeadlk),
		cmocka_unit_test(second_device_reads_what_the_first_has),
		cmocka_unit_test(pages_go_from_device_to_device),
		cmocka_unit_test(coming_and_going_leaves_nothing),
		cmocka_unit_test(unregister_while_threads_fault),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
