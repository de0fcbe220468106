/* SPDX-License-Identifier: MIT */
/*
 * Moving the data of an access between a port's bounce page and memory.
 *
 * Device pages are read and written in dev->memory, word by word.
 *
 * System pages are never touched by a CPU pointer: the page may have left at any
 * moment, and a load that then waits in a CPU fault would wait for libhmm, which
 * waits in update() for the translation lock. pread() and pwrite() on
 * /proc/self/mem do not wait: on a page that userfaultfd keeps missing, and on
 * unmapped memory, they return EIO. That is what DMA would do, more or less: the
 * transfer fails, the entry is not used again, and the device faults.
 * They do not heed write protection; the entry's write bit does.
 */
#include <errno.h>
#include <unistd.h>

#include "internal.h"

typedef uint16_t __attribute__((may_alias)) word16;
typedef uint32_t __attribute__((may_alias)) word32;
typedef uint64_t __attribute__((may_alias)) word64;

#define WORD_MOVE(type, dst, src)                                                               \
	__atomic_store_n((type *)(dst), __atomic_load_n((const type *)(src), __ATOMIC_RELAXED), \
			 __ATOMIC_RELAXED)

/*
 * Copy without tearing naturally aligned words. @dst and @src have the same
 * offset in their pages, so what is aligned on one side is so on the other.
 */
static void copy_words(char *dst, const char *src, size_t len)
{
	while (len) {
		uintptr_t at = (uintptr_t)src;
		size_t n;

		if (len >= 8 && !(at & 7)) {
			n = 8;
			WORD_MOVE(word64, dst, src);
		} else if (len >= 4 && !(at & 3)) {
			n = 4;
			WORD_MOVE(word32, dst, src);
		} else if (len >= 2 && !(at & 1)) {
			n = 2;
			WORD_MOVE(word16, dst, src);
		} else {
			n = 1;
			WORD_MOVE(char, dst, src);
		}
		dst += n;
		src += n;
		len -= n;
	}
}

/* Where in its page @port->access is. */
static uint64_t access_offset(struct dummy_device *dev, const struct dummy_port *port)
{
	return port->access.addr & dummy_page_mask(dev);
}

void dummy_transfer_memory(struct dummy_device *dev, struct dummy_port *port, char *page)
{
	char *bounce = port->bounce + access_offset(dev, port);
	char *mem = page + access_offset(dev, port);
	word64 *word = (word64 *)bounce;

	switch (port->access.op) {
	case DUMMY_LOAD:
		copy_words(bounce, mem, port->access.len);
		break;
	case DUMMY_STORE:
		copy_words(mem, bounce, port->access.len);
		break;
	case DUMMY_ADD:
		*word = __atomic_fetch_add((word64 *)mem, *word, __ATOMIC_RELAXED);
		break;
	}
}

/* Add, in system memory; the sum is made in the port, which is in the arena. */
static ssize_t add_system(struct dummy_device *dev, struct dummy_port *port, off_t at, word64 *word)
{
	pthread_mutex_t *stripe = &dev->stripe[(at >> 3) % DUMMY_STRIPES];
	uint64_t old;
	ssize_t done;

	pthread_mutex_lock(stripe);
	done = pread(dev->mem_fd, &port->word, sizeof(port->word), at);
	if (done == sizeof(port->word)) {
		old = port->word;
		port->word += *word;
		done = pwrite(dev->mem_fd, &port->word, sizeof(port->word), at);
		if (done == sizeof(port->word))
			*word = old;
	}
	pthread_mutex_unlock(stripe);
	return done;
}

/* The page is at CPU address @page. -EAGAIN: it is not there. */
static int transfer_system(struct dummy_device *dev, struct dummy_port *port, uint64_t page)
{
	char *bounce = port->bounce + access_offset(dev, port);
	off_t at = (off_t)(page + access_offset(dev, port));
	size_t len = port->access.len;
	ssize_t done = -1;

	switch (port->access.op) {
	case DUMMY_LOAD:
		done = pread(dev->mem_fd, bounce, len, at);
		break;
	case DUMMY_STORE:
		done = pwrite(dev->mem_fd, bounce, len, at);
		break;
	case DUMMY_ADD:
		done = add_system(dev, port, at, (word64 *)bounce);
		break;
	}
	return done == (ssize_t)len ? 0 : -EAGAIN;
}

/* The page is at DMA address @iova. What is unmapped under the access is a fault too. */
static int transfer_dma(struct dummy_device *dev, struct dummy_port *port, uint64_t iova)
{
	bool write = port->access.op != DUMMY_LOAD;
	struct hmm_pt_iter iter;
	uint64_t page;
	int ret = -EIO;

	hmm_pt_iter_init(&iter, &dev->iommu.pt);
	page = dummy_iommu_lookup(dev, &iter, iova, write);
	if (page) {
		ret = transfer_system(dev, port, page);
		if (!dummy_iommu_lookup(dev, &iter, iova, write))
			ret = -EIO;
	}
	hmm_pt_iter_fini(&iter);
	return ret;
}

/* It stays where it is until update() has the translation lock: as memory of our own. */
int dummy_transfer_exclusive(struct dummy_device *dev, struct dummy_port *port, uint64_t page)
{
	struct hmm_pt_iter iter;

	if (dev->opt.iommu) {
		hmm_pt_iter_init(&iter, &dev->iommu.pt);
		page = dummy_iommu_lookup(dev, &iter, page, true);
		hmm_pt_iter_fini(&iter);
		if (!page)
			return -EIO;
	}
	dummy_transfer_memory(dev, port, (char *)page);
	return 0;
}

int dummy_transfer(struct dummy_device *dev, struct dummy_port *port, uint64_t page)
{
	return dev->opt.iommu ? transfer_dma(dev, port, page) : transfer_system(dev, port, page);
}
