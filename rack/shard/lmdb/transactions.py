"""How an operation on an LMDB shard runs: in a transaction, which is tried again where the file has to grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import lmdb

from rack.errors import RackError, StoreFullError
from rack.shard.holding import change, exclusive, is_inside, operation, refuse_inside_change, settle
from rack.shard.lmdb import datafile
from rack.shard.lmdb.datafile import IDENTITY
from rack.shard.lmdb.environment import UNREGISTERED_TRIES, LmdbEnvironment
from rack.shard.lmdb.journaled import JournalledTxn
from rack.shard.lmdb.mutex import look
from rack.shard.lmdb.opening import identity, translated
from rack.shard.lmdb.operations import clear, only_removes
from rack.shard.problem import closed
from rack.shard.room import bytes_in

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
        overtaken = entered = 0
        txn = None
        try:
            while overtaken < UNREGISTERED_TRIES:
                number = -1
                was_kept = self._long is not None and self._long.kept
                try:
                    with self._env.begin() if self._unregistered else self._begin() as txn:
                        number = txn.id() if self._unregistered else -1
                        if self._long is not None:
                            entered = self._long.enter(txn)
                        result = body(self, txn, *args)
                    if not self._overtaken(number):
                        return result
                except lmdb.Error as error:
                    if not self._overtaken(number):
                        # A signal handler that comes before the handle is had may have got another one.
                        if not self._lost_table(entered) and (was_kept or self._long is None or not self._long.kept):
                            self._mend(error, body, args)
                        continue
                except Exception:
                    if not self._overtaken(number):
                        raise
                finally:
                    self._lost_table(entered)
                    entered = 0
                overtaken += 1
        except BaseException:
            if txn is not None:
                txn.abort()
            raise
        raise RackError(
            f"{self._spec.path} changes faster than it can be read without being registered as a reader:"
            f" get the permission to write {self._spec.path}-lock"
        )

    def _lost_table(self, entered: int) -> bool:
        """Return whether the handle of the table of long keys that a read has had was lost, and put that right."""
        if self._long is None or not self._long.is_lost(entered):
            return False
        self._long.kept = False
        if self._is_writing():
            self._begin_write = self._begin_first
        return True

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
                    if self._word[0]:
                        look(self._word)
                    txn = self._begin_write() if body is not nothing else self._begin_idle()
                    if self._journalled is not None:
                        txn = JournalledTxn(self._journalled, txn)
                    with txn:
                        return body(self, txn, *args)
                except (lmdb.Error, StoreFullError) as error:
                    try:
                        self._mend(error, body, args)
                    except StoreFullError:
                        if (recycled or not self._recycle()) and not (
                            only_removes(body, args) and self._home.give_room()
                        ):
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
                self._mend(error, nothing, ())

    def _mend(self, error: Exception, body: object, args: tuple[Any, ...]) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if self._check_write is not None:
            self._check_write(False)
        if self._begin == self._begin_closed:
            raise closed() from error  # meanwhile, by a signal handler
        if isinstance(error, lmdb.MapFullError):
            self._grow(self._removal_room(body) if only_removes(body, args) else 16 * datafile.PAGE + bytes_in(args))
        elif isinstance(error, lmdb.MapResizedError):
            self._adopt_size()
        elif isinstance(error, lmdb.ReadersFullError) and self._env.reader_check():
            pass
        elif type(error) is lmdb.Error and "closed/deleted" in str(error):
            pass  # the transaction: a signal handler that came in its middle has made the file larger
        elif isinstance(error, lmdb.Error):
            raise translated(error, self._spec.path) from error
        else:
            raise error  # the journal has no room

    def _removal_room(self, body: object) -> int:
        """Return how many bytes more of a map that is full removing takes."""
        if body is not clear:
            return datafile.REMOVAL_ROOM
        # All pages are noted as free in one record, 8 bytes each.
        return datafile.REMOVAL_ROOM + int(self._env.info()["map_size"]) // (datafile.PAGE // 8)

    @exclusive
    def _keep_tables(self) -> None:
        """Have handles of tables that hold in any transaction begun from now on; may wait for the writer."""
        while self._long is not None and not self._long.kept:
            try:
                self._long.keep()
            except lmdb.Error as error:
                self._mend(error, nothing, ())

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
