/* SPDX-License-Identifier: MIT */
/*
 * A program that does one thing that programs do, with more memory of its own than the limit
 * under which `hmm run` gets it: tests/run/behave.py runs each act without hmm and under it, and
 * it must print the same and end the same way. It knows nothing of hmm.
 */
#ifndef RUN_ACT_H
#define RUN_ACT_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define DATA (40 * MIB) /* behave.py: the limit is 16 MiB */

/* An act: what it prints is compared, and what it returns is the exit status. */
struct act {
	const char *name;
	int (*run)(char **args);
};

extern const struct act acts_child[], acts_end[], acts_io[], acts_memory[], acts_privilege[],
	acts_signal[], acts_thread[];

/* Ends the program where it is not so. */
#define must(condition) ((condition) ? (void)0 : act_failed(__FILE__, __LINE__, #condition))
void act_failed(const char *file, int line, const char *what) __attribute__((noreturn));

/* @bytes from malloc() with a pattern; what a word must be; and whether all of it is so. */
uint64_t *data_new(size_t bytes, uint64_t seed);
void data_fill(uint64_t *data, size_t bytes, uint64_t seed);
void data_check(const uint64_t *data, size_t bytes, uint64_t seed);

#endif
