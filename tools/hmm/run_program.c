/* SPDX-License-Identifier: MIT */
/*
 * Can a program be given device memory? Only where the dynamic linker loads what
 * LD_PRELOAD names: not into one that is linked statically, that has another machine's code
 * or another C library, or that gains privileges. Of a script its interpreter counts.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "hmm.h"

#define SCRIPT_DEPTH 4
#define HEAD 256

/* As execvp(). 0 or the errno that it would end with. */
static int find(const char *name, char *path)
{
	const char *dirs = getenv("PATH");
	int ret = ENOENT;

	if (strchr(name, '/')) {
		snprintf(path, PATH_MAX, "%s", name);
		return access(path, X_OK) ? errno : 0;
	}
	if (!dirs)
		dirs = "/bin:/usr/bin";
	for (;;) {
		size_t len = strcspn(dirs, ":");
		struct stat st;

		snprintf(path, PATH_MAX, "%.*s%s%s", (int)len, dirs, len ? "/" : "", name);
		if (*name && !stat(path, &st) && S_ISREG(st.st_mode)) {
			if (!access(path, X_OK))
				return 0;
			ret = errno;
		}
		if (!dirs[len])
			return ret;
		dirs += len + 1;
	}
}

static int refuse(const char *path, const char *why)
{
	hmm_message("%s %s", path, why);
	return HMM_EXIT_REFUSED;
}

/* Who gains privileges by being run is not preloaded anything: ld.so(8). */
static int check_privilege(const char *path, const struct stat *st)
{
	if (st->st_mode & S_ISUID && st->st_uid != getuid())
		return refuse(path, "is setuid: nothing can be put into it");
	if ((st->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st->st_gid != getgid())
		return refuse(path, "is setgid: nothing can be put into it");
	if (getuid() && getxattr(path, "security.capability", NULL, 0) > 0)
		return refuse(path, "has file capabilities: nothing can be put into it");
	return 0;
}

/* The loader that this program itself runs by. */
static const char *own_loader(void)
{
	static char name[PATH_MAX];
	static const char fallback[] = "ld-linux-x86-64.so.2";
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[PATH_MAX + 100];

	while (maps && fgets(line, sizeof(line), maps)) {
		char *base = strrchr(line, '/');

		if (base && !strncmp(base + 1, "ld-", 3)) {
			base[strcspn(base, "\n")] = 0;
			snprintf(name, sizeof(name), "%s", base + 1);
		}
	}
	if (maps)
		fclose(maps);
	return name[0] ? name : fallback;
}

static int check_interp(const char *path, int fd, const ElfW(Phdr) *phdr)
{
	char interp[PATH_MAX] = "";
	const char *base;
	size_t len = phdr->p_filesz < sizeof(interp) ? phdr->p_filesz : sizeof(interp) - 1;

	if (pread(fd, interp, len, (off_t)phdr->p_offset) != (ssize_t)len)
		return refuse(path, "is damaged: its interpreter cannot be read");
	base = strrchr(interp, '/');
	base = base ? base + 1 : interp;
	if (strcmp(base, own_loader()) != 0 && !strstr(base, "ld-linux"))
		return refuse(path, "uses another C library than this one: nothing can be put into it");
	return 0;
}

static int check_elf(const char *path, int fd, const unsigned char *head)
{
	const ElfW(Ehdr) *ehdr = (const void *)head;
	ElfW(Ehdr) own;
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), i;
	bool known = self >= 0 && read(self, &own, sizeof(own)) == (ssize_t)sizeof(own);

	if (self >= 0)
		close(self);
	if (known && (ehdr->e_ident[EI_CLASS] != own.e_ident[EI_CLASS] ||
		      ehdr->e_ident[EI_DATA] != own.e_ident[EI_DATA] ||
		      ehdr->e_machine != own.e_machine))
		return refuse(path, "is for another kind of machine than this hmm: nothing can be "
				    "put into it");
	for (i = 0; i < ehdr->e_phnum; i++) {
		ElfW(Phdr) phdr;
		off_t at = (off_t)(ehdr->e_phoff + (ElfW(Off))i * ehdr->e_phentsize);

		if (pread(fd, &phdr, sizeof(phdr), at) != (ssize_t)sizeof(phdr))
			return refuse(path, "is damaged: its program headers cannot be read");
		if (phdr.p_type == PT_INTERP)
			return check_interp(path, fd, &phdr);
	}
	return refuse(path, "is linked statically: nothing can be put into it");
}

static int check_path(const char *path, unsigned int depth);

static int check_script(const char *head, unsigned int depth)
{
	const char *start = head + 2 + strspn(head + 2, " \t");
	char interp[HEAD];
	int ret;

	snprintf(interp, sizeof(interp), "%.*s", (int)strcspn(start, " \t\n"), start);
	ret = depth < SCRIPT_DEPTH ? check_path(interp, depth + 1) : 0;
	return ret;
}

/* What cannot be read, or is of no known kind, exec says itself. */
static int check_path(const char *path, unsigned int depth)
{
	unsigned char head[HEAD] __attribute__((aligned(8))) = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0) {
		if (!stat(path, &st))
			ret = check_privilege(path, &st);
		return ret;
	}
	n = read(fd, head, sizeof(head) - 1);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		ret = check_privilege(path, &st);
	if (!ret && n >= (ssize_t)sizeof(ElfW(Ehdr)) && !memcmp(head, ELFMAG, SELFMAG))
		ret = check_elf(path, fd, head);
	else if (!ret && n > 2 && head[0] == '#' && head[1] == '!')
		ret = check_script((const char *)head, depth);
	close(fd);
	return ret;
}

int hmm_check_program(const char *name, const char **path)
{
	static char found[PATH_MAX];
	int err = find(name, found);

	if (err) {
		hmm_message("%s: %s", name, strerror(err));
		return err == ENOENT || err == ENOTDIR ? HMM_EXIT_NOT_FOUND : HMM_EXIT_CANNOT_RUN;
	}
	*path = found;
	return check_path(found, 0);
}
