"""What can be told of a shard at a glance: how much it holds, how much is free, who reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from io import FileIO
from typing import NamedTuple, TypeVar

from rack.system.flock import while_open
from rack.system.locktable import LockTable
from rack.system.place import file_id

Result = TypeVar("Result")


class OldestReader(NamedTuple):
    """Who reads the oldest state of a shard: a snapshot, or a read that is under way."""

    pids: tuple[int, ...]
    behind: int  # how many commits (SQLite: pages of the log) have come since
    held: int | None  # how many bytes it keeps from being used again; None: it is not known


class Figures(NamedTuple):
    """What a shard is like. None: it is not known."""

    entries: int
    size: int  # of the shard's own file, in bytes
    free: int  # bytes of it in which there is nothing
    commits: int | None  # a counter: of use if it is looked at twice
    journal: int = 0  # bytes of the journal, or log
    base: int = 0  # bytes of the journal's base
    unsynced: int | None = None  # bytes of the journal that are not known to be on the disk
    oldest: OldestReader | None = None
    readers_are_known: bool = False
    dead_readers: tuple[int, ...] = ()  # processes that died while they read, and keep pages from being used again


def size_of(paths: Iterable[str]) -> int:
    """Return how many bytes those files have that are there."""
    size = 0
    for path in paths:
        try:
            size += os.stat(path).st_size
        except OSError:
            continue
    return size


class Access:
    """How the files of a store may be looked at, of which the engine has fcntl locks on some.

    A process that closes any descriptor of such a file loses its locks on it. So where this process has the store open,
    the engine's own descriptors are used.

    :param may_open: this process has the store not open, nor opens it meanwhile.
    """

    def __init__(self, may_open: bool) -> None:
        self.may_open = may_open

    @cached_property
    def locks(self) -> LockTable | None:
        """The locks on all files; None: the system does not tell."""
        return LockTable.read()

    def through(self, path: str, body: Callable[[int], Result]) -> Result | None:
        """Return what ``body`` returns of a descriptor of a file; None if there is none to be had."""
        if self.may_open:
            return while_open(lambda: _opened(path), body)
        fd = self._descriptors.get(_file_at(path))
        return None if fd is None else body(fd)

    @cached_property
    def _descriptors(self) -> dict[tuple[int, int] | None, int]:
        """The descriptors of this process, by device and inode."""
        found: dict[tuple[int, int] | None, int] = {}
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # that of the listing itself
                found[file_id(os.fstat(int(name)))] = int(name)
        return found


def _opened(path: str) -> FileIO | None:
    try:
        return FileIO(path)
    except OSError:
        return None


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        return file_id(os.stat(path))
    except OSError:
        return None
