/* SPDX-License-Identifier: MIT */
/*
 * Threads that change the address space all the time, and devices that want to get
 * on meanwhile.
 *
 * Tries to break: G2 (faults that overlap a change back off and look again), G4
 * (what lies beside the storm keeps its content), G9 (every fault ends), G11 (and
 * only with what is documented: -EFAULT where nothing was mapped, -EBUSY where the
 * range itself kept changing).
 *
 * How fast it goes is printed and not judged; a call that takes HANG_SECONDS is a
 * failure. HMM_STORM_SECONDS: how long each storm blows (default 0.15).
 */
#include "mirror/plain.h"

#define PAGES 8 /* what the devices work on; as many for each storming thread */
#define STORMERS 6
#define USERS 3
#define CALLS 4 /* kinds of calls that a device thread makes in turn */
#define HANG_SECONDS (TEST_SANITIZED ? 60 : 15)
#define BUCKETS 512

enum storm { CALM, NEAR_DROP, NEAR_MAP, NEAR_SIZE, RANGE_DROP, RANGE_OVER, STORMS };

static const char *const call_name[] = { "store", "read fault", "load", "write fault" };
static const char *const storm_name[] = {
	"calm",		 "neighbours dropped", "neighbours mapped", "neighbours resized",
	"range dropped", "range mapped over",
};

/* ---- the stage ---- */

struct user {
	pthread_t thread;
	unsigned int n;
	uint64_t since; /* of the call under way; 0: none. atomic */
	uint64_t calls, longest, busy, efault, lost;
	uint64_t value; /* what its own page holds */
	unsigned int bucket[BUCKETS];
};

static struct plain plain;

static struct {
	struct dummy_device *dev; /* NULL: the plain one */
	struct hmm_mirror *mirror;
	enum storm storm;
	char *mem;
	struct user user[USERS];
	bool stop; /* atomic */
	const char *bad; /* atomic: a result that may not be */
	int bad_ret;
	uint64_t gusts; /* atomic */
} stage;

static bool stopped(void)
{
	return __atomic_load_n(&stage.stop, __ATOMIC_ACQUIRE);
}

static void complain(const char *what, int ret)
{
	stage.bad_ret = ret;
	__atomic_store_n(&stage.bad, what, __ATOMIC_RELEASE);
}

static int fault(uint64_t addr, size_t len, enum hmm_etype etype)
{
	struct hmm_event event = { .start = addr, .end = addr + len, .etype = etype };

	return hmm_mirror_fault(stage.mirror, &event);
}

/* ---- the storm ---- */

static void map_over(char *at, size_t len)
{
	if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	    at)
		complain("mmap", -errno);
}

static void blow_resize(char *at, size_t len)
{
	if (mremap(at, len, PAGE, 0) != at || mremap(at, PAGE, len, 0) != at)
		complain("mremap", -errno);
}

/* What is mapped is only registered, and its munmap only heard of, after a fault. */
static void blow_map(char *at, size_t len, unsigned int turn)
{
	int ret;

	munmap(at, len);
	map_over(at, len);
	ret = turn % 2 ? fault(addr_of(at), len, HMM_DEVICE_RFAULT) : 0;
	if (ret)
		complain("fault of a neighbour", ret);
}

static void blow_over(void)
{
	size_t half = PAGES / 2 * PAGE;

	map_over(stage.mem, half);
	munmap(stage.mem + half, half);
	map_over(stage.mem + half, half);
}

static void *blow(void *arg)
{
	size_t len = PAGES * PAGE, n = (size_t)(uintptr_t)arg;
	char *own = stage.mem + n * 2 * len; /* between them a gap to grow into */
	unsigned int turn;

	for (turn = 0; !stopped(); turn++) {
		switch (stage.storm) {
		case NEAR_DROP:
			madvise(own, len, MADV_DONTNEED);
			break;
		case NEAR_MAP:
			blow_map(own, len, turn);
			break;
		case NEAR_SIZE:
			blow_resize(own, len);
			break;
		case RANGE_DROP:
			madvise(stage.mem, len, MADV_DONTNEED);
			break;
		default:
			blow_over();
		}
		__atomic_add_fetch(&stage.gusts, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* ---- the devices ---- */

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int log = ns < 16 ? 4 : 63 - (unsigned int)__builtin_clzll(ns);

	return (log - 4) * 8 + (unsigned int)((ns >> (log - 3)) & 7);
}

static uint64_t bucket_ns(unsigned int bucket)
{
	return (8ull + bucket % 8) << (bucket / 8 + 1);
}

static int call(struct user *user, unsigned int kind, uint64_t addr, uint64_t *val)
{
	if (kind == 1 || kind == 3)
		return fault(addr, PAGE, kind == 1 ? HMM_DEVICE_RFAULT : HMM_DEVICE_WFAULT);
	if (!stage.dev)
		return plain_access(&plain, addr + 8, val, kind == 0, &user->lost);
	return kind == 0 ? dummy_store_u64(stage.dev, addr + 8, *val) :
			   dummy_load_u64(stage.dev, addr + 8, val);
}

static void judge(struct user *user, unsigned int kind, int ret, uint64_t val)
{
	bool ours = stage.storm < RANGE_DROP, whole = stage.storm != RANGE_OVER;

	user->busy += ret == -EBUSY;
	user->efault += ret == -EFAULT;
	if (ret && (ours || (ret != -EBUSY && (whole || ret != -EFAULT))))
		complain(call_name[kind], ret);
	if (!ret && kind == 2 && val != user->value && (ours || (val && val >> 32 != 0x5707)))
		complain("content", (int)val);
}

/* Each on a page of its own; if the storm is there, on all of them. */
static void *use(void *arg)
{
	struct user *user = arg;
	unsigned int turn;

	for (turn = 0; !stopped(); turn++) {
		unsigned int kind = turn % CALLS;
		size_t page = stage.storm < RANGE_DROP ? user->n : (user->n + turn / CALLS) % PAGES;
		uint64_t val = kind ? 0 : 0x5707ull << 32 | turn, ns, since = test_now();
		int ret;

		__atomic_store_n(&user->since, since, __ATOMIC_RELAXED);
		ret = call(user, kind, addr_of(stage.mem) + page * PAGE, &val);
		ns = test_now() - since;
		__atomic_store_n(&user->since, 0, __ATOMIC_RELAXED);
		user->bucket[bucket_of(ns)]++;
		user->longest = ns > user->longest ? ns : user->longest;
		if (!kind && !ret)
			user->value = val;
		__atomic_store_n(&user->calls, user->calls + 1, __ATOMIC_RELAXED);
		judge(user, kind, ret, val);
	}
	return NULL;
}

/* ---- a run ---- */

static double seconds(void)
{
	const char *text = getenv("HMM_STORM_SECONDS");

	return text ? atof(text) : 0.15;
}

/* Each device thread has had some turns: then time is up, sooner or later. */
static void watch(unsigned int users)
{
	double long_enough = seconds() * (stage.storm == RANGE_OVER ? 4 : 1);
	uint64_t until = test_now() + (uint64_t)(long_enough * 1e9);
	bool enough = false;
	unsigned int i;

	while (!enough && !__atomic_load_n(&stage.bad, __ATOMIC_ACQUIRE)) {
		test_sleep_us(10000);
		enough = test_now() > until;
		for (i = 0; i < users; i++) {
			struct user *user = &stage.user[i];
			uint64_t since = __atomic_load_n(&user->since, __ATOMIC_RELAXED);

			if (since && test_now() > since + HANG_SECONDS * 1000000000ull)
				complain("a device call that hangs", -ETIME);
			enough = enough && __atomic_load_n(&user->calls, __ATOMIC_RELAXED) >= CALLS;
		}
	}
}

static uint64_t percentile(unsigned int users, uint64_t all, double share)
{
	uint64_t n = 0;
	unsigned int b, i;

	for (b = 0; b < BUCKETS; b++) {
		for (i = 0; i < users; i++)
			n += stage.user[i].bucket[b];
		if ((double)n >= share * (double)all)
			break;
	}
	return bucket_ns(b);
}

static void report(unsigned int stormers, unsigned int users, double took, uint64_t retries)
{
	struct user sum = { .n = 0 };
	unsigned int i;

	for (i = 0; i < users; i++) {
		const struct user *user = &stage.user[i];

		sum.calls += user->calls;
		sum.busy += user->busy;
		sum.efault += user->efault;
		sum.lost += user->lost;
		sum.longest = user->longest > sum.longest ? user->longest : sum.longest;
	}
	print_message("%-18s %u:%u %8.0f calls/s %8.0f gusts/s; us p50 %.1f p99 %.1f "
		      "max %.0f; retries %llu lost %llu EBUSY %llu EFAULT %llu\n",
		      storm_name[stage.storm], stormers, users, (double)sum.calls / took,
		      (double)stage.gusts / took, (double)percentile(users, sum.calls, 0.5) / 1e3,
		      (double)percentile(users, sum.calls, 0.99) / 1e3, (double)sum.longest / 1e3,
		      (unsigned long long)retries, (unsigned long long)sum.lost,
		      (unsigned long long)sum.busy, (unsigned long long)sum.efault);
}

static uint64_t retries_now(void)
{
	struct hmm_stats stats = { .size = sizeof(stats) };

	assert_int_equal(hmm_get_stats(&stats), 0);
	return stats.retries;
}

/* All mapped, and all registered. */
static void stage_sweep(void)
{
	size_t len = (STORMERS + 1) * 2 * PAGES * PAGE, n;

	map_over(stage.mem, len);
	for (n = 0; n <= STORMERS; n++) {
		char *at = stage.mem + n * 2 * PAGES * PAGE;

		munmap(at + PAGES * PAGE, PAGES * PAGE);
		assert_int_equal(fault(addr_of(at), PAGES * PAGE, HMM_DEVICE_WFAULT), 0);
	}
}

static void run(enum storm storm, unsigned int stormers, unsigned int users)
{
	pthread_t thread[STORMERS];
	uint64_t since, retries;
	unsigned int i;
	char what[64];

	snprintf(what, sizeof(what), "%s, %u threads", storm_name[storm], stormers);
	step(what);
	stage_sweep();
	stage.storm = storm;
	stage.stop = false;
	stage.gusts = 0;
	memset(stage.user, 0, sizeof(stage.user));
	retries = retries_now();
	since = test_now();
	for (i = 0; i < stormers; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, blow, (void *)(uintptr_t)(i + 1)),
				 0);
	for (i = 0; i < users; i++) {
		stage.user[i].n = i;
		assert_int_equal(pthread_create(&stage.user[i].thread, NULL, use, &stage.user[i]),
				 0);
	}
	watch(users);
	__atomic_store_n(&stage.stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < users; i++)
		pthread_join(stage.user[i].thread, NULL);
	for (i = 0; i < stormers; i++)
		pthread_join(thread[i], NULL);
	report(stormers, users, (double)(test_now() - since) / 1e9, retries_now() - retries);
	if (stage.bad)
		fail_msg("%s: %d", stage.bad, stage.bad_ret);
}

/* ---- the tests: each kind of device in each storm ---- */

enum kind { PROMPT, NOT_PROMPT, PLAIN, KINDS };

struct weather {
	enum kind kind;
	enum storm storm;
};

static int setup(void **state)
{
	const struct weather *weather = *state;
	struct dummy_options opt = { .not_prompt = weather->kind == NOT_PROMPT, .fault_window = 1 };

	memset(&stage, 0, sizeof(stage));
	stage.mem = map_low(THP);
	if (weather->kind != PLAIN) {
		assert_int_equal(dummy_create(&stage.dev, &opt), 0);
		stage.mirror = dummy_mirror(stage.dev);
		return 0;
	}
	plain = (struct plain){ .delay_us = 50 };
	stage.mirror = &plain.mirror;
	plain_register(&plain, stage.mem);
	return 0;
}

static int teardown(void **state)
{
	const struct weather *weather = *state;

	if (weather->kind == PLAIN)
		plain_unregister(&plain);
	else
		assert_int_equal(dummy_destroy(stage.dev), 0);
	munmap(stage.mem, THP);
	return 0;
}

static void gets_on(void **state)
{
	static const unsigned int n[][2] = { { 1, 1 }, { 2, 2 }, { 6, 1 }, { 3, 3 } };
	const struct weather *weather = *state;
	unsigned int i;

	BEGIN(100);
	if (weather->storm == CALM) {
		run(CALM, 0, 1);
		run(CALM, 0, USERS);
		return;
	}
	for (i = 0; i < sizeof(n) / sizeof(n[0]); i++)
		run(weather->storm, n[i][0], n[i][1]);
	assert_null(plain_wrong);
}

int main(void)
{
	static const char *const kind_name[] = { "a prompt device", "one that is not prompt",
						 "a slow driver without hold" };
	static struct CMUnitTest tests[KINDS * STORMS];
	static struct weather weather[KINDS * STORMS];
	static char name[KINDS * STORMS][64];
	size_t i;

	test_init();
	for (i = 0; i < KINDS * STORMS; i++) {
		weather[i] = (struct weather){ (enum kind)(i / STORMS), (enum storm)(i % STORMS) };
		snprintf(name[i], sizeof(name[i]), "%s, %s", kind_name[weather[i].kind],
			 storm_name[weather[i].storm]);
		tests[i] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(
			gets_on, setup, teardown, &weather[i]);
		tests[i].name = name[i];
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
