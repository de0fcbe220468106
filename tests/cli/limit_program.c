// SPDX-License-Identifier: MIT
/*
 * A program under hmm run that holds what others need while it waits for memory.
 *
 *	fill THREADS MIB	each thread gets its part by malloc(), 64 KiB at a time
 *	lock MIB		all of it under the dynamic linker's lock
 *	fork MIB		two threads get and free memory while a third forks
 *
 * Prints "ok" if all that was written is there in the end.
 */
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE (64ul << 10)
#define THREADS_MAX 16
#define FORKS 20
#define STEP 4096ul

static size_t bytes; /* of each thread */
static int done;

static void die(const char *what)
{
	puts(what);
	exit(1);
}

static uint64_t word(size_t piece, size_t at)
{
	return (piece + 1) * 0x9e3779b97f4a7c15ul ^ at;
}

static char **pieces_new(size_t n)
{
	char **piece = calloc(n, sizeof(*piece));
	size_t i, at;

	for (i = 0; piece && i < n; i++) {
		piece[i] = malloc(PIECE);
		if (!piece[i])
			die("no memory");
		for (at = 0; at < PIECE; at += STEP)
			memcpy(piece[i] + at, &(uint64_t){ word(i, at) }, sizeof(uint64_t));
	}
	return piece;
}

static void pieces_end(char **piece, size_t n)
{
	uint64_t got;
	size_t i, at;

	for (i = 0; piece && i < n; i++) {
		for (at = 0; at < PIECE; at += STEP) {
			memcpy(&got, piece[i] + at, sizeof(got));
			if (got != word(i, at))
				die("wrong data");
		}
		free(piece[i]);
	}
	free(piece);
}

static void *fill(void *arg)
{
	pieces_end(pieces_new(bytes / PIECE), bytes / PIECE);
	return arg;
}

static void *fill_on(void *arg)
{
	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE))
		fill(NULL);
	return arg;
}

static int locked(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)info;
	(void)size;
	fill(arg);
	return 1;
}

static void forks(void)
{
	int i, status;

	for (i = 0; i < FORKS; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			die("a child failed");
	}
	__atomic_store_n(&done, 1, __ATOMIC_RELEASE);
}

static void threads(unsigned int n, void *(*fn)(void *), void (*meanwhile)(void))
{
	pthread_t id[THREADS_MAX];
	unsigned int i;

	for (i = 0; i < n; i++)
		if (pthread_create(&id[i], NULL, fn, NULL))
			die("no thread");
	if (meanwhile)
		meanwhile();
	for (i = 0; i < n; i++)
		pthread_join(id[i], NULL);
}

int main(int argc, char **argv)
{
	unsigned int n = 2;

	if (argc < 3)
		return 2;
	bytes = strtoul(argv[argc - 1], NULL, 10) << 20;
	if (!strcmp(argv[1], "fill")) {
		n = (unsigned int)strtoul(argv[2], NULL, 10) % THREADS_MAX;
		bytes /= n ? n : 1;
		threads(n, fill, NULL);
	} else if (!strcmp(argv[1], "lock")) {
		dl_iterate_phdr(locked, NULL);
	} else if (!strcmp(argv[1], "fork")) {
		bytes /= n;
		threads(n, fill_on, forks);
	}
	puts("ok");
	return 0;
}
