/* SPDX-License-Identifier: MIT */
/*
 * Device memory on its own: descriptors, pfns, reference counts, hot-add and
 * hot-remove. No mirror, no migration. HMM_TEST_SEED repeats a run.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <hmm/driver.h>

#include "core/core.h"
#include "core/devmem.h"
#include "mm/arena.h"

#define SLOT (1ul << 20)

static uint64_t test_seed;

static uint64_t next_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* --- a registered device -------------------------------------------------- */

static int ops_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	return 0;
}

static const struct hmm_device_ops device_ops = {
	.size = sizeof(device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = ops_update,
};

static struct hmm_device device = {
	.size = sizeof(device),
	.ops = &device_ops,
	.name = "test",
};

static int setup(void **state)
{
	(void)state;
	return hmm_device_register(&device);
}

/* Fails if a test left a region behind. */
static int teardown(void **state)
{
	(void)state;
	return hmm_device_unregister(&device);
}

/* --- a region that counts what is freed ----------------------------------- */

struct region {
	struct hmm_devmem devmem;
	atomic_ulong freed;
	atomic_ulong wrong; /* calls of free() that should not have been */
	struct hmm_page *freed_last;
	bool reenter;
};

static void region_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct region *region = hmm_container_of(devmem, struct region, devmem);

	if (page->refcount || hmm_page_devmem(page) != devmem ||
	    hmm_page_from_pfn(hmm_page_pfn(page)) != page)
		atomic_fetch_add(&region->wrong, 1);
	atomic_fetch_add(&region->freed, 1);
	region->freed_last = page;
	if (region->reenter) { /* no lock is held, and the page is not free yet */
		struct hmm_page *other = hmm_devmem_alloc(devmem);

		region->reenter = false;
		if (other == page || hmm_devmem_remove(devmem) != -EDEADLK)
			atomic_fetch_add(&region->wrong, 1);
		if (other)
			hmm_page_put(other);
	}
}

static void region_free_quiet(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct region *region = hmm_container_of(devmem, struct region, devmem);

	(void)page;
	atomic_fetch_add(&region->freed, 1);
}

static const struct hmm_devmem_ops region_ops = {
	.size = sizeof(region_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = region_free,
};

static const struct hmm_devmem_ops region_ops_quiet = {
	.size = sizeof(region_ops_quiet),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = region_free_quiet,
};

static void region_add(struct region *region, unsigned long pages, const struct hmm_devmem_ops *ops)
{
	memset(region, 0, sizeof(*region));
	region->devmem.size = sizeof(region->devmem);
	region->devmem.ops = ops;
	assert_int_equal(hmm_devmem_add(&region->devmem, &device, pages * hmm_page_size()), 0);
	assert_int_equal(hmm_devmem_pages(&region->devmem), pages);
	assert_int_equal(hmm_devmem_free_pages(&region->devmem), pages);
}

static void region_remove(struct region *region)
{
	assert_int_equal(atomic_load(&region->wrong), 0);
	assert_int_equal(hmm_devmem_remove(&region->devmem), 0);
	assert_null(region->devmem.state);
}

/* --- tests ---------------------------------------------------------------- */

static void test_arguments(void **state)
{
	struct hmm_devmem_ops bad_version = region_ops, bad_size = region_ops, short_ops;
	struct hmm_device unregistered = { .size = sizeof(unregistered) };
	struct hmm_devmem d = { .size = sizeof(d) };
	size_t page = hmm_page_size();

	(void)state;
	assert_int_equal(hmm_devmem_add(&d, &device, 0), -EINVAL);
	assert_int_equal(hmm_devmem_add(&d, &device, page + 1), -EINVAL);
	assert_int_equal(hmm_devmem_add(&d, &unregistered, page), -EINVAL);
	assert_int_equal(hmm_devmem_add(&d, NULL, page), -EINVAL);
	assert_int_equal(hmm_devmem_add(NULL, &device, page), -EINVAL);
	d.size = 1;
	assert_int_equal(hmm_devmem_add(&d, &device, page), -EINVAL);
	d.size = sizeof(d);
	bad_version.version = 0;
	d.ops = &bad_version;
	assert_int_equal(hmm_devmem_add(&d, &device, page), -EINVAL);
	bad_version.version = HMM_DEVMEM_OPS_VERSION + 1;
	assert_int_equal(hmm_devmem_add(&d, &device, page), -EINVAL);
	bad_size.size = 4;
	d.ops = &bad_size;
	assert_int_equal(hmm_devmem_add(&d, &device, page), -EINVAL);
	d.ops = NULL;
	assert_int_equal(hmm_devmem_add(&d, &device, ~0ul << 40), -ENOSPC);
	assert_int_equal(hmm_devmem_remove(&d), -EINVAL);
	assert_int_equal(hmm_devmem_remove(NULL), -EINVAL);
	assert_null(hmm_devmem_alloc(&d));
	assert_int_equal(hmm_devmem_pages(&d), 0);
	assert_int_equal(hmm_devmem_free_pages(&d), 0);
	assert_null(d.state);

	/* A driver of a time when there was no free(). */
	short_ops = region_ops;
	short_ops.size = offsetof(struct hmm_devmem_ops, free);
	d.ops = &short_ops;
	assert_int_equal(hmm_devmem_add(&d, &device, page), 0);
	assert_int_equal(hmm_devmem_add(&d, &device, page), -EBUSY);
	hmm_page_put(hmm_devmem_alloc(&d));
	assert_int_equal(hmm_devmem_remove(&d), 0);
	assert_int_equal(hmm_devmem_remove(&d), -EINVAL);
}

static void test_keeps_device(void **state)
{
	struct region region;

	(void)state;
	region_add(&region, 1, NULL);
	assert_int_equal(hmm_device_unregister(&device), -EBUSY);
	region_remove(&region);
	assert_int_equal(hmm_device_unregister(&device), 0);
	assert_int_equal(hmm_device_register(&device), 0);
}

/* All of it, in order, each once; then nothing; then all again. */
static void test_exhaustion(void **state)
{
	static const unsigned long sizes[] = { 1, 63, 64, 65, 4096, 64 * 64 + 1, 10000 };
	struct region region;
	struct hmm_page **page = malloc(10000 * sizeof(*page));
	unsigned long n, i, round;

	(void)state;
	for (n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
		region_add(&region, sizes[n], &region_ops);
		for (round = 0; round < 3; round++) {
			for (i = 0; i < sizes[n]; i++) {
				page[i] = hmm_devmem_alloc(&region.devmem);
				assert_non_null(page[i]);
				assert_int_equal(page[i]->refcount, 1);
				assert_int_equal(hmm_page_index(page[i]), i);
				assert_int_equal(hmm_page_pfn(page[i]), hmm_page_pfn(page[0]) + i);
				page[i]->data = i * 3 + round;
			}
			assert_null(hmm_devmem_alloc(&region.devmem));
			assert_int_equal(hmm_devmem_free_pages(&region.devmem), 0);
			for (i = 0; i < sizes[n]; i++) {
				assert_int_equal(page[i]->data, i * 3 + round);
				hmm_page_put(page[i]);
				assert_int_equal(hmm_devmem_free_pages(&region.devmem), i + 1);
			}
			assert_int_equal(atomic_load(&region.freed), sizes[n] * (round + 1));
		}
		region_remove(&region);
	}
	free(page);
}

/* What is asked for one after the other lies side by side while there is room. */
static void test_contiguous(void **state)
{
	struct hmm_page *page[1000];
	struct region region;
	unsigned int i;

	(void)state;
	region_add(&region, 1000, NULL);
	for (i = 0; i < 1000; i++) {
		page[i] = hmm_devmem_alloc(&region.devmem);
		assert_int_equal(hmm_page_index(page[i]), i);
		if (i % 2)
			hmm_page_put(page[i]);
	}
	for (i = 1; i < 1000; i += 2)
		assert_int_equal(hmm_page_index(hmm_devmem_alloc(&region.devmem)), i);
	for (i = 0; i < 1000; i++)
		hmm_page_put(page[i]);
	region_remove(&region);
}

/* Taken together, put together: of two regions, one page with another reference. */
static void test_several(void **state)
{
	struct hmm_page *page[300];
	struct region a, b;
	unsigned long i;

	(void)state;
	region_add(&a, 150, &region_ops);
	region_add(&b, 150, &region_ops);
	assert_int_equal(hmm_devmem_alloc_pages(&a.devmem, 0, page), 0);
	assert_int_equal(hmm_devmem_alloc_pages(&a.devmem, 100, page), 100);
	assert_int_equal(hmm_devmem_alloc_pages(&a.devmem, 100, page + 100), 50);
	assert_int_equal(hmm_devmem_alloc_pages(&a.devmem, 1, page + 150), 0);
	assert_int_equal(hmm_devmem_alloc_pages(&b.devmem, 150, page + 150), 150);
	for (i = 0; i < 300; i++) {
		assert_int_equal(page[i]->refcount, 1);
		assert_ptr_equal(hmm_page_devmem(page[i]), i < 150 ? &a.devmem : &b.devmem);
		assert_int_equal(hmm_page_index(page[i]), i % 150);
	}
	hmm_page_get(page[120]);
	devmem_put_run(hmm_page_pfn(page[100]), 50);
	devmem_put_run(hmm_page_pfn(page[150]), 50);
	assert_int_equal(atomic_load(&a.freed), 49);
	assert_int_equal(atomic_load(&b.freed), 50);
	assert_int_equal(hmm_devmem_free_pages(&a.devmem), 49);
	assert_int_equal(hmm_devmem_free_pages(&b.devmem), 50);
	devmem_put_run(hmm_page_pfn(page[120]), 1);
	assert_int_equal(hmm_devmem_free_pages(&a.devmem), 50);
	devmem_put_run(hmm_page_pfn(page[0]), 100);
	devmem_put_run(hmm_page_pfn(page[200]), 100);
	region_remove(&a);
	region_remove(&b);
}

/* The only free page is found wherever it is. */
static void test_last_free_page(void **state)
{
	enum { N = 9000 };
	struct hmm_page *page[N], *again;
	struct region region;
	uint64_t seed = test_seed;
	unsigned int i, j;

	(void)state;
	region_add(&region, N, NULL);
	for (i = 0; i < N; i++)
		page[i] = hmm_devmem_alloc(&region.devmem);
	for (i = 0; i < 1000; i++) {
		j = i < 2 ? i * (N - 1) : next_random(&seed) % N;
		hmm_page_put(page[j]);
		again = hmm_devmem_alloc(&region.devmem);
		assert_ptr_equal(again, page[j]);
		assert_null(hmm_devmem_alloc(&region.devmem));
	}
	for (i = 0; i < N; i++)
		hmm_page_put(page[i]);
	region_remove(&region);
}

static void test_free_callback(void **state)
{
	struct region region;
	struct hmm_page *page;

	(void)state;
	region_add(&region, 2, &region_ops);
	page = hmm_devmem_alloc(&region.devmem);
	page->data = 42;
	hmm_page_get(page);
	hmm_page_get(page);
	hmm_page_put(page);
	hmm_page_put(page);
	assert_int_equal(atomic_load(&region.freed), 0);
	assert_int_equal(page->refcount, 1);
	assert_int_equal(hmm_devmem_remove(&region.devmem), -EBUSY);
	region.reenter = true;
	hmm_page_put(page);
	assert_int_equal(atomic_load(&region.freed), 2); /* its own, and the one taken inside */
	assert_ptr_not_equal(region.freed_last, NULL);
	assert_int_equal(page->data, 42);
	assert_int_equal(hmm_devmem_free_pages(&region.devmem), 2);
	region_remove(&region);
}

static void test_remove_busy(void **state)
{
	struct region region;
	struct hmm_page *page;
	uint64_t pfn;

	(void)state;
	region_add(&region, 100, NULL);
	page = hmm_devmem_alloc(&region.devmem);
	pfn = hmm_page_pfn(page);
	assert_int_equal(hmm_devmem_remove(&region.devmem), -EBUSY);
	assert_ptr_equal(hmm_page_from_pfn(pfn), page); /* a refused removal changes nothing */
	assert_ptr_equal(hmm_page_devmem(page), &region.devmem);
	hmm_page_put(page);
	assert_ptr_equal(hmm_page_from_pfn(pfn), page);
	region_remove(&region);
	assert_null(hmm_page_from_pfn(pfn));
}

static void check_lookup(struct region *region, struct hmm_page *first)
{
	unsigned long pages = hmm_devmem_pages(&region->devmem), i;
	uint64_t base = hmm_page_pfn(first) - hmm_page_index(first);

	assert_int_equal(base % SLOT, 0);
	assert_true(base);
	assert_true((base + pages) << hmm_page_shift() >> hmm_page_shift() == base + pages);
	for (i = 0; i < pages; i += i < 100 || pages - i < 1100 ? 1 : 1000) {
		struct hmm_page *page = hmm_page_from_pfn(base + i);

		assert_ptr_equal(page, first + i);
		assert_int_equal(hmm_page_pfn(page), base + i);
		assert_int_equal(hmm_page_index(page), i);
		assert_ptr_equal(hmm_page_devmem(page), &region->devmem);
		assert_ptr_equal(devmem_device(page), &device);
	}
	assert_null(hmm_page_from_pfn(base + pages));
	assert_null(hmm_page_from_pfn(base - 1));
}

/* One within a slot, one that fills two to the last page, one just over. */
static void test_lookup(void **state)
{
	static const unsigned long pages[] = { 1000, 2 * SLOT, SLOT + 1 };
	struct region region[3];
	struct hmm_page *page[3];
	unsigned int i;

	(void)state;
	assert_null(hmm_page_from_pfn(0));
	assert_null(hmm_page_from_pfn(~0ull));
	for (i = 0; i < 3; i++) {
		/* With a gap behind it, so that base + pages belongs to nobody. */
		struct region gap;

		region_add(&region[i], pages[i], &region_ops);
		region_add(&gap, 1, NULL);
		page[i] = hmm_devmem_alloc(&region[i].devmem);
		region_remove(&gap);
	}
	for (i = 0; i < 3; i++)
		check_lookup(&region[i], page[i]);
	assert_null(hmm_page_from_pfn(0));
	hmm_page_put(page[1]);
	region_remove(&region[1]);
	check_lookup(&region[0], page[0]);
	check_lookup(&region[2], page[2]);
	hmm_page_put(page[0]);
	hmm_page_put(page[2]);
	region_remove(&region[0]);
	region_remove(&region[2]);
}

/* The pfn space is used up, given back, and used again; pfns never overlap. */
static void test_many_regions(void **state)
{
	enum { N = 200 };
	static struct region region[N];
	uint64_t seed = test_seed, pfn[N];
	unsigned int i, j, round;

	(void)state;
	for (i = 0; i < N; i++)
		region_add(&region[i], 1 + i % 7, NULL);
	for (round = 0; round < 70000; round++) {
		i = next_random(&seed) % N;
		region_remove(&region[i]);
		region_add(&region[i], 1 + i % 7, NULL);
	}
	for (i = 0; i < N; i++) {
		struct hmm_page *page = hmm_devmem_alloc(&region[i].devmem);

		pfn[i] = hmm_page_pfn(page);
		assert_true(pfn[i]);
		assert_ptr_equal(hmm_page_from_pfn(pfn[i]), page);
		for (j = 0; j < i; j++)
			assert_true(pfn[i] / SLOT != pfn[j] / SLOT);
		hmm_page_put(page);
	}
	for (i = 0; i < N; i++)
		region_remove(&region[i]);
}

static void test_no_space(void **state)
{
	struct hmm_devmem d = { .size = sizeof(d) };

	(void)state;
	/* 256 TiB is all there is, and slot 0 is not for use. */
	assert_int_equal(hmm_devmem_add(&d, &device, SLOT * 65536 * hmm_page_size()), -ENOSPC);
	assert_null(d.state);
}

/* --- threads -------------------------------------------------------------- */

#define THREADS 4

struct job {
	struct region *region;
	uint64_t seed;
	unsigned long taken;
	const char *failed;
};

/* Take, check that nobody else has it, give back; the region is always short. */
static void *job_churn(void *arg)
{
	enum { HELD = 40 };
	struct job *job = arg;
	struct hmm_page *held[HELD] = { 0 };
	unsigned int n, i;

	for (n = 0; n < 40000 && !job->failed; n++) {
		i = next_random(&job->seed) % HELD;
		if (held[i]) {
			if (held[i]->data != (uint64_t)(unsigned long)&held[i] ||
			    hmm_page_from_pfn(hmm_page_pfn(held[i])) != held[i])
				job->failed = "somebody else has my page";
			hmm_page_put(held[i]);
			held[i] = NULL;
			continue;
		}
		held[i] = hmm_devmem_alloc(&job->region->devmem);
		if (!held[i])
			continue;
		job->taken++;
		held[i]->data = (uint64_t)(unsigned long)&held[i];
	}
	for (i = 0; i < HELD; i++)
		if (held[i])
			hmm_page_put(held[i]);
	return NULL;
}

static void test_threads_churn(void **state)
{
	struct job job[THREADS];
	pthread_t id[THREADS];
	struct region region;
	unsigned long taken = 0;
	unsigned int i;

	(void)state;
	region_add(&region, 70, &region_ops_quiet);
	for (i = 0; i < THREADS; i++) {
		job[i] = (struct job){ .region = &region, .seed = test_seed + i };
		assert_int_equal(pthread_create(&id[i], NULL, job_churn, &job[i]), 0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		if (job[i].failed)
			fail_msg("thread %u: %s", i, job[i].failed);
		taken += job[i].taken;
	}
	assert_int_equal(atomic_load(&region.freed), taken);
	assert_int_equal(hmm_devmem_free_pages(&region.devmem), 70);
	region_remove(&region);
}

static struct hmm_page *shared_page;

static void *job_refs(void *arg)
{
	unsigned int n;

	(void)arg;
	for (n = 0; n < 50000; n++) {
		hmm_page_get(shared_page);
		if (n % 3)
			hmm_page_put(shared_page);
	}
	for (n = 0; n < (50000 + 2) / 3; n++)
		hmm_page_put(shared_page);
	hmm_page_put(shared_page); /* the one it was started with */
	return NULL;
}

/* Freed once, by whichever of them is last. */
static void test_threads_refs(void **state)
{
	pthread_t id[THREADS];
	struct region region;
	unsigned int i, round;

	(void)state;
	region_add(&region, 1, &region_ops);
	for (round = 0; round < 20; round++) {
		shared_page = hmm_devmem_alloc(&region.devmem);
		assert_non_null(shared_page);
		for (i = 1; i < THREADS; i++)
			hmm_page_get(shared_page);
		for (i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&id[i], NULL, job_refs, NULL), 0);
		for (i = 0; i < THREADS; i++)
			pthread_join(id[i], NULL);
		assert_int_equal(shared_page->refcount, 0);
		assert_int_equal(atomic_load(&region.freed), round + 1);
	}
	region_remove(&region);
}

/* Look pfns up while other regions come and go. */
static void *job_lookup(void *arg)
{
	struct job *job = arg;
	struct hmm_page *page = hmm_devmem_alloc(&job->region->devmem);
	uint64_t pfn = hmm_page_pfn(page);
	unsigned int n;

	for (n = 0; n < 200000 && !job->failed; n++) {
		if (hmm_page_from_pfn(pfn) != page || hmm_page_devmem(page) != &job->region->devmem)
			job->failed = "lost a page";
		(void)hmm_page_from_pfn((next_random(&job->seed) % 65536) << 20);
	}
	hmm_page_put(page);
	return NULL;
}

static void *job_hotplug(void *arg)
{
	struct job *job = arg;
	struct hmm_devmem d = { .size = sizeof(d) };
	unsigned int n;

	for (n = 0; n < 3000 && !job->failed; n++) {
		struct hmm_page *page;

		if (hmm_devmem_add(&d, &device, (1 + n % 100) * hmm_page_size())) {
			job->failed = "cannot add";
			break;
		}
		page = hmm_devmem_alloc(&d);
		if (!page || hmm_page_devmem(page) != &d || hmm_devmem_remove(&d) != -EBUSY)
			job->failed = "bad region";
		if (page)
			hmm_page_put(page);
		if (hmm_devmem_remove(&d))
			job->failed = "cannot remove";
	}
	return NULL;
}

static void test_threads_hotplug(void **state)
{
	struct job job[THREADS];
	pthread_t id[THREADS];
	struct region region;
	unsigned int i;

	(void)state;
	region_add(&region, 10, NULL);
	for (i = 0; i < THREADS; i++) {
		job[i] = (struct job){ .region = &region, .seed = test_seed + i };
		assert_int_equal(
			pthread_create(&id[i], NULL, i % 2 ? job_hotplug : job_lookup, &job[i]), 0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		if (job[i].failed)
			fail_msg("thread %u: %s", i, job[i].failed);
	}
	region_remove(&region);
}

/* The same struct added by all at once: one wins. */
static struct hmm_devmem contested;

static void *job_add(void *arg)
{
	pthread_barrier_wait(arg);
	return (void *)(long)hmm_devmem_add(&contested, &device, 20000 * hmm_page_size());
}

static void test_threads_add(void **state)
{
	unsigned int i, round, won;
	pthread_barrier_t barrier;
	pthread_t id[THREADS];
	void *ret;

	(void)state;
	contested.size = sizeof(contested);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (round = 0; round < 100; round++) {
		won = 0;
		for (i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&id[i], NULL, job_add, &barrier), 0);
		for (i = 0; i < THREADS; i++) {
			pthread_join(id[i], &ret);
			if ((long)ret)
				assert_int_equal((long)ret, -EBUSY);
			else
				won++;
		}
		assert_int_equal(won, 1);
		assert_int_equal(hmm_devmem_free_pages(&contested), 20000);
		assert_int_equal(hmm_devmem_remove(&contested), 0);
	}
	pthread_barrier_destroy(&barrier);
}

/* --- inside libhmm -------------------------------------------------------- */

static void test_next(void **state)
{
	unsigned long page = hmm_page_size(), a, b, s, e;
	char *memory = hmm_map(8 * page);
	struct hmm_devmem *low = (void *)(memory + page), *high = (void *)(memory + 5 * page - 8);

	(void)state;
	a = (unsigned long)memory;
	b = a + 8 * page;
	s = a;
	e = b;
	assert_false(devmem_next(&s, &e));
	low->size = high->size = sizeof(*low);
	assert_int_equal(hmm_devmem_add(low, &device, page), 0);
	assert_int_equal(hmm_devmem_add(high, &device, page), 0);
	assert_true(devmem_next(&s, &e));
	assert_int_equal(s, a + page);
	assert_int_equal(e, a + 2 * page);
	s = e;
	e = b;
	assert_true(devmem_next(&s, &e)); /* across a border */
	assert_int_equal(s, a + 4 * page);
	assert_int_equal(e, a + 6 * page);
	s = a + 5 * page;
	e = b;
	assert_true(devmem_next(&s, &e));
	assert_int_equal(s, a + 5 * page);
	s = a + 2 * page;
	e = a + 4 * page;
	assert_false(devmem_next(&s, &e));
	assert_int_equal(hmm_devmem_remove(low), 0);
	assert_int_equal(hmm_devmem_remove(high), 0);
	hmm_unmap(memory, 8 * page);
}

/* A child starts with no region, and can have its own structs again. */
static void test_fork(void **state)
{
	struct region region;
	struct hmm_page *page;
	uint64_t pfn;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(fork_init(), 0);
	region_add(&region, 10, &region_ops);
	page = hmm_devmem_alloc(&region.devmem);
	pfn = hmm_page_pfn(page);
	pid = fork();
	if (!pid)
		_exit(region.devmem.state || hmm_page_from_pfn(pfn) ||
		      hmm_devmem_pages(&region.devmem) || atomic_load(&region.freed));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_ptr_equal(hmm_page_from_pfn(pfn), page);
	hmm_page_put(page);
	region_remove(&region);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arguments),     cmocka_unit_test(test_keeps_device),
		cmocka_unit_test(test_exhaustion),    cmocka_unit_test(test_contiguous),
		cmocka_unit_test(test_several),	      cmocka_unit_test(test_last_free_page),
		cmocka_unit_test(test_free_callback), cmocka_unit_test(test_remove_busy),
		cmocka_unit_test(test_lookup),	      cmocka_unit_test(test_many_regions),
		cmocka_unit_test(test_no_space),      cmocka_unit_test(test_threads_churn),
		cmocka_unit_test(test_threads_refs),  cmocka_unit_test(test_threads_hotplug),
		cmocka_unit_test(test_threads_add),   cmocka_unit_test(test_next),
		cmocka_unit_test(test_fork),
	};
	const char *seed = getenv("HMM_TEST_SEED");

	test_seed =
		seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	printf("HMM_TEST_SEED=%llu\n", (unsigned long long)test_seed);
	return cmocka_run_group_tests(tests, setup, teardown);
}
