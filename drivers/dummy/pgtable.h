/* SPDX-License-Identifier: MIT */
/*
 * The device's page table; see pgtable.c.
 */
#ifndef DUMMY_PGTABLE_H
#define DUMMY_PGTABLE_H

#include <stdint.h>

/*
 * An entry: a page-aligned frame in the upper bits, flags in the low ones. The
 * frame of a system page is the CPU address that libhmm gave for it; of a device
 * page, its offset in device memory.
 *
 * An entry may be dirty without being valid: the translation was lost, but that
 * the page was written is still to be told.
 *
 * Exclusive: nobody else reaches the page, and the device may use it as its own memory.
 */
#define DUMMY_PTE_VALID ((uint64_t)1 << 0)
#define DUMMY_PTE_WRITE ((uint64_t)1 << 1)
#define DUMMY_PTE_DIRTY ((uint64_t)1 << 2)
#define DUMMY_PTE_ACCESSED ((uint64_t)1 << 3)
#define DUMMY_PTE_DEVICE ((uint64_t)1 << 4)
#define DUMMY_PTE_EXCLUSIVE ((uint64_t)1 << 5)
#define DUMMY_PTE_FLAGS ((uint64_t)0xfff)

struct dummy_dir;

/**
 * struct dummy_pgtable - the table
 * @root: top directory, always there
 * @levels: of directories
 * @page_shift: of the system's pages
 */
struct dummy_pgtable {
	struct dummy_dir *root;
	unsigned int levels;
	unsigned int page_shift;
};

int dummy_pgtable_init(struct dummy_pgtable *pt, unsigned int page_shift);
void dummy_pgtable_fini(struct dummy_pgtable *pt);

/* dummy_pgtable_last() - the last address that the table can translate */
uint64_t dummy_pgtable_last(const struct dummy_pgtable *pt);

/* dummy_pgtable_lookup() - the entry of @addr; NULL if its directory is missing */
uint64_t *dummy_pgtable_lookup(const struct dummy_pgtable *pt, uint64_t addr);

/*
 * dummy_pgtable_next() - the first entry in use in [*@addr, @end)
 *
 * Return: the entry, and its address in *@addr; NULL if there is none.
 */
uint64_t *dummy_pgtable_next(const struct dummy_pgtable *pt, uint64_t *addr, uint64_t end);

/*
 * dummy_pgtable_next_run() - the same, and what follows it in its directory, up to @end
 *
 * Return: how many; those after the first in *@run may be 0.
 */
unsigned int dummy_pgtable_next_run(const struct dummy_pgtable *pt, uint64_t *addr, uint64_t end,
				    uint64_t **run);

/* dummy_pgtable_set() - store an entry that is not 0; -ENOMEM, -EINVAL past the end */
int dummy_pgtable_set(struct dummy_pgtable *pt, uint64_t addr, uint64_t pte);

/* dummy_pgtable_clear() - empty an entry, free the directories it empties */
void dummy_pgtable_clear(struct dummy_pgtable *pt, uint64_t addr);

/* dummy_pgtable_set_run() - the same of @n entries in a row; those of 0 stay as they are */
int dummy_pgtable_set_run(struct dummy_pgtable *pt, uint64_t addr, const uint64_t *pte,
			  unsigned int n);

/* dummy_pgtable_clear_run() - the same of @n entries of one directory */
void dummy_pgtable_clear_run(struct dummy_pgtable *pt, uint64_t addr, unsigned int n);

#endif
