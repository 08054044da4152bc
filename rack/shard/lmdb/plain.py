"""The most frequent operations of an LMDB shard that write, where it is not journalled."""

from __future__ import annotations

from collections.abc import Callable

import lmdb

from rack.shard.holding import by_hand, change
from rack.shard.lmdb import operations
from rack.shard.lmdb.mutex import look
from rack.shard.lmdb.opening import MAX_KEY
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.sealed import PLAIN, seal, unseal


class PlainOperations(LmdbReader):
    # One key. As in the reader: an lmdb.Error, as for a long key or a full map, is left to _write, which does it again,
    # and so is a use in the middle of another operation of this thread.

    @by_hand
    @change
    def put(self, key: bytes, value: bytes) -> None:
        if 1 < len(key) <= MAX_KEY and len(value) <= PLAIN and not (self._busy and self._owned()):
            txn = None
            try:
                self._acquire()
                self._busy = True
                if self._word[0]:
                    look(self._word)
                txn = self._begin_write()
                txn.put(key, value)
                txn.commit()
                self._busy = False
                self._release()
                return
            except BaseException as error:
                try:
                    if txn is not None:
                        txn.abort()
                finally:
                    while self._owned():
                        self._busy = False
                        self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        self._write(operations.put, key, value)

    @by_hand
    @change
    def add(self, key: bytes, value: bytes) -> bytes | None:
        if 1 < len(key) <= MAX_KEY and len(value) <= PLAIN and not (self._busy and self._owned()):
            txn = present = None
            try:
                self._acquire()
                self._busy = True
                if self._word[0]:
                    look(self._word)
                txn = self._begin_write()
                if not txn.put(key, value, True, False):
                    present = txn.get(key)
                txn.commit()  # of nothing, perhaps: abort() would wait for a copy that another thread makes
                self._busy = False
                self._release()
                return present if present is None or len(present) <= PLAIN else unseal(present, self._spec.path)
            except BaseException as error:
                try:
                    if txn is not None:
                        txn.abort()
                finally:
                    while self._owned():
                        self._busy = False
                        self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        return self._write(operations.add, key, value)

    @by_hand
    @change
    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        if 1 < len(key) <= MAX_KEY and not (self._busy and self._owned()):
            txn = None
            try:
                self._acquire()
                self._busy = True
                if self._word[0]:
                    look(self._word)
                txn = self._begin_write()
                value = txn.get(key)
                value = change(value if value is None else unseal(value, self._spec.path))
                if value is not None:
                    txn.put(key, seal(value))
                txn.commit()
                self._busy = False
                self._release()
                return
            except BaseException as error:
                try:
                    if txn is not None:
                        txn.abort()
                finally:
                    while self._owned():
                        self._busy = False
                        self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        self._write(operations.modify, key, change)
