/* SPDX-License-Identifier: MIT */
/* Is memory what the model says? See steps.h. */
#include "steps.h"

uint64_t word_value(unsigned int page, enum word word)
{
	return 0x1111111111111111ull * (word + 1) ^ ((uint64_t)page << 20);
}

size_t word_offset(enum word word)
{
	static const size_t offset[WORDS] = { 0, 8, 16, PAGE - 8 };

	return offset[word];
}

/* Not by the C library: sanitizers look at what it is given. */
static int safe_move(char *addr, uint64_t *val, bool store)
{
	int fds[2], ret = -EFAULT;

	if (syscall(SYS_pipe2, fds, O_CLOEXEC))
		return -EMFILE;
	if (syscall(SYS_write, fds[1], store ? (char *)val : addr, 8) == 8 &&
	    syscall(SYS_read, fds[0], store ? addr : (char *)val, 8) == 8)
		ret = 0;
	syscall(SYS_close, fds[0]);
	syscall(SYS_close, fds[1]);
	return ret;
}

int safe_load(const char *addr, uint64_t *val)
{
	return safe_move((char *)addr, val, false);
}

int safe_store(char *addr, uint64_t val)
{
	return safe_move(addr, &val, true);
}

/* Pages from FIRST on, but for a hole and a zero page. */
void cell_fill(struct cell *cell)
{
	unsigned int i, r;

	memset(cell->region[MEM].page, 0, sizeof(cell->region[MEM].page));
	for (i = 0; i < MEM_PAGES; i++) {
		struct page_model *page = &cell->region[MEM].page[i];
		volatile uint64_t *mem = (void *)(cell->region[MEM].base + i * PAGE);

		page->number = i;
		page->gone = i < FIRST;
		page->zero = i == HOLE || i == ZEROED;
		for (r = MEM + 1; r < REGIONS; r++)
			cell->region[r].page[i] = (struct page_model){ .gone = true };
		if (i == ZEROED)
			(void)*mem;
		if (page->gone || page->zero)
			continue;
		mem[word_offset(WORD_FIRST) / 8] = word_value(i, WORD_FIRST);
		mem[word_offset(WORD_LAST) / 8] = word_value(i, WORD_LAST);
	}
}

static bool word_right(const struct page_model *page, enum word word, uint64_t val)
{
	bool base = word == WORD_FIRST || word == WORD_LAST;

	if (base && val == (page->zero ? 0 : word_value(page->number, word)))
		return true;
	if ((word == WORD_HELD && val == page->held) || (word == WORD_OTHER && val == page->other))
		return true;
	return !val && (page->maybe_zero || (word == WORD_HELD && page->maybe_held) ||
			(word == WORD_OTHER && page->maybe_other));
}

static void check_word(struct cell *cell, const char *who, const struct page_model *page,
		       enum word word, uint64_t val)
{
	if (!word_right(page, word, val))
		cell_bad(cell, "%s reads 0x%llx in word %d of page %u", who,
			 (unsigned long long)val, word, page->number);
}

/* The pattern is there as a whole or not at all. */
static void check_whole(struct cell *cell, const struct page_model *page, uint64_t first,
			uint64_t last)
{
	if (!first != !last)
		cell_bad(cell, "half of page %u is there", page->number);
}

static void check_by_cpu(struct cell *cell, const struct page_model *page, const char *at)
{
	uint64_t val[WORDS];
	unsigned int w;

	for (w = 0; w < WORDS; w++) {
		val[w] = *(const volatile uint64_t *)(at + word_offset(w));
		check_word(cell, "the CPU", page, w, val[w]);
	}
	check_whole(cell, page, val[WORD_FIRST], val[WORD_LAST]);
}

static void check_by_device(struct cell *cell, const struct page_model *page, const char *at)
{
	uint64_t val[WORDS] = { 0 };
	unsigned int w;

	for (w = 0; w < WORDS; w++) {
		int ret = dummy_load_u64(steps_dev, addr_of(at) + word_offset(w), &val[w]);

		if (ret)
			cell_bad(cell, "the device reads page %u: error %d", page->number, ret);
		else
			check_word(cell, "the device", page, w, val[w]);
	}
	check_whole(cell, page, val[WORD_FIRST], val[WORD_LAST]);
}

/* Unless another thread has mapped something there. */
static void check_gone(struct cell *cell, unsigned int i, const char *at)
{
	uint64_t val;

	if (safe_load(at, &val) != -EFAULT && !taken(at))
		cell_bad(cell, "page %u is unmapped, and the CPU reads it", i);
	if (dummy_load_u64(steps_dev, addr_of(at), &val) != -EFAULT && !taken(at))
		cell_bad(cell, "page %u is unmapped, and the device reads it", i);
}

static void check_region(struct cell *cell, struct region *region, bool device)
{
	unsigned int i;

	for (i = FIRST; i < MEM_PAGES && region->base; i++) {
		const char *at = region->base + i * PAGE;

		if (region->page[i].gone) {
			if (region == &cell->region[MEM])
				check_gone(cell, i, at);
		} else if (device) {
			check_by_device(cell, &region->page[i], at);
		} else {
			check_by_cpu(cell, &region->page[i], at);
		}
	}
}

/* What of a region is the test's own: where the kernel chose the place, no more. */
static size_t region_from(const struct cell *cell, unsigned int r)
{
	return r == NEW ? cell->from : FIRST;
}

static size_t region_to(const struct cell *cell, unsigned int r)
{
	return r == NEW ? cell->to : MEM_PAGES;
}

struct places {
	uint8_t where[MEM_PAGES];
	uint64_t map[MEM_PAGES];
};

static const char *page_misplaced(const struct page_model *page, uint8_t where, uint64_t map)
{
	bool away = where == HMM_WHERE_DEVICE || where == HMM_WHERE_STAGED ||
		    where == HMM_WHERE_EXCLUSIVE;

	if (away && map >> 62)
		return "away and there";
	if (page->gone && away)
		return "unmapped and away";
	if (!page->gone && !page->zero && !page->maybe_zero && where == HMM_WHERE_NONE)
		return "nowhere";
	return NULL;
}

/* Who waited for a page may have it before the books say so: then look again. */
static const char *region_misplaced(const struct cell *cell, unsigned int r, size_t *page)
{
	const struct region *region = &cell->region[r];
	size_t from = region_from(cell, r), n = region_to(cell, r) - from;
	uint64_t start = addr_of(region->base) + from * PAGE;
	static struct places places;
	const char *what = NULL;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (hmm_range_where(start, start + n * PAGE, places.where) ||
	    pread(fd, places.map, n * 8, (off_t)(start / PAGE * 8)) != (ssize_t)n * 8)
		what = "not to be found";
	close(fd);
	for (*page = from; !what && *page < from + n; ++*page)
		what = page_misplaced(&region->page[*page], places.where[*page - from],
				      places.map[*page - from]);
	return what;
}

/* G1: what is away is not there as well, and what is mapped is somewhere. */
static void check_places(struct cell *cell, unsigned int r)
{
	uint64_t end = test_now() + 2000000000ull;
	const char *what;
	size_t page;

	if (!cell->region[r].base)
		return;
	while ((what = region_misplaced(cell, r, &page)) && test_now() < end)
		test_sleep_us(100);
	if (what)
		cell_bad(cell, "page %zu of place %u is %s", page - 1, r, what);
}

/* What mprotect took away is not to be had, and then it gives it back. */
static void check_rights(struct cell *cell)
{
	char *base = cell->region[MEM].base;
	uint64_t val;
	size_t i;

	if (cell->act != ACT_READ_ONLY && cell->act != ACT_NONE)
		return;
	for (i = cell->from; i < cell->to; i++) {
		uint64_t at = addr_of(base) + i * PAGE + word_offset(WORD_OTHER);

		if (cell->region[MEM].page[i].gone)
			continue;
		if (dummy_store_u64(steps_dev, at, 7) != -EFAULT)
			cell_bad(cell, "the device writes page %zu, which is protected", i);
		if (safe_store(base + i * PAGE + word_offset(WORD_OTHER), 7) != -EFAULT)
			cell_bad(cell, "the CPU writes page %zu, which is protected", i);
		if (cell->act == ACT_NONE && dummy_load_u64(steps_dev, at, &val) != -EFAULT)
			cell_bad(cell, "the device reads page %zu, which is protected", i);
	}
	mprotect(base + cell->from * PAGE, (cell->to - cell->from) * PAGE, PROT_READ | PROT_WRITE);
}

static void check_all(struct cell *cell, bool device)
{
	unsigned int r;

	for (r = 0; r < REGIONS; r++)
		check_region(cell, &cell->region[r], device);
}

/* As it is, by the one side and by the other, and once more after a journey. */
void cell_check(struct cell *cell)
{
	bool device = (cell->act + cell->hits) % 2;
	unsigned int r;

	for (r = 0; r < REGIONS; r++)
		check_places(cell, r);
	check_rights(cell);
	check_all(cell, device);
	check_all(cell, !device);
	for (r = 0; r < REGIONS; r++) {
		uint64_t base = addr_of(cell->region[r].base);

		if (base && (cell->act + cell->hits) % 3 == 0 &&
		    dummy_exclusive(steps_dev, base + region_from(cell, r) * PAGE,
				    base + region_to(cell, r) * PAGE, NULL))
			cell_bad(cell, "the device cannot have what is there for itself");
		if (base && dummy_migrate(steps_dev, base + region_from(cell, r) * PAGE,
					  base + region_to(cell, r) * PAGE, NULL))
			cell_bad(cell, "what is there does not migrate");
	}
	check_all(cell, true);
	check_all(cell, false);
}

/* ---- in a child ---- */

static bool child_page(const struct cell *cell, const struct page_model *page, const char *at,
		       bool loosely)
{
	unsigned int w;

	for (w = 0; w < WORDS; w++) {
		uint64_t val = 0;
		int ret = safe_load(at + word_offset(w), &val);

		if (ret == -EFAULT && loosely &&
		    (cell->act <= ACT_GROW || cell->act == ACT_NONE || cell->act == ACT_NONE_BACK))
			continue;
		if (page->gone)
			continue;
		if (ret || (!word_right(page, w, val) && (!loosely || val)))
			return false;
	}
	return true;
}

/* @loosely: the call may have been before the fork or after. */
int child_check(const struct cell *cell, bool loosely)
{
	const struct region *region = &cell->region[MEM];
	unsigned int i;

	for (i = FIRST; i < MEM_PAGES; i++) {
		struct page_model page = region->page[i];

		if (loosely)
			page.other = word_value(i, WORD_OTHER);
		page.maybe_other = loosely;
		page.held = i == TARGET ? word_value(i, WORD_HELD) : 0;
		page.maybe_held = true;
		if (!child_page(cell, &page, region->base + i * PAGE, loosely))
			return (int)i;
	}
	return 0;
}
