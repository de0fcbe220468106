/* SPDX-License-Identifier: MIT */
/*
 * All that ends DMA mappings, at once: device threads that add and write, while the
 * range migrates, comes back, is discarded, protected, moved, dropped and replaced,
 * while the process forks, and while pages cannot be mapped.
 *
 * Tries to break: no mapping is used after it has ended, none is left behind, and no
 * add is lost or made twice (G4).
 */
#include "mirror/dma.h"

#define THREADS 4u

struct chaos {
	char *mem; /* keeps its content, whatever happens to it */
	char *scratch; /* does not */
	bool stop;
	uint64_t added[THREADS][PAGES];
	uint64_t failed;
};

static struct chaos chaos;

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void *chaos_device(void *arg)
{
	size_t number = (size_t)arg;
	uint64_t seed = 88172645463325252ull + number, val;

	while (!__atomic_load_n(&chaos.stop, __ATOMIC_RELAXED)) {
		size_t page = next_random(&seed) % PAGES;

		if (!dummy_fetch_add_u64(dev, addr_of(chaos.mem) + page * PAGE, 1, &val))
			chaos.added[number][page]++;
		else
			__atomic_fetch_add(&chaos.failed, 1, __ATOMIC_RELAXED);
		dummy_load_u64(dev, addr_of(chaos.mem) + next_random(&seed) % PAGES * PAGE, &val);
		dummy_store_u64(dev, addr_of(chaos.scratch) + page * PAGE, val);
	}
	return NULL;
}

static void chaos_change(uint64_t *seed)
{
	size_t first = next_random(seed) % PAGES, n = 1 + next_random(seed) % (PAGES - first);
	char *at = chaos.mem + first * PAGE, *scratch = chaos.scratch + first * PAGE, *other;
	pid_t pid;

	switch (next_random(seed) % 10) {
	case 0:
		dummy_migrate(dev, addr_of(at), end_of(at, n), NULL);
		break;
	case 1:
		dummy_evict(dev, addr_of(at), end_of(at, n), NULL);
		break;
	case 2:
	case 3:
		assert_int_equal(dummy_discard(dev, addr_of(at), end_of(at, n)), 0);
		break;
	case 4:
		assert_int_equal(mprotect(at, n * PAGE, PROT_READ), 0);
		assert_int_equal(mprotect(at, n * PAGE, PROT_READ | PROT_WRITE), 0);
		break;
	case 5: /* to somewhere else and back */
		other = map_anon(PAGE);
		if (mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other)
			assert_ptr_equal(
				mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at), at);
		else
			munmap(other, PAGE);
		break;
	case 6:
		madvise(scratch, n * PAGE, MADV_DONTNEED);
		break;
	case 7:
		assert_ptr_equal(mmap(scratch, n * PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 scratch);
		break;
	case 8:
		dummy_inject(dev, DUMMY_FAIL_DMA_PAGE, 1 + next_random(seed) % 20, 1);
		dummy_inject(dev, DUMMY_FAIL_DMA, 1 + next_random(seed) % 20, 1);
		break;
	case 9:
		((volatile char *)at)[8] = 1;
		if (next_random(seed) % 16)
			break;
		pid = fork();
		if (!pid)
			_exit(0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		break;
	}
}

static void all_at_once(void **state)
{
	uint64_t end = test_now() + 1500000000ull, seed = 4711, sum = 0;
	pthread_t thread[THREADS];
	size_t i, page, turns = 0;

	(void)state;
	BEGIN(30);
	hmm_set_log(HMM_LOG_NONE, NULL); /* it says that it waits */
	chaos = (struct chaos){ .mem = map_aligned(PAGES * PAGE),
				.scratch = map_aligned(PAGES * PAGE) };
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, chaos_device, (void *)i), 0);
	for (; test_now() < end; turns++)
		chaos_change(&seed);
	__atomic_store_n(&chaos.stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (page = 0; page < PAGES; page++) {
		uint64_t want = 0;

		for (i = 0; i < THREADS; i++)
			want += chaos.added[i][page];
		assert_int_equal(*(volatile uint64_t *)(chaos.mem + page * PAGE), want);
		sum += want;
	}
	printf("%zu changes, %llu adds, %llu failed, %llu mapped\n", turns, (unsigned long long)sum,
	       (unsigned long long)chaos.failed, (unsigned long long)dma_stats().dma_maps);
	assert_no_errors();
	hmm_set_log(HMM_LOG_ERROR, NULL);
	munmap(chaos.mem, PAGES * PAGE);
	munmap(chaos.scratch, PAGES * PAGE);
	assert_int_equal(mapped(), 0);
}

static const struct CMUnitTest tests[] = {
	DMA_TEST(all_at_once),
};

int main(void)
{
	test_init();
	return DMA_RUN(tests);
}
