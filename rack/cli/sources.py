"""What a command line names as inputs: how each is read, and how several workers share it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rack.cli.inputs import BLOCK, Input, InputError, PlainFile, Stream, blocks, is_compressed, named, open_compressed

#: A plain file is cut into parts of at least and at most so many bytes.
PART = (4 << 20, 64 << 20)

#: A block of records (see ``rack.cli.inputs``), and how many bytes of its input were used up for it.
Block = tuple[bytes, int]


@dataclass(frozen=True)
class Part:
    """The records of a file that begin at byte ``start`` or after, and before ``end``. A worker can read it."""

    path: str
    start: int = 0
    end: int | None = None

    def blocks(self, separator: bytes, size: int = BLOCK) -> Iterator[Block]:
        """:raises InputError: the file cannot be read."""
        with named(self.path):
            if is_compressed(self.path):
                yield from _blocks(open_compressed(self.path), separator, size)
            else:
                yield from _blocks(PlainFile(self.path, separator, self.start, self.end), separator, size)


@dataclass(frozen=True)
class Source:
    """One input. ``size`` is in bytes; None: it has none, as a pipe. ``local``: only this process can read it."""

    path: str
    size: int | None
    local: bool

    @classmethod
    def of(cls, path: str) -> Source:
        """Look at an input ("-" is standard input).

        :raises InputError: it cannot be one.
        """
        if path == "-" and sys.stdin is None:
            raise InputError("-: standard input is closed")
        with named(path):
            status = os.fstat(0) if path == "-" else os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: Is a directory")
        if not stat.S_ISREG(status.st_mode):
            return cls(path, None, True)
        # /dev/stdin, /dev/fd/5 and the like may mean a regular file, and another one in a worker.
        return cls(path, status.st_size, path == "-" or path.startswith(("/dev/", "/proc/")))

    @property
    def is_packed(self) -> bool:
        return is_compressed(self.path)

    def blocks(self, separator: bytes, idle: Callable[[], None], size: int = BLOCK) -> Iterator[Block]:
        """Read it here, ``size`` bytes at a time. ``idle`` is called now and then while a pipe has nothing to read.

        :raises InputError: it cannot be read.
        """
        if is_compressed(self.path):
            yield from Part(self.path).blocks(separator, size)
        else:
            with named(self.path):
                yield from _blocks(Stream(0 if self.path == "-" else self.path, idle), separator, size)

    def parts(self, workers: int) -> Iterator[Part]:
        """Cut it into more parts than there are ``workers``, so that all of them are busy until near the end."""
        if self.size is None or is_compressed(self.path):
            yield Part(self.path)
            return
        step = min(max(self.size // (4 * workers), PART[0]), PART[1])
        starts = range(0, max(self.size - step // 2, 1), step)
        for start in starts:
            # The last part has no end: the file may have grown.
            yield Part(self.path, start, None if start == starts[-1] else start + step)


def _blocks(source: Input, separator: bytes, size: int) -> Iterator[Block]:
    used = 0
    with source:
        for block in blocks(source, separator, size):
            yield block, source.consumed - used
            del block  # it is not kept while the next one is read
            used = source.consumed
