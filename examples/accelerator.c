/* SPDX-License-Identifier: MIT */
/*
 * A device with a page table and memory: it works on any memory of the program where that
 * is, and has the pages that it works on most moved into its own memory. They come back
 * when the CPU touches them. docs/mirroring.md and docs/migration.md explain it.
 *
 * Its translation unit is a table here, one entry a page of an array. Accesses to system
 * memory go by /proc/self/mem, see mirror.c; those to its own memory are loads and stores.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hmm/hmm.h>

#define PAGES 64ul /* that the device's page table can hold */
#define BLOCK 8ul /* pages that are moved together */
#define HOT 100 /* accesses over the bus after which they are */

struct accel {
	struct hmm_device device;
	struct hmm_mirror mirror;
	struct hmm_devmem devmem;
	int bus; /* /proc/self/mem */
	char *memory; /* its own, as many pages */
	unsigned long base; /* the array */
	pthread_mutex_t lock; /* for what follows, the translation unit */
	hmm_pte_t entry[PAGES]; /* with HMM_PTE_DIRTY; 0: no translation */
	unsigned int heat[PAGES / BLOCK];
	unsigned long remote, local, faults;
};

/* One access. It may live on a stack: those are not migrated. */
struct accel_access {
	unsigned long addr;
	uint64_t add;
	bool done;
};

static unsigned long accel_page(const struct accel *accel, unsigned long addr)
{
	return (addr - accel->base) >> hmm_page_shift();
}

/* ---- the device, with accel->lock held ---- */

static char *accel_memory(struct accel *accel, hmm_pte_t pte)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(pte));

	return accel->memory + hmm_page_index(page) * hmm_page_size();
}

/* Add to a word. Of a page that is gone just now it gets an error, and update() comes. */
static void accel_add(struct accel *accel, struct accel_access *access, hmm_pte_t pte)
{
	unsigned long offset = access->addr & (hmm_page_size() - 1);
	off_t at = (off_t)(hmm_pte_addr(pte) + offset);
	uint64_t word;

	if (hmm_pte_test_device(pte)) {
		*(uint64_t *)(void *)(accel_memory(accel, pte) + offset) += access->add;
		access->done = true;
		accel->local++;
	} else if (pread(accel->bus, &word, sizeof(word), at) == sizeof(word)) {
		word += access->add;
		access->done = pwrite(accel->bus, &word, sizeof(word), at) == sizeof(word);
		accel->remote++;
	}
}

/* The access by the device's own page table. False: it has no translation for it. */
static bool accel_try(struct accel *accel, struct accel_access *access)
{
	unsigned long page = accel_page(accel, access->addr);
	hmm_pte_t *e = &accel->entry[page];

	pthread_mutex_lock(&accel->lock);
	if (hmm_pte_test_valid(*e) && hmm_pte_test_write(*e))
		accel_add(accel, access, *e);
	if (access->done) {
		*e |= HMM_PTE_DIRTY;
		accel->heat[page / BLOCK] += !hmm_pte_test_device(*e);
	}
	pthread_mutex_unlock(&accel->lock);
	return access->done;
}

/* ---- the driver's ops ---- */

/* What the mirror page table has for a page of the op's range. */
static hmm_pte_t accel_entry(struct hmm_pt_iter *iter, unsigned long addr)
{
	hmm_pte_t *pte = hmm_pt_iter_lookup(iter, addr);

	return pte ? hmm_pte_load(pte) : 0;
}

/* A fault was answered: take over what libhmm says. */
static void accel_map(struct accel *accel, const struct hmm_event *event)
{
	hmm_pte_t *e = accel->entry + accel_page(accel, event->start);
	unsigned long addr;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &accel->mirror.pt);
	for (addr = event->start; addr < event->end; addr += hmm_page_size(), e++) {
		hmm_pte_t found = accel_entry(&iter, addr);

		if (hmm_pte_test_once(found))
			accel_add(accel, event->cookie, found);
		else
			*e = (found & ~HMM_PTE_DIRTY) | (*e & HMM_PTE_DIRTY);
	}
	hmm_pt_iter_fini(&iter);
}

/* Take @flags of the entries in a range away, and say what was written. */
static void accel_revoke(struct accel *accel, const struct hmm_event *event, hmm_pte_t flags)
{
	hmm_pte_t *e = accel->entry;
	struct hmm_pt_iter iter;
	unsigned long addr;

	hmm_pt_iter_init(&iter, &accel->mirror.pt);
	for (addr = accel->base; e < accel->entry + PAGES; e++, addr += hmm_page_size()) {
		hmm_pte_t *pte;

		if (addr < event->start || addr >= event->end)
			continue;
		pte = hmm_pte_test_dirty(*e) ? hmm_pt_iter_lookup(&iter, addr) : NULL;
		if (pte)
			hmm_pte_set_dirty(pte);
		*e &= ~(flags | HMM_PTE_DIRTY);
	}
	hmm_pt_iter_fini(&iter);
}

static int accel_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct accel *accel = hmm_container_of(mirror, struct accel, mirror);

	pthread_mutex_lock(&accel->lock);
	switch (event->etype) {
	case HMM_DEVICE_RFAULT:
	case HMM_DEVICE_WFAULT:
		accel_map(accel, event);
		break;
	case HMM_FORK:
	case HMM_ISDIRTY:
	case HMM_WRITE_PROTECT:
		accel_revoke(accel, event, HMM_PTE_WRITE);
		break;
	default: /* HMM_MIGRATE, HMM_MUNMAP */
		accel_revoke(accel, event, ~(hmm_pte_t)0);
	}
	pthread_mutex_unlock(&accel->lock);
	return 0;
}

/* Pages come: what the mirror page table has for the range are the sources. */
static int accel_copy_to_device(struct hmm_mirror *mirror, const struct hmm_event *event,
				hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct accel *accel = hmm_container_of(mirror, struct accel, mirror);
	unsigned long addr, size = hmm_page_size();
	struct hmm_pt_iter iter;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (addr = start; addr < end; addr += size, dst++) {
		hmm_pte_t src = accel_entry(&iter, addr);
		struct hmm_page *page = src ? hmm_devmem_alloc(&accel->devmem) : NULL;

		if (!page)
			continue; /* it stays */
		*dst = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
		if (hmm_pte_test_zero(src))
			memset(accel_memory(accel, *dst), 0, size);
		else
			memcpy(accel_memory(accel, *dst), (void *)hmm_pte_addr(src), size);
	}
	hmm_pt_iter_fini(&iter);
	return 0;
}

/* Pages go: those that have a destination. update() has taken their translation away. */
static int accel_copy_from_device(struct hmm_mirror *mirror, const struct hmm_event *event,
				  hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	struct accel *accel = hmm_container_of(mirror, struct accel, mirror);
	unsigned long addr, size = hmm_page_size();
	struct hmm_pt_iter iter;

	(void)event;
	hmm_pt_iter_init(&iter, &mirror->pt);
	for (addr = start; addr < end; addr += size, dst++) {
		hmm_pte_t src = accel_entry(&iter, addr);

		if (hmm_pte_test_device(src) && hmm_pte_test_valid(*dst))
			memcpy((void *)hmm_pte_addr(*dst), accel_memory(accel, src), size);
	}
	hmm_pt_iter_fini(&iter);
	return 0;
}

static const struct hmm_device_ops accel_ops = {
	.size = sizeof(accel_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = accel_update,
	.copy_to_device = accel_copy_to_device,
	.copy_from_device = accel_copy_from_device,
};

/* ---- the driver's work ---- */

/* What it works on most shall be near. What cannot move goes on as before. */
static int accel_gather(struct accel *accel, unsigned long block)
{
	unsigned long size = BLOCK * hmm_page_size();
	struct hmm_event event = {
		.start = accel->base + block * size,
		.end = accel->base + (block + 1) * size,
		.etype = HMM_COPY_TO_DEVICE,
	};

	accel->heat[block] = 0;
	return hmm_mirror_fault(&accel->mirror, &event);
}

/* The device adds to a word of the program; where it has no translation it faults. */
static int accel_run(struct accel *accel, void *where, uint64_t add)
{
	struct accel_access access = { .addr = (unsigned long)where, .add = add };
	unsigned long block = accel_page(accel, access.addr) / BLOCK;
	struct hmm_event event = {
		.start = access.addr & -hmm_page_size(),
		.end = (access.addr & -hmm_page_size()) + hmm_page_size(),
		.etype = HMM_DEVICE_WFAULT,
		.cookie = &access,
	};

	hmm_mirror_sync(&accel->mirror);
	while (!access.done && !accel_try(accel, &access)) {
		int ret = hmm_mirror_fault(&accel->mirror, &event);

		if (ret)
			return ret;
		accel->faults++;
	}
	return accel->heat[block] >= HOT ? accel_gather(accel, block) : 0;
}

static int accel_open(struct accel **out)
{
	struct accel *accel = hmm_alloc(sizeof(*accel)); /* for what an op touches */
	int ret = -ENOMEM;

	*out = accel;
	if (!accel)
		return ret;
	pthread_mutex_init(&accel->lock, NULL);
	accel->memory = hmm_map(PAGES * hmm_page_size());
	accel->bus = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	accel->device.size = sizeof(accel->device);
	accel->device.name = "accelerator";
	accel->device.ops = &accel_ops;
	accel->devmem.size = sizeof(accel->devmem);
	accel->mirror.size = sizeof(accel->mirror);
	accel->mirror.device = &accel->device;
	if (accel->memory && accel->bus >= 0)
		ret = hmm_device_register(&accel->device);
	if (!ret)
		ret = hmm_devmem_add(&accel->devmem, &accel->device, PAGES * hmm_page_size());
	return ret ? ret : hmm_mirror_register(&accel->mirror);
}

/* All of it comes home with the mirror. What was never registered says so, and is not. */
static void accel_close(struct accel *accel)
{
	hmm_mirror_unregister(&accel->mirror);
	hmm_devmem_remove(&accel->devmem);
	hmm_device_unregister(&accel->device);
	close(accel->bus);
	hmm_unmap(accel->memory, PAGES * hmm_page_size());
	hmm_free(accel);
}

/* ---- the program ---- */

/* How often the device adds 1 to the first word of a page: two blocks are worked on most. */
static unsigned int times(unsigned long page)
{
	return page / BLOCK == 2 || page / BLOCK == 5 ? 300 : 1;
}

static int work(struct accel *accel, char *array)
{
	uint8_t where[PAGES];
	unsigned int round;
	unsigned long i;
	int ret = 0;

	for (round = 0; round < 300; round++)
		for (i = 0; i < PAGES && !ret; i++)
			if (round < times(i))
				ret = accel_run(accel, array + i * hmm_page_size(), 1);
	if (!ret)
		ret = hmm_range_where(accel->base, accel->base + PAGES * hmm_page_size(), where);
	if (ret)
		return ret;
	printf("the device has worked: %lu accesses over the bus, %lu near, %lu faults\n",
	       accel->remote, accel->local, accel->faults);
	for (i = 0; i < PAGES; i++)
		putchar(where[i] == HMM_WHERE_DEVICE ? 'D' : 's');
	return 0;
}

int main(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	struct accel *accel = NULL;
	int ret = accel_open(&accel);
	bool right = true;
	unsigned long i;
	char *array;

	array = mmap(NULL, PAGES * hmm_page_size(), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!accel || array == MAP_FAILED)
		return 1;
	accel->base = (unsigned long)array;
	ret = ret ? ret : work(accel, array);
	for (i = 0; !ret && i < PAGES; i++)
		right = right && *(uint64_t *)(void *)(array + i * hmm_page_size()) == times(i);
	right = right && accel->local;
	accel_close(accel);
	if (!ret) {
		printf("\nthe CPU reads %s\n", right ? "what the device wrote" : "something else");
		return !right;
	}
	hmm_probe(&features);
	fprintf(stderr, "accelerator: %s: %s\n", strerror(-ret), features.reason);
	return ret == -EPERM || ret == -ENOSYS || ret == -EOPNOTSUPP ? 77 : 1;
}
