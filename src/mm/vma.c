/* SPDX-License-Identifier: MIT */
/*
 * Looking up a mapping: PROCMAP_QUERY (Linux 6.11), else the maps file.
 *
 * Nothing here allocates or keeps anything: the answer is true for a moment,
 * and the caller has an op in progress that hears of changes.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mm/mm.h"
#include "mm/uapi.h"

#define FIND_TRIES 1000

static void vma_set_name(struct vma *vma, const char *name, size_t len)
{
	if (len >= sizeof(vma->name))
		len = sizeof(vma->name) - 1;
	memcpy(vma->name, name, len);
	vma->name[len] = '\0';
}

static int vma_query(struct mm *mm, unsigned long addr, struct vma *vma)
{
	char name[256] = "";
	struct procmap_query query = {
		.size = sizeof(query),
		.query_flags = MM_PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr,
		.vma_name_size = sizeof(name),
		.vma_name_addr = (unsigned long)name,
	};

	if (ioctl(mm->maps, PROCMAP_QUERY, &query)) {
		if (errno != ENAMETOOLONG)
			return -errno;
		query.vma_name_size = 0;
		query.vma_name_addr = 0;
		strcpy(name, "/");
		if (ioctl(mm->maps, PROCMAP_QUERY, &query))
			return -errno;
	}
	*vma = (struct vma){
		.start = query.vma_start,
		.end = query.vma_end,
		.read = query.vma_flags & MM_PROCMAP_QUERY_VMA_READABLE,
		.write = query.vma_flags & MM_PROCMAP_QUERY_VMA_WRITABLE,
		.exec = query.vma_flags & MM_PROCMAP_QUERY_VMA_EXECUTABLE,
		.shared = query.vma_flags & MM_PROCMAP_QUERY_VMA_SHARED,
		.file = query.inode || query.dev_major || query.dev_minor,
		.page_size = query.vma_page_size ? query.vma_page_size : hmm_page_size(),
	};
	vma_set_name(vma, name, strnlen(name, sizeof(name)));
	return 0;
}

static const char *parse_number(const char *p, unsigned int base, unsigned long *value)
{
	*value = 0;
	for (;; p++) {
		unsigned int digit;

		if (*p >= '0' && *p <= '9')
			digit = (unsigned int)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			digit = (unsigned int)(*p - 'a') + 10;
		else
			return p;
		if (digit >= base)
			return p;
		*value = *value * base + digit;
	}
}

/* start-end perms offset major:minor inode   name */
static void vma_parse(const char *line, size_t len, struct vma *vma)
{
	unsigned long offset, major, minor, inode;
	const char *p = parse_number(line, 16, &vma->start);
	const char *end = line + len;

	p = parse_number(p + 1, 16, &vma->end) + 1;
	vma->read = p[0] == 'r';
	vma->write = p[1] == 'w';
	vma->exec = p[2] == 'x';
	vma->shared = p[3] == 's';
	p = parse_number(p + 5, 16, &offset) + 1;
	p = parse_number(p, 16, &major) + 1;
	p = parse_number(p, 16, &minor) + 1;
	p = parse_number(p, 10, &inode);
	vma->file = inode || major || minor;
	vma->page_size = hmm_page_size();
	while (p < end && *p == ' ')
		p++;
	vma_set_name(vma, p, (size_t)(end - p));
}

/* Lines can be longer than the buffer; of such a line only the start matters. */
static int vma_read(unsigned long addr, struct vma *vma)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	bool skip = false;
	char buf[2048];
	size_t have = 0;
	ssize_t n;

	if (fd < 0)
		return -EIO;
	while ((n = read(fd, buf + have, sizeof(buf) - have)) > 0) {
		char *line = buf, *end = buf + have + (size_t)n, *eol;

		while ((eol = memchr(line, '\n', (size_t)(end - line))) ||
		       (line == buf && end == buf + sizeof(buf))) {
			if (!eol)
				eol = end - 1;
			if (!skip) {
				vma_parse(line, (size_t)(eol - line), vma);
				if (vma->end > addr) {
					close(fd);
					return 0;
				}
			}
			skip = *eol != '\n';
			line = eol + 1;
		}
		have = (size_t)(end - line);
		memmove(buf, line, have);
	}
	close(fd);
	return n < 0 ? -EIO : -ENOENT;
}

/* A line of smaps that begins a mapping: where it is. */
static bool smaps_head(const char *line, unsigned long *start, unsigned long *end)
{
	unsigned long from, to;
	const char *p = parse_number(line, 16, &from), *q;

	if (p == line || *p != '-')
		return false;
	q = parse_number(p + 1, 16, &to);
	if (q == p + 1 || *q != ' ')
		return false;
	*start = from;
	*end = to;
	return true;
}

struct smaps {
	int fd;
	size_t len;
	size_t pos;
	char buf[4096];
};

/* A line, cut off where it is longer; false at the end. */
static bool smaps_line(struct smaps *s, char *line, size_t size)
{
	size_t n = 0;

	for (;;) {
		if (s->pos == s->len) {
			ssize_t got = read(s->fd, s->buf, sizeof(s->buf));

			if (got <= 0)
				return false;
			s->len = (size_t)got;
			s->pos = 0;
		}
		if (s->buf[s->pos] == '\n')
			break;
		if (n + 1 < size)
			line[n++] = s->buf[s->pos];
		s->pos++;
	}
	s->pos++;
	line[n] = '\0';
	return true;
}

/*
 * Which mappings a child finds empty (MADV_WIPEONFORK): only smaps tells. @fn ends it by
 * anything but 0. Slow.
 */
int vma_each_wiped(int (*fn)(void *arg, unsigned long start, unsigned long end), void *arg)
{
	struct smaps s = { .fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC) };
	unsigned long start = 0, end = 0;
	char line[256];
	int ret = 0;

	if (s.fd < 0)
		return -errno;
	while (!ret && smaps_line(&s, line, sizeof(line))) {
		if (!smaps_head(line, &start, &end) && !strncmp(line, "VmFlags:", 8) &&
		    strstr(line, " wf"))
			ret = fn(arg, start, end);
	}
	close(s.fd);
	return ret;
}

/*
 * From 6.18 on mappings are looked up without the lock of the address space, and what
 * mremap() or mmap() with MAP_FIXED just replaces can be seen missing. mincore() takes it.
 */
static bool vma_missed(unsigned long addr)
{
	unsigned long page = page_round_down(addr);
	unsigned char resident;

	return !mincore((void *)page, hmm_page_size(), &resident);
}

int vma_find(struct mm *mm, unsigned long addr, struct vma *vma)
{
	unsigned int tries = 0;
	bool gap;
	int ret = debug_fail("vma");

	if (ret)
		return ret;
	do {
		ret = mm->procmap_query ? vma_query(mm, addr, vma) : vma_read(addr, vma);
		gap = ret == -ENOENT || (!ret && vma->start > addr);
	} while (gap && vma_missed(addr) && ++tries < FIND_TRIES);
	return ret;
}
