/* SPDX-License-Identifier: MIT */
/*
 * Finds the counters of a process under `hmm run` (hmm/run_stats.h), and reads them.
 *
 * They are read with pread() and never mapped: the file is another process's, who could make
 * it shorter. A process made by fork() still has its parent's, beside its own: the process
 * number in it tells which it is. In another name space for processes that is another
 * number, which /proc/PID/status tells.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "watch.h"

static const char link_text[] = "/memfd:" HMM_RUN_STATS_NAME " (deleted)";

/* Its number for itself. */
static pid_t inner_pid(pid_t pid)
{
	char path[64], line[256];
	pid_t inner = pid;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		char *last;

		if (strncmp(line, "NSpid:", 6) != 0)
			continue;
		line[strcspn(line, "\n")] = 0;
		last = strrchr(line, '\t');
		if (last)
			inner = (pid_t)atol(last + 1);
	}
	if (file)
		fclose(file);
	return inner;
}

/* 0; -ENOENT these are not its counters; -EPROTO of another version. */
static int stats_read(const struct watched *w, struct hmm_run_stats *stats)
{
	size_t head = offsetof(struct hmm_run_stats, device), size;
	char *at;

	memset(stats, 0, sizeof(*stats));
	if (pread(w->fd, stats, head, w->base) != (ssize_t)head ||
	    stats->magic != HMM_RUN_STATS_MAGIC)
		return -ENOENT;
	if (stats->version != HMM_RUN_STATS_VERSION || stats->size < head)
		return -EPROTO;
	size = stats->size < sizeof(*stats) ? stats->size : sizeof(*stats);
	if (pread(w->fd, stats, size, w->base) != (ssize_t)size)
		return -ENOENT;
	/* Whose file it is may be anybody: nothing for the terminal in it. */
	stats->device[sizeof(stats->device) - 1] = 0;
	for (at = stats->device; *at; at++)
		if (*at < ' ' || *at > '~')
			*at = '?';
	return 0;
}

static int stats_check(const struct watched *w)
{
	struct hmm_run_stats stats;
	int ret = stats_read(w, &stats);

	if (!ret && stats.pid != (uint32_t)w->pid && stats.pid != (uint32_t)inner_pid(w->pid))
		ret = -ENOENT;
	return ret;
}

/* Descriptor @name of the process, in @dir: are these its counters? */
static int try_descriptor(struct watched *w, int dir, const char *name)
{
	char text[sizeof(link_text)];
	ssize_t n = readlinkat(dir, name, text, sizeof(text));
	struct stat st;
	int ret;

	if (n != (ssize_t)sizeof(link_text) - 1 || memcmp(text, link_text, (size_t)n) != 0)
		return -ENOENT;
	w->fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	if (w->fd < 0)
		return -errno;
	w->base = 0;
	w->number = atoi(name);
	ret = fstat(w->fd, &st) ? -errno : stats_check(w);
	w->inode = st.st_ino;
	if (ret)
		watched_close(w);
	return ret;
}

static int find_descriptor(struct watched *w)
{
	char path[64];
	struct dirent *entry;
	int ret = -ENOENT;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)w->pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	while ((entry = readdir(dir)) && ret && ret != -EPROTO)
		if (entry->d_name[0] != '.')
			ret = try_descriptor(w, dirfd(dir), entry->d_name);
	closedir(dir);
	return ret;
}

/* The program has closed the descriptor: read what is mapped. */
static int find_mapping(struct watched *w)
{
	char path[64], line[PATH_MAX + 128];
	unsigned long start = 0;
	int ret = -ENOENT;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)w->pid);
	maps = fopen(path, "re");
	while (maps && !start && fgets(line, sizeof(line), maps)) {
		unsigned long long inode = 0;

		if (strstr(line, link_text) &&
		    sscanf(line, "%lx-%*x %*s 0 %*s %llu", &start, &inode) == 2)
			w->inode = (ino_t)inode;
	}
	if (maps)
		fclose(maps);
	if (!start)
		return ret;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)w->pid);
	w->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (w->fd < 0)
		return -errno;
	w->base = (off_t)start;
	w->number = -1;
	ret = stats_check(w);
	if (ret)
		watched_close(w);
	return ret;
}

int watched_open(struct watched *w, pid_t pid)
{
	int ret;

	*w = (struct watched){ .pid = pid, .fd = -1 };
	ret = find_descriptor(w);
	return ret == -ENOENT ? find_mapping(w) : ret;
}

void watched_close(struct watched *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

/* Does the process still have what is read? */
static bool watched_same(const struct watched *w)
{
	char path[80];
	struct stat st;

	if (w->fd < 0)
		return false;
	if (w->number < 0)
		return true; /* reading its memory fails when that is no more */
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)w->pid, w->number);
	return !stat(path, &st) && st.st_ino == w->inode;
}

int watched_read(struct watched *w, struct hmm_run_stats *stats, bool *restarted)
{
	ino_t inode = w->inode;
	int ret;

	*restarted = false;
	if (watched_same(w) && !stats_read(w, stats))
		return 0;
	watched_close(w);
	ret = watched_open(w, w->pid);
	if (ret)
		return ret;
	*restarted = w->inode != inode;
	return stats_read(w, stats);
}

bool watched_bytes(const struct watched *w, uint64_t offset, void *buf, size_t bytes)
{
	char *to = buf;

	while (bytes) {
		ssize_t n = pread(w->fd, to, bytes, w->base + (off_t)offset);

		if (n <= 0)
			return false;
		to += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return true;
}

static int compare(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

size_t watched_list(pid_t **pids)
{
	DIR *dir = opendir("/proc");
	size_t n = 0, room = 0;
	struct dirent *entry;

	*pids = NULL;
	while (dir && (entry = readdir(dir))) {
		pid_t pid = (pid_t)atol(entry->d_name);
		struct watched w;

		if (pid <= 0 || watched_open(&w, pid))
			continue;
		watched_close(&w);
		if (n == room) {
			pid_t *more = realloc(*pids, (room = room * 2 + 16) * sizeof(**pids));

			if (!more)
				break;
			*pids = more;
		}
		(*pids)[n++] = pid;
	}
	if (dir)
		closedir(dir);
	if (n)
		qsort(*pids, n, sizeof(**pids), compare);
	return n;
}

const char *watched_error(int error)
{
	switch (error) {
	case -ESRCH:
		return "there is no such process";
	case -EACCES:
	case -EPERM:
		return "it is another user's: root can look into it";
	case -ENOENT:
		return "it is not under hmm run";
	case -EPROTO:
		return "it is under the hmm run of another version";
	default:
		return strerror(-error);
	}
}

void watched_command(pid_t pid, char *buf, size_t size)
{
	static const char *const files[] = { "cmdline", "comm" };
	unsigned int i;
	char path[64];

	for (i = 0; i < 2; i++) {
		ssize_t n = -1, k;
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			n = read(fd, buf, size - 1);
			close(fd);
		}
		while (n > 0 && (!buf[n - 1] || buf[n - 1] == '\n'))
			n--;
		if (n <= 0)
			continue;
		buf[n] = 0;
		for (k = 0; k < n; k++)
			if ((unsigned char)buf[k] < ' ' || buf[k] == 127)
				buf[k] = ' ';
		return;
	}
	snprintf(buf, size, "?");
}

const char *watched_state(const struct hmm_run_stats *stats)
{
	switch (stats->state) {
	case HMM_RUN_WATCHING:
		return "watching";
	case HMM_RUN_HOLDING:
		return "holding";
	case HMM_RUN_FAILED:
		return "failed";
	default:
		return "?";
	}
}
