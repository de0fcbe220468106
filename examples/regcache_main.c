/* SPDX-License-Identifier: MIT */
/*
 * Two caches, the same work for both, and a table. See regcache.h.
 *
 * Exit status: 0, no transfer of the cache on libhmm went wrong, and some of the
 * other did; 1, it was not so; 2, wrong usage; 77, it cannot run here, with the
 * reason.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/capability.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "regcache.h"

#define EXIT_WRONG 1
#define EXIT_USAGE 2
#define EXIT_SKIPPED 77

#define THREADS_MAX 64u
#define MAP_THRESHOLD (128 << 10)

static void usage(FILE *to)
{
	fprintf(to,
		"Usage: regcache [OPTION]...\n"
		"A cache of memory registrations on libhmm, and one without, at the same work.\n"
		"\n"
		"  --threads N   that change memory and transfer it, 1 to %u (default: 4)\n"
		"  --seconds S   how long (default: 2)\n"
		"  --rounds N    of each thread, instead of a time\n"
		"  --seed N      of what they do (default: from the clock)\n"
		"  --help        print this\n"
		"\n"
		"Exit status: 0 as it should be, 1 not so, 2 wrong usage, 77 it cannot run here.\n",
		THREADS_MAX);
}

static bool parse(const char *text, uint64_t min, uint64_t max, uint64_t *val)
{
	char *end;

	errno = 0;
	*val = strtoull(text, &end, 10);
	return !errno && end != text && !*end && *text != '-' && *val >= min && *val <= max;
}

static int options_parse(int argc, char **argv, struct rc_options *opt)
{
	static const struct option options[] = {
		{ "threads", required_argument, NULL, 't' },
		{ "seconds", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "seed", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t threads = 4, seconds = 2;
	bool ok = true;
	int c;

	while (ok && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 't':
			ok = parse(optarg, 1, THREADS_MAX, &threads);
			break;
		case 's':
			ok = parse(optarg, 1, UINT32_MAX, &seconds);
			break;
		case 'r':
			ok = parse(optarg, 1, UINT64_MAX, &opt->rounds);
			break;
		case 'd':
			ok = parse(optarg, 0, UINT64_MAX, &opt->seed);
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (!ok || optind < argc) {
		usage(stderr);
		return EXIT_USAGE;
	}
	opt->threads = (unsigned int)threads;
	opt->seconds = (double)seconds;
	return 0;
}

static int skip(const char *what, const char *why)
{
	fprintf(stderr, "regcache: cannot run here: %s: %s\n", what, why);
	return EXIT_SKIPPED;
}

static const char *card_reason(int ret)
{
	switch (ret) {
	case -ENOSYS:
		return "no io_uring, or this sandbox forbids it";
	case -EPERM:
		return "io_uring is forbidden, by the sysctl kernel.io_uring_disabled or this sandbox";
	case -EINVAL:
		return "io_uring has no sparse buffer table: Linux 5.19 is needed";
	case -ENOMEM:
		return "too little memory may be pinned: raise RLIMIT_MEMLOCK (ulimit -l)";
	default:
		return strerror(-ret);
	}
}

/* Does RLIMIT_MEMLOCK not count for us? */
static bool may_pin_all(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { .effective = 0 } };

	return !syscall(SYS_capget, &head, data) && data[0].effective & (1u << CAP_IPC_LOCK);
}

/* May all be pinned that the caches want to keep? */
static int check_pinning(const struct rc_options *opt, struct rc_cache *const cache[RC_CACHES])
{
	size_t len = RC_PINNED_MAX + 2 * opt->threads * RC_WINDOW; /* and have in use besides */
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long start = (unsigned long)p;
	int i, ret = 0;

	if (p == MAP_FAILED)
		return -errno;
	for (i = 0; i < RC_CACHES && !ret; i++)
		ret = rc_card_pin(&cache[i]->card, 0, start, start + len);
	for (i = 0; i < RC_CACHES; i++)
		rc_card_unpin(&cache[i]->card, 0);
	munmap(p, len);
	return ret;
}

static int check_features(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	int ret = hmm_probe(&features);

	if (ret || features.error || !features.can_mirror)
		return skip("libhmm", features.reason[0] ? features.reason : strerror(-ret));
	return 0;
}

static int make_caches(const struct rc_options *opt, struct rc_cache *cache[RC_CACHES])
{
	int ret = rc_create(&cache[RC_LIBHMM], opt->threads * RC_WINDOW, false);

	if (!ret)
		ret = rc_create(&cache[RC_NAIVE], opt->threads * RC_WINDOW, true);
	if (!ret)
		ret = check_pinning(opt, cache);
	return ret ? skip("no card", card_reason(ret)) : 0;
}

static uint64_t total(const uint64_t *counts)
{
	uint64_t all = 0;
	int i;

	for (i = 0; i < RC_CHANGES; i++)
		all += counts[i];
	return all;
}

static void print_changes(const struct rc_counts *counts)
{
	static const char *const name[RC_CHANGES] = {
		[RC_NOTHING] = "nothing",
		[RC_RENEW] = "free, malloc; munmap, mmap",
		[RC_REALLOC] = "realloc",
		[RC_MMAP_OVER] = "mmap over a part",
		[RC_MMAP_AGAIN] = "munmap, mmap there again",
		[RC_MREMAP] = "mremap",
		[RC_DONTNEED] = "madvise(MADV_DONTNEED)",
		[RC_TRIM] = "malloc_trim",
		[RC_FORK] = "fork",
	};
	int i;

	printf("%-28s%12s%12s%12s\n", "", "", "stale after", "it");
	printf("%-28s%12s%12s%12s\n", "the program did", "times", "libhmm", "naive");
	for (i = 0; i < RC_CHANGES; i++)
		printf("%-28s%12llu%12llu%12llu\n", name[i], (unsigned long long)counts->changes[i],
		       (unsigned long long)counts->stale[RC_LIBHMM][i],
		       (unsigned long long)counts->stale[RC_NAIVE][i]);
	printf("and %llu transfers of another thread's memory\n\n",
	       (unsigned long long)counts->strange);
}

static void print_caches(struct rc_cache *const cache[RC_CACHES], const struct rc_counts *counts)
{
	int i;

	printf("%-8s%10s%10s%15s%13s%10s%11s%10s\n", "cache", "lookups", "hits", "registrations",
	       "invalidated", "evicted", "transfers", "stale");
	for (i = 0; i < RC_CACHES; i++) {
		struct rc_stats stats;

		rc_get_stats(cache[i], &stats);
		printf("%-8s%10llu%10llu%15llu%13llu%10llu%11llu%10llu\n",
		       i == RC_NAIVE ? "naive" : "libhmm", (unsigned long long)stats.lookups,
		       (unsigned long long)stats.hits, (unsigned long long)stats.registrations,
		       (unsigned long long)stats.invalidated, (unsigned long long)stats.evicted,
		       (unsigned long long)counts->transfers[i],
		       (unsigned long long)total(counts->stale[i]));
	}
}

static int judge(const struct rc_counts *counts)
{
	uint64_t wrong = total(counts->stale[RC_LIBHMM]);

	if (wrong)
		fprintf(stderr,
			"regcache: FAILED: %llu transfers of the cache on libhmm went wrong\n",
			(unsigned long long)wrong);
	if (!total(counts->stale[RC_NAIVE]))
		fprintf(stderr,
			"regcache: FAILED: the naive cache was never wrong: nothing is shown\n");
	if (counts->damaged || counts->errors)
		fprintf(stderr, "regcache: FAILED: %llu times memory was damaged, %llu errors\n",
			(unsigned long long)counts->damaged, (unsigned long long)counts->errors);
	return wrong || !total(counts->stale[RC_NAIVE]) || counts->damaged || counts->errors ?
		       EXIT_WRONG :
		       0;
}

static int run(const struct rc_options *opt)
{
	struct rc_cache *cache[RC_CACHES] = { NULL };
	struct rc_counts counts = { .strange = 0 };
	int ret, err, i;

	ret = make_caches(opt, cache);
	if (!ret) {
		err = rc_work(opt, cache, &counts);
		if (err)
			fprintf(stderr, "regcache: %s\n", strerror(-err));
		print_changes(&counts);
		print_caches(cache, &counts);
		fflush(stdout);
		ret = err ? EXIT_WRONG : judge(&counts);
	}
	for (i = 0; i < RC_CACHES; i++) {
		if (!rc_destroy(cache[i]))
			continue;
		fprintf(stderr, "regcache: the card cannot be taken away\n");
		ret = EXIT_WRONG;
	}
	return ret;
}

int main(int argc, char **argv)
{
	struct rc_options opt = { .seed = 0 };
	struct timespec now;
	int ret;

	clock_gettime(CLOCK_REALTIME, &now);
	opt.seed = (uint64_t)now.tv_nsec;
	ret = options_parse(argc, argv, &opt);
	if (!ret)
		ret = check_features();
	if (ret)
		return ret;

	/* Fixed, or it would grow with the first block that is freed. */
	mallopt(M_MMAP_THRESHOLD, MAP_THRESHOLD);
	mallopt(M_TRIM_THRESHOLD, MAP_THRESHOLD);
	/*
	 * For a part of a huge page io_uring counts all of it against the limit, each
	 * time: a handful would be all that may be pinned.
	 */
	if (!may_pin_all())
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	printf("%u threads, --seed %llu\n\n", opt.threads, (unsigned long long)opt.seed);
	fflush(stdout);
	return run(&opt);
}
