/* SPDX-License-Identifier: MIT */
/*
 * The pool of the lz4 device against a model: each object has the bytes that were
 * written to it, whatever comes and goes beside it, and the memory that it has is what
 * it says, and what the kernel says.
 *
 * Tries to break: P1 to P3 of drivers/lz4/pool.c, and what lz4dev.h says of waste.
 * The seed is printed; HMM_TEST_SEED repeats a run.
 */
#include <limits.h>
#include <stdatomic.h>

#include "lz4/lz4_util.h"
#include "mm/debug.h"

#include <lz4_pool.h>

#define OBJECTS 4000u
#define THREADS 4

struct object {
	uint64_t handle; /* 0: none */
	uint32_t size;
	uint64_t seed;
};

static struct lz4_pool *pool;
static struct lz4_account account;
static struct object object[OBJECTS];
static uint64_t seed;

static int setup(void **state)
{
	(void)state;
	memset(&account, 0, sizeof(account));
	memset(object, 0, sizeof(object));
	pool = hmm_alloc(sizeof(*pool));
	assert_non_null(pool);
	assert_int_equal(lz4_pool_init(pool, &account), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lz4_pool_fini(pool);
	hmm_free(pool);
	return 0;
}

/* ---- the invariants ---- */

static uint64_t pages_in_core(uint32_t nr)
{
	unsigned char vec[LZ4_SPAN_PAGES];
	uint64_t mask = 0;
	unsigned int i;

	assert_int_equal(mincore(lz4_span_memory(pool, nr), lz4_span_bytes(pool), vec), 0);
	for (i = 0; i < LZ4_SPAN_PAGES; i++)
		mask |= (uint64_t)(vec[i] & 1) << i;
	return mask;
}

static uint64_t pages_of(const struct lz4_class *class, unsigned int index)
{
	size_t start = (size_t)index * class->size / PAGE;
	size_t end = ((size_t)(index + 1) * class->size - 1) / PAGE;

	return 1ull << start | 1ull << end;
}

/* What the map of a span's objects says, found out again the slow way. */
static void span_check(const struct lz4_span *span, uint32_t nr)
{
	const struct lz4_class *class = &pool->class[span->class];
	unsigned int i, used = 0, live[LZ4_SPAN_PAGES] = { 0 };
	uint64_t busy = 0, pages;

	for (i = 0; i < class->objects; i++) {
		if (span->free[i / 64] >> i % 64 & 1) {
			assert_true(i / 64 >= span->first);
			continue;
		}
		used++;
		pages = pages_of(class, i);
		busy |= pages;
		for (; pages; pages &= pages - 1)
			live[__builtin_ctzll(pages)]++;
	}
	assert_int_equal(span->used, used);
	assert_true(span->busy == busy);
	assert_true(!(busy & ~span->resident));
	for (i = 0; i < LZ4_SPAN_PAGES; i++)
		assert_int_equal(span->live[i], live[i]);
	assert_int_equal(span->group, used * LZ4_GROUPS / class->objects);
	/* Less may be: the last page of an object that does not fill its class. */
	assert_true(!(pages_in_core(nr) & ~span->resident));
}

static void lists_check(void)
{
	unsigned int c, group, listed = 0, n = 0;
	uint32_t nr;

	for (c = 0; c < pool->classes; c++)
		for (group = 0; group < LZ4_GROUPS; group++)
			for (nr = pool->class[c].head[group]; nr; nr = lz4_span(pool, nr)->next) {
				assert_int_equal(lz4_span(pool, nr)->class, c);
				assert_int_equal(lz4_span(pool, nr)->group, group);
				listed++;
			}
	for (nr = pool->free; nr; nr = lz4_span(pool, nr)->next) {
		assert_int_equal(lz4_span(pool, nr)->class, LZ4_CLASS_NONE);
		listed++;
	}
	for (nr = 1; nr < pool->carved; nr++)
		n += lz4_span(pool, nr)->class == LZ4_CLASS_NONE ||
		     lz4_span(pool, nr)->group < LZ4_GROUPS;
	assert_int_equal(listed, n);
}

static void pool_check(void)
{
	uint64_t resident = 0, idle = 0, bytes = 0;
	uint32_t nr;

	for (nr = 1; nr < pool->carved; nr++) {
		struct lz4_span *span = lz4_span(pool, nr);

		resident += (unsigned int)__builtin_popcountll(span->resident);
		idle += (unsigned int)__builtin_popcountll(span->resident & ~span->busy);
		if (span->class == LZ4_CLASS_NONE)
			continue;
		span_check(span, nr);
		bytes += (pool->class[span->class].objects + 63) / 64 * 8;
	}
	for (nr = 0; pool->chunk[nr]; nr++)
		bytes += sizeof(struct lz4_chunk);
	assert_int_equal(pool->resident, resident);
	assert_int_equal(pool->idle, idle);
	assert_int_equal(account.used, bytes + resident * PAGE);
	assert_true(!account.limit || account.peak <= account.limit);
	lists_check();
}

/* ---- objects ---- */

FILL void object_fill(const struct object *o)
{
	unsigned char *to = lz4_pool_object(pool, o->handle, o->size);
	uint64_t state = o->seed;
	uint32_t i;

	assert_non_null(to);
	for (i = 0; i < o->size; i++)
		to[i] = (unsigned char)(random_next(&state) >> 32);
}

FILL void object_check(const struct object *o)
{
	const unsigned char *at = lz4_pool_object(pool, o->handle, o->size);
	uint64_t state = o->seed;
	uint32_t i;

	for (i = 0; i < o->size; i++)
		if (at[i] != (unsigned char)(random_next(&state) >> 32))
			fail_msg("object %llx, byte %u of %u", (unsigned long long)o->handle, i,
				 o->size);
}

static bool object_new(struct object *o, uint32_t size, uint64_t state)
{
	o->handle = lz4_pool_alloc(pool, size);
	o->size = size;
	o->seed = state | 1;
	assert_true(!(o->handle >> LZ4_HANDLE_BITS));
	if (o->handle)
		object_fill(o);
	return o->handle;
}

static void object_delete(struct object *o)
{
	object_check(o);
	lz4_pool_free(pool, o->handle);
	o->handle = 0;
}

static void all_delete(void)
{
	size_t i;

	for (i = 0; i < OBJECTS; i++)
		if (object[i].handle)
			object_delete(&object[i]);
}

static uint32_t any_size(uint64_t *state)
{
	switch (random_next(state) % 8) {
	case 0:
		return PAGE;
	case 1:
		return 1 + (uint32_t)(random_next(state) % 64);
	default:
		return 1 + (uint32_t)(random_next(state) % PAGE);
	}
}

/* Phases of growing and of shrinking. */
static void storm(unsigned int rounds, unsigned int *refused)
{
	unsigned int i;

	for (i = 0; i < rounds; i++) {
		struct object *o = &object[random_next(&seed) % OBJECTS];
		bool grows = i / 10000 % 2 == 0;

		if (o->handle && random_next(&seed) % 8 < (grows ? 2 : 8))
			object_delete(o);
		else if (!o->handle && random_next(&seed) % 8 < (grows ? 8 : 1))
			*refused += !object_new(o, any_size(&seed), random_next(&seed));
		if (i % 4000 == 0)
			pool_check();
	}
	pool_check();
}

/* ---- the tests ---- */

/* What lz4dev.h and pool.c say. */
static void sizes_waste_little(void **state)
{
	double rest = 0, sum = 0, bytes = 0;
	unsigned int size, c;

	(void)state;
	BEGIN(5);
	for (size = 1; size <= PAGE; size++) {
		struct lz4_class *class = &pool->class[pool->class_of[(size + 15) / 16]];

		assert_true(class->size >= size && class->size % 16 == 0);
		assert_true(class->size - size <= size / 64 + 32);
		assert_true(class->objects * class->size <= lz4_span_bytes(pool));
		if (size < 200)
			continue;
		sum += class->size - size;
		bytes += size;
	}
	for (c = 0; c < pool->classes; c++)
		rest += (double)(lz4_span_bytes(pool) -
				 (size_t)pool->class[c].objects * pool->class[c].size);
	rest /= (double)lz4_span_bytes(pool) * pool->classes;
	sum /= PAGE - 199;
	print_message("%u classes; rounded up by %.1f bytes, %.2f percent; rest %.2f percent\n",
		      pool->classes, sum, 100 * sum * (PAGE - 199) / bytes, 100 * rest);
	assert_true(sum < 16 && rest < 0.005);
}

static void objects_come_and_go(void **state)
{
	unsigned int refused = 0;

	(void)state;
	BEGIN(60);
	print_message("seed %llu\n", (unsigned long long)seed);
	storm(TEST_SANITIZED ? 60000 : 200000, &refused);
	assert_int_equal(refused, 0);
	all_delete();
	pool_check();
	assert_int_equal(pool->object_bytes, 0);
	assert_true(pool->resident <= 256 + 64); /* what is kept ready */
}

/* The limit is never passed, and what it has room for it takes. */
static void limit_is_kept(void **state)
{
	unsigned int refused = 0, i, n = 0;

	(void)state;
	BEGIN(60);
	print_message("seed %llu\n", (unsigned long long)seed);
	account.limit = MIB;
	storm(60000, &refused);
	assert_true(refused > 100);
	all_delete();
	pool_check();
	for (i = 0; i < OBJECTS && object_new(&object[i], PAGE, i); i++)
		n++;
	print_message("%u pages of %zu\n", n, MIB / PAGE);
	assert_true(n >= MIB / PAGE * 9 / 10);
	object_delete(&object[7]);
	assert_true(object_new(&object[7], PAGE, 7));
	/* At the limit, another class takes what this one gives back. */
	for (i = 0; i < n; i++)
		object_delete(&object[i]);
	for (i = 0; i < OBJECTS && object_new(&object[i], 100, i); i++)
		;
	assert_int_equal(i, OBJECTS);
	pool_check();
}

/* Nothing is left of a page when its last object has gone, whatever the span has. */
static void memory_goes_back_page_by_page(void **state)
{
	uint32_t i, kept = 0;

	(void)state;
	BEGIN(60);
	for (i = 0; i < OBJECTS; i++)
		assert_true(object_new(&object[i], 1500, i));
	assert_true(pool->resident >= OBJECTS * 1504 / PAGE);
	for (i = 0; i < OBJECTS; i++) /* one object of 100 stays: in 40 spans, all used */
		if (i % 100)
			object_delete(&object[i]);
		else
			kept++;
	lz4_pool_trim(pool, ULONG_MAX, ULONG_MAX);
	pool_check();
	assert_int_equal(pool->idle, 0);
	assert_true(pool->resident <= 2 * kept);
	all_delete();
}

static void wrong_handle(uint64_t handle)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGILL, SIG_DFL);
		signal(SIGTRAP, SIG_DFL);
		lz4_pool_free(pool, handle);
		_exit(lz4_pool_object(pool, handle, 1) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (debug_set_fail(NULL))
		assert_true(!WIFEXITED(status) || WEXITSTATUS(status) > 1);
	else
		assert_int_equal(status, 0);
}

/* In a debug build that is the end; in others nothing happens. */
static void handles_that_are_none(void **state)
{
	(void)state;
	BEGIN(30);
	assert_true(object_new(&object[0], 100, 1));
	wrong_handle(0);
	wrong_handle(0xffff);
	wrong_handle(77ull << 16);
	wrong_handle(1ull << 40 | 1ull << 16);
	wrong_handle((object[0].handle & ~0xffffull) | 0xfff0);
	object_check(&object[0]);
	pool_check();
	all_delete();
}

/* ---- threads ---- */

static void *thread_storm(void *arg)
{
	struct object *mine = arg;
	uint64_t state = addr_of(arg) | 1;
	unsigned int i;

	for (i = 0; i < (TEST_SANITIZED ? 5000 : 30000); i++) {
		struct object *o = &mine[random_next(&state) % (OBJECTS / THREADS)];

		if (o->handle)
			object_delete(o);
		else
			object_new(o, any_size(&state), random_next(&state));
	}
	return NULL;
}

static void threads_do_not_meet(uint64_t limit)
{
	pthread_t thread[THREADS];
	size_t i;

	BEGIN(60);
	account.limit = limit;
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, thread_storm,
						&object[i * (OBJECTS / THREADS)]),
				 0);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	pool_check();
	all_delete();
	pool_check();
}

static void threads_share_a_pool(void **state)
{
	(void)state;
	threads_do_not_meet(0);
}

static void threads_share_a_limit(void **state)
{
	(void)state;
	threads_do_not_meet(3 * MIB);
}

/* ---- no memory ---- */

static atomic_uint calls, fails_from;

static int no_memory(const char *what)
{
	unsigned int n;

	if (strcmp(what, "alloc") && strcmp(what, "map"))
		return 0;
	n = atomic_fetch_add(&calls, 1) + 1;
	return n >= fails_from && n < fails_from + 3 ? -ENOMEM : 0;
}

/* Each allocation of the pool's own failing, three in a row. */
static void allocations_fail(void **state)
{
	unsigned int i;

	(void)state;
	BEGIN(60);
	if (!debug_set_fail(NULL))
		skip_because("only a debug build lets allocations fail");
	for (fails_from = 1; fails_from < 40; fails_from++) {
		unsigned int refused = 0;

		calls = 0;
		debug_set_fail(no_memory);
		for (i = 0; i < 40; i++)
			refused += !object_new(&object[i], 90 * (i + 1), i);
		debug_set_fail(NULL);
		assert_int_equal(refused, fails_from > 40 ? 0 : 3);
		pool_check();
		for (i = 0; i < 40; i++)
			if (object[i].handle)
				object_delete(&object[i]);
		assert_true(pool->object_bytes == 0);
		teardown(NULL);
		setup(NULL);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(sizes_waste_little),	  T(objects_come_and_go),
		T(limit_is_kept),	  T(memory_goes_back_page_by_page),
		T(handles_that_are_none), T(threads_share_a_pool),
		T(threads_share_a_limit), T(allocations_fail),
	};
	const char *given = getenv("HMM_TEST_SEED");

	test_init();
	seed = given ? strtoull(given, NULL, 0) : test_now() | 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
