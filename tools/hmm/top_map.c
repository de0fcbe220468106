/* SPDX-License-Identifier: MIT */
/*
 * The map of a program's memory, in rows of cells of one size. A row that has nothing in it
 * is left out, so that a terabyte that is only reserved takes no line.
 */
#include <errno.h>
#include <string.h>

#include "text.h"
#include "top.h"

#define CELLS_MIN 16u
#define CELLS_MAX 256u
#define CELL_MIN 12 /* log2, a page */
#define CELL_MAX 40
#define ROWS_AIM 16 /* rows that a map is to have, about */

/* A place in a list of extents, which are taken in order. */
struct cursor {
	const struct extents *extents;
	size_t at;
};

struct rows {
	unsigned int cells; /* a power of 2 */
	unsigned int shift; /* log2 of a cell's bytes */
	struct cursor resident;
	struct cursor device;
	unsigned int empty; /* areas in which nothing is */
	uint64_t empty_bytes;
	unsigned int small; /* areas of less than a cell, of which the same */
	uint64_t small_resident;
	uint64_t small_device;
};

static uint64_t extents_bytes(const struct extents *extents)
{
	uint64_t bytes = 0;
	size_t i;

	for (i = 0; i < extents->n; i++)
		bytes += extents->list[i].end - extents->list[i].start;
	return bytes;
}

static void rows_size(struct rows *rows, const struct space *space, const struct map_view *view)
{
	uint64_t bytes = extents_bytes(&space->resident) + extents_bytes(&space->device);
	int shift = CELL_MIN + 4;

	rows->cells = CELLS_MIN;
	while (rows->cells < CELLS_MAX && rows->cells * 2 + MAP_PREFIX <= view->columns)
		rows->cells *= 2;
	while (shift < CELL_MAX && bytes >> shift > (uint64_t)rows->cells * ROWS_AIM)
		shift++;
	shift -= view->zoom;
	rows->shift = (unsigned int)(shift < CELL_MIN ? CELL_MIN :
				     shift > CELL_MAX ? CELL_MAX :
							shift);
}

/* Where the next extent that ends after @addr begins; or UINT64_MAX. */
static uint64_t cursor_next(struct cursor *cursor, uint64_t addr)
{
	while (cursor->at < cursor->extents->n && cursor->extents->list[cursor->at].end <= addr)
		cursor->at++;
	if (cursor->at == cursor->extents->n)
		return UINT64_MAX;
	return cursor->extents->list[cursor->at].start;
}

/* How many bytes of each cell of the row at @start are in the extents, and in the area. */
static void cursor_fill(const struct cursor *cursor, const struct rows *rows,
			const struct extent *area, uint64_t start, uint64_t *fill)
{
	uint64_t end = start + ((uint64_t)rows->cells << rows->shift);
	size_t i;

	memset(fill, 0, rows->cells * sizeof(*fill));
	end = end < area->end ? end : area->end;
	for (i = cursor->at; i < cursor->extents->n && cursor->extents->list[i].start < end; i++) {
		const struct extent *extent = &cursor->extents->list[i];
		uint64_t at = extent->start > start ? extent->start : start;

		at = at > area->start ? at : area->start;
		while (at < extent->end && at < end) {
			uint64_t cell = (at - start) >> rows->shift;
			uint64_t next = start + ((cell + 1) << rows->shift);

			next = next < extent->end ? next : extent->end;
			next = next < end ? next : end;
			fill[cell] += next - at;
			at = next;
		}
	}
}

static char cell_char(uint64_t resident, uint64_t device, uint64_t bytes)
{
	bool half = (resident + device) * 2 >= bytes;

	if (!resident && !device)
		return '.';
	if (resident && device)
		return '+';
	if (resident)
		return half ? 'R' : 'r';
	return half ? 'D' : 'd';
}

static void row_add(struct sheet *sheet, const struct rows *rows, const struct area *area,
		    uint64_t start, bool first)
{
	uint64_t resident[CELLS_MAX], device[CELLS_MAX];
	char cells[CELLS_MAX + 1], size[TEXT_NUMBER];
	unsigned int i;

	cursor_fill(&rows->resident, rows, &area->extent, start, resident);
	cursor_fill(&rows->device, rows, &area->extent, start, device);
	for (i = 0; i < rows->cells; i++) {
		uint64_t low = start + ((uint64_t)i << rows->shift);
		uint64_t high = low + (1ull << rows->shift);

		low = low > area->extent.start ? low : area->extent.start;
		high = high < area->extent.end ? high : area->extent.end;
		cells[i] = low < high ? cell_char(resident[i], device[i], high - low) : ' ';
	}
	while (i && cells[i - 1] == ' ')
		i--;
	cells[i] = 0;
	text_size(size, area->extent.end - area->extent.start);
	sheet_add(sheet, LINE_MAP, "%012llx %7s %-9.9s %s", (unsigned long long)start,
		  first ? size : "", first ? area->name : "", cells);
}

/* How much of the area is in the extents. */
static uint64_t cursor_bytes(struct cursor *cursor, const struct extent *area)
{
	uint64_t bytes = 0;
	size_t i;

	cursor_next(cursor, area->start);
	for (i = cursor->at; i < cursor->extents->n; i++) {
		const struct extent *extent = &cursor->extents->list[i];
		uint64_t start = extent->start > area->start ? extent->start : area->start;
		uint64_t end = extent->end < area->end ? extent->end : area->end;

		if (extent->start >= area->end)
			break;
		bytes += end - start;
	}
	return bytes;
}

/* A program has many that are a page or some, and a row for each would hide the others. */
static bool area_small(struct rows *rows, const struct area *area)
{
	uint64_t resident, device;

	if ((area->extent.end - area->extent.start) >> rows->shift)
		return false;
	resident = cursor_bytes(&rows->resident, &area->extent);
	device = cursor_bytes(&rows->device, &area->extent);
	if (!resident && !device)
		return false;
	rows->small++;
	rows->small_resident += resident;
	rows->small_device += device;
	return true;
}

static void area_add(struct sheet *sheet, struct rows *rows, const struct area *area)
{
	uint64_t row = (uint64_t)rows->cells << rows->shift;
	uint64_t at = area->extent.start;
	bool first = true;

	for (;;) {
		uint64_t resident = cursor_next(&rows->resident, at);
		uint64_t device = cursor_next(&rows->device, at);
		uint64_t next = resident < device ? resident : device;

		next = next > at ? next : at;
		if (next >= area->extent.end || (resident == UINT64_MAX && device == UINT64_MAX))
			break;
		row_add(sheet, rows, area, next & ~(row - 1), first);
		first = false;
		at = (next & ~(row - 1)) + row;
		if (at >= area->extent.end)
			break;
	}
	if (first) {
		rows->empty++;
		rows->empty_bytes += area->extent.end - area->extent.start;
	}
}

static void head_add(struct sheet *sheet, const struct program *p)
{
	char a[TEXT_NUMBER], b[TEXT_NUMBER], c[TEXT_NUMBER], d[TEXT_NUMBER];
	const struct hmm_run_stats *s = &p->now;

	sheet_add(sheet, LINE_TEXT, "%d %s", (int)p->w.pid, p->command);
	sheet_add(sheet, LINE_TEXT,
		  "%s, device %s: %s resident, limit %s; %s on the device, which "
		  "takes %s for it",
		  watched_state(s), s->device, text_size(a, s->resident), text_size(b, s->limit),
		  text_size(c, s->on_device), text_size(d, s->device_memory));
}

void map_sheet(struct sheet *sheet, const struct program *program, const struct map_view *view)
{
	char size[TEXT_NUMBER], other[TEXT_NUMBER];
	struct rows rows = { 0 };
	struct space space;
	int ret = space_read(&space, program);
	size_t i;

	head_add(sheet, program);
	if (ret) {
		sheet_add(sheet, LINE_TEXT, "its memory cannot be seen: %s", strerror(-ret));
		return;
	}
	rows_size(&rows, &space, view);
	rows.resident.extents = &space.resident;
	rows.device.extents = &space.device;
	sheet_add(sheet, LINE_TEXT,
		  "R resident%s . nothing there; small: less than half. A "
		  "character is %s",
		  space.device_known ? ", D on the device, + both," : ",",
		  text_size(size, 1ull << rows.shift));
	sheet_add(sheet, LINE_HEAD, "%-12s %7s %-9s %s", "ADDRESS", "SIZE", "", "MAP");
	for (i = 0; i < space.n_areas; i++)
		if (!area_small(&rows, &space.areas[i]))
			area_add(sheet, &rows, &space.areas[i]);
	if (rows.small)
		sheet_add(sheet, LINE_TEXT,
			  "and %u mappings of less than a character: %s resident, %s "
			  "on the device",
			  rows.small, text_size(size, rows.small_resident),
			  text_size(other, rows.small_device));
	if (rows.empty)
		sheet_add(sheet, LINE_TEXT, "and %u mappings where nothing is, %s", rows.empty,
			  text_size(size, rows.empty_bytes));
	if (!space.device_known)
		sheet_add(sheet, LINE_TEXT, "What is on the device this program does not tell.");
	space_free(&space);
}
