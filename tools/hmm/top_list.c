/* SPDX-License-Identifier: MIT */
/* The programs under `hmm run`, and the lines that tell of them. */
#include <math.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "text.h"
#include "top.h"

void sheet_clear(struct sheet *sheet)
{
	sheet->lines = 0;
}

void sheet_free(struct sheet *sheet)
{
	free(sheet->line);
	*sheet = (struct sheet){ 0 };
}

void sheet_add(struct sheet *sheet, enum line_kind kind, const char *format, ...)
{
	struct line *line;
	va_list args;

	if (sheet->lines == sheet->room) {
		size_t room = sheet->room * 2 + 64;

		line = realloc(sheet->line, room * sizeof(*line));
		if (!line)
			return;
		sheet->line = line;
		sheet->room = room;
	}
	line = &sheet->line[sheet->lines++];
	line->kind = kind;
	va_start(args, format);
	vsnprintf(line->text, sizeof(line->text), format, args);
	va_end(args);
}

/* ---- programs ---- */

static void program_user(struct program *program)
{
	struct passwd *user;
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d", (int)program->w.pid);
	if (stat(path, &st))
		return;
	user = getpwuid(st.st_uid);
	if (user)
		snprintf(program->user, sizeof(program->user), "%s", user->pw_name);
	else
		snprintf(program->user, sizeof(program->user), "%u", (unsigned int)st.st_uid);
}

/* False: it has ended. */
static bool program_look(struct program *program)
{
	uint64_t last = program->at;
	bool restarted;

	program->before = program->now;
	if (watched_read(&program->w, &program->now, &restarted))
		return false;
	program->at = text_now();
	if (program->seen && !restarted) {
		rates_between(&program->rates, &program->before, &program->now,
			      (double)(program->at - last) / 1e9);
	} else {
		rates_between(&program->rates, NULL, &program->now, rates_age(&program->now));
		program_user(program);
	}
	watched_command(program->w.pid, program->command, sizeof(program->command));
	program->seen = true;
	return true;
}

struct program *programs_find(struct programs *programs, pid_t pid)
{
	size_t i;

	for (i = 0; i < programs->n; i++)
		if (programs->list[i].w.pid == pid)
			return &programs->list[i];
	return NULL;
}

void programs_look(struct programs *programs)
{
	struct programs next = { 0 };
	pid_t *pids;
	size_t n = watched_list(&pids), i;

	next.list = calloc(n + 1, sizeof(*next.list));
	for (i = 0; next.list && i < n; i++) {
		struct program *old = programs_find(programs, pids[i]);
		struct program *program = &next.list[next.n];

		if (old) {
			*program = *old;
			old->w.fd = -1;
		} else {
			program->w = (struct watched){ .pid = pids[i], .fd = -1 };
		}
		if (program_look(program))
			next.n++;
		else
			watched_close(&program->w);
	}
	free(pids);
	programs_free(programs);
	*programs = next;
}

void programs_free(struct programs *programs)
{
	size_t i;

	for (i = 0; i < programs->n; i++)
		watched_close(&programs->list[i].w);
	free(programs->list);
	*programs = (struct programs){ 0 };
}

/* ---- lines ---- */

static void list_row(struct sheet *sheet, const struct program *p)
{
	char resident[TEXT_NUMBER], device[TEXT_NUMBER], limit[TEXT_NUMBER], used[TEXT_NUMBER];
	char out[TEXT_NUMBER], back[TEXT_NUMBER], p99[TEXT_NUMBER] = "-";

	if (p->rates.p99 > 0)
		text_time(p99, p->rates.p99);
	sheet_add(sheet, LINE_ROW, "%7d %-8.8s %-8s %-6.6s %7s %8s %9s %7s %8.0f %7s %7s %7s %s",
		  (int)p->w.pid, p->user, watched_state(&p->now), p->now.device,
		  text_size(limit, p->now.limit), text_size(resident, p->now.resident),
		  text_size(device, p->now.on_device), text_size(used, p->now.device_memory),
		  p->rates.faults, text_size(out, (uint64_t)llround(p->rates.out)),
		  text_size(back, (uint64_t)llround(p->rates.back)), p99, p->command);
}

void list_sheet(struct sheet *sheet, const struct programs *programs)
{
	uint64_t resident = 0, device = 0, memory = 0;
	char a[TEXT_NUMBER], b[TEXT_NUMBER], c[TEXT_NUMBER];
	size_t i;

	for (i = 0; i < programs->n; i++) {
		resident += programs->list[i].now.resident;
		device += programs->list[i].now.on_device;
		memory += programs->list[i].now.device_memory;
	}
	sheet_add(sheet, LINE_TEXT,
		  "%zu program%s under hmm run: %s resident, %s on devices, which "
		  "take %s for it",
		  programs->n, programs->n == 1 ? "" : "s", text_size(a, resident),
		  text_size(b, device), text_size(c, memory));
	sheet_add(sheet, LINE_HEAD, "%7s %-8s %-8s %-6s %7s %8s %9s %7s %8s %7s %7s %7s %s", "PID",
		  "USER", "STATE", "DEVICE", "LIMIT", "RESIDENT", "ON-DEVICE", "TAKES", "FAULTS/S",
		  "OUT/S", "BACK/S", "P99", "COMMAND");
	for (i = 0; i < programs->n; i++)
		list_row(sheet, &programs->list[i]);
}
