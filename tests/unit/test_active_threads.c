/* SPDX-License-Identifier: MIT */
/*
 * Ops of several threads on random ranges, against a shadow array.
 *
 * G1, G2: who should be alone on a range is; while all is frozen nothing is on its
 * way to a device. G9: every thread gets on.
 */
#include <stdatomic.h>

#include "faults/harness.h"

#include "core/core.h"

static struct hmm *hmm;

static int setup(void **state)
{
	pthread_condattr_t attr;

	(void)state;
	hmm = hmm_alloc(sizeof(*hmm));
	assert_non_null(hmm);
	pthread_mutex_init(&hmm->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&hmm->changed, &attr);
	pthread_cond_init(&hmm->work, &attr);
	pthread_condattr_destroy(&attr);
	TAILQ_INIT(&hmm->ops);
	lone_init(hmm);
	TAILQ_INIT(&hmm->changes);
	TAILQ_INIT(&hmm->parked);
	TAILQ_INIT(&hmm->mirrors);
	return 0;
}

static int teardown(void **state)
{
	unsigned int i;

	(void)state;
	assert_true(TAILQ_EMPTY(&hmm->ops));
	assert_int_equal(hmm->closers, 0);
	for (i = 0; i < OP_SHARDS; i++) {
		assert_true(TAILQ_EMPTY(&hmm->shard[i].ops));
		assert_int_equal(hmm->shard[i].n, 0);
		assert_int_equal(hmm->shard[i].closers, 0);
	}
	assert_int_equal(hmm->frozen, 0);
	hmm_free(hmm);
	limit(0, "");
	return 0;
}

#define SPAN 64
#define THREADS 4

static unsigned int shift; /* of one of SPAN: all in one chunk, or in some */

static struct {
	atomic_int faults[SPAN]; /* and holes */
	atomic_int alone[SPAN];
	atomic_int to_device; /* faults and migrations, anywhere */
	atomic_bool stop;
	atomic_uint wrong;
	atomic_ulong done;
} shadow;

static void shadow_use(const struct op *op)
{
	unsigned long i, start = op->start >> shift, end = op->end >> shift;
	bool fault = op->kind == OP_FAULT || op->kind == OP_HOLE; /* share */
	bool out = op->kind == OP_FAULT || op->kind == OP_OUT;
	unsigned int wrong = 0;

	atomic_fetch_add(&shadow.to_device, out);
	for (i = start; i < end; i++) {
		atomic_fetch_add(fault ? &shadow.faults[i] : &shadow.alone[i], 1);
		wrong += atomic_load(&shadow.alone[i]) != !fault;
		wrong += !fault && atomic_load(&shadow.faults[i]);
	}
	sched_yield();
	for (i = start; i < end; i++) {
		wrong += atomic_load(&shadow.alone[i]) != !fault;
		wrong += !fault && atomic_load(&shadow.faults[i]);
		atomic_fetch_sub(fault ? &shadow.faults[i] : &shadow.alone[i], 1);
	}
	atomic_fetch_sub(&shadow.to_device, out);
	atomic_fetch_add(&shadow.wrong, wrong);
	atomic_fetch_add(&shadow.done, 1);
}

static void freeze_once(void)
{
	struct op freeze, back;

	op_init(&freeze, OP_FREEZE, 0, ~0ul);
	op_begin(hmm, &freeze);
	atomic_fetch_add(&shadow.wrong, atomic_load(&shadow.to_device) != 0);
	op_init(&back, OP_BACK, 0, ~0ul);
	op_begin(hmm, &back); /* must get through */
	sched_yield();
	op_end(hmm, &back);
	atomic_fetch_add(&shadow.wrong, atomic_load(&shadow.to_device) != 0);
	op_end(hmm, &freeze);
}

/* Thread 0 also makes the events and the freezes: of both there is one at a time. */
static void *contender(void *arg)
{
	unsigned int seed = (unsigned int)(unsigned long)arg + 1;

	while (!atomic_load(&shadow.stop)) {
		unsigned long start = (unsigned long)rand_r(&seed) % SPAN;
		unsigned long end = start + 1 + (unsigned long)rand_r(&seed) % (SPAN - start);
		enum op_kind kind = (enum op_kind)(rand_r(&seed) % (arg ? OP_INVAL : OP_SETTLE));
		struct op op;

		if (kind == OP_FREEZE) {
			freeze_once();
			continue;
		}
		op_init(&op, kind, start << shift, end << shift);
		op.owner = (void *)&op;
		if (kind == OP_FAULT && rand_r(&seed) % 2) {
			op_prepare(hmm, &op);
			op_activate(hmm, &op);
		} else {
			op_begin(hmm, &op);
		}
		shadow_use(&op);
		op_end(hmm, &op);
	}
	return NULL;
}

static void contend(unsigned int unit_shift)
{
	pthread_t thread[THREADS];
	unsigned long i;

	shift = unit_shift;
	memset(&shadow, 0, sizeof(shadow));
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, contender, (void *)i), 0);
	sleep_us(500000);
	atomic_store(&shadow.stop, true);
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(atomic_load(&shadow.wrong), 0);
	assert_true(atomic_load(&shadow.done) > THREADS);
}

static void threads_are_alone_where_they_should_be(void **state)
{
	(void)state;
	LIMIT(10);
	contend(12);
}

/* Some ops lie in one chunk, and meet nobody there; others are of several. */
static void also_over_chunks(void **state)
{
	(void)state;
	LIMIT(10);
	contend(CHUNK_SHIFT - 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(threads_are_alone_where_they_should_be, setup,
						teardown),
		cmocka_unit_test_setup_teardown(also_over_chunks, setup, teardown),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
