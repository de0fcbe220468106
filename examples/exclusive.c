/* SPDX-License-Identifier: MIT */
/*
 * Exclusive access: a device and the CPU count in the same words, and none is lost.
 * docs/mirroring.md explains it.
 *
 * The dummy device adds to a word in system memory when it has the page for itself, and
 * the CPU with an atomic add when it has it. Each access of one takes the page from the
 * other; where the page is in the device's memory, the CPU's access brings it home.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <hmm/hmm.h>

#include <dummy.h>

#define COUNTERS 512 /* of 8 bytes: a page, where that is 4 KiB */
#define TURNS 2000
#define CPU_THREADS 2
#define DEVICE_THREADS 2

static uint64_t *counters;

static void *cpu_main(void *arg)
{
	size_t i = (size_t)arg, turn;

	for (turn = 0; turn < TURNS; turn++, i += 7)
		__atomic_fetch_add(&counters[i % COUNTERS], 1, __ATOMIC_RELAXED);
	return NULL;
}

static int device_main(struct dummy_device *dev, unsigned int thread, void *arg)
{
	size_t i = thread, turn;
	int ret = 0;

	(void)arg;
	for (turn = 0; turn < TURNS && !ret; turn++, i += 11)
		ret = dummy_atomic_add_u64(dev, (uint64_t)(uintptr_t)&counters[i % COUNTERS], 1,
					   NULL);
	return ret;
}

static int count(struct dummy_device *dev)
{
	pthread_t threads[CPU_THREADS];
	size_t i;
	int ret;

	for (i = 0; i < CPU_THREADS; i++)
		if (pthread_create(&threads[i], NULL, cpu_main, (void *)i))
			abort();
	ret = dummy_run(dev, DEVICE_THREADS, device_main, NULL);
	for (i = 0; i < CPU_THREADS; i++)
		pthread_join(threads[i], NULL);
	return ret;
}

static uint64_t sum(void)
{
	uint64_t all = 0;
	size_t i;

	for (i = 0; i < COUNTERS; i++)
		all += counters[i];
	return all;
}

int main(void)
{
	const uint64_t each = (uint64_t)(CPU_THREADS + DEVICE_THREADS) * TURNS;
	size_t bytes = COUNTERS * sizeof(*counters);
	struct dummy_device *dev;
	uint64_t start;
	int ret = dummy_create(&dev, NULL);

	if (ret) {
		fprintf(stderr, "exclusive: no device: %s\n", strerror(-ret));
		return ret == -EPERM || ret == -ENOSYS ? 77 : 1;
	}
	counters = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (counters == MAP_FAILED)
		return 1;
	start = (uint64_t)(uintptr_t)counters;

	ret = count(dev); /* in system memory */
	if (!ret)
		ret = dummy_migrate(dev, start, start + bytes, NULL);
	if (!ret)
		ret = count(dev); /* from the device's memory on */
	if (ret == -EPERM || ret == -EOPNOTSUPP) {
		printf("skipped: pages cannot be moved here\n");
		return 77;
	}
	printf("%" PRIu64 " of %" PRIu64 " were counted\n", sum(), 2 * each);
	if (ret || sum() != 2 * each) {
		fprintf(stderr, "exclusive: %s\n", ret ? strerror(-ret) : "some were lost");
		return 1;
	}
	munmap(counters, bytes);
	return dummy_destroy(dev) ? 1 : 0;
}
