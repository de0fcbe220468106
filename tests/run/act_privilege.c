/* SPDX-License-Identifier: MIT */
/* Programs that close what they do not know, want little, or give privileges away. */
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "act.h"

static void nobody(void)
{
	must(!setgroups(0, NULL));
	must(!setresgid(65534, 65534, 65534));
	must(!setresuid(65534, 65534, 65534));
}

static int dropped(bool late)
{
	uint64_t *data;

	if (geteuid())
		return 77;
	if (!late)
		nobody();
	data = data_new(DATA, 1);
	if (late)
		nobody();
	data_check(data, DATA, 1);
	data_fill(data, DATA, 2);
	data_check(data, DATA, 2);
	printf("user %d\n", (int)getuid());
	return 0;
}

static int privilege_early(char **args)
{
	(void)args;
	return dropped(false);
}

static int privilege_late(char **args)
{
	(void)args;
	return dropped(true);
}

/* Before the limit is near, or after: args[0] is "late". */
static int privilege_close(char **args)
{
	bool late = args[0] && args[1];
	uint64_t *data = late ? data_new(DATA, 3) : NULL;
	int fd;

	if (args[0] && !strcmp(args[0], "range"))
		must(!close_range(3, ~0u, 0));
	else if (args[0] && !strcmp(args[0], "from"))
		closefrom(3);
	else
		for (fd = 3; fd < 70000; fd++)
			close(fd);
	if (!late)
		data = data_new(DATA, 3);
	data_check(data, DATA, 3);
	data_fill(data, DATA, 4);
	data_check(data, DATA, 4);
	printf("next is %d\n", open("/dev/null", O_RDONLY));
	return 0;
}

static int privilege_files(char **args)
{
	struct rlimit limit = { 8, 8 };
	uint64_t *data;

	if (args[0])
		must(!setrlimit(RLIMIT_NOFILE, &limit));
	data = data_new(DATA, 5);
	if (!args[0])
		must(!setrlimit(RLIMIT_NOFILE, &limit));
	data_check(data, DATA, 5);
	data_fill(data, DATA, 6);
	data_check(data, DATA, 6);
	printf("%d %d %d ", open("/dev/null", 0), open("/dev/null", 0), open("/dev/null", 0));
	printf("%d %d ", open("/dev/null", 0), open("/dev/null", 0));
	printf("%d\n", open("/dev/null", 0));
	return 0;
}

/* A filter that lets through all but what this program has no use for. */
static int privilege_seccomp(char **args)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };
	uint64_t *data = args[0] ? data_new(DATA, 7) : NULL;

	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
	if (!data)
		data = data_new(DATA, 7);
	data_check(data, DATA, 7);
	puts("filtered");
	return 0;
}

/* The strict mode: read, write, exit; of the one thread that asks for it. */
static int privilege_strict(char **args)
{
	uint64_t *data = data_new(DATA, 8);

	(void)args;
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	data_check(data, DATA, 8);
	if (write(1, "strict\n", 7) != 7)
		syscall(SYS_exit, 1);
	syscall(SYS_exit, 0);
	return 1;
}

const struct act acts_privilege[] = {
	{ "early", privilege_early },
	{ "late", privilege_late },
	{ "close", privilege_close },
	{ "files", privilege_files },
	{ "seccomp", privilege_seccomp },
	{ "strict", privilege_strict },
	{ NULL, NULL },
};
