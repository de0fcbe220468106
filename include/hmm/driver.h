/* SPDX-License-Identifier: MIT */
/*
 * What a driver needs besides: memory that is never migrated, and threads that
 * live in it.
 */
#ifndef HMM_DRIVER_H
#define HMM_DRIVER_H

#include <pthread.h>

#include <hmm/devmem.h>
#include <hmm/mirror.h>

#ifdef __cplusplus
extern "C" {
#endif

#define hmm_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/**
 * hmm_alloc() - zeroed memory from the arena, never migrated
 * @bytes: size
 *
 * What an op of a driver touches must come from here or from hmm_map(): memory
 * from malloc() may be away, and only libhmm, which waits for the op, could
 * bring it back.
 *
 * Return: memory aligned to 16 bytes (to 64 from 64 bytes on), or NULL.
 * Context: any, ops included. Never takes a lock that is held across an op.
 */
HMM_API void *hmm_alloc(size_t bytes);

/** hmm_free() - give back what hmm_alloc() returned; NULL is fine */
HMM_API void hmm_free(void *ptr);

/**
 * hmm_map() - zeroed pages that are never migrated, for large buffers
 * @bytes: size, rounded up to pages; a size of 2 MiB or more is aligned to it
 *
 * Memory is taken from the system as it is touched.
 * Return: the mapping, between guard pages, or NULL.
 * Context: any thread.
 */
HMM_API void *hmm_map(size_t bytes);

/** hmm_unmap() - give back what hmm_map() returned for @bytes */
HMM_API void hmm_unmap(void *ptr, size_t bytes);

/**
 * hmm_thread_create() - a thread for a driver
 * @thread: out
 * @fn: function
 * @arg: its argument
 *
 * Like pthread_create(), but the stack comes from the arena and all signals are
 * blocked. Join it with hmm_thread_join(), which frees the stack.
 *
 * Return: 0 or negative errno.
 */
struct hmm_thread;
HMM_API int hmm_thread_create(struct hmm_thread **thread, void *(*fn)(void *), void *arg);
HMM_API void hmm_thread_join(struct hmm_thread *thread);

/**
 * hmm_signals_block() - no handler runs on this thread until hmm_signals_unblock()
 *
 * A handler of the program may touch memory that is away, and so wait for an op of a driver. It
 * must not have interrupted the thread for which that op waits: who holds a lock that some op
 * of his takes (or free() of his memory), has signals blocked. In an op, and in all of libhmm's
 * functions, they are; hmm_thread_create()'s threads have them blocked anyway, and pay nothing
 * here. SIGSEGV and the others that a thread brings upon itself are not blocked.
 *
 * Pairs nest, within one thread. What comes meanwhile is delivered at the end of the outermost.
 *
 * Context: any thread.
 */
HMM_API void hmm_signals_block(void);
HMM_API void hmm_signals_unblock(void);

/**
 * hmm_fd_keep() - a descriptor that the program shall not close
 * @fd: an open descriptor, or negative
 *
 * For one that is kept open. It gets a high number, out of the way of a program that counts on
 * those of its own, and libhmm's close(), close_range(), closefrom(), dup2() and dup3() do as if
 * it were not there. It is closed on exec.
 *
 * Return: its number from now on, @fd being closed; @fd if it is negative.
 * Context: any.
 */
HMM_API int hmm_fd_keep(int fd);

/** hmm_fd_close() - close what hmm_fd_keep() returned; negative is fine */
HMM_API void hmm_fd_close(int fd);

#ifdef __cplusplus
}
#endif

#endif
