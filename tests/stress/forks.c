/* SPDX-License-Identifier: MIT */
/*
 * Children. One that libc forked has all memory as it was at one moment (G8); so has
 * one that was forked by hand, but for what devices write between the call and its
 * event (docs/limits.md).
 */
#include "stress/stage.h"

static bool raw_fork;

UNSEEN static void child_wrong(const struct stage *s, const char *what, size_t i, uint64_t got,
			       uint64_t want)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "WRONG: %s, seed %u: a child%s: %s: page %zu at %p: got 0x%llx, expected 0x%llx\n",
		 s->plan->name, s->seed, raw_fork ? ", raw" : "", what, i, (void *)page_of(s, i),
		 (unsigned long long)got, (unsigned long long)want);
	limit_say(text);
	child_exit(raw_fork, 1);
}

/* A counter is what is known of it, or one more. */
UNSEEN static void child_count(const struct stage *s, size_t i, const char *what, uint64_t got,
			       uint64_t known, bool device)
{
	if (got - known > (device && raw_fork ? 100000 : 1))
		child_wrong(s, what, i, got, known);
}

UNSEEN static uint64_t word_of(const struct stage *s, size_t i, size_t word)
{
	return ((const volatile uint64_t *)page_of(s, i))[word];
}

UNSEEN static void child_group(const struct stage *s, size_t i)
{
	size_t both = i + ROLE_BOTH, first = i + ROLE_FIRST, dfirst = i + ROLE_DEVICE_FIRST;

	child_count(s, i, "CPU counter", word_of(s, i, 0), s->cpu[i], false);
	child_count(s, i + 1, "CPU counter", word_of(s, i + 1, 0), s->cpu[i + 1], false);
	child_count(s, i + 2, "device counter", word_of(s, i + 2, 0), s->device[i + 2], true);
	child_count(s, i + 3, "device counter", word_of(s, i + 3, 0), s->device[i + 3], true);
	child_count(s, both, "CPU of both", word_of(s, both, 0), s->cpu[both], false);
	child_count(s, both, "device of both", word_of(s, both, DEVICE_WORD), s->device[both],
		    true);
	child_count(s, both, "device 1 of both", word_of(s, both, DEVICE_WORD_1), s->device_1[both],
		    true);
	if (word_of(s, i + ROLE_ATOMIC, 0) - s->atomic[i + ROLE_ATOMIC] >
	    (raw_fork ? 100000 : ADDERS))
		child_wrong(s, "counter of all", i + ROLE_ATOMIC, word_of(s, i + ROLE_ATOMIC, 0),
			    s->atomic[i + ROLE_ATOMIC]);
	if (word_of(s, first, 0) - word_of(s, first + 1, 0) > 1)
		child_wrong(s, "second before first, CPU", first, word_of(s, first + 1, 0),
			    word_of(s, first, 0));
	if (!raw_fork && word_of(s, dfirst, 0) - word_of(s, dfirst + 1, 0) > 1)
		child_wrong(s, "second before first, device", dfirst, word_of(s, dfirst + 1, 0),
			    word_of(s, dfirst, 0));
}

UNSEEN static void child_look(const struct stage *s)
{
	size_t i;

	child_begin();
	for (i = 0; i < s->mosaic; i += ROLES)
		child_group(s, i);
	for (i = s->mosaic; i < s->pages; i++)
		if (!s->claimed[i] && word_of(s, i, 0) != s->stamp[i])
			child_wrong(s, "field", i, word_of(s, i, 0), s->stamp[i]);
	child_exit(raw_fork, 0);
}

void fork_once(struct actor *a, bool raw)
{
	pid_t pid;
	int status;

	raw_fork = raw;
	pid = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, NULL, NULL, 0) : fork();
	if (!pid)
		child_look(a->s);
	status = child_wait(pid);
	if (status)
		wrong(a, raw ? "child, raw" : "child", a->s->mem, (uint64_t)status, 0);
	turn(a);
}
