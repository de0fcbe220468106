/* SPDX-License-Identifier: MIT */
/*
 * Settlers: claim a range of the field, 1 to 1024 pages, do something with it, and
 * let it go. A range covers many mappings, chunks and pages in all states.
 */
#include "stress/stage.h"

#define SAMPLES 6 /* pages of a range that are looked at, and written */
#define FREED_MAX 64 /* pages: all are written afterwards */
#define IO_MAX 256

enum change { UNMAP, OVER, DROP, FREE, READ_ONLY, NONE, MOVE, LEAVE, SHRINK, IO, CHANGES };

struct claim {
	size_t first;
	size_t n;
	unsigned char *at;
	size_t bytes;
};

static void failed(struct actor *a, const char *what, const struct claim *c)
{
	wrong(a, what, c->at, (uint64_t)errno, 0);
}

static void claim(struct actor *a, struct claim *c)
{
	struct stage *s = a->s;
	size_t field = s->pages - s->mosaic, max = RANGE_MAX;

	do {
		c->n = 1 + roll(a) % (1u << roll(a) % 11);
		c->n = c->n > max ? max : c->n;
		c->first = s->mosaic + roll(a) % (field - c->n);
		max = max > 1 ? max / 2 : 1;
	} while (!field_claim(s, c->first, c->n));
	c->at = page_of(s, c->first);
	c->bytes = c->n * hmm_page_size();
}

/* @at: where the range is just now. */
static void sample(struct actor *a, const struct claim *c, unsigned char *at, const char *what)
{
	unsigned int i;

	for (i = 0; i < SAMPLES; i++) {
		size_t j = i == 0 ? 0 : i == 1 ? c->n - 1 : roll(a) % c->n;

		look(a, at + j * hmm_page_size(), a->s->stamp[c->first + j], what);
	}
}

static void write_page(struct actor *a, const struct claim *c, size_t j)
{
	uint64_t val = new_stamp(a, c->first + j);

	if (put(a, c->at + j * hmm_page_size(), val))
		a->s->stamp[c->first + j] = val;
}

static void write_some(struct actor *a, const struct claim *c)
{
	unsigned int i;

	for (i = 0; i < SAMPLES; i++)
		write_page(a, c, i == 0 ? 0 : i == 1 ? c->n - 1 : roll(a) % c->n);
}

static void now_empty(struct actor *a, const struct claim *c)
{
	memset(a->s->stamp + c->first, 0, c->n * sizeof(a->s->stamp[0]));
}

static void map_again(struct actor *a, const struct claim *c, size_t skip, int flag)
{
	unsigned char *at = c->at + skip * hmm_page_size();

	if (mmap(at, c->bytes - skip * hmm_page_size(), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | flag, -1, 0) != at)
		failed(a, "mmap of a range", c);
}

static void range_unmap(struct actor *a, const struct claim *c)
{
	uint64_t val;

	if (munmap(c->at, c->bytes))
		failed(a, "munmap of a range", c);
	refused(a, device_store(a, c->at, 1), c->at, "device store to a range unmapped");
	refused(a, device_load(a, c->at + c->bytes - 8, &val), c->at,
		"device load of a range unmapped");
	map_again(a, c, 0, MAP_FIXED_NOREPLACE);
	now_empty(a, c);
}

static void range_drop(struct actor *a, const struct claim *c)
{
	if (madvise(c->at, c->bytes, MADV_DONTNEED))
		failed(a, "madvise of a range", c);
	now_empty(a, c);
}

static void range_free(struct actor *a, struct claim *c)
{
	size_t i, n = c->n;

	c->n = n > FREED_MAX ? FREED_MAX : n;
	if (madvise(c->at, c->n * hmm_page_size(), MADV_FREE))
		failed(a, "madvise free of a range", c);
	for (i = 0; i < c->n; i++)
		write_page(a, c, i);
	c->n = n;
}

static void range_protect(struct actor *a, const struct claim *c, int prot)
{
	size_t i = roll(a) % c->n;
	unsigned char *page = c->at + i * hmm_page_size();
	uint64_t val;

	if (mprotect(c->at, c->bytes, prot))
		failed(a, "mprotect of a range", c);
	refused(a, device_store(a, page, 1), page, "device store to a range protected");
	if (prot == PROT_NONE)
		refused(a, device_load(a, page, &val), page, "device load of a range protected");
	else
		sample(a, c, c->at, "range read-only");
	if (mprotect(c->at, c->bytes, PROT_READ | PROT_WRITE))
		failed(a, "mprotect of a range back", c);
}

/* For the ranges of one settler. */
static unsigned char *side_of(const struct actor *a)
{
	return a->s->side + (1 + a->n) * RANGE_MAX * hmm_page_size();
}

static void range_move(struct actor *a, const struct claim *c)
{
	unsigned char *to = side_of(a);
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	if (mremap(c->at, c->bytes, c->bytes, flags, to) != to)
		failed(a, "mremap of a range", c);
	sample(a, c, to, "range moved");
	device_send(a, to, c->bytes);
	if (mremap(to, c->bytes, c->bytes, flags, c->at) != c->at)
		failed(a, "mremap of a range back", c);
}

/* The pages go where the kernel likes; zeros stay, and go when they come back. */
static void range_leave(struct actor *a, const struct claim *c)
{
	int flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
	unsigned char *to;

	place_lock(a->s);
	if (KERNEL_PLACES)
		to = mremap(c->at, c->bytes, c->bytes, flags, NULL);
	else
		to = mremap(c->at, c->bytes, c->bytes, flags | MREMAP_FIXED, side_of(a));
	place_unlock(a->s);
	if (to == MAP_FAILED) {
		failed(a, "mremap DONTUNMAP of a range", c);
		return;
	}
	sample(a, c, to, "range that has left");
	look(a, c->at, 0, "what a range left behind");
	device_send(a, c->at, c->bytes);
	place_lock(a->s);
	if (mremap(to, c->bytes, c->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, c->at) != c->at)
		failed(a, "mremap of a range home", c);
	place_unlock(a->s);
}

static void range_shrink(struct actor *a, const struct claim *c)
{
	size_t left = 1 + roll(a) % c->n;

	if (left == c->n)
		return;
	if (mremap(c->at, c->bytes, left * hmm_page_size(), 0) != c->at)
		failed(a, "mremap that shrinks", c);
	map_again(a, c, left, MAP_FIXED_NOREPLACE);
	memset(a->s->stamp + c->first + left, 0, (c->n - left) * sizeof(a->s->stamp[0]));
}

/* Out to a file, dropped, and read again. */
static void range_io(struct actor *a, struct claim *c, int fd)
{
	size_t n = c->n > IO_MAX ? IO_MAX : c->n, bytes = n * hmm_page_size();

	if (pwrite(fd, c->at, bytes, 0) != (ssize_t)bytes)
		failed(a, "pwrite(2) of a range", c);
	if (roll(a) % 2 && madvise(c->at, bytes, MADV_DONTNEED))
		failed(a, "madvise of a range written", c);
	if (pread(fd, c->at, bytes, 0) != (ssize_t)bytes)
		failed(a, "pread(2) into a range", c);
}

static void settle(struct actor *a, struct claim *c, int fd)
{
	enum change change = (enum change)(roll(a) % CHANGES);

	if (change == FREE && roll(a) % 8)
		change = DROP; /* as in freer() */
	switch (change) {
	case UNMAP:
		range_unmap(a, c);
		break;
	case OVER:
		map_again(a, c, 0, MAP_FIXED);
		now_empty(a, c);
		break;
	case DROP:
		range_drop(a, c);
		break;
	case FREE:
		range_free(a, c);
		break;
	case READ_ONLY:
	case NONE:
		range_protect(a, c, change == NONE ? PROT_NONE : PROT_READ);
		break;
	case MOVE:
		range_move(a, c);
		break;
	case LEAVE:
		range_leave(a, c);
		break;
	case SHRINK:
		range_shrink(a, c);
		break;
	default:
		range_io(a, c, fd);
	}
}

void *settler(void *arg)
{
	struct actor *a = arg;
	int fd = memfd_create("settler", MFD_CLOEXEC);
	struct claim c;

	if (fd < 0 || ftruncate(fd, (off_t)(IO_MAX * hmm_page_size()))) {
		wrong(a, "memfd", NULL, (uint64_t)errno, 0);
		return NULL;
	}
	while (going_on(a)) {
		claim(a, &c);
		sample(a, &c, c.at, "range claimed");
		settle(a, &c, fd);
		sample(a, &c, c.at, "range changed");
		write_some(a, &c);
		sample(a, &c, c.at, "range written");
		if (roll(a) % 4 == 0)
			device_send(a, c.at, c.bytes);
		field_release(a->s, c.first, c.n);
		turn(a);
	}
	close(fd);
	return NULL;
}
