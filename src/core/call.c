/* SPDX-License-Identifier: MIT */
/*
 * The driver's ops, each called in one place: with the state checked that the
 * contract in device.h promises, and the result checked that it asks for.
 */
#include <errno.h>

#include "core/core.h"

static __thread unsigned int calls;

bool call_running(void)
{
	return calls;
}

static void call_enter(void)
{
	calls++;
}

static void call_leave(void)
{
	calls--;
}

static int call_result(struct hmm_mirror_state *ms, const char *op, int ret)
{
	if (ret == 0 || ret == -ENOMEM || ret == -EIO)
		return ret;
	log_err("device %s: %s() returned %d, which it may not: taken as -EIO",
		ms->dev->device->name, op, ret);
	return -EIO;
}

int call_update(struct hmm_mirror_state *ms, unsigned long start, unsigned long end,
		enum hmm_etype etype)
{
	struct hmm_event event = { .start = start, .end = end, .etype = etype };
	int ret;

	HMM_ASSERT(start < end);
	if (etype != HMM_DEVICE_RFAULT && etype != HMM_DEVICE_WFAULT)
		stat_inc(invalidations);
	call_enter();
	ret = ms->dev->ops.update(ms->mirror, &event);
	call_leave();
	return call_result(ms, "update", ret);
}

/* An entry that is not a valid page of this device, or was not asked for. */
static bool dst_bad(struct hmm_mirror_state *ms, hmm_pte_t src, hmm_pte_t dst)
{
	struct hmm_page *page;

	if (!src || !hmm_pte_test_valid(dst) || !hmm_pte_test_device(dst))
		return true;
	page = hmm_page_from_pfn(hmm_pte_pfn(dst));
	return !page || devmem_device(page) != ms->dev->device;
}

int call_copy_to_device(struct hmm_mirror_state *ms, hmm_pte_t *dst, unsigned long start,
			unsigned long end)
{
	struct hmm_event event = { .start = start, .end = end, .etype = HMM_COPY_TO_DEVICE };
	unsigned long i, n = (end - start) >> hmm_page_shift();
	hmm_pte_t src[CHUNK_PAGES_MAX];
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	mirror_read(ms, start, end, src);
	for (i = 0; i < n; i++)
		dst[i] = 0;
	call_enter();
	ret = ms->dev->ops.copy_to_device(ms->mirror, &event, dst, start, end);
	call_leave();
	ret = call_result(ms, "copy_to_device", ret);
	for (i = 0; i < n; i++) {
		if (!dst[i])
			continue;
		if (ret || dst_bad(ms, src[i], dst[i])) {
			log_err("device %s: copy_to_device() gave an entry it may not: 0x%llx",
				ms->dev->device->name, (unsigned long long)dst[i]);
			dst[i] = 0;
		}
	}
	return ret;
}

int call_copy_from_device(struct hmm_mirror_state *ms, enum hmm_etype etype, hmm_pte_t *dst,
			  unsigned long start, unsigned long end)
{
	struct hmm_event event = { .start = start, .end = end, .etype = etype };
	unsigned long i, n = (end - start) >> hmm_page_shift();
	int ret;

	HMM_ASSERT(start < end && n <= CHUNK_PAGES_MAX);
	call_enter();
	ret = ms->dev->ops.copy_from_device(ms->mirror, &event, dst, start, end);
	call_leave();
	ret = call_result(ms, "copy_from_device", ret);
	if (ret)
		for (i = 0; i < n; i++)
			dst[i] = 0;
	return ret;
}

void call_hold(struct hmm_mirror_state *ms)
{
	call_enter();
	ms->dev->ops.hold(ms->mirror);
	call_leave();
}

void call_release(struct hmm_mirror_state *ms)
{
	call_enter();
	ms->dev->ops.release(ms->mirror);
	call_leave();
}
