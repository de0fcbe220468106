/* SPDX-License-Identifier: MIT */
/*
 * A device with a page table of its own, kept by the protocol in range.h, while the
 * program changes its address space.
 *
 * Its translations hold on to a page: each remembers what was there when it was made,
 * and the page's epoch, which the program raises before each change. So after a change
 * has returned, and hmm_mirror_sync(), a translation from before it is known by both,
 * and what the device writes through one by the epoch that it leaves behind.
 *
 * Tries to break: G2 (a driver enters what is gone), G3 (a translation outlives the
 * call that ended it), G4 (stale data), G9 (everybody gets on).
 */
#include <sys/uio.h>

#include "mini.h"

#define SLOTS 4 /* each has one thread that changes it */
#define SLOT_PAGES 6
#define PAGES (SLOTS * SLOT_PAGES)
#define TAKERS 3
#define ROUNDS (TEST_SANITIZED ? 60 : 300)
#define LONG_ENOUGH 8 /* seconds */

struct translation {
	bool valid;
	bool write;
	uint64_t epoch;
	uint64_t value;
};

static struct mini *dev;
static char *mem;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* what update() takes */
static struct translation table[PAGES]; /* lock */
static uint64_t epochs[PAGES]; /* atomic; each changed by one thread */
static bool stop; /* atomic */
static unsigned long entered, refused, stamped; /* atomic */
static char wrong[160]; /* lock; the first */
static uint64_t deadline;

/* No assertion outside of the test's own thread. */
static void complain(const char *what, size_t page, uint64_t got, uint64_t want)
{
	if (!wrong[0])
		snprintf(wrong, sizeof(wrong), "%s: page %zu has %llu, now is %llu", what, page,
			 (unsigned long long)got, (unsigned long long)want);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
}

static bool stopped(void)
{
	return __atomic_load_n(&stop, __ATOMIC_ACQUIRE);
}

static uint64_t *word(size_t page, size_t i)
{
	return (uint64_t *)(mem + page * PAGE) + i;
}

/* As the device would: without a signal where there is nothing. */
static bool device_copy(void *buf, void *addr, bool write)
{
	struct iovec local = { buf, 8 }, remote = { addr, 8 };

	if (write)
		return process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 8;
	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 8;
}

/* ---- the driver ---- */

static void invalidate(struct mini *of, const struct hmm_event *event)
{
	bool all = event->etype == HMM_MIGRATE || event->etype == HMM_MUNMAP;
	size_t i;

	(void)of;
	pthread_mutex_lock(&lock);
	for (i = 0; i < PAGES; i++) {
		uint64_t addr = addr_of(word(i, 0));

		if (addr < event->start || addr >= event->end)
			continue;
		table[i].write = false;
		if (all)
			table[i].valid = false;
	}
	pthread_mutex_unlock(&lock);
	if (event->start / PAGE % 3 == 0)
		test_sleep_us(100); /* time for others to come in between */
}

/* lock held. What cannot be read is unmapped just now: update() is on its way. */
static void enter(size_t page, hmm_pfn_t pfn)
{
	struct translation t = { .valid = pfn & HMM_PFN_VALID, .write = pfn & HMM_PFN_WRITE };

	t.epoch = __atomic_load_n(&epochs[page], __ATOMIC_ACQUIRE);
	if (t.valid && hmm_pfn_addr(pfn) != addr_of(word(page, 0)))
		complain("another address", page, hmm_pfn_addr(pfn), addr_of(word(page, 0)));
	if (t.valid && !device_copy(&t.value, word(page, 0), false))
		t.valid = false;
	table[page] = t;
}

static void take(unsigned int *seed, hmm_pfn_t *pfns)
{
	size_t first = (size_t)rand_r(seed) % PAGES, i;
	size_t n = 1 + (size_t)rand_r(seed) % (PAGES - first);
	struct hmm_range range;
	int ret;

	n = rand_r(seed) % 4 ? 1 + n % 4 : n;
	n = first + n > PAGES ? PAGES - first : n;
	range = mini_range(dev, word(first, 0), n, rand_r(seed) % 2 ? HMM_RANGE_WRITE : 0, pfns);
	ret = rand_r(seed) % 2 ? hmm_range_fault(&range) : hmm_range_snapshot(&range);
	if (ret == -EFAULT || ret == -EBUSY)
		return; /* not mapped now, or not so; or it changed all the time */
	pthread_mutex_lock(&lock);
	if (ret) {
		complain("error", first, (uint64_t)-ret, 0);
	} else if (hmm_range_done(&range)) {
		for (i = 0; i < n; i++)
			enter(first + i, pfns[i]);
		__atomic_add_fetch(&entered, 1, __ATOMIC_RELAXED);
	} else {
		__atomic_add_fetch(&refused, 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&lock);
}

static void *taker_main(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;
	hmm_pfn_t pfns[PAGES];

	while (!stopped())
		take(&seed, pfns);
	return NULL;
}

/* The device leaves the epoch of its translation wherever it may write. */
static void *device_main(void *arg)
{
	size_t i;

	(void)arg;
	while (!stopped()) {
		for (i = 0; i < PAGES; i++) {
			pthread_mutex_lock(&lock);
			if (table[i].valid && table[i].write &&
			    device_copy(&table[i].epoch, word(i, 1), true))
				__atomic_add_fetch(&stamped, 1, __ATOMIC_RELAXED);
			pthread_mutex_unlock(&lock);
		}
		sched_yield();
	}
	return NULL;
}

/* ---- the program ---- */

enum change { OVER, NONE_OVER, REMAP_ONTO, DONTUNMAP, DROP, READ_ONLY, NO_ACCESS, CHANGES };

static bool map_over(char *at, size_t len, int prot)
{
	return mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

static bool change(enum change what, char *at, size_t len)
{
	void *other;

	switch (what) {
	case OVER:
		return map_over(at, len, PROT_READ | PROT_WRITE);
	case NONE_OVER:
		return map_over(at, len, PROT_NONE);
	case REMAP_ONTO:
		other = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return mremap(other, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
	case DONTUNMAP:
		other = mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		if (other == MAP_FAILED) /* several mappings, for all that was done */
			return map_over(at, len, PROT_READ | PROT_WRITE);
		return !munmap(other, len);
	case DROP:
		return !madvise(at, len, MADV_DONTNEED);
	case READ_ONLY:
		return !mprotect(at, len, PROT_READ);
	default:
		return !mprotect(at, len, PROT_NONE);
	}
}

/* The change is made and has reached the device. lock held. */
static void check(enum change what, size_t page)
{
	uint64_t now = __atomic_load_n(&epochs[page], __ATOMIC_ACQUIRE);
	const struct translation *t = &table[page];

	if (!t->valid)
		return;
	if (what == NONE_OVER || what == NO_ACCESS)
		complain("a translation of what may not be read", page, t->epoch, now);
	if (what == READ_ONLY && t->write)
		complain("leave to write what is read-only", page, t->epoch, now);
	if (what != READ_ONLY && t->epoch != now)
		complain("a translation from before", page, t->epoch, now);
	if (what <= DONTUNMAP && t->value) /* DROP: see kernel-facts, it may be late */
		complain("a page from before", page, t->value, 0);
}

static void change_some(enum change what, size_t first, size_t n)
{
	char *at = mem + first * PAGE;
	bool ok;
	size_t i;

	for (i = first; i < first + n; i++)
		__atomic_add_fetch(&epochs[i], 1, __ATOMIC_ACQ_REL);
	ok = change(what, at, n * PAGE);
	if (what != READ_ONLY && what != NO_ACCESS) /* those say so themselves */
		hmm_mirror_sync(&dev->mirror);
	pthread_mutex_lock(&lock);
	if (!ok)
		complain("system call", first, (uint64_t)errno, what);
	for (i = first; i < first + n; i++)
		check(what, i);
	pthread_mutex_unlock(&lock);
	if (what == NONE_OVER || what == READ_ONLY || what == NO_ACCESS)
		mprotect(at, n * PAGE, PROT_READ | PROT_WRITE);
}

/* What the device left must be from a translation made since the last change. */
static void check_stamp(size_t page)
{
	uint64_t now = __atomic_load_n(&epochs[page], __ATOMIC_ACQUIRE);
	uint64_t stamp = __atomic_load_n(word(page, 1), __ATOMIC_ACQUIRE);

	if (!stamp || stamp == now)
		return;
	pthread_mutex_lock(&lock);
	complain("a write through a translation from before", page, stamp, now);
	pthread_mutex_unlock(&lock);
}

static void *changer_main(void *arg)
{
	size_t slot = (size_t)(uintptr_t)arg, base = slot * SLOT_PAGES, i;
	unsigned int seed = (unsigned int)slot + 77;
	int round;

	for (round = 0; round < ROUNDS && !stopped() && test_now() < deadline; round++) {
		enum change what = (enum change)(rand_r(&seed) % CHANGES);
		size_t first = base + (size_t)rand_r(&seed) % SLOT_PAGES;
		size_t n = 1 + (size_t)rand_r(&seed) % (base + SLOT_PAGES - first);

		for (i = first; i < first + n; i++)
			check_stamp(i);
		change_some(what, first, n);
		for (i = first; i < first + n; i++) {
			__atomic_store_n(word(i, 0), epochs[i], __ATOMIC_RELEASE);
			__atomic_store_n(word(i, 1), 0, __ATOMIC_RELEASE);
		}
		if (rand_r(&seed) % 2)
			test_sleep_us(200);
	}
	return NULL;
}

static void no_translation_outlives_what_it_is_of(void **state)
{
	pthread_t changers[SLOTS], takers[TAKERS], device;
	size_t i;

	(void)state;
	BEGIN(60);
	dev = mini_make(0, HMM_DEVICE_PINS);
	mini_hook(dev, invalidate);
	mem = map_aligned(PAGES * PAGE);
	deadline = test_now() + LONG_ENOUGH * 1000000000ull;
	for (i = 0; i < TAKERS; i++)
		assert_int_equal(pthread_create(&takers[i], NULL, taker_main, (void *)(i + 1)), 0);
	assert_int_equal(pthread_create(&device, NULL, device_main, NULL), 0);
	for (i = 0; i < SLOTS; i++)
		assert_int_equal(pthread_create(&changers[i], NULL, changer_main, (void *)i), 0);
	for (i = 0; i < SLOTS; i++)
		pthread_join(changers[i], NULL);
	step("all changes are made");
	while (!stopped() && !__atomic_load_n(&entered, __ATOMIC_RELAXED))
		test_sleep_us(1000);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < TAKERS; i++)
		pthread_join(takers[i], NULL);
	pthread_join(device, NULL);
	print_message("%lu snapshots entered, %lu were no more so, %lu device writes\n", entered,
		      refused, stamped);
	if (wrong[0])
		fail_msg("%s", wrong);
	mini_free(dev);
	munmap(mem, PAGES * PAGE);
}

/* ---- the end of the mirror ---- */

static void *persistent_main(void *arg)
{
	hmm_pfn_t pfns[PAGES];
	unsigned int n = 0;

	(void)arg;
	while (!stopped()) {
		struct hmm_range range = mini_range(dev, mem, PAGES, 0, pfns);
		int ret = n++ % 2 ? hmm_range_fault(&range) : hmm_range_snapshot(&range);

		if (ret && ret != -ENODEV && ret != -EBUSY)
			abort();
		if (!ret && hmm_range_done(&range))
			__atomic_add_fetch(&entered, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void the_mirror_may_end_meanwhile(void **state)
{
	pthread_t threads[2];
	int i;

	(void)state;
	BEGIN(60);
	stop = false;
	entered = 0;
	dev = mini_new(0);
	mem = map_aligned(PAGES * PAGE);
	memset(mem, 1, PAGES * PAGE);
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, persistent_main, NULL), 0);
	for (i = 0; i < (TEST_SANITIZED ? 20 : 100); i++) {
		test_sleep_us(500);
		assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
		assert_int_equal(hmm_mirror_register(&dev->mirror), 0);
	}
	while (!__atomic_load_n(&entered, __ATOMIC_RELAXED))
		test_sleep_us(1000);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	mini_free(dev);
	munmap(mem, PAGES * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_translation_outlives_what_it_is_of),
		cmocka_unit_test(the_mirror_may_end_meanwhile),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
