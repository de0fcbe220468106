/* SPDX-License-Identifier: MIT */
/*
 * Ops: who waits for whom, who is told to back off, and how a barrier ends.
 *
 * G2: while an event is about, what overlaps it waits or backs off. G3: nothing
 * goes to a device before a madvise has had its effect. G9: every wait ends.
 */
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

static bool enter(struct op *op, enum op_kind kind, unsigned long start, unsigned long end)
{
	bool active;

	op_init(op, kind, start << 12, end << 12);
	op->owner = (void *)op; /* a mirror each, if it is a fault */
	pthread_mutex_lock(&hmm->lock);
	active = op_enqueue(hmm, op);
	pthread_mutex_unlock(&hmm->lock);
	assert_int_equal(active, op->state == OP_ACTIVE);
	return active;
}

static bool promote(struct op *op)
{
	bool active;

	pthread_mutex_lock(&hmm->lock);
	active = op_promote(hmm, op);
	pthread_mutex_unlock(&hmm->lock);
	return active;
}

/* Row: is active. Column: comes. x: waits. OP_SETTLE only ever is there already. */
static const char conflicts[8][9] = {
	[OP_FAULT] = "-xx-xx-x", /* FAULT OUT BACK HOLE INVAL FREEZE SETTLE PLACE */
	[OP_OUT] = "xxxxxx-x",	 [OP_BACK] = "xxxxx---",   [OP_HOLE] = "-xx-x---",
	[OP_INVAL] = "xxxx----", [OP_FREEZE] = "xx------", [OP_PLACE] = "xx------",
};

static void what_conflicts_waits_for_what_is_active(void **state)
{
	enum op_kind a, b;

	(void)state;
	for (a = OP_FAULT; a <= OP_PLACE; a++) {
		for (b = OP_FAULT; b <= OP_PLACE; b++) {
			struct op first, second;

			if (a == OP_SETTLE || b == OP_SETTLE)
				continue;
			assert_true(enter(&first, a, 10, 20));
			if (enter(&second, b, 19, 30) != (conflicts[a][b] == '-'))
				fail_msg("kind %d comes to kind %d", b, a);
			op_end(hmm, &first);
			assert_true(second.state == OP_ACTIVE || promote(&second));
			op_end(hmm, &second);
		}
	}
}

static void faults_of_one_mirror_take_turns(void **state)
{
	struct op first, second;

	(void)state;
	assert_true(enter(&first, OP_FAULT, 10, 20));
	op_init(&second, OP_FAULT, 19 << 12, 30 << 12);
	second.owner = first.owner;
	op_prepare(hmm, &second);
	second.state = OP_WAITING;
	assert_false(promote(&second));
	op_end(hmm, &first);
	assert_true(promote(&second));
	op_end(hmm, &second);
}

/* But not past one that may bring something to where the hole is. */
static void a_hole_goes_past_an_event_that_waits(void **state)
{
	struct op fault, event, hole;

	(void)state;
	assert_true(enter(&fault, OP_FAULT, 10, 20));
	assert_false(enter(&event, OP_INVAL, 10, 20));
	assert_true(enter(&hole, OP_HOLE, 15, 16));
	op_end(hmm, &fault);
	assert_false(promote(&event)); /* waits for the hole to be filled */
	op_end(hmm, &hole);
	assert_true(promote(&event));
	assert_false(enter(&hole, OP_HOLE, 15, 16));
	op_end(hmm, &event);
	assert_true(promote(&hole));
	op_end(hmm, &hole);

	assert_true(enter(&fault, OP_FAULT, 10, 20));
	op_init(&event, OP_INVAL, 10 << 12, 20 << 12);
	event.moves = true;
	pthread_mutex_lock(&hmm->lock);
	assert_false(op_enqueue(hmm, &event));
	pthread_mutex_unlock(&hmm->lock);
	assert_false(enter(&hole, OP_HOLE, 15, 16));
	op_end(hmm, &fault);
	assert_true(promote(&event));
	op_end(hmm, &event);
	assert_true(promote(&hole));
	op_end(hmm, &hole);
}

/* A device that pins must not find a page that is about to go. */
static void who_pins_waits_for_a_discard(void **state)
{
	struct change *change = hmm_alloc(sizeof(*change));
	struct op *settle = &change->op[0], fault;

	(void)state;
	op_init(settle, OP_SETTLE, 10 << 12, 20 << 12);
	settle->deadline = UINT64_MAX;
	pthread_mutex_lock(&hmm->lock);
	op_enqueue(hmm, settle);
	settle->state = OP_ACTIVE;
	pthread_mutex_unlock(&hmm->lock);
	assert_true(enter(&fault, OP_FAULT, 10, 20));
	op_end(hmm, &fault);
	op_init(&fault, OP_FAULT, 10 << 12, 20 << 12);
	fault.pins = true;
	pthread_mutex_lock(&hmm->lock);
	assert_false(op_enqueue(hmm, &fault));
	pthread_mutex_unlock(&hmm->lock);
	op_end(hmm, settle);
	assert_true(promote(&fault));
	op_end(hmm, &fault);
	hmm_free(change);
}

static void what_does_not_overlap_does_not_wait(void **state)
{
	enum op_kind a, b;

	(void)state;
	for (a = OP_FAULT; a <= OP_INVAL; a++) {
		for (b = OP_FAULT; b <= OP_INVAL; b++) {
			struct op first, below, above;

			assert_true(enter(&first, a, 10, 20));
			assert_true(enter(&below, b, 5, 10));
			assert_true(enter(&above, b, 20, 21));
			assert_false(op_backoff(&first));
			op_end(hmm, &first);
			op_end(hmm, &below);
			op_end(hmm, &above);
		}
	}
}

static void an_event_interrupts_what_it_overlaps_and_nothing_else(void **state)
{
	struct op out, back, far, fault, event;

	(void)state;
	assert_true(enter(&out, OP_OUT, 10, 20));
	assert_true(enter(&back, OP_BACK, 20, 30));
	assert_true(enter(&far, OP_OUT, 40, 50));
	op_init(&fault, OP_FAULT, 15 << 12, 16 << 12);
	op_prepare(hmm, &fault);
	assert_false(enter(&event, OP_INVAL, 19, 21));
	assert_true(op_backoff(&out));
	assert_true(op_backoff(&back));
	assert_false(op_backoff(&far));
	assert_false(op_backoff(&fault));
	op_end(hmm, &out);
	assert_false(promote(&event));
	op_end(hmm, &back);
	assert_true(promote(&event));
	op_end(hmm, &event);
	op_end(hmm, &far);
	op_end(hmm, &fault);
}

static void an_event_interrupts_a_fault_that_prepares(void **state)
{
	struct op fault, event;

	(void)state;
	op_init(&fault, OP_FAULT, 10 << 12, 20 << 12);
	op_prepare(hmm, &fault);
	assert_true(enter(&event, OP_INVAL, 19, 21)); /* and does not wait for it */
	assert_true(op_backoff(&fault));
	op_end(hmm, &event);
	op_end(hmm, &fault);
}

static void all_that_overlaps_waits_for_a_waiting_event(void **state)
{
	static const enum op_kind kinds[] = { OP_FAULT, OP_OUT, OP_BACK };
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++) {
		struct op out, event, late;

		assert_true(enter(&out, OP_OUT, 10, 20));
		assert_false(enter(&event, OP_INVAL, 15, 25));
		assert_false(enter(&late, kinds[i], 22, 23)); /* overlaps only the event */
		op_end(hmm, &out);
		assert_false(promote(&late));
		assert_true(promote(&event));
		assert_false(promote(&late));
		op_end(hmm, &event);
		assert_true(promote(&late));
		op_end(hmm, &late);
	}
}

static void a_cpu_fault_goes_past_what_waits(void **state)
{
	struct op fault, out, back;

	(void)state;
	assert_true(enter(&fault, OP_FAULT, 10, 12));
	assert_false(enter(&out, OP_OUT, 11, 20));
	assert_true(enter(&back, OP_BACK, 15, 16));
	op_end(hmm, &back);
	op_end(hmm, &fault);
	assert_true(promote(&out));
	op_end(hmm, &out);
}

static void others_wait_their_turn(void **state)
{
	struct op fault, out, late;

	(void)state;
	assert_true(enter(&fault, OP_FAULT, 10, 12));
	assert_false(enter(&out, OP_OUT, 11, 20));
	assert_false(enter(&late, OP_FAULT, 15, 16));
	op_end(hmm, &fault);
	assert_false(promote(&late));
	assert_true(promote(&out));
	op_end(hmm, &out);
	assert_true(promote(&late));
	op_end(hmm, &late);
}

static void a_demoted_op_starts_anew(void **state)
{
	struct op back, event;

	(void)state;
	assert_true(enter(&back, OP_BACK, 10, 12));
	assert_false(enter(&event, OP_INVAL, 10, 12));
	assert_true(op_backoff(&back));
	pthread_mutex_lock(&hmm->lock);
	op_demote(hmm, &back);
	pthread_mutex_unlock(&hmm->lock);
	assert_true(promote(&event));
	assert_false(promote(&back));
	op_end(hmm, &event);
	assert_true(promote(&back));
	assert_false(op_backoff(&back));
	op_end(hmm, &back);
}

/* ---- a madvise that was seen, its effect not yet ---- */

static void *begin_out(void *arg)
{
	op_begin(hmm, arg);
	return NULL;
}

/* A migration of the page waits; when does it begin? In ms; -1: too late. */
static long settle(unsigned char *page, unsigned int deadline_ms, bool drop)
{
	struct change *change = hmm_alloc(sizeof(*change));
	unsigned long start = (unsigned long)page >> 12;
	uint64_t since = now_ns();
	pthread_t thread;
	struct op out;
	bool waited;

	assert_non_null(change);
	assert_true(enter(&change->op[0], OP_SETTLE, start, start + 1));
	change->op[0].deadline = since + deadline_ms * 1000000ull;
	assert_int_equal(hmm->frozen, 1);
	op_init(&out, OP_OUT, start << 12, (start + 1) << 12);
	assert_int_equal(pthread_create(&thread, NULL, begin_out, &out), 0);
	sleep_us(20000);
	pthread_mutex_lock(&hmm->lock);
	waited = out.state == OP_WAITING;
	pthread_mutex_unlock(&hmm->lock);
	assert_true(waited || now_ns() >= since + deadline_ms * 1000000ull); /* a busy machine */
	if (drop)
		madvise(page, hmm_page_size(), MADV_DONTNEED);
	pthread_join(thread, NULL);
	op_end(hmm, &out);
	return (long)((now_ns() - since) / 1000000);
}

static void with_settle(bool drop, bool scan)
{
	unsigned char *page = map_bytes(hmm_page_size());
	struct hmm_features f = { .size = sizeof(f) };
	long ms;

	limit(10, "a barrier that does not end");
	if (features_open(&hmm->mm, &f)) {
		print_message("skipped: %s\n", f.reason);
		skip();
	}
	hmm->mm.pagemap_scan = hmm->mm.pagemap_scan && scan;
	page[0] = 1;
	ms = settle(page, drop ? 5000 : 200, drop);
	assert_true(drop ? ms < 2500 : ms >= 200);
	mm_forget(&hmm->mm);
	munmap(page, hmm_page_size());
}

static void settling_ends_when_the_pages_are_gone(void **state)
{
	(void)state;
	with_settle(true, true);
	with_settle(true, false);
}

static void settling_ends_at_its_deadline(void **state)
{
	(void)state;
	with_settle(false, true);
}

#define ACTIVE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Pages of a chunk, as op_begin() gets them. */
static bool begin(struct op *op, enum op_kind kind, unsigned long chunk, unsigned long first,
		  unsigned long last)
{
	unsigned long start = (chunk << CHUNK_SHIFT) + (first << 12);

	op_init(op, kind, start, start + ((last - first) << 12));
	op->owner = op;
	return op_begin(hmm, op);
}

static void who_meets_nobody_is_in_no_list(void **state)
{
	struct op fault, other, out, back, wide;

	(void)state;
	assert_true(begin(&fault, OP_FAULT, 1, 0, 4));
	assert_true(begin(&other, OP_FAULT, 1, 2, 8)); /* of another mirror */
	assert_true(begin(&out, OP_OUT, 1, 8, 16));
	assert_true(begin(&back, OP_BACK, 2, 0, 16));
	assert_true(TAILQ_EMPTY(&hmm->ops));
	assert_true(fault.lone && other.lone && out.lone && back.lone);
	assert_true(begin(&wide, OP_FAULT, 3, 0, 1024)); /* of two chunks */
	assert_false(wide.lone);
	assert_ptr_equal(TAILQ_FIRST(&hmm->ops), &wide);
	op_end(hmm, &fault);
	op_end(hmm, &other);
	op_end(hmm, &out);
	op_end(hmm, &back);
	op_end(hmm, &wide);
}

static void an_event_finds_who_is_in_no_list(void **state)
{
	struct op out, far, event;

	(void)state;
	assert_true(begin(&out, OP_OUT, 1, 0, 4));
	assert_true(begin(&far, OP_OUT, 2, 0, 4));
	assert_false(enter(&event, OP_INVAL, (CHUNK_SIZE >> 12) + 2, (CHUNK_SIZE >> 12) + 3));
	assert_true(op_backoff(&out));
	assert_false(out.lone);
	assert_true(far.lone);
	assert_false(op_backoff(&far));
	op_end(hmm, &out);
	assert_true(promote(&event));
	op_end(hmm, &event);
	op_end(hmm, &far);
}

static void where_an_event_is_nobody_is_alone(void **state)
{
	struct op event, out, later;

	(void)state;
	assert_true(enter(&event, OP_INVAL, 0, 1));
	assert_true(begin(&out, OP_OUT, 0, 1, 4)); /* beside it */
	assert_false(out.lone);
	op_end(hmm, &event);
	assert_true(begin(&later, OP_OUT, 0, 8, 9)); /* that one is still in the list */
	assert_false(later.lone);
	op_end(hmm, &out);
	op_end(hmm, &later);
	assert_true(begin(&out, OP_OUT, 0, 1, 4));
	assert_true(out.lone);
	op_end(hmm, &out);
}

static void a_change_of_protection_finds_faults(void **state)
{
	struct op fault;
	bool any;

	(void)state;
	assert_true(begin(&fault, OP_FAULT, 5, 3, 4));
	pthread_mutex_lock(&hmm->lock);
	any = op_any_fault(hmm, fault.start, fault.end);
	pthread_mutex_unlock(&hmm->lock);
	assert_true(any);
	op_end(hmm, &fault);
}

static void all_are_closed_at_once(void **state)
{
	struct op out, wide, later;

	(void)state;
	assert_true(begin(&out, OP_OUT, 7, 0, 4));
	assert_false(enter(&wide, OP_INVAL, 0, USER_END >> 12));
	assert_false(out.lone);
	assert_true(op_backoff(&out));
	op_end(hmm, &out);
	assert_true(promote(&wide));
	assert_false(lone_begin(hmm, &out));
	op_end(hmm, &wide);
	assert_true(begin(&later, OP_OUT, 7, 0, 4));
	assert_true(later.lone);
	op_end(hmm, &later);
}

static void a_range_that_grows_closes_more(void **state)
{
	struct op event, out;

	(void)state;
	assert_true(begin(&out, OP_OUT, 1, 0, 4));
	assert_true(enter(&event, OP_INVAL, 0, 1));
	assert_true(out.lone);
	pthread_mutex_lock(&hmm->lock);
	lone_resize(hmm, &event, 0, 2 * CHUNK_SIZE);
	pthread_mutex_unlock(&hmm->lock);
	assert_false(out.lone);
	op_end(hmm, &out);
	op_end(hmm, &event);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ACTIVE_TEST(what_conflicts_waits_for_what_is_active),
		ACTIVE_TEST(a_hole_goes_past_an_event_that_waits),
		ACTIVE_TEST(who_pins_waits_for_a_discard),
		ACTIVE_TEST(faults_of_one_mirror_take_turns),
		ACTIVE_TEST(what_does_not_overlap_does_not_wait),
		ACTIVE_TEST(an_event_interrupts_what_it_overlaps_and_nothing_else),
		ACTIVE_TEST(an_event_interrupts_a_fault_that_prepares),
		ACTIVE_TEST(all_that_overlaps_waits_for_a_waiting_event),
		ACTIVE_TEST(a_cpu_fault_goes_past_what_waits),
		ACTIVE_TEST(others_wait_their_turn),
		ACTIVE_TEST(a_demoted_op_starts_anew),
		ACTIVE_TEST(settling_ends_when_the_pages_are_gone),
		ACTIVE_TEST(settling_ends_at_its_deadline),
		ACTIVE_TEST(who_meets_nobody_is_in_no_list),
		ACTIVE_TEST(an_event_finds_who_is_in_no_list),
		ACTIVE_TEST(where_an_event_is_nobody_is_alone),
		ACTIVE_TEST(a_change_of_protection_finds_faults),
		ACTIVE_TEST(all_are_closed_at_once),
		ACTIVE_TEST(a_range_that_grows_closes_more),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
