/* SPDX-License-Identifier: MIT */
/*
 * Mirrors: one for each (process, device) pair.
 */
#ifndef HMM_MIRROR_H
#define HMM_MIRROR_H

#include <hmm/device.h>
#include <hmm/pt.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hmm_mirror_state;

/**
 * struct hmm_mirror - this process's address space as a device sees it
 * @size: sizeof(struct hmm_mirror), as the driver was compiled
 * @device: a registered device; set by the driver
 * @pt: the mirror page table; made and freed by libhmm
 * @state: libhmm's; NULL while not registered
 *
 * Embed it in the driver's own struct. The pages that hold it are never
 * migrated while it is registered.
 */
struct hmm_mirror {
	uint32_t size;
	struct hmm_device *device;
	struct hmm_pt pt;
	struct hmm_mirror_state *state;
};

/**
 * hmm_mirror_register() - mirror the calling process's address space
 * @mirror: with @size and @device set
 *
 * Where the device has migrated without a mirror (migrate.h), that comes home first.
 *
 * The first one of a process starts libhmm's threads; it costs the process
 * nothing else until a range is asked for. A child made by fork() starts with
 * no mirror and no device.
 *
 * Return: 0; -EINVAL @mirror is malformed or its device is not registered;
 * -EBUSY the device has a mirror of this process already;
 * -ENOSYS, -EOPNOTSUPP, -EPERM the kernel has no userfaultfd, has not what is
 * needed of it, or refuses it: hmm_probe() says what to change;
 * -EMFILE, -ENFILE; -ENOSPC too many devices and mirrors; -ENOMEM; -EAGAIN no more
 * threads; -EDEADLK called from an op.
 * Context: any thread, not from an op. May sleep.
 */
HMM_API int hmm_mirror_register(struct hmm_mirror *mirror);

/**
 * hmm_mirror_unregister() - end a mirror
 * @mirror: the mirror
 *
 * Brings back what is in the device's memory, waits for the ops that run, and
 * returns with none running. Calls to hmm_mirror_fault() that overlap with it get
 * -ENODEV. @mirror may then be freed, once no thread is about to call with it. A page
 * that the device cannot give back is poisoned: the CPU gets SIGBUS there and nowhere
 * else.
 *
 * Short of memory it waits for some, rather than lose a page.
 *
 * Return: 0; -EINVAL not registered; -EDEADLK called from an op.
 * Context: any thread, not from an op. May sleep.
 */
HMM_API int hmm_mirror_unregister(struct hmm_mirror *mirror);

/**
 * hmm_mirror_fault() - what a device asks for
 * @mirror: a registered mirror
 * @event: range and type; @event->pages is written on success
 *
 * %HMM_DEVICE_RFAULT, %HMM_DEVICE_WFAULT: the pages of the range are made
 * present, entered in @mirror->pt and reported by update(). A hole of a
 * readable mapping is filled. Where a page cannot be had, the fault fails; pages of
 * the range that came before may have been reported. What dma_map() could not map
 * is left out, and @event->pages says how many there are; if there are none, the
 * fault fails with what dma_map() returned, or -EIO.
 *
 * %HMM_COPY_TO_DEVICE: every page of the range that can move does so; which do
 * not (pinned, of a file, shared, on a stack, excluded) stay where they were.
 * A mapping's hole moves too, as a cleared device page, if the driver takes it.
 *
 * %HMM_COPY_FROM_DEVICE: what is in this device's memory comes back.
 *
 * %HMM_DEVICE_EXCLUSIVE: the device gets the pages of the range for itself, for what must
 * be atomic against the CPU. Their entries in @mirror->pt, with %HMM_PTE_EXCLUSIVE, are
 * reported by update(); by them the device reads, writes and changes the pages as it likes,
 * and neither the CPU nor another device sees them meanwhile. The first access of either
 * takes a page back: update() comes with %HMM_MIGRATE, and must not return before what the
 * device is doing there has ended. So does any event of the address space; libhmm may do
 * so at any time. What is in this device's memory is the device's alone already, and gets
 * its entry. In a hole there is a page of zeros afterwards. Pages that cannot move (of a
 * file, shared, pinned, on a stack) are left out and have no entry; @event->pages says how
 * many are the device's. If there are none, and some could be had another time, that is
 * -EBUSY (they are pinned, or the range kept changing) or what dma_map() returned. Like a
 * fault that comes back without its page being there still, it need not last until the
 * call returns: a driver that must get on makes its access in update(). Source: Linux,
 * make_device_exclusive_range().
 *
 * Return: 0;
 * -EINVAL range empty, not page-aligned or past %HMM_USER_END, or a
 * type that is not one of the five;
 * -EFAULT a fault's range is not all mapped, or not with that permission;
 * -EOPNOTSUPP a fault on memory without pages (a device's registers, mapped by its
 * driver in the kernel), or a copy for a device without memory;
 * -EDEADLK called from an op;
 * -EPERM a copy to the device, or exclusive access, where system calls on migrated memory
 * would fail and the process has not accepted that (hmm_set_user_mode());
 * -EBUSY the range kept changing, or see %HMM_DEVICE_EXCLUSIVE; -ENODEV the mirror was
 * killed or is being unregistered; -ENOMEM no memory, or too many mappings
 * (vm.max_map_count);
 * -EIO the device could not give some pages back, which are still there; or what
 * update() returned.
 * Context: any thread, not from an op, and not while holding a lock that an op
 * takes. May sleep. @event may lie in any memory.
 */
HMM_API int hmm_mirror_fault(struct hmm_mirror *mirror, struct hmm_event *event);

/**
 * hmm_mirror_sync() - what happened to the address space has reached the device
 * @mirror: a registered mirror, not being unregistered
 *
 * Every munmap, mremap, madvise and fork that has returned has been told to the device
 * by update(). So has one that has not returned, but has freed an address that mmap has
 * just given to the caller: where that matters, for a device that pins, or while memory
 * of the process is in a device (another device looks the address up at each access).
 * A driver calls it where the program hands over work, so that the work sees the
 * address space as the program does (G3). Costs a load, or where that matters a system
 * call of 0.15 us, when there is nothing to wait for. While several threads change the
 * address space without a pause it gives up after 100 ms, and else after 5 s: who was kept
 * from running for so long between freeing and telling is not waited for. Not needed before
 * hmm_mirror_fault(), which waits by itself.
 *
 * With @hold, too: that covers a device at work from the moment the call returns which
 * changed something; not the thread that has the address before.
 *
 * Context: any thread, not from an op, and not while holding a lock that an op
 * takes. May sleep.
 */
HMM_API void hmm_mirror_sync(struct hmm_mirror *mirror);

/**
 * hmm_mirror_range_discard() - the device has done with a range
 * @mirror: a registered mirror
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 *
 * Forgets the entries of the range and ends its DMA mappings. The caller has seen
 * to it that the device uses no translation of it any more: update() is not
 * called. What is in the device's memory stays there. Dirty bits are kept for
 * hmm_mirror_range_isdirty().
 *
 * Return: 0; -EINVAL; -EDEADLK called from an op; -ENODEV the mirror was killed or
 * is being unregistered.
 * Context: any thread, not from an op. May sleep. Source: the patchset's function
 * of that name.
 */
HMM_API int hmm_mirror_range_discard(struct hmm_mirror *mirror, unsigned long start,
				     unsigned long end);

/**
 * hmm_mirror_range_dirty() - the device has written a range
 * @mirror: a registered mirror
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 *
 * Sets the dirty bit of every valid entry of the range; for a driver that knows so
 * without walking the table. In an op, for the range of its event, the same as
 * hmm_pte_set_dirty() on each.
 *
 * Return: 0; -EINVAL; -EDEADLK called from an op for another range; -ENODEV as
 * above.
 * Context: any thread; from an op only for its event's range. May sleep, but not in
 * an op. Source: as above.
 */
HMM_API int hmm_mirror_range_dirty(struct hmm_mirror *mirror, unsigned long start,
				   unsigned long end);

/**
 * hmm_mirror_range_isdirty() - what has the device written?
 * @mirror: a registered mirror
 * @start: first address, page-aligned
 * @end: end, exclusive, page-aligned
 * @dirty: out: one byte a page: 1 if the device wrote it since it was last asked
 *	for, else 0; any memory
 *
 * Sends %HMM_ISDIRTY: the driver takes write permission away and sets the dirty bit
 * of what was written. The bits are then taken and cleared. From the first call on
 * libhmm also keeps the bits of entries that go (the page migrates, mprotect, the
 * driver discards it), and moves them along with mremap; they end with the content: with munmap and
 * MADV_DONTNEED. Before, a bit goes with its entry. Short of memory for that, the
 * next call for any range says that all of it is dirty.
 *
 * Return: 0; -EINVAL; -EDEADLK called from an op; -ENODEV as above; -ENOMEM.
 * Context: any thread, not from an op. May sleep.
 */
HMM_API int hmm_mirror_range_isdirty(struct hmm_mirror *mirror, unsigned long start,
				     unsigned long end, uint8_t *dirty);

#ifdef __cplusplus
}
#endif

#endif
