/* SPDX-License-Identifier: MIT */
/*
 * An ordinary user: what is told, and what works.
 *
 * G11: a reason that names the remedy. G4, G8, G9: where only UFFD_USER_MODE_ONLY
 * is to be had and the program accepts it, memory comes back by a CPU's touch, a
 * system call gets EFAULT, and fork() through libc gives the child all of it.
 */
#include <grp.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "faults/harness.h"

#include "mm/mm.h"

#define PAGES 700
#define CANNOT 77

static unsigned long bytes(size_t pages)
{
	return pages * hmm_page_size();
}

/* Each case in a process of its own: what it gives up is gone for good. */
static void in_child(int (*fn)(void), unsigned int seconds, const char *what)
{
	int status;
	pid_t pid;

	limit(seconds, what);
	flush();
	pid = fork();
	if (!pid) {
		child_begin();
		hmm_set_log(HMM_LOG_NONE, NULL);
		_exit(fn());
	}
	status = child_wait(pid);
	limit(0, "");
	if (status == CANNOT)
		skip();
	assert_int_equal(status, 0);
}

#define IN_CHILD(fn) ((void)state, in_child(fn, 20, __func__))

static struct hmm_features probe(void)
{
	struct hmm_features f = { .size = sizeof(f) };

	CHILD_CHECK(hmm_probe(&f) == 0);
	return f;
}

/* ---- an ordinary user ---- */

static void become_nobody(void)
{
	if (geteuid())
		return;
	CHILD_CHECK(setgroups(0, NULL) == 0);
	CHILD_CHECK(setgid(65534) == 0);
	CHILD_CHECK(setuid(65534) == 0);
	prctl(PR_SET_DUMPABLE, 1); /* as after exec: /proc/self is ours */
}

/* Asked of the system, not of the library. */
static bool all_may_use_it(void)
{
	int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY);
	char c = '0';

	if (fd >= 0 && read(fd, &c, 1) == 1 && c == '1')
		return true;
	return !access("/dev/userfaultfd", R_OK | W_OK);
}

static void need_user_mode_only(void)
{
	become_nobody();
	if (!all_may_use_it())
		return;
	limit_say("skipped: here an ordinary user may use all of userfaultfd\n");
	_exit(CANNOT);
}

static unsigned char *user_device(struct dummy_device **dev, bool accept)
{
	struct dummy_options opt = { .memory = 16 * MIB, .scrub = true };
	unsigned char *mem;

	need_user_mode_only();
	CHILD_CHECK(dummy_create(dev, &opt) == 0);
	mem = map_bytes(bytes(PAGES));
	fill_pages(mem, PAGES, 1);
	hmm_set_user_mode(accept);
	return mem;
}

static unsigned long user_migrate(struct dummy_device *dev, const unsigned char *mem)
{
	unsigned long n = 0, start = (unsigned long)mem;

	CHILD_CHECK(dummy_migrate(dev, start, start + bytes(PAGES), &n) == 0);
	CHILD_CHECK(n == PAGES);
	return n;
}

static int user_is_told(void)
{
	struct hmm_features f;

	need_user_mode_only();
	f = probe();
	CHILD_CHECK(f.error == 0 && f.can_mirror && f.can_migrate && f.user_mode_only);
	CHILD_CHECK(!f.fork_event);
	CHILD_CHECK(strstr(f.reason, "vm.unprivileged_userfaultfd"));
	CHILD_CHECK(strstr(f.reason, "hmm_set_user_mode"));
	return 0;
}

static int user_mirrors(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, false);
	unsigned char *holes = map_bytes(bytes(8));
	uint64_t val = 0;

	CHILD_CHECK(dummy_load_u64(dev, (unsigned long)mem, &val) == 0);
	CHILD_CHECK(val == page_word(1, 0, 0));
	CHILD_CHECK(dummy_store_u64(dev, (unsigned long)mem, 7) == 0);
	CHILD_CHECK(*(uint64_t *)mem == 7);
	CHILD_CHECK(dummy_load_u64(dev, (unsigned long)holes, &val) == 0 && val == 0);
	CHILD_CHECK(dummy_store_u64(dev, (unsigned long)holes + bytes(3), 9) == 0);
	CHILD_CHECK(*(uint64_t *)(holes + bytes(3)) == 9);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static int user_must_accept(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, false);
	unsigned long start = (unsigned long)mem;

	CHILD_CHECK(dummy_migrate(dev, start, start + bytes(PAGES), NULL) == -EPERM);
	CHILD_CHECK(dummy_memory_free(dev) == dummy_memory_pages(dev));
	hmm_set_user_mode(true);
	user_migrate(dev, mem);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
	return 0;
}

static int user_touches(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, true);
	unsigned char *late = map_bytes(bytes(16));
	uint64_t val;

	user_migrate(dev, mem);
	CHILD_CHECK(dummy_store_u64(dev, (unsigned long)mem + bytes(9), 99) == 0);
	CHILD_CHECK(*(uint64_t *)(mem + bytes(9)) == 99);
	*(uint64_t *)(mem + bytes(9)) = page_word(1, 9, 0);
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
	CHILD_CHECK(memory_comes_free(dev, 2));
	/* A device's first touch in a chunk that faults are caught for. */
	late[0] = 1;
	CHILD_CHECK(dummy_migrate(dev, (unsigned long)late, (unsigned long)late + 1, NULL) == 0);
	CHILD_CHECK(dummy_load_u64(dev, (unsigned long)late + bytes(3), &val) == 0 && !val);
	CHILD_CHECK(dummy_store_u64(dev, (unsigned long)late + bytes(5), 5) == 0);
	CHILD_CHECK(late[bytes(5)] == 5 && late[0] == 1);
	user_migrate(dev, mem);
	munmap(mem, bytes(PAGES));
	munmap(late, bytes(16));
	CHILD_CHECK(memory_comes_free(dev, 2));
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static int user_system_call(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, true);
	int fd = open("/dev/zero", O_RDONLY), out = open("/dev/null", O_WRONLY);
	int pair[2];

	(void)out;
	CHILD_CHECK(pipe(pair) == 0);
	user_migrate(dev, mem);
	CHILD_CHECK(read(fd, mem, 8) == -1 && errno == EFAULT);
	CHILD_CHECK(write(pair[1], mem, 8) == -1 && errno == EFAULT);
	CHILD_CHECK(*(volatile uint64_t *)mem == page_word(1, 0, 0)); /* comes back */
	CHILD_CHECK(write(pair[1], mem, 8) == 8);
	CHILD_CHECK(read(fd, mem, 8) == 8);
	CHILD_CHECK(*(volatile uint64_t *)mem == 0);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static void user_fork_once(struct dummy_device *dev, const unsigned char *mem)
{
	pid_t pid;

	user_migrate(dev, mem);
	pid = fork();
	CHILD_CHECK(pid >= 0);
	if (!pid)
		_exit(check_pages(mem, PAGES, 1) != PAGES);
	CHILD_CHECK(child_wait(pid) == 0);
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
}

static int user_forks(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, true);
	unsigned int i;

	for (i = 0; i < 20; i++)
		user_fork_once(dev, mem);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static atomic_bool stop;

/* Unmaps and moves migrated pages that lie among those of the forking thread. */
static void *disturb(void *arg)
{
	struct dummy_device *dev = arg;
	unsigned char *side = map_bytes(bytes(4));

	while (!atomic_load(&stop)) {
		unsigned char *p = mmap(NULL, bytes(4), PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		*p = 1;
		dummy_migrate(dev, (unsigned long)p, (unsigned long)p + bytes(4), NULL);
		mremap(p, bytes(4), bytes(4), MREMAP_MAYMOVE | MREMAP_FIXED, side);
		munmap(side, bytes(4));
	}
	return NULL;
}

/* Sends back to the device what fork has just brought home: not before it is done. */
static unsigned char *again_mem;

static void *migrate_again(void *arg)
{
	struct dummy_device *dev = arg;
	unsigned long start = (unsigned long)again_mem;

	while (!atomic_load(&stop))
		dummy_migrate(dev, start, start + bytes(PAGES), NULL);
	return NULL;
}

static int user_forks_amid(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, true);
	pthread_t thread[2];
	unsigned int i;

	again_mem = mem;
	CHILD_CHECK(pthread_create(&thread[0], NULL, disturb, dev) == 0);
	CHILD_CHECK(pthread_create(&thread[1], NULL, migrate_again, dev) == 0);
	for (i = 0; i < 40 / SLOWER; i++) {
		pid_t pid = fork();

		CHILD_CHECK(pid >= 0);
		if (!pid)
			_exit(check_pages(mem, PAGES, 1) != PAGES);
		CHILD_CHECK(child_wait(pid) == 0);
	}
	atomic_store(&stop, true);
	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

#define TEST(name, fn)                 \
	static void name(void **state) \
	{                              \
		IN_CHILD(fn);          \
	}

TEST(an_ordinary_user_is_told_what_is_missing, user_is_told)
TEST(an_ordinary_user_can_mirror, user_mirrors)
TEST(an_ordinary_user_must_accept_before_migrating, user_must_accept)
TEST(an_ordinary_user_gets_pages_back_by_touching, user_touches)
TEST(an_ordinary_users_system_calls_get_efault, user_system_call)
TEST(an_ordinary_users_child_has_all_of_its_memory, user_forks)
TEST(an_ordinary_users_child_amid_migrations, user_forks_amid)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_ordinary_user_is_told_what_is_missing),
		cmocka_unit_test(an_ordinary_user_can_mirror),
		cmocka_unit_test(an_ordinary_user_must_accept_before_migrating),
		cmocka_unit_test(an_ordinary_user_gets_pages_back_by_touching),
		cmocka_unit_test(an_ordinary_users_system_calls_get_efault),
		cmocka_unit_test(an_ordinary_users_child_has_all_of_its_memory),
		cmocka_unit_test(an_ordinary_users_child_amid_migrations),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
