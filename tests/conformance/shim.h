/* SPDX-License-Identifier: MIT */
/*
 * The shim that answers for the devices of Linux's HMM test in a program that knows
 * nothing of libhmm: preload.c has the program's calls, the others a kind of file each.
 *
 * All of it is on the program's side, beside the driver: it may touch any memory, and has
 * no callbacks. It reaches the program's memory as the kernel would, with -EFAULT for a
 * bad pointer, and makes no mappings in it: a test may look for a hole that it left.
 */
#ifndef CONFORMANCE_SHIM_H
#define CONFORMANCE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * struct shim_file - a kind of file, as an open file description of it behaves
 * @open: make the state of one; 0 or a negative errno
 * @ioctl: 0 or a negative errno; -ENOTTY: not one of its commands
 * @release: the last user has gone; 0 or a negative errno, for close()
 * @forget: this process is the child of another, and whatever was made is not its own;
 *	may be NULL
 * @mapped: a mapping of it is pages of zeros
 */
struct shim_file {
	int (*open)(unsigned int number, void **state);
	int (*ioctl)(void *state, unsigned long request, void *arg);
	int (*release)(void *state);
	void (*forget)(void);
	bool mapped;
};

extern const struct shim_file dmirror_file; /* dmirror.c */
extern const struct shim_file gup_file; /* gup.c */

/* shim_read() - copy from the program's memory; -EFAULT. shim_write(): to it */
int shim_read(void *to, uint64_t from, size_t len);
int shim_write(uint64_t to, const void *from, size_t len);

#endif
