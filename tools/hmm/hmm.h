/* SPDX-License-Identifier: MIT */
/*
 * The `hmm` program: what its subcommands share.
 *
 * Messages go to standard error and begin with "hmm SUBCOMMAND: ". Exit statuses of its own
 * are those of env(1) and nohup(1).
 */
#ifndef HMM_TOOL_H
#define HMM_TOOL_H

#include <stdbool.h>
#include <stdint.h>

enum hmm_exit {
	HMM_EXIT_OK = 0,
	HMM_EXIT_MISSING = 1, /* what was asked about is not there */
	HMM_EXIT_REFUSED = 125, /* hmm itself failed, or will not do it */
	HMM_EXIT_CANNOT_RUN = 126, /* the program is there and cannot be run */
	HMM_EXIT_NOT_FOUND = 127, /* it is not there */
};

/* A subcommand gets its own name as argv[0]. */
int hmm_bench(int argc, char **argv);
int hmm_devices(int argc, char **argv);
int hmm_doctor(int argc, char **argv);
int hmm_run(int argc, char **argv);
int hmm_stat(int argc, char **argv);
int hmm_top(int argc, char **argv);

/* main.c */
void hmm_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* 1048576, 1024k, 1M, 1MiB, 1.5G: bytes. False: it is none, or 0. */
bool hmm_parse_size(const char *text, uint64_t *bytes);

/* run_program.c */
/*
 * Can this program be given device memory? 0, and @path is what would be run, @path NULL
 * where the shell would; or enum hmm_exit, and the reason was told.
 */
int hmm_check_program(const char *name, const char **path);

/*
 * Into @path, of PATH_MAX characters: the library @name, which is in the folder @built of a
 * build directory. False: it is not there.
 */
bool hmm_library(char *path, const char *name, const char *built);

#endif
