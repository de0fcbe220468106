/* SPDX-License-Identifier: MIT */
/*
 * Making a dummy device, taking it away, and what it reports.
 *
 * Lifetime: dummy_create() registers the device, its memory and its mirror, in
 * this order; dummy_destroy() takes them away in the opposite one. The mirror
 * goes first, and brings the device's pages back on its way; then no callback
 * runs any more and the memory holds nothing. Nothing is freed before all three
 * have been taken away, so a failure leaves a device that can be destroyed again.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define WINDOW_MAX 4096u

bool dummy_may_fail(struct dummy_device *dev, enum dummy_fail what)
{
	return __atomic_load_n(&dev->inject[what].count, __ATOMIC_RELAXED);
}

bool dummy_fails(struct dummy_device *dev, enum dummy_fail what)
{
	struct dummy_injection *inject = &dev->inject[what];
	bool fails = false;

	if (!dummy_may_fail(dev, what))
		return false;

	pthread_mutex_lock(&dev->inject_lock);
	if (inject->wait) {
		inject->wait--;
	} else if (inject->count) {
		__atomic_store_n(&inject->count, inject->count - 1, __ATOMIC_RELAXED);
		fails = true;
	}
	pthread_mutex_unlock(&dev->inject_lock);
	return fails;
}

void dummy_inject(struct dummy_device *dev, enum dummy_fail what, unsigned long nth,
		  unsigned long count)
{
	struct dummy_injection *inject = &dev->inject[what];

	hmm_signals_block();
	pthread_mutex_lock(&dev->inject_lock);
	inject->wait = nth ? nth - 1 : 0;
	__atomic_store_n(&inject->count, nth ? count : 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&dev->inject_lock);
	hmm_signals_unblock();
}

/* Under the translation lock, so that no translation comes after. */
int dummy_lost(struct dummy_device *dev)
{
	dummy_xlat_lock(dev);
	__atomic_store_n(&dev->lost, true, __ATOMIC_RELEASE);
	dummy_xlat_unlock(dev);
	dummy_revoke(dev, 0, UINT64_MAX, true, false);
	return hmm_device_lost(&dev->device);
}

bool dummy_op_begin(struct dummy_device *dev)
{
	if (dummy_fails(dev, DUMMY_FAIL_LOST))
		dummy_lost(dev);
	return !dummy_is_lost(dev);
}

/* Everything that libhmm has no part in. */
static int device_init(struct dummy_device *dev)
{
	unsigned int i;
	int ret;

	dummy_pool_init(&dev->pool);
	pthread_mutex_init(&dev->inject_lock, NULL);
	pthread_mutex_init(&dev->writer, NULL);
	pthread_mutex_init(&dev->hold_lock, NULL);
	pthread_cond_init(&dev->hold_end, NULL);
	pthread_mutex_init(&dev->discard_lock, NULL);
	pthread_cond_init(&dev->discard_end, NULL);
	for (i = 0; i < DUMMY_STRIPES; i++)
		pthread_mutex_init(&dev->stripe[i], NULL);
	for (i = 0; i < DUMMY_FAIL_TYPES; i++)
		dummy_inject(dev, i, dev->opt.fail[i], 1);

	ret = dummy_iommu_init(dev);
	if (ret)
		return ret;
	ret = dummy_pgtable_init(&dev->pgtable, dev->page_shift);
	if (ret)
		goto fini_iommu;

	ret = -ENOMEM;
	dev->bounce = hmm_map(DUMMY_PORTS * dev->page_size);
	if (!dev->bounce)
		goto fini_pgtable;
	for (i = 0; i < DUMMY_PORTS; i++) {
		pthread_mutex_init(&dev->port[i].owner, NULL);
		pthread_mutex_init(&dev->port[i].xlat, NULL);
		dev->port[i].bounce = dev->bounce + i * dev->page_size;
	}

	if (dev->opt.memory)
		dev->memory = hmm_map(dev->opt.memory);
	/* A device's memory is in one piece; copied from page by page it would not look so. */
	if (dev->memory)
		madvise(dev->memory, dev->opt.memory, MADV_HUGEPAGE);
	if (dev->opt.memory && !dev->memory)
		goto unmap_bounce;

	dev->mem_fd = hmm_fd_keep(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	if (dev->mem_fd >= 0)
		return 0;
	ret = -errno;

	if (dev->memory)
		hmm_unmap(dev->memory, dev->opt.memory);
unmap_bounce:
	hmm_unmap(dev->bounce, DUMMY_PORTS * dev->page_size);
fini_pgtable:
	dummy_pgtable_fini(&dev->pgtable);
fini_iommu:
	dummy_iommu_fini(dev);
	return ret;
}

static void device_fini(struct dummy_device *dev)
{
	dummy_pool_fini(&dev->pool);
	hmm_fd_close(dev->mem_fd);
	if (dev->memory)
		hmm_unmap(dev->memory, dev->opt.memory);
	hmm_unmap(dev->bounce, DUMMY_PORTS * dev->page_size);
	dummy_pgtable_fini(&dev->pgtable);
	dummy_iommu_fini(dev);
	hmm_free(dev);
}

/* Take away what is registered; what is not has a state of NULL. */
static int device_withdraw(struct dummy_device *dev)
{
	int ret = 0;

	if (dev->mirror.state)
		ret = hmm_mirror_unregister(&dev->mirror);
	if (!ret)
		ret = dummy_memory_remove(dev);
	if (!ret && dev->device.state)
		ret = hmm_device_unregister(&dev->device);
	return ret;
}

/* The callbacks that this device has. */
static void device_choose_ops(struct dummy_device *dev)
{
	dev->ops = dummy_ops;
	if (!dev->memory)
		dev->ops.copy_to_device = NULL;
	if (dev->memory && dev->opt.looks_up)
		dev->ops.copy_from_device = dummy_copy_from_device;
	if (!dev->opt.iommu) {
		dev->ops.dma_map = NULL;
		dev->ops.dma_unmap = NULL;
	}
}

static int device_announce(struct dummy_device *dev)
{
	int ret;

	device_choose_ops(dev);
	dev->device.size = sizeof(dev->device);
	dev->device.name = "dummy";
	dev->device.ops = &dev->ops;
	if (!dev->opt.not_prompt && !dev->opt.copy_delay_us)
		dev->device.flags |= HMM_DEVICE_PROMPT;
	if (dev->opt.peer)
		dev->device.flags |= HMM_DEVICE_PEER;
	ret = hmm_device_register(&dev->device);
	if (ret)
		return ret;

	ret = dummy_memory_add(dev);
	if (ret)
		return ret;

	dev->mirror.size = sizeof(dev->mirror);
	dev->mirror.device = &dev->device;
	return hmm_mirror_register(&dev->mirror);
}

static bool options_valid(const struct dummy_options *opt)
{
	size_t pages = (opt->memory + hmm_page_size() - 1) >> hmm_page_shift();

	return opt->fault_window <= WINDOW_MAX && opt->around <= WINDOW_MAX &&
	       opt->memory <= SIZE_MAX / 4 && opt->regions <= DUMMY_REGIONS_MAX &&
	       (opt->regions <= pages || !pages);
}

/* What 0 stands for. */
static void options_complete(struct dummy_device *dev)
{
	struct dummy_options *opt = &dev->opt;

	if (!opt->fault_window)
		opt->fault_window = DUMMY_WINDOW_DEFAULT;
	opt->memory = (opt->memory + dev->page_size - 1) & ~(dev->page_size - 1);
	if (!opt->regions || !opt->memory)
		opt->regions = opt->memory ? 1 : 0;
}

int dummy_create(struct dummy_device **out, const struct dummy_options *opt)
{
	static const struct dummy_options plain = { .memory = DUMMY_MEMORY_DEFAULT };
	struct dummy_device *dev;
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

int dummy_destroy(struct dummy_device *dev)
{
	int ret;

	if (!dev)
		return 0;
	ret = device_withdraw(dev);
	if (!ret)
		device_fini(dev);
	return ret;
}

void dummy_get_stats(struct dummy_device *dev, struct dummy_stats *stats)
{
	struct dummy_stats sum = { .loads = 0 };
	unsigned int i;

	for (i = 0; i < DUMMY_PORTS; i++) {
		struct dummy_counters *count = &dev->port[i].count;

		sum.loads += __atomic_load_n(&count->loads, __ATOMIC_RELAXED);
		sum.stores += __atomic_load_n(&count->stores, __ATOMIC_RELAXED);
		sum.faults += __atomic_load_n(&count->faults, __ATOMIC_RELAXED);
		sum.faults_retried += __atomic_load_n(&count->faults_retried, __ATOMIC_RELAXED);
	}
	sum.pages_in = __atomic_load_n(&dev->stats.pages_in, __ATOMIC_RELAXED);
	sum.pages_zeroed = __atomic_load_n(&dev->stats.pages_zeroed, __ATOMIC_RELAXED);
	sum.pages_out = __atomic_load_n(&dev->stats.pages_out, __ATOMIC_RELAXED);
	sum.bytes_in = __atomic_load_n(&dev->stats.bytes_in, __ATOMIC_RELAXED);
	sum.bytes_out = __atomic_load_n(&dev->stats.bytes_out, __ATOMIC_RELAXED);
	for (i = 0; i <= HMM_WRITE_PROTECT; i++)
		sum.updates[i] = __atomic_load_n(&dev->stats.updates[i], __ATOMIC_RELAXED);
	sum.dma_maps = __atomic_load_n(&dev->stats.dma_maps, __ATOMIC_RELAXED);
	sum.dma_unmaps = __atomic_load_n(&dev->stats.dma_unmaps, __ATOMIC_RELAXED);
	sum.dma_mapped = __atomic_load_n(&dev->stats.dma_mapped, __ATOMIC_RELAXED);
	sum.dma_errors = __atomic_load_n(&dev->stats.dma_errors, __ATOMIC_RELAXED);
	sum.iommu_faults = __atomic_load_n(&dev->stats.iommu_faults, __ATOMIC_RELAXED);
	sum.pages_peer = __atomic_load_n(&dev->stats.pages_peer, __ATOMIC_RELAXED);
	sum.pages_coherent = __atomic_load_n(&dev->stats.pages_coherent, __ATOMIC_RELAXED);
	sum.runs = __atomic_load_n(&dev->stats.runs, __ATOMIC_RELAXED);
	sum.evictions = __atomic_load_n(&dev->stats.evictions, __ATOMIC_RELAXED);
	*stats = sum;
}

struct hmm_mirror *dummy_mirror(struct dummy_device *dev)
{
	return &dev->mirror;
}
