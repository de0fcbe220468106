/* SPDX-License-Identifier: MIT */
/*
 * munmap(), madvise() and mremap() without an event (src/core/direct.c): who tells the device,
 * the thread that calls or one of libhmm's, is how a test sees which way was taken.
 *
 * Whichever it was: once the call has returned the device has no translation of what is gone, and
 * of what is mapped there afterwards it hears as before.
 */
#include "mini.h"

#define PAGES ((size_t)8)
#define GUARD ((size_t)4) /* PROT_NONE pages on both sides */

static struct mini *dev;
static pid_t teller; /* atomic: the thread that update() ran on last; 0: none */
static bool stop; /* atomic */

static pid_t me(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static void note(struct mini *of, const struct hmm_event *event)
{
	(void)of;
	if (!mini_fault_event(event->etype))
		__atomic_store_n(&teller, me(), __ATOMIC_RELEASE);
}

static struct mini *device(size_t pages, uint32_t flags)
{
	struct mini *new = mini_make(pages, flags);

	mini_hook(new, note);
	return new;
}

static int setup(void **state)
{
	(void)state;
	stop = false;
	dev = device(64, HMM_DEVICE_PROMPT);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	return 0;
}

static char *area(size_t pages)
{
	size_t len = (pages + 2 * GUARD) * PAGE;
	char *mem = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mem, MAP_FAILED);
	madvise(mem, len, MADV_NOHUGEPAGE);
	mem += GUARD * PAGE;
	assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
	pattern_fill(mem, pages, 1);
	return mem;
}

static void area_free(char *mem, size_t pages)
{
	munmap(mem - GUARD * PAGE, (pages + 2 * GUARD) * PAGE);
}

static void mirror(const void *mem, size_t pages)
{
	unsigned long served = 0;

	assert_int_equal(mini_event(dev, mem, pages, HMM_DEVICE_WFAULT, &served), 0);
	assert_int_equal(served, pages);
	__atomic_store_n(&teller, 0, __ATOMIC_RELEASE);
}

static size_t known(const char *mem, size_t pages)
{
	size_t i, n = 0;

	for (i = 0; i < pages; i++)
		n += mini_get(dev, mem + i * PAGE) != 0;
	return n;
}

/* Before the call returned, by the calling thread. */
static void told_at_once(const char *mem, size_t pages)
{
	assert_int_equal(__atomic_load_n(&teller, __ATOMIC_ACQUIRE), me());
	assert_int_equal(known(mem, pages), 0);
}

static void told_by_another(const char *mem, size_t pages)
{
	hmm_mirror_sync(&dev->mirror);
	assert_int_not_equal(__atomic_load_n(&teller, __ATOMIC_ACQUIRE), me());
	assert_int_not_equal(__atomic_load_n(&teller, __ATOMIC_ACQUIRE), 0);
	assert_int_equal(known(mem, pages), 0);
}

/* What is mapped there by now is known to be mirrored: see marks.c. */
static void protection_heard(char *mem, size_t pages)
{
	mirror(mem, pages);
	assert_int_equal(mprotect(mem, pages * PAGE, PROT_NONE), 0);
	assert_int_equal(known(mem, pages), 0);
	assert_int_equal(mprotect(mem, pages * PAGE, PROT_READ | PROT_WRITE), 0);
}

/* It is registered: a system call made by hand is heard of. */
static void still_heard(char *mem, size_t pages)
{
	mirror(mem, pages);
	assert_int_equal(syscall(SYS_munmap, mem, pages * PAGE), 0);
	told_by_another(mem, pages);
}

/* Into the hole again. False: somebody else was quicker. */
static bool map_again(char *mem, size_t pages)
{
	return mmap(mem, pages * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == mem;
}

static void unmapped(void **state)
{
	static const size_t sizes[] = { 1, PAGES, 100, 1500 };
	unsigned int i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 4; i++) {
		char *mem = area(sizes[i]);

		mirror(mem, sizes[i]);
		assert_int_equal(munmap(mem, sizes[i] * PAGE), 0);
		told_at_once(mem, sizes[i]);
		if (map_again(mem, sizes[i])) {
			mem[0] = 7;
			protection_heard(mem, sizes[i]);
			still_heard(mem, sizes[i]);
			if (map_again(mem, sizes[i]))
				protection_heard(mem, sizes[i]);
			munmap(mem, sizes[i] * PAGE);
		}
		munmap(mem - GUARD * PAGE, GUARD * PAGE);
		munmap(mem + sizes[i] * PAGE, GUARD * PAGE);
	}
}

static void discarded(void **state)
{
	static const size_t sizes[] = { 1, PAGES, 100, 1500 };
	static const int advice[] = { MADV_DONTNEED, MADV_FREE };
	unsigned int i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 8; i++) {
		size_t pages = sizes[i % 4];
		char *mem = area(pages);

		mirror(mem, pages);
		assert_int_equal(madvise(mem, pages * PAGE, advice[i / 4]), 0);
		told_at_once(mem, pages);
		assert_true(registered(mem));
		if (advice[i / 4] == MADV_DONTNEED)
			assert_true(is_zero(mem, pages * PAGE));
		still_heard(mem, pages);
	}
}

static bool one_mapping(const char *mem, size_t pages)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	char line[512];
	bool one = false;

	assert_non_null(file);
	while (!one && fgets(line, sizeof(line), file))
		one = sscanf(line, "%lx-%lx ", &start, &end) == 2 && start <= addr_of(mem) &&
		      end >= addr_of(mem) + pages * PAGE;
	fclose(file);
	return one;
}

/* What is left of the mapping stays the device's, and registered, as one mapping. */
static void in_the_middle(void **state)
{
	char *mem = area(PAGES);

	(void)state;
	BEGIN(20);
	mirror(mem, PAGES);
	assert_int_equal(madvise(mem + 2 * PAGE, 2 * PAGE, MADV_DONTNEED), 0);
	told_at_once(mem + 2 * PAGE, 2);
	assert_int_equal(known(mem, PAGES), PAGES - 2);
	assert_true(registered(mem + 2 * PAGE));
	assert_true(one_mapping(mem, PAGES));
	mirror(mem, PAGES);
	assert_int_equal(munmap(mem + 2 * PAGE, 2 * PAGE), 0);
	told_at_once(mem + 2 * PAGE, 2);
	assert_int_equal(known(mem, PAGES), PAGES - 2);
	assert_true(registered(mem + PAGE));
	assert_true(registered(mem + 4 * PAGE));
	still_heard(mem, 2);
	still_heard(mem + 4 * PAGE, PAGES - 4);
}

/* A range with several parts that are mirrored, and some that are not; too many are left to an event. */
static void in_parts(void **state)
{
	static const size_t parts[] = { 2, 8, 12 };
	unsigned int i;
	size_t j;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 3; i++) {
		size_t pages = parts[i] * 1024;
		char *mem = area(pages);

		for (j = 0; j < parts[i]; j++)
			mirror(mem + j * 1024 * PAGE, 1);
		assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
		if (parts[i] <= 8)
			told_at_once(mem, pages);
		else
			told_by_another(mem, pages);
		for (j = 0; j < parts[i]; j++)
			assert_true(registered(mem + j * 1024 * PAGE));
		area_free(mem, pages);
	}
}

/* D1: the device's page is given up by an event, or comes home. */
static void away(void **state)
{
	char *mem = area(PAGES), *to = area(PAGES);

	(void)state;
	BEGIN(20);
	mini_migrate(dev, mem, 1);
	assert_int_equal(madvise(mem, PAGE, MADV_DONTNEED), 0);
	assert_true(is_zero(mem, PAGE));
	pattern_page(mem, 1, 0);
	mini_migrate(dev, mem + PAGE, 1);
	mirror(mem, PAGES);
	assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	told_by_another(mem, PAGES);
	pattern_check(to, PAGES, 1);
	mini_migrate(dev, to + PAGE, 1);
	mirror(to, PAGES);
	assert_int_equal(munmap(to, PAGES * PAGE), 0);
	told_by_another(to, PAGES);
	wait_until(hmm_devmem_free_pages(&dev->devmem) == 64);
}

/* D2: it may wait, and the thread that unmaps must not. */
static void not_prompt(void **state)
{
	struct mini *prompt = dev;
	char *mem = area(PAGES);

	(void)state;
	BEGIN(20);
	dev = device(0, 0);
	mirror(mem, PAGES);
	assert_int_equal(munmap(mem, PAGES * PAGE), 0);
	told_by_another(mem, PAGES);
	mem = area(PAGES);
	mirror(mem, PAGES);
	assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
	told_by_another(mem, PAGES);
	area_free(mem, PAGES);
	mini_free(dev);
	dev = prompt;
}

/* A call that the kernel refuses changes nothing, but that the device has to ask again. */
static void refused(void **state)
{
	char *mem = area(PAGES);

	(void)state;
	BEGIN(20);
	mirror(mem, PAGES);
	assert_int_equal(syscall(SYS_mlock, mem, PAGES * PAGE), 0); /* a sanitizer ignores it */
	errno = 0;
	assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(syscall(SYS_munlock, mem, PAGES * PAGE), 0);
	assert_int_equal(munmap(mem + 1, PAGE), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(munmap(mem, 0), -1);
	assert_int_equal(errno, EINVAL);
	if (!TEST_SANITIZED) { /* which would be beside itself */
		assert_int_equal(munmap(mem, ~0ul - PAGE), -1);
		assert_int_equal(errno, EINVAL);
	}
	assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
				(void *)(1ul << 62)),
			 MAP_FAILED);
	pattern_check(mem, PAGES, 1);
	still_heard(mem, PAGES);
}

static void moved(void **state)
{
	char *mem = area(PAGES), *to = area(PAGES);

	(void)state;
	BEGIN(20);
	mirror(mem, PAGES);
	mirror(to, PAGES);
	assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	told_at_once(mem, PAGES);
	told_at_once(to, PAGES);
	pattern_check(to, PAGES, 1);
	if (map_again(mem, PAGES)) {
		mem[0] = 1;
		mirror(mem, PAGES);
		still_heard(mem, PAGES);
	}
	still_heard(to, PAGES);
}

/* In place nothing is told; where that cannot be, it moves. */
static void grown(void **state)
{
	char *mem = area(PAGES), *at;

	(void)state;
	BEGIN(20);
	mirror(mem, PAGES);
	at = mremap(mem, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_ptr_not_equal(at, mem);
	told_at_once(mem, PAGES);
	pattern_check(at, PAGES, 1);
	mirror(at, 2 * PAGES);
	assert_ptr_equal(mremap(at, 2 * PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE), at);
	hmm_mirror_sync(&dev->mirror);
	assert_int_equal(known(at, PAGES), PAGES);
	assert_int_equal(known(at + PAGES * PAGE, PAGES), 0);
	__atomic_store_n(&teller, 0, __ATOMIC_RELEASE);
	if (mremap(at, PAGES * PAGE, (PAGES + 1) * PAGE, MREMAP_MAYMOVE) == at)
		assert_int_equal(known(at, PAGES), PAGES);
	pattern_check(at, PAGES, 1);
}

/* D4: the bits go along. */
static void dirty_moved(void **state)
{
	char *mem = area(PAGES), *to = area(PAGES);
	uint8_t dirty[PAGES] = { 0 };

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(mem),
						  addr_of(mem) + PAGES * PAGE, dirty),
			 0);
	mirror(mem, PAGES);
	assert_true(mini_store(dev, mem + PAGE, 5));
	assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(to),
						  addr_of(to) + PAGES * PAGE, dirty),
			 0);
	assert_int_equal(dirty[0], 0);
	assert_int_equal(dirty[1], 1);
	mirror(to, PAGES);
	assert_true(mini_store(dev, to + 2 * PAGE, 5));
	assert_int_equal(madvise(to, PAGES * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(to),
						  addr_of(to) + PAGES * PAGE, dirty),
			 0);
	assert_true(is_zero((char *)dirty, PAGES));
	area_free(to, PAGES);
}

/* ---- one thread moves something to where another one is just unmapping ---- */

static bool held; /* atomic: hold() waits */

static void hold(struct hmm_mirror *of)
{
	(void)of;
	while (__atomic_load_n(&held, __ATOMIC_ACQUIRE))
		test_sleep_us(100);
}

static void let_go(struct hmm_mirror *of)
{
	(void)of;
}

static void holds(struct hmm_device_ops *ops)
{
	ops->hold = hold;
	ops->release = let_go;
}

struct move {
	char *from;
	char *to;
};

static void *mover(void *arg)
{
	const struct move *move = arg;

	return (void *)syscall(SYS_mremap, move->from, PAGES * PAGE, PAGES * PAGE,
			       MREMAP_MAYMOVE | MREMAP_FIXED, move->to);
}

static bool mapped(const void *addr)
{
	unsigned char in;

	return !mincore((void *)(uintptr_t)addr, PAGE, &in);
}

/* Both are read after the memory that was moved is gone again, without an event. */
static void moved_there(void **state)
{
	struct move move = { area(PAGES), area(PAGES) };
	struct mini *plain = dev;
	pthread_t thread;
	void *at;

	(void)state;
	BEGIN(30);
	dev = mini_make_with(0, HMM_DEVICE_PROMPT, holds);
	mini_hook(dev, note);
	mirror(move.from, PAGES);
	mirror(move.to, PAGES);
	__atomic_store_n(&held, true, __ATOMIC_RELEASE);
	pthread_create(&thread, NULL, mover, &move);
	wait_until(!mapped(move.from));
	step("munmap() while nobody reads events");
	assert_int_equal(munmap(move.to, PAGES * PAGE), 0);
	told_at_once(move.to, PAGES);
	__atomic_store_n(&held, false, __ATOMIC_RELEASE);
	pthread_join(thread, &at);
	assert_ptr_equal(at, move.to);
	hmm_mirror_sync(&dev->mirror);
	step("what is mapped there next is heard of");
	if (map_again(move.to, PAGES)) {
		move.to[0] = 1;
		mirror(move.to, PAGES);
		assert_true(registered(move.to));
		still_heard(move.to, PAGES);
	}
	mini_free(dev);
	dev = plain;
}

/* ---- races ---- */

static void *asks(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
		mini_event(dev, arg, PAGES, HMM_DEVICE_WFAULT, NULL);
	return NULL;
}

/* The device asks for the range all the time; of what is unmapped it has nothing. */
static void asked_for(void **state)
{
	unsigned int round, rounds = TEST_SANITIZED ? 300 : 2000;
	char *mem = area(PAGES);
	pthread_t thread;

	(void)state;
	BEGIN(120);
	pthread_create(&thread, NULL, asks, mem);
	for (round = 0; round < rounds; round++) {
		mem[round % PAGES * PAGE] = 1;
		if (round % 3 == 0)
			assert_int_equal(madvise(mem, PAGES * PAGE, MADV_DONTNEED), 0);
		if (round % 2)
			sched_yield();
		assert_int_equal(munmap(mem, PAGES * PAGE), 0);
		hmm_mirror_sync(&dev->mirror);
		assert_int_equal(known(mem, PAGES), 0);
		assert_true(map_again(mem, PAGES));
		test_sleep_us(round % 4 * 20);
		assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_NONE), 0);
		assert_int_equal(known(mem, PAGES), 0);
		assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	area_free(mem, PAGES);
}

static void *works(void *arg)
{
	unsigned int round, rounds = TEST_SANITIZED ? 200 : 1500,
			    seed = (unsigned int)(uintptr_t)arg;

	for (round = 0; round < rounds; round++) {
		size_t pages = 1 + (size_t)rand_r(&seed) % PAGES;
		char *mem = area(PAGES), *to = area(PAGES);

		assert_int_equal(mini_event(dev, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
		if (rand_r(&seed) % 2) {
			assert_int_equal(madvise(mem, pages * PAGE, MADV_DONTNEED), 0);
			assert_true(is_zero(mem, pages * PAGE));
			pattern_fill(mem, pages, 1);
		}
		if (rand_r(&seed) % 2) {
			assert_ptr_equal(mremap(mem, PAGES * PAGE, PAGES * PAGE,
						MREMAP_MAYMOVE | MREMAP_FIXED, to),
					 to);
			assert_int_equal(mini_event(dev, to, PAGES, HMM_DEVICE_RFAULT, NULL), 0);
			munmap(mem - GUARD * PAGE, GUARD * PAGE);
			munmap(mem + PAGES * PAGE, GUARD * PAGE);
			mem = to;
		} else {
			area_free(to, PAGES);
		}
		pattern_check(mem, PAGES, 1);
		area_free(mem, PAGES);
	}
	return NULL;
}

static void several_threads(void **state)
{
	pthread_t thread[4];
	uintptr_t i;

	(void)state;
	BEGIN(120);
	for (i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, works, (void *)(i + 1));
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unmapped),	       TEST(discarded),	  TEST(in_the_middle),
		TEST(in_parts),	       TEST(away),	  TEST(not_prompt),
		TEST(refused),	       TEST(moved),	  TEST(grown),
		TEST(dirty_moved),     TEST(moved_there), TEST(asked_for),
		TEST(several_threads),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
