/* SPDX-License-Identifier: MIT */
/* What others can see: the shared counters, and the summary at the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

RUN_DATA struct hmm_run_stats *run_stats;
static RUN_DATA bool written;
static RUN_DATA int stats_is = -1;

static int stats_fd(size_t size)
{
	int fd = (int)syscall(SYS_memfd_create, HMM_RUN_STATS_NAME, MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (syscall(SYS_ftruncate, fd, size)) {
		sys_close(fd);
		return -EIO;
	}
	return hmm_fd_keep(fd);
}

/* Without a descriptor nobody sees them: that is no reason to fail. */
int stats_open(void)
{
	size_t size = blocks_size();
	int fd = stats_fd(size);
	long addr;

	stats_is = fd;
	addr = syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE,
		       fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
	if (addr == -1)
		return -errno;
	run_stats = (struct hmm_run_stats *)addr;
	syscall(SYS_madvise, addr, size, MADV_DONTFORK);
	*run_stats = (struct hmm_run_stats){
		.magic = HMM_RUN_STATS_MAGIC,
		.version = HMM_RUN_STATS_VERSION,
		.size = sizeof(*run_stats),
		.pid = (uint32_t)getpid(),
		.started_ns = run_now(),
		.limit = run_config.limit,
		.page_size = hmm_page_size(),
	};
	memcpy(run_stats->device, run_config.device, sizeof(run_stats->device));
	blocks_begin(run_stats);
	written = false;
	return 0;
}

/* A child has no mapping of it. */
void stats_forget(void)
{
	run_stats = NULL;
	blocks_forget();
	hmm_fd_close(stats_is);
	stats_is = -1;
}

void stats_update(void)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	unsigned int i;

	if (!run_stats || hmm_get_stats(&stats))
		return;
	stats_set(faults, stats.cpu_faults);
	stats_set(pages_out, stats.pages_to_device);
	stats_set(pages_back, stats.pages_from_device);
	stats_set(refaults, stats.pages_by_fault);
	stats_set(pages_refused, stats.pages_refused);
	for (i = 0; i < HMM_RUN_STATS_TIMES; i++)
		stats_set(fault_ns[i], stats.cpu_fault_ns[i]);
	stats_set(now_ns, run_now());
	stats_count(updates, 1);
}

/* ---- the summary ---- */

struct text {
	char buf[4096];
	size_t len;
};

static void text_add(struct text *text, const char *format, uint64_t value)
{
	int n = snprintf(text->buf + text->len, sizeof(text->buf) - text->len, format,
			 (unsigned long long)value);

	text->len += n > 0 ? (size_t)n : 0;
	if (text->len >= sizeof(text->buf))
		text->len = sizeof(text->buf) - 1;
}

static const struct {
	const char *name;
	size_t offset;
} members[] = {
#define MEMBER(name) { #name, offsetof(struct hmm_run_stats, name) }
	MEMBER(limit),		MEMBER(resident),      MEMBER(resident_peak),
	MEMBER(on_device),	MEMBER(device_memory), MEMBER(faults),
	MEMBER(migrations),	MEMBER(pages_out),     MEMBER(pages_back),
	MEMBER(refaults),	MEMBER(pages_refused), MEMBER(gated),
	MEMBER(gate_overruns),
};

static void summary(struct text *text, bool json)
{
	const char *all = json ? "  \"%s\": %%llu,\n" : "%s %%llu\n";
	unsigned int i, last = 0;
	char line[64];

	text_add(text, json ? "{\n  \"pid\": %llu,\n" : "pid %llu\n", run_stats->pid);
	text_add(text, json ? "  \"held\": %llu,\n" : "held %llu\n",
		 run_stats->state == HMM_RUN_HOLDING);
	text_add(text, json ? "  \"elapsed_ms\": %llu,\n" : "elapsed_ms %llu\n",
		 (run_now() - run_stats->started_ns) / 1000000);
	for (i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
		uint64_t *value = (uint64_t *)((char *)run_stats + members[i].offset);

		snprintf(line, sizeof(line), all, members[i].name);
		text_add(text, line, *value);
	}
	for (i = 0; i < HMM_RUN_STATS_TIMES; i++)
		last = run_stats->fault_ns[i] ? i + 1 : last;
	text_add(text, json ? "  \"fault_ns_log2\": [" : "fault_ns_log2", 0);
	for (i = 0; i < last; i++)
		text_add(text, json && i ? ", %llu" : json ? "%llu" : " %llu", run_stats->fault_ns[i]);
	text_add(text, json ? "]\n}\n" : "\n", 0);
}

void stats_write(void)
{
	static RUN_DATA struct text text = { .len = 0 };
	size_t len = strlen(run_config.stats);
	int err = errno;
	int fd;

	if (!run_stats || !len || __atomic_exchange_n(&written, true, __ATOMIC_ACQ_REL))
		return;
	stats_update();
	text.len = 0;
	summary(&text, len > 5 && !strcmp(run_config.stats + len - 5, ".json"));
	fd = sys_open(run_config.stats, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd >= 0) {
		sys_write(fd, text.buf, text.len);
		sys_close(fd);
	} else {
		run_say("%s: cannot be written: error %d", run_config.stats, -fd);
	}
	errno = err;
}
