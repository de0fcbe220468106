/* SPDX-License-Identifier: MIT */
/* Inside the device fault: fault.c has the way through, fault_enter.c its end. */
#ifndef CORE_FAULT_H
#define CORE_FAULT_H

#include "core/core.h"

/*
 * A part of one chunk. In fault->batch:
 *
 *	src	special entries
 *	flags	what the CPU page table says, WALK_*
 *	kind	what the mappings are, FAULT_*
 *	from	the mirror's entries, as found; later those whose DMA mapping ends
 *	dst	the mirror's entries, as they shall be
 */
#define FAULT_ONCE 1 /* sends no events: HMM_PTE_ONCE */
#define FAULT_SHARED 2 /* a write stays in the page that is there */

struct fault {
	struct hmm *hmm;
	struct hmm_mirror_state *ms;
	struct batch *batch;
	struct op op;
	void *cookie;
	bool write;
	bool own; /* a write must stay in the page that is found */
	bool populate; /* something was missing: the kernel is asked for it */
	bool once; /* some of batch->kind is FAULT_ONCE */
	bool away; /* some of batch->src is */
	bool known; /* some of batch->from is */
	unsigned int refused; /* how often the kernel would not populate */
	unsigned long start;
	unsigned long end;
	unsigned int pages;
	unsigned long mapped; /* so far, by all parts */
	int error; /* of dma_map(), for what is not */
};

static inline unsigned long fault_addr(const struct fault *fault, unsigned int i)
{
	return fault->start + ((unsigned long)i << hmm_page_shift());
}

/*
 * The op is active, batch->src and ->from are filled: enter the pages in the mirror's
 * table and tell the driver. 0, or what update() returned, or -ENOMEM.
 */
int fault_enter(struct fault *fault);

#endif
