#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The probes of docs/tracing.md are those of the library, with as many arguments; and the
events of the trace file that it lists are those that the library knows."""
import pathlib
import re
import shutil
import subprocess
import sys

root, build = map(pathlib.Path, sys.argv[1:3])
doc = (root / "docs/tracing.md").read_text()
failed = 0


def compare(what, documented, built):
    global failed
    for name in sorted(documented.keys() | built.keys()):
        if documented.get(name) != built.get(name):
            print(f"{what} {name}: in the docs {documented.get(name)}, built {built.get(name)}")
            failed += 1
    print(f"{len(built)} {what}s compared")


def rows(section):
    text = doc.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            yield cells


# ---- the file: name, whether it has a duration, arguments; the device is no argument ----
source = re.sub(r"\s+", " ", (root / "src/core/trace_json.c").read_text())
table = source.split("points[TRACE_POINTS] = {")[1].split("}; ")[0]
built = {}
for entry in table.split("[TRACE_")[1:]:
    name = re.search(r'"([^"]+)", (true|false)', entry)
    if name[1] != "thread":
        args = re.findall(r'(?:HEX|DEC|WORD)\("(\w+)"', entry)
        built[name[1]] = (name[2] == "false", args)
documented = {}
for name, slice_, args, _ in rows("The trace file"):
    name = re.sub(r" [A-Z]+$", "", name.strip("`"))
    if name != "dropped":
        args = [a for a in re.findall(r"`(\w+)`", args) if a != "device"]
        documented[name] = (slice_ == "yes", args)
compare("event", documented, built)

# ---- the probes: how many arguments ----
if len(sys.argv) > 3 and sys.argv[3] == "usdt":
    if not shutil.which("readelf"):
        print("skipped: no readelf")
        sys.exit(77)
    notes = subprocess.run(["readelf", "-n", build / "src/libhmm.so"], check=True, text=True,
                           capture_output=True).stdout
    built = {}
    for name, args in re.findall(r"Provider: hmm\n\s+Name: (\w+)\n.*\n\s+Arguments: ?(.*)", notes):
        if built.setdefault(name, len(args.split())) != len(args.split()):
            print(f"probe {name}: not always as many arguments")
            failed += 1
    compare("probe", {cells[0].strip("`"): len(re.findall(r"`\w+`", cells[1]))
                      for cells in rows("Probes")}, built)
sys.exit(1 if failed or not built else 0)
