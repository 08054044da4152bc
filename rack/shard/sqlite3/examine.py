"""Goes over all of an SQLite shard: SQLite's own check, its identity, its count, its rows."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rack.errors import CorruptShardError, LockTimeoutError, StorePathError
from rack.shard.base import Examined, Pair, ShardSpec
from rack.shard.holding import operation, refuse_inside_change, settle
from rack.shard.problem import Problem, identity_problem
from rack.shard.sqlite3.connection import ERRORS, connect, identity, roll_back
from rack.shard.sqlite3.failure import translated
from rack.shard.sqlite3.header import header_problem
from rack.shard.sqlite3.transactions import SqliteTransactions
from rack.system.disk import path_error

_FINDINGS = 100
_BLOCK_BYTES = 1 << 20


def examine_file(spec: ShardSpec, alone: bool) -> Examined:
    """As :meth:`rack.shard.base.Shard.examine_file`."""
    try:
        problem = header_problem(spec.path)
    except FileNotFoundError:
        yield Problem("missing", "is missing")
        return
    except OSError as error:
        raise path_error(error, spec.path) from error
    if problem is not None:
        yield problem
        return
    try:
        with _connection(spec, alone) as connection:
            yield from _examine(connection, spec)
    except ERRORS as error:
        raise StorePathError(f"{spec.path} cannot be examined: {error}") from error


@operation
def examine_open(self: SqliteTransactions, timeout: float | None) -> Examined:
    """As :meth:`rack.shard.base.Shard.examine`, of which it is a part: an operation's shard is its ``self``."""
    refuse_inside_change(self)
    # Of an operation in whose middle a handler came.
    outer = self._held if self._lock._is_owned() else None  # type: ignore[attr-defined]
    inside = self._lock._is_owned() and self._busy  # type: ignore[attr-defined]
    try:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self.path}: another thread's write is still waiting; not examined")
        self._held, self._busy = outer or True, True  # so that a write in its middle knows of it
        yield from _examine(self._connected(), self._spec)
        self._held, self._busy = outer, inside
        self._lock.release()
    except BaseException as error:
        self._held = outer
        settle(self)
        if isinstance(error, ERRORS):
            raise translated(error, self.path) from error
        raise


@contextmanager
def _connection(spec: ShardSpec, alone: bool) -> Iterator[sqlite3.Connection]:
    """Open the database so that no file is changed.

    With its log, SQLite makes files beside the database and may move the log into it. Where nobody has the database
    open, it is opened without its log; if that has something in it, as a process that was killed leaves it, a copy is
    examined. Where somebody has, the files beside it are there, or nearly, and a reader changes nothing.
    """
    with contextlib.ExitStack() as stack:
        path, mode = spec.path, "ro&immutable=1"
        if not alone:
            # The log may come and go at any moment. Where there can be none, in a directory for reading alone, nobody
            # writes either.
            if os.path.exists(spec.path + "-wal") or os.access(os.path.dirname(spec.path), os.W_OK):
                mode = "ro"
        elif os.path.exists(spec.path + "-wal") and os.path.getsize(spec.path + "-wal"):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rack-verify-"))
            path, mode = os.path.join(directory, "shard"), "rw"
            for suffix in ("", "-wal"):
                shutil.copyfile(spec.path + suffix, path + suffix)
        yield stack.enter_context(contextlib.closing(connect(path, mode)))


def _examine(connection: sqlite3.Connection, spec: ShardSpec) -> Examined:
    try:
        connection.execute("BEGIN")  # several reads of one state
        yield from _examine_state(connection, spec)
    except ERRORS as error:
        if not _is_damage(error, spec.path):
            raise
        yield Problem("structure", f"is damaged: {error}")
    finally:
        roll_back(connection)


def _is_damage(error: Exception, path: str) -> bool:
    return isinstance(translated(error, path), CorruptShardError)


def _examine_state(connection: sqlite3.Connection, spec: ShardSpec) -> Examined:
    row = connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone()
    problem = identity_problem(identity(spec), None if row is None else row[0])
    if problem is not None:
        yield problem
    row = connection.execute("SELECT value FROM rack WHERE name = 'count'").fetchone()
    counted = row[0] if row is not None and type(row[0]) is int else None
    if counted is not None:
        yield counted
    found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({_FINDINGS})")]
    if found != ["ok"]:
        for text in found:
            yield Problem("structure", f"is damaged: {text}")
        return  # what its rows are is for a repair to find out
    number = 0
    last = None
    block: list[Pair] = []
    size = 0
    for key, value in connection.execute("SELECT key, value FROM entries ORDER BY key"):
        number += 1
        if type(key) is not bytes or type(value) is not bytes:
            yield Problem("record", f"has an entry that is not of blobs: {key!r:.60}")
            continue
        if last is not None and key <= last:
            yield Problem("order", f"has keys out of order at {key[:60]!r}")
        last = key
        block.append((key, value))
        size += len(key) + len(value)
        if size >= _BLOCK_BYTES or len(block) >= 1024:
            yield block
            block, size = [], 0
    yield block
    if number != counted:
        yield Problem("count", f"counts {counted} entries and has {number}")
