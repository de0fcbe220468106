/* SPDX-License-Identifier: MIT */
/*
 * Loads and stores of the device.
 *
 * An access is cut at page boundaries. Each piece goes through a port: take its
 * translation lock, look the page up, move the data between memory and the
 * port's bounce page, release. Without a translation that permits the access,
 * release, take a device fault, and try again.
 *
 * Some memory never gets a translation that lasts, since nobody would say when it
 * ends: HMM_PTE_ONCE. There the access is made within update() for its own fault,
 * and not after hmm_mirror_fault() has returned, although the contract allows that
 * too: behind an IOMMU the mapping has ended by then, and what is done while the
 * fault's op is active is done before any event that libhmm does hear of. update()
 * runs in our own thread, has the port by the event's cookie, and takes its
 * translation lock for the access like any other. It makes it at most once, even if
 * the fault fails afterwards for another page of its window.
 *
 * The caller's buffer is touched only with the translation lock released,
 * because it may be in migrated memory, and then copying waits for libhmm.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "internal.h"

#define TRIES_MAX 1000
#define TRIES_EAGER 8

/* May the translation be used for the access? */
static bool access_may(const struct dummy_access *access, uint64_t pte)
{
	uint64_t need = DUMMY_PTE_VALID | (access->op != DUMMY_LOAD ? DUMMY_PTE_WRITE : 0);

	return (pte & need) == need &&
	       (!access->exclusive || pte & (DUMMY_PTE_EXCLUSIVE | DUMMY_PTE_DEVICE));
}

/*
 * Translate and access, once. -EAGAIN: a device fault is needed. Context: the port's
 * translation lock is held.
 */
static int access_locked(struct dummy_device *dev, struct dummy_port *port)
{
	uint64_t *ptep, pte = 0, mark = DUMMY_PTE_ACCESSED;
	int ret;

	if (port->access.op != DUMMY_LOAD)
		mark |= DUMMY_PTE_DIRTY;
	ptep = dummy_pgtable_lookup(&dev->pgtable, port->access.addr);
	if (ptep)
		pte = __atomic_load_n(ptep, __ATOMIC_RELAXED);
	if (!access_may(&port->access, pte))
		return -EAGAIN;

	/* Before the data: a write that fails half-way has written all the same. */
	if ((pte & mark) != mark)
		__atomic_fetch_or(ptep, mark, __ATOMIC_RELAXED);

	if (pte & DUMMY_PTE_DEVICE) {
		dummy_transfer_memory(dev, port, dev->memory + (pte & ~DUMMY_PTE_FLAGS));
		return 0;
	}
	if (pte & DUMMY_PTE_EXCLUSIVE)
		return dummy_transfer_exclusive(dev, port, pte & ~DUMMY_PTE_FLAGS);
	ret = dummy_transfer(dev, port, pte & ~DUMMY_PTE_FLAGS);
	/* Other threads see the same page missing: this needs no more than that. */
	if (ret)
		__atomic_fetch_and(ptep, ~(DUMMY_PTE_VALID | DUMMY_PTE_WRITE), __ATOMIC_RELAXED);
	return ret;
}

static int access_once(struct dummy_device *dev, struct dummy_port *port)
{
	int ret;

	dummy_port_enter(dev, port);
	ret = access_locked(dev, port);
	dummy_port_leave(port);
	return ret;
}

/* As dummy_access_now(), by the translation that was entered just now. */
void dummy_access_exclusive(struct dummy_device *dev, struct dummy_port *port)
{
	if (port->access.done || !dummy_port_enter_now(dev, port))
		return;
	port->access.ret = access_locked(dev, port);
	port->access.done = port->access.ret != -EAGAIN;
	dummy_port_leave(port);
}

/*
 * A device that is held makes no access, and must not wait here either, since who
 * holds it waits for our op: the access will ask again. What waits for the lock
 * waits for one access, as always.
 */
void dummy_access_now(struct dummy_device *dev, struct dummy_port *port, hmm_pte_t *ptep)
{
	struct dummy_access *access = &port->access;
	bool write = access->op != DUMMY_LOAD;
	hmm_pte_t pte = hmm_pte_load(ptep);

	if (access->done || (write && !hmm_pte_test_write(pte)) || !dummy_can_reach(dev, pte) ||
	    !dummy_port_enter_now(dev, port))
		return;
	access->ret = dummy_transfer(dev, port, hmm_pte_addr(pte));
	access->done = access->ret != -EAGAIN;
	if (write)
		hmm_pte_set_dirty(ptep);
	dummy_port_leave(port);
}

static uint64_t window_size(struct dummy_device *dev)
{
	return (uint64_t)dev->opt.fault_window << dev->page_shift;
}

static uint64_t window_start(struct dummy_device *dev, uint64_t addr)
{
	return addr - addr % window_size(dev);
}

/* A reason why the window cannot be had that need not hold for a single page. */
static bool window_error(int ret)
{
	return ret == -EFAULT || ret == -EOPNOTSUPP || ret == -EINVAL || ret == -EBUSY ||
	       ret == -ENOMEM;
}

/* Ask for [@start, @start + @len). *@all: all of its pages have translations now. */
static int fault_range(struct dummy_device *dev, struct dummy_port *port, uint64_t start,
		       uint64_t len, bool *all)
{
	struct hmm_event event = {
		.start = start,
		.end = start + len,
		.etype = port->access.op == DUMMY_LOAD ? HMM_DEVICE_RFAULT : HMM_DEVICE_WFAULT,
		.cookie = port,
	};
	int ret;

	dummy_count(&port->count.faults, 1);
	ret = hmm_mirror_fault(&dev->mirror, &event);
	*all = !ret && event.pages == len >> dev->page_shift;
	return ret;
}

/* Its page alone. One that cannot be the device's alone never will be. */
static int exclusive_fault(struct dummy_device *dev, struct dummy_port *port)
{
	uint64_t page = port->access.addr & ~dummy_page_mask(dev);
	struct hmm_event event = {
		.start = page,
		.end = page + dev->page_size,
		.etype = HMM_DEVICE_EXCLUSIVE,
		.cookie = port,
	};
	int ret;

	dummy_count(&port->count.faults, 1);
	ret = hmm_mirror_fault(&dev->mirror, &event);
	return ret || event.pages ? ret : -EOPNOTSUPP;
}

/*
 * Ask for the window around the access; for its page alone where that cannot be had.
 * @single: in: for its page alone; out: next time so, because some page of the window
 * has no translation, and if that is ours, only the fault for it alone tells why.
 */
static int device_fault(struct dummy_device *dev, struct dummy_port *port, bool *single)
{
	uint64_t addr = port->access.addr;
	bool all;
	int ret;

	if (port->access.exclusive)
		return exclusive_fault(dev, port);

	if (!*single && window_size(dev) > dev->page_size) {
		ret = fault_range(dev, port, window_start(dev, addr), window_size(dev), &all);
		*single = !ret && !all;
		if (!window_error(ret))
			return ret;
	}
	return fault_range(dev, port, addr & ~dummy_page_mask(dev), dev->page_size, &all);
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

/*
 * Where accesses are made one by one the neighbours are of no use, and a window is
 * asked for only by the first of them.
 */
static bool window_useless(struct dummy_device *dev, struct dummy_port *port)
{
	uint64_t window = window_start(dev, port->access.addr);
	bool useless = port->once == window;

	port->once = 0;
	return useless;
}

/* One piece, within one page; the data is in, or comes to, the port's bounce page. */
static int access_as(struct dummy_device *dev, struct dummy_port *port,
		     const struct dummy_access *access)
{
	uint64_t addr = access->addr;
	bool single = false;
	unsigned int tries;
	int ret, fault = 0;

	port->access = *access;
	for (tries = 0; tries < TRIES_MAX; tries++) {
		ret = access_once(dev, port);
		if (ret != -EAGAIN) {
			if (tries > 1)
				dummy_count(&port->count.faults_retried, 1);
			return ret;
		}
		if (!tries)
			single = window_useless(dev, port);
		back_off(tries);
		dummy_discard_wait(dev, addr);
		fault = device_fault(dev, port, &single);
		if (port->access.done) {
			if (!access->exclusive)
				port->once = window_start(dev, addr);
			return port->access.ret;
		}
		if (fault && fault != -EBUSY)
			return fault;
	}
	return fault ? fault : -EFAULT;
}

static int access_page(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
		       enum dummy_access_op op, size_t len)
{
	struct dummy_access access = { .addr = addr, .len = len, .op = op };

	return access_as(dev, port, &access);
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

typedef int access_fn(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
		      enum dummy_access_op op, size_t len);

/* By the translation that is there; -EAGAIN if none is. */
static int access_present(struct dummy_device *dev, struct dummy_port *port, uint64_t addr,
			  enum dummy_access_op op, size_t len)
{
	port->access = (struct dummy_access){ .addr = addr, .len = len, .op = op };
	return access_once(dev, port);
}

/* *@done: bytes that were read, on error too. */
static int load(struct dummy_device *dev, uint64_t addr, char *out, size_t len, access_fn *access,
		size_t *done)
{
	struct dummy_port *port;
	int ret = 0;

	*done = 0;
	if (!range_valid(dev, addr, len))
		return -EFAULT;

	dummy_asked(dev);
	port = dummy_port_get(dev);
	dummy_count(&port->count.loads, 1);
	while (*done < len) {
		size_t n = piece(dev, addr, len - *done);

		ret = access(dev, port, addr, DUMMY_LOAD, n);
		if (ret)
			break;
		memcpy(out + *done, port->bounce + (addr & dummy_page_mask(dev)), n);
		addr += n;
		*done += n;
	}
	dummy_port_put(port);
	return ret;
}

static int store(struct dummy_device *dev, uint64_t addr, const char *in, size_t len,
		 access_fn *access, size_t *done)
{
	struct dummy_port *port;
	int ret = 0;

	*done = 0;
	if (!range_valid(dev, addr, len))
		return -EFAULT;

	dummy_asked(dev);
	port = dummy_port_get(dev);
	dummy_count(&port->count.stores, 1);
	while (*done < len) {
		size_t n = piece(dev, addr, len - *done);

		memcpy(port->bounce + (addr & dummy_page_mask(dev)), in + *done, n);
		ret = access(dev, port, addr, DUMMY_STORE, n);
		if (ret)
			break;
		addr += n;
		*done += n;
	}
	dummy_port_put(port);
	return ret;
}

int dummy_load(struct dummy_device *dev, uint64_t addr, void *buf, size_t len)
{
	size_t done;

	return load(dev, addr, buf, len, access_page, &done);
}

int dummy_store(struct dummy_device *dev, uint64_t addr, const void *buf, size_t len)
{
	size_t done;

	return store(dev, addr, buf, len, access_page, &done);
}

int dummy_load_present(struct dummy_device *dev, uint64_t addr, void *buf, size_t len, size_t *done)
{
	return load(dev, addr, buf, len, access_present, done);
}

int dummy_store_present(struct dummy_device *dev, uint64_t addr, const void *buf, size_t len,
			size_t *done)
{
	return store(dev, addr, buf, len, access_present, done);
}

static int add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old,
		   bool exclusive)
{
	struct dummy_access access = {
		.addr = addr, .len = sizeof(delta), .op = DUMMY_ADD, .exclusive = exclusive
	};
	struct dummy_port *port;
	uint64_t val = delta;
	char *bounce;
	int ret;

	if (addr & 7)
		return -EINVAL;
	if (!range_valid(dev, addr, sizeof(delta)))
		return -EFAULT;

	dummy_asked(dev);
	port = dummy_port_get(dev);
	dummy_count(&port->count.stores, 1);
	bounce = port->bounce + (addr & dummy_page_mask(dev));
	memcpy(bounce, &delta, sizeof(delta));
	ret = access_as(dev, port, &access);
	if (!ret)
		memcpy(&val, bounce, sizeof(val));
	dummy_port_put(port);
	if (!ret && old)
		*old = val;
	return ret;
}

int dummy_fetch_add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old)
{
	return add_u64(dev, addr, delta, old, false);
}

int dummy_atomic_add_u64(struct dummy_device *dev, uint64_t addr, uint64_t delta, uint64_t *old)
{
	return add_u64(dev, addr, delta, old, true);
}
