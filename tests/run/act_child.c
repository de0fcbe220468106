/* SPDX-License-Identifier: MIT */
/* Children of every kind. Each has the same memory as without hmm, and its own limit. */
#include <spawn.h>
#include <sys/wait.h>

#include "act.h"

extern char **environ;

static int ended(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Parent and child each change what they have, and have children. */
static int generation(uint64_t *data, int depth)
{
	uint64_t seed = (uint64_t)depth;
	int status;
	pid_t pid;

	data_check(data, DATA, seed);
	if (depth == 3)
		return 7;
	pid = fork();
	must(pid >= 0);
	if (!pid) {
		data_fill(data, DATA, seed + 1);
		_exit(generation(data, depth + 1));
	}
	data_check(data, DATA, seed);
	status = ended(pid);
	data_check(data, DATA, seed);
	return status;
}

static int child_fork(char **args)
{
	(void)args;
	printf("the last one ended with %d\n", generation(data_new(DATA, 0), 0));
	return 0;
}

/* Many, some of which die, while others of the program's threads would not wait. */
static int child_many(char **args)
{
	uint64_t *data = data_new(DATA, 2);
	int i, died = 0;

	(void)args;
	for (i = 0; i < 20; i++) {
		pid_t pid = fork();

		must(pid >= 0);
		if (!pid) {
			data_check(data + i * 1000, 0, 2);
			must(data[i * 4096] == data[i * 4096]);
			if (i % 2)
				raise(SIGKILL);
			_exit(0);
		}
		data_check(data, MIB, 2);
		died += ended(pid) == -SIGKILL;
	}
	data_check(data, DATA, 2);
	printf("%d died\n", died);
	return 0;
}

static int child_vfork(char **args)
{
	uint64_t *data = data_new(DATA, 3);
	int i;

	(void)args;
	for (i = 0; i < 10; i++) {
		pid_t pid = vfork();

		if (!pid) {
			execl("/bin/sh", "sh", "-c", "exit 4", NULL);
			_exit(1);
		}
		must(ended(pid) == 4);
		data_check(data, DATA / 10, 3);
	}
	data_check(data, DATA, 3);
	puts("done");
	return 0;
}

static int child_spawn(char **args)
{
	char sh[] = "sh", option[] = "-c", text[] = "echo spawned $((6 * 7)); exit 6";
	char *const command[] = { sh, option, text, NULL };
	uint64_t *data = data_new(DATA, 4);
	char line[100];
	FILE *pipe;
	pid_t pid;

	(void)args;
	must(!posix_spawn(&pid, "/bin/sh", NULL, NULL, command, environ));
	printf("spawn: %d\n", ended(pid));
	printf("system: %d\n", WEXITSTATUS(system("echo by system; exit 8")));
	pipe = popen("echo by popen; exit 9", "r");
	must(pipe && fgets(line, sizeof(line), pipe));
	fputs(line, stdout);
	printf("popen: %d\n", WEXITSTATUS(pclose(pipe)));
	data_check(data, DATA, 4);
	return 0;
}

/* As daemon(3): the parent ends at once, and the child has the memory. */
static int child_daemon(char **args)
{
	uint64_t *data = data_new(DATA, 5);
	int ends[2];
	char c = 0;
	pid_t pid;

	(void)args;
	must(!pipe(ends));
	pid = fork();
	must(pid >= 0);
	if (!pid) {
		must(!daemon(0, 0));
		data_check(data, DATA, 5);
		data_fill(data, DATA, 6);
		data_check(data, DATA, 6);
		must(write(ends[1], "d", 1) == 1);
		_exit(0);
	}
	must(!ended(pid));
	must(read(ends[0], &c, 1) == 1 && c == 'd');
	data_check(data, DATA, 5);
	puts("the daemon has it all");
	return 0;
}

/* Its own memory goes, and it begins anew with the next program's. */
static int child_exec(char **args)
{
	uint64_t *data = data_new(DATA, 6);

	data_check(data, DATA, 6);
	if (args[0] && strcmp(args[0], "3") != 0) {
		char next[2] = { (char)(args[0][0] + 1), 0 };

		execl("/proc/self/exe", "act", "exec", next, NULL);
		return 1;
	}
	puts("the third");
	return 0;
}

const struct act acts_child[] = {
	{ "fork", child_fork },	  { "many", child_many },     { "vfork", child_vfork },
	{ "spawn", child_spawn }, { "daemon", child_daemon }, { "exec", child_exec },
	{ NULL, NULL },
};
