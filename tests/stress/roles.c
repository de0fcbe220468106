/* SPDX-License-Identifier: MIT */
/* Who counts, and who migrates. */
#include "stress/stage.h"

/* A counter that nobody else touches; told after it is written. */
static void cpu_count(struct actor *a, size_t i)
{
	volatile uint64_t *word = (void *)page_of(a->s, i);
	volatile uint64_t *known = &a->s->cpu[i];

	if (*word != *known)
		wrong(a, "CPU counter", (void *)word, *word, *known);
	*word = *known + 1;
	atomic_signal_fence(memory_order_seq_cst);
	*known = *known + 1;
}

void *cpu_writer(void *arg)
{
	struct actor *a = arg;

	while (going_on(a)) {
		cpu_count(a, pick(a, a->n ? ROLE_CPU_1 : ROLE_CPU));
		if (!a->n)
			cpu_count(a, pick(a, ROLE_BOTH));
		/* Most of it hits, and the others want the CPU too. */
		if (atomic_load(a->turns) % 16 == 0)
			sleep_us(50);
		turn(a);
	}
	return NULL;
}

static void device_count(struct actor *a, size_t i, size_t word, uint64_t *count)
{
	unsigned char *p = page_of(a->s, i) + word * 8;
	volatile uint64_t *known = &count[i];
	uint64_t old = 0;
	int ret = device_add(a, p, &old);

	if (ret)
		wrong(a, "device error", p, (uint64_t)-ret, 0);
	else if (old != *known)
		wrong(a, "device counter", p, old, *known);
	if (!ret)
		*known = old + 1;
}

void *device_writer(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;

	while (going_on(a)) {
		device_count(a, pick(a, a->n ? ROLE_DEVICE_1 : ROLE_DEVICE), 0, s->device);
		device_count(a, pick(a, ROLE_BOTH), a->n ? DEVICE_WORD_1 : DEVICE_WORD,
			     a->n ? s->device_1 : s->device);
		turn(a);
	}
	return NULL;
}

/*
 * By the CPU and by devices to the same word, with others who do so too. (A page that is in
 * use elsewhere all the time is busy: another time, then.)
 */
void *adder(void *arg)
{
	struct actor *a = arg;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_ATOMIC);
		void *p = page_of(a->s, i);
		int ret = 0;

		if (roll(a) % 4)
			ret = device_add_atomic(a, p);
		else
			__atomic_fetch_add((uint64_t *)p, 1, __ATOMIC_SEQ_CST);
		if (!ret)
			__atomic_fetch_add(&a->s->atomic[i], 1, __ATOMIC_SEQ_CST);
		else if (ret != -EBUSY)
			wrong(a, "device atomic add", p, (uint64_t)-ret, 0);
		turn(a);
	}
	return NULL;
}

/* One page, then the next: nobody may see the second ahead of the first. */
void *pair_writer(void *arg)
{
	struct actor *a = arg;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_FIRST);

		cpu_count(a, i);
		cpu_count(a, i + 1);
		i = pick(a, ROLE_DEVICE_FIRST);
		device_count(a, i, 0, a->s->device);
		device_count(a, i + 1, 0, a->s->device);
		turn(a);
	}
	return NULL;
}

/* Any range of mosaic and field, 1 to 1024 pages. */
static size_t range(struct actor *a, unsigned char **start)
{
	size_t n = 1 + roll(a) % (1u << roll(a) % 11);

	*start = page_of(a->s, roll(a) % (a->s->pages - n));
	return n * hmm_page_size();
}

void *to_device(void *arg)
{
	struct actor *a = arg;
	unsigned char *start;

	while (going_on(a)) {
		size_t bytes = range(a, &start);
		int ret = 0;

		if (roll(a) % 16) {
			device_send(a, start, bytes);
		} else {
			ret = dummy_migrate_accessed(device_take(a), NULL);
			device_leave(a);
		}
		if (ret)
			wrong(a, "migrate what is used", start, (uint64_t)-ret, 0);
		turn(a);
	}
	return NULL;
}

void *from_device(void *arg)
{
	struct actor *a = arg;
	unsigned char *start;

	while (going_on(a)) {
		size_t bytes = range(a, &start);
		int ret = 0;

		if (roll(a) % 4) {
			device_fetch(a, start, bytes);
		} else {
			ret = dummy_discard(device_take(a), address(start), address(start) + bytes);
			device_leave(a);
		}
		if (ret)
			wrong(a, "discard", start, (uint64_t)-ret, 0);
		sleep_us(200);
		turn(a);
	}
	return NULL;
}

/* Contents stay, whatever the pages become; it may well be refused. */
void *collapser(void *arg)
{
	struct actor *a = arg;

	while (going_on(a)) {
		size_t chunk = roll(a) % (MOSAIC_CHUNKS + FIELD_CHUNKS);

		madvise(a->s->mem + chunk * CHUNK, CHUNK, 25 /* MADV_COLLAPSE */);
		madvise(a->s->mem + chunk * CHUNK, CHUNK, MADV_HUGEPAGE);
		sleep_us(3000);
		turn(a);
	}
	return NULL;
}

static void device_again(struct actor *a, unsigned int n)
{
	struct stage *s = a->s;
	struct dummy_options opt = s->plan->opt[n];
	struct dummy_stats stats;
	int ret;

	dummy_get_stats(s->dev[n], &stats);
	s->pages_in += stats.pages_in;
	ret = dummy_destroy(s->dev[n]);
	if (ret) {
		fprintf(stderr, "WRONG: seed %u: device destroyed: error %d\n", s->seed, ret);
		_exit(1);
	}
	if (a->s->plan->devices == 1 && count_where(s->mem, s->pages, HMM_WHERE_DEVICE))
		wrong(a, "pages left behind", s->mem, 1, 0);
	opt.coherent = getenv("HMM_TEST_COHERENT");
	opt.looks_up = getenv("HMM_TEST_LOOKS_UP");
	ret = dummy_create(&s->dev[n], &opt);
	if (ret) {
		fprintf(stderr, "device made again: error %d\n", ret);
		_exit(1);
	}
}

/* A device goes, and comes again. */
void *reaper(void *arg)
{
	struct actor *a = arg;

	while (going_on(a)) {
		unsigned int n = roll(a) % a->s->plan->devices;

		sleep_us(5000 + roll(a) % 50000);
		pthread_rwlock_wrlock(&a->s->life[n]);
		device_again(a, n);
		pthread_rwlock_unlock(&a->s->life[n]);
		turn(a);
	}
	return NULL;
}
