"""Writes into README.rst what its commands print: ``python3 docs/record.py``, or with ``--check`` whether it is so.

A comment ``.. recorded: COMMAND`` is followed by a literal block, which this fills. The commands run one after the
other in an empty directory. Numbers and dates differ from run to run: the check does not look at them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.rst"
_BLOCK = re.compile(r"^(\.\. recorded: (.+)\n\n::\n\n)((?:(?:    .*)?\n)+?)(?=\S|\Z)", re.MULTILINE)
_VARIES = re.compile(r"[\d.,:#]+|\b[kM]B\b|\bbytes\b|─+|━+")


def recorded(text: str) -> str:
    """Return the text with what its commands print now."""
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "COLUMNS": "78", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

        def run(found: re.Match[str]) -> str:
            done = subprocess.run(found[2], shell=True, cwd=place, env=environment, capture_output=True, check=True)
            printed = (done.stdout + done.stderr).decode().replace(sys.executable, "python3")
            return found[1] + "".join(f"    {line}".rstrip() + "\n" for line in printed.splitlines()) + "\n"

        return _BLOCK.sub(run, text)


def shape(text: str) -> list[list[str]]:
    """Return the words of each line of the recorded blocks, without what differs from run to run."""
    lines = "".join(block[2] for block in _BLOCK.findall(text)).splitlines()
    return [_VARIES.sub(" ", line).split() for line in lines]


def main() -> int:
    """Record, or with ``--check`` return 1 if what is recorded is not what is printed."""
    before = README.read_text()
    after = recorded(before)
    if "--check" not in sys.argv:
        README.write_text(after)
        return 0
    if shape(before) == shape(after):
        return 0
    for old, new in zip(shape(before), shape(after), strict=False):
        if old != new:
            print(f"README.rst has {old}\n    and now it is {new}")
    print("python3 docs/record.py makes it current")
    return 1


if __name__ == "__main__":
    sys.exit(main())
