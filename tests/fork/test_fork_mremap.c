/* SPDX-License-Identifier: MIT */
/*
 * A child that moves, as the first thing it does, memory of which libhmm has made
 * several mappings in the parent: one was registered before its first touch, and the
 * kernel does not join it with its neighbour again.
 *
 * Tries to break: G8 (a child has its memory as if there were no libhmm).
 */
#define PAGES 600 /* parts of two chunks */
#include "migrate/away.h"

#define CHILDREN (TEST_SANITIZED ? 50 : 200)

static void child_moves(char *to)
{
	size_t i;

	if (mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		_exit(errno);
	for (i = 0; i < PAGES; i++)
		if (*(uint64_t *)(to + i * PAGE + 8) != pattern_word(1, i, 1))
			_exit(255);
	_exit(0);
}

static void a_young_child_moves_what_is_in_pieces(void **state)
{
	char *to = map_apart(BYTES);
	unsigned int i, failed = 0;
	int status, last = 0;
	pid_t pid;

	(void)state;
	BEGIN(40);
	assert_int_equal(mmap(mem, BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != mem,
			 0);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGE, NULL), 0);
	pattern_fill(mem, PAGES, 1);
	for (i = 0; i < CHILDREN; i++) {
		dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, NULL);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid)
			child_moves(to);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		failed += status != 0;
		last = status ? status : last;
	}
	if (failed)
		fail_msg("%u of %u children: the last ended with status 0x%x", failed, i, last);
	unmap_apart(to, BYTES);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
	const struct CMUnitTest tests[] = {
		T(a_young_child_moves_what_is_in_pieces),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
