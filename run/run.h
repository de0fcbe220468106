/* SPDX-License-Identifier: MIT */
/*
 * libhmm-run: what `hmm run` puts into a program.
 *
 *	start.c    from the dynamic linker's call to the end: threads, fork, exit
 *	config.c   what `hmm run` was told, from the environment
 *	engine.c   its two threads: watch, and hold the limit once it is near
 *	hook.c     tells it of what is mapped
 *	policy.c   which memory goes; the only file to replace for another policy
 *	space.c    what memory the program has
 *	device.c   which devices there are, and one file each
 *	stats.c    what others can see of it
 *	blocks.c   the same: what of its memory is on the device
 *	trace.c    the trace file
 *
 * device_list.c, which tells of the devices and their options, is the hmm program's.
 *
 * It lives in a program that knows nothing of it. So: no malloc(), no stdio, nothing on a
 * stack or in .bss that a callback needs; signals are blocked in its thread; errno, and
 * everything else that the program can see, is left as it was.
 */
#ifndef RUN_RUN_H
#define RUN_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hmm/hmm.h>
#include <hmm/run_stats.h>

/* As in libhmm: .bss could be migrated, .data cannot. */
#define RUN_DATA __attribute__((section(".data")))

/* ---- config.c ---- */

#define RUN_PATH_MAX 4096

struct run_config {
	uint64_t limit; /* bytes */
	char device[16];
	char options[256]; /* of the device: name=value,... */
	char stats[RUN_PATH_MAX]; /* file, or "" */
	char trace[RUN_PATH_MAX]; /* the same */
	uint64_t started; /* CLOCK_REALTIME, ns: `hmm run` itself */
	bool first; /* this is the process that `hmm run` became */
	bool quiet; /* say nothing where the limit cannot be held */
};

extern struct run_config run_config;
/* False: this process is not to be limited. */
bool run_config_read(void);
/* The value of @name among "name=value,...": false if it is not there. */
bool run_option(const char *options, const char *name, uint64_t *value);

/* ---- device.c ---- */

/* Bytes. */
struct run_usage {
	uint64_t stored; /* of the program, in the device */
	uint64_t memory; /* anonymous system memory that it uses for them */
};

/**
 * struct run_device_ops - one kind of device
 * @name: as in --device
 * @create: make it, for a process that is to stay below @limit bytes
 * @migrate: move [@start, @end) there; *@pages: how many of it are there then; @result: one
 *	enum hmm_migrate_result a page
 * @usage: what it has now
 */
struct run_device_ops {
	const char *name;
	int (*create)(const char *options, uint64_t limit);
	int (*migrate)(unsigned long start, unsigned long end, uint8_t *result,
		       unsigned long *pages);
	void (*usage)(struct run_usage *usage);
};

const struct run_device_ops *run_device(const char *name);
extern const struct run_device_ops run_dummy_ops, run_lz4_ops;

/* ---- space.c ---- */

struct run_memory {
	uint64_t mapped; /* bytes of address space */
	uint64_t writable; /* of these, what is private and may be written */
	uint64_t resident; /* of anonymous memory that is there */
};

int run_space_open(void);
void run_space_forget(void); /* in a child */
/* False: /proc cannot be read. */
bool run_memory(struct run_memory *memory);

/* Does the thread wait for something, other than a CPU? */
bool run_sleeps(uint32_t tid);

struct run_span {
	unsigned long start;
	unsigned long end;
};

/*
 * The first part of the program from @addr on that could go: readable, writable, private and
 * anonymous. False: there is none.
 */
bool run_span_next(unsigned long addr, struct run_span *span);
void run_span_refresh(void);

/* ---- policy.c ---- */

/**
 * struct run_levels - when to do what; bytes of resident memory
 * @prepare: make the device
 * @engage: gate what the program has, and what it maps
 * @high: begin to evict
 * @low: enough is evicted
 * @gate: let no more memory come than this
 */
struct run_levels {
	uint64_t prepare;
	uint64_t engage;
	uint64_t high;
	uint64_t low;
	uint64_t gate;
};

void policy_levels(uint64_t limit, struct run_levels *levels);
int policy_start(void);
/*
 * Evict some of @want bytes, in a few milliseconds at most: bytes that went, or 0 if
 * nothing could.
 */
uint64_t policy_evict(const struct run_device_ops *ops, uint64_t want);

/* ---- engine.c ---- */

int engine_start(void);
void engine_forget(void); /* in a child */
void engine_engage_now(void); /* before the process loses what it takes */

/*
 * The program has memory at [@start, @start + @len) that it had not, or could not use. It may
 * hold any lock of the C library's.
 */
void engine_mapped(unsigned long start, size_t len, int prot);

/* ---- hook.c, privilege.c ---- */

void hook_start(void);
void privilege_start(void);

/* ---- start.c ---- */

bool run_is_here(void); /* false: in a child made by vfork(), or before the start */

/* ---- stats.c ---- */

extern struct hmm_run_stats *run_stats;
int stats_open(void);
void stats_update(void);
void stats_write(void); /* the summary, once */
void stats_forget(void);

#define stats_set(name, value) __atomic_store_n(&run_stats->name, (value), __ATOMIC_RELAXED)
#define stats_count(name, n) __atomic_fetch_add(&run_stats->name, (uint64_t)(n), __ATOMIC_RELAXED)

/* ---- trace.c ---- */

void trace_begin(void);

/* ---- blocks.c ---- */

uint64_t blocks_size(void); /* of the counters and the table */
void blocks_begin(struct hmm_run_stats *stats);
void blocks_forget(void); /* in a child */
/* What of the block at @start is away: %HMM_RUN_BLOCK_PAGES bits. */
void blocks_tell(unsigned long start, const uint64_t *away);

/* ---- sys.c: system calls without libc's own business, -errno ---- */

int sys_open(const char *path, int flags, int mode);
long sys_read(int fd, void *buf, size_t len);
void sys_close(int fd);
long sys_write(int fd, const void *buf, size_t len);
long sys_file(const char *path, char *buf, size_t size); /* all of a small file, with a 0 */
uint64_t run_now(void);
void run_sleep(uint64_t ns); /* less than a second */
/* Sleep until *@word is not @value, or for so long. */
void run_wait(uint32_t *word, uint32_t value, uint64_t ns);
void run_wake(uint32_t *word);
void run_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
