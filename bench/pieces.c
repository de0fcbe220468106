// SPDX-License-Identifier: MIT
/*
 * What does a call cost that moves a few pages, against the bare sequence?
 *
 * 16 MiB go to the dummy device and come back in calls of 1, 16 and 512 pages. Next to
 * each the least that userfaultfd can do for the same piece, with every system page kept:
 * UFFDIO_MOVE out of the range and a copy to the "device"; a copy into the kept pages and
 * UFFDIO_MOVE back. The rest is libhmm's: looking the mapping up and what must not go,
 * registering, taking translations away, special entries, the fixed cost of a call.
 *
 * 512 pages also as one huge page.
 */
#include "bench_hmm.h"
#include "bench_uffd.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define BYTES (16 * BENCH_MIB)
#define ROUNDS 9

enum way { TO, BACK, WAYS };

struct pieces {
	enum bench_pages pages;
	size_t step; /* bytes */
	size_t bytes;
	struct bench_dev dev;
	struct bench_uffd uffd;
	char *range; /* libhmm's */
	char *bare, *staging, *device;
	double own[WAYS][ROUNDS], ref[WAYS][ROUNDS]; /* ns */
};

static void move(struct pieces *p, char *dst, char *src)
{
	struct uffdio_move m = { (uintptr_t)dst, (uintptr_t)src, p->step, 0, 0 };
	size_t done = 0;

	while (done < p->step) {
		m.dst = (uintptr_t)dst + done;
		m.src = (uintptr_t)src + done;
		m.len = p->step - done;
		m.move = 0;
		if (!ioctl(p->uffd.fd, UFFDIO_MOVE, &m))
			return;
		if (m.move <= 0 && errno != EAGAIN && errno != EBUSY)
			bench_skip("UFFDIO_MOVE: %s", strerror(errno));
		if (m.move > 0)
			done += (size_t)m.move;
	}
}

static double bare_timed(struct pieces *p, enum way way)
{
	uint64_t t0 = bench_ns();
	size_t at;

	for (at = 0; at < p->bytes; at += p->step) {
		if (way == TO) {
			move(p, p->staging + at, p->bare + at);
			memcpy(p->device + at, p->staging + at, p->step);
		} else {
			memcpy(p->staging + at, p->device + at, p->step);
			move(p, p->bare + at, p->staging + at);
		}
	}
	return (double)(bench_ns() - t0);
}

static double own_timed(struct pieces *p, enum way way)
{
	uint64_t t0 = bench_ns();
	size_t at;

	for (at = 0; at < p->bytes; at += p->step) {
		if (way == TO)
			bench_dev_migrate(&p->dev, p->range + at, p->step);
		else
			bench_dev_evict(&p->dev, p->range + at, p->step);
	}
	return (double)(bench_ns() - t0);
}

static void make_huge(struct pieces *p, char *mem)
{
	if (p->pages == BENCH_THP && bench_huge_bytes(mem, p->bytes) < p->bytes)
		madvise(mem, p->bytes, MADV_COLLAPSE);
}

static void one_round(struct pieces *p, int round)
{
	uint64_t seed = (uint64_t)(round + 10);
	double own, ref;
	int way;

	bench_fill(p->range, p->bytes, seed);
	bench_fill(p->bare, p->bytes, seed);
	make_huge(p, p->range);
	make_huge(p, p->bare);
	for (way = 0; way < WAYS; way++) {
		ref = bare_timed(p, (enum way)way);
		own = own_timed(p, (enum way)way);
		bench_dev_expect(p->range, p->bytes,
				 way == TO ? HMM_WHERE_DEVICE : HMM_WHERE_SYSTEM);
		if (round >= 0) {
			p->own[way][round] = own;
			p->ref[way][round] = ref;
		}
	}
	bench_check(p->range, p->bytes, seed, "after the way back");
	bench_check(p->bare, p->bytes, seed, "after the bare way back");
}

static void report(struct pieces *p)
{
	static const char *const way_name[WAYS] = { "to_device", "back" };
	double calls = (double)(p->bytes / p->step), r[ROUNDS];
	char name[64];
	int way, i;

	for (way = 0; way < WAYS; way++) {
		for (i = 0; i < ROUNDS; i++)
			r[i] = p->own[way][i] / p->ref[way][i];
		snprintf(name, sizeof(name), "pieces_%s_%zu_%s", way_name[way],
			 p->step / bench_page_size(), bench_pages_name(p->pages));
		bench_result(name, bench_median(p->own[way], ROUNDS) / calls / 1000, "us/call",
			     bench_median(r, ROUNDS), "<=1.25", "ref=bare_uffd_move ref_value=%.3f",
			     bench_median(p->ref[way], ROUNDS) / calls / 1000);
	}
}

static void run(enum bench_pages pages, size_t pages_a_call)
{
	struct pieces p = { .pages = pages, .step = pages_a_call * bench_page_size() };
	int round;

	p.bytes = pages_a_call == 1 ? BYTES / 4 : BYTES;
	p.range = bench_map(p.bytes, pages);
	p.bare = bench_map(p.bytes, pages);
	p.staging = bench_map(p.bytes, pages);
	p.device = bench_map(p.bytes, BENCH_SMALL);
	bench_fill(p.device, p.bytes, 1);
	bench_fill(p.bare, p.bytes, 1); /* nobody answers its faults */
	p.uffd.fd = bench_uffd_open(UFFD_FEATURE_MOVE);
	bench_uffd_register(&p.uffd, p.bare, p.bytes, UFFDIO_REGISTER_MODE_MISSING);
	bench_uffd_register(&p.uffd, p.staging, p.bytes, UFFDIO_REGISTER_MODE_MISSING);
	hmm_set_pool(p.bytes);
	bench_dev_open(&p.dev, p.bytes);
	for (round = -2; round < ROUNDS; round++)
		one_round(&p, round);
	report(&p);
	bench_dev_close(&p.dev);
	close(p.uffd.fd);
	bench_unmap(p.range, p.bytes);
	bench_unmap(p.bare, p.bytes);
	bench_unmap(p.staging, p.bytes);
	bench_unmap(p.device, p.bytes);
}

int main(void)
{
	bench_hmm_probe();
	bench_header("pieces", "%lu MiB, %d rounds, medians; as many pages a call",
		     BYTES / BENCH_MIB, ROUNDS);
	run(BENCH_SMALL, 1);
	run(BENCH_SMALL, 16);
	run(BENCH_SMALL, 512);
	run(BENCH_THP, 512);
	return 0;
}
