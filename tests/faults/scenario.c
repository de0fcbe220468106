/* SPDX-License-Identifier: MIT */
/* See scenario.h. */
#include "scenario.h"

#define HUGE 512 /* pages of the first part, one huge page if there is one to be had */
#define SMALL 64 /* of the second: pages, holes, zero pages */
#define PAGES (HUGE + SMALL)
#define AWAY_FROM (HUGE + 40) /* these go elsewhere */
#define AWAY_TO (HUGE + 48)
#define CUT (HUGE + 60) /* from here on unmapped */
#define DROP_FROM (HUGE + 32)
#define DROP_TO (HUGE + 36)

enum content { GONE, LOST, ZERO, FULL };

struct page {
	enum content content;
	uint64_t device; /* what the device wrote in the second word */
	uint64_t cpu; /* and the CPU in the third */
};

static struct dummy_device *keeper, *dev;
static char *mem, *place;
static struct page page[PAGES];
static bool moved; /* what goes elsewhere has gone */
static struct scenario *now;
static const char *act;

static void bad(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void bad(const char *format, ...)
{
	va_list args;

	if (now->bad)
		return;
	now->bad = true;
	fprintf(stderr, "BAD %s: %s: ", now->name, act);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
}

static void doing(const char *what)
{
	char text[128];

	act = what;
	snprintf(text, sizeof(text), "%s: %s", now->name, what);
	step(text);
}

/* ---- memory ---- */

static char *page_at(size_t i)
{
	return i >= AWAY_FROM && i < AWAY_TO && moved ? place + (i - AWAY_FROM) * PAGE :
							mem + i * PAGE;
}

static uint64_t base(size_t i)
{
	return 0xabcdef0000ull + i;
}

static uint64_t word_of(size_t i, unsigned int w)
{
	const struct page *p = &page[i];

	return w == 1 ? p->device : w == 2 ? p->cpu : p->content == FULL ? base(i) : 0;
}

static _Thread_local sigjmp_buf bus_env;

static void bus(int sig)
{
	(void)sig;
	siglongjmp(bus_env, 1);
}

/* False: SIGBUS. */
static bool read_words(const volatile uint64_t *at, uint64_t *word)
{
	if (sigsetjmp(bus_env, 1))
		return false;
	word[0] = at[0];
	word[1] = at[1];
	word[2] = at[2];
	word[3] = at[PAGE / 8 - 1];
	return true;
}

static void check_page(size_t i)
{
	uint64_t word[4];
	unsigned int w;

	if (page[i].content == GONE || page[i].content == LOST)
		return;
	if (!read_words((uint64_t *)page_at(i), word)) {
		if (!now->loses)
			bad("page %zu is lost", i);
		page[i].content = LOST;
		now->lost++;
		return;
	}
	for (w = 0; w < 4; w++)
		if (word[w] != word_of(i, w))
			bad("page %zu word %u is 0x%llx, not 0x%llx", i, w,
			    (unsigned long long)word[w], (unsigned long long)word_of(i, w));
}

static void check_pages(size_t from, size_t to)
{
	for (; from < to; from++)
		check_page(from);
}

static void fill(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++) {
		volatile uint64_t *at = (void *)(mem + i * PAGE);
		bool hole = i >= HUGE && i % 8 == 1, zero = i >= HUGE && i % 8 == 2;

		page[i] = (struct page){ .content = hole || zero ? ZERO : FULL };
		if (zero)
			(void)*at;
		if (page[i].content == FULL)
			at[0] = at[PAGE / 8 - 1] = base(i);
	}
}

static void write_word(volatile uint64_t *at, uint64_t val)
{
	if (!sigsetjmp(bus_env, 1))
		*at = val;
}

static void write_page(size_t i)
{
	if (page[i].content == LOST)
		return;
	page[i].cpu = 0xc00 + i; /* or it is lost, and found to be so by check_page() */
	write_word((uint64_t *)page_at(i) + 2, page[i].cpu);
}

/* ---- the device ---- */

static bool failed(int ret)
{
	now->errors += ret != 0;
	return ret;
}

static void migrate(size_t from, size_t to)
{
	uint64_t start = addr_of(page_at(from));

	failed(dummy_migrate(dev, start, start + (to - from) * PAGE, NULL));
}

static void evict(size_t from, size_t to)
{
	uint64_t start = addr_of(page_at(from));

	failed(dummy_evict(dev, start, start + (to - from) * PAGE, NULL));
}

static void store(size_t i)
{
	if (!failed(dummy_store_u64(dev, addr_of(page_at(i)) + 8, 0xd00 + i)))
		page[i].device = 0xd00 + i;
}

/* The device has it for itself, in parts that come from here and there. */
static void take(size_t from, size_t to)
{
	uint64_t start = addr_of(page_at(from));

	failed(dummy_exclusive(dev, start, start + (to - from) * PAGE, NULL));
}

static void add(size_t i)
{
	if (!failed(dummy_atomic_add_u64(dev, addr_of(page_at(i)) + 8, 0xe00, NULL)))
		page[i].device += 0xe00;
}

static void load(size_t i)
{
	uint64_t val;

	if (failed(dummy_load_u64(dev, addr_of(page_at(i)), &val)))
		return;
	if (val != word_of(i, 0))
		bad("the device reads 0x%llx from page %zu", (unsigned long long)val, i);
}

/* ---- acts ---- */

static void act_travel(void)
{
	size_t i;

	doing("to the device");
	migrate(0, HUGE);
	migrate(HUGE, PAGES);
	doing("device writes");
	for (i = HUGE; i < PAGES; i += 5)
		store(i);
	store(3);
	store(100);
	doing("CPU faults");
	check_pages(HUGE, HUGE + 8);
	write_page(HUGE + 9);
	write_page(HUGE + 12);
	write_page(300);
	doing("evict");
	evict(0, 64);
	load(1);
	load(HUGE + 50);
}

static void act_exclusive(void)
{
	size_t i;

	doing("exclusive access");
	migrate(HUGE + 20, HUGE + 24);
	take(HUGE, PAGES);
	take(0, 64);
	for (i = HUGE; i < PAGES; i += 3)
		add(i);
	add(5);
	doing("its end");
	check_pages(HUGE, HUGE + 12);
	write_page(HUGE + 13);
	store(HUGE + 14);
	migrate(HUGE + 15, HUGE + 18);
	add(HUGE + 15);
	add(HUGE + 13);
	take(HUGE + 12, HUGE + 20);
	check_pages(0, 40);
	add(7); /* what follows finds it so */
	take(HUGE + 28, PAGES);
}

static void act_change(void)
{
	size_t i;

	doing("munmap");
	assert_int_equal(munmap(mem + CUT * PAGE, (PAGES - CUT) * PAGE), 0);
	for (i = CUT; i < PAGES; i++)
		page[i].content = GONE;
	doing("mremap");
	if (mremap(mem + AWAY_FROM * PAGE, (AWAY_TO - AWAY_FROM) * PAGE,
		   (AWAY_TO - AWAY_FROM) * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place)
		moved = true;
	else
		now->errors++;
	load(AWAY_FROM);
	store(AWAY_FROM + 3);
	check_pages(AWAY_FROM, AWAY_FROM + 4);
	doing("MADV_DONTNEED");
	assert_int_equal(
		madvise(mem + DROP_FROM * PAGE, (DROP_TO - DROP_FROM) * PAGE, MADV_DONTNEED), 0);
	for (i = DROP_FROM; i < DROP_TO; i++)
		page[i] = (struct page){ .content = ZERO };
	migrate(DROP_FROM, DROP_TO - 2);
	load(DROP_FROM + 1);
	check_pages(DROP_FROM, DROP_TO - 1);
	write_page(DROP_TO - 1);
}

/* It stays until the parent says so: what the parent does next meets shared pages. */
static int child_main(int fd)
{
	char byte;

	alarm(20);
	check_pages(HUGE, PAGES);
	check_pages(0, 110);
	if (read(fd, &byte, 1) < 0)
		return 2;
	check_pages(HUGE, PAGES);
	return now->bad;
}

static void act_fork(void)
{
	int fds[2], status = 0;
	pid_t pid;

	doing("fork");
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		close(fds[1]);
		_exit(child_main(fds[0]));
	}
	close(fds[0]);
	assert_true(pid > 0);
	migrate(HUGE, AWAY_FROM);
	store(HUGE + 20);
	write_page(HUGE + 21);
	add(HUGE + 50);
	add(30);
	migrate(0, 32);
	close(fds[1]);
	doing("the child");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		bad("the child ends with 0x%x", status);
}

static void act_protect(void)
{
	uint64_t at = addr_of(mem + HUGE * PAGE) + 8;

	doing("mprotect");
	assert_int_equal(mprotect(mem + HUGE * PAGE, 4 * PAGE, PROT_READ), 0);
	if (!dummy_store_u64(dev, at, 1))
		bad("the device writes a page that is protected");
	check_page(HUGE + 3);
	load(HUGE);
	assert_int_equal(mprotect(mem + HUGE * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE), 0);
	store(HUGE);
	evict(HUGE, HUGE + 16);
}

static void act_end(void)
{
	uint64_t end;

	doing("the end");
	migrate(HUGE + 16, AWAY_FROM);
	check_pages(0, PAGES);
	migrate(HUGE, AWAY_FROM);
	if (now->disarm)
		now->disarm(dev);
	check_pages(0, PAGES);
	migrate(0, 256);
	munmap(mem, CUT * PAGE);
	munmap(place, (AWAY_TO - AWAY_FROM) * PAGE);
	end = test_now() + 2000000000ull;
	while (device_used(dev) && test_now() < end)
		test_sleep_us(100);
	if (device_used(dev))
		bad("%zu device pages are never free", device_used(dev));
}

bool scenario_run(struct scenario *s)
{
	struct dummy_options opt = { .memory = 1024 * PAGE, .scrub = true };
	struct sigaction sa = { .sa_handler = bus }, old;

	sigaction(SIGBUS, &sa, &old); /* cmocka has one of its own */
	now = s;
	s->bad = moved = false;
	s->lost = s->errors = 0;
	mem = map_aligned(THP + SMALL * PAGE);
	madvise(mem, THP, MADV_HUGEPAGE);
	place = mmap(NULL, (AWAY_TO - AWAY_FROM) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	fill();
	doing("create");
	assert_int_equal(dummy_create(&dev, &opt), 0);
	if (s->arm)
		s->arm(dev);
	act_travel();
	act_exclusive();
	act_change();
	act_fork();
	act_protect();
	act_end();
	doing("destroy");
	if (dummy_destroy(dev))
		bad("the device cannot be taken away");
	sigaction(SIGBUS, &old, NULL);
	return !s->bad;
}

/* ---- ---- */

static void quiet(enum hmm_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

int scenario_setup(void **state)
{
	(void)state;
	hmm_set_log(HMM_LOG_ERROR, quiet);
	hmm_set_user_mode(true);
	return dummy_create(&keeper, NULL);
}

int scenario_teardown(void **state)
{
	(void)state;
	return dummy_destroy(keeper);
}

void scenario_init(void)
{
	test_init();
}

void scenario_begin(const char *test, unsigned int seconds)
{
	test_begin(test, seconds);
}

unsigned long scenario_next(unsigned long n, unsigned long count, unsigned long most)
{
	unsigned long stride = count / most + 1, first = 8;

#ifdef __SANITIZE_THREAD__ /* a fork takes so long there */
	stride *= 8;
	first = 2;
#endif
	return n + (n < first || getenv("HMM_FAULTS_ALL") ? 1 : stride);
}
