/* SPDX-License-Identifier: MIT */
/*
 * hmm top: the programs under `hmm run`, and where the memory of one of them is.
 *
 * It reads counters that the programs keep anyway, and the kernel's page map.
 */
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hmm.h"
#include "text.h"
#include "top.h"

#define ONCE_COLUMNS 100

struct options {
	double interval;
	pid_t pid;
	bool once;
};

static void help(FILE *to)
{
	fputs("usage: hmm top [OPTION...] [PID]\n"
	      "\n"
	      "Shows the programs under `hmm run' and what they do; with PID, or Enter on one of\n"
	      "them, a map of where its memory is.\n"
	      "\n"
	      "  -d, --delay=SECONDS  between two looks; 1 by default\n"
	      "  -1, --once           print one plain screen; the rates are since the programs\n"
	      "                       began\n"
	      "  -h, --help           this\n"
	      "\n"
	      "Keys: arrows, Page Up, Page Down; Enter the map; + and - its scale; Left or Esc\n"
	      "back to the programs; Space looks at once; q ends.\n"
	      "\n"
	      "Exit status: 0; 1 if there is no program PID under `hmm run'; 125 if hmm refuses.\n",
	      to);
}

static const struct option options[] = {
	{ "delay", required_argument, NULL, 'd' },
	{ "once", no_argument, NULL, '1' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool pid_valid(int n, char **words, struct options *opt)
{
	uint64_t pid = 0;

	if (n > 1)
		hmm_message("`%s' is one argument too many: see hmm top --help", words[1]);
	else if (n && !text_whole(words[0], 1, INT_MAX, &pid))
		hmm_message("`%s' is no process number", words[0]);
	else
		n = 0;
	opt->pid = (pid_t)pid;
	return !n;
}

/* -1: go on; else the exit status. */
static int options_read(int argc, char **argv, struct options *opt)
{
	int c;

	while ((c = hmm_option(argc, argv, ":d:1h", options)) != HMM_OPTION_END) {
		if (c == HMM_OPTION_BAD)
			return HMM_EXIT_REFUSED;
		if (c == 'h') {
			help(stdout);
			return text_end();
		}
		if (c == '1')
			opt->once = true;
		if (c == 'd' && !text_seconds(optarg, &opt->interval)) {
			hmm_message("`%s' is no delay: 0.01 to 86400 seconds", optarg);
			return HMM_EXIT_REFUSED;
		}
	}
	return pid_valid(argc - optind, argv + optind, opt) ? -1 : HMM_EXIT_REFUSED;
}

/* As wide as the terminal, where it is one, and what is told is cut there. */
static unsigned int columns(bool *cut)
{
	struct winsize size;

	*cut = !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col;
	return *cut ? size.ws_col : ONCE_COLUMNS;
}

static int once(const struct options *opt)
{
	struct programs programs = { 0 };
	struct sheet sheet = { 0 };
	struct map_view view = { 0 };
	struct program *program;
	bool cut;
	size_t i;

	view.columns = columns(&cut);
	programs_look(&programs);
	program = opt->pid ? programs_find(&programs, opt->pid) : NULL;
	if (program)
		map_sheet(&sheet, program, &view);
	else
		list_sheet(&sheet, &programs);
	for (i = 0; i < sheet.lines; i++)
		printf("%.*s\n", cut ? (int)view.columns : LINE_MAX_, sheet.line[i].text);
	sheet_free(&sheet);
	programs_free(&programs);
	return text_end();
}

int hmm_top(int argc, char **argv)
{
	struct options opt = { .interval = 1 };
	int ret = options_read(argc, argv, &opt);
	struct watched w;

	if (ret >= 0)
		return ret;
	if (opt.pid) {
		ret = watched_open(&w, opt.pid);
		if (ret) {
			hmm_message("process %d: %s", (int)opt.pid, watched_error(ret));
			return HMM_EXIT_MISSING;
		}
		watched_close(&w);
	}
	if (opt.once)
		return once(&opt);
	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
		hmm_message("this is no terminal: see hmm top --once");
		return HMM_EXIT_REFUSED;
	}
	return top_screen(opt.interval, opt.pid);
}
