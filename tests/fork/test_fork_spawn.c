/* SPDX-License-Identifier: MIT */
/*
 * Children that share the memory until they exec: vfork, posix_spawn, system.
 *
 * No event is sent and no handler runs: the child works on the parent's memory,
 * pages on the device included. G4: argument strings that are on the device
 * arrive; what the child writes is the parent's. G9: nothing hangs.
 */
#include <spawn.h>

#include "faults/harness.h"

#define PAGES 600

#ifdef __SANITIZE_THREAD__
#define VFORK_IS_FORK true
#else
#define VFORK_IS_FORK false
#endif

struct fixture {
	struct dummy_device *dev;
	unsigned char *mem;
	char **argv; /* on the device, with its strings */
};

extern char **environ;

static void arguments(struct fixture *f)
{
	static const char *const text[] = { "/bin/sh", "-c", "test \"$0\" = there && exit 33",
					    "there" };
	char *p = (char *)f->mem;
	unsigned int i;

	f->argv = (char **)(void *)(p + 2 * hmm_page_size());
	for (i = 0; i < 4; i++)
		f->argv[i] = strcpy(p + (3 + 2 * i) * hmm_page_size() - 3, text[i]);
	f->argv[4] = NULL;
}

static int setup(void **state)
{
	struct dummy_options opt = { .memory = 16 * MIB };
	static struct fixture f;

	limit(10, "set-up");
	f.dev = device_new(&opt);
	f.mem = map_bytes(PAGES * hmm_page_size());
	fill_pages(f.mem, PAGES, 1);
	arguments(&f);
	migrate_all(f.dev, f.mem, PAGES);
	flush();
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	size_t i;

	for (i = 20; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(f->mem + i * hmm_page_size()), page_word(1, i, 0));
	assert_int_equal(dummy_destroy(f->dev), 0);
	munmap(f->mem, PAGES * hmm_page_size());
	limit(0, "");
	return 0;
}

static void posix_spawn_with_arguments_on_the_device(void **state)
{
	struct fixture *f = *state;
	pid_t pid;

	LIMIT(10);
	assert_int_equal(posix_spawn(&pid, "/bin/sh", NULL, NULL, f->argv, environ), 0);
	assert_int_equal(child_wait(pid), 33);
}

static void vfork_and_exec_with_arguments_on_the_device(void **state)
{
	struct fixture *f = *state;
	pid_t pid;

	LIMIT(10);
	pid = vfork();
	if (!pid) {
		execv(f->argv[0], f->argv);
		_exit(1);
	}
	assert_int_equal(child_wait(pid), 33);
}

static void a_vfork_child_writes_what_is_on_the_device(void **state)
{
	struct fixture *f = *state;
	unsigned char *p = f->mem + 15 * hmm_page_size();
	pid_t pid;

	LIMIT(10);
	if (VFORK_IS_FORK) {
		print_message("skipped: the thread sanitizer makes vfork() a fork()\n");
		skip();
	}
	pid = vfork();
	if (!pid) {
		p[1] = 77;
		_exit(p[1] != 77);
	}
	assert_int_equal(child_wait(pid), 0);
	assert_int_equal(p[1], 77);
}

static void system_with_a_command_on_the_device(void **state)
{
	struct fixture *f = *state;
	int status;

	LIMIT(10);
	status = system(strstr(f->argv[2], "exit")); /* "exit 33" */
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 33);
}

static void many_of_them(void **state)
{
	struct fixture *f = *state;
	unsigned int i;
	pid_t pid;

	LIMIT(30);
	for (i = 0; i < 40; i++) {
		migrate_all(f->dev, f->mem, PAGES);
		if (i % 2)
			assert_int_equal(
				posix_spawn(&pid, "/bin/true", NULL, NULL, f->argv, environ), 0);
		else if (!(pid = vfork()))
			_exit(0);
		assert_int_equal(child_wait(pid), 0);
	}
}

#define SPAWN_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPAWN_TEST(posix_spawn_with_arguments_on_the_device),
		SPAWN_TEST(vfork_and_exec_with_arguments_on_the_device),
		SPAWN_TEST(a_vfork_child_writes_what_is_on_the_device),
		SPAWN_TEST(system_with_a_command_on_the_device),
		SPAWN_TEST(many_of_them),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
