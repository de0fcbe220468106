/* SPDX-License-Identifier: MIT */
/*
 * Devices: known to libhmm from hmm_device_register() on, kept by their mirrors
 * and by their memory. All of it under api_lock.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

TAILQ_HEAD(device_list, hmm_device_state);
static HMM_DATA struct device_list devices = TAILQ_HEAD_INITIALIZER(devices);

/* The smaller of the two sizes is copied: an older driver's ops end earlier. */
static int ops_copy(struct hmm_device_ops *to, const struct hmm_device_ops *from)
{
	size_t size;

	memset(to, 0, sizeof(*to));
	if (!from)
		return 0;
	if (from->version != HMM_DEVICE_OPS_VERSION ||
	    from->size < offsetof(struct hmm_device_ops, copy_to_device))
		return -EINVAL;
	size = from->size < sizeof(*to) ? from->size : sizeof(*to);
	memcpy(to, from, size);
	if ((to->copy_to_device && !to->update) || !to->hold != !to->release ||
	    !to->dma_map != !to->dma_unmap)
		return -EINVAL;
	return 0;
}

static int device_register(struct hmm_device *device)
{
	struct hmm_device_state *state;
	int ret;

	if (device->size < sizeof(*device) || !device->name)
		return -EINVAL;
	if (device->state)
		return -EBUSY;
	state = hmm_alloc(sizeof(*state));
	if (!state)
		return -ENOMEM;
	state->device = device;
	state->flags = device->flags;
	strncpy(state->label, device->name, sizeof(state->label) - 1);
	ret = ops_copy(&state->ops, device->ops);
	if (state->ops.dma_map)
		state->flags |= HMM_DEVICE_PINS;
	if (!ret)
		ret = keep_struct(device, device->size);
	if (ret) {
		hmm_free(state);
		return ret;
	}
	device->state = state;
	TAILQ_INSERT_TAIL(&devices, state, link);
	return 0;
}

HMM_API int hmm_device_register(struct hmm_device *device)
{
	int ret;

	if (!device)
		return -EINVAL;
	if (call_running())
		return -EDEADLK;
	api_lock();
	ret = device_register(device);
	api_unlock();
	return ret;
}

HMM_API int hmm_device_unregister(struct hmm_device *device)
{
	int ret = 0;

	if (call_running())
		return -EDEADLK;
	api_lock();
	if (!device || !device->state) {
		ret = -EINVAL;
	} else if (device->state->users) {
		ret = -EBUSY;
	} else {
		keep_forget(device);
		TAILQ_REMOVE(&devices, device->state, link);
		hmm_free(device->state);
		device->state = NULL;
	}
	api_unlock();
	return ret;
}

int device_get(struct hmm_device *device)
{
	int ret = -EINVAL;

	if (call_running())
		return -EDEADLK;
	api_lock();
	if (device && device->state) {
		device->state->users++;
		device->state->regions++;
		ret = 0;
	}
	api_unlock();
	return ret;
}

/* With the last of its memory goes what libhmm kept for migrating to it. */
void device_region_gone(struct hmm_device *device)
{
	device->state->users--;
	if (!--device->state->regions)
		mirror_shadow_end(device);
}

void device_put(struct hmm_device *device)
{
	api_lock();
	device_region_gone(device);
	api_unlock();
}

bool device_is_lost(const struct hmm_device_state *dev)
{
	return __atomic_load_n(&dev->lost, __ATOMIC_ACQUIRE);
}

/*
 * Called from anywhere, perhaps with hmm->lock held: so the flag is all that is set here.
 * The monitor then does what a failed update() does, see mirrors_bury().
 */
HMM_API int hmm_device_lost(struct hmm_device *device)
{
	struct hmm_device_state *dev = device ? device->state : NULL;
	struct hmm *hmm;

	if (!dev)
		return -EINVAL;
	if (__atomic_exchange_n(&dev->lost, true, __ATOMIC_ACQ_REL))
		return 0;
	log_err("device %s is lost, and what was in its memory", device->name);
	hmm = process_pin();
	if (hmm) {
		monitor_kick(hmm->monitor);
		process_unpin(hmm);
	}
	return 0;
}

/* In a child. */
void devices_forget(void)
{
	struct hmm_device_state *state;

	TAILQ_FOREACH(state, &devices, link)
		state->device->state = NULL;
	TAILQ_INIT(&devices);
}
