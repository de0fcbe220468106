/* SPDX-License-Identifier: MIT */
/*
 * The monitor: the one thread that reads userfaultfd messages.
 *
 *	wait (poll, no lock held; see follow.c)
 *	hold the devices that can be held
 *	gate exclusive, core's lock
 *		read what is there, without blocking
 *		record events
 *	let go of both, and of the devices if there was no event
 *	hand over faults, then say that there are events
 *	again, if there were faults: who was answered may have the next one ready
 *
 * The originator of an event goes on as soon as it is read. Since it was also
 * recorded before either lock was let go, whatever it asks for next comes
 * after the event (G3). One reader: two would both wake for each message.
 *
 * The monitor never waits for an ioctl, a device or a lock held by somebody who
 * touches program memory; the receiver of @fault and @events sees to that by
 * handing over what would wait to another thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mm/mm.h"
#include "mm/uapi.h"

#define MONITOR_BATCH 16
#define MONITOR_TURNS 32 /* between two looks at who else calls */

struct monitor {
	struct mm *mm;
	const struct monitor_ops *ops;
	void *ctx;
	struct hmm_thread *thread;
	struct follow follow;
	uint32_t tid; /* whose fault was read last; 0: it was none */
	bool single; /* the next message is likely to be alone */
	uint64_t now; /* ns: when it last turned to what there is to read */
	uint64_t spin; /* ns to look for more before it sleeps */
	uint64_t limit; /* of descriptors, to be set again, or 0 */
	int stop_fd; /* written to: KICK, or STOP */
};

#define KICK 1ull
#define STOP (1ull << 32)

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void event_decode(struct mm_event *event, const struct uffd_msg *msg)
{
	*event = (struct mm_event){ .fd = -1 };
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		event->type = MM_FAULT;
		event->start = page_round_down(msg->arg.pagefault.address);
		event->end = event->start + hmm_page_size();
		event->write = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
		event->protect = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
		event->tid = msg->arg.pagefault.feat.ptid;
		break;
	case UFFD_EVENT_UNMAP:
	case UFFD_EVENT_REMOVE:
		event->type = msg->event == UFFD_EVENT_UNMAP ? MM_UNMAP : MM_REMOVE;
		event->start = msg->arg.remove.start;
		event->end = msg->arg.remove.end;
		break;
	case UFFD_EVENT_REMAP:
		event->type = MM_REMAP;
		event->start = msg->arg.remap.from;
		event->end = msg->arg.remap.from + msg->arg.remap.len;
		event->to = msg->arg.remap.to;
		break;
	case UFFD_EVENT_FORK:
		event->type = MM_FORK;
		event->fd = (int)msg->arg.fork.ufd;
		break;
	}
}

int monitor_read(int fd, struct mm_event *events, int max)
{
	struct uffd_msg msgs[MONITOR_BATCH];
	ssize_t n;
	int i;

	if (max > MONITOR_BATCH)
		max = MONITOR_BATCH;
	/* By number: no thread of ours is ever cancelled, and the C library's read() provides for it. */
	n = syscall(SYS_read, fd, msgs, (size_t)max * sizeof(msgs[0]));
	if (n < 0)
		return -errno;
	n /= (ssize_t)sizeof(msgs[0]);
	for (i = 0; i < n; i++)
		event_decode(&events[i], &msgs[i]);
	return (int)n;
}

/*
 * A fork message comes with a new descriptor. If the process has none left, the
 * message stays and the fork waits: raise the limit until it is read; where that cannot be,
 * give up the spare one and read again.
 */
static void monitor_want_fd(struct monitor *mon)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	if (fd_raise(&mon->limit))
		return;
	if (mon->mm->spare_fd >= 0) {
		hmm_fd_close(mon->mm->spare_fd);
		mon->mm->spare_fd = -1;
		return;
	}
	log_warn("fork waits: the process has no file descriptor left (ulimit -n)");
	nanosleep(&pause, NULL);
}

/*
 * A thread has one fault at a time. As long as they are all of one thread, room for a second
 * message makes the kernel look for it in vain, which is a sixth of the read.
 */
static void monitor_expect(struct monitor *mon, const struct mm_event *events, int n)
{
	uint32_t tid = n == 1 ? events[0].tid : 0; /* 0 if it is no fault */

	mon->single = tid && tid == mon->tid;
	mon->tid = tid;
}

/* True: there may be more to read. */
static bool monitor_turn(struct monitor *mon)
{
	struct mm_event events[MONITOR_BATCH];
	bool recorded = false;
	int i, n;

	mon->ops->hold(mon->ctx);
	pthread_rwlock_wrlock(&mon->mm->gate);
	mon->ops->lock(mon->ctx);
	n = monitor_read(mon->mm->uffd, events, mon->single ? 1 : MONITOR_BATCH);
	for (i = 0; i < n; i++) {
		if (events[i].type == MM_FAULT)
			continue;
		mon->ops->record(mon->ctx, &events[i]);
		mon->mm->heard++;
		recorded = true;
	}
	mon->ops->unlock(mon->ctx);
	fd_restore(&mon->limit);
	pthread_rwlock_unlock(&mon->mm->gate);
	mon->ops->release(mon->ctx);

	for (i = 0; i < n; i++)
		if (events[i].type == MM_FAULT)
			mon->now = mon->ops->fault(mon->ctx, &events[i], mon->now);
	if (recorded) {
		mon->ops->events(mon->ctx);
		mon->now = clock_ns();
	}
	if (n == -EMFILE || n == -ENFILE)
		monitor_want_fd(mon);
	else if (mon->mm->spare_fd < 0)
		mon->mm->spare_fd = hmm_fd_keep(open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (n > 0) {
		monitor_expect(mon, events, n);
		mon->spin = follow_message(&mon->follow, recorded ? 0 : events[0].tid,
					   recorded ? mon->ops->cpu(mon->ctx) : -1);
	}
	return n == MONITOR_BATCH || (n > 0 && !recorded);
}

/* True: to stop. */
static bool monitor_called(struct monitor *mon)
{
	uint64_t calls = 0;

	if (read(mon->stop_fd, &calls, sizeof(calls)) != (ssize_t)sizeof(calls))
		return false;
	if (calls % STOP)
		mon->ops->kicked(mon->ctx);
	return calls >= STOP;
}

/* Until there is something; without sleep if more is to be expected at once. */
static void monitor_wait(struct monitor *mon, struct pollfd *fds)
{
	uint64_t begun;
	int n = 0;

	if (mon->spin) {
		begun = clock_ns();
		do
			n = poll(fds, 2, 0);
		while (!n && clock_ns() - begun < mon->spin);
		mon->spin = 0;
		follow_spun(&mon->follow, n <= 0);
	}
	if (!n && follow_timeout(&mon->follow) >= 0) {
		n = poll(fds, 2, follow_timeout(&mon->follow));
		if (!n)
			follow_rest(&mon->follow);
	}
	if (n <= 0 && poll(fds, 2, -1) < 0 && errno != EINTR)
		log_err("monitor: poll: error %d", errno);
	mon->now = clock_ns();
}

static void *monitor_main(void *arg)
{
	struct monitor *mon = arg;
	struct pollfd fds[2] = {
		{ .fd = mon->mm->uffd, .events = POLLIN },
		{ .fd = mon->stop_fd, .events = POLLIN },
	};

	syscall(SYS_prctl, PR_SET_NAME, "hmm-monitor"); /* a sanitizer would lock, see thread.c */
	for (;;) {
		unsigned int turns = MONITOR_TURNS;

		monitor_wait(mon, fds);
		if (fds[1].revents && monitor_called(mon))
			return NULL;
		while (turns && monitor_turn(mon))
			turns--;
	}
}

int monitor_start(struct monitor **monitor, struct mm *mm, const struct monitor_ops *ops, void *ctx)
{
	struct monitor *mon = hmm_alloc(sizeof(*mon));
	int ret;

	if (!mon)
		return -ENOMEM;
	*mon = (struct monitor){ .mm = mm, .ops = ops, .ctx = ctx };
	follow_init(&mon->follow);
	mon->stop_fd = hmm_fd_keep(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (mon->stop_fd < 0) {
		ret = -errno;
		goto out_free;
	}
	ret = hmm_thread_create(&mon->thread, monitor_main, mon);
	if (ret)
		goto out_close;
	*monitor = mon;
	return 0;

out_close:
	hmm_fd_close(mon->stop_fd);
out_free:
	follow_exit(&mon->follow);
	hmm_free(mon);
	return ret;
}

static void monitor_call(struct monitor *mon, uint64_t what)
{
	while (write(mon->stop_fd, &what, sizeof(what)) < 0 && errno == EINTR)
		;
}

void monitor_kick(struct monitor *mon)
{
	monitor_call(mon, KICK);
}

void monitor_stop(struct monitor *mon)
{
	monitor_call(mon, STOP);
	hmm_thread_join(mon->thread);
	follow_exit(&mon->follow);
	hmm_fd_close(mon->stop_fd);
	hmm_free(mon);
}
