/* SPDX-License-Identifier: MIT */
/*
 * One of several devices fails, while all are busy; and ops that call back.
 *
 * Tries to break: G9 and G11 (a failed fault is the caller's and no one else's; a
 * failed invalidation kills that mirror and no other), G3 (a dead device is given no
 * translation any more), G6 (a call from an op answers -EDEADLK instead of waiting
 * for itself).
 */
#include "mirror/mini.h"
#include "mirror/several.h"

/* ---- one of them fails ---- */

/* Each on pages of its own; device 0 fails, the others do not. */
static void *victim(void *arg)
{
	size_t mine = (size_t)(uintptr_t)arg * 4, turn;
	bool dead = false;

	for (turn = 0; !get(stage.stop); turn++) {
		size_t page = mine + turn % 4, n = turn / 2 % 4;
		struct plain *p = stage.dev[n];
		int ret = plain_fault(p, addr_of(stage.mem) + page * PAGE, 1, turn % 2);

		if (ret == -EIO && n == 0) {
			__atomic_add_fetch(&stage.errors, 1, __ATOMIC_SEQ_CST);
			pthread_mutex_lock(&p->lock);
			if (p->may[page])
				complain("a failed fault leaves a translation", 0);
			pthread_mutex_unlock(&p->lock);
		} else if (n == 0 && (ret == -ENODEV || dead)) {
			if (ret != -ENODEV || !get(stage.closed[0]))
				complain("a fault on a dead mirror", ret);
			dead = true;
		} else if (ret) {
			complain("a fault", ret);
		}
	}
	return NULL;
}

static void a_failed_fault_is_the_callers(void **state)
{
	pthread_t thread[4];
	int i, fails = 0;

	(void)state;
	BEGIN(60);
	stage_set(4);
	threads(thread, 4, victim);
	for (i = 0; i < ROUNDS && !get(stage.bad); i++) {
		fails += 3;
		__atomic_add_fetch(&stage.dev[0]->fail_faults, 3, __ATOMIC_SEQ_CST);
		while (get(stage.errors) < fails && !get(stage.bad))
			test_sleep_us(200);
	}
	join(thread, 4);
	assert_int_equal(get(stage.errors), fails);
	assert_int_equal(plain_fault(stage.dev[0], addr_of(stage.mem), PAGES, true), 0);
	stage_clear(4);
}

/* Once: device 0 cannot take translations away; it dies, and the others go on. */
static void die_once(void)
{
	struct plain *p = stage.dev[0];
	pthread_t thread[4];
	int updates;

	threads(thread, 4, victim);
	assert_int_equal(plain_fault(p, addr_of(stage.mem), PAGES, true), 0);
	set(stage.closed[0], true); /* from now on it may die */
	set(p->fail_invals, 1);
	assert_int_equal(madvise(stage.mem + (PAGES - 4) * PAGE, PAGE, MADV_DONTNEED), 0);
	hmm_mirror_sync(&p->mirror);
	assert_int_equal(plain_fault(p, addr_of(stage.mem), 1, false), -ENODEV);
	assert_int_equal(get(p->fail_invals), 0);
	join(thread, 4);
	updates = get(p->updates);
	assert_int_equal(madvise(stage.mem, PAGES * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(plain_fault(stage.dev[1], addr_of(stage.mem), PAGES, true), 0);
	hmm_mirror_sync(&stage.dev[1]->mirror);
	assert_int_equal(get(p->updates), updates);
	plain_unregister(p);
	device_free(p, 0);
	set(stage.closed[0], false);
	stage.dev[0] = device_make(0);
	assert_int_equal(plain_fault(stage.dev[0], addr_of(stage.mem), PAGES, true), 0);
}

static void a_failed_invalidation_kills_one_mirror(void **state)
{
	int i;

	(void)state;
	BEGIN(60);
	hmm_set_log(HMM_LOG_NONE, NULL);
	stage_set(4);
	for (i = 0; i < ROUNDS && !get(stage.bad); i++)
		die_once();
	stage_clear(4);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

/* What it asks for it gets from a device that can take nothing away any more. */
static void a_fault_that_waited_for_the_failure_is_enodev(void **state)
{
	struct plain *p;
	int updates;

	(void)state;
	BEGIN(20);
	hmm_set_log(HMM_LOG_NONE, NULL);
	stage_set(3);
	p = stage.dev[2]; /* not prompt */
	assert_int_equal(plain_fault(p, addr_of(stage.mem), 1, true), 0);
	set(p->delay_us, 100000);
	set(p->fail_invals, 1);
	assert_int_equal(madvise(stage.mem, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(plain_fault(p, addr_of(stage.mem), 1, false), -ENODEV);
	updates = get(p->updates);
	assert_int_equal(p->may[0], 0);
	assert_int_equal(updates, 2);
	set(p->delay_us, 0);
	stage_clear(3);
	hmm_set_log(HMM_LOG_ERROR, NULL);
}

/* ---- calls from ops ---- */

enum op { UPDATE, HOLD, RELEASE, COPY_TO, COPY_FROM, OPS };

static const char *const op_name[] = { "update", "hold", "release", "copy_to_device",
				       "copy_from_device" };
static struct {
	struct hmm_device device, other;
	struct hmm_mirror mirror, other_mirror;
	struct hmm_devmem devmem, other_devmem;
	int calls[OPS]; /* atomic */
	const char *wrong[OPS]; /* atomic: what did not answer -EDEADLK */
} rude;

#define MUST(op, call)                              \
	do {                                        \
		if ((call) != -EDEADLK)             \
			set(rude.wrong[op], #call); \
	} while (0)

static void be_rude(enum op op)
{
	struct hmm_event event = { .start = addr_of(stage.mem), .end = addr_of(stage.mem) + PAGE };
	uint8_t where;

	for (event.etype = HMM_DEVICE_RFAULT; event.etype <= HMM_COPY_FROM_DEVICE; event.etype++)
		MUST(op, hmm_mirror_fault(&rude.mirror, &event));
	MUST(op, hmm_mirror_fault(&rude.other_mirror, &event));
	MUST(op, hmm_mirror_unregister(&rude.mirror));
	MUST(op, hmm_mirror_register(&rude.other_mirror));
	MUST(op, hmm_device_unregister(&rude.device));
	MUST(op, hmm_device_register(&rude.other));
	MUST(op, hmm_devmem_add(&rude.other_devmem, &rude.device, PAGE));
	MUST(op, hmm_range_where(event.start, event.end, &where));
	__atomic_add_fetch(&rude.calls[op], 1, __ATOMIC_SEQ_CST);
}

static int rude_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	be_rude(UPDATE);
	return 0;
}

static void rude_hold(struct hmm_mirror *mirror)
{
	(void)mirror;
	be_rude(HOLD);
}

static void rude_release(struct hmm_mirror *mirror)
{
	(void)mirror;
	be_rude(RELEASE);
}

static int rude_copy_to(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			unsigned long start, unsigned long end)
{
	struct hmm_page *page = hmm_devmem_alloc(&rude.devmem);

	(void)mirror;
	(void)event;
	be_rude(COPY_TO);
	if (page && end - start == PAGE)
		dst[0] = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID);
	return 0;
}

static int rude_copy_from(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			  unsigned long start, unsigned long end)
{
	(void)mirror;
	(void)event;
	(void)start;
	(void)end;
	be_rude(COPY_FROM);
	memset((void *)(uintptr_t)hmm_pte_addr(dst[0]), 7, PAGE);
	return 0;
}

static const struct hmm_device_ops rude_ops = {
	.size = sizeof(rude_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = rude_update,
	.hold = rude_hold,
	.release = rude_release,
	.copy_to_device = rude_copy_to,
	.copy_from_device = rude_copy_from,
};

static void calls_from_ops_are_edeadlk(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	struct hmm_event event = { .etype = HMM_COPY_TO_DEVICE };
	unsigned int op;

	(void)state;
	BEGIN(20);
	assert_int_equal(hmm_probe(&features), 0);
	stage.mem = map_low(PAGE);
	rude.device.size = rude.other.size = sizeof(rude.device);
	rude.device.ops = rude.other.ops = &rude_ops;
	rude.device.name = rude.other.name = "rude";
	rude.mirror.size = rude.other_mirror.size = sizeof(rude.mirror);
	rude.mirror.device = &rude.device;
	rude.other_mirror.device = &rude.other;
	rude.devmem.size = rude.other_devmem.size = sizeof(rude.devmem);
	assert_int_equal(hmm_device_register(&rude.device), 0);
	assert_int_equal(hmm_devmem_add(&rude.devmem, &rude.device, PAGE), 0);
	assert_int_equal(hmm_mirror_register(&rude.mirror), 0);
	event.start = addr_of(stage.mem);
	event.end = event.start + PAGE;
	stage.mem[0] = 1;
	if (features.can_migrate && !features.user_mode_only) {
		assert_int_equal(hmm_mirror_fault(&rude.mirror, &event), 0);
		assert_int_equal(event.pages, 1);
		assert_int_equal(*(volatile char *)stage.mem, 7);
	}
	event.etype = HMM_DEVICE_WFAULT;
	assert_int_equal(hmm_mirror_fault(&rude.mirror, &event), 0);
	munmap(stage.mem, PAGE);
	hmm_mirror_sync(&rude.mirror);
	assert_int_equal(hmm_mirror_unregister(&rude.mirror), 0);
	assert_int_equal(hmm_devmem_remove(&rude.devmem), 0);
	assert_int_equal(hmm_device_unregister(&rude.device), 0);
	for (op = UPDATE; op < OPS; op++) {
		if (rude.wrong[op])
			fail_msg("%s in %s()", rude.wrong[op], op_name[op]);
		if (op < COPY_TO || (features.can_migrate && !features.user_mode_only))
			assert_true(rude.calls[op] > 0);
	}
}

static void without_copies_back(struct hmm_device_ops *ops)
{
	ops->copy_from_device = NULL;
}

/* Neither the device nor its region has a copy_from_device(): each page that it takes is refused. */
static void what_could_not_come_back_does_not_go(void **state)
{
	struct mini *dev = mini_make_with(4, 0, without_copies_back);
	struct hmm_event event = { .etype = HMM_COPY_TO_DEVICE };
	char *mem = map_anon(4 * PAGE);

	(void)state;
	BEGIN(10);
	hmm_set_log(HMM_LOG_NONE, NULL);
	pattern_fill(mem, 4, 1);
	event.start = addr_of(mem);
	event.end = event.start + 4 * PAGE;
	assert_int_equal(hmm_mirror_fault(&dev->mirror, &event), 0);
	assert_int_equal(event.pages, 0);
	assert_int_equal(hmm_devmem_free_pages(&dev->devmem), 4);
	pattern_check(mem, 4, 1);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	mini_free(dev);
	munmap(mem, 4 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_fault_is_the_callers),
		cmocka_unit_test(a_failed_invalidation_kills_one_mirror),
		cmocka_unit_test(a_fault_that_waited_for_the_failure_is_enodev),
		cmocka_unit_test(calls_from_ops_are_edeadlk),
		cmocka_unit_test(what_could_not_come_back_does_not_go),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
