/* SPDX-License-Identifier: MIT */
/*
 * What a program may do to its memory, each of which may leave a registration of it
 * wrong: of the whole block, of a part, or of a neighbour that shares its pages.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "regcache_work.h"

#define SHIFT_MIN 10u /* of the sizes: 1 KiB to 512 KiB, on both sides of what malloc() maps */
#define SHIFT_MAX 19u

static size_t pick_len(struct rc_worker *w)
{
	size_t base = (size_t)1 << (SHIFT_MIN + rc_pick(w, SHIFT_MAX - SHIFT_MIN));

	return base + rc_pick(w, base);
}

static size_t page_up(size_t len)
{
	return (len + hmm_page_size() - 1) & ~(hmm_page_size() - 1);
}

static void block_set(struct rc_block *b, unsigned long addr, size_t len)
{
	__atomic_store_n(&b->len, len, __ATOMIC_RELAXED);
	__atomic_store_n(&b->addr, addr, __ATOMIC_RELAXED);
}

void rc_block_drop(struct rc_block *b)
{
	unsigned long addr = b->addr;

	if (addr && b->mapped)
		munmap((void *)addr, page_up(b->len));
	else if (addr)
		free((void *)addr);
}

static void *map(struct rc_worker *w, unsigned long addr, size_t len, int prot, int flags)
{
	void *p =
		mmap((void *)addr, page_up(len), prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (p == MAP_FAILED) {
		rc_fails(w, "mmap", errno);
		abort(); /* there is no going on without */
	}
	return p;
}

static void renew(struct rc_worker *w, struct rc_block *b)
{
	size_t len = pick_len(w);
	void *p;

	rc_block_drop(b);
	b->mapped = rc_pick(w, 2);
	p = b->mapped ? map(w, 0, len, PROT_READ | PROT_WRITE, 0) : malloc(len);
	if (!p)
		abort();
	b->pieces = false;
	block_set(b, (unsigned long)p, len);
}

/* Something of what was there must be there still. */
static void check_kept(struct rc_worker *w, unsigned long addr, size_t len, uint64_t before)
{
	if (rc_sum(addr, len) == before)
		return;
	w->counts.damaged++;
	fprintf(stderr, "regcache: memory that moved to 0x%lx is not what it was\n", addr);
}

static void grow_heap(struct rc_worker *w, struct rc_block *b)
{
	size_t len = pick_len(w), keep = len < b->len ? len : b->len;
	uint64_t before = rc_sum(b->addr, keep);
	void *p = realloc((void *)b->addr, len);

	if (!p)
		abort();
	check_kept(w, (unsigned long)p, keep, before);
	block_set(b, (unsigned long)p, len);
}

/* Half of the time to a place of our choice, else wherever there is room. */
static void grow_mapped(struct rc_worker *w, struct rc_block *b)
{
	size_t len = pick_len(w), keep = len < b->len ? len : b->len;
	uint64_t before = rc_sum(b->addr, keep);
	void *to = rc_pick(w, 2) ? map(w, 0, len, PROT_NONE, 0) : NULL, *p;

	p = mremap((void *)b->addr, page_up(b->len), page_up(len),
		   MREMAP_MAYMOVE | (to ? MREMAP_FIXED : 0), to);
	if (p == MAP_FAILED) {
		rc_fails(w, "mremap", errno);
		return;
	}
	check_kept(w, (unsigned long)p, keep, before);
	block_set(b, (unsigned long)p, len);
}

/* A part of it, in whole pages. */
static void pick_pages(struct rc_worker *w, const struct rc_block *b, unsigned long *addr,
		       size_t *len)
{
	size_t page = hmm_page_size(), pages = page_up(b->len) / page;
	size_t from = rc_pick(w, pages), n = 1 + rc_pick(w, pages - from);

	*addr = b->addr + from * page;
	*len = n * page;
}

static enum rc_change change_mapped(struct rc_worker *w, struct rc_block *b)
{
	unsigned long addr;
	size_t len;

	switch (rc_pick(w, 4)) {
	case 0:
		pick_pages(w, b, &addr, &len);
		map(w, addr, len, PROT_READ | PROT_WRITE, MAP_FIXED);
		b->pieces = true;
		return RC_MMAP_OVER;
	case 1:
		pick_pages(w, b, &addr, &len);
		if (madvise((void *)addr, len, MADV_DONTNEED))
			rc_fails(w, "madvise", errno);
		return RC_DONTNEED;
	case 2:
		if (!b->pieces) { /* mremap() takes one mapping */
			grow_mapped(w, b);
			return RC_MREMAP;
		}
		/* fall through */
	default:
		munmap((void *)b->addr, page_up(b->len));
		addr = (unsigned long)map(w, b->addr, b->len, PROT_READ | PROT_WRITE, 0);
		b->pieces = false;
		block_set(b, addr, b->len); /* as a rule the same */
		return RC_MMAP_AGAIN;
	}
}

/* The sum is the caller's to take: nothing has touched the new memory yet. */

enum rc_change rc_block_change(struct rc_worker *w, struct rc_block *b)
{
	enum rc_change change = RC_NOTHING;
	uint64_t what = rc_pick(w, 10);

	if (b->addr && rc_sum(b->addr, b->len) != b->sum) {
		w->counts.damaged++;
		fprintf(stderr, "regcache: memory at 0x%lx changed by itself\n", b->addr);
	}
	if (b->addr && what < 4)
		return change;
	if (!b->addr || what < 6) {
		change = RC_RENEW;
		renew(w, b);
	} else if (b->mapped) {
		change = change_mapped(w, b);
	} else {
		change = RC_REALLOC;
		grow_heap(w, b);
	}
	return change;
}
