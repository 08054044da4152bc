"""Room on the disk for an SQLite shard: so much is kept that it can be emptied when the disk is full.

A page that is new to the database is first in the log alone. It takes a second place on the disk when the log is moved
into the database, and without that the log cannot be begun anew. On a full disk that would be the end. Therefore pages
are added only as far as there is room for them in both places. SQLite is told how many pages the database may have
(``max_page_count``), which costs nothing until they are used up; then room is kept for some more, in the file that
writers queue at. It is given up when the log is moved, which frees the log's own.

Besides, a little is kept for opening the shard, and for the log of the first entries that are removed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from rack.shard.room import bytes_in
from rack.shard.sqlite3 import operations
from rack.shard.sqlite3.header import size_of
from rack.system.disk import keep_room

_PAGE = 4096
_STEP = 64  # pages
_SPLIT = 8  # pages that a small entry may need
_GIVEN = 4 << 10  # bytes at a time: others, whose logs grow too, take what is given and not used
_KEPT = 128 << 10  # bytes: 32 KiB for the log's index, the rest for the log
_REMOVALS = (operations.delete, operations.pop, operations.pop_first, operations.delete_many, operations.clear)


class Room:
    """The room of a connection that writes. Its methods are called by who has ``queue``, the writers' file, locked."""

    def __init__(self, path: str, queue: int) -> None:
        self._path = path
        self._queue = queue
        self._limit = 0  # pages that the database may have; 0: it is not known
        self._left = 0  # bytes: about how much may be added yet

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # which is taken for: as many as there are
        self._limit = 0
        keep_room(self._queue, _KEPT)

    def give(self) -> bool:
        """Give up some of what is kept for removing entries and for opening; return False if there is nothing."""
        size = os.fstat(self._queue).st_size
        os.ftruncate(self._queue, max(0, size - _GIVEN))
        return size > 0

    def add(self, connection: sqlite3.Connection, need: int) -> bool:
        """Let pages be added for so many bytes, and some more, if there is room; return whether there is."""
        limit = _pages(connection) + (need + need // 2) // _PAGE + _STEP  # pages are two thirds full, or more
        if limit > self._limit:
            # It never gets less while somebody has the shard open: all connections' limits are kept.
            if not keep_room(self._queue, _KEPT + limit * _PAGE - size_of(self._path)):
                return False
            connection.execute(f"PRAGMA max_page_count = {limit}")
            self._limit = limit
        self._left = _STEP * _PAGE
        return True

    def has(self, need: int) -> bool:
        """Return whether there should be room to add so many bytes, and take that as done."""
        self._left -= 2 * need
        return self._left > 0

    def remedies(self, connection: sqlite3.Connection, body: Any, args: tuple[Any, ...]) -> Iterator[str]:
        """For an operation that finds no room: do something about it, each time before it is tried again."""
        need = bytes_in(args)
        removes = body in _REMOVALS
        if not removes:
            yield from self._additions(connection, need)
        self._move_log(connection, "RESTART")
        yield "the log is begun anew, in its own room"
        if not removes and self._is_short_of(connection, need):
            self._move_log(connection, "TRUNCATE")
        else:
            while self.give():
                yield "some of the last room is the log's"
        yield from self._additions(connection, need)

    def _additions(self, connection: sqlite3.Connection, need: int) -> Iterator[str]:
        """Let ever more pages be added: how many an operation needs is not known. It ends where there is no room."""
        present = self._limit
        while self.add(connection, need):
            if self._limit > present:
                yield "more pages may be added"
                present = self._limit
            need = 2 * need + _PAGE

    def _is_short_of(self, connection: sqlite3.Connection, need: int) -> bool:
        """Return whether so many bytes may need more pages than are free or may be added."""
        free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
        return _pages(connection) - free + need // _PAGE + _SPLIT > self._limit

    def _move_log(self, connection: sqlite3.Connection, mode: str) -> None:
        kept, end = os.fstat(self._queue).st_size, _pages(connection) * _PAGE
        missing = max(0, end - size_of(self._path))  # what the database grows by
        os.ftruncate(self._queue, max(0, kept - missing))
        operations.move_log(connection, mode)
        if end > size_of(self._path):  # somebody reads in the log
            keep_room(self._queue, kept)
        elif mode == "TRUNCATE":
            keep_room(self._queue, max(kept - missing, _KEPT))

    def close(self) -> None:
        """After the connection was closed: keep what is needed if it was the last one."""
        with contextlib.suppress(OSError):
            if not os.path.exists(self._path + "-wal"):
                if os.fstat(self._queue).st_size > _KEPT:
                    os.ftruncate(self._queue, _KEPT)
                keep_room(self._queue, _KEPT)


def _pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])
