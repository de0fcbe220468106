/* SPDX-License-Identifier: MIT */
/* What a run may not leave behind: memory, mappings, descriptors, threads. */
#include <dirent.h>

#include "stress/stage.h"

#define SLACK_BYTES (2 * MIB)
#define SLACK_VMAS 40 /* stacks of threads that libc keeps for the next ones */

struct holdings {
	size_t bytes;
	size_t vmas;
	size_t fds;
	size_t threads;
};

static struct holdings base;

static size_t entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static size_t status_value(const char *key)
{
	FILE *file = fopen("/proc/self/status", "re");
	size_t len = strlen(key), val = 0;
	char line[256];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, key, len))
			val = strtoul(line + len, NULL, 10);
	fclose(file);
	return val;
}

static size_t count_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	size_t n = 0;
	int c;

	assert_non_null(file);
	while ((c = fgetc(file)) != EOF)
		n += c == '\n';
	fclose(file);
	return n;
}

static struct holdings holdings(void)
{
	return (struct holdings){
		.bytes = status_value("RssAnon:") << 10,
		.vmas = count_lines("/proc/self/maps"),
		.fds = entries("/proc/self/fd"),
		.threads = entries("/proc/self/task"),
	};
}

static void *nothing(void *arg)
{
	return arg;
}

/* After a device and a thread have been: what they leave is left once. */
void leaks_begin(void)
{
	struct dummy_options opt = { .memory = MIB };
	struct dummy_device *dev = device_new(&opt);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, nothing, NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(dummy_destroy(dev), 0);
	base = holdings();
}

static bool leaks_any(const struct holdings *now, size_t allowed)
{
	/* Sanitizers have memory and mappings of their own. */
	if (SLOWER == 1 && now->bytes > base.bytes + SLACK_BYTES + allowed)
		return true;
	if (allowed)
		return false;
	return (SLOWER == 1 && now->vmas > base.vmas + SLACK_VMAS) || now->fds != base.fds ||
	       now->threads != base.threads;
}

/*
 * @allowed: bytes that the devices and the pool may hold; 0: none are left, and then
 * descriptors, threads and mappings are as they were.
 */
void leaks_check(size_t allowed, const char *when)
{
	struct holdings now = holdings();
	unsigned int i;

	/* A thread that was joined may still be on its way out. */
	for (i = 0; i < 1000 && leaks_any(&now, allowed); i++) {
		sleep_us(1000);
		now = holdings();
	}
	print_message("%s: anonymous %zu KiB (at first %zu), mappings %zu (%zu)\n", when,
		      now.bytes >> 10, base.bytes >> 10, now.vmas, base.vmas);
	if (leaks_any(&now, allowed))
		fail_msg("LEAK, %s: bytes %zu (%zu and %zu), mappings %zu (%zu), "
			 "descriptors %zu (%zu), threads %zu (%zu)",
			 when, now.bytes, base.bytes, allowed, now.vmas, base.vmas, now.fds,
			 base.fds, now.threads, base.threads);
}

/*
 * A device page table may have entries of what lies beside a tent, but none of what is
 * gone.
 */
static int translated(const struct dummy_page *page, void *arg)
{
	const struct stage *s = arg;
	uint64_t end = address(s->side) + (SETTLERS + 1) * RANGE_MAX * hmm_page_size();

	if (page->addr < address(s->mem) || page->addr >= end)
		return 0;
	fprintf(stderr, "LEAK: a device still has an entry of 0x%llx\n",
		(unsigned long long)page->addr);
	return -EEXIST;
}

/*
 * Nothing is anywhere but in the system. What went to a device came back or was
 * dropped, and only drops are not counted; a page comes back from staging as well.
 */
void stats_check(struct stage *s)
{
	struct hmm_stats now = { .size = sizeof(now) };
	uint64_t in = s->pages_in, to, from, staged;
	unsigned int i;

	assert_int_equal(hmm_get_stats(&now), 0);
	to = now.pages_to_device - s->before.pages_to_device;
	from = now.pages_from_device - s->before.pages_from_device;
	staged = now.pages_staged - s->before.pages_staged;
	for (i = 0; i < s->plan->devices; i++) {
		struct dummy_stats stats;

		dummy_get_stats(s->dev[i], &stats);
		in += stats.pages_in;
		assert_int_equal(stats.dma_errors, 0);
		assert_int_equal(stats.iommu_faults, 0);
		assert_int_equal(stats.dma_maps - stats.dma_unmaps, stats.dma_mapped);
		assert_int_equal(dummy_for_each_page(s->dev[i], translated, s), 0);
	}
	print_message(
		"pages to devices %llu, back %llu (staged %llu), CPU faults %llu, events %llu\n",
		(unsigned long long)to, (unsigned long long)from, (unsigned long long)staged,
		(unsigned long long)(now.cpu_faults - s->before.cpu_faults),
		(unsigned long long)(now.events - s->before.events));
	assert_int_equal(to, in);
	assert_true(from <= to + staged);
	assert_true(now.pages_by_fault <= now.pages_from_device);
	assert_true(now.cpu_faults_deferred <= now.cpu_faults);
	assert_int_equal(now.pages_poisoned, s->before.pages_poisoned);
}
