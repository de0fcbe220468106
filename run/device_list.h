/* SPDX-License-Identifier: MIT */
/*
 * The devices by name, with what can be told of them without making one: for the options
 * of `hmm run` and for `hmm devices`.
 */
#ifndef RUN_DEVICE_LIST_H
#define RUN_DEVICE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/**
 * struct run_device_option - what follows the name in --device=NAME,option=value
 * @name: of the option; NULL ends a list
 * @value: what the value is, and its default
 * @help: what it does
 */
struct run_device_option {
	const char *name;
	const char *value;
	const char *help;
};

/**
 * struct run_device_info - one device
 * @name: as in --device; NULL ends the list
 * @summary: what it is, a line
 * @options: its options
 */
struct run_device_info {
	const char *name;
	const char *summary;
	const struct run_device_option *options;
};

/* The first is the default. */
extern const struct run_device_info run_device_list[];

/* The first @len characters of @name; NULL: there is none of that name. */
const struct run_device_info *run_device_known(const char *name, size_t len);

#endif
