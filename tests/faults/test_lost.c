/* SPDX-License-Identifier: MIT */
/*
 * hmm_device_lost(): the device is gone, and with it what was in its memory.
 *
 * Tries to break: G4 (SIGBUS, with the address, at exactly the pages that were there, and
 * EFAULT from system calls; never zeros, never old data; all else is intact), G9 (no
 * fault, fork or unmap hangs), G11 (what is asked of the device gives -ENODEV).
 */
#include "test_util.h"

#include <stdatomic.h>

#define PAGES 400
#define LOST 200 /* the first ones are on the device that goes */
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev, *other;
static char *mem, *theirs;

/* ---- SIGBUS ---- */

static __thread sigjmp_buf jump;
static __thread volatile uintptr_t bus_addr;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_addr = (uintptr_t)info->si_addr;
	siglongjmp(jump, 1);
}

static void catch_bus(void)
{
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
}

/* False: SIGBUS, at that very address. */
static bool get(const char *at, uint64_t *val)
{
	bus_addr = 0;
	if (sigsetjmp(jump, 1))
		return false;
	*val = *(const volatile uint64_t *)(const void *)at;
	return true;
}

static bool put(char *at, uint64_t val)
{
	bus_addr = 0;
	if (sigsetjmp(jump, 1))
		return false;
	*(volatile uint64_t *)(void *)at = val;
	return true;
}

static void is_gone(char *page)
{
	uint64_t val = 0;

	assert_false(get(page + 64, &val));
	assert_int_equal(bus_addr & ~(PAGE - 1), addr_of(page));
	assert_false(put(page + PAGE - 8, 1));
	assert_int_equal(bus_addr & ~(PAGE - 1), addr_of(page));
}

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	dev = device_new(512);
	other = device_new(512);
	mem = map_aligned(BYTES);
	theirs = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	pattern_fill(theirs, PAGES, 2);
	migrate_all(dev, mem, LOST);
	migrate_all(other, theirs, PAGES);
	return 0;
}

/* The process lives, and so does the other device. */
static int teardown(void **state)
{
	uint64_t val = 0;

	(void)state;
	assert_int_equal(dummy_load_u64(other, addr_of(theirs) + 7 * PAGE, &val), 0);
	assert_int_equal(val, pattern_word(2, 7, 0));
	pattern_check(theirs, PAGES, 2);
	munmap(mem, BYTES);
	munmap(theirs, BYTES);
	if (dummy_destroy(dev) || dummy_destroy(other))
		return -1;
	return 0;
}

static void lose(void)
{
	catch_bus();
	assert_int_equal(dummy_lost(dev), 0);
}

static void sigbus_at_exactly_the_lost_pages(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	lose();
	for (i = 0; i < LOST; i++)
		is_gone(mem + (i * 37 % LOST) * PAGE);
	pattern_check_from(mem + LOST * PAGE, PAGES - LOST, 1, LOST);
	assert_int_equal(count_on_cpu(theirs, PAGES), 0);
	for (i = 0; i < LOST; i++)
		is_gone(mem + i * PAGE); /* again, and again */
}

/* Nobody has to touch them for the device to be done with. */
static void its_pages_are_poisoned_soon(void **state)
{
	(void)state;
	BEGIN(5);
	lose();
	wait_until(!device_used(dev));
	assert_int_equal(device_used(other), PAGES);
	is_gone(mem);
	is_gone(mem + (LOST - 1) * PAGE);
}

static void system_calls_give_efault(void **state)
{
	int fd[2], zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	size_t i;

	(void)state;
	BEGIN(5);
	lose();
	assert_int_equal(pipe(fd), 0);
	for (i = 0; i < PAGES; i += 13) {
		char *page = mem + i * PAGE;
		bool gone = i < LOST;
		char byte;

		step("write");
		errno = 0;
		assert_int_equal(write(fd[1], page, 1), gone ? -1 : 1);
		if (gone)
			assert_int_equal(errno, EFAULT);
		else
			assert_int_equal(read(fd[0], &byte, 1), 1);
		step("read");
		errno = 0;
		assert_int_equal(read(zero, page + 100, 1), gone ? -1 : 1);
		if (gone)
			assert_int_equal(errno, EFAULT);
	}
	/* Up to the first page that is gone, a copy gets as far as it gets. */
	assert_int_equal(read(zero, mem + LOST * PAGE - 8, 16), -1);
	close(fd[0]);
	close(fd[1]);
	close(zero);
}

static void its_calls_give_enodev(void **state)
{
	uint64_t at = addr_of(mem), end = at + BYTES, val = 0;
	struct hmm_event event = { .start = at, .end = at + PAGE, .etype = HMM_DEVICE_RFAULT };
	uint8_t dirty[PAGES];

	(void)state;
	BEGIN(5);
	lose();
	assert_int_equal(dummy_lost(dev), 0);
	assert_int_equal(hmm_device_lost(dummy_mirror(dev)->device), 0);
	assert_int_equal(hmm_device_lost(NULL), -EINVAL);
	assert_int_equal(hmm_mirror_fault(dummy_mirror(dev), &event), -ENODEV);
	assert_int_equal(dummy_load_u64(dev, at, &val), -ENODEV);
	assert_int_equal(dummy_load_u64(dev, at + LOST * PAGE, &val), -ENODEV);
	assert_int_equal(dummy_store_u64(dev, at + LOST * PAGE, 1), -ENODEV);
	assert_int_equal(dummy_migrate(dev, at, end, NULL), -ENODEV);
	assert_int_equal(dummy_migrate_vma(dev, at, end, NULL, NULL), -ENODEV);
	assert_int_equal(dummy_evict(dev, at, end, NULL), -ENODEV);
	assert_int_equal(hmm_migrate_to_ram(dummy_mirror(dev)->device, at, end, NULL), -ENODEV);
	assert_int_equal(dummy_discard(dev, at, end), -ENODEV);
	assert_int_equal(hmm_mirror_range_dirty(dummy_mirror(dev), at, end), -ENODEV);
	assert_int_equal(hmm_mirror_range_isdirty(dummy_mirror(dev), at, end, dirty), -ENODEV);
	pattern_check_from(mem + LOST * PAGE, PAGES - LOST, 1, LOST);
}

static void discarded_pages_heal(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	lose();
	is_gone(mem + 49 * PAGE);
	assert_int_equal(madvise(mem + 50 * PAGE, 10 * PAGE, MADV_DONTNEED), 0);
	for (i = 50; i < 60; i++) {
		assert_true(is_zero(mem + i * PAGE, PAGE));
		pattern_page(mem + i * PAGE, 3, i);
	}
	is_gone(mem + 49 * PAGE);
	is_gone(mem + 60 * PAGE);
	munmap(mem, 20 * PAGE);
	pattern_check_from(mem + 50 * PAGE, 10, 3, 50);
	is_gone(mem + 20 * PAGE);
	is_gone(mem + (LOST - 1) * PAGE);
}

/* All at once after the loss, without waiting for what happens behind the scenes. */
static void unmapped_and_moved_at_once(void **state)
{
	char *to = map_aligned(BYTES);

	(void)state;
	BEGIN(5);
	lose();
	assert_int_equal(munmap(mem + 10 * PAGE, 10 * PAGE), 0);
	assert_ptr_equal(mremap(mem + 100 * PAGE, 50 * PAGE, 50 * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	is_gone(to);
	is_gone(to + 49 * PAGE);
	is_gone(mem + 99 * PAGE);
	is_gone(mem + 150 * PAGE);
	wait_until(!device_used(dev));
	munmap(to, BYTES);
}

/* To another device go the pages that there are; the lost ones stay lost. */
static void nothing_lost_goes_elsewhere(void **state)
{
	uint8_t result[PAGES];
	unsigned long moved = 0;
	uint64_t val;
	size_t i;

	(void)state;
	BEGIN(5);
	munmap(theirs + 300 * PAGE, 100 * PAGE);
	wait_until(device_used(other) == 300);
	lose();
	assert_int_equal(dummy_migrate_vma(other, addr_of(mem), addr_of(mem) + BYTES, result,
					   &moved),
			 0);
	for (i = 0; i < LOST; i++)
		assert_int_not_equal(result[i], HMM_MIGRATE_DONE);
	assert_true(moved <= PAGES - LOST);
	for (i = 0; i < LOST; i += 9) {
		assert_int_equal(dummy_load_u64(other, addr_of(mem) + i * PAGE, &val), -EFAULT);
		is_gone(mem + i * PAGE);
	}
	pattern_check_from(mem + LOST * PAGE, PAGES - LOST, 1, LOST);
	theirs = mremap(theirs, 300 * PAGE, 300 * PAGE, 0);
	assert_ptr_equal(mmap(theirs + 300 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 theirs + 300 * PAGE);
	pattern_fill(theirs, PAGES, 2);
}

/* 0: as it was; 1: SIGBUS at the lost pages; 2: something else */
static int child_sees(void)
{
	uint64_t val;
	size_t i;

	for (i = 0; i < PAGES; i++) {
		bool there = get(mem + i * PAGE, &val);

		if (there != (i >= LOST) || (there && val != pattern_word(1, i, 0)))
			return 2;
	}
	return 0;
}

static void a_child_has_lost_them_too(void **state)
{
	int status, when;

	(void)state;
	BEGIN(10);
	lose();
	for (when = 0; when < 2; when++) {
		pid_t pid = fork();

		if (!pid) {
			alarm(10);
			_exit(child_sees());
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		wait_until(!device_used(dev));
	}
	pattern_check_from(mem + LOST * PAGE, PAGES - LOST, 1, LOST);
}

static void a_new_device_takes_its_place(void **state)
{
	(void)state;
	BEGIN(5);
	lose();
	is_gone(mem);
	assert_int_equal(dummy_destroy(dev), 0);
	is_gone(mem + PAGE);
	dev = device_new(512);
	assert_int_equal(madvise(mem, LOST * PAGE, MADV_DONTNEED), 0);
	pattern_fill(mem, LOST, 1);
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 1);
}

/* With none of them ever touched. */
static void destroyed_at_once(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	lose();
	assert_int_equal(dummy_destroy(dev), 0);
	dev = NULL;
	for (i = 0; i < LOST; i++)
		is_gone(mem + i * PAGE);
	pattern_check_from(mem + LOST * PAGE, PAGES - LOST, 1, LOST);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(sigbus_at_exactly_the_lost_pages),
		T(its_pages_are_poisoned_soon),
		T(system_calls_give_efault),
		T(its_calls_give_enodev),
		T(discarded_pages_heal),
		T(unmapped_and_moved_at_once),
		T(nothing_lost_goes_elsewhere),
		T(a_child_has_lost_them_too),
		T(a_new_device_takes_its_place),
		T(destroyed_at_once),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
