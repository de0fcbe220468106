/* SPDX-License-Identifier: MIT */
/* What the subcommands read from their arguments, and how they write numbers. */
#ifndef HMM_TEXT_H
#define HMM_TEXT_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TEXT_NUMBER 24

#define HMM_OPTION_END (-1)
#define HMM_OPTION_BAD (-2)

/*
 * getopt_long() with messages as hmm's others: an option, %HMM_OPTION_END, or
 * %HMM_OPTION_BAD, and what is wrong was told. @letters begins with ":" or "+:".
 */
int hmm_option(int argc, char **argv, const char *letters, const struct option *options);

/* All of @text is a number from @low to @high. */
bool text_whole(const char *text, uint64_t low, uint64_t high, uint64_t *value);
bool text_seconds(const char *text, double *value);

/* Into @buf, of %TEXT_NUMBER characters, which is returned: 1.5G; 12.3us; 5.12 GB/s. */
const char *text_size(char *buf, uint64_t bytes);
const char *text_time(char *buf, double ns);

/* A string of JSON, with its quotes. */
void text_json(FILE *to, const char *text);
/* @text in lines of up to @width characters, each after @indent blanks. */
void text_wrap(FILE *to, const char *text, int indent, int width);

/* What was written to standard output is there: %HMM_EXIT_OK, or %HMM_EXIT_REFUSED. */
int text_end(void);

uint64_t text_now(void); /* CLOCK_MONOTONIC, ns */

#endif
