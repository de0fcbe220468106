/* SPDX-License-Identifier: MIT */
/*
 * The userfaultfd ioctls, on a descriptor that nobody reads but this test.
 *
 * G9: an unread event makes a caller that may not wait give up, one that may
 * wait, and one that is canceled end. G4: partial results are told, so that
 * nothing is taken for done that is not; what is there is never overwritten.
 */
#include <poll.h>
#include <stdatomic.h>

#include "faults/harness.h"

#include "mm/mm.h"

static struct mm mm;
static unsigned char *mem; /* a registered chunk */
static unsigned char *src;
static const struct uffd_how now = { .wait = false };

static unsigned long page_at(size_t i)
{
	return (unsigned long)mem + i * hmm_page_size();
}

static long size(size_t pages)
{
	return (long)(pages * hmm_page_size());
}

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(10, "an ioctl");
	mem = NULL;
	if (features_open(&mm, &f)) {
		print_message("skipped: %s\n", f.reason);
		return 0;
	}
	pthread_rwlock_init(&mm.gate, NULL);
	mem = map_chunks(1);
	madvise(mem, CHUNK, MADV_NOHUGEPAGE);
	src = map_bytes(CHUNK);
	memset(src, 7, CHUNK);
	assert_int_equal(uffd_register(&mm, page_at(0), page_at(512), UFFD_CATCH), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	limit(0, "");
	if (!mem)
		return 0;
	mm_forget(&mm);
	munmap(mem, CHUNK);
	munmap(src, CHUNK);
	return 0;
}

#define NEED_UFFD()             \
	do {                    \
		(void)state;    \
		if (!mem)       \
			skip(); \
	} while (0)

static void each_ioctl_does_its_work(void **state)
{
	unsigned char *from = map_chunks(1);

	NEED_UFFD();
	assert_int_equal(uffd_copy(&mm, &now, page_at(1), src, 4096), 4096);
	assert_int_equal(mem[4096], 7);
	assert_int_equal(uffd_zero(&mm, &now, page_at(2), 4096), 4096);
	assert_int_equal(mem[2 * 4096], 0);
	assert_int_equal(uffd_register(&mm, (unsigned long)from, (unsigned long)from + CHUNK,
				       UFFD_CATCH),
			 0);
	assert_int_equal(uffd_copy(&mm, &now, (unsigned long)from, src, 4096), 4096);
	assert_int_equal(uffd_move(&mm, &now, page_at(3), (unsigned long)from, 4096), 4096);
	assert_int_equal(mem[3 * 4096], 7);
	assert_int_equal(uffd_poison(&mm, &now, page_at(4), 4096), 4096);
	assert_int_equal(write(STDERR_FILENO, (void *)page_at(4), 1), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(uffd_quiet(&mm, &now), 0);
	assert_int_equal(uffd_unregister(&mm, (unsigned long)from, (unsigned long)from + CHUNK), 0);
	munmap(from, CHUNK);
}

static void what_is_there_stays(void **state)
{
	NEED_UFFD();
	assert_int_equal(uffd_copy(&mm, &now, page_at(0), src, 4096), 4096);
	mem[0] = 1;
	assert_int_equal(uffd_copy(&mm, &now, page_at(0), src, 4096), -EEXIST);
	assert_int_equal(uffd_zero(&mm, &now, page_at(0), 4096), -EEXIST);
	assert_int_equal(uffd_poison(&mm, &now, page_at(0), 4096), -EEXIST);
	assert_int_equal(mem[0], 1);
}

static void what_is_not_registered_is_refused(void **state)
{
	unsigned char *other = map_bytes(hmm_page_size());
	unsigned long addr = (unsigned long)other;

	NEED_UFFD();
	assert_int_equal(uffd_copy(&mm, &now, addr, src, 4096), -ENOENT);
	assert_false(uffd_owned(&mm, addr, addr + 4096));
	assert_false(uffd_owned(&mm, addr, addr + 4096)); /* asking leaves nothing behind */
	assert_true(uffd_owned(&mm, page_at(0), page_at(1)));
	assert_true(uffd_owned(&mm, page_at(511), page_at(512)));
	munmap(other, hmm_page_size());
	assert_int_equal(uffd_copy(&mm, &now, addr, src, 4096), -ENOENT);
	assert_false(uffd_owned(&mm, addr, addr + 4096));
}

static void a_partial_result_tells_how_far(void **state)
{
	NEED_UFFD();
	assert_int_equal(uffd_copy(&mm, &now, page_at(5), src, 4096), 4096);
	assert_int_equal(uffd_copy(&mm, &now, page_at(0), src, 8 * 4096), size(5));
	assert_int_equal(uffd_copy(&mm, &now, page_at(5), src, 3 * 4096), -EEXIST);
	assert_int_equal(uffd_copy(&mm, &now, page_at(6), src, 2 * 4096), size(2));
	assert_int_equal(uffd_copy(&mm, &now, page_at(19), src, 4096), 4096);
	assert_int_equal(uffd_zero(&mm, &now, page_at(16), 8 * 4096), size(3));
	assert_int_equal(uffd_copy(&mm, &now, page_at(35), src, 4096), 4096);
	assert_int_equal(uffd_move(&mm, &now, page_at(32), page_at(0), 8 * 4096), size(3));
	assert_int_equal(mem[2 * 4096 + 32 * 4096], 7);
	assert_int_equal(mem[5 * 4096], 7); /* did not move */
}

/* ---- with an event that nobody has read ---- */

static void *unmap_last(void *arg)
{
	(void)arg;
	munmap((void *)page_at(500), 12 * hmm_page_size());
	return NULL;
}

static void await_event(void)
{
	struct pollfd pfd = { .fd = mm.uffd, .events = POLLIN };

	assert_int_equal(poll(&pfd, 1, 5000), 1);
}

static void read_unmap(void)
{
	struct mm_event event;

	assert_int_equal(monitor_read(mm.uffd, &event, 1), 1);
	assert_int_equal(event.type, MM_UNMAP);
	assert_int_equal(event.start, page_at(500));
	assert_int_equal(event.end, page_at(512));
}

static void an_unread_event_is_eagain_to_who_may_not_wait(void **state)
{
	pthread_t thread;

	NEED_UFFD();
	assert_int_equal(pthread_create(&thread, NULL, unmap_last, NULL), 0);
	await_event();
	assert_int_equal(uffd_copy(&mm, &now, page_at(1), src, 4096), -EAGAIN);
	assert_int_equal(uffd_zero(&mm, &now, page_at(1), 4096), -EAGAIN);
	assert_int_equal(uffd_move(&mm, &now, page_at(1), page_at(2), 4096), -EAGAIN);
	assert_int_equal(uffd_poison(&mm, &now, page_at(1), 4096), -EAGAIN);
	assert_int_equal(uffd_unprotect(&mm, &now, page_at(1), 4096), -EAGAIN);
	assert_int_equal(uffd_quiet(&mm, &now), -EAGAIN);
	assert_true(uffd_owned(&mm, page_at(0), page_at(1))); /* this is known all the same */
	/* Also for what is not mapped any more: whether it is, is not known. */
	assert_int_equal(uffd_copy(&mm, &now, page_at(505), src, 4096), -EAGAIN);
	read_unmap();
	pthread_join(thread, NULL);
	assert_int_equal(uffd_quiet(&mm, &now), 0);
	assert_int_equal(uffd_copy(&mm, &now, page_at(1), src, 4096), 4096);
	assert_int_equal(uffd_copy(&mm, &now, page_at(505), src, 4096), -ENOENT);
}

static void *read_later(void *arg)
{
	(void)arg;
	sleep_us(50000);
	read_unmap();
	return NULL;
}

static void who_may_wait_waits(void **state)
{
	const struct uffd_how how = { .wait = true };
	pthread_t thread, reader;

	NEED_UFFD();
	assert_int_equal(pthread_create(&thread, NULL, unmap_last, NULL), 0);
	await_event();
	assert_int_equal(pthread_create(&reader, NULL, read_later, NULL), 0);
	assert_int_equal(uffd_copy(&mm, &how, page_at(1), src, 4096), 4096);
	pthread_join(reader, NULL);
	pthread_join(thread, NULL);
}

static void *cancel_later(void *arg)
{
	sleep_us(50000);
	__atomic_store_n((bool *)arg, true, __ATOMIC_RELEASE);
	return NULL;
}

static void who_waits_can_be_canceled(void **state)
{
	bool canceled = false;
	const struct uffd_how how = { .wait = true, .cancel = &canceled };
	pthread_t thread, canceler;

	NEED_UFFD();
	assert_int_equal(pthread_create(&thread, NULL, unmap_last, NULL), 0);
	await_event();
	assert_int_equal(pthread_create(&canceler, NULL, cancel_later, &canceled), 0);
	assert_int_equal(uffd_copy(&mm, &how, page_at(1), src, 4096), -ECANCELED);
	assert_int_equal(uffd_quiet(&mm, &how), -ECANCELED);
	pthread_join(canceler, NULL);
	read_unmap();
	pthread_join(thread, NULL);
	/* Nothing is done once it is canceled, event or not. */
	assert_int_equal(uffd_copy(&mm, &how, page_at(1), src, 4096), -ECANCELED);
	assert_int_equal(uffd_copy(&mm, &now, page_at(1), src, 4096), 4096);
}

/* ---- messages ---- */

static void *do_things(void *arg)
{
	volatile unsigned char *p = (void *)page_at(0);
	unsigned char *to = arg;

	p[0] = 1; /* a fault */
	madvise((void *)page_at(10), 2 * hmm_page_size(), MADV_DONTNEED);
	if (mremap((void *)page_at(508), 4 * hmm_page_size(), 4 * hmm_page_size(),
		   MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return (void *)-1l;
	return NULL;
}

static void expect(enum mm_event_type type, unsigned long start, unsigned long end,
		   struct mm_event *event)
{
	await_event();
	assert_int_equal(monitor_read(mm.uffd, event, 1), 1);
	assert_int_equal(event->type, type);
	assert_int_equal(event->start, start);
	assert_int_equal(event->end, end);
}

static void messages_are_told_as_they_are(void **state)
{
	unsigned char *to = map_bytes(4 * hmm_page_size());
	struct mm_event event;
	pthread_t thread;
	void *result;

	NEED_UFFD();
	assert_int_equal(monitor_read(mm.uffd, &event, 1), -EAGAIN);
	assert_int_equal(pthread_create(&thread, NULL, do_things, to), 0);
	expect(MM_FAULT, page_at(0), page_at(1), &event);
	assert_true(event.write && !event.protect);
	assert_int_equal(uffd_copy(&mm, &now, page_at(0), src, 4096), 4096);
	expect(MM_REMOVE, page_at(10), page_at(12), &event);
	expect(MM_REMAP, page_at(508), page_at(512), &event);
	assert_int_equal(event.to, (unsigned long)to);
	expect(MM_UNMAP, page_at(508), page_at(512), &event);
	pthread_join(thread, &result);
	assert_null(result);
	assert_int_equal(mem[0], 1);
	assert_int_equal(uffd_unregister(&mm, (unsigned long)to,
					 (unsigned long)to + 4 * hmm_page_size()),
			 0);
	munmap(to, 4 * hmm_page_size());
}

#define UFFD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UFFD_TEST(each_ioctl_does_its_work),
		UFFD_TEST(what_is_there_stays),
		UFFD_TEST(what_is_not_registered_is_refused),
		UFFD_TEST(a_partial_result_tells_how_far),
		UFFD_TEST(an_unread_event_is_eagain_to_who_may_not_wait),
		UFFD_TEST(who_may_wait_waits),
		UFFD_TEST(who_waits_can_be_canceled),
		UFFD_TEST(messages_are_told_as_they_are),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
