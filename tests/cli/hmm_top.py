#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""hmm top in a terminal: the list, a map, keys, a new size, and the terminal afterwards.

hmm_top.py HMM FAKE-RUN [WRAPPER]
"""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

hmm, fake = sys.argv[1], sys.argv[2]
wrapper = sys.argv[3:]


class Terminal:
    """hmm top at one end of a terminal; what it wrote, without escape sequences."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execvp((wrapper + [hmm])[0], wrapper + [hmm, "top", *args])
        self.size(24, 100)
        self.raw = ""

    def size(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def text(self):
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\([A-Z0-9]|[=>78])", "", self.raw)

    def see(self, what, seconds=30):
        end = time.monotonic() + seconds
        while not re.search(what, self.text()):
            if time.monotonic() > end or not self.read(0.2):
                sys.exit(f"FAILED: not seen: {what}\n{self.text()[-3000:]}")

    def press(self, keys):
        self.raw = ""
        os.write(self.fd, keys.encode())

    def end(self):
        until = time.monotonic() + 30
        while self.read(0.2) and time.monotonic() < until:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        if status:
            sys.exit(f"FAILED: hmm top ended with {status}\n{self.text()[-3000:]}")
        if "\x1b[?1049l" not in self.raw:
            sys.exit("FAILED: the terminal was not given back")


def main():
    program = subprocess.Popen([fake], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = program.stdout.readline().split()[0]
    top = Terminal("--delay=0.3")
    top.see(r"programs? under hmm run")
    top.see(r"PID USER")
    top.see(pid + r" ")
    # It may not be alone here: its map by the cursor only where it is.
    top.press("\x1b[B\x1b[A")
    top.press("+-")
    top.press("q")
    top.end()

    top = Terminal("--delay=0.3", pid)
    top.see(r"holding, device dummy")
    top.see(r"RRRRRRRR")
    top.see(r"DDDDDDDD")
    top.press("+++")
    top.see(r"8\.0K")
    top.press("------")
    top.size(10, 60)
    top.press("\x1b[6~\x1b[5~ ")
    top.size(2, 10)
    top.press(" ")
    time.sleep(0.5)
    top.size(40, 200)
    top.press(" ")
    top.see(r"D")
    # Back to the programs, and the map goes when its program does.
    top.press("\x1b[D")
    top.see(r"PID USER")
    top.press("q")
    top.end()

    top = Terminal("--delay=0.3", pid)
    top.see(r"RRRRRRRR")
    program.stdin.close()
    program.wait()
    top.see(r"That program has ended")
    top.press("q")
    top.end()


if __name__ == "__main__":
    main()
