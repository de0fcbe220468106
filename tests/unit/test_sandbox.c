/* SPDX-License-Identifier: MIT */
/*
 * A sandbox, or an old kernel, where userfaultfd is refused.
 *
 * G11: the right errno, and a reason that names the remedy; outputs are written
 * on success only; another way to a userfaultfd is found where there is one.
 */
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "faults/harness.h"

#include "mm/mm.h"
#include "mm/uapi.h"

#define CANNOT 77

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

static void become_nobody(void)
{
	if (geteuid())
		return;
	CHILD_CHECK(setgroups(0, NULL) == 0);
	CHILD_CHECK(setgid(65534) == 0);
	CHILD_CHECK(setuid(65534) == 0);
	prctl(PR_SET_DUMPABLE, 1); /* as after exec: /proc/self is ours */
}

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

#define TEST(name, fn)                 \
	static void name(void **state) \
	{                              \
		IN_CHILD(fn);          \
	}

TEST(a_kernel_without_the_system_call, no_system_call)
TEST(a_sandbox_that_forbids_it, forbidden)
TEST(a_sandbox_that_forbids_it_to_an_ordinary_user, forbidden_user)
TEST(the_device_file_does_as_well, by_device)
TEST(the_size_says_how_much_is_written, sizes)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kernel_without_the_system_call),
		cmocka_unit_test(a_sandbox_that_forbids_it),
		cmocka_unit_test(a_sandbox_that_forbids_it_to_an_ordinary_user),
		cmocka_unit_test(the_device_file_does_as_well),
		cmocka_unit_test(the_size_says_how_much_is_written),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
