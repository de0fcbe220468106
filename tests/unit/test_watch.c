/* SPDX-License-Identifier: MIT */
/*
 * What is registered: random ranges entered, removed and moved, against a plain
 * array.
 *
 * G3: the tree must never say of memory that it is registered when it is not: its
 * munmap would not be heard of. Also: ranges are disjoint, sorted, joined.
 */
#include "faults/harness.h"

#include "core/core.h"

#define PAGES 256

static struct hmm *hmm;
static unsigned char *mem;
static uint8_t model[PAGES]; /* 0 or enum uffd_mode */

static unsigned long page_at(size_t i)
{
	return (unsigned long)mem + i * hmm_page_size();
}

#define CHUNKS (WATCHED_MAX + 8ul)
static unsigned char *large; /* so many, and a part of one */

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(20, "watching");
	hmm = hmm_alloc(sizeof(*hmm));
	assert_non_null(hmm);
	pthread_mutex_init(&hmm->watch_lock, NULL);
	pthread_rwlock_init(&hmm->mm.gate, NULL);
	memset(model, 0, sizeof(model));
	mem = NULL;
	if (features_open(&hmm->mm, &f)) {
		print_message("skipped: %s\n", f.reason);
		return 0;
	}
	mem = map_bytes(PAGES * hmm_page_size());
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	watch_exit(hmm);
	assert_null(RB_ROOT(&hmm->watch));
	mm_forget(&hmm->mm);
	if (mem)
		munmap(mem, PAGES * hmm_page_size());
	if (large)
		munmap(large, (CHUNKS + 1) * CHUNK_SIZE);
	large = NULL;
	hmm_free(hmm);
	limit(0, "");
	return 0;
}

/* The tree in order, against the model; @at: everything before has been compared. */
static void compare(const struct extent *w, size_t *at, const struct extent **before)
{
	size_t i;

	if (!w)
		return;
	compare(RB_LEFT(w, node), at, before);
	assert_true(w->start < w->end);
	assert_true(!*before || (*before)->end <= w->start);
	if (*before && (*before)->end == w->start && (*before)->mode == w->mode)
		print_message("note: two ranges could be one\n");
	*before = w;
	for (i = *at; i < PAGES && page_at(i) < w->end; i++) {
		uint8_t mode = page_at(i) >= w->start ? w->mode : 0;

		if (model[i] != mode)
			fail_msg("page %zu: mode %d in the tree, %d in the model", i, mode,
				 model[i]);
	}
	*at = i;
	compare(RB_RIGHT(w, node), at, before);
}

static void check(void)
{
	const struct extent *before = NULL;
	size_t at = 0;

	compare(RB_ROOT(&hmm->watch), &at, &before);
	for (; at < PAGES; at++)
		assert_int_equal(model[at], 0);
}

static void enter(size_t first, size_t n, enum uffd_mode mode)
{
	bool covered = true;
	size_t i;

	for (i = first; i < first + n; i++)
		covered = covered && model[i] >= mode;
	assert_int_equal(watch_range(hmm, page_at(first), page_at(first + n), mode), 0);
	if (!covered)
		memset(model + first, mode, n);
}

/* Of what has moved only the weaker mode is certain. */
static void move(size_t from, size_t to, size_t n)
{
	size_t i;

	watch_remap(hmm, page_at(from), page_at(from + n), page_at(to));
	memmove(model + to, model + from, n);
	for (i = to; i < to + n; i++)
		model[i] = model[i] ? UFFD_WATCH : 0;
}

static void random_changes(void **state)
{
	unsigned int seed = (unsigned int)limit_now(), round;

	(void)state;
	if (!mem)
		skip();
	print_message("seed %u\n", seed);
	for (round = 0; round < 20000 / SLOWER; round++) {
		size_t first = (size_t)rand_r(&seed) % PAGES;
		size_t n = 1 + (size_t)rand_r(&seed) % (PAGES - first), to;

		if (rand_r(&seed) % 2 && n > 8)
			n = 1 + n % 8;
		switch (rand_r(&seed) % 5) {
		case 0:
		case 1:
			enter(first, n, rand_r(&seed) % 2 ? UFFD_CATCH : UFFD_WATCH);
			break;
		case 2:
		case 3:
			watch_remove(hmm, page_at(first), page_at(first + n));
			memset(model + first, 0, n);
			break;
		default:
			to = (size_t)rand_r(&seed) % (PAGES - n + 1);
			if (to + n <= first || first + n <= to)
				move(first, to, n);
		}
		check();
	}
}

static bool registered(size_t first, size_t end)
{
	for (; first < end; first++)
		if (!uffd_owned(&hmm->mm, page_at(first), page_at(first + 1)))
			return false;
	return true;
}

static void what_is_entered_is_registered(void **state)
{
	(void)state;
	if (!mem)
		skip();
	assert_false(registered(10, 20));
	enter(10, 10, UFFD_WATCH);
	assert_true(registered(10, 20));
	assert_false(registered(9, 20));
	enter(5, 10, UFFD_CATCH);
	assert_true(registered(5, 20));
	check();
}

/* A weaker mode never takes the place of a stronger one where it was covered. */
static void a_mode_is_only_added_to(void **state)
{
	(void)state;
	if (!mem)
		skip();
	enter(10, 10, UFFD_CATCH);
	enter(12, 4, UFFD_WATCH);
	check();
	assert_int_equal(model[13], UFFD_CATCH);
}

static void what_is_not_mapped_is_not_entered(void **state)
{
	(void)state;
	if (!mem)
		skip();
	munmap((void *)page_at(50), 10 * hmm_page_size());
	assert_true(watch_range(hmm, page_at(45), page_at(65), UFFD_WATCH) < 0);
	assert_true(watch_range(hmm, page_at(50), page_at(55), UFFD_WATCH) < 0);
	check();
	assert_true(mmap((void *)page_at(50), 10 * hmm_page_size(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

static void what_cannot_be_watched_is_einval(void **state)
{
	int fd = open("/bin/sh", O_RDONLY | O_CLOEXEC);
	unsigned long start;
	void *p;

	(void)state;
	if (!mem)
		skip();
	p = mmap(NULL, hmm_page_size(), PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(p != MAP_FAILED);
	start = (unsigned long)p;
	assert_int_equal(watch_range(hmm, start, start + hmm_page_size(), UFFD_WATCH), -EINVAL);
	check();
	munmap(p, hmm_page_size());
	close(fd);
}

/* What is known without the lock is in the tree. */
static void check_known(void)
{
	unsigned int i;

	for (i = 0; i < WATCHED_MAX; i++) {
		unsigned long known = hmm->watched[i], start = known & CHUNK_MASK;

		if (known && !extent_covers(&hmm->watch, start, start + CHUNK_SIZE,
					    (enum uffd_mode)(known & ~CHUNK_MASK)))
			fail_msg("chunk 0x%lx is known, and not registered", start);
	}
}

static void chunks_are_known_while_they_are_registered(void **state)
{
	unsigned int seed = (unsigned int)limit_now(), round;
	unsigned char *map = mem ? map_bytes((CHUNKS + 1) * CHUNK_SIZE) : NULL;
	unsigned long base = ((unsigned long)map + CHUNK_SIZE - 1) & CHUNK_MASK, known = 0;

	(void)state;
	if (!mem)
		skip();
	print_message("seed %u\n", seed);
	for (round = 0; round < 20000 / SLOWER; round++) {
		unsigned long at = base + (unsigned long)rand_r(&seed) % CHUNKS * CHUNK_SIZE;
		unsigned long part = (unsigned long)rand_r(&seed) % 512 * hmm_page_size();
		unsigned long end = at + part + ((unsigned long)rand_r(&seed) % 3 << CHUNK_SHIFT);
		unsigned long top = base + CHUNKS * CHUNK_SIZE;

		if (rand_r(&seed) % 4) {
			assert_int_equal(watch_range(hmm, at, at + CHUNK_SIZE,
						     rand_r(&seed) % 2 ? UFFD_CATCH : UFFD_WATCH),
					 0);
			known += hmm->watched[(at >> CHUNK_SHIFT) % WATCHED_MAX] != 0;
		} else if (end > top || at + part + hmm_page_size() > end) {
			watch_remove(hmm, at + part, at + part + hmm_page_size());
		} else if (rand_r(&seed) % 4) {
			watch_remove(hmm, at + part, end);
		} else if (at + CHUNK_SIZE < top) {
			watch_remap(hmm, at, at + CHUNK_SIZE, at + CHUNK_SIZE);
		}
		check_known();
	}
	assert_true(known);
	watch_remove(hmm, base, base + CHUNKS * CHUNK_SIZE);
	check_known();
	large = map; /* nobody reads of its munmap() as long as it is registered */
}

#define WATCH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WATCH_TEST(random_changes),
		WATCH_TEST(what_is_entered_is_registered),
		WATCH_TEST(a_mode_is_only_added_to),
		WATCH_TEST(what_is_not_mapped_is_not_entered),
		WATCH_TEST(what_cannot_be_watched_is_einval),
		WATCH_TEST(chunks_are_known_while_they_are_registered),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
