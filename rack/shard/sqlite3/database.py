"""The database of an SQLite shard: opening, transactions, fork. What is done in one stands in :mod:`.operations`.

Writers queue at a flock on a file of their own, because SQLite's busy handler sleeps and retries, which is neither
fair nor fast. Opening and closing take it too, so that nobody meets the first opener's recovery or the last closer's
checkpoint. The flock is never on the database itself: SQLite's locks there are fcntl locks, which the process would
lose whenever it closed another descriptor of that file.

A connection is never carried across a fork: the child would believe that it holds locks that it does not. Both sides
open anew at their next use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sqlite3
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_UN, flock
from threading import RLock
from typing import Any, TypeVar
from urllib.parse import quote

from rack.errors import (
    LockTimeoutError,
    NotOpenError,
    RackError,
    ReentrantWriteError,
    StoreDeletedError,
    StoreFullError,
    StorePathError,
    TooLargeError,
)
from rack.shard.base import ShardSpec
from rack.shard.problem import Problem, corrupt, identity_problem, read_only
from rack.shard.snapshot import Snapshots
from rack.system.flock import flock_within

Result = TypeVar("Result")

_SYNCHRONOUS = {"process": "NORMAL", "everysec": "NORMAL", "always": "FULL"}
ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter when a damaged name is in the message
_BUSY_SECONDS = 60  # for programs that do not queue, such as the sqlite3 shell; then it is tried again
# The log is moved into the database, and both are synced, when it has this many pages (16 MiB). SQLite's default of
# 1,000 makes a set take 26 us instead of 17: the pages that many commits share are moved once.
_CHECKPOINT_PAGES = 4000


class SqliteDatabase:
    """``_lock`` is held around each use of ``_connection``, which is None until the first use after a fork."""

    def __init__(self, spec: ShardSpec, rejoin: Callable[[], None]) -> None:
        self._spec = spec
        self._rejoin = rejoin
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._queue = -1  # descriptor of the file that writers queue at
        self._closed = False
        self._check_write: Callable[[bool], None] | None = None
        self._inode: tuple[int, int] | None = None
        self._snapshots = Snapshots()
        with self._lock:
            self._open()

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise NotOpenError("the container is closed; open it with `with` or open()")
        if self._connection is None:
            self._rejoin()
            self._open()
        assert self._connection is not None
        return self._connection

    def _read(self, body: Callable[..., Result], *args: Any) -> Result:
        with self._lock:
            connection = self._connection or self._connected()
            deadline = None
            while True:
                try:
                    return body(connection, *args)
                except ERRORS as error:
                    # Who may not write the log's index, and finds it in the middle of a change, is told READONLY.
                    deadline = deadline or time.monotonic() + _BUSY_SECONDS
                    if _code(error) & 0xFF != sqlite3.SQLITE_READONLY or time.monotonic() > deadline:
                        self._mend(error)
                    time.sleep(0.001)

    def _write(self, body: Callable[..., Result], *args: Any, transaction: bool = True) -> Result:
        """Run ``body(connection, *args)`` alone among writers; in a transaction, unless it is but one statement."""
        with self._lock:
            connection = self._connection or self._connected()
            if self._spec.readonly:
                raise read_only(self._spec.path)
            if connection.in_transaction:
                raise ReentrantWriteError(
                    f"{self._spec.path}: a write inside another write; a serializer must not use the store"
                )
            while True:
                try:
                    flock(self._queue, LOCK_EX)
                    if self._check_write is None and not transaction:
                        return body(connection, *args)
                    connection.execute("BEGIN IMMEDIATE")
                    if self._check_write is not None:
                        self._check_write(True)
                    result = body(connection, *args)
                    connection.execute("COMMIT")
                    return result
                except sqlite3.Error as error:
                    roll_back(connection)
                    if self._check_write is not None:
                        self._check_write(False)
                    self._mend(error)
                except BaseException:
                    roll_back(connection)
                    raise
                finally:
                    flock(self._queue, LOCK_UN)

    def _mend(self, error: Exception) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if _code(error) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise translated(error, self._spec.path) from error

    # The file

    def _open(self) -> None:
        path = self._spec.path
        try:
            # Before SQLite has the file open: closing a descriptor of it later would drop SQLite's locks.
            _check_header(path)
            self._check_inode()
            if not self._spec.readonly:  # who only reads need not wait for a writer
                self._queue = os.open(path + "-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as error:
            if isinstance(error, RackError):
                raise
            raise corrupt(path, "a shard of the store is missing", errno.ENOENT) from None
        except OSError as error:
            if isinstance(error, RackError):
                raise
            raise StorePathError(error.errno, error.strerror, path) from error
        try:
            if self._queue >= 0:
                flock_within(self._spec.timeout, self._queue, LOCK_EX, path + "-lock")
            self._connection = self._connect()
        except ERRORS as error:
            self._disconnect()
            raise translated(error, self._spec.path) from error
        except BaseException:
            self._disconnect()
            raise
        finally:
            if self._queue >= 0:
                flock(self._queue, LOCK_UN)

    def _check_inode(self) -> None:
        status = os.stat(self._spec.path)
        inode = (status.st_dev, status.st_ino)
        if self._inode not in (None, inode):
            raise StoreDeletedError(f"{self._spec.path} was replaced by another file while the store was open")
        self._inode = inode

    def _connect(self) -> sqlite3.Connection:
        spec = self._spec
        connection = connect(spec.path, "ro" if spec.readonly else "rw")
        try:
            try:
                row = connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone()
            except sqlite3.OperationalError:
                # A directory that cannot be written has no place for the shared memory of the log; without a log
                # there is nothing that needs it.
                if not spec.readonly or _size(spec.path + "-wal"):
                    raise
                connection.close()
                connection = connect(spec.path, "ro&immutable=1")
                self.unprotected = True  # SQLite neither locks it nor looks for changes
                row = connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone()
            check_identity(spec, row)
            connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[spec.durability]}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self, timeout: float | None = None) -> None:
        if self._queue >= 0 and self._connection is not None:
            flock_within(timeout, self._queue, LOCK_EX, self._spec.path + "-lock")
        connection, self._connection = self._connection, None
        queue, self._queue = self._queue, -1
        try:
            if connection is not None:
                connection.close()
        finally:
            if queue >= 0:
                os.close(queue)

    # Life

    @property
    def path(self) -> str:
        return self._spec.path

    def close(self, timeout: float | None = None) -> None:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
        try:
            self._disconnect(timeout)
            self._closed = True
            self._snapshots.lose("its store was closed")
        finally:
            self._lock.release()

    def on_write(self, check: Callable[[bool], None]) -> None:
        with self._lock:
            self._check_write = check

    def before_fork(self) -> None:
        self._lock.acquire()
        self._snapshots.detach()
        self._snapshots.before_fork()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        self._snapshots.after_fork_in_parent()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = RLock()
        self._snapshots.after_fork_in_child()


def connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # _lock is held around each use
    )


def translated(error: Exception, path: str) -> Exception:
    code = _code(error)
    kind = code & 0xFF
    if kind == sqlite3.SQLITE_READONLY:
        return read_only(path)
    if kind == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
        return TooLargeError(f"a key or value is larger than SQLite holds (about 10**9 bytes): {error}")
    if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return StoreFullError(errno.ENOSPC, f"{error}; nothing was changed", path)
    if kind == sqlite3.SQLITE_IOERR and _size_is_limited():
        return StoreFullError(errno.EFBIG, f"{error}: file-size limit; nothing was changed", path)
    if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorePathError(_reason(), str(error), path)
    return corrupt(path, f"is damaged: {error}")


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _disk_is_full(path: str) -> bool:
    """Whether there is no space for the file of shared memory, of which SQLite only says that it is an I/O error."""
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize < 1 << 16


def _size_is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _reason() -> int:
    """Return why a file cannot be opened or read, of which SQLite says nothing: are there descriptors for all four?"""
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(4):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            return error.errno or errno.EIO
    return errno.EIO


def identity(spec: ShardSpec) -> str:
    return f"rack-shard-1 {spec.store_id} {spec.number}"


def check_identity(spec: ShardSpec, row: Any) -> None:
    problem = identity_problem(identity(spec), None if row is None else row[0])
    if problem is not None:
        raise corrupt(spec.path, problem.message)


def _check_header(path: str) -> None:
    problem = header_problem(path)
    if problem is not None:
        raise corrupt(path, problem.message)


def header_problem(path: str) -> Problem | None:
    """Return what is wrong unless this is an SQLite database as long as its header says (sqlite.org/fileformat)."""
    with open(path, "rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 100:
        return Problem("structure", f"is truncated: {size} bytes are too few for a shard")
    if not header.startswith(b"SQLite format 3\0"):
        return Problem("foreign", "is not a Rack shard (it is no SQLite database)")
    page = int.from_bytes(header[16:18], "big")
    needed = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    # A checkpoint that was killed, or found no space, may have written the header before the rest, which is in the log.
    if size < needed and not _size(path + "-wal"):
        return Problem("structure", f"is truncated: it has {size} bytes and needs {needed}")
    return None
