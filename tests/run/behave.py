#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What programs do, without hmm and under `hmm run`: the same output and the same end.

usage: behave.py HMM ACT [--only WORD]

ACT is the program of tests/run/act.c, which has 40 MiB where the limit is 16. One line of TAP
for each act, and for each thing that `hmm run` refuses.

Exit status: 0 passed or skipped; 1 failed; 77 nothing could be run.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys

import limited
from limited import MIB, Failed

LIMIT = 16 * MIB
SECONDS = 100
TRIES = 5  # a short act can be over before the engine gets a CPU on a busy machine
REFUSED, CANNOT_RUN, NOT_FOUND = 125, 126, 127
# What goes out, if anything, is not looked at; the summary of "descriptors" is the shell's.
NO_DATA = ("given", "lock-all", "malloc", "descriptors")

ACTS = [
    "exit 0", "exit 3", "signal 6", "signal 9", "signal 11", "signal 15", "abrupt", "given a b",
    "descriptors", "cat", "barrier", "bus", "timer", "mask", "fork", "many", "vfork", "spawn",
    "daemon", "exec", "threads", "short", "turns", "fork-threads", "file", "direct", "pipe", "odd",
    "uring", "remap", "storm", "lock", "lock-all", "brk", "malloc", "rlimit", "early", "late", "close range",
    "close from", "close each", "close each late", "seccomp", "seccomp late",
]
PRELOADS = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
}


class Skipped(Exception):
    """And why."""


def run_act(command, work, env):
    out, err = work / "out", work / "err"
    with open(err, "wb") as messages:
        result = limited.run(command, SECONDS, work / "in", out, messages, env=env, cwd=work)
    return result.status, out.read_bytes(), err.read_bytes()


def same(hmm, act, words, work, env=None):
    """An act without and with hmm."""
    plain = run_act([act, *words], work, env)
    if plain[0] == limited.SKIPPED:
        raise Skipped("cannot be done here")
    for _ in range(TRIES):
        stats = work / "stats"
        stats.unlink(missing_ok=True)
        mine = run_act(limited.under(hmm, LIMIT, stats) + [act, *words], work, env)
        for what, one, other in zip(("exit status", "output", "messages"), plain, mine):
            if one != other:
                raise Failed(f"{what}: {one}, and under hmm run {other}")
        # It is not written by who is killed.
        if words[0] in NO_DATA or not stats.exists():
            return
        stats = limited.stats_read(stats)
        if stats["held"] and stats["pages_out"] * 4096 >= (40 * MIB - LIMIT) // 2:
            return
    raise Failed(f"hardly a page went out, {TRIES} times: {stats}")


def stop(hmm, act, work):
    """The caller sees it stop and go on, as that of any child."""
    command = limited.under(hmm, LIMIT, work / "stats") + [act, "stop"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGSTOP:
            raise Failed(f"not stopped: {status}")
        process.send_signal(signal.SIGCONT)
        try:
            if process.wait(SECONDS) != 3:
                raise Failed(f"ended with {process.returncode}")
        except subprocess.TimeoutExpired:
            limited.where_it_hangs(process.pid)
            process.kill()
            raise Failed("HANG after SIGCONT") from None


def preload(hmm, act, work, name):
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"):
        path = pathlib.Path(folder, PRELOADS[name])
        if path.exists():
            break
    else:
        raise Skipped(f"{PRELOADS[name]} is not installed")
    env = dict(os.environ, LD_PRELOAD=str(path))
    for words in (["exit", "0"], ["threads"], ["fork"], ["remap"]):
        same(hmm, act, words, work, env)


def refused(hmm, status, says, *words):
    done = subprocess.run([hmm, "run", *words], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=SECONDS, check=False)
    if done.returncode != status or done.stdout or says not in done.stderr:
        raise Failed(f"{words}: exit status {done.returncode}, not {status}: {done.stdout}"
                     f"{done.stderr}")


def refusals(hmm, work):
    """Each as a name and a call."""
    limit = "--limit=64M"
    plain, directory = work / "plain", work / "directory"
    plain.write_text("no program\n")
    plain.chmod(0o644)
    directory.mkdir()
    source = work / "static.c"
    source.write_text("int main(void) { return 0; }\n")
    static = work / "static"
    built = subprocess.run(["cc", "-static", "-o", str(static), str(source)],
                           capture_output=True, check=False).returncode == 0

    def without(condition, why, *rest):
        def call():
            if not condition:
                raise Skipped(why)
            refused(hmm, *rest)
        return call

    setuid = work / "setuid"
    root = os.geteuid() == 0
    if root:
        setuid.write_bytes(pathlib.Path("/bin/true").read_bytes())
        os.chown(setuid, 65534, 65534)
        setuid.chmod(0o4755)
    return [
        ("static", without(built, "nothing can be linked statically here", REFUSED,
                           "linked statically", limit, str(static))),
        ("setuid", without(root, "only root can make one", REFUSED, "setuid", limit,
                           str(setuid))),
        ("not found", lambda: refused(hmm, NOT_FOUND, "no-such", limit, "no-such-program")),
        ("no path", lambda: refused(hmm, NOT_FOUND, "no-such", limit, "/no-such/program")),
        ("not executable", lambda: refused(hmm, CANNOT_RUN, "ermission", limit, str(plain))),
        ("directory", lambda: refused(hmm, CANNOT_RUN, "", limit, str(directory))),
        ("no limit", lambda: refused(hmm, REFUSED, "limit", "true")),
        ("bad limit", lambda: refused(hmm, REFUSED, "no size", "--limit=many", "true")),
        ("small limit", lambda: refused(hmm, REFUSED, "too small", "--limit=1M", "true")),
        ("bad device", lambda: refused(hmm, REFUSED, "no device", limit, "--device=x", "true")),
        ("bad device option", lambda: refused(hmm, REFUSED, "no option", limit,
                                              "--device=lz4,x=1", "true")),
        ("bad option", lambda: refused(hmm, REFUSED, "no option", limit, "--x", "true")),
        ("no program", lambda: refused(hmm, REFUSED, "which program", limit)),
    ]


def cases(hmm, act, work):
    yield from ((f"refused: {name}", call) for name, call in refusals(hmm, work))
    for line in ACTS:
        yield line, lambda line=line: same(hmm, act, line.split(), work)
    yield "stop", lambda: stop(hmm, act, work)
    for name in PRELOADS:
        yield name, lambda name=name: preload(hmm, act, work, name)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2][len("usage: "):])
    parser.add_argument("hmm", type=os.path.abspath)
    parser.add_argument("act", type=os.path.abspath)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    limited.need_hmm(args.hmm)
    limited.no_core()
    failed = False
    with limited.scratch() as name:
        work = pathlib.Path(name)
        work.chmod(0o777)  # for who has become nobody
        (work / "in").write_bytes(os.urandom(5 * MIB))
        chosen = [case for case in cases(args.hmm, args.act, work) if args.only in case[0]]
        print(f"1..{len(chosen)}")
        for number, (what, call) in enumerate(chosen, 1):
            result, more = "ok", ""
            try:
                call()
            except Skipped as why:
                more = f" # SKIP {why}"
            except Failed as why:
                result, failed = "not ok", True
                print(f"# {why}"[:2000])
            print(f"{result} {number} {what}{more}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
