/* SPDX-License-Identifier: MIT */
/* hmm devices: what `hmm run --device' knows. */
#include <stdio.h>
#include <string.h>

#include "../../run/device_list.h"
#include "hmm.h"
#include "text.h"

static void help(FILE *to)
{
	fputs("usage: hmm devices [OPTION...] [NAME...]\n"
	      "\n"
	      "Lists the devices that `hmm run --device=NAME[,OPTION=VALUE...]' knows, with\n"
	      "their options; the first is the default.\n"
	      "\n"
	      "  -n, --names  the names alone, one a line\n"
	      "  -j, --json   as JSON\n"
	      "  -h, --help   this\n"
	      "\n"
	      "Exit status: 0; 1 if there is no device of that NAME; 125 if hmm refuses.\n",
	      to);
}

static const struct option options[] = {
	{ "names", no_argument, NULL, 'n' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void show_text(const struct run_device_info *info)
{
	const struct run_device_option *opt;

	printf("%s%s\n  %s\n", info->name, info == run_device_list ? " (default)" : "",
	       info->summary);
	for (opt = info->options; opt->name; opt++)
		printf("    %-14s %s\n%19s(%s)\n", opt->name, opt->help, "", opt->value);
}

static void show_json(const struct run_device_info *info)
{
	const struct run_device_option *opt;

	printf("  {\"name\": ");
	text_json(stdout, info->name);
	printf(", \"default\": %s, \"summary\": ", info == run_device_list ? "true" : "false");
	text_json(stdout, info->summary);
	printf(", \"options\": [");
	for (opt = info->options; opt->name; opt++) {
		printf("%s\n    {\"name\": ", opt == info->options ? "" : ",");
		text_json(stdout, opt->name);
		printf(", \"value\": ");
		text_json(stdout, opt->value);
		printf(", \"help\": ");
		text_json(stdout, opt->help);
		printf("}");
	}
	printf("]}");
}

static bool wanted(const struct run_device_info *info, char **names)
{
	char **name;

	for (name = names; *name; name++)
		if (!strcmp(*name, info->name))
			return true;
	return !*names;
}

static void show(char how, char **names)
{
	const struct run_device_info *info;
	bool first = true;

	if (how == 'j')
		printf("[");
	for (info = run_device_list; info->name; info++) {
		if (!wanted(info, names))
			continue;
		if (how == 'n') {
			puts(info->name);
		} else if (how == 'j') {
			printf(first ? "\n" : ",\n");
			show_json(info);
		} else {
			if (!first)
				putchar('\n');
			show_text(info);
		}
		first = false;
	}
	if (how == 'j')
		printf("\n]\n");
}

int hmm_devices(int argc, char **argv)
{
	char how = 't', **name;
	int c;

	while ((c = hmm_option(argc, argv, ":njh", options)) != HMM_OPTION_END) {
		if (c == HMM_OPTION_BAD)
			return HMM_EXIT_REFUSED;
		if (c == 'h') {
			help(stdout);
			return text_end();
		}
		how = (char)c;
	}
	for (name = argv + optind; *name; name++) {
		if (run_device_known(*name, strlen(*name)))
			continue;
		hmm_message("there is no device `%s': hmm devices lists them", *name);
		return HMM_EXIT_MISSING;
	}
	show(how, argv + optind);
	return text_end();
}
