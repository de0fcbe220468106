/* SPDX-License-Identifier: MIT */
/*
 * The copy engine.
 *
 * It works on what libhmm names as sources and in @dst, and on nothing of the program's:
 * sources and destinations are pages that nobody else can reach, and with opt.peer another
 * dummy device's, which that does not use now. Behind an IOMMU those of the system are DMA
 * addresses, which it looks up page by page; what is contiguous for the CPU is copied in one
 * go all the same.
 */
#include <errno.h>
#ifdef __SSE2__
#include <immintrin.h>
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
#define STREAMS 4u
#define STREAM_BYTES 512u /* of each in turn; STREAMS of them divide a page */

#define AVX __attribute__((target("avx")))

static inline void line_sse(char *dst, const char *src)
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

static inline AVX void line_avx(char *dst, const char *src)
{
	const __m256i *from = (const __m256i *)src;
	__m256i *to = (__m256i *)dst;
	__m256i a = _mm256_load_si256(from), b = _mm256_load_si256(from + 1);

	_mm256_stream_si256(to, a);
	_mm256_stream_si256(to + 1, b);
}

/*
 * Past the cache: what goes by the megabyte would push out everything else, and
 * memcpy() of this size still reads what it is about to overwrite. Eight lines of the first
 * quarter, eight of the second, and so on: four streams for the memory to work on, each
 * straight on, which is a twentieth faster than through four pages at a time, or than
 * with two streams.
 */
static inline __attribute__((always_inline)) void copy_lines(char *dst, const char *src, size_t len,
							     void (*line)(char *, const char *))
{
	size_t part, stream, at, end;

	for (part = 0; part < len / STREAMS; part += STREAM_BYTES)
		for (stream = 0; stream < STREAMS; stream++) {
			at = stream * (len / STREAMS) + part;
			for (end = at + STREAM_BYTES; at < end; at += 64)
				line(dst + at, src + at);
		}
	_mm_sfence();
}

static void copy_sse(char *dst, const char *src, size_t len)
{
	copy_lines(dst, src, len, line_sse);
}

/* Half as many stores: a twentieth faster again; twice as wide is not. */
static AVX void copy_avx(char *dst, const char *src, size_t len)
{
	copy_lines(dst, src, len, line_avx);
}

static void copy_stream(char *dst, const char *src, size_t len)
{
	(__builtin_cpu_supports("avx") ? copy_avx : copy_sse)(dst, src, len);
}
#else
static void copy_stream(char *dst, const char *src, size_t len)
{
	memcpy(dst, src, len);
}
#endif

#define STREAM_MIN ((size_t)1 << 20)
#define READY_PAGES 64u /* allocated at a time */
#define MAP_PAGES 64u /* entered in the page table at a time */

/* Whole pages. */
static void copy_run(char *dst, const char *src, size_t len)
{
	if (len >= STREAM_MIN)
		copy_stream(dst, src, len);
	else
		memcpy(dst, src, len);
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
 * @bus: the IOMMU's
 * @run: what is to be copied next
 * @single: page by page: each is looked up, or may fail, by itself
 * @full: there was no room for something
 * @ready: pages that were allocated for what comes in
 * @readies: how many there are
 * @next: the first that is not used yet
 * @count: what dev->stats is told in the end: an atomic a page would cost as much as all the rest
 */
struct engine {
	struct dummy_device *dev;
	struct hmm_pt_iter bus;
	struct run run;
	bool single;
	bool full;
	struct hmm_page *ready[READY_PAGES];
	unsigned long readies;
	unsigned long next;
	struct {
		uint64_t pages_in, pages_zeroed, bytes_in, pages_peer, pages_out, bytes_out;
	} count;
};

static void engine_begin(struct engine *engine, struct dummy_device *dev)
{
	engine->dev = dev;
	engine->run.len = 0;
	engine->single = dev->opt.iommu || dummy_may_fail(dev, DUMMY_FAIL_ALLOC) ||
			 dummy_may_fail(dev, DUMMY_FAIL_PEER) ||
			 dummy_may_fail(dev, DUMMY_FAIL_PAGE);
	engine->full = false;
	engine->readies = engine->next = 0;
	memset(&engine->count, 0, sizeof(engine->count));
	hmm_pt_iter_init(&engine->bus, &dev->iommu.pt);
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

/*
 * How many of @n entries are as the first: each names the page behind the one before, or all
 * of them none.
 */
static unsigned long ptes_run(const hmm_pte_t *ptes, unsigned long n)
{
	hmm_pte_t first = hmm_pte_load(ptes);
	uint64_t step = hmm_pte_test_valid(first) ? hmm_page_size() : 0;
	unsigned long i = 1;

	while (i < n && hmm_pte_load(&ptes[i]) == first + i * step)
		i++;
	return i;
}

/*
 * Where @src is, and how many of the *@n from there on lie behind it; false: the engine cannot
 * take it. NULL: it reads as zeros.
 */
static bool run_source(struct engine *engine, hmm_pte_t src, const char **from, unsigned long *n)
{
	struct dummy_device *owner;

	*from = NULL;
	if (hmm_pte_test_device(src)) {
		*from = dummy_memory_run(hmm_pte_pfn(src), n, &owner);
		return *from && engine->dev->opt.peer && !dummy_is_lost(owner) &&
		       !dummy_fails(engine->dev, DUMMY_FAIL_PEER);
	}
	if (hmm_pte_test_zero(src))
		return true;
	*from = system_page(engine, src, false);
	return *from;
}

static void run_count(struct engine *engine, hmm_pte_t src, unsigned long n)
{
	engine->count.pages_in += n;
	if (hmm_pte_test_zero(src))
		engine->count.pages_zeroed += n;
	else
		engine->count.bytes_in += n * engine->dev->page_size;
	if (hmm_pte_test_device(src))
		engine->count.pages_peer += n;
}

/*
 * The next page for what comes in, of @left that may, and how many of *@n there are with
 * descriptors behind its own.
 */
static struct hmm_page *pages_ready(struct engine *engine, unsigned long left, unsigned long *n)
{
	struct hmm_page **page;
	unsigned long i = 1, end;

	if (engine->next == engine->readies) {
		engine->next = 0;
		engine->readies = dummy_memory_alloc_pages(
			engine->dev, left < READY_PAGES ? left : READY_PAGES, engine->ready);
	}
	end = engine->readies - engine->next;
	if (!end)
		return NULL;
	page = &engine->ready[engine->next];
	for (end = end < *n ? end : *n; i < end && page[i] == page[0] + i; i++)
		;
	*n = i;
	return page[0];
}

/*
 * Copy a run of @n pages in, to @page and those behind it or, if that is NULL, to any; @left
 * more may come, with these. How many this was about: all have an entry in @dst, or the one
 * stays.
 */
static unsigned long run_in(struct engine *engine, hmm_pte_t src, hmm_pte_t *dst, unsigned long n,
			    struct hmm_page *page, unsigned long left)
{
	struct dummy_device *dev = engine->dev;
	bool ready = !page;
	const char *from;
	unsigned long i;
	uint64_t pfn;
	char *to;

	if (!run_source(engine, src, &from, &n) || dummy_fails(dev, DUMMY_FAIL_ALLOC)) {
		if (page)
			hmm_page_put(page);
		return 1;
	}
	if (ready)
		page = pages_ready(engine, left, &n);
	if (!page) {
		engine->full = true;
		return 1;
	}
	pfn = hmm_page_pfn(page);
	to = dummy_memory_run(pfn, &n, &dev);
	if (ready)
		engine->next += n;
	run_add(&engine->run, to, from, n * dev->page_size);
	run_count(engine, src, n);
	for (i = 0; i < n; i++)
		dst[i] = hmm_pte_from_device_pfn(pfn + i, HMM_PTE_VALID | HMM_PTE_WRITE);
	return n;
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
		unsigned long first = i, k;
		struct hmm_page *run;

		run = take_run(engine->dev, src + i, (uint64_t)at << engine->dev->page_shift,
			       stop - i);
		for (; i < stop; i += k) {
			hmm_pte_t pte = hmm_pte_load(&src[i]);

			k = ptes_run(src + i, engine->single ? 1 : stop - i);
			if (page_offered(pte))
				k = run_in(engine, pte, dst + i, k, run ? run + (i - first) : NULL,
					   n - i);
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

/* What the device's table shall hold for @n entries from @addr on; 0: nothing. */
static void translate(struct dummy_device *dev, const hmm_pte_t *dst, uint64_t *ptes,
		      unsigned int n, unsigned long addr)
{
	unsigned long run;
	unsigned int i, j;

	for (i = 0; i < n; i += run) {
		uint64_t pte;

		run = ptes_run(dst + i, n - i);
		pte = dummy_translate(dev, dst[i], &run);
		for (j = 0; j < run; j++)
			ptes[i + j] = pte ? pte + j * dev->page_size : 0;
	}
	for (i = 0; dev->discards && i < n; i++)
		if (dummy_discarding(dev, addr + i * dev->page_size))
			ptes[i] = 0;
}

void dummy_map_copied(struct dummy_device *dev, const hmm_pte_t *dst, unsigned long start,
		      unsigned long end)
{
	uint64_t ptes[MAP_PAGES];
	unsigned int n;

	dummy_xlat_lock(dev);
	for (; start < end; start += n * dev->page_size, dst += n) {
		unsigned long left = (end - start) >> dev->page_shift;

		n = left < MAP_PAGES ? (unsigned int)left : MAP_PAGES;
		translate(dev, dst, ptes, n, start);
		dummy_pgtable_set_run(&dev->pgtable, start, ptes, n);
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
	engine_begin(&engine, dev);
	pages_in(&engine, src, dst, start, (end - start) >> dev->page_shift);
	pages_in_end(&engine, start, end);
	return 0;
}

int dummy_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			 unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start;
	struct hmm_pt_iter iter;
	struct engine engine;
	int ret = copy_in_begin(dev);

	(void)event;
	if (ret)
		return ret;
	engine_begin(&engine, dev);
	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		if (hmm)
			pages_in(&engine, hmm, &dst[(addr - start) >> dev->page_shift], addr,
				 (next - addr) >> dev->page_shift);
		addr = next;
	}
	hmm_pt_iter_fini(&iter);
	pages_in_end(&engine, start, end);
	dummy_map_copied(dev, dst, start, end);
	return 0;
}

/* Copy a run of @n pages out; how many of them: 0, the first is lost. */
static unsigned long run_out(struct engine *engine, hmm_pte_t src, hmm_pte_t dst, unsigned long n)
{
	struct dummy_device *dev = engine->dev, *owner;
	char *to, *from;

	if (dummy_is_lost(dev) || dummy_fails(dev, DUMMY_FAIL_PAGE))
		return 0;
	from = dummy_memory_run(hmm_pte_pfn(src), &n, &owner);
	if (owner != dev)
		return 0;
	to = system_page(engine, dst, true);
	if (!to)
		return 0;

	run_add(&engine->run, to, from, n * dev->page_size);
	engine->count.pages_out += n;
	engine->count.bytes_out += n * dev->page_size;
	return n;
}

/* What is here of @n pages, and wanted; the entry of what is lost is 0. How many are. */
static unsigned long pages_out(struct engine *engine, const hmm_pte_t *src, hmm_pte_t *dst,
			       unsigned long n)
{
	unsigned long i, run, lost = 0;

	for (i = 0; i < n; i += run) {
		hmm_pte_t pte = hmm_pte_load(&src[i]);

		run = 1;
		if (!hmm_pte_test_device(pte) || !hmm_pte_test_valid(dst[i]))
			continue;
		if (!engine->single)
			run = ptes_run(dst + i, ptes_run(src + i, n - i));
		run = run_out(engine, pte, dst[i], run);
		if (!run) {
			dst[i] = 0;
			lost++;
			run = 1;
		}
	}
	return lost;
}

int dummy_copy_out(struct dummy_device *dev, const hmm_pte_t *src, hmm_pte_t *dst, unsigned long n)
{
	struct engine engine;
	unsigned long lost;
	bool copied;

	delay(dev);
	if (!dummy_op_begin(dev) || dummy_fails(dev, DUMMY_FAIL_COPY_FROM))
		return -EIO;

	engine_begin(&engine, dev);
	lost = pages_out(&engine, src, dst, n);
	copied = engine.count.pages_out;
	engine_end(&engine);
	return lost && !copied ? -EIO : 0;
}

int dummy_copy_from_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			   unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start;
	struct hmm_pt_iter iter;
	int ret = 0;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < end && !ret) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		if (hmm)
			ret = dummy_copy_out(dev, hmm, &dst[(addr - start) >> dev->page_shift],
					     (next - addr) >> dev->page_shift);
		addr = next;
	}
	hmm_pt_iter_fini(&iter);
	return ret;
}
