/* SPDX-License-Identifier: MIT */
/*
 * Snapshots and changes that cross, each held up at the worst moment: in update(), in
 * the queue behind one, between two parts of a snapshot, at the end of the mirror.
 *
 * Tries to break: G2 (a snapshot that is good while nobody will tell of what comes
 * next), G3, G9 (nothing waits for ever).
 */
#include "mini.h"

#define PAGES 8

static struct mini *dev, *slow;
static char *mem;
static hmm_pfn_t pfns[PAGES];
static bool inside, go; /* the hook's; atomic */
static uint64_t hook_start, hook_end;

static void wait_for(const bool *flag)
{
	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE))
		test_sleep_us(100);
}

static void set(bool *flag, bool value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

static int setup(void **state)
{
	(void)state;
	inside = go = false;
	dev = mini_new(PAGES);
	slow = mini_new(4 * PAGES); /* a page that came home is freed a moment later */
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	set(&go, true); /* where a test has failed */
	set(&slow->block, false);
	mini_free(dev);
	mini_free(slow);
	munmap(mem, PAGES * PAGE);
	return 0;
}

/* An invalidation of the chosen range stays in update() until it may go. */
static void hold_up(struct mini *of, const struct hmm_event *event)
{
	(void)of;
	if (event->etype < HMM_FORK || event->start >= hook_end || event->end <= hook_start)
		return;
	set(&inside, true);
	wait_for(&go);
}

static void hold_up_at(struct mini *of, const char *at, size_t pages)
{
	hook_start = addr_of(at);
	hook_end = hook_start + pages * PAGE;
	mini_hook(of, hold_up);
}

/* A snapshot in a thread of its own. */
struct taker {
	pthread_t thread;
	struct hmm_range range;
	bool fault;
	int ret;
	pid_t tid; /* atomic */
};

static void *taker_main(void *arg)
{
	struct taker *taker = arg;

	__atomic_store_n(&taker->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	taker->ret =
		taker->fault ? hmm_range_fault(&taker->range) : hmm_range_snapshot(&taker->range);
	return NULL;
}

static void taker_start(struct taker *taker)
{
	taker->tid = 0;
	assert_int_equal(pthread_create(&taker->thread, NULL, taker_main, taker), 0);
}

static void taker_join(struct taker *taker)
{
	assert_int_equal(pthread_join(taker->thread, NULL), 0);
}

/*
 * Until it waits inside the library: asleep, ten times in a row. If it did not get
 * there by then, what follows is an easier test, not a failed one.
 */
static void taker_waits(struct taker *taker)
{
	char path[64], line[256], *state;
	int asleep = 0, looks = 0;

	while (asleep < 10 && looks++ < 2000) {
		pid_t tid = __atomic_load_n(&taker->tid, __ATOMIC_ACQUIRE);
		ssize_t n;
		int fd;

		test_sleep_us(500);
		if (!tid)
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
		close(fd);
		line[n > 0 ? n : 0] = 0;
		state = strrchr(line, ')');
		asleep = state && state[1] && state[2] == 'S' ? asleep + 1 : 0;
	}
}

static void drop(char *at, size_t pages)
{
	assert_int_equal(madvise(at, pages * PAGE, MADV_DONTNEED), 0);
}

/* Either the snapshot is no good, or the next change is told: it is a promise. */
static void good_or_told_of(struct taker *taker)
{
	unsigned long told;
	bool done;

	assert_int_equal(taker->ret, 0);
	done = hmm_range_done(&taker->range);
	mini_hook(dev, NULL);
	hmm_mirror_sync(&dev->mirror);
	told = mini_told(dev);
	drop(mem, PAGES);
	hmm_mirror_sync(&dev->mirror);
	if (done && mini_told(dev) == told)
		fail_msg("the snapshot is good, and update() is not called for what comes next");
}

/* ---- begun while update() runs ---- */

static void *drop_most(void *arg)
{
	madvise(arg, (PAGES - 2) * PAGE, MADV_DONTNEED);
	return NULL;
}

static void *forbid(void *arg)
{
	if (mprotect(arg, PAGES * PAGE, PROT_NONE) ||
	    mprotect(arg, PAGES * PAGE, PROT_READ | PROT_WRITE))
		abort(); /* no assertion outside of the test's own thread */
	return NULL;
}

static void *migrate(void *arg)
{
	mini_event(slow, arg, PAGES, HMM_COPY_TO_DEVICE, NULL);
	return NULL;
}

static void *evict(void *arg)
{
	mini_event(slow, arg, PAGES, HMM_COPY_FROM_DEVICE, NULL);
	return NULL;
}

/*
 * The range is of interest then already, from an earlier snapshot, and no more when
 * update() has returned.
 */
static void begun_during(void *(*cause)(void *), bool fault)
{
	struct taker taker = { .range = mini_range(dev, mem, PAGES, 0, pfns), .fault = fault };
	pthread_t thread;

	go = inside = false;
	mini_snapshot(dev, mem, PAGES, 0, pfns);
	hold_up_at(dev, mem, PAGES);
	assert_int_equal(pthread_create(&thread, NULL, cause, mem), 0);
	wait_for(&inside);
	taker_start(&taker);
	taker_waits(&taker);
	set(&go, true);
	taker_join(&taker);
	pthread_join(thread, NULL);
	if (taker.ret == -EFAULT && cause == forbid)
		mini_hook(dev, NULL); /* it was so, for a moment */
	else
		good_or_told_of(&taker);
}

static void begun_during_an_invalidation(void **state)
{
	int fault;

	(void)state;
	BEGIN(20);
	for (fault = 0; fault < 2; fault++) {
		step("MADV_DONTNEED");
		begun_during(drop_most, fault);
		pattern_fill(mem, PAGES, 1);
		step("mprotect");
		begun_during(forbid, fault);
		pattern_fill(mem, PAGES, 1);
		step("to the device");
		begun_during(migrate, fault);
		pattern_fill(mem, PAGES, 1);
		mini_migrate(slow, mem, PAGES);
		step("from the device");
		begun_during(evict, fault);
	}
}

/*
 * munmap() has returned; its event waits behind another that a device is slow about,
 * and update() has not come. The snapshot must not be good all the same.
 */
static void behind_a_slow_event(void **state)
{
	char *busy = map_anon(PAGE);
	struct hmm_range range = mini_range(dev, mem, PAGES, 0, pfns);
	unsigned long told;

	(void)state;
	BEGIN(20);
	busy[0] = 1;
	mini_snapshot(slow, busy, 1, 0, pfns);
	hold_up_at(slow, busy, 1);
	drop(busy, 1);
	wait_for(&inside);
	step("a snapshot next to the slow event");
	assert_int_equal(hmm_range_snapshot(&range), 0);
	told = mini_told(dev);
	assert_ptr_equal(mmap(mem, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 mem);
	mini_recorded(dev, mem);
	assert_int_equal(mini_told(dev), told);
	assert_false(hmm_range_done(&range));
	set(&go, true);
	hmm_mirror_sync(&dev->mirror);
	assert_int_equal(mini_told(dev), told + 1);
	munmap(busy, PAGE);
}

/* A part was read; what is read of it is on its way to the driver. */
static void between_reading_and_the_end(void **state)
{
	char *away = map_aligned(PAGE); /* the pfns, in the memory of a slow device */
	struct taker taker;
	unsigned long told;
	int i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 4; i++) {
		memset(away, 0xee, PAGE);
		mini_migrate(slow, away, 1);
		set(&slow->block, true);
		set(&slow->blocked, false);
		taker = (struct taker){ .range = mini_range(dev, mem, PAGES, 0, (void *)away),
					.fault = i % 2 };
		told = mini_told(dev);
		taker_start(&taker);
		wait_for(&slow->blocked);
		if (i / 2)
			drop(mem, 1);
		else
			assert_int_equal(mprotect(mem, PAGE, PROT_READ), 0);
		if (!(i / 2)) /* an event is for the worker, who waits for the device */
			assert_int_equal(mini_told(dev), told + 1);
		set(&slow->block, false);
		taker_join(&taker);
		assert_int_equal(taker.ret, 0);
		assert_false(hmm_range_done(&taker.range));
		hmm_mirror_sync(&dev->mirror);
		assert_int_equal(mini_told(dev), told + 1);
		assert_int_equal(mprotect(mem, PAGE, PROT_READ | PROT_WRITE), 0);
		mem[0] = 1;
	}
	munmap(away, PAGE);
}

/*
 * MADV_FREE takes effect when the kernel likes, as MADV_DONTNEED does for a moment. A
 * device that holds on to what it finds waits for it, 100 ms at most. If we are late
 * ourselves there is nothing to wait for any more: so try until it does.
 */
static void a_device_that_pins_waits_for_the_effect(void **state)
{
	struct mini *pins = mini_make(0, HMM_DEVICE_PINS);
	uint64_t waited = 0, start;

	(void)state;
	BEGIN(20);
	mini_snapshot(pins, mem, PAGES, 0, pfns);
	while (waited < 60000000) {
		mem[0] = 1;
		/* By hand: of libhmm's own it is known when it has returned. */
		assert_int_equal(syscall(SYS_madvise, mem, PAGES * PAGE, MADV_FREE), 0);
		start = test_now();
		mini_snapshot(pins, mem, PAGES, 0, pfns);
		waited = test_now() - start;
	}
	mini_free(pins);
}

static void after_the_end_of_the_mirror(void **state)
{
	struct hmm_range range = mini_range(dev, mem, PAGES, 0, pfns);
	struct hmm_range again = range;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_range_snapshot(&range), 0);
	assert_int_equal(hmm_range_snapshot(&again), 0);
	assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	assert_false(hmm_range_done(&range));
	assert_int_equal(hmm_range_snapshot(&range), -ENODEV);
	assert_int_equal(hmm_mirror_register(&dev->mirror), 0);
	assert_false(hmm_range_done(&again)); /* it was another life */
	assert_int_equal(hmm_range_snapshot(&again), 0);
	assert_true(hmm_range_done(&again));
}

/* A mirror that was killed gets no update(): no snapshot of it is good. */
static void of_a_mirror_that_was_killed(void **state)
{
	char *part = map_anon(PAGE);
	struct hmm_range range = mini_range(dev, mem, PAGES, 0, pfns);

	(void)state;
	BEGIN(20);
	part[0] = 1;
	mini_snapshot(dev, part, 1, 0, pfns);
	assert_int_equal(hmm_range_snapshot(&range), 0);
	hmm_set_log(HMM_LOG_NONE, NULL);
	mini_fail(dev, -EIO);
	drop(part, 1);
	hmm_mirror_sync(&dev->mirror);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	mini_fail(dev, 0);
	assert_false(hmm_range_done(&range));
	assert_int_equal(hmm_range_snapshot(&range), -ENODEV);
	assert_int_equal(hmm_range_fault(&range), -ENODEV);
	munmap(part, PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(begun_during_an_invalidation), T(behind_a_slow_event),
		T(between_reading_and_the_end),	 T(a_device_that_pins_waits_for_the_effect),
		T(after_the_end_of_the_mirror),	 T(of_a_mirror_that_was_killed),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
