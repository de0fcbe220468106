/* SPDX-License-Identifier: MIT */
/*
 * Memory that is never migrated.
 *
 * A callback runs while some page is on its way. Had it to touch a page that is away itself, or
 * malloc's lock while its holder waits for such a page, nobody could bring that page back. So
 * everything a callback touches comes from here: from mappings of the library's own, which a
 * migration steps over (arena_next()) and which are never registered with userfaultfd.
 *
 * The kernel merges mappings that touch and look alike, and the program's neighbour may be
 * registered or migrated as one piece. So each mapping lies between guard pages (PROT_NONE,
 * which merges with nothing that is accessible), and bears a name where the kernel has names
 * for anonymous memory.
 *
 * There are two kinds.
 *
 * The reservation, made on first use: a large range without access, in which everything is at a
 * computable place:
 *
 *	| guard | slab table, map table | slab 0 | slab 1 | ... | guard | maps ... | guard |
 *
 * Slabs of 256 KiB are made accessible in steps, and hold objects of one size class each,
 * without headers. What is known of a slab is in the slab table, so an object's slab and class
 * come from its address. 256 KiB, because it takes 63 objects of 4160 bytes, a page table
 * directory, with 64 bytes left over. An empty slab is kept as its class's spare; a second one
 * goes to the pool, its memory back to the system, and is there for any class.
 *
 * The maps: hmm_map(), and hmm_alloc() of more than the largest class. They are in the map
 * table, sorted by address. They have the upper half of the reservation, first fit; there no
 * hole is left that the program could take for its own, nor do they take one that it has left
 * and maps again with MAP_FIXED, which it may while it has but one thread. What finds no room
 * there has an mmap(2) of its own.
 *
 * Invariants:
 *
 * A1. A slab is in exactly one place: beyond pool.carved (never used), in the
 *     pool, the spare of its class, on its class's list of slabs with a free
 *     object, or full and on no list.
 * A2. Objects with index >= fresh have not been handed out since the slab left
 *     the pool, and read as zeros unless the slab is dirty.
 * A3. A mapping of the arena is in the map table, or in the reservation, from
 *     before another thread can see it until after it is gone: the table's lock
 *     is held over mmap() and munmap(). In the upper half of the reservation only what is in
 *     the table is accessible.
 *
 * Locks, in the order in which they are taken; none is held over fork():
 *
 *	arena.lock	making the reservation; afterwards all of `arena` is
 *			constant, for whoever has seen `arena.ready`
 *	class[i].lock	the class's lists and every slab of that class
 *	pool.lock	the pool, `carved`, slabs in neither
 *	maps.lock	the map table
 *
 * They are innermost: no callback, no user code and no access to program memory happens under
 * them. The system calls made under them (mmap, munmap, mprotect, madvise) concern the arena
 * alone, so no userfaultfd event comes of them.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <hmm/driver.h>

#include "mm/arena.h"
#include "mm/debug.h"

#ifdef HMM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
/* A pointer to malloc's memory that lies in the arena keeps it from leaking. */
/* Not in a child: a thread that is not there may hold the sanitizer's lock. */
#define ROOT_REGISTER(p, n) (abandoned ? (void)0 : __lsan_register_root_region((p), (n)))
#define ROOT_UNREGISTER(p, n) (abandoned ? (void)0 : __lsan_unregister_root_region((p), (n)))
#define NO_ASAN __attribute__((no_sanitize_address, noinline))
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ROOT_REGISTER(p, n) ((void)(p), (void)(n))
#define ROOT_UNREGISTER(p, n) ((void)(p), (void)(n))
#define NO_ASAN
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* A sanitizer's mappings beside the program's would be one with them: guard pages lie between. */
#if defined(HMM_ASAN) || defined(HMM_TSAN)
#define MAPS_INSIDE false
#else
#define MAPS_INSIDE true
#endif

#define HUGE_SIZE (2ul << 20)
#define RESERVE_MAX (16ul << 30)
#define RESERVE_MIN (64ul << 20)
#define SLAB_SIZE (256ul << 10)
#define COMMIT_SLABS 8
#define AHEAD (32ul << 10)
#define MAPS_MAX 65536ul

/*
 * Multiples of 64 from 64 on: alignment comes from the size. 4160 is a page table
 * directory; 10880, 13056 and 21824 are what divides a slab well.
 */
static const uint16_t class_size[] = {
	16,   32,   48,	  64,	128,  192,  256,  320,	384,  512,   640,   768,   1024,  1280,
	1536, 2048, 2560, 3072, 4096, 4160, 5120, 6144, 8192, 10880, 13056, 16384, 21824, 32768,
};

#define NCLASSES (sizeof(class_size) / sizeof(class_size[0]))
#define CLASS_MAX 32768

/* Slab numbers and object numbers are stored plus one: zero is none. */
struct slab {
	uint32_t next, prev; /* on the class's list; next alone in the pool */
	uint16_t free; /* first free object that was handed out before */
	uint16_t used; /* objects handed out now */
	uint16_t fresh; /* index of the first object never handed out */
	uint8_t class; /* constant while an object is out */
	uint8_t dirty; /* fresh objects are not zero */
};

struct size_class {
	pthread_mutex_t lock;
	uint32_t partial; /* slabs with a free object and one in use */
	uint32_t spare; /* an empty slab */
} __attribute__((aligned(64)));

/* A free object, while it is free. */
struct object {
	uint64_t next;
	uint64_t magic; /* debug builds: OBJECT_FREE ^ address */
};

#define OBJECT_FREE 0x6b6b66726565ull
#define OBJECT_POISON 0x6b

struct map {
	unsigned long start, end; /* guard pages included */
	bool large; /* made by hmm_alloc() */
};

static struct {
	pthread_mutex_t lock;
	bool ready;
	unsigned long start, end; /* the reservation */
	unsigned long slab_base;
	unsigned long nslabs;
	unsigned long map_base; /* of the maps; they end at @end */
	struct slab *slab;
} __attribute__((aligned(64))) arena HMM_DATA = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct size_class class[NCLASSES] HMM_DATA = {
	[0 ... NCLASSES - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER },
};

static struct {
	pthread_mutex_t lock;
	uint32_t free; /* slabs given back, plus one */
	unsigned long carved; /* slabs ever taken */
	unsigned long committed; /* slabs accessible */
	unsigned long used; /* slabs that belong to a class */
} pool HMM_DATA = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct {
	pthread_mutex_t lock;
	struct map *map; /* sorted; constant once the arena is ready */
	unsigned long count;
	unsigned long outside; /* of the reservation: no fewer than there are; atomic */
} maps HMM_DATA = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* In a child of fork(): pointers of another arena, the parent's, may turn up. */
static bool abandoned HMM_DATA;

static unsigned long align_up(unsigned long n, unsigned long align)
{
	return (n + align - 1) & ~(align - 1);
}

/* Only for the eye, and against merging; a kernel without names says no. */
static void range_name(unsigned long start, unsigned long bytes)
{
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, bytes, "libhmm");
}

static unsigned long range_reserve(unsigned long bytes)
{
	void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return 0;
	range_name((unsigned long)p, bytes);
	return (unsigned long)p;
}

static int range_commit(unsigned long start, unsigned long bytes)
{
	return mprotect((void *)start, bytes, PROT_READ | PROT_WRITE) ? -errno : 0;
}

/* --- the reservation ---------------------------------------------------- */

static bool arena_ready(void)
{
	return __atomic_load_n(&arena.ready, __ATOMIC_ACQUIRE);
}

/* Lay out [start, start + bytes). Context: arena.lock held, not yet ready. */
static int arena_layout(unsigned long start, unsigned long bytes)
{
	unsigned long page = hmm_page_size();
	unsigned long tables = start + page;
	unsigned long slab_table = align_up(bytes / SLAB_SIZE * sizeof(struct slab), page);
	unsigned long map_table = align_up(MAPS_MAX * sizeof(struct map), page);
	int ret = range_commit(tables, slab_table + map_table);

	if (ret)
		return ret;
	arena.start = start;
	arena.end = start + bytes;
	arena.slab = (struct slab *)tables;
	maps.map = (struct map *)(tables + slab_table);
	/* One page without access between the tables and the first object. */
	arena.slab_base = align_up(tables + slab_table + map_table + page, HUGE_SIZE);
	arena.map_base = MAPS_INSIDE ? align_up(start + bytes / 2, HUGE_SIZE) : arena.end;
	arena.nslabs = (arena.map_base - page - arena.slab_base) / SLAB_SIZE;
	ROOT_REGISTER((void *)start, bytes);
	return 0;
}

static bool arena_make(void)
{
	unsigned long bytes, start;

	signals_lock(&arena.lock);
	for (bytes = RESERVE_MAX; !arena_ready() && bytes >= RESERVE_MIN; bytes /= 2) {
		start = range_reserve(bytes);
		if (!start)
			continue;
		if (!arena_layout(start, bytes))
			__atomic_store_n(&arena.ready, true, __ATOMIC_RELEASE);
		else
			munmap((void *)start, bytes);
	}
	signals_unlock(&arena.lock);
	return arena_ready();
}

/* --- slabs -------------------------------------------------------------- */

static unsigned long slab_addr(uint32_t nr)
{
	return arena.slab_base + (nr - 1) * SLAB_SIZE;
}

/* The slab of an address, or 0 if it is not that of a small object. */
static uint32_t slab_find(unsigned long addr)
{
	unsigned long i = (addr - arena.slab_base) / SLAB_SIZE;

	return addr >= arena.slab_base && i < arena.nslabs ? (uint32_t)i + 1 : 0;
}

static unsigned int slab_objects(unsigned int c)
{
	return SLAB_SIZE / class_size[c];
}

/* Return: true if there is a slab beyond @carved that is accessible. */
static bool pool_commit(void)
{
	unsigned long n = COMMIT_SLABS;

	if (pool.carved < pool.committed)
		return true;
	if (n > arena.nslabs - pool.committed)
		n = arena.nslabs - pool.committed;
	if (!n || range_commit(arena.slab_base + pool.committed * SLAB_SIZE, n * SLAB_SIZE))
		return false;
	pool.committed += n;
	return true;
}

/* Take a slab for class @c. Return: its number or 0. Context: class lock held. */
static uint32_t pool_get(unsigned int c)
{
	struct slab *slab;
	uint32_t nr;

	signals_lock(&pool.lock);
	nr = pool.free;
	if (nr)
		pool.free = arena.slab[nr - 1].next;
	else if (pool_commit())
		nr = (uint32_t)++pool.carved;
	if (nr)
		pool.used++;
	signals_unlock(&pool.lock);
	if (!nr)
		return 0;
	slab = &arena.slab[nr - 1];
	slab->next = slab->prev = 0;
	slab->free = slab->used = slab->fresh = 0;
	slab->class = (uint8_t)(c + 1);
	ASAN_POISON_MEMORY_REGION((void *)slab_addr(nr), SLAB_SIZE);
	return nr;
}

/* Context: class lock held; the slab is empty and on no list. */
static void pool_put(uint32_t nr)
{
	struct slab *slab = &arena.slab[nr - 1];

	/* Refused where the program has locked all of its memory. */
	slab->dirty = madvise((void *)slab_addr(nr), SLAB_SIZE, MADV_DONTNEED) != 0;
	slab->class = 0;
	signals_lock(&pool.lock);
	slab->next = pool.free;
	pool.free = nr;
	pool.used--;
	signals_unlock(&pool.lock);
}

static void slab_link(struct size_class *cl, uint32_t nr)
{
	struct slab *slab = &arena.slab[nr - 1];

	slab->prev = 0;
	slab->next = cl->partial;
	if (cl->partial)
		arena.slab[cl->partial - 1].prev = nr;
	cl->partial = nr;
}

static void slab_unlink(struct size_class *cl, uint32_t nr)
{
	struct slab *slab = &arena.slab[nr - 1];

	if (slab->prev)
		arena.slab[slab->prev - 1].next = slab->next;
	else
		cl->partial = slab->next;
	if (slab->next)
		arena.slab[slab->next - 1].prev = slab->prev;
	slab->next = slab->prev = 0;
}

/* --- objects ------------------------------------------------------------ */

/*
 * The words in a free object are read and written here alone: under the address
 * sanitizer a free object may not be touched.
 */
static NO_ASAN void object_set_next(struct object *obj, uint64_t next)
{
	obj->next = next;
}

static NO_ASAN uint64_t object_next(const struct object *obj)
{
	return obj->next;
}

/*
 * Debug builds fill a free object with a pattern, so that a write to it shows
 * when it is handed out again, and find a free that is not of an object in use.
 */
#ifdef HMM_DEBUG
static NO_ASAN void object_mark_free(struct object *obj, unsigned int size)
{
	memset(obj + 1, OBJECT_POISON, size - sizeof(*obj));
	obj->magic = OBJECT_FREE ^ (uint64_t)obj;
}

/* Context: class lock held. */
static NO_ASAN void object_check_alloc(const struct object *obj, unsigned int size)
{
	const unsigned char *p = (const unsigned char *)obj;
	unsigned int i;

	HMM_ASSERT(obj->magic == (OBJECT_FREE ^ (uint64_t)obj));
	for (i = sizeof(*obj); i < size; i++)
		HMM_ASSERT(p[i] == OBJECT_POISON);
}

/*
 * An object that bears the mark of a free one may only look so: the list
 * decides. Context: class lock held.
 */
static NO_ASAN void object_check_free(const struct object *obj, const struct slab *slab,
				      unsigned long base, unsigned int size)
{
	uint64_t n;

	HMM_ASSERT(((unsigned long)obj - base) % size == 0);
	HMM_ASSERT(slab->used && ((unsigned long)obj - base) / size < slab->fresh);
	if (obj->magic != (OBJECT_FREE ^ (uint64_t)obj))
		return;
	for (n = slab->free; n; n = ((struct object *)(base + (n - 1) * size))->next)
		HMM_ASSERT(base + (n - 1) * size != (unsigned long)obj);
}
#else
#define object_mark_free(obj, size) ((void)0)
#define object_check_alloc(obj, size) ((void)0)
#define object_check_free(obj, slab, base, size) ((void)0)
#endif

static unsigned int class_of(size_t bytes)
{
	unsigned int lo = 0, hi = NCLASSES - 1;

	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (class_size[mid] < bytes)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A slab of class @c with a free object, on the list. Context: class lock held. */
static uint32_t class_slab(unsigned int c)
{
	struct size_class *cl = &class[c];
	uint32_t nr = cl->partial;

	if (nr)
		return nr;
	nr = cl->spare;
	cl->spare = 0;
	if (!nr)
		nr = pool_get(c);
	if (nr)
		slab_link(cl, nr);
	return nr;
}

/*
 * An object of a page or more that was never handed out lies in memory that the kernel has yet
 * to give, a fault a page. Where one begins a new piece, all of that is had in one call: of
 * directories of a page table many are made in a row. If it cannot be had, the faults will
 * tell. No lock is held: that the piece may be others' too by now does no harm.
 */
static void object_populate(unsigned long addr, unsigned int size)
{
	unsigned long last = addr + size - 1, piece = last & ~(AHEAD - 1);

	if (size >= hmm_page_size() && piece >= addr)
		madvise((void *)piece, AHEAD, MADV_POPULATE_WRITE);
}

static void *small_alloc(size_t bytes)
{
	unsigned int c = class_of(bytes), size = class_size[c];
	struct object *obj = NULL;
	struct slab *slab;
	bool zero = false;
	uint32_t nr;

	signals_lock(&class[c].lock);
	nr = class_slab(c);
	if (nr) {
		slab = &arena.slab[nr - 1];
		if (slab->free) {
			obj = (struct object *)(slab_addr(nr) + (slab->free - 1u) * (size_t)size);
			object_check_alloc(obj, size);
			slab->free = (uint16_t)object_next(obj);
		} else {
			obj = (struct object *)(slab_addr(nr) + slab->fresh++ * (size_t)size);
			zero = !slab->dirty;
		}
		if (++slab->used == slab_objects(c))
			slab_unlink(&class[c], nr);
	}
	signals_unlock(&class[c].lock);
	if (!obj)
		return NULL;
	if (zero)
		object_populate((unsigned long)obj, size);
	ASAN_UNPOISON_MEMORY_REGION(obj, bytes ? bytes : 1);
	return zero ? obj : memset(obj, 0, bytes);
}

static void small_free(uint32_t nr, unsigned long addr)
{
	struct slab *slab = &arena.slab[nr - 1];
	unsigned int c = slab->class - 1u, size, i;
	struct object *obj = (struct object *)addr;

	HMM_ASSERT(slab->class);
	if (c >= NCLASSES)
		return;
	size = class_size[c];
	i = (unsigned int)((addr - slab_addr(nr)) / size);

	signals_lock(&class[c].lock);
	object_check_free(obj, slab, slab_addr(nr), size);
	ASAN_UNPOISON_MEMORY_REGION(obj, size);
	object_mark_free(obj, size);
	object_set_next(obj, slab->free);
	ASAN_POISON_MEMORY_REGION(obj, size);
	slab->free = (uint16_t)(i + 1);
	if (slab->used-- == slab_objects(c))
		slab_link(&class[c], nr);
	if (!slab->used) {
		slab_unlink(&class[c], nr);
		if (class[c].spare)
			pool_put(nr);
		else
			class[c].spare = nr;
	}
	signals_unlock(&class[c].lock);
}

/* --- maps --------------------------------------------------------------- */

/* The index of the first map that ends after @addr. Context: maps.lock held. */
static unsigned long maps_find(unsigned long addr)
{
	unsigned long lo = 0, hi = maps.count;

	while (lo < hi) {
		unsigned long mid = (lo + hi) / 2;

		if (maps.map[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The index of the map whose memory begins at @addr, or -1. Context: maps.lock held. */
static long maps_find_exact(unsigned long addr)
{
	unsigned long i = maps_find(addr);

	if (i < maps.count && maps.map[i].start + hmm_page_size() == addr)
		return (long)i;
	return -1;
}

static void maps_insert(const struct map *map)
{
	unsigned long i = maps_find(map->start);

	memmove(&maps.map[i + 1], &maps.map[i], (maps.count - i) * sizeof(*map));
	maps.map[i] = *map;
	maps.count++;
}

static void maps_delete(unsigned long i)
{
	maps.count--;
	memmove(&maps.map[i], &maps.map[i + 1], (maps.count - i) * sizeof(maps.map[0]));
}

static bool map_inside(unsigned long start)
{
	return start >= arena.map_base && start < arena.end;
}

/* First fit for @bytes and two guard pages in the reservation, or 0. Context: maps.lock held. */
static unsigned long map_room(unsigned long bytes, unsigned long align)
{
	unsigned long page = hmm_page_size(), start = arena.map_base, i;

	for (i = maps_find(start); start < arena.end; start = maps.map[i++].end) {
		bool last = i == maps.count || maps.map[i].start >= arena.end;
		unsigned long end = last ? arena.end : maps.map[i].start;

		start = align_up(start + page, align) - page;
		if (start < end && end - start >= bytes + 2 * page)
			return start;
		if (last)
			break;
	}
	return 0;
}

/*
 * Reserve @bytes (of whole pages) with a guard page on each side, at a multiple
 * of @align. Return: the first guard page, or 0. Context: maps.lock held.
 */
static unsigned long map_reserve(unsigned long bytes, unsigned long align)
{
	unsigned long page = hmm_page_size();
	unsigned long total = bytes + 2 * page + (align - page);
	unsigned long raw, end, start = map_room(bytes, align);

	if (start)
		return start;
	__atomic_fetch_add(&maps.outside, 1, __ATOMIC_SEQ_CST); /* before anybody sees it */
	raw = range_reserve(total);
	if (!raw) {
		__atomic_fetch_sub(&maps.outside, 1, __ATOMIC_RELAXED);
		return 0;
	}
	start = align_up(raw + page, align) - page;
	end = start + bytes + 2 * page;
	if (start > raw)
		munmap((void *)raw, start - raw);
	if (raw + total > end)
		munmap((void *)end, raw + total - end);
	return start;
}

/* What lies in the reservation is without access and memory again. Context: maps.lock held. */
static void map_release(unsigned long start, unsigned long bytes)
{
	if (!map_inside(start)) {
		munmap((void *)start, bytes);
		__atomic_fetch_sub(&maps.outside, 1, __ATOMIC_RELEASE);
		return;
	}
	if (mmap((void *)start, bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		/* No further mapping is allowed, and none is needed for this. */
		madvise((void *)start, bytes, MADV_DONTNEED);
		mprotect((void *)start, bytes, PROT_NONE);
	}
	range_name(start, bytes);
}

static void *map_create(size_t bytes, bool large)
{
	unsigned long page = hmm_page_size();
	struct map map = { .large = large };

	if (!bytes || bytes > RESERVE_MAX * 4096)
		return NULL;
	if (!arena_ready() && !arena_make())
		return NULL;
	bytes = align_up(bytes, page);

	signals_lock(&maps.lock);
	if (maps.count < MAPS_MAX)
		map.start = map_reserve(bytes, bytes >= HUGE_SIZE ? HUGE_SIZE : page);
	if (map.start) {
		map.end = map.start + bytes + 2 * page;
		if (!range_commit(map.start + page, bytes)) {
			maps_insert(&map);
		} else {
			map_release(map.start, map.end - map.start);
			map.start = 0;
		}
	}
	signals_unlock(&maps.lock);
	if (!map.start)
		return NULL;
	if (!map_inside(map.start))
		ROOT_REGISTER((void *)(map.start + page), bytes);
	return (void *)(map.start + page);
}

/* @bytes is 0 for a large object, whose size only the table knows. */
static void map_destroy(unsigned long addr, size_t bytes)
{
	unsigned long page = hmm_page_size();
	struct map map = { 0 };
	long i;

	signals_lock(&maps.lock);
	i = maps_find_exact(addr);
	if (i >= 0 && maps.map[i].large == !bytes) {
		map = maps.map[i];
		HMM_ASSERT(!bytes || map.end - map.start == align_up(bytes, page) + 2 * page);
		if (!map_inside(map.start))
			ROOT_UNREGISTER((void *)addr, map.end - map.start - 2 * page);
		map_release(map.start, map.end - map.start);
		maps_delete((unsigned long)i);
	}
	signals_unlock(&maps.lock);
	HMM_ASSERT(map.end || (abandoned && !map_inside(addr)));
}

/* --- the interface ------------------------------------------------------ */

void *hmm_alloc(size_t bytes)
{
	if (debug_fail("alloc"))
		return NULL;
	if (bytes > CLASS_MAX)
		return map_create(bytes, true);
	if (!arena_ready() && !arena_make())
		return NULL;
	return small_alloc(bytes);
}

void hmm_free(void *ptr)
{
	unsigned long addr = (unsigned long)ptr;
	uint32_t nr;

	if (!ptr)
		return;
	HMM_ASSERT(arena_ready() || abandoned);
	if (!arena_ready())
		return;
	nr = slab_find(addr);
	if (nr)
		small_free(nr, addr);
	else
		map_destroy(addr, 0);
}

void *hmm_map(size_t bytes)
{
	return debug_fail("map") ? NULL : map_create(bytes, false);
}

void hmm_unmap(void *ptr, size_t bytes)
{
	HMM_ASSERT(!ptr == !bytes);
	if (ptr && bytes && arena_ready())
		map_destroy((unsigned long)ptr, bytes);
}

bool arena_next(unsigned long *start, unsigned long *end)
{
	unsigned long s = *start, e = *end, i;
	bool found = false;

	if (s >= e || !arena_ready())
		return false;
	/* What is in the reservation need not be told apart from it: as a rule all is. */
	if (__atomic_load_n(&maps.outside, __ATOMIC_SEQ_CST)) {
		signals_lock(&maps.lock);
		i = maps_find(s);
		if (i < maps.count && maps.map[i].start < e) {
			*start = maps.map[i].start;
			*end = maps.map[i].end;
			found = true;
		}
		signals_unlock(&maps.lock);
	}
	if (arena.start < e && arena.end > s && (!found || arena.start < *start)) {
		*start = arena.start;
		*end = arena.end;
		found = true;
	}
	if (!found)
		return false;
	if (*start < s)
		*start = s;
	if (*end > e)
		*end = e;
	return true;
}

bool arena_overlaps(unsigned long start, unsigned long end)
{
	return arena_next(&start, &end);
}

unsigned long arena_bytes(void)
{
	unsigned long used;

	signals_lock(&pool.lock);
	used = pool.used;
	signals_unlock(&pool.lock);
	return used * SLAB_SIZE;
}

/*
 * No lock is held over fork(): the monitor must be able to allocate until the
 * very moment, or it could not read the event that the fork waits for. So other
 * threads may have left anything half done here, and the child starts anew. What
 * it inherited stays mapped and readable; to free it does nothing.
 */
void arena_fork_child(void)
{
	unsigned int c;

	memset(&arena, 0, sizeof(arena));
	memset(class, 0, sizeof(class));
	memset(&pool, 0, sizeof(pool));
	memset(&maps, 0, sizeof(maps));
	pthread_mutex_init(&arena.lock, NULL);
	pthread_mutex_init(&pool.lock, NULL);
	pthread_mutex_init(&maps.lock, NULL);
	for (c = 0; c < NCLASSES; c++)
		pthread_mutex_init(&class[c].lock, NULL);
	abandoned = true;
}
