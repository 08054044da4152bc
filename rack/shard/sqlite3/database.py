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
import sqlite3
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from threading import RLock
from typing import Any, TypeVar
from urllib.parse import quote

from rack.errors import (
    LockTimeoutError,
    NotOpenError,
    RackError,
    ReadOnlyError,
    ReentrantWriteError,
    StoreDeletedError,
    StorePathError,
)
from rack.shard.base import ShardSpec
from rack.shard.place import located
from rack.shard.problem import corrupt, identity_problem, read_only
from rack.shard.snapshot import Snapshots
from rack.shard.sqlite3.failure import code_of, translated
from rack.shard.sqlite3.header import check_header, files_state, size_of
from rack.system.flock import flock_within
from rack.system.place import may_write, open_beside

Result = TypeVar("Result")

_IDENTITY = "SELECT value FROM rack WHERE name = 'identity'"
_SYNCHRONOUS = {"process": "NORMAL", "everysec": "NORMAL", "always": "FULL"}
ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter when a damaged name is in the message
_BUSY_SECONDS = 60  # for programs that do not queue, such as the sqlite3 shell; then it is tried again
_TRIES = 100  # of a reader who meets writers that come and go
_PATIENCE = 0.1  # seconds that it waits for one of them
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
        self._unprotected_state: object = None  # of the files, when they were opened without protection
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
                    if code_of(error) & 0xFF != sqlite3.SQLITE_READONLY or time.monotonic() > deadline:
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
        if code_of(error) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise translated(error, self._spec.path) from error

    # The file

    def _open(self) -> None:
        path = self._locate().path
        try:
            # Before SQLite has the file open: closing a descriptor of it later would drop SQLite's locks.
            check_header(path)
            status = self._check_inode()
            self.mere_reader = self._spec.readonly and not may_write(path)
            if not self._spec.readonly:  # who only reads need not wait for a writer
                self._queue = open_beside(path + "-lock", os.O_RDWR, path)
            if os.geteuid() and (os.geteuid(), os.getegid()) != (status.st_uid, status.st_gid) and may_write(path):
                # SQLite makes files with the mode of the database's, but leaves owner and group to root.
                for suffix in ("-wal", "-shm"):
                    os.close(open_beside(path + suffix, os.O_RDONLY, path))
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

    def _locate(self) -> ShardSpec:
        """Return the spec, with the path at which the file is now."""
        self._spec = located(self._spec, self._inode)
        return self._spec

    def refresh(self) -> None:
        if self.unprotected and files_state(self._spec.path) != self._unprotected_state:
            with self._lock:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                self._open()

    def _check_inode(self) -> os.stat_result:
        status = os.stat(self._spec.path)
        inode = (status.st_dev, status.st_ino)
        if self._inode not in (None, inode):
            raise StoreDeletedError(f"{self._spec.path} was replaced by another file while the store was open")
        self._inode = inode
        return status

    def _connect(self) -> sqlite3.Connection:
        spec = self._locate()
        connection = self._connect_to_read(spec.path) if spec.readonly else connect(spec.path, "rw")
        try:
            check_identity(spec, connection.execute(_IDENTITY).fetchone())
            connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[spec.durability]}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_read(self, path: str) -> sqlite3.Connection:
        """Connect so that who may not write leaves no file: those beside the database would lock out its owner.

        Where there is no log, nothing is needed but the database. Nobody has it open for writing then, and it is read
        without protection from who opens it later. (So it is in a directory that cannot be written to as well, where
        there is no place for the log's shared memory.)
        """
        if may_write(path):
            connection = connect(path, "ro")
            try:
                connection.execute(_IDENTITY).fetchone()
                self.unprotected = False
                return connection
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
                    self.unprotected = False
                    return connection
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
        self._unprotected_state = files_state(path)
        self.unprotected = True  # SQLite neither locks it nor looks for changes
        return connect(path, "ro&immutable=1")

    def _disconnect(self, timeout: float | None = None) -> None:
        if self._queue >= 0 and self._connection is not None:
            flock_within(timeout, self._queue, LOCK_EX, self._spec.path + "-lock")
        if self._connection is not None and self._connection.total_changes and not self._spec.readonly:
            _raise_change_counter(self._connection)
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
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # _lock is held around each use
    )


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


@contextlib.contextmanager
def _undisturbed(path: str) -> Iterator[None]:
    """Be in the writers' queue, so that nobody opens or closes the database meanwhile; not if that takes long."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fd = os.open(path + "-lock", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            flock_within(_PATIENCE, fd, LOCK_SH, path + "-lock")
        yield


def _raise_change_counter(connection: sqlite3.Connection) -> None:
    """Have the database's first page written, and with it the counter, which SQLite leaves alone in WAL mode."""
    with contextlib.suppress(sqlite3.Error):  # no space
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute(f"PRAGMA user_version = {(version + 1) & 0x7FFFFFFF}")


def identity(spec: ShardSpec) -> str:
    return f"rack-shard-1 {spec.store_id} {spec.number}"


def check_identity(spec: ShardSpec, row: Any) -> None:
    problem = identity_problem(identity(spec), None if row is None else row[0])
    if problem is not None:
        raise corrupt(spec.path, problem.message)
