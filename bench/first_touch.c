// SPDX-License-Identifier: MIT
/*
 * What does the first touch of memory cost that a device mirrors, but that was
 * never migrated (G10)?
 *
 * One thread writes every other page, but for the first of each 2 MiB, of a fresh
 * mapping of which that first page
 *
 *	read	was read before
 *	write	was written before
 *	drop	was written before, and all was dropped by MADV_DONTNEED
 *
 * by the device, so that all of the mapping is watched. Reference: by the CPU, in
 * a process that has no mirror: without libhmm. There should be no
 * difference. With huge pages "write" leaves nothing to be touched first, "read"
 * leaves the huge zero page. huge and ref_huge say how much was in huge pages after
 * the writes, at least: being watched must not cost those either.
 *
 * A first touch is for the most part the kernel's clearing of the page, which takes half as
 * long when it was used just before, and twice as long while another CPU copies. So what goes
 * before is alike for both: two processes on one CPU take turns of some milliseconds, each
 * keeps what it has open, waits until no thread of its own wants that CPU, and before each
 * 2 MiB that are timed uses as much elsewhere and gives it back. The first of a pair is each
 * in turn. Of a turn the median of its pieces of 2 MiB counts (mean_ratio: all of them), of the
 * pairs the median ratio; half of them were between "quarter" and "three_quarters".
 */
#include "bench_hmm.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (16 * BENCH_MIB)
#define CHUNKS (BYTES / BENCH_HUGE)
#define PAIRS_SMALL 60
#define PAIRS_THP 300
#define PAIRS_MAX PAIRS_THP
#define SETTLE_US 1000
#define LONGEST_NS 5000000000ull /* of a kind, on a busy machine */

enum who { PLAIN, MIRRORED, WHO };
enum how { READ, WRITE, DROP, HOWS };

struct turn {
	enum bench_pages pages;
	enum how how;
};

struct took {
	double ns; /* a page: the median of the pieces */
	double mean; /* likewise, of them all */
	size_t huge;
};

/* One of the two processes. */
struct side {
	enum who who;
	pid_t pid;
	int ask[2], answer[2];
	struct bench_dev dev;
};

/* The pages that the kernel gives next are the same ones for both, and just used. */
static void warm(char *scratch)
{
	size_t at;

	for (at = 0; at < BENCH_HUGE; at += bench_page_size())
		*(volatile char *)(scratch + at) = 1;
	if (madvise(scratch, BENCH_HUGE, MADV_DONTNEED))
		bench_fail("madvise");
}

/* Of all pages but the first of each 2 MiB. */
static void touch(char *range, char *scratch, struct took *took)
{
	size_t page = bench_page_size(), at, chunk;
	double ns[CHUNKS], pages = (double)BENCH_HUGE / page - 1, sum = 0;

	for (chunk = 0; chunk < CHUNKS; chunk++) {
		char *start = range + chunk * BENCH_HUGE;
		uint64_t t0;

		warm(scratch);
		t0 = bench_ns();
		for (at = page; at < BENCH_HUGE; at += page)
			*(volatile uint64_t *)(start + at) = chunk * BENCH_HUGE + at;
		ns[chunk] = (double)(bench_ns() - t0);
		sum += ns[chunk];
	}
	took->ns = bench_median(ns, CHUNKS) / pages;
	took->mean = sum / (CHUNKS * pages);
}

static void check(const char *range)
{
	size_t page = bench_page_size(), at;

	for (at = 0; at < BYTES; at += page)
		if (at % BENCH_HUGE && *(const uint64_t *)(range + at) != at)
			bench_fail("page %zu lost what was written", at / page);
}

static void begin(struct side *side, enum how how, char *range)
{
	size_t at;

	for (at = 0; at < BYTES; at += BENCH_HUGE) {
		if (side->who == MIRRORED)
			bench_dev_mirror(&side->dev, range + at, bench_page_size(), how != READ);
		else if (how == READ)
			(void)*(volatile char *)(range + at);
		else
			*(volatile char *)(range + at) = 1;
	}
	if (how == DROP && madvise(range, BYTES, MADV_DONTNEED))
		bench_fail("madvise");
}

/* Does another thread of the process run, or want to? */
static bool others_run(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	bool run = false;

	if (!dir)
		bench_fail("/proc/self/task: %s", strerror(errno));
	while (!run && (entry = readdir(dir))) {
		char path[64], state = 'S';
		FILE *f;

		if (atoi(entry->d_name) <= 0 || atoi(entry->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atoi(entry->d_name));
		f = fopen(path, "re");
		run = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state == 'R';
		if (f)
			fclose(f);
	}
	closedir(dir);
	return run;
}

/*
 * Until libhmm's threads are done with what was asked for, however busy the machine is; and
 * both processes go on as one that was just woken.
 */
static void settle(void)
{
	do
		usleep(SETTLE_US);
	while (others_run());
	usleep(SETTLE_US);
}

static struct took take_turn(struct side *side, struct turn turn)
{
	char *range = bench_map(BYTES, turn.pages), *scratch = bench_map(BENCH_HUGE, turn.pages);
	struct took took;

	begin(side, turn.how, range);
	settle();
	touch(range, scratch, &took);
	check(range);
	took.huge = bench_huge_bytes(range, BYTES);
	bench_unmap(range, BYTES);
	bench_unmap(scratch, BENCH_HUGE);
	return took;
}

static void side_main(struct side *side)
{
	struct turn turn;

	if (side->who == MIRRORED)
		bench_dev_open(&side->dev, BENCH_HUGE);
	while (read(side->ask[0], &turn, sizeof(turn)) == sizeof(turn)) {
		struct took took = take_turn(side, turn);

		if (write(side->answer[1], &took, sizeof(took)) != sizeof(took))
			bench_fail("write: %s", strerror(errno));
	}
	if (side->who == MIRRORED)
		bench_dev_close(&side->dev);
	exit(0);
}

/* It ends when nobody can ask it any more, so no other may have our end. */
static void side_start(struct side *side, enum who who, const struct side *other)
{
	side->who = who;
	if (pipe(side->ask) || pipe(side->answer))
		bench_fail("pipe: %s", strerror(errno));
	side->pid = fork();
	if (side->pid < 0)
		bench_fail("fork: %s", strerror(errno));
	if (!side->pid) {
		close(side->ask[1]);
		close(side->answer[0]);
		if (other)
			close(other->ask[1]);
		side_main(side);
	}
	close(side->ask[0]);
	close(side->answer[1]);
}

static void side_end(struct side *side)
{
	int status;

	close(side->ask[1]);
	if (waitpid(side->pid, &status, 0) != side->pid || status)
		bench_fail("one of the processes failed");
}

static struct took side_ask(struct side *side, struct turn turn)
{
	struct took took;

	if (write(side->ask[1], &turn, sizeof(turn)) != sizeof(turn) ||
	    read(side->answer[0], &took, sizeof(took)) != sizeof(took))
		bench_fail("one of the processes failed");
	return took;
}

struct pairs {
	double ns[WHO][PAIRS_MAX];
	double ratio[PAIRS_MAX], mean_ratio[PAIRS_MAX];
	size_t huge[WHO];
};

static void one_pair(struct side *sides, struct turn turn, int pair, struct pairs *pairs)
{
	struct took took[WHO];
	int i;

	for (i = 0; i < WHO; i++) {
		int who = (i + pair + 1) % WHO;

		took[who] = side_ask(&sides[who], turn);
		if (took[who].huge < pairs->huge[who])
			pairs->huge[who] = took[who].huge;
	}
	if (pair < 0)
		return;
	for (i = 0; i < WHO; i++)
		pairs->ns[i][pair] = took[i].ns;
	pairs->ratio[pair] = took[MIRRORED].ns / took[PLAIN].ns;
	pairs->mean_ratio[pair] = took[MIRRORED].mean / took[PLAIN].mean;
}

static void run(struct side *sides, enum bench_pages pages, enum how how)
{
	static const char *const how_name[HOWS] = { "read", "write", "drop" };
	int wanted = pages == BENCH_THP ? PAIRS_THP : PAIRS_SMALL, pair;
	struct pairs pairs = { .huge = { BYTES, BYTES } };
	uint64_t last = bench_ns() + LONGEST_NS;
	char name[64];
	size_t n;

	for (pair = -1; pair < wanted && (pair < 2 || bench_ns() < last); pair++)
		one_pair(sides, (struct turn){ pages, how }, pair, &pairs);
	n = (size_t)pair;
	snprintf(name, sizeof(name), "first_touch_%s_%s", how_name[how], bench_pages_name(pages));
	bench_result(
		name, bench_median(pairs.ns[MIRRORED], n), "ns/page", bench_median(pairs.ratio, n),
		"<=1.05",
		"ref=without_libhmm ref_value=%.3f mean_ratio=%.3f quarter=%.3f three_quarters=%.3f "
		"pairs=%zu huge=%zuMiB ref_huge=%zuMiB",
		bench_median(pairs.ns[PLAIN], n), bench_median(pairs.mean_ratio, n),
		bench_percentile(pairs.ratio, n, 0.25), bench_percentile(pairs.ratio, n, 0.75), n,
		pairs.huge[MIRRORED] / BENCH_MIB, pairs.huge[PLAIN] / BENCH_MIB);
}

/* Both on one CPU: each CPU has free pages of its own. */
static void bind(void)
{
	int cpu = sched_getcpu();
	cpu_set_t one;

	CPU_ZERO(&one);
	if (cpu >= 0)
		CPU_SET(cpu, &one);
	if (cpu < 0 || sched_setaffinity(0, sizeof(one), &one))
		bench_fail("sched_setaffinity: %s", strerror(errno));
}

int main(void)
{
	static struct side sides[WHO];

	bench_hmm_probe();
	bench_header("first_touch", "%lu MiB a turn, %d pairs of turns, %d of huge pages, medians",
		     BYTES / BENCH_MIB, PAIRS_SMALL, PAIRS_THP);
	bind();
	side_start(&sides[PLAIN], PLAIN, NULL);
	side_start(&sides[MIRRORED], MIRRORED, &sides[PLAIN]);
	run(sides, BENCH_SMALL, READ);
	run(sides, BENCH_SMALL, WRITE);
	run(sides, BENCH_SMALL, DROP);
	run(sides, BENCH_THP, READ);
	run(sides, BENCH_THP, DROP);
	side_end(&sides[PLAIN]);
	side_end(&sides[MIRRORED]);
	return 0;
}
