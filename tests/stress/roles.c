/* SPDX-License-Identifier: MIT */
/* What each thread of the stress test does. */
#include "stress/stress.h"

/* A counter that nobody else touches; @word of page @i. */
static void cpu_count(struct stress *s, size_t i)
{
	volatile uint64_t *word = (void *)page_of(s, i);

	if (*word != s->cpu[i])
		complain(s, "CPU counter", i, *word, s->cpu[i]);
	*word = s->cpu[i] + 1;
	atomic_signal_fence(memory_order_seq_cst);
	((volatile uint64_t *)s->cpu)[i]++;
}

void *cpu_writer(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;

	while (!atomic_load(&s->stop)) {
		cpu_count(s, pick(s, &a->seed, a->n ? ROLE_CPU_1 : ROLE_CPU));
		if (!a->n)
			cpu_count(s, pick(s, &a->seed, ROLE_BOTH));
		atomic_fetch_add(&s->turns[0], 1);
	}
	return NULL;
}

static void device_count(struct stress *s, size_t i, size_t word)
{
	uint64_t old = 0;
	int ret = dummy_fetch_add_u64(s->dev, address(page_of(s, i)) + word * 8, 1, &old);

	if (ret || old != s->device[i])
		complain(s, ret ? "device error" : "device counter", i, ret ? (uint64_t)-ret : old,
			 s->device[i]);
	if (!ret)
		((volatile uint64_t *)s->device)[i] = old + 1;
}

void *device_writer(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;

	while (!atomic_load(&s->stop)) {
		device_count(s, pick(s, &a->seed, a->n ? ROLE_DEVICE_1 : ROLE_DEVICE), 0);
		if (!a->n)
			device_count(s, pick(s, &a->seed, ROLE_BOTH), DEVICE_WORD);
		atomic_fetch_add(&s->turns[1], 1);
	}
	return NULL;
}

/* A stamp of the owner's, read back by CPU or device. */
static void stamp_check(struct stress *s, struct actor *a, size_t i, const char *what)
{
	uint64_t val = 0;
	int ret = 0;

	if (roll(&a->seed) % 2)
		val = *(volatile uint64_t *)page_of(s, i);
	else
		ret = dummy_load_u64(s->dev, address(page_of(s, i)), &val);
	if (ret || val != s->stamp[i])
		complain(s, ret ? "device load" : what, i, ret ? (uint64_t)-ret : val, s->stamp[i]);
}

static void stamp_set(struct stress *s, struct actor *a, size_t i)
{
	uint64_t val = ((uint64_t)roll(&a->seed) << 32) | i | 1;
	int ret = 0;

	if (roll(&a->seed) % 2)
		*(volatile uint64_t *)page_of(s, i) = val;
	else
		ret = dummy_store_u64(s->dev, address(page_of(s, i)), val);
	if (ret)
		complain(s, "device store", i, (uint64_t)-ret, 0);
	else
		s->stamp[i] = val;
}

void *unmapper(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;
	size_t size = hmm_page_size();

	while (!atomic_load(&s->stop)) {
		size_t i = pick(s, &a->seed, ROLE_UNMAP);
		void *p = page_of(s, i);

		stamp_check(s, a, i, "page that is unmapped");
		if (munmap(p, size))
			complain(s, "munmap", i, (uint64_t)errno, 0);
		if (mmap(p, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != p)
			complain(s, "mmap", i, (uint64_t)errno, 0);
		s->stamp[i] = 0;
		stamp_check(s, a, i, "page just mapped");
		stamp_set(s, a, i);
		stamp_check(s, a, i, "page mapped and written");
		atomic_fetch_add(&s->turns[2], 1);
	}
	return NULL;
}

void *dropper(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;

	while (!atomic_load(&s->stop)) {
		size_t i = pick(s, &a->seed, ROLE_DROP);

		stamp_check(s, a, i, "page that is dropped");
		if (madvise(page_of(s, i), hmm_page_size(), MADV_DONTNEED))
			complain(s, "madvise", i, (uint64_t)errno, 0);
		s->stamp[i] = 0;
		stamp_check(s, a, i, "page just dropped");
		stamp_set(s, a, i);
		stamp_check(s, a, i, "page dropped and written");
		atomic_fetch_add(&s->turns[3], 1);
	}
	return NULL;
}

static void move(struct stress *s, size_t i, void *from, void *to)
{
	size_t size = hmm_page_size();

	if (mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		complain(s, "mremap", i, (uint64_t)errno, 0);
}

void *mover(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;

	while (!atomic_load(&s->stop)) {
		size_t i = pick(s, &a->seed, ROLE_MOVE);
		uint64_t val = s->stamp[i];
		int ret = 0;

		stamp_check(s, a, i, "page that moves");
		move(s, i, page_of(s, i), s->side);
		if (roll(&a->seed) % 2)
			ret = dummy_load_u64(s->dev, address(s->side), &val);
		if (ret || val != s->stamp[i])
			complain(s, "page moved, by the device", i, ret ? (uint64_t)-ret : val,
				 s->stamp[i]);
		if (roll(&a->seed) % 2 && *(volatile uint64_t *)s->side != s->stamp[i])
			complain(s, "page moved", i, *(volatile uint64_t *)s->side, s->stamp[i]);
		move(s, i, s->side, page_of(s, i));
		stamp_check(s, a, i, "page moved back");
		stamp_set(s, a, i);
		atomic_fetch_add(&s->turns[4], 1);
	}
	return NULL;
}

static void range(struct stress *s, uint32_t *seed, uint64_t *start, uint64_t *end)
{
	size_t n = 1u << roll(seed) % 10, first = roll(seed) % (s->pages - n);

	*start = address(page_of(s, first));
	*end = *start + n * hmm_page_size();
}

void *to_device(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;
	uint64_t start, end;

	while (!atomic_load(&s->stop)) {
		int ret;

		range(s, &a->seed, &start, &end);
		ret = roll(&a->seed) % 16 ? dummy_migrate(s->dev, start, end, NULL) :
					    dummy_migrate_accessed(s->dev, NULL);
		if (ret)
			complain(s, "migrate", 0, (uint64_t)-ret, 0);
		atomic_fetch_add(&s->turns[5], 1);
	}
	return NULL;
}

void *from_device(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;
	uint64_t start, end;

	while (!atomic_load(&s->stop)) {
		int ret;

		range(s, &a->seed, &start, &end);
		ret = dummy_evict(s->dev, start, end, NULL);
		if (ret)
			complain(s, "evict", 0, (uint64_t)-ret, 0);
		sleep_us(200);
		atomic_fetch_add(&s->turns[6], 1);
	}
	return NULL;
}
