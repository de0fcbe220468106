#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The code in the docs is code of the project: a block with C in it is preceded by a
comment that names a file, and stands in that file as it is."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
failed = checked = 0
for doc in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
    text = doc.read_text()
    for block in re.finditer(r"(?:<!-- (\S+) -->\n)?```(\w*)\n(.*?)```", text, re.S):
        name, language, code = block.groups()
        line = text.count("\n", 0, block.start()) + 1
        where = f"{doc.relative_to(root)}:{line}"
        if name is None:
            if language == "c":
                print(f"{where}: a block of C that names no file")
                failed += 1
            continue
        checked += 1
        if code not in (root / name).read_text():
            print(f"{where}: this is not in {name}")
            failed += 1
print(f"{checked} blocks compared, {failed} wrong")
sys.exit(1 if failed or not checked else 0)
