/* SPDX-License-Identifier: MIT */
/*
 * What comes between the steps of exclusive access, to a device that cannot be held and makes
 * its access in update(); and a CPU fault whose answer has to wait for a device.
 *
 * Tries to break: G3, G4, G9.
 */
#include <stdatomic.h>

#include "mirror/mini.h"

#include "mm/debug.h"

#define PAGES 16
#define BYTES (PAGES * PAGE)

static struct mini *dev;
static char *area; /* 2 MiB; no thread's descriptor is near what is tested */
static char *mem;

static int setup(void **state)
{
	(void)state;
	dev = mini_make(0, 0);
	area = map_aligned(THP);
	mem = area + THP / 2;
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	debug_set_step(NULL);
	munmap(area, THP);
	mini_free(dev);
	return 0;
}

/* ---- a call that returns while the pages are on their way ---- */

static atomic_bool armed, hit, go;

static void hold_at(const char *name, unsigned long start, unsigned long end)
{
	uint64_t until = test_now() + 500000000;

	if (strcmp(name, "out:isolated") || start > addr_of(mem) || end <= addr_of(mem) ||
	    !atomic_exchange(&armed, false))
		return;
	atomic_store(&hit, true);
	while (!atomic_load(&go) && test_now() < until)
		test_sleep_us(50);
}

static struct mini_access access_made;
static int access_ret;

/* One add to the first word. */
static void *add_main(void *arg)
{
	struct hmm_event event = { .start = addr_of(mem),
				   .end = addr_of(mem) + PAGE,
				   .etype = HMM_DEVICE_EXCLUSIVE,
				   .cookie = &access_made };

	access_made = (struct mini_access){ .addr = mem, .delta = 1000 };
	access_ret = hmm_mirror_fault(&dev->mirror, &event);
	return arg;
}

/* @call returns while the page is isolated, and then the device goes on. */
static void run_held(void (*call)(void))
{
	pthread_t thread;

	if (!debug_set_step(hold_at))
		skip_because("no debug build: nobody can be held at a step");
	atomic_store(&hit, false);
	atomic_store(&go, false);
	atomic_store(&armed, true);
	assert_int_equal(pthread_create(&thread, NULL, add_main, NULL), 0);
	while (!atomic_load(&hit))
		test_sleep_us(50);
	step("the call");
	call();
	atomic_store(&go, true);
	step("the device");
	pthread_join(thread, NULL);
}

static void call_drop(void)
{
	assert_int_equal(madvise(mem, BYTES, MADV_DONTNEED), 0);
}

/* What the device adds after madvise() has returned is added to nothing, and stays. */
static void what_is_added_after_a_discard_stays(void **state)
{
	(void)state;
	BEGIN(20);
	run_held(call_drop);
	assert_int_equal(access_ret, 0);
	assert_true(access_made.done);
	assert_int_equal(*(uint64_t *)mem, 1000);
	assert_true(is_zero(mem + 8, BYTES - 8));
}

static char *place;

static void call_move(void)
{
	assert_ptr_equal(mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, place), place);
}

/* Nothing is there any more, and what was is not changed at its new place. */
static void nothing_is_added_where_a_page_has_left(void **state)
{
	(void)state;
	BEGIN(20);
	place = map_aligned(THP);
	run_held(call_move);
	assert_false(access_made.done);
	pattern_check(place, PAGES, 1);
	munmap(place, THP);
}

/* ---- a device that has to be waited for ---- */

static struct dummy_device *prompt;
static char *beside; /* in the memory of the prompt one */
static atomic_bool ask, answered, late;

static void *reader_main(void *arg)
{
	while (!atomic_load(&ask))
		test_sleep_us(50);
	(void)*(volatile char *)beside;
	atomic_store(&answered, true);
	return arg;
}

/* It ends what it is doing there, which needs memory that is away. */
static void waits_for_a_fault(struct mini *of, const struct hmm_event *event)
{
	uint64_t until = test_now() + 2000000000;

	(void)of;
	if (event->etype != HMM_MIGRATE || atomic_exchange(&ask, true))
		return;
	while (!atomic_load(&answered) && test_now() < until)
		test_sleep_us(50);
	atomic_store(&late, !atomic_load(&answered));
}

static void others_are_answered_meanwhile(void **state)
{
	unsigned long pages = 0;
	pthread_t thread;

	(void)state;
	BEGIN(20);
	prompt = device_new(16);
	beside = map_aligned(THP);
	pattern_fill(beside, 4, 2);
	migrate_all(prompt, beside, 4);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_EXCLUSIVE, &pages), 0);
	assert_int_equal(pages, PAGES);
	atomic_store(&ask, false);
	atomic_store(&answered, false);
	assert_int_equal(pthread_create(&thread, NULL, reader_main, NULL), 0);
	mini_hook(dev, waits_for_a_fault);
	assert_int_equal(*(volatile uint64_t *)mem, pattern_word(1, 0, 0));
	pthread_join(thread, NULL);
	mini_hook(dev, NULL);
	assert_false(atomic_load(&late));
	pattern_check(beside, 4, 2);
	munmap(beside, THP);
	assert_int_equal(dummy_destroy(prompt), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_added_after_a_discard_stays),
		T(nothing_is_added_where_a_page_has_left),
		T(others_are_answered_meanwhile),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
