/* SPDX-License-Identifier: MIT */
/* From the rings (trace.c) to the file (trace_json.c). */
#ifndef CORE_TRACE_FILE_H
#define CORE_TRACE_FILE_H

#include "core/trace.h"

struct trace_record {
	uint64_t seq; /* atomic: its position in the ring, from 1, once it is complete */
	uint64_t begun; /* ns */
	uint64_t ended; /* ns; an instant has both the same */
	uint32_t trace; /* trace_on, as its writer saw it */
	int32_t tid;
	uint32_t point;
	uint64_t arg[TRACE_ARGS];
	char device[TRACE_DEVICE];
};

struct trace_file;
/* @resume: behind what an earlier trace left there. -EINVAL: that is none. */
int trace_file_open(struct trace_file **file, int fd, bool resume);
void trace_file_record(struct trace_file *file, const struct trace_record *record);
/* So many were dropped since the last time. */
void trace_file_dropped(struct trace_file *file, uint64_t dropped);
void trace_file_flush(struct trace_file *file);
/* The last line: 0, or the first error there was. */
int trace_file_finish(struct trace_file *file);
/* The descriptor is the caller's again. */
int trace_file_free(struct trace_file *file);

/* For tests: a ring is full with so many; no more than it has room for. */
extern uint64_t trace_room;

#endif
