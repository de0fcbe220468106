#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the Linux kernel's own HMM test, unmodified, over the shim; docs/conformance.md.

usage: run.py WORK-DIRECTORY PROBE LIBRARY-TO-PRELOAD...

Takes the test's files from Debian's linux-source package, builds them in WORK-DIRECTORY, and
prints one line of TAP a test. A test that says SKIP is skipped, whatever its own line says.

Exit status: 0 all passed or skipped; 1 some failed; 77 nothing could be run.
"""
import collections
import contextlib
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile

SOURCE = pathlib.Path("/usr/src/linux-source-6.1.tar.xz")
TESTS = "tools/testing/selftests/vm/hmm-tests.c"
FILES = [
    TESTS,
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "lib/test_hmm_uapi.h",
    "mm/gup_test.h",
]
HUGE = pathlib.Path("/sys/kernel/mm/hugepages")
HUGE_PAGES = 2  # one test after the other uses one
HUGE_SILENT = ".compound"  # returns as if it had passed where there is none
# What libhmm does not do, and which tests fail for that: by the line that says so and no
# other, since nothing is skipped that fails for another reason.
STAYS = "Expected ret (-2) == 0 (0)"  # -ENOENT: the page did not move
LIMITS = {
    ".migrate_file_private": "what a file's private mapping has does not move",
}
SECONDS = 600  # for all; the tests end themselves after 30 each
LINES_SHOWN = 20  # of what one test says
LINES_LOOPING = 1000  # a test that failed can loop in its clean-up, and print


def skip_all(why):
    print(f"skipped: {why}")
    sys.exit(77)


def extract(work):
    """The files, from the package's archive. They are kept until that changes."""
    stat = SOURCE.stat()
    stamp = work / "stamp"
    text = f"{stat.st_size} {stat.st_mtime_ns}\n"
    if stamp.exists() and stamp.read_text() == text:
        return
    missing = set(FILES)
    with tarfile.open(SOURCE, "r|xz") as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if name not in missing:
                continue
            missing.remove(name)
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
            if not missing:
                break
    if missing:
        sys.exit(f"{SOURCE} does not have {' '.join(sorted(missing))}")
    stamp.write_text(text)


def build(work):
    """As the kernel's own Makefile does, which needs the rest of the kernel."""
    command = ["cc", "-g", "-O2", "-w", "-I.", TESTS, "-o", "hmm-tests", "-lpthread"]
    subprocess.run(command, cwd=work, check=True)
    return work / "hmm-tests"


@contextlib.contextmanager
def huge_pages():
    """Yields whether there are huge pages, and puts things back. The lock is shared with other
    tests that do so."""
    meminfo = pathlib.Path("/proc/meminfo").read_text()
    size = re.search(r"^Hugepagesize: +(\d+) kB$", meminfo, re.M)
    pool = HUGE / f"hugepages-{size[1]}kB" if size else None
    if not pool or not os.access(pool / "nr_hugepages", os.W_OK):
        yield bool(pool) and int((pool / "free_hugepages").read_text()) >= HUGE_PAGES
        return
    number = pool / "nr_hugepages"
    with open(number) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        was = int(number.read_text())
        number.write_text(str(was + HUGE_PAGES))
        added = int(number.read_text()) - was
        try:
            yield int((pool / "free_hugepages").read_text()) >= HUGE_PAGES
        finally:
            number.write_text(str(int(number.read_text()) - added))


def processes_of(session):
    """All that live in a session: the program, and its tests, each in a group of its own."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                yield int(path.parent.name)


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Report:
    """Turns what the program prints into TAP, a line at a time."""

    def __init__(self, huge):
        self.huge = huge
        self.counts = collections.Counter()
        self.begin("")

    def begin(self, name):
        self.name = name
        self.why = None  # it was skipped
        self.said = []
        self.lines = 0

    def result(self, passed, name):
        if passed and name.endswith(HUGE_SILENT) and not self.huge:
            self.why = "no huge page is to be had"
        if not passed and self.said and self.said[0].endswith(STAYS):
            self.why = LIMITS.get(name[name.rindex(".") :])
            passed = bool(self.why)
        result = "failed" if not passed else "skipped" if self.why else "passed"
        self.counts[result] += 1
        number = self.counts.total()
        if result == "skipped":
            print(f"ok {number} # SKIP {name}: {self.why}")
        else:
            print(f"{'ok' if passed else 'not ok'} {number} - {name}")
        if not passed:
            print("\n".join(self.said))

    def line(self, line):
        """Returns whether the test should be ended."""
        if match := re.match(r"1\.\.\d+$", line):
            print(line)
        elif match := re.match(r"#  RUN +(\S+) \.\.\.", line):
            self.begin(match[1])
        elif match := re.match(r"# +SKIP +(.*)", line):
            self.why = match[1]
        elif match := re.match(r"ok \d+ # SKIP (.*)", line):
            self.why = self.why or match[1]
            self.result(True, self.name)
        elif match := re.match(r"(not )?ok \d+ (\S+)", line):
            self.result(not match[1], match[2])
        else:
            self.lines += 1
            line = line if line.startswith("#") else "# " + line
            if len(self.said) < LINES_SHOWN and line not in self.said:
                self.said.append(line)
        return self.lines == LINES_LOOPING


def run(program, preload, huge):
    report = Report(huge)
    libraries = [pathlib.Path(name).absolute() for name in preload]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(str(path.parent) for path in libraries),
        "LD_PRELOAD": ":".join(path.name for path in libraries),
    }
    child = subprocess.Popen(
        [program],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        for line in child.stdout:
            if report.line(line.rstrip("\n")):
                kill(pid for pid in processes_of(child.pid) if pid != child.pid)
        status = child.wait()
    finally:
        while pids := list(processes_of(child.pid)):
            kill(pids)
    if report.name and status not in (0, 1):
        sys.exit(f"the program ended with status {status}, in or after {report.name}")
    return report.counts


def main():
    work, probe, *preload = sys.argv[1:]
    work = pathlib.Path(work)
    if not SOURCE.exists():
        skip_all(f"no {SOURCE}: Debian's package linux-source-6.1 is not installed")
    probed = subprocess.run([probe], stdout=subprocess.PIPE, text=True)
    if probed.returncode == 77:
        skip_all(probed.stdout.strip())
    work.mkdir(parents=True, exist_ok=True)
    extract(work)
    program = build(work)
    with huge_pages() as huge:
        counts = run(program, preload, huge)
    sys.exit(1 if counts["failed"] or not counts["passed"] else 0)


def end(signum, frame):
    # Once: what cleans up is not to be interrupted.
    for sig in (signal.SIGALRM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, signal.SIG_IGN)
    sys.exit(f"ended: {signal.Signals(signum).name}")


for sig in (signal.SIGALRM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(sig, end)
signal.alarm(SECONDS)
sys.stdout.reconfigure(line_buffering=True)
main()
