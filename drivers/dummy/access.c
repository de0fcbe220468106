/* SPDX-License-Identifier: MIT */
/*
 * Loads and stores of the device.
 *
 * An access is cut at page boundaries. Each piece goes through a port: take its
 * translation lock, look the page up, move the data between memory and the
 * port's bounce page, release. Without a translation that permits the access,
 * release, take a device fault, and try again.
 *
 * Device pages are read and written in dev->memory, word by word.
 *
 * System pages are never touched by a CPU pointer: the page may have left at any
 * moment, and a load that then waits in a CPU fault would wait for libhmm, which
 * waits in update() for the translation lock. pread() and pwrite() on
 * /proc/self/mem do not wait: on a page that userfaultfd keeps missing, and on
 * unmapped memory, they return EIO. That is what DMA would do, more or less: the
 * transfer fails, the entry is not used again, and the device faults.
 * They do not heed write protection; the entry's write bit does.
 *
 * The caller's buffer is touched only with the translation lock released,
 * because it may be in migrated memory, and then copying waits for libhmm.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define TRIES_MAX 1000
#define TRIES_EAGER 8

enum access_op {
	ACCESS_LOAD,
	ACCESS_STORE,
	ACCESS_ADD, /* u64: adds what is in the bounce page, leaves the old value there */
};

typedef uint16_t __attribute__((may_alias)) word16;
typedef uint32_t __attribute__((may_alias)) word32;
typedef uint64_t __attribute__((may_alias)) word64;

#define WORD_MOVE(type, dst, src)                                                               \
	__atomic_store_n((type *)(dst), __atomic_load_n((const type *)(src), __ATOMIC_RELAXED), \
			 __ATOMIC_RELAXED)

/*
 * Copy without tearing naturally aligned words. @dst and @src have the same
 * offset in their pages, so what is aligned on one side is so on the other.
 */
static void copy_words(char *dst, const char *src, size_t len)
{
	while (len) {
		uintptr_t at = (uintptr_t)src;
		size_t n;

		if (len >= 8 && !(at & 7)) {
			n = 8;
			WORD_MOVE(word64, dst, src);
		} else if (len >= 4 && !(at & 3)) {
			n = 4;
			WORD_MOVE(word32, dst, src);
		} else if (len >= 2 && !(at & 1)) {
			n = 2;
			WORD_MOVE(word16, dst, src);
		} else {
			n = 1;
			WORD_MOVE(char, dst, src);
		}
		dst += n;
		src += n;
		len -= n;
	}
}

static void access_device(char *mem, char *bounce, enum access_op op, size_t len)
{
	word64 *word = (word64 *)bounce;

	switch (op) {
	case ACCESS_LOAD:
		copy_words(bounce, mem, len);
		break;
	case ACCESS_STORE:
		copy_words(mem, bounce, len);
		break;
	case ACCESS_ADD:
		*word = __atomic_fetch_add((word64 *)mem, *word, __ATOMIC_RELAXED);
		break;
	}
}

/* Add, in system memory; the sum is made in the port, which is in the arena. */
static ssize_t add_system(struct dummy_device *dev, struct dummy_port *port, off_t at, word64 *word)
{
	pthread_mutex_t *stripe = &dev->stripe[(at >> 3) % DUMMY_STRIPES];
	uint64_t old;
	ssize_t done;

	pthread_mutex_lock(stripe);
	done = pread(dev->mem_fd, &port->word, sizeof(port->word), at);
	if (done == sizeof(port->word)) {
		old = port->word;
		port->word += *word;
		done = pwrite(dev->mem_fd, &port->word, sizeof(port->word), at);
		if (done == sizeof(port->word))
			*word = old;
	}
	pthread_mutex_unlock(stripe);
	return done;
}

/* -EAGAIN: the page is not there. */
static int access_system(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
			 enum access_op op, size_t len)
{
	char *bounce = port->bounce + (addr & dummy_page_mask(dev));
	ssize_t done = -1;

	switch (op) {
	case ACCESS_LOAD:
		done = pread(dev->mem_fd, bounce, len, (off_t)addr);
		break;
	case ACCESS_STORE:
		done = pwrite(dev->mem_fd, bounce, len, (off_t)addr);
		break;
	case ACCESS_ADD:
		done = add_system(dev, port, (off_t)addr, (word64 *)bounce);
		break;
	}
	return done == (ssize_t)len ? 0 : -EAGAIN;
}

/* Translate and access, once. -EAGAIN: a device fault is needed. */
static int access_once(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
		       enum access_op op, size_t len)
{
	uint64_t offset = addr & dummy_page_mask(dev);
	uint64_t need = DUMMY_PTE_VALID, mark = DUMMY_PTE_ACCESSED;
	uint64_t *ptep, pte = 0;
	int ret = -EAGAIN;

	if (op != ACCESS_LOAD) {
		need |= DUMMY_PTE_WRITE;
		mark |= DUMMY_PTE_DIRTY;
	}

	dummy_port_enter(dev, port);
	ptep = dummy_pgtable_lookup(&dev->pgtable, addr);
	if (ptep)
		pte = __atomic_load_n(ptep, __ATOMIC_RELAXED);
	if ((pte & need) != need)
		goto leave;

	/* Before the data: a write that fails half-way has written all the same. */
	if ((pte & mark) != mark)
		__atomic_fetch_or(ptep, mark, __ATOMIC_RELAXED);

	if (pte & DUMMY_PTE_DEVICE) {
		access_device(dev->memory + (pte & ~DUMMY_PTE_FLAGS) + offset,
			      port->bounce + offset, op, len);
		ret = 0;
	} else {
		ret = access_system(dev, port, (pte & ~DUMMY_PTE_FLAGS) + offset, op, len);
		/* Other threads see the same page missing: this needs no more than that. */
		if (ret)
			__atomic_fetch_and(ptep, ~(DUMMY_PTE_VALID | DUMMY_PTE_WRITE),
					   __ATOMIC_RELAXED);
	}
leave:
	dummy_port_leave(port);
	return ret;
}

/* A reason why the window cannot be had that need not hold for a single page. */
static bool window_error(int ret)
{
	return ret == -EFAULT || ret == -EOPNOTSUPP || ret == -EINVAL || ret == -EBUSY;
}

/* Ask for the window around @addr; for its page alone where that cannot be had. */
static int device_fault(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
			enum access_op op)
{
	uint64_t window = (uint64_t)dev->opt.fault_window << dev->page_shift;
	struct hmm_event event = {
		.start = addr - addr % window,
		.end = addr - addr % window + window,
		.etype = op == ACCESS_LOAD ? HMM_DEVICE_RFAULT : HMM_DEVICE_WFAULT,
	};
	int ret;

	dummy_count(&port->count.faults, 1);
	ret = hmm_mirror_fault(&dev->mirror, &event);
	if (!window_error(ret) || window == dev->page_size)
		return ret;

	event.start = addr & ~dummy_page_mask(dev);
	event.end = event.start + dev->page_size;
	dummy_count(&port->count.faults, 1);
	return hmm_mirror_fault(&dev->mirror, &event);
}

/* Let others finish what keeps taking the page away. */
static void back_off(unsigned int tries)
{
	struct timespec pause = { .tv_nsec = 50000 };

	if (tries < TRIES_EAGER)
		return;
	if (tries < 4 * TRIES_EAGER)
		sched_yield();
	else
		nanosleep(&pause, NULL);
}

/* One piece, within one page; the data is in, or comes to, the port's bounce page. */
static int access_page(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
		       enum access_op op, size_t len)
{
	unsigned int tries;
	int ret, fault = 0;

	for (tries = 0; tries < TRIES_MAX; tries++) {
		ret = access_once(dev, port, addr, op, len);
		if (ret != -EAGAIN) {
			if (tries > 1)
				dummy_count(&port->count.faults_retried, 1);
			return ret;
		}
		back_off(tries);
		fault = device_fault(dev, port, addr, op);
		if (fault && fault != -EBUSY)
			return fault;
	}
	return fault ? fault : -EFAULT;
}

/* Is all of the range within what the device can translate? */
static bool range_valid(struct dummy_device *dev, uint64_t addr, size_t len)
{
	uint64_t last = dummy_pgtable_last(&dev->pgtable);

	return addr <= last && len <= last - addr;
}

static size_t piece(struct dummy_device *dev, uint64_t addr, size_t len)
{
	size_t left = dev->page_size - (addr & dummy_page_mask(dev));

	return len < left ? len : left;
}

int dummy_load(struct dummy_device *dev, uint64_t addr, void *buf, size_t len)
{
	struct dummy_port *port;
	char *out = buf;
	int ret = 0;

	if (!range_valid(dev, addr, len))
		return -EFAULT;

	port = dummy_port_get(dev);
	dummy_count(&port->count.loads, 1);
	while (len) {
		size_t n = piece(dev, addr, len);

		ret = access_page(dev, port, addr, ACCESS_LOAD, n);
		if (ret)
			break;
		memcpy(out, port->bounce + (addr & dummy_page_mask(dev)), n);
		addr += n;
		out += n;
		len -= n;
	}
	dummy_port_put(port);
	return ret;
}

int dummy_store(struct dummy_device *dev, uint64_t addr, const void *buf, size_t len)
{
	struct dummy_port *port;
	const char *in = buf;
	int ret = 0;

	if (!range_valid(dev, addr, len))
		return -EFAULT;

	port = dummy_port_get(dev);
	dummy_count(&port->count.stores, 1);
	while (len) {
		size_t n = piece(dev, addr, len);

		memcpy(port->bounce + (addr & dummy_page_mask(dev)), in, n);
		ret = access_page(dev, port, addr, ACCESS_STORE, n);
		if (ret)
			break;
		addr += n;
		in += n;
		len -= n;
	}
	dummy_port_put(port);
	return ret;
}

int dummy_fetch_add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old)
{
	struct dummy_port *port;
	uint64_t val = delta;
	char *bounce;
	int ret;

	if (addr & 7)
		return -EINVAL;
	if (!range_valid(dev, addr, sizeof(delta)))
		return -EFAULT;

	port = dummy_port_get(dev);
	dummy_count(&port->count.stores, 1);
	bounce = port->bounce + (addr & dummy_page_mask(dev));
	memcpy(bounce, &delta, sizeof(delta));
	ret = access_page(dev, port, addr, ACCESS_ADD, sizeof(delta));
	if (!ret)
		memcpy(&val, bounce, sizeof(val));
	dummy_port_put(port);
	if (!ret && old)
		*old = val;
	return ret;
}
