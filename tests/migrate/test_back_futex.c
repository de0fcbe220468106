/* SPDX-License-Identifier: MIT */
/*
 * Futexes in migrated memory, by private and shared keys: sleepers whose word leaves
 * under them are woken, moved to another word and locked out all the same.
 *
 * Tries to break: G4 (the kernel's own read-modify-write of a word that is away), G9.
 * As an ordinary user: see away.h.
 */
#include "away.h"

#include <linux/futex.h>

static uint32_t *word_at(size_t page)
{
	return (uint32_t *)(mem + page * PAGE);
}

struct sleeper {
	pthread_t thread;
	uint32_t *word;
	int flags;
	int tid;
	bool awake;
};

/* Until a wake: where the kernel does not wait for the page it is touched, and again. */
static void *sleeper_main(void *arg)
{
	struct sleeper *s = arg;
	long ret;

	__atomic_store_n(&s->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	do {
		if (__atomic_load_n(s->word, __ATOMIC_ACQUIRE) != 5)
			break;
		ret = sys(SYS_futex, s->word, FUTEX_WAIT | s->flags, 5, NULL, NULL, 0);
	} while (ret == -EFAULT || ret == -EINTR);
	__atomic_store_n(&s->awake, true, __ATOMIC_RELEASE);
	return NULL;
}

/* What the thread waits in is a system call on that word. */
static bool asleep(struct sleeper *s)
{
	char path[64], text[100] = "";
	unsigned long word;
	int fd, ret, nr;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall",
		 __atomic_load_n(&s->tid, __ATOMIC_ACQUIRE));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ret = (int)read(fd, text, sizeof(text) - 1);
	close(fd);
	return ret > 0 && sscanf(text, "%d 0x%lx", &nr, &word) == 2 && nr == SYS_futex &&
	       word == addr_of(s->word);
}

static void sleepers_start(struct sleeper *s, unsigned int n, uint32_t *word, int flags)
{
	unsigned int i;

	*word = 5;
	for (i = 0; i < n; i++) {
		s[i] = (struct sleeper){ .word = word, .flags = flags };
		assert_int_equal(pthread_create(&s[i].thread, NULL, sleeper_main, &s[i]), 0);
	}
	for (i = 0; i < n; i++)
		wait_until(asleep(&s[i]));
}

static void sleepers_join(struct sleeper *s, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		pthread_join(s[i].thread, NULL);
}

static unsigned int awake(struct sleeper *s, unsigned int n)
{
	unsigned int i, count = 0;

	for (i = 0; i < n; i++)
		count += __atomic_load_n(&s[i].awake, __ATOMIC_ACQUIRE);
	return count;
}

static int futex_flags;

static long requeue(void)
{
	return sys(SYS_futex, word_at(5), FUTEX_CMP_REQUEUE | futex_flags, 0, 4, word_at(40), 5);
}

/* Both words away: all sleepers are moved from one to the other, then woken there. */
static void requeue_between_words_that_are_away(void **state)
{
	struct sleeper s[4];
	long woken = 0;
	int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		BEGIN(40);
		futex_flags = i ? 0 : FUTEX_PRIVATE_FLAG;
		sleepers_start(s, 4, word_at(5), futex_flags);
		assert_int_equal(call_away(requeue, "FUTEX_CMP_REQUEUE"), 4);
		assert_int_equal(awake(s, 4), 0);
		assert_int_equal(sys(SYS_futex, word_at(5), FUTEX_WAKE | futex_flags, 4), 0);
		__atomic_store_n(word_at(5), 6, __ATOMIC_RELEASE);
		send_away(mem, PAGES);
		step("wake of the requeued");
		woken = sys(SYS_futex, word_at(40), FUTEX_WAKE | futex_flags, 4);
		if (user_mode && futex_flags == 0) {
			assert_int_equal(woken, -EFAULT);
			touch_all();
			woken = sys(SYS_futex, word_at(40), FUTEX_WAKE | futex_flags, 4);
		}
		assert_int_equal(woken, 4);
		sleepers_join(s, 4);
	}
	pattern_check_from(mem + 41 * PAGE, PAGES - 41, 1, 41);
}

static long wake_op(void)
{
	return sys(SYS_futex, word_at(5), FUTEX_WAKE_OP, 4, 4, word_at(41),
		   FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 8));
}

/* The kernel's own read-modify-write of a word that is away, by a shared key. */
static void wake_and_add(void **state)
{
	struct sleeper s[2];

	(void)state;
	BEGIN(40);
	*word_at(41) = 8;
	sleepers_start(s, 2, word_at(5), 0);
	assert_int_equal(call_away(wake_op, "FUTEX_WAKE_OP"), 2);
	__atomic_store_n(word_at(5), 6, __ATOMIC_RELEASE);
	sleepers_join(s, 2);
	assert_int_equal(*word_at(41), 11);
}

static long lock_pi(void)
{
	return sys(SYS_futex, word_at(7), FUTEX_LOCK_PI, 0, NULL, NULL, 0);
}

static long unlock_pi(void)
{
	return sys(SYS_futex, word_at(7), FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
}

static void lock_with_priority_inheritance(void **state)
{
	(void)state;
	BEGIN(40);
	*word_at(7) = 0;
	assert_int_equal(call_away(lock_pi, "FUTEX_LOCK_PI"), 0);
	assert_int_equal(*word_at(7), (uint32_t)syscall(SYS_gettid));
	assert_int_equal(call_away(unlock_pi, "FUTEX_UNLOCK_PI"), 0);
	assert_int_equal(*word_at(7), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, away_setup, away_teardown)
	const struct CMUnitTest tests[] = {
		T(requeue_between_words_that_are_away),
		T(wake_and_add),
		T(lock_with_priority_inheritance),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
