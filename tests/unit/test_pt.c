/* SPDX-License-Identifier: MIT */
/*
 * The HMM page table against a plain array: random operations with several
 * iterators about. HMM_TEST_SEED repeats a run.
 */
#include "pt_util.h"

/* --- one thread ----------------------------------------------------------- */

static void test_init(void **state)
{
	static const unsigned long lasts[] = { 0,	  4095,		 4096,	    1ul << 21,
					       USER_LAST, USER_LAST + 1, ~0ul >> 8, ~0ul };
	struct hmm_pt pt;
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(lasts) / sizeof(lasts[0]); i++) {
		unsigned long top = lasts[i] & ~(hmm_page_size() - 1), empty;
		struct hmm_pt_iter iter;

		assert_int_equal(hmm_pt_init(&pt, lasts[i]), 0);
		empty = pt_bytes(&pt);
		assert_true(empty < 4096);
		set_one(&pt, top, 1);
		assert_int_equal(get_one(&pt, top), 1);
		assert_int_equal(pt_count(&pt), 1);
		hmm_pt_iter_init(&iter, &pt);
		if (lasts[i] != ~0ul)
			assert_null(hmm_pt_iter_populate(&iter, lasts[i] + 1));
		if (lasts[i] != ~0ul)
			assert_null(hmm_pt_iter_lookup(&iter, lasts[i] + 1));
		hmm_pt_iter_fini(&iter);
		assert_int_equal(pt_verify(&pt), 0);
		set_one(&pt, top, 0);
		assert_int_equal(pt_leaves(&pt), 0);
		set_one(&pt, top, 7); /* fini frees what is there */
		hmm_pt_fini(&pt);
		assert_null(pt.root);
	}
	hmm_pt_fini(&pt); /* twice does no harm */
}

static void test_leaves_at_once(void **state)
{
	unsigned long a = 0x7f1234567000, b = a + 2 * LEAF, c = 0x1000;
	struct hmm_pt_iter iter, other;
	hmm_pte_t *ptep;
	struct hmm_pt pt;

	(void)state;
	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);

	/* Made, but nothing put in: gone with the iterator. */
	hmm_pt_iter_init(&iter, &pt);
	assert_non_null(hmm_pt_iter_populate(&iter, a));
	assert_int_equal(pt_leaves(&pt), 1);
	assert_int_equal(pt_iterators(&pt), 1);
	assert_int_equal(pt_verify(&pt), 0);

	/* Gone already when it turns to another, what they share stays. */
	assert_non_null(hmm_pt_iter_populate(&iter, b));
	assert_int_equal(pt_leaves(&pt), 1);
	ptep = hmm_pt_iter_populate(&iter, c);
	assert_int_equal(pt_leaves(&pt), 1);
	assert_int_equal(hmm_pt_iter_set(&iter, ptep, 5), 0);
	assert_int_equal(hmm_pt_iter_set(&iter, ptep, 6), 5);
	assert_int_equal(pt_count(&pt), 1);

	/* An emptied one stays for as long as somebody else is in it. */
	hmm_pt_iter_init(&other, &pt);
	assert_ptr_equal(hmm_pt_iter_lookup(&other, c), ptep);
	assert_int_equal(pt_iterators(&pt), 2);
	assert_int_equal(hmm_pt_iter_set(&iter, ptep, 0), 6);
	hmm_pt_iter_fini(&iter);
	assert_int_equal(pt_leaves(&pt), 1);
	assert_int_equal(hmm_pt_iter_set(&other, ptep, 9), 0);
	hmm_pt_iter_fini(&other);
	assert_int_equal(pt_leaves(&pt), 1);
	assert_int_equal(pt_iterators(&pt), 0);
	assert_int_equal(get_one(&pt, c), 9);
	set_one(&pt, c, 0);
	assert_int_equal(pt_leaves(&pt), 0);
	assert_int_equal(pt_verify(&pt), 0);
	hmm_pt_fini(&pt);
}

static void expect_walk(struct hmm_pt *pt, unsigned long start, unsigned long end,
			unsigned long addr_out, unsigned long next_out, hmm_pte_t first)
{
	unsigned long addr = start, next = end;
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;

	hmm_pt_iter_init(&iter, pt);
	ptep = hmm_pt_iter_walk(&iter, &addr, &next);
	assert_int_equal(addr, addr_out);
	assert_int_equal(next, next_out);
	if (addr_out == end)
		assert_null(ptep);
	else
		assert_int_equal(*ptep, first);
	hmm_pt_iter_fini(&iter);
}

static void test_walk(void **state)
{
	unsigned long page = hmm_page_size(), a = 5 * LEAF + 7 * page, b = 1ul << 45, i;
	struct timespec t0, t1;
	struct hmm_pt pt;

	(void)state;
	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);
	expect_walk(&pt, 0, USER_LAST + 1, USER_LAST + 1, USER_LAST + 1, 0);
	set_one(&pt, a, 1);
	set_one(&pt, b, 2);

	expect_walk(&pt, 0, USER_LAST + 1, 5 * LEAF, 6 * LEAF, 0);
	expect_walk(&pt, a, a + page, a, a + page, 1);
	expect_walk(&pt, a, USER_LAST + 1, a, 6 * LEAF, 1);
	expect_walk(&pt, a, a, a, a, 0);
	expect_walk(&pt, a + page, a, a, a, 0);
	expect_walk(&pt, 0, 5 * LEAF, 5 * LEAF, 5 * LEAF, 0);
	expect_walk(&pt, 0, 5 * LEAF + page, 5 * LEAF, 5 * LEAF + page, 0);
	expect_walk(&pt, 6 * LEAF, b, b, b, 0);
	expect_walk(&pt, 6 * LEAF, b + page, b, b + page, 2);
	expect_walk(&pt, 6 * LEAF, ~0ul, b, b + LEAF, 2);
	expect_walk(&pt, b + LEAF, USER_LAST + 1, USER_LAST + 1, USER_LAST + 1, 0);
	expect_walk(&pt, USER_LAST + 1, ~0ul, ~0ul, ~0ul, 0);
	expect_walk(&pt, b + LEAF, 0, 0, 0, 0);
	assert_true(pt_range_empty(&pt, 0, a));
	assert_false(pt_range_empty(&pt, 0, a + page));
	assert_true(pt_range_empty(&pt, a + page, b));
	assert_false(pt_range_empty(&pt, a + page, b + page));
	assert_true(pt_range_empty(&pt, b + page, USER_LAST + 1));

	/* Nothing in between costs anything: 32 TiB, a thousand times. */
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (i = 0; i < 1000; i++)
		expect_walk(&pt, 6 * LEAF, USER_LAST + 1, b, b + LEAF, 2);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_true(t1.tv_sec - t0.tv_sec < 2);
	hmm_pt_fini(&pt);
}

/* A driver that says "dirty" of an empty entry does not upset the count. */
static void test_stray_dirty(void **state)
{
	struct hmm_pt_iter iter;
	struct hmm_pt pt;
	hmm_pte_t *ptep;

	(void)state;
	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);
	hmm_pt_iter_init(&iter, &pt);
	ptep = hmm_pt_iter_populate(&iter, LEAF);
	hmm_pte_set_dirty(ptep);
	hmm_pte_set_dirty(ptep + 1);
	hmm_pte_set_dirty(ptep + 2);
	assert_int_equal(hmm_pt_iter_set(&iter, ptep, 0), HMM_PTE_DIRTY);
	hmm_pt_iter_set(&iter, ptep + 1, HMM_PTE_VALID);
	assert_int_equal(pt_count(&pt), 1);
	assert_int_equal(pt_verify(&pt), 0);
	assert_true(pt_range_empty(&pt, 0, LEAF + hmm_page_size()));
	hmm_pt_iter_set(&iter, ptep + 1, 0);
	hmm_pt_iter_fini(&iter);
	assert_int_equal(pt_leaves(&pt), 0);
	hmm_pt_fini(&pt);
}

static void test_end_of_space(void **state)
{
	unsigned long page = hmm_page_size(), top = 0 - page;
	struct hmm_pt pt;

	(void)state;
	assert_int_equal(hmm_pt_init(&pt, ~0ul), 0);
	assert_true(pt_range_empty(&pt, 0, 0));
	set_one(&pt, top, 3);
	set_one(&pt, 1ul << 63, 5);
	expect_walk(&pt, top, ~0ul, top, ~0ul, 3);
	expect_walk(&pt, 0, ~0ul, 1ul << 63, (1ul << 63) + LEAF, 5);

	/* An end of 0 is the end of the address space. */
	{
		unsigned long addr = top, next = 0;
		struct hmm_pt_iter iter;
		hmm_pte_t *ptep;

		hmm_pt_iter_init(&iter, &pt);
		ptep = hmm_pt_iter_walk(&iter, &addr, &next);
		assert_non_null(ptep);
		assert_int_equal(*ptep, 3);
		assert_int_equal(addr, top);
		assert_int_equal(next, 0);
		addr = (1ul << 63) + LEAF;
		ptep = hmm_pt_iter_walk(&iter, &addr, &next);
		assert_non_null(ptep);
		assert_int_equal(addr, 0 - LEAF);
		assert_int_equal(next, 0);
		hmm_pt_iter_fini(&iter);
	}
	assert_false(pt_range_empty(&pt, 0, 0));
	assert_false(pt_range_empty(&pt, top, 0));
	{
		unsigned long start = (1ul << 63) + page, end = 0;

		assert_true(pt_next(&pt, &start, &end));
		assert_true(start == 0 - LEAF && !end);
		start = top;
		assert_true(pt_next(&pt, &start, &end));
		assert_true(start == top && !end);
	}
	set_one(&pt, top, 0);
	assert_true(pt_range_empty(&pt, (1ul << 63) + page, 0));
	assert_int_equal(pt_verify(&pt), 0);
	hmm_pt_fini(&pt);
}

static void test_dense_memory(void **state)
{
	enum { DIRS = 1024 };
	unsigned long start = 0x7f0000000000, addr, arena, limit, bytes;
	hmm_pte_t pte[HMM_PT_DIR_ENTRIES];
	struct hmm_pt_iter iter;
	struct hmm_pt pt;
	unsigned int i;

	(void)state;
	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);
	arena = arena_bytes();
	for (i = 0; i < HMM_PT_DIR_ENTRIES; i++)
		pte[i] = (i + 1) * 4096 | HMM_PTE_VALID;
	hmm_pt_iter_init(&iter, &pt);
	for (i = 0; i < DIRS; i++) {
		hmm_pte_t *ptep = hmm_pt_iter_populate(&iter, start + i * LEAF);

		assert_non_null(ptep);
		pt_iter_fill(&iter, ptep, pte, HMM_PT_DIR_ENTRIES);
	}
	hmm_pt_iter_fini(&iter);
	bytes = DIRS * HMM_PT_DIR_ENTRIES * 8ul;
	limit = bytes * 105 / 100;
	assert_in_range(pt_bytes(&pt), bytes, limit);
	assert_in_range(arena_bytes() - arena, bytes - (256ul << 10), limit);
	assert_int_equal(pt_count(&pt), DIRS * HMM_PT_DIR_ENTRIES);
	assert_int_equal(pt_verify(&pt), 0);

	hmm_pt_iter_init(&iter, &pt);
	for (addr = start; addr < start + DIRS * LEAF;) {
		unsigned long next = USER_LAST + 1;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		assert_non_null(ptep);
		assert_int_equal(next - addr, LEAF);
		for (i = 0; i < HMM_PT_DIR_ENTRIES; i++)
			assert_true(ptep[i] == pte[i]);
		pt_iter_fill(&iter, ptep, NULL, HMM_PT_DIR_ENTRIES);
		addr = next;
	}
	hmm_pt_iter_fini(&iter);
	assert_int_equal(pt_leaves(&pt), 0);
	assert_true(arena_bytes() <= arena + (768ul << 10)); /* what is above the leaves; a spare */
	hmm_pt_fini(&pt);
}

/* --- against a plain array ------------------------------------------------ */

#define WINDOW_PAGES 1600
#define ITERS 3

/* Around every kind of border between directories. */
static const unsigned long window_start[] = {
	0,
	(1ul << 30) - 800 * 4096ul,
	(1ul << 39) - 3 * 4096ul,
	(3ul << 39) - 1599 * 4096ul,
	0x7f0123456000,
	(1ul << 47) - WINDOW_PAGES * 4096ul,
};

#define WINDOWS (sizeof(window_start) / sizeof(window_start[0]))

struct model {
	hmm_pte_t pte[WINDOWS][WINDOW_PAGES];
	unsigned long count;
};

static hmm_pte_t *model_find(struct model *m, unsigned long addr)
{
	unsigned int w;

	for (w = 0; w < WINDOWS; w++)
		if (addr >= window_start[w] && addr < window_start[w] + WINDOW_PAGES * 4096ul)
			return &m->pte[w][(addr - window_start[w]) / 4096];
	return NULL;
}

static void model_set(struct model *m, unsigned long addr, hmm_pte_t pte, hmm_pte_t old)
{
	hmm_pte_t *p = model_find(m, addr);

	assert_true(p && *p == old);
	m->count += !!pte;
	m->count -= !!old;
	*p = pte;
}

/* The first entry in use in [start, end), or @end. */
static unsigned long model_next(struct model *m, unsigned long start, unsigned long end)
{
	unsigned int w, i;

	for (w = 0; w < WINDOWS; w++)
		for (i = 0; i < WINDOW_PAGES; i++) {
			unsigned long addr = window_start[w] + i * 4096ul;

			if (m->pte[w][i] && addr >= start && addr < end)
				return addr;
		}
	return end;
}

static unsigned long random_addr(uint64_t *seed)
{
	return window_start[next_random(seed) % WINDOWS] +
	       next_random(seed) % WINDOW_PAGES * 4096ul;
}

static void random_set(struct hmm_pt_iter *iter, struct model *m, uint64_t *seed)
{
	unsigned long addr = random_addr(seed), n = 1 + next_random(seed) % 40;
	hmm_pte_t value = next_random(seed) % 3 ? next_random(seed) | 1 : 0, old;
	hmm_pte_t *ptep;

	if (next_random(seed) % 8 == 0)
		n = WINDOW_PAGES; /* often all of what is left of the window */
	for (; n && model_find(m, addr); n--, addr += 4096) {
		ptep = hmm_pt_iter_populate(iter, addr);
		assert_non_null(ptep);
		old = hmm_pt_iter_set(iter, ptep, value);
		model_set(m, addr, value, old);
	}
}

static void random_fill(struct hmm_pt_iter *iter, struct model *m, uint64_t *seed)
{
	unsigned long addr = random_addr(seed), left, i, n = 1 + next_random(seed) % 512;
	hmm_pte_t pte[512], *ptep, *p;

	left = 512 - (addr >> 12) % 512;
	if (n > left)
		n = left;
	while (!model_find(m, addr + (n - 1) * 4096))
		n--;
	ptep = hmm_pt_iter_populate(iter, addr);
	assert_non_null(ptep);
	for (i = 0; i < n; i++) {
		pte[i] = next_random(seed) % 2 ? next_random(seed) : 0;
		p = model_find(m, addr + i * 4096);
		model_set(m, addr + i * 4096, pte[i], *p);
	}
	pt_iter_fill(iter, ptep, pte, (unsigned int)n);
}

/* A few entries, within a directory or across, or many. */
static void random_clear(struct hmm_pt *pt, struct model *m, uint64_t *seed)
{
	unsigned long start = random_addr(seed), addr;
	unsigned long pages = next_random(seed) % (next_random(seed) % 2 ? 20 : 2000);
	unsigned long end = start + pages * 4096;

	if (end > USER_LAST + 1)
		end = USER_LAST + 1;
	pt_clear(pt, start, end);
	for (addr = model_next(m, start, end); addr < end; addr = model_next(m, addr, end))
		model_set(m, addr, 0, *model_find(m, addr));
	assert_true(start == end || pt_range_empty(pt, start, end));
}

static void random_lookup(struct hmm_pt_iter *iter, struct model *m, uint64_t *seed)
{
	unsigned long addr = random_addr(seed);
	hmm_pte_t *ptep = hmm_pt_iter_lookup(iter, addr);

	assert_true((ptep ? *ptep : 0) == *model_find(m, addr));
}

/*
 * Walk a random range, at times a huge one: all that is skipped must be empty in
 * the model, all that is returned the same as there.
 */
static void random_walk(struct hmm_pt_iter *iter, struct hmm_pt *pt, struct model *m,
			uint64_t *seed, bool clear)
{
	unsigned long start = random_addr(seed), end = random_addr(seed), addr, from, next;
	bool empty = true;
	hmm_pte_t *ptep, *p;

	if (next_random(seed) % 2)
		end = start + next_random(seed) % 2000 * 4096;
	if (end > USER_LAST + 1)
		end = USER_LAST + 1;
	if (!end) /* would be the end of the address space */
		end = 4096;
	for (addr = start; addr < end; addr = next) {
		from = addr;
		next = end;
		ptep = hmm_pt_iter_walk(iter, &addr, &next);
		assert_true(addr >= from && next <= end && addr <= next);
		assert_int_equal(model_next(m, from, addr), addr);
		if (!ptep) {
			assert_true(addr == end && next == end);
			break;
		}
		assert_true(addr < next && next - addr <= LEAF);
		assert_true(addr / LEAF == (next - 1) / LEAF);
		assert_true(addr == from || addr % LEAF == 0);
		assert_true(next == end || next % LEAF == 0);
		for (; addr < next; addr += 4096, ptep++) {
			p = model_find(m, addr);
			assert_true(*ptep == (p ? *p : 0));
			empty &= !*ptep;
			if (clear && *ptep)
				model_set(m, addr, 0, hmm_pt_iter_set(iter, ptep, 0));
		}
	}
	assert_true(pt_range_empty(pt, start, end) == (empty || clear || start >= end));
}

/* The directory of the first entry in use, or the part of it in the range. */
static void random_next(struct hmm_pt *pt, struct model *m, uint64_t *seed)
{
	unsigned long start = random_addr(seed), end = random_addr(seed), first, s, e;

	if (next_random(seed) % 2)
		end = start + next_random(seed) % 2000 * 4096;
	if (!end) /* would be the end of the address space */
		end = 4096;
	first = model_next(m, start, end);
	s = start;
	e = end;
	if (start >= end || first == end) {
		assert_false(pt_next(pt, &s, &e));
		assert_true(s == start && e == end);
		return;
	}
	assert_true(pt_next(pt, &s, &e));
	assert_true(s >= start && s <= first && first < e && e <= end);
	assert_true(s / LEAF == first / LEAF && (e - 1) / LEAF == first / LEAF);
	assert_true(s == start || s % LEAF == 0);
	assert_true(e == end || e % LEAF == 0);
}

static void random_step(struct hmm_pt *pt, struct hmm_pt_iter *iter, struct model *m,
			uint64_t *seed)
{
	switch (next_random(seed) % 10) {
	case 0:
	case 1:
		random_set(iter, m, seed);
		break;
	case 2:
		random_fill(iter, m, seed);
		break;
	case 3:
	case 4:
		random_lookup(iter, m, seed);
		break;
	case 5:
		random_walk(iter, pt, m, seed, false);
		break;
	case 6:
		random_walk(iter, pt, m, seed, true);
		break;
	case 7:
		random_next(pt, m, seed);
		break;
	case 8:
		random_clear(pt, m, seed);
		break;
	default:
		hmm_pt_iter_fini(iter);
		hmm_pt_iter_init(iter, pt);
	}
}

static void test_random(void **state)
{
	static struct model m;
	struct hmm_pt_iter iter[ITERS];
	uint64_t seed = test_seed;
	unsigned long i, j;
	struct hmm_pt pt;

	(void)state;
	memset(&m, 0, sizeof(m));
	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);
	for (i = 0; i < ITERS; i++)
		hmm_pt_iter_init(&iter[i], &pt);
	for (i = 0; i < 400; i++) {
		for (j = 0; j < 10; j++)
			random_step(&pt, &iter[next_random(&seed) % ITERS], &m, &seed);
		assert_int_equal(pt_count(&pt), m.count);
		assert_int_equal(pt_verify(&pt), 0);
		assert_true(pt_iterators(&pt) <= ITERS);
	}
	for (i = 0; i < ITERS; i++)
		hmm_pt_iter_fini(&iter[i]);
	assert_int_equal(pt_iterators(&pt), 0);
	assert_int_equal(pt_verify(&pt), 0);

	for (i = 0; i < WINDOWS; i++)
		for (j = 0; j < WINDOW_PAGES; j++) {
			unsigned long addr = window_start[i] + j * 4096ul;

			assert_true(get_one(&pt, addr) == m.pte[i][j]);
			if (m.pte[i][j])
				set_one(&pt, addr, 0);
		}
	assert_int_equal(pt_count(&pt), 0);
	assert_int_equal(pt_leaves(&pt), 0);
	hmm_pt_fini(&pt);
}

/* --- out of memory -------------------------------------------------------- */

static int starved_child(void)
{
	struct rlimit limit = { .rlim_cur = 1ul << 20, .rlim_max = 1ul << 20 };
	struct hmm_pt_iter iter;
	unsigned long i, n;
	struct hmm_pt pt;
	hmm_pte_t *ptep;

	if (hmm_pt_init(&pt, USER_LAST))
		return 1;
	if (setrlimit(RLIMIT_DATA, &limit))
		return 2;
	/* Far apart, so that memory also runs out between the levels. */
	hmm_pt_iter_init(&iter, &pt);
	for (n = 0; n < 100000; n++) {
		ptep = hmm_pt_iter_populate(&iter, n << 30);
		if (!ptep)
			break;
		hmm_pt_iter_set(&iter, ptep, n << 12 | HMM_PTE_VALID);
	}
	if (n == 0 || n == 100000 || pt_count(&pt) != n || pt_verify(&pt))
		return 3;
	hmm_pt_iter_fini(&iter);
	if (pt_verify(&pt) || pt_iterators(&pt))
		return 4;
	for (i = 0; i < n; i++) {
		ptep = hmm_pt_iter_lookup(&iter, i << 30);
		if (!ptep || hmm_pt_iter_set(&iter, ptep, 0) != (i << 12 | HMM_PTE_VALID))
			return 5;
	}
	hmm_pt_iter_fini(&iter);
	return pt_leaves(&pt) == 0 ? 0 : 6;
}

static void test_no_memory(void **state)
{
	int status;
	pid_t pid;

	(void)state;
#if defined(HMM_ASAN) || defined(HMM_TSAN)
	skip(); /* the sanitizer would starve too */
#endif
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(starved_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_init),	     cmocka_unit_test(test_leaves_at_once),
		cmocka_unit_test(test_walk),	     cmocka_unit_test(test_stray_dirty),
		cmocka_unit_test(test_end_of_space), cmocka_unit_test(test_dense_memory),
		cmocka_unit_test(test_random),	     cmocka_unit_test(test_no_memory),
	};
	int ret = pt_test_begin();

	return ret ? ret : cmocka_run_group_tests(tests, NULL, NULL);
}
