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
		_exit(0);
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
		PAGE_TEST(a_staged_page_keeps_its_slot),
		PAGE_TEST(slots_do_not_run_out_of_rubbish),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
