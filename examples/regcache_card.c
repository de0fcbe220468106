/* SPDX-License-Identifier: MIT */
/*
 * The card: io_uring, whose fixed buffers are what a network card's memory
 * registrations are.
 *
 * To register a buffer pins its pages, for as long as it is registered, and counts
 * them against RLIMIT_MEMLOCK, as ibv_reg_mr() does. A transfer names the slot and
 * an address in it, and goes to the pinned pages, whatever the address means by
 * then: there is no page table on that way. The wire is a file in memory.
 *
 * Pinning is for writing, always: io_uring knows no other.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "regcache.h"

#define QUEUE 4

static int wire_open(struct rc_card *card)
{
	void *wire;

	card->wire_fd = memfd_create("wire", MFD_CLOEXEC);
	if (card->wire_fd < 0)
		return -errno;
	if (ftruncate(card->wire_fd, (off_t)card->wire_size))
		goto out_close;
	wire = mmap(NULL, card->wire_size, PROT_READ | PROT_WRITE, MAP_SHARED, card->wire_fd, 0);
	if (wire == MAP_FAILED)
		goto out_close;
	card->wire = wire;
	return 0;

out_close:
	close(card->wire_fd);
	return -errno;
}

int rc_card_init(struct rc_card *card, size_t wire_size)
{
	int ret = io_uring_queue_init(QUEUE, &card->ring, 0);

	if (ret)
		return ret;
	pthread_mutex_init(&card->lock, NULL);
	card->wire_size = wire_size;
	ret = io_uring_ring_dontfork(&card->ring); /* a child has no card */
	if (!ret)
		ret = io_uring_register_buffers_sparse(&card->ring, RC_SLOTS);
	if (!ret)
		ret = wire_open(card);
	if (ret)
		io_uring_queue_exit(&card->ring);
	return ret;
}

void rc_card_fini(struct rc_card *card)
{
	munmap(card->wire, card->wire_size);
	close(card->wire_fd);
	io_uring_unregister_buffers(&card->ring); /* now, and not some time after exit */
	io_uring_queue_exit(&card->ring);
	pthread_mutex_destroy(&card->lock);
}

static int slot_update(struct rc_card *card, unsigned int slot, void *base, size_t len)
{
	struct iovec iov = { .iov_base = base, .iov_len = len };
	__u64 tag = 0;
	int ret = io_uring_register_buffers_update_tag(&card->ring, slot, &iov, &tag, 1);

	return ret < 0 ? ret : ret == 1 ? 0 : -EIO;
}

/**
 * rc_card_pin() - register memory
 * @slot: a free one
 * @start: first address, page-aligned
 * @end: end, exclusive
 *
 * Return: 0; -ENOMEM no memory, or RLIMIT_MEMLOCK; -EFAULT not mapped, or not
 * writable.
 * Context: any, ops included: the card's queue is not touched.
 */
int rc_card_pin(struct rc_card *card, unsigned int slot, unsigned long start, unsigned long end)
{
	return slot_update(card, slot, (void *)start, end - start);
}

/*
 * No transfer on the slot is under way and none will begin. Should the kernel be
 * short of memory for this, the pages stay pinned until the slot is used again,
 * which costs memory but nothing else.
 */
void rc_card_unpin(struct rc_card *card, unsigned int slot)
{
	slot_update(card, slot, NULL, 0);
}

/* @card->lock held: one request, to its end. */
static int card_run(struct rc_card *card)
{
	struct io_uring_cqe *cqe;
	int ret;

	do
		ret = io_uring_submit(&card->ring);
	while (ret == -EINTR || ret == -EAGAIN);
	if (ret < 0)
		return ret;
	do
		ret = io_uring_wait_cqe(&card->ring, &cqe);
	while (ret == -EINTR);
	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&card->ring, cqe);
	return ret;
}

/**
 * rc_card_transfer() - between memory and the wire
 * @slot: a registration that is kept until this returns
 * @addr: in it
 * @len: bytes
 * @wire: place on the wire
 * @dir: which way
 *
 * Return: 0 or negative errno.
 */
int rc_card_transfer(struct rc_card *card, unsigned int slot, unsigned long addr, size_t len,
		     size_t wire, enum rc_dir dir)
{
	struct io_uring_sqe *sqe;
	int ret;

	pthread_mutex_lock(&card->lock);
	sqe = io_uring_get_sqe(&card->ring);
	if (dir == RC_READ_MEMORY)
		io_uring_prep_write_fixed(sqe, card->wire_fd, (void *)addr, (unsigned int)len, wire,
					  (int)slot);
	else
		io_uring_prep_read_fixed(sqe, card->wire_fd, (void *)addr, (unsigned int)len, wire,
					 (int)slot);
	ret = card_run(card);
	pthread_mutex_unlock(&card->lock);
	return ret < 0 ? ret : (size_t)ret == len ? 0 : -EIO;
}
