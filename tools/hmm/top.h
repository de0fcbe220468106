/* SPDX-License-Identifier: MIT */
/*
 * hmm top.
 *
 *	top.c         arguments, and one plain screen
 *	top_list.c    the programs
 *	top_map.c     where the memory of one is
 *	top_space.c   what another process can see of that
 *	top_screen.c  the terminal
 *
 * A screen is made as lines of text first, whichever way it is shown.
 */
#ifndef HMM_TOP_H
#define HMM_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "watch.h"

#define LINE_MAX_ 512

/* A line of %LINE_MAP has its cells from column %MAP_PREFIX on. */
enum line_kind { LINE_TEXT, LINE_HEAD, LINE_ROW, LINE_MAP };

#define MAP_PREFIX 31

struct line {
	enum line_kind kind;
	char text[LINE_MAX_];
};

struct sheet {
	struct line *line;
	size_t lines;
	size_t room;
};

void sheet_clear(struct sheet *sheet);
void sheet_free(struct sheet *sheet);
void sheet_add(struct sheet *sheet, enum line_kind kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * struct program - one that is under `hmm run`
 * @w: how it is watched
 * @now: its counters
 * @before: those of the look before
 * @at: when @now was read; CLOCK_MONOTONIC, ns
 * @seen: there was a look before
 * @rates: between the two, or since it began
 * @user: whose it is
 * @command: its command line
 */
struct program {
	struct watched w;
	struct hmm_run_stats now;
	struct hmm_run_stats before;
	uint64_t at;
	bool seen;
	struct rates rates;
	char user[32];
	char command[256];
};

struct programs {
	struct program *list;
	size_t n;
};

/* Look again: who is there, and what they have done since. */
void programs_look(struct programs *programs);
void programs_free(struct programs *programs);
struct program *programs_find(struct programs *programs, pid_t pid);
/* One row a program, after %LIST_HEAD lines. */
#define LIST_HEAD 2
void list_sheet(struct sheet *sheet, const struct programs *programs);

/**
 * struct map_view - how a map is shown
 * @columns: of the terminal
 * @zoom: 0: a cell is so large that the map fits about a screen; 1: half of that, …
 */
struct map_view {
	unsigned int columns;
	int zoom;
};

void map_sheet(struct sheet *sheet, const struct program *program, const struct map_view *view);

/* ---- top_space.c ---- */

/* [@start, @end), addresses. */
struct extent {
	uint64_t start;
	uint64_t end;
};

struct extents {
	struct extent *list;
	size_t n;
	size_t room;
};

struct area {
	struct extent extent;
	char name[16];
};

/**
 * struct space - the private anonymous memory of a process; all sorted by address
 * @areas: its mappings, neighbours of one name as one
 * @n_areas: how many
 * @resident: what is there
 * @device: what is on the device
 * @device_known: the program tells that
 */
struct space {
	struct area *areas;
	size_t n_areas;
	struct extents resident;
	struct extents device;
	bool device_known;
};

/* 0; a negative errno, and @space is empty. */
int space_read(struct space *space, const struct program *program);
void space_free(struct space *space);

/* ---- top_screen.c ---- */

/* Until the user has had enough: an exit status. @pid: show its map at once; or 0. */
int top_screen(double interval, pid_t pid);

#endif
