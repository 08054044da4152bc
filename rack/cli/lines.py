"""Keys and values as lines on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rack.cli.output import Output
from rack.codec.serdes import PRESETS

_BLOCK = 1 << 16  # bytes
_AS_STORED = ("str", "bytes", "json")


def writer(serdes: str) -> Callable[[Any], bytes]:
    """Return what turns an object into a part of a line."""
    if serdes in _AS_STORED:
        return PRESETS[serdes].dumps
    return lambda value: repr(value).encode(errors="backslashreplace")


def write_lines(lines: Iterable[bytes], end: bytes) -> int:
    """Write lines, each followed by ``end``, a block at a time; return how many there were."""
    output = Output()
    block: list[bytes] = []
    size = count = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _BLOCK:
            output.write(end.join([*block, b""]))
            count += len(block)
            block, size = [], 0
    if block:
        output.write(end.join([*block, b""]))
    return count + len(block)
