/* SPDX-License-Identifier: MIT */
/*
 * wordindex: a program shares its data with a device, by pointer.
 *
 * It reads a text and builds an index of its words out of ordinary malloc()
 * memory (wordindex.h). Then a device, which is given the address of the index
 * and nothing else,
 *
 *   1. walks it where it is, in system memory;
 *   2. has its pages moved into its own memory, and walks it there;
 *   3. changes every word and every position in place;
 *   4. and the CPU goes on using its pointers as if nothing had happened: each
 *      page that it touches comes back by a CPU fault, as the device left it.
 *
 * After each step the result is compared with the CPU's own from the beginning,
 * and where the pages are is asked of both page tables. The program itself makes
 * no copy of the index and no arrangement for the device: see
 * wordindex_index.c for its side and wordindex_device.c for the device's.
 *
 * Exit status: 0, all the same; 1, something differs; 2, wrong usage or input;
 * 77, this machine or user cannot run it, with the reason.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <dummy.h>
#include <hmm/hmm.h>

#include "wordindex.h"

#define EXIT_DIFFERS 1
#define EXIT_USAGE 2
#define EXIT_SKIPPED 77

/**
 * struct demo - what the steps work on
 * @opt: what was asked for
 * @index: the program's data
 * @input: what it was made of
 * @expected: what every walk must find
 * @dev: the device
 * @map: the pages of the index
 */
struct demo {
	struct wi_options opt;
	struct wi_index *index;
	struct wi_input input;
	struct wi_result expected;
	struct dummy_device *dev;
	struct wi_map map;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

const char *wi_number(uint64_t n)
{
	static char bufs[8][32];
	static unsigned int turn;
	char *p = bufs[turn++ % 8] + sizeof(bufs[0]) - 1;
	int digits = 0;

	*p = '\0';
	do {
		if (digits && digits % 3 == 0)
			*--p = ',';
		*--p = (char)('0' + n % 10);
		n /= 10;
		digits++;
	} while (n);
	return p;
}

/* A walk's result against the CPU's; says what differs. 0 or -EILSEQ. */
static int compare(const struct demo *demo, const struct wi_result *got)
{
	const struct wi_result *want = &demo->expected;

	if (wi_result_same(want, got, demo->opt.top))
		return 0;
	fprintf(stderr,
		"wordindex: found %s words, %s positions, checksum %016llx\n"
		"wordindex: should be %s words, %s positions, checksum %016llx\n",
		wi_number(got->words), wi_number(got->postings), (unsigned long long)got->checksum,
		wi_number(want->words), wi_number(want->postings),
		(unsigned long long)want->checksum);
	return -EILSEQ;
}

static int look(struct demo *demo)
{
	int ret = wi_map_look(&demo->map, demo->dev);

	if (!ret && demo->map.disagree) {
		fprintf(stderr, "wordindex: CPU and device disagree where %s pages are\n",
			wi_number(demo->map.disagree));
		ret = -EILSEQ;
	}
	return ret;
}

static int walk_device(struct demo *demo, bool change)
{
	struct wi_result result;
	int ret;

	ret = wi_device_walk(demo->dev, demo->opt.threads, (uint64_t)(uintptr_t)demo->index, change,
			     &result);
	return ret ? ret : compare(demo, &result);
}

static int step_cpu_walks(struct demo *demo)
{
	wi_index_walk(demo->index, &demo->expected);
	if (demo->expected.words == demo->index->words &&
	    demo->expected.postings == demo->index->postings)
		return 0;
	fprintf(stderr, "wordindex: the index has lost words before any device saw it\n");
	return -EILSEQ;
}

static int step_device_walks(struct demo *demo)
{
	int ret = walk_device(demo, false);

	if (!ret && !demo->map.npages)
		ret = wi_map_create(&demo->map, demo->dev);
	return ret ? ret : look(demo);
}

/*
 * All pages must go, or the device's memory be full. A few may be kept back for
 * reasons of their own, as when a driver has pinned them.
 */
static int step_pages_move(struct demo *demo)
{
	struct wi_map *map = &demo->map;
	int ret = dummy_migrate_accessed(demo->dev, NULL);

	if (!ret)
		ret = look(demo);
	if (!ret && map->system > map->npages / 100 && dummy_memory_free(demo->dev)) {
		fprintf(stderr, "wordindex: %s of %s pages did not move\n", wi_number(map->system),
			wi_number(map->npages));
		ret = -EILSEQ;
	}
	return ret;
}

/* Once more: now it has used each page since it moved, and so translates it. */
static int step_device_walks_there(struct demo *demo)
{
	struct wi_map *map = &demo->map;
	int ret = step_device_walks(demo);

	if (!ret && map->on_device != map->device) {
		fprintf(stderr, "wordindex: of %s pages on the device it translates %s there\n",
			wi_number(map->device), wi_number(map->on_device));
		ret = -EILSEQ;
	}
	return ret;
}

static int step_device_changes(struct demo *demo)
{
	int ret = walk_device(demo, true);

	return ret ? ret : look(demo);
}

static int step_cpu_checks(struct demo *demo)
{
	struct wi_verdict verdict;
	struct wi_result result;
	int ret;

	wi_index_verify(demo->index, &result, &verdict);
	ret = compare(demo, &result);
	if (verdict.bad_words || verdict.bad_postings) {
		fprintf(stderr,
			"wordindex: %s words and %s positions are not as the device left "
			"them\n",
			wi_number(verdict.bad_words), wi_number(verdict.bad_postings));
		ret = -EILSEQ;
	}
	return ret ? ret : look(demo);
}

/* Take a step and print its line. 0 or the step's error. */
static int take_step(struct demo *demo, const char *name, int (*step)(struct demo *demo))
{
	struct hmm_stats before = { .size = sizeof(before) }, after = { .size = sizeof(after) };
	struct dummy_stats dev_before = { .faults = 0 }, dev_after = { .faults = 0 };
	double start;
	int ret;

	hmm_get_stats(&before);
	if (demo->dev)
		dummy_get_stats(demo->dev, &dev_before);
	start = now();
	ret = step(demo);
	start = now() - start;
	hmm_get_stats(&after);
	if (demo->dev)
		dummy_get_stats(demo->dev, &dev_after);

	printf("%-32s%8.3f s%12s%9s%9s  %s\n", name, start,
	       wi_number(after.pages_to_device - before.pages_to_device + after.pages_from_device -
			 before.pages_from_device),
	       wi_number(after.cpu_faults - before.cpu_faults),
	       wi_number(dev_after.faults - dev_before.faults), ret ? "FAILED" : "ok");
	if (!ret && demo->map.npages)
		wi_map_print(&demo->map);
	fflush(stdout);
	if (ret && ret != -EILSEQ)
		fprintf(stderr, "wordindex: %s: %s\n", name, strerror(-ret));
	return ret;
}

static void print_top(const struct demo *demo)
{
	unsigned int i;

	if (demo->opt.top)
		printf("\nmost frequent words\n");
	for (i = 0; i < demo->opt.top && i < demo->expected.ntop; i++)
		printf("%4u  %-24s%12s\n", i + 1, demo->expected.top[i].text,
		       wi_number(demo->expected.top[i].count));
}

/* The steps with the device. */
static int run_device(struct demo *demo)
{
	int ret;

	ret = take_step(demo, "1 device walks it in place", step_device_walks);
	if (!ret)
		ret = take_step(demo, "2 its pages move to the device", step_pages_move);
	if (!ret && demo->map.system)
		printf("  (%s pages stay in system memory%s)\n", wi_number(demo->map.system),
		       dummy_memory_free(demo->dev) ? "" : ": the device's memory is full");
	if (!ret)
		ret = take_step(demo, "  device walks it there", step_device_walks_there);
	if (!ret)
		ret = take_step(demo, "3 device changes all of it", step_device_changes);
	if (!ret)
		ret = take_step(demo, "4 CPU goes on, and checks it", step_cpu_checks);
	return ret;
}

/* Can it be done here? Exit status 0, or 77 with the reason. */
static int check_features(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	int ret = hmm_probe(&features);

	if (!ret && features.user_mode_only) {
		/* No system call of ours reads or writes the index. */
		hmm_set_user_mode(true);
		ret = hmm_probe(&features);
		printf("note: user-mode faults only; no system call may use the index now\n");
	}
	if (!ret && !features.error && features.can_mirror && features.can_migrate)
		return 0;
	if (!ret)
		ret = features.error ? features.error : -EOPNOTSUPP;
	fprintf(stderr, "wordindex: cannot run here: %s\n",
		features.reason[0] ? features.reason : strerror(-ret));
	return EXIT_SKIPPED;
}

static int make_device(struct demo *demo)
{
	struct dummy_options opt = { .memory = demo->opt.memory };
	int ret;

	if (!opt.memory) /* and what malloc() adds, and pages that are partly the index's */
		opt.memory = demo->index->bytes * 2 + ((size_t)16 << 20);
	ret = dummy_create(&demo->dev, &opt);
	if (ret) {
		fprintf(stderr, "wordindex: no device: %s\n", strerror(-ret));
		return EXIT_SKIPPED;
	}
	printf("%u device threads, %.1f MB of device memory; s: system, D: device, .: both\n\n",
	       demo->opt.threads, (double)dummy_memory_pages(demo->dev) * hmm_page_size() / 1e6);
	return 0;
}

static int run(struct demo *demo)
{
	int ret;

	printf("%-32s%10s%12s%9s%9s\n", "", "time", "pages", "CPU", "device");
	printf("%-32s%10s%12s%9s%9s\n", "step", "", "moved", "faults", "faults");

	ret = take_step(demo, "0 CPU walks it", step_cpu_walks);
	if (!ret)
		ret = run_device(demo);
	if (!ret)
		print_top(demo);
	wi_map_destroy(&demo->map);
	if (dummy_destroy(demo->dev)) {
		fprintf(stderr, "wordindex: the device cannot be taken away\n");
		return EXIT_DIFFERS;
	}
	return ret ? EXIT_DIFFERS : 0;
}

static int build(struct demo *demo)
{
	const char *path = demo->opt.path ? demo->opt.path : "the package database";
	double start = now();
	int ret;

	ret = wi_index_create(&demo->index);
	if (!ret)
		ret = wi_input_read(demo->opt.path, demo->index, &demo->input);
	if (ret || !demo->index->words) {
		fprintf(stderr, "wordindex: %s: %s%s\n", path, ret ? strerror(-ret) : "no words",
			demo->opt.path ? "" : " (name a FILE, see --help)");
		return EXIT_USAGE;
	}
	printf("%.40s: %.1f MB, %s words, %s distinct\n", path, (double)demo->input.bytes / 1e6,
	       wi_number(demo->index->postings), wi_number(demo->index->words));
	printf("index: %.1f MB from malloc(), built by the CPU in %.2f s\n",
	       (double)demo->index->bytes / 1e6, now() - start);
	return 0;
}

int main(int argc, char **argv)
{
	/*
	 * Not in malloc() memory, where it could share a page with the index, and
	 * not in .bss: a page that belongs to a file does not move.
	 */
	static char out[BUFSIZ] __attribute__((section(".data")));
	struct demo demo = { .index = NULL };
	int ret;

	setvbuf(stdout, out, _IOFBF, sizeof(out));
	ret = wi_options_parse(argc, argv, &demo.opt);
	if (ret)
		return ret < 0 || fflush(stdout) ? EXIT_USAGE : 0;

	ret = check_features();
	if (!ret)
		ret = build(&demo);
	if (!ret)
		ret = make_device(&demo);
	if (!ret)
		ret = run(&demo);
	wi_index_free(demo.index);
	if (fflush(stdout) && !ret)
		ret = EXIT_USAGE;
	return ret;
}
