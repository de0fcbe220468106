/* SPDX-License-Identifier: MIT */
/*
 * Tracing: what libhmm does in this process, and when, in a file for chrome://tracing and
 * https://ui.perfetto.dev. docs/tracing.md has what is in it.
 */
#ifndef HMM_TRACE_H
#define HMM_TRACE_H

#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * hmm_trace_start() - write a trace from now on
 * @path: the file; made if it is not there, emptied if it is
 *
 * Faults, migrations, evictions, events of the address space and what the devices are told
 * of them, each with the thread that did it. A thread of libhmm's writes them out, about
 * every 5 ms; nobody waits for it. If it does not keep up, records are dropped, and the file
 * says how many and when.
 *
 * It ends with hmm_trace_stop() or exit(). Whatever else ends the process, a signal too, leaves
 * a file that is complete but for what the last milliseconds brought. A pipe then lacks its
 * last line, and so does the file of who is killed in the middle of a write; the viewers do
 * without it. A child of fork() does not trace; it may start a
 * trace of its own. exec ends it; see hmm_trace_resume().
 *
 * From the first call on 2 MiB of memory for each CPU, 128 MiB at most, are kept for as long
 * as the process lives; taken from the system as it is used.
 *
 * Return: 0; -EINVAL @path is NULL; -EBUSY there is a trace; -ENAMETOOLONG; -ENOMEM; -EAGAIN
 * no thread; -EDEADLK called from an op; or the negative errno of open(2).
 * Context: any thread, also while others are at work. Not from an op. May wait.
 */
HMM_API int hmm_trace_start(const char *path);

/**
 * hmm_trace_resume() - write a trace behind one that has ended
 * @path: the file; made if it is not there
 *
 * As hmm_trace_start(), but what the file has stays: for who goes on where the same process
 * was before exec, say. That each of two processes writes a file of its own is the caller's
 * business.
 *
 * Return: as hmm_trace_start(); -EINVAL also where the file's content is no trace.
 * Context: as hmm_trace_start().
 */
HMM_API int hmm_trace_resume(const char *path);

/**
 * hmm_trace_stop() - end the trace
 *
 * What was done before the call is in the file when it returns.
 *
 * Return: 0; -EINVAL this process has no trace; -EDEADLK called from an op; or the negative
 * errno of the first write(2) that failed: the file ends there. The trace has ended in any
 * case but those first two.
 * Context: as hmm_trace_start().
 */
HMM_API int hmm_trace_stop(void);

#ifdef __cplusplus
}
#endif

#endif
