#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's programs, unmodified, under `hmm run` with at most half of the memory they need.

usage: programs.py HMM PROGRAM [--full] [--times N]

Each is run without hmm first. Then it is run under it, and has to end the same way, with the
same output; and pages have to have gone out and come back, so that this shows something.

What is asserted does not depend on how fast the machine is. Of the peak, which does where
the engine does not get a CPU in time, the best of a few runs counts, with a wide margin; the
figure is printed.

Exit status: 0 passed; 1 failed; 77 skipped.
"""
import argparse
import os
import hashlib
import pathlib
import random
import sys

import limited
from limited import MIB, Failed

TRIES = 5  # for the peak


class Job:
    """One program: the command, and what it leaves."""

    def __init__(self, command, output, stdin=None, leader=True):
        self.command = command
        self.output = output  # a file, written anew by each run
        self.stdin = stdin
        self.leader = leader  # it has the memory itself; else a child of it


def lines_write(path, size):
    """Text that does not compress to nothing, and is the same each time."""
    rng = random.Random(6)
    with open(path, "w", encoding="ascii") as file:
        while file.tell() < size:
            file.write("".join(f"{rng.getrandbits(3600):x} {rng.choice('abcdef') * 9} "
                               f"{rng.getrandbits(20)}\n" for _ in range(100)))


def sort(work, full):
    lines_write(work / "lines", (250 if full else 28) * MIB)
    return Job([limited.need_program("sort"), "-S", "4G", "--parallel=2", str(work / "lines")],
               work / "out")


PYTHON = """
import hashlib, random
rng = random.Random(6)
count = {count}
names = dict()
for i in range(count):
    names[f"name {{i * 2654435761 % 4294967296:x}}"] = (i, str(i * 3), [i % 7])
inverse = {{value[0]: key for key, value in names.items()}}
digest = hashlib.sha256()
for turn in range(20):  # some parts often, all of it seldom
    start = rng.randrange(count)
    for i in range(start, start + count // 100):
        key = inverse[i % count]
        digest.update(f"{{key}} {{names[key]}}".encode())
for i in range({probes}):
    value = names[inverse[rng.randrange(count)]]
    digest.update(value[1].encode())
for i in range(0, count, 3):
    del names[inverse.pop(i)]
for key, value in names.items():
    digest.update(key.encode() + bytes(value[2]))
print(len(names), len(inverse), digest.hexdigest())
"""


def python(work, full):
    count, probes = (1200000, 20000) if full else (120000, 1000)
    path = work / "program.py"
    path.write_text(PYTHON.format(count=count, probes=probes))
    return Job([limited.need_program("python3"), str(path)], work / "out")


SQL = """
CREATE TABLE words(id INTEGER PRIMARY KEY, name TEXT, value INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
INSERT INTO words SELECT i, printf('%x-%d', i * 2654435761 % 4294967296, i),
	i * 7919 % 100003, printf('note %040d', i * i) FROM n;
CREATE INDEX by_name ON words(name);
CREATE INDEX by_value ON words(value, id);
SELECT count(*), sum(value), min(name), max(name) FROM words;
SELECT value % 10, count(*), sum(length(note)) FROM words GROUP BY 1 ORDER BY 1;
SELECT a.id, b.id FROM words a JOIN words b ON b.value = a.value + 1
	WHERE a.id % ({count} / 50) = 1 ORDER BY 1, 2;
UPDATE words SET value = value + 1 WHERE id % 3 = 0;
DELETE FROM words WHERE id % 5 = 0;
SELECT count(*), sum(value), sum(id) FROM words;
SELECT name FROM words WHERE name LIKE 'ff%' ORDER BY name LIMIT 50;
PRAGMA integrity_check;
"""


def sqlite(work, full):
    path = work / "in.sql"
    path.write_text(SQL.format(count=1500000 if full else 150000))
    return Job([limited.need_program("sqlite3"), "-batch", ":memory:"], work / "out", stdin=path)


FUNCTION = """
struct s{i} {{ int a[{n}]; struct s{i} *next; double d; }};
int f{i}(struct s{i} *s, int x, const char *t)
{{
	int sum = {i};

	for (int k = 0; s && k < {n}; k++, s = s->next) {{
		switch (x + k) {{
		case 1: sum += s->a[k] * {i}; break;
		case 2: sum ^= t[k] << {n}; break;
		case 5: sum -= (int)(s->d * {i}); break;
		default: s->a[k] = sum % ({i} + 1); s->d += sum;
		}}
		while (*t && *t != 'a' + {n})
			sum = sum * 31 + *t++;
		if (sum > {i} && s->next)
			s->next->a[{n} - 1] += f{before}((void *)s->next, sum, t);
	}}
	return sum + names{i}[x & 3][{n}];
}}
"""


def gcc(work, full):
    path = work / "large.c"
    with open(path, "w", encoding="ascii") as file:
        for i in range(3000 if full else 220):
            words = ", ".join(f'"{"abcdefghijklmnopqrstuvwxyz"[j:]}{i}"' for j in range(4))
            file.write(f"static const char *const names{i}[] = {{ {words} }};\n")
            file.write(f"int f{max(i - 1, 0)}();\n" if not i else "")
            file.write(FUNCTION.format(i=i, n=i % 9 + 3, before=max(i - 1, 0))
                       if i else "int f0(void *s, int x, const char *t)\n"
                                 "{ return x + !s + *t; }\n")
    return Job([limited.need_program("gcc"), "-g", "-O1", "-w", "-c", "-o", str(work / "out"),
                str(path)], work / "out", leader=False)


def xz(work, full):
    """
    Each text comes many times, then the next. Where nothing comes again soon, xz -9 looks at
    random places of all that it has, for each byte: right under a limit too, but very slow.
    """
    rng = random.Random(6)
    with open(work / "lines", "w", encoding="ascii") as file:
        for _ in range(512 if full else 48):
            text = f"{rng.getrandbits(8192):x}"
            for i in range(64):
                file.write(f"{i} {text}\n")
    return Job([limited.need_program("xz"), "-9", "-T1", "-c", str(work / "lines")], work / "out")


# The limits: small and full, MiB. They are at most half of what is needed, which is asserted.
PROGRAMS = {
    "sort": (sort, 14, 120),
    "python": (python, 24, 210),
    "sqlite": (sqlite, 16, 160),
    "gcc": (gcc, 24, 140),
    "xz": (xz, 24, 160),
}


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def once(job, prefix, work, seconds):
    """Status and output of one run."""
    job.output.unlink(missing_ok=True)
    out = work / "stdout" if str(job.output) in job.command else job.output
    with open(work / "err", "wb") as err:
        result = limited.run(prefix + job.command, seconds, job.stdin, out, err, cwd=work)
    result.output = digest(job.output)
    result.messages = (work / "err").read_bytes()
    return result


def stats_of(job, work):
    """Of the process that had the memory: the one that evicted most."""
    found = [limited.stats_read(path) for path in sorted(work.glob("stats.*"))]
    if not found:
        raise Failed("--stats wrote no file")
    return max(found, key=lambda stats: (stats["pages_out"], stats["resident_peak"]))


def compare(job, plain, hmm, limit, work, seconds):
    """One run under the limit."""
    for old in work.glob("stats.*"):
        old.unlink()
    stats = work / ("stats.one" if job.leader else "stats.%p")
    mine = once(job, limited.under(hmm, limit, stats), work, seconds)
    if mine.status != plain.status:
        raise Failed(f"exit status {mine.status}, not {plain.status}: "
                     + mine.messages.decode(errors="replace"))
    if mine.output != plain.output:
        raise Failed("the output is another one")
    if mine.messages != plain.messages:
        raise Failed("messages: " + mine.messages.decode(errors="replace"))
    mine.stats = stats_of(job, work)
    return mine


def check(job, hmm, limit, seconds, work):
    plain = once(job, [], work, seconds)
    if plain.status:
        raise Failed(f"without hmm: exit status {plain.status}: {plain.messages.decode()}")
    need = plain.anonymous
    if need < 2 * limit:
        raise Failed(f"it needs {need // MIB} MiB: a limit of {limit // MIB} is no half of that")
    for attempt in range(TRIES):
        mine = compare(job, plain, hmm, limit, work, seconds)
        stats = mine.stats
        print(f"needs {need / MIB:.1f} MiB, limit {limit / MIB:.0f}: peak "
              f"{stats['resident_peak'] / MIB:.1f}, {stats['pages_out']} pages out, "
              f"{stats['pages_back']} back, {stats['gate_overruns']} over the limit; "
              f"{plain.seconds:.1f} s, {mine.seconds:.1f} s under hmm run", flush=True)
        if not stats["held"]:
            raise Failed("the limit was not held")
        if stats["pages_out"] * 4096 < (need - limit) // 2:
            raise Failed("hardly a page went out")
        if not stats["pages_back"]:
            raise Failed("no page came back")
        if stats["resident_peak"] < (limit + need) // 2:
            return
    raise Failed(f"the peak is nearer to what it needs than to the limit, {TRIES} times")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2][len("usage: "):])
    parser.add_argument("hmm", type=os.path.abspath)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    limited.need_hmm(args.hmm)
    make, small, full = PROGRAMS[args.program]
    try:
        with limited.scratch() as name:
            work = pathlib.Path(name)
            job = make(work, args.full)
            for _ in range(args.times):
                check(job, args.hmm, (full if args.full else small) * MIB,
                      1800 if args.full else 120, work)
    except Failed as failure:
        print(f"FAILED: {args.program}: {failure}")
        sys.exit(1)


if __name__ == "__main__":
    main()
