/* SPDX-License-Identifier: MIT */
/* The `hmm` program: which subcommand, and what all of them need. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hmm.h"

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "run", hmm_run, "run a program with its memory kept below a limit" },
	{ "stat", hmm_stat, "what such a program does, a line a second" },
	{ "top", hmm_top, "all such programs, and a map of where the memory of one is" },
	{ "doctor", hmm_doctor, "can it be done here, and what is missing" },
	{ "devices", hmm_devices, "the devices, and their options" },
	{ "bench", hmm_bench, "how fast memory goes to each device and comes back" },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const char *command;

void hmm_message(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "hmm%s%s: ", command ? " " : "", command ? command : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static const struct {
	const char *name;
	unsigned int shift;
} units[] = {
	{ "", 0 },     { "B", 0 },    { "K", 10 },   { "KB", 10 },  { "KIB", 10 },
	{ "M", 20 },   { "MB", 20 },  { "MIB", 20 }, { "G", 30 },   { "GB", 30 },
	{ "GIB", 30 }, { "T", 40 },   { "TB", 40 },  { "TIB", 40 },
};

bool hmm_parse_size(const char *text, uint64_t *bytes)
{
	double value;
	char *end;
	size_t i;

	if (*text < '0' || *text > '9' || text[1] == 'x' || text[1] == 'X')
		return false;
	errno = 0;
	value = strtod(text, &end);
	if (errno)
		return false;
	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcasecmp(end, units[i].name) != 0)
			continue;
		value *= (double)(1ull << units[i].shift);
		if (value < 1 || value >= (double)(1ull << 47))
			return false;
		*bytes = (uint64_t)value;
		return true;
	}
	return false;
}

static void help(FILE *to)
{
	size_t i;

	fprintf(to, "usage: hmm COMMAND [ARGUMENT...]\n"
		    "       hmm --version\n"
		    "\n"
		    "Commands; `hmm COMMAND --help' tells more:\n");
	for (i = 0; i < COMMANDS; i++)
		fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].summary);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	size_t i;

	if (!name) {
		help(stderr);
		return HMM_EXIT_REFUSED;
	}
	if (!strcmp(name, "--version")) {
		puts("hmm " HMM_VERSION);
		return fflush(stdout) ? HMM_EXIT_REFUSED : HMM_EXIT_OK;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		help(stdout);
		return fflush(stdout) ? HMM_EXIT_REFUSED : HMM_EXIT_OK;
	}
	for (i = 0; i < COMMANDS; i++) {
		if (strcmp(name, commands[i].name) != 0)
			continue;
		command = name;
		return commands[i].fn(argc - 1, argv + 1);
	}
	hmm_message("there is no command `%s': see hmm --help", name);
	return HMM_EXIT_REFUSED;
}
