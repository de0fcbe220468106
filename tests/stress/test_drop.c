/* SPDX-License-Identifier: MIT */
/*
 * MADV_DONTNEED of a page that another thread sends to the device all the time.
 *
 * G3, G4: madvise(2) tells of itself before it has had its effect. A page that went
 * to the device between the two would keep its old content, and the program would
 * read it after its MADV_DONTNEED.
 */
#include <sched.h>
#include <stdatomic.h>

#include "faults/harness.h"

#define SPACING 16 /* pages: neighbours are away as well */

static struct {
	struct dummy_device *dev;
	unsigned char *mem;
	atomic_bool stop;
} world;

static void *migrator(void *arg)
{
	uint64_t start = (uint64_t)(unsigned long)world.mem;

	(void)arg;
	while (!atomic_load(&world.stop))
		dummy_migrate(world.dev, start, start + SPACING * hmm_page_size(), NULL);
	return NULL;
}

/*
 * The dropping thread shares its CPU with one that never sleeps, so that it often
 * loses it between the message and the effect. Less is enough where there is one CPU.
 */
static void *spin(void *arg)
{
	(void)arg;
	while (!atomic_load(&world.stop))
		;
	return NULL;
}

static void one_cpu(pthread_t thread)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	pthread_setaffinity_np(thread, sizeof(set), &set);
}

/* How many times it was dropped. @pause: after so many, give it time to go. */
static unsigned long drop(double seconds, unsigned int pause, uint64_t *left)
{
	uint64_t until = limit_now() + (uint64_t)(seconds * 1e9);
	volatile uint64_t *word = (void *)world.mem;
	unsigned long n = 0;

	for (*left = 0; limit_now() < until && !*left; n++) {
		*word = n + 1;
		if (n % pause == 0)
			sleep_us(100);
		madvise(world.mem, hmm_page_size(), MADV_DONTNEED);
		*left = *word;
	}
	return n;
}

static void drop_amid(unsigned int copy_delay_us, unsigned int pause)
{
	struct dummy_options opt = { .memory = 4 * MIB, .copy_delay_us = copy_delay_us };
	pthread_t thread, spinner;
	cpu_set_t all;
	unsigned long n;
	uint64_t left;

	flush();
	limit(20, "MADV_DONTNEED amid migrations");
	world.dev = device_new(&opt);
	world.mem = map_bytes(SPACING * hmm_page_size());
	fill_pages(world.mem, SPACING, 1);
	atomic_store(&world.stop, false);
	assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof(all), &all), 0);
	assert_int_equal(pthread_create(&thread, NULL, migrator, NULL), 0);
	one_cpu(pthread_self());
	assert_int_equal(pthread_create(&spinner, NULL, spin, NULL), 0);
	n = drop(0.8, pause, &left);
	atomic_store(&world.stop, true);
	pthread_join(thread, NULL);
	pthread_join(spinner, NULL);
	pthread_setaffinity_np(pthread_self(), sizeof(all), &all);
	print_message("dropped %lu times\n", n);
	assert_int_equal(left, 0);
	assert_int_equal(dummy_destroy(world.dev), 0);
	munmap(world.mem, SPACING * hmm_page_size());
	limit(0, "");
}

static void what_is_dropped_is_gone(void **state)
{
	(void)state;
	drop_amid(0, 1000);
}

static void what_is_dropped_on_its_way_is_gone(void **state)
{
	(void)state;
	drop_amid(50, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_dropped_is_gone),
		cmocka_unit_test(what_is_dropped_on_its_way_is_gone),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
