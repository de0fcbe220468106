/* SPDX-License-Identifier: MIT */
/*
 * The smallest driver: a table that says for each page of one range whether the
 * device may read or write it. update() takes its time, can be made to fail, and
 * notes what the core promises not to do: two calls at once on one page, a call
 * after unregister, an entry that the mirror page table does not have.
 */
#ifndef TESTS_MIRROR_PLAIN_H
#define TESTS_MIRROR_PLAIN_H

#include "test_util.h"

#define PLAIN_PAGES 64

struct plain {
	struct hmm_device device;
	struct hmm_mirror mirror;
	unsigned long mem;
	unsigned int delay_us; /* atomic: update() sleeps so long */
	bool holds;
	int fail_faults; /* atomic: so many of the next calls return -EIO */
	int fail_invals;
	int updates; /* atomic */
	bool gone; /* atomic: unregister has returned */
	pthread_mutex_t lock;
	pthread_cond_t go;
	bool held;
	uint8_t may[PLAIN_PAGES]; /* HMM_PTE_VALID, HMM_PTE_WRITE */
	uint8_t busy[PLAIN_PAGES];
};

static const char *volatile plain_wrong; /* the last thing that went wrong */
static int plain_mem_fd = -1;

static inline bool plain_take(int *count)
{
	int n = __atomic_load_n(count, __ATOMIC_ACQUIRE);

	while (n > 0)
		if (__atomic_compare_exchange_n(count, &n, n - 1, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			return true;
	return false;
}

/* lock held */
static inline void plain_enter(struct plain *p, unsigned long start, unsigned long end)
{
	unsigned long addr = start;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &p->mirror.pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += PAGE, ptep++) {
			hmm_pte_t pte = hmm_pte_load(ptep);

			if (!hmm_pte_test_valid(pte) || hmm_pte_addr(pte) != addr)
				plain_wrong = "a fault without an entry";
			p->may[(addr - p->mem) / PAGE] =
				(uint8_t)(pte & (HMM_PTE_VALID | HMM_PTE_WRITE));
		}
	}
	hmm_pt_iter_fini(&iter);
}

/* lock held; +1: update() begins, -1: it ends */
static inline void plain_busy(struct plain *p, unsigned long start, unsigned long end, int by)
{
	unsigned long addr;

	for (addr = start; addr < end; addr += PAGE) {
		uint8_t *busy = &p->busy[(addr - p->mem) / PAGE];

		*busy = (uint8_t)(*busy + by);
		if (*busy > 1)
			plain_wrong = "update() twice at once";
	}
}

static inline int plain_apply(struct plain *p, const struct hmm_event *event, unsigned long start,
			      unsigned long end)
{
	bool fault = event->etype == HMM_DEVICE_RFAULT || event->etype == HMM_DEVICE_WFAULT;
	bool all = event->etype == HMM_MIGRATE || event->etype == HMM_MUNMAP;
	unsigned long addr;

	if (plain_take(fault ? &p->fail_faults : &p->fail_invals)) {
		if (!fault)
			memset(p->may, 0, sizeof(p->may));
		return -EIO;
	}
	if (fault)
		plain_enter(p, start, end);
	for (addr = start; !fault && addr < end; addr += PAGE)
		p->may[(addr - p->mem) / PAGE] &= all ? 0 : HMM_PTE_VALID;
	return 0;
}

static inline int plain_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct plain *p = hmm_container_of(mirror, struct plain, mirror);
	unsigned long last = p->mem + PLAIN_PAGES * PAGE;
	unsigned long start = event->start > p->mem ? event->start : p->mem;
	unsigned long end = event->end < last ? event->end : last;
	unsigned int delay_us;
	int ret;

	if (__atomic_load_n(&p->gone, __ATOMIC_ACQUIRE))
		plain_wrong = "update() after unregister";
	__atomic_add_fetch(&p->updates, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_lock(&p->lock);
	plain_busy(p, start, end, 1);
	pthread_mutex_unlock(&p->lock);
	delay_us = __atomic_load_n(&p->delay_us, __ATOMIC_RELAXED);
	if (delay_us)
		test_sleep_us(delay_us);
	pthread_mutex_lock(&p->lock);
	ret = plain_apply(p, event, start, end);
	plain_busy(p, start, end, -1);
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static inline void plain_set_held(struct hmm_mirror *mirror, bool held)
{
	struct plain *p = hmm_container_of(mirror, struct plain, mirror);

	if (__atomic_load_n(&p->gone, __ATOMIC_ACQUIRE))
		plain_wrong = "hold() after unregister";
	pthread_mutex_lock(&p->lock);
	if (p->held == held)
		plain_wrong = "hold() nested";
	p->held = held;
	pthread_cond_broadcast(&p->go);
	pthread_mutex_unlock(&p->lock);
}

static inline void plain_hold(struct hmm_mirror *mirror)
{
	plain_set_held(mirror, true);
}

static inline void plain_release(struct hmm_mirror *mirror)
{
	plain_set_held(mirror, false);
}

static const struct hmm_device_ops plain_ops = {
	.size = sizeof(plain_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = plain_update,
};

static const struct hmm_device_ops plain_hold_ops = {
	.size = sizeof(plain_hold_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = plain_update,
	.hold = plain_hold,
	.release = plain_release,
};

/* @p: zeroed, with what it is to be like */
static inline void plain_register(struct plain *p, const void *mem)
{
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->go, NULL);
	p->mem = (unsigned long)addr_of(mem);
	p->device.size = sizeof(p->device);
	p->device.ops = p->holds ? &plain_hold_ops : &plain_ops;
	p->device.name = "plain";
	p->mirror.size = sizeof(p->mirror);
	p->mirror.device = &p->device;
	if (plain_mem_fd < 0)
		plain_mem_fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	assert_true(plain_mem_fd >= 0);
	assert_int_equal(hmm_device_register(&p->device), 0);
	assert_int_equal(hmm_mirror_register(&p->mirror), 0);
}

static inline void plain_unregister(struct plain *p)
{
	assert_int_equal(hmm_mirror_unregister(&p->mirror), 0);
	__atomic_store_n(&p->gone, true, __ATOMIC_RELEASE);
	assert_int_equal(hmm_device_unregister(&p->device), 0);
	assert_int_equal(p->held, 0);
}

static inline int plain_fault(struct plain *p, uint64_t addr, size_t pages, bool write)
{
	struct hmm_event event = { .start = addr,
				   .end = addr + pages * PAGE,
				   .etype = write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT };

	return hmm_mirror_fault(&p->mirror, &event);
}

/* The device reads or writes a word; false: it has no translation, or not that one. */
static inline bool plain_try(struct plain *p, uint64_t addr, uint64_t *val, bool write)
{
	uint8_t need = HMM_PTE_VALID | (write ? HMM_PTE_WRITE : 0);
	bool done = false;

	if (!p->holds)
		hmm_mirror_sync(&p->mirror);
	pthread_mutex_lock(&p->lock);
	while (p->held)
		pthread_cond_wait(&p->go, &p->lock);
	if ((p->may[(addr - p->mem) / PAGE] & need) == need)
		done = (write ? pwrite(plain_mem_fd, val, 8, (off_t)addr) :
				pread(plain_mem_fd, val, 8, (off_t)addr)) == 8;
	pthread_mutex_unlock(&p->lock);
	return done;
}

/* Between fault and use the translation may be lost, time and again: @lost counts. */
static inline int plain_access(struct plain *p, uint64_t addr, uint64_t *val, bool write,
			       uint64_t *lost)
{
	unsigned int tries;
	int ret;

	for (tries = 0; tries < 20; tries++) {
		if (plain_try(p, addr, val, write))
			return 0;
		ret = plain_fault(p, addr & ~(PAGE - 1), 1, write);
		if (ret)
			return ret;
		++*lost;
	}
	return -EBUSY;
}

/* Where no other mapping of the process is ever put into a hole. */
static inline char *map_low(size_t len)
{
	char *at = (char *)0x40000000, *mem = MAP_FAILED;
	int i;

	for (i = 0; i < 64 && mem == MAP_FAILED; i++, at += 8 * MIB)
		mem = mmap(at, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	madvise(mem, len, MADV_NOHUGEPAGE);
	return mem;
}

#endif
