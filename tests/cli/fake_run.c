// SPDX-License-Identifier: MIT
/*
 * What looks from outside like a program under `hmm run`, for the tests of what looks at
 * such programs: it has the counters, which go up, and a table of blocks.
 *
 * fake_run [close] [child] [user] [version] [shrink] [noblocks]
 *
 *	close     close the descriptor: the counters are but mapped
 *	child     do it in a child, which has the parent's counters beside its own
 *	user      as an ordinary user
 *	version   of a version that nobody knows
 *	shrink    make the file shorter than the counters are
 *	noblocks  have no table
 *
 * Prints its process number, and where its memory is, and lives until its standard input
 * ends. The memory, 64 MiB: [0, 16) is resident, [16, 32) on the "device", of [32, 34) every
 * second page, and [34, 36) both went there and is resident: it has come back.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <hmm/run_stats.h>

#define MIB ((size_t)1 << 20)
#define BLOCKS 64
#define PAGE 4096ul
#define OFFSET 4096

static int shared = -1; /* the file of the counters */

static bool flag(char **argv, const char *name)
{
	for (; *argv; argv++)
		if (!strcmp(*argv, name))
			return true;
	return false;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* The table's order is no order of addresses. */
static void away(struct hmm_run_block *blocks, char *at, unsigned int pages, unsigned int step)
{
	struct hmm_run_block *block = &blocks[((uintptr_t)at >> 21) * 37 % BLOCKS];
	unsigned int i;

	while (block->start)
		block = block + 1 < blocks + BLOCKS ? block + 1 : blocks;
	block->start = (uintptr_t)at;
	for (i = 0; i < pages; i += step)
		block->away[i / 64] |= 1ull << i % 64;
}

static char *memory_make(struct hmm_run_block *blocks)
{
	char *base = mmap(NULL, 70 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *memory = (char *)(((uintptr_t)base + 4 * MIB - 1) & ~(2 * MIB - 1));
	size_t i;

	if (base == MAP_FAILED || mprotect(memory, 64 * MIB, PROT_READ | PROT_WRITE))
		exit(1);
	madvise(memory, 64 * MIB, MADV_NOHUGEPAGE);
	memset(memory, 1, 16 * MIB);
	memset(memory + 34 * MIB, 1, 2 * MIB);
	for (i = 0; i < 2 * MIB; i += 2 * PAGE)
		memory[32 * MIB + i + PAGE] = 1;
	for (i = 16; blocks && i < 32; i += 2)
		away(blocks, memory + i * MIB, 512, 1);
	if (blocks) {
		away(blocks, memory + 32 * MIB, 512, 2);
		away(blocks, memory + 34 * MIB, 512, 1);
	}
	return memory;
}

static struct hmm_run_stats *stats_make(char **argv)
{
	size_t size = OFFSET + BLOCKS * sizeof(struct hmm_run_block);
	int fd = memfd_create(HMM_RUN_STATS_NAME, MFD_CLOEXEC);
	struct hmm_run_stats *stats;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		exit(1);
	stats = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (stats == MAP_FAILED)
		exit(1);
	madvise(stats, size, MADV_DONTFORK);
	*stats = (struct hmm_run_stats){
		.magic = HMM_RUN_STATS_MAGIC,
		.version = flag(argv, "version") ? 77 : HMM_RUN_STATS_VERSION,
		.size = sizeof(*stats),
		.pid = (uint32_t)getpid(),
		.state = HMM_RUN_HOLDING,
		.device = "dummy",
		.started_ns = now() - 10000000000ull,
		.limit = 24 * MIB,
		.resident = 19 * MIB,
		.on_device = 17 * MIB,
		.device_memory = 5 * MIB,
		.page_size = PAGE,
		.blocks_offset = flag(argv, "noblocks") ? 0 : OFFSET,
		.blocks = flag(argv, "noblocks") ? 0 : BLOCKS,
	};
	if (flag(argv, "close"))
		close(fd);
	shared = fd;
	return stats;
}

/* 100 times a second: 10 faults of 4 to 8 us, one of 1 to 2 ms, 100 pages out, 50 back. */
static void live(struct hmm_run_stats *stats)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	uint64_t next = now();

	for (;;) {
		char byte;

		next += 10000000;
		if (poll(&input, 1, next > now() ? (int)((next - now()) / 1000000) : 0) > 0 &&
		    read(STDIN_FILENO, &byte, 1) <= 0)
			return;
		stats->faults += 11;
		stats->fault_ns[12] += 10;
		stats->fault_ns[20] += 1;
		stats->migrations += 2;
		stats->pages_out += 100;
		stats->pages_back += 50;
		stats->refaults += 50;
		stats->gated += 1;
		stats->now_ns = now();
		stats->updates++;
	}
}

static void be(char **argv)
{
	struct hmm_run_stats *stats = stats_make(argv);
	bool blocks = !flag(argv, "noblocks");
	char *memory;

	memory = memory_make(blocks ? (struct hmm_run_block *)((char *)stats + OFFSET) : NULL);
	printf("%d %012lx\n", (int)getpid(), (unsigned long)memory);
	fflush(stdout);
	if (!flag(argv, "shrink"))
		live(stats);
	else if (!ftruncate(shared, 8))
		while (read(STDIN_FILENO, &(char){ 0 }, 1) > 0)
			;
}

int main(int argc, char **argv)
{
	int status = 0;
	pid_t pid;

	(void)argc;
	if (flag(argv, "user") && !geteuid() && (setregid(65534, 65534) || setreuid(65534, 65534)))
		return 77;
	prctl(PR_SET_DUMPABLE, 1);
	if (!flag(argv, "child")) {
		be(argv);
		return 0;
	}
	stats_make(argv);
	pid = fork();
	if (!pid) {
		be(argv);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return pid < 0 || status ? 1 : 0;
}
