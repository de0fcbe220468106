/* SPDX-License-Identifier: MIT */
/*
 * An ordinary user, a sandbox, an old kernel: what is told, and what works.
 *
 * G11: the right errno, and a reason that names the remedy. G4, G8, G9: where
 * only UFFD_USER_MODE_ONLY is to be had and the program accepts it, memory comes
 * back by a CPU's touch, a system call gets EFAULT, and fork() through libc gives
 * the child all of it.
 */
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "faults/harness.h"

#include "mm/mm.h"
#include "mm/uapi.h"

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

#define IN_CHILD(fn) ((void)state, in_child(fn, 10, __func__))

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

static void need_user_mode_only(void)
{
	struct hmm_features f;

	become_nobody();
	f = probe();
	if (f.error || f.user_mode_only)
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

static int user_forks_amid(void)
{
	struct dummy_device *dev;
	unsigned char *mem = user_device(&dev, true);
	pthread_t thread;
	unsigned int i;

	CHILD_CHECK(pthread_create(&thread, NULL, disturb, dev) == 0);
	for (i = 0; i < 150 / SLOWER; i++)
		user_fork_once(dev, mem);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

/* ---- a sandbox, or an old kernel ---- */

#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip))
#define ANSWER(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

/* userfaultfd(2) answers @error; so does a new one of /dev/userfaultfd, if @device. */
static void forbid(unsigned int error, bool device)
{
	struct sock_filter code[] = {
		LOAD(nr),
		UNLESS(SYS_userfaultfd, 1),
		ANSWER(error),
		UNLESS(SYS_ioctl, 3),
		LOAD(args[1]),
		UNLESS(USERFAULTFD_IOC_NEW, 1),
		ANSWER(device ? EACCES : ENOTTY),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (!device)
		code[5].jf = code[5].jt = 1; /* let it pass */
	CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
		limit_say("skipped: no seccomp filters here\n");
		_exit(CANNOT);
	}
}

static void refused(int error, const char *remedy)
{
	struct dummy_options opt = { .memory = MIB };
	struct hmm_features f = probe();
	struct dummy_device *dev = (void *)1;
	uint8_t where;

	CHILD_CHECK(f.error == error);
	CHILD_CHECK(!f.can_mirror && !f.can_migrate);
	CHILD_CHECK(strstr(f.reason, remedy));
	CHILD_CHECK(dummy_create(&dev, &opt) == error);
	CHILD_CHECK(dev == (void *)1); /* outputs only on success */
	CHILD_CHECK(hmm_range_where(hmm_page_size(), 2 * hmm_page_size(), &where) == error);
}

static int no_system_call(void)
{
	forbid(ENOSYS, true);
	refused(-ENOSYS, "userfaultfd");
	return 0;
}

static int forbidden(void)
{
	forbid(EPERM, true);
	refused(-EPERM, "vm.unprivileged_userfaultfd");
	return 0;
}

static int forbidden_user(void)
{
	become_nobody();
	forbid(EPERM, true);
	refused(-EPERM, "/dev/userfaultfd");
	return 0;
}

static int by_device(void)
{
	struct dummy_options opt = { .memory = MIB };
	struct dummy_device *dev;
	struct hmm_features f;

	if (access("/dev/userfaultfd", R_OK | W_OK)) {
		limit_say("skipped: /dev/userfaultfd cannot be opened\n");
		return CANNOT;
	}
	forbid(EPERM, false);
	f = probe();
	CHILD_CHECK(f.error == 0 && f.can_migrate && !f.user_mode_only);
	CHILD_CHECK(dummy_create(&dev, &opt) == 0);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static int sizes(void)
{
	struct hmm_features f = { .size = 0 };

	CHILD_CHECK(hmm_probe(&f) == -EINVAL);
	f.size = sizeof(f) + 1;
	CHILD_CHECK(hmm_probe(&f) == -EINVAL);
	f.size = offsetof(struct hmm_features, reason);
	f.reason[0] = 'x';
	CHILD_CHECK(hmm_probe(&f) == 0 && f.reason[0] == 'x');
	return 0;
}

#define TEST(name, fn)                                                                             \
	static void name(void **state)                                                             \
	{                                                                                          \
		IN_CHILD(fn);                                                                      \
	}

TEST(an_ordinary_user_is_told_what_is_missing, user_is_told)
TEST(an_ordinary_user_can_mirror, user_mirrors)
TEST(an_ordinary_user_must_accept_before_migrating, user_must_accept)
TEST(an_ordinary_user_gets_pages_back_by_touching, user_touches)
TEST(an_ordinary_users_system_calls_get_efault, user_system_call)
TEST(an_ordinary_users_child_has_all_of_its_memory, user_forks)
TEST(an_ordinary_users_child_amid_unmaps, user_forks_amid)
TEST(a_kernel_without_the_system_call, no_system_call)
TEST(a_sandbox_that_forbids_it, forbidden)
TEST(a_sandbox_that_forbids_it_to_an_ordinary_user, forbidden_user)
TEST(the_device_file_does_as_well, by_device)
TEST(the_size_says_how_much_is_written, sizes)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_ordinary_user_is_told_what_is_missing),
		cmocka_unit_test(an_ordinary_user_can_mirror),
		cmocka_unit_test(an_ordinary_user_must_accept_before_migrating),
		cmocka_unit_test(an_ordinary_user_gets_pages_back_by_touching),
		cmocka_unit_test(an_ordinary_users_system_calls_get_efault),
		cmocka_unit_test(an_ordinary_users_child_has_all_of_its_memory),
		cmocka_unit_test(an_ordinary_users_child_amid_unmaps),
		cmocka_unit_test(a_kernel_without_the_system_call),
		cmocka_unit_test(a_sandbox_that_forbids_it),
		cmocka_unit_test(a_sandbox_that_forbids_it_to_an_ordinary_user),
		cmocka_unit_test(the_device_file_does_as_well),
		cmocka_unit_test(the_size_says_how_much_is_written),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
