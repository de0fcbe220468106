/* SPDX-License-Identifier: MIT */
/*
 * The trace file: Chrome's trace event format, as an array of one event a line.
 *
 * What has a duration is one event ("X"), written when it ends; so nothing is left open, and
 * a record that is dropped leaves no other alone. Times are those of CLOCK_MONOTONIC, in us.
 *
 *	[ event, event, ... event, totals ]
 *	                           └─ each write begins here, and ends with new ones
 *
 * So the file is complete after each write, however the process ends. (One that is killed in the
 * middle of a write, between two pages, leaves it cut off.) Where there is no going
 * back in what is written (a pipe) the totals come at the end alone; the format allows an
 * array without its end.
 *
 * After the first error nothing more is written: the file ends with a whole event, or in one.
 *
 * Context: the writer, which must not touch the program's memory (G6): no malloc, no stdio.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "core/trace_file.h"

#define BUFFER_SIZE 65536u
#define LINE_MAX_BYTES 1024u
#define END_MAX_BYTES 256u
#define PROGRAM_MAX 64 /* of its name */

struct trace_file {
	int fd;
	bool pipe; /* or something else that is written from its beginning to its end */
	off_t at; /* where the totals are, which the next write replaces */
	int error; /* negative */
	int pid;
	uint64_t records;
	uint64_t dropped;
	size_t used;
	char *buffer;
};

enum arg_kind { ARG_NONE, ARG_HEX, ARG_DEC, ARG_WORD };

static const char *const event_words[] = { "fault", "unmap", "remove", "remap", "fork" };
static const char *const why_words[] = { "driver", "cpu", "device", "evict", "home" };
static const char *const etype_words[] = {
	[HMM_NONE] = "none",
	[HMM_DEVICE_RFAULT] = "rfault",
	[HMM_DEVICE_WFAULT] = "wfault",
	[HMM_COPY_TO_DEVICE] = "to device",
	[HMM_COPY_FROM_DEVICE] = "from device",
	[HMM_FORK] = "fork",
	[HMM_ISDIRTY] = "isdirty",
	[HMM_MIGRATE] = "migrate",
	[HMM_MUNMAP] = "munmap",
	[HMM_WRITE_PROTECT] = "write protect",
	[HMM_DEVICE_EXCLUSIVE] = "exclusive",
};

#define WORDS(list) list, sizeof(list) / sizeof((list)[0])
#define HEX(n)                      \
	{                           \
		n, ARG_HEX, NULL, 0 \
	}
#define DEC(n)                      \
	{                           \
		n, ARG_DEC, NULL, 0 \
	}
#define WORD(n, list)                    \
	{                                \
		n, ARG_WORD, WORDS(list) \
	}

/* @instant: has no duration. The word of the first argument that is one is in the name too. */
static const struct point {
	const char *name;
	bool instant;
	struct {
		const char *name;
		enum arg_kind kind;
		const char *const *words;
		unsigned int n;
	} arg[TRACE_ARGS];
} points[TRACE_POINTS] = {
	[TRACE_CPU_FAULT_READ] = { "cpu fault read", true, { HEX("address"), DEC("write") } },
	[TRACE_CPU_FAULT_DEFERRED] = { "cpu fault deferred", true, { HEX("address") } },
	[TRACE_CPU_FAULT] = { "cpu fault",
			      false,
			      { HEX("address"), DEC("pages"), DEC("waited_ns"), DEC("error") } },
	[TRACE_DEVICE_FAULT] = { "device fault",
				 false,
				 { HEX("start"), HEX("end"), DEC("write"), DEC("pages"),
				   DEC("error") } },
	[TRACE_TO_DEVICE] = { "to device",
			      false,
			      { HEX("start"), HEX("end"), DEC("exclusive"), DEC("pages"),
				DEC("refused"), DEC("error") } },
	[TRACE_MOVED] = { "moved", true, { HEX("start"), HEX("end"), DEC("pages") } },
	[TRACE_EVICT] = { "evict", true, { HEX("start"), HEX("end"), DEC("wanted") } },
	[TRACE_EXCLUSIVE] = { "exclusive",
			      false,
			      { HEX("start"), HEX("end"), DEC("pages"), DEC("error") } },
	[TRACE_FROM_DEVICE] = { "from device",
				false,
				{ HEX("start"), HEX("end"), WORD("why", why_words), DEC("pages"),
				  DEC("error") } },
	[TRACE_POISON] = { "poison", true, { HEX("address") } },
	[TRACE_EVENT_READ] = { "event read",
			       true,
			       { WORD("type", event_words), HEX("start"), HEX("end"), HEX("to") } },
	[TRACE_EVENT] = { "event",
			  false,
			  { WORD("type", event_words), HEX("start"), HEX("end"), HEX("to") } },
	[TRACE_UPDATE] = { "update",
			   false,
			   { WORD("etype", etype_words), HEX("start"), HEX("end"), DEC("error") } },
	[TRACE_COPY] = { "copy",
			 false,
			 { WORD("etype", etype_words), HEX("start"), HEX("end"), DEC("error") } },
	[TRACE_FORK] = { "fork", false, { { NULL, ARG_NONE, NULL, 0 } } },
	[TRACE_THREAD] = { "thread", true, { { NULL, ARG_NONE, NULL, 0 } } },
};

/* A part of an event, which has LINE_MAX_BYTES in all. */
__attribute__((format(printf, 2, 3))) static void put(struct trace_file *file, const char *fmt, ...)
{
	size_t room = BUFFER_SIZE - file->used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(file->buffer + file->used, room, fmt, ap);
	va_end(ap);
	HMM_ASSERT(n >= 0 && (size_t)n < room);
	file->used += (size_t)n;
}

/* The only event with no comma behind it. */
static void put_end(struct trace_file *file)
{
	put(file,
	    "{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"hmm_trace\","
	    "\"args\":{\"records\":%llu,\"dropped\":%llu}}\n]\n",
	    file->pid, file->pid, (unsigned long long)file->records,
	    (unsigned long long)file->dropped);
}

void trace_file_flush(struct trace_file *file)
{
	size_t events = file->used, done = 0;

	if (events && !file->pipe)
		put_end(file);
	while (done < file->used && !file->error) {
		const char *from = file->buffer + done;
		size_t len = file->used - done;
		ssize_t n = file->pipe ? write(file->fd, from, len) :
					 pwrite(file->fd, from, len, file->at + (off_t)done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno != EINTR)
			file->error = -errno;
	}
	file->at += (off_t)events;
	file->used = 0;
}

/* Somebody else's text, without what would need an escape. */
static void put_text(struct trace_file *file, const char *text, size_t max)
{
	size_t i;

	for (i = 0; i < max && text[i]; i++) {
		bool plain = text[i] >= ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\';

		file->buffer[file->used++] = plain ? text[i] : '?';
	}
}

static void event_begin(struct trace_file *file, const char *phase, int tid)
{
	if (BUFFER_SIZE - file->used < LINE_MAX_BYTES + END_MAX_BYTES)
		trace_file_flush(file);
	put(file, "{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d", phase, file->pid, tid);
}

static void event_end(struct trace_file *file)
{
	put(file, "},\n");
}

static void put_us(struct trace_file *file, const char *key, uint64_t ns)
{
	put(file, ",\"%s\":%llu.%03u", key, (unsigned long long)(ns / 1000),
	    (unsigned int)(ns % 1000));
}

static void put_name(struct trace_file *file, const char *what, int tid, const char *name,
		     size_t max)
{
	event_begin(file, "M", tid);
	put(file, ",\"name\":\"%s\",\"args\":{\"name\":\"", what);
	put_text(file, name, max);
	put(file, "\"}");
	event_end(file);
}

/* ---- records ---- */

static const char *word(const struct point *point, unsigned int i, uint64_t value)
{
	return value < point->arg[i].n ? point->arg[i].words[value] : "unknown";
}

static void put_title(struct trace_file *file, const struct trace_record *record)
{
	const struct point *point = &points[record->point];
	unsigned int i;

	for (i = 0; i < TRACE_ARGS; i++)
		if (point->arg[i].kind == ARG_WORD)
			break;
	put(file, ",\"cat\":\"hmm\",\"name\":\"%s%s%s\"", point->name, i < TRACE_ARGS ? " " : "",
	    i < TRACE_ARGS ? word(point, i, record->arg[i]) : "");
}

static void put_arg(struct trace_file *file, const struct point *point, unsigned int i,
		    uint64_t value)
{
	const char *name = point->arg[i].name;

	switch (point->arg[i].kind) {
	case ARG_NONE:
		break;
	case ARG_HEX:
		put(file, "\"%s\":\"0x%llx\",", name, (unsigned long long)value);
		break;
	case ARG_DEC:
		put(file, "\"%s\":%lld,", name, (long long)value);
		break;
	case ARG_WORD:
		put(file, "\"%s\":\"%s\",", name, word(point, i, value));
		break;
	}
}

static void put_args(struct trace_file *file, const struct trace_record *record)
{
	unsigned int i;

	put(file, ",\"args\":{");
	for (i = 0; i < TRACE_ARGS; i++)
		put_arg(file, &points[record->point], i, record->arg[i]);
	if (record->device[0]) {
		put(file, "\"device\":\"");
		put_text(file, record->device, sizeof(record->device));
		put(file, "\",");
	}
	if (file->buffer[file->used - 1] == ',')
		file->used--;
	put(file, "}");
}

void trace_file_record(struct trace_file *file, const struct trace_record *record)
{
	bool instant = points[record->point].instant;

	if (record->point == TRACE_THREAD) {
		put_name(file, "thread_name", record->tid, record->device, sizeof(record->device));
		return;
	}
	event_begin(file, instant ? "i" : "X", record->tid);
	put_us(file, "ts", record->begun);
	if (instant)
		put(file, ",\"s\":\"t\"");
	else
		put_us(file, "dur", record->ended - record->begun);
	put_title(file, record);
	put_args(file, record);
	event_end(file);
	file->records++;
}

void trace_file_dropped(struct trace_file *file, uint64_t dropped)
{
	event_begin(file, "i", file->pid);
	put_us(file, "ts", now_ns());
	put(file, ",\"s\":\"g\",\"cat\":\"hmm\",\"name\":\"dropped\",\"args\":{\"records\":%llu}",
	    (unsigned long long)dropped);
	event_end(file);
	file->dropped += dropped;
}

/* ---- the file ---- */

/*
 * Behind what a trace left there. That may lack its end, where its process was killed in the
 * middle of a write.
 */
static int behind_last(struct trace_file *file)
{
	static const char end[] = "}\n]\n", comma[] = "},\n";
	off_t size = lseek(file->fd, 0, SEEK_END), from;
	const char *at = NULL, *next;
	ssize_t n;

	if (size <= 0)
		return 0;
	from = size < (off_t)BUFFER_SIZE / 2 ? 0 : size - (off_t)BUFFER_SIZE / 2;
	n = pread(file->fd, file->buffer, (size_t)(size - from), from);
	if (n < 0)
		return -errno;
	if (n >= 4 && !memcmp(file->buffer + n - 4, end, 4)) {
		file->at = from + n - 3;
		put(file, ",\n");
		return 0;
	}
	next = file->buffer;
	while ((next = memmem(next, (size_t)(file->buffer + n - next), comma, 3)))
		at = next += 3;
	if (!at)
		return -EINVAL;
	file->at = from + (at - file->buffer);
	return ftruncate(file->fd, file->at) ? -errno : 0;
}

int trace_file_open(struct trace_file **out, int fd, bool resume)
{
	struct trace_file *file = hmm_alloc(sizeof(*file));
	int ret = 0;

	if (!file)
		return -ENOMEM;
	memset(file, 0, sizeof(*file));
	file->buffer = hmm_map(BUFFER_SIZE);
	if (!file->buffer) {
		hmm_free(file);
		return -ENOMEM;
	}
	file->fd = fd;
	file->pid = getpid();
	file->pipe = lseek(fd, 0, SEEK_CUR) < 0;
	if (resume && !file->pipe)
		ret = behind_last(file);
	if (ret) {
		trace_file_free(file);
		return ret;
	}
	if (!file->at)
		put(file, "[\n");
	put_name(file, "process_name", file->pid, program_invocation_short_name, PROGRAM_MAX);
	trace_file_flush(file);
	*out = file;
	return 0;
}

int trace_file_finish(struct trace_file *file)
{
	trace_file_flush(file);
	if (file->pipe)
		put_end(file);
	trace_file_flush(file);
	return file->error;
}

int trace_file_free(struct trace_file *file)
{
	int fd = file->fd;

	hmm_unmap(file->buffer, BUFFER_SIZE);
	hmm_free(file);
	return fd;
}
