/* SPDX-License-Identifier: MIT */
/*
 * hmm top in a terminal: keys and colours. What is shown is made elsewhere (top.h).
 */
#include <locale.h>
#include <string.h>

#include "hmm.h"
#include "text.h"
#include "top.h"

#ifdef HMM_HAVE_CURSES

#include <curses.h>

enum { COLOR_RESIDENT = 1, COLOR_DEVICE, COLOR_MIXED };

/**
 * struct screen - what the user sees
 * @programs: all
 * @pid: whose map; 0: the list
 * @chosen: the row with the cursor
 * @top: the first line below the head that is shown
 * @zoom: of the map
 * @gone: the program whose map was shown has ended
 */
struct screen {
	struct programs programs;
	struct sheet sheet;
	pid_t pid;
	size_t chosen;
	size_t top;
	int zoom;
	bool gone;
};

static void colors(void)
{
	if (!has_colors())
		return;
	start_color();
	use_default_colors();
	init_pair(COLOR_RESIDENT, COLOR_GREEN, -1);
	init_pair(COLOR_DEVICE, COLOR_MAGENTA, -1);
	init_pair(COLOR_MIXED, COLOR_YELLOW, -1);
}

static chtype cell(char c)
{
	chtype bold = c == 'R' || c == 'D' ? A_BOLD : 0;
	int pair = 0;

	if (c == 'R' || c == 'r')
		pair = COLOR_RESIDENT;
	else if (c == 'D' || c == 'd')
		pair = COLOR_DEVICE;
	else if (c == '+')
		pair = COLOR_MIXED;
	return (chtype)(unsigned char)c | bold | (pair && has_colors() ? COLOR_PAIR(pair) : 0);
}

static void draw_line(int y, const struct line *line, bool chosen)
{
	int x = 0, width = COLS;

	move(y, 0);
	clrtoeol();
	if (line->kind == LINE_HEAD || chosen)
		attron(A_REVERSE);
	if (line->kind == LINE_MAP) {
		const char *text;

		for (text = line->text; *text && x < width; text++, x++)
			addch(x < MAP_PREFIX ? (chtype)(unsigned char)*text : cell(*text));
	} else {
		addnstr(line->text, width);
		if (line->kind == LINE_HEAD || chosen)
			for (x = (int)strlen(line->text); x < width; x++)
				addch(' ');
	}
	attrset(A_NORMAL);
}

static size_t head_lines(const struct sheet *sheet)
{
	size_t n;

	for (n = 0; n < sheet->lines && sheet->line[n].kind != LINE_HEAD; n++)
		;
	return n < sheet->lines ? n + 1 : sheet->lines;
}

/* Keep the cursor, and what is shown, within what there is. */
static void fit(struct screen *s, size_t head)
{
	size_t body = s->sheet.lines - head, room = LINES > (int)head + 1 ? LINES - head - 1 : 1;

	if (!s->pid) {
		if (s->chosen >= body)
			s->chosen = body ? body - 1 : 0;
		if (s->chosen < s->top)
			s->top = s->chosen;
		if (s->chosen >= s->top + room)
			s->top = s->chosen - room + 1;
	} else if (s->top + room > body) {
		s->top = body > room ? body - room : 0;
	}
}

static void draw(struct screen *s)
{
	struct program *program = s->pid ? programs_find(&s->programs, s->pid) : NULL;
	struct map_view view = { .columns = (unsigned int)COLS, .zoom = s->zoom };
	size_t head, i;
	int y = 0;

	if (s->pid && !program) {
		s->pid = 0;
		s->gone = true;
	}
	sheet_clear(&s->sheet);
	if (program)
		map_sheet(&s->sheet, program, &view);
	else
		list_sheet(&s->sheet, &s->programs);
	head = head_lines(&s->sheet);
	fit(s, head);
	erase();
	for (i = 0; i < head && y < LINES; i++)
		draw_line(y++, &s->sheet.line[i], false);
	for (i = head + s->top; i < s->sheet.lines && y < LINES - 1; i++)
		draw_line(y++, &s->sheet.line[i], !s->pid && i - head == s->chosen);
	mvaddnstr(LINES - 1, 0,
		  s->pid  ? "arrows move   + - scale   Left: programs   q ends" :
		  s->gone ? "That program has ended.   q ends" :
			    "arrows move   Enter: where its memory is   q ends",
		  COLS);
	refresh();
}

static void step(struct screen *s, long by)
{
	size_t *at = s->pid ? &s->top : &s->chosen;

	if (by < 0 && (size_t)-by > *at)
		*at = 0;
	else
		*at += (size_t)by;
}

/* False: the user has had enough. */
static bool key(struct screen *s, int c)
{
	switch (c) {
	case 'q':
		return false;
	case KEY_UP:
	case 'k':
		step(s, -1);
		break;
	case KEY_DOWN:
	case 'j':
		step(s, 1);
		break;
	case KEY_PPAGE:
		step(s, -(LINES - 5));
		break;
	case KEY_NPAGE:
		step(s, LINES - 5);
		break;
	case '\n':
	case '\r':
	case KEY_ENTER:
	case KEY_RIGHT:
		s->gone = false;
		if (!s->pid && s->chosen < s->programs.n) {
			s->pid = s->programs.list[s->chosen].w.pid;
			s->top = 0;
		}
		break;
	case KEY_LEFT:
	case KEY_BACKSPACE:
	case 27:
		s->pid = 0;
		s->top = 0;
		break;
	case '+':
		s->zoom += s->zoom < 24;
		break;
	case '-':
		s->zoom -= s->zoom > -24;
		break;
	default:
		break;
	}
	return true;
}

/* Keys until it is time to look again; false: the end. */
static bool keys(struct screen *s, uint64_t until)
{
	for (;;) {
		uint64_t now = text_now();
		int c;

		if (now >= until)
			return true;
		timeout((int)((until - now) / 1000000) + 1);
		c = getch();
		if (c == ERR)
			continue;
		if (c == ' ')
			return true;
		if (!key(s, c))
			return false;
		draw(s);
	}
}

int top_screen(double interval, pid_t pid)
{
	struct screen s = { .pid = pid };
	SCREEN *terminal;

	setlocale(LC_CTYPE, "");
	terminal = newterm(NULL, stdout, stdin);
	if (!terminal) {
		hmm_message("this terminal is not known (TERM): see hmm top --once");
		return HMM_EXIT_REFUSED;
	}
	cbreak();
	noecho();
	nonl();
	curs_set(0);
	keypad(stdscr, TRUE);
	set_escdelay(50);
	colors();
	do {
		programs_look(&s.programs);
		draw(&s);
	} while (keys(&s, text_now() + (uint64_t)(interval * 1e9)));
	endwin();
	delscreen(terminal);
	sheet_free(&s.sheet);
	programs_free(&s.programs);
	return HMM_EXIT_OK;
}

#else

int top_screen(double interval, pid_t pid)
{
	(void)interval;
	(void)pid;
	hmm_message("this hmm was built without ncurses: see hmm top --once");
	return HMM_EXIT_REFUSED;
}

#endif
