"""How an operation on an SQLite shard runs: alone among writers, and again where SQLite was busy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from typing import Any, TypeVar

from rack.errors import LockTimeoutError
from rack.shard.holding import change, exclusive, is_inside, operation, reentrant, refuse_inside_change, settle
from rack.shard.problem import closed, read_only
from rack.shard.sqlite3.connection import BUSY_SECONDS, ERRORS, roll_back
from rack.shard.sqlite3.database import SqliteDatabase
from rack.shard.sqlite3.failure import code_of, is_full, is_overflow, translated
from rack.system.flock import flock_within

Result = TypeVar("Result")


LOCK_EX_NB = LOCK_EX | LOCK_NB
#: How often the lock is tried, 1 us each, until it is waited for. A short transaction is over by then, and who sleeps
#: is woken up 20 us late.
_TRIES = 30


def _wait_for(queue: int) -> None:
    for _ in range(_TRIES):
        try:
            flock(queue, LOCK_EX_NB)
            return
        except BlockingIOError:
            pass
    flock(queue, LOCK_EX)


class SqliteTransactions(SqliteDatabase):
    """Runs ``body(connection, *args)``."""

    @operation
    def _read(self, body: Callable[..., Result], *args: Any) -> Result:
        try:
            with self._lock:
                inside = self._busy and is_inside(self)
                self._busy = True
                result = self._read_held(body, args, inside)
                self._busy = inside
                return result
        except BaseException:
            settle(self)
            raise

    # What runs with the lock held is a function of its own: before a `try:` inside another block there is an
    # instruction that no handler covers.

    def _read_held(self, body: Callable[..., Result], args: tuple[Any, ...], inside: bool) -> Result:
        connection = self._connection or self._connected()
        if connection.in_transaction and not (inside or self._pinned):
            roll_back(connection)  # of an operation that was cut off
        deadline = None
        while True:
            try:
                return body(connection, *args)
            except OverflowError as error:
                raise translated(error, self._spec.path) from error
            except ERRORS as error:
                # Who may not write the log's index, and finds it in the middle of a change, is told READONLY.
                deadline = deadline or time.monotonic() + BUSY_SECONDS
                if code_of(error) & 0xFF != sqlite3.SQLITE_READONLY or time.monotonic() > deadline:
                    self._mend(error)
                time.sleep(0.001)

    @change
    def _write(self, body: Callable[..., Result], *args: Any, transaction: bool = True) -> Result:
        """Run ``body(connection, *args)`` alone among writers; in a transaction, unless it is but one statement."""
        try:
            with self._lock:
                inside = self._busy and is_inside(self)
                self._busy = True
                if inside:
                    refuse_inside_change(self)
                result = self._write_held(body, args, transaction, inside)
                self._busy = inside
                return result
        except BaseException:
            settle(self)
            raise

    def _write_held(self, body: Callable[..., Result], args: Any, transaction: bool, inside: bool) -> Result:
        connection = self._connection or self._connected()
        if not self._is_marked:
            connection = self._marked()
        if connection.in_transaction:
            if inside:  # in the middle of reading several entries, or of keeping out writers
                raise reentrant(self.path)
            roll_back(connection)  # of an operation that was cut off
        remedies: Iterator[str] | None = None
        while True:
            try:
                if self._patience is None:
                    try:
                        flock(self._queue, LOCK_EX_NB)
                    except BlockingIOError:
                        _wait_for(self._queue)
                else:
                    flock_within(self._patience, self._queue, LOCK_EX, self._spec.path + "-lock")
                if transaction or self._check_write is not None:
                    connection.execute("BEGIN IMMEDIATE")
                    if self._check_write is not None:
                        self._check_write(True)
                    result = body(connection, *args)
                    connection.execute("COMMIT")
                else:
                    result = body(connection, *args)
                flock(self._queue, LOCK_UN)
                return result
            except BaseException as error:
                # At the recursion limit only what is called right here is sure to be called.
                remedy = None
                try:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    if isinstance(error, sqlite3.Error) and self._room is not None and is_full(error, self._spec.path):
                        remedies = remedies or self._room.remedies(connection, body, args)
                        remedy = next(remedies, None)
                except sqlite3.Error:
                    pass  # it was closed, or is rolled back
                finally:
                    if self._queue >= 0:
                        flock(self._queue, LOCK_UN)
                if is_overflow(error):
                    raise translated(error, self._spec.path) from error  # type: ignore[arg-type]
                if not isinstance(error, sqlite3.Error):
                    raise
                if self._check_write is not None:
                    self._check_write(False)
                if remedy is None:
                    self._mend(error)

    def _marked(self) -> sqlite3.Connection:
        """Have it put down that this process writes; return the connection."""
        if self._spec.readonly:
            raise read_only(self._spec.path)
        self._home.begin_writing()
        connection = self._connected()  # a signal handler may have closed it
        self._is_marked = True
        return connection

    @exclusive
    def rest(self) -> None:
        self._is_marked = False

    @operation
    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # in the middle of another operation of this thread
            return method(*args)
        try:
            if not self._lock.acquire(timeout=timeout):
                raise LockTimeoutError(f"another thread had {self._spec.path} for {timeout} s; nothing was changed")
            self._patience = timeout
            result = method(*args)
            self._patience = None
            self._lock.release()
            return result
        except BaseException:
            # Only what is called right here is sure to be called at the recursion limit; the lock was not taken before.
            if self._lock._is_owned():  # type: ignore[attr-defined]
                self._patience = None
            while self._lock._is_owned():  # type: ignore[attr-defined]
                self._busy = False
                self._lock.release()
            raise

    def _mend(self, error: Exception) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if self._closed:
            raise closed() from error  # meanwhile, by a signal handler
        if code_of(error) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise translated(error, self._spec.path) from error
        if self._patience is not None:
            raise LockTimeoutError(f"another program, which does not queue, has {self._spec.path} locked") from error
