/* SPDX-License-Identifier: MIT */
/*
 * The HMM page table under threads that make and empty directories under each
 * other. HMM_TEST_SEED repeats a run.
 */
#include "pt_util.h"

#define THREADS 4

struct job {
	struct hmm_pt *pt;
	uint64_t seed;
	unsigned int rounds;
	long net; /* entries put in less those taken out */
	const char *failed; /* cmocka's asserts are for the main thread */
};

static hmm_pte_t coded(unsigned long addr, uint64_t *seed)
{
	return addr | HMM_PTE_VALID | (next_random(seed) & HMM_PTE_DRIVER);
}

static bool coded_ok(unsigned long addr, hmm_pte_t pte)
{
	return !pte || (pte & ~(HMM_PTE_DRIVER | HMM_PTE_DIRTY)) == (addr | HMM_PTE_VALID);
}

static void job_set(struct job *job, struct hmm_pt_iter *iter, hmm_pte_t *ptep, unsigned long addr,
		    hmm_pte_t pte)
{
	hmm_pte_t old = hmm_pt_iter_set(iter, ptep, pte);

	if (!coded_ok(addr, old))
		job->failed = "foreign entry replaced";
	job->net += !!pte - !!old;
}

/* One of a few places that share some directories and not others. */
static unsigned long job_addr(struct job *job)
{
	static const unsigned long base[] = { 0, 1ul << 21, 1ul << 30, 1ul << 39, 3ul << 45 };

	return base[next_random(&job->seed) % 5] + next_random(&job->seed) % 4 * 4096;
}

static void *job_blink(void *arg)
{
	struct job *job = arg;
	struct hmm_pt_iter iter;
	unsigned int n;

	for (n = 0; n < job->rounds && !job->failed; n++) {
		unsigned long addr = job_addr(job);
		hmm_pte_t *ptep;

		hmm_pt_iter_init(&iter, job->pt);
		if (next_random(&job->seed) % 2) {
			ptep = hmm_pt_iter_populate(&iter, addr);
			if (ptep)
				job_set(job, &iter, ptep, addr, coded(addr, &job->seed));
			else
				job->failed = "no directory";
		} else {
			ptep = hmm_pt_iter_lookup(&iter, addr);
			if (ptep)
				job_set(job, &iter, ptep, addr, 0);
		}
		hmm_pt_iter_fini(&iter);
	}
	return NULL;
}

static void job_walk(struct job *job, struct hmm_pt_iter *iter, unsigned long start,
		     unsigned long end, unsigned int what)
{
	unsigned long addr, next, from;
	hmm_pte_t *ptep;

	for (addr = start; addr < end; addr = next) {
		from = addr;
		next = end;
		ptep = hmm_pt_iter_walk(iter, &addr, &next);
		if (addr < from || next > end || (ptep && addr >= next))
			job->failed = "walked astray";
		for (; ptep && addr < next; addr += 4096, ptep++) {
			if (!coded_ok(addr, hmm_pte_load(ptep)))
				job->failed = "foreign entry";
			if (what == 1 && hmm_pte_load(ptep))
				job_set(job, iter, ptep, addr, 0);
		}
	}
}

static void *job_ranges(void *arg)
{
	static const unsigned long base = (1ul << 39) - (2ul << 20);
	struct job *job = arg;
	struct hmm_pt_iter iter;
	unsigned int n;

	hmm_pt_iter_init(&iter, job->pt);
	for (n = 0; n < job->rounds && !job->failed; n++) {
		unsigned long start = base + next_random(&job->seed) % 2048 * 4096, addr;
		unsigned long end = start + (1 + next_random(&job->seed) % 600) * 4096;
		hmm_pte_t *ptep;

		switch (next_random(&job->seed) % 5) {
		case 0:
		case 1:
			for (addr = start; addr < end; addr += 4096) {
				ptep = hmm_pt_iter_populate(&iter, addr);
				job_set(job, &iter, ptep, addr, coded(addr, &job->seed));
			}
			break;
		case 2:
			job_walk(job, &iter, start, end, 1);
			break;
		case 3: /* all of it, so that directories go */
			job_walk(job, &iter, 0, USER_LAST + 1, 1);
			break;
		default:
			job_walk(job, &iter, 0, end, 0);
			(void)pt_range_empty(job->pt, start, end);
		}
		if (next_random(&job->seed) % 3 == 0) {
			hmm_pt_iter_fini(&iter);
			hmm_pt_iter_init(&iter, job->pt);
		}
	}
	hmm_pt_iter_fini(&iter);
	return NULL;
}

/* Each fills its own entries of shared directories, in one go, and empties them: all, or in pieces. */
static void *job_fill(void *arg)
{
	struct job *job = arg;
	unsigned int me = (unsigned int)(job->seed % THREADS), n, i, share = 512 / THREADS;
	struct hmm_pt_iter iter;
	hmm_pte_t pte[512 / THREADS];

	for (n = 0; n < job->rounds && !job->failed; n++) {
		unsigned long addr = (n % 3 << 21) + me * share * 4096ul;
		hmm_pte_t *ptep;

		for (i = 0; i < share; i++)
			pte[i] = (addr + i * 4096ul) | HMM_PTE_VALID;
		hmm_pt_iter_init(&iter, job->pt);
		ptep = hmm_pt_iter_populate(&iter, addr);
		pt_iter_fill(&iter, ptep, pte, share);
		hmm_pt_iter_fini(&iter);
		ptep = hmm_pt_iter_lookup(&iter, addr);
		for (i = 0; ptep && i < share; i++)
			if (hmm_pte_load(&ptep[i]) != pte[i])
				job->failed = "entry lost";
		if (!ptep)
			job->failed = "directory lost";
		else if (n % 2)
			pt_iter_fill(&iter, ptep, NULL, share);
		hmm_pt_iter_fini(&iter);
		for (i = 0; n % 2 == 0 && i < share; i += 8)
			pt_clear(job->pt, addr + i * 4096ul, addr + (i + 8) * 4096ul);
	}
	return NULL;
}

static void run_jobs(void *(*fn)(void *), unsigned int rounds)
{
	struct job job[THREADS];
	pthread_t id[THREADS];
	struct hmm_pt_iter iter;
	struct hmm_pt pt;
	unsigned int i;
	long net = 0;

	assert_int_equal(hmm_pt_init(&pt, USER_LAST), 0);
	for (i = 0; i < THREADS; i++) {
		job[i] = (struct job){ .pt = &pt, .rounds = rounds };
		job[i].seed = test_seed * THREADS + i;
		assert_int_equal(pthread_create(&id[i], NULL, fn, &job[i]), 0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		if (job[i].failed)
			fail_msg("thread %u: %s", i, job[i].failed);
		net += job[i].net;
	}
	assert_int_equal(pt_verify(&pt), 0);
	assert_int_equal(pt_iterators(&pt), 0);
	assert_int_equal(pt_count(&pt), net);

	hmm_pt_iter_init(&iter, &pt);
	job[0].net = 0;
	job_walk(&job[0], &iter, 0, USER_LAST + 1, 1);
	hmm_pt_iter_fini(&iter);
	assert_int_equal(job[0].net, -net);
	assert_int_equal(pt_count(&pt), 0);
	assert_int_equal(pt_leaves(&pt), 0);
	hmm_pt_fini(&pt);
}

static void test_threads_blink(void **state)
{
	(void)state;
	run_jobs(job_blink, 50000);
}

static void test_threads_ranges(void **state)
{
	(void)state;
	run_jobs(job_ranges, 500);
}

static void test_threads_fill(void **state)
{
	(void)state;
	run_jobs(job_fill, 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_blink),
		cmocka_unit_test(test_threads_ranges),
		cmocka_unit_test(test_threads_fill),
	};
	int ret = pt_test_begin();

	return ret ? ret : cmocka_run_group_tests(tests, NULL, NULL);
}
