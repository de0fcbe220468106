/* SPDX-License-Identifier: MIT */
/*
 * Every kind of source beside every other in one call, by chance: the seed is printed,
 * and HMM_TEST_SEED gives it back.
 *
 * Tries to break: G1 (a page on two devices), G4, G7 (each page goes or is where it
 * was, and *pages counts those that are there), and that both devices' memory is free
 * again afterwards.
 */
#include "migrate/source.h"

static struct dummy_device *other;

static int setup_two(void **state)
{
	other = device_new(2048);
	return setup(state);
}

static int teardown_two(void **state)
{
	wait_until(device_used(other) == 0);
	assert_int_equal(dummy_destroy(other), 0);
	return teardown(state);
}

static size_t ask_other(const void *start, size_t len)
{
	unsigned long moved = 4711;

	assert_int_equal(dummy_migrate(other, addr_of(start), addr_of(start) + len, &moved), 0);
	return moved;
}

#define MANY 1400 /* pages: three chunks, the first and the last in part */

enum kind {
	PLAIN,
	HOLE,
	ZERO,
	SHARED, /* with a child, that lives */
	HERE,
	THERE, /* on the other device */
	KINDS_THAT_GO,
	LOCKED = KINDS_THAT_GO,
	READ_ONLY,
	NO_ACCESS,
	PINNED,
	SHARED_MEMORY,
	UNMAPPED,
	KINDS
};

struct mix {
	enum kind kind[MANY];
	uint64_t place[MANY];
	int ring;
	uint64_t seed;
	char *mem;
};

static uint64_t next_random(struct mix *mix)
{
	mix->seed ^= mix->seed << 13;
	mix->seed ^= mix->seed >> 7;
	mix->seed ^= mix->seed << 17;
	return mix->seed;
}

/* Runs of one to sixteen pages of a kind. */
static void mix_choose(struct mix *mix)
{
	size_t i = 0, run;

	while (i < MANY) {
		enum kind kind = next_random(mix) % KINDS;

		for (run = next_random(mix) % 16 + 1; run && i < MANY; run--)
			mix->kind[i++] = kind;
	}
}

static bool has_content(enum kind kind)
{
	return kind != HOLE && kind != ZERO && kind != UNMAPPED;
}

static void mix_new(struct mix *mix, size_t i)
{
	char *page = mix->mem + i * PAGE;

	switch (mix->kind[i]) {
	case ZERO:
		touch_read(page, 1);
		break;
	case SHARED_MEMORY:
		assert_ptr_equal(mmap(page, PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 page);
		break;
	case UNMAPPED:
		munmap(page, PAGE);
		break;
	default:
		break;
	}
	if (has_content(mix->kind[i]))
		pattern_page(page, 6, i);
}

/* What must come after the fork. */
static void mix_change(struct mix *mix, size_t i)
{
	char *page = mix->mem + i * PAGE;

	switch (mix->kind[i]) {
	case PLAIN:
	case PINNED:
		pattern_page(page, 6, i); /* its own again */
		break;
	case HERE:
		assert_int_equal(ask(page, PAGE), 1);
		break;
	case THERE:
		assert_int_equal(ask_other(page, PAGE), 1);
		break;
	case LOCKED:
		assert_int_equal(syscall(SYS_mlock, page, PAGE), 0);
		break;
	case READ_ONLY:
		assert_int_equal(mprotect(page, PAGE, PROT_READ), 0);
		break;
	case NO_ACCESS:
		assert_int_equal(mprotect(page, PAGE, PROT_NONE), 0);
		break;
	default:
		break;
	}
}

static void mix_pin(struct mix *mix)
{
	size_t first = 0, n = 1, i;

	while (first < MANY && mix->kind[first] != PINNED)
		first++;
	while (first + n < MANY && mix->kind[first + n] == PINNED)
		n++;
	mix->ring = first < MANY ? pin_pages(mix->mem + first * PAGE, n * PAGE) : -1;
	for (i = 0; i < MANY; i++)
		if (mix->kind[i] == PINNED && (mix->ring < 0 || i < first || i >= first + n))
			mix->kind[i] = PLAIN;
}

/* What is to be so after the call, page by page. */
static void mix_check(struct mix *mix, bool after)
{
	size_t i, go = 0;
	uint8_t *where = malloc(MANY);

	assert_int_equal(hmm_range_where(addr_of(mix->mem), addr_of(mix->mem) + MANY * PAGE, where),
			 0);
	for (i = 0; i < MANY; i++) {
		const char *page = mix->mem + i * PAGE;
		bool goes = mix->kind[i] < KINDS_THAT_GO;

		if (!after) {
			mix->place[i] = place_of(page);
			continue;
		}
		go += goes;
		if ((where[i] == HMM_WHERE_DEVICE) != goes || where[i] == HMM_WHERE_STAGED)
			fail_msg("page %zu of kind %d is at %d", i, (int)mix->kind[i], where[i]);
		if (goes && on_cpu(page))
			fail_msg("page %zu of kind %d is on both sides", i, (int)mix->kind[i]);
		/* Made exclusive for an attempt it may be; see test_source_shared.c. */
		if (!goes && mix->kind[i] == PINNED && place_of(page) != mix->place[i])
			fail_msg("page %zu, pinned, is elsewhere", i);
	}
	if (after)
		assert_int_equal(device_used(dev), go);
	free(where);
}

static void mix_content(struct mix *mix)
{
	size_t i;

	for (i = 0; i < MANY; i++) {
		char *page = mix->mem + i * PAGE;

		if (mix->kind[i] == UNMAPPED)
			continue;
		if (mix->kind[i] == NO_ACCESS)
			assert_int_equal(mprotect(page, PAGE, PROT_READ), 0);
		if (has_content(mix->kind[i])) {
			device_has(page, 1, 6, i);
			pattern_check_from(page, 1, 6, i);
		} else {
			device_has_zeros(page, 1);
			assert_true(is_zero(page, PAGE));
		}
	}
}

static void mix_child(struct mix *mix, const int *go)
{
	size_t i;
	char c;

	alarm(60);
	close(go[1]);
	CHECK(read(go[0], &c, 1) == 1);
	for (i = 0; i < MANY; i++)
		if (has_content(mix->kind[i]) && mix->kind[i] != SHARED_MEMORY)
			CHECK(*(uint64_t *)(mix->mem + i * PAGE) == pattern_word(6, i, 0));
	_exit(0);
}

static void check_mix(struct mix *mix)
{
	char *area = map_aligned(3 * THP);
	int go[2];
	size_t i, n = 0;
	pid_t pid;

	mix->mem = area + 100 * PAGE;
	mix_choose(mix);
	for (i = 0; i < MANY; i++)
		mix_new(mix, i);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid)
		mix_child(mix, go);
	for (i = 0; i < MANY; i++)
		mix_change(mix, i);
	mix_pin(mix);
	mix_check(mix, false);
	for (i = 0; i < MANY; i++)
		n += mix->kind[i] < KINDS_THAT_GO;
	assert_int_equal(ask(mix->mem, MANY * PAGE), n);
	assert_int_equal(device_used(other), 0);
	mix_check(mix, true);
	assert_int_equal(ask(mix->mem, MANY * PAGE), n);
	mix_content(mix);
	assert_int_equal(write(go[1], "", 1), 1);
	child_ends_well(pid);
	close(go[0]);
	close(go[1]);
	if (mix->ring >= 0)
		close(mix->ring);
	munmap(area, 3 * THP);
	wait_until(device_used(dev) == 0 && device_used(other) == 0);
}

static void all_kinds_in_one_call(void **state)
{
	struct mix *mix = malloc(sizeof(*mix));
	struct timespec now;
	int i;

	(void)state;
	BEGIN(40);
	dirty_device();
	clock_gettime(CLOCK_REALTIME, &now);
	for (i = 0; i < 4; i++) {
		mix->seed = getenv("HMM_TEST_SEED") ?
				    strtoull(getenv("HMM_TEST_SEED"), NULL, 0) :
				    (uint64_t)now.tv_nsec * 2654435761u + (uint64_t)i * 77 + 1;
		print_message("HMM_TEST_SEED=0x%llx\n", (unsigned long long)mix->seed);
		check_mix(mix);
	}
	free(mix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_kinds_in_one_call, setup_two, teardown_two),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
