/* SPDX-License-Identifier: MIT */
/*
 * mprotect() with PROT_GROWSDOWN changes more than it is told: from where the mapping
 * begins.
 *
 * Tries to break: G3, G2 (a device writes what the CPU may only read).
 */
#include "changes.h"

/* Called for the topmost page. */
static void protection_that_reaches_down(size_t pages)
{
	size_t len = (pages + 1) * PAGE;
	char *mem = area(pages + 1, 1);

	if (mmap(mem, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0) != mem)
		skip_because("no MAP_GROWSDOWN here");
	pattern_fill(mem, pages + 1, 1);
	mirror_write(mem, pages + 1);
	if (mprotect(mem + pages * PAGE, PAGE, PROT_READ | PROT_GROWSDOWN))
		skip_because("no PROT_GROWSDOWN here");
	no_store(mem + pages * PAGE);
	no_store(mem);
	has(mem, pages + 1, pages + 1, 0);
	area_free(mem, pages + 1);
}

static const struct change changes[] = {
	CHANGE(protection_that_reaches_down),
};

CHANGES_MAIN(changes)
