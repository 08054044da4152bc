"""The most frequent operations of an LMDB shard that is journalled (durability "everysec").

As those of :mod:`rack.shard.lmdb.plain`, with a record in the journal before each commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmdb

from rack.shard.holding import by_hand, change
from rack.shard.lmdb import operations
from rack.shard.lmdb.journal import PUT, pack_operation
from rack.shard.lmdb.mutex import look
from rack.shard.lmdb.opening import MAX_KEY
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.sealed import PLAIN, seal, unseal


class JournalledOperations(LmdbReader):
    _journalled: Any  # the Journalling
    _append: Any  # of its journal

    @by_hand
    @change
    def put(self, key: bytes, value: bytes) -> None:
        if 1 < len(key) <= MAX_KEY and len(value) <= PLAIN and not (self._busy and self._owned()):
            txn = None
            try:
                self._acquire()
                self._busy = True
                body = pack_operation(PUT, len(key), len(value)) + key + value
                if self._word[0]:
                    look(self._word)
                txn = self._begin_write()
                txn.put(key, value)
                if not self._append(txn.id(), body):
                    self._journalled.append(txn.id(), body)
                txn.commit()
                self._busy = False
                self._release()
                return
            except BaseException as error:
                try:
                    if txn is not None:
                        try:
                            self._journalled.take_back(txn)
                        finally:
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
                if txn.put(key, value, True, False):
                    body = pack_operation(PUT, len(key), len(value)) + key + value
                    if not self._append(txn.id(), body):
                        self._journalled.append(txn.id(), body)
                else:
                    present = txn.get(key)
                txn.commit()  # of nothing, perhaps: abort() would wait for a copy that another thread makes
                self._busy = False
                self._release()
                return present if present is None or len(present) <= PLAIN else unseal(present, self._spec.path)
            except BaseException as error:
                try:
                    if txn is not None:
                        try:
                            self._journalled.take_back(txn)
                        finally:
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
                    value = seal(value)
                    txn.put(key, value)
                    body = pack_operation(PUT, len(key), len(value)) + key + value
                    if not self._append(txn.id(), body):
                        self._journalled.append(txn.id(), body)
                txn.commit()
                self._busy = False
                self._release()
                return
            except BaseException as error:
                try:
                    if txn is not None:
                        try:
                            self._journalled.take_back(txn)
                        finally:
                            txn.abort()
                finally:
                    while self._owned():
                        self._busy = False
                        self._release()
                if not isinstance(error, lmdb.Error):
                    raise
        self._write(operations.modify, key, change)
