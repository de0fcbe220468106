/* SPDX-License-Identifier: MIT */
/* The devices: one file device_NAME.c each. */
#include "device.h"

const struct tool_device *const tool_devices[] = {
	&tool_lz4,
	&tool_dummy,
	NULL,
};
