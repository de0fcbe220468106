/* SPDX-License-Identifier: MIT */
/*
 * A device whose memory costs nothing: of each page it keeps the first word, in the page's
 * descriptor, and makes the rest of it anew when it comes back. So there can be more of it
 * than the machine has memory, and what is measured is libhmm.
 *
 * A page must hold bench_tag_fill() of any tag, or nothing but zeros (tag 0).
 */
#ifndef BENCH_TAG_H
#define BENCH_TAG_H

#include "bench_hmm.h"

#define BENCH_TAG_STEP 0x9e3779b97f4a7c15ull

/* In the arena: libhmm calls its ops while pages are on their way. */
struct bench_tag {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct hmm_devmem devmem;
	unsigned long updates; /* atomic */
};

static inline uint64_t bench_tag_word(uint64_t tag, size_t word)
{
	return tag ? tag + word * BENCH_TAG_STEP : 0;
}

static inline void bench_tag_fill(void *page, uint64_t tag)
{
	uint64_t *w = page;
	size_t i, n = bench_page_size() / sizeof(*w);

	for (i = 0; i < n; i++)
		w[i] = bench_tag_word(tag, i);
}

static inline void bench_tag_check(const void *page, uint64_t tag, const char *when)
{
	const volatile uint64_t *w = page;
	size_t i, n = bench_page_size() / sizeof(*w);

	for (i = 0; i < n; i++)
		if (w[i] != bench_tag_word(tag, i))
			bench_fail("wrong data %s: word %zu of tag %llu", when, i,
				   (unsigned long long)tag);
}

static inline int bench_tag_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct bench_tag *tag = hmm_container_of(mirror, struct bench_tag, mirror);

	(void)event;
	__atomic_fetch_add(&tag->updates, 1, __ATOMIC_RELAXED);
	return 0;
}

static inline int bench_tag_to(struct hmm_mirror *mirror, const struct hmm_event *event,
			       hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct bench_tag *tag = hmm_container_of(mirror, struct bench_tag, mirror);
	unsigned long addr = start, next;
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (next = end; (ptep = hmm_pt_iter_walk(&iter, &addr, &next)); addr = next, next = end)
		for (; addr < next; addr += bench_page_size(), ptep++) {
			hmm_pte_t src = hmm_pte_load(ptep);
			struct hmm_page *page = src ? hmm_devmem_alloc(&tag->devmem) : NULL;

			if (!page)
				continue;
			page->data = hmm_pte_test_valid(src) ?
					     *(uint64_t *)(uintptr_t)hmm_pte_addr(src) :
					     0;
			dst[(addr - start) / bench_page_size()] = hmm_pte_from_device_pfn(
				hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
		}
	hmm_pt_iter_fini(&iter);
	return 0;
}

static inline int bench_tag_from(struct hmm_mirror *mirror, const struct hmm_event *event,
				 hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	unsigned long addr = start, next;
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (next = end; (ptep = hmm_pt_iter_walk(&iter, &addr, &next)); addr = next, next = end)
		for (; addr < next; addr += bench_page_size(), ptep++) {
			hmm_pte_t src = hmm_pte_load(ptep);
			hmm_pte_t to = dst[(addr - start) / bench_page_size()];

			if (hmm_pte_test_device(src) && hmm_pte_test_valid(to))
				bench_tag_fill((void *)(uintptr_t)hmm_pte_addr(to),
					       hmm_page_from_pfn(hmm_pte_pfn(src))->data);
		}
	hmm_pt_iter_fini(&iter);
	return 0;
}

static const struct hmm_device_ops bench_tag_ops = {
	.size = sizeof(bench_tag_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = bench_tag_update,
	.copy_to_device = bench_tag_to,
	.copy_from_device = bench_tag_from,
};

/* @bytes of memory; 0: it only mirrors. */
static inline struct bench_tag *bench_tag_open(size_t bytes)
{
	struct bench_tag *tag = hmm_alloc(sizeof(*tag));

	if (!tag)
		bench_fail("no memory");
	tag->device.size = sizeof(tag->device);
	tag->device.flags = HMM_DEVICE_PROMPT;
	tag->device.ops = &bench_tag_ops;
	tag->device.name = "tag";
	tag->mirror.size = sizeof(tag->mirror);
	tag->mirror.device = &tag->device;
	tag->devmem.size = sizeof(tag->devmem);
	if (hmm_device_register(&tag->device) || hmm_mirror_register(&tag->mirror) ||
	    (bytes && hmm_devmem_add(&tag->devmem, &tag->device, bytes)))
		bench_fail("the tag device was refused");
	return tag;
}

static inline void bench_tag_close(struct bench_tag *tag)
{
	if ((tag->devmem.state && hmm_devmem_remove(&tag->devmem)) ||
	    hmm_mirror_unregister(&tag->mirror) || hmm_device_unregister(&tag->device))
		bench_fail("the tag device stays");
	hmm_free(tag);
}

/* Of all @pages the event must say that they are where they shall be. */
static inline void bench_tag_event(struct bench_tag *tag, enum hmm_etype etype, void *addr,
				   size_t bytes, size_t pages)
{
	struct hmm_event event = {
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + bytes,
		.etype = etype,
	};
	int ret = hmm_mirror_fault(&tag->mirror, &event);

	if (ret || event.pages != pages)
		bench_fail("event %d: %s, %lu pages of %zu", etype, strerror(-ret), event.pages,
			   pages);
}

#endif
