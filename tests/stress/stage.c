/* SPDX-License-Identifier: MIT */
/* Setting the stage, looking at all of it at the end, and clearing it. */
#include "stress/stage.h"

bool field_claim(struct stage *s, size_t first, size_t n)
{
	bool mine;

	pthread_mutex_lock(&s->claims);
	mine = !memchr(s->claimed + first, 1, n);
	if (mine)
		memset(s->claimed + first, 1, n);
	pthread_mutex_unlock(&s->claims);
	return mine;
}

void field_release(struct stage *s, size_t first, size_t n)
{
	pthread_mutex_lock(&s->claims);
	memset(s->claimed + first, 0, n);
	pthread_mutex_unlock(&s->claims);
}

/* Low, the side is left a hole. */
static void stage_map(struct stage *s)
{
	size_t bytes = (MOSAIC_CHUNKS + FIELD_CHUNKS) * CHUNK;
	size_t side = (SETTLERS + 1) * RANGE_MAX * hmm_page_size();
	unsigned char *at = (void *)0x40000000, *mem = MAP_FAILED;
	int i;

	for (i = 0; i < 16 && mem == MAP_FAILED; i++, at += 16 * CHUNK)
		mem = mmap(at, bytes + CHUNK + side, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	s->mem = mem;
	s->side = mem + bytes + CHUNK;
	assert_int_equal(munmap(mem + bytes, CHUNK + side), 0);
	s->mosaic = MOSAIC_CHUNKS * CHUNK / hmm_page_size() / ROLES * ROLES;
	s->pages = bytes / hmm_page_size();
}

static uint64_t *words(size_t n)
{
	uint64_t *p = calloc(n, sizeof(*p));

	assert_non_null(p);
	return p;
}

/* The rest of the field is never touched before a role does it. */
static void stage_touch(struct stage *s)
{
	size_t i;

	if (s->plan->huge)
		assert_int_equal(madvise(s->mem, s->pages * hmm_page_size(), MADV_HUGEPAGE), 0);
	for (i = 0; i < s->mosaic + CHUNK / hmm_page_size(); i++)
		*(volatile uint64_t *)page_of(s, i) = 0;
}

void stage_set(struct stage *s, const struct plan *plan, uint32_t seed)
{
	const char *race = getenv("HMM_STRESS_RACE");
	pthread_rwlockattr_t attr;
	unsigned int i;

	memset(s, 0, sizeof(*s));
	s->plan = plan;
	s->seed = seed;
	s->apart = race ? *race == '0' : !RACE_DEFAULT;
	s->by_hand = getenv("HMM_STRESS_BY_HAND") != NULL;
	pthread_mutex_init(&s->claims, NULL);
	pthread_mutex_init(&s->placing, NULL);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	stage_map(s);
	s->cpu = words(s->pages);
	s->device = words(s->pages);
	s->device_1 = words(s->pages);
	s->atomic = words(s->pages);
	s->stamp = words(s->pages);
	s->claimed = (uint8_t *)words(s->pages);
	for (i = 0; i < plan->devices; i++) {
		pthread_rwlock_init(&s->life[i], &attr);
		struct dummy_options opt = plan->opt[i];

		opt.coherent = getenv("HMM_TEST_COHERENT");
		opt.looks_up = getenv("HMM_TEST_LOOKS_UP");
		assert_int_equal(dummy_create(&s->dev[i], &opt), 0);
	}
	stage_touch(s);
	s->before.size = sizeof(s->before);
	assert_int_equal(hmm_get_stats(&s->before), 0);
}

static void end_look(struct actor *a, size_t i)
{
	struct stage *s = a->s;
	const volatile uint64_t *word = (void *)page_of(s, i);
	enum role role = i < s->mosaic ? (enum role)(i % ROLES) : ROLES;
	bool device = role == ROLE_DEVICE || role == ROLE_DEVICE_1 || role == ROLE_DEVICE_FIRST ||
		      role == ROLE_DEVICE_SECOND;
	uint64_t want = role > ROLE_DEVICE_SECOND ? s->stamp[i] :
			role == ROLE_ATOMIC	  ? s->atomic[i] :
			device			  ? s->device[i] :
						    s->cpu[i];

	if (word[0] != want)
		wrong(a, "at the end", (void *)word, word[0], want);
	if (role == ROLE_BOTH && word[DEVICE_WORD] != s->device[i])
		wrong(a, "at the end, device", (void *)word, word[DEVICE_WORD], s->device[i]);
	if (role == ROLE_BOTH && word[DEVICE_WORD_1] != s->device_1[i])
		wrong(a, "at the end, device 1", (void *)word, word[DEVICE_WORD_1], s->device_1[i]);
	if (role > ROLE_DEVICE_SECOND && word[hmm_page_size() / 8 - 1] != want)
		wrong(a, "at the end, last word", (void *)word, word[hmm_page_size() / 8 - 1],
		      want);
}

static void stage_free(struct stage *s)
{
	unsigned int i;

	for (i = 0; i < s->plan->devices; i++)
		assert_int_equal(dummy_destroy(s->dev[i]), 0);
	free(s->cpu);
	free(s->device);
	free(s->device_1);
	free(s->atomic);
	free(s->stamp);
	free(s->claimed);
}

/*
 * Half of it comes home by CPU faults, half is unmapped where it is. Where something was
 * wrong it is cleared all the same, for what comes after.
 */
void stage_clear(struct stage *s)
{
	struct actor a = { .s = s, .name = "the end", .seed = s->seed | 1 };
	size_t memory = 0, i;

	for (i = 0; i < s->pages; i++)
		end_look(&a, i);
	device_send(&a, s->mem, s->pages / 2 * hmm_page_size());
	assert_int_equal(munmap(s->mem, s->pages * hmm_page_size()), 0);
	if (!atomic_load(&s->failures)) {
		for (i = 0; i < s->plan->devices; i++) {
			hmm_mirror_sync(dummy_mirror(s->dev[i]));
			assert_true(memory_comes_free(s->dev[i], 5));
			memory += s->plan->opt[i].memory;
		}
		stats_check(s);
		leaks_check(POOL + CAST_MAX * CHUNK + memory, "with the devices");
	}
	stage_free(s);
	assert_int_equal(atomic_load(&s->failures), 0);
	leaks_check(0, "without devices");
}
