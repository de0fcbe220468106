/* SPDX-License-Identifier: MIT */
/*
 * hmm bench: how fast memory goes to each device and comes back.
 *
 * Each figure stands beside a reference that takes turns with it, in the same round, for the
 * machine is never quiet; the ratio is the median of the rounds' ratios. After each round
 * the memory must hold what it held. (bench/ has more, and the goals.)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <hmm/hmm.h>

#include "bench.h"
#include "hmm.h"
#include "text.h"

#define SIZE_DEFAULT (64ull << 20)
#define SIZE_MAX_ (4ull << 30)
#define BUDGET 12000000000ull /* ns, for all devices */

struct options {
	const char *device; /* NULL: all */
	uint64_t size;
	bool json;
};

static const struct {
	const char *what;
	const char *unit;
	const char *reference;
} figures[FIGURES] = {
	[BENCH_TO] = { "to the device", "GB/s", "memcpy" },
	[BENCH_BACK] = { "back", "GB/s", "memcpy" },
	[BENCH_READ] = { "back by being read in order", "GB/s", "memcpy" },
	[BENCH_FAULT] = { "one page fault, median", "us", "first touch" },
	[BENCH_FAULT_P99] = { "one page fault, 99 of 100", "us", "first touch" },
};

static void help(FILE *to)
{
	fputs("usage: hmm bench [OPTION...]\n"
	      "\n"
	      "Measures how fast memory goes to each device and comes back, in less than 20\n"
	      "seconds, each figure beside a reference of the same run: memcpy() of as much,\n"
	      "or the first touch of a page. Half of each page's content repeats.\n"
	      "\n"
	      "  -d, --device=NAME  this device alone\n"
	      "  -s, --size=SIZE    of the memory that moves, such as 16M; 64M by default\n"
	      "  -j, --json         as JSON\n"
	      "  -h, --help         this\n"
	      "\n"
	      "Exit status: 0; 1 if memory cannot move here or a device failed; 125 if hmm\n"
	      "refuses.\n",
	      to);
}

static const struct option options[] = {
	{ "device", required_argument, NULL, 'd' },
	{ "size", required_argument, NULL, 's' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool device_exists(const char *name)
{
	const struct tool_device *const *device;

	for (device = tool_devices; *device; device++)
		if (!strcmp((*device)->name, name))
			return true;
	hmm_message("there is no device `%s': hmm devices lists them", name);
	return false;
}

static bool size_valid(const char *text, uint64_t *size)
{
	if (!hmm_parse_size(text, size)) {
		hmm_message("`%s' is no size: try 64M", text);
		return false;
	}
	*size = (*size + MEMORY_HUGE - 1) & ~(MEMORY_HUGE - 1);
	if (*size > SIZE_MAX_) {
		hmm_message("a size of %s is too large: 4G at most", text);
		return false;
	}
	return true;
}

/* -1: go on; else the exit status. */
static int options_read(int argc, char **argv, struct options *opt)
{
	int c;

	while ((c = hmm_option(argc, argv, ":d:s:jh", options)) != HMM_OPTION_END) {
		if (c == HMM_OPTION_BAD)
			return HMM_EXIT_REFUSED;
		if (c == 'h') {
			help(stdout);
			return text_end();
		}
		if (c == 'j')
			opt->json = true;
		if (c == 's' && !size_valid(optarg, &opt->size))
			return HMM_EXIT_REFUSED;
		if (c == 'd' && !device_exists(optarg))
			return HMM_EXIT_REFUSED;
		if (c == 'd')
			opt->device = optarg;
	}
	if (optind == argc)
		return -1;
	hmm_message("`%s' is one argument too many: see hmm bench --help", argv[optind]);
	return HMM_EXIT_REFUSED;
}

/* ---- results ---- */

static void show_head(const struct options *opt)
{
	char size[TEXT_NUMBER];
	struct utsname uts;

	uname(&uts);
	if (opt->json) {
		printf("{\"kernel\": ");
		text_json(stdout, uts.release);
		printf(", \"cpus\": %ld, \"bytes\": %llu, \"figures\": [",
		       sysconf(_SC_NPROCESSORS_ONLN), (unsigned long long)opt->size);
		return;
	}
	printf("Linux %s, %ld CPUs; %s at a time, medians\n\n", uts.release,
	       sysconf(_SC_NPROCESSORS_ONLN), text_size(size, opt->size));
	printf("%-7s %-6s %-27s %13s  %-25s %6s\n", "device", "pages", "what", "result",
	       "reference", "ratio");
	fflush(stdout);
}

static void show_figure(const struct bench *b, enum bench_figure i, bool json, bool *first)
{
	double value = bench_median(b->value[i], b->rounds),
	       ref = bench_median(b->ref[i], b->rounds);
	double ratio = bench_ratio(b, i);

	if (json) {
		printf("%s\n  {\"device\": \"%s\", \"pages\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", ",
		       *first ? "" : ",", b->ops->name, b->huge ? "2 MiB" : "4 KiB",
		       figures[i].what, figures[i].unit);
		printf("\"value\": %.3f, \"reference\": \"%s\", \"reference_value\": %.3f, "
		       "\"ratio\": %.3f, \"rounds\": %d}",
		       value, figures[i].reference, ref, ratio, b->rounds);
		*first = false;
		return;
	}
	printf("%-7s %-6s %-27s %8.2f %-4s  %8.2f %-4s %-11s %6.2f\n", b->ops->name,
	       b->huge ? "2 MiB" : "4 KiB", figures[i].what, value, figures[i].unit, ref,
	       figures[i].unit, figures[i].reference, ratio);
}

static void show(const struct bench *b, bool json, bool *first)
{
	int i;

	if (!b->rounds && !json)
		printf("%-7s %-6s (left out: the kernel gives no huge pages)\n", b->ops->name,
		       "2 MiB");
	for (i = 0; i < FIGURES && b->rounds; i++)
		if (bench_has(b, (enum bench_figure)i))
			show_figure(b, (enum bench_figure)i, json, first);
	fflush(stdout);
}

/* ---- ---- */

static bool can_migrate(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	hmm_probe(&features);
	if (features.can_migrate) {
		hmm_set_user_mode(true); /* no system call touches what moves */
		return true;
	}
	hmm_message("memory cannot move here: %s", features.reason);
	return false;
}

static bool chosen(const struct options *opt, const struct tool_device *device)
{
	return !opt->device || !strcmp(opt->device, device->name);
}

static int run_all(const struct options *opt)
{
	const struct tool_device *const *device;
	uint64_t now = text_now(), end = now + BUDGET, left = 0;
	bool first = true;
	int huge, ret;

	for (device = tool_devices; *device; device++)
		left += 2 * chosen(opt, *device);
	for (device = tool_devices; *device; device++) {
		for (huge = 0; huge < 2 && chosen(opt, *device); huge++) {
			struct bench b = { .ops = *device, .bytes = opt->size, .huge = huge };

			now = text_now();
			b.until = now + (now < end ? (end - now) / left-- : 0);
			ret = bench_run(&b);
			if (ret) {
				hmm_message("%s: %s%s%s", (*device)->name, b.failed,
					    ret < 0 ? ": " : "", ret < 0 ? strerror(-ret) : "");
				return HMM_EXIT_MISSING;
			}
			show(&b, opt->json, &first);
		}
	}
	if (opt->json)
		printf("\n]}\n");
	return text_end();
}

int hmm_bench(int argc, char **argv)
{
	struct options opt = { .size = SIZE_DEFAULT };
	int ret = options_read(argc, argv, &opt);

	if (ret >= 0)
		return ret;
	if (!can_migrate())
		return HMM_EXIT_MISSING;
	show_head(&opt);
	return run_all(&opt);
}
