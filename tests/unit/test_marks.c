/* SPDX-License-Identifier: MIT */
/*
 * Where something is mirrored, to the page: random ranges marked, cleared and asked for, against a
 * plain array. HMM_TEST_SEED repeats a run.
 *
 * G3 rests on it: what is marked and not cleared is found, whatever else is marked. And G10: what was
 * never marked, or was cleared, is not found, as long as there are no more than 4096 chunks.
 */
#include "pt_util.h"

#include "core/core.h"

#define PAGES 2000
#define CHUNKS_MAX 4096ul /* that are told apart */

static unsigned long base;
static bool model[PAGES];

static unsigned long addr_at(size_t i)
{
	return base + i * hmm_page_size();
}

static int setup(void **state)
{
	(void)state;
	assert_true(marks_init());
	memset(model, 0, sizeof(model));
	base = 0x7f1234567000ul;
	return 0;
}

static bool modelled(size_t first, size_t end)
{
	for (; first < end; first++)
		if (model[first])
			return true;
	return false;
}

static void random_ranges(void **state)
{
	unsigned int seed = (unsigned int)test_seed, round;

	(void)state;
	for (round = 0; round < 100000; round++) {
		size_t first = (size_t)rand_r(&seed) % PAGES, n = 1 + (size_t)rand_r(&seed) % 4;

		if (rand_r(&seed) % 8 == 0)
			n = 1 + (size_t)rand_r(&seed) % 700;
		n = n < PAGES - first ? n : PAGES - first;
		switch (rand_r(&seed) % 4) {
		case 0:
			mark_set(addr_at(first), addr_at(first + n));
			memset(model + first, true, n);
			break;
		case 1:
			mark_clear(addr_at(first), addr_at(first + n));
			memset(model + first, false, n);
			break;
		default:
			if (mark_any(addr_at(first), addr_at(first + n)) !=
			    modelled(first, first + n))
				fail_msg("round %u: pages %zu to %zu: not as the model has it",
					 round, first, first + n);
		}
	}
}

/* A range need not end with a page: the rest of that belongs to it. */
static void parts_of_pages(void **state)
{
	(void)state;
	mark_set(addr_at(3), addr_at(3) + 1);
	assert_true(mark_any(addr_at(3), addr_at(4)));
	assert_true(mark_any(addr_at(2), addr_at(3) + 1));
	assert_false(mark_any(addr_at(4), addr_at(5)));
	assert_false(mark_any(addr_at(2), addr_at(3)));
	assert_false(mark_any(addr_at(3), addr_at(3)));
}

/* Two chunks of one entry: from then on all of both is marked. */
static void shared_entries(void **state)
{
	unsigned long other = base + CHUNKS_MAX * CHUNK_SIZE;

	(void)state;
	mark_set(base, base + 1);
	assert_false(mark_any(other, other + CHUNK_SIZE / 2));
	mark_set(other, other + 1);
	mark_clear(other, other + 1);
	assert_true(mark_any(base, base + 1));
	assert_true(mark_any(other, other + 1));
	assert_true(marks_init());
	assert_false(mark_any(base, base + 1));
	assert_false(mark_any(other, other + 1));
}

static void everything(void **state)
{
	(void)state;
	assert_false(mark_any(base, base + CHUNKS_MAX / 2 * CHUNK_SIZE));
	assert_true(mark_any(0, USER_END)); /* not known, so it may be */
	mark_set(0, USER_END);
	assert_true(mark_any(base, base + 1));
	mark_clear(0, USER_END);
	mark_clear(base, base + 1);
	assert_true(mark_any(base, base + 1));
}

/* In a child, until it has mirrors of its own. */
static void forgotten(void **state)
{
	(void)state;
	mark_set(base, base + 1);
	marks_forget();
	assert_false(mark_any(base, base + 1));
	mark_set(base, base + 1);
	mark_clear(base, base + 1);
	assert_true(marks_init());
	assert_false(mark_any(base, base + 1));
}

/* ---- several threads, each with pages of its own, in the same words ---- */

#define THREADS 4

static void *own_pages(void *arg)
{
	size_t mine = (size_t)(uintptr_t)arg, i;
	unsigned int seed = (unsigned int)mine + 1, round;
	bool set[PAGES] = { false };

	for (round = 0; round < 100000; round++) {
		i = (size_t)rand_r(&seed) % (PAGES / THREADS) * THREADS + mine;
		if (mark_any(addr_at(i), addr_at(i + 1)) != set[i])
			return arg;
		set[i] = rand_r(&seed) % 2;
		(set[i] ? mark_set : mark_clear)(addr_at(i), addr_at(i + 1));
	}
	return &model; /* all well */
}

static void several_threads(void **state)
{
	pthread_t thread[THREADS];
	unsigned int wrong = 0;
	uintptr_t i;
	void *ret;

	(void)state;
	for (i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, own_pages, (void *)i);
	for (i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &ret);
		wrong += ret != &model;
	}
	assert_int_equal(wrong, 0); /* a page of its own was not as it was left */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(random_ranges, setup),
		cmocka_unit_test_setup(parts_of_pages, setup),
		cmocka_unit_test_setup(shared_entries, setup),
		cmocka_unit_test_setup(everything, setup),
		cmocka_unit_test_setup(forgotten, setup),
		cmocka_unit_test_setup(several_threads, setup),
	};

	return pt_test_begin() ?: cmocka_run_group_tests(tests, NULL, NULL);
}
