/* SPDX-License-Identifier: MIT */
/* Handlers of its own: SIGSEGV as garbage collectors use it, SIGBUS, timers. */
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "act.h"

static struct {
	uint64_t *data;
	volatile sig_atomic_t segv, bus, alarm;
	sigjmp_buf jump;
	uintptr_t stack; /* the handler's, and what it is to be in */
	char *alt;
} world;

#define ALT (64 * 1024ul)

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	must(!sigaction(number, &sa, NULL));
}

/* On a stack of the heap, which may be away as well. */
static void alternate(void)
{
	stack_t stack = { .ss_size = ALT };

	stack.ss_sp = world.alt = malloc(ALT);
	memset(world.alt, 1, ALT);
	must(!sigaltstack(&stack, NULL));
}

static void *page_of(const void *addr)
{
	return (void *)((uintptr_t)addr & ~(PAGE - 1));
}

static void on_segv(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	world.stack = (uintptr_t)&number;
	world.segv++;
	must(!mprotect(page_of(info->si_addr), PAGE, PROT_READ | PROT_WRITE));
}

/* A write barrier: each 64th page is protected, and written to. */
static int signal_barrier(char **args)
{
	size_t i;

	(void)args;
	alternate();
	world.data = mmap(NULL, DATA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	data_fill(world.data, DATA, 1);
	handle(SIGSEGV, on_segv, SA_ONSTACK);
	for (i = 0; i < DATA; i += 64 * PAGE)
		must(!mprotect((char *)world.data + i, PAGE, PROT_READ));
	data_check(world.data, DATA, 1);
	for (i = 0; i < DATA; i += 64 * PAGE)
		((volatile uint64_t *)world.data)[i / 8] ^= 0;
	data_check(world.data, DATA, 1);
	must(world.stack - (uintptr_t)world.alt < ALT);
	printf("%d SIGSEGV\n", (int)world.segv);
	return 0;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	(void)context;
	world.bus++;
	siglongjmp(world.jump, 1);
}

/* Beyond the end of a file; and memory of its own meanwhile. */
static int signal_bus(char **args)
{
	FILE *file = tmpfile();
	char *map;
	int i;

	(void)args;
	world.data = data_new(DATA, 2);
	must(!ftruncate(fileno(file), 100));
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fileno(file), 0);
	must(map != MAP_FAILED);
	handle(SIGBUS, on_bus, 0);
	for (i = 0; i < 10; i++) {
		data_check(world.data, DATA / 10, 2);
		if (!sigsetjmp(world.jump, 1))
			printf("%d\n", map[PAGE]);
	}
	data_check(world.data, DATA, 2);
	printf("%d SIGBUS\n", (int)world.bus);
	return 0;
}

static void on_alarm(int number, siginfo_t *info, void *context)
{
	size_t at = (size_t)world.alarm * 7919 * PAGE % DATA;

	(void)number;
	(void)info;
	(void)context;
	((volatile uint64_t *)world.data)[at / 8] ^= 0;
	world.alarm++;
}

/* A timer's handler that touches memory which is away. */
static int signal_timer(char **args)
{
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	int i;

	(void)args;
	world.data = data_new(DATA, 3);
	alternate();
	handle(SIGALRM, on_alarm, SA_ONSTACK | SA_RESTART);
	must(!setitimer(ITIMER_REAL, &every, NULL));
	for (i = 0; i < 3 || world.alarm < 20; i++)
		data_check(world.data, DATA, 3);
	must(!setitimer(ITIMER_REAL, &never, NULL));
	puts("timed");
	return 0;
}

/* What the program's threads have blocked is theirs: signals come to the program, not to hmm. */
static int signal_mask(char **args)
{
	sigset_t set, old;
	int number;

	(void)args;
	world.data = data_new(DATA, 4);
	sigfillset(&set);
	must(!sigprocmask(SIG_BLOCK, &set, &old));
	for (number = 1; number < 32; number++)
		if (sigismember(&old, number))
			printf("%d was blocked\n", number);
	kill(getpid(), SIGUSR1);
	must(!sigwait(&set, &number));
	data_check(world.data, DATA, 4);
	printf("got %d\n", number);
	return 0;
}

const struct act acts_signal[] = {
	{ "barrier", signal_barrier }, { "bus", signal_bus }, { "timer", signal_timer },
	{ "mask", signal_mask },       { NULL, NULL },
};
