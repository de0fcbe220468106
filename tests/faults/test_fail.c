/* SPDX-License-Identifier: MIT */
/*
 * A device that fails: each kind of failure, at the nth call, for n from 1 on.
 *
 * G4: no byte is lost but in pages that are poisoned: SIGBUS there and nowhere
 * else. G7: every other page is where it was or where it should be. G9: nothing
 * hangs. G11: the process lives, and learns of it by an errno; a mirror whose
 * update() failed answers -ENODEV and gives its memory back; another device goes
 * on.
 */
#include "faults/harness.h"

#define PAGES 1300 /* three chunks */

struct world {
	struct dummy_device *dev;
	struct dummy_device *other;
	unsigned char *mem;
	unsigned char *theirs; /* on the other device */
	uint64_t expect[PAGES];
};

static struct world world;

/* ---- reading what may be poisoned ---- */

static sigjmp_buf bus_env;
static volatile unsigned long bus_addr;

static void bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_addr = (unsigned long)info->si_addr;
	siglongjmp(bus_env, 1);
}

static void catch_bus(void)
{
	struct sigaction sa = { .sa_sigaction = bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &sa, NULL);
}

/* False: the page is poisoned. */
static bool page_read(const unsigned char *page, uint64_t *val)
{
	if (sigsetjmp(bus_env, 1)) {
		assert_int_equal(bus_addr & ~(hmm_page_size() - 1), (unsigned long)page);
		return false;
	}
	*val = *(const volatile uint64_t *)page;
	return true;
}

static unsigned long poisoned_pages(struct world *w)
{
	unsigned long n = 0;
	size_t i;

	for (i = 0; i < PAGES; i++) {
		uint64_t val = 0;

		if (page_read(w->mem + i * hmm_page_size(), &val))
			assert_int_equal(val, w->expect[i]);
		else
			n++;
	}
	return n;
}

static uint64_t stat_poisoned(void)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_get_stats(&s), 0);
	return s.pages_poisoned;
}

/* ---- the scene ---- */

static uint64_t addr_of(const struct world *w, size_t page)
{
	return (uint64_t)(unsigned long)w->mem + page * hmm_page_size();
}

static void quiet(enum hmm_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

static void world_make(struct world *w)
{
	struct dummy_options opt = { .memory = 32 * MIB,
				     .scrub = true,
				     .looks_up = getenv("HMM_TEST_LOOKS_UP") };
	size_t i;

	hmm_set_log(HMM_LOG_ERROR, quiet);
	catch_bus();
	w->dev = device_new(&opt);
	w->other = device_new(&opt);
	w->mem = map_bytes(PAGES * hmm_page_size());
	w->theirs = map_bytes(64 * hmm_page_size());
	fill_pages(w->mem, PAGES, 1);
	fill_pages(w->theirs, 64, 2);
	migrate_all(w->other, w->theirs, 64);
	for (i = 0; i < PAGES; i++)
		w->expect[i] = page_word(1, i, 0);
}

/* The other device has heard of nothing. */
static void world_end(struct world *w)
{
	uint64_t val = 0;

	assert_int_equal(count_where(w->theirs, 64, HMM_WHERE_DEVICE), 64);
	assert_int_equal(dummy_load_u64(w->other, (unsigned long)w->theirs, &val), 0);
	assert_int_equal(val, page_word(2, 0, 0));
	assert_int_equal(check_pages(w->theirs, 64, 2), 64);
	munmap(w->mem, PAGES * hmm_page_size());
	munmap(w->theirs, 64 * hmm_page_size());
	assert_true(memory_comes_free(w->dev, 2));
	assert_true(memory_comes_free(w->other, 2));
	assert_int_equal(dummy_destroy(w->dev), 0);
	assert_int_equal(dummy_destroy(w->other), 0);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

static bool mirror_lives(struct world *w)
{
	struct hmm_event event = { .start = addr_of(w, 0),
				   .end = addr_of(w, 1),
				   .etype = HMM_COPY_FROM_DEVICE };

	return hmm_mirror_fault(dummy_mirror(w->dev), &event) != -ENODEV;
}

/*
 * A store that succeeds counts; one that fails has changed nothing. A device that
 * could not be told of changes any more must not write: that is its driver's to see.
 */
static void device_writes(struct world *w, size_t page)
{
	uint64_t val = w->expect[page] ^ 0xff00;

	if (mirror_lives(w) && !dummy_store_u64(w->dev, addr_of(w, page), val))
		w->expect[page] = val;
}

/* All that calls the driver: fault, migrate, write, evict, CPU fault. */
static unsigned int play(struct world *w)
{
	unsigned int errors = 0;
	uint64_t val;
	size_t i;

	for (i = 0; i < PAGES; i += 100)
		errors += dummy_load_u64(w->dev, addr_of(w, i), &val) != 0;
	errors += dummy_migrate(w->dev, addr_of(w, 0), addr_of(w, PAGES), NULL) != 0;
	for (i = 0; i < PAGES; i += 50)
		device_writes(w, i);
	errors += dummy_evict(w->dev, addr_of(w, 0), addr_of(w, PAGES / 2), NULL) != 0;
	for (i = PAGES / 2; i < PAGES; i += 40)
		page_read(w->mem + i * hmm_page_size(), &val);
	errors += dummy_migrate(w->dev, addr_of(w, 0), addr_of(w, PAGES), NULL) != 0;
	return errors;
}

/* What was poisoned is memory again once it is dropped. */
static void reuse(struct world *w, enum dummy_fail what)
{
	int ret;

	assert_int_equal(madvise(w->mem, PAGES * hmm_page_size(), MADV_DONTNEED), 0);
	memset(w->mem, 1, PAGES * hmm_page_size());
	ret = dummy_migrate(w->dev, addr_of(w, 0), addr_of(w, PAGES), NULL);
	assert_true(ret == 0 || (ret == -ENODEV && what == DUMMY_FAIL_UPDATE));
	assert_int_equal(w->mem[PAGES * hmm_page_size() - 1], 1);
}

static void fail_at(enum dummy_fail what, unsigned long nth, unsigned long count)
{
	struct world *w = &world;
	uint64_t before = stat_poisoned();
	unsigned long lost;

	world_make(w);
	dummy_inject(w->dev, what, nth, count);
	play(w);
	dummy_inject(w->dev, what, 0, 0);
	lost = poisoned_pages(w);
	assert_int_equal(lost, stat_poisoned() - before);
	if (what == DUMMY_FAIL_PAGE)
		assert_true(lost <= count);
	else if (what != DUMMY_FAIL_COPY_FROM)
		assert_int_equal(lost, 0);
	assert_true(memory_comes_free(w->dev, 2));

	if (nth % 4 == 1)
		reuse(w, what);
	world_end(w);
}

#define EACH_CALL(name, what, last, step)                      \
	static void name(void **state)                         \
	{                                                      \
		unsigned long n;                               \
                                                               \
		(void)state;                                   \
		for (n = 1; n <= (last); n += (step)*SLOWER) { \
			LIMIT(10);                             \
			fail_at(what, n, 1);                   \
			fail_at(what, n, 3);                   \
		}                                              \
		limit(0, "");                                  \
	}

EACH_CALL(each_update_fails, DUMMY_FAIL_UPDATE, 40, 1)
EACH_CALL(each_copy_to_device_fails, DUMMY_FAIL_COPY_TO, 8, 1)
EACH_CALL(each_copy_from_device_fails, DUMMY_FAIL_COPY_FROM, 24, 1)
EACH_CALL(each_lost_page, DUMMY_FAIL_PAGE, 900, 97)
EACH_CALL(each_allocation_fails, DUMMY_FAIL_ALLOC, 1400, 131)

/* The page that is lost is known, and the call that lost it says so. */
/* G7: who only wants it back gets an error, and it stays; who accesses it has lost it. */
static void a_lost_page_is_one_page(void **state)
{
	struct world *w = &world;
	unsigned long pages;
	uint64_t val;

	(void)state;
	LIMIT(10);
	world_make(w);
	migrate_all(w->dev, w->mem, PAGES);
	dummy_inject(w->dev, DUMMY_FAIL_PAGE, 8, 1);
	assert_int_equal(dummy_evict(w->dev, addr_of(w, 0), addr_of(w, 64), NULL), -EIO);
	assert_int_equal(dummy_load_u64(w->dev, addr_of(w, 7), &val), 0);
	assert_int_equal(dummy_evict(w->dev, addr_of(w, 0), addr_of(w, 64), &pages), 0);
	assert_int_equal(pages, 1);
	assert_int_equal(poisoned_pages(w), 0);
	migrate_all(w->dev, w->mem, PAGES);
	dummy_inject(w->dev, DUMMY_FAIL_PAGE, 1, 1);
	assert_false(page_read(w->mem + 7 * hmm_page_size(), &val));
	assert_int_equal(dummy_load_u64(w->dev, addr_of(w, 7), &val), -EFAULT);
	assert_int_equal(write(STDERR_FILENO, w->mem + 7 * hmm_page_size(), 8), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(poisoned_pages(w), 1);
	world_end(w);
}

/* update() fails while permission is taken away. */
static void a_dead_mirror_answers_enodev_and_gives_all_back(void **state)
{
	struct world *w = &world;
	struct hmm_event event;
	uint64_t val;
	size_t i;

	(void)state;
	LIMIT(10);
	world_make(w);
	migrate_all(w->dev, w->mem, PAGES);
	for (i = 0; i < PAGES; i += 10)
		device_writes(w, i);
	dummy_inject(w->dev, DUMMY_FAIL_UPDATE, 1, 1);
	assert_true(page_read(w->mem + 3 * hmm_page_size(), &val));
	assert_true(memory_comes_free(w->dev, 2)); /* without being touched */
	assert_int_equal(dummy_load_u64(w->dev, addr_of(w, 3), &val), -ENODEV);
	assert_int_equal(dummy_migrate(w->dev, addr_of(w, 0), addr_of(w, 9), NULL), -ENODEV);
	event = (struct hmm_event){ .start = addr_of(w, 0),
				    .end = addr_of(w, 1),
				    .etype = HMM_DEVICE_WFAULT };
	assert_int_equal(hmm_mirror_fault(dummy_mirror(w->dev), &event), -ENODEV);
	assert_int_equal(poisoned_pages(w), 0);
	world_end(w);
}

/* update() fails in the midst of a migration: what goes after is not stranded. */
static void nothing_is_left_on_a_mirror_that_dies_while_it_migrates(void **state)
{
	struct world *w = &world;
	unsigned int i;
	uint64_t val;
	size_t page;

	(void)state;
	for (i = 0; i < 20; i++) {
		LIMIT(10);
		world_make(w);
		for (page = 0; page < PAGES; page += 16)
			assert_int_equal(dummy_load_u64(w->dev, addr_of(w, page), &val), 0);
		dummy_inject(w->dev, DUMMY_FAIL_UPDATE, 1, 1);
		dummy_migrate(w->dev, addr_of(w, 0), addr_of(w, PAGES), NULL);
		assert_true(memory_comes_free(w->dev, 2));
		assert_false(mirror_lives(w));
		assert_int_equal(poisoned_pages(w), 0);
		world_end(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_update_fails),
		cmocka_unit_test(each_copy_to_device_fails),
		cmocka_unit_test(each_copy_from_device_fails),
		cmocka_unit_test(each_lost_page),
		cmocka_unit_test(each_allocation_fails),
		cmocka_unit_test(a_lost_page_is_one_page),
		cmocka_unit_test(a_dead_mirror_answers_enodev_and_gives_all_back),
		cmocka_unit_test(nothing_is_left_on_a_mirror_that_dies_while_it_migrates),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
