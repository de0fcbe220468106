#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hmm run --trace: a process has a file, whatever ends it, and nobody writes another's.

hmm_run_trace.py HMM"""
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile

hmm = sys.argv[1]
tmp = tempfile.TemporaryDirectory(prefix="hmm-cli-")
path = os.path.join(tmp.name, "trace.json")
python = os.path.realpath(sys.executable)

NEEDED = ("cpu fault", "to device", "moved", "copy to device", "from device cpu")

# Three times the limit, filled, and then read when most of it is away; so much of it goes and
# comes back, however slow the machine. Who then dies at once has seen it written.
WORK = f"""
import os, signal, subprocess, sys, time
def resident():
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
def until(what):
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    raise TimeoutError(what.__name__)
def small():
    return resident() < 40 << 20
def written():
    own = {path!r} + "." + str(os.getpid())
    try:
        with open(own if os.path.exists(own) else {path!r}) as file:
            text = file.read()
    except OSError:
        return True # it is told elsewhere
    return all('"' + name + '"' in text for name in {NEEDED!r})
def quiet(): # a file is cut off where its process is killed, or exec'd, in the middle of a write
    def size():
        return sum(os.stat({path!r} + end).st_size for end in ("", "." + str(os.getpid()))
                   if os.path.exists({path!r} + end))
    before = size()
    for _ in range(10): # all is written that there is: more than the writer waits between two
        time.sleep(0.05)
        if size() != before:
            return False
    return True
def work():
    x = [bytes([i % 251]) * 65536 for i in range(1280)]
    until(small)
    for i, b in enumerate(2 * x):
        assert b[0] == b[-1] == i % 1280 % 251
    until(written)
    until(quiet)
work()
"""
FORK = """
pid = os.fork()
if not pid:
    work()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(pid)
"""
SMALL = """
import os
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
"""


def fail(why):
    print(f"FAILED: {why}")
    sys.exit(1)


def run(program, status=0, argv=None, old=None):
    """The files that are there afterwards, as {name: events}, and what it printed."""
    for name in glob.glob(path + "*"):
        os.unlink(name)
    if old is not None:
        with open(path, "w", encoding="ascii") as file:
            file.write(old)
    argv = argv or [python, "-c", WORK + program]
    done = subprocess.run([hmm, "run", "--limit=24M", "--device=lz4", "--trace", path, "--", *argv],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100, check=False)
    if done.returncode == 125 and b"cannot be held" in done.stderr:
        print(f"skipped: {done.stderr.decode()}")
        sys.exit(77)
    if done.returncode != status or done.stderr:
        fail(f"exit status {done.returncode}, and it said: {done.stderr.decode()}")
    files = {}
    for name in glob.glob(path + "*"):
        with open(name, encoding="ascii") as file:
            files[name] = json.load(file)
    return files, done.stdout.decode()


def names(events):
    return {event["name"] for event in events}


def check(events, pid=None):
    """It went to the device and came back; all of one process, whose totals are right."""
    for name in NEEDED:
        if name not in names(events):
            fail(f"no \"{name}\" among {names(events)}")
    if len({event["pid"] for event in events}) != 1 or pid not in (None, events[0]["pid"]):
        fail("events of another process")
    if events[-1]["name"] != "hmm_trace":
        fail("it lacks its end")
    records = sum(event["args"]["records"] for event in events if event["name"] == "hmm_trace")
    if records != sum(event["ph"] != "M" and event["name"] != "dropped" for event in events):
        fail("wrong totals")
    engine = {event["tid"] for event in events
              if event["name"] == "thread_name" and event["args"]["name"] == "hmm-run"}
    if not engine & {event["tid"] for event in events if event["name"] == "to device"}:
        fail("evictions are not on a thread hmm-run")


# However it ends; and an old file is not gone on with.
OLD = '[\n{"ph":"M","pid":1,"tid":1,"name":"old","args":{}}\n]\n'
for end, want in (("", 0), ("os._exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
                  ("os.abort()", -signal.SIGABRT)):
    got, _ = run(end, want, old=OLD)
    if list(got) != [path] or "old" in names(got[path]):
        fail(f"files {list(got)}, or an old one, after: {end}")
    check(got[path])

# A child has its own; one that is small has none.
got, said = run(FORK)
if set(got) != {path, f"{path}.{said.strip()}"}:
    fail(f"after fork: {list(got)}")
check(got[path])
if "fork" not in names(got[path]):
    fail("no fork")
check(got[f"{path}.{said.strip()}"], int(said))
got, _ = run("", argv=[python, "-c", SMALL])
if list(got) != [path]:
    fail(f"a small child writes: {list(got)}")

# exec: the process goes on in its file.
got, _ = run(f"os.execv({python!r}, [{python!r}, '-c', {WORK + 'print(os.getpid())'!r}])")
if list(got) != [path]:
    fail(f"after exec: {list(got)}")
check(got[path])
if sum(event["name"] == "process_name" for event in got[path]) != 2:
    fail("exec: not two programs in the file")
for argv in (["/bin/sh", "-c", 'exec "$@"', "sh", python, "-c", WORK], [python, "-c", WORK]):
    got, _ = run("", argv=argv)
    check(got[path])

# A child that is another program, made with and without libc's fork().
got, said = run(f"""
for way in (True, False):
    child = subprocess.Popen([{python!r}, '-c', {WORK!r}], close_fds=way)
    assert child.wait() == 0
    print(child.pid)
""")
if set(got) != {path} | {f"{path}.{pid}" for pid in said.split()}:
    fail(f"with children: {list(got)}")
for name, events in got.items():
    check(events, None if name == path else int(name.rsplit(".", 1)[1]))

# %p, and who clears its environment.
for name in glob.glob(path + "*"):
    os.unlink(name)
WITHOUT = path
path += ".%p"
got, said = run("print(os.getpid(), flush=True)" + FORK)
path = WITHOUT
if set(glob.glob(path + "*")) != {f"{path}.{pid}" for pid in said.split()}:
    fail("with %p")
got, _ = run("os.environ.clear()" + FORK)
check(got[path])
if list(got) != [path]:
    fail("a child without environment writes")

# What cannot be written is said at once.
done = subprocess.run([hmm, "run", "--limit=24M", "--trace=/nowhere/x", "--", "true"], check=False,
                      stderr=subprocess.PIPE, timeout=100)
if done.returncode != 125 or b"/nowhere/x" not in done.stderr:
    fail("a trace to nowhere")
print("all as it should be")
