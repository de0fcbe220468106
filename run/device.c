/* SPDX-License-Identifier: MIT */
/* The devices that a program can be given. The first is the default. */
#include <string.h>

#include "run.h"

static const struct run_device_ops *const devices[] = {
	&run_lz4_ops,
	&run_dummy_ops,
};

const struct run_device_ops *run_device(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
		if (!strcmp(devices[i]->name, name))
			return devices[i];
	return NULL;
}
