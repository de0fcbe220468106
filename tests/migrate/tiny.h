/* SPDX-License-Identifier: MIT */
/*
 * The smallest driver that can migrate: memory, page descriptors, a copy by memcpy(), and
 * no mirror. Tests tell it what to take and what to lose, and ask what it was told.
 *
 * It lies in the arena, as a driver must. In an op nothing is asserted, which would leave
 * the op by a jump: what should not be is remembered in tiny->wrong.
 */
#ifndef TESTS_MIGRATE_TINY_H
#define TESTS_MIGRATE_TINY_H

#include "test_util.h"

#define TINY_REGIONS 4
#define TINY_CHUNK 512

enum tiny_op {
	TINY_TAKE,
	TINY_FINISH,
	TINY_COPY,
	TINY_FREE,
	TINY_AROUND,
	TINY_EVICT,
	TINY_UPDATE,
	TINY_CPU_PAGE
};
#define TINY_OPS 8

/*
 * For what the library calls, and what that calls: what a test has told the driver before
 * it touches a page comes to the thread that answers by way of the kernel, and there the
 * thread sanitizer sees no order.
 */
#define TINY_OP UNUSED __attribute__((no_sanitize("thread"))) static

struct tiny;

struct tiny_region {
	struct hmm_devmem devmem;
	struct tiny *tiny;
	char *memory;
	size_t bytes;
	unsigned long freed; /* atomic */
	unsigned long copied; /* atomic */
};

/*
 * @wants: which pages it takes; NULL: all
 * @inside: called in every op
 * @bend: called with what it took, before it says so
 * @take_ret, @copy_ret: what alloc_and_copy() and copy_from_device() return
 * @lose: the address that it cannot copy back; ~0ul: none can; 0: all can
 * @around_start, @around_end, @evict_start, @evict_end: its answers, where not 0
 * @evict_ret: of evict()
 * @readable: cpu_page() is counted, and answers, @beside bytes behind where the page is
 * @src, @dst, @start, @end: of the last alloc_and_copy()
 * @seen: of the last finalize_and_map(), its dst
 * @finished, @finished_dst: its range and how many pages had moved
 * @wrong: the line of the check that found what libhmm should not have done, or 0. atomic
 */
struct tiny {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct hmm_migrate migrate;
	const struct hmm_devmem_ops *ops;
	struct tiny_region region[TINY_REGIONS];
	unsigned int regions;
	bool (*wants)(struct tiny *tiny, unsigned long addr);
	void (*inside)(struct tiny *tiny, enum tiny_op op);
	void (*bend)(hmm_pte_t *dst);
	int take_ret;
	int copy_ret;
	unsigned long lose;
	unsigned long around_start;
	unsigned long around_end;
	unsigned long evict_start;
	unsigned long evict_end;
	unsigned long evict_pages;
	int evict_ret;
	bool readable;
	unsigned long beside;
	hmm_pte_t src[TINY_CHUNK];
	hmm_pte_t dst[TINY_CHUNK];
	hmm_pte_t seen[TINY_CHUNK];
	unsigned long start;
	unsigned long end;
	unsigned long finished; /* pages */
	unsigned long peers; /* sources that were another device's */
	unsigned long calls[TINY_OPS]; /* atomic */
	unsigned long wrong;
};

TINY_OP void tiny_count(unsigned long *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

UNUSED static unsigned long tiny_calls(struct tiny *tiny, enum tiny_op op)
{
	return __atomic_load_n(&tiny->calls[op], __ATOMIC_RELAXED);
}

#define tiny_check(tiny, good) tiny_check_line(tiny, good, __LINE__)

TINY_OP void tiny_check_line(struct tiny *tiny, bool good, unsigned int line)
{
	if (!good)
		__atomic_store_n(&tiny->wrong, line, __ATOMIC_RELAXED);
}

TINY_OP void tiny_enter(struct tiny *tiny, enum tiny_op op)
{
	tiny_count(&tiny->calls[op]);
	if (tiny->inside)
		tiny->inside(tiny, op);
}

UNUSED static struct tiny_region *tiny_region_of(struct hmm_devmem *devmem)
{
	return hmm_container_of(devmem, struct tiny_region, devmem);
}

/* Where the content of a page is; of any tiny device. */
UNUSED static char *tiny_memory(const struct hmm_page *page)
{
	return tiny_region_of(hmm_page_devmem(page))->memory + hmm_page_index(page) * PAGE;
}

/* ---- migration ---- */

TINY_OP hmm_pte_t tiny_take_page(struct tiny *tiny, hmm_pte_t src, unsigned long addr)
{
	struct hmm_page *page = NULL;
	unsigned int i;

	for (i = 0; i < tiny->regions && !page; i++)
		page = hmm_devmem_alloc(&tiny->region[i].devmem);
	if (!page)
		return 0;
	page->data = addr;
	if (hmm_pte_test_zero(src)) {
		memset(tiny_memory(page), 0, PAGE);
	} else if (hmm_pte_test_device(src)) {
		tiny->peers++;
		memcpy(tiny_memory(page), tiny_memory(hmm_page_from_pfn(hmm_pte_pfn(src))), PAGE);
	} else {
		tiny_check(tiny, hmm_pte_addr(src) != addr); /* not the program's own */
		memcpy(tiny_memory(page), (void *)(uintptr_t)hmm_pte_addr(src), PAGE);
	}
	return hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
}

TINY_OP int tiny_take(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
		      unsigned long start, unsigned long end)
{
	struct tiny *tiny = migrate->cookie;
	unsigned long i, n = (end - start) / PAGE;

	tiny_enter(tiny, TINY_TAKE);
	tiny_check(tiny, start < end && start / THP == (end - 1) / THP);
	tiny_check(tiny, start >= migrate->start && end <= migrate->end);
	tiny->start = start;
	tiny->end = end;
	for (i = 0; i < n; i++) {
		unsigned long addr = start + i * PAGE;

		tiny_check(tiny, !dst[i]);
		tiny_check(tiny, !src[i] || src[i] == HMM_PTE_ZERO || hmm_pte_test_valid(src[i]));
		tiny->src[i] = src[i];
		if (src[i] && !tiny->take_ret && (!tiny->wants || tiny->wants(tiny, addr)))
			dst[i] = tiny_take_page(tiny, src[i], addr);
		tiny->dst[i] = dst[i];
	}
	if (tiny->bend)
		tiny->bend(dst);
	return tiny->take_ret;
}

TINY_OP void tiny_finish(struct hmm_migrate *migrate, const hmm_pte_t *src, const hmm_pte_t *dst,
			 unsigned long start, unsigned long end)
{
	struct tiny *tiny = migrate->cookie;
	unsigned long i;

	tiny_enter(tiny, TINY_FINISH);
	tiny_check(tiny, start == tiny->start && end == tiny->end);
	for (i = 0; i < (end - start) / PAGE; i++) {
		tiny_check(tiny, src[i] == tiny->src[i]);
		tiny_check(tiny, !dst[i] || dst[i] == tiny->dst[i]);
		tiny->seen[i] = dst[i];
		tiny->finished += dst[i] != 0;
	}
}

UNUSED static const struct hmm_migrate_ops tiny_migrate_ops = {
	.size = sizeof(tiny_migrate_ops),
	.version = HMM_MIGRATE_OPS_VERSION,
	.alloc_and_copy = tiny_take,
	.finalize_and_map = tiny_finish,
};

/* ---- the region's ops ---- */

TINY_OP void tiny_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct tiny_region *region = tiny_region_of(devmem);

	tiny_enter(region->tiny, TINY_FREE);
	memset(tiny_memory(page), 0xa5, PAGE);
	tiny_count(&region->freed);
}

TINY_OP int tiny_copy(struct hmm_devmem *devmem, enum hmm_etype etype, const hmm_pte_t *src,
		      hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct tiny_region *region = tiny_region_of(devmem);
	struct tiny *tiny = region->tiny;
	unsigned long i, copied = 0, lost = 0;

	tiny_enter(tiny, TINY_COPY);
	tiny_check(tiny, etype == HMM_COPY_FROM_DEVICE || etype == HMM_FORK);
	for (i = 0; i < (end - start) / PAGE; i++) {
		struct hmm_page *page;

		if (!src[i] || !dst[i])
			continue;
		page = hmm_page_from_pfn(hmm_pte_pfn(src[i]));
		tiny_check(tiny, hmm_pte_test_device(src[i]) && hmm_page_devmem(page) == devmem);
		if (tiny->copy_ret || tiny->lose == ~0ul || tiny->lose == start + i * PAGE) {
			dst[i] = 0;
			lost++;
			continue;
		}
		memcpy((void *)(uintptr_t)hmm_pte_addr(dst[i]), tiny_memory(page), PAGE);
		copied++;
		tiny_count(&region->copied);
	}
	return tiny->copy_ret ? tiny->copy_ret : lost && !copied ? -EIO : 0;
}

TINY_OP void tiny_around(struct hmm_devmem *devmem, unsigned long addr, unsigned long *start,
			 unsigned long *end)
{
	struct tiny *tiny = tiny_region_of(devmem)->tiny;

	tiny_enter(tiny, TINY_AROUND);
	tiny_check(tiny, !(addr & (PAGE - 1)) && *start <= addr && *end >= addr + PAGE);
	if (tiny->around_start || tiny->around_end) {
		*start = tiny->around_start;
		*end = tiny->around_end;
	}
}

TINY_OP int tiny_evict(struct hmm_devmem *devmem, unsigned long pages, unsigned long *start,
		       unsigned long *end)
{
	struct tiny *tiny = tiny_region_of(devmem)->tiny;

	tiny_enter(tiny, TINY_EVICT);
	tiny_check(tiny, pages && *start == tiny->migrate.start && *end == tiny->migrate.end);
	tiny->evict_pages = pages;
	*start = tiny->evict_start;
	*end = tiny->evict_end;
	return tiny->evict_ret;
}

TINY_OP const void *tiny_cpu_page(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct tiny *tiny = tiny_region_of(devmem)->tiny;

	if (!tiny->readable)
		return NULL;
	tiny_enter(tiny, TINY_CPU_PAGE);
	tiny_check(tiny, hmm_page_devmem(page) == devmem);
	return tiny_memory(page) + tiny->beside;
}

UNUSED static const struct hmm_devmem_ops tiny_devmem_ops = {
	.size = sizeof(tiny_devmem_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = tiny_free,
	.copy_from_device = tiny_copy,
	.around = tiny_around,
	.evict = tiny_evict,
	.cpu_page = tiny_cpu_page,
};

/* ---- memory ---- */

/*
 * As map_aligned(), where nobody maps anything by himself: a hole that the test makes
 * stays one. (Below 2 GiB, where the sanitizers have no shadow.)
 */
UNUSED static char *map_low(size_t len)
{
	void *at = (void *)((uintptr_t)1 << 30);
	char *mem = mmap(at, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	assert_ptr_equal(mem, at);
	madvise(mem, len, MADV_NOHUGEPAGE);
	return mem;
}

/* ---- the device ---- */

TINY_OP int tiny_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)event;
	tiny_enter(hmm_container_of(mirror, struct tiny, mirror), TINY_UPDATE);
	return 0;
}

UNUSED static const struct hmm_device_ops tiny_ops = {
	.size = sizeof(tiny_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = tiny_update,
};

UNUSED static void tiny_add(struct tiny *tiny, size_t pages)
{
	struct tiny_region *region = &tiny->region[tiny->regions++];

	*region = (struct tiny_region){ .tiny = tiny, .bytes = pages * PAGE };
	region->devmem.size = sizeof(region->devmem);
	region->devmem.ops = tiny->ops ? tiny->ops : &tiny_devmem_ops;
	region->memory = hmm_map(region->bytes);
	assert_non_null(region->memory);
	assert_int_equal(hmm_devmem_add(&region->devmem, &tiny->device, region->bytes), 0);
}

/* With these ops of its regions; NULL: all that there are. */
UNUSED static struct tiny *tiny_new_with(size_t pages, const struct hmm_devmem_ops *ops)
{
	struct tiny *tiny = hmm_alloc(sizeof(*tiny));

	assert_non_null(tiny);
	tiny->ops = ops;
	tiny->device.size = sizeof(tiny->device);
	tiny->device.ops = &tiny_ops;
	tiny->device.name = "tiny";
	tiny->mirror.size = sizeof(tiny->mirror);
	tiny->mirror.device = &tiny->device;
	assert_int_equal(hmm_device_register(&tiny->device), 0);
	tiny_add(tiny, pages);
	return tiny;
}

UNUSED static struct tiny *tiny_new(size_t pages)
{
	return tiny_new_with(pages, NULL);
}

UNUSED static size_t tiny_used(struct tiny *tiny)
{
	size_t used = 0;
	unsigned int i;

	for (i = 0; i < tiny->regions; i++)
		used += hmm_devmem_pages(&tiny->region[i].devmem) -
			hmm_devmem_free_pages(&tiny->region[i].devmem);
	return used;
}

/* All of it, and what is there comes home first. */
UNUSED static void tiny_destroy(struct tiny *tiny)
{
	unsigned int i;

	for (i = 0; i < tiny->regions; i++) {
		if (tiny->region[i].devmem.state)
			assert_int_equal(hmm_devmem_remove(&tiny->region[i].devmem), 0);
		hmm_unmap(tiny->region[i].memory, tiny->region[i].bytes);
	}
	if (tiny->mirror.state)
		assert_int_equal(hmm_mirror_unregister(&tiny->mirror), 0);
	assert_int_equal(hmm_device_unregister(&tiny->device), 0);
	assert_int_equal(tiny->wrong, 0);
	hmm_free(tiny);
}

/* hmm_migrate_vma(); @result may be NULL. */
UNUSED static int tiny_migrate(struct tiny *tiny, const void *mem, size_t pages, uint8_t *result,
			       unsigned long *moved)
{
	int ret;

	tiny->migrate = (struct hmm_migrate){
		.size = sizeof(tiny->migrate),
		.flags = tiny->migrate.flags,
		.device = &tiny->device,
		.ops = &tiny_migrate_ops,
		.start = addr_of(mem),
		.end = addr_of(mem) + pages * PAGE,
		.cookie = tiny,
		.result = result,
		.pages = 4711,
	};
	ret = hmm_migrate_vma(&tiny->migrate);
	if (moved)
		*moved = tiny->migrate.pages;
	return ret;
}

UNUSED static void tiny_migrate_all(struct tiny *tiny, const char *mem, size_t pages)
{
	unsigned long moved;

	assert_int_equal(tiny_migrate(tiny, mem, pages, NULL, &moved), 0);
	assert_int_equal(moved, pages);
	assert_int_equal(count_on_cpu(mem, pages), 0);
}

/* The device page that was taken for @addr, last; NULL: there is none. */
UNUSED static struct hmm_page *tiny_find(struct tiny *tiny, const void *addr)
{
	struct hmm_page *page;
	unsigned int i;

	for (i = 0; i < tiny->regions; i++) {
		page = hmm_devmem_next_used(&tiny->region[i].devmem, 0);
		while (page && page->data != addr_of(addr))
			page = hmm_devmem_next_used(&tiny->region[i].devmem,
						    hmm_page_index(page) + 1);
		if (page)
			return page;
	}
	return NULL;
}

#endif
