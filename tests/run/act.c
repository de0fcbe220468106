/* SPDX-License-Identifier: MIT */
#include "act.h"

void act_failed(const char *file, int line, const char *what)
{
	char text[300];
	int n = snprintf(text, sizeof(text), "%s:%d: not so: %s (%s)\n", file, line, what,
			 strerror(errno));

	if (write(2, text, (size_t)n) != n)
		_exit(99);
	_exit(98);
}

/* Packs to a third or so. */
static uint64_t word(size_t i, uint64_t seed)
{
	return i % 4 ? (i + seed) / 16 : (i + 1) * (seed * 2 + 0x9e3779b97f4a7c15ull);
}

void data_fill(uint64_t *data, size_t bytes, uint64_t seed)
{
	size_t i;

	for (i = 0; i < bytes / sizeof(*data); i++)
		data[i] = word(i, seed);
}

void data_check(const uint64_t *data, size_t bytes, uint64_t seed)
{
	size_t i;

	for (i = 0; i < bytes / sizeof(*data); i++)
		must(data[i] == word(i, seed));
}

uint64_t *data_new(size_t bytes, uint64_t seed)
{
	uint64_t *data = malloc(bytes);

	must(data);
	data_fill(data, bytes, seed);
	return data;
}

int main(int argc, char **argv)
{
	static const struct act *const all[] = {
		acts_child,	acts_end,    acts_io,	  acts_memory,
		acts_privilege, acts_signal, acts_thread,
	};
	const struct act *act;
	size_t i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		for (act = all[i]; act->name; act++)
			if (argc < 2)
				puts(act->name);
			else if (!strcmp(act->name, argv[1]))
				return act->run(argv + 2);
	return argc < 2 ? 0 : 97;
}
