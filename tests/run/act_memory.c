/* SPDX-License-Identifier: MIT */
/* What programs and allocators do to their mappings. */
#include <sys/mman.h>
#include <sys/resource.h>

#include "act.h"

static void *map_new(size_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(map != MAP_FAILED);
	return map;
}

/* Grows and moves, by mremap(2) and realloc(3). */
static int memory_remap(char **args)
{
	char *map = map_new(2 * MIB), *heap = malloc(2 * MIB);
	size_t size = 2 * MIB, i;

	(void)args;
	data_fill((uint64_t *)map, size, 1);
	data_fill((uint64_t *)heap, size, 2);
	for (; size < DATA; size += 2 * MIB) {
		map = mremap(map, size, size + 2 * MIB, MREMAP_MAYMOVE);
		must(map != MAP_FAILED);
		data_fill((uint64_t *)(map + size), 2 * MIB, 1);
		if (size / (2 * MIB) % 4 == 0) {
			char *to = map_new(size + 2 * MIB);

			map = mremap(map, size + 2 * MIB, size + 2 * MIB,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to);
			must(map == to);
		}
		heap = realloc(heap, size + 2 * MIB);
		must(heap);
		data_fill((uint64_t *)(heap + size), 2 * MIB, 2);
	}
	for (i = 0; i < size; i += 2 * MIB) {
		data_check((uint64_t *)(map + i), 2 * MIB, 1);
		data_check((uint64_t *)(heap + i), 2 * MIB, 2);
	}
	must(!munmap(map, size));
	free(heap);
	puts("moved");
	return 0;
}

/* Random calls, against what must be there: a piece has a seed, or reads as zeros. */
static int memory_storm(char **args)
{
	enum { PIECES = 160, PIECE = 64 };
	size_t size = PIECE * PAGE, i;
	uint64_t seed[PIECES];
	char *map = map_new(PIECES * size);
	unsigned int round, random = 6;

	(void)args;
	for (i = 0; i < PIECES; i++) {
		seed[i] = i + 1;
		data_fill((uint64_t *)(map + i * size), size, seed[i]);
	}
	for (round = 0; round < 3000; round++) {
		char *piece;

		random = random * 1103515245 + 12345;
		i = (random >> 16) % PIECES;
		piece = map + i * size;
		switch (random >> 8 & 7) {
		case 0:
			must(!madvise(piece, size, MADV_DONTNEED));
			seed[i] = 0;
			break;
		case 1:
			/* One thread: the hole is still there. */
			must(!munmap(piece, size));
			must(mmap(piece, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == piece);
			seed[i] = 0;
			break;
		case 2:
			must(!mprotect(piece, size, PROT_READ));
			if (seed[i])
				data_check((uint64_t *)piece, size, seed[i]);
			must(!mprotect(piece, size, PROT_READ | PROT_WRITE));
			break;
		case 3:
			must(!madvise(piece, size, round % 2 ? MADV_HUGEPAGE : MADV_WILLNEED));
			break;
		default:
			if (seed[i])
				data_check((uint64_t *)piece, size, seed[i]);
			else
				must(!*(uint64_t *)piece && !*(uint64_t *)(piece + size - 8));
			seed[i] = round + 1000;
			data_fill((uint64_t *)piece, size, seed[i]);
		}
	}
	for (i = 0; i < PIECES; i++)
		if (seed[i])
			data_check((uint64_t *)(map + i * size), size, seed[i]);
	puts("weathered");
	return 0;
}

/* Locked memory stays: the rest has to make room. */
static int memory_lock(char **args)
{
	uint64_t *data = data_new(DATA, 3), *locked = map_new(4 * MIB);

	(void)args;
	data_fill(locked, 4 * MIB, 4);
	if (mlock(locked, 4 * MIB))
		return 77; /* not allowed so much */
	data_check(data, DATA, 3);
	data_check(locked, 4 * MIB, 4);
	must(!munlock(locked, 4 * MIB));
	data_check(data, DATA, 3);
	data_check(locked, 4 * MIB, 4);
	puts("locked");
	return 0;
}

/* All that it has is locked, the limit notwithstanding. */
static int memory_lock_all(char **args)
{
	struct rlimit limit;
	uint64_t *data;

	(void)args;
	must(!getrlimit(RLIMIT_MEMLOCK, &limit));
	if (geteuid() && limit.rlim_cur != RLIM_INFINITY)
		return 77;
	data = data_new(MIB, 5);
	must(!mlockall(MCL_CURRENT | MCL_FUTURE));
	data_check(data, MIB, 5);
	must(!munlockall());
	free(data);
	data = data_new(DATA, 5);
	data_check(data, DATA, 5);
	puts("locked all");
	return 0;
}

/* As programs do that would rather fail than swap: malloc() says no, and they go on. */
static int memory_rlimit(char **args)
{
	struct rlimit limit = { 0, 0 };
	uint64_t *data = data_new(DATA, 6);
	char text[100];
	FILE *statm = fopen("/proc/self/statm", "r");

	(void)args;
	must(statm && fgets(text, sizeof(text), statm));
	fclose(statm);
	limit.rlim_cur = limit.rlim_max = strtoul(text, NULL, 10) * PAGE + 16 * MIB;
	must(!setrlimit(RLIMIT_AS, &limit));
	must(!malloc(64 * MIB));
	data_check(data, DATA, 6);
	data_fill(data, DATA, 7);
	data_check(data, DATA, 7);
	puts("no more");
	return 0;
}

/* The heap by hand. */
static int memory_break(char **args)
{
	size_t step = MIB, i;
	char *begin = sbrk(0);

	(void)args;
	for (i = 0; i < DATA; i += step) {
		must(sbrk((intptr_t)step) != (void *)-1);
		data_fill((uint64_t *)(begin + i), step, 8);
	}
	data_check((uint64_t *)begin, step, 8);
	for (i = 0; i < DATA; i += step)
		data_check((uint64_t *)(begin + i), step, 8);
	must(sbrk(-(intptr_t)(DATA / 2)) != (void *)-1);
	must(sbrk((intptr_t)(DATA / 2)) != (void *)-1);
	for (i = DATA / 2; i < DATA; i += PAGE)
		must(!begin[i]);
	puts("brk");
	return 0;
}

/* Many small objects, freed in another order. */
static int memory_malloc(char **args)
{
	enum { OBJECTS = 60000 };
	static char *object[OBJECTS];
	unsigned int i, random = 7, round;

	(void)args;
	for (round = 0; round < 3; round++) {
		for (i = 0; i < OBJECTS; i++) {
			size_t size;

			random = random * 1103515245 + 12345;
			if (object[i] && random >> 16 & 1)
				continue;
			free(object[i]);
			size = 16 + (random >> 8) % 1300;
			object[i] = malloc(size);
			must(object[i]);
			memset(object[i], (int)(i % 251), size);
			memcpy(object[i], &(uint32_t){ (uint32_t)size }, 4);
		}
		for (i = 0; i < OBJECTS; i++) {
			uint32_t size, k;

			memcpy(&size, object[i], 4);
			for (k = 4; k < size; k++)
				must((unsigned char)object[i][k] == i % 251);
		}
	}
	puts("allocated");
	return 0;
}

const struct act acts_memory[] = {
	{ "remap", memory_remap },	 { "storm", memory_storm },
	{ "lock", memory_lock },	 { "brk", memory_break },
	{ "lock-all", memory_lock_all }, { "malloc", memory_malloc },
	{ "rlimit", memory_rlimit },	 { NULL, NULL },
};
