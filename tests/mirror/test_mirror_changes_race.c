/* SPDX-License-Identifier: MIT */
/*
 * The address space changes while devices are busy in the very range.
 *
 * Tries to break: G3 (no access of a device that takes effect after the call has
 * returned goes by what held before), G2, G4, G8 (a child has one moment of memory), G9.
 *
 * Device threads load and store all the time; the main thread changes something, and
 * looks whether what may not change any more does.
 */
#include "changes.h"

#define THREADS 2 /* of each device */
#define ROUNDS (TEST_SANITIZED ? 8 : 20)

struct hammer {
	pthread_t thread;
	struct dummy_device *dev;
	char *mem;
	size_t pages;
	unsigned int number;
	bool load;
	uint64_t *seq; /* even: the word of each page is *seq, and can be loaded if *open */
	bool *open;
	uint64_t count; /* atomic: accesses that ended */
	uint64_t won; /* of these, that succeeded */
	int bad; /* what may not be: 0 or negative errno, and the rest with it */
	uint64_t val;
	uint64_t at;
};

static bool stop; /* atomic */
static struct hammer hammers[2 * THREADS];
static unsigned int hammering;

/* The first that may not be; read once the thread has ended. */
static void hammer_bad(struct hammer *h, int ret, uint64_t val, uint64_t seq)
{
	if (h->bad)
		return;
	h->bad = ret ? ret : 1;
	h->val = val;
	h->at = seq;
}

/* Stores grow: a page's word tells when it was written. */
static void hammer_store(struct hammer *h, uint64_t n, char *at)
{
	int ret = dummy_store_u64(h->dev, addr_of(at), n << 8 | h->number);

	if (!ret)
		h->won++;
	else if (ret != -EFAULT && ret != -EBUSY)
		hammer_bad(h, ret, n, n);
}

static void hammer_load(struct hammer *h, char *at)
{
	uint64_t seq = __atomic_load_n(h->seq, __ATOMIC_SEQ_CST), val = 0;
	bool open = __atomic_load_n(h->open, __ATOMIC_SEQ_CST);
	int ret = dummy_load_u64(h->dev, addr_of(at), &val);

	if (ret && ret != -EFAULT && ret != -EBUSY)
		hammer_bad(h, ret, val, seq);
	if (seq & 1 || __atomic_load_n(h->seq, __ATOMIC_SEQ_CST) != seq)
		return;
	if (!ret)
		h->won++;
	if (open ? ret || val != seq : !ret)
		hammer_bad(h, ret, val, seq);
}

static void *hammer_main(void *arg)
{
	struct hammer *h = arg;
	uint64_t n;

	for (n = 1; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); n++) {
		char *at = h->mem + (n * 7 + h->number) % h->pages * PAGE;

		if (h->load)
			hammer_load(h, at);
		else
			hammer_store(h, n, at);
		__atomic_store_n(&h->count, n, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void hammer_stop(void)
{
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	while (hammering)
		pthread_join(hammers[--hammering].thread, NULL);
}

static void hammer_begin(char *mem, size_t pages, uint64_t *seq, bool *open)
{
	unsigned int i;

	stop = false;
	way_end = hammer_stop;
	for (i = 0; i < devs * THREADS; i++) {
		hammers[i] = (struct hammer){ .dev = dev[i % devs],
					      .mem = mem,
					      .pages = pages,
					      .number = i,
					      .load = seq,
					      .seq = seq,
					      .open = open };
		assert_int_equal(pthread_create(&hammers[i].thread, NULL, hammer_main, &hammers[i]),
				 0);
		hammering = i + 1;
	}
}

/* @at_work: each of them got something done. */
static void hammer_end(bool at_work)
{
	unsigned int i, n = hammering;

	hammer_stop();
	for (i = 0; i < n; i++) {
		if (hammers[i].bad)
			fail_msg("device thread %u: %d, value %llu at %llu", i, hammers[i].bad,
				 (unsigned long long)hammers[i].val,
				 (unsigned long long)hammers[i].at);
		assert_true(!at_work || hammers[i].won);
	}
}

/* Each of them ends @n accesses that began after this call. */
static void hammer_wait(uint64_t n)
{
	uint64_t was[2 * THREADS];
	unsigned int i;

	for (i = 0; i < hammering; i++)
		was[i] = __atomic_load_n(&hammers[i].count, __ATOMIC_ACQUIRE);
	for (i = 0; i < hammering; i++)
		while (__atomic_load_n(&hammers[i].count, __ATOMIC_ACQUIRE) < was[i] + 1 + n)
			sched_yield();
}

static void take(const char *mem, size_t pages, uint64_t *words)
{
	size_t i;

	for (i = 0; i < pages; i++)
		words[i] = *(const volatile uint64_t *)(mem + i * PAGE);
}

/* Nobody stores there any more. */
static void is_still(const char *mem, size_t pages)
{
	uint64_t now[MANY], then[MANY];

	take(mem, pages, then);
	hammer_wait(2);
	take(mem, pages, now);
	assert_memory_equal(now, then, pages * sizeof(now[0]));
}

static void stores_end_with_mprotect(size_t pages)
{
	char *mem = area(pages, 1);
	int i;

	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < ROUNDS; i++) {
		hammer_wait(2);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ), 0);
		is_still(mem, pages);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
	}
	hammer_wait(2);
	hammer_end(true);
	area_free(mem, pages);
}

/* The same where no device has anything yet, and their first faults are under way. */
static void first_stores_end_with_mprotect(size_t pages)
{
	char *mem = area(pages, 1);
	volatile unsigned int spin;
	size_t j;
	int i;

	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < 4 * ROUNDS; i++) {
		map_over(mem, pages, PROT_READ | PROT_WRITE);
		for (j = 0; j < pages; j++)
			*(volatile uint64_t *)(mem + j * PAGE) = 0;
		for (spin = 0; spin < (unsigned int)i * 37 % 4000; spin++)
			;
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ), 0);
		is_still(mem, pages);
	}
	hammer_end(false);
	area_free(mem, pages);
}

/*
 * Not that it is all zeros: the kernel has the new mapping in place before it tells of
 * the end of the old one, and a store may hit it before the call returns.
 */
static void stores_end_with_the_mapping(size_t pages)
{
	char *mem = area(pages, 1);
	int i;

	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < ROUNDS; i++) {
		hammer_wait(2);
		map_over(mem, pages, PROT_READ);
		is_still(mem, pages);
		map_over(mem, pages, PROT_READ | PROT_WRITE);
	}
	hammer_wait(2);
	hammer_end(true);
	area_free(mem, pages);
}

/* What went away with mremap is written by nobody, nor is what came in its place. */
static void stores_do_not_follow_mremap(size_t pages)
{
	char *mem = area(pages, 1), *to = area(pages, 2), *got;
	int i;

	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < ROUNDS; i++) {
		hammer_wait(2);
		got = mremap(mem, pages * PAGE, pages * PAGE,
			     MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);
		if (got != to)
			fail_msg("round %d: mremap: %s", i, strerror(errno));
		is_still(to, pages);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ), 0);
		is_still(mem, pages);
		assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
	}
	hammer_wait(2);
	hammer_end(true);
	area_free(mem, pages);
	area_free(to, pages);
}

/* Stores from before do not come back: zero, or younger than the call. */
static void dontneed_forgets_older_stores(size_t pages)
{
	uint64_t words[MANY], old[2 * THREADS];
	char *mem = area(pages, 1);
	unsigned int i;
	size_t j;

	memset(mem, 0, pages * PAGE);
	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < ROUNDS; i++) {
		unsigned int k;

		hammer_wait(2);
		for (k = 0; k < hammering; k++)
			old[k] = __atomic_load_n(&hammers[k].count, __ATOMIC_ACQUIRE);
		assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
		take(mem, pages, words);
		for (j = 0; j < pages; j++)
			assert_true(!words[j] || words[j] >> 8 > old[words[j] & 0xff]);
	}
	hammer_end(true);
	area_free(mem, pages);
}

/* Loads give the content of the moment, or nothing where nothing may be read. */
static void loads_see_the_mapping_of_the_moment(size_t pages)
{
	char *mem = area(pages, 1);
	uint64_t seq = 1;
	bool open = false;
	size_t j;
	int i;

	hammer_begin(mem, pages, &seq, &open);
	for (i = 0; i < ROUNDS; i++) {
		uint64_t next = seq + 1;

		switch (i % 4) {
		case 0:
			map_over(mem, pages, PROT_READ | PROT_WRITE);
			break;
		case 1:
			assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
			break;
		case 2:
			assert_int_equal(mprotect(mem, pages * PAGE, PROT_NONE), 0);
			break;
		case 3:
			map_over(mem, pages, PROT_NONE);
			break;
		}
		for (j = 0; j < pages && i % 4 < 2; j++)
			*(volatile uint64_t *)(mem + j * PAGE) = next;
		__atomic_store_n(&open, i % 4 < 2, __ATOMIC_SEQ_CST);
		__atomic_store_n(&seq, next, __ATOMIC_SEQ_CST);
		hammer_wait(2);
		__atomic_store_n(&seq, next + 1, __ATOMIC_SEQ_CST);
	}
	hammer_end(true);
	area_free(mem, pages);
}

/* In the child: nothing moves, whatever the parent's devices do. */
static int child_is_still(const char *mem, size_t pages, const int *go, int *ready)
{
	static uint64_t now[MANY], then[MANY];
	char c;

	alarm(60);
	take(mem, pages, then);
	if (write(ready[1], "", 1) != 1 || read(go[0], &c, 1) != 1)
		return 2;
	take(mem, pages, now);
	return memcmp(now, then, sizeof(now)) ? 1 : 0;
}

static void stores_stay_out_of_a_child(size_t pages)
{
	char *mem = area(pages, 1);
	int i, go[2], ready[2], status;
	char c;

	hammer_begin(mem, pages, NULL, NULL);
	for (i = 0; i < ROUNDS / 2; i++) {
		pid_t pid;

		hammer_wait(2);
		assert_int_equal(pipe(go) | pipe(ready), 0);
		pid = fork();
		if (!pid)
			_exit(child_is_still(mem, pages, go, ready));
		assert_true(pid > 0);
		assert_int_equal(read(ready[0], &c, 1), 1);
		hammer_wait(5);
		assert_int_equal(write(go[1], "", 1), 1);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		close(go[0]);
		close(go[1]);
		close(ready[0]);
		close(ready[1]);
	}
	hammer_end(true);
	area_free(mem, pages);
}

static const struct change changes[] = {
	CHANGE(stores_end_with_mprotect),
	CHANGE(first_stores_end_with_mprotect),
	CHANGE(stores_end_with_the_mapping),
	CHANGE(stores_do_not_follow_mremap),
	CHANGE(dontneed_forgets_older_stores),
	CHANGE(loads_see_the_mapping_of_the_moment),
	CHANGE(stores_stay_out_of_a_child),
};

CHANGES_MAIN(changes)
