/* SPDX-License-Identifier: MIT */
/* Who changes the mosaic, a page at a time. */
#include "stress/stage.h"

static void set(struct actor *a, size_t i)
{
	uint64_t val = new_stamp(a, i);

	if (put(a, page_of(a->s, i), val))
		a->s->stamp[i] = val;
}

static void failed(struct actor *a, const char *what, const void *p)
{
	wrong(a, what, p, (uint64_t)errno, 0);
}

void *unmapper(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;
	size_t size = hmm_page_size();

	while (going_on(a)) {
		size_t i = pick(a, ROLE_UNMAP);
		void *p = page_of(s, i);

		look(a, p, s->stamp[i], "page that is unmapped");
		if (munmap(p, size))
			failed(a, "munmap", p);
		if (mmap(p, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != p)
			failed(a, "mmap", p);
		s->stamp[i] = 0;
		look(a, p, 0, "page just mapped");
		set(a, i);
		look(a, p, s->stamp[i], "page mapped and written");
		turn(a);
	}
	return NULL;
}

void *dropper(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_DROP);
		void *p = page_of(s, i);

		look(a, p, s->stamp[i], "page that is dropped");
		if (madvise(p, hmm_page_size(), MADV_DONTNEED))
			failed(a, "madvise", p);
		s->stamp[i] = 0;
		look(a, p, 0, "page just dropped");
		set(a, i);
		look(a, p, s->stamp[i], "page dropped and written");
		turn(a);
	}
	return NULL;
}

/* Freed, it holds what it held or nothing, until it is written. */
void *freer(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_FREE);
		volatile uint64_t *p = (void *)page_of(s, i);
		uint64_t val = 0;
		int ret = 0;

		look(a, (void *)p, s->stamp[i], "page that is freed");
		if (madvise((void *)p, hmm_page_size(), MADV_FREE))
			failed(a, "madvise free", (void *)p);
		if (roll(a) % 2)
			val = *p;
		else
			ret = device_load(a, (void *)p, &val);
		if (ret || (val && val != s->stamp[i]))
			wrong(a, "page just freed", (void *)p, ret ? (uint64_t)-ret : val, 0);
		set(a, i);
		look(a, (void *)p, s->stamp[i], "page freed and written");
		turn(a);
		/* Nothing around it migrates for 100 ms: not too often. */
		sleep_us(40000);
	}
	return NULL;
}

/* G3: once mprotect() has returned, a device has no more rights than the CPU. */
void *protector(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;
	size_t size = hmm_page_size();
	uint64_t val;

	while (going_on(a)) {
		size_t i = pick(a, ROLE_PROTECT);
		void *p = page_of(s, i);
		bool none = roll(a) % 2;

		look(a, p, s->stamp[i], "page that is protected");
		if (mprotect(p, size, none ? PROT_NONE : PROT_READ))
			failed(a, "mprotect", p);
		refused(a, device_store(a, p, 1), p, "device store to a page protected");
		if (none)
			refused(a, device_load(a, p, &val), p, "device load of a page protected");
		else
			look(a, p, s->stamp[i], "page read-only");
		if (mprotect(p, size, PROT_READ | PROT_WRITE))
			failed(a, "mprotect back", p);
		look(a, p, s->stamp[i], "page that was protected");
		set(a, i);
		look(a, p, s->stamp[i], "page protected and written");
		turn(a);
	}
	return NULL;
}

/* Through a pipe, which waits where the page is away. */
static void pass(struct actor *a, const int *fd, size_t i)
{
	size_t size = hmm_page_size();
	unsigned char *p = page_of(a->s, i);
	uint64_t buffer[8192], last = size / 8 - 1, val = new_stamp(a, i);

	if (write(fd[1], p, size) != (ssize_t)size)
		failed(a, "write(2)", p);
	else if (read(fd[0], buffer, size) != (ssize_t)size)
		failed(a, "read(2)", p);
	else if (buffer[0] != a->s->stamp[i] || buffer[last] != a->s->stamp[i])
		wrong(a, "page written to a pipe", p, buffer[0], a->s->stamp[i]);
	buffer[0] = buffer[last] = val;
	if (write(fd[1], buffer, size) != (ssize_t)size)
		failed(a, "write(2) of a buffer", p);
	else if (read(fd[0], p, size) != (ssize_t)size)
		failed(a, "read(2) into the page", p);
	a->s->stamp[i] = val;
}

void *reader_writer(void *arg)
{
	struct actor *a = arg;
	struct stage *s = a->s;
	int fd[2];

	if (pipe2(fd, O_CLOEXEC)) {
		failed(a, "pipe", NULL);
		return NULL;
	}
	while (going_on(a)) {
		size_t i = pick(a, ROLE_IO);

		pass(a, fd, i);
		look(a, page_of(s, i), s->stamp[i], "page read from a pipe");
		turn(a);
	}
	close(fd[0]);
	close(fd[1]);
	return NULL;
}
