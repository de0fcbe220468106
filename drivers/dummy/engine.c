/* SPDX-License-Identifier: MIT */
/*
 * The copy engine.
 *
 * It works on what libhmm names in the mirror's page table and in @dst, and on
 * nothing of the program's: sources and destinations are pages that nobody else can
 * reach, and with opt.peer another dummy device's, which that does not use now. Behind an
 * IOMMU those of the system are DMA addresses, which it looks up page by page; what is
 * contiguous for the CPU is copied in one go all the same.
 */
#include <errno.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <string.h>
#include <time.h>

#include "internal.h"

/**
 * struct run - the copy engine's job in the making
 * @dst: where to
 * @src: where from; NULL: clear
 * @len: bytes; 0: no job
 *
 * Adjacent pages go in one copy where both sides are contiguous: memcpy() of
 * megabytes is nearly twice as fast as of single pages.
 */
struct run {
	char *dst;
	const char *src;
	size_t len;
};

#ifdef __SSE2__
#define STREAMS 4u /* pages at a time */
#define STREAM_BYTES 256u /* of each in turn */

static inline void line_stream(char *dst, const char *src)
{
	const __m128i *from = (const __m128i *)src;
	__m128i *to = (__m128i *)dst;
	__m128i a = _mm_load_si128(from), b = _mm_load_si128(from + 1);
	__m128i c = _mm_load_si128(from + 2), d = _mm_load_si128(from + 3);

	_mm_stream_si128(to, a);
	_mm_stream_si128(to + 1, b);
	_mm_stream_si128(to + 2, c);
	_mm_stream_si128(to + 3, d);
}

/*
 * Past the cache: what goes by the megabyte would push out everything else, and
 * memcpy() of this size still reads what it is about to overwrite. Four lines of
 * one page, four of the next, and so on: four streams for the memory to work on, which is
 * a tenth faster than two, or than eight.
 */
static void copy_stream(char *dst, const char *src, size_t len, size_t page)
{
	size_t group, part, stream, at, end;

	for (group = 0; group < len; group += STREAMS * page)
		for (part = group; part < group + page; part += STREAM_BYTES)
			for (stream = 0; stream < STREAMS; stream++) {
				at = part + stream * page;
				for (end = at + STREAM_BYTES; at < end; at += 64)
					line_stream(dst + at, src + at);
			}
	_mm_sfence();
}
#else
#define STREAMS 1u

static void copy_stream(char *dst, const char *src, size_t len, size_t page)
{
	(void)page;
	memcpy(dst, src, len);
}
#endif

#define STREAM_MIN ((size_t)1 << 20)
#define READY_PAGES 64u /* allocated at a time */
#define MAP_PAGES 64u /* entered in the page table at a time */

static void copy_run(char *dst, const char *src, size_t len)
{
	size_t page = hmm_page_size(), whole = 0;

	if (len >= STREAM_MIN) {
		whole = len - len % (STREAMS * page);
		copy_stream(dst, src, whole, page);
	}
	memcpy(dst + whole, src + whole, len - whole);
}

static void run_flush(struct run *run)
{
	if (run->len && run->src)
		copy_run(run->dst, run->src, run->len);
	else if (run->len)
		memset(run->dst, 0, run->len);
	run->len = 0;
}

static void run_add(struct run *run, char *dst, const char *src, size_t len)
{
	bool fits = run->len && dst == run->dst + run->len &&
		    (src ? run->src && src == run->src + run->len : !run->src);

	if (!fits) {
		run_flush(run);
		run->dst = dst;
		run->src = src;
	}
	run->len += len;
}

static void delay(struct dummy_device *dev)
{
	struct timespec ts = {
		.tv_sec = dev->opt.copy_delay_us / 1000000,
		.tv_nsec = dev->opt.copy_delay_us % 1000000 * 1000L,
	};

	if (dev->opt.copy_delay_us)
		nanosleep(&ts, NULL);
}

/**
 * struct engine - one copy op
 * @dev: the device
 * @hmm: the mirror's table
 * @bus: the IOMMU's
 * @run: what is to be copied next
 * @full: there was no room for something
 * @ready: pages that were allocated for what comes in
 * @readies: how many there are
 * @next: the first that is not used yet
 * @count: what dev->stats is told in the end: an atomic a page would cost as much as all the rest
 */
struct engine {
	struct dummy_device *dev;
	struct hmm_pt_iter hmm;
	struct hmm_pt_iter bus;
	struct run run;
	bool full;
	struct hmm_page *ready[READY_PAGES];
	unsigned long readies;
	unsigned long next;
	struct {
		uint64_t pages_in, pages_zeroed, bytes_in, pages_peer, pages_out, bytes_out;
	} count;
};

static void engine_begin(struct engine *engine, struct hmm_mirror *mirror)
{
	engine->dev = hmm_container_of(mirror, struct dummy_device, mirror);
	engine->run.len = 0;
	engine->full = false;
	engine->readies = engine->next = 0;
	memset(&engine->count, 0, sizeof(engine->count));
	hmm_pt_iter_init(&engine->hmm, &mirror->pt);
	hmm_pt_iter_init(&engine->bus, &engine->dev->iommu.pt);
}

#define COUNT(engine, name)                                                            \
	do {                                                                           \
		if ((engine)->count.name)                                              \
			dummy_count(&(engine)->dev->stats.name, (engine)->count.name); \
	} while (0)

static void engine_end(struct engine *engine)
{
	while (engine->next < engine->readies)
		hmm_page_put(engine->ready[engine->next++]);
	run_flush(&engine->run);
	COUNT(engine, pages_in);
	COUNT(engine, pages_zeroed);
	COUNT(engine, bytes_in);
	COUNT(engine, pages_peer);
	COUNT(engine, pages_out);
	COUNT(engine, bytes_out);
	hmm_pt_iter_fini(&engine->hmm);
	hmm_pt_iter_fini(&engine->bus);
}

/* Where a page of system memory is; NULL: the engine cannot reach it. */
static char *system_page(struct engine *engine, hmm_pte_t pte, bool write)
{
	uint64_t addr = hmm_pte_addr(pte);

	if (!dummy_can_reach(engine->dev, pte))
		return NULL;
	if (engine->dev->opt.iommu)
		addr = dummy_iommu_lookup(engine->dev, &engine->bus, addr, write);
	return (char *)(uintptr_t)addr;
}

/* Where @src is; false: the engine cannot take it. NULL: it reads as zeros. */
static bool page_source(struct engine *engine, hmm_pte_t src, const char **from)
{
	struct dummy_device *owner;

	*from = NULL;
	if (hmm_pte_test_device(src)) {
		*from = dummy_memory_page(hmm_page_from_pfn(hmm_pte_pfn(src)), &owner);
		return *from && engine->dev->opt.peer && !dummy_is_lost(owner) &&
		       !dummy_fails(engine->dev, DUMMY_FAIL_PEER);
	}
	if (hmm_pte_test_zero(src))
		return true;
	*from = system_page(engine, src, false);
	return *from;
}

static void page_in_count(struct engine *engine, hmm_pte_t src)
{
	engine->count.pages_in++;
	if (hmm_pte_test_zero(src))
		engine->count.pages_zeroed++;
	else
		engine->count.bytes_in += engine->dev->page_size;
	engine->count.pages_peer += hmm_pte_test_device(src);
}

/* One page for what comes in, of @left that may. */
static struct hmm_page *page_ready(struct engine *engine, unsigned long left)
{
	if (engine->next == engine->readies) {
		engine->next = 0;
		engine->readies = dummy_memory_alloc_pages(
			engine->dev, left < READY_PAGES ? left : READY_PAGES, engine->ready);
	}
	return engine->readies ? engine->ready[engine->next++] : NULL;
}

/*
 * Copy one page in, to @page of a run or, if that is NULL, any; @left more may come, with this
 * one. 0: it stays.
 */
static hmm_pte_t page_in(struct engine *engine, hmm_pte_t src, struct hmm_page *page,
			 unsigned long left)
{
	struct dummy_device *dev = engine->dev;
	const char *from;

	if (!page_source(engine, src, &from) || dummy_fails(dev, DUMMY_FAIL_ALLOC)) {
		if (page)
			hmm_page_put(page);
		return 0;
	}
	if (!page)
		page = page_ready(engine, left);
	if (!page) {
		engine->full = true;
		return 0;
	}
	run_add(&engine->run, dummy_memory_page(page, &dev), from, dev->page_size);
	page_in_count(engine, src);
	return hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
}

static bool page_offered(hmm_pte_t src)
{
	return hmm_pte_test_valid(src) || hmm_pte_test_zero(src);
}

/* Device memory in one piece for [@addr, …) of @n pages, if they are 2 MiB, all offered. */
static struct hmm_page *take_run(struct dummy_device *dev, const hmm_pte_t *src, uint64_t addr,
				 unsigned long n)
{
	unsigned long run = hmm_devmem_run_pages(), i;
	struct hmm_page *page;

	if (!dev->opt.runs || n != run || addr & ((run << dev->page_shift) - 1))
		return NULL;
	for (i = 0; i < n; i++)
		if (!page_offered(hmm_pte_load(&src[i])))
			return NULL;
	page = dummy_memory_alloc_run(dev);
	if (page)
		dummy_count(&dev->stats.runs, 1);
	return page;
}

/* What is offered of @n pages from @addr on, in pieces of 2 MiB. */
static void pages_in(struct engine *engine, const hmm_pte_t *src, hmm_pte_t *dst, uint64_t addr,
		     unsigned long n)
{
	unsigned long all = hmm_devmem_run_pages(), i = 0;

	while (i < n) {
		unsigned long at = (addr >> engine->dev->page_shift) + i;
		unsigned long stop = n - i < all - at % all ? n : i + all - at % all;
		struct hmm_page *run;

		run = take_run(engine->dev, src + i, (uint64_t)at << engine->dev->page_shift,
			       stop - i);
		for (; i < stop; i++) {
			hmm_pte_t pte = hmm_pte_load(&src[i]);

			if (page_offered(pte))
				dst[i] = page_in(engine, pte, run ? run++ : NULL, n - i);
		}
	}
}

/* The engine is through with what came in; what had no room may be made some. */
static void pages_in_end(struct engine *engine, unsigned long start, unsigned long end)
{
	engine_end(engine);
	if (engine->full && engine->dev->opt.evict)
		dummy_memory_short(engine->dev, start, end);
}

void dummy_map_copied(struct dummy_device *dev, const hmm_pte_t *dst, unsigned long start,
		      unsigned long end)
{
	uint64_t ptes[MAP_PAGES];
	unsigned long addr = start;
	unsigned int i = 0;

	dummy_xlat_lock(dev);
	while (addr < end) {
		uint64_t pte = dummy_translate(dev, *dst++);

		ptes[i++] = pte && !dummy_discarding(dev, addr) ? pte : 0;
		addr += dev->page_size;
		if (i < MAP_PAGES && addr < end)
			continue;
		dummy_pgtable_set_run(&dev->pgtable, addr - i * dev->page_size, ptes, i);
		i = 0;
	}
	dummy_xlat_unlock(dev);
}

static int copy_in_begin(struct dummy_device *dev)
{
	delay(dev);
	return dummy_op_begin(dev) && !dummy_fails(dev, DUMMY_FAIL_COPY_TO) ? 0 : -EIO;
}

int dummy_copy_in(struct dummy_device *dev, const hmm_pte_t *src, hmm_pte_t *dst,
		  unsigned long start, unsigned long end)
{
	struct engine engine;
	int ret = copy_in_begin(dev);

	if (ret)
		return ret;
	engine_begin(&engine, &dev->mirror);
	pages_in(&engine, src, dst, start, (end - start) >> dev->page_shift);
	pages_in_end(&engine, start, end);
	return 0;
}

int dummy_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			 unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start;
	struct engine engine;
	int ret = copy_in_begin(dev);

	(void)event;
	if (ret)
		return ret;
	engine_begin(&engine, mirror);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&engine.hmm, &addr, &next);

		if (hmm)
			pages_in(&engine, hmm, &dst[(addr - start) >> dev->page_shift], addr,
				 (next - addr) >> dev->page_shift);
		addr = next;
	}
	pages_in_end(&engine, start, end);
	dummy_map_copied(dev, dst, start, end);
	return 0;
}

/* Copy one page out; false: it is lost. */
static bool page_out(struct engine *engine, hmm_pte_t src, hmm_pte_t dst)
{
	struct dummy_device *dev = engine->dev, *owner;
	char *to, *from;

	if (dummy_is_lost(dev) || dummy_fails(dev, DUMMY_FAIL_PAGE))
		return false;
	from = dummy_memory_page(hmm_page_from_pfn(hmm_pte_pfn(src)), &owner);
	if (owner != dev)
		return false;
	to = system_page(engine, dst, true);
	if (!to)
		return false;

	run_add(&engine->run, to, from, dev->page_size);
	engine->count.pages_out++;
	engine->count.bytes_out += dev->page_size;
	return true;
}

int dummy_copy_from_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			   unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start, copied = 0, lost = 0;
	struct engine engine;

	(void)event;
	delay(dev);
	if (!dummy_op_begin(dev) || dummy_fails(dev, DUMMY_FAIL_COPY_FROM))
		return -EIO;

	engine_begin(&engine, mirror);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&engine.hmm, &addr, &next);

		for (; hmm && addr < next; addr += dev->page_size, hmm++) {
			hmm_pte_t *to = &dst[(addr - start) >> dev->page_shift];
			hmm_pte_t src = hmm_pte_load(hmm);

			if (!hmm_pte_test_device(src) || !hmm_pte_test_valid(*to))
				continue;
			if (page_out(&engine, src, *to)) {
				copied++;
			} else {
				*to = 0;
				lost++;
			}
		}
	}
	engine_end(&engine);
	return lost && !copied ? -EIO : 0;
}
