/* SPDX-License-Identifier: MIT */
/*
 * hmm stat: what a program under `hmm run` does, a line each interval, as vmstat does.
 *
 * It reads counters that the program keeps anyway: that costs the program nothing.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "hmm.h"
#include "text.h"
#include "watch.h"

#define HEADER_EVERY 20

struct options {
	pid_t pid;
	double interval;
	uint64_t count; /* 0: until the program ends */
	bool json;
};

static void help(FILE *to)
{
	fputs("usage: hmm stat [OPTION...] PID [INTERVAL [COUNT]]\n"
	      "\n"
	      "Prints what a program under `hmm run' does, a line each INTERVAL seconds (1), COUNT\n"
	      "times or until the program ends. The first line is of all the time since the\n"
	      "program began, each other one of the time since the line before.\n"
	      "\n"
	      "  -j, --json  a JSON object a line\n"
	      "  -h, --help  this\n"
	      "\n"
	      "  state      watching: far below its limit; holding: kept below it; failed: not\n"
	      "  resident   anonymous memory that is there, without the device's\n"
	      "  on-device  memory of the program that is on the device\n"
	      "  limit      what may be resident\n"
	      "  faults/s   CPU faults that were answered\n"
	      "  moves/s    calls that moved memory to the device\n"
	      "  out/s      bytes that went there\n"
	      "  back/s     bytes that came back\n"
	      "  waits/s    times that a thread waited for room\n"
	      "  p50, p99   how long a fault took: the median, and 99 of 100 took no longer\n"
	      "\n"
	      "Exit status: 0; 1 if there is no such program; 125 if hmm refuses.\n",
	      to);
}

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool arguments_read(int n, char **words, struct options *opt)
{
	uint64_t pid;

	if (n < 1) {
		hmm_message("which process? See hmm stat --help, or hmm top");
		return false;
	}
	if (n > 3) {
		hmm_message("`%s' is one argument too many: see hmm stat --help", words[3]);
		return false;
	}
	if (!text_whole(words[0], 1, INT_MAX, &pid)) {
		hmm_message("`%s' is no process number", words[0]);
		return false;
	}
	opt->pid = (pid_t)pid;
	if (n > 1 && !text_seconds(words[1], &opt->interval)) {
		hmm_message("`%s' is no interval: 0.01 to 86400 seconds", words[1]);
		return false;
	}
	if (n > 2 && !text_whole(words[2], 1, UINT64_MAX, &opt->count)) {
		hmm_message("`%s' is no count: 1 or more", words[2]);
		return false;
	}
	return true;
}

/* -1: go on; else the exit status. */
static int options_read(int argc, char **argv, struct options *opt)
{
	int c;

	while ((c = hmm_option(argc, argv, ":jh", options)) != HMM_OPTION_END) {
		if (c == HMM_OPTION_BAD)
			return HMM_EXIT_REFUSED;
		if (c == 'h') {
			help(stdout);
			return text_end();
		}
		opt->json = true;
	}
	return arguments_read(argc - optind, argv + optind, opt) ? -1 : HMM_EXIT_REFUSED;
}

static unsigned int header_every(void)
{
	struct winsize size;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row > 4)
		return size.ws_row - 2u;
	return HEADER_EVERY;
}

static void show_text(const struct hmm_run_stats *s, const struct rates *r)
{
	char resident[TEXT_NUMBER], device[TEXT_NUMBER], limit[TEXT_NUMBER], out[TEXT_NUMBER];
	char back[TEXT_NUMBER], p50[TEXT_NUMBER] = "-", p99[TEXT_NUMBER] = "-";

	if (r->p50 > 0) {
		text_time(p50, r->p50);
		text_time(p99, r->p99);
	}
	printf("%-8s %8s %9s %7s %9.0f %8.0f %7s %7s %8.0f %7s %7s\n", watched_state(s),
	       text_size(resident, s->resident), text_size(device, s->on_device),
	       text_size(limit, s->limit), r->faults, r->migrations,
	       text_size(out, (uint64_t)llround(r->out)),
	       text_size(back, (uint64_t)llround(r->back)), r->waits, p50, p99);
}

static void show_json(pid_t pid, const struct hmm_run_stats *s, const struct rates *r)
{
	printf("{\"time\": %.3f, \"pid\": %d, \"state\": \"%s\", \"device\": ", (double)time(NULL),
	       (int)pid, watched_state(s));
	text_json(stdout, s->device);
	printf(", \"seconds\": %.3f, \"resident\": %llu, \"on_device\": %llu, \"limit\": %llu, "
	       "\"device_memory\": %llu, ",
	       r->seconds, (unsigned long long)s->resident, (unsigned long long)s->on_device,
	       (unsigned long long)s->limit, (unsigned long long)s->device_memory);
	printf("\"faults_per_s\": %.1f, \"migrations_per_s\": %.1f, \"out_bytes_per_s\": %.0f, "
	       "\"back_bytes_per_s\": %.0f, \"waits_per_s\": %.1f, ",
	       r->faults, r->migrations, r->out, r->back, r->waits);
	if (r->p50 > 0)
		printf("\"fault_p50_ns\": %.0f, \"fault_p99_ns\": %.0f}\n", r->p50, r->p99);
	else
		printf("\"fault_p50_ns\": null, \"fault_p99_ns\": null}\n");
}

static void show(const struct options *opt, uint64_t line, const struct hmm_run_stats *stats,
		 const struct rates *rates)
{
	if (opt->json) {
		show_json(opt->pid, stats, rates);
		return;
	}
	if (line % header_every() == 0)
		printf("%-8s %8s %9s %7s %9s %8s %7s %7s %8s %7s %7s\n", "state", "resident",
		       "on-device", "limit", "faults/s", "moves/s", "out/s", "back/s", "waits/s",
		       "p50", "p99");
	show_text(stats, rates);
}

static void sleep_until(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000),
			       .tv_nsec = (long)(ns % 1000000000) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* That the program has ended meanwhile is the end, and no error. */
static int watch(const struct options *opt, struct watched *w)
{
	uint64_t next = text_now(), last = 0, line;
	struct hmm_run_stats now, before;
	struct rates rates;

	for (line = 0; !opt->count || line < opt->count; line++) {
		bool restarted;
		uint64_t at;

		if (line) {
			next += (uint64_t)(opt->interval * 1e9);
			sleep_until(next);
		}
		if (watched_read(w, &now, &restarted))
			break;
		at = text_now();
		if (!line || restarted)
			rates_between(&rates, NULL, &now, rates_age(&now));
		else
			rates_between(&rates, &before, &now, (double)(at - last) / 1e9);
		show(opt, line, &now, &rates);
		if (text_end())
			return HMM_EXIT_REFUSED;
		before = now;
		last = at;
	}
	return HMM_EXIT_OK;
}

int hmm_stat(int argc, char **argv)
{
	struct options opt = { .interval = 1 };
	struct watched w;
	int ret = options_read(argc, argv, &opt);

	if (ret >= 0)
		return ret;
	ret = watched_open(&w, opt.pid);
	if (ret) {
		hmm_message("process %d: %s", (int)opt.pid, watched_error(ret));
		return HMM_EXIT_MISSING;
	}
	ret = watch(&opt, &w);
	watched_close(&w);
	return ret;
}
