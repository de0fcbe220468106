/* SPDX-License-Identifier: MIT */
/*
 * What the benchmarks of the lz4 device compress, and the bare LZ4 that they compare
 * with: the same calls, page by page, on the same data, from one resident buffer to
 * another.
 */
#ifndef BENCH_LZ4_H
#define BENCH_LZ4_H

#include "bench_hmm.h"

#include <lz4.h>
#include <lz4dev.h>
#include <stdio.h>

/*
 * TEXT: words of a made-up language, often used ones more often. HEAP: what a program
 * builds by malloc(): sizes, pointers, counters, short strings. CODE: this program's C
 * library. SAME: pages of zeros. RANDOM: nothing to be won.
 */
enum bench_data { BENCH_TEXT, BENCH_HEAP, BENCH_CODE, BENCH_SAME, BENCH_RANDOM, BENCH_DATA };

static const char *const bench_data_name[BENCH_DATA] = { "text", "heap", "code", "same", "random" };

static inline uint64_t bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline void bench_text(char *to, size_t bytes, uint64_t *state)
{
	static char word[2048][12];
	size_t at = 0, i, n;

	for (i = 0; !word[2047][0] && i < 2048; i++)
		for (n = 2 + bench_random(state) % 9; n--;)
			word[i][n] = "etaoinshrdlucmfwypvbgkjqxz"[bench_random(state) % 26 *
								  (bench_random(state) % 26) / 26];
	while (at < bytes) {
		uint64_t r = bench_random(state);
		const char *w = word[(r & 2047) * (r >> 11 & 2047) * (r >> 22 & 2047) >> 22];

		for (; *w && at < bytes; w++)
			to[at++] = *w;
		if (at < bytes)
			to[at++] = r >> 40 & 15 ? ' ' : '\n';
	}
}

static inline void bench_heap(char *to, size_t bytes, uint64_t *state)
{
	uint64_t *w = (uint64_t *)(void *)to, base = 0x55d0c0a01000;
	size_t n = bytes / sizeof(*w), i;

	for (i = 0; i + 8 <= n; i += 8) {
		uint64_t r = bench_random(state);

		w[i] = 0x41;
		w[i + 1] = base + (r & 0x3ffff) * 64;
		w[i + 2] = base + (r >> 20 & 0x3ffff) * 64;
		w[i + 3] = r >> 40 & 1023;
		w[i + 4] = 0;
		w[i + 5] = r >> 50 & 7 ? 0 : base + (i % 4096) * 8;
		w[i + 6] = 0x0000006579656b00 + (r >> 53 & 127);
		w[i + 7] = 1;
	}
}

/* The C library's file, over and over. */
static inline void bench_code(char *to, size_t bytes)
{
	char line[512], path[256] = "";
	FILE *maps = fopen("/proc/self/maps", "re"), *file;
	size_t at = 0, n;

	while (maps && fgets(line, sizeof(line), maps))
		if (strstr(line, "/libc.so") || strstr(line, "/libc-"))
			sscanf(strchr(line, '/'), "%255s", path);
	if (maps)
		fclose(maps);
	file = fopen(path, "re");
	if (!file)
		bench_fail("no C library");
	while (at < bytes) {
		n = fread(to + at, 1, bytes - at, file);
		at += n;
		if (!n)
			rewind(file);
	}
	fclose(file);
}

static inline void bench_data_fill(char *to, size_t bytes, enum bench_data data)
{
	uint64_t state = 88172645463325252ull + data;
	size_t i;

	switch (data) {
	case BENCH_TEXT:
		bench_text(to, bytes, &state);
		break;
	case BENCH_HEAP:
		bench_heap(to, bytes, &state);
		break;
	case BENCH_CODE:
		bench_code(to, bytes);
		break;
	case BENCH_SAME:
		memset(to, 0, bytes);
		break;
	default:
		for (i = 0; i < bytes; i += 8)
			*(uint64_t *)(void *)(to + i) = bench_random(&state);
	}
}

/* Bare LZ4: @packed has a page for each page; @length 0: plain. */
struct bench_bare {
	char *packed, *out;
	int *length;
	char *state;
	size_t pages;
};

static inline void bench_bare_init(struct bench_bare *bare, size_t bytes)
{
	bare->pages = bytes / bench_page_size();
	bare->packed = bench_map(bytes, BENCH_SMALL);
	bare->out = bench_map(bytes, BENCH_SMALL);
	memset(bare->packed, 1, bytes);
	memset(bare->out, 1, bytes);
	bare->length = calloc(bare->pages, sizeof(*bare->length));
	bare->state = malloc((size_t)LZ4_sizeofState());
	if (!bare->length || !bare->state)
		bench_fail("no memory");
}

/* Nanoseconds. */
static inline double bench_bare_compress(struct bench_bare *bare, const char *from)
{
	size_t size = bench_page_size(), i;
	uint64_t t0 = bench_ns();

	for (i = 0; i < bare->pages; i++) {
		bare->length[i] = LZ4_compress_fast_extState(bare->state, from + i * size,
							     bare->packed + i * size, (int)size,
							     (int)size - 1, 1);
		if (!bare->length[i])
			memcpy(bare->packed + i * size, from + i * size, size);
	}
	return (double)(bench_ns() - t0);
}

static inline double bench_bare_decompress(struct bench_bare *bare)
{
	size_t size = bench_page_size(), i;
	uint64_t t0 = bench_ns();

	for (i = 0; i < bare->pages; i++)
		if (!bare->length[i])
			memcpy(bare->out + i * size, bare->packed + i * size, size);
		else if (LZ4_decompress_safe(bare->packed + i * size, bare->out + i * size,
					     bare->length[i], (int)size) != (int)size)
			bench_fail("bare LZ4");
	return (double)(bench_ns() - t0);
}

static inline double bench_bare_copy(struct bench_bare *bare, const char *from)
{
	uint64_t t0 = bench_ns();

	memcpy(bare->out, from, bare->pages * bench_page_size());
	return (double)(bench_ns() - t0);
}

#endif
