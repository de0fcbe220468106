/* SPDX-License-Identifier: MIT */
/*
 * Sources that belong to a file or to shared memory: all of them stay where they are.
 *
 * Tries to break: G4 and G7 (a page that stays is the same page frame after the call,
 * a file is not written, one content is seen through all mappings), G11 (no error).
 */
#include "migrate/source.h"

#include <linux/userfaultfd.h>
#include <sys/shm.h>

/* Not in older headers. */
#define UFFD_MOVE (1ull << 16)
struct move {
	uint64_t dst, src, len, mode;
	int64_t moved;
};
#define UFFD_IOC_MOVE _IOWR(UFFDIO, 0x05, struct move)

#define PAGES 64
#define BYTES (PAGES * PAGE)

static int temp_file(const char *where)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "%s/hmm-test-XXXXXX", where);
	fd = mkstemp(name);
	if (fd >= 0)
		unlink(name);
	return fd;
}

static void file_fill(int fd, uint64_t seed)
{
	char *page = map_anon(PAGE);
	size_t i;

	for (i = 0; i < PAGES; i++) {
		pattern_page(page, seed, i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	munmap(page, PAGE);
}

static void file_check(int fd, uint64_t seed)
{
	char *page = map_anon(PAGE);
	size_t i;

	for (i = 0; i < PAGES; i++) {
		assert_int_equal(pread(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
		pattern_check_from(page, 1, seed, i);
	}
	munmap(page, PAGE);
}

static void stays_with_content(char *mem, uint64_t seed)
{
	assert_ptr_not_equal(mem, MAP_FAILED);
	all_stay(mem, PAGES);
	pattern_check(mem, PAGES, seed);
	all_stay(mem, PAGES);
	device_has(mem, PAGES, seed, 0);
	pattern_check(mem, PAGES, seed);
}

/* A third of it never touched, a third read, a third written: anonymous pages. */
static void check_private_file(const char *where)
{
	int fd = temp_file(where);
	char *mem;
	size_t i;

	if (fd < 0)
		skip_because("no place for a file");
	file_fill(fd, 1);
	mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	for (i = 0; i < PAGES; i++) {
		if (i % 3 == 1)
			touch_read(mem + i * PAGE, 1);
		else if (i % 3 == 2)
			pattern_page(mem + i * PAGE, 2, i);
	}
	all_stay(mem, PAGES);
	for (i = 0; i < PAGES; i++)
		pattern_check_from(mem + i * PAGE, 1, i % 3 == 2 ? 2 : 1, i);
	all_stay(mem, PAGES);
	for (i = 0; i < PAGES; i++)
		device_has(mem + i * PAGE, 1, i % 3 == 2 ? 2 : 1, i);
	file_check(fd, 1);
	munmap(mem, BYTES);
	close(fd);
}

static void private_mapping_of_a_file(void **state)
{
	(void)state;
	BEGIN(30);
	check_private_file("/var/tmp");
}

/* Why: the kernel neither tells of a missing page there, nor moves one. */
static void the_kernel_refuses_private_files(void **state)
{
	char *anon = map_aligned(BYTES), *mem;
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_MOVE };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct move move = { .len = PAGE };
	int fd = temp_file("/var/tmp"), uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	(void)state;
	BEGIN(30);
	if (fd < 0 || uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		skip_because("no file, or no userfaultfd that moves pages");
	file_fill(fd, 1);
	mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_page(mem, 2, 0); /* its own copy: anonymous, and nobody else's */
	reg.range = (struct uffdio_range){ addr_of(mem), BYTES };
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), -1);
	assert_int_equal(errno, EINVAL);
	reg.range.start = addr_of(anon);
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	move.src = addr_of(mem);
	move.dst = addr_of(anon);
	assert_int_equal(ioctl(uffd, UFFD_IOC_MOVE, &move), -1);
	assert_int_equal(errno, EINVAL);
	close(uffd);
	pattern_check_from(mem, 1, 2, 0);
	munmap(mem, BYTES);
	munmap(anon, BYTES);
	close(fd);
}

static void private_mapping_of_tmpfs(void **state)
{
	(void)state;
	BEGIN(30);
	check_private_file("/dev/shm");
}

static void check_shared_file(int fd)
{
	char *a, *b;

	if (fd < 0)
		skip_because("no place for a file");
	assert_int_equal(ftruncate(fd, BYTES), 0);
	a = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(a, MAP_FAILED);
	all_stay(a, PAGES);
	pattern_fill(a, PAGES, 3);
	stays_with_content(b, 3);
	stays_with_content(a, 3);
	assert_int_equal(dummy_store_u64(dev, addr_of(a) + PAGE, 4), 0);
	assert_int_equal(*(uint64_t *)(b + PAGE), 4);
	munmap(a, BYTES);
	munmap(b, BYTES);
	close(fd);
}

static void shared_mapping_of_a_file(void **state)
{
	(void)state;
	BEGIN(30);
	check_shared_file(temp_file("/var/tmp"));
}

static void shared_mapping_of_tmpfs(void **state)
{
	(void)state;
	BEGIN(30);
	check_shared_file(temp_file("/dev/shm"));
}

static void shared_mapping_of_a_memfd(void **state)
{
	(void)state;
	BEGIN(30);
	check_shared_file(memfd_create("test", MFD_CLOEXEC));
}

static void private_mapping_of_a_memfd(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	char *mem;

	(void)state;
	BEGIN(30);
	assert_int_equal(ftruncate(fd, BYTES), 0);
	file_fill(fd, 5);
	mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	stays_with_content(mem, 5);
	pattern_fill(mem, PAGES, 6); /* anonymous pages, all of them */
	stays_with_content(mem, 6);
	file_check(fd, 5);
	munmap(mem, BYTES);
	close(fd);
}

static void shared_anonymous_memory(void **state)
{
	char *mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	BEGIN(30);
	assert_ptr_not_equal(mem, MAP_FAILED);
	all_stay(mem, PAGES);
	pattern_fill(mem, PAGES, 7);
	stays_with_content(mem, 7);
	munmap(mem, BYTES);
}

static void system_v_shared_memory(void **state)
{
	int id = shmget(IPC_PRIVATE, BYTES, IPC_CREAT | 0600);
	char *mem;

	(void)state;
	BEGIN(30);
	if (id < 0)
		skip_because("no System V shared memory");
	mem = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL); /* when the last one has gone */
	assert_ptr_not_equal(mem, (void *)-1);
	pattern_fill(mem, PAGES, 8);
	stays_with_content(mem, 8);
	shmdt(mem);
}

/* Anonymous pages that have a file's name. */
static void private_mapping_of_dev_zero(void **state)
{
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	char *mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	(void)state;
	BEGIN(30);
	close(fd);
	assert_ptr_not_equal(mem, MAP_FAILED);
	pattern_fill(mem, PAGES, 9);
	stays_with_content(mem, 9);
	munmap(mem, BYTES);
}

/* In one chunk and one call with memory that goes. */
static void file_between_anonymous_memory(void **state)
{
	char *mem = map_aligned(3 * BYTES);
	int fd = temp_file("/var/tmp");

	(void)state;
	BEGIN(30);
	file_fill(fd, 1);
	assert_ptr_equal(mmap(mem + BYTES, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			      fd, 0),
			 mem + BYTES);
	pattern_fill(mem, PAGES, 2);
	pattern_fill(mem + BYTES, PAGES / 2, 3);
	pattern_fill(mem + 2 * BYTES, PAGES, 4);
	assert_int_equal(ask(mem, 3 * BYTES), 2 * PAGES);
	assert_int_equal(count_where(mem, PAGES, HMM_WHERE_DEVICE), PAGES);
	assert_int_equal(count_where(mem + BYTES, PAGES, HMM_WHERE_DEVICE), 0);
	assert_int_equal(count_where(mem + 2 * BYTES, PAGES, HMM_WHERE_DEVICE), PAGES);
	device_has(mem, PAGES, 2, 0);
	device_has(mem + 2 * BYTES, PAGES, 4, 0);
	pattern_check(mem, PAGES, 2);
	pattern_check(mem + BYTES, PAGES / 2, 3);
	pattern_check_from(mem + BYTES + BYTES / 2, PAGES / 2, 1, PAGES / 2);
	pattern_check(mem + 2 * BYTES, PAGES, 4);
	file_check(fd, 1);
	munmap(mem, 3 * BYTES);
	close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(private_mapping_of_a_file),	     T(private_mapping_of_tmpfs),
		T(the_kernel_refuses_private_files), T(shared_mapping_of_a_file),
		T(shared_mapping_of_tmpfs),	     T(shared_mapping_of_a_memfd),
		T(private_mapping_of_a_memfd),	     T(shared_anonymous_memory),
		T(system_v_shared_memory),	     T(private_mapping_of_dev_zero),
		T(file_between_anonymous_memory),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
