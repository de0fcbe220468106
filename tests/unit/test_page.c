/* SPDX-License-Identifier: MIT */
/*
 * Staging: pages are taken out of the program without being lost, and put back.
 *
 * G1, G4: what is isolated is in the slot and nowhere else, with its content. G7:
 * what cannot move is named, and its neighbours go all the same. A slot with the
 * program's pages in it is not used for anything else.
 */
#include <linux/io_uring.h>
#include <sys/uio.h>

#include "faults/harness.h"

#include "mm/mm.h"

static struct mm mm;
static unsigned char *mem; /* a registered chunk */
static uint8_t failed[CHUNK_PAGES_MAX], flags[CHUNK_PAGES_MAX];
static const struct uffd_how now = { .wait = false };

static unsigned long page_at(size_t i)
{
	return (unsigned long)mem + i * hmm_page_size();
}

static unsigned char *slot_page(const struct slot *slot, size_t i)
{
	return (void *)(slot_addr(slot) + i * hmm_page_size());
}

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(10, "staging");
	mem = NULL;
	memset(failed, 0, sizeof(failed));
	hmm_probe(&f);
	if (!f.can_migrate) {
		print_message("skipped: %s\n", f.reason);
		return 0;
	}
	assert_int_equal(mm_init(&mm), 0);
	hmm_set_pool(32 * MIB);
	mem = map_chunks(1);
	madvise(mem, CHUNK, MADV_NOHUGEPAGE);
	assert_int_equal(uffd_register(&mm, page_at(0), page_at(512), UFFD_CATCH), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	limit(0, "");
	if (!mem)
		return 0;
	mm_exit(&mm);
	munmap(mem, CHUNK);
	hmm_set_pool(32 * MIB);
	return 0;
}

#define NEED_STAGING()          \
	do {                    \
		(void)state;    \
		if (!mem)       \
			skip(); \
	} while (0)

/* A page's first touch would wait for a monitor: there is none. */
static void put(size_t page, unsigned char value)
{
	unsigned char content[4096];

	memset(content, value, sizeof(content));
	assert_int_equal(uffd_copy(&mm, &now, page_at(page), content, 4096), 4096);
}

static struct slot *isolate(size_t first, size_t last)
{
	struct slot *slot = slot_get_empty(&mm);

	assert_non_null(slot);
	assert_int_equal(page_isolate(&mm, &now, slot, page_at(first), page_at(last), failed), 0);
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	return slot;
}

static void recycle(struct slot *slot)
{
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	slot_recycle(slot, flags);
	slot_put(&mm, slot);
}

static bool is_there(size_t page)
{
	uint8_t flag;

	assert_int_equal(walk_pages(&mm, page_at(page), page_at(page + 1), &flag), 0);
	return flag != 0;
}

static void pages_zero_pages_and_holes_are_isolated(void **state)
{
	struct slot *slot;
	unsigned long done;
	size_t i;

	NEED_STAGING();
	put(1, 11);
	put(3, 33);
	assert_int_equal(uffd_zero(&mm, &now, page_at(2), 4096), 4096);
	slot = isolate(0, 5);
	for (i = 0; i < 5; i++) {
		assert_int_equal(failed[i], 0);
		assert_false(is_there(i));
	}
	assert_int_equal(flags[0], 0);
	assert_true(flags[1] & WALK_PRESENT && !(flags[1] & WALK_ZERO));
	assert_true(!mm.pagemap_scan || flags[2] & WALK_ZERO);
	assert_int_equal(*slot_page(slot, 1), 11);
	assert_int_equal(*slot_page(slot, 3), 33);
	assert_int_equal(
		page_map(&mm, &now, page_at(3), (unsigned long)slot_page(slot, 3), 4096, &done), 0);
	assert_int_equal(done, 4096);
	assert_int_equal(mem[3 * 4096], 33);
	recycle(slot);
}

static pid_t sharer(void)
{
	pid_t pid;

	flush();
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0);
	if (!pid) {
		pause();
		child_exit(true, 0);
	}
	assert_true(pid > 0);
	return pid;
}

/* Reads the fork's message: its child waits for that, and so does every ioctl. */
static void *read_fork(void *arg)
{
	struct mm_event event;

	(void)arg;
	while (monitor_read(mm.uffd, &event, 1) != 1)
		sched_yield();
	if (event.type == MM_FORK)
		close(event.fd);
	return NULL;
}

static void a_page_shared_with_a_child_stays_and_its_neighbours_go(void **state)
{
	pthread_t reader;
	struct slot *slot;
	pid_t pid;

	NEED_STAGING();
	put(2, 22);
	if (mm.fork_event)
		assert_int_equal(pthread_create(&reader, NULL, read_fork, NULL), 0);
	pid = sharer();
	if (mm.fork_event)
		pthread_join(reader, NULL);
	put(1, 11);
	put(3, 33);
	slot = isolate(0, 5);
	assert_int_equal(failed[2], 1);
	assert_true(is_there(2));
	assert_int_equal(mem[2 * 4096], 22);
	assert_int_equal(failed[1] | failed[3] | failed[0] | failed[4], 0);
	assert_int_equal(*slot_page(slot, 1), 11);
	assert_int_equal(*slot_page(slot, 3), 33);
	assert_int_equal(flags[2], 0);
	kill(pid, SIGKILL);
	child_wait(pid);
	recycle(slot);
}

/* Pinned, as a network card or a disk would; -1: no io_uring here. */
static int pin(void *addr)
{
	struct io_uring_params params = { .flags = 0 };
	struct iovec iov = { .iov_base = addr, .iov_len = 4096 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring >= 0 && syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1)) {
		close(ring);
		return -1;
	}
	return ring;
}

static void a_pinned_page_stays_and_its_neighbours_go(void **state)
{
	struct slot *slot;
	int ring;

	NEED_STAGING();
	put(1, 11);
	put(2, 22);
	put(3, 33);
	ring = pin((void *)page_at(2));
	if (ring < 0) {
		print_message("skipped: io_uring cannot be had here\n");
		skip();
	}
	slot = isolate(0, 5);
	assert_int_equal(failed[2], 1);
	assert_int_equal(mem[2 * 4096], 22);
	assert_int_equal(failed[1] | failed[3], 0);
	assert_int_equal(*slot_page(slot, 3), 33);
	close(ring);
	recycle(slot);
}

/* The range became two mappings: as one it cannot move. */
static void a_read_only_page_stays_and_its_neighbours_go(void **state)
{
	struct slot *slot;

	NEED_STAGING();
	put(1, 11);
	put(2, 22);
	put(3, 33);
	assert_int_equal(mprotect((void *)page_at(2), 4096, PROT_READ), 0);
	slot = isolate(0, 5);
	assert_int_equal(failed[2], 1);
	assert_int_equal(mem[2 * 4096], 22);
	assert_int_equal(failed[0] | failed[1] | failed[3] | failed[4], 0);
	assert_int_equal(*slot_page(slot, 1), 11);
	assert_int_equal(*slot_page(slot, 3), 33);
	recycle(slot);
}

static void what_is_canceled_is_named_too(void **state)
{
	bool canceled = true;
	const struct uffd_how how = { .cancel = &canceled };
	struct slot *slot;
	size_t i;

	NEED_STAGING();
	put(1, 11);
	slot = slot_get_empty(&mm);
	assert_int_equal(page_isolate(&mm, &how, slot, page_at(0), page_at(5), failed), -ECANCELED);
	for (i = 0; i < 512; i++)
		assert_int_equal(failed[i], i < 5);
	assert_int_equal(mem[4096], 11);
	recycle(slot);
}

/* ---- slots ---- */

static void recycled_pages_are_handed_out_where_they_are(void **state)
{
	struct slot *slot, *ready;
	size_t i;

	NEED_STAGING();
	for (i = 10; i < 20; i++)
		put(i, 1);
	slot = isolate(10, 20);
	recycle(slot);
	assert_null(slot_get_ready(&mm, 9, 12));
	assert_null(slot_get_ready(&mm, 15, 20));
	ready = slot_get_ready(&mm, 10, 19);
	assert_ptr_equal(ready, slot);
	assert_null(slot_get_ready(&mm, 10, 19)); /* busy */
	slot_put(&mm, ready);
	assert_non_null(ready = slot_get_ready(&mm, 12, 13));
	slot_put(&mm, ready);
}

static void a_zero_page_is_no_destination(void **state)
{
	struct slot *slot, *ready;

	NEED_STAGING();
	if (!mm.pagemap_scan)
		skip();
	put(1, 1);
	assert_int_equal(uffd_zero(&mm, &now, page_at(2), 4096), 4096);
	put(3, 1);
	slot = isolate(0, 5);
	recycle(slot);
	assert_null(slot_get_ready(&mm, 1, 3));
	ready = slot_get_ready(&mm, 1, 1);
	assert_ptr_equal(ready, slot);
	slot_put(&mm, ready);
}

static void without_a_pool_nothing_is_kept(void **state)
{
	struct slot *slot;

	NEED_STAGING();
	hmm_set_pool(0);
	put(1, 1);
	slot = isolate(0, 5);
	recycle(slot);
	assert_null(slot_get_ready(&mm, 1, 1));
	slot = slot_get_empty(&mm); /* the same, empty and usable again */
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	assert_int_equal(flags[1], 0);
	put(1, 2);
	assert_int_equal(page_isolate(&mm, &now, slot, page_at(0), page_at(5), failed), 0);
	assert_int_equal(*slot_page(slot, 1), 2);
	recycle(slot);
}

/* One page to a place that is free. */
static struct slot *isolate_one(size_t page)
{
	struct slot *slot = slot_get_room(&mm, (unsigned int)page, (unsigned int)page);

	assert_non_null(slot);
	assert_int_equal(page_isolate(&mm, &now, slot, page_at(page), page_at(page + 1), failed),
			 0);
	assert_int_equal(failed[page], 0);
	assert_int_equal(slot_scan_part(&mm, slot, (unsigned int)page, 1, flags), 0);
	slot_recycle_part(slot, (unsigned int)page, 1, flags);
	slot_put(&mm, slot);
	return slot;
}

static void what_leaves_page_by_page_shares_a_slot(void **state)
{
	struct slot *slot, *other;
	unsigned long done;
	size_t i;

	NEED_STAGING();
	for (i = 1; i < 5; i++)
		put(i, (unsigned char)i);
	assert_int_equal(uffd_zero(&mm, &now, page_at(5), 4096), 4096);
	slot = isolate_one(1);
	for (i = 2; i < 6; i++)
		assert_ptr_equal(isolate_one(i), slot);
	for (i = 1; i < 5; i++)
		assert_int_equal(*slot_page(slot, i), i);
	for (i = 1; i < 6; i++) { /* the zero page is in the way too */
		other = slot_get_room(&mm, (unsigned int)i, (unsigned int)i);
		assert_ptr_not_equal(other, slot);
		slot_put(&mm, other);
	}
	assert_ptr_not_equal(slot_get_room(&mm, 4, 9), slot);
	assert_ptr_equal(slot_get_ready(&mm, 1, 4), slot);
	assert_int_equal(
		page_map(&mm, &now, page_at(2), (unsigned long)slot_page(slot, 2), 4096, &done), 0);
	slot_taken(slot, 2, 1);
	slot_put(&mm, slot);
	assert_null(slot_get_ready(&mm, 1, 2));
	assert_ptr_equal(isolate_one(2), slot); /* its place is free again */
}

/* Not each page of its own: what is over the limit waits for others to go with. */
static void single_pages_over_the_limit_go_together(void **state)
{
	struct slot *full, *slot;
	size_t i;

	NEED_STAGING();
	hmm_set_pool(CHUNK);
	for (i = 0; i < 512; i++)
		put(i, 1);
	full = isolate(0, 512);
	recycle(full);
	for (i = 0; i < 300; i++)
		put(i, 2);
	slot = isolate_one(0);
	assert_ptr_not_equal(slot, full);
	for (i = 1; i < 256; i++)
		assert_ptr_equal(isolate_one(i), slot);
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	for (i = 0; i < 256; i++)
		assert_int_equal(flags[i], WALK_PRESENT);
	assert_ptr_equal(isolate_one(256), slot);
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	for (i = 0; i < 512; i++)
		assert_int_equal(flags[i], 0);
	assert_ptr_equal(slot_get_ready(&mm, 0, 511), full);
	slot_put(&mm, full);
}

static struct slot *offer(unsigned char value)
{
	struct slot *slot;
	size_t i;

	for (i = 0; i < 512; i++)
		put(i, value);
	slot = isolate(0, 512);
	for (i = 0; i < 512; i++) {
		assert_int_equal(failed[i], 0);
		assert_int_equal(*slot_page(slot, i), value);
	}
	recycle(slot);
	return slot;
}

static void back_from(struct slot *slot, unsigned char value)
{
	unsigned long done;
	size_t i;

	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	for (i = 0; i < 512; i++) {
		assert_true(flags[i] & WALK_PRESENT && !(flags[i] & WALK_ZERO));
		memset(slot_page(slot, i), value, 4096);
	}
	assert_int_equal(page_map(&mm, &now, page_at(0), slot_addr(slot), CHUNK, &done), 0);
	slot_taken(slot, 0, 512);
	slot_put(&mm, slot);
	for (i = 0; i < CHUNK; i += 64)
		assert_int_equal(mem[i], value);
	assert_int_equal(uffd_unregister(&mm, page_at(0), page_at(512)), 0);
	madvise(mem, CHUNK, MADV_DONTNEED);
	assert_int_equal(uffd_register(&mm, page_at(0), page_at(512), UFFD_CATCH), 0);
}

static void what_is_offered_is_used_again(void **state)
{
	struct slot *slot, *busy[512];
	size_t i, n;

	NEED_STAGING();
	staging_pool(0, false);
	slot = offer(1);
	assert_null(slot_get_ready(&mm, 0, 5)); /* all or nothing */
	assert_ptr_equal(slot_get_ready(&mm, 0, 511), slot);
	assert_null(slot_get_ready(&mm, 0, 511));
	back_from(slot, 2);

	assert_ptr_equal(offer(3), slot); /* it was empty, and registered */
	madvise(slot_page(slot, 0), CHUNK, MADV_DONTNEED); /* as if it had been taken */
	assert_ptr_equal(slot_get_ready(&mm, 0, 511), slot);
	back_from(slot, 4);

	assert_ptr_equal(offer(5), slot); /* a way back that does not succeed */
	assert_ptr_equal(slot_get_ready(&mm, 0, 511), slot);
	slot_put(&mm, slot);
	assert_null(slot_get_ready(&mm, 0, 511));

	assert_ptr_equal(offer(6), slot); /* nothing else is left */
	for (n = 0; n < 512 && (busy[n] = slot_get_empty(&mm)) != slot; n++)
		assert_non_null(busy[n]);
	assert_int_equal(n, 511);
	assert_null(slot_get_empty(&mm));
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	for (i = 0; i < 512; i++)
		assert_int_equal(flags[i], 0);
	for (i = 0; i <= n; i++)
		slot_put(&mm, busy[i]);
	slot = offer(7);
	assert_ptr_equal(slot_get_ready(&mm, 0, 511), slot);
}

/* Nor is what a program that set the limit wants to be rid of, or what is not whole. */
static void not_everything_is_offered(void **state)
{
	struct slot *slot;
	size_t i;

	NEED_STAGING();
	hmm_set_pool(0);
	slot = offer(1);
	assert_null(slot_get_ready(&mm, 0, 511));
	assert_int_equal(slot_scan(&mm, slot, flags), 0);
	for (i = 0; i < 512; i++)
		assert_int_equal(flags[i], 0);
	staging_pool(0, false);
	for (i = 1; i < 512; i++)
		put(i, 1);
	recycle(isolate(0, 512));
	assert_null(slot_get_ready(&mm, 0, 511));
	assert_null(slot_get_ready(&mm, 1, 511));
}

static void a_staged_page_keeps_its_slot(void **state)
{
	struct slot *slot;
	unsigned long done;

	NEED_STAGING();
	put(1, 1);
	put(2, 2);
	slot = isolate(0, 5);
	slot_recycle(slot, flags);
	slot_stage(&mm, slot, 1);
	slot_put(&mm, slot);
	assert_null(slot_get_ready(&mm, 1, 1));
	assert_ptr_not_equal(slot_get_empty(&mm), slot);
	assert_int_equal(*slot_page(slot, 2), 2);
	assert_int_equal(
		page_map(&mm, &now, page_at(2), (unsigned long)slot_page(slot, 2), 4096, &done), 0);
	slot_unstage(&mm, (unsigned long)slot_page(slot, 2));
	assert_null(slot_get_ready(&mm, 2, 2)); /* it went home */
	assert_ptr_equal(slot_get_ready(&mm, 1, 1), slot);
	slot_put(&mm, slot);
	assert_int_equal(mem[2 * 4096], 2);
}

/* More chunks than there are slots: rubbish makes room, staged pages do not. */
static void slots_do_not_run_out_of_rubbish(void **state)
{
	unsigned int i;

	NEED_STAGING();
	hmm_set_pool(1ul << 30);
	for (i = 0; i < 1030; i++) {
		struct slot *slot;

		put(1, (unsigned char)i);
		slot = isolate(1, 2);
		assert_int_equal(*slot_page(slot, 1), (unsigned char)i);
		recycle(slot);
	}
}

/* ---- slots that are shared by pages that stay ---- */

#define SHARED_MAX 256 /* STAGING_SHARED */

static struct slot *share(size_t first, size_t last, unsigned int staged)
{
	struct slot *slot = slot_get_shared(&mm, (unsigned int)first, (unsigned int)last);

	if (slot) {
		slot_stage(&mm, slot, staged);
		slot_put(&mm, slot);
	}
	return slot;
}

static void leave(const struct slot *slot, size_t first, size_t last)
{
	for (; first <= last; first++)
		slot_unstage(&mm, (unsigned long)slot_page(slot, first));
}

static void places_that_differ_share_a_slot(void **state)
{
	struct slot *slot, *second, *busy;

	NEED_STAGING();
	slot = share(3, 5, 3);
	assert_non_null(slot);
	assert_ptr_equal(share(6, 9, 4), slot);
	assert_ptr_equal(share(0, 2, 1), slot); /* of which two were not there to be moved */
	assert_ptr_equal(share(511, 511, 1), slot);
	second = share(2, 3, 1);
	assert_ptr_not_equal(second, slot);
	assert_ptr_equal(share(4, 4, 1), second);
	busy = slot_get_shared(&mm, 100, 100);
	assert_ptr_equal(busy, slot);
	assert_ptr_equal(share(200, 201, 0), second); /* not that one: somebody has it */
	assert_ptr_not_equal(slot_get_empty(&mm), slot);
	slot_put(&mm, busy);
	assert_null(slot_get_ready(&mm, 1, 0));
}

/* A place is not given again before the slot is empty: it may have rubbish. */
static void a_place_is_given_once(void **state)
{
	struct slot *slot;

	NEED_STAGING();
	slot = share(3, 5, 3);
	assert_ptr_equal(share(8, 8, 1), slot);
	leave(slot, 3, 5);
	assert_ptr_not_equal(share(4, 4, 0), slot);
	assert_ptr_equal(share(9, 9, 1), slot);
	leave(slot, 8, 9);
	assert_ptr_equal(share(3, 9, 0), slot); /* empty, and anybody's */
	assert_ptr_equal(slot_get_empty(&mm), slot);
}

/* The last one leaves while another is at work in the slot, and nothing stays then. */
static void the_last_one_leaves_a_slot_that_is_in_use(void **state)
{
	struct slot *slot;

	NEED_STAGING();
	slot = share(7, 7, 1);
	assert_ptr_equal(slot_get_shared(&mm, 8, 8), slot);
	leave(slot, 7, 7);
	assert_ptr_not_equal(slot_get_empty(&mm), slot);
	slot_put(&mm, slot);
	assert_ptr_equal(share(7, 8, 2), slot);
	leave(slot, 7, 8);
	/* And the other way round. */
	assert_ptr_equal(share(7, 7, 1), slot);
	assert_ptr_equal(slot_get_shared(&mm, 8, 8), slot);
	leave(slot, 7, 7);
	slot_stage(&mm, slot, 1);
	slot_put(&mm, slot);
	assert_ptr_not_equal(share(8, 8, 0), slot);
	leave(slot, 8, 8);
	assert_ptr_equal(share(8, 8, 0), slot);
}

static void shared_slots_leave_some_for_migrations(void **state)
{
	struct slot *slots[SHARED_MAX], *empty;
	size_t i;

	NEED_STAGING();
	for (i = 0; i < SHARED_MAX; i++) {
		slots[i] = share(0, 0, 1);
		assert_non_null(slots[i]);
	}
	assert_null(share(0, 0, 1));
	assert_null(share(0, 511, 1));
	assert_ptr_equal(share(1, 1, 1), slots[0]); /* there is room at other places */
	empty = slot_get_empty(&mm);
	assert_non_null(empty);
	slot_put(&mm, empty);
	leave(slots[5], 0, 0);
	assert_ptr_equal(share(0, 0, 1), slots[5]);
	assert_null(share(0, 0, 1));
	for (i = 0; i < SHARED_MAX; i++)
		leave(slots[i], 0, i == 0);
	for (i = 0; i < SHARED_MAX; i++)
		assert_non_null(share(0, 511, 512));
	assert_null(share(0, 0, 1));
}

static void what_is_shared_is_not_mixed_up(void **state)
{
	struct slot *slot;
	unsigned long done;
	size_t i;

	NEED_STAGING();
	put(1, 11);
	put(2, 22);
	put(40, 44);
	for (i = 1; i < 41; i = i == 2 ? 40 : i + 1) {
		slot = slot_get_shared(&mm, (unsigned int)i, (unsigned int)i);
		assert_int_equal(page_isolate(&mm, &now, slot, page_at(i), page_at(i + 1), failed),
				 0);
		assert_int_equal(slot_scan(&mm, slot, flags), 0);
		slot_recycle(slot, flags);
		slot_stage(&mm, slot, 1);
		slot_put(&mm, slot);
	}
	assert_int_equal(*slot_page(slot, 1), 11);
	assert_int_equal(*slot_page(slot, 2), 22);
	assert_int_equal(*slot_page(slot, 40), 44);
	for (i = 1; i < 3; i++) {
		assert_int_equal(page_map(&mm, &now, page_at(i), (unsigned long)slot_page(slot, i),
					  4096, &done),
				 0);
		leave(slot, i, i);
		assert_null(slot_get_ready(&mm, 40, 40)); /* still somebody's */
	}
	leave(slot, 40, 40); /* dropped: what it had is rubbish */
	assert_null(slot_get_ready(&mm, 1, 1));
	assert_ptr_equal(slot_get_ready(&mm, 40, 40), slot);
	slot_put(&mm, slot);
	assert_int_equal(mem[4096], 11);
}

#define SHARERS 4
#define ROUNDS 3000
#define KEPT 8

static struct {
	uint8_t owner[2 * 512][512]; /* of each place of each slot; atomic */
	unsigned long base;
	unsigned int clashes; /* atomic */
} places;

static uint8_t *owner_of(const struct slot *slot, size_t place)
{
	return &places.owner[(slot_addr(slot) - places.base) / CHUNK][place];
}

static void *share_main(void *arg)
{
	uint8_t me = (uint8_t)(uintptr_t)arg, none;
	unsigned int seed = me;
	struct {
		struct slot *slot;
		size_t first, last;
	} kept[KEPT] = { { NULL, 0, 0 } };
	size_t i, j, n;

	for (n = 0; n < ROUNDS; n++) {
		i = (size_t)rand_r(&seed) % KEPT;
		if (kept[i].slot) {
			for (j = kept[i].first; j <= kept[i].last; j++) {
				__atomic_store_n(owner_of(kept[i].slot, j), 0, __ATOMIC_SEQ_CST);
				leave(kept[i].slot, j, j);
			}
			kept[i].slot = NULL;
			continue;
		}
		kept[i].first = (size_t)rand_r(&seed) % 16;
		kept[i].last = kept[i].first + (size_t)rand_r(&seed) % 4;
		kept[i].slot = slot_get_shared(&mm, (unsigned int)kept[i].first,
					       (unsigned int)kept[i].last);
		if (!kept[i].slot)
			continue;
		for (j = kept[i].first; j <= kept[i].last; j++) {
			none = 0;
			if (!__atomic_compare_exchange_n(owner_of(kept[i].slot, j), &none, me,
							 false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
				__atomic_add_fetch(&places.clashes, 1, __ATOMIC_RELAXED);
		}
		slot_stage(&mm, kept[i].slot, (unsigned int)(kept[i].last - kept[i].first + 1));
		slot_put(&mm, kept[i].slot);
	}
	for (i = 0; i < KEPT; i++)
		if (kept[i].slot)
			for (j = kept[i].first; j <= kept[i].last; j++) {
				__atomic_store_n(owner_of(kept[i].slot, j), 0, __ATOMIC_SEQ_CST);
				leave(kept[i].slot, j, j);
			}
	return NULL;
}

/* Many at once: no place has two owners, and in the end all are free. */
static void many_share(void **state)
{
	pthread_t thread[SHARERS];
	struct slot *slot;
	size_t i;

	NEED_STAGING();
	limit(60, "sharing");
	slot = slot_get_empty(&mm);
	places.base = slot_addr(slot) - 512 * CHUNK; /* the first one, or near it */
	slot_put(&mm, slot);
	memset(places.owner, 0, sizeof(places.owner));
	places.clashes = 0;
	for (i = 0; i < SHARERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, share_main, (void *)(i + 1)), 0);
	for (i = 0; i < SHARERS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(places.clashes, 0);
	for (i = 0; i < SHARED_MAX; i++)
		assert_non_null(share(0, 511, 1));
	assert_null(share(0, 0, 1));
}

#define PAGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAGE_TEST(pages_zero_pages_and_holes_are_isolated),
		PAGE_TEST(a_page_shared_with_a_child_stays_and_its_neighbours_go),
		PAGE_TEST(a_pinned_page_stays_and_its_neighbours_go),
		PAGE_TEST(a_read_only_page_stays_and_its_neighbours_go),
		PAGE_TEST(what_is_canceled_is_named_too),
		PAGE_TEST(recycled_pages_are_handed_out_where_they_are),
		PAGE_TEST(a_zero_page_is_no_destination),
		PAGE_TEST(without_a_pool_nothing_is_kept),
		PAGE_TEST(what_leaves_page_by_page_shares_a_slot),
		PAGE_TEST(single_pages_over_the_limit_go_together),
		PAGE_TEST(what_is_offered_is_used_again),
		PAGE_TEST(not_everything_is_offered),
		PAGE_TEST(a_staged_page_keeps_its_slot),
		PAGE_TEST(slots_do_not_run_out_of_rubbish),
		PAGE_TEST(places_that_differ_share_a_slot),
		PAGE_TEST(a_place_is_given_once),
		PAGE_TEST(the_last_one_leaves_a_slot_that_is_in_use),
		PAGE_TEST(shared_slots_leave_some_for_migrations),
		PAGE_TEST(what_is_shared_is_not_mixed_up),
		PAGE_TEST(many_share),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
