/* SPDX-License-Identifier: MIT */
/*
 * Other memory whose changes nobody tells libhmm of: the program's own text and data,
 * libhmm's memory, another userfaultfd's. And that an access by a translation that is
 * good for it alone is made just once. With and without an IOMMU.
 *
 * Tries to break: G2, G4 (each write is made, and made once), G11.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "mirror/files.h"

static uint64_t program_data = 1234;
static const uint64_t program_constant = 5678;

static void text_and_data_of_the_program(void **state)
{
	unsigned char code[64];

	(void)state;
	BEGIN(10);
	assert_int_equal(
		dummy_load(dev, addr_of((void *)(uintptr_t)map_filled), code, sizeof(code)), 0);
	assert_memory_equal(code, (void *)(uintptr_t)map_filled, sizeof(code));
	assert_int_equal(dummy_store_u64(dev, addr_of((void *)(uintptr_t)map_filled), 0), -EFAULT);
	assert_int_equal(load(&program_constant), 5678);
	assert_int_equal(dummy_store_u64(dev, addr_of(&program_constant), 1), -EFAULT);
	assert_int_equal(load(&program_data), 1234);
	store(&program_data, 4321);
	assert_int_equal(*(volatile uint64_t *)&program_data, 4321);
	store(&program_data, 1234);
}

static void memory_of_libhmm(void **state)
{
	uint64_t *map = hmm_map(16 * PAGE), *alloc = hmm_alloc(64);

	(void)state;
	BEGIN(10);
	map[3] = 33;
	alloc[1] = 11;
	assert_int_equal(load(&map[3]), 33);
	assert_int_equal(load(&alloc[1]), 11);
	store(&map[512], 44);
	store(&alloc[1], 12);
	assert_int_equal(*(volatile uint64_t *)&map[512], 44);
	assert_int_equal(*(volatile uint64_t *)&alloc[1], 12);
	hmm_unmap(map, 16 * PAGE);
	load_is_efault(dev, map);
	hmm_free(alloc);
}

struct handler {
	int uffd;
	char *last; /* ends when this page is filled */
};

/* Fills what is missing with 42. */
static void *handle(void *arg)
{
	static char page[PAGE] __attribute__((aligned(PAGE))) = { 42 };
	const struct handler *handler = arg;
	struct uffdio_copy copy = { .src = addr_of(page), .len = PAGE };
	struct uffd_msg msg;

	while (copy.dst != addr_of(handler->last)) {
		if (read(handler->uffd, &msg, sizeof(msg)) != sizeof(msg))
			break;
		copy.dst = msg.arg.pagefault.address & ~(PAGE - 1);
		ioctl(handler->uffd, UFFDIO_COPY, &copy);
	}
	return NULL;
}

static void memory_of_another_userfaultfd(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct handler handler;
	char *mem = map_aligned(WINDOW * PAGE);
	struct uffdio_register reg = {
		.range = { .start = addr_of(mem), .len = WINDOW * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	pthread_t thread;
	size_t i;

	(void)state;
	BEGIN(10);
	handler = (struct handler){ (int)syscall(SYS_userfaultfd, O_CLOEXEC),
				    mem + (WINDOW - 1) * PAGE };
	if (handler.uffd < 0)
		skip();
	assert_int_equal(ioctl(handler.uffd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(handler.uffd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(pthread_create(&thread, NULL, handle, &handler), 0);
	for (i = 0; i < WINDOW; i++)
		assert_int_equal(load(mem + i * PAGE), 42);
	pthread_join(thread, NULL);
	store(mem, 43);
	assert_int_equal(*(volatile uint64_t *)mem, 43);
	close(handler.uffd);
	assert_int_equal(load(mem), 43);
	munmap(mem, WINDOW * PAGE);
}

/* ---- once ---- */

#define THREADS 4u
#define ADDS 2000u

static char *adds_to;

static void *add(void *arg)
{
	size_t i, failed = 0;

	(void)arg;
	for (i = 0; i < ADDS; i++)
		failed += dummy_fetch_add_u64(dev, addr_of(adds_to), 1, NULL) != 0;
	return (void *)failed;
}

static void each_write_is_made_once(void **state)
{
	int fd = numbered_file(0);
	pthread_t thread[THREADS];
	void *failed;
	size_t i;

	(void)state;
	BEGIN(20);
	adds_to = map_file(fd, RW, MAP_SHARED, NULL);
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, add, NULL), 0);
	for (i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(thread[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(file_word(fd, 0), THREADS * ADDS);
	munmap(adds_to, LEN);
	close(fd);
}

/* The access is made for the first part of its fault; then the second part fails. */
static void once_even_if_the_fault_fails_later(void **state)
{
	struct dummy_options opt = { .fault_window = 1024, .iommu = dma_options.iommu };
	char *mem = map_anon(12 * MIB), *at, *file;
	int fd = numbered_file(50);
	struct dummy_device *wide;
	uint64_t old = 0;

	(void)state;
	BEGIN(10);
	at = (char *)((addr_of(mem) + 4 * MIB - 1) & ~(4 * MIB - 1)); /* the window */
	file = at + 2 * MIB - LEN;
	map_file(fd, RW, MAP_SHARED, file);
	munmap(at + 3 * MIB, PAGE);
	assert_int_equal(dummy_create(&wide, &opt), 0);
	assert_int_equal(dummy_fetch_add_u64(wide, addr_of(file), 1, &old), 0);
	assert_int_equal(old, 50);
	assert_int_equal(file_word(fd, 0), 51);
	assert_int_equal(dummy_destroy(wide), 0);
	load(file); /* for dma_teardown() */
	munmap(mem, 12 * MIB);
	close(fd);
}

static const struct CMUnitTest tests[] = {
	DMA_TEST(text_and_data_of_the_program),	      DMA_TEST(memory_of_libhmm),
	DMA_TEST(memory_of_another_userfaultfd),      DMA_TEST(each_write_is_made_once),
	DMA_TEST(once_even_if_the_fault_fails_later),
};

int main(void)
{
	test_init();
	return FILES_RUN(tests);
}
