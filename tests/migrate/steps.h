/* SPDX-License-Identifier: MIT */
/*
 * A thread is held at a step of a protocol (mm/debug.h) while another one makes a call:
 * what the tests test_steps_*.c have in common.
 *
 * A matrix: rows are steps, with who comes to them (struct row); columns are calls, each
 * on all, on a part or beside what the held one works on. In each cell the one is held
 * until the other's call is done, or has had some milliseconds to come as far as it can
 * (some must wait for the held one). Then everything is compared with a model of what the
 * calls do to memory: G1 (one place), G3 (order), G4 (content), G7, G8, G9 (ends).
 *
 * Pages have four words that count, each with one writer, so that the model knows them
 * whatever the order is: two of a pattern, one of the held thread, one of the other.
 */
#ifndef TESTS_STEPS_H
#define TESTS_STEPS_H

#include <stdatomic.h>

#include "test_util.h"

#include "mm/debug.h"

#define MEM_PAGES 48
#define FIRST 16 /* pages before are not touched */
#define ALL_END 32
#define TARGET 20 /* the page that a fault is for */
#define HOLE 23 /* never touched */
#define ZEROED 26 /* the zero page */

/* What a page has. */
struct page_model {
	bool gone; /* not mapped */
	bool zero; /* the pattern is gone */
	bool maybe_zero; /* it may be */
	bool maybe_held; /* the held thread's word may be 0 too */
	bool maybe_other;
	unsigned int number;
	uint64_t held; /* what the held thread has written, or 0 */
	uint64_t other;
};

enum { MEM, ALT, ALT2, NEW, REGIONS };
enum word { WORD_FIRST, WORD_HELD, WORD_OTHER, WORD_LAST, WORDS };

/* A place that mremap can bring pages to; page i is at base + i * PAGE. */
struct region {
	char *base;
	struct page_model page[MEM_PAGES];
};

enum holder {
	HOLD_OUT, /* dummy_migrate() */
	HOLD_BACK, /* dummy_evict() */
	HOLD_EXCLUSIVE, /* dummy_exclusive() */
	HOLD_READ, /* a CPU fault */
	HOLD_WRITE,
	HOLD_LOAD, /* a device fault */
	HOLD_STORE,
	HOLD_ADD, /* one by dummy_atomic_add_u64() */
	HOLD_DONTNEED,
	HOLD_MUNMAP,
	HOLD_MREMAP,
	HOLD_FORK,
	HOLD_CLONE, /* fork behind libc's back */
};

struct row {
	const char *step;
	enum holder holder;
	bool away; /* the memory is in the device before */
	bool exclusive; /* or the device has it for itself */
	bool waits; /* the device is one that has to be waited for */
};

enum act {
	ACT_MUNMAP,
	ACT_AWAY, /* mremap to a fixed place */
	ACT_AWAY_BACK, /* and back again */
	ACT_GROW, /* mremap to where there is room */
	ACT_DONTNEED,
	ACT_FREE,
	ACT_READ_ONLY,
	ACT_NONE,
	ACT_NONE_BACK,
	ACT_FORK,
	ACT_CLONE,
	ACT_READ,
	ACT_WRITE,
	ACT_LOAD,
	ACT_STORE,
	ACT_OUT,
	ACT_BACK,
	ACT_EXCLUSIVE,
	ACT_ADD,
	ACTS,
};

enum hits { HIT_ALL, HIT_PART, HIT_BESIDE, HITS };

struct cell {
	const struct row *row;
	enum act act;
	enum hits hits;
	size_t from, to; /* of the call */
	size_t held_from, held_to; /* of the held thread */
	struct region region[REGIONS];
	pthread_t thread;
	atomic_bool returned; /* the held thread's call has */
	int held_ret;
	uint64_t held_val;
	int act_ret;
	pid_t child;
	bool overlapped; /* the call began while the other was held */
	bool bad;
	char name[120];
};

extern struct dummy_device *steps_dev;

/* ---- steps.c: the matrix ---- */

/* Every cell of these rows; fails if there is a bad one, or a step was never come to. */
void steps_run(const struct row *rows, size_t n);
/* For test_init() and BEGIN(): the watchdog is steps.c's. */
void steps_init(void);
void steps_begin(const char *test, unsigned int seconds);
int steps_setup(void **state);
int steps_teardown(void **state);
/* Says what is wrong with a cell, once. */
void cell_bad(struct cell *cell, const char *format, ...) __attribute__((format(printf, 2, 3)));
extern const char *const act_names[ACTS];
bool steps_can_clone(void);

/* ---- steps_act.c: what the two threads do ---- */
void cell_act(struct cell *cell);
void *cell_hold(void *arg);
/* The model with the held thread's event; @strict: it returned before the call begins. */
void cell_model_held(struct cell *cell, bool strict);
/* And after both. */
void cell_model(struct cell *cell);

/* ---- steps_check.c: is memory what the model says? ---- */
void cell_fill(struct cell *cell);
void cell_check(struct cell *cell);
/* In a child of the cell's: 0, or what to exit with. Makes system calls only. */
int child_check(const struct cell *cell, bool loosely);
uint64_t word_value(unsigned int page, enum word word);
size_t word_offset(enum word word);
/* By a system call, which answers -EFAULT where a plain access would be a signal. */
int safe_load(const char *addr, uint64_t *val);
int safe_store(char *addr, uint64_t val);

#endif
