/* SPDX-License-Identifier: MIT */
/* Arguments, numbers, JSON. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hmm.h"
#include "text.h"

int hmm_option(int argc, char **argv, const char *letters, const struct option *options)
{
	const char *word;
	int c;

	opterr = 0;
	word = optind < argc ? argv[optind] : "";
	c = getopt_long(argc, argv, letters, options, NULL);
	if (c == ':') {
		hmm_message("%s needs a value: see hmm %s --help", word, argv[0]);
		return HMM_OPTION_BAD;
	}
	if (c == '?') {
		if (word[0] == '-' && word[1] == '-')
			hmm_message("there is no option `%s': see hmm %s --help", word, argv[0]);
		else
			hmm_message("there is no option `-%c': see hmm %s --help", optopt, argv[0]);
		return HMM_OPTION_BAD;
	}
	return c < 0 ? HMM_OPTION_END : c;
}

bool text_whole(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return !errno && !*end && *value >= low && *value <= high;
}

bool text_seconds(const char *text, double *value)
{
	char *end;

	if ((*text < '0' || *text > '9') && *text != '.')
		return false;
	*value = strtod(text, &end);
	return !*end && isfinite(*value) && *value >= 0.01 && *value <= 86400;
}

const char *text_size(char *buf, uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	double value = (double)bytes;
	unsigned int unit = 0;

	while (value >= 999.5 && unit + 2 < sizeof(units)) {
		value /= 1024;
		unit++;
	}
	if (!unit)
		snprintf(buf, TEXT_NUMBER, "%.0f", value);
	else
		snprintf(buf, TEXT_NUMBER, value < 99.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return buf;
}

const char *text_time(char *buf, double ns)
{
	if (ns < 999.5)
		snprintf(buf, TEXT_NUMBER, "%.0fns", ns);
	else if (ns < 999500)
		snprintf(buf, TEXT_NUMBER, ns < 99950 ? "%.1fus" : "%.0fus", ns / 1e3);
	else if (ns < 999.5e6)
		snprintf(buf, TEXT_NUMBER, ns < 99.95e6 ? "%.1fms" : "%.0fms", ns / 1e6);
	else
		snprintf(buf, TEXT_NUMBER, "%.1fs", ns / 1e9);
	return buf;
}

void text_json(FILE *to, const char *text)
{
	const unsigned char *at;

	fputc('"', to);
	for (at = (const unsigned char *)text; *at; at++) {
		if (*at == '"' || *at == '\\')
			fprintf(to, "\\%c", *at);
		else if (*at < 0x20 || *at >= 0x7f)
			fprintf(to, "\\u%04x", *at);
		else
			fputc(*at, to);
	}
	fputc('"', to);
}

void text_wrap(FILE *to, const char *text, int indent, int width)
{
	while (*text) {
		size_t len = strlen(text), cut = len;

		if (len > (size_t)width) {
			for (cut = (size_t)width; cut && text[cut] != ' '; cut--)
				;
			if (!cut)
				cut = (size_t)width;
		}
		fprintf(to, "%*s%.*s\n", indent, "", (int)cut, text);
		text += cut;
		text += strspn(text, " ");
	}
}

int text_end(void)
{
	if (!fflush(stdout) && !ferror(stdout))
		return HMM_EXIT_OK;
	hmm_message("cannot write: %s", strerror(errno));
	return HMM_EXIT_REFUSED;
}

uint64_t text_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}
