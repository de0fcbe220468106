/* SPDX-License-Identifier: MIT */
/*
 * The smallest driver: a device that reads the process's memory through a page table
 * of its own, which libhmm keeps in step with the CPU's. docs/mirroring.md explains it.
 *
 * The device is a few lines of software. Where a real one has a translation unit it
 * has a table of a few entries. Where a real one does DMA it reads /proc/self/mem,
 * which gives an error where a page is missing, as a device does, instead of waiting
 * for it: who waits with the lock that update() takes waits for ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <hmm/hmm.h>

#define TOY_ENTRIES 64

struct toy_entry {
	unsigned long addr;
	hmm_pte_t pte; /* 0: free */
};

struct toy {
	struct hmm_device device;
	struct hmm_mirror mirror;
	pthread_mutex_t lock; /* the translation unit */
	struct toy_entry entry[TOY_ENTRIES];
	int memory; /* /proc/self/mem */
	unsigned int faults;
};

/* One access of the device. Stacks are never migrated: it may live on one. */
struct toy_access {
	unsigned long addr;
	long value;
	bool done;
};

static struct toy_entry *toy_slot(struct toy *toy, unsigned long addr)
{
	return &toy->entry[(addr >> hmm_page_shift()) % TOY_ENTRIES];
}

/* The access itself, with the lock held: by the translation, not by the address. */
static void toy_load(struct toy *toy, struct toy_access *access, hmm_pte_t pte)
{
	unsigned long offset = access->addr & (hmm_page_size() - 1);
	off_t from = (off_t)(hmm_pte_addr(pte) + offset);

	access->done = pread(toy->memory, &access->value, sizeof(long), from) == sizeof(long);
}

/* The fault was answered: take over what the mirror's page table says. */
static void toy_map(struct toy *toy, const struct hmm_event *event)
{
	unsigned long addr = event->start;
	struct hmm_pt_iter iter;

	hmm_pt_iter_init(&iter, &toy->mirror.pt);
	while (addr < event->end) {
		unsigned long next = event->end;
		hmm_pte_t *pte = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; pte && addr < next; addr += hmm_page_size(), pte++) {
			hmm_pte_t found = hmm_pte_load(pte);

			if (hmm_pte_test_once(found))
				toy_load(toy, event->cookie, found);
			else
				*toy_slot(toy, addr) = (struct toy_entry){ addr, found };
		}
	}
	hmm_pt_iter_fini(&iter);
}

static void toy_unmap(struct toy *toy, const struct hmm_event *event)
{
	struct toy_entry *e;

	for (e = toy->entry; e < toy->entry + TOY_ENTRIES; e++)
		if (e->addr >= event->start && e->addr < event->end)
			e->pte = 0;
}

static int toy_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	struct toy *toy = hmm_container_of(mirror, struct toy, mirror);

	pthread_mutex_lock(&toy->lock);
	switch (event->etype) {
	case HMM_DEVICE_RFAULT:
		toy_map(toy, event);
		break;
	case HMM_FORK:
	case HMM_ISDIRTY:
	case HMM_WRITE_PROTECT:
		break; /* this device never writes */
	default:
		toy_unmap(toy, event);
	}
	pthread_mutex_unlock(&toy->lock);
	return 0;
}

static const struct hmm_device_ops toy_ops = {
	.size = sizeof(toy_ops),
	.version = HMM_DEVICE_OPS_VERSION,
	.update = toy_update,
};

static void toy_try(struct toy *toy, struct toy_access *access)
{
	struct toy_entry *e = toy_slot(toy, access->addr);

	pthread_mutex_lock(&toy->lock);
	if (e->addr == (access->addr & -hmm_page_size()) && hmm_pte_test_valid(e->pte))
		toy_load(toy, access, e->pte);
	pthread_mutex_unlock(&toy->lock);
}

/* The device reads a word; where it has no translation it takes a fault. */
static int toy_read(struct toy *toy, const void *where, long *value)
{
	struct toy_access access = { .addr = (unsigned long)where };
	struct hmm_event event = {
		.start = access.addr & -hmm_page_size(),
		.end = (access.addr & -hmm_page_size()) + hmm_page_size(),
		.etype = HMM_DEVICE_RFAULT,
		.cookie = &access,
	};

	hmm_mirror_sync(&toy->mirror);
	toy_try(toy, &access);
	while (!access.done) {
		int ret = hmm_mirror_fault(&toy->mirror, &event);

		if (ret)
			return ret;
		toy->faults++;
		if (!access.done)
			toy_try(toy, &access);
	}
	*value = access.value;
	return 0;
}

static int toy_open(struct toy **out)
{
	struct toy *toy = hmm_alloc(sizeof(*toy));
	int ret;

	if (!toy)
		return -ENOMEM;
	pthread_mutex_init(&toy->lock, NULL);
	toy->memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	ret = -errno;
	if (toy->memory < 0)
		goto out_free;
	toy->device.size = sizeof(toy->device);
	toy->device.name = "toy";
	toy->device.ops = &toy_ops;
	ret = hmm_device_register(&toy->device);
	if (ret)
		goto out_close;
	toy->mirror.size = sizeof(toy->mirror);
	toy->mirror.device = &toy->device;
	ret = hmm_mirror_register(&toy->mirror);
	if (ret)
		goto out_device;
	*out = toy;
	return 0;

out_device:
	hmm_device_unregister(&toy->device);
out_close:
	close(toy->memory);
out_free:
	hmm_free(toy);
	return ret;
}

static void toy_close(struct toy *toy)
{
	hmm_mirror_unregister(&toy->mirror);
	hmm_device_unregister(&toy->device);
	close(toy->memory);
	hmm_free(toy);
}

int main(void)
{
	size_t page = hmm_page_size();
	long value = 0, *mem;
	struct toy *toy = NULL;
	int ret = toy_open(&toy);

	if (ret) {
		struct hmm_features features = { .size = sizeof(features) };

		hmm_probe(&features);
		fprintf(stderr, "mirror: %s: %s\n", strerror(-ret), features.reason);
		return ret == -EPERM || ret == -ENOSYS ? 77 : 1;
	}
	mem = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return 1;

	*mem = 42;
	ret = toy_read(toy, mem, &value);
	printf("the CPU wrote 42; the device reads %ld (%s)\n", value, strerror(-ret));
	*mem = 43;
	ret = ret ? ret : toy_read(toy, mem, &value);
	printf("the CPU wrote 43; the device reads %ld, after %u fault\n", value, toy->faults);
	mprotect(mem, page, PROT_NONE);
	printf("nobody may read it; the device gets: %s\n", strerror(-toy_read(toy, mem, &value)));

	ret = ret || value != 43 || toy->faults != 1 || toy_read(toy, mem, &value) != -EFAULT;
	toy_close(toy);
	return ret;
}
