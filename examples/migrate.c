/* SPDX-License-Identifier: MIT */
/*
 * The smallest driver with memory: pages of the program move into a store, and come back
 * when the CPU touches them. No mirror: nothing here has a page table of its own.
 * docs/migration.md explains it.
 *
 * The store keeps what it is given in a form of its own, each word xored with its place.
 * It could as well be encrypted, compressed, or on another machine. So it shows that the
 * data was really away: nothing but the copy engine below can make sense of it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hmm/hmm.h>

#define STORE_PAGES 32ul
#define PAGES 48ul /* of the program: more than fit */

struct store {
	struct hmm_device device;
	struct hmm_devmem devmem;
	uint64_t *memory; /* STORE_PAGES of them */
	bool evicts;
	unsigned long hand; /* atomic: where to look for what goes next */
	unsigned long out, evictions; /* atomic: pages, times */
};

/* The copy engine, both ways: x ^ key ^ key is x. @from NULL: a page of zeros. */
static void store_copy(uint64_t *to, const uint64_t *from, unsigned long index)
{
	unsigned long words = hmm_page_size() / sizeof(*to), i;

	for (i = 0; i < words; i++)
		to[i] = (from ? from[i] : 0) ^ ((index * words + i + 1) * 0x9e3779b97f4a7c15);
}

static uint64_t *store_page(struct store *store, const struct hmm_page *page)
{
	return store->memory + hmm_page_index(page) * hmm_page_size() / sizeof(*store->memory);
}

/* Take what there is room for. What is left 0 in @dst stays where it is. */
static int store_alloc_and_copy(struct hmm_migrate *migrate, const hmm_pte_t *src, hmm_pte_t *dst,
				unsigned long start, unsigned long end)
{
	struct store *store = migrate->cookie;
	unsigned long i, n = (end - start) >> hmm_page_shift();

	for (i = 0; i < n; i++) {
		struct hmm_page *page = src[i] ? hmm_devmem_alloc(&store->devmem) : NULL;
		const uint64_t *from = NULL;

		if (!page)
			continue;
		if (!hmm_pte_test_zero(src[i]))
			from = (const uint64_t *)hmm_pte_addr(src[i]);
		store_copy(store_page(store, page), from, hmm_page_index(page));
		dst[i] = hmm_pte_from_device_pfn(hmm_page_pfn(page), HMM_PTE_VALID | HMM_PTE_WRITE);
	}
	return 0;
}

/* These are here now. Which page is where serves store_evict(). */
static void store_finalize_and_map(struct hmm_migrate *migrate, const hmm_pte_t *src,
				   const hmm_pte_t *dst, unsigned long start, unsigned long end)
{
	unsigned long addr;

	(void)migrate, (void)src;
	for (addr = start; addr < end; addr += hmm_page_size(), dst++)
		if (*dst)
			__atomic_store_n(&hmm_page_from_pfn(hmm_pte_pfn(*dst))->data, addr,
					 __ATOMIC_RELAXED);
}

static const struct hmm_migrate_ops migrate_ops = {
	.size = sizeof(migrate_ops),
	.version = HMM_MIGRATE_OPS_VERSION,
	.alloc_and_copy = store_alloc_and_copy,
	.finalize_and_map = store_finalize_and_map,
};

/* Pages go home. Nothing is freed here: libhmm drops its references when they are there. */
static int store_copy_from_device(struct hmm_devmem *devmem, enum hmm_etype etype,
				  const hmm_pte_t *src, hmm_pte_t *dst, unsigned long start,
				  unsigned long end)
{
	struct store *store = hmm_container_of(devmem, struct store, devmem);
	unsigned long i, n = (end - start) >> hmm_page_shift();

	(void)etype; /* nobody here writes meanwhile */
	for (i = 0; i < n; i++) {
		struct hmm_page *page;

		if (!src[i] || !dst[i])
			continue;
		page = hmm_page_from_pfn(hmm_pte_pfn(src[i]));
		store_copy((uint64_t *)hmm_pte_addr(dst[i]), store_page(store, page),
			   hmm_page_index(page));
		__atomic_fetch_add(&store->out, 1, __ATOMIC_RELAXED);
	}
	return 0;
}

/*
 * The store is full. Round and round: what came first goes first. The address is where the
 * page was when it came; if the program has moved it since, nothing goes home.
 */
static int store_evict(struct hmm_devmem *devmem, unsigned long pages, unsigned long *start,
		       unsigned long *end)
{
	struct store *store = hmm_container_of(devmem, struct store, devmem);
	unsigned long hand = __atomic_load_n(&store->hand, __ATOMIC_RELAXED);
	struct hmm_page *page = hmm_devmem_next_used(devmem, hand);

	if (!page)
		page = hmm_devmem_next_used(devmem, 0);
	if (!store->evicts || !page)
		return -ENOENT;
	*start = __atomic_load_n(&page->data, __ATOMIC_RELAXED);
	*end = *start + (pages << hmm_page_shift());
	__atomic_store_n(&store->hand, hmm_page_index(page) + pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&store->evictions, 1, __ATOMIC_RELAXED);
	return 0;
}

static const struct hmm_devmem_ops memory_ops = {
	.size = sizeof(memory_ops),
	.version = HMM_DEVMEM_OPS_VERSION,
	.copy_from_device = store_copy_from_device,
	.evict = store_evict,
};

static int store_open(struct store *store)
{
	static const struct hmm_device_ops no_ops = {
		.size = sizeof(no_ops),
		.version = HMM_DEVICE_OPS_VERSION,
	};
	int ret;

	store->device.size = sizeof(store->device);
	store->device.flags = HMM_DEVICE_PROMPT; /* its ops wait for nothing */
	store->device.name = "store";
	store->device.ops = &no_ops;
	ret = hmm_device_register(&store->device);
	if (ret)
		return ret;
	store->devmem.size = sizeof(store->devmem);
	store->devmem.ops = &memory_ops;
	ret = hmm_devmem_add(&store->devmem, &store->device, STORE_PAGES * hmm_page_size());
	if (ret)
		hmm_device_unregister(&store->device);
	return ret;
}

/* What is still in the store comes home first. */
static int store_close(struct store *store)
{
	int ret = hmm_devmem_remove(&store->devmem);

	return ret ? ret : hmm_device_unregister(&store->device);
}

/* ---- the program ---- */

static unsigned int wrong;

static void check(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "migrate: %s: wrong\n", what);
	wrong++;
}

static uint64_t *word(char *mem, unsigned long page)
{
	return (uint64_t *)(void *)(mem + page * hmm_page_size());
}

/* Pages of it into the store; one letter a page tells what became of it. */
static int move(struct store *store, char *mem, unsigned long first, unsigned long pages)
{
	uint8_t result[PAGES];
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.device = &store->device,
		.ops = &migrate_ops,
		.start = (unsigned long)word(mem, first),
		.end = (unsigned long)word(mem, first + pages),
		.cookie = store,
		.result = result,
	};
	unsigned long i;
	int ret = hmm_migrate_vma(&migrate);

	if (ret)
		return ret;
	for (i = 0; i < pages; i++)
		putchar("-MKBDC"[result[i]]);
	printf(" %lu of %lu moved\n", migrate.pages, pages);
	return 0;
}

/* The CPU reads all that is there: pages 6 and 7 are not. */
static void read_all(char *mem, const char *when)
{
	unsigned long i;

	for (i = 0; i < PAGES; i++)
		if (i != 6 && i != 7)
			check(*word(mem, i) == (i < 40 ? i + 1 : 0), when);
}

/* A child has its own copy, of what was in the store too, and no store. */
static void fork_child(char *mem)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		read_all(mem, "a child reads");
		*word(mem, 0) = 99;
		_exit(wrong != 0);
	}
	check(pid > 0 && waitpid(pid, &status, 0) == pid && !status, "the child");
	read_all(mem, "the parent reads, after the child wrote");
	printf("a child of fork() had its own copy of all\n");
}

static int work(struct store *store, char *mem)
{
	unsigned long pages, out, i;
	int ret;

	for (i = 0; i < 40; i++) /* the rest is never touched: it reads as zeros */
		*word(mem, i) = i + 1;
	mprotect(word(mem, 5), hmm_page_size(), PROT_READ);
	munmap(word(mem, 6), 2 * hmm_page_size());

	printf("M: moved, K: stays for its kind, D: no room, -: not mapped\n");
	ret = move(store, mem, 0, PAGES);
	if (ret)
		return ret;
	check(store->memory[0] != 1, "what is in the store");
	printf("the program wrote 1; in the store that is 0x%llx; the CPU reads %llu\n",
	       (unsigned long long)store->memory[0], (unsigned long long)*word(mem, 0));
	read_all(mem, "the CPU reads");
	out = __atomic_load_n(&store->out, __ATOMIC_RELAXED);
	check(out == STORE_PAGES, "what came back");
	printf("the CPU has read them all: %lu came back\n", out);

	ret = move(store, mem, 8, STORE_PAGES);
	store->evicts = true;
	ret = ret ? ret : move(store, mem, 40, 8);
	if (ret)
		return ret;
	out = __atomic_load_n(&store->out, __ATOMIC_RELAXED) - out;
	check(store->evictions == 1 && out == 8, "evictions");
	printf("to make room, %lu of the others went home\n", out);
	ret = hmm_migrate_to_ram(&store->device, (unsigned long)word(mem, 40),
				 (unsigned long)word(mem, 48), &pages);
	check(!ret && pages == 8, "hmm_migrate_to_ram()");
	printf("%lu came home because the driver asked\n", pages);
	fork_child(mem);
	return move(store, mem, 0, 5); /* these come home when the store goes */
}

int main(void)
{
	struct hmm_features features = { .size = sizeof(features) };
	struct store *store = hmm_alloc(sizeof(*store)); /* for what an op touches */
	char *mem;
	int ret, err;

	if (!store || !(store->memory = hmm_map(STORE_PAGES * hmm_page_size())))
		return 1;
	mem = mmap(NULL, PAGES * hmm_page_size(), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED || store_open(store))
		return 1;
	ret = work(store, mem);
	if (ret) {
		hmm_probe(&features);
		fprintf(stderr, "migrate: %s: %s\n", strerror(-ret), features.reason);
	}
	err = store_close(store);
	check(!err, "the store goes");
	hmm_unmap(store->memory, STORE_PAGES * hmm_page_size());
	hmm_free(store);
	if (!ret && !err)
		read_all(mem, "the CPU reads, without the store");
	return ret == -EPERM || ret == -ENOSYS || ret == -EOPNOTSUPP ? 77 : ret || wrong;
}
