/* SPDX-License-Identifier: MIT */
/*
 * The way back: from a device, or from staging, into the CPU page table.
 *
 * For a span of one chunk, with an active OP_BACK on it:
 *
 *	1. read the special entries                         (what is away, and where)
 *	2. staged pages: move them home                     (no copy; if a device has them
 *	   for itself, its translations go first)
 *	3. take the devices' translations away, HMM_MIGRATE (nobody writes any more)
 *	4. the device's copy engine fills system pages
 *	5. map them: the CPU goes on
 *	6. drop the special entries, free the device pages
 *
 * 5 may fail, because an event came: the special entry stays, the event finds it,
 * and whoever wanted the page asks again. Until 6 the device page is what counts,
 * and it does not change between 3 and 6.
 *
 * System pages come from the pool of recycled ones where it has them at the right
 * places: filled there, and moved over the hole in the program. Else the engine
 * fills a bounce buffer and UFFDIO_COPY takes a fresh page; for a single page that
 * is the faster way too. And a single page that the CPU can read where it is needs no
 * engine: step 4 is the kernel's, in step 5.
 */
#include <errno.h>
#include <string.h>

#include "core/core.h"

#define HOME_IDLE 20000 /* two seconds */

struct batch *batch_new(void)
{
	struct batch *batch = hmm_alloc(sizeof(*batch));

	if (!batch)
		return NULL;
	batch->bounce = hmm_map(CHUNK_SIZE);
	if (!batch->bounce) {
		hmm_free(batch);
		return NULL;
	}
	return batch;
}

void batch_free(struct batch *batch)
{
	if (!batch)
		return;
	hmm_unmap(batch->bounce, CHUNK_SIZE);
	hmm_free(batch);
}

struct batch *batch_get(struct hmm *hmm)
{
	unsigned int here = cpu_shard(), i;
	struct batch *batch = NULL;

	for (i = 0; i < CPU_SHARDS && !batch; i++) {
		struct batch_shelf *shelf = &hmm->shelf[(here + i) % CPU_SHARDS];

		if (!__atomic_load_n(&shelf->first, __ATOMIC_RELAXED))
			continue;
		pthread_mutex_lock(&shelf->lock);
		batch = shelf->first;
		if (batch)
			__atomic_store_n(&shelf->first, batch->next, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&shelf->lock);
	}
	return batch ? batch : batch_new();
}

void batch_put(struct hmm *hmm, struct batch *batch)
{
	struct batch_shelf *shelf = &hmm->shelf[cpu_shard()];

	pthread_mutex_lock(&shelf->lock);
	batch->next = shelf->first;
	__atomic_store_n(&shelf->first, batch, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&shelf->lock);
}

/* What stays the same on the way through one span. */
struct back {
	struct hmm *hmm;
	struct op *op;
	struct batch *batch;
	unsigned long start; /* of batch->src[0] */
	unsigned int pages;
	struct slot *slot; /* recycled pages, or NULL: the bounce buffer */
	const void *direct; /* where the CPU reads the one page, or NULL */
	unsigned int taken; /* moved out of the slot */
	bool wait;
	bool lose; /* what cannot be copied is lost, and does not stay */
	unsigned long moved;
};

static unsigned long back_addr(const struct back *back, unsigned int i)
{
	return back->start + ((unsigned long)i << hmm_page_shift());
}

/* Where the engine puts page @i. */
static unsigned long back_buffer(const struct back *back, unsigned int i)
{
	unsigned long addr = back_addr(back, i);

	if (back->direct)
		return (unsigned long)back->direct;
	if (back->slot)
		return slot_addr(back->slot) + (addr & ~CHUNK_MASK);
	return (unsigned long)back->batch->bounce + ((unsigned long)i << hmm_page_shift());
}

/* Step 6 for @n pages from @first on. */
static void back_done(struct back *back, unsigned int first, unsigned int n)
{
	if (!n)
		return;
	pt_clear(&back->hmm->special, back_addr(back, first), back_addr(back, first + n));
	if (MUTANT(FREED_TWICE))
		special_release(back->hmm, back->batch->src[first]);
	special_release_all(back->hmm, back->batch->src + first, n);
	back->moved += n;
}

/* False: it could not be now, and is asked again later, and lost again later. */
static bool back_poison(struct back *back, unsigned int i)
{
	struct uffd_how how = op_how(back->op, back->wait);
	long ret = (MUTANT(LOST_READS_ZERO) ? uffd_zero : uffd_poison)(
		&back->hmm->mm, &how, back_addr(back, i), hmm_page_size());

	if (ret == -EAGAIN || ret == -ECANCELED || ret == -ENOMEM)
		return false;
	special_set(back->hmm, back_addr(back, i), 0);
	special_release(back->hmm, back->batch->src[i]);
	back->batch->src[i] = 0;
	uffd_wake(&back->hmm->mm, back_addr(back, i), hmm_page_size());
	stat_inc(pages_poisoned);
	trace_poison(back_addr(back, i));
	return true;
}

/* What the device could not copy. True: there is some. */
static bool back_missing(struct back *back, const struct hmm_device *device, unsigned int first,
			 unsigned int last)
{
	struct batch *batch = back->batch;
	unsigned int i, missing = 0, poisoned = 0;
	unsigned long addr = 0;

	for (i = first; i <= last; i++) {
		if (!batch->from[i] || batch->dst[i])
			continue;
		if (!missing++)
			addr = back_addr(back, i);
		if (back->lose)
			poisoned += back_poison(back, i);
	}
	if (poisoned)
		log_err("device %s lost %u pages from 0x%lx on: poisoned", device->name, poisoned,
			addr);
	return missing;
}

/* There is no slot; or protection or mlock changed since; or the page is in use. */
static bool back_must_copy(int err)
{
	return err == -EINVAL || err == -EBUSY;
}

/* Some device may have these for itself: it loses them first. */
static int back_exclusive(struct back *back)
{
	unsigned int i, first = back->pages, last = 0;
	unsigned long start, end;
	bool prompt;

	for (i = 0; i < back->pages; i++) {
		if (!special_exclusive(back->batch->src[i]))
			continue;
		first = i < first ? i : first;
		last = i;
	}
	if (first == back->pages)
		return 0;
	start = back_addr(back, first);
	end = back_addr(back, last + 1);
	if (!back->wait) {
		pthread_mutex_lock(&back->hmm->lock);
		prompt = mirrors_prompt(back->hmm, start, end);
		pthread_mutex_unlock(&back->hmm->lock);
		if (!prompt)
			return -EAGAIN;
	}
	if (!MUTANT(EXCLUSIVE_STILL))
		mirrors_update(back->hmm, start, end, HMM_MIGRATE);
	debug_step("back:exclusive", start, end);
	return 0;
}

static int back_staged(struct back *back, const struct whose *whose)
{
	struct uffd_how how = op_how(back->op, back->wait);
	unsigned long page = hmm_page_size(), done;
	unsigned int i;

	for (i = 0; i < back->pages; i++) {
		unsigned long addr = back_addr(back, i), from;
		hmm_pte_t pte = back->batch->src[i];
		long ret;

		if (!special_staged(pte) || !special_whose(pte, whose))
			continue;
		from = hmm_pte_addr(pte);
		ret = page_map(&back->hmm->mm, &how, addr, from, page, &done);
		if (back_must_copy((int)ret)) {
			ret = uffd_copy(&back->hmm->mm, &how, addr, (void *)from, page);
			ret = ret > 0 ? 0 : ret;
		}
		if (ret && ret != -EEXIST)
			return (int)ret;
		back_done(back, i, 1);
	}
	return 0;
}

/* One run of filled pages into the CPU page table; how many of them were. */
static int back_map_run(struct back *back, unsigned int first, unsigned int end,
			unsigned int *mapped)
{
	struct uffd_how how = op_how(back->op, back->wait);
	unsigned int shift = hmm_page_shift();
	struct mm *mm = &back->hmm->mm;
	unsigned long dst = back_addr(back, first), src = back_buffer(back, first);
	unsigned long len = (unsigned long)(end - first) << shift, done = 0;
	int ret = -EINVAL;

	if (MUTANT(BACK_AS_ZEROS))
		memset((void *)src, 0, len);
	if (back->slot) {
		ret = page_map(mm, &how, dst, src, len, &done);
		back->taken += (unsigned int)(done >> shift);
	}
	if (back_must_copy(ret))
		ret = page_copy(mm, &how, dst, (void *)src, len, &done);
	*mapped = (unsigned int)(done >> shift);
	return ret;
}

/*
 * Something is there already: then the address was unmapped or remapped and
 * filled again without our hearing yet, or poisoned: the CPU's page wins.
 */
static int back_map(struct back *back)
{
	const hmm_pte_t *dst = back->batch->dst;
	unsigned int i = 0;

	while (i < back->pages) {
		unsigned int end = i, mapped;
		int ret;

		while (end < back->pages && hmm_pte_test_valid(dst[end]))
			end++;
		if (end == i) {
			i++;
			continue;
		}
		ret = back_map_run(back, i, end, &mapped);
		if (MUTANT(DROPPED_BEFORE_MAPPED))
			mapped = end - i;
		debug_step("back:run", back_addr(back, i), back_addr(back, end));
		back_done(back, i, mapped);
		i += mapped;
		if (ret == -EEXIST) {
			log_debug("a page came back to 0x%lx, where there is one",
				  back_addr(back, i));
			uffd_wake(&back->hmm->mm, back_addr(back, i), hmm_page_size());
			back_done(back, i++, 1);
			back->moved--;
		} else if (ret) {
			return ret;
		}
	}
	return 0;
}

/* The pages from first to last that are of one device, as destinations in batch->dst. */
static void back_choose(struct back *back, const struct whose *whose, unsigned int *first,
			unsigned int *last)
{
	unsigned long page = hmm_page_size();
	struct batch *batch = back->batch;
	unsigned int i, end;
	hmm_pte_t dst;

	*first = back->pages;
	*last = 0;
	for (i = 0; i < back->pages;) {
		bool mine = special_whose(batch->src[i], whose);

		end = i + (unsigned int)devmem_run(batch->src + i, back->pages - i);
		if (mine) {
			*first = i < *first ? i : *first;
			*last = end - 1;
		}
		for (; i < end; i++)
			batch->from[i] = mine ? batch->src[i] | HMM_PTE_VALID : 0;
	}
	back->taken = 0;
	if (*last > *first) {
		unsigned long index = (back_addr(back, *first) & ~CHUNK_MASK) >> hmm_page_shift();

		back->slot = slot_get_ready(&back->hmm->mm, (unsigned int)index,
					    (unsigned int)index + *last - *first);
	}
	dst = hmm_pte_from_addr(back_buffer(back, 0), HMM_PTE_VALID | HMM_PTE_WRITE);
	for (i = 0; i < back->pages; i++, dst += page)
		batch->dst[i] = batch->from[i] ? dst : 0;
}

/* The one page: can the CPU read it where it is? */
static bool back_direct(struct back *back, struct hmm_mirror_state *ms, unsigned int i)
{
	struct hmm_page *page = hmm_page_from_pfn(hmm_pte_pfn(back->batch->src[i]));

	back->direct = call_cpu_page(ms, page, back_addr(back, i));
	return back->direct;
}

/* Steps 3 and 4. What could not be copied has no destination afterwards. */
static int back_copy(struct back *back, const struct hmm_device *device, unsigned int first,
		     unsigned int last)
{
	unsigned long start = back_addr(back, first), end = back_addr(back, last + 1);
	struct hmm_mirror_state *ms = mirror_of_device(device);
	struct batch *batch = back->batch;
	int ret;

	if (!ms) {
		memset(batch->dst, 0, sizeof(batch->dst));
		return 0;
	}
	if (!MUTANT(COPIED_WHILE_WRITTEN))
		mirrors_update(back->hmm, start, end, HMM_MIGRATE);
	debug_step("back:updated", start, end);
	if (first == last && back_direct(back, ms, first))
		return 0;
	ret = call_copy_from_device(ms, HMM_COPY_FROM_DEVICE, batch->from + first,
				    batch->dst + first, start, end);
	if (MUTANT(COPIED_WHILE_WRITTEN))
		mirrors_update(back->hmm, start, end, HMM_MIGRATE);
	return ret == -ENOMEM ? ret : 0; /* else batch->dst says what came */
}

/* Of what was filled between @first and @last all has left, or it is looked at. */
static void back_put_slot(struct back *back, unsigned int first, unsigned int last)
{
	unsigned int index = (back_addr(back, first) & ~CHUNK_MASK) >> hmm_page_shift();

	if (!back->slot)
		return;
	if (back->taken == last - first + 1)
		slot_taken(back->slot, index, back->taken);
	else if (!slot_scan(&back->hmm->mm, back->slot, back->batch->flags))
		slot_recycle(back->slot, back->batch->flags);
	else
		slot_distrust(back->slot);
	slot_put(&back->hmm->mm, back->slot);
	back->slot = NULL;
}

/* Steps 3 to 6 for the pages of one device. */
static int back_device(struct back *back, const struct whose *whose)
{
	unsigned int first, last;
	bool missing = false;
	int ret;

	if (!back->wait && !(whose->device->state->flags & HMM_DEVICE_PROMPT))
		return -EAGAIN;
	back_choose(back, whose, &first, &last);
	ret = back_copy(back, whose->device, first, last);
	debug_step("back:copied", back_addr(back, first), back_addr(back, last + 1));
	if (!ret) {
		missing = back_missing(back, whose->device, first, last);
		ret = back_map(back);
	}
	back_put_slot(back, first, last);
	back->direct = NULL;
	debug_step("back:mapped", back_addr(back, first), back_addr(back, last + 1));
	return !ret && missing ? -EIO : ret;
}

/**
 * back_span() - bring back what is away in a part of one chunk
 * @op: active, OP_BACK, on the range
 * @batch: to work with
 * @whose: only what this device has, and nothing staged; device NULL for all
 * @how: BACK_*
 * @pages: out: how many came, also on error
 *
 * Return: 0; 1 nothing was away; -ECANCELED an event came: end the op and ask again;
 * -EAGAIN it would have to wait; -EIO a device could not copy a page, which stays or is
 * poisoned (BACK_LOSE), the rest came; -ENOMEM; -ENOENT, -ESRCH the address is not mapped
 * any more.
 */
int back_span(struct hmm *hmm, struct op *op, struct batch *batch, const struct whose *whose,
	      unsigned long start, unsigned long end, unsigned int how, unsigned long *pages)
{
	struct back back = {
		.hmm = hmm,
		.op = op,
		.batch = batch,
		.start = start,
		.pages = (unsigned int)((end - start) >> hmm_page_shift()),
		.wait = how & BACK_WAIT,
		.lose = how & BACK_LOSE,
	};
	struct whose one = *whose;
	unsigned int i;
	uint64_t begun;
	int ret = 0, err = 0;

	if (!(how & BACK_KNOWN) && !special_fill(hmm, start, end, batch->src)) {
		*pages = 0;
		return 1;
	}
	debug_step("back:begin", start, end);
	begun = trace_from_device_begin(start, end, whose->why);
	if (!whose->device)
		ret = back_exclusive(&back);
	if (!whose->device && !ret)
		ret = back_staged(&back, whose);
	for (i = 0; i < back.pages && !ret; i++) {
		one.device = special_device(batch->src[i]);
		if (!one.device || !special_whose(batch->src[i], whose) ||
		    (err && batch->from[i] && !batch->dst[i]))
			continue; /* or it is one that could not be copied, and stays */
		ret = back_device(&back, &one);
		if (ret == -EIO) {
			err = ret;
			ret = 0;
		}
	}
	*pages = back.moved;
	stat_add(pages_from_device, back.moved);
	trace_from_device_end(begun, start, end, whose->why, back.moved, ret ? ret : err);
	return ret ? ret : err;
}

/* The next address in the range at which there is something to bring back. */
static bool back_next(struct hmm *hmm, const struct whose *whose, unsigned long *addr,
		      unsigned long end)
{
	hmm_pte_t pte;

	while (*addr < end && (pte = special_next(hmm, addr, end))) {
		if (special_whose(pte, whose))
			return true;
		*addr += hmm_page_size();
	}
	return false;
}

static int back_range(struct hmm *hmm, const struct whose *whose, unsigned long start,
		      unsigned long end, unsigned int how, unsigned long *pages)
{
	struct batch *batch = batch_get(hmm);
	unsigned long addr = start;
	int ret = 0;

	*pages = 0;
	if (!batch)
		return -ENOMEM;
	while (back_next(hmm, whose, &addr, end)) {
		unsigned long stop = chunk_end(addr, end), moved;
		struct op op;
		int err;

		op_init(&op, OP_BACK, addr, stop);
		op_begin(hmm, &op);
		err = back_span(hmm, &op, batch, whose, addr, stop, how | BACK_WAIT, &moved);
		op_end(hmm, &op);
		*pages += moved;
		if (err == -ECANCELED)
			continue;
		if (err > 0)
			err = 0;
		if (err == -ENOMEM) {
			ret = err;
			break;
		}
		if (err)
			ret = -EIO;
		if (err && err != -EIO)
			log_warn("0x%lx cannot come back: error %d", addr, err);
		addr = stop;
	}
	batch_put(hmm, batch);
	return ret;
}

int migrate_back(struct hmm *hmm, const struct whose *whose, unsigned long start, unsigned long end,
		 unsigned long *pages)
{
	return back_range(hmm, whose, start, end, 0, pages);
}

/* Is anything there that is away? With everything ours: no mremap is half seen. */
static bool home_left(struct hmm *hmm, const struct whose *whose)
{
	unsigned long addr = 0;
	struct op op;
	bool left;

	op_init(&op, OP_BACK, 0, USER_END);
	op_begin(hmm, &op);
	left = back_next(hmm, whose, &addr, USER_END);
	op_end(hmm, &op);
	return left;
}

/* What is in the books and nowhere else. It should not be. */
static void home_drop(struct hmm *hmm, const struct whose *whose)
{
	unsigned long addr = 0;
	struct op op;

	op_init(&op, OP_BACK, 0, USER_END);
	op_begin(hmm, &op);
	for (; back_next(hmm, whose, &addr, USER_END); addr += hmm_page_size()) {
		log_err("0x%lx cannot come back, and is given up", addr);
		special_drop(hmm, addr, addr + hmm_page_size());
	}
	op_end(hmm, &op);
}

/*
 * All of it, where what stays away would be lost: short of memory this waits for
 * some. One walk may miss what an mremap moves behind it, so it goes on until nothing is
 * left. -EIO: a device lost pages, which are poisoned.
 */
int migrate_home(struct hmm *hmm, const struct hmm_device *device)
{
	struct whose whose = { .device = device, .why = WHY_HOME };
	unsigned int retries = 0, idle = 0;
	unsigned long pages;
	int ret = 0;

	while (pt_count(&hmm->special) && home_left(hmm, &whose)) {
		int err = back_range(hmm, &whose, 0, USER_END, BACK_LOSE, &pages);

		if (err == -ENOMEM) {
			if (!retries)
				log_err("no memory to bring a device's pages back: waiting for some");
			retry_pause(64 + retries++);
			continue;
		}
		if (err)
			ret = err;
		idle = pages ? 0 : idle + 1;
		if (idle == HOME_IDLE)
			home_drop(hmm, &whose);
		else if (idle)
			retry_pause(64);
	}
	return ret;
}
