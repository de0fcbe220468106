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
 * memory.
 *
 * What stays outside: the C library's vector of dynamic TLS blocks, which it
 * takes from malloc. So nothing that runs on such a thread may use thread-local
 * variables of the dynamic models.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>

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
#define STACK_SIZE_MAX (64ul << 20)

struct hmm_thread {
	pthread_t id;
	void *stack;
	size_t stack_size;
};

/* Return: 0 or a positive errno, as the functions of <pthread.h>. */
static int thread_start(struct hmm_thread *thread, void *(*fn)(void *), void *arg)
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
	ret = pthread_create(&thread->id, &attr, fn, arg);
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
	/* EINVAL: the program's static TLS does not leave room. Try with more. */
	for (size = STACK_SIZE; ret == EINVAL && size <= STACK_SIZE_MAX; size *= 2) {
		thread->stack_size = size;
		thread->stack = hmm_map(size);
		if (!thread->stack) {
			ret = ENOMEM;
			break;
		}
		ret = thread_start(thread, fn, arg);
		if (ret)
			hmm_unmap(thread->stack, size);
	}
	if (ret) {
		hmm_free(thread);
		return -ret;
	}
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
