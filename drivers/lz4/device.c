/* SPDX-License-Identifier: MIT */
/* Making an lz4 device, taking it away, and what it reports. */
#include <errno.h>
#include <unistd.h>

#include <hmm/driver.h>

#include "lz4_internal.h"

#define PAGES_PER_LIMIT 8ul
#define PAGES_PER_SYSTEM 4ul

/* The memory whose size does not depend on what the device stores. */
static uint64_t device_bytes(void)
{
	return sizeof(struct lz4_device) + hmm_page_size(); /* the start of the chunk table */
}

static bool options_valid(const struct lz4_options *opt)
{
	return opt->acceleration <= LZ4_ACCELERATION_MAX && opt->around <= LZ4_AROUND_MAX &&
	       opt->limit <= SIZE_MAX / PAGES_PER_LIMIT && opt->pages <= UINT32_MAX;
}

static unsigned long pages_default(const struct lz4_device *dev)
{
	long system = sysconf(_SC_PHYS_PAGES);

	if (dev->opt.limit)
		return (dev->opt.limit >> dev->page_shift) * PAGES_PER_LIMIT;
	return (system > 0 ? (unsigned long)system : 1ul << 20) * PAGES_PER_SYSTEM;
}

static void options_complete(struct lz4_device *dev)
{
	if (!dev->opt.acceleration)
		dev->opt.acceleration = 1;
	if (!dev->opt.pages)
		dev->opt.pages = pages_default(dev);
	if (dev->opt.pages > UINT32_MAX)
		dev->opt.pages = UINT32_MAX;
}

/* Everything that libhmm has no part in. */
static int device_init(struct lz4_device *dev)
{
	int ret;

	pthread_mutex_init(&dev->grow, NULL);
	pthread_mutex_init(&dev->lock, NULL);
	dev->account.limit = dev->opt.limit;
	if (!lz4_charge(&dev->account, device_bytes()))
		return -ENOMEM;
	ret = lz4_pool_init(&dev->pool, &dev->account);
	if (ret)
		return ret;
	ret = lz4_engine_init(dev);
	if (!ret)
		return 0;
	lz4_engine_fini(dev);
	lz4_pool_fini(&dev->pool);
	return ret;
}

static void device_fini(struct lz4_device *dev)
{
	lz4_engine_fini(dev);
	lz4_pool_fini(&dev->pool);
	hmm_free(dev);
}

/* Take away what is registered; what is not has a state of NULL. */
static int device_withdraw(struct lz4_device *dev)
{
	int ret = lz4_regions_remove(dev);

	if (!ret && dev->device.state)
		ret = hmm_device_unregister(&dev->device);
	return ret;
}

static int device_announce(struct lz4_device *dev)
{
	int ret;

	dev->device.size = sizeof(dev->device);
	dev->device.flags = HMM_DEVICE_PROMPT; /* to decompress waits for nothing */
	dev->device.name = "lz4";
	ret = hmm_device_register(&dev->device);
	return ret ? ret : lz4_regions_add(dev);
}

int lz4_create(struct lz4_device **out, const struct lz4_options *opt)
{
	static const struct lz4_options plain = { .limit = 0 };
	struct lz4_device *dev;
	int ret;

	if (!opt)
		opt = &plain;
	if (!options_valid(opt))
		return -EINVAL;
	dev = hmm_alloc(sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	dev->opt = *opt;
	dev->page_size = hmm_page_size();
	dev->page_shift = hmm_page_shift();
	options_complete(dev);
	ret = device_init(dev);
	if (ret) {
		hmm_free(dev);
		return ret;
	}
	ret = device_announce(dev);
	if (!ret)
		*out = dev;
	/* If it cannot even be withdrawn, libhmm goes on using it: keep it. */
	else if (!device_withdraw(dev))
		device_fini(dev);
	return ret;
}

int lz4_destroy(struct lz4_device *dev)
{
	int ret;

	if (!dev)
		return 0;
	ret = device_withdraw(dev);
	if (!ret)
		device_fini(dev);
	return ret;
}

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

void lz4_get_stats(struct lz4_device *dev, struct lz4_stats *stats)
{
	struct lz4_stats sum = {
		.pages = get(&dev->count.pages),
		.same_filled = get(&dev->count.same_filled),
		.plain = get(&dev->count.plain),
		.stored_bytes = get(&dev->count.stored_bytes),
		.object_bytes = get(&dev->pool.object_bytes),
		.memory = get(&dev->account.used),
		.memory_peak = get(&dev->account.peak),
		.packed_bytes = get(&dev->pool.resident) << dev->page_shift,
		.idle_bytes = get(&dev->pool.idle) << dev->page_shift,
		.capacity = __atomic_load_n(&dev->capacity, __ATOMIC_RELAXED),
		.pages_in = get(&dev->count.pages_in),
		.pages_out = get(&dev->count.pages_out),
		.declined = get(&dev->count.declined),
		.lost = get(&dev->count.lost),
	};

	*stats = sum;
}

struct hmm_device *lz4_hmm_device(struct lz4_device *dev)
{
	return &dev->device;
}
