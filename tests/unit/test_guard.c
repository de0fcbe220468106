/* SPDX-License-Identifier: MIT */
/*
 * The mirror page table is valid inside the ops of its device alone, and there for the
 * range that the op is called for: a debug build finds nothing anywhere else, and says
 * so (design, section 3).
 *
 * Tries to break: G2 (a driver that reads entries at any other time uses translations
 * that may be gone).
 */
#include "mirror/mini.h"

#define PAGES 8

static struct mini *dev, *other;
static char *mem;
static int messages; /* atomic */
static int bad, looks; /* what a hook saw; atomic */

static void listen(enum hmm_log_level level, const char *line)
{
	if (level == HMM_LOG_ERROR && strstr(line, "walks its mirror's page table"))
		__atomic_add_fetch(&messages, 1, __ATOMIC_SEQ_CST);
}

static int heard(void)
{
	return __atomic_exchange_n(&messages, 0, __ATOMIC_SEQ_CST);
}

static void wrong(bool is)
{
	__atomic_add_fetch(&bad, is, __ATOMIC_SEQ_CST);
}

/* The hooks that ran have seen what they should. */
static void looked(int times)
{
	assert_int_equal(__atomic_load_n(&looks, __ATOMIC_SEQ_CST), times);
	assert_int_equal(__atomic_load_n(&bad, __ATOMIC_SEQ_CST), 0);
}

static int setup(void **state)
{
	(void)state;
	bad = looks = messages = 0;
	dev = mini_new(PAGES);
	other = mini_new(0);
	mem = map_aligned(PAGES * PAGE);
	pattern_fill(mem, PAGES, 1);
	hmm_set_log(HMM_LOG_ERROR, listen);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mini_free(dev);
	mini_free(other);
	munmap(mem, PAGES * PAGE);
	hmm_set_log(HMM_LOG_ERROR, NULL);
	return 0;
}

static void need_guard(void)
{
#ifndef HMM_DEBUG
	print_message("skipped: a debug build (-Dhmm_debug=true) is needed\n");
	skip();
#endif
	BEGIN(20);
}

static bool sees(struct mini *of, const char *addr)
{
	struct hmm_pt_iter iter;
	hmm_pte_t *ptep;
	bool found;

	hmm_pt_iter_init(&iter, &of->mirror.pt);
	ptep = hmm_pt_iter_lookup(&iter, addr_of(addr));
	found = ptep && hmm_pte_test_valid(*ptep);
	hmm_pt_iter_fini(&iter);
	return found;
}

/* How many valid entries a walk of pages @first to @end meets, by the loop of pt.h. */
static int walk(struct mini *of, size_t first, size_t end)
{
	unsigned long addr = addr_of(mem) + first * PAGE, stop = addr_of(mem) + end * PAGE;
	struct hmm_pt_iter iter;
	int n = 0;

	hmm_pt_iter_init(&iter, &of->mirror.pt);
	while (addr < stop) {
		unsigned long next = stop;
		hmm_pte_t *ptep = hmm_pt_iter_walk(&iter, &addr, &next);

		for (; ptep && addr < next; addr += PAGE, ptep++)
			n += hmm_pte_test_valid(*ptep);
	}
	hmm_pt_iter_fini(&iter);
	return n;
}

static void mirror_all(struct mini *of)
{
	assert_int_equal(mini_event(of, mem, PAGES, HMM_DEVICE_WFAULT, NULL), 0);
}

static void outside_of_an_op_there_is_nothing(void **state)
{
	unsigned long addr, next;
	struct hmm_pt_iter iter;

	(void)state;
	need_guard();
	mirror_all(dev);
	assert_int_equal(heard(), 0);
	assert_false(sees(dev, mem));
	assert_int_equal(heard(), 1);
	assert_int_equal(walk(dev, 0, PAGES), 0);
	assert_int_equal(heard(), 1);
	hmm_pt_iter_init(&iter, &dev->mirror.pt);
	addr = addr_of(mem);
	next = addr + PAGES * PAGE;
	assert_null(hmm_pt_iter_walk(&iter, &addr, &next));
	assert_int_equal(addr, addr_of(mem) + PAGES * PAGE);
	assert_int_equal(next, addr);
	hmm_pt_iter_fini(&iter);
	assert_int_equal(heard(), 1);
	/* A table of the driver's own is the driver's own business. */
	assert_true(hmm_pte_test_valid(mini_get(dev, mem)));
	assert_int_equal(heard(), 0);
}

/* The event is for pages 2 to 5: [2, 6). */
static void look_around(struct mini *of, const struct hmm_event *event)
{
	bool fault = event->etype == HMM_DEVICE_RFAULT;

	if (event->start != addr_of(mem) + 2 * PAGE || event->end != event->start + 4 * PAGE)
		return;
	wrong(walk(of, 2, 6) != 4 || walk(of, 3, 5) != 2 || walk(of, 5, 6) != 1);
	wrong(!sees(of, mem + 2 * PAGE) || !sees(of, mem + 5 * PAGE + 8));
	wrong(heard() != 0);
	/* The whole walk is refused, not only what is outside. */
	wrong(walk(of, 1, 6) || walk(of, 2, 7) || walk(of, 0, PAGES) || walk(of, 6, 7));
	wrong(heard() != 4);
	wrong(sees(of, mem + PAGE) || sees(of, mem + 6 * PAGE));
	wrong(heard() != 2);
	/* Of another mirror, whatever the range. */
	wrong(walk(other, 2, 6) || sees(other, mem + 2 * PAGE));
	wrong(heard() != 2);
	__atomic_add_fetch(&looks, fault ? 1 : 100, __ATOMIC_SEQ_CST);
}

static void inside_there_is_the_range_of_the_event(void **state)
{
	(void)state;
	need_guard();
	mirror_all(dev);
	mirror_all(other);
	mini_hook(dev, look_around);
	assert_int_equal(mini_event(dev, mem + 2 * PAGE, 4, HMM_DEVICE_RFAULT, NULL), 0);
	looked(1);
	/* From the library's own threads, too. */
	assert_int_equal(madvise(mem + 2 * PAGE, 4 * PAGE, MADV_DONTNEED), 0);
	hmm_mirror_sync(&dev->mirror);
	looked(101);
	mini_hook(dev, NULL);
	assert_int_equal(walk(dev, 2, 6), 0); /* the op is over */
	assert_int_equal(heard(), 1);
}

static void *walk_in_a_thread(void *arg)
{
	wrong(walk(arg, 0, PAGES) != 0);
	return NULL;
}

static void let_another_look(struct mini *of, const struct hmm_event *event)
{
	pthread_t thread;

	(void)event;
	__atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST);
	if (pthread_create(&thread, NULL, walk_in_a_thread, of))
		wrong(true);
	else
		pthread_join(thread, NULL);
}

/* The op is the thread's, not the process's. */
static void another_thread_is_outside(void **state)
{
	(void)state;
	need_guard();
	mini_hook(dev, let_another_look);
	mirror_all(dev);
	mini_hook(dev, NULL);
	looked(1);
	assert_int_equal(heard(), 1);
}

/* The copy ops find their sources, and nobody says anything. */
static void copies_have_their_range(void **state)
{
	(void)state;
	need_guard();
	mirror_all(other);
	mini_migrate(dev, mem, PAGES);
	assert_int_equal(mini_event(dev, mem + 1, 0, HMM_DEVICE_RFAULT, NULL), -EINVAL);
	mirror_all(dev);
	assert_true(hmm_pte_test_device(mini_get(dev, mem)));
	assert_int_equal(mini_event(dev, mem, PAGES, HMM_COPY_FROM_DEVICE, NULL), 0);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(heard(), 0);
}

/* What the library does with the table is not a driver's walk. */
static void the_library_is_not_meant(void **state)
{
	uint8_t dirty[PAGES];

	(void)state;
	need_guard();
	mirror_all(dev);
	assert_int_equal(hmm_mirror_range_dirty(&dev->mirror, addr_of(mem), addr_of(mem) + PAGE),
			 0);
	assert_int_equal(hmm_mirror_range_isdirty(&dev->mirror, addr_of(mem),
						  addr_of(mem) + PAGES * PAGE, dirty),
			 0);
	assert_int_equal(dirty[0], 1);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ), 0);
	assert_int_equal(mprotect(mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(hmm_mirror_range_discard(&dev->mirror, addr_of(mem),
						  addr_of(mem) + PAGES * PAGE),
			 0);
	mirror_all(dev);
	assert_int_equal(hmm_mirror_unregister(&dev->mirror), 0);
	assert_int_equal(heard(), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(outside_of_an_op_there_is_nothing),
		T(inside_there_is_the_range_of_the_event),
		T(another_thread_is_outside),
		T(copies_have_their_range),
		T(the_library_is_not_meant),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
