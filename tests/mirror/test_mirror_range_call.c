/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of large ranges made of many mappings, at random places; where the driver's
 * array may lie; and what is refused.
 *
 * Tries to break: G2 (a page's entry that is another's), G6 (the array may be away, and
 * may be the very range), G11 (errors are values).
 */
#include "mini.h"

#define MAX (72 * MIB / PAGE) /* more than is read in one go, twice */
#define AWAY 600

static struct mini *dev;

static int setup(void **state)
{
	(void)state;
	dev = mini_new(AWAY);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	return 0;
}

/* ---- large and mixed ---- */

static hmm_pfn_t pfns[MAX], want[MAX];
static char *mem;
static unsigned int seed;

static size_t rnd(size_t n)
{
	return (size_t)rand_r(&seed) % n;
}

enum kind { NEVER, WRITTEN, STRIPES, READ, NONE, READ_ONLY, SHARED, SPLIT, DEVICE, KINDS };

static void write_pages(size_t first, size_t n, size_t every, hmm_pfn_t flags)
{
	size_t i;

	for (i = first; i < first + n; i += every) {
		*(uint64_t *)(mem + i * PAGE) = i;
		want[i] = (addr_of(mem) + i * PAGE) | flags;
	}
}

static void make_shared(size_t first, size_t n)
{
	char *at = mem + first * PAGE;

	assert_ptr_equal(mmap(at, n * PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 at);
	write_pages(first, n, 3, HMM_PFN_VALID | HMM_PFN_WRITE);
}

/* The device pfns are compared by the content: see compare(). */
static void make_device(size_t first, size_t n)
{
	size_t i;

	write_pages(first, n, 1, 0);
	mini_migrate(dev, mem + first * PAGE, n);
	for (i = first; i < first + n; i++)
		want[i] = HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE;
}

/* Pages [first, first + n) become of one kind, most of them a mapping of their own. */
static void make(enum kind kind, size_t first, size_t n)
{
	char *at = mem + first * PAGE;
	volatile char sink;
	size_t i;

	switch (kind) {
	case SPLIT:
		assert_int_equal(madvise(at, n * PAGE, MADV_DONTDUMP), 0);
		/* fall through */
	case WRITTEN:
		write_pages(first, n, 1, HMM_PFN_VALID | HMM_PFN_WRITE);
		break;
	case STRIPES:
		write_pages(first, n, 2, HMM_PFN_VALID | HMM_PFN_WRITE);
		break;
	case READ:
		for (i = first; i < first + n; i++) {
			sink = mem[i * PAGE];
			want[i] = (addr_of(mem) + i * PAGE) | HMM_PFN_VALID | HMM_PFN_ZERO;
		}
		(void)sink;
		break;
	case NONE:
	case READ_ONLY:
		write_pages(first, n, 1, HMM_PFN_VALID);
		assert_int_equal(mprotect(at, n * PAGE, kind == NONE ? PROT_NONE : PROT_READ), 0);
		for (i = first; kind == NONE && i < first + n; i++)
			want[i] = HMM_PFN_ERROR;
		break;
	case SHARED:
		make_shared(first, n);
		break;
	case DEVICE:
		make_device(first, n);
		break;
	default:
		break;
	}
}

static void make_all(void)
{
	size_t i, n, away = AWAY;

	mem = map_aligned(MAX * PAGE);
	memset(want, 0, sizeof(want));
	for (i = 0; i < MAX; i += n) {
		enum kind kind = (enum kind)rnd(KINDS);

		n = 1 + rnd(rnd(8) ? 300 : MAX / 3);
		n = n < MAX - i ? n : MAX - i;
		if (kind == DEVICE && n > away / 4)
			kind = WRITTEN;
		away -= kind == DEVICE ? n : 0;
		make(kind, i, n);
	}
}

/* Entry @i of the snapshot is page @page. */
static void compare(size_t i, size_t page, uint32_t flags)
{
	struct hmm_features features = { .size = sizeof(features) };
	hmm_pfn_t got = pfns[i], expect = want[page], mask = ~(hmm_pfn_t)0;

	if (got & HMM_PFN_DEVICE && expect & HMM_PFN_DEVICE) {
		assert_int_equal(*(uint64_t *)mini_page(dev, hmm_pfn_device(got)), page);
		mask = HMM_PFN_FLAGS;
	}
	if (!(flags & HMM_RANGE_WRITE) || got & HMM_PFN_ZERO)
		mask &= ~HMM_PFN_WRITE;
	if (((got ^ expect) & mask) == HMM_PFN_ZERO) { /* not told without PAGEMAP_SCAN */
		hmm_probe(&features);
		mask &= features.pagemap_scan ? mask : ~HMM_PFN_ZERO;
	}
	if ((got ^ expect) & mask)
		fail_msg("page %zu of %p: 0x%llx, not 0x%llx", page, (void *)mem,
			 (unsigned long long)got, (unsigned long long)expect);
}

static void take_and_compare(size_t first, size_t n, uint32_t flags)
{
	size_t i;

	memset(pfns, 0xee, sizeof(pfns));
	mini_snapshot(dev, mem + first * PAGE, n, flags, pfns);
	for (i = 0; i < n; i++)
		compare(i, first + i, flags);
	for (; i < MAX; i++) /* nothing is written past the end */
		if (pfns[i] != 0xeeeeeeeeeeeeeeee)
			fail_msg("entry %zu of %zu was written", i, n);
}

static void large_ranges_of_many_mappings(void **state)
{
	int round, i;

	(void)state;
	BEGIN(60);
	seed = (unsigned int)test_now();
	print_message("seed %u\n", seed);
	for (round = 0; round < (TEST_SANITIZED ? 2 : 4); round++) {
		make_all();
		take_and_compare(0, MAX, 0);
		take_and_compare(0, MAX, HMM_RANGE_WRITE);
		for (i = 0; i < (TEST_SANITIZED ? 6 : 30); i++) {
			static const size_t longest[] = { MAX, 700, 20 };
			size_t first = rnd(MAX), n = 1 + rnd(longest[i % 3]);

			n = n < MAX - first ? n : MAX - first;
			take_and_compare(first, n, i % 2 ? HMM_RANGE_WRITE : 0);
		}
		munmap(mem, MAX * PAGE);
		hmm_mirror_sync(&dev->mirror); /* its device pages are free */
	}
}

/* More than is read in one go, of which nothing is there yet, and some on the device. */
static void large_ranges_are_faulted_in(void **state)
{
	size_t n = 36 * MIB / PAGE, i;

	(void)state;
	BEGIN(60);
	mem = map_aligned(n * PAGE);
	make_device(700, 300);
	assert_int_equal(mini_fault(dev, mem, n, HMM_RANGE_WRITE, pfns), 0);
	for (i = 0; i < n; i++)
		if (i < 700 || i >= 1000)
			want[i] = (addr_of(mem) + i * PAGE) | HMM_PFN_VALID | HMM_PFN_WRITE;
	for (i = 0; i < n; i++)
		compare(i, i, HMM_RANGE_WRITE);
	munmap(mem, n * PAGE);
}

/* ---- where the array is ---- */

static void the_array_may_be_away(void **state)
{
	hmm_pfn_t *away = (void *)map_aligned(2 * PAGE);
	size_t i, n = 2 * PAGE / sizeof(*away);

	(void)state;
	BEGIN(20);
	mem = map_aligned(n * PAGE);
	for (i = 0; i < n; i += 2)
		mem[i * PAGE] = 1;
	memset(away, 0xee, 2 * PAGE);
	mini_migrate(dev, away, 2);
	mini_snapshot(dev, mem, n, HMM_RANGE_WRITE, away);
	for (i = 0; i < n; i++)
		assert_int_equal(away[i],
				 i % 2 ? 0 :
					 (addr_of(mem) + i * PAGE) | HMM_PFN_VALID | HMM_PFN_WRITE);
	while (hmm_devmem_free_pages(&dev->devmem) < AWAY)
		test_sleep_us(100); /* it came home to be written */
	munmap(mem, n * PAGE);
	munmap(away, 2 * PAGE);
}

/* On the CPU, never touched, and on the device: writing it is no change for the device. */
static void the_array_may_be_in_the_range(void **state)
{
	size_t i, n = 512;
	hmm_pfn_t *in;

	(void)state;
	BEGIN(20);
	mem = map_aligned(n * PAGE);
	in = (void *)(mem + 200 * PAGE);
	memset(mem, 1, 100 * PAGE);
	mini_snapshot(dev, mem, n, 0, in);
	assert_int_equal(in[99] & ~HMM_PFN_WRITE, (addr_of(mem) + 99 * PAGE) | HMM_PFN_VALID);
	assert_int_equal(in[100], 0);
	assert_int_equal(mini_fault(dev, mem, n, HMM_RANGE_WRITE, in), 0);
	for (i = 0; i < n; i++)
		assert_int_equal(in[i], (addr_of(mem) + i * PAGE) | HMM_PFN_VALID | HMM_PFN_WRITE);
	mini_migrate(dev, mem, n);
	mini_snapshot(dev, mem, n, HMM_RANGE_WRITE, in); /* comes home, then holds */
	assert_int_equal(in[0] & HMM_PFN_FLAGS, HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_DEVICE);
	assert_int_equal(in[200], (addr_of(mem) + 200 * PAGE) | HMM_PFN_VALID | HMM_PFN_WRITE);
	munmap(mem, n * PAGE);
}

/* ---- what is refused ---- */

static int results[2]; /* of calls from an op */

static void call_back(struct mini *of, const struct hmm_event *event)
{
	struct hmm_range range = mini_range(of, (void *)event->start, 1, 0, pfns);

	results[0] = hmm_range_snapshot(&range);
	results[1] = hmm_range_fault(&range);
}

static void refused(struct hmm_range range, int err)
{
	assert_int_equal(hmm_range_snapshot(&range), err);
	assert_null(range.state);
	assert_int_equal(hmm_range_fault(&range), err);
	assert_null(range.state);
	assert_false(hmm_range_done(&range));
}

static void bad_calls(void **state)
{
	struct hmm_range good, range;

	(void)state;
	BEGIN(20);
	mem = map_anon(4 * PAGE);
	range = good = mini_range(dev, mem, 4, 0, pfns);
	assert_int_equal(hmm_range_snapshot(NULL), -EINVAL);
	assert_int_equal(hmm_range_fault(NULL), -EINVAL);
	range.size -= 8;
	refused(range, -EINVAL);
	range = good;
	range.flags = 2;
	refused(range, -EINVAL);
	range = good;
	range.mirror = NULL;
	refused(range, -EINVAL);
	range = good;
	range.pfns = NULL;
	refused(range, -EINVAL);
	range = good;
	range.end = range.start;
	refused(range, -EINVAL);
	range.end = range.start - PAGE;
	refused(range, -EINVAL);
	range.end = good.end + 1;
	refused(range, -EINVAL);
	range = good;
	range.start += 8;
	refused(range, -EINVAL);
	range = good;
	range.end = ~0ul & ~(PAGE - 1);
	refused(range, -EINVAL);

	range = good; /* a driver compiled with a later header */
	range.size += 8;
	assert_int_equal(hmm_range_snapshot(&range), 0);
	assert_int_equal(hmm_range_snapshot(&range), -EBUSY);
	assert_int_equal(hmm_range_fault(&range), -EBUSY);
	assert_true(hmm_range_done(&range));
	assert_false(hmm_range_done(&range));

	mini_hook(dev, call_back);
	assert_int_equal(mini_event(dev, mem, 1, HMM_DEVICE_RFAULT, NULL), 0);
	mini_hook(dev, NULL);
	assert_int_equal(results[0], -EDEADLK);
	assert_int_equal(results[1], -EDEADLK);

	assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	refused(good, -ENODEV);
	munmap(mem, 4 * PAGE);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(large_ranges_of_many_mappings),
		T(large_ranges_are_faulted_in),
		T(the_array_may_be_away),
		T(the_array_may_be_in_the_range),
		T(bad_calls),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
