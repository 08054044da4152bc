"""Sorted runs of items that wait on the disk until all have come and they are merged.

They lie in files beside the store that have no name, so that nothing is left of them, however the process ends.
Neighbouring shards share a file, whose room is given back once they have been read: when that begins the files take
about as much of the disk as the data, and they shrink as the shards grow.
"""

from __future__ import annotations

import errno
import marshal
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import FileIO
from typing import Any

from rack.system.disk import path_error
from rack.system.place import scratch_path

_FILES = 16
_BLOCK_ITEMS = 512  # of a run, which are in memory while it is merged
_BLOCK_BYTES = 64 << 10
_HEAD = 4  # bytes, which tell how many follow
_VERSION = 2  # of marshal: the fastest
_UNSUPPORTED = (errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL)

#: What tells the key of an item, as of ``sort``.
Key = Callable[[Any], Any] | None


class Spill:
    """The runs of all shards of a store, of which ``beside`` is a path. Only shards that are empty at first have any.

    A shard that has entries is written in place: others are to see what comes, and not only when all has.
    ``key`` tells the key of an item; None: items are keys.
    """

    def __init__(self, beside: str, shards: int, is_empty: Callable[[int], bool], key: Key) -> None:
        self._beside = beside
        self._shards = shards
        self._is_empty = is_empty
        self._key = key
        self._takes: dict[int, bool] = {}
        self._runs: dict[int, list[tuple[int, int]]] = {}  # of each shard, where they begin and end in its file
        self._files: dict[int, FileIO] = {}
        self._ends: dict[int, int] = {}

    def takes(self, number: int) -> bool:
        """Return whether items of a shard may wait here."""
        if number not in self._takes:
            self._takes[number] = self._is_empty(number)
        return self._takes[number]

    def write(self, number: int, items: list[Any], size: int) -> bool:
        """Add a run to a shard's: items in order, of ``size`` bytes.

        False: there is no room, or no file can be made. Then nothing of it is kept, and no shard takes more.
        """
        place = self._place(number)
        begin = end = self._ends.get(place, 0)
        step = max(1, min(_BLOCK_ITEMS, len(items) * _BLOCK_BYTES // size))
        try:
            if place not in self._files:
                self._files[place] = _unnamed_file(self._beside)
            fd = self._files[place].fileno()
            for block in _cut(items, step, self._key):
                data = marshal.dumps(block, _VERSION)
                end = _write(fd, len(data).to_bytes(_HEAD, "little") + data, end)
        except OSError:
            self._takes = dict.fromkeys(range(self._shards), False)
            return False
        self._ends[place] = end
        self._runs.setdefault(number, []).append((begin, end))
        return True

    def count(self, number: int) -> int:
        """Return how many runs a shard has."""
        return len(self._runs.get(number, ()))

    def read(self, number: int) -> list[Iterator[list[Any]]]:
        """Return a shard's runs, the first one first; each in blocks, with no key in two of them."""
        file = self._files[self._place(number)]
        return [_blocks(file.fileno(), begin, end, self._beside) for begin, end in self._runs[number]]

    def forget(self, number: int) -> None:
        """Have no runs of a shard any more."""
        del self._runs[number]
        place = self._place(number)
        if place not in map(self._place, self._runs):
            self._files[place].truncate(0)
            self._ends[place] = 0

    def _place(self, number: int) -> int:
        return number * _FILES // self._shards

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _unnamed_file(beside: str) -> FileIO:
    """Return a new file that has no name, in the folder of another one."""
    if hasattr(os, "O_TMPFILE"):
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            return FileIO(os.path.dirname(beside), "r+", opener=lambda path, _: os.open(path, flags, 0o600))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    path = scratch_path(beside, "spill", anywhere=False)
    try:
        return FileIO(path, "x+", opener=lambda path, flags: os.open(path, flags, 0o600))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write(fd: int, data: bytes, at: int) -> int:
    """Write to a file, and return where that ends."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    return at


def _blocks(fd: int, at: int, end: int, beside: str) -> Iterator[list[Any]]:
    try:
        while at < end:
            size = int.from_bytes(os.pread(fd, _HEAD, at), "little")
            block: list[Any] = marshal.loads(os.pread(fd, size, at + _HEAD))
            yield block
            at += _HEAD + size
    except OSError as error:
        raise path_error(error, beside) from error


def _cut(items: list[Any], step: int, key: Key) -> Iterator[list[Any]]:
    """Yield sorted items in blocks, no key in two of them."""
    key_of = key or _itself
    at = 0
    while at < len(items):
        end = at + step
        while end < len(items) and key_of(items[end]) == key_of(items[end - 1]):
            end += 1
        yield items[at:end]
        at = end


def _itself(key: Any) -> Any:
    return key


def merged_runs(runs: Iterable[Iterator[list[Any]]], key: Key) -> Iterator[list[Any]]:
    """Yield the items of sorted runs in order; equal keys in the order of the runs. In a run no key is in two blocks.

    What may be yielded ends at the nearest end of a block: behind it, that run may have more. Sorting what the blocks
    have up to there is stable, and quicker than heapq.merge.
    """
    runs = list(runs)
    key_of = key or _itself
    pending = [next(run, []) for run in runs]
    while any(pending):
        bound = min(key_of(block[-1]) for block in pending if block)
        ready: list[Any] = []
        for number, block in enumerate(pending):
            cut = bisect_right(block, bound, key=key)
            ready += block[:cut]
            pending[number] = block[cut:] if cut < len(block) else next(runs[number], [])
        ready.sort(key=key)
        yield ready
