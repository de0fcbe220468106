#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""redis-server, unmodified, under `hmm run`: loaded, queried, and forked by BGSAVE meanwhile.

usage: redis.py HMM [--full] [--times N]

The same keys go into a server without hmm and into one under it. While redis-benchmark
writes and reads another of its databases, BGSAVE forks; afterwards it does again. Plain servers
load the two dumps, and everything must be the same by DEBUG DIGEST, which is over all keys
and values. No TCP port is used, and nothing but this directory.

Exit status: 0 passed; 1 failed; 77 skipped.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

import limited
from limited import MIB, Failed

OTHER = 1  # the database that redis-benchmark has for itself


class Server:
    """A redis-server with a directory and a socket of its own."""

    def __init__(self, program, work, seconds, prefix=(), dump=None):
        self.work = work
        self.seconds = seconds
        work.mkdir()
        if dump:
            shutil.copy(dump, work / "dump.rdb")
        self.socket = str(work / "socket")
        self.log = work / "log"
        command = [*prefix, str(program), "--port", "0", "--unixsocket", self.socket, "--save", "",
                   "--dir", str(work), "--logfile", str(self.log), "--daemonize", "no",
                   "--enable-debug-command", "yes", "--rdbchecksum", "yes"]
        with open(work / "err", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=err, stderr=err, start_new_session=True)
        self.wait(lambda: self.cli("PING", check=False) == "PONG", "to answer")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            limited.kill(self.process.pid)
        self.process.wait()

    def fail(self, why):
        limited.where_it_hangs(self.process.pid)
        for name in ("log", "err"):
            if (self.work / name).exists():
                print((self.work / name).read_text(errors="replace")[-3000:])
        raise Failed(why)

    def wait(self, condition, what):
        until = time.monotonic() + self.seconds
        while not condition():
            if self.process.poll() is not None:
                self.fail(f"the server ended with {self.process.returncode}")
            if time.monotonic() > until:
                self.fail(f"HANG: waited {self.seconds} s for the server {what}")
            time.sleep(0.05)

    def command(self, *words):
        return [limited.need_program("redis-cli"), "-s", self.socket, *words]

    def cli(self, *words, check=True, stdin=None):
        try:
            done = subprocess.run(self.command(*words), stdin=stdin or subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=self.seconds,
                                  check=False)
        except subprocess.TimeoutExpired:
            self.fail(f"HANG: redis-cli {' '.join(words)}")
        if check and (done.returncode or done.stdout.startswith("ERR")):
            self.fail(f"redis-cli {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def info(self, name):
        for line in self.cli("INFO").splitlines():
            if line.startswith(name + ":"):
                return line.partition(":")[2].strip()
        raise Failed(f"INFO has no {name}")

    def digest(self):
        return self.cli("DEBUG", "DIGEST")

    def load(self, path):
        with open(path, "rb") as commands:
            answer = self.cli("--pipe", stdin=commands)
        if "errors: 0," not in answer:
            self.fail(f"redis-cli --pipe: {answer}")

    def save(self, keep):
        """What BGSAVE writes, under another name."""
        self.cli("BGSAVE")
        self.wait(lambda: self.info("rdb_bgsave_in_progress") == "0", "to save")
        if self.info("rdb_last_bgsave_status") != "ok":
            self.fail("BGSAVE failed")
        shutil.move(self.work / "dump.rdb", keep)

    def memory(self):
        return int(limited.status_of(self.process.pid)["RssAnon"].split()[0]) * 1024

    def end(self):
        self.cli("SHUTDOWN", "NOSAVE", check=False)
        try:
            status = self.process.wait(self.seconds)
        except subprocess.TimeoutExpired:
            self.fail("HANG: SHUTDOWN")
        if status:
            self.fail(f"the server ended with {status}")


def commands_write(path, count):
    """Strings, hashes, lists and sorted sets, in redis's own protocol."""
    def send(file, *words):
        file.write(f"*{len(words)}\r\n")
        for word in words:
            file.write(f"${len(word)}\r\n{word}\r\n")

    with open(path, "w", encoding="ascii", newline="") as file:
        for i in range(count):
            text = f"{i * 2654435761 % 4294967296:x}"
            send(file, "SET", f"string:{i}", f"{text} " * 130)
            send(file, "HSET", f"hash:{i // 8}", f"field{i}", text, "last", str(i))
            send(file, "RPUSH", f"list:{i // 50}", text)
            send(file, "ZADD", f"rank:{i // 1000}", str(i * 7919 % 100003), text)


def benchmark(server, count):
    return [limited.need_program("redis-benchmark"), "-s", server.socket, "--dbnum", str(OTHER),
            "-q", "-c", "8", "-P", "4", "-r", "1000", "-n", str(count), "-d", "100",
            "-t", "set,get,incr,lpush,rpop,hset"]


def busy_and_saving(server, work, count, keep):
    """The dump is of a moment when the benchmark was in the middle."""
    with open(work / "benchmark", "w+", encoding="utf-8") as out:
        with subprocess.Popen(benchmark(server, count), stdin=subprocess.DEVNULL, stdout=out,
                              stderr=out) as load:
            try:
                server.wait(lambda: load.poll() is not None or
                            server.cli("-n", str(OTHER), "DBSIZE") not in ("0", ""), "to be busy")
                server.save(keep)
                status = load.wait(server.seconds)
            except subprocess.TimeoutExpired:
                server.fail("HANG: redis-benchmark")
            finally:
                load.kill()
        out.seek(0)
        said = out.read()
    if status or "rror" in said:
        raise Failed(f"redis-benchmark ended with {status}: {said}")


def loaded(program, work, seconds, dump, without_other):
    """The digest of what a plain server has that has loaded the dump."""
    with Server(program, work, seconds, dump=dump) as server:
        if without_other:
            server.cli("-n", str(OTHER), "FLUSHDB")
        digest = server.digest()
        server.end()
    return digest


def same(what, one, other):
    if one != other or len(one) != 40 or not one.strip("0"):
        raise Failed(f"{what}: digest {one}, not {other}")


def check(program, hmm, work, count, limit, seconds):
    commands_write(work / "commands", count)
    with Server(program, work / "plain", seconds) as server:
        server.load(work / "commands")
        need, digest = server.memory(), server.digest()
        server.end()
    if need < 2 * limit:
        raise Failed(f"it needs {need // MIB} MiB: a limit of {limit // MIB} is no half of that")
    stats = work / "stats"
    begun = time.monotonic()
    with Server(program, work / "limited", seconds, limited.under(hmm, limit, stats)) as server:
        server.load(work / "commands")
        same("after loading", server.digest(), digest)
        busy_and_saving(server, work, count, work / "busy.rdb")
        server.save(work / "idle.rdb")
        after = server.digest()
        server.end()
        seconds_taken = time.monotonic() - begun
        said = (server.work / "err").read_text()
    if said:
        raise Failed(f"messages: {said}")
    stats = limited.stats_read(stats)
    print(f"needs {need / MIB:.1f} MiB, limit {limit / MIB:.0f}: peak, as BGSAVE forks, "
          f"{stats['resident_peak'] / MIB:.1f}, {stats['pages_out']} pages out, "
          f"{stats['pages_back']} back, {stats['gate_overruns']} over the limit; "
          f"{seconds_taken:.1f} s", flush=True)
    same("the dump from while it was busy",
         loaded(program, work / "busy", seconds, work / "busy.rdb", True), digest)
    same("the dump from afterwards",
         loaded(program, work / "idle", seconds, work / "idle.rdb", False), after)
    if not stats["held"] or stats["pages_out"] * 4096 < need - limit or not stats["pages_back"]:
        raise Failed("hardly a page went out and came back")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2][len("usage: "):])
    parser.add_argument("hmm", type=os.path.abspath)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    limited.need_hmm(args.hmm)
    # Debian's redis-tools has it all: redis-server is redis-check-rdb by another name.
    real = limited.need_program("redis-server", "redis-check-rdb")
    limited.need_program("redis-benchmark")
    count, limit = (250000, 150) if args.full else (25000, 16)
    try:
        for _ in range(args.times):
            with limited.scratch() as name:
                work = pathlib.Path(name)
                program = work / "redis-server"
                program.symlink_to(real)
                check(program, args.hmm, work, count, limit * MIB, 900 if args.full else 120)
    except Failed as failure:
        print(f"FAILED: redis: {failure}")
        sys.exit(1)


if __name__ == "__main__":
    main()
