/* SPDX-License-Identifier: MIT */
/*
 * Trace points: where libhmm says what it does. Each is a USDT probe, for bpftrace and perf,
 * and a record in the trace file, if there is one (trace.c). docs/tracing.md has the list;
 * tests/cli/trace_probes.py compares it with the library.
 *
 * A point at which something begins returns when that was, for the one at which it ends. Off,
 * all of them together cost a load and a branch each that has nothing to do.
 */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef HMM_USDT
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
#define TRACE_PROBE(...) STAP_PROBEV(hmm, __VA_ARGS__)
#else
/* Never called, nor evaluated. */
void trace_no_probe(int none, ...);
#define TRACE_PROBE(name, ...)                            \
	do {                                              \
		if (0)                                    \
			trace_no_probe(0, ##__VA_ARGS__); \
	} while (0)
#endif

#define TRACE_INLINE static inline __attribute__((always_inline))

#define TRACE_ARGS 6
#define TRACE_DEVICE 40 /* a device's name, as far as it fits */

/* Those with a duration are told when they end. Their names are in trace_json.c. */
enum trace_point {
	TRACE_CPU_FAULT_READ,
	TRACE_CPU_FAULT_DEFERRED,
	TRACE_CPU_FAULT,
	TRACE_DEVICE_FAULT,
	TRACE_TO_DEVICE,
	TRACE_MOVED,
	TRACE_EVICT,
	TRACE_EXCLUSIVE,
	TRACE_FROM_DEVICE,
	TRACE_POISON,
	TRACE_EVENT_READ,
	TRACE_EVENT,
	TRACE_UPDATE,
	TRACE_COPY,
	TRACE_FORK,
	TRACE_THREAD, /* no point: the name of who writes the others, in the place of a device's */
	TRACE_POINTS,
};

/* Why something comes back from a device. */
enum trace_why {
	WHY_DRIVER, /* the driver asked for it */
	WHY_CPU, /* a CPU fault */
	WHY_DEVICE, /* another device wants it */
	WHY_EVICT, /* there is no room */
	WHY_HOME, /* fork, or the end of a mirror or of device memory */
};

extern uint32_t trace_on; /* atomic; 0: off, else which trace it is */

/* @begun: ns, or 0: now. @device: TRACE_DEVICE bytes, or NULL. */
void trace_write(enum trace_point point, uint64_t begun, const char *device,
		 const uint64_t arg[TRACE_ARGS]);
uint64_t trace_now(void);
void trace_forget(void); /* in a child */

#define TRACE_WRITE(point, begun, device, ...) \
	trace_write(point, begun, device, (const uint64_t[TRACE_ARGS]){ __VA_ARGS__ })

TRACE_INLINE bool trace_is_on(void)
{
	return __builtin_expect(__atomic_load_n(&trace_on, __ATOMIC_RELAXED), 0);
}

/* Now, if there is somebody who wants to know; else 0. */
TRACE_INLINE uint64_t trace_time(void)
{
	return trace_is_on() ? trace_now() : 0;
}

/* A negative errno, or no error. */
TRACE_INLINE uint64_t trace_error(long ret)
{
	return ret < 0 ? (uint64_t)ret : 0;
}

/* ---- CPU faults ---- */

TRACE_INLINE void trace_cpu_fault_read(unsigned long addr, unsigned int write)
{
	TRACE_PROBE(cpu_fault_read, addr, write);
	if (trace_is_on())
		TRACE_WRITE(TRACE_CPU_FAULT_READ, 0, NULL, addr, write);
}

TRACE_INLINE void trace_cpu_fault_deferred(unsigned long addr)
{
	TRACE_PROBE(cpu_fault_deferred, addr);
	if (trace_is_on())
		TRACE_WRITE(TRACE_CPU_FAULT_DEFERRED, 0, NULL, addr);
}

TRACE_INLINE uint64_t trace_cpu_fault_begin(unsigned long addr)
{
	TRACE_PROBE(cpu_fault_begin, addr);
	return trace_time();
}

/* @read: when it was, or 0. @ret: -EAGAIN and the like: it is tried again. */
TRACE_INLINE void trace_cpu_fault_end(uint64_t begun, unsigned long addr, uint64_t read,
				      unsigned long pages, long ret)
{
	TRACE_PROBE(cpu_fault_end, addr, pages, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_CPU_FAULT, begun, NULL, addr, pages,
			    read ? trace_now() - read : 0, trace_error(ret));
}

/* ---- device faults ---- */

TRACE_INLINE uint64_t trace_device_fault_begin(const char *device, unsigned long start,
					       unsigned long end, unsigned int write)
{
	TRACE_PROBE(device_fault_begin, device, start, end, write);
	return trace_time();
}

TRACE_INLINE void trace_device_fault_end(uint64_t begun, const char *device, unsigned long start,
					 unsigned long end, unsigned int write, unsigned long pages,
					 int ret)
{
	TRACE_PROBE(device_fault_end, device, start, end, write, pages, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_DEVICE_FAULT, begun, device, start, end, write, pages,
			    trace_error(ret));
}

/* ---- migration ---- */

TRACE_INLINE uint64_t trace_to_device_begin(const char *device, unsigned long start,
					    unsigned long end, unsigned int exclusive)
{
	TRACE_PROBE(to_device_begin, device, start, end, exclusive);
	return trace_time();
}

TRACE_INLINE void trace_to_device_end(uint64_t begun, const char *device, unsigned long start,
				      unsigned long end, unsigned int exclusive,
				      unsigned long pages, unsigned long refused, int ret)
{
	TRACE_PROBE(to_device_end, device, start, end, exclusive, pages, refused, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_TO_DEVICE, begun, device, start, end, exclusive, pages, refused,
			    trace_error(ret));
}

TRACE_INLINE void trace_moved(const char *device, unsigned long start, unsigned long end,
			      unsigned int pages)
{
	TRACE_PROBE(moved, device, start, end, pages);
	if (trace_is_on())
		TRACE_WRITE(TRACE_MOVED, 0, device, start, end, pages);
}

TRACE_INLINE void trace_evict(const char *device, unsigned long start, unsigned long end,
			      unsigned long wanted)
{
	TRACE_PROBE(evict, device, start, end, wanted);
	if (trace_is_on())
		TRACE_WRITE(TRACE_EVICT, 0, device, start, end, wanted);
}

TRACE_INLINE uint64_t trace_exclusive_begin(const char *device, unsigned long start,
					    unsigned long end)
{
	TRACE_PROBE(exclusive_begin, device, start, end);
	return trace_time();
}

TRACE_INLINE void trace_exclusive_end(uint64_t begun, const char *device, unsigned long start,
				      unsigned long end, unsigned long pages, int ret)
{
	TRACE_PROBE(exclusive_end, device, start, end, pages, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_EXCLUSIVE, begun, device, start, end, pages, trace_error(ret));
}

TRACE_INLINE uint64_t trace_from_device_begin(unsigned long start, unsigned long end,
					      enum trace_why why)
{
	TRACE_PROBE(from_device_begin, start, end, why);
	return trace_time();
}

TRACE_INLINE void trace_from_device_end(uint64_t begun, unsigned long start, unsigned long end,
					enum trace_why why, unsigned long pages, int ret)
{
	TRACE_PROBE(from_device_end, start, end, why, pages, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_FROM_DEVICE, begun, NULL, start, end, why, pages,
			    trace_error(ret));
}

TRACE_INLINE void trace_poison(unsigned long addr)
{
	TRACE_PROBE(poison, addr);
	if (trace_is_on())
		TRACE_WRITE(TRACE_POISON, 0, NULL, addr);
}

/* ---- events of the address space; @type: enum mm_event_type ---- */

TRACE_INLINE void trace_event_read(unsigned int type, unsigned long start, unsigned long end,
				   unsigned long to)
{
	TRACE_PROBE(event_read, type, start, end, to);
	if (trace_is_on())
		TRACE_WRITE(TRACE_EVENT_READ, 0, NULL, type, start, end, to);
}

TRACE_INLINE uint64_t trace_event_begin(unsigned int type, unsigned long start, unsigned long end,
					unsigned long to)
{
	TRACE_PROBE(event_begin, type, start, end, to);
	return trace_time();
}

TRACE_INLINE void trace_event_end(uint64_t begun, unsigned int type, unsigned long start,
				  unsigned long end, unsigned long to)
{
	TRACE_PROBE(event_end, type, start, end, to);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_EVENT, begun, NULL, type, start, end, to);
}

TRACE_INLINE uint64_t trace_fork_begin(void)
{
	TRACE_PROBE(fork_begin);
	return trace_time();
}

TRACE_INLINE void trace_fork_end(uint64_t begun)
{
	TRACE_PROBE(fork_end);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_FORK, begun, NULL, 0);
}

/* ---- the driver's ops; @etype: enum hmm_etype ---- */

TRACE_INLINE uint64_t trace_update_begin(const char *device, unsigned int etype,
					 unsigned long start, unsigned long end)
{
	TRACE_PROBE(update_begin, device, etype, start, end);
	return trace_time();
}

TRACE_INLINE void trace_update_end(uint64_t begun, const char *device, unsigned int etype,
				   unsigned long start, unsigned long end, int ret)
{
	TRACE_PROBE(update_end, device, etype, start, end, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_UPDATE, begun, device, etype, start, end, trace_error(ret));
}

TRACE_INLINE uint64_t trace_copy_begin(const char *device, unsigned int etype, unsigned long start,
				       unsigned long end)
{
	TRACE_PROBE(copy_begin, device, etype, start, end);
	return trace_time();
}

TRACE_INLINE void trace_copy_end(uint64_t begun, const char *device, unsigned int etype,
				 unsigned long start, unsigned long end, int ret)
{
	TRACE_PROBE(copy_end, device, etype, start, end, ret);
	if (__builtin_expect(begun != 0, 0))
		TRACE_WRITE(TRACE_COPY, begun, device, etype, start, end, trace_error(ret));
}

#endif
