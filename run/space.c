/* SPDX-License-Identifier: MIT */
/*
 * What memory the program has, from /proc/self.
 *
 * The spans that could go are kept in a table, which the engine has made again when the size
 * of the address space has changed. A table that is old only costs a look: libhmm finds
 * what is there.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

#define SPANS_MAX 65536 /* vm.max_map_count, about */

/*
 * Open from the beginning: a descriptor that comes and goes has a number that the program can
 * close, and give to a file of its own, while it is in use here.
 */
static RUN_DATA int statm_fd = -1;
static RUN_DATA int maps_fd = -1;

static RUN_DATA struct run_span *spans; /* sorted */
static RUN_DATA unsigned long n_spans;

/*
 * size resident shared text 0 data 0: pages. What is shared is files and shared memory; data
 * is what is private and writable: mprotect() changes it, and not the size.
 */
bool run_memory(struct run_memory *memory)
{
	char buf[128], *pos = buf;
	uint64_t size, resident;
	unsigned int i;

	long n = syscall(SYS_pread64, statm_fd, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		return false;
	buf[n] = 0;
	size = strtoull(pos, &pos, 10);
	resident = strtoull(pos, &pos, 10);
	resident -= strtoull(pos, &pos, 10);
	for (i = 0; i < 2; i++)
		strtoull(pos, &pos, 10);
	memory->writable = strtoull(pos, &pos, 10) << hmm_page_shift();
	memory->mapped = size << hmm_page_shift();
	memory->resident = resident << hmm_page_shift();
	return true;
}

/* pid (comm) state: the name may have anything in it, but is not long. */
bool run_sleeps(uint32_t tid)
{
	char path[64], buf[128], *end;

	snprintf(path, sizeof(path), "/proc/self/task/%u/stat", tid);
	if (sys_file(path, buf, sizeof(buf)) <= 0)
		return false;
	end = strrchr(buf, ')');
	return end && (end[2] == 'S' || end[2] == 'D');
}

/* start-end rwxp offset device inode [name] */
static bool line_movable(const char *line, struct run_span *span)
{
	char *pos;

	span->start = strtoul(line, &pos, 16);
	if (*pos++ != '-')
		return false;
	span->end = strtoul(pos, &pos, 16);
	if (strncmp(pos, " rw-p ", 6) != 0)
		return false;
	pos = strchr(pos + 6, ' '); /* the offset's end */
	pos = pos ? strchr(pos + 1, ' ') : NULL; /* the device's */
	if (!pos || pos[1] != '0' || pos[2] > ' ')
		return false;
	return !strstr(pos, "[stack]") && !strstr(pos, "libhmm");
}

static void span_add(const struct run_span *span)
{
	if (n_spans && spans[n_spans - 1].end == span->start)
		spans[n_spans - 1].end = span->end;
	else if (n_spans < SPANS_MAX)
		spans[n_spans++] = *span;
}

static void lines_read(int fd, char *buf, size_t size)
{
	size_t have = 0;
	long n;

	while ((n = sys_read(fd, buf + have, size - 1 - have)) > 0) {
		char *line = buf, *end;
		struct run_span span;

		have += (size_t)n;
		buf[have] = 0;
		while ((end = strchr(line, '\n'))) {
			*end = 0;
			if (line_movable(line, &span))
				span_add(&span);
			line = end + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == size - 1)
			have = 0; /* no name is that long */
	}
}

void run_span_refresh(void)
{
	static const size_t size = 1 << 16;
	char *buf;

	if (!spans)
		spans = hmm_map(SPANS_MAX * sizeof(*spans));
	buf = spans ? hmm_alloc(size) : NULL;
	if (!buf)
		return;
	if (!syscall(SYS_lseek, maps_fd, 0, SEEK_SET)) {
		n_spans = 0;
		lines_read(maps_fd, buf, size);
	}
	hmm_free(buf);
}

int run_space_open(void)
{
	statm_fd = hmm_fd_keep(sys_open("/proc/self/statm", O_RDONLY, 0));
	maps_fd = hmm_fd_keep(sys_open("/proc/self/maps", O_RDONLY, 0));
	return statm_fd < 0 ? statm_fd : maps_fd < 0 ? maps_fd : 0;
}

/*
 * The files are the parent's. The table is in the parent's arena, which in a child is memory
 * like any other.
 */
void run_space_forget(void)
{
	hmm_fd_close(statm_fd);
	hmm_fd_close(maps_fd);
	statm_fd = maps_fd = -1;
	spans = NULL;
	n_spans = 0;
}

bool run_span_next(unsigned long addr, struct run_span *span)
{
	unsigned long low = 0, high = n_spans;

	while (low < high) {
		unsigned long middle = (low + high) / 2;

		if (spans[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == n_spans)
		return false;
	*span = spans[low];
	if (span->start < addr)
		span->start = addr;
	return true;
}
