/* SPDX-License-Identifier: MIT */
/*
 * Who moves pages: there and back, to wherever the kernel likes with the old place
 * kept, and the nomads, whose tents are never where they were.
 *
 * Half of the calls are libc's, which is libhmm's mremap(), half are made by hand; those
 * that keep the old place only with HMM_STRESS_BY_HAND=1 (src/core/order.c, O3).
 */
#include "apart.h"
#include "stress/stage.h"

#define TENTS 4
#define TENT_MIN 2 /* pages */
#define TENT_MAX 24
#define KEPT (MREMAP_MAYMOVE | MREMAP_DONTUNMAP)

static void *remap(struct actor *a, void *old, size_t old_bytes, size_t bytes, int flags, void *to)
{
	long ret = -1;

	/* By hand it fails where libhmm's registration has split the mapping. */
	if (roll(a) % 2 && (a->s->by_hand || !(flags & MREMAP_DONTUNMAP)))
		ret = syscall(SYS_mremap, old, old_bytes, bytes, flags, to);
	return ret != -1 ? (void *)ret : mremap(old, old_bytes, bytes, flags, to);
}

static void set(struct actor *a, void *page, uint64_t *stamp, size_t i)
{
	uint64_t val = new_stamp(a, i);

	if (put(a, page, val))
		*stamp = val;
}

void *mover(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;
	size_t size = hmm_page_size();
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_MOVE);
		unsigned char *p = page_of(s, i);

		look(a, p, s->stamp[i], "page that moves");
		if (remap(a, p, size, size, flags, s->side) != s->side)
			wrong(a, "mremap", p, (uint64_t)errno, 0);
		look(a, s->side, s->stamp[i], "page moved");
		if (roll(a) % 4 == 0)
			device_send(a, s->side, size);
		if (remap(a, s->side, size, size, flags, p) != p)
			wrong(a, "mremap back", p, (uint64_t)errno, 0);
		look(a, p, s->stamp[i], "page moved back");
		set(a, p, &s->stamp[i], i);
		turn(a);
	}
	return NULL;
}

/* The page goes, its mapping stays; what went ends, or comes back over it. */
void *leaver(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;
	size_t size = hmm_page_size();

	while (going_on(a)) {
		size_t i = pick(a, ROLE_LEAVE);
		unsigned char *p = page_of(s, i), *q;

		look(a, p, s->stamp[i], "page that leaves");
		place_lock(s);
		q = remap(a, p, size, size, KEPT, NULL);
		place_unlock(s);
		if (q == MAP_FAILED) {
			wrong(a, "mremap DONTUNMAP", p, (uint64_t)errno, 0);
			continue;
		}
		look(a, q, s->stamp[i], "page that has left");
		look(a, p, 0, "what the page has left behind");
		place_lock(s);
		if (roll(a) % 2) {
			if (munmap(q, size))
				wrong(a, "munmap", q, (uint64_t)errno, 0);
			s->stamp[i] = 0;
		} else if (remap(a, q, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, p) != p) {
			wrong(a, "mremap home", q, (uint64_t)errno, 0);
		}
		place_unlock(s);
		look(a, p, s->stamp[i], "where the page had left");
		set(a, p, &s->stamp[i], i);
		turn(a);
	}
	return NULL;
}

/* ---- nomads ---- */

struct tent {
	unsigned char *at;
	size_t pages;
	uint64_t stamp[TENT_MAX];
};

static unsigned char *tent_page(const struct tent *tent, size_t i)
{
	return tent->at + i * hmm_page_size();
}

static void tent_pitch(struct actor *a, struct tent *tent)
{
	size_t i;

	tent->pages = TENT_MIN + roll(a) % (TENT_MAX - TENT_MIN);
	place_lock(a->s);
	tent->at = mmap(NULL, tent->pages * hmm_page_size(), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	place_unlock(a->s);
	if (tent->at == MAP_FAILED) {
		perror("mmap of a tent");
		_exit(1);
	}
	keep_apart(tent->at, tent->pages * hmm_page_size());
	memset(tent->stamp, 0, sizeof(tent->stamp));
	for (i = 0; i < tent->pages; i++)
		set(a, tent_page(tent, i), &tent->stamp[i], i);
}

static void tent_look(struct actor *a, const struct tent *tent, const char *what)
{
	size_t i = roll(a) % tent->pages;

	look(a, tent_page(tent, i), tent->stamp[i], what);
}

static void tent_strike(struct actor *a, struct tent *tent)
{
	size_t i;

	for (i = 0; i < tent->pages; i++)
		look(a, tent_page(tent, i), tent->stamp[i], "tent that is struck");
	place_lock(a->s);
	if (munmap(tent->at, tent->pages * hmm_page_size()))
		wrong(a, "munmap of a tent", tent->at, (uint64_t)errno, 0);
	place_unlock(a->s);
}

/* The old place is given up in a second step. */
static void tent_leave(struct actor *a, struct tent *tent)
{
	size_t bytes = tent->pages * hmm_page_size();
	unsigned char *old = tent->at, *at;

	place_lock(a->s);
	at = remap(a, old, bytes, bytes, KEPT, NULL);
	if (at == MAP_FAILED) {
		wrong(a, "tent mremap DONTUNMAP", old, (uint64_t)errno, 0);
	} else {
		tent->at = at;
		if (munmap(old, bytes))
			wrong(a, "munmap of an old place", old, (uint64_t)errno, 0);
	}
	place_unlock(a->s);
	tent_look(a, tent, "tent that left");
}

/* It grows where there is no room, and so moves; and is trimmed in front. */
static void tent_grow(struct actor *a, struct tent *tent)
{
	size_t size = hmm_page_size();
	unsigned char *at;

	place_lock(a->s);
	if (tent->pages == TENT_MAX) {
		if (munmap(tent->at, size))
			wrong(a, "tent trimmed", tent->at, (uint64_t)errno, 0);
		tent->at += size;
		tent->pages--;
		memmove(tent->stamp, tent->stamp + 1, tent->pages * sizeof(tent->stamp[0]));
	}
	at = remap(a, tent->at, tent->pages * size, (tent->pages + 1) * size, MREMAP_MAYMOVE, NULL);
	if (at == MAP_FAILED) {
		wrong(a, "tent mremap", tent->at, (uint64_t)errno, 0);
	} else {
		tent->at = at;
		tent->stamp[tent->pages++] = 0;
	}
	place_unlock(a->s);
	look(a, tent_page(tent, tent->pages - 1), tent->stamp[tent->pages - 1],
	     "what a tent has grown by");
	tent_look(a, tent, "tent that has grown");
}

static void tent_live(struct actor *a, struct tent *tent)
{
	size_t i = roll(a) % tent->pages;

	switch (roll(a) % 8) {
	case 0:
		tent_strike(a, tent);
		tent_pitch(a, tent);
		break;
	case 1:
	case 2:
	case 3:
		tent_leave(a, tent);
		break;
	case 4:
	case 5:
		tent_grow(a, tent);
		break;
	case 6:
		look(a, tent_page(tent, i), tent->stamp[i], "tent");
		break;
	default:
		set(a, tent_page(tent, i), &tent->stamp[i], i);
	}
	if (roll(a) % 2)
		device_send(a, tent->at, tent->pages * hmm_page_size());
}

void *nomad(void *arg)
{
	struct actor *a = arg;
	struct tent tent[TENTS];
	unsigned int i;

	for (i = 0; i < TENTS; i++)
		tent_pitch(a, &tent[i]);
	while (going_on(a)) {
		tent_live(a, &tent[roll(a) % TENTS]);
		turn(a);
	}
	for (i = 0; i < TENTS; i++)
		tent_strike(a, &tent[i]);
	return NULL;
}
