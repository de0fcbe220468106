/* SPDX-License-Identifier: MIT */
/*
 * hmm run: a program with its memory kept below a limit.
 *
 * Nothing stays between the caller and the program: this process becomes it, so the process
 * number, signals, the terminal and the exit status are the program's own. What looks after
 * its memory is in libhmm-run.so, which the dynamic linker loads before the program
 * (LD_PRELOAD) and which reads the environment (run/config.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <hmm/hmm.h>

#include "../../run/device_list.h"
#include "hmm.h"

#define LIMIT_MIN (8ull << 20)

static void help(FILE *to)
{
	fputs("usage: hmm run [OPTION...] [--] PROGRAM [ARGUMENT...]\n"
	      "\n"
	      "Runs PROGRAM with its anonymous memory (heap, mmap) kept below a limit: what\n"
	      "it has not used for long goes to a device, and comes back when it is used.\n"
	      "The limit is that of each process; children are limited too.\n"
	      "\n"
	      "  -l, --limit=SIZE     what may be resident, such as 512M or 2G; 8M at least\n"
	      "  -d, --device=NAME[,OPTION=VALUE...]\n"
	      "                       where the rest goes; see `hmm devices'\n"
	      "  -s, --stats=FILE     write a summary when PROGRAM ends: JSON if FILE ends in\n"
	      "                       .json; %p in FILE is the process number, and then its\n"
	      "                       children write one each\n"
	      "      --trace=FILE     write a trace of what happens for ui.perfetto.dev;\n"
	      "                       %p as above, without it children write FILE.PID\n"
	      "  -b, --best-effort    run PROGRAM also if the limit cannot be held\n"
	      "  -q, --quiet          say nothing when a limit turns out not to be held\n"
	      "      --devices        list the devices\n"
	      "  -h, --help           this\n"
	      "\n"
	      "Exit status: PROGRAM's; 125 if hmm refuses, 126 if PROGRAM cannot be run, 127\n"
	      "if it is not found.\n",
	      to);
}

struct options {
	uint64_t limit;
	const char *device;
	const char *stats;
	const char *trace;
	bool best_effort;
	bool quiet;
};

enum { OPT_DEVICES = 256, OPT_TRACE };

static const struct option long_options[] = {
	{ "limit", required_argument, NULL, 'l' },
	{ "device", required_argument, NULL, 'd' },
	{ "stats", required_argument, NULL, 's' },
	{ "trace", required_argument, NULL, OPT_TRACE },
	{ "best-effort", no_argument, NULL, 'b' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "devices", no_argument, NULL, OPT_DEVICES },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool option_known(const struct run_device_info *info, const char *option)
{
	const struct run_device_option *opt;
	size_t len = strcspn(option, "=,");

	for (opt = info->options; opt->name; opt++)
		if (strlen(opt->name) == len && !strncmp(opt->name, option, len))
			return option[len] == '=';
	return false;
}

/* As run/config.c reads it. */
static bool number_valid(const char *text, size_t len)
{
	size_t digits = strspn(text, "0123456789");

	return digits && digits < 18 &&
	       (digits == len || (digits + 1 == len && strchr("KMGTkmgt", text[digits])));
}

/* A name, and options that it has. */
static bool device_known(const char *device)
{
	size_t len = strcspn(device, ",");
	const struct run_device_info *info = run_device_known(device, len);
	const char *option = device + len;

	if (!info) {
		hmm_message("there is no device `%.*s': hmm devices lists them", (int)len, device);
		return false;
	}
	for (; *option; option += strcspn(option, ",")) {
		option++;
		if (option_known(info, option)) {
			const char *value = strchr(option, '=') + 1;

			if (number_valid(value, strcspn(value, ",")))
				continue;
			hmm_message("`%.*s' needs a number: hmm devices tells of what",
				    (int)strcspn(option, ","), option);
			return false;
		}
		hmm_message("device %s has no option `%.*s': hmm devices lists them", info->name,
			    (int)strcspn(option, ","), option);
		return false;
	}
	return true;
}

static int list_devices(void)
{
	const struct run_device_info *info;

	for (info = run_device_list; info->name; info++)
		puts(info->name);
	return fflush(stdout) ? HMM_EXIT_REFUSED : HMM_EXIT_OK;
}

static bool limit_valid(const char *text, uint64_t *limit)
{
	if (!hmm_parse_size(text, limit)) {
		hmm_message("`%s' is no size: try 512M or 2G", text);
		return false;
	}
	if (*limit < LIMIT_MIN) {
		hmm_message("a limit of %s is too small: 8M at least", text);
		return false;
	}
	return true;
}

/* -1: go on; else the exit status. */
static int options_read(int argc, char **argv, struct options *opt)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:l:d:s:bqh", long_options, NULL)) >= 0) {
		switch (c) {
		case 'l':
			if (!limit_valid(optarg, &opt->limit))
				return HMM_EXIT_REFUSED;
			break;
		case 'd':
			opt->device = optarg;
			break;
		case 's':
			opt->stats = optarg;
			break;
		case OPT_TRACE:
			opt->trace = optarg;
			break;
		case 'b':
			opt->best_effort = true;
			break;
		case 'q':
			opt->quiet = true;
			break;
		case OPT_DEVICES:
			return list_devices();
		case 'h':
			help(stdout);
			return fflush(stdout) ? HMM_EXIT_REFUSED : HMM_EXIT_OK;
		case ':':
			hmm_message("%s needs a value: see hmm run --help", argv[optind - 1]);
			return HMM_EXIT_REFUSED;
		default:
			if (optopt && optopt < OPT_DEVICES)
				hmm_message("there is no option `-%c': see hmm run --help", optopt);
			else
				hmm_message("there is no option `%s': see hmm run --help",
					    argv[optind - 1]);
			return HMM_EXIT_REFUSED;
		}
	}
	if (optind == argc)
		hmm_message("which program? See hmm run --help");
	else if (!opt->limit)
		hmm_message("which limit? Say --limit=SIZE, such as --limit=512M");
	else if (device_known(opt->device))
		return -1;
	return HMM_EXIT_REFUSED;
}

/* ---- what can be done here ---- */

/* 0 the limit can be held; 1 it cannot, and that is accepted; else the exit status. */
static int kernel_check(const struct options *opt)
{
	struct hmm_features features = { .size = sizeof(features) };

	hmm_probe(&features);
	if (features.can_migrate && !features.user_mode_only)
		return 0;
	if (opt->best_effort) {
		if (!opt->quiet)
			hmm_message("the limit is not held: %s", features.reason);
		return 1;
	}
	if (features.can_migrate)
		hmm_message("the limit cannot be held for an ordinary user here: system calls on "
			    "memory that is away would fail. Set sysctl "
			    "vm.unprivileged_userfaultfd=1, or make /dev/userfaultfd readable for "
			    "this user, or give hmm run --best-effort to run without a limit");
	else
		hmm_message("the limit cannot be held here: %s. With --best-effort the program "
			    "runs without",
			    features.reason);
	return HMM_EXIT_REFUSED;
}

/*
 * Can @path be written? Said now, and not when the program has run for an hour. It is only
 * made when there is something to write. A trace is emptied, so that no old one is taken for
 * one of this run.
 */
static bool file_check(const char *path, bool empty)
{
	char copy[PATH_MAX];
	struct stat st;
	int ret;

	if (!path || strstr(path, "%p"))
		return true;
	snprintf(copy, sizeof(copy), "%s", path);
	if (!*path) {
		hmm_message("the name of a file is empty");
		return false;
	}
	if (stat(path, &st))
		ret = errno == ENOENT ? access(dirname(copy), W_OK | X_OK) : -1;
	else if (S_ISDIR(st.st_mode))
		ret = open(path, O_WRONLY | O_CLOEXEC); /* EISDIR */
	else if (empty && S_ISREG(st.st_mode))
		ret = truncate(path, 0);
	else
		ret = access(path, W_OK);
	if (ret)
		hmm_message("%s: %s", path, strerror(errno));
	return !ret;
}

/* ---- the environment ---- */

/* Both: libhmm is to be found before the C library. */
static bool preload_set(void)
{
	char run[PATH_MAX], hmm[PATH_MAX], *value;
	const char *old = getenv("LD_PRELOAD");

	if (!hmm_library(run, "libhmm-run.so", "run") ||
	    !hmm_library(hmm, "libhmm.so." HMM_SOVERSION, "src")) {
		hmm_message("libhmm-run.so is not in " HMM_LIBDIR ": see hmm doctor");
		return false;
	}
	if (strpbrk(run, " :") || strpbrk(hmm, " :")) {
		hmm_message("%s: a path with a space or a colon cannot be preloaded", run);
		return false;
	}
	if (asprintf(&value, "%s:%s%s%s", run, hmm, old && *old ? ":" : "", old ? old : "") < 0)
		return false;
	return !setenv("LD_PRELOAD", value, 1);
}

static bool path_set(const char *name, const char *path)
{
	char cwd[PATH_MAX], *value;

	if (!path)
		return !unsetenv(name);
	if (path[0] == '/')
		return !setenv(name, path, 1);
	if (!getcwd(cwd, sizeof(cwd)) || asprintf(&value, "%s/%s", cwd, path) < 0)
		return false;
	return !setenv(name, value, 1);
}

/* When this began; no file that is written from now on is older. */
static uint64_t clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool environment_set(const struct options *opt)
{
	char limit[32], pid[32], started[32];

	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)opt->limit);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(started, sizeof(started), "%llu", (unsigned long long)clock_now());
	return !setenv("HMM_RUN_LIMIT", limit, 1) && !setenv("HMM_RUN_DEVICE", opt->device, 1) &&
	       !setenv("HMM_RUN_PID", pid, 1) && !setenv("HMM_RUN_STARTED", started, 1) &&
	       path_set("HMM_RUN_STATS", opt->stats) && path_set("HMM_RUN_TRACE", opt->trace) &&
	       !setenv("HMM_RUN_QUIET", opt->quiet ? "1" : "0", 1) && preload_set();
}

int hmm_run(int argc, char **argv)
{
	struct options opt = { .device = run_device_list[0].name };
	const char *path;
	int ret = options_read(argc, argv, &opt), limited;

	if (ret >= 0)
		return ret;
	argv += optind;
	ret = hmm_check_program(argv[0], &path);
	if (ret)
		return ret;
	if (!file_check(opt.stats, false) || !file_check(opt.trace, true))
		return HMM_EXIT_REFUSED;
	limited = kernel_check(&opt);
	if (limited > 1)
		return limited;
	if (!limited && !environment_set(&opt))
		return HMM_EXIT_REFUSED;
	execvp(argv[0], argv);
	ret = errno;
	hmm_message("%s: %s", argv[0], strerror(ret));
	return ret == ENOENT ? HMM_EXIT_NOT_FOUND : HMM_EXIT_CANNOT_RUN;
}
