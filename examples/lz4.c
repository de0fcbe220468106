/* SPDX-License-Identifier: MIT */
/*
 * Memory that lies idle, kept compressed: a program puts away what it does not need for
 * now, and takes it up again as if nothing had been. docs/lz4.md explains it.
 *
 * A log of 32 MiB is written. All but its end is put away; then old entries are looked
 * up, by plain pointers and by a system call, and what they lie in comes back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hmm/hmm.h>
#include <lz4dev.h>

#define BYTES ((size_t)32 << 20)
#define ENTRY 64ul
#define ENTRIES (BYTES / ENTRY)
#define RECENT ((size_t)4 << 20)

static unsigned int wrong;

static void check(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "lz4: %s: wrong\n", what);
	wrong++;
}

static void entry_write(char *to, unsigned long nr)
{
	snprintf(to, ENTRY, "entry %lu: request from 10.0.%lu.%lu took %lu us\n", nr, nr % 251,
		 nr % 241, nr * 2654435761ul % 997);
}

static bool entry_right(const char *log, unsigned long nr)
{
	char expect[ENTRY] = "";

	entry_write(expect, nr);
	return !strcmp(log + nr * ENTRY, expect);
}

static void report(struct lz4_device *dev, const char *when)
{
	struct lz4_stats stats;

	lz4_get_stats(dev, &stats);
	printf("%s: %llu pages put away, in %.1f MiB\n", when, (unsigned long long)stats.pages,
	       (double)stats.memory / (1 << 20));
}

/* All but the end; what is written there next stays where it is. */
static int put_away(struct lz4_device *dev, const char *log)
{
	uint64_t start = (uintptr_t)log;
	unsigned long pages;
	int ret = lz4_migrate(dev, start, start + BYTES - RECENT, NULL, &pages);

	if (ret)
		return ret;
	check(pages > (BYTES - RECENT) / 2 >> hmm_page_shift(), "how many went");
	report(dev, "the log is old");
	return 0;
}

/* Nothing here knows that there is a device. */
static void use(const char *log)
{
	int fd = memfd_create("part of the log", MFD_CLOEXEC);
	unsigned long nr;

	for (nr = 0; nr < ENTRIES; nr += ENTRIES / 50)
		check(entry_right(log, nr), "an old entry");
	check(fd < 0 || write(fd, log + BYTES / 4, BYTES / 16) == (ssize_t)(BYTES / 16),
	      "write(2) of a part of it");
	if (fd >= 0)
		close(fd);
}

static int work(struct lz4_device *dev, char *log)
{
	struct lz4_stats stats;
	unsigned long nr;
	int ret = put_away(dev, log);

	if (ret)
		return ret;
	lz4_get_stats(dev, &stats);
	check(stats.memory < (BYTES - RECENT) / 2, "what it takes");
	use(log);
	report(dev, "some was looked up");
	madvise(log, BYTES / 2, MADV_DONTNEED); /* the first half is not needed any more */
	for (nr = ENTRIES / 2; nr < ENTRIES; nr++)
		check(entry_right(log, nr), "the second half");
	check(!log[0], "what was discarded");
	return 0;
}

int main(void)
{
	struct lz4_options opt = { .limit = BYTES };
	struct lz4_device *dev = NULL;
	unsigned long nr;
	char *log = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int ret;

	if (log == MAP_FAILED)
		return 1;
	for (nr = 0; nr < ENTRIES; nr++)
		entry_write(log + nr * ENTRY, nr);
	ret = lz4_create(&dev, &opt);
	if (!ret)
		ret = work(dev, log);
	if (ret)
		fprintf(stderr, "lz4: %s\n", strerror(-ret));
	check(!lz4_destroy(dev), "the device goes");
	munmap(log, BYTES);
	return ret == -EPERM || ret == -ENOSYS || ret == -EOPNOTSUPP ? 77 : ret || wrong;
}
