// SPDX-License-Identifier: MIT
#include "bench_zram.h"
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

#define SWAP_PREFER 0x8000 /* SWAP_FLAG_PREFER, priority 0x7fff: before any other */

static int zram = -1; /* its number */

static int text_get(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return -errno;
	text[n] = 0;
	return 0;
}

static int text_put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

static int zram_put(const char *name, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/zram%d/%s", zram, name);
	return text_put(path, text);
}

void bench_zram_end(void)
{
	char text[32];

	if (zram < 0)
		return;
	snprintf(text, sizeof(text), "/dev/zram%d", zram);
	swapoff(text);
	zram_put("reset", "1");
	snprintf(text, sizeof(text), "%d", zram);
	text_put("/sys/class/zram-control/hot_remove", text);
	zram = -1;
}

/* An empty swap area: its header is the end of its first page. */
static int swap_header(const char *device, size_t disk)
{
	char page[4096] = { 0 };
	uint32_t *info = (uint32_t *)(void *)(page + 1024);
	int fd = open(device, O_WRONLY | O_CLOEXEC), ret = 0;

	info[0] = 1; /* version */
	info[1] = (uint32_t)(disk / sizeof(page)) - 1; /* last page */
	memcpy(page + sizeof(page) - 10, "SWAPSPACE2", 10);
	if (fd < 0 || write(fd, page, sizeof(page)) != sizeof(page) || fsync(fd))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Interrupted: what atexit() was told of is to be done all the same. */
static void stop(int nr)
{
	exit(128 + nr);
}

static const char *because(const char *format, ...)
{
	static char why[128];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	return why;
}

const char *bench_zram_begin(size_t disk)
{
	char text[64];
	int ret;

	if (!getenv("HMM_BENCH_ZRAM"))
		return "it would swap to a zram device; HMM_BENCH_ZRAM=1 lets it";
	if (geteuid())
		return "only root may make a zram device";
	if (bench_page_size() != 4096)
		return "made for pages of 4 KiB";
	ret = text_get("/sys/class/zram-control/hot_add", text, sizeof(text));
	if (ret)
		return because("no zram device to be had: %s (modprobe zram?)", strerror(-ret));
	zram = atoi(text);
	atexit(bench_zram_end);
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	ret = zram_put("comp_algorithm", "lz4");
	if (ret)
		return because("zram has no lz4: %s", strerror(-ret));
	snprintf(text, sizeof(text), "%zu", disk);
	ret = zram_put("disksize", text);
	snprintf(text, sizeof(text), "/dev/zram%d", zram);
	if (!ret)
		ret = swap_header(text, disk);
	if (!ret && swapon(text, SWAP_PREFER | 0x7fff))
		ret = -errno;
	return ret ? because("no swap on %s: %s", text, strerror(-ret)) : NULL;
}

/* mm_stat: what is stored, what it was compressed to, what is used in all. */
double bench_zram_memory(void)
{
	char path[64], text[256];
	double stored = 0, compressed = 0, used = 0;

	snprintf(path, sizeof(path), "/sys/block/zram%d/mm_stat", zram);
	if (text_get(path, text, sizeof(text)) ||
	    sscanf(text, "%lf %lf %lf", &stored, &compressed, &used) != 3)
		bench_fail("%s", path);
	return used;
}
