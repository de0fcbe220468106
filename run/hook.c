/* SPDX-License-Identifier: MIT */
/*
 * Who maps memory says so.
 *
 * The C library's malloc() gets its memory by calls that no preloaded library sees. So the
 * first instruction of the C library's mmap(), brk(), mprotect() and mremap() is replaced by
 * a jump to here, where the system call is made and the engine is told of it: memory that it
 * gates at once cannot grow unseen, however long the lookout has to wait for a CPU.
 *
 * It is done when the library is loaded, by one store of 8 bytes; the code that was there is
 * never run again, since all of it is done here. Where it cannot be done (another machine,
 * a system that lets nobody write to code, a C library of another make) the lookout sees what
 * was mapped when it looks. So it does for system calls made by hand.
 *
 * The caller may hold any lock of the C library's. What the engine does takes none.
 */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

#if defined(__x86_64__)

#define JUMP 0xe9 /* and how far, 4 bytes */
#define JUMP_SIZE 5
#define CODE_MIN 16 /* bytes that a function has at least */

/* Where libhmm's code is: its own memory is none of the program's. */
static RUN_DATA struct run_span own;
static RUN_DATA void **curbrk;

static bool from_own(const void *caller)
{
	return (uintptr_t)caller >= own.start && (uintptr_t)caller < own.end;
}

static long hooked(long ret)
{
	if ((unsigned long)ret <= -4096ul)
		return ret;
	errno = (int)-ret;
	return -1;
}

/* As the system call returns it: libc's syscall() sets errno, which is right only on failure. */
static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static void *hook_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	long ret = offset & 0xfff ? -EINVAL :
				    call(SYS_mmap, (long)addr, (long)len, prot, flags, fd, offset);
	bool program = (flags & (MAP_ANONYMOUS | MAP_PRIVATE | MAP_STACK)) ==
			       (MAP_ANONYMOUS | MAP_PRIVATE) &&
		       !from_own(__builtin_return_address(0));

	if ((unsigned long)ret <= -4096ul && program && (prot & PROT_WRITE || !prot))
		engine_mapped((unsigned long)ret, len, prot);
	return (void *)hooked(ret);
}

static int hook_brk(void *addr)
{
	unsigned long old = (unsigned long)*curbrk;
	unsigned long now = (unsigned long)call(SYS_brk, (long)addr, 0, 0, 0, 0, 0);

	*curbrk = (void *)now;
	if (now < (unsigned long)addr) {
		errno = ENOMEM;
		return -1;
	}
	if (old && now > old)
		engine_mapped(old, now - old, PROT_READ | PROT_WRITE);
	return 0;
}

static int hook_mprotect(void *addr, size_t len, int prot)
{
	long ret = call(SYS_mprotect, (long)addr, (long)len, prot, 0, 0, 0);

	if (!ret && prot & PROT_WRITE && !from_own(__builtin_return_address(0)))
		engine_mapped((unsigned long)addr, len, prot);
	return (int)hooked(ret);
}

static void *hook_mremap(void *old, size_t old_len, size_t len, int flags, void *to)
{
	long ret = call(SYS_mremap, (long)old, (long)old_len, (long)len, flags, (long)to, 0);

	if ((unsigned long)ret <= -4096ul && len > old_len)
		engine_mapped((unsigned long)ret + old_len, len - old_len, PROT_READ | PROT_WRITE);
	return (void *)hooked(ret);
}

/* ---- putting them in ---- */

static bool code_known(void *code)
{
	const ElfW(Sym) *symbol = NULL;
	Dl_info info;

	return code && !((uintptr_t)code & 7) &&
	       dladdr1(code, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol &&
	       info.dli_saddr == code && symbol->st_size >= CODE_MIN;
}

static void put(void *libc, const char *name, void *hook)
{
	char *code = dlsym(libc, name);
	unsigned long page = hmm_page_size(), at = (unsigned long)code & ~(page - 1);
	int64_t far = (char *)hook - (code + JUMP_SIZE);
	int32_t distance = (int32_t)far;
	char bytes[8];
	uint64_t word;

	if (!code_known(code) || far != distance)
		return;
	if (call(SYS_mprotect, (long)at, (long)page, PROT_READ | PROT_WRITE | PROT_EXEC, 0, 0, 0))
		return;
	memcpy(bytes, code, sizeof(bytes));
	bytes[0] = (char)JUMP;
	memcpy(bytes + 1, &distance, sizeof(distance));
	memcpy(&word, bytes, sizeof(word));
	__atomic_store_n((uint64_t *)(void *)code, word, __ATOMIC_RELEASE);
	call(SYS_mprotect, (long)at, (long)page, PROT_READ | PROT_EXEC, 0, 0, 0);
}

static int find_own(struct dl_phdr_info *info, size_t size, void *symbol)
{
	unsigned long addr = (unsigned long)symbol;
	int i;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++) {
		unsigned long start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		unsigned long end = start + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type != PT_LOAD || addr < start || addr >= end)
			continue;
		own = (struct run_span){ start, end };
		return 1;
	}
	return 0;
}

void hook_start(void)
{
	void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);

	if (!libc)
		return;
	curbrk = dlsym(RTLD_DEFAULT, "__curbrk");
	dl_iterate_phdr(find_own, dlsym(RTLD_DEFAULT, "hmm_map"));
	if (own.end) {
		put(libc, "mmap", (void *)hook_mmap);
		put(libc, "mprotect", (void *)hook_mprotect);
		put(libc, "mremap", (void *)hook_mremap);
		if (curbrk)
			put(libc, "brk", (void *)hook_brk);
	}
	dlclose(libc);
}

#else

void hook_start(void)
{
}

#endif
