"""The database of an SQLite shard: opening, transactions, fork. What is done in one stands in :mod:`.operations`.

Writers queue at a flock on a file of their own, because SQLite's busy handler sleeps and retries, which is neither
fair nor fast. Opening and closing take it too, so that nobody meets the first opener's recovery or the last closer's
checkpoint. The flock is never on the database itself: SQLite's locks there are fcntl locks, which the process would
lose whenever it closed another descriptor of that file.

A connection is never carried across a fork: the child would believe that it holds locks that it does not. Both sides
open anew at their next use.
"""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_UN, flock
from itertools import count
from threading import RLock
from typing import Any, TypeVar

from rack.errors import LockTimeoutError, RackError, StoreDeletedError, StorePathError
from rack.shard.base import Home, ShardSpec
from rack.shard.descriptors import note_closed, note_opened
from rack.shard.holding import change, exclusive, is_under_way, operation, reentrant, settle
from rack.shard.place import located
from rack.shard.problem import closed, missing
from rack.shard.snapshot import Snapshots
from rack.shard.sqlite3.connection import (
    ERRORS,
    check_identity,
    connect,
    connect_to_read,
    identity,
    raise_change_counter,
)
from rack.shard.sqlite3.failure import is_full, translated
from rack.shard.sqlite3.header import check_header, files_state, holds
from rack.shard.sqlite3.room import Room
from rack.system.flock import attempt, flock_within
from rack.system.place import may_write, open_beside

Result = TypeVar("Result")

_epochs = count(1)
_SYNCHRONOUS = {"process": "NORMAL", "everysec": "NORMAL", "always": "FULL"}
# The log is moved into the database, and both are synced, when it has this many pages (16 MiB). SQLite's default of
# 1,000 makes a set take 26 us instead of 17: the pages that many commits share are moved once.
_CHECKPOINT_PAGES = 4000


def longest_log() -> int:
    """Return how many bytes the log has at most, unless a reader or a long transaction needs more of it."""
    return _CHECKPOINT_PAGES * 4096


class SqliteDatabase:
    """``_lock`` is held around each use of ``_connection``, which is None until the first use after a fork.

    What an operation that was cut off has left is put right where it ends, and, where even that could not be done, by
    the next operation: it finds the connection in a transaction.
    """

    _busy = False  # see rack.shard.holding
    _held: Any = None  # the file that writers queue at, locked by hold()
    _patience: float | None = None  # seconds that the present operation may wait
    _at_fork = False  # whether before_fork has taken the lock
    _epoch = 0  # the number of its connection, which no other one of this process has
    _pinned = False  # whether the connection is always in a transaction: a snapshot's

    _room: Room | None = None  # of who writes
    _is_marked = False  # whether it is put down that this process writes

    def __init__(self, spec: ShardSpec, home: Home, among: list[Any] | None = None) -> None:
        self._spec = spec
        self._home = home
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._queue_file: io.FileIO | None = None  # that writers queue at
        self._queue = -1  # its descriptor
        self._ending: sqlite3.Connection | None = None  # one that is being closed, and is not used any more
        self._closed = False
        self._check_write: Callable[[bool], None] | None = None
        self._inode: tuple[int, int] | None = None
        self._unprotected_state: object = None  # of the files, when they were opened without protection
        self._snapshots = Snapshots()
        if among is not None:
            among.append(self)
        try:
            # Who only reads has to know at once how, and who may not write, that he may not.
            if not self._is_checked() or spec.readonly or not may_write(spec.path):
                self._open()
        except BaseException:
            self._disconnect()
            raise

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise closed()
        if self._connection is None:
            if self._at_fork:  # a signal handler that came in the middle of a fork: this very thread has the queue
                raise reentrant(self.path)
            if is_under_way(_OPENING, "self", lambda other: other is self):
                raise reentrant(self.path, "opening the same shard, or putting it away")
            self._home.rejoin()
            self._open()
        assert self._connection is not None
        return self._connection

    # The file

    def _is_checked(self) -> bool:
        """Look at the file without opening it for use; return whether it is sure that it is this shard.

        Before SQLite has the file open: closing a descriptor of it later would drop SQLite's locks.

        :raises CorruptShardError: it is missing, cut short, or no database.
        """
        path = self._spec.path
        try:
            check_header(path)
            self._check_inode()
            return holds(path, identity(self._spec).encode())
        except FileNotFoundError:
            raise missing(path) from None
        except OSError as error:
            if isinstance(error, RackError):
                raise
            raise StorePathError(error.errno, error.strerror, path) from error

    def _open(self) -> None:
        """Open the file: when it is used for the first time, after a fork, or after it was put away."""
        path = self._locate().path
        try:
            status = self._check_inode()
            self.mere_reader = self._spec.readonly and not may_write(path)
            if not self._spec.readonly:  # who only reads need not wait for a writer
                self._queue_file = open_beside(path + "-lock", "r+", path)
                self._queue = self._queue_file.fileno()
            if os.geteuid() and (os.geteuid(), os.getegid()) != (status.st_uid, status.st_gid) and may_write(path):
                # SQLite makes files with the mode of the database's, but leaves owner and group to root.
                for suffix in ("-wal", "-shm"):
                    open_beside(path + suffix, "r", path).close()
        except FileNotFoundError as error:
            if isinstance(error, RackError):
                raise
            raise missing(path) from None
        except OSError as error:
            if isinstance(error, RackError):
                raise
            raise StorePathError(error.errno, error.strerror, path) from error
        try:
            if self._queue >= 0:
                flock_within(self._spec.timeout, self._queue, LOCK_EX, path + "-lock")
            self._connection = self._connected_in_room()
            self._epoch = next(_epochs)
            note_opened(self)
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
            self._reopen()

    @exclusive
    def _reopen(self) -> None:
        self._end_connection()
        self._open()

    def _check_inode(self) -> os.stat_result:
        status = os.stat(self._spec.path)
        inode = (status.st_dev, status.st_ino)
        if self._inode not in (None, inode):
            raise StoreDeletedError(f"{self._spec.path} was replaced by another file while the store was open")
        self._inode = inode
        return status

    def _connected_in_room(self) -> sqlite3.Connection:
        """Connect; the log and its index may need room that is kept for that."""
        self._room = None if self._queue < 0 else Room(self._spec.path, self._queue)
        while True:
            try:
                return self._connect()
            except sqlite3.Error as error:
                if self._room is None or not is_full(error, self._spec.path) or not self._room.give():
                    raise

    def _connect(self) -> sqlite3.Connection:
        spec = self._locate()
        if spec.readonly:
            connection, self._unprotected_state = connect_to_read(spec.path)
            self.unprotected = self._unprotected_state is not None
        else:
            connection = connect(spec.path, "rw")
        try:
            check_identity(spec, connection)
            connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[spec.durability]}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            # Some systems' SQLite would write every page that is freed: 20 of them to delete a value of 50 KB.
            connection.execute("PRAGMA secure_delete = FAST")
            # A log that had to become longer is cut to this when it is begun anew.
            connection.execute(f"PRAGMA journal_size_limit = {longest_log()}")
            if self._room is not None:
                self._room.begin(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        """Close what is open. Done again it goes on where an exception has cut it off."""
        if self._connection is not None:
            if self._queue >= 0:
                flock(self._queue, LOCK_EX)
            if self._connection.total_changes and not self._spec.readonly:
                raise_change_counter(self._connection)
        try:
            self._end_connection()
            if self._room is not None:
                self._room.close()
        finally:
            self._queue = -1
            self._room = None
            if self._queue_file is not None:
                self._queue_file.close()
        note_closed(self)

    def _end_connection(self) -> None:
        """Close the connection. At no instant is one in use that is closed, or one forgotten that is open."""
        self._ending = self._ending or self._connection
        self._connection = None
        if self._ending is not None:
            self._ending.close()
            self._ending = None

    # Life

    @property
    def path(self) -> str:
        return self._spec.path

    @change
    def close(self, timeout: float | None = None) -> None:
        try:
            if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
                raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
            if self._queue >= 0 and self._connection is not None:
                flock_within(timeout, self._queue, LOCK_EX, self._spec.path + "-lock")
            try:
                self._busy = self._closed = True
                self._disconnect()
                self._snapshots.lose("its store was closed")
                self._busy = False
            finally:
                self._lock.release()
        except BaseException:
            settle(self)
            raise

    @operation
    def put_away(self) -> bool:
        """Close the file until it is used again, unless it is in use just now; return whether it is closed."""
        lock = self._lock
        was_owned = True
        try:
            was_owned = lock._is_owned()  # type: ignore[attr-defined]
            if was_owned or not lock.acquire(blocking=False):
                return False
            self._busy = True
            is_shut = self._put_away()
            self._busy = False
            if lock._is_owned():  # type: ignore[attr-defined]  # a signal handler that came here may have given it back
                lock.release()
            return is_shut
        except BaseException:
            # Only what is called right here is sure to be called at the recursion limit.
            try:
                if not was_owned and lock._is_owned():  # type: ignore[attr-defined]
                    self._disconnect()  # from where it was cut off
            finally:
                if not was_owned and self._queue >= 0:
                    flock(self._queue, LOCK_UN)
                while not was_owned and lock._is_owned():  # type: ignore[attr-defined]
                    self._busy = False
                    lock.release()
            raise

    def _put_away(self) -> bool:
        if self._spec.readonly or self._snapshots:
            return False
        if self._connection is not None:
            if not attempt(self._queue, LOCK_EX):
                return False
            self._disconnect()
        return True

    @exclusive
    def on_write(self, check: Callable[[bool], None] | None) -> None:
        self._check_write = check

    # Called again when an exception has cut them off.

    @change
    def before_fork(self) -> None:
        if not self._at_fork:
            self._lock.acquire()
            self._at_fork = True
        self._busy = True
        self._snapshots.detach()
        self._snapshots.before_fork()
        self._disconnect()

    @operation
    def after_fork_in_parent(self) -> None:
        self._snapshots.after_fork_in_parent()
        if self._at_fork:
            self._busy = self._at_fork = False
            self._lock.release()
        settle(self)

    def after_fork_in_child(self) -> None:
        self._lock = RLock()
        self._busy = self._at_fork = self._is_marked = False
        self._patience = None
        self._held = None
        self._snapshots.after_fork_in_child()


_OPENING = {SqliteDatabase._open.__code__, SqliteDatabase._put_away.__code__}
