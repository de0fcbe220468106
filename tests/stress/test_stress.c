/* SPDX-License-Identifier: MIT */
/*
 * All at once over the same chunks: CPU writers, device writers, migrations both
 * ways, munmap and mmap, mremap there and back, MADV_DONTNEED, and fork.
 *
 * G1, G3, G4: every counter and stamp is what its owner knows it to be, at every
 * look and at the end. G8: so it is in each child. G9: nothing hangs. And no
 * device page leaks.
 *
 * HMM_STRESS_SECONDS: how long, in all (default 3). HMM_STRESS_SEED: where to
 * begin; the threads' order is chance all the same.
 */
#include "stress/stress.h"

static const struct {
	void *(*fn)(void *);
	unsigned int n;
} cast[] = {
	{ cpu_writer, 0 },    { cpu_writer, 1 }, { device_writer, 0 },
	{ device_writer, 1 }, { unmapper, 0 },	 { dropper, 0 },
	{ mover, 0 },	      { to_device, 0 },	 { from_device, 0 },
};

#define ACTORS (sizeof(cast) / sizeof(cast[0]))

static double stress_seconds(void)
{
	const char *text = getenv("HMM_STRESS_SECONDS");

	return text ? atof(text) : 3;
}

static uint32_t stress_seed(void)
{
	const char *text = getenv("HMM_STRESS_SEED");
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return text ? (uint32_t)strtoul(text, NULL, 0) : (uint32_t)ts.tv_nsec | 1;
}

static void stage_set(struct stress *s, const struct dummy_options *opt)
{
	size_t i;

	s->dev = device_new(opt);
	s->mem = map_chunks(CHUNKS);
	s->side = map_bytes(hmm_page_size());
	s->pages = CHUNKS * CHUNK / hmm_page_size();
	s->cpu = calloc(s->pages, 8);
	s->device = calloc(s->pages, 8);
	s->stamp = calloc(s->pages, 8);
	assert_true(s->cpu && s->device && s->stamp);
	for (i = 0; i < s->pages; i++)
		*(volatile uint64_t *)page_of(s, i) = 0;
}

static bool page_counts(size_t i)
{
	enum role role = (enum role)(i % ROLES);

	return role <= ROLE_BOTH;
}

/* The words that count in page @i, and what they should be; at most @ahead more. */
static bool page_right(const struct stress *s, size_t i, uint64_t ahead)
{
	const volatile uint64_t *word = (void *)page_of(s, i);
	enum role role = (enum role)(i % ROLES);
	bool right = true;

	if (role == ROLE_CPU || role == ROLE_CPU_1 || role == ROLE_BOTH)
		right = word[0] - s->cpu[i] <= ahead;
	if (role == ROLE_BOTH)
		right = right && word[DEVICE_WORD] - s->device[i] <= ahead;
	if (role == ROLE_DEVICE || role == ROLE_DEVICE_1)
		right = word[0] - s->device[i] <= ahead;
	return right;
}

static void child_look(const struct stress *s)
{
	size_t i;

	child_begin();
	for (i = 0; i < s->pages; i++)
		CHILD_CHECK(!page_counts(i) || page_right(s, i, 1));
	_exit(0);
}

static void fork_once(struct stress *s)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		child_look(s);
	status = child_wait(pid);
	if (status)
		complain(s, "child", 0, (uint64_t)status, 0);
}

static void end_check(struct stress *s)
{
	size_t i;

	for (i = 0; i < s->pages; i++) {
		uint64_t val = *(volatile uint64_t *)page_of(s, i);

		if (page_counts(i)) {
			if (!page_right(s, i, 0))
				complain(s, "counter at the end", i, val,
					 i % ROLES < ROLE_DEVICE ? s->cpu[i] : s->device[i]);
		} else if (val != s->stamp[i]) {
			complain(s, "stamp at the end", i, val, s->stamp[i]);
		}
	}
}

static void stage_clear(struct stress *s, bool evict)
{
	if (evict)
		assert_int_equal(dummy_evict(s->dev, address(s->mem), address(page_of(s, s->pages)),
					     NULL),
				 0);
	assert_int_equal(munmap(s->mem, CHUNKS * CHUNK), 0);
	munmap(s->side, hmm_page_size());
	assert_true(memory_comes_free(s->dev, 2));
	assert_int_equal(dummy_destroy(s->dev), 0);
	free(s->cpu);
	free(s->device);
	free(s->stamp);
}

static void tell_turns(const struct stress *s)
{
	static const char *const name[] = {
		"cpu", "device", "unmap", "drop", "move", "to", "from"
	};
	unsigned int i;

	print_message("turns:");
	for (i = 0; i < 7; i++)
		print_message(" %s %lu", name[i], (unsigned long)s->turns[i]);
	print_message("\n");
}

static bool all_had_turns(const struct stress *s)
{
	unsigned int i;

	for (i = 0; i < 7; i++)
		if (s->turns[i] < 3)
			return false;
	return true;
}

static void stress(const struct dummy_options *opt, bool forks, double seconds, const char *what)
{
	static struct stress stage;
	struct stress *s = &stage;
	struct actor actor[ACTORS];
	pthread_t thread[ACTORS];
	uint32_t seed = stress_seed();
	uint64_t until;
	unsigned int i;

	memset(s, 0, sizeof(*s));
	limit((unsigned int)seconds + 30, what);
	print_message("seed %u\n", seed);
	flush();
	stage_set(s, opt);
	for (i = 0; i < ACTORS; i++) {
		actor[i] = (struct actor){ s, cast[i].n, seed * (2 * i + 1) | 1 };
		assert_int_equal(pthread_create(&thread[i], NULL, cast[i].fn, &actor[i]), 0);
	}
	until = limit_now() + (uint64_t)(seconds * 1e9);
	/* On a busy machine longer, so that each gets its turn. */
	while ((limit_now() < until || !all_had_turns(s)) && !atomic_load(&s->failures)) {
		sleep_us(5000);
		if (forks)
			fork_once(s);
	}
	atomic_store(&s->stop, true);
	for (i = 0; i < ACTORS; i++)
		pthread_join(thread[i], NULL);
	end_check(s);
	tell_turns(s);
	assert_int_equal(atomic_load(&s->failures), 0);
	stage_clear(s, forks);
	limit(0, "");
}

static void a_prompt_device(void **state)
{
	struct dummy_options opt = { .memory = 64 * MIB, .scrub = true };

	(void)state;
	stress(&opt, false, stress_seconds() / 3, __func__);
}

static void a_small_and_slow_device(void **state)
{
	struct dummy_options opt = { .memory = 3 * MIB, .copy_delay_us = 50, .scrub = true };

	(void)state;
	stress(&opt, false, stress_seconds() / 3, __func__);
}

static void with_forks(void **state)
{
	struct dummy_options opt = { .memory = 64 * MIB, .not_prompt = true, .scrub = true };

	(void)state;
	stress(&opt, true, stress_seconds() / 3, __func__);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_device),
		cmocka_unit_test(a_small_and_slow_device),
		cmocka_unit_test(with_forks),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
