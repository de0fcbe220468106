/* SPDX-License-Identifier: MIT */
/* The devices as `hmm bench` and `hmm doctor` use them, in this process. */
#ifndef HMM_DEVICE_TABLE_H
#define HMM_DEVICE_TABLE_H

#include <stddef.h>
#include <stdint.h>

/**
 * struct tool_device - one device; all functions return 0 or a negative errno
 * @name: as in the list of devices
 * @create: one with room for @bytes of anything
 * @migrate: a range goes there; *@pages: how many of it are there then
 * @evict: and comes back; *@pages: how many did
 * @destroy: it goes; what it has comes back first
 */
struct tool_device {
	const char *name;
	int (*create)(void **dev, size_t bytes);
	int (*migrate)(void *dev, uint64_t start, uint64_t end, unsigned long *pages);
	int (*evict)(void *dev, uint64_t start, uint64_t end, unsigned long *pages);
	int (*destroy)(void *dev);
};

/* Those that this program was built with; NULL ends the list. */
extern const struct tool_device *const tool_devices[];

extern const struct tool_device tool_dummy;
extern const struct tool_device tool_lz4;

#endif
