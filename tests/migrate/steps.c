/* SPDX-License-Identifier: MIT */
/* The matrix: see steps.h. */
#include "steps.h"

#define HOLD_US 3000 /* from when the call began */
#define HOLD_MAX_US 100000
#define ROOM (64 * MIB)

const char *const act_names[ACTS] = {
	[ACT_MUNMAP] = "munmap",
	[ACT_AWAY] = "mremap away",
	[ACT_AWAY_BACK] = "mremap away and back",
	[ACT_GROW] = "mremap that grows",
	[ACT_DONTNEED] = "MADV_DONTNEED",
	[ACT_FREE] = "MADV_FREE",
	[ACT_READ_ONLY] = "mprotect read-only",
	[ACT_NONE] = "mprotect none",
	[ACT_NONE_BACK] = "mprotect none and back",
	[ACT_FORK] = "fork",
	[ACT_CLONE] = "clone",
	[ACT_READ] = "CPU read",
	[ACT_WRITE] = "CPU write",
	[ACT_LOAD] = "device read",
	[ACT_STORE] = "device write",
	[ACT_OUT] = "migrate",
	[ACT_BACK] = "evict",
	[ACT_EXCLUSIVE] = "exclusive access",
	[ACT_ADD] = "atomic add",
};

static const char *const hits_names[HITS] = { "all", "part", "beside" };

struct dummy_device *steps_dev;

static struct dummy_device *devices[2]; /* one to be waited for */
static struct cell cell;
static char *room; /* addresses that only the test uses */
static bool can_clone, user_mode;

/* ---- holding ---- */

static struct {
	atomic_bool armed, hit, began, done;
	const char *_Atomic step;
	atomic_ulong start, end;
} hold;

static void hold_at(const char *name, unsigned long start, unsigned long end)
{
	uint64_t since = 0, now, hit;

	if (!atomic_load(&hold.armed) || strcmp(name, hold.step) || start >= hold.end ||
	    end <= hold.start || !atomic_exchange(&hold.armed, false))
		return;
	atomic_store(&hold.hit, true);
	hit = test_now();
	for (;;) {
		now = test_now();
		if (atomic_load(&hold.began) && !since)
			since = now;
		if (atomic_load(&hold.done) || (since && now - since > HOLD_US * 1000ull) ||
		    now - hit > HOLD_MAX_US * 1000ull)
			break;
		test_sleep_us(50);
	}
	atomic_store(&hold.hit, false);
}

static void hold_arm(void)
{
	atomic_store(&hold.armed, false); /* the monitor may still be at a step */
	hold.step = cell.row->step;
	hold.start = addr_of(cell.region[MEM].base) + cell.held_from * PAGE;
	hold.end = addr_of(cell.region[MEM].base) + cell.held_to * PAGE;
	atomic_store(&hold.began, false);
	atomic_store(&hold.done, false);
	atomic_store(&hold.armed, true);
}

/*
 * Somebody is at the step; false: it was passed, or nobody came. An event's is come to by
 * a thread of the library's, when the call has perhaps returned.
 */
static bool hold_wait(void)
{
	uint64_t end = 0;

	while (!atomic_load(&hold.hit) && (!end || test_now() < end)) {
		test_sleep_us(50);
		if (!end && atomic_load(&cell.returned))
			end = test_now() + (cell.row->holder >= HOLD_DONTNEED ? 5000000 : 0);
	}
	return atomic_load(&hold.hit);
}

/* ---- a cell ---- */

void cell_bad(struct cell *c, const char *format, ...)
{
	va_list args;

	if (c->bad)
		return;
	c->bad = true;
	fprintf(stderr, "BAD %s: ", c->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
}

static bool holds_page(enum holder holder)
{
	return holder >= HOLD_READ && holder <= HOLD_ADD;
}

static void cell_ranges(void)
{
	static const size_t from[HITS] = { FIRST, TARGET, ALL_END };
	static const size_t to[HITS] = { ALL_END, HOLE + 1, ALL_END + 8 };
	enum holder holder = cell.row->holder;

	cell.from = from[cell.hits];
	cell.to = to[cell.hits];
	cell.held_from = FIRST;
	cell.held_to = ALL_END;
	if (holds_page(holder)) {
		cell.held_from = TARGET;
		cell.held_to = TARGET + 1;
	} else if (holder == HOLD_DONTNEED) {
		cell.held_from = FIRST + 2;
		cell.held_to = TARGET + 2;
	} else if (holder == HOLD_MUNMAP || holder == HOLD_MREMAP) {
		cell.held_to = FIRST + 2; /* just beside: a call on a hole is an error */
		cell.from = cell.hits == HIT_ALL ? FIRST + 2 : cell.from;
	}
}

static char *map_at(char *at, size_t len, int prot)
{
	return mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

/* In the device, if it shall be; a device fault needs that the device forgets it. */
static void cell_away(void)
{
	uint64_t base = addr_of(cell.region[MEM].base);
	uint64_t start = base + FIRST * PAGE, end = base + MEM_PAGES * PAGE;

	if (cell.row->away && dummy_migrate(steps_dev, start, end, NULL))
		cell_bad(&cell, "cannot migrate it first");
	if (cell.row->exclusive && dummy_exclusive(steps_dev, start, end, NULL))
		cell_bad(&cell, "cannot take it first");
	if ((cell.row->away || cell.row->exclusive) && cell.row->holder >= HOLD_LOAD &&
	    cell.row->holder <= HOLD_ADD)
		dummy_discard(steps_dev, base, base + MEM_PAGES * PAGE);
}

static void cell_begin(void)
{
	unsigned int r;

	for (r = 0; r < NEW; r++)
		cell.region[r].base = room + 2 * r * THP;
	cell.region[NEW].base = NULL;
	map_at(cell.region[MEM].base, MEM_PAGES * PAGE, PROT_READ | PROT_WRITE);
	madvise(cell.region[MEM].base, MEM_PAGES * PAGE, MADV_NOHUGEPAGE);
	cell_ranges();
	cell_fill(&cell);
	cell_away();
	cell.child = 0;
	cell.held_ret = cell.act_ret = 0;
	atomic_store(&cell.returned, false);
}

static void cell_end(void)
{
	uint64_t end = test_now() + 2000000000ull;
	size_t i;

	for (i = 0; i < NEW; i++)
		map_at(cell.region[i].base, MEM_PAGES * PAGE, PROT_NONE);
	if (cell.region[NEW].base)
		munmap(cell.region[NEW].base + cell.from * PAGE, 2 * (cell.to - cell.from) * PAGE);
	while (device_used(steps_dev) && test_now() < end)
		test_sleep_us(100);
	if (device_used(steps_dev))
		cell_bad(&cell, "%zu device pages are never free", device_used(steps_dev));
}

/* What the held thread may be told. */
static void cell_held(void)
{
	bool inside = TARGET >= cell.from && TARGET < cell.to;
	bool efault = inside && (cell.act <= ACT_GROW || cell.act == ACT_READ_ONLY ||
				 cell.act == ACT_NONE || cell.act == ACT_NONE_BACK);
	bool zero = inside && (cell.act == ACT_DONTNEED || cell.act == ACT_FREE);
	bool reads = cell.row->holder == HOLD_READ || cell.row->holder == HOLD_LOAD;

	if (holds_page(cell.row->holder) && cell.held_ret == -EFAULT && efault)
		return;
	if (cell.row->holder == HOLD_ADD && cell.held_ret == -EOPNOTSUPP && efault)
		return; /* what is not mapped cannot be had either */
	if (cell.row->holder == HOLD_DONTNEED && cell.held_ret == -ENOMEM && cell.act <= ACT_GROW)
		return; /* the kernel looks the mapping up again after its message */
	if (cell.held_ret)
		cell_bad(&cell, "the held call returns %d", cell.held_ret);
	else if (reads && cell.held_val != word_value(TARGET, WORD_FIRST) &&
		 !(zero && !cell.held_val))
		cell_bad(&cell, "the held one reads 0x%llx", (unsigned long long)cell.held_val);
}

static void cell_child(void)
{
	int status = 0;

	if (cell.child <= 0)
		return;
	if (waitpid(cell.child, &status, 0) != cell.child || status)
		cell_bad(&cell, "the child ends with 0x%x", status);
}

/* Was the one held while the other's call began? */
static bool cell_run(void)
{
	bool strict;

	snprintf(cell.name, sizeof(cell.name), "%s%s%s%s, %s of %s", cell.row->step,
		 cell.row->away ? " (away)" : "", cell.row->exclusive ? " (exclusive)" : "",
		 cell.row->waits ? " (waits)" : "", act_names[cell.act], hits_names[cell.hits]);
	step(cell.name);
	cell.bad = false;
	steps_dev = devices[cell.row->waits];
	cell_begin();
	hold_arm();
	if (pthread_create(&cell.thread, NULL, cell_hold, &cell))
		fail_msg("no thread");
	cell.overlapped = hold_wait();
	strict = atomic_load(&cell.returned);
	cell_model_held(&cell, strict);
	atomic_store(&hold.began, true);
	cell_act(&cell);
	atomic_store(&hold.done, true);
	pthread_join(cell.thread, NULL);
	atomic_store(&hold.armed, false);
	cell_child();
	cell_held();
	if (cell.act_ret)
		cell_bad(&cell, "the call returns %d", cell.act_ret);
	cell_model(&cell);
	cell_check(&cell);
	cell_end();
	return cell.overlapped;
}

/* ---- all of them ---- */

/*
 * The thread sanitizer stops all threads where they need its runtime for as long as a
 * fork() lasts, and the monitor with them, which the fork waits for.
 */
static bool act_possible(const struct row *row, enum act act)
{
#ifdef __SANITIZE_THREAD__
	if (act == ACT_FORK)
		return false;
#endif
	return can_clone || (act != ACT_CLONE && row->holder != HOLD_CLONE);
}

/* One row: how many cells are bad. */
static unsigned int row_run(const struct row *row)
{
	unsigned int bad = 0, held = 0, n = 0;

	cell.row = row;
	for (cell.act = 0; cell.act < ACTS; cell.act++)
		for (cell.hits = 0; cell.hits < HITS; cell.hits++) {
			if (!act_possible(row, cell.act))
				continue;
			held += cell_run();
			bad += cell.bad;
			n++;
		}
	print_message("%s%s%s%s: held in %u of %u cells\n", row->step, row->away ? " (away)" : "",
		      row->exclusive ? " (exclusive)" : "", row->waits ? " (waits)" : "", held, n);
	if (n && !held) {
		print_message("nobody ever came to %s\n", row->step);
		bad++;
	}
	return bad;
}

void steps_run(const struct row *rows, size_t n)
{
	unsigned int bad = 0;
	size_t i;

	if (!debug_set_step(hold_at))
		skip_because("no debug build: nobody can be held at a step");
	if (user_mode)
		skip_because("system calls do not wait for pages that are away here");
	for (i = 0; i < n; i++)
		bad += row_run(&rows[i]);
	debug_set_step(NULL);
	assert_int_equal(bad, 0);
}

void steps_init(void)
{
	test_init();
}

void steps_begin(const char *test, unsigned int seconds)
{
	test_begin(test, seconds);
}

bool steps_can_clone(void)
{
	return can_clone;
}

/* What other threads map goes to the gap above, and not to a hole that the test makes. */
static char *room_make(void)
{
	char *mem = mmap(NULL, 2 * ROOM + THP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)mem + THP) & ~(THP - 1));

	assert_ptr_not_equal(mem, MAP_FAILED);
	munmap(at + ROOM, ROOM);
	return at;
}

int steps_setup(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };
	struct dummy_options opt = { .memory = 256 * PAGE,
				     .scrub = true,
				     .coherent = test_coherent(),
				     .looks_up = test_looks_up() };

	(void)state;
	assert_int_equal(hmm_probe(&features), 0);
	can_clone = features.fork_event;
	user_mode = features.user_mode_only;
	room = room_make();
	assert_int_equal(dummy_create(&devices[0], &opt), 0);
	opt.not_prompt = true;
	assert_int_equal(dummy_create(&devices[1], &opt), 0);
	return 0;
}

int steps_teardown(void **state)
{
	(void)state;
	munmap(room, ROOM);
	assert_int_equal(dummy_destroy(devices[0]), 0);
	assert_int_equal(dummy_destroy(devices[1]), 0);
	return 0;
}
