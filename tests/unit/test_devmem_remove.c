/* SPDX-License-Identifier: MIT */
/*
 * hmm_devmem_remove() of memory that is in use, and devices with several regions.
 *
 * Tries to break: what is there comes home, with its content (G4); meanwhile nothing is to
 * be had from the region; what cannot come is named and stays, and the region can be used
 * as before (G7); the other regions and devices notice nothing.
 */
#include "migrate/tiny.h"

#include <stdatomic.h>

#define PAGES 900
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	tiny = tiny_new(1024);
	mem = map_aligned(BYTES);
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

static struct hmm_devmem *region(unsigned int i)
{
	return &tiny->region[i].devmem;
}

static void add_again(unsigned int i)
{
	assert_null(region(i)->state);
	assert_int_equal(hmm_devmem_add(region(i), &tiny->device, tiny->region[i].bytes), 0);
}

static void all_comes_home(void **state)
{
	uint64_t pfn;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	pfn = hmm_page_pfn(tiny_find(tiny, mem));
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	assert_int_equal(tiny->region[0].freed, PAGES);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_null(hmm_page_from_pfn(pfn));
	assert_null(hmm_devmem_alloc(region(0)));
	assert_int_equal(hmm_devmem_remove(region(0)), -EINVAL);
	pattern_check(mem, PAGES, 1);
	add_again(0);
	tiny_migrate_all(tiny, mem, PAGES);
	pattern_check(mem, PAGES, 1);
}

/* One reference is somebody else's: -EBUSY, and it is named; the rest has come. */
static void a_reference_keeps_the_region(void **state)
{
	struct hmm_page *page, *mine;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	page = tiny_find(tiny, mem + 300 * PAGE);
	hmm_page_get(page);
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_ptr_equal(hmm_devmem_next_used(region(0), 0), page);
	assert_ptr_equal(hmm_devmem_next_used(region(0), hmm_page_index(page)), page);
	assert_null(hmm_devmem_next_used(region(0), hmm_page_index(page) + 1));
	assert_int_equal(tiny_used(tiny), 1);
	assert_int_equal(page->refcount, 1);
	/* As before: it gives out pages, and migrates. */
	mine = hmm_devmem_alloc(region(0));
	assert_non_null(mine);
	hmm_page_put(mine);
	tiny_migrate_all(tiny, mem, PAGES);
	pattern_check(mem, PAGES, 1);
	wait_until(tiny_used(tiny) == 1);
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	hmm_page_put(page);
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
}

/* A page of the driver's own, which nothing was ever migrated to. */
static void an_allocated_page_keeps_the_region(void **state)
{
	struct hmm_page *page = hmm_devmem_alloc(region(0)), *run;

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	assert_ptr_equal(hmm_devmem_next_used(region(0), 0), page);
	run = hmm_devmem_alloc_run(region(0));
	assert_non_null(run);
	assert_int_equal(hmm_page_index(run) % hmm_devmem_run_pages(), 0);
	assert_ptr_equal(hmm_devmem_next_used(region(0), hmm_page_index(page) + 1), run);
	hmm_page_put(page);
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	for (page = run; page < run + hmm_devmem_run_pages(); page++) {
		assert_ptr_equal(hmm_devmem_next_used(region(0), 0), page);
		assert_int_equal(page->refcount, 1);
		hmm_page_put(page);
	}
	assert_null(hmm_devmem_next_used(region(0), 0));
	assert_null(hmm_devmem_next_used(region(0), ~0ul));
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	assert_null(hmm_devmem_next_used(region(0), 0));
	assert_null(hmm_devmem_alloc_run(region(0)));
}

/* G7: what the device cannot copy stays in it, and the CPU can have it later. */
static void a_page_that_cannot_be_copied_stays(void **state)
{
	struct hmm_page *page;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	page = tiny_find(tiny, mem + 600 * PAGE);
	tiny->lose = addr_of(mem) + 600 * PAGE;
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	assert_int_equal(tiny_used(tiny), 1);
	assert_ptr_equal(hmm_devmem_next_used(region(0), 0), page);
	assert_int_equal(page->data, tiny->lose);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 1);
	assert_false(on_cpu(mem + 600 * PAGE));
	tiny->lose = ~0ul;
	assert_int_equal(hmm_devmem_remove(region(0)), -EBUSY);
	tiny->lose = 0;
	pattern_check(mem, PAGES, 1);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	pattern_check(mem, PAGES, 1);
}

/* ---- meanwhile ---- */

static struct hmm_page *taken_meanwhile;
static unsigned long asked_meanwhile;

TINY_OP void asks_for_pages(struct tiny *of, enum tiny_op op)
{
	struct hmm_page *page;

	if (op != TINY_COPY)
		return;
	asked_meanwhile++;
	page = hmm_devmem_alloc(&of->region[0].devmem);
	taken_meanwhile = page ? page : taken_meanwhile;
	page = hmm_devmem_alloc_run(&of->region[0].devmem);
	taken_meanwhile = page ? page : taken_meanwhile;
}

static void nothing_is_given_out_meanwhile(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	tiny->inside = asks_for_pages;
	taken_meanwhile = NULL;
	asked_meanwhile = 0;
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	tiny->inside = NULL;
	assert_true(asked_meanwhile > 0);
	assert_null(taken_meanwhile);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
}

static atomic_bool stop;
static atomic_ulong rounds;
static atomic_int failed;

/* It never waits for a removal, and never loses a page to one. */
static void *migrates(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		int ret = tiny_migrate(tiny, mem, PAGES, NULL, NULL);

		if (ret && ret != -EINVAL) /* it has no memory just now */
			atomic_store(&failed, ret);
		atomic_fetch_add(&rounds, 1);
	}
	return NULL;
}

static void *reads(void *arg)
{
	size_t i;

	(void)arg;
	while (!atomic_load(&stop))
		for (i = 0; i < PAGES && !atomic_load(&stop); i += 11)
			if (((volatile uint64_t *)(mem + i * PAGE))[1] != pattern_word(1, i, 1))
				atomic_store(&failed, 1);
	return NULL;
}

/* Remove and add, while others migrate there and fault. */
static void removal_under_load(void **state)
{
	unsigned int removed = 0, tries = 0;
	pthread_t thread[2];
	uint64_t end;

	(void)state;
	BEGIN(20);
	atomic_store(&stop, false);
	atomic_store(&failed, 0);
	tiny->evict_ret = -ENOENT;
	assert_int_equal(pthread_create(&thread[0], NULL, migrates, NULL), 0);
	assert_int_equal(pthread_create(&thread[1], NULL, reads, NULL), 0);
	end = test_now() + (TEST_SANITIZED ? 2500000000ull : 1000000000ull);
	while ((tries < 300 && test_now() < end) || !removed || !atomic_load(&rounds)) {
		int ret = hmm_devmem_remove(region(0));

		assert_true(ret == 0 || ret == -EBUSY);
		if (!ret) {
			removed++;
			test_sleep_us(100);
			add_again(0);
		}
		tries++;
		test_sleep_us(2000);
	}
	atomic_store(&stop, true);
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	assert_int_equal(atomic_load(&failed), 0);
	pattern_check(mem, PAGES, 1);
}

/* ---- several regions ---- */

static void regions_of_one_device(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_add(tiny, 100);
	tiny_add(tiny, 1);
	tiny_add(tiny, 300);
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	add_again(0);
	pattern_fill(mem, PAGES, 2);
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	/* What is left of the device has 401 pages, in three regions. */
	tiny->evict_ret = -ENOENT;
	tiny_migrate(tiny, mem, PAGES, NULL, NULL);
	assert_int_equal(tiny->migrate.pages, 401);
	assert_int_equal(hmm_devmem_remove(region(2)), 0);
	assert_int_equal(tiny->region[2].copied, 1);
	assert_int_equal(tiny->region[1].copied + tiny->region[3].copied, 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 400);
	assert_int_equal(hmm_devmem_remove(region(1)), 0);
	assert_int_equal(tiny->region[1].copied, 100);
	assert_int_equal(tiny->region[3].copied, 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES - 300);
	pattern_check(mem, PAGES, 2);
	add_again(0);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(hmm_devmem_remove(region(3)), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), 0); /* it had none of them */
	pattern_check(mem, PAGES, 2);
}

/* One call brings home pages of several regions, each by its own. */
static void regions_interleaved(void **state)
{
	unsigned long pages;
	size_t i;

	(void)state;
	BEGIN(5);
	tiny_add(tiny, 400);
	for (i = 0; i < 600; i++) {
		unsigned int which = i / 7 % 2;
		struct tiny_region *other = &tiny->region[!which];
		struct hmm_page *all[1025];
		unsigned long n = 0, k;

		if (i % 7)
			continue;
		while ((all[n] = hmm_devmem_alloc(&other->devmem)))
			n++;
		tiny_migrate_all(tiny, mem + i * PAGE, 7);
		for (k = 0; k < n; k++)
			hmm_page_put(all[k]);
	}
	assert_true(hmm_devmem_next_used(region(0), 0) && hmm_devmem_next_used(region(1), 0));
	tiny->region[0].copied = tiny->region[1].copied = 0;
	assert_int_equal(
		hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, 602);
	assert_int_equal(tiny->region[0].copied + tiny->region[1].copied, 602);
	assert_int_equal(tiny->region[0].copied, 301);
	pattern_check(mem, PAGES, 1);
}

static void another_device_keeps_its_own(void **state)
{
	struct tiny *other = tiny_new(1024);

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, 400);
	tiny_migrate_all(other, mem + 400 * PAGE, PAGES - 400);
	assert_int_equal(hmm_devmem_remove(region(0)), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), 400);
	assert_int_equal(tiny_used(other), PAGES - 400);
	assert_int_equal(other->region[0].copied, 0);
	pattern_check(mem, PAGES, 1);
	tiny_destroy(other);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_comes_home),
		T(a_reference_keeps_the_region),
		T(an_allocated_page_keeps_the_region),
		T(a_page_that_cannot_be_copied_stays),
		T(nothing_is_given_out_meanwhile),
		T(removal_under_load),
		T(regions_of_one_device),
		T(regions_interleaved),
		T(another_device_keeps_its_own),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
