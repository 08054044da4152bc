"""A snapshot of an SQLite shard: a connection of its own, in a read transaction that stays open.

Its read mark in the write-ahead log keeps what it reads from being overwritten. A connection cannot be carried across
a fork, so before one the snapshot moves to a copy of the database, which nobody else opens.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Self

from rack.shard.base import ShardSpec
from rack.shard.holding import exclusive
from rack.shard.snapshot import SnapshotShard
from rack.shard.sqlite3.connection import connect, identity
from rack.shard.sqlite3.failure import translated
from rack.shard.sqlite3.header import files_state
from rack.shard.sqlite3.reader import SqliteReader
from rack.system.disk import sync_path
from rack.system.place import is_readonly_medium


class SqliteSnapshot(SnapshotShard, SqliteReader):
    """Reads as a live shard does, through a connection that is in a transaction."""

    suffix = ""
    companions = ()
    ordered = True
    _pinned = True
    _connection = None
    _closed = False

    @classmethod
    def take(cls, live: SqliteReader) -> Self:
        # The live connection stays open meanwhile: nobody meets the work of a first opener or a last closer.
        snapshot = live._read(lambda _: cls(live))
        if live.unprotected and not is_readonly_medium(live.path):
            snapshot.become_independent()
        return snapshot

    def __init__(self, live: SqliteReader) -> None:
        self._spec = live._spec
        self._is_unlocked = live.unprotected  # nothing keeps what it reads from being written to
        try:
            self._connection = live._connect()
            _begin(self._connection)
            self._start(live._snapshots)
        except BaseException:
            if self._connection is not None:
                self._connection.close()
            raise

    def _connected(self) -> sqlite3.Connection:
        """Called when there is no connection."""
        assert self._end is not None
        raise self._end.with_traceback(None)

    def copy_to(self, spec: ShardSpec) -> None:
        try:
            self._make_copy(spec)
        except sqlite3.Error as error:
            raise translated(error, spec.path) from error
        sync_path(spec.path)

    @exclusive  # no fork while SQLite is in use: the child would wait for its mutexes
    def _make_copy(self, spec: ShardSpec) -> None:
        self._write_copy(spec.path)
        with contextlib.closing(connect(spec.path, "rw")) as copy:
            copy.execute("PRAGMA journal_mode = WAL")
            copy.execute("UPDATE rack SET value = ? WHERE name = 'identity'", (identity(spec),))

    def _write_copy(self, path: str) -> None:
        with open(path, "xb"):
            pass
        with contextlib.closing(connect(path, "rw")) as copy:
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = OFF")
            self._read(lambda connection: connection.backup(copy))

    def _move_to(self, path: str) -> None:
        before = files_state(self._spec.path)
        self._write_copy(path)
        if self._is_unlocked and files_state(self._spec.path) != before:
            raise OSError("it was being written to")
        copy = connect(path, "ro&immutable=1")
        _begin(copy)
        assert self._connection is not None
        self._connection.close()
        self._connection = copy

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT value FROM rack WHERE name = 'count'").fetchone()  # the first read fixes what is seen
