"""How an operation on an LMDB shard runs: in a transaction, which is tried again where the file has to grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import lmdb

from rack.errors import RackError, StoreFullError
from rack.shard.holding import change, is_inside, operation, refuse_inside_change, settle
from rack.shard.lmdb import datafile
from rack.shard.lmdb.datafile import IDENTITY
from rack.shard.lmdb.environment import UNREGISTERED_TRIES, LmdbEnvironment
from rack.shard.lmdb.journaled import JournalledTxn
from rack.shard.lmdb.opening import identity, translated
from rack.shard.problem import closed

Result = TypeVar("Result")


def nothing(shard: object, txn: object) -> None:
    """Stands for the body of a write transaction in which nothing is written."""


class LmdbTransactions(LmdbEnvironment):
    """Runs ``body(shard, txn, *args)``, where the shard is this one."""

    @operation
    def _read(self, body: Callable[..., Result], *args: Any) -> Result:
        try:
            with self._lock:
                inside = self._busy and is_inside(self)
                self._busy = True
                result = self._read_held(body, args)
                self._busy = inside
                return result
        except BaseException:
            settle(self)
            raise

    # What runs with the lock held is a function of its own: before a `try:` inside another block there is an
    # instruction that no handler covers.

    def _read_held(self, body: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        overtaken = 0
        txn = None
        try:
            while overtaken < UNREGISTERED_TRIES:
                number = -1
                try:
                    with self._env.begin() if self._unregistered else self._begin() as txn:
                        number = txn.id() if self._unregistered else -1
                        if self._long is not None:
                            self._long.enter(txn)
                        result = body(self, txn, *args)
                    if not self._overtaken(number):
                        return result
                except lmdb.Error as error:
                    if not self._overtaken(number):
                        self._mend(error, args)
                        continue
                except Exception:
                    if not self._overtaken(number):
                        raise
                overtaken += 1
        except BaseException:
            if txn is not None:
                txn.abort()
            raise
        raise RackError(
            f"{self._spec.path} changes faster than it can be read without being registered as a reader:"
            f" get the permission to write {self._spec.path}-lock"
        )

    def _overtaken(self, number: int) -> bool:
        """Return whether pages of snapshot ``number`` may have been used again, as nobody knew that they were read.

        LMDB uses the pages of a snapshot again two commits later. (Registered readers have the number -1.)
        """
        return number >= 0 and self._env.info()["last_txnid"] > number + 1

    @change
    def _write(self, body: Callable[..., Result], *args: Any) -> Result:
        """Run ``body(self, txn, *args)`` in a write transaction, again after growing the map where that is needed.

        With :func:`nothing` nobody has to be told that this process writes.
        """
        try:
            with self._lock:
                inside = self._busy and is_inside(self)
                self._busy = True
                if inside:
                    refuse_inside_change(self)
                result = self._write_held(body, args)
                self._busy = inside
                return result
        except BaseException:
            settle(self)
            raise

    def _write_held(self, body: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        txn = None
        recycled = False
        try:
            while True:
                try:
                    txn = self._begin_write() if body is not nothing else self._begin_idle()
                    if self._journalled is not None:
                        txn = JournalledTxn(self._journalled, txn)
                    with txn:
                        if self._long is not None:
                            self._long.enter(txn)
                        result = body(self, txn, *args)
                    if self._long is not None:
                        self._long.keep()
                    return result
                except lmdb.Error as error:
                    try:
                        self._mend(error, args)
                    except StoreFullError:
                        if recycled or not self._recycle():
                            raise
                        recycled = True
        except BaseException:
            if txn is not None:
                txn.abort()
            raise

    def _started(self, begin: Callable[[], Any]) -> Any:
        """Return a transaction that stays open; the caller has the lock."""
        while True:
            try:
                return begin()
            except lmdb.Error as error:
                self._mend(error, ())

    def _mend(self, error: lmdb.Error, args: tuple[Any, ...]) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if self._check_write is not None:
            self._check_write(False)
        if self._begin == self._begin_closed:
            raise closed() from error  # meanwhile, by a signal handler
        if isinstance(error, lmdb.MapFullError):
            self._grow(_bytes_in(args))
        elif isinstance(error, lmdb.MapResizedError):
            self._adopt_size()
        elif isinstance(error, lmdb.ReadersFullError) and self._env.reader_check():
            pass
        elif type(error) is lmdb.Error and "closed/deleted" in str(error):
            pass  # the transaction: a signal handler that came in its middle has made the file larger
        else:
            raise translated(error, self._spec.path) from error

    def _keep_tables(self) -> None:
        """Have handles of tables that hold in any transaction begun from now on; may wait for the writer."""
        if self._long is not None and not self._long.kept:
            self._write(nothing)

    def _recycle(self) -> bool:
        """Make the pages that the last transactions freed available: LMDB uses them from the next but one on.

        Without this, a full shard that was emptied would stay full for ever: no transaction could come between.
        """
        try:
            for _ in range(2):
                with self._begin_write() as txn:
                    txn.put(IDENTITY, identity(self._spec))
        except lmdb.Error:
            return False
        return True


def _bytes_in(args: tuple[Any, ...]) -> int:
    """Return about how many bytes of a map an operation with these arguments may need."""
    need = 16 * datafile.PAGE
    for arg in args:
        if isinstance(arg, bytes):
            need += len(arg)
        elif isinstance(arg, list):
            for item in arg:
                need += len(item) if isinstance(item, bytes) else len(item[0]) + len(item[1]) + 16
    return need
