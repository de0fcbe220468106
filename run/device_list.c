/* SPDX-License-Identifier: MIT */
/* The devices by name: one entry each, and one list of options. */
#include <string.h>

#include "device_list.h"

static const struct run_device_option lz4_options[] = {
	{ "limit", "such as 512M; none of its own", "system memory that the device may use" },
	{ "acceleration", "1 to 65537; 1", "of LZ4: more is faster, and packs less" },
	{ "around", "pages; as libhmm finds best", "how much one CPU fault brings back" },
	{ NULL, NULL, NULL },
};

static const struct run_device_option dummy_options[] = {
	{ "memory", "such as 2G; 8 times the limit, 1 GiB at least", "memory that the device has" },
	{ "around", "pages; as libhmm finds best", "how much one CPU fault brings back" },
	{ NULL, NULL, NULL },
};

const struct run_device_info run_device_list[] = {
	{ "lz4", "compressed memory: what goes there takes a third of its size, or so",
	  lz4_options },
	{ "dummy", "ordinary memory, to try things out: saves nothing", dummy_options },
	{ NULL, NULL, NULL },
};

const struct run_device_info *run_device_known(const char *name, size_t len)
{
	const struct run_device_info *info;

	for (info = run_device_list; info->name; info++)
		if (strlen(info->name) == len && !strncmp(info->name, name, len))
			return info;
	return NULL;
}
