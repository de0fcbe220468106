/* SPDX-License-Identifier: MIT */
/*
 * A driver that keeps its device's page table by itself: it takes snapshots of the CPU
 * page table, and enters them by the protocol of include/hmm/range.h. The mirror page
 * table (examples/mirror.c) stays empty. docs/mirroring.md explains both.
 *
 * The device sums an array through its own translations, again and again, while a
 * thread of the program puts new pages in the place of the array's.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hmm/hmm.h>

#define PAGES 64
#define WINDOW 16 /* pages that one device fault asks for */
#define ROUNDS 20

struct toy {
	struct hmm_device device;
	struct hmm_mirror mirror;
	int memory; /* /proc/self/mem: for DMA, see mirror.c */
	unsigned long base; /* what the device's page table is for */
	pthread_mutex_t lock; /* the device's page table; update() takes it */
	hmm_pfn_t entry[PAGES];
	unsigned long snapshots, again, invalidations;
};

/* Something happens to a range: the device has no translation of it when this returns. */
static int toy_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct toy *toy = hmm_container_of(mirror, struct toy, mirror);
	unsigned long i, addr;

	pthread_mutex_lock(&toy->lock);
	for (i = 0, addr = toy->base; i < PAGES; i++, addr += hmm_page_size())
		if (addr >= event->start && addr < event->end)
			toy->entry[i] = 0;
	toy->invalidations++;
	pthread_mutex_unlock(&toy->lock);
	return 0;
}

/*
 * The device faults. A snapshot is entered under the lock that update() takes, and only
 * if nothing has happened since it was taken: what happens next finds it entered.
 */
static int toy_fault(struct toy *toy, size_t first)
{
	hmm_pfn_t pfns[WINDOW];
	struct hmm_range range = {
		.size = sizeof(range),
		.mirror = &toy->mirror,
		.start = toy->base + first * hmm_page_size(),
		.end = toy->base + (first + WINDOW) * hmm_page_size(),
		.pfns = pfns,
	};
	bool done = false;

	while (!done) {
		int ret = hmm_range_fault(&range);

		if (ret)
			return ret;
		pthread_mutex_lock(&toy->lock);
		done = hmm_range_done(&range);
		if (done)
			memcpy(toy->entry + first, pfns, sizeof(pfns));
		toy->snapshots++;
		toy->again += !done;
		pthread_mutex_unlock(&toy->lock);
	}
	return 0;
}

static bool toy_load(struct toy *toy, size_t page, long *value)
{
	bool loaded = false;

	pthread_mutex_lock(&toy->lock);
	if (toy->entry[page] & HMM_PFN_VALID)
		loaded = pread(toy->memory, value, sizeof(*value),
			       (off_t)hmm_pfn_addr(toy->entry[page])) == sizeof(*value);
	if (!loaded)
		toy->entry[page] = 0; /* or it is gone just now: update() is on its way */
	pthread_mutex_unlock(&toy->lock);
	return loaded;
}

/* What the device does all day: the first word of each page. */
static int toy_sum(struct toy *toy, long *sum)
{
	long value = 0;
	size_t i;

	hmm_mirror_sync(&toy->mirror);
	for (i = 0, *sum = 0; i < PAGES; i++, *sum += value) {
		while (!toy_load(toy, i, &value)) {
			int ret = toy_fault(toy, i - i % WINDOW);

			if (ret)
				return ret;
		}
	}
	return 0;
}

static const struct hmm_device_ops toy_ops = {
	.size = sizeof(toy_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = toy_update,
};

static int toy_open(struct toy **out)
{
	struct toy *toy = hmm_alloc(sizeof(*toy));
	int ret;

	if (!toy)
		return -ENOMEM;
	pthread_mutex_init(&toy->lock, NULL);
	toy->memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	toy->device =
		(struct hmm_device){ .size = sizeof(toy->device), .name = "toy", .ops = &toy_ops };
	toy->mirror = (struct hmm_mirror){ .size = sizeof(toy->mirror), .device = &toy->device };
	ret = toy->memory < 0 ? -errno : hmm_device_register(&toy->device);
	if (!ret)
		ret = hmm_mirror_register(&toy->mirror);
	*out = toy;
	return ret;
}

/* ---- the program ---- */

static bool ended; /* atomic */

static char *map_pages(size_t pages)
{
	return mmap(NULL, pages * hmm_page_size(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* A new page, with the same number in it, in the place of each; ROUNDS times. */
static void *replace_pages(void *base)
{
	size_t page = hmm_page_size(), i;

	for (i = 0; i < ROUNDS * PAGES; i++) {
		char *fresh = map_pages(1), *at = (char *)base + i % PAGES * page;

		*(long *)fresh = (long)(i % PAGES) + 1;
		mremap(fresh, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, at);
	}
	__atomic_store_n(&ended, true, __ATOMIC_RELEASE);
	return NULL;
}

int main(void)
{
	long sum, right = PAGES * (PAGES + 1) / 2;
	struct toy *toy = NULL;
	int i, ret = toy_open(&toy), sums = 0, wrong = 0;
	pthread_t thread;
	char *array;

	if (ret) {
		struct hmm_features features = { .size = sizeof(features) };

		hmm_probe(&features);
		fprintf(stderr, "snapshot: %s: %s\n", strerror(-ret), features.reason);
		return ret == -EPERM || ret == -ENOSYS ? 77 : 1;
	}
	array = map_pages(PAGES);
	toy->base = (unsigned long)array;
	for (i = 0; i < PAGES; i++)
		*(long *)(array + (size_t)i * hmm_page_size()) = i + 1;
	if (pthread_create(&thread, NULL, replace_pages, array))
		return 1;
	for (; !__atomic_load_n(&ended, __ATOMIC_ACQUIRE) || !sums; sums++) {
		ret = toy_sum(toy, &sum);
		if (!ret && sum == right)
			continue;
		fprintf(stderr, "snapshot: %s; the sum is %ld, not %ld\n", strerror(-ret), sum,
			right);
		wrong++;
	}
	pthread_join(thread, NULL);
	printf("%d sums while each of %d pages was replaced %d times: %d wrong\n", sums, PAGES,
	       ROUNDS, wrong);
	mprotect(array, PAGES * hmm_page_size(), PROT_NONE);
	ret = toy_sum(toy, &sum);
	printf("nobody may read it; the device gets: %s\n", strerror(-ret));
	hmm_mirror_unregister(&toy->mirror);
	printf("%lu snapshots, %lu of them in vain; %lu times told that a page goes\n",
	       toy->snapshots, toy->again, toy->invalidations);
	hmm_device_unregister(&toy->device);
	close(toy->memory);
	hmm_free(toy);
	return wrong || ret != -EFAULT;
}
