/* SPDX-License-Identifier: MIT */
/*
 * Looking up a mapping: PROCMAP_QUERY and the maps file must tell the same, of
 * every mapping, whatever its name. What they tell decides what may migrate.
 */
#include <sys/stat.h>

#include "faults/harness.h"

#include "mm/mm.h"

static struct mm mm;

static int setup(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	limit(20, "looking up mappings");
	mm = (struct mm){ .uffd = -1 };
	features_open(&mm, &f);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mm_forget(&mm);
	limit(0, "");
	return 0;
}

static int find(bool query, unsigned long addr, struct vma *vma)
{
	bool can = mm.procmap_query;
	int ret;

	mm.procmap_query = query;
	memset(vma, 0x55, sizeof(*vma));
	ret = vma_find(&mm, addr, vma);
	mm.procmap_query = can;
	return ret;
}

static void need_query(void)
{
	if (mm.procmap_query)
		return;
	print_message("skipped: no PROCMAP_QUERY on this kernel (Linux 6.11)\n");
	skip();
}

static void same(unsigned long addr, const struct vma *a, const struct vma *b)
{
	if (a->start != b->start || a->end != b->end || a->read != b->read ||
	    a->write != b->write || a->exec != b->exec || a->shared != b->shared ||
	    a->file != b->file)
		fail_msg("at 0x%lx: 0x%lx-0x%lx %d%d%d%d%d and 0x%lx-0x%lx %d%d%d%d%d", addr,
			 a->start, a->end, a->read, a->write, a->exec, a->shared, a->file, b->start,
			 b->end, b->read, b->write, b->exec, b->shared, b->file);
	if (strcmp(a->name, "/")) /* longer than anybody wants to know */
		assert_string_equal(a->name, b->name);
	else
		assert_int_equal(b->name[0], '/');
}

/* All of them; how many. */
static unsigned int compare_all(void)
{
	unsigned long addr = 0;
	unsigned int n = 0;
	struct vma a, b;

	/* Beyond is only [vsyscall], which is no mapping. */
	while (addr < 1ul << 63) {
		int ra = find(true, addr, &a), rb = find(false, addr, &b);

		if (ra == -ENOENT && (rb == -ENOENT || b.start >= 1ul << 63))
			break;
		assert_int_equal(ra, 0);
		assert_int_equal(rb, 0);
		same(addr, &a, &b);
		assert_true(a.end > addr);
		addr = a.end;
		n++;
	}
	return n;
}

static void both_tell_the_same_of_every_mapping(void **state)
{
	unsigned char *p = map_bytes(16 * hmm_page_size());
	int i, prot = PROT_READ | PROT_WRITE, fd = memfd_create("with a blank", 0);

	(void)state;
	need_query();
	mprotect(p + hmm_page_size(), hmm_page_size(), PROT_READ);
	mprotect(p + 3 * hmm_page_size(), hmm_page_size(), PROT_NONE);
	mprotect(p + 5 * hmm_page_size(), hmm_page_size(), PROT_READ | PROT_EXEC);
	assert_true(mmap(p + 8 * hmm_page_size(), hmm_page_size(), prot,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	for (i = 0; i < 3; i++)
		assert_true(mmap(NULL, hmm_page_size(), prot, i ? MAP_SHARED : MAP_PRIVATE, fd,
				 (off_t)hmm_page_size() * 2 * i) != MAP_FAILED);
	assert_true(compare_all() > 10);
	close(fd);
}

static void an_address_in_the_middle_of_a_mapping(void **state)
{
	unsigned char *p = map_bytes(16 * hmm_page_size());
	unsigned long start = (unsigned long)p;
	unsigned int query;
	struct vma vma;

	(void)state;
	for (query = !mm.procmap_query ? 0 : 1; query != ~0u; query--) {
		assert_int_equal(find(query, start + 5 * hmm_page_size() + 7, &vma), 0);
		assert_int_equal(vma.start, start);
		assert_int_equal(vma.end, start + 16 * hmm_page_size());
		assert_true(vma.read && vma.write && !vma.exec && !vma.shared && !vma.file);
		assert_string_equal(vma.name, "");
		/* In a hole: the next one. */
		assert_int_equal(munmap(p + 6 * hmm_page_size(), hmm_page_size()), 0);
		assert_int_equal(find(query, start + 6 * hmm_page_size(), &vma), 0);
		assert_int_equal(vma.start, start + 7 * hmm_page_size());
		assert_true(mmap(p + 6 * hmm_page_size(), hmm_page_size(), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	}
}

/* A file whose path has about @length bytes, mapped; then its directories go. */
static void with_a_path(size_t length)
{
	char root[] = "/tmp/hmm-vma-XXXXXX", part[201];
	int dir, back = open(".", O_RDONLY | O_DIRECTORY), fd;
	size_t have, depth = 0;
	void *p;

	assert_non_null(mkdtemp(root));
	assert_int_equal(chdir(root), 0);
	memset(part, 'd', 200);
	part[200] = '\0';
	for (have = strlen(root); have + 201 < length; have += 201, depth++) {
		assert_int_equal(mkdir(part, 0700), 0);
		assert_int_equal(chdir(part), 0);
	}
	part[length > have + 1 ? length - have - 1 : 1] = '\0';
	fd = open(part, O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_true(p != MAP_FAILED);
	compare_all();
	unlink(part);
	compare_all(); /* " (deleted)" */
	munmap(p, 4096);
	close(fd);
	part[0] = 'd';
	memset(part, 'd', 200);
	part[200] = '\0';
	for (; depth; depth--) {
		assert_int_equal(chdir(".."), 0);
		assert_int_equal(rmdir(part), 0);
	}
	dir = fchdir(back);
	assert_int_equal(dir, 0);
	assert_int_equal(rmdir(root), 0);
	close(back);
}

static void long_names(void **state)
{
	(void)state;
	need_query();
	with_a_path(31);
	with_a_path(32);
	with_a_path(33);
	with_a_path(180);
	with_a_path(255);
	with_a_path(256);
	with_a_path(300);
	with_a_path(1990);
	with_a_path(2100);
	with_a_path(4000);
}

/* More lines than one buffer holds, so that lines are cut at every place. */
static void many_mappings(void **state)
{
	size_t n = 600, i;
	unsigned char *p = map_bytes(n * hmm_page_size());

	(void)state;
	need_query();
	for (i = 0; i < n; i += 2)
		mprotect(p + i * hmm_page_size(), hmm_page_size(), PROT_READ);
	assert_true(compare_all() >= n);
	munmap(p, n * hmm_page_size());
}

static void past_the_last_mapping_there_is_none(void **state)
{
	struct vma vma;

	(void)state;
	if (mm.procmap_query)
		assert_int_equal(find(true, ~0ul - 4095, &vma), -ENOENT);
	assert_int_equal(find(false, ~0ul - 4095, &vma), -ENOENT);
}

#define VMA_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		VMA_TEST(both_tell_the_same_of_every_mapping),
		VMA_TEST(an_address_in_the_middle_of_a_mapping),
		VMA_TEST(long_names),
		VMA_TEST(many_mappings),
		VMA_TEST(past_the_last_mapping_there_is_none),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
