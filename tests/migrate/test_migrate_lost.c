/* SPDX-License-Identifier: MIT */
/*
 * Migrated memory that changes its protection, and pages that the device loses.
 *
 * Tries to break: G4 (SIGBUS on the lost page and nothing else; content kept across
 * protections), G9 (the faulting thread goes on), G11.
 */
#include "test_util.h"

#define PAGES 64
#define BYTES (PAGES * PAGE)

static struct dummy_device *dev;
static char *mem;

static sigjmp_buf jump;
static volatile uint64_t signal_addr;
static volatile int signal_number;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	signal_number = sig;
	signal_addr = addr_of(info->si_addr);
	siglongjmp(jump, 1);
}

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_NONE, NULL);
	dev = device_new(512);
	mem = map_aligned(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	return dummy_destroy(dev);
}

/* The signal that an access to @addr brings, or 0. */
static int probe(const char *addr, bool write)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	volatile char *at = (volatile char *)(uintptr_t)addr;

	sigaction(SIGBUS, &action, NULL); /* cmocka has its own outside of tests */
	sigaction(SIGSEGV, &action, NULL);
	signal_number = 0;
	signal_addr = 0;
	if (!sigsetjmp(jump, 1)) {
		if (write)
			*at = 1;
		else
			(void)*at;
	}
	return signal_number;
}

static void readonly_and_back(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	assert_int_equal(probe(mem + 5 * PAGE, true), SIGSEGV);
	step("reading migrated memory that became read-only");
	pattern_check(mem, PAGES / 2, 1);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 2 * PAGE, 9), -EFAULT);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	pattern_check(mem, PAGES, 1);
	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(mem + i * PAGE) = i;
	migrate_all(dev, mem, PAGES);
	for (i = 0; i < PAGES; i++)
		assert_int_equal(*(uint64_t *)(mem + i * PAGE), i);
}

static void device_write_to_migrated_readonly_is_efault(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem), 9), -EFAULT);
	pattern_check(mem, PAGES, 1);
}

static void none_and_back(void **state)
{
	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_NONE), 0);
	assert_int_equal(probe(mem + 5 * PAGE, false), SIGSEGV);
	assert_int_equal(signal_addr, addr_of(mem + 5 * PAGE));
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	step("reading what was PROT_NONE");
	pattern_check(mem, PAGES, 1);
}

/* A device that goes while the memory cannot be touched. */
static void destroy_while_protected(void **state)
{
	int prot[] = { PROT_NONE, PROT_READ };
	size_t i;

	(void)state;
	BEGIN(5);
	for (i = 0; i < 2; i++) {
		migrate_all(dev, mem, PAGES);
		assert_int_equal(mprotect(mem, BYTES, prot[i]), 0);
		step("dummy_destroy");
		assert_int_equal(dummy_destroy(dev), 0);
		dev = device_new(512);
		assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
		pattern_check(mem, PAGES, 1);
	}
}

static void lost_page_is_sigbus_there_and_nowhere_else(void **state)
{
	size_t i, lost = 0;
	int fds[2];

	(void)state;
	BEGIN(5);
	assert_int_equal(pipe(fds), 0);
	migrate_all(dev, mem, PAGES);
	dummy_inject(dev, DUMMY_FAIL_PAGE, 1, 1);
	for (i = 0; i < PAGES; i++) {
		step("touching pages of which one is lost");
		if (!probe(mem + i * PAGE + 40, false)) {
			pattern_check_from(mem + i * PAGE, 1, 1, i);
			continue;
		}
		assert_int_equal(signal_number, SIGBUS);
		assert_int_equal(signal_addr & ~(PAGE - 1), addr_of(mem + i * PAGE));
		/* It stays so, and system calls get an error. */
		assert_int_equal(probe(mem + i * PAGE, true), SIGBUS);
		assert_int_equal(write(fds[1], mem + i * PAGE, 1), -1);
		assert_int_equal(errno, EFAULT);
		lost++;
	}
	assert_int_equal(lost, 1);
	close(fds[0]);
	close(fds[1]);
	wait_until(device_used(dev) == 0);
}

/* The device gives nothing back at all. */
static void dead_device_poisons_what_it_has(void **state)
{
	size_t i;

	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, 10);
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 1, ~0ul);
	for (i = 0; i < 10; i++)
		assert_int_equal(probe(mem + i * PAGE, false), SIGBUS);
	pattern_check_from(mem + 10 * PAGE, PAGES - 10, 1, 10);
	/* DONTNEED takes the poison away. */
	assert_int_equal(madvise(mem, 10 * PAGE, MADV_DONTNEED), 0);
	assert_true(is_zero(mem, 10 * PAGE));
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 0, 0);
}

static void device_access_to_a_lost_page_is_an_error(void **state)
{
	unsigned long pages;
	uint64_t val;
	size_t i;

	(void)state;
	BEGIN(5);
	migrate_all(dev, mem, 4);
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 1, ~0ul);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + 4 * PAGE, &pages), -EIO);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem), &val), 0); /* it stayed */
	assert_int_equal(val, pattern_word(1, 0, 0));
	for (i = 0; i < 4; i++)
		assert_int_equal(probe(mem + i * PAGE, false), SIGBUS);
	step("device access to a poisoned page");
	load_is_efault(dev, mem);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 5 * PAGE, &val), 0);
	assert_int_equal(val, pattern_word(1, 5, 0));
	/* Migrating over it leaves it poisoned, and takes the rest. */
	dummy_inject(dev, DUMMY_FAIL_COPY_FROM, 0, 0);
	assert_int_equal(dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, PAGES - 4);
	assert_int_equal(probe(mem, false), SIGBUS);
	pattern_check_from(mem + 4 * PAGE, PAGES - 4, 1, 4);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(readonly_and_back),
		T(device_write_to_migrated_readonly_is_efault),
		T(none_and_back),
		T(destroy_while_protected),
		T(lost_page_is_sigbus_there_and_nowhere_else),
		T(dead_device_poisons_what_it_has),
		T(device_access_to_a_lost_page_is_an_error),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
