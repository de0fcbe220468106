/* SPDX-License-Identifier: MIT */
/* How it ends, and what it is given: exit status, signals, arguments, descriptors. */
#include <dirent.h>
#include <sys/resource.h>

#include "act.h"

extern char **environ;

static int end_exit(char **args)
{
	uint64_t *data = data_new(DATA, 1);

	data_check(data, DATA, 1);
	return atoi(args[0]);
}

/* By a signal, sent or earned. */
static int end_signal(char **args)
{
	static const struct rlimit none = { 0, 0 };
	uint64_t *data = data_new(DATA, 2);
	volatile int *nowhere = NULL;
	int number = atoi(args[0]);

	must(!setrlimit(RLIMIT_CORE, &none));
	data_check(data, DATA, 2);
	puts("dies");
	if (number == SIGSEGV)
		*nowhere = 1;
	if (number == SIGABRT)
		abort();
	raise(number);
	return 1;
}

/* The caller sees that it stops, and lets it go on. */
static int end_stop(char **args)
{
	uint64_t *data = data_new(DATA, 3);

	(void)args;
	puts("stops");
	raise(SIGSTOP);
	data_check(data, DATA, 3);
	puts("goes on");
	return 3;
}

/* Ends with the memory of others in use: a thread in a page fault, or so. */
static int end_abrupt(char **args)
{
	uint64_t *data = data_new(DATA, 4);

	(void)args;
	data_check(data, DATA / 2, 4);
	_exit(5);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What hmm adds to the environment is for children of its own (run/config.c). */
static bool hmms(const char *variable)
{
	return !strncmp(variable, "HMM_RUN_", 8) || !strncmp(variable, "LD_PRELOAD=", 11);
}

static int end_given(char **args)
{
	size_t n = 0;
	char **e;

	printf("%s\n", program_invocation_name);
	for (; *args; args++)
		printf("[%s]\n", *args);
	while (environ[n])
		n++;
	qsort(environ, n, sizeof(*environ), compare);
	for (e = environ; *e; e++)
		if (!hmms(*e))
			puts(*e);
	return 0;
}

/* What is open from the program's sight: low numbers, and which come next. */
static int end_descriptors(char **args)
{
	uint64_t *data = data_new(DATA, 5);
	int fd, next;

	(void)args;
	for (fd = 0; fd < 200; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d is open\n", fd);
	for (next = 0; next < 100; next++)
		printf("%d ", open("/dev/null", O_RDONLY | O_CLOEXEC));
	puts("");
	data_check(data, DATA, 5);
	/* A program that it becomes has none of them; what that gets itself is far up. */
	execl("/bin/sh", "sh", "-c",
	      "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -ge 900 ] || echo $fd; done", NULL);
	return 1;
}

/* As cat(1), through memory that goes away in between. */
static int end_cat(char **args)
{
	uint64_t *data = data_new(DATA, 6);
	char *text = malloc(8 * MIB);
	size_t n, i = 0;

	(void)args;
	n = fread(text, 1, 8 * MIB, stdin);
	data_check(data, DATA, 6);
	while (i < n) {
		ssize_t done = write(1, text + i, n - i);

		must(done > 0);
		i += (size_t)done;
	}
	fprintf(stderr, "%zu bytes\n", n);
	return 0;
}

const struct act acts_end[] = {
	{ "exit", end_exit },	  { "signal", end_signal }, { "stop", end_stop },
	{ "abrupt", end_abrupt }, { "given", end_given },   { "descriptors", end_descriptors },
	{ "cat", end_cat },	  { NULL, NULL },
};
