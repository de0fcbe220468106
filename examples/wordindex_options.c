/* SPDX-License-Identifier: MIT */
/*
 * The command line.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hmm/hmm.h>

#include "wordindex.h"

#define THREADS_MAX 64u
#define TOP_DEFAULT 5u
#define MEMORY_MAX ((uint64_t)1 << 44)

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: wordindex [OPTION]... [FILE|DIRECTORY]\n"
		"Index the words of a text, share the index with a device, check both.\n"
		"Without an argument: 16 MB of the package database in /var/lib/dpkg.\n"
		"\n"
		"  --device-memory SIZE  of the device, with K, M or G (default: enough)\n"
		"  --threads N           of the device, 1 to %u (default: one a CPU)\n"
		"  --top N               print so many words, 0 to %u (default: 5)\n"
		"  --help                print this\n"
		"\n"
		"Exit status: 0 all the same, 1 something differs, 2 wrong usage,\n"
		"77 it cannot run here.\n",
		THREADS_MAX, WI_TOP_MAX);
}

/* A number with an optional K, M or G where @unit; false: not one, or out of range. */
static bool parse(const char *text, bool unit, uint64_t min, uint64_t max, uint64_t *val)
{
	unsigned long long n;
	unsigned int shift = 0;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text || *text < '0' || *text > '9')
		return false;
	if (unit && *end) {
		const char *units = "KMG", *at = strchr(units, *end & ~0x20);

		if (!at || !*at)
			return false;
		shift = 10 * (unsigned int)(at - units + 1);
		end++;
	}
	if (*end || n > (max >> shift) || (n << shift) < min)
		return false;
	*val = n << shift;
	return true;
}

int wi_options_parse(int argc, char **argv, struct wi_options *out)
{
	static const struct option options[] = {
		{ "device-memory", required_argument, NULL, 'm' },
		{ "threads", required_argument, NULL, 'j' },
		{ "top", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t memory = 0, top = TOP_DEFAULT;
	uint64_t threads = cpus < 1 ? 1 : cpus > THREADS_MAX ? THREADS_MAX : (uint64_t)cpus;
	bool ok = true;
	int opt;

	while (ok && (opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'm':
			ok = parse(optarg, true, hmm_page_size(), MEMORY_MAX, &memory);
			break;
		case 'j':
			ok = parse(optarg, false, 1, THREADS_MAX, &threads);
			break;
		case 't':
			ok = parse(optarg, false, 0, WI_TOP_MAX, &top);
			break;
		case 'h':
			usage(stdout);
			return 1;
		default:
			usage(stderr);
			return -EINVAL;
		}
	}
	if (!ok)
		fprintf(stderr, "wordindex: '%s' is not a value that this option takes\n", optarg);
	if (!ok || argc - optind > 1) {
		usage(stderr);
		return -EINVAL;
	}

	out->path = argv[optind]; /* or NULL, which ends argv */
	out->memory = memory;
	out->threads = (unsigned int)threads;
	out->top = (unsigned int)top;
	return 0;
}
