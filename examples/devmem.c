/* SPDX-License-Identifier: MIT */
/*
 * Device memory alone: descriptors and reference counts for memory that the CPU cannot
 * address. No mirror, no migration, no userfaultfd: it works wherever libhmm does.
 * docs/migration.md explains it.
 *
 * The card has memory that it cuts into pages, and two parts of a driver share them: a
 * queue, which the card reads its commands from, and a log, which keeps some of them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <hmm/hmm.h>

#define RUNS 4 /* 2 MiB each */

enum { NOBODY, QUEUE, LOG, TEXTURE };

static const char *const names[] = { "nobody", "the queue", "the log", "a texture" };

struct card {
	struct hmm_device device;
	struct hmm_devmem devmem;
	unsigned long freed; /* atomic */
	uint64_t last_owner; /* of the page that was freed last */
};

/* The last reference is gone; page->data is as the driver left it. */
static void card_free(struct hmm_devmem *devmem, struct hmm_page *page)
{
	struct card *card = hmm_container_of(devmem, struct card, devmem);

	__atomic_store_n(&card->last_owner, page->data, __ATOMIC_RELAXED);
	__atomic_fetch_add(&card->freed, 1, __ATOMIC_RELAXED);
	page->data = NOBODY;
}

static const struct hmm_devmem_ops memory_ops = {
	.size = sizeof(memory_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.free = card_free,
};

/* Nothing here needs an op of the device. */
static const struct hmm_device_ops device_ops = {
	.size = sizeof(device_ops),
	.version = HMM_DEVICE_OPS_VERSION,
};

static int card_open(struct card **out)
{
	struct card *card = hmm_alloc(sizeof(*card)); /* for what an op touches */
	int ret;

	if (!card)
		return -ENOMEM;
	card->device.size = sizeof(card->device);
	card->device.name = "card";
	card->device.ops = &device_ops;
	ret = hmm_device_register(&card->device);
	if (ret)
		goto out_free;
	card->devmem.size = sizeof(card->devmem);
	card->devmem.ops = &memory_ops;
	ret = hmm_devmem_add(&card->devmem, &card->device,
			     RUNS * hmm_devmem_run_pages() * hmm_page_size());
	if (ret)
		goto out_device;
	*out = card;
	return 0;

out_device:
	hmm_device_unregister(&card->device);
out_free:
	hmm_free(card);
	return ret;
}

static unsigned int wrong;

static void check(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "devmem: %s: wrong\n", what);
	wrong++;
}

/* One page that two have: the second one's reference keeps it. */
static void share(struct card *card)
{
	struct hmm_page *page = hmm_devmem_alloc(&card->devmem), *found;

	check(page, "a page of an empty region");
	if (!page)
		return;
	page->data = QUEUE;
	found = hmm_page_from_pfn(hmm_page_pfn(page));
	check(found == page && hmm_page_devmem(found) == &card->devmem, "pfn to page to region");
	printf("page %lu has device pfn 0x%llx and %u reference; the pfn leads back to it\n",
	       hmm_page_index(page), (unsigned long long)hmm_page_pfn(page), page->refcount);

	hmm_page_get(page); /* the log wants it too */
	hmm_page_put(page); /* the queue has done with it */
	check(page->refcount == 1 && !card->freed, "a page that one of two has put");
	page->data = LOG;
	hmm_page_put(page);
	check(card->freed == 1 && card->last_owner == LOG, "free() at the last reference");
	printf("shared by two, put by both: free() ran %lu time, for %s\n", card->freed,
	       names[card->last_owner]);
}

/* Pages in one piece, each with a reference count of its own. */
static struct hmm_page *take_run(struct card *card)
{
	unsigned long n = hmm_devmem_run_pages(), i;
	struct hmm_page *run = hmm_devmem_alloc_run(&card->devmem);

	check(run && hmm_page_index(run) % n == 0, "a run");
	for (i = 0; run && i < n; i++) {
		check(run[i].refcount == 1, "a page of a run");
		run[i].data = TEXTURE;
	}
	if (run)
		printf("2 MiB in one piece: pages %lu to %lu; %lu of %lu are free\n",
		       hmm_page_index(run), hmm_page_index(run) + n - 1,
		       hmm_devmem_free_pages(&card->devmem), hmm_devmem_pages(&card->devmem));
	return run;
}

/* Every page that is left; until there is none. */
static void fill(struct card *card)
{
	unsigned long taken = 0, i = 0;
	struct hmm_page *page;

	while ((page = hmm_devmem_alloc(&card->devmem))) {
		page->data = QUEUE;
		taken++;
	}
	check(!hmm_devmem_free_pages(&card->devmem), "a full region");
	printf("%lu pages more, and it is full\n", taken);
	while ((page = hmm_devmem_next_used(&card->devmem, i))) {
		i = hmm_page_index(page) + 1;
		if (page->data == QUEUE)
			hmm_page_put(page);
	}
}

/* A page in use keeps its region. */
static int take_away(struct card *card, struct hmm_page *run)
{
	unsigned long n = hmm_devmem_run_pages(), i;
	struct hmm_page *used;

	check(hmm_devmem_remove(&card->devmem) == -EBUSY, "a region in use is removed");
	used = hmm_devmem_next_used(&card->devmem, 0);
	check(used == run, "the page in use");
	if (used)
		printf("the region cannot go: page %lu is in use, by %s\n", hmm_page_index(used),
		       names[used->data]);
	for (i = 0; run && i < n; i++)
		hmm_page_put(run + i);
	return hmm_devmem_remove(&card->devmem);
}

int main(void)
{
	struct hmm_page *run;
	struct card *card = NULL;
	int ret = card_open(&card);

	if (ret) {
		fprintf(stderr, "devmem: %s\n", strerror(-ret));
		return 1;
	}
	share(card);
	run = take_run(card);
	fill(card);
	ret = take_away(card, run);
	printf("put, page by page, it goes: %s; free() ran %lu times\n", strerror(-ret),
	       card->freed);
	check(card->freed == RUNS * hmm_devmem_run_pages() + 1, "how often free() ran");
	ret = ret ? ret : hmm_device_unregister(&card->device);
	hmm_free(card);
	return ret || wrong;
}
