/* SPDX-License-Identifier: MIT */
/* Memory through a device or the CPU, and what is said when it is not as it should be. */
#include <sys/uio.h>

#include "stress/stage.h"

static const char *where_name(const void *addr)
{
	static const char *const name[] = {
		"nowhere",  "system memory", "the zero page",	 "swap",
		"a device", "staging",	     "a device's alone",
	};
	unsigned long start = (unsigned long)addr & ~(hmm_page_size() - 1);
	uint8_t where = 0;

	if (hmm_range_where(start, start + hmm_page_size(), &where) || where > HMM_WHERE_EXCLUSIVE)
		return "?";
	return name[where];
}

/* What the CPU reads there afterwards; no signal where it cannot. */
static uint64_t read_again(const void *addr)
{
	uint64_t val = 0;
	struct iovec to = { &val, 8 }, from = { (void *)(address(addr) & ~7ul), 8 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 8 ? val : ~0ull;
}

void wrong(struct actor *a, const char *what, const void *addr, uint64_t got, uint64_t want)
{
	struct stage *s = a->s;
	const char *where;
	long page = (long)(address(addr) - address(s->mem)) / (long)hmm_page_size();

	if (atomic_fetch_add(&s->failures, 1) >= 10)
		return;
	where = where_name(addr);
	fprintf(stderr,
		"WRONG: %s, seed %u: %s: %s at %p (page %ld): got 0x%llx, expected 0x%llx; "
		"the page is in %s; read again: 0x%llx\n",
		s->plan->name, s->seed, a->name, what, addr, page, (unsigned long long)got,
		(unsigned long long)want, where, (unsigned long long)read_again(addr));
}

void place_lock(struct stage *s)
{
	if (s->apart)
		pthread_mutex_lock(&s->placing);
}

void place_unlock(struct stage *s)
{
	if (s->apart)
		pthread_mutex_unlock(&s->placing);
}

struct dummy_device *device_take(struct actor *a)
{
	a->taken = roll(a) % a->s->plan->devices;
	pthread_rwlock_rdlock(&a->s->life[a->taken]);
	return a->s->dev[a->taken];
}

void device_leave(struct actor *a)
{
	pthread_rwlock_unlock(&a->s->life[a->taken]);
}

int device_load(struct actor *a, const void *p, uint64_t *val)
{
	int ret = dummy_load_u64(device_take(a), address(p), val);

	device_leave(a);
	return ret;
}

int device_store(struct actor *a, void *p, uint64_t val)
{
	int ret = dummy_store_u64(device_take(a), address(p), val);

	device_leave(a);
	return ret;
}

int device_add(struct actor *a, void *p, uint64_t *old)
{
	int ret = dummy_fetch_add_u64(device_take(a), address(p), 1, old);

	device_leave(a);
	return ret;
}

int device_add_atomic(struct actor *a, void *p)
{
	int ret = dummy_atomic_add_u64(device_take(a), address(p), 1, NULL);

	device_leave(a);
	return ret;
}

void device_send(struct actor *a, const void *p, size_t bytes)
{
	int ret = dummy_migrate(device_take(a), address(p), address(p) + bytes, NULL);

	device_leave(a);
	if (ret)
		wrong(a, "migrate", p, (uint64_t)-ret, 0);
}

void device_fetch(struct actor *a, const void *p, size_t bytes)
{
	int ret = dummy_evict(device_take(a), address(p), address(p) + bytes, NULL);

	device_leave(a);
	if (ret)
		wrong(a, "evict", p, (uint64_t)-ret, 0);
}

static const unsigned char *some_end(struct actor *a, const void *page)
{
	return (const unsigned char *)page + (roll(a) % 2 ? hmm_page_size() - 8 : 0);
}

void look_device(struct actor *a, const void *page, uint64_t want, const char *what)
{
	const unsigned char *p = some_end(a, page);
	uint64_t val = 0;
	int ret = device_load(a, p, &val);

	if (ret)
		wrong(a, "device load", p, (uint64_t)-ret, 0);
	else if (val != want)
		wrong(a, what, p, val, want);
}

UNSEEN void look(struct actor *a, const void *page, uint64_t want, const char *what)
{
	const unsigned char *p = some_end(a, page);
	uint64_t val;

	if (roll(a) % 2) {
		look_device(a, page, want, what);
		return;
	}
	val = *(const volatile uint64_t *)p;
	if (val != want)
		wrong(a, what, p, val, want);
}

UNSEEN bool put(struct actor *a, void *page, uint64_t val)
{
	unsigned char *end[2] = { page, (unsigned char *)page + hmm_page_size() - 8 };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		int ret = 0;

		if (roll(a) % 2)
			*(volatile uint64_t *)end[i] = val;
		else
			ret = device_store(a, end[i], val);
		if (ret) {
			wrong(a, "device store", end[i], (uint64_t)-ret, 0);
			return false;
		}
	}
	return true;
}

void refused(struct actor *a, int ret, const void *page, const char *what)
{
	if (ret != -EFAULT)
		wrong(a, what, page, (uint64_t)-ret, EFAULT);
}
