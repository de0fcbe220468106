/* SPDX-License-Identifier: MIT */
/*
 * Registrations: a tree by address, a list by last use, and a list of free ones.
 *
 *	free ──► pinned: in tree and lru ──► gone: not to be found ──► free
 *	 reg_pin()                 event, eviction      unpinned, last rc_put()
 *
 * Nothing here calls libhmm, so that update() may call anything here.
 */
#include <errno.h>

#include "regcache.h"

static int reg_compare(const struct rc_reg *a, const struct rc_reg *b)
{
	return a->start < b->start ? -1 : a->start > b->start;
}

#define TREE_STATIC __attribute__((unused)) static
RB_PROTOTYPE_INTERNAL(rc_tree, rc_reg, node, reg_compare, TREE_STATIC)
RB_GENERATE_INTERNAL(rc_tree, rc_reg, node, reg_compare, TREE_STATIC)

/* The first registration that ends after @addr. cache->lock held, as below. */
struct rc_reg *rc_reg_first(struct rc_cache *cache, unsigned long addr)
{
	struct rc_reg *reg = RB_ROOT(&cache->tree), *best = NULL;

	while (reg) {
		if (reg->end > addr) {
			best = reg;
			reg = RB_LEFT(reg, node);
		} else {
			reg = RB_RIGHT(reg, node);
		}
	}
	return best;
}

static void reg_unref(struct rc_cache *cache, struct rc_reg *reg)
{
	if (!--reg->refs && !reg->pinned)
		TAILQ_INSERT_HEAD(&cache->free, reg, link);
}

/*
 * The card lets go of it: no transfer is under way. The lock is held over the
 * system call, which waits for nobody who may want it.
 */
void rc_reg_unpin(struct rc_cache *cache, struct rc_reg *reg)
{
	rc_card_unpin(&cache->card, reg->slot);
	RB_REMOVE(rc_tree, &cache->tree, reg);
	TAILQ_REMOVE(&cache->lru, reg, link);
	cache->pinned -= reg->end - reg->start;
	reg->gone = true;
	reg->pinned = false;
	if (!reg->refs)
		TAILQ_INSERT_HEAD(&cache->free, reg, link);
	pthread_cond_broadcast(&cache->changed);
}

/*
 * The one that was not used for longest, of those that nobody has; the caller gets
 * a reference. NULL: there is none. *@dirty: the card may have written it.
 */
struct rc_reg *rc_reg_victim(struct rc_cache *cache, bool *dirty)
{
	struct rc_reg *reg;

	pthread_mutex_lock(&cache->lock);
	TAILQ_FOREACH(reg, &cache->lru, link)
		if (!reg->refs && !reg->gone)
			break;
	if (reg) {
		reg->refs++;
		*dirty = reg->dirty;
	}
	pthread_mutex_unlock(&cache->lock);
	return reg;
}

/* Drops the caller's reference, and the registration, if nobody wants it again. */
void rc_reg_evict(struct rc_cache *cache, struct rc_reg *reg)
{
	pthread_mutex_lock(&cache->lock);
	if (reg->refs == 1 && !reg->gone) {
		rc_reg_unpin(cache, reg);
		cache->stats.evicted++;
	}
	reg_unref(cache, reg);
	pthread_mutex_unlock(&cache->lock);
}

/* Not in the tree yet: nobody else finds it. */
static int reg_pin(struct rc_cache *cache, struct rc_reg *reg, unsigned long start,
		   unsigned long end)
{
	int ret = rc_card_pin(&cache->card, reg->slot, start, end);

	pthread_mutex_lock(&cache->lock);
	if (ret) {
		TAILQ_INSERT_HEAD(&cache->free, reg, link);
	} else {
		reg->start = start;
		reg->end = end;
		reg->gone = reg->dirty = false;
		reg->pinned = true;
		RB_INSERT(rc_tree, &cache->tree, reg);
		TAILQ_INSERT_TAIL(&cache->lru, reg, link);
		cache->pinned += end - start;
		cache->stats.registrations++;
	}
	pthread_mutex_unlock(&cache->lock);
	return ret;
}

/*
 * What is registered at @addr, or what is not: up to *@next. One that is on its way
 * out, because of an event beside this range, is waited for.
 */
static int gap_find(struct rc_cache *cache, unsigned long addr, unsigned long *next,
		    struct rc_reg **out)
{
	struct rc_reg *reg;
	int ret = 0;

	*out = NULL;
	pthread_mutex_lock(&cache->lock);
	while ((reg = rc_reg_first(cache, addr)) && reg->start < *next && reg->gone)
		pthread_cond_wait(&cache->changed, &cache->lock);
	if (reg && reg->start <= addr) {
		*next = reg->end < *next ? reg->end : *next;
	} else {
		if (reg && reg->start < *next)
			*next = reg->start;
		*out = TAILQ_FIRST(&cache->free);
		if (*out)
			TAILQ_REMOVE(&cache->free, *out, link);
		else
			ret = -ENOMEM;
	}
	pthread_mutex_unlock(&cache->lock);
	return ret;
}

/* Register what is not registered yet of a range that nobody else registers now. */
int rc_register_range(struct rc_cache *cache, unsigned long start, unsigned long end)
{
	unsigned long next;
	int ret = 0;

	for (; start < end && !ret; start = next) {
		struct rc_reg *reg;

		next = end;
		ret = gap_find(cache, start, &next, &reg);
		if (!ret && reg)
			ret = reg_pin(cache, reg, start, next);
	}
	return ret;
}

struct rc_reg *rc_reg_lookup(struct rc_cache *cache, unsigned long addr)
{
	struct rc_reg *reg;

	pthread_mutex_lock(&cache->lock);
	reg = rc_reg_first(cache, addr);
	if (reg && (reg->start > addr || reg->gone))
		reg = NULL;
	if (reg) {
		reg->refs++;
		TAILQ_REMOVE(&cache->lru, reg, link);
		TAILQ_INSERT_TAIL(&cache->lru, reg, link);
	}
	pthread_mutex_unlock(&cache->lock);
	return reg;
}

bool rc_reg_room(struct rc_cache *cache, size_t bytes)
{
	bool room;

	pthread_mutex_lock(&cache->lock);
	room = cache->pinned + bytes <= RC_PINNED_MAX && !TAILQ_EMPTY(&cache->free);
	pthread_mutex_unlock(&cache->lock);
	return room;
}

void rc_put(struct rc_cache *cache, struct rc_reg *reg)
{
	pthread_mutex_lock(&cache->lock);
	reg_unref(cache, reg);
	pthread_mutex_unlock(&cache->lock);
}

void rc_get_stats(struct rc_cache *cache, struct rc_stats *stats)
{
	pthread_mutex_lock(&cache->lock);
	*stats = cache->stats;
	pthread_mutex_unlock(&cache->lock);
}
