/* SPDX-License-Identifier: MIT */
/*
 * One change of the address space after the other, drawn by chance: after each, what
 * the CPU can do with a page is what each device can do with it.
 *
 * Tries to break: G2, G3, G4, where a change follows another of a different kind.
 * HMM_TEST_SEED repeats a run.
 */
#include "changes.h"

#define PAGES 48 /* of each of two windows, both across a border of chunks */
#define STEPS (TEST_SANITIZED ? 120 : 400)
#define SOME 12 /* pages looked at after each step */

static uint64_t seed;
static char *window[2];
static int shared_fd;

static unsigned int draw(unsigned int n)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (unsigned int)((z ^ (z >> 31)) % n);
}

static int draw_prot(void)
{
	static const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ,
				     PROT_NONE };

	return prots[draw(4)];
}

struct piece {
	char *mem;
	size_t pages;
};

static struct piece draw_piece(void)
{
	unsigned int first = draw(PAGES), n = 1 + draw(draw(2) ? 4 : PAGES - first);

	if (n > PAGES - first)
		n = PAGES - first;
	return (struct piece){ window[draw(2)] + first * PAGE, n };
}

static void change_map(struct piece p)
{
	int kinds[] = { MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE,
			MAP_SHARED };
	int kind = kinds[draw(4)];
	bool file = !(kind & MAP_ANONYMOUS);
	int fd = file ? shared_fd : -1;
	off_t offset = file ? (off_t)(draw(4) * PAGE) : 0;

	assert_ptr_equal(mmap(p.mem, p.pages * PAGE, draw_prot(), kind | MAP_FIXED, fd, offset),
			 p.mem);
}

static void change_protect(struct piece p)
{
	assert_int_equal(mprotect(p.mem, p.pages * PAGE, draw_prot()), 0);
}

static void change_discard(struct piece p)
{
	madvise(p.mem, p.pages * PAGE, draw(3) ? MADV_DONTNEED : MADV_REMOVE);
}

static void change_write(struct piece p)
{
	uint64_t val = (uint64_t)draw(1000) << 32;
	size_t i;

	for (i = 0; i < p.pages; i++)
		cpu_copy(true, p.mem + i * PAGE, &val);
}

/* It may fail, half-way too: see who agrees. */
static void change_move(struct piece p)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (draw(2) ? MREMAP_DONTUNMAP : 0);
	size_t len = p.pages * PAGE, new_len = len;
	unsigned int first = draw((unsigned int)(PAGES - p.pages + 1));
	char *to =
		(p.mem >= window[1] && p.mem < window[1] + PAGES * PAGE ? window[0] : window[1]) +
		first * PAGE;

	if (!(flags & MREMAP_DONTUNMAP) && draw(2))
		new_len = (1 + draw((unsigned int)p.pages)) * PAGE;
	if (mremap(p.mem, len, new_len, flags, to) == MAP_FAILED)
		assert_true(errno == EFAULT || errno == EINVAL || errno == ENOMEM);
}

static void change_fork(struct piece p)
{
	pid_t pid = fork();
	int status;

	(void)p;
	if (!pid)
		_exit(0);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* False: somebody else has one of them, and the windows are not ours any more. */
static bool fill_holes(void)
{
	unsigned char vec;
	size_t i;

	for (i = 0; i < 2 * PAGES; i++) {
		char *at = window[i / PAGES] + i % PAGES * PAGE;

		if (mincore(at, PAGE, &vec) && errno == ENOMEM && !map_hole(at, 1, draw_prot()))
			return false;
	}
	return true;
}

static char *window_new(void)
{
	char *mem = map_aligned(2 * THP);

	assert_int_equal(mprotect(mem, 2 * THP, PROT_NONE), 0);
	return mem + THP - PAGES / 2 * PAGE;
}

static bool change_one(void)
{
	static const struct {
		const char *name;
		void (*fn)(struct piece p);
	} kinds[] = {
		{ "map", change_map },	       { "protect", change_protect },
		{ "move", change_move },       { "discard", change_discard },
		{ "write", change_write },     { "map", change_map },
		{ "protect", change_protect }, { "move", change_move },
		{ "move", change_move },       { "fork", change_fork },
	};
	unsigned int kind = draw(sizeof(kinds) / sizeof(kinds[0]));
	struct piece p = draw_piece();
	unsigned int i;

	step(kinds[kind].name);
	kinds[kind].fn(p);
	for (i = 0; i < SOME; i++)
		agree(i & 1 ? p.mem + draw((unsigned int)p.pages) * PAGE :
			      window[draw(2)] + draw(PAGES) * PAGE);
	return fill_holes();
}

static void change_after_change(size_t pages)
{
	unsigned int i, n, round;

	n = pages == 1 ? STEPS / 4 : STEPS;
	shared_fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(shared_fd, (PAGES + 4) * PAGE), 0);
	for (round = 0; round < 3; round++) {
		window[0] = window_new();
		window[1] = window_new();
		for (i = 0; i < n && change_one(); i++)
			;
		for (i = 0; i < 2 * PAGES; i++)
			agree(window[i / PAGES] + i % PAGES * PAGE);
		/* Left mapped: there may be strangers within. */
	}
	close(shared_fd);
}

static const struct change changes[] = {
	CHANGE(change_after_change),
};

int main(void)
{
	const char *text = getenv("HMM_TEST_SEED");

	test_init();
	seed = text ? strtoull(text, NULL, 0) : test_now();
	printf("HMM_TEST_SEED=%llu\n", (unsigned long long)seed);
	return changes_main(__FILE__, changes, 1);
}
