/* SPDX-License-Identifier: MIT */
/*
 * The dummy device's callbacks: its side of the contract in hmm/device.h.
 *
 * They touch the arena, the copy's sources and destinations, and nothing else;
 * they wait for the translation lock and the leaf locks below it. So they are prompt,
 * unless the options say otherwise.
 *
 * The device's own table, not the mirror's, tells what the device may be using.
 * So what takes permission away walks that: it is complete, whatever libhmm has
 * forgotten, and short, because a range may be all of the address space.
 */
#include <errno.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <string.h>
#include <time.h>

#include "internal.h"

/*
 * Take away, in the device's table, write permission, or the whole translation
 * if @drop, and hand the dirty bits to the mirror's table, if @tell.
 */
static void revoke_range(struct dummy_device *dev, uint64_t start, uint64_t end, bool drop,
			 bool tell)
{
	struct hmm_pt_iter iter;
	uint64_t addr = start, *ptep;
	hmm_pte_t *hmm;

	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	dummy_xlat_lock(dev);
	while ((ptep = dummy_pgtable_next(&dev->pgtable, &addr, end))) {
		if (tell && (*ptep & DUMMY_PTE_DIRTY)) {
			hmm = hmm_pt_iter_lookup(&iter, addr);
			if (hmm && hmm_pte_test_valid(hmm_pte_load(hmm)))
				hmm_pte_set_dirty(hmm);
		}
		if (drop || !(*ptep & DUMMY_PTE_VALID))
			dummy_pgtable_clear(&dev->pgtable, addr);
		else
			*ptep &= ~(DUMMY_PTE_WRITE | DUMMY_PTE_DIRTY);
		addr += dev->page_size;
	}
	dummy_xlat_unlock(dev);
	hmm_pt_iter_fini(&iter);
}

/* What the device's table shall hold for an entry of the mirror's; 0: nothing. */
static uint64_t translate(struct dummy_device *dev, hmm_pte_t hmm)
{
	uint64_t pte = DUMMY_PTE_VALID;
	struct hmm_page *page;

	if (!hmm_pte_test_valid(hmm))
		return 0;
	if (hmm_pte_test_write(hmm))
		pte |= DUMMY_PTE_WRITE;
	if (!hmm_pte_test_device(hmm))
		return pte | hmm_pte_addr(hmm);

	page = hmm_page_from_pfn(hmm_pte_pfn(hmm));
	if (!page || hmm_page_devmem(page) != &dev->devmem)
		return 0;
	return pte | DUMMY_PTE_DEVICE | (uint64_t)hmm_page_index(page) << dev->page_shift;
}

/* Enter one page; what the device did there before is still to be told. */
static int map_page(struct dummy_device *dev, uint64_t addr, uint64_t pte)
{
	uint64_t *old = dummy_pgtable_lookup(&dev->pgtable, addr);

	if (old)
		pte |= *old & (DUMMY_PTE_DIRTY | DUMMY_PTE_ACCESSED);
	return dummy_pgtable_set(&dev->pgtable, addr, pte);
}

/* A fault was answered: take over the mirror's entries. */
static int map_range(struct dummy_device *dev, const struct hmm_event *event)
{
	struct hmm_pt_iter iter;
	unsigned long addr = event->start;
	uint64_t pte;
	int ret = 0;

	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	dummy_xlat_lock(dev);
	while (addr < event->end && !ret) {
		unsigned long next = event->end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; hmm && addr < next && !ret; addr += dev->page_size, hmm++) {
			pte = translate(dev, hmm_pte_load(hmm));
			if (pte)
				ret = map_page(dev, addr, pte);
		}
	}
	dummy_xlat_unlock(dev);
	hmm_pt_iter_fini(&iter);

	/* All or nothing: the mirror forgets the range, so must the device. */
	if (ret)
		revoke_range(dev, event->start, event->end, true, true);
	return ret;
}

static int dummy_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);

	if (event->etype <= HMM_WRITE_PROTECT)
		dummy_count(&dev->stats.updates[event->etype], 1);
	if (dummy_fails(dev, DUMMY_FAIL_UPDATE)) {
		/* Nobody will ask to take away the rest: a dead mirror gets no update(). */
		if (event->etype != HMM_DEVICE_RFAULT && event->etype != HMM_DEVICE_WFAULT)
			revoke_range(dev, 0, UINT64_MAX, true, false);
		return -EIO;
	}

	switch (event->etype) {
	case HMM_DEVICE_RFAULT:
	case HMM_DEVICE_WFAULT:
		return map_range(dev, event);
	case HMM_FORK:
	case HMM_ISDIRTY:
	case HMM_WRITE_PROTECT:
		revoke_range(dev, event->start, event->end, false, true);
		return 0;
	default: /* and of a type not known here, the most that can be asked for */
		revoke_range(dev, event->start, event->end, true, true);
		return 0;
	}
}

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

/* Copy one page in; 0: there is no device page for it. */
static hmm_pte_t page_in(struct dummy_device *dev, struct run *run, hmm_pte_t src)
{
	const char *from = NULL;
	struct hmm_page *page = NULL;

	if (!dummy_fails(dev, DUMMY_FAIL_ALLOC))
		page = hmm_devmem_alloc(&dev->devmem);
	if (!page)
		return 0;

	if (!hmm_pte_test_zero(src))
		from = (const char *)(uintptr_t)hmm_pte_addr(src);
	run_add(run, dev->memory + ((size_t)hmm_page_index(page) << dev->page_shift), from,
		dev->page_size);
	dummy_count(&dev->stats.pages_in, 1);
	dummy_count(from ? &dev->stats.bytes_in : &dev->stats.pages_zeroed,
		    from ? dev->page_size : 1);
	return hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
}

static int dummy_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event,
				hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start, i;
	struct run run = { .len = 0 };
	struct hmm_pt_iter iter;

	(void)event;
	delay(dev);
	if (dummy_fails(dev, DUMMY_FAIL_COPY_TO))
		return -EIO;

	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; hmm && addr < next; addr += dev->page_size, hmm++) {
			hmm_pte_t src = hmm_pte_load(hmm);

			if (hmm_pte_test_valid(src) || hmm_pte_test_zero(src))
				dst[(addr - start) >> dev->page_shift] = page_in(dev, &run, src);
		}
	}
	run_flush(&run);
	hmm_pt_iter_fini(&iter);

	/* A page that finds no directory here is mapped by the next device fault. */
	dummy_xlat_lock(dev);
	for (addr = start, i = 0; addr < end; addr += dev->page_size, i++) {
		uint64_t pte = translate(dev, dst[i]);

		if (pte)
			dummy_pgtable_set(&dev->pgtable, addr, pte);
	}
	dummy_xlat_unlock(dev);
	return 0;
}

/* Copy one page out; false: it is lost. */
static bool page_out(struct dummy_device *dev, struct run *run, hmm_pte_t src, hmm_pte_t dst)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(src));

	if (dummy_fails(dev, DUMMY_FAIL_PAGE))
		return false;
	if (!page || hmm_page_devmem(page) != &dev->devmem)
		return false;

	run_add(run, (char *)(uintptr_t)hmm_pte_addr(dst),
		dev->memory + ((size_t)hmm_page_index(page) << dev->page_shift), dev->page_size);
	dummy_count(&dev->stats.pages_out, 1);
	dummy_count(&dev->stats.bytes_out, dev->page_size);
	return true;
}

static int dummy_copy_from_device(struct hmm_mirror *mirror, const struct hmm_event *event,
				  hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct dummy_device *dev = hmm_container_of(mirror, struct dummy_device, mirror);
	unsigned long addr = start, copied = 0, lost = 0;
	struct run run = { .len = 0 };
	struct hmm_pt_iter iter;

	(void)event;
	delay(dev);
	if (dummy_fails(dev, DUMMY_FAIL_COPY_FROM))
		return -EIO;

	hmm_pt_iter_init(&iter, &mirror->pt);
	while (addr < end) {
		unsigned long next = end;
		hmm_pte_t *hmm = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; hmm && addr < next; addr += dev->page_size, hmm++) {
			hmm_pte_t *to = &dst[(addr - start) >> dev->page_shift];
			hmm_pte_t src = hmm_pte_load(hmm);

			if (!hmm_pte_test_device(src) || !hmm_pte_test_valid(*to))
				continue;
			if (page_out(dev, &run, src, *to)) {
				copied++;
			} else {
				*to = 0;
				lost++;
			}
		}
	}
	run_flush(&run);
	hmm_pt_iter_fini(&iter);
	return lost && !copied ? -EIO : 0;
}

static void dummy_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct dummy_device *dev = hmm_container_of(devmem, struct dummy_device, devmem);

	if (dev->opt.scrub)
		memset(dev->memory + ((size_t)hmm_page_index(page) << dev->page_shift), 0xa5,
		       dev->page_size);
}

const struct hmm_device_ops dummy_ops = {
	.size = sizeof(struct hmm_device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = dummy_update,
	.copy_to_device = dummy_copy_to_device,
	.copy_from_device = dummy_copy_from_device,
	.hold = dummy_hold,
	.release = dummy_release,
};

const struct hmm_device_ops dummy_ops_no_memory = {
	.size = sizeof(struct hmm_device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = dummy_update,
	.hold = dummy_hold,
	.release = dummy_release,
};

const struct hmm_devmem_ops dummy_devmem_ops = {
	.size = sizeof(struct hmm_devmem_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = dummy_free,
};
