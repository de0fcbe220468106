/* SPDX-License-Identifier: MIT */
/*
 * What Linux's test_hmm and gup_test drivers understand: numbers and layout, written anew
 * from the documented interface. The test programs are built with the kernel's own headers,
 * so a mistake here shows at once.
 */
#ifndef CONFORMANCE_UAPI_H
#define CONFORMANCE_UAPI_H

#include <stdint.h>
#include <sys/ioctl.h>

/**
 * struct dmirror_cmd - argument of every command of /dev/hmm_dmirrorN
 * @addr: in: what the device shall work on; page-aligned
 * @ptr: in: where the program has, or wants, the data, or a snapshot's one byte a page
 * @npages: in: pages; of DMIRROR_FLAGS: the flags
 * @cpages: out: pages that were copied or moved
 * @faults: out: how often the device had to fault
 */
struct dmirror_cmd {
	uint64_t addr;
	uint64_t ptr;
	uint64_t npages;
	uint64_t cpages;
	uint64_t faults;
};

#define DMIRROR_READ _IOWR('H', 0, struct dmirror_cmd)
#define DMIRROR_WRITE _IOWR('H', 1, struct dmirror_cmd)
#define DMIRROR_MIGRATE_TO_DEV _IOWR('H', 2, struct dmirror_cmd)
#define DMIRROR_MIGRATE_TO_SYS _IOWR('H', 3, struct dmirror_cmd)
#define DMIRROR_SNAPSHOT _IOWR('H', 4, struct dmirror_cmd)
#define DMIRROR_EXCLUSIVE _IOWR('H', 5, struct dmirror_cmd)
#define DMIRROR_CHECK_EXCLUSIVE _IOWR('H', 6, struct dmirror_cmd)
#define DMIRROR_RELEASE _IOWR('H', 7, struct dmirror_cmd)
#define DMIRROR_FLAGS _IOWR('H', 8, struct dmirror_cmd)

/* DMIRROR_FLAGS: the next run of 2 MiB of device memory is not to be had. */
#define DMIRROR_FLAG_FAIL_ALLOC 1u

/* What a snapshot says of a page. */
enum {
	DMIRROR_PROT_NONE = 0x00, /* nothing there, or not for this device */
	DMIRROR_PROT_READ = 0x01,
	DMIRROR_PROT_WRITE = 0x02,
	DMIRROR_PROT_PMD = 0x04, /* with one of the two: part of a huge page */
	DMIRROR_PROT_ZERO = 0x10, /* the same: the zero page */
	DMIRROR_PROT_LOCAL = 0x20, /* the same: in this device's memory */
	DMIRROR_PROT_ERROR = 0xff, /* not mapped, or not readable */
};

/**
 * struct gup_test - argument of every command of gup_test
 * @get_delta_usec: out: how long it took to get the pages
 * @put_delta_usec: out: and to give them back
 * @addr: in: first address
 * @size: in: bytes; out: of how many bytes pages were got
 * @nr_pages_per_call: in: pages to get at once
 * @gup_flags: in: the kernel's FOLL_*
 * @test_flags: in: not of the commands below
 * @which_pages: the same
 */
struct gup_test {
	uint64_t get_delta_usec;
	uint64_t put_delta_usec;
	uint64_t addr;
	uint64_t size;
	uint32_t nr_pages_per_call;
	uint32_t gup_flags;
	uint32_t test_flags;
	uint32_t which_pages[8];
};

#define GUP_FAST_BENCHMARK _IOWR('g', 1, struct gup_test)
#define PIN_FAST_BENCHMARK _IOWR('g', 2, struct gup_test)
#define PIN_LONGTERM_BENCHMARK _IOWR('g', 3, struct gup_test)
#define GUP_BASIC_TEST _IOWR('g', 4, struct gup_test)
#define PIN_BASIC_TEST _IOWR('g', 5, struct gup_test)

#define GUP_FOLL_WRITE 0x1u

#endif
