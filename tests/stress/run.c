/* SPDX-License-Identifier: MIT */
/* All roles at once, for a time, and what must be true afterwards. */
#include "stress/stage.h"

enum need { ALWAYS, HUGE_PAGES, LIFE };

static const struct {
	const char *name;
	void *(*fn)(void *);
	unsigned int n;
	enum need need;
} cast[] = {
	{ "CPU writer", cpu_writer, 0, ALWAYS },
	{ "CPU writer 1", cpu_writer, 1, ALWAYS },
	{ "device writer", device_writer, 0, ALWAYS },
	{ "device writer 1", device_writer, 1, ALWAYS },
	{ "pair writer", pair_writer, 0, ALWAYS },
	{ "adder", adder, 0, ALWAYS },
	{ "adder 1", adder, 1, ALWAYS },
	{ "unmapper", unmapper, 0, ALWAYS },
	{ "dropper", dropper, 0, ALWAYS },
	{ "freer", freer, 0, ALWAYS },
	{ "protector", protector, 0, ALWAYS },
	{ "mover", mover, 0, ALWAYS },
	{ "leaver", leaver, 0, ALWAYS },
	{ "reader", reader_writer, 0, ALWAYS },
	{ "nomad", nomad, 0, ALWAYS },
	{ "nomad 1", nomad, 1, ALWAYS },
	{ "nomad 2", nomad, 2, ALWAYS },
	{ "settler", settler, 0, ALWAYS },
	{ "settler 1", settler, 1, ALWAYS },
	{ "to device", to_device, 0, ALWAYS },
	{ "to device 1", to_device, 1, ALWAYS },
	{ "to device 2", to_device, 2, ALWAYS },
	{ "from device", from_device, 0, ALWAYS },
	{ "collapser", collapser, 0, HUGE_PAGES },
	{ "reaper", reaper, 0, LIFE },
};

#define ACTORS (sizeof(cast) / sizeof(cast[0]))

static struct stage stage;
static struct actor actors[ACTORS + 1]; /* the last one is the main thread, which forks */
static pthread_t threads[ACTORS];
static bool broken; /* a plan failed: what it left behind would only confuse */

double stress_seconds(void)
{
	const char *text = getenv("HMM_STRESS_SECONDS");

	return text ? atof(text) : 3;
}

static uint32_t stress_seed(void)
{
	const char *text = getenv("HMM_STRESS_SEED");
	uint32_t seed = text ? (uint32_t)strtoul(text, NULL, 0) : (uint32_t)limit_now();

	return seed ? seed : 1;
}

static bool plays(size_t i)
{
	const struct plan *plan = stage.plan;

	if (i == ACTORS)
		return plan->forks;
	if (cast[i].fn == nomad)
		return KERNEL_PLACES;
	return cast[i].need == ALWAYS || (cast[i].need == LIFE ? plan->life : plan->huge);
}

static void actors_start(void)
{
	size_t i;

	for (i = 0; i <= ACTORS; i++) {
		struct actor *a = &actors[i];

		*a = (struct actor){
			.s = &stage,
			.name = i < ACTORS ? cast[i].name : "forks",
			.n = i < ACTORS ? cast[i].n : 0,
			.seed = stage.seed * (2 * (uint32_t)i + 1) | 1,
			.turns = &stage.turns[i],
		};
		if (i < ACTORS && plays(i))
			assert_int_equal(pthread_create(&threads[i], NULL, cast[i].fn, a), 0);
	}
}

static bool all_had_turns(void)
{
	size_t i;

	for (i = 0; i <= ACTORS; i++)
		if (plays(i) && atomic_load(&stage.turns[i]) < 3)
			return false;
	return true;
}

static void actors_stop(void)
{
	size_t i;

	atomic_store(&stage.stop, true);
	for (i = 0; i < ACTORS; i++)
		if (plays(i))
			pthread_join(threads[i], NULL);
	print_message("turns:");
	for (i = 0; i <= ACTORS; i++)
		if (plays(i))
			print_message(" %s %lu,", actors[i].name, (unsigned long)stage.turns[i]);
	print_message("\n");
}

/* First thing in main(). */
void stress_begin(void)
{
	limit_lead();
	hmm_set_pool(POOL);
	leaks_begin();
}

/* On a busy machine longer than @seconds, so that each gets its turn. */
void stress(const struct plan *plan, double seconds)
{
	struct hmm_features f = { .size = sizeof(f) };
	uint64_t until;
	unsigned int n;

	assert_int_equal(hmm_probe(&f), 0);
	if (!f.can_migrate || f.user_mode_only) {
		print_message("skipped: %s\n",
			      f.can_migrate ? "system calls would fail" : f.reason);
		skip();
	}
	assert_false(broken);
	broken = true;
	limit((unsigned int)seconds + 60, plan->name);
	stage_set(&stage, plan, stress_seed());
	print_message("%s: seed %u\n", plan->name, stage.seed);
	flush();
	until = limit_now() + (uint64_t)(seconds * 1e9);
	actors_start();
	for (n = 0; (limit_now() < until || !all_had_turns()) && !atomic_load(&stage.failures);
	     n++) {
		sleep_us(5000);
		if (plan->forks)
			fork_once(&actors[ACTORS], f.fork_event && n % 4 == 3);
	}
	actors_stop();
	stage_clear(&stage);
	broken = false;
	flush();
	limit(0, "");
}
