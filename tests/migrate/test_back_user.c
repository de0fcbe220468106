/* SPDX-License-Identifier: MIT */
/*
 * The way back by a CPU access, whatever instruction it is and whoever else is at it:
 * every width, across page ends, read-modify-write, string instructions, instruction
 * fetch, stacks, signal handlers, several threads on one page and on its neighbours.
 *
 * Tries to break: G4 (no byte but the last written one), G9 (no access waits for
 * ever). Needs no privilege: all faults are user mode ones.
 */
#define PAGES 96
#include "away.h"

#include <ucontext.h>

#define THREADS 6

static char *plain; /* stays, with what should be in mem */

static int setup(void **state)
{
	assert_int_equal(away_setup(state), 0);
	plain = map_aligned(BYTES);
	memcpy(plain, mem, BYTES);
	return 0;
}

static int teardown(void **state)
{
	munmap(plain, BYTES);
	return away_teardown(state);
}

/* ---- widths ---- */

#define UNALIGNED __attribute__((aligned(1), may_alias))

typedef uint16_t u16 UNALIGNED;
typedef uint32_t u32 UNALIGNED;
typedef uint64_t u64 UNALIGNED;
typedef uint64_t u128 __attribute__((vector_size(16), aligned(1), may_alias));

/* In one instruction, one of the two being in mem. */
static void move_word(void *dst, const void *src, unsigned int width)
{
	if (width == 2)
		*(volatile u16 *)dst = *(const volatile u16 *)src;
	else if (width == 4)
		*(volatile u32 *)dst = *(const volatile u32 *)src;
	else if (width == 8)
		*(volatile u64 *)dst = *(const volatile u64 *)src;
	else
		*(volatile u128 *)dst = *(const volatile u128 *)src;
}

/* @away: 1 the page before the end, 2 the one behind it, 3 both */
static void cross_page_end(unsigned int width, unsigned int before, unsigned int away, size_t page)
{
	size_t at = (page + 1) * PAGE - before;
	char val[16], word[16];

	memset(word, (int)(width + before + away), sizeof(word));
	send_away(mem + page * PAGE, 2);
	if (!(away & 1))
		*(volatile char *)(mem + page * PAGE);
	if (!(away & 2))
		*(volatile char *)(mem + (page + 1) * PAGE);
	move_word(val, mem + at, width);
	assert_memory_equal(val, plain + at, width);
	send_away(mem + page * PAGE, 2);
	if (!(away & 1))
		*(volatile char *)(mem + page * PAGE);
	if (!(away & 2))
		*(volatile char *)(mem + (page + 1) * PAGE);
	move_word(mem + at, word, width);
	memcpy(plain + at, word, width);
}

static void every_width_across_a_page_end(void **state)
{
	static const unsigned int widths[] = { 2, 4, 8, 16 };
	unsigned int i, before, away, n = 0;

	(void)state;
	BEGIN(40);
	for (i = 0; i < 4; i++)
		for (before = 1; before < widths[i]; before++)
			for (away = 1; away <= 3; away++, n++)
				cross_page_end(widths[i], before, away, 2 * n % PAGES);
	send_away(mem, PAGES);
	assert_memory_equal(mem, plain, BYTES);
}

#define RMW(type, at)                                                                            \
	do {                                                                                     \
		type *p = (type *)(void *)(at), was, want = (type)0x1122334455667788ull;         \
		send_away(mem, PAGES);                                                           \
		was = __atomic_exchange_n(p, (type)5, __ATOMIC_SEQ_CST);                         \
		assert_memory_equal(&was, plain + ((char *)p - mem), sizeof(was));               \
		send_away(mem, PAGES);                                                           \
		assert_true(__atomic_fetch_add(p, (type)3, __ATOMIC_SEQ_CST) == 5);              \
		send_away(mem, PAGES);                                                           \
		assert_true(__atomic_fetch_xor(p, (type)15, __ATOMIC_SEQ_CST) == 8);             \
		send_away(mem, PAGES);                                                           \
		was = 6; /* it is 7: must fail, and say so */                                    \
		assert_false(__atomic_compare_exchange_n(p, &was, want, false, __ATOMIC_SEQ_CST, \
							 __ATOMIC_SEQ_CST));                     \
		assert_true(was == 7);                                                           \
		send_away(mem, PAGES);                                                           \
		assert_true(__atomic_compare_exchange_n(p, &was, want, false, __ATOMIC_SEQ_CST,  \
							__ATOMIC_SEQ_CST));                      \
		memcpy(plain + ((char *)p - mem), &want, sizeof(want));                          \
	} while (0)

static void read_modify_write(void **state)
{
	(void)state;
	BEGIN(40);
	RMW(uint8_t, mem + 3 * PAGE - 1);
	RMW(uint16_t, mem + 5 * PAGE - 2);
	RMW(uint32_t, mem + 7 * PAGE);
	RMW(uint64_t, mem + 9 * PAGE + 64);
	send_away(mem, PAGES);
	assert_memory_equal(mem, plain, BYTES);
}

/* ---- string instructions ---- */

#ifdef __x86_64__
static void copy_up(char *dst, const char *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static void copy_down(char *dst, const char *src, size_t n)
{
	dst += n - 1;
	src += n - 1;
	__asm__ volatile("std; rep movsb; cld" : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc");
}

static bool same(const char *a, const char *b, size_t n)
{
	bool equal;

	__asm__ volatile("repe cmpsb" : "+D"(a), "+S"(b), "+c"(n), "=@cce"(equal) : : "memory");
	return equal;
}
#else
#define copy_up memmove
#define copy_down memmove
#define same(a, b, n) (!memcmp(a, b, n))
#endif

static void string_instructions_over_many_pages(void **state)
{
	size_t half = BYTES / 2, n = half - 2 * PAGE;

	(void)state;
	BEGIN(40);
	send_away(mem, PAGES);
	step("source and destination away");
	copy_up(mem + half + 5, mem + 3, n);
	memmove(plain + half + 5, plain + 3, n);
	send_away(mem, PAGES);
	assert_true(same(mem, plain, BYTES));
	send_away(mem, PAGES);
	step("downwards, overlapping by all but a page and a byte");
	copy_down(mem + PAGE + 1, mem, n);
	memmove(plain + PAGE + 1, plain, n);
	send_away(mem, PAGES);
	step("upwards, the same way");
	copy_up(mem + half, mem + half + PAGE + 1, n);
	memmove(plain + half, plain + half + PAGE + 1, n);
	send_away(mem, PAGES);
	assert_true(same(mem, plain, BYTES));
	wait_until(count_away(mem, PAGES) == 0);
}

/* Written, taken away, made executable. Executable memory itself stays. */
static void instruction_fetch(void **state)
{
#ifdef __x86_64__
	static const unsigned char code[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */
	int (*fn)(void), i;
	char *at = mem + 4 * PAGE - 3; /* the instruction crosses a page end */

	(void)state;
	BEGIN(40);
	*(void **)&fn = at;
	for (i = 0; i < 20; i++) {
		assert_int_equal(mprotect(mem, BYTES, PROT_READ | PROT_WRITE), 0);
		memcpy(at, code, sizeof(code));
		((char *)at)[1] = (char)i;
		send_away(mem, PAGES);
		if (mprotect(mem, BYTES, PROT_READ | PROT_EXEC))
			skip_because("memory that was written may not be executed here");
		assert_int_equal(fn(), i);
		wait_until(count_away(mem, PAGES) <= PAGES - 2); /* and one that is read on for */
		assert_true(count_away(mem, PAGES) >= PAGES - 3);
	}
#else
	(void)state;
	skip_because("has machine code of x86-64 only");
#endif
}

/* ---- stacks ---- */

static ucontext_t here, there;
static uint64_t deep_sum;

static uint64_t deep(unsigned int levels)
{
	volatile char local[2000];

	memset((char *)local, (int)levels, sizeof(local));
	if (levels)
		return deep(levels - 1) + (uint64_t)local[1999];
	swapcontext(&there, &here); /* with 80 pages of stack: they go now */
	return (uint64_t)local[0];
}

static void coroutine(void)
{
	deep_sum = deep(100);
}

static void a_stack_that_went_while_it_slept(void **state)
{
	(void)state;
	BEGIN(40);
	if (TEST_SANITIZED)
		skip_because("sanitizers follow no ucontext");
	getcontext(&there);
	there.uc_stack.ss_sp = mem;
	there.uc_stack.ss_size = BYTES;
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	swapcontext(&here, &there);
	send_away(mem, PAGES);
	swapcontext(&here, &there);
	assert_int_equal(deep_sum, 100 * 101 / 2);
}

static volatile int handled;

static void handler_needs_stack(int sig)
{
	volatile char local[60 * PAGE];
	size_t i;

	for (i = 0; i < sizeof(local); i += PAGE)
		local[i] = (char)sig;
	handled = local[0] == sig && local[sizeof(local) - PAGE] == sig;
}

/* The kernel's part of it, the frame, is in pages that are there. */
static void a_signal_handler_runs_down_its_stack(void **state)
{
	stack_t stack = { .ss_sp = mem, .ss_size = BYTES }, old;
	struct sigaction action = { .sa_handler = handler_needs_stack, .sa_flags = SA_ONSTACK };
	int i;

	(void)state;
	BEGIN(40);
	if (TEST_SANITIZED)
		skip_because("the thread sanitizer calls handlers on another stack");
	assert_int_equal(sigaltstack(&stack, &old), 0);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	for (i = 0; i < 20; i++) {
		memset(mem + (PAGES - 16) * PAGE, 0, 16 * PAGE);
		send_away(mem, PAGES - 16);
		handled = 0;
		raise(SIGUSR1);
		assert_true(handled);
		wait_until(count_away(mem, PAGES) < PAGES - 16 - 40);
	}
	signal(SIGUSR1, SIG_DFL);
	old.ss_flags = SS_DISABLE;
	assert_int_equal(sigaltstack(&old, NULL), 0);
}

/* ---- several threads ---- */

static pthread_barrier_t barrier;
static unsigned int apart; /* 0: all on one page, 1: on neighbouring ones */
static int bad;

#define ROUNDS 300

/* In each round all touch at once, half of them to write. Each has a slot of its own. */
static void *toucher(void *arg)
{
	size_t id = (size_t)arg, round;

	for (round = 0; round < ROUNDS; round++) {
		size_t page = (round * 7 + apart * id) % PAGES;
		uint64_t *word = (uint64_t *)(mem + page * PAGE), seen;

		pthread_barrier_wait(&barrier);
		if (id & 1)
			__atomic_store_n(&word[id], pattern_word(2, page, id), __ATOMIC_RELAXED);
		seen = __atomic_load_n(&word[100 + id], __ATOMIC_RELAXED);
		if (seen != pattern_word(1, page, 100 + id))
			__atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
		seen = __atomic_load_n(&word[id], __ATOMIC_RELAXED);
		if ((id & 1) && seen != pattern_word(2, page, id))
			__atomic_store_n(&bad, 2, __ATOMIC_RELAXED);
		pthread_barrier_wait(&barrier);
		/* main: all of it leaves */
	}
	return NULL;
}

/* So many or less: a fault brings more for who reads on. Not later than soon. */
static bool used_comes_to(size_t pages)
{
	uint64_t end = test_now() + 2000000000ull;

	while (count_away(mem, PAGES) > pages && test_now() < end)
		test_sleep_us(100);
	return count_away(mem, PAGES) <= pages;
}

static void touch_at_once(unsigned int how)
{
	pthread_t threads[THREADS];
	unsigned long moved;
	size_t i, page, round;

	apart = how;
	bad = 0;
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	send_away(mem, PAGES);
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, toucher, (void *)i), 0);
	for (round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		if (!used_comes_to(PAGES - (how ? THREADS : 1)))
			bad = 3;
		if (dummy_migrate(dev, addr_of(mem), addr_of(mem) + BYTES, &moved) ||
		    moved != PAGES)
			bad = 4;
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(bad, 0);
	for (page = 0; page < PAGES; page++) {
		uint64_t *word = (uint64_t *)(mem + page * PAGE);

		for (i = 0; i < PAGE / 8; i++)
			assert_true(word[i] == pattern_word(1, page, i) ||
				    (i < THREADS && i & 1 && word[i] == pattern_word(2, page, i)));
	}
	pthread_barrier_destroy(&barrier);
}

static void all_threads_on_one_page(void **state)
{
	(void)state;
	BEGIN(40);
	touch_at_once(0);
}

static void threads_on_neighbouring_pages(void **state)
{
	(void)state;
	BEGIN(40);
	touch_at_once(1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_width_across_a_page_end),
		T(read_modify_write),
		T(string_instructions_over_many_pages),
		T(instruction_fetch),
		T(a_stack_that_went_while_it_slept),
		T(a_signal_handler_runs_down_its_stack),
		T(all_threads_on_one_page),
		T(threads_on_neighbouring_pages),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
