/* SPDX-License-Identifier: MIT */
/*
 * Several of the smallest devices (plain.h) over one range, and the threads around
 * them: what test_mirror_several and test_mirror_failing share.
 */
#ifndef TESTS_MIRROR_SEVERAL_H
#define TESTS_MIRROR_SEVERAL_H

#include "mirror/plain.h"

#define PAGES 32
#define DEVICES 8
#define ROUNDS (TEST_SANITIZED ? 8 : 30)

static struct {
	char *mem;
	struct plain *dev[DEVICES]; /* atomic */
	int inside[DEVICES]; /* atomic: threads that use it */
	bool closed[DEVICES]; /* atomic: unregister has returned */
	uint64_t begun, done; /* atomic: generation of what the pages hold */
	bool stop; /* atomic */
	int errors; /* atomic: -EIO, counted */
	const char *bad; /* atomic */
	int bad_ret;
} stage;

#define get(what) __atomic_load_n(&(what), __ATOMIC_SEQ_CST)
#define set(what, val) __atomic_store_n(&(what), val, __ATOMIC_SEQ_CST)

static inline void complain(const char *what, int ret)
{
	stage.bad_ret = ret;
	set(stage.bad, what);
}

static inline void all_is_well(void)
{
	if (plain_wrong)
		fail_msg("%s", plain_wrong);
	if (get(stage.bad))
		fail_msg("%s: %d", stage.bad, stage.bad_ret);
}

/* Alternately with and without hold, prompt and not, from malloc and not. */
static inline struct plain *device_make(unsigned int n)
{
	struct plain *p = n & 4 ? hmm_alloc(sizeof(*p)) : calloc(1, sizeof(*p));

	assert_non_null(p);
	p->holds = n & 1;
	p->delay_us = n & 2 ? 50 : 0;
	if (!p->delay_us)
		p->device.flags = HMM_DEVICE_PROMPT;
	plain_register(p, stage.mem);
	return p;
}

static inline void device_free(struct plain *p, unsigned int n)
{
	memset(p, 0xdd, sizeof(*p));
	if (n & 4)
		hmm_free(p);
	else
		free(p);
}

static inline void stage_set(unsigned int devices)
{
	unsigned int i;

	memset(&stage, 0, sizeof(stage));
	plain_wrong = NULL;
	stage.mem = map_low(PAGES * PAGE);
	for (i = 0; i < devices; i++)
		stage.dev[i] = device_make(i);
}

static inline void stage_clear(unsigned int devices)
{
	unsigned int i;

	for (i = 0; i < devices; i++) {
		plain_unregister(stage.dev[i]);
		device_free(stage.dev[i], i);
	}
	munmap(stage.mem, PAGES * PAGE);
	all_is_well();
}

static inline void map_over(size_t first, size_t n)
{
	char *at = stage.mem + first * PAGE;

	assert_ptr_equal(mmap(at, n * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 at);
}

static inline void threads(pthread_t *thread, unsigned int n, void *(*fn)(void *))
{
	uintptr_t i;

	for (i = 0; i < n; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fn, (void *)i), 0);
}

static inline void join(pthread_t *thread, unsigned int n)
{
	unsigned int i;

	set(stage.stop, true);
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	set(stage.stop, false);
}

#endif
