/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access as a driver sees it that keeps the translation and works by the address
 * in its entry: what it is told, in which order, and what becomes of what it writes up to
 * the end of update(). Devices that are prompt, have to be waited for, and pin.
 *
 * Tries to break: G1 (one has it), G3 (nothing is written after update() has returned), G4
 * (the last word that was written before counts), G9, G11.
 */
#include "exclusive/held.h"

/* ---- what the driver is told ---- */

static struct {
	struct hmm_event event;
	hmm_pte_t pte[PAGES];
	unsigned int n;
} told;

static void note_entries(struct mini *of, const struct hmm_event *event)
{
	struct hmm_pt_iter iter;
	unsigned long addr;
	unsigned int i = 0;

	if (event->etype != HMM_DEVICE_EXCLUSIVE)
		return;
	told.event = *event;
	told.n++;
	hmm_pt_iter_init(&iter, &of->mirror.pt);
	for (addr = event->start; addr < event->end; addr += PAGE) {
		hmm_pte_t *ptep = hmm_pt_iter_lookup(&iter, addr);

		told.pte[i++] = ptep ? *ptep : 0;
	}
	hmm_pt_iter_fini(&iter);
}

static void entries_say_where_it_is(void **state)
{
	struct mini_access access = { .addr = page_at(5), .delta = 7 };
	struct hmm_event event = { .start = addr_of(page_at(0)),
				   .end = addr_of(page_at(8)),
				   .etype = HMM_DEVICE_EXCLUSIVE,
				   .cookie = &access };
	size_t i;

	(void)state;
	BEGIN(20);
	mini_migrate(dev, page_at(2), 2);
	mini_migrate(dev, page_at(6), 1);
	told.n = 0;
	mini_hook(dev, note_entries);
	assert_int_equal(hmm_mirror_fault(&dev->mirror, &event), 0);
	mini_hook(dev, NULL);
	assert_int_equal(event.pages, 8);
	assert_int_equal(told.n, 1);
	assert_int_equal(told.event.start, event.start);
	assert_int_equal(told.event.end, event.end);
	assert_ptr_equal(told.event.cookie, &access);
	assert_true(access.done);
	for (i = 0; i < 8; i++) {
		hmm_pte_t want = HMM_PTE_VALID | HMM_PTE_WRITE | HMM_PTE_EXCLUSIVE;
		bool device = i == 2 || i == 3 || i == 6;

		assert_int_equal(told.pte[i] & (want | HMM_PTE_DEVICE),
				 want | (device ? HMM_PTE_DEVICE : 0));
		assert_false(on_cpu(page_at(i)));
		if (!device)
			assert_int_not_equal(hmm_pte_addr(told.pte[i]), addr_of(page_at(i)));
		assert_true(mini_add(dev, page_at(i), 100));
	}
	for (i = 0; i < 8; i++)
		assert_int_equal(word(i), pattern_word(1, i, 0) + 100 + (i == 5 ? 7 : 0));
}

/* The order of things: the translation goes, and then the CPU sees the page. */
static char *watched;
static bool seen; /* atomic: the page was on the CPU when update() began, or ended */
static unsigned int lost; /* atomic: times that the translation went */

static bool cpu_has(const char *addr)
{
	unsigned char vec = 0;

	/* Of anonymous memory: in the CPU's page table. */
	return mincore((void *)addr, PAGE, &vec) || vec & 1;
}

static void last_words(struct mini *of, const struct hmm_event *event)
{
	if (event->etype != HMM_MIGRATE || event->start > addr_of(watched) ||
	    event->end <= addr_of(watched) || !hmm_pte_test_exclusive(mini_get(of, watched)))
		return;
	if (cpu_has(watched))
		__atomic_store_n(&seen, true, __ATOMIC_RELAXED);
	test_sleep_us(2000); /* who waits for the page waits for us */
	if (!mini_store(of, watched, 4711) || cpu_has(watched))
		__atomic_store_n(&seen, true, __ATOMIC_RELAXED);
	__atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
}

enum way { BY_READ, BY_WRITE, BY_CALL, BY_POPULATE, BY_DEVICE, BY_MIGRATION, BY_OTHER, WAYS };

static const char *const way_names[WAYS] = {
	"a CPU read",	 "a CPU write", "a system call",    "MADV_POPULATE_READ",
	"a device read", "a migration", "the other device",
};

static void take_it_back(enum way way)
{
	volatile uint64_t *at = (void *)watched;
	uint64_t val = 0;
	int fds[2];

	switch (way) {
	case BY_READ:
		val = *at;
		break;
	case BY_WRITE:
		at[1] = 1;
		break;
	case BY_CALL:
		assert_int_equal(pipe(fds), 0);
		if (syscall(SYS_write, fds[1], watched, 8) == 8) /* not as an ordinary user */
			assert_int_equal(read(fds[0], &val, 8), 8);
		close(fds[0]);
		close(fds[1]);
		break;
	case BY_POPULATE:
		madvise(watched, PAGE, MADV_POPULATE_WRITE - 1);
		break;
	case BY_DEVICE:
		assert_int_equal(mini_event(other, watched, 1, HMM_DEVICE_RFAULT, NULL), 0);
		break;
	case BY_MIGRATION:
		mini_migrate(dev, watched, 1);
		break;
	default:
		assert_int_equal(mini_event(other, watched, 1, HMM_DEVICE_EXCLUSIVE, NULL), 0);
		assert_true(mini_add(other, watched, 0));
	}
	assert_true(!val || val == 4711);
	assert_int_equal(*at, 4711);
}

static void it_ends_before_anyone_sees_the_page(void **state)
{
	enum way way;

	(void)state;
	BEGIN(40);
	watched = page_at(9);
	mini_hook(dev, last_words);
	for (way = 0; way < WAYS; way++) {
		step(way_names[way]);
		take(dev, 8, 4, 4);
		__atomic_store_n(&lost, 0, __ATOMIC_RELAXED);
		take_it_back(way);
		assert_false(__atomic_load_n(&seen, __ATOMIC_RELAXED));
		assert_int_equal(__atomic_load_n(&lost, __ATOMIC_RELAXED), 1);
		assert_int_equal(count_held(dev, 9, 1), 0);
		pattern_check_from(page_at(8), 1, 1, 8);
		pattern_check_from(page_at(10), 2, 1, 10);
	}
	mini_hook(dev, NULL);
}

/* ---- two at the same word ---- */

static struct {
	bool stop;
	int error; /* atomic */
	uint64_t sum; /* added by devices; atomic */
	size_t pages;
} work;

static void work_begin(size_t pages)
{
	work.stop = false;
	work.error = 0;
	work.sum = 0;
	work.pages = pages;
}

/* As a driver does it: try, ask, and make the access before anyone can come between. */
static void *device_main(void *arg)
{
	struct mini *of = arg;
	int ret = 0;
	size_t i;

	for (i = 0; !ret && !__atomic_load_n(&work.stop, __ATOMIC_ACQUIRE); i++) {
		struct mini_access access = { .addr = page_at(i % work.pages), .delta = 1 };
		struct hmm_event event = { .start = addr_of(access.addr),
					   .end = addr_of(access.addr) + PAGE,
					   .etype = HMM_DEVICE_EXCLUSIVE,
					   .cookie = &access };

		access.done = mini_add(of, access.addr, 1);
		if (!access.done)
			ret = hmm_mirror_fault(&of->mirror, &event);
		__atomic_add_fetch(&work.sum, access.done, __ATOMIC_RELAXED);
	}
	if (ret)
		__atomic_store_n(&work.error, ret, __ATOMIC_RELAXED);
	return NULL;
}

static void check_sum(struct mini *const *devices, size_t n, bool cpu, size_t pages)
{
	uint64_t end = test_now() + 400000000, added = 0, sum = 0, before = 0;
	pthread_t thread[4];
	size_t i;

	work_begin(pages);
	for (i = 0; i < pages; i++)
		before += word(i);
	for (i = 0; i < n; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, device_main, devices[i]), 0);
	for (i = 0; test_now() < end || __atomic_load_n(&work.sum, __ATOMIC_RELAXED) < 20; i++) {
		if (__atomic_load_n(&work.error, __ATOMIC_RELAXED))
			break;
		if (cpu) {
			__atomic_add_fetch((uint64_t *)page_at(i % pages), 1, __ATOMIC_RELAXED);
			added++;
		}
		test_sleep_us(cpu ? 20 : 1000);
	}
	__atomic_store_n(&work.stop, true, __ATOMIC_RELEASE);
	step("waiting for the devices");
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	for (i = 0; i < pages; i++)
		sum += word(i);
	assert_int_equal(work.error, 0);
	assert_int_equal(sum - before, work.sum + added);
}

static void nothing_is_lost_between_cpu_and_device(void **state)
{
	(void)state;
	BEGIN(30);
	check_sum(&dev, 1, true, 1);
	check_sum(&dev, 1, true, 5);
	mini_migrate(dev, page_at(0), 3);
	check_sum(&dev, 1, true, 5);
}

static void two_devices_steal_from_each_other(void **state)
{
	struct mini *const both[] = { dev, other, dev };

	(void)state;
	BEGIN(30);
	check_sum(both, 2, false, 1);
	check_sum(both, 3, true, 3);
	take(dev, 0, PAGES, PAGES);
	take(other, 10, 5, 5);
	assert_int_equal(count_held(dev, 0, PAGES), PAGES - 5);
	assert_int_equal(count_held(other, 0, PAGES), 5);
	assert_int_equal(count_exclusive(0, PAGES), PAGES);
	mini_migrate(dev, page_at(20), 1);
	take(other, 20, 1, 1); /* it comes home first */
	take(dev, 20, 1, 1);
	assert_int_equal(count_held(other, 0, PAGES), 5);
}

/* ---- update() fails ---- */

static void a_failed_update_gives_nothing(void **state)
{
	static const int errors[] = { -EIO, -ENOMEM };
	unsigned long before;
	size_t i;

	(void)state;
	BEGIN(20);
	mini_migrate(dev, page_at(3), 1);
	for (i = 0; i < 2; i++) {
		mini_fail_only(dev, HMM_DEVICE_EXCLUSIVE, errors[i]);
		before = dev->updates[HMM_MIGRATE];
		assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_EXCLUSIVE, NULL),
				 errors[i]);
		assert_true(dev->updates[HMM_MIGRATE] > before);
		assert_int_equal(count_held(dev, 0, PAGES), 0);
		mini_fail(dev, 0);
		assert_int_equal(word(i), pattern_word(1, i, 0));
		take(dev, 0, PAGES, PAGES);
		assert_true(mini_add(dev, page_at(1), 0));
	}
	mini_fail_only(dev, HMM_DEVICE_EXCLUSIVE, -EIO);
	assert_int_equal(mini_event(dev, mem, 2, HMM_DEVICE_EXCLUSIVE, NULL), -EIO);
	mini_fail(dev, 0);
	pattern_check(mem, PAGES, 1);
}

static void dead_and_all_is_there(struct mini *of)
{
	assert_int_equal(mini_event(of, mem, 1, HMM_DEVICE_EXCLUSIVE, NULL), -ENODEV);
	pattern_check(mem, PAGES, 1);
	/* Life goes on without it. */
	assert_int_equal(mini_event(other, mem, PAGES, HMM_DEVICE_EXCLUSIVE, NULL), 0);
	assert_int_equal(count_held(other, 0, PAGES), PAGES);
	assert_true(mini_store(other, page_at(7), pattern_word(1, 7, 0)));
	pattern_check(mem, PAGES, 1);
}

/* It is killed when it gets the pages, and the mirror when it should give them up. */
static void a_mirror_that_is_killed_gives_all_back(void **state)
{
	(void)state;
	BEGIN(20);
	mini_fail(dev, -EIO);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_EXCLUSIVE, NULL), -EIO);
	mini_fail(dev, 0);
	dead_and_all_is_there(dev);
	mini_free(dev);
	dev = mini_make(PAGES, flags);
	mini_migrate(dev, page_at(40), 8);
	take(dev, 0, PAGES, PAGES);
	mini_fail(dev, -EIO);
	assert_int_equal(word(3), pattern_word(1, 3, 0));
	mini_fail(dev, 0);
	dead_and_all_is_there(dev);
}

/* It dies of what it is told first: it is not told anything more. */
static void a_mirror_that_dies_meanwhile_gets_nothing(void **state)
{
	(void)state;
	BEGIN(20);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
	mini_fail_only(dev, HMM_MIGRATE, -EIO);
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_EXCLUSIVE, NULL), -ENODEV);
	assert_int_equal(dev->updates[HMM_DEVICE_EXCLUSIVE], 0);
	mini_fail(dev, 0);
	dead_and_all_is_there(dev);
}

/* ---- mappings ---- */

#define FAR ((uint64_t)1 << 50) /* what the device uses instead of the address */

static struct {
	pthread_mutex_t lock;
	uint64_t page[4 * PAGES]; /* the CPU addresses that are mapped */
	unsigned int n, errors;
	bool odd_fail;
} maps = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* maps.lock held: its index, or maps.n. */
static unsigned int map_find(uint64_t at)
{
	unsigned int i = 0;

	while (i < maps.n && maps.page[i] != at)
		i++;
	return i;
}

static void map_page(hmm_pte_t *ptep, bool fails)
{
	uint64_t at = hmm_pte_addr(*ptep);

	if (fails) {
		*ptep = 0;
		return;
	}
	maps.errors += (*ptep & HMM_PTE_FLAGS) != (HMM_PTE_VALID | HMM_PTE_WRITE);
	maps.errors += map_find(at) < maps.n;
	maps.page[maps.n++] = at;
	*ptep = hmm_pte_from_dma(*ptep, at + FAR);
}

static int map_pages(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
		     hmm_pte_t *ptes)
{
	unsigned long i;

	(void)mirror;
	pthread_mutex_lock(&maps.lock);
	for (i = 0; i < (end - start) / PAGE; i++)
		if (ptes[i])
			map_page(&ptes[i], maps.odd_fail && i % 2);
	pthread_mutex_unlock(&maps.lock);
	return 0;
}

static void unmap_pages(struct hmm_mirror *mirror, unsigned long start, unsigned long end,
			const hmm_pte_t *ptes)
{
	unsigned long i;
	unsigned int j;

	pthread_mutex_lock(&maps.lock);
	for (i = 0; i < (end - start) / PAGE; i++) {
		if (!ptes[i])
			continue;
		j = map_find(hmm_pte_addr(ptes[i]) - FAR);
		if (j == maps.n || !hmm_pte_test_dma(ptes[i]) ||
		    mini_get(mini_of(mirror), (void *)(start + i * PAGE)))
			maps.errors++; /* not mapped, or the device still has it */
		else
			maps.page[j] = maps.page[--maps.n];
	}
	pthread_mutex_unlock(&maps.lock);
}

static void maps_are(unsigned int n)
{
	unsigned int now, errors;

	pthread_mutex_lock(&maps.lock);
	now = maps.n;
	errors = maps.errors;
	pthread_mutex_unlock(&maps.lock);
	assert_int_equal(now, n);
	assert_int_equal(errors, 0);
}

static void maps_fail(bool odd)
{
	pthread_mutex_lock(&maps.lock);
	maps.odd_fail = odd;
	pthread_mutex_unlock(&maps.lock);
}

/* By way of its mapping: the page's second word. */
static uint64_t mapped_word(hmm_pte_t pte)
{
	uint64_t at = hmm_pte_addr(pte) - FAR, val = 0;

	pthread_mutex_lock(&maps.lock);
	if (map_find(at) < maps.n)
		val = ((uint64_t *)at)[1];
	pthread_mutex_unlock(&maps.lock);
	return val;
}

static void with_maps(struct hmm_device_ops *ops)
{
	ops->dma_map = map_pages;
	ops->dma_unmap = unmap_pages;
}

/* Each once, of the page where it is; what cannot be mapped has no entry. */
static void mappings_are_of_where_it_is(void **state)
{
	struct mini *far = mini_make_with(0, flags, with_maps);
	size_t i;

	(void)state;
	BEGIN(20);
	maps.n = maps.errors = 0;
	maps_fail(false);
	take(far, 0, PAGES, PAGES);
	maps_are(PAGES);
	for (i = 0; i < PAGES; i++) {
		hmm_pte_t pte = mini_get(far, page_at(i));

		assert_true(hmm_pte_test_dma(pte) && hmm_pte_test_exclusive(pte));
		assert_int_equal(mapped_word(pte), pattern_word(1, i, 1));
	}
	for (i = 0; i < PAGES; i += 3)
		word(i); /* home, and a few that follow */
	take(far, 0, PAGES / 2, PAGES / 2);
	take(dev, 0, PAGES, PAGES);
	maps_are(0);
	maps_fail(true);
	take(far, 0, PAGES, PAGES / 2);
	maps_are(PAGES / 2);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(!mini_get(far, page_at(i)), i % 2);
	assert_int_equal(mini_event(far, page_at(1), 1, HMM_DEVICE_EXCLUSIVE, NULL), 0);
	maps_fail(false);
	mini_fail_only(far, HMM_DEVICE_EXCLUSIVE, -EIO);
	assert_int_equal(mini_event(far, mem, PAGES, HMM_DEVICE_EXCLUSIVE, NULL), -EIO);
	mini_fail(far, 0);
	maps_are(0);
	take(far, 0, PAGES, PAGES);
	assert_int_equal(munmap(mem, 4 * PAGE), 0);
	hmm_mirror_sync(&far->mirror);
	maps_are(PAGES - 4);
	mini_free(far);
	maps_are(0);
	pattern_check_from(page_at(4), PAGES - 4, 1, 4);
}

/* ---- ends of all kinds ---- */

static void the_end_of_the_mirror_is_the_end(void **state)
{
	(void)state;
	BEGIN(20);
	mini_migrate(dev, page_at(40), 8);
	take(dev, 0, PAGES - 8, PAGES - 8);
	take(other, PAGES - 8, 8, 8);
	assert_true(mini_add(dev, page_at(1), 5));
	assert_true(mini_add(dev, page_at(41), 6));
	assert_true(mini_add(other, page_at(PAGES - 1), 7));
	assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	assert_int_equal(count_held(dev, 0, PAGES), 0);
	assert_int_equal(count_exclusive(0, PAGES - 8), 0);
	assert_int_equal(word(1), pattern_word(1, 1, 0) + 5);
	assert_int_equal(word(41), pattern_word(1, 41, 0) + 6);
	assert_int_equal(hmm_mirror_register(&dev->mirror), 0);
	take(dev, 0, PAGES, PAGES);
	assert_int_equal(word(PAGES - 1), pattern_word(1, PAGES - 1, 0) + 7);
	take(dev, 0, PAGES, PAGES);
	mini_free(other);
	mini_free(dev);
	dev = other = NULL;
	assert_false(registered(mem)); /* nothing is left of libhmm */
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check_from(page_at(2), 39, 1, 2);
}

/* In system memory nothing is lost with the device. */
static void a_device_that_is_lost_takes_nothing_along(void **state)
{
	(void)state;
	BEGIN(20);
	take(dev, 0, PAGES, PAGES);
	assert_true(mini_add(dev, page_at(1), 5));
	pthread_mutex_lock(&dev->lock); /* its driver sees to that first */
	hmm_pt_fini(&dev->table);
	assert_int_equal(hmm_pt_init(&dev->table, (1ul << 56) - 1), 0);
	pthread_mutex_unlock(&dev->lock);
	assert_int_equal(hmm_device_lost(&dev->device), 0);
	assert_int_equal(word(1), pattern_word(1, 1, 0) + 5);
	*(uint64_t *)page_at(1) -= 5;
	dead_and_all_is_there(dev);
}

static void stop_main_step(unsigned int i)
{
	int ret;

	if (i % 3 == 0) {
		assert_int_equal(hmm_mirror_unregister(&other->mirror), 0);
		assert_int_equal(hmm_mirror_register(&other->mirror), 0);
	} else if (i % 3 == 1) {
		mini_free(other);
		other = mini_make(0, flags);
	} else {
		do /* somebody takes the pages all the time */
			ret = mini_event(other, mem, 4, HMM_DEVICE_WFAULT, NULL);
		while (ret == -EBUSY);
		assert_int_equal(ret, 0);
	}
}

/* One comes and goes while the other works. */
static void a_mirror_that_comes_and_goes(void **state)
{
	uint64_t end, before = word(0) + word(1);
	pthread_t thread;
	unsigned int i;

	(void)state;
	BEGIN(30);
	work_begin(2);
	assert_int_equal(pthread_create(&thread, NULL, device_main, dev), 0);
	end = test_now() + 500000000;
	for (i = 0; test_now() < end || i < 6; i++)
		stop_main_step(i);
	__atomic_store_n(&work.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(work.error, 0);
	assert_int_equal(word(0) + word(1) - before, work.sum);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		ALL(entries_say_where_it_is),
		ALL(it_ends_before_anyone_sees_the_page),
		ALL(nothing_is_lost_between_cpu_and_device),
		ALL(two_devices_steal_from_each_other),
		ALL(a_failed_update_gives_nothing),
		ALL(a_mirror_that_is_killed_gives_all_back),
		ALL(a_mirror_that_dies_meanwhile_gets_nothing),
		ALL(mappings_are_of_where_it_is),
		ALL(the_end_of_the_mirror_is_the_end),
		ALL(a_device_that_is_lost_takes_nothing_along),
		ALL(a_mirror_that_comes_and_goes),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
