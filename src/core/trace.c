/* SPDX-License-Identifier: MIT */
/*
 * The trace: from the points of trace.h to a file.
 *
 *	any thread, also in an op, also with locks held     the writer, a thread of its own
 *	      │                                                   │ every few milliseconds
 *	      └──► the ring of the CPU that it runs on ──────────►┴──► file (trace_json.c)
 *
 * Who comes by a point waits for nothing and touches no memory but the arena's (G6): it takes
 * the next record of the ring, fills it, and says that it is complete. If there is none it
 * counts what it drops. The ring is that of a CPU, so that two seldom want the same one; a
 * thread that is moved meanwhile finishes where it began.
 *
 *	ring->tail ≤ complete ... being filled ... ≤ ring->head ≤ ring->tail + RING_RECORDS
 *
 * A record belongs to whoever moved head past it, until its seq says that it is complete;
 * then to the writer, until tail has passed it.
 *
 * Rings are never freed, since nobody knows who is still on the way to one: the next trace
 * uses them again, and leaves out what comes late from one before (record->trace).
 *
 * Start and stop hold api_lock, and so fork() comes before or after. A child has neither the
 * writer nor the file. One that was made behind libc's back does not know, and fills its copy
 * of the rings once, for nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <hmm/trace.h>

#include "core/core.h"
#include "core/trace_file.h"

#define RING_RECORDS 16384u
#define RINGS_MAX 64u
#define DRAIN_NS 5000000
#define DRAIN_BUSY (RING_RECORDS / 16) /* so many at once: there will be more */
#define LAST_RETRIES 20000 /* two seconds, for who is just filling a record */
#define EXIT_RETRIES 20000

struct ring {
	uint64_t head __attribute__((aligned(64))); /* atomic; this and the next: whoever traces */
	uint64_t dropped; /* atomic */
	uint64_t tail __attribute__((aligned(64))); /* atomic; the writer's */
	uint64_t told; /* the writer's: of dropped */
	struct trace_record record[RING_RECORDS] __attribute__((aligned(64)));
};

HMM_DATA uint32_t trace_on;
HMM_DATA uint64_t trace_room = RING_RECORDS;

/* api_lock; the rings are there before trace_on is set, and stay. */
static HMM_DATA struct ring *rings[RINGS_MAX];
static HMM_DATA unsigned int nrings; /* a power of two */
static HMM_DATA uint32_t last; /* trace_on of the last trace */
static HMM_DATA struct trace_file *file; /* the writer's too, while it runs */
static HMM_DATA struct hmm_thread *writer;
static HMM_DATA pid_t owner;
static HMM_DATA bool stopping; /* atomic */
static HMM_DATA bool at_exit;

/* This thread, and the trace that has its name. */
static __thread struct {
	int32_t tid;
	uint32_t trace;
} self;

uint64_t trace_now(void)
{
	return now_ns();
}

#ifndef HMM_USDT
void trace_no_probe(int none, ...)
{
	(void)none;
}
#endif

/* ---- whoever comes by a point ---- */

/* The record at *@pos is the caller's; NULL: there is no room. */
static struct trace_record *ring_take(struct ring *ring, uint64_t *pos)
{
	uint64_t room = __atomic_load_n(&trace_room, __ATOMIC_RELAXED);
	uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);

	do {
		if (head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) >= room) {
			__atomic_fetch_add(&ring->dropped, 1, __ATOMIC_RELAXED);
			return NULL;
		}
	} while (!__atomic_compare_exchange_n(&ring->head, &head, head + 1, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	*pos = head;
	return &ring->record[head % RING_RECORDS];
}

static struct trace_record *record_begin(uint32_t trace, enum trace_point point, uint64_t *pos)
{
	unsigned int cpu = (unsigned int)sched_getcpu();
	struct trace_record *record = ring_take(rings[cpu & (nrings - 1)], pos);

	if (!record)
		return NULL;
	record->trace = trace;
	record->tid = self.tid;
	record->point = point;
	return record;
}

static void record_end(struct trace_record *record, uint64_t pos)
{
	__atomic_store_n(&record->seq, pos + 1, __ATOMIC_RELEASE);
}

/* Before the first that this thread writes: it may be gone when that is read. */
static void tell_name(uint32_t trace)
{
	struct trace_record *record;
	uint64_t pos;

	if (!self.tid)
		self.tid = (int32_t)gettid();
	record = record_begin(trace, TRACE_THREAD, &pos);
	if (!record)
		return;
	memset(record->device, 0, sizeof(record->device));
	prctl(PR_GET_NAME, record->device);
	record_end(record, pos);
	self.trace = trace;
}

void trace_write(enum trace_point point, uint64_t begun, const char *device,
		 const uint64_t arg[TRACE_ARGS])
{
	uint32_t trace = __atomic_load_n(&trace_on, __ATOMIC_ACQUIRE);
	uint64_t now = now_ns(), pos;
	struct trace_record *record;

	if (!trace)
		return;
	if (self.trace != trace)
		tell_name(trace);
	record = record_begin(trace, point, &pos);
	if (!record)
		return;
	record->begun = begun ? begun : now;
	record->ended = now;
	memcpy(record->arg, arg, sizeof(record->arg));
	if (device)
		memcpy(record->device, device, sizeof(record->device));
	else
		record->device[0] = 0;
	record_end(record, pos);
}

/* ---- the writer ---- */

static unsigned int ring_drain(struct ring *ring)
{
	uint64_t tail = ring->tail, dropped;
	unsigned int n = 0;

	for (;;) {
		struct trace_record *record = &ring->record[tail % RING_RECORDS];

		if (__atomic_load_n(&record->seq, __ATOMIC_ACQUIRE) != tail + 1)
			break;
		if (record->trace == last)
			trace_file_record(file, record);
		__atomic_store_n(&ring->tail, ++tail, __ATOMIC_RELEASE);
		n++;
	}
	dropped = __atomic_load_n(&ring->dropped, __ATOMIC_RELAXED);
	if (dropped != ring->told)
		trace_file_dropped(file, dropped - ring->told);
	ring->told = dropped;
	return n;
}

static unsigned int rings_drain(void)
{
	unsigned int i, n = 0;

	for (i = 0; i < nrings; i++)
		n += ring_drain(rings[i]);
	trace_file_flush(file);
	return n;
}

static bool rings_empty(void)
{
	unsigned int i;

	for (i = 0; i < nrings; i++)
		if (__atomic_load_n(&rings[i]->head, __ATOMIC_RELAXED) != rings[i]->tail)
			return false;
	return true;
}

static void *writer_main(void *arg)
{
	struct timespec pause = { .tv_nsec = DRAIN_NS };
	unsigned int retries = 0;

	(void)arg;
	syscall(SYS_prctl, PR_SET_NAME, "hmm-trace");
	while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE))
		if (rings_drain() < DRAIN_BUSY)
			nanosleep(&pause, NULL);
	do {
		rings_drain();
		if (!rings_empty())
			retry_pause(retries);
	} while (!rings_empty() && retries++ < LAST_RETRIES);
	return NULL;
}

/* ---- start and stop; api_lock held ---- */

static int rings_make(void)
{
	unsigned int i, n = 1;
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	while (n < RINGS_MAX && (long)n < cpus)
		n *= 2;
	for (i = 0; i < n; i++) {
		if (!rings[i])
			rings[i] = hmm_map(sizeof(struct ring));
		if (!rings[i])
			return -ENOMEM;
		rings[i]->told = __atomic_load_n(&rings[i]->dropped, __ATOMIC_RELAXED);
	}
	nrings = n;
	return 0;
}

/* In a child: what is its parent's. The rings are left to themselves. */
void trace_forget(void)
{
	__atomic_store_n(&trace_on, 0, __ATOMIC_RELAXED);
	if (file)
		hmm_fd_close(trace_file_free(file));
	file = NULL;
	memset(rings, 0, sizeof(rings));
	owner = 0;
	self.tid = 0;
	self.trace = 0;
}

static bool trace_ours(void)
{
	return file && owner == getpid();
}

static int trace_stop(void)
{
	int ret;

	if (!trace_ours())
		return -EINVAL;
	__atomic_store_n(&trace_on, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&stopping, true, __ATOMIC_RELEASE);
	hmm_thread_join(writer);
	ret = trace_file_finish(file);
	hmm_fd_close(trace_file_free(file));
	file = NULL;
	return ret;
}

/* Somebody may hold the lock for ever, now that the process ends. */
static void trace_exit(void)
{
	unsigned int retries = 0;

	if (call_running() || owner != getpid())
		return;
	while (!api_trylock()) {
		if (retries == EXIT_RETRIES)
			return;
		retry_pause(retries++);
	}
	trace_stop();
	api_unlock();
}

/* @fd is the trace's, if it succeeds. */
static int trace_start(int fd, bool resume)
{
	int ret;

	if (trace_ours()) /* by now */
		return -EBUSY;
	if (file)
		trace_forget(); /* a child that was made behind libc's back */
	ret = fork_init();
	if (!ret)
		ret = rings_make();
	if (!ret && !resume && ftruncate(fd, 0) && errno != EINVAL)
		ret = -errno;
	if (!ret)
		ret = trace_file_open(&file, fd, resume);
	if (ret)
		return ret;
	if (!++last)
		last = 1;
	__atomic_store_n(&stopping, false, __ATOMIC_RELAXED);
	ret = hmm_thread_create(&writer, writer_main, NULL);
	if (ret) {
		trace_file_free(file);
		file = NULL;
		return ret;
	}
	owner = getpid();
	if (!at_exit)
		at_exit = !atexit(trace_exit);
	__atomic_store_n(&trace_on, last, __ATOMIC_RELEASE);
	return 0;
}

/* The path may lie in memory that is away, where a system call does not wait for it. */
static int trace_open(const char *path, bool resume)
{
	size_t len = strlen(path) + 1;
	char *copy;
	int fd;

	if (len > PATH_MAX)
		return -ENAMETOOLONG;
	copy = hmm_alloc(len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, path, len);
	fd = open(copy, (resume ? O_RDWR : O_WRONLY) | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		fd = -errno;
	hmm_free(copy);
	return hmm_fd_keep(fd);
}

static int trace_busy(void)
{
	bool busy;

	api_lock();
	busy = trace_ours();
	api_unlock();
	return busy ? -EBUSY : 0;
}

/* Opened with no lock held, which may take long; emptied when nobody else writes it. */
static int trace_start_file(const char *path, bool resume)
{
	int ret, fd;

	if (!path)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	ret = trace_busy();
	if (ret)
		return ret;
	fd = trace_open(path, resume);
	if (fd < 0)
		return fd;
	api_lock();
	ret = trace_start(fd, resume);
	api_unlock();
	if (ret)
		hmm_fd_close(fd);
	return ret;
}

HMM_API int hmm_trace_start(const char *path)
{
	return trace_start_file(path, false);
}

HMM_API int hmm_trace_resume(const char *path)
{
	return trace_start_file(path, true);
}

HMM_API int hmm_trace_stop(void)
{
	int ret;

	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = trace_stop();
	api_unlock();
	return ret;
}
