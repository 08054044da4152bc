"""What can be read of an LMDB shard, live or as a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lmdb

from rack.shard.base import BLOCK_ITEMS, Shard
from rack.shard.holding import by_hand
from rack.shard.lmdb import operations
from rack.shard.lmdb.opening import MAX_KEY
from rack.shard.lmdb.sealed import PLAIN, unseal
from rack.shard.lmdb.transactions import LmdbTransactions


class LmdbReader(LmdbTransactions, Shard):
    @property
    def unprotected(self) -> bool:  # type: ignore[override]
        return self._unregistered

    # The most frequent operations carry their own transaction, and take the lock by hand, which is 0.1 us faster than
    # `with`. All of it is inside `try`, as an exception may come at any instruction; and what undoes it calls nothing
    # but C functions, here, where the lock was taken by one: so at the recursion limit that can be done too. An
    # lmdb.Error is left to _read, which does it all again, and so is a use in the middle of another operation of this
    # thread, by a signal handler say: here the lock is given back for good.

    @by_hand
    def get(self, key: bytes) -> bytes | None:
        if len(key) > 1 and not (self._busy and self._owned()):
            try:
                self._acquire()
                self._busy = True
                value: bytes | None = self._begin().get(key)
                self._busy = False
                self._release()
                if value is not None:
                    return value if len(value) <= PLAIN else unseal(value, self._spec.path)
                if len(key) <= MAX_KEY:
                    return None
            except BaseException as error:
                while self._owned():
                    self._busy = False
                    self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        return self._read(operations.get, key)

    @by_hand
    def contains(self, key: bytes) -> bool:
        if len(key) > 1 and not (self._busy and self._owned()):
            try:
                self._acquire()
                self._busy = True
                found: bool = self._begin(None, None, False, True).get(key) is not None  # a buffer: nothing is copied
                self._busy = False
                self._release()
                if found or len(key) <= MAX_KEY:
                    return found
            except BaseException as error:
                while self._owned():
                    self._busy = False
                    self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        return self._read(operations.contains, key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(operations.get_many, keys)

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._read(operations.scan, start, stop, reverse, values, limit)

    def count(self) -> int:
        return self._read(operations.count)

    def version(self) -> int:
        return self._read(operations.version)
