/* SPDX-License-Identifier: MIT */
/*
 * What a snapshot says of each page: every flag, of every kind of memory.
 *
 * Tries to break: G2 (a translation, or a leave to write, that the CPU page table does
 * not have), G1 (which of two devices has a page), G11 (errors are values).
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "mini.h"

#define PAGES 64

static struct mini *dev, *other;
static hmm_pfn_t pfns[1024];
static hmm_pfn_t known; /* what this kernel can tell */

static int setup(void **state)
{
	struct hmm_features features = { .size = sizeof(features) };

	(void)state;
	hmm_probe(&features);
	known = HMM_PFN_FLAGS;
	if (!features.pagemap_scan)
		known &= ~(HMM_PFN_ZERO | HMM_PFN_HUGE);
	dev = mini_new(PAGES);
	other = mini_new(PAGES);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	mini_free(other);
	return 0;
}

/* Page @i of the snapshot at @mem has these flags, and the address that goes with them. */
static void expect_at(const char *mem, size_t i, hmm_pfn_t flags)
{
	uint64_t addr = flags & HMM_PFN_VALID ? addr_of(mem) + i * PAGE : 0;

	if ((pfns[i] & known) != (flags & known) || hmm_pfn_addr(pfns[i]) != addr)
		fail_msg("page %zu: 0x%llx, not flags 0x%llx", i, (unsigned long long)pfns[i],
			 (unsigned long long)flags);
}

/* Nobody else's memory meanwhile: see taken(). */
static void expect_hole(const char *mem, size_t i)
{
	if (pfns[i] != HMM_PFN_ERROR && !taken(mem + i * PAGE))
		fail_msg("hole %zu: 0x%llx", i, (unsigned long long)pfns[i]);
}

/* Written, never touched, read only, unmapped, PROT_NONE, read-only, written. */
static char *private_memory(void)
{
	char *mem = map_aligned(8 * PAGE);
	volatile char sink;

	memset(mem, 1, PAGE);
	sink = mem[2 * PAGE];
	(void)sink;
	memset(mem + 4 * PAGE, 1, 4 * PAGE);
	assert_int_equal(mprotect(mem + 4 * PAGE, PAGE, PROT_NONE), 0);
	assert_int_equal(mprotect(mem + 5 * PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(munmap(mem + 3 * PAGE, PAGE), 0);
	return mem;
}

static void private_memory_page_by_page(void **state)
{
	char *mem = private_memory();
	hmm_pfn_t write;
	uint32_t flags;

	(void)state;
	BEGIN(10);
	for (flags = 0; flags <= HMM_RANGE_WRITE; flags++) {
		write = flags ? HMM_PFN_WRITE : 0;
		if (!flags) /* said only where it was asked for */
			known &= ~HMM_PFN_WRITE;
		mini_snapshot(dev, mem, 8, flags, pfns);
		expect_at(mem, 0, HMM_PFN_VALID | write);
		expect_at(mem, 1, 0);
		expect_at(mem, 2, HMM_PFN_VALID | HMM_PFN_ZERO);
		expect_hole(mem, 3);
		expect_at(mem, 4, HMM_PFN_ERROR);
		expect_at(mem, 5, HMM_PFN_VALID);
		expect_at(mem, 6, HMM_PFN_VALID | write);
		expect_at(mem, 7, HMM_PFN_VALID | write);
		known |= HMM_PFN_WRITE;
		/* Nothing was faulted in, and one page is as many. */
		assert_false(on_cpu(mem + PAGE));
		mini_snapshot(dev, mem + 6 * PAGE, 1, flags, pfns);
		if (flags)
			expect_at(mem + 6 * PAGE, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
		mini_snapshot(dev, mem + PAGE, 1, flags, pfns);
		expect_at(mem + PAGE, 0, 0);
	}
	munmap(mem, 8 * PAGE);
}

static void fault_makes_all_of_it_valid(void **state)
{
	char *mem = private_memory();

	(void)state;
	BEGIN(10);
	assert_int_equal(mini_fault(dev, mem, 3, 0, pfns), 0);
	known &= ~HMM_PFN_WRITE;
	expect_at(mem, 0, HMM_PFN_VALID);
	expect_at(mem, 1, HMM_PFN_VALID | HMM_PFN_ZERO);
	expect_at(mem, 2, HMM_PFN_VALID | HMM_PFN_ZERO);
	known |= HMM_PFN_WRITE;
	assert_int_equal(mini_fault(dev, mem, 3, HMM_RANGE_WRITE, pfns), 0);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 1, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 2, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_true(on_cpu(mem + PAGE));
	assert_int_equal(mem[0], 1);
	assert_int_equal(mem[PAGE], 0);
	assert_int_equal(mini_fault(dev, mem + 5 * PAGE, 3, 0, pfns), 0);
	munmap(mem, 8 * PAGE);
}

static void what_cannot_be_faulted_in(void **state)
{
	char *mem = private_memory();

	(void)state;
	BEGIN(10);
	assert_int_equal(mini_fault(dev, mem + 4 * PAGE, 1, 0, pfns), -EFAULT);
	assert_int_equal(mini_fault(dev, mem + 4 * PAGE, 4, 0, pfns), -EFAULT);
	assert_int_equal(mini_fault(dev, mem + 5 * PAGE, 1, HMM_RANGE_WRITE, pfns), -EFAULT);
	if (!taken(mem + 3 * PAGE)) {
		int ret = mini_fault(dev, mem, 4, 0, pfns);

		assert_true(ret == -EFAULT || taken(mem + 3 * PAGE));
	}
	munmap(mem, 8 * PAGE);
}

static void shared_memory(void **state)
{
	char *mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	BEGIN(10);
	assert_ptr_not_equal(mem, MAP_FAILED);
	memset(mem, 1, 2 * PAGE);
	assert_int_equal(mprotect(mem + PAGE, PAGE, PROT_READ), 0);
	mini_snapshot(dev, mem, 4, 0, pfns);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 1, HMM_PFN_VALID);
	expect_at(mem, 2, 0);
	mini_snapshot(dev, mem, 4, HMM_RANGE_WRITE, pfns);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 1, HMM_PFN_VALID);
	assert_int_equal(mini_fault(dev, mem + 2 * PAGE, 2, HMM_RANGE_WRITE, pfns), 0);
	expect_at(mem + 2 * PAGE, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem + 2 * PAGE, 1, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(mini_fault(dev, mem, 2, HMM_RANGE_WRITE, pfns), -EFAULT);
	munmap(mem, 4 * PAGE);
}

/* A device that writes a shared page in place would write the child's as well. */
static void shared_with_a_child(void **state)
{
	char *mem = map_aligned(3 * PAGE), c = 0;
	int fds[2], status;
	pid_t pid;

	(void)state;
	BEGIN(10);
	memset(mem, 1, 3 * PAGE);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		alarm(60);
		close(fds[1]);
		_exit(read(fds[0], &c, 1) || mem[0] != 1 || mem[PAGE] != 1 || mem[2 * PAGE] != 1);
	}
	assert_true(pid > 0);
	mem[2 * PAGE] = 2;
	mini_snapshot(dev, mem, 3, 0, pfns);
	expect_at(mem, 0, HMM_PFN_VALID);
	mini_snapshot(dev, mem, 3, HMM_RANGE_WRITE, pfns);
	expect_at(mem, 0, HMM_PFN_VALID);
	expect_at(mem, 1, HMM_PFN_VALID);
	expect_at(mem, 2, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(mini_fault(dev, mem, 1, HMM_RANGE_WRITE, pfns), 0);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	mini_snapshot(dev, mem, 2, HMM_RANGE_WRITE, pfns);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 1, HMM_PFN_VALID);
	mem[0] = 2; /* what the flag says: in place, and the child has its own */
	close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(fds[0]);
	munmap(mem, 3 * PAGE);
}

static void huge_pages(void **state)
{
	char *mem = map_aligned(2 * THP), huge[64];
	size_t i;

	(void)state;
	BEGIN(10);
	madvise(mem, 2 * THP, MADV_HUGEPAGE);
	mem[0] = 1;
	mem[THP] = mem[THP + PAGE] = 1;
	assert_int_equal(madvise(mem + THP, THP, MADV_NOHUGEPAGE), 0);
	if (!smaps_value(mem, "AnonHugePages", huge, sizeof(huge)) || atoi(huge) < 2048)
		skip();
	mini_snapshot(dev, mem, 512, HMM_RANGE_WRITE, pfns);
	for (i = 0; i < 512; i++)
		expect_at(mem, i, HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_HUGE);
	mini_snapshot(dev, mem + 5 * PAGE, 3, 0, pfns);
	for (i = 0; i < 3; i++)
		assert_int_equal(pfns[i] & ~HMM_PFN_WRITE & known,
				 (HMM_PFN_VALID | HMM_PFN_HUGE) & known);
	/* No more, once it is split. */
	assert_int_equal(madvise(mem, PAGE, MADV_DONTNEED), 0);
	mini_snapshot(dev, mem, 3, HMM_RANGE_WRITE, pfns);
	expect_at(mem, 0, 0);
	expect_at(mem, 1, HMM_PFN_VALID | HMM_PFN_WRITE);
	munmap(mem, 2 * THP);
}

/* Of two devices each has a page, and the CPU one. */
static void device_memory(void **state)
{
	char *mem = map_aligned(3 * PAGE);
	uint32_t flags;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, 3, 1);
	mini_migrate(dev, mem + PAGE, 1);
	mini_migrate(other, mem + 2 * PAGE, 1);
	for (flags = 0; flags <= HMM_RANGE_WRITE; flags++) {
		mini_snapshot(dev, mem, 3, flags, pfns);
		if (flags)
			expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
		assert_int_equal(pfns[1] & HMM_PFN_FLAGS,
				 HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE);
		pattern_check_from(mini_page(dev, hmm_pfn_device(pfns[1])), 1, 1, 1);
		expect_at(mem, 2, HMM_PFN_ELSEWHERE);
		mini_snapshot(other, mem, 3, flags, pfns);
		expect_at(mem, 1, HMM_PFN_ELSEWHERE);
		assert_int_equal(pfns[2] & HMM_PFN_FLAGS,
				 HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE);
		pattern_check_from(mini_page(other, hmm_pfn_device(pfns[2])), 1, 1, 2);
	}
	assert_int_equal(count_on_cpu(mem, 3), 1); /* nothing was moved */
	assert_int_equal(mprotect(mem, 3 * PAGE, PROT_READ), 0);
	mini_snapshot(dev, mem, 3, HMM_RANGE_WRITE, pfns);
	assert_int_equal(pfns[1] & HMM_PFN_FLAGS, HMM_PFN_VALID | HMM_PFN_DEVICE);
	assert_int_equal(mprotect(mem, 3 * PAGE, PROT_READ | PROT_WRITE), 0);
	/* A fault brings home what another has, and leaves what is here. */
	assert_int_equal(mini_fault(dev, mem, 3, HMM_RANGE_WRITE, pfns), 0);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(pfns[1] & HMM_PFN_FLAGS, HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE);
	expect_at(mem, 2, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(hmm_devmem_free_pages(&other->devmem), PAGES);
	assert_int_equal(hmm_devmem_free_pages(&dev->devmem), PAGES - 1);
	pattern_check(mem, 3, 1);
	munmap(mem, 3 * PAGE);
}

static void expect_special(const void *mem, size_t pages)
{
	struct hmm_range range = mini_range(dev, mem, pages, 0, pfns);
	size_t i;

	mini_snapshot(dev, mem, pages, 0, pfns);
	for (i = 0; i < pages; i++)
		expect_at(mem, i, HMM_PFN_SPECIAL);
	mini_snapshot(dev, mem, pages, HMM_RANGE_WRITE, pfns);
	for (i = 0; i < pages; i++)
		expect_at(mem, i, HMM_PFN_SPECIAL);
	assert_int_equal(hmm_range_fault(&range), -EOPNOTSUPP);
	assert_null(range.state);
}

/* A regular file, private and shared; where the root is in memory it is not regular. */
static void memory_of_a_file(void **state)
{
	int fd = open("/bin/sh", O_RDONLY | O_CLOEXEC);
	char *mem = map_anon(4 * PAGE), *file;

	(void)state;
	BEGIN(10);
	assert_true(fd >= 0);
	memset(mem, 1, 4 * PAGE);
	file = mmap(mem + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
	assert_ptr_equal(file, mem + PAGE);
	assert_ptr_equal(mmap(mem + 2 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0),
			 mem + 2 * PAGE);
	expect_special(mem + PAGE, 2);
	mini_snapshot(dev, mem, 4, HMM_RANGE_WRITE, pfns);
	expect_at(mem, 0, HMM_PFN_VALID | HMM_PFN_WRITE);
	expect_at(mem, 1, HMM_PFN_SPECIAL);
	expect_at(mem, 2, HMM_PFN_SPECIAL);
	expect_at(mem, 3, HMM_PFN_VALID | HMM_PFN_WRITE);
	assert_int_equal(mini_fault(dev, mem, 4, 0, pfns), -EOPNOTSUPP);
	assert_int_equal(mprotect(file, PAGE, PROT_NONE), 0);
	mini_snapshot(dev, mem, 4, 0, pfns);
	expect_at(mem, 1, HMM_PFN_ERROR);
	close(fd);
	munmap(mem, 4 * PAGE);
}

static void memory_of_the_library(void **state)
{
	char *mem = hmm_map(4 * PAGE);
	void *small = hmm_alloc(100);

	(void)state;
	BEGIN(10);
	memset(mem, 1, 4 * PAGE);
	expect_special(mem, 4);
	expect_special((void *)((uintptr_t)small & ~(PAGE - 1)), 1);
	expect_special(dev->memory, 3);
	hmm_free(small);
	hmm_unmap(mem, 4 * PAGE);
}

static void memory_of_another_userfaultfd(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	char *mem = map_anon(2 * PAGE);
	struct uffdio_register reg = {
		.range = { .start = addr_of(mem), .len = 2 * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	(void)state;
	BEGIN(10);
	memset(mem, 1, 2 * PAGE);
	if (fd < 0) /* UFFD_USER_MODE_ONLY */
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	expect_special(mem, 2);
	close(fd);
	munmap(mem, 2 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(private_memory_page_by_page),
		T(fault_makes_all_of_it_valid),
		T(what_cannot_be_faulted_in),
		T(shared_memory),
		T(shared_with_a_child),
		T(huge_pages),
		T(device_memory),
		T(memory_of_a_file),
		T(memory_of_the_library),
		T(memory_of_another_userfaultfd),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
