/* SPDX-License-Identifier: MIT */
/* What the two threads of a cell do, and what that does to memory: see steps.h. */
#include "steps.h"

static char *page_at(const struct cell *cell, size_t i)
{
	return cell->region[MEM].base + i * PAGE;
}

/* ---- the call ---- */

static int act_move(struct cell *cell, bool back)
{
	size_t len = (cell->to - cell->from) * PAGE;
	char *from = page_at(cell, cell->from);
	char *to = cell->region[ALT].base + cell->from * PAGE;

	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return -errno;
	if (back && mremap(to, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, from) != from)
		return -errno;
	return 0;
}

static int act_grow(struct cell *cell)
{
	size_t len = (cell->to - cell->from) * PAGE;
	char *to = mremap(page_at(cell, cell->from), len, 2 * len, MREMAP_MAYMOVE);

	if (to == MAP_FAILED)
		return -errno;
	cell->region[NEW].base = to - cell->from * PAGE;
	return 0;
}

static int act_fork(struct cell *cell, bool raw)
{
	cell->child = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
	if (!cell->child)
		syscall(SYS_exit_group, child_check(cell, false));
	return cell->child < 0 ? -errno : 0;
}

/* One word of every page. */
static int act_words(struct cell *cell, enum act act)
{
	int ret = 0, err;
	uint64_t val;
	size_t i;

	for (i = cell->from; i < cell->to; i++) {
		char *at = page_at(cell, i) + word_offset(WORD_OTHER);

		val = word_value((unsigned int)i, WORD_OTHER);
		if (act == ACT_READ)
			err = safe_load(at, &val);
		else if (act == ACT_WRITE)
			err = safe_store(at, val);
		else if (act == ACT_LOAD)
			err = dummy_load_u64(steps_dev, addr_of(at), &val);
		else if (act == ACT_ADD)
			err = dummy_atomic_add_u64(steps_dev, addr_of(at), val, NULL);
		else
			err = dummy_store_u64(steps_dev, addr_of(at), val);
		ret = ret ? ret : err;
	}
	return ret;
}

static int act_protect(struct cell *cell, int prot)
{
	size_t len = (cell->to - cell->from) * PAGE;

	return mprotect(page_at(cell, cell->from), len, prot) ? -errno : 0;
}

static int act_advise(struct cell *cell, int advice)
{
	size_t len = (cell->to - cell->from) * PAGE;

	return madvise(page_at(cell, cell->from), len, advice) ? -errno : 0;
}

/* Or there is nothing for it to have, just now. */
static int act_exclusive(uint64_t start, uint64_t end)
{
	int ret = dummy_exclusive(steps_dev, start, end, NULL);

	return ret == -EBUSY ? 0 : ret;
}

static int act_now(struct cell *cell)
{
	uint64_t start = addr_of(page_at(cell, cell->from));
	uint64_t end = addr_of(page_at(cell, cell->to));

	switch (cell->act) {
	case ACT_MUNMAP:
		return munmap(page_at(cell, cell->from), end - start) ? -errno : 0;
	case ACT_AWAY:
	case ACT_AWAY_BACK:
		return act_move(cell, cell->act == ACT_AWAY_BACK);
	case ACT_GROW:
		return act_grow(cell);
	case ACT_DONTNEED:
		return act_advise(cell, MADV_DONTNEED);
	case ACT_FREE:
		return act_advise(cell, MADV_FREE);
	case ACT_READ_ONLY:
		return act_protect(cell, PROT_READ);
	case ACT_NONE:
		return act_protect(cell, PROT_NONE);
	case ACT_NONE_BACK:
		return act_protect(cell, PROT_NONE) ?: act_protect(cell, PROT_READ | PROT_WRITE);
	case ACT_FORK:
	case ACT_CLONE:
		return act_fork(cell, cell->act == ACT_CLONE);
	case ACT_OUT:
		return dummy_migrate(steps_dev, start, end, NULL);
	case ACT_BACK:
		return dummy_evict(steps_dev, start, end, NULL);
	case ACT_EXCLUSIVE:
		return act_exclusive(start, end);
	default:
		return act_words(cell, cell->act);
	}
}

void cell_act(struct cell *cell)
{
	cell->act_ret = act_now(cell);
}

/* ---- the held thread ---- */

static int hold_event(struct cell *cell)
{
	size_t len = (cell->held_to - cell->held_from) * PAGE;
	char *at = page_at(cell, cell->held_from);
	char *to = cell->region[ALT2].base + cell->held_from * PAGE;

	if (cell->row->holder == HOLD_DONTNEED)
		return madvise(at, len, MADV_DONTNEED) ? -errno : 0;
	if (cell->row->holder == HOLD_MUNMAP)
		return munmap(at, len) ? -errno : 0;
	return mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to ? 0 : -errno;
}

/* Its child is looked at here: the other call may make one too. */
static int hold_fork(struct cell *cell, bool raw)
{
	pid_t pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
	int status = 0;

	if (!pid)
		syscall(SYS_exit_group, child_check(cell, !raw));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	if (WIFSIGNALED(status))
		return -1000 - WTERMSIG(status);
	return -WEXITSTATUS(status);
}

void *cell_hold(void *arg)
{
	struct cell *cell = arg;
	uint64_t start = addr_of(page_at(cell, cell->held_from));
	uint64_t end = addr_of(page_at(cell, cell->held_to));
	char *at = page_at(cell, TARGET);
	uint64_t val = word_value(TARGET, WORD_HELD);

	switch (cell->row->holder) {
	case HOLD_OUT:
		cell->held_ret = dummy_migrate(steps_dev, start, end, NULL);
		break;
	case HOLD_BACK:
		cell->held_ret = dummy_evict(steps_dev, start, end, NULL);
		break;
	case HOLD_EXCLUSIVE:
		cell->held_ret = act_exclusive(start, end);
		break;
	case HOLD_READ:
		cell->held_ret = safe_load(at, &cell->held_val);
		break;
	case HOLD_WRITE:
		cell->held_ret = safe_store(at + word_offset(WORD_HELD), val);
		break;
	case HOLD_LOAD:
		cell->held_ret = dummy_load_u64(steps_dev, addr_of(at), &cell->held_val);
		break;
	case HOLD_STORE:
		cell->held_ret =
			dummy_store_u64(steps_dev, addr_of(at) + word_offset(WORD_HELD), val);
		break;
	case HOLD_ADD:
		cell->held_ret = dummy_atomic_add_u64(
			steps_dev, addr_of(at) + word_offset(WORD_HELD), val, NULL);
		break;
	case HOLD_FORK:
	case HOLD_CLONE:
		cell->held_ret = hold_fork(cell, cell->row->holder == HOLD_CLONE);
		break;
	default:
		cell->held_ret = hold_event(cell);
	}
	atomic_store(&cell->returned, true);
	return NULL;
}

/* ---- what that does ---- */

static void model_move(struct cell *cell, unsigned int to, size_t i)
{
	struct page_model *page = &cell->region[MEM].page[i];

	cell->region[to].page[i] = *page;
	*page = (struct page_model){ .gone = true };
}

static void model_event(struct cell *cell, bool strict)
{
	size_t i;

	for (i = cell->held_from; i < cell->held_to; i++) {
		struct page_model *page = &cell->region[MEM].page[i];

		if (cell->row->holder == HOLD_MUNMAP)
			page->gone = true;
		else if (cell->row->holder == HOLD_MREMAP)
			model_move(cell, ALT2, i);
		else if (cell->row->holder == HOLD_DONTNEED && strict)
			page->zero = true;
		else if (cell->row->holder == HOLD_DONTNEED)
			page->maybe_zero = true;
	}
}

static void model_act(struct cell *cell, size_t i)
{
	struct page_model *page = &cell->region[MEM].page[i];

	switch (cell->act) {
	case ACT_MUNMAP:
		page->gone = true;
		break;
	case ACT_AWAY:
		model_move(cell, ALT, i);
		break;
	case ACT_GROW:
		model_move(cell, NEW, i);
		break;
	case ACT_DONTNEED:
		page->zero = true;
		page->maybe_held = true;
		page->maybe_zero = false;
		break;
	case ACT_FREE:
		page->maybe_zero = true;
		break;
	case ACT_WRITE:
	case ACT_STORE:
	case ACT_ADD:
		page->other = word_value(page->number, WORD_OTHER);
		break;
	default:
		break;
	}
}

/* Before the call, for a child that it makes sees this. */
void cell_model_held(struct cell *cell, bool strict)
{
	model_event(cell, strict);
}

void cell_model(struct cell *cell)
{
	size_t i;

	if ((cell->row->holder == HOLD_STORE || cell->row->holder == HOLD_WRITE ||
	     cell->row->holder == HOLD_ADD) &&
	    !cell->held_ret)
		cell->region[MEM].page[TARGET].held = word_value(TARGET, WORD_HELD);
	for (i = cell->from; i < cell->to; i++)
		model_act(cell, i);
}
