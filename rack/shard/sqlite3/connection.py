"""Connections to the database of an SQLite shard: how they are made, and what is done to them whoever has them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sqlite3
import time
from collections.abc import Iterator
from fcntl import LOCK_SH
from urllib.parse import quote

from rack.errors import ReadOnlyError
from rack.shard.base import ShardSpec
from rack.shard.problem import corrupt, identity_problem
from rack.shard.sqlite3.failure import code_of
from rack.shard.sqlite3.header import files_state, size_of
from rack.system.flock import flock_within
from rack.system.place import may_write

_IDENTITY = "SELECT value FROM rack WHERE name = 'identity'"
ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter when a damaged name is in the message
BUSY_SECONDS = 60  # for programs that do not queue, such as the sqlite3 shell; then it is tried again
_TRIES = 100  # of a reader who meets writers that come and go
_PATIENCE = 0.1  # seconds that it waits for one of them


def connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # _lock is held around each use
    )


def roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass


def connect_to_read(path: str) -> tuple[sqlite3.Connection, object]:
    """Connect so that who may not write leaves no file: those beside the database would lock out its owner.

    Where there is no log, nothing is needed but the database. Nobody has it open for writing then, and it is read
    without protection from who opens it later. (So it is in a directory that cannot be written to as well, where
    there is no place for the log's shared memory.)

    :returns: the connection, and the state of the files if it is read without protection, else None.
    """
    if may_write(path):
        connection = connect(path, "ro")
        try:
            connection.execute(_IDENTITY).fetchone()
            return connection, None
        except sqlite3.OperationalError:
            connection.close()
            if size_of(path + "-wal"):
                raise
    for attempt in range(_TRIES):
        with _undisturbed(path):
            if not (os.path.exists(path + "-wal") and os.path.exists(path + "-shm")):
                break
            connection = connect(path, "ro&readonly_shm=1")
            try:
                connection.execute(_IDENTITY).fetchone()
                return connection, None
            except sqlite3.OperationalError as error:  # they have just been removed, or are just being made
                connection.close()
                if code_of(error) & 0xFF == sqlite3.SQLITE_CORRUPT or attempt == _TRIES - 1:
                    raise
        time.sleep(0.002)
    if size_of(path + "-wal"):
        raise ReadOnlyError(
            errno.EACCES,
            "the shard was copied while it was in use, or its -shm was removed: its log can be read by who may"
            " write to the directory, and is there until the store is opened for writing",
            path,
        )
    state = files_state(path)
    return connect(path, "ro&immutable=1"), state  # SQLite neither locks it nor looks for changes


@contextlib.contextmanager
def _undisturbed(path: str) -> Iterator[None]:
    """Be in the writers' queue, so that nobody opens or closes the database meanwhile; not if that takes long."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(io.FileIO(path + "-lock"))
            flock_within(_PATIENCE, file.fileno(), LOCK_SH, path + "-lock")
        yield


def raise_change_counter(connection: sqlite3.Connection) -> None:
    """Have the database's first page written, and with it the counter, which SQLite leaves alone in WAL mode."""
    with contextlib.suppress(sqlite3.Error):  # no space
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute(f"PRAGMA user_version = {(version + 1) & 0x7FFFFFFF}")


def identity(spec: ShardSpec) -> str:
    return f"rack-shard-1 {spec.store_id} {spec.number}"


def check_identity(spec: ShardSpec, connection: sqlite3.Connection) -> None:
    row = connection.execute(_IDENTITY).fetchone()
    problem = identity_problem(identity(spec), None if row is None else row[0])
    if problem is not None:
        raise corrupt(spec.path, problem.message)
