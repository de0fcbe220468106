/* SPDX-License-Identifier: MIT */
/*
 * Several devices at once over one range: faults of many threads, changes of the
 * address space, mirrors that come and go, all at the same time.
 *
 * Tries to break: G2, G3 and G4 for each of several mirrors, G9, and the promises
 * that after unregister no op runs, the struct may be freed, and calls get -ENODEV.
 */
#include "mirror/several.h"

/* ---- each mirror sees each munmap ---- */

/* As a device does: until it has its word, or is told that there is none. */
static int device_read(struct plain *p, uint64_t addr, uint64_t *val, bool write)
{
	int ret = 0;

	while (!ret && !plain_try(p, addr, val, false)) {
		if (get(stage.stop))
			return -EINTR;
		ret = plain_fault(p, addr, 1, write);
		ret = ret == -EBUSY ? 0 : ret;
	}
	return ret;
}

/* Two threads a device or less, on the same page now and then. */
static void *reader(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg + 1;
	unsigned int devices;

	for (devices = 0; devices < DEVICES && stage.dev[devices]; devices++)
		;
	while (!get(stage.stop)) {
		struct plain *p = stage.dev[(unsigned int)rand_r(&seed) % devices];
		size_t page = (size_t)rand_r(&seed) % (rand_r(&seed) % 2 ? 2 : PAGES);
		uint64_t val = 0, before = get(stage.done), after;
		int ret = device_read(p, addr_of(stage.mem) + page * PAGE, &val, rand_r(&seed) % 2);

		after = get(stage.begun);
		if (ret && ret != -EINTR && (ret != -EFAULT || before == after))
			complain("a device fault", ret);
		if (!ret && val ? val < before || val > after : !ret && before == after)
			complain("a device read something old", (int)val);
	}
	return NULL;
}

/* No translation is left, and none comes: nothing is mapped there. */
static void none_left(unsigned int devices, size_t first, size_t n)
{
	unsigned int i;
	uint64_t val;
	size_t page;

	/* First those with hold: the others' sync would wait for them too. */
	for (i = 0; i < 2 * devices; i++) {
		struct plain *p = stage.dev[i % devices];

		if (p->holds != (i < devices))
			continue;
		for (page = first; page < first + n; page++)
			if (plain_try(p, addr_of(stage.mem) + page * PAGE, &val, false))
				fail_msg("device %u still reads page %zu", i % devices, page);
		pthread_mutex_lock(&p->lock);
		for (page = first; page < first + n; page++)
			if (p->may[page])
				complain("a translation is left in device", (int)(i % devices));
		pthread_mutex_unlock(&p->lock);
	}
}

static void write_all(void)
{
	size_t page;

	for (page = 0; page < PAGES; page++)
		set(*(uint64_t *)(stage.mem + page * PAGE), stage.begun);
	set(stage.done, stage.begun);
}

static void generation(unsigned int devices, unsigned int *seed)
{
	size_t first = (size_t)rand_r(seed) % PAGES;
	size_t n = 1 + (size_t)rand_r(seed) % (PAGES - first);
	unsigned int i;

	for (i = 0; i < devices; i++)
		assert_int_equal(plain_fault(stage.dev[i], addr_of(stage.mem), PAGES, i & 2), 0);
	set(stage.begun, stage.begun + 1);
	assert_int_equal(munmap(stage.mem + first * PAGE, n * PAGE), 0);
	none_left(devices, first, n);
	map_over(first, n);
	write_all();
}

static void each_mirror_sees_each_munmap(void **state)
{
	pthread_t thread[4];
	unsigned int devices, seed = 1;
	int i;

	(void)state;
	BEGIN(60);
	for (devices = 1; devices <= DEVICES; devices++) {
		stage_set(devices);
		set(stage.begun, 1);
		write_all();
		threads(thread, 4, reader);
		for (i = 0; i < ROUNDS && !get(stage.bad); i++)
			generation(devices, &seed);
		join(thread, 4);
		stage_clear(devices);
	}
}

/* ---- they come and go ---- */

/* On a device that may go at any moment: once it has, -ENODEV and nothing else. */
static void *visitor(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg + 1;

	while (!get(stage.stop)) {
		unsigned int n = (unsigned int)rand_r(&seed) % 4;
		struct plain *p;
		bool closed;
		int ret = -ENODEV;

		__atomic_add_fetch(&stage.inside[n], 1, __ATOMIC_SEQ_CST);
		closed = get(stage.closed[n]);
		p = get(stage.dev[n]);
		if (p)
			ret = plain_fault(p, addr_of(stage.mem) + rand_r(&seed) % 8 * PAGE,
					  1 + (size_t)rand_r(&seed) % 8, rand_r(&seed) % 2);
		__atomic_sub_fetch(&stage.inside[n], 1, __ATOMIC_SEQ_CST);
		if (ret != -ENODEV && (closed || (ret && ret != -EBUSY)))
			complain("a fault during unregister", ret);
	}
	return NULL;
}

/* Nothing is ever unmapped: all faults succeed. */
static void *changer(void *arg)
{
	size_t half = PAGES / 2 * PAGE;
	unsigned int turn;

	(void)arg;
	for (turn = 0; !get(stage.stop); turn++) {
		char *at = stage.mem + (turn & 2 ? half : 0);

		if (turn & 1)
			madvise(at, half, MADV_DONTNEED);
		else if (mmap(at, half, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
			complain("mmap", -errno);
		test_sleep_us(100);
	}
	return NULL;
}

/*
 * Freed at once, with events on their way. With visitors, they have to be out first:
 * whoever has the pointer may still be about to call.
 */
static void replace(unsigned int n, unsigned int round)
{
	struct plain *p = stage.dev[n];

	if (round & 1) {
		set(stage.dev[n], NULL);
		while (get(stage.inside[n]))
			sched_yield();
	}
	step("unregister");
	plain_unregister(p);
	set(stage.closed[n], true);
	if (!(round & 1)) {
		test_sleep_us(200);
		set(stage.dev[n], NULL);
		while (get(stage.inside[n]))
			sched_yield();
	}
	device_free(p, n);
	set(stage.closed[n], false);
	step("register");
	set(stage.dev[n], device_make(n));
}

static void come_and_go(unsigned int visitors)
{
	pthread_t thread[4], events;
	unsigned int i;

	stage_set(4);
	assert_int_equal(pthread_create(&events, NULL, changer, NULL), 0);
	threads(thread, visitors, visitor);
	for (i = 0; i < 3 * ROUNDS && !get(stage.bad); i++) {
		replace(i % 4, i / 4);
		test_sleep_us(500);
	}
	join(thread, visitors);
	set(stage.stop, true);
	pthread_join(events, NULL);
	stage_clear(4);
}

static void they_come_and_go_while_others_fault(void **state)
{
	(void)state;
	BEGIN(60);
	come_and_go(4);
	come_and_go(1);
}

/* ---- mprotect, of which the kernel tells nothing ---- */

static void *fault_all(void *arg)
{
	int ret = plain_fault(stage.dev[2], addr_of(stage.mem), PAGES, arg != NULL);

	if (ret && ret != -EFAULT)
		complain("a fault amid mprotect", ret);
	return NULL;
}

/* What has looked already and not begun must look again, or be taken away after. */
static void protect_amid_faults(unsigned int faults, unsigned int apart_us, bool touched)
{
	struct plain *p = stage.dev[2];
	pthread_t thread[2];
	uintptr_t i;
	size_t page;

	map_over(0, PAGES);
	if (touched)
		assert_int_equal(plain_fault(p, addr_of(stage.mem), PAGES, false), 0);
	for (i = 0; i < faults; i++) {
		assert_int_equal(pthread_create(&thread[i], NULL, fault_all, (void *)(i + 1)), 0);
		test_sleep_us(apart_us);
	}
	assert_int_equal(mprotect(stage.mem, PAGES * PAGE, PROT_NONE), 0);
	for (i = 0; i < faults; i++)
		pthread_join(thread[i], NULL);
	for (page = 0; page < PAGES; page++)
		if (p->may[page])
			fail_msg("page %zu: the device keeps what mprotect took away", page);
	all_is_well();
}

static void mprotect_finds_faults_on_their_way(void **state)
{
	unsigned int i;

	(void)state;
	BEGIN(60);
	stage_set(3);
	for (i = 0; i < 10 * ROUNDS; i++)
		protect_amid_faults(1, i % 50, false);
	set(stage.dev[2]->delay_us, 10000);
	for (i = 0; i < ROUNDS; i++)
		protect_amid_faults(2, 4000, i % 2);
	stage_clear(3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_mirror_sees_each_munmap),
		cmocka_unit_test(they_come_and_go_while_others_fault),
		cmocka_unit_test(mprotect_finds_faults_on_their_way),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
