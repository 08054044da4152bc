"""Looks at an SQLite shard from outside, whoever has it open. It makes and changes no file, and waits for nobody.

The index of the log (``-shm``, sqlite.org/walformat) counts the commits, and has the marks of those who read in the
log. Which of them are in use, the locks on its bytes tell.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from contextlib import closing, suppress
from fcntl import LOCK_SH
from functools import partial
from io import FileIO

from rack.errors import LockTimeoutError, RackError
from rack.shard.base import ShardSpec
from rack.shard.figures import Access, Figures, OldestReader
from rack.shard.problem import missing
from rack.shard.sqlite3 import operations
from rack.shard.sqlite3.connection import ERRORS, check_identity, connect
from rack.shard.sqlite3.failure import code_of, translated
from rack.shard.sqlite3.header import check_header, files_state, size_of
from rack.system.disk import path_error
from rack.system.flock import flock_within, while_open

_TRIES = 50
_PATIENCE = 0.02  # seconds that are waited for those who open or close the database

# The index begins with two copies of: version, -, number of commits, flags, size of pages, last frame ... of 48 bytes.
# Behind them are the frames that were moved into the database, and five marks of readers, of which 0 reads in none.
_HEADER = struct.Struct("=III4xI28x")
_MARKS = struct.Struct("=6I")
_VERSION = 3007000
_MARK_LOCKS = 123  # the byte that a reader of mark 0 has locked
_NO_MARK = 0xFFFFFFFF
_FRAME = 4096 + 24


def figures(spec: ShardSpec, access: Access) -> Figures:
    """As :meth:`rack.shard.base.Shard.figures`."""
    path = spec.path
    try:
        if access.may_open:  # a descriptor of a database that is open here must not be closed
            check_header(path)
        os.stat(path)
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise error if isinstance(error, RackError) else path_error(error, path) from error
    try:
        entries, pages, free, page_size = _looked(spec, access.may_open)
    except ERRORS as error:
        raise translated(error, path) from error
    commits, oldest, known = _log_index(path, access)
    return Figures(
        entries=entries,
        size=pages * page_size,
        free=free * page_size,
        commits=commits,
        journal=size_of(path + "-wal"),
        oldest=oldest,
        readers_are_known=known,
    )


def _looked(spec: ShardSpec, may_queue: bool) -> tuple[int, int, int, int]:
    """Return the number of entries, of pages, of free pages, and their size.

    :param may_queue: this process has the store not open: a signal handler of its own would wait for it for ever.

    Without a log, nobody has the database open for writing, and it is read alone. So no file is made beside it. If
    somebody opens it meanwhile, that is done again.
    """
    path = spec.path
    for attempt in range(_TRIES):
        try:
            found = while_open(lambda: _queue(path) if may_queue else None, partial(_looked_in_queue, spec, attempt))
            return _looked_at(spec, attempt) if found is None else found
        except _PassingError:
            time.sleep(0.002)
    raise RackError(f"{path} changes too fast to be looked at: try again when fewer processes open and close it")


class _PassingError(Exception):
    """It may be otherwise the next time."""


def _queue(path: str) -> FileIO | None:
    """Open the file that writers queue at, if there is one."""
    try:
        return FileIO(path + "-lock")
    except OSError:
        return None


def _looked_in_queue(spec: ShardSpec, attempt: int, queue: int) -> tuple[int, int, int, int]:
    """Look while nobody opens or closes the database: SQLite would make a log where that has just been removed.

    A writer that has the queue for long, as it is stopped, opens and closes nothing either.
    """
    with suppress(LockTimeoutError):
        flock_within(_PATIENCE, queue, LOCK_SH, spec.path + "-lock")
    return _looked_at(spec, attempt)


def _looked_at(spec: ShardSpec, attempt: int) -> tuple[int, int, int, int]:
    path = spec.path
    state = files_state(path)
    has_log = size_of(path + "-wal") > 0
    if has_log and not os.path.exists(path + "-shm") and attempt > _TRIES // 2:
        raise RackError(
            f"{path} has a log without an index, as in a copy of files: what is in it can be told once the store"
            " has been opened for writing"
        )
    try:
        with closing(connect(path, "ro&readonly_shm=1" if has_log else "ro&immutable=1")) as connection:
            connection.execute("PRAGMA busy_timeout = 20")
            connection.execute("BEGIN")
            check_identity(spec, connection)
            pages, free, page_size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            found = operations.count(connection), pages, free, page_size
    except (sqlite3.Error, RackError) as error:
        if files_state(path) == state and not _is_passing(error):
            raise
        raise _PassingError from error
    if not has_log and files_state(path) != state:
        raise _PassingError
    return found


def _is_passing(error: Exception) -> bool:
    """Return whether it may be over the next time: the log or its index is just being made or removed."""
    passing = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
    return isinstance(error, sqlite3.Error) and code_of(error) & 0xFF in passing


def _log_index(path: str, access: Access) -> tuple[int | None, OldestReader | None, bool]:
    """Return how often was committed, who reads the oldest state in the log, and whether that is known."""
    if not os.path.exists(path + "-shm"):
        return 0, None, True  # it is open nowhere
    index = access.through(path + "-shm", lambda fd: os.pread(fd, 136, 0)) or b""
    if len(index) < 136:
        return None, None, False
    version, _, commits, last = _HEADER.unpack_from(index)
    if version != _VERSION:
        return None, None, False
    if access.locks is None:
        return commits, None, False
    marks = _MARKS.unpack_from(index, 96)[1:]  # the first is 0: who reads the database alone keeps all of the log
    reading: dict[int, set[int]] = {}
    for lock in access.locks.of(path + "-shm"):
        for number in range(len(marks)):
            is_read = lock.kind == "POSIX" and not lock.exclusive and lock.start <= _MARK_LOCKS + number <= lock.end
            if is_read and marks[number] != _NO_MARK:
                reading.setdefault(marks[number], set()).add(lock.pid)
    if not reading:
        return commits, None, True
    first = min(reading)
    behind = max(0, last - first)
    return commits, OldestReader(tuple(sorted(reading[first])), behind, behind * _FRAME), True
