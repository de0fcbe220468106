/* SPDX-License-Identifier: MIT */
/*
 * The copy engine, and the device's memory.
 *
 * It works on what libhmm names in the mirror's page table and in @dst, and on
 * nothing of the program's: sources and destinations are pages that nobody else can
 * reach. Behind an IOMMU those are DMA addresses too, which it looks up page by
 * page; what is contiguous for the CPU is copied in one go all the same.
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
static void line_stream(char *dst, const char *src)
{
	unsigned int i;

	for (i = 0; i < 64; i += 16)
		_mm_stream_si128((__m128i *)(dst + i), _mm_load_si128((const __m128i *)(src + i)));
}

/*
 * Past the cache: what goes by the megabyte would push out everything else, and
 * memcpy() of this size still reads what it is about to overwrite. Four lines of
 * one page, four of the next: two streams for the memory to work on.
 */
static void copy_stream(char *dst, const char *src, size_t len, size_t page)
{
	size_t pair, at, i;

	for (pair = 0; pair < len; pair += 2 * page)
		for (at = pair; at < pair + page; at += 256)
			for (i = 0; i < 256; i += 64) {
				line_stream(dst + at + i, src + at + i);
				line_stream(dst + at + page + i, src + at + page + i);
			}
	_mm_sfence();
}
#else
static void copy_stream(char *dst, const char *src, size_t len, size_t page)
{
	(void)page;
	memcpy(dst, src, len);
}
#endif

#define STREAM_MIN ((size_t)1 << 20)

static void copy_run(char *dst, const char *src, size_t len)
{
	size_t page = hmm_page_size(), whole = 0;

	if (len >= STREAM_MIN) {
		whole = len - len % (2 * page);
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
 */
struct engine {
	struct dummy_device *dev;
	struct hmm_pt_iter hmm;
	struct hmm_pt_iter bus;
	struct run run;
};

static void engine_begin(struct engine *engine, struct hmm_mirror *mirror)
{
	engine->dev = hmm_container_of(mirror, struct dummy_device, mirror);
	engine->run.len = 0;
	hmm_pt_iter_init(&engine->hmm, &mirror->pt);
	hmm_pt_iter_init(&engine->bus, &engine->dev->iommu.pt);
}

static void engine_end(struct engine *engine)
{
	run_flush(&engine->run);
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

static char *device_page(struct dummy_device *dev, struct hmm_page *page)
{
	return dev->memory + ((size_t)hmm_page_index(page) << dev->page_shift);
}

/* Copy one page in; 0: it stays. */
static hmm_pte_t page_in(struct engine *engine, hmm_pte_t src)
{
	struct dummy_device *dev = engine->dev;
	struct hmm_page *page = NULL;
	const char *from = NULL;

	if (!hmm_pte_test_zero(src)) {
		from = system_page(engine, src, false);
		if (!from)
			return 0;
	}
	if (!dummy_fails(dev, DUMMY_FAIL_ALLOC))
		page = hmm_devmem_alloc(&dev->devmem);
	if (!page)
		return 0;

	run_add(&engine->run, device_page(dev, page), from, dev->page_size);
	dummy_count(&dev->stats.pages_in, 1);
	dummy_count(from ? &dev->stats.bytes_in : &dev->stats.pages_zeroed,
		    from ? dev->page_size : 1);
	return hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
}

/* Enter what was copied; a page that finds no directory is mapped by the next fault. */
static void map_copied(struct dummy_device *dev, const hmm_pte_t *dst, unsigned long start,
		       unsigned long end)
{
	unsigned long addr, i;

	dummy_xlat_lock(dev);
	for (addr = start, i = 0; addr < end; addr += dev->page_size, i++) {
		uint64_t pte = dummy_translate(dev, dst[i]);

		if (pte && !dummy_discarding(dev, addr))
			dummy_pgtable_set(&dev->pgtable, addr, pte);
	}
	dummy_xlat_unlock(dev);
}

int dummy_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event, hmm_pte_t *dst,
			 unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start;
	struct engine engine;

	(void)event;
	delay(dev);
	if (dummy_fails(dev, DUMMY_FAIL_COPY_TO))
		return -EIO;

	engine_begin(&engine, mirror);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&engine.hmm, &addr, &next);

		for (; hmm && addr < next; addr += dev->page_size, hmm++) {
			hmm_pte_t src = hmm_pte_load(hmm);

			if (hmm_pte_test_valid(src) || hmm_pte_test_zero(src))
				dst[(addr - start) >> dev->page_shift] = page_in(&engine, src);
		}
	}
	engine_end(&engine);
	map_copied(dev, dst, start, end);
	return 0;
}

/* Copy one page out; false: it is lost. */
static bool page_out(struct engine *engine, hmm_pte_t src, hmm_pte_t dst)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(src));
	struct dummy_device *dev = engine->dev;
	char *to;

	if (dummy_fails(dev, DUMMY_FAIL_PAGE))
		return false;
	if (!page || hmm_page_devmem(page) != &dev->devmem)
		return false;
	to = system_page(engine, dst, true);
	if (!to)
		return false;

	run_add(&engine->run, to, device_page(dev, page), dev->page_size);
	dummy_count(&dev->stats.pages_out, 1);
	dummy_count(&dev->stats.bytes_out, dev->page_size);
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
	if (dummy_fails(dev, DUMMY_FAIL_COPY_FROM))
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

void dummy_memory_free_page(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct dummy_device *dev = hmm_container_of(devmem, struct dummy_device, devmem);

	if (dev->opt.scrub)
		memset(device_page(dev, page), 0xa5, dev->page_size);
}
