/* SPDX-License-Identifier: MIT */
/*
 * mmap() of the examples in the sanitizer builds: what they map is a mapping of its own, see
 * apart.h. They need not know of it.
 */
#include "apart.h"

void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *mem = __real_mmap64(addr, len, prot, flags, fd, offset);

	if (mem != MAP_FAILED)
		keep_apart(mem, len);
	return mem;
}
