/* SPDX-License-Identifier: MIT */
/*
 * One life of some memory that is migrated, written by both sides, forked, cut and moved;
 * always the same, so that the nth call of a kind can be made to fail, for each n. After
 * each act, and at the end, memory is compared with a model: what an error says did not
 * happen may not have happened, but nothing is lost (G4, G7), nothing is leaked, and
 * everything ends (G9).
 */
#ifndef TESTS_SCENARIO_H
#define TESTS_SCENARIO_H

#include <stdatomic.h>

#include "test_util.h"

struct scenario {
	const char *name; /* of what fails now */
	/* Called before the device is used: what is to fail may be armed. Or NULL. */
	void (*arm)(struct dummy_device *dev);
	/* Called where all of it has to work again. Or NULL. */
	void (*disarm)(struct dummy_device *dev);
	bool loses; /* the device may lose pages: SIGBUS there is right */
	bool bad; /* out */
	unsigned int lost; /* out: pages that are SIGBUS now */
	unsigned int errors; /* out: calls that said they failed */
};

/* Once through; true if all is as it should be. */
bool scenario_run(struct scenario *s);

/* The watchdog is scenario.c's. */
void scenario_init(void);
void scenario_begin(const char *test, unsigned int seconds);
/* A device that is there all the time, so that libhmm goes on from run to run. */
int scenario_setup(void **state);
int scenario_teardown(void **state);

/*
 * Which n of @count are tried when each takes as long as it does: all if HMM_FAULTS_ALL
 * is set, else about @most, the first ones and then every so often.
 */
unsigned long scenario_next(unsigned long n, unsigned long count, unsigned long most);

#endif
