// SPDX-License-Identifier: MIT
/*
 * What is the most that user space can have of bulk migration on this kernel?
 *
 * No libhmm: the bare sequence that bulk migration is made of, with every page
 * kept for the way back. To the device: UFFDIO_MOVE 2 MiB out of the range, copy
 * it to the "device". Back: copy into pages kept from the way out, UFFDIO_MOVE
 * them into the range. Against memcpy() in one go, as bench/bulk does: where
 * bulk misses its goal, this tells whether libhmm or the machine is to blame.
 *
 * Once with memcpy() of 2 MiB, which is below glibc's threshold for
 * non-temporal stores and so reads what it overwrites, and once with streaming
 * stores, two pages at a time, which is what glibc does above it.
 */
#include "bench_uffd.h"

#include <stdio.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BYTES (256 * BENCH_MIB)
#define ROUNDS 7

enum part { TO_MOVE, TO_COPY, BACK_COPY, BACK_MOVE, MEMCPY, PARTS };

struct floor_bench {
	enum bench_pages pages;
	bool stream;
	struct bench_uffd uffd;
	char *range, *staging, *device, *src;
	double ns[PARTS][ROUNDS];
};

#ifdef __SSE2__
static void stream_line(char *dst, const char *src)
{
	int i;

	for (i = 0; i < 64; i += 16)
		_mm_stream_si128((__m128i *)(dst + i), _mm_load_si128((const __m128i *)(src + i)));
}

/* Four lines of one page, four of the next, and so on through 2 MiB. */
static void stream_copy(char *dst, const char *src)
{
	size_t pair, at, i;

	for (pair = 0; pair < BENCH_HUGE; pair += 8192) {
		for (at = pair; at < pair + 4096; at += 256) {
			for (i = at; i < at + 256; i += 64)
				stream_line(dst + i, src + i);
			for (i = at + 4096; i < at + 4096 + 256; i += 64)
				stream_line(dst + i, src + i);
		}
	}
	_mm_sfence();
}
#else
static void stream_copy(char *dst, const char *src)
{
	memcpy(dst, src, BENCH_HUGE);
}
#endif

static void copy(const struct floor_bench *b, char *dst, const char *src)
{
	if (b->stream)
		stream_copy(dst, src);
	else
		memcpy(dst, src, BENCH_HUGE);
}

static bool move(struct floor_bench *b, char *dst, char *src)
{
	struct uffdio_move m = { (uintptr_t)dst, (uintptr_t)src, BENCH_HUGE, 0, 0 };
	size_t done = 0;

	while (done < BENCH_HUGE) {
		m.dst = (uintptr_t)dst + done;
		m.src = (uintptr_t)src + done;
		m.len = BENCH_HUGE - done;
		m.move = 0;
		if (!ioctl(b->uffd.fd, UFFDIO_MOVE, &m))
			return true;
		if (m.move <= 0 && errno != EAGAIN && errno != EBUSY)
			return false;
		if (m.move > 0)
			done += (size_t)m.move;
	}
	return true;
}

static void one_round(struct floor_bench *b, int round)
{
	double ns[PARTS] = { 0 };
	uint64_t t[6];
	size_t at;
	int i;

	bench_fill(b->range, BYTES, (uint64_t)(round + 10));
	t[0] = bench_ns();
	memcpy(b->device, b->src, BYTES);
	ns[MEMCPY] = (double)(bench_ns() - t[0]);
	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		t[0] = bench_ns();
		if (!move(b, b->staging + at, b->range + at))
			bench_skip("UFFDIO_MOVE: %s", strerror(errno));
		t[1] = bench_ns();
		copy(b, b->device + at, b->staging + at);
		t[2] = bench_ns();
		ns[TO_MOVE] += (double)(t[1] - t[0]);
		ns[TO_COPY] += (double)(t[2] - t[1]);
	}
	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		t[0] = bench_ns();
		copy(b, b->staging + at, b->device + at);
		t[1] = bench_ns();
		if (!move(b, b->range + at, b->staging + at))
			bench_fail("UFFDIO_MOVE back: %s", strerror(errno));
		t[2] = bench_ns();
		ns[BACK_COPY] += (double)(t[1] - t[0]);
		ns[BACK_MOVE] += (double)(t[2] - t[1]);
	}
	bench_check(b->range, BYTES, (uint64_t)(round + 10), "after the way back");
	for (i = 0; i < PARTS && round >= 0; i++)
		b->ns[i][round] = ns[i];
}

static void report(struct floor_bench *b, const char *way, enum part move_part, enum part copy_part)
{
	double r[ROUNDS], total[ROUNDS], pages = (double)BYTES / bench_page_size();
	char name[64];
	int i;

	for (i = 0; i < ROUNDS; i++) {
		total[i] = b->ns[move_part][i] + b->ns[copy_part][i];
		r[i] = b->ns[MEMCPY][i] / total[i];
	}
	snprintf(name, sizeof(name), "bulk_floor_%s_%s_%s", way, b->stream ? "stream" : "memcpy",
		 bench_pages_name(b->pages));
	bench_result(name, BYTES / bench_median(total, ROUNDS), "GB/s", bench_median(r, ROUNDS),
		     "none", "ref=memcpy ref_value=%.3f move_ns_page=%.1f copy_ns_page=%.1f",
		     BYTES / bench_median(b->ns[MEMCPY], ROUNDS),
		     bench_median(b->ns[move_part], ROUNDS) / pages,
		     bench_median(b->ns[copy_part], ROUNDS) / pages);
}

static void run(enum bench_pages pages, bool stream)
{
	struct floor_bench b = { .pages = pages, .stream = stream };
	int round;

	b.uffd.fd = bench_uffd_open(UFFD_FEATURE_MOVE);
	b.range = bench_map(BYTES, pages);
	b.staging = bench_map(BYTES, pages);
	b.device = bench_map(BYTES, BENCH_THP);
	b.src = bench_map(BYTES, pages);
	bench_fill(b.device, BYTES, 1);
	bench_fill(b.src, BYTES, 2);
	bench_fill(b.range, BYTES, 3);
	if (pages == BENCH_THP && bench_huge_bytes(b.range, BYTES) < BYTES) {
		printf("# bulk_floor thp: left out, the kernel gave no huge pages\n");
		return;
	}
	bench_uffd_register(&b.uffd, b.range, BYTES, UFFDIO_REGISTER_MODE_MISSING);
	bench_uffd_register(&b.uffd, b.staging, BYTES, UFFDIO_REGISTER_MODE_MISSING);
	for (round = -1; round < ROUNDS; round++)
		one_round(&b, round);
	report(&b, "to_device", TO_MOVE, TO_COPY);
	report(&b, "back", BACK_MOVE, BACK_COPY);
	bench_unmap(b.range, BYTES);
	bench_unmap(b.staging, BYTES);
	bench_unmap(b.device, BYTES);
	bench_unmap(b.src, BYTES);
	close(b.uffd.fd);
}

int main(void)
{
	bench_header("bulk_floor", "%lu MiB in pieces of 2 MiB, %d rounds, medians",
		     BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL, false);
	run(BENCH_SMALL, true);
	run(BENCH_THP, false);
	run(BENCH_THP, true);
	return 0;
}
