/* SPDX-License-Identifier: MIT */
/*
 * The map of free pages (core/free_map.c) against a plain array, with random operations.
 * HMM_TEST_SEED repeats a run.
 *
 * Tries to break: a page is handed out once until it is given back; a page or a run is
 * found if and only if there is one; a run is whole, aligned and free; the summary, the
 * count and next_used() say what the bits say. Sizes that are no multiple of 64 or 512
 * end where they should.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/free_map.h"

#define PAGES_MAX 5000

static uint64_t test_seed;

static uint64_t next_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

struct model {
	struct free_map map;
	bool used[PAGES_MAX];
	unsigned long free;
};

static struct model model;

static void model_make(struct model *m, unsigned long pages)
{
	memset(m, 0, sizeof(*m));
	m->free = pages;
	assert_int_equal(free_map_init(&m->map, pages), 0);
}

/* What free_map.c promises of its own state, and that it is what the array says. */
static void model_check(const struct model *m)
{
	unsigned long pages = m->map.pages, words = (pages + 63) / 64, i, free = 0;

	for (i = 0; i < words * 64; i++) {
		bool bit = m->map.bitmap[i / 64] >> i % 64 & 1;

		if (i < pages && bit == m->used[i])
			fail_msg("page %lu of %lu is %s", i, pages, bit ? "free" : "used");
		if (i >= pages && bit)
			fail_msg("page %lu, past the end at %lu, is free", i, pages);
		free += bit;
	}
	assert_int_equal(free, m->free);
	assert_int_equal(m->map.free, m->free);
	for (i = 0; i < words; i++)
		assert_int_equal(m->map.summary[i / 64] >> i % 64 & 1, m->map.bitmap[i] != 0);
	for (; i < (words + 63) / 64 * 64; i++)
		assert_int_equal(m->map.summary[i / 64] >> i % 64 & 1, 0);
}

static void model_check_used(const struct model *m, unsigned long from)
{
	unsigned long i = from;

	while (i < m->map.pages && !m->used[i])
		i++;
	assert_int_equal(free_map_next_used(&m->map, from),
			 i < m->map.pages ? i : m->map.pages);
}

static bool model_has_run(const struct model *m, unsigned long n)
{
	unsigned long i, len = 0;

	for (i = 0; i < m->map.pages; i++) {
		len = i % n ? len : 0;
		len = m->used[i] ? 0 : len + 1;
		if (len == n && i % n == n - 1)
			return true;
	}
	return false;
}

/* The first of up to @n; at least one where there is one. */
static unsigned long model_take_some(struct model *m, unsigned long n)
{
	unsigned long got = n, i = free_map_take(&m->map, &got), j;

	if (!m->free) {
		assert_int_equal(i, m->map.pages);
		return i;
	}
	assert_in_range(got, 1, n);
	assert_true(i + got <= m->map.pages);
	for (j = i; j < i + got; j++) {
		assert_false(m->used[j]);
		m->used[j] = true;
	}
	m->free -= got;
	return i;
}

static unsigned long model_take(struct model *m)
{
	return model_take_some(m, 1);
}

static unsigned long model_take_run(struct model *m, unsigned long n)
{
	bool has = model_has_run(m, n);
	unsigned long first = free_map_take_run(&m->map, n), i;

	if (!has) {
		assert_int_equal(first, m->map.pages);
		return first;
	}
	assert_true(first + n <= m->map.pages);
	assert_int_equal(first % n, 0);
	for (i = first; i < first + n; i++) {
		assert_false(m->used[i]);
		m->used[i] = true;
	}
	m->free -= n;
	return first;
}

static void model_give_run(struct model *m, unsigned long i, unsigned long n)
{
	free_map_give(&m->map, i, n);
	memset(m->used + i, false, n * sizeof(m->used[0]));
	m->free += n;
}

static void model_give(struct model *m, unsigned long i)
{
	model_give_run(m, i, 1);
}

/* Give back a stretch, so that runs come free now and then. */
static void model_give_some(struct model *m, uint64_t *seed)
{
	unsigned long i = next_random(seed) % m->map.pages, end = i + next_random(seed) % 700, n;

	end = end < m->map.pages ? end : m->map.pages;
	for (; i < end; i += n) {
		for (n = 0; i + n < end && m->used[i + n]; n++)
			;
		if (n)
			model_give_run(m, i, n);
		else
			n = 1;
	}
}

static void play(unsigned long pages, unsigned int rounds)
{
	static const unsigned long runs[] = { 1, 2, 8, 32, 64, 128, 512 };
	uint64_t seed = test_seed + pages;
	unsigned int round;

	model_make(&model, pages);
	model_check(&model);
	for (round = 0; round < rounds; round++) {
		unsigned long i;

		switch (next_random(&seed) % 8) {
		case 0:
			model_take_run(&model, runs[next_random(&seed) % 7]);
			break;
		case 1:
			model_take_run(&model, 512);
			break;
		case 2:
			model_give_some(&model, &seed);
			break;
		case 4:
			model_take_some(&model, 1 + next_random(&seed) % 100);
			break;
		case 3:
			i = next_random(&seed) % pages;
			if (model.used[i])
				model_give(&model, i);
			break;
		default:
			for (i = next_random(&seed) % 40; i; i--)
				model_take(&model);
		}
		model_check(&model);
		model_check_used(&model, next_random(&seed) % (pages + 2));
	}
	free_map_fini(&model.map);
}

static void random_operations(void **state)
{
	static const unsigned long pages[] = { 1, 2, 31, 63, 64, 65, 127, 511, 512, 513, 575, 640,
					       1000, 1024, 4095, 4096, 4097, PAGES_MAX };
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		play(pages[i], pages[i] < 1000 ? 4000 : 800);
}

static void many_small_sizes(void **state)
{
	unsigned long pages;

	(void)state;
	for (pages = 1; pages < 200; pages++)
		play(pages, 60);
}

/* All of it by runs, all of it by pages, and what is left over at the end. */
static void all_of_it(void **state)
{
	static const unsigned long runs[] = { 1, 4, 32, 64, 512 };
	unsigned long pages, i, n;

	(void)state;
	for (pages = 500; pages < 1700; pages += 61) {
		for (i = 0; i < 5; i++) {
			model_make(&model, pages);
			for (n = 0; n < pages / runs[i]; n++)
				assert_int_equal(model_take_run(&model, runs[i]), n * runs[i]);
			assert_int_equal(model_take_run(&model, runs[i]), pages);
			assert_int_equal(model.free, pages % runs[i]);
			for (n = 0; n < pages % runs[i]; n++)
				assert_true(model_take(&model) < pages);
			assert_int_equal(model_take(&model), pages);
			model_check(&model);
			free_map_fini(&model.map);
		}
	}
}

/* One page in the way of each run but one: that is the one that is found. */
static void the_only_run(void **state)
{
	unsigned long runs = 9, run, i;

	(void)state;
	for (run = 0; run < runs; run++) {
		model_make(&model, runs * 512 + 77);
		while (model.free)
			model_take(&model);
		for (i = 0; i < model.map.pages; i++)
			if (i / 512 == run || i % 512 != (i / 512 * 97) % 512)
				model_give(&model, i);
		model_check(&model);
		assert_int_equal(model_take_run(&model, 512), run * 512);
		assert_int_equal(model_take_run(&model, 512), model.map.pages);
		model_check(&model);
		free_map_fini(&model.map);
	}
}

/* Pages asked for one after the other lie side by side, behind a run as well. */
static void side_by_side(void **state)
{
	unsigned long i, first;

	(void)state;
	model_make(&model, 3000);
	for (i = 0; i < 100; i++)
		assert_int_equal(model_take(&model), i);
	first = model_take_run(&model, 512);
	assert_int_equal(first, 512);
	for (i = 0; i < 100; i++)
		assert_int_equal(model_take(&model), 1024 + i);
	for (i = 0; i < 50; i++)
		model_give(&model, i * 2);
	assert_int_equal(model_take(&model), 1124); /* not into the first gap */
	model_check(&model);
	free_map_fini(&model.map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations), cmocka_unit_test(many_small_sizes),
		cmocka_unit_test(all_of_it),	     cmocka_unit_test(the_only_run),
		cmocka_unit_test(side_by_side),
	};
	const char *seed = getenv("HMM_TEST_SEED");

	test_seed = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	printf("HMM_TEST_SEED=%llu\n", (unsigned long long)test_seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
