/* SPDX-License-Identifier: MIT */
/*
 * The work: threads that change their memory at random, and have it transferred.
 *
 * Each thread owns a few blocks, so that it knows what is in them. In turn it does
 * something to a block that may or may not move its pages, and then
 *
 *	has the card read it, and compares the wire with what the CPU sees;
 *	has the card write it, and compares what the CPU sees with the wire;
 *
 * through either cache. All that malloc() and the kernel offer is done to blocks;
 * forked children check that they have the memory of the moment of the fork; and
 * other threads have the card read a block just when its owner may be unmapping it.
 *
 * A write that goes wrong could hit anything by now. So the card first reads what it
 * is about to overwrite; where that is not what was put there, the write counts as
 * gone wrong, but is not made.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "regcache_work.h"

#define ONE_IN_STRANGER 4u
#define ONE_IN_TRIM 64u
#define ONE_IN_FORK 256u

struct rc_run {
	const struct rc_options *opt;
	struct rc_cache *const *cache;
	struct timespec start;
	struct rc_worker *worker;
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* Below @n. */
uint64_t rc_pick(struct rc_worker *w, uint64_t n)
{
	w->rng += 0x9e3779b97f4a7c15u;
	return mix(w->rng) % n;
}

/* What was nowhere before. */
static void fill(struct rc_worker *w, void *to, size_t len)
{
	unsigned char *p = to;
	uint64_t x;

	w->stamp += (uint64_t)1 << 24;
	for (x = mix(w->stamp); len >= sizeof(x); len -= sizeof(x), p += sizeof(x), x += w->stamp)
		memcpy(p, &x, sizeof(x));
	memcpy(p, &x, len);
}

uint64_t rc_sum(unsigned long addr, size_t len)
{
	const unsigned char *p = (const unsigned char *)addr;
	uint64_t x, hash = len;

	for (; len >= sizeof(x); len -= sizeof(x), p += sizeof(x)) {
		memcpy(&x, p, sizeof(x));
		hash = (hash ^ x) * 0x9e3779b97f4a7c15u;
	}
	x = 0;
	memcpy(&x, p, len);
	return mix(hash ^ x);
}

void rc_fails(struct rc_worker *w, const char *what, int err)
{
	if (w->counts.errors++ < 3)
		fprintf(stderr, "regcache: %s: %s\n", what, strerror(err));
}

/* Read @len bytes at @addr through a cache: as the CPU sees them? */
static bool read_same(struct rc_worker *w, unsigned int which, unsigned long addr, size_t len)
{
	struct rc_cache *cache = w->run->cache[which];
	size_t at = w->id * RC_WINDOW;
	int ret;

	memset(cache->card.wire + at, 0x5a, len);
	ret = rc_rdma(cache, addr, len, at, RC_READ_MEMORY);
	if (ret)
		rc_fails(w, "a transfer from memory", -ret);
	return ret || !memcmp(cache->card.wire + at, (void *)addr, len);
}

static bool write_same(struct rc_worker *w, unsigned int which, unsigned long addr, size_t len)
{
	struct rc_cache *cache = w->run->cache[which];
	size_t at = w->id * RC_WINDOW;
	int ret;

	fill(w, (void *)addr, len);
	if (!read_same(w, which, addr, len))
		return false;
	fill(w, cache->card.wire + at, len);
	ret = rc_rdma(cache, addr, len, at, RC_WRITE_MEMORY);
	if (ret)
		rc_fails(w, "a transfer to memory", -ret);
	return ret || !memcmp(cache->card.wire + at, (void *)addr, len);
}

/* Some of a block goes over the wire, through both caches; maybe some comes back. */
static void exchange(struct rc_worker *w, struct rc_block *b, enum rc_change change)
{
	unsigned long addr = b->addr + rc_pick(w, 1 + (b->len - 1) / RC_WINDOW) * RC_WINDOW;
	size_t len = b->addr + b->len - addr;
	bool write = rc_pick(w, 2);
	unsigned int i;

	if (len > RC_WINDOW)
		len = RC_WINDOW;
	/* First with what is in it after the change: maybe nothing, and no page yet. */
	for (i = 0; i < RC_CACHES; i++) {
		w->counts.stale[i][change] += !read_same(w, i, addr, len);
		w->counts.transfers[i]++;
	}
	for (i = 0; i < RC_CACHES && write; i++) {
		w->counts.stale[i][change] += !write_same(w, i, addr, len);
		w->counts.transfers[i]++;
	}
	b->sum = rc_sum(b->addr, b->len);
}

/*
 * Another thread's block, whatever becomes of it: what is read means nothing, but it
 * is in the cache afterwards, or fails.
 */
static void stranger(struct rc_worker *w)
{
	struct rc_worker *other = &w->run->worker[rc_pick(w, w->run->opt->threads)];
	struct rc_block *b = &other->block[rc_pick(w, RC_BLOCKS)];
	unsigned long addr = __atomic_load_n(&b->addr, __ATOMIC_RELAXED);
	size_t len = __atomic_load_n(&b->len, __ATOMIC_RELAXED);

	if (!addr || !len)
		return;
	len = len > RC_WINDOW ? RC_WINDOW : len;
	rc_rdma(w->run->cache[RC_LIBHMM], addr, len, w->id * RC_WINDOW, RC_READ_MEMORY);
	w->counts.strange++;
}

/* In the child. */
static int blocks_check(const struct rc_worker *w)
{
	unsigned int i;

	for (i = 0; i < RC_BLOCKS; i++)
		if (w->block[i].addr &&
		    rc_sum(w->block[i].addr, w->block[i].len) != w->block[i].sum)
			return 1;
	return 0;
}

/* The child looks at what was, while the parent's card goes on. */
static void fork_check(struct rc_worker *w)
{
	unsigned int i;
	pid_t pid = fork();
	int status;

	if (pid < 0) {
		rc_fails(w, "fork", errno);
		return;
	}
	if (!pid)
		_exit(blocks_check(w));
	w->counts.changes[RC_FORK]++;
	for (i = 0; i < RC_BLOCKS; i++)
		if (w->block[i].addr)
			exchange(w, &w->block[i], RC_FORK);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		w->counts.damaged++;
		fprintf(stderr, "regcache: a child's memory is not what it was at the fork\n");
	}
}

static bool over(const struct rc_run *run, uint64_t round)
{
	struct timespec now;

	if (run->opt->rounds)
		return round == run->opt->rounds;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - run->start.tv_sec) +
		       (double)(now.tv_nsec - run->start.tv_nsec) / 1e9 >=
	       run->opt->seconds;
}

static void *worker_main(void *arg)
{
	struct rc_worker *w = arg;
	unsigned int i;
	uint64_t round;

	for (round = 0; !over(w->run, round); round++) {
		struct rc_block *b = &w->block[rc_pick(w, RC_BLOCKS)];
		enum rc_change change = rc_block_change(w, b);

		w->counts.changes[change]++;
		exchange(w, b, change);
		if (!rc_pick(w, ONE_IN_STRANGER))
			stranger(w);
		if (!rc_pick(w, ONE_IN_TRIM) && malloc_trim(0)) {
			w->counts.changes[RC_TRIM]++;
			exchange(w, b, RC_TRIM);
		}
		if (!rc_pick(w, ONE_IN_FORK))
			fork_check(w);
	}
	for (i = 0; i < RC_BLOCKS; i++)
		rc_block_drop(&w->block[i]);
	return NULL;
}

static void counts_add(struct rc_counts *to, const struct rc_counts *from)
{
	const uint64_t *f = (const uint64_t *)from;
	uint64_t *t = (uint64_t *)to;
	size_t i;

	_Static_assert(sizeof(*to) % sizeof(*t) == 0, "counters only");
	for (i = 0; i < sizeof(*to) / sizeof(*t); i++)
		t[i] += f[i];
}

/* The first worker is the calling thread: it has the heap that brk() gives. */
int rc_work(const struct rc_options *opt, struct rc_cache *const cache[RC_CACHES],
	    struct rc_counts *counts)
{
	struct rc_run run = { .opt = opt, .cache = cache };
	unsigned int i, started;
	int ret = 0;

	run.worker = calloc(opt->threads, sizeof(*run.worker));
	if (!run.worker)
		return -ENOMEM;
	clock_gettime(CLOCK_MONOTONIC, &run.start);
	for (i = 0; i < opt->threads; i++) {
		struct rc_worker *w = &run.worker[i];

		*w = (struct rc_worker){ .run = &run, .id = i, .rng = mix(opt->seed + i) };
		w->stamp = mix(w->rng) | 1;
	}
	for (started = 1; started < opt->threads && !ret; started++)
		ret = -pthread_create(&run.worker[started].thread, NULL, worker_main,
				      &run.worker[started]);
	started -= ret != 0;
	worker_main(&run.worker[0]);
	for (i = 1; i < started; i++)
		pthread_join(run.worker[i].thread, NULL);
	for (i = 0; i < started; i++)
		counts_add(counts, &run.worker[i].counts);
	free(run.worker);
	return ret;
}
