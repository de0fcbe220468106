/* SPDX-License-Identifier: MIT */
/*
 * The program that has its memory transferred: what is shared by its two files.
 *
 *	regcache_work.c		threads, transfers, what is compared
 *	regcache_change.c	what is done to memory
 */
#ifndef REGCACHE_WORK_H
#define REGCACHE_WORK_H

#include "regcache.h"

#define RC_BLOCKS 12u

/**
 * struct rc_block - memory of one thread
 * @addr: where; other threads look at it
 * @len: bytes; likewise
 * @mapped: from mmap(), else from malloc()
 * @pieces: more than one mmap() made it
 * @sum: of what is in it
 */
struct rc_block {
	unsigned long addr;
	size_t len;
	bool mapped;
	bool pieces;
	uint64_t sum;
};

struct rc_run;

/**
 * struct rc_worker - a thread
 * @run: what is common to all
 * @thread: but for the first, which is the caller's
 * @id: 0 and on
 * @rng: state of rc_pick()
 * @stamp: state of rc_fill()
 * @block: its memory
 * @counts: its part of the table
 */
struct rc_worker {
	struct rc_run *run;
	pthread_t thread;
	unsigned int id;
	uint64_t rng;
	uint64_t stamp;
	struct rc_block block[RC_BLOCKS];
	struct rc_counts counts;
};

/* regcache_work.c */
uint64_t rc_pick(struct rc_worker *w, uint64_t n);
uint64_t rc_sum(unsigned long addr, size_t len);
void rc_fails(struct rc_worker *w, const char *what, int err);

/* regcache_change.c */
enum rc_change rc_block_change(struct rc_worker *w, struct rc_block *b);
void rc_block_drop(struct rc_block *b);

#endif
