/* SPDX-License-Identifier: MIT */
/*
 * A trace file, read again: is it JSON, and what does it say? One event a line, as it is
 * written; what one has is found by name in its line.
 */
#ifndef TESTS_TRACE_READ_H
#define TESTS_TRACE_READ_H

#include "test_util.h"

struct event {
	const char *line;
	char phase; /* 'X', 'i', 'M' */
	char name[64];
	int pid;
	int tid;
	uint64_t begun; /* ns */
	uint64_t ended;
};

struct trace {
	char *text;
	struct event *event;
	size_t n;
};

/* ---- JSON: the value at @p; what is behind it, or NULL ---- */

static const char *json_value(const char *p);

static const char *json_space(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

static const char *json_string(const char *p)
{
	for (p++; *p && *p != '"'; p++) {
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			return NULL;
		if (*p == '\\' && !strchr("\"\\/bfnrt", *++p))
			return NULL;
	}
	return *p ? p + 1 : NULL;
}

static const char *json_number(const char *p)
{
	size_t n;

	p += *p == '-';
	n = strspn(p, "0123456789");
	if (!n || (n > 1 && *p == '0'))
		return NULL;
	p += n;
	if (*p == '.') {
		n = strspn(++p, "0123456789");
		p = n ? p + n : NULL;
	}
	return p;
}

static const char *json_list(const char *p, char close, bool keys)
{
	p = json_space(p + 1);
	if (*p == close)
		return p + 1;
	for (;;) {
		if (keys) {
			p = *p == '"' ? json_string(p) : NULL;
			p = p ? json_space(p) : NULL;
			if (!p || *p++ != ':')
				return NULL;
		}
		p = json_value(json_space(p));
		p = p ? json_space(p) : NULL;
		if (p && *p == close)
			return p + 1;
		if (!p || *p != ',')
			return NULL;
		p = json_space(p + 1);
	}
}

static const char *json_value(const char *p)
{
	switch (*p) {
	case '{':
		return json_list(p, '}', true);
	case '[':
		return json_list(p, ']', false);
	case '"':
		return json_string(p);
	default:
		return json_number(p);
	}
}

UNUSED static bool json_valid(const char *text)
{
	const char *end = json_value(json_space(text));

	return end && !*json_space(end);
}

/* ---- events ---- */

/* What stands behind "key": in the line. */
static const char *event_find(const struct event *event, const char *key)
{
	const char *end = strchrnul(event->line, '\n'), *at;
	char quoted[64];

	snprintf(quoted, sizeof(quoted), "\"%s\":", key);
	at = strstr(event->line, quoted);
	return at && at < end ? at + strlen(quoted) : NULL;
}

UNUSED static bool event_has(const struct event *event, const char *key)
{
	return event_find(event, key);
}

/* A number, or an address, which is text. */
UNUSED static long long event_value(const struct event *event, const char *key)
{
	const char *at = event_find(event, key);

	if (!at)
		fail_msg("no %s in: %.*s", key, (int)strcspn(event->line, "\n"), event->line);
	return strtoll(at + (*at == '"'), NULL, 0);
}

UNUSED static void event_text(const struct event *event, const char *key, char *text, size_t size)
{
	const char *at = event_find(event, key);

	if (!at || *at != '"')
		fail_msg("no text %s in: %.*s", key, (int)strcspn(event->line, "\n"), event->line);
	snprintf(text, size, "%.*s", (int)strcspn(at + 1, "\""), at + 1);
}

/* Microseconds with three decimals. */
static uint64_t event_ns(const struct event *event, const char *key)
{
	const char *at = event_find(event, key);
	unsigned long long us, ns;

	if (!at || sscanf(at, "%llu.%3llu", &us, &ns) != 2)
		fail_msg("no time %s in: %.*s", key, (int)strcspn(event->line, "\n"), event->line);
	return us * 1000 + ns;
}

static void event_read(struct event *event, const char *line)
{
	char phase[8];

	*event = (struct event){ .line = line };
	event_text(event, "ph", phase, sizeof(phase));
	event->phase = phase[0];
	event_text(event, "name", event->name, sizeof(event->name));
	event->pid = (int)event_value(event, "pid");
	event->tid = (int)event_value(event, "tid");
	if (event->phase == 'M')
		return;
	event->begun = event->ended = event_ns(event, "ts");
	if (event->phase == 'X')
		event->ended += event_ns(event, "dur");
	else if (event->phase != 'i' || !event_has(event, "s"))
		fail_msg("what is this? %.*s", (int)strcspn(line, "\n"), line);
}

UNUSED static char *file_read(const char *path)
{
	FILE *in = fopen(path, "re");
	size_t size = 0, used = 0, n;
	char *text = NULL;

	assert_non_null(in);
	do {
		if (size - used < 65536)
			text = realloc(text, size += 1 << 20);
		assert_non_null(text);
		n = fread(text + used, 1, size - used - 1, in);
		used += n;
	} while (n);
	text[used] = 0;
	fclose(in);
	return text;
}

/* @whole: it must have its end; else it is given one. */
UNUSED static void trace_read(struct trace *trace, const char *path, bool whole)
{
	char *text = file_read(path), *p;
	size_t len = strlen(text);

	if (!whole && len >= 2 && !strcmp(text + len - 2, ",\n"))
		strcpy(text + len - 2, "]");
	else if (!whole && len >= 2 && !strcmp(text, "[\n"))
		strcpy(text, "[]");
	if (!json_valid(text))
		fail_msg("%s is no JSON", path);
	*trace = (struct trace){ .text = text };
	for (p = text; (p = strstr(p, "\n{")); p++) {
		if (trace->n % 4096 == 0)
			trace->event =
				realloc(trace->event, (trace->n + 4096) * sizeof(*trace->event));
		assert_non_null(trace->event);
		event_read(&trace->event[trace->n++], p + 1);
	}
}

UNUSED static void trace_free(struct trace *trace)
{
	free(trace->event);
	free(trace->text);
}

UNUSED static size_t trace_count(const struct trace *trace, char phase, const char *name)
{
	size_t i, n = 0;

	for (i = 0; i < trace->n; i++)
		n += trace->event[i].phase == phase && !strcmp(trace->event[i].name, name);
	return n;
}

/* Of all whose name begins so. */
UNUSED static long long trace_sum(const struct trace *trace, const char *name, const char *key)
{
	long long sum = 0;
	size_t i;

	for (i = 0; i < trace->n; i++)
		if (trace->event[i].phase != 'M' &&
		    !strncmp(trace->event[i].name, name, strlen(name)))
			sum += event_value(&trace->event[i], key);
	return sum;
}

/* The totals, which are at the end. */
UNUSED static long long trace_total(const struct trace *trace, const char *key)
{
	assert_true(trace->n > 0);
	assert_string_equal(trace->event[trace->n - 1].name, "hmm_trace");
	return event_value(&trace->event[trace->n - 1], key);
}

static int event_order(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	if (x->tid != y->tid)
		return x->tid < y->tid ? -1 : 1;
	if (x->begun != y->begun)
		return x->begun < y->begun ? -1 : 1;
	return x->ended > y->ended ? -1 : x->ended < y->ended;
}

/* On each thread, of two spans one is in the other, or one is over before the other begins. */
UNUSED static void trace_check_nesting(const struct trace *trace)
{
	struct event *sorted = malloc((trace->n + 1) * sizeof(*sorted));
	const struct event *open[64];
	size_t i, depth = 0;

	assert_non_null(sorted);
	for (i = 0; i < trace->n; i++)
		sorted[i] = trace->event[i];
	qsort(sorted, trace->n, sizeof(*sorted), event_order);
	for (i = 0; i < trace->n; i++) {
		const struct event *event = &sorted[i];

		if (event->phase != 'X')
			continue;
		while (depth && (open[depth - 1]->tid != event->tid ||
				 open[depth - 1]->ended <= event->begun))
			depth--;
		if (depth && event->ended > open[depth - 1]->ended)
			fail_msg("\"%s\" begins in \"%s\" and ends after it", event->name,
				 open[depth - 1]->name);
		assert_true(depth < 64);
		open[depth++] = event;
	}
	free(sorted);
}

/* Everything there is said once, and that is all. */
UNUSED static void trace_check(const struct trace *trace)
{
	long long records = trace_total(trace, "records"), dropped = trace_total(trace, "dropped");
	size_t i, n = 0;

	for (i = 0; i < trace->n; i++) {
		assert_int_equal(trace->event[i].pid, trace->event[0].pid);
		n += trace->event[i].phase != 'M' && strcmp(trace->event[i].name, "dropped") != 0;
	}
	assert_int_equal(n, records);
	assert_int_equal(trace_sum(trace, "dropped", "records"), dropped);
	trace_check_nesting(trace);
}

#endif
