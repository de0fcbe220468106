/* SPDX-License-Identifier: MIT */
/*
 * A device that works by itself and cannot be held: its driver has
 * hmm_mirror_sync(), and that has to be enough.
 *
 * Tries to break: G3 (what is handed to the device after a call sees its effect).
 */
#include "test_util.h"

#define PAGES 16
#define SLOW_US 20000

static struct hmm_device device;
static struct hmm_mirror mirror;
static int begun, ended; /* invalidations; atomic */

static int slow_update(struct hmm_mirror *m, struct hmm_event *event)
{
	(void)m;
	if (event->etype == HMM_DEVICE_RFAULT || event->etype == HMM_DEVICE_WFAULT)
		return 0;
	__atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
	test_sleep_us(SLOW_US);
	__atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static const struct hmm_device_ops slow_ops = {
	.size = sizeof(slow_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = slow_update,
};

static int setup(void **state)
{
	(void)state;
	begun = ended = 0;
	device = (struct hmm_device){
		.size = sizeof(device), .flags = HMM_DEVICE_PINS, .ops = &slow_ops, .name = "slow"
	};
	mirror = (struct hmm_mirror){ .size = sizeof(mirror), .device = &device };
	if (hmm_device_register(&device))
		return -1;
	return hmm_mirror_register(&mirror);
}

static int teardown(void **state)
{
	(void)state;
	return hmm_mirror_unregister(&mirror) || hmm_device_unregister(&device);
}

static char *mirrored(void)
{
	char *mem = map_anon(PAGES * PAGE);
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + PAGES * PAGE,
				   .etype = HMM_DEVICE_WFAULT };

	assert_int_equal(hmm_mirror_fault(&mirror, &event), 0);
	assert_int_equal(event.pages, PAGES);
	return mem;
}

static void sync_waits_for_what_returned_before(void **state)
{
	int i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 20; i++) {
		char *mem = mirrored();
		int before = __atomic_load_n(&ended, __ATOMIC_SEQ_CST);

		if (i % 2)
			assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		else
			assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		hmm_mirror_sync(&mirror);
		assert_int_equal(__atomic_load_n(&ended, __ATOMIC_SEQ_CST), before + 1);
		if (i % 2)
			munmap(mem, PAGES * PAGE);
	}
}

/* Memory the device does not use costs it nothing, and sync does not wait for it. */
static void sync_does_not_wait_for_the_rest(void **state)
{
	(void)state;
	BEGIN(20);
	munmap(map_anon(PAGE), PAGE);
	hmm_mirror_sync(&mirror);
	assert_int_equal(begun, 0);
}

/* Mapped over and not only unmapped: a sanitizer may want the place at once. */
static void a_fault_waits_by_itself(void **state)
{
	char *mem = mirrored();
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + PAGE,
				   .etype = HMM_DEVICE_RFAULT };

	(void)state;
	BEGIN(20);
	assert_ptr_equal(mmap(mem, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			      -1, 0),
			 mem);
	assert_int_equal(hmm_mirror_fault(&mirror, &event), -EFAULT);
	assert_int_equal(ended, 1);
	munmap(mem, PAGES * PAGE);
}

/* Nothing is taken away where permission is only given. */
static void mprotect_takes_away_before_it_returns(void **state)
{
	char *mem = mirrored();

	(void)state;
	BEGIN(20);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ), 0);
	assert_int_equal(ended, 1);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(begun, 1);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_NONE), 0);
	assert_int_equal(ended, 2);
	munmap(mem, PAGES * PAGE);
}

/* A device that takes its time to stop: so long an event stays unread. */
static unsigned int lazy_us = SLOW_US;

static void lazy_hold(struct hmm_mirror *m)
{
	(void)m;
	test_sleep_us(lazy_us);
}

static void lazy_release(struct hmm_mirror *m)
{
	(void)m;
}

static const struct hmm_device_ops lazy_ops = {
	.size = sizeof(lazy_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = slow_update,
	.hold = lazy_hold,
	.release = lazy_release,
};

static struct hmm_device lazy = { .size = sizeof(lazy), .ops = &lazy_ops, .name = "lazy" };
static struct hmm_mirror idle = { .size = sizeof(idle), .device = &lazy };

static bool unmapped; /* atomic: the other thread's munmap() has returned */

static void *unmapper(void *mem)
{
	munmap(mem, PAGES * PAGE);
	__atomic_store_n(&unmapped, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/*
 * Unmapped by another thread, and its first page is ours before that has returned. False: on a busy
 * machine somebody else, as a sanitizer, was quicker to map something there.
 */
static bool replace(char *mem, pthread_t *thread)
{
	char *again;
	bool late;

	__atomic_store_n(&unmapped, false, __ATOMIC_SEQ_CST);
	assert_int_equal(pthread_create(thread, NULL, unmapper, mem), 0);
	do {
		late = __atomic_load_n(&unmapped, __ATOMIC_SEQ_CST);
		again = mmap(mem, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	} while (again == MAP_FAILED && errno == EEXIST && !late);
	assert_true(again == mem || (again == MAP_FAILED && errno == EEXIST));
	return again == mem;
}

/*
 * One thread is still in munmap() when another gets the same address from mmap(). What
 * that one has the device do must not go to the old pages.
 */
static void sync_beside_munmap(int times, unsigned int unread_us)
{
	lazy_us = unread_us;
	assert_int_equal(hmm_device_register(&lazy), 0);
	assert_int_equal(hmm_mirror_register(&idle), 0);
	while (times) {
		int before = __atomic_load_n(&ended, __ATOMIC_SEQ_CST);
		char *mem = mirrored();
		pthread_t thread;
		bool ours = replace(mem, &thread);

		hmm_mirror_sync(&mirror);
		assert_int_equal(__atomic_load_n(&ended, __ATOMIC_SEQ_CST), before + 1);
		pthread_join(thread, NULL);
		times -= ours;
		if (ours)
			munmap(mem, PAGE);
	}
	assert_int_equal(hmm_mirror_unregister(&idle), 0);
	assert_int_equal(hmm_device_unregister(&lazy), 0);
	lazy_us = SLOW_US;
}

static void sync_waits_for_a_munmap_that_has_not_returned(void **state)
{
	(void)state;
	BEGIN(20);
	sync_beside_munmap(10, SLOW_US);
}

/* Longer than it waits in a storm of events. */
static void sync_waits_for_an_event_that_is_read_late(void **state)
{
	(void)state;
	BEGIN(20);
	sync_beside_munmap(1, 300000);
}

/* The same for a device that has the page in its memory, and can be held. */
static void a_device_page_does_not_outlive_its_mapping(void **state)
{
	struct dummy_device *dev = device_new(64);
	int times = 10;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_device_register(&lazy), 0);
	assert_int_equal(hmm_mirror_register(&idle), 0);
	while (times) {
		char *mem = map_anon(PAGES * PAGE);
		uint64_t val = 1;
		pthread_t thread;
		bool ours;

		pattern_fill(mem, PAGES, 1);
		assert_int_equal(
			dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGES * PAGE, NULL), 0);
		ours = replace(mem, &thread);
		if (ours) {
			assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 8, &val), 0);
			assert_int_equal(val, 0);
		}
		pthread_join(thread, NULL);
		times -= ours;
		if (ours)
			munmap(mem, PAGE);
	}
	assert_int_equal(hmm_mirror_unregister(&idle), 0);
	assert_int_equal(hmm_device_unregister(&lazy), 0);
	assert_int_equal(dummy_destroy(dev), 0);
}

/* A device that says whether it is held when it is told. */
static bool held; /* atomic, as the next */
static int told, told_too_late;

static void held_hold(struct hmm_mirror *m)
{
	(void)m;
	__atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
}

static void held_release(struct hmm_mirror *m)
{
	(void)m;
	__atomic_store_n(&held, false, __ATOMIC_SEQ_CST);
}

static int held_update(struct hmm_mirror *m, struct hmm_event *event)
{
	(void)m;
	if (event->etype != HMM_MIGRATE && event->etype != HMM_MUNMAP)
		return 0;
	__atomic_add_fetch(&told, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&told_too_late, !__atomic_load_n(&held, __ATOMIC_SEQ_CST),
			   __ATOMIC_SEQ_CST);
	return 0;
}

static const struct hmm_device_ops held_ops = {
	.size = sizeof(held_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = held_update,
	.hold = held_hold,
	.release = held_release,
};

static struct hmm_device stops = { .size = sizeof(stops), .ops = &held_ops, .name = "stops" };
static struct hmm_mirror its = { .size = sizeof(its), .device = &stops };

static void a_device_is_held_until_it_is_told(void **state)
{
	int i;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_device_register(&stops), 0);
	assert_int_equal(hmm_mirror_register(&its), 0);
	for (i = 0; i < 10; i++) {
		char *mem = map_anon(PAGES * PAGE);
		struct hmm_event event = { .start = addr_of(mem),
					   .end = addr_of(mem) + PAGES * PAGE,
					   .etype = HMM_DEVICE_WFAULT };

		assert_int_equal(hmm_mirror_fault(&its, &event), 0);
		assert_int_equal(madvise(mem, PAGE, MADV_DONTNEED), 0);
		assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		hmm_mirror_sync(&its);
	}
	assert_true(told >= 2 * 10);
	assert_int_equal(told_too_late, 0);
	assert_int_equal(hmm_mirror_unregister(&its), 0);
	assert_int_equal(hmm_device_unregister(&stops), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(sync_waits_for_what_returned_before),
		T(sync_does_not_wait_for_the_rest),
		T(sync_waits_for_a_munmap_that_has_not_returned),
		T(sync_waits_for_an_event_that_is_read_late),
		T(a_device_page_does_not_outlive_its_mapping),
		T(a_device_is_held_until_it_is_told),
		T(a_fault_waits_by_itself),
		T(mprotect_takes_away_before_it_returns),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
