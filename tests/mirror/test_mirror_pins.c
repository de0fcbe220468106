/* SPDX-License-Identifier: MIT */
/*
 * A device that holds on to the page behind an address (HMM_DEVICE_PINS), here by a
 * reference that vmsplice(2) takes: what it reads comes from that page, whatever the
 * address means by then.
 *
 * Tries to break: G3 (no page is held that a madvise is about to take away, none of a
 * mapping that has been replaced) and G9 (a pin that has to fault its page in again,
 * in memory that is watched for missing pages, does not wait for the fault it is in).
 */
#include <stdatomic.h>

#include "test_util.h"

#define ROUNDS (TEST_SANITIZED ? 2000 : 10000)

struct pinner {
	struct hmm_device device;
	struct hmm_mirror mirror;
	pthread_mutex_t lock;
	unsigned long addr; /* the one page it works on */
	int pipe[2]; /* the first word of the page, by reference */
	int copy[2];
	bool pinned;
	unsigned long pins;
	atomic_int gate; /* what update() waits for before it pins */
};

enum { GATE_OPEN, GATE_CLOSED, GATE_REACHED };

static struct pinner *pinner;

static void unpin(struct pinner *p)
{
	uint64_t word;

	if (p->pinned)
		assert_int_equal(read(p->pipe[0], &word, sizeof(word)), sizeof(word));
	p->pinned = false;
}

static int pinner_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct pinner *p = hmm_container_of(mirror, struct pinner, mirror);
	struct iovec iov = { (void *)p->addr, sizeof(uint64_t) };
	bool pin = event->etype == HMM_DEVICE_WFAULT;

	if (p->addr < event->start || p->addr >= event->end)
		return 0;
	pthread_mutex_lock(&p->lock);
	unpin(p);
	if (pin) {
		if (atomic_load(&p->gate) == GATE_CLOSED)
			atomic_store(&p->gate, GATE_REACHED);
		while (atomic_load(&p->gate) != GATE_OPEN)
			test_sleep_us(100);
		p->pinned = vmsplice(p->pipe[1], &iov, 1, 0) == sizeof(uint64_t);
		p->pins++;
	}
	pin = !pin || p->pinned;
	pthread_mutex_unlock(&p->lock);
	return pin ? 0 : -EIO;
}

static const struct hmm_device_ops pinner_ops = {
	.size = sizeof(pinner_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = pinner_update,
};

static int setup(void **state)
{
	(void)state;
	pinner = hmm_alloc(sizeof(*pinner));
	if (!pinner || pipe(pinner->pipe) || pipe(pinner->copy))
		return -1;
	pthread_mutex_init(&pinner->lock, NULL);
	pinner->device = (struct hmm_device){ .size = sizeof(struct hmm_device),
					      .flags = HMM_DEVICE_PINS,
					      .ops = &pinner_ops,
					      .name = "pinner" };
	pinner->mirror.size = sizeof(pinner->mirror);
	pinner->mirror.device = &pinner->device;
	return hmm_device_register(&pinner->device) || hmm_mirror_register(&pinner->mirror);
}

static int teardown(void **state)
{
	(void)state;
	if (hmm_mirror_unregister(&pinner->mirror) || hmm_device_unregister(&pinner->device) ||
	    pinner->pinned)
		return -1;
	close(pinner->pipe[0]);
	close(pinner->pipe[1]);
	close(pinner->copy[0]);
	close(pinner->copy[1]);
	hmm_free(pinner);
	return 0;
}

/* The device reads its word: from the page that it holds. */
static bool read_pinned(uint64_t *val)
{
	bool done;

	pthread_mutex_lock(&pinner->lock);
	done = pinner->pinned;
	if (done) {
		assert_int_equal(tee(pinner->pipe[0], pinner->copy[1], sizeof(*val), 0),
				 sizeof(*val));
		assert_int_equal(read(pinner->copy[0], val, sizeof(*val)), sizeof(*val));
	}
	pthread_mutex_unlock(&pinner->lock);
	return done;
}

static int fault(void)
{
	struct hmm_event event = { .start = pinner->addr,
				   .end = pinner->addr + PAGE,
				   .etype = HMM_DEVICE_WFAULT };

	return hmm_mirror_fault(&pinner->mirror, &event);
}

static uint64_t device_read(void)
{
	uint64_t val = ~0ull;

	hmm_mirror_sync(&pinner->mirror);
	while (!read_pinned(&val)) {
		int ret = fault();

		if (ret && ret != -EBUSY)
			fail_msg("fault: %d", ret);
	}
	return val;
}

static atomic_bool stop;

/* Faults all the time, and so just when it is worst. */
static void *meddler(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		uint64_t val;

		if (!read_pinned(&val))
			fault();
		else
			sched_yield();
	}
	return NULL;
}

/* @other: a device that has its memory in the same chunk, so that holes are faults. */
static void discard_all_day(bool other, unsigned int rounds)
{
	struct dummy_device *dev = other ? device_new(64) : NULL;
	char *mem = map_aligned(2 * MIB);
	uint64_t *word = (uint64_t *)(mem + MIB);
	pthread_t thread[2];
	unsigned int i;

	pinner->addr = addr_of(word);
	*word = 1;
	if (other) {
		mem[0] = 1;
		assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGE, NULL), 0);
	}
	/* Held before the first round: then each round has to pin anew, whoever is fast. */
	assert_int_equal(device_read(), 1);
	atomic_store(&stop, false);
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, meddler, NULL), 0);
	for (i = 0; i < rounds; i++) {
		*word = 0x1111;
		if (i % 8 == 7) {
			assert_ptr_equal(mmap(word, PAGE, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
					 word);
		} else {
			assert_int_equal(madvise(word, PAGE, MADV_DONTNEED), 0);
		}
		assert_int_equal(device_read(), 0);
		*word = i + 2;
		assert_int_equal(device_read(), i + 2);
	}
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	munmap(mem, 2 * MIB);
	assert_true(pinner->pins > rounds);
	if (other)
		assert_int_equal(dummy_destroy(dev), 0);
}

static void no_page_is_held_that_is_about_to_go(void **state)
{
	(void)state;
	BEGIN(25);
	discard_all_day(false, ROUNDS);
}

/* Where a system call gets EFAULT for a missing page, a pin does too. */
static void need_waiting_system_calls(void)
{
	struct hmm_features f = { .size = sizeof(f) };

	assert_int_equal(hmm_probe(&f), 0);
	if (f.user_mode_only)
		skip_because("a pin fails where a page is missing (UFFD_USER_MODE_ONLY)");
}

static void nor_where_holes_are_faults(void **state)
{
	(void)state;
	BEGIN(25);
	need_waiting_system_calls();
	discard_all_day(true, ROUNDS);
}

static void *fault_once(void *ret)
{
	*(int *)ret = fault();
	return NULL;
}

/*
 * The page goes while the driver is about to pin it. Its chunk is watched for missing
 * pages, so the pin waits for libhmm, in the very op that the event waits for.
 */
static void a_pin_finds_its_page_gone(void **state)
{
	struct dummy_device *dev = device_new(64);
	char *mem = map_aligned(2 * MIB);
	pthread_t thread;
	int i, ret;

	(void)state;
	BEGIN(25);
	need_waiting_system_calls();
	mem[0] = 1;
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + PAGE, NULL), 0);
	pinner->addr = addr_of(mem) + MIB;
	for (i = 0; i < 20; i++) {
		mem[MIB] = 1;
		atomic_store(&pinner->gate, GATE_CLOSED);
		assert_int_equal(pthread_create(&thread, NULL, fault_once, &ret), 0);
		while (atomic_load(&pinner->gate) != GATE_REACHED)
			test_sleep_us(100);
		assert_int_equal(madvise(mem + MIB, PAGE, MADV_DONTNEED), 0);
		atomic_store(&pinner->gate, GATE_OPEN);
		pthread_join(thread, NULL);
		assert_int_equal(ret, 0);
		assert_int_equal(device_read(), 0);
	}
	munmap(mem, 2 * MIB);
	assert_int_equal(dummy_destroy(dev), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(no_page_is_held_that_is_about_to_go),
		T(nor_where_holes_are_faults),
		T(a_pin_finds_its_page_gone),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
