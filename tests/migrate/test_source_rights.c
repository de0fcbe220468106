/* SPDX-License-Identifier: MIT */
/*
 * Sources by what may be done with them: read-only, no access, executable, guard pages,
 * write-protected by a userfaultfd of the program's own.
 *
 * Tries to break: G4 (what is away when its mapping changes), G7 (what stays is the same
 * page frame, and what was no page is none), G11 (such memory is no error).
 */
#include "migrate/source.h"

#include <linux/userfaultfd.h>
#include <poll.h>

#define PAGES 64
#define BYTES (PAGES * PAGE)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* A third with content, a third zero pages, a third holes. */
static char *thirds_new(uint64_t seed)
{
	char *mem = map_aligned(BYTES);
	size_t i;

	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			pattern_page(mem + i * PAGE, seed, i);
		else if (i % 3 == 1)
			touch_read(mem + i * PAGE, 1);
	}
	return mem;
}

static void thirds_check(const char *mem, uint64_t seed)
{
	size_t i;

	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			pattern_check_from(mem + i * PAGE, 1, seed, i);
		else
			assert_true(is_zero(mem + i * PAGE, PAGE));
	}
}

#define THIRDS (PAGES / 3 + 1) /* with content */

static void check_protection(int prot)
{
	char *mem = thirds_new(1);

	assert_int_equal(mprotect(mem, BYTES, prot), 0);
	all_stay(mem, PAGES);
	all_stay(mem + 5 * PAGE, 9);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	all_go(mem, PAGES, THIRDS);
	thirds_check(mem, 1);
	munmap(mem, BYTES);
}

static void read_only(void **state)
{
	(void)state;
	BEGIN(30);
	check_protection(PROT_READ);
}

static void no_access(void **state)
{
	(void)state;
	BEGIN(30);
	check_protection(PROT_NONE);
}

static void read_and_execute(void **state)
{
	(void)state;
	BEGIN(30);
	check_protection(PROT_READ | PROT_EXEC);
}

/* Memory of a just-in-time compiler. It may go or stay, and is as it was. */
static void read_write_and_execute(void **state)
{
	char *mem = thirds_new(2);
	size_t moved;

	(void)state;
	BEGIN(30);
	if (mprotect(mem, BYTES, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		munmap(mem, BYTES);
		skip_because("no memory that is writable and executable");
	}
	moved = ask(mem, BYTES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), moved);
	assert_int_equal(device_used(dev), moved);
	thirds_check(mem, 2);
	munmap(mem, BYTES);
}

/* Away when the rights change: it comes back with its content all the same. */
static void check_protected_away(int prot)
{
	char *mem = map_aligned(BYTES);
	unsigned long came = 0;

	pattern_fill(mem, PAGES, 3);
	all_go(mem, PAGES, PAGES);
	assert_int_equal(mprotect(mem, BYTES, prot), 0);
	if (prot & PROT_READ) {
		pattern_check(mem, 3, 3);
		device_has(mem, PAGES, 3, 0);
	}
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + BYTES - 8, 1), -EFAULT);
	ask(mem, BYTES);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + BYTES, &came), 0);
	assert_int_equal(device_used(dev), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	pattern_check(mem, PAGES, 3);
	all_go(mem, PAGES, PAGES);
	assert_int_equal(mprotect(mem, BYTES, prot), 0);
	assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
	device_has(mem, PAGES, 3, 0);
	pattern_check(mem, PAGES, 3);
	munmap(mem, BYTES);
}

static void protected_while_it_is_away(void **state)
{
	(void)state;
	BEGIN(30);
	check_protected_away(PROT_READ);
	check_protected_away(PROT_NONE);
}

/* ---- guard pages ---- */

static void guard_pages(void **state)
{
	char *mem = map_aligned(BYTES);
	uint64_t word;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, PAGES, 4);
	if (syscall(SYS_madvise, mem + 20 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL)) {
		munmap(mem, BYTES);
		skip_because("no MADV_GUARD_INSTALL (Linux 6.13)");
	}
	assert_int_equal(ask(mem, BYTES), PAGES - 2);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES - 2);
	assert_int_equal(count_where(mem + 20 * PAGE, 2, HMM_WHERE_DEVICE), 0);
	assert_int_equal(device_used(dev), PAGES - 2);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 20 * PAGE, &word), -EFAULT);
	assert_int_equal(dummy_load_u64(dev, addr_of(mem) + 22 * PAGE - 8, &word), -EFAULT);
	/* Still a guard for the CPU too: asked by a call that fails. */
	assert_int_equal(madvise(mem + 21 * PAGE, PAGE, MADV_POPULATE_WRITE), -1);
	device_has(mem, 20, 4, 0);
	pattern_check(mem, 20, 4);
	pattern_check_from(mem + 22 * PAGE, PAGES - 22, 4, 22);
	munmap(mem, BYTES);
}

/* ---- another userfaultfd ---- */

struct protector {
	int fd;
	char *mem;
	unsigned int faults; /* atomic */
	bool stop;
};

static int protect(struct protector *p, char *at, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { addr_of(at), len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(p->fd, UFFDIO_WRITEPROTECT, &wp);
}

static void *protector_main(void *arg)
{
	struct protector *p = arg;
	struct pollfd fd = { p->fd, POLLIN, 0 };
	struct uffd_msg msg;

	while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE)) {
		if (poll(&fd, 1, 20) != 1 || read(p->fd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		__atomic_add_fetch(&p->faults, 1, __ATOMIC_RELAXED);
		protect(p, (char *)(msg.arg.pagefault.address & ~(PAGE - 1)), PAGE, false);
	}
	return NULL;
}

static bool protector_open(struct protector *p, char *mem, size_t len)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register reg = { .range = { addr_of(mem), len },
				       .mode = UFFDIO_REGISTER_MODE_WP };

	p->mem = mem;
	p->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return p->fd >= 0 && !ioctl(p->fd, UFFDIO_API, &api) &&
	       !ioctl(p->fd, UFFDIO_REGISTER, &reg);
}

/* The middle is the program's own; its protection is what it made it. */
static void write_protected_by_the_program(void **state)
{
	char *mem = map_aligned(3 * BYTES), *own = mem + BYTES;
	struct protector *p = (void *)map_anon(PAGE);
	pthread_t thread;

	(void)state;
	BEGIN(30);
	pattern_fill(mem, 3 * PAGES, 5);
	if (!protector_open(p, own, BYTES))
		skip_because("no second userfaultfd");
	assert_int_equal(protect(p, own, BYTES, true), 0);
	all_stay(own, PAGES);
	assert_int_equal(ask(mem, 3 * BYTES), 2 * PAGES);
	assert_int_equal(count_where(own, PAGES, HMM_WHERE_SYSTEM), PAGES);
	assert_int_equal(device_used(dev), 2 * PAGES);
	device_has(mem, 3 * PAGES, 5, 0);
	pattern_check(mem, 3 * PAGES, 5);
	assert_int_equal(pthread_create(&thread, NULL, protector_main, p), 0);
	assert_int_equal(__atomic_load_n(&p->faults, __ATOMIC_RELAXED), 0);
	step("writing where the program is told of it");
	((uint64_t *)own)[1] = 6;
	((uint64_t *)(own + BYTES))[-1] = 7;
	assert_int_equal(__atomic_load_n(&p->faults, __ATOMIC_RELAXED), 2);
	assert_int_equal(((uint64_t *)own)[1], 6);
	pattern_check_from(own + PAGE, PAGES - 2, 5, PAGES + 1);
	assert_int_equal(protect(p, own, BYTES, false), 0);
	__atomic_store_n(&p->stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	/* Given up by the program, it goes like any other. */
	close(p->fd);
	wait_until(device_used(dev) == 0);
	all_go(own, PAGES, PAGES);
	assert_int_equal(((uint64_t *)(own + BYTES))[-1], 7);
	munmap(mem, 3 * BYTES);
	munmap(p, PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(read_only),
		T(no_access),
		T(read_and_execute),
		T(read_write_and_execute),
		T(protected_while_it_is_away),
		T(guard_pages),
		T(write_protected_by_the_program),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
