/* SPDX-License-Identifier: MIT */
/*
 * The gate: who wants a page of memory to grow may have to wait.
 *
 * For a program that keeps its resident memory below a limit. Memory grows by CPU faults:
 * of pages that were never touched, and of pages that come home from a device. libhmm
 * answers the second kind anyway, and the first where the memory is gated. Before it does
 * it asks the gate; a thread that is not let through waits in its page fault, as for a
 * page that is slow to come.
 */
#ifndef HMM_GATE_H
#define HMM_GATE_H

#include <hmm/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct hmm_gate - who is asked
 * @size: sizeof(struct hmm_gate), as the caller was compiled
 * @admit: may so many @pages come, for a fault of thread @tid that has waited for
 *	@waited_ns? How many may: those, or 1 if there is room for that much only, or 0: not
 *	now; then it is asked again after hmm_gate_retry(), and every 20 ms. The thread that
 *	makes room may fault as well, and must be let through. @tid is 0 where the kernel
 *	does not tell
 *	Context: a lock is held under which every CPU fault is dealt with. Computes and
 *	returns; the rules for the ops of a device hold (device.h).
 * @cookie: handed to @admit
 */
struct hmm_gate {
	uint32_t size;
	unsigned long (*admit)(void *cookie, unsigned long pages, uint32_t tid, uint64_t waited_ns);
	void *cookie;
};

/**
 * hmm_gate_set() - ask this gate from now on
 * @gate: copied; NULL: none, and who waits goes on
 *
 * A child made by fork() has none.
 *
 * Return: 0; -EINVAL @gate is malformed; -EDEADLK called from an op; where it is the first use
 * of libhmm in the process, also what hmm_mirror_register() returns.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_gate_set(const struct hmm_gate *gate);

/**
 * hmm_gate_watch() - gate what memory of a range there is
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 *
 * All that hmm_migrate_vma() would move, and what allocators keep in reserve (PROT_NONE): the
 * first touch of a page there is answered by libhmm from now on, until neither a gate nor a
 * device is left. Mappings that are made later are not gated. What is already costs a look, so it can be called again and again.
 *
 * Return: 0; -EINVAL; -ENODEV no gate is set and no device in use; -ENOMEM no memory, or
 * too many mappings; -EDEADLK called from an op.
 * Context: any thread, not from an op.
 */
HMM_API int hmm_gate_watch(unsigned long start, unsigned long end);

/**
 * hmm_gate_watch_new() - the same for what was just mapped, or made accessible
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 *
 * For who knows of each new mapping before the program does: much cheaper, and it takes none
 * of the locks that a call of mmap() may be made under (malloc's, the dynamic linker's). There
 * must not be anything in the range yet that must not wait: stacks, or what a device uses.
 *
 * Return: as hmm_gate_watch().
 * Context: any thread, not from an op, nor from a signal handler that interrupts libhmm.
 */
HMM_API int hmm_gate_watch_new(unsigned long start, unsigned long end);

/**
 * hmm_gate_retry() - there is room again: ask for those that wait
 *
 * Context: any thread, not from an op.
 */
HMM_API void hmm_gate_retry(void);

#ifdef __cplusplus
}
#endif

#endif
