/* SPDX-License-Identifier: MIT */
/*
 * The translation lock and the ports that shard it.
 *
 * Every access takes the lock of one port, which no other thread is using as
 * long as there are ports enough, and so device threads do not wait for each
 * other. A change of the page table takes all of them.
 *
 * To hold the device (see hmm/device.h) is to raise dev->held and then to take
 * and drop the lock of each port: an access looks at dev->held with the lock, so
 * what is under way afterwards saw it raised and turns back. The table can still
 * be changed meanwhile.
 *
 * A plain mutex is not fair: a thread that loads in a loop would give the lock
 * up and have it back before a waiting writer woke. So a writer announces itself
 * in dev->writers, and accesses that see that first wait for dev->writer, which
 * it holds until it is done. This is about fairness alone: an access that misses
 * the announcement is still kept out, or waited for, by the port's lock.
 */
#include <sched.h>

#include "internal.h"

/* Under dev->writer, so that who has all used ports locked still has. */
static struct dummy_port *port_used(struct dummy_device *dev, struct dummy_port *port)
{
	unsigned int bit = 1u << (port - dev->port);

	if (!(__atomic_load_n(&dev->ports, __ATOMIC_RELAXED) & bit)) {
		pthread_mutex_lock(&dev->writer);
		__atomic_fetch_or(&dev->ports, bit, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&dev->writer);
	}
	return port;
}

/* One of @ports, which is taken out of it. */
static struct dummy_port *port_next(struct dummy_device *dev, unsigned int *ports)
{
	struct dummy_port *port = &dev->port[__builtin_ctz(*ports)];

	*ports &= *ports - 1;
	return port;
}

/* Its translation lock is one that ops take: no handler interrupts who has a port. */
struct dummy_port *dummy_port_get(struct dummy_device *dev)
{
	int cpu = sched_getcpu();
	unsigned int home = cpu < 0 ? 0 : (unsigned int)cpu, i;

	hmm_signals_block();
	for (i = 0; i < DUMMY_PORTS; i++) {
		struct dummy_port *port = &dev->port[(home + i) % DUMMY_PORTS];

		if (!pthread_mutex_trylock(&port->owner))
			return port_used(dev, port);
	}

	pthread_mutex_lock(&dev->port[home % DUMMY_PORTS].owner);
	return port_used(dev, &dev->port[home % DUMMY_PORTS]);
}

void dummy_port_put(struct dummy_port *port)
{
	pthread_mutex_unlock(&port->owner);
	hmm_signals_unblock();
}

static void hold_wait(struct dummy_device *dev)
{
	pthread_mutex_lock(&dev->hold_lock);
	__atomic_fetch_add(&dev->waiters, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&dev->held, __ATOMIC_SEQ_CST))
		pthread_cond_wait(&dev->hold_end, &dev->hold_lock);
	__atomic_fetch_sub(&dev->waiters, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&dev->hold_lock);
}

void dummy_port_enter(struct dummy_device *dev, struct dummy_port *port)
{
	for (;;) {
		if (__atomic_load_n(&dev->writers, __ATOMIC_RELAXED)) {
			pthread_mutex_lock(&dev->writer);
			pthread_mutex_unlock(&dev->writer);
		}
		pthread_mutex_lock(&port->xlat);
		if (!__atomic_load_n(&dev->held, __ATOMIC_SEQ_CST))
			return;
		pthread_mutex_unlock(&port->xlat);
		hold_wait(dev);
	}
}

bool dummy_port_enter_now(struct dummy_device *dev, struct dummy_port *port)
{
	pthread_mutex_lock(&port->xlat);
	if (!__atomic_load_n(&dev->held, __ATOMIC_SEQ_CST))
		return true;
	pthread_mutex_unlock(&port->xlat);
	return false;
}

void dummy_hold(struct hmm_mirror *mirror)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned int ports;

	__atomic_store_n(&dev->held, true, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&dev->writer);
	for (ports = dev->ports; ports;) {
		struct dummy_port *port = port_next(dev, &ports);

		pthread_mutex_lock(&port->xlat);
		pthread_mutex_unlock(&port->xlat);
	}
	pthread_mutex_unlock(&dev->writer);
}

void dummy_release(struct hmm_mirror *mirror)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);

	__atomic_store_n(&dev->held, false, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&dev->waiters, __ATOMIC_SEQ_CST))
		return; /* who comes now sees that it is not held */
	pthread_mutex_lock(&dev->hold_lock);
	pthread_cond_broadcast(&dev->hold_end);
	pthread_mutex_unlock(&dev->hold_lock);
}

void dummy_port_leave(struct dummy_port *port)
{
	pthread_mutex_unlock(&port->xlat);
}

void dummy_xlat_lock(struct dummy_device *dev)
{
	unsigned int ports;

	hmm_signals_block();
	__atomic_fetch_add(&dev->writers, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&dev->writer);
	for (ports = dev->ports; ports;)
		pthread_mutex_lock(&port_next(dev, &ports)->xlat);
}

void dummy_xlat_unlock(struct dummy_device *dev)
{
	unsigned int ports;

	for (ports = dev->ports; ports;)
		pthread_mutex_unlock(&port_next(dev, &ports)->xlat);
	pthread_mutex_unlock(&dev->writer);
	__atomic_fetch_sub(&dev->writers, 1, __ATOMIC_RELAXED);
	hmm_signals_unblock();
}
