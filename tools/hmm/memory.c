/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <hmm/hmm.h>

#include "memory.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Guards at both ends keep it from being one mapping with something else. */
char *memory_map(size_t bytes, bool huge)
{
	size_t span = bytes + 3 * MEMORY_HUGE;
	char *base, *addr;

	base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	addr = (char *)(((uintptr_t)base + 2 * MEMORY_HUGE - 1) & ~(MEMORY_HUGE - 1));
	if (addr - MEMORY_HUGE > base)
		munmap(base, (size_t)(addr - MEMORY_HUGE - base));
	if (addr + bytes + MEMORY_HUGE < base + span)
		munmap(addr + bytes + MEMORY_HUGE,
		       (size_t)(base + span - (addr + bytes + MEMORY_HUGE)));
	if (mprotect(addr, bytes, PROT_READ | PROT_WRITE)) {
		memory_unmap(addr, bytes);
		return NULL;
	}
	madvise(addr, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return addr;
}

void memory_unmap(char *addr, size_t bytes)
{
	if (addr)
		munmap(addr - MEMORY_HUGE, bytes + 2 * MEMORY_HUGE);
}

void memory_fill(char *addr, size_t bytes, uint64_t seed)
{
	size_t words = hmm_page_size() / sizeof(uint64_t), i;
	uint64_t *at = (uint64_t *)addr, x = seed * 2 + 1;

	for (i = 0; i < bytes / sizeof(uint64_t); i++) {
		size_t word = i % words;

		x = x * 6364136223846793005u + 1442695040888963407u;
		at[i] = word < words / 2 ? x ^ x >> 29 : at[i - word + word % 8];
	}
}

static size_t huge_bytes(const char *addr, size_t bytes)
{
	uintptr_t low = (uintptr_t)addr, high = low + bytes, start, end;
	FILE *smaps = fopen("/proc/self/smaps", "re");
	size_t total = 0, kib;
	bool inside = false;
	char line[512];

	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
			inside = start >= low && end <= high;
		else if (inside && sscanf(line, "AnonHugePages: %zu kB", &kib) == 1)
			total += kib << 10;
	}
	if (smaps)
		fclose(smaps);
	return total;
}

bool memory_make_huge(char *addr, size_t bytes)
{
	if (huge_bytes(addr, bytes) == bytes)
		return true;
	madvise(addr, bytes, MADV_COLLAPSE);
	return huge_bytes(addr, bytes) == bytes;
}

bool memory_where(const char *addr, size_t bytes, bool on_device)
{
	size_t pages = bytes / hmm_page_size(), i;
	uint8_t *where = malloc(pages);
	bool ok = where && !hmm_range_where((uintptr_t)addr, (uintptr_t)addr + bytes, where);

	for (i = 0; ok && i < pages; i++)
		ok = (where[i] == HMM_WHERE_DEVICE) == on_device;
	free(where);
	return ok;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double memory_percentile(double *v, size_t n, double p)
{
	size_t i = (size_t)(p * (double)n);

	if (!n)
		return 0;
	qsort(v, n, sizeof(*v), compare);
	return v[i < n ? i : n - 1];
}

void memory_shuffle(uint32_t *order, size_t n, uint64_t seed)
{
	uint64_t x = seed * 2 + 1;
	size_t i, k;

	for (i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (i = n; i > 1; i--) {
		uint32_t tmp;

		x = x * 6364136223846793005u + 1442695040888963407u;
		k = (size_t)(x >> 33) % i;
		tmp = order[i - 1];
		order[i - 1] = order[k];
		order[k] = tmp;
	}
}
