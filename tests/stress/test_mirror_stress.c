/* SPDX-License-Identifier: MIT */
/*
 * Mirroring alone, all at once over the same pages: CPU writers, writers and readers
 * on two devices, munmap, mmap, mremap, madvise, mprotect and fork.
 *
 * G3, G4: every read, by CPU or device, gives what the page held at some moment
 * between the read's begin and its end; what was over before it began is not seen.
 * An access fails only where and when nothing was mapped, or not with that
 * permission. G8: a child has what its parent had. G9: nothing hangs.
 *
 * Who changes a page holds its lock; who reads does not, and so meets every state
 * there is: history.h tells which it may have met.
 *
 * HMM_STRESS_SECONDS: how long, in all (default 3). HMM_STRESS_SEED: where to begin.
 */
#include <sys/uio.h>

#include "stress/history.h"

#define SPAN 16 /* pages that one change takes at most */
#define DEVICES 2
#define WRITER_THREADS 3
#define READER_THREADS 3
#define CHANGER_THREADS 2
#define ACTORS (WRITER_THREADS + READER_THREADS + CHANGER_THREADS)

static struct {
	struct stress s;
	struct dummy_device *dev[DEVICES];
	atomic_ulong missed; /* reads that took longer than the history goes back */
} stage;

enum turn { WRITE, READ, UNMAP, OVER, DROP, MOVE, NONE, READONLY, FORK, TURNS };
static const char *const turn_name[] = { "write", "read", "unmap",     "over", "drop",
					 "move",  "none", "read-only", "fork" };

static void count(enum turn turn)
{
	atomic_fetch_add(&stage.s.turns[turn], 1);
}

/* ---- accesses ---- */

static struct dummy_device *some_device(uint32_t *seed)
{
	return stage.dev[roll(seed) % DEVICES];
}

/* The CPU, but where nothing is mapped it gets an error and no signal. */
static int cpu_load(void *addr, uint64_t *val)
{
	struct iovec to = { val, 8 }, from = { addr, 8 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 8 ? 0 : -errno;
}

static int some_load(uint32_t *seed, size_t i, uint64_t *val)
{
	void *addr = page_of(&stage.s, i);

	return roll(seed) % 4 ? dummy_load_u64(some_device(seed), address(addr), val) :
				cpu_load(addr, val);
}

/* With the page's lock held there is one answer. */
static void look(uint32_t *seed, size_t i, const char *what)
{
	uint64_t val = 0, want = holds(i);
	int ret = some_load(seed, i, &val);

	if (want == NOTHING ? ret != -EFAULT : ret || val != want)
		complain(&stage.s, what, i, ret ? (uint64_t)ret : val, want);
}

static void store(uint32_t *seed, size_t i)
{
	uint64_t val = next_value(i);
	int ret = 0;

	begin(i, val);
	if (roll(seed) % 2)
		ret = dummy_store_u64(some_device(seed), address(page_of(&stage.s, i)), val);
	else
		*(volatile uint64_t *)page_of(&stage.s, i) = val;
	end(i);
	if (ret)
		complain(&stage.s, "device store", i, (uint64_t)ret, 0);
}

static void store_fails(uint32_t *seed, size_t i, const char *what)
{
	int ret = dummy_store_u64(some_device(seed), address(page_of(&stage.s, i)), 1);

	if (ret != -EFAULT)
		complain(&stage.s, what, i, (uint64_t)ret, (uint64_t)-EFAULT);
}

/* ---- threads ---- */

static void *writer(void *arg)
{
	struct actor *a = arg;

	while (!atomic_load(&a->s->stop)) {
		size_t i = roll(&a->seed) % PAGES;

		lock(i, 1);
		store(&a->seed, i);
		if (roll(&a->seed) % 2)
			look(&a->seed, i, "page just written");
		unlock(i, 1);
		count(WRITE);
	}
	return NULL;
}

static void read_check(size_t i, unsigned long from, int ret, uint64_t val)
{
	int found = held_since(i, from, ret == -EFAULT ? NOTHING : val);

	if (found < 0)
		atomic_fetch_add(&stage.missed, 1);
	else if (!found || (ret && ret != -EFAULT))
		complain(&stage.s, "read", i, ret ? (uint64_t)ret : val,
			 atomic_load(&pages[i].history[from % HISTORY]));
}

static void *reader(void *arg)
{
	struct actor *a = arg;

	while (!atomic_load(&a->s->stop)) {
		size_t i = roll(&a->seed) % PAGES;
		unsigned long from = atomic_load(&pages[i].done);
		uint64_t val = 0;
		int ret = some_load(&a->seed, i, &val);

		read_check(i, from, ret, val);
		count(READ);
	}
	return NULL;
}

static void *map(size_t first, size_t n, int flag)
{
	return mmap(page_of(&stage.s, first), n * hmm_page_size(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | flag, -1, 0);
}

static void change_unmap(uint32_t *seed, size_t first, size_t n)
{
	begin_all(first, n, NOTHING);
	if (munmap(page_of(&stage.s, first), n * hmm_page_size()))
		complain(&stage.s, "munmap", first, (uint64_t)errno, 0);
	end_all(first, n);
	look(seed, first + roll(seed) % n, "page unmapped");
	store_fails(seed, first + roll(seed) % n, "store to a page unmapped");
	begin_all(first, n, 0);
	if (map(first, n, MAP_FIXED_NOREPLACE) != page_of(&stage.s, first))
		complain(&stage.s, "mmap", first, (uint64_t)errno, 0);
	end_all(first, n);
}

/* What is dropped reads as zeros, by a new mapping or without. */
static void change_drop(size_t first, size_t n, bool over)
{
	begin_all(first, n, 0);
	if (over ? map(first, n, MAP_FIXED) == MAP_FAILED :
		   madvise(page_of(&stage.s, first), n * hmm_page_size(), MADV_DONTNEED))
		complain(&stage.s, over ? "mmap over" : "madvise", first, (uint64_t)errno, 0);
	end_all(first, n);
}

static void change_protect(uint32_t *seed, size_t first, size_t n, int prot)
{
	void *at = page_of(&stage.s, first);
	uint64_t old[SPAN];
	size_t i;

	for (i = 0; i < n; i++) {
		old[i] = holds(first + i);
		begin(first + i, prot ? old[i] : NOTHING);
	}
	if (mprotect(at, n * hmm_page_size(), prot))
		complain(&stage.s, "mprotect", first, (uint64_t)errno, 0);
	end_all(first, n);
	look(seed, first + roll(seed) % n, prot ? "page read-only" : "page protected");
	store_fails(seed, first + roll(seed) % n, "store to a page protected");
	for (i = 0; i < n; i++)
		begin(first + i, old[i]);
	mprotect(at, n * hmm_page_size(), PROT_READ | PROT_WRITE);
	end_all(first, n);
}

/* Page @from goes to where @to was, and leaves zeros behind, mapped anew or not. */
static void change_move(size_t from, size_t to, bool unmaps)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (unmaps ? 0 : MREMAP_DONTUNMAP);
	size_t size = hmm_page_size();

	begin(to, holds(from));
	begin(from, unmaps ? NOTHING : 0);
	if (mremap(page_of(&stage.s, from), size, size, flags, page_of(&stage.s, to)) !=
	    page_of(&stage.s, to))
		complain(&stage.s, "mremap", from, (uint64_t)errno, 0);
	end(to);
	end(from);
	if (!unmaps)
		return;
	begin(from, 0);
	if (map(from, 1, MAP_FIXED_NOREPLACE) == MAP_FAILED)
		complain(&stage.s, "mmap", from, (uint64_t)errno, 0);
	end(from);
}

static void move(uint32_t *seed)
{
	size_t from = roll(seed) % PAGES, to = roll(seed) % PAGES;
	size_t low = from < to ? from : to, high = from < to ? to : from;

	if (from == to)
		return;
	lock(low, 1);
	lock(high, 1);
	change_move(from, to, roll(seed) % 2);
	look(seed, to, "page moved");
	look(seed, from, "page moved away");
	unlock(high, 1);
	unlock(low, 1);
	count(MOVE);
}

static void *changer(void *arg)
{
	struct actor *a = arg;

	while (!atomic_load(&a->s->stop)) {
		size_t n = 1 + roll(&a->seed) % SPAN, first = roll(&a->seed) % (PAGES - n);
		enum turn turn = (enum turn)(UNMAP + roll(&a->seed) % (FORK - UNMAP));

		if (turn == MOVE) {
			move(&a->seed);
			continue;
		}
		lock(first, n);
		if (turn == UNMAP)
			change_unmap(&a->seed, first, n);
		else if (turn == NONE || turn == READONLY)
			change_protect(&a->seed, first, n, turn == NONE ? PROT_NONE : PROT_READ);
		else
			change_drop(first, n, turn == OVER);
		look(&a->seed, first + roll(&a->seed) % n, "page just changed");
		unlock(first, n);
		count(turn);
	}
	return NULL;
}

/* The child has some pages as they are now, whatever a device writes there next. */
static void fork_once(uint32_t *seed)
{
	size_t n = 1 + roll(seed) % SPAN, first = roll(seed) % (PAGES - n), i;
	int status;
	pid_t pid;

	lock(first, n);
	pid = fork();
	if (!pid) {
		child_begin();
		sleep_us(500);
		for (i = first; i < first + n; i++)
			CHILD_CHECK(*(volatile uint64_t *)page_of(&stage.s, i) == holds(i));
		_exit(0);
	}
	for (i = first; i < first + n; i++)
		store(seed, i);
	unlock(first, n);
	status = child_wait(pid);
	if (status)
		complain(&stage.s, "child", first, (uint64_t)status, 0);
	count(FORK);
}

/* ---- a run ---- */

static double stress_seconds(void)
{
	const char *text = getenv("HMM_STRESS_SECONDS");

	return text ? atof(text) : 3;
}

static uint32_t stress_seed(void)
{
	const char *text = getenv("HMM_STRESS_SEED");

	return text ? (uint32_t)strtoul(text, NULL, 0) : (uint32_t)limit_now() | 1;
}

static bool all_had_turns(bool forks)
{
	enum turn turn;

	for (turn = WRITE; turn < (forks ? TURNS : FORK); turn++)
		if (atomic_load(&stage.s.turns[turn]) < 3)
			return false;
	return true;
}

static void stage_set(void)
{
	struct dummy_options opt = { .not_prompt = false };
	size_t i;

	memset(&stage, 0, sizeof(stage));
	memset(pages, 0, sizeof(pages));
	stage.s.mem = map_low();
	for (i = 0; i < PAGES; i++)
		pthread_mutex_init(&pages[i].lock, NULL);
	for (i = 0; i < DEVICES; i++, opt.not_prompt = true)
		stage.dev[i] = device_new(&opt);
}

static void stage_clear(void)
{
	enum turn turn;
	uint32_t seed = 1;
	size_t i;

	for (i = 0; i < PAGES; i++)
		look(&seed, i, "page at the end");
	for (i = 0; i < DEVICES; i++)
		assert_int_equal(dummy_destroy(stage.dev[i]), 0);
	munmap(stage.s.mem, PAGES * hmm_page_size());
	print_message("turns:");
	for (turn = WRITE; turn < TURNS; turn++)
		print_message(" %s %lu", turn_name[turn], (unsigned long)stage.s.turns[turn]);
	print_message(" (reads not checked: %lu)\n", (unsigned long)stage.missed);
	assert_int_equal(atomic_load(&stage.s.failures), 0);
}

static void stress(bool forks, double seconds, const char *what)
{
	uint32_t seed = stress_seed();
	struct actor actor[ACTORS];
	pthread_t thread[ACTORS];
	uint64_t until;
	unsigned int i;

	limit((unsigned int)seconds + 60, what);
	print_message("seed %u\n", seed);
	flush();
	stage_set();
	for (i = 0; i < ACTORS; i++) {
		void *(*fn)(void *) = i < WRITER_THREADS		  ? writer :
				      i < WRITER_THREADS + READER_THREADS ? reader :
									    changer;

		actor[i] = (struct actor){ &stage.s, i, seed * (2 * i + 3) | 1 };
		assert_int_equal(pthread_create(&thread[i], NULL, fn, &actor[i]), 0);
	}
	until = limit_now() + (uint64_t)(seconds * 1e9);
	while ((limit_now() < until || !all_had_turns(forks)) && !atomic_load(&stage.s.failures)) {
		sleep_us(5000);
		if (forks)
			fork_once(&seed);
	}
	atomic_store(&stage.s.stop, true);
	for (i = 0; i < ACTORS; i++)
		pthread_join(thread[i], NULL);
	stage_clear();
	limit(0, "");
}

static void two_devices(void **state)
{
	(void)state;
	stress(false, stress_seconds() / 2, __func__);
}

static void two_devices_and_forks(void **state)
{
	(void)state;
	stress(true, stress_seconds() / 2, __func__);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_devices),
		cmocka_unit_test(two_devices_and_forks),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
