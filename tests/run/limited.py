# SPDX-License-Identifier: MIT
"""What the tests of `hmm run` share: a program without hmm and under it, and what it used."""
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
SKIPPED = 77
POLL = 0.02  # seconds between two looks at what the program has


class Failed(Exception):
    """The test has failed, and why."""


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def need_program(*names):
    """The first of these that is there: Debian's own, not what else is first in PATH."""
    for name in names:
        path = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if path:
            return path
    skip(f"{names[0]} is not installed")


def need_hmm(hmm):
    """Where the kernel or this user cannot hold a limit there is nothing to test."""
    done = subprocess.run([hmm, "run", "--limit=64M", "--", "/bin/true"], text=True,
                          capture_output=True, timeout=60, check=False)
    if done.returncode == 125:
        skip(done.stderr.strip())
    if done.returncode:
        sys.exit(f"FAILED: hmm run /bin/true: {done.returncode}: {done.stderr}")


def scratch():
    """A directory of our own; gone when the test is, by a signal too."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    return tempfile.TemporaryDirectory(prefix="hmm-run-")


def family(pid):
    """A process and all that come from it, as far as they are there."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                text = pathlib.Path(f"/proc/{one}/task/{task}/children").read_text()
                found += [int(child) for child in text.split()]
        except OSError:
            pass
    return found


def status_of(pid):
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


def where_it_hangs(pid):
    """For the log of a test that ran into its time limit: each thread, and what it waits in."""
    for one in family(pid):
        for task in sorted(pathlib.Path(f"/proc/{one}/task").glob("*")):
            parts = [str(one), task.name]
            for name in ("comm", "wchan", "syscall"):
                try:
                    parts.append((task / name).read_text().strip())
                except OSError as error:
                    parts.append(str(error.strerror))
            parts.append(status_of(task.name).get("State", "").strip())
            print("  ", *parts)


class Result:
    """How a program ended, and what it used. Memory in bytes."""

    def __init__(self):
        self.status = None  # as in subprocess: negative is a signal
        self.seconds = 0.0
        self.peak = 0  # resident, of the largest process
        self.files = 0  # of that, pages of files
        self.stats = {}

    @property
    def anonymous(self):
        """At least so much memory of its own it had at its peak."""
        return self.peak - self.files


def watch(process, result, done):
    """ru_maxrss is exact, but has the pages of files in it; those only grow."""
    while not done.wait(POLL):
        for pid in family(process.pid):
            file = status_of(pid).get("RssFile", "0 kB").split()[0]
            result.files = max(result.files, int(file) * 1024)


def run(command, seconds, stdin=None, stdout=None, stderr=None, env=None, cwd=None):
    """A program to its end, or to its time limit: then all of it is killed, and it failed."""
    result = Result()
    begun = time.monotonic()
    with open(stdin or os.devnull, "rb") as source, open(stdout or os.devnull, "wb") as sink:
        with subprocess.Popen(command, stdin=source, stdout=sink, stderr=stderr, env=env, cwd=cwd,
                              start_new_session=True) as process:
            done = threading.Event()
            watcher = threading.Thread(target=watch, args=(process, result, done))
            watcher.start()
            late = threading.Timer(seconds, timed_out, (process,))
            late.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                kill(process.pid)
                raise
            finally:
                late.cancel()
                done.set()
                watcher.join()
            process.returncode = os.waitstatus_to_exitcode(status)
    result.status = process.returncode
    result.seconds = time.monotonic() - begun
    result.peak = usage.ru_maxrss * 1024
    if late.finished.is_set() and result.seconds >= seconds:
        raise Failed(f"HANG: {' '.join(command)} had not ended after {seconds} s")
    return result


def kill(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def timed_out(process):
    print(f"  time limit: {' '.join(process.args)}")
    where_it_hangs(process.pid)
    kill(process.pid)


def stats_read(path):
    """The file of --stats: names and numbers."""
    pairs = (line.split()[:2] for line in pathlib.Path(path).read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def under(hmm, limit, stats, *options):
    """What to put before a program's own command."""
    return [hmm, "run", f"--limit={limit}", f"--stats={stats}", *options, "--"]


def no_core():
    """Programs that are to die by a signal leave nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
