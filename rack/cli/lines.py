"""Lines on standard output, or in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Protocol

from rack.cli.output import Output

_BLOCK = 1 << 16  # bytes

# What a terminal may take for a command: control characters but the tab; and what turns the direction of writing.
_CONTROL = re.compile("[\0-\b\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class Sink(Protocol):
    """What blocks of lines are written to."""

    def write(self, data: bytes) -> object: ...


def write_lines(lines: Iterable[bytes], end: bytes, sink: Sink | None = None) -> int:
    """Write lines, each followed by ``end``, a block at a time; return how many there were.

    Without ``sink``, to standard output; where that is a terminal, control characters in a line are escaped.
    """
    if sink is None:
        sink = Output()
        if os.isatty(1):
            lines = map(harmless, lines)
    block: list[bytes] = []
    size = count = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _BLOCK:
            sink.write(end.join([*block, b""]))
            count += len(block)
            block, size = [], 0
    if block:
        sink.write(end.join([*block, b""]))
    return count + len(block)


def harmless(line: bytes) -> bytes:
    """Return a line for a terminal: what is no text, and control characters, as Python and JSON escape them."""
    text = line.decode(errors="backslashreplace")
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
