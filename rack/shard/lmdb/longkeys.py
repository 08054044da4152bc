"""LMDB's table of long keys: those that cannot be LMDB keys of the main database.

They have over 511 bytes; or they are empty, or the same as one of Rack's own records there (00 and 01).

A record's LMDB key is the beginning of the long key, then ``hash(key)``, then a counter of four bytes that tells keys
with the same beginning and digest apart; 511 bytes in all. Its value is the length of the long key in four bytes, the
key, and the value; sealed (:mod:`rack.shard.lmdb.sealed`). The full key is always compared, so colliding digests are
correct, only slower. The beginning comes first so that the table is in order of the keys as far as they differ there;
keys that agree in it are sorted when they are read, at most a block at a time. The LMDB key of an empty key or one of
one byte is that and a zero byte.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import lmdb

from rack.errors import SerializationError
from rack.shard.base import BLOCK_BYTES, ShardSpec
from rack.shard.lmdb.sealed import seal, unseal

_WIDTH = 511
_COUNTER = 4


class LongKeys:
    """The operations on the table, inside a transaction of the shard."""

    def __init__(self, env: Any, name: bytes, spec: ShardSpec) -> None:
        self.table: Any = None
        self.entered = 0
        self._env = env
        self._name = name
        self.kept = env.flags()["readonly"]  # then there is nobody to wait for
        self._hash = spec.hash
        self._path = spec.path  # for messages
        if self.kept:
            self.table = env.open_db(name, create=False)
        else:
            with env.begin() as txn:
                self.enter(txn)  # so that it is known that the table is there

    def enter(self, txn: Any) -> int:
        """Have the table's handle in this transaction, which only reads.

        LMDB keeps a handle for good only if it was made in a write transaction, and making one just for that would
        wait, when the shard is opened, for a writer that may be stopped. So until something is written each
        transaction has a handle of its own, for under a microsecond.

        :returns: 0 if there is one for good; else a number for :meth:`is_lost`.
        :raises lmdb.NotFoundError: there is no such table.
        """
        if self.kept:
            return 0
        self.entered = mine = self.entered + 1
        self.table = self._env.open_db(self._name, txn, create=False)
        return mine

    def is_lost(self, mine: int) -> bool:
        """Return whether another transaction has got a handle in the middle of this one, in a signal handler say.

        Then this one cannot use its own any more; and its end closes that which there is now.
        """
        return mine > 0 and (self.kept or self.entered != mine)

    def keep(self) -> None:
        """Have a handle that holds in all transactions from now on; waits for the writer."""
        if not self.kept:
            self.entered += 1
            begun = []  # no variable refers to it: an exception's traceback would keep the transaction alive
            try:
                begun.append(self._env.begin(None, None, True))  # open_db() alone would wait with the GIL held
                self.table = self._env.open_db(self._name, begun[0], create=False)
                begun[0].commit()
                self.kept = True
            finally:
                begun.clear()

    def count(self, txn: Any) -> int:
        entries: int = txn.stat(self.table)["entries"]
        return entries

    def is_empty(self, txn: Any) -> bool:
        return not txn.cursor(self.table).first()  # which is quicker than to count

    def get(self, txn: Any, key: bytes) -> bytes | None:
        record_key = self.find(txn, key)
        if record_key is None:
            return None
        return self._split(txn.get(record_key, db=self.table))[1]

    def find(self, txn: Any, key: bytes) -> bytes | None:
        """Return the LMDB key of the record that holds ``key``."""
        for record_key, full_key in self._candidates(txn, key):
            if full_key == key:
                return record_key
        return None

    def put(self, txn: Any, key: bytes, value: bytes) -> None:
        counter = 0
        record_key = None
        for candidate, full_key in self._candidates(txn, key):
            if full_key == key:
                record_key = candidate
                break
            counter = int.from_bytes(candidate[-_COUNTER:], "big") + 1
        if record_key is None:
            record_key = stem_of(key, self._hash)
            if len(key) > 1:
                record_key += counter.to_bytes(_COUNTER, "big")
        txn.put(record_key, seal(len(key).to_bytes(4, "big") + key + value), db=self.table)

    def delete(self, txn: Any, key: bytes) -> bool:
        record_key = self.find(txn, key)
        return record_key is not None and bool(txn.delete(record_key, db=self.table))

    def scan(self, txn: Any, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int) -> list[Any]:
        """Return what :meth:`rack.shard.base.Shard.scan` has to, of the long keys."""
        block: list[Any] = []
        size = 0
        for group in self._groups(txn, start, stop, reverse):
            for key, record_key in self._sorted(txn, group, start, stop, reverse, limit):
                if not values:
                    block.append(key)
                    size += len(key)
                else:
                    value = self._split(txn.get(record_key, db=self.table))[1]
                    block.append((key, value))
                    size += len(key) + len(value)
                if len(block) >= limit or size >= BLOCK_BYTES:
                    return block
        return block

    def _split(self, stored: bytes | None) -> tuple[bytes, bytes]:
        """Cut a record into (key, value)."""
        if stored is None:
            raise lmdb.CorruptedError("a record of the table of long keys is not where it was just seen")
        record = unseal(stored, self._path)
        end = 4 + int.from_bytes(record[:4], "big")
        if end > len(record):
            raise lmdb.CorruptedError("a record of the table of long keys is cut short")
        return record[4:end], record[end:]

    def _full_key(self, cursor: Any) -> bytes:
        return self._split(cursor.value())[0]

    def _candidates(self, txn: Any, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (LMDB key, full key) of the records that may hold ``key``."""
        stem = stem_of(key, self._hash)
        if len(key) <= 1:
            if txn.get(stem, db=self.table) is not None:
                yield stem, key
            return
        cursor = txn.cursor(self.table)
        found = cursor.set_range(stem)
        while found:
            record_key = cursor.key()
            if not record_key.startswith(stem):
                return
            yield record_key, self._full_key(cursor)
            found = cursor.next()

    def _groups(self, txn: Any, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[bytes]:
        """Yield what the LMDB keys of the long keys in a range begin with, in order; that tells groups apart."""
        cursor = txn.cursor(self.table)
        width = _prefix_size(len(self._hash(b"")))
        if not reverse:
            found = cursor.set_range(start[:width] or b"\0")
        elif stop is None:
            found = cursor.last()
        else:
            # Of the group that ``stop`` is in some may be before it; and a short key is, if its record is the same.
            edge = stop if len(stop) < width else _end_of(stop[:width])
            found = (cursor.key() == edge or cursor.prev()) if cursor.set_range(edge) else cursor.last()
        while found:
            beginning = cursor.key()[:width]
            # The short keys are few, and looked at one by one.
            if len(beginning) == width and (
                beginning < start[:width] if reverse else stop is not None and beginning >= stop
            ):
                return
            yield beginning
            # The group may be large: seek over it instead of stepping through.
            if reverse:
                found = cursor.set_range(beginning) and cursor.prev()
            elif len(beginning) < width:
                found = cursor.set_range(beginning) and cursor.next()
            else:
                found = cursor.set_range(_end_of(beginning))
                if found and cursor.key()[:width] == beginning:
                    found = cursor.next()

    def _sorted(
        self, txn: Any, beginning: bytes, start: bytes, stop: bytes | None, reverse: bool, limit: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (full key, LMDB key) of a group in order, in passes of ``limit`` so as to hold no more in memory."""
        while True:
            found = (
                pair for pair in self._members(txn, beginning) if start <= pair[0] and (stop is None or pair[0] < stop)
            )
            select = heapq.nlargest if reverse else heapq.nsmallest
            block = select(limit, found, key=itemgetter(0))
            yield from block
            if len(block) < limit:
                return
            if reverse:
                stop = block[-1][0]
            else:
                start = block[-1][0] + b"\0"

    def _members(self, txn: Any, beginning: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = txn.cursor(self.table)
        found = cursor.set_range(beginning)
        while found:
            record_key = cursor.key()
            if not record_key.startswith(beginning):
                return
            yield self._full_key(cursor), record_key
            if len(record_key) <= 2:  # a key of 0 or 1 byte is a group of its own; longer ones may begin with it
                return
            found = cursor.next()


def _end_of(beginning: bytes) -> bytes:
    """Return the last LMDB key that may begin so."""
    return beginning + b"\xff" * (_WIDTH - len(beginning))


def stem_of(key: bytes, hash: Callable[[bytes], bytes]) -> bytes:
    """Return the record key of a long key, but for the counter."""
    if len(key) <= 1:
        return key + b"\0"
    digest = hash(key)
    if not isinstance(digest, bytes) or len(digest) > 255:
        raise SerializationError(f"the hash must give at most 255 bytes, and gave {digest!r}")
    return key[: _prefix_size(len(digest))] + digest


def _prefix_size(digest_size: int) -> int:
    return _WIDTH - _COUNTER - digest_size
