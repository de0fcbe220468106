/* SPDX-License-Identifier: MIT */
/*
 * Threads that live in the arena, for drivers and for libhmm itself.
 *
 * A thread that answers faults must not fault: its stack, and with it the
 * thread's descriptor and static TLS, which the C library puts at the stack's
 * end, come from hmm_map(). The guard page below the stack is that of the
 * mapping. No stack is MADV_DONTFORK: the C library of a forked child walks over
 * all of them.
 *
 * All signals are blocked: a handler of the program would touch the program's
 * memory. On a thread of the program they are from before libhmm takes a lock, or begins an op, to
 * after: what a handler touches may be away, and come back only when that lock is free and
 * that op has ended. So each way into libhmm has hmm_signals_block() first: calls of a mirror
 * (mirror_enter()), api_lock(), process_pin(), and locks for which there is no such call
 * (signals_lock()).
 *
 * Who makes a thread waits until it has begun. A fork() right after that would else find it
 * in the C library's, or a sanitizer's, code for new threads, with their locks taken; and the
 * child has the locks, and not the thread. For the same reason libhmm's threads take their
 * names by the system call: fork() waits for the monitor, with a sanitizer's locks taken.
 *
 * What stays outside: the C library's vector of dynamic TLS blocks, which it
 * takes from malloc. So nothing that runs on such a thread may use thread-local
 * variables of the dynamic models.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <hmm/driver.h>

#include "mm/arena.h"

#ifdef HMM_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#if defined(HMM_ASAN) || defined(HMM_TSAN)
#define STACK_SIZE (8ul << 20)
#else
#define STACK_SIZE (256ul << 10)
#endif
#define SLICE_NS 100000
#define STACK_SIZE_MAX (64ul << 20)

#define OWN_THREAD (~0u)

/* hmm_signals_block() so many times; OWN_THREAD stays, or each fork would copy that page too. */
static __thread unsigned int blocked;
static __thread sigset_t unblocked; /* the mask to go back to */

struct hmm_thread {
	pthread_t id;
	void *stack;
	size_t stack_size;
	sem_t started;
	void *(*fn)(void *arg);
	void *arg;
};

/* What a thread does to itself is not put off: the kernel would end the process. */
static void signals_choose(sigset_t *set)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
	unsigned int i;

	sigfillset(set);
	for (i = 0; i < sizeof(own) / sizeof(*own); i++)
		sigdelset(set, own[i]);
}

/* A handler that comes between two of these steps finds all as it was, and leaves it so. */
void hmm_signals_block(void)
{
	sigset_t set, old;

	if (blocked == OWN_THREAD)
		return;
	if (!blocked) {
		signals_choose(&set);
		pthread_sigmask(SIG_BLOCK, &set, &old);
		unblocked = old;
	}
	blocked++;
}

void hmm_signals_unblock(void)
{
	HMM_ASSERT(blocked);
	if (blocked != OWN_THREAD && !--blocked)
		pthread_sigmask(SIG_SETMASK, &unblocked, NULL);
}

/*
 * Runs soon when it is woken, and not for long at a time: a shorter slice, which everybody may
 * ask for. Kernels before 6.12 take no notice.
 */
static void thread_prompt(void)
{
	struct {
		uint32_t size;
		uint32_t policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime;
		uint64_t deadline;
		uint64_t period;
	} attr = { .size = sizeof(attr) };

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) || attr.policy)
		return; /* a policy of the program's choice */
	attr.runtime = SLICE_NS;
	attr.flags = 0;
	syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *thread_main(void *arg)
{
	struct hmm_thread *thread = arg;
	void *(*fn)(void *arg) = thread->fn;

	arg = thread->arg;
	blocked = OWN_THREAD;
	thread_prompt();
	sem_post(&thread->started);
	return fn(arg);
}

/* Return: 0 or a positive errno, as the functions of <pthread.h>. */
static int thread_start(struct hmm_thread *thread)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int ret;

	ret = pthread_attr_init(&attr);
	if (ret)
		return ret;
	ret = pthread_attr_setstack(&attr, thread->stack, thread->stack_size);
	if (ret)
		goto out_attr;
	sigfillset(&all);
	ret = pthread_sigmask(SIG_SETMASK, &all, &old);
	if (ret)
		goto out_attr;
	ret = pthread_create(&thread->id, &attr, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
out_attr:
	pthread_attr_destroy(&attr);
	return ret;
}

int hmm_thread_create(struct hmm_thread **out, void *(*fn)(void *), void *arg)
{
	struct hmm_thread *thread = hmm_alloc(sizeof(*thread));
	int ret = EINVAL;
	size_t size;

	if (!thread)
		return -ENOMEM;
	thread->fn = fn;
	thread->arg = arg;
	sem_init(&thread->started, 0, 0);
	/* EINVAL: the program's static TLS does not leave room. Try with more. */
	for (size = STACK_SIZE; ret == EINVAL && size <= STACK_SIZE_MAX; size *= 2) {
		thread->stack_size = size;
		thread->stack = hmm_map(size);
		if (!thread->stack) {
			ret = ENOMEM;
			break;
		}
		ret = thread_start(thread);
		if (ret)
			hmm_unmap(thread->stack, size);
	}
	if (ret) {
		hmm_free(thread);
		return -ret;
	}
	while (sem_wait(&thread->started) && errno == EINTR)
		;
	*out = thread;
	return 0;
}

void hmm_thread_join(struct hmm_thread *thread)
{
	pthread_join(thread->id, NULL);
	/* A frame that was left by pthread_exit() has not cleaned up behind itself. */
	ASAN_UNPOISON_MEMORY_REGION(thread->stack, thread->stack_size);
	hmm_unmap(thread->stack, thread->stack_size);
	hmm_free(thread);
}
