/* SPDX-License-Identifier: MIT */
/*
 * Pages that a device without a mirror has, while the process goes on living: fork, exit,
 * munmap, mremap, madvise, a mirror that comes later, stacks.
 *
 * Tries to break: G3, G4, G8, G9, and that every device page is freed once.
 */
#include "migrate/tiny.h"

#include <semaphore.h>

#define PAGES 700
#define BYTES (PAGES * PAGE)

static struct tiny *tiny;
static char *mem;
static uint8_t result[4096];

static int setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_ERROR, NULL);
	tiny = tiny_new(4096);
	mem = map_low(BYTES);
	pattern_fill(mem, PAGES, 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	munmap(mem, BYTES);
	tiny_destroy(tiny);
	return 0;
}

static unsigned long freed(void)
{
	return __atomic_load_n(&tiny->region[0].freed, __ATOMIC_RELAXED);
}

static void to_ram_brings_what_was_asked_for(void **state)
{
	unsigned long pages = 4711;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(hmm_migrate_to_ram(&tiny->device, addr_of(mem) + 100 * PAGE,
					    addr_of(mem) + 600 * PAGE, &pages),
			 0);
	assert_int_equal(pages, 500);
	assert_int_equal(count_on_cpu(mem, PAGES), 500);
	assert_int_equal(count_on_cpu(mem + 100 * PAGE, 500), 500);
	assert_int_equal(freed(), 500);
	assert_int_equal(
		hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(
		hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, 0);
	pattern_check(mem, PAGES, 1);
}

/* G7: what cannot be copied stays, and can be asked for again. */
static void to_ram_leaves_what_cannot_be_copied(void **state)
{
	unsigned long pages = 4711;

	(void)state;
	BEGIN(5);
	hmm_set_log(HMM_LOG_NONE, NULL);
	tiny_migrate_all(tiny, mem, PAGES);
	tiny->lose = addr_of(mem) + 77 * PAGE;
	assert_int_equal(hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + BYTES,
					    &pages),
			 -EIO);
	assert_int_equal(pages, PAGES - 1);
	assert_int_equal(tiny_used(tiny), 1);
	assert_false(on_cpu(mem + 77 * PAGE));
	tiny->lose = 0;
	tiny->copy_ret = -EIO;
	assert_int_equal(hmm_migrate_to_ram(&tiny->device, addr_of(mem), addr_of(mem) + BYTES,
					    &pages),
			 -EIO);
	assert_int_equal(pages, 0);
	tiny->copy_ret = 0;
	pattern_check(mem, PAGES, 1);
	wait_until(!tiny_used(tiny));
}

/* From one device to the other, by way of the system; and each asks for its own only. */
static void two_devices(void **state)
{
	struct tiny *other = tiny_new(1024);
	unsigned long pages;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	tiny_migrate_all(other, mem + 50 * PAGE, 100);
	assert_int_equal(tiny_used(tiny), PAGES - 100);
	assert_int_equal(tiny->region[0].copied, 100);
	assert_int_equal(other->peers, 0);
	assert_int_equal(
		hmm_migrate_to_ram(&other->device, addr_of(mem), addr_of(mem) + BYTES, &pages), 0);
	assert_int_equal(pages, 100);
	assert_int_equal(count_on_cpu(mem, PAGES), 100);
	assert_int_equal(tiny_used(tiny), PAGES - 100);
	tiny_migrate_all(other, mem + 50 * PAGE, 100);
	pattern_check(mem, PAGES, 1);
	tiny_destroy(other);
}

static void munmap_frees(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	munmap(mem + 100 * PAGE, 300 * PAGE);
	wait_until(freed() == 300);
	assert_int_equal(tiny_used(tiny), PAGES - 300);
	assert_int_equal(tiny->region[0].copied, 0);
	pattern_check(mem, 100, 1);
	pattern_check_from(mem + 400 * PAGE, 300, 1, 400);
	wait_until(freed() == PAGES);
}

static void dontneed_frees(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(madvise(mem + 100 * PAGE, 300 * PAGE, MADV_DONTNEED), 0);
	assert_true(is_zero(mem + 100 * PAGE, 300 * PAGE));
	wait_until(freed() == 300);
	pattern_check(mem, 100, 1);
	pattern_check_from(mem + 400 * PAGE, 300, 1, 400);
}

static void mremap_takes_the_pages_along(void **state)
{
	char *to = map_aligned(BYTES);
	unsigned long moved;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_ptr_equal(mremap(mem, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	assert_int_equal(tiny_migrate(tiny, to, PAGES, result, &moved), 0);
	assert_int_equal(moved, PAGES);
	assert_int_equal(tiny_calls(tiny, TINY_TAKE), 2); /* nothing to take any more */
	assert_int_equal(tiny_used(tiny), PAGES);
	assert_int_equal(freed(), 0);
	pattern_check(to, PAGES, 1);
	munmap(to, BYTES);
}

/* ---- processes ---- */

static pid_t fork_by_hand(void)
{
	return (pid_t)syscall(SYS_fork);
}

static bool pattern_is(const char *at, size_t pages, uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		if (((const uint64_t *)(at + i * PAGE))[i % 512] != pattern_word(seed, i, i % 512))
			return false;
	return true;
}

static void children(pid_t (*forks)(void))
{
	int i, status;
	pid_t pid[3];

	for (i = 0; i < 3; i++) {
		tiny_migrate_all(tiny, mem, PAGES);
		pid[i] = forks();
		if (!pid[i]) {
			alarm(20);
			child_exit(forks == fork_by_hand, !pattern_is(mem, PAGES, 1 + (uint64_t)i));
		}
		assert_true(pid[i] > 0);
		/* What is written afterwards is not the child's to see. */
		pattern_fill(mem, PAGES, 2 + (uint64_t)i);
	}
	for (i = 0; i < 3; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	pattern_check(mem, PAGES, 4);
}

static void a_child_has_the_content(void **state)
{
	(void)state;
	BEGIN(10);
	children(fork);
}

static void a_child_made_by_hand_has_the_content(void **state)
{
	struct hmm_features f = { .size = sizeof(f) };

	(void)state;
	BEGIN(10);
	assert_int_equal(hmm_probe(&f), 0);
	if (!f.fork_event)
		skip_because("a fork that libc does not know of is not heard of");
	children(fork_by_hand);
}

/* The whole life in a process that ends, in one way or another, with its pages away. */
static void live_and_end(int how)
{
	char *own = map_aligned(BYTES);
	struct tiny *device = tiny_new(1024);
	unsigned long moved = 0;

	alarm(20);
	pattern_fill(own, PAGES, 7);
	if (tiny_migrate(device, own, PAGES, NULL, &moved) || moved != PAGES ||
	    !pattern_is(own, 10, 7) || count_on_cpu(own, PAGES) < 10)
		_exit(1);
	if (how == 0)
		_exit(0);
	if (how == 1)
		execl("/bin/true", "true", NULL);
	if (how == 2)
		kill(getpid(), SIGKILL);
	tiny_destroy(device); /* brings home what there is */
	_exit(count_on_cpu(own, PAGES) != PAGES || !pattern_is(own, PAGES, 7));
}

static void a_process_may_end_with_pages_away(void **state)
{
	int how, status;

	(void)state;
	BEGIN(20);
	tiny_migrate_all(tiny, mem, PAGES); /* the parent's are not the child's */
	for (how = 0; how < 4; how++) {
		pid_t pid = fork();

		if (!pid)
			live_and_end(how);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (how == 2)
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		else
			assert_int_equal(status, 0);
	}
	pattern_check(mem, PAGES, 1);
	wait_until(!tiny_used(tiny));
}

static void remove_brings_home(void **state)
{
	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(hmm_device_unregister(&tiny->device), -EBUSY);
	assert_int_equal(hmm_devmem_remove(&tiny->region[0].devmem), 0);
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	assert_int_equal(freed(), PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(tiny_migrate(tiny, mem, PAGES, NULL, NULL), -EINVAL); /* no memory */
}

/* ---- a mirror ---- */

static void a_mirror_takes_over(void **state)
{
	unsigned long before;

	(void)state;
	BEGIN(5);
	tiny_migrate_all(tiny, mem, PAGES);
	assert_int_equal(hmm_mirror_register(&tiny->mirror), 0);
	assert_int_equal(tiny_used(tiny), 0); /* the stand-in has given back what it had */
	assert_int_equal(count_on_cpu(mem, PAGES), PAGES);
	pattern_check(mem, PAGES, 1);
	tiny_migrate_all(tiny, mem, PAGES);
	before = tiny_calls(tiny, TINY_UPDATE);
	pattern_check(mem, 10, 1);
	assert_true(tiny_calls(tiny, TINY_UPDATE) > before); /* it may have mapped them */
	assert_int_equal(hmm_mirror_unregister(&tiny->mirror), 0);
	assert_int_equal(tiny_used(tiny), 0);
	tiny_migrate_all(tiny, mem, PAGES);
	pattern_check(mem, PAGES, 1);
	assert_int_equal(hmm_mirror_register(&tiny->mirror), 0);
	tiny_migrate_all(tiny, mem, PAGES);
}

/* ---- stacks ---- */

#define BUFFER (256 * PAGE)

struct sleeper {
	sem_t ready;
	sem_t wake;
	char *buffer;
	bool good;
};

static void *sleeper(void *arg)
{
	struct sleeper *me = arg;
	char buffer[BUFFER + PAGE];

	me->buffer = (char *)(((uintptr_t)buffer + PAGE - 1) & ~(PAGE - 1));
	pattern_fill(me->buffer, BUFFER / PAGE, 5);
	sem_post(&me->ready);
	while (sem_wait(&me->wake))
		;
	me->good = pattern_is(me->buffer, BUFFER / PAGE, 5);
	return NULL;
}

static void an_idle_stack_goes_when_asked_for(void **state)
{
	static struct sleeper who;
	pthread_attr_t attr;
	unsigned long moved;
	pthread_t thread;
	size_t len, i;
	void *stack;

	(void)state;
	BEGIN(10);
	sem_init(&who.ready, 0, 0);
	sem_init(&who.wake, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 4 * MIB);
	assert_int_equal(pthread_create(&thread, &attr, sleeper, &who), 0);
	pthread_attr_destroy(&attr);
	sem_wait(&who.ready);
	test_sleep_us(10000); /* it sleeps by now */
	assert_int_equal(pthread_getattr_np(thread, &attr), 0);
	pthread_attr_getstack(&attr, &stack, &len);
	pthread_attr_destroy(&attr);

	assert_int_equal(tiny_migrate(tiny, stack, len / PAGE, result, &moved), 0);
	assert_int_equal(moved, 0);
	for (i = 0; i < len / PAGE; i++)
		assert_true(result[i] == HMM_MIGRATE_KIND || result[i] == HMM_MIGRATE_NONE);
	tiny->migrate.flags = HMM_MIGRATE_STACKS;
	assert_int_equal(tiny_migrate(tiny, stack, len / PAGE, result, &moved), 0);
	assert_true(moved > BUFFER / PAGE);
	assert_int_equal(count_on_cpu(who.buffer, BUFFER / PAGE - 32), 0);
	assert_int_equal(result[len / PAGE - 1], HMM_MIGRATE_KIND); /* the thread's descriptor */
	sem_post(&who.wake);
	step("the thread wakes up on its stack");
	pthread_join(thread, NULL);
	assert_true(who.good);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(to_ram_brings_what_was_asked_for),
		T(to_ram_leaves_what_cannot_be_copied),
		T(two_devices),
		T(munmap_frees),
		T(dontneed_frees),
		T(mremap_takes_the_pages_along),
		T(a_child_has_the_content),
		T(a_child_made_by_hand_has_the_content),
		T(a_process_may_end_with_pages_away),
		T(remove_brings_home),
		T(a_mirror_takes_over),
		T(an_idle_stack_goes_when_asked_for),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
