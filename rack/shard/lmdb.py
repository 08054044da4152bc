"""The LMDB engine; see DESIGN.rst for the layout and its reasons.

A key of 1 to 511 bytes *is* an LMDB key of the main database, but for 00 and 01, under which Rack has two records of
its own there: the shard's identity, and LMDB's record of the table of long keys. That (:mod:`rack.shard.lmdblong`)
holds all other keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice, takewhile
from operator import itemgetter
from typing import Any

import lmdb

from rack.errors import CorruptShardError, TooLargeError
from rack.shard import journaled, lmdbfile, lmdbpages, lmdbverify
from rack.shard.base import BLOCK_BYTES, BLOCK_ITEMS, MOST_ENTRIES, Examined, Pair, Salvaged, Shard, ShardSpec, is_last
from rack.shard.lmdbenv import MAX_KEY, MAX_VALUE, LmdbEnvironment, identity
from rack.shard.lmdbfile import IDENTITY, LONG_TABLE
from rack.shard.lmdblong import LongKeys
from rack.shard.problem import corrupt
from rack.shard.sealed import PLAIN, seal, unseal
from rack.shard.snapshot import SnapshotShard

_RESERVED = (IDENTITY, LONG_TABLE)
_KEY, _VALUE = itemgetter(0), itemgetter(1)
_VALUES_BYTES = BLOCK_BYTES + 1024  # with Rack's own two records, which are taken out again


class ElementTooLongError(TooLargeError, lmdb.BadValsizeError):
    """A ``rack.set_small`` holds elements of 1 to 511 bytes when serialized."""


class LmdbShard(LmdbEnvironment, Shard):
    suffix = ".lmdb"
    companions = ("-lock",)
    ordered = True

    @property
    def unprotected(self) -> bool:  # type: ignore[override]
        return self._unregistered

    # One key. The most frequent operations carry their own transaction, and take the lock by hand, which is 0.1 us
    # faster than `with`. Taking it inside `try` is what makes that safe: a KeyboardInterrupt may come right behind it.
    # An lmdb.Error, as for a long key or a full map, is left to _read and _write, which do it all again.

    def get(self, key: bytes) -> bytes | None:
        if len(key) > 1:
            try:
                self._acquire()
                value: bytes | None = self._begin().get(key)
            except BaseException as error:
                self._give_up(error)
            else:
                self._release()
                if value is not None:
                    return value if len(value) <= PLAIN else unseal(value, self._spec.path)
                if len(key) <= MAX_KEY:
                    return None
        return self._read(_get, key)

    def contains(self, key: bytes) -> bool:
        if len(key) > 1:
            try:
                self._acquire()
                found: bool = self._begin(None, None, False, True).get(key) is not None  # a buffer: nothing is copied
            except BaseException as error:
                self._give_up(error)
            else:
                self._release()
                if found or len(key) <= MAX_KEY:
                    return found
        return self._read(_contains, key)

    def put(self, key: bytes, value: bytes) -> None:
        if 1 < len(key) <= MAX_KEY and len(value) <= PLAIN:
            txn = None
            try:
                self._acquire()
                txn = self._begin_write()
                txn.put(key, value)
                txn.commit()
            except BaseException as error:
                self._give_up(error, txn)
            else:
                self._release()
                return
        self._write(_put, key, value)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        if 1 < len(key) <= MAX_KEY and len(value) <= PLAIN:
            txn = present = None
            try:
                self._acquire()
                txn = self._begin_write()
                if not txn.put(key, value, True, False):
                    present = txn.get(key)
                txn.commit()  # of nothing, perhaps: abort() would wait for a copy that another thread makes
            except BaseException as error:
                self._give_up(error, txn)
            else:
                self._release()
                return present if present is None or len(present) <= PLAIN else unseal(present, self._spec.path)
        return self._write(_add, key, value)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        if 1 < len(key) <= MAX_KEY:
            txn = None
            try:
                self._acquire()
                txn = self._begin_write()
                value = txn.get(key)
                value = change(value if value is None else unseal(value, self._spec.path))
                if value is not None:
                    txn.put(key, seal(value))
                txn.commit()
            except BaseException as error:
                self._give_up(error, txn)
            else:
                self._release()
                return
        self._write(_modify, key, change)

    def long_keys(self, key: bytes) -> LongKeys:
        if self._long is None:
            raise ElementTooLongError(
                f"an element of {len(key)} bytes when serialized: rack.set_small holds 1 to {MAX_KEY} (and not"
                " the bytes 00 and 01); use rack.set for others"
            )
        return self._long

    def delete(self, key: bytes) -> bool:
        return self._write(_delete, key)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(_pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(_pop_first)

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(_get_many, keys)

    def put_many(self, pairs: list[Pair]) -> None:
        self._make_room(pairs)
        self._write(_put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        self._make_room(pairs)
        return self._write(_add_many, pairs)

    def _make_room(self, pairs: list[Pair]) -> None:
        """Grow the map once for all pairs: a transaction that meets its end has to be done again."""
        step = 1 + len(pairs) // 512  # a sample will do: what it misses is only done again
        need = int(1.5 * step * sum(map(len, chain.from_iterable(pairs[::step])))) + 16 * len(pairs)
        with self._lock:
            room = self._read(_room)
            if need > room and not self._spec.readonly:
                self._grow(need - room)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._write(_delete_many, keys)

    # The whole shard

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._read(_scan, start, stop, reverse, values, limit)

    def count(self) -> int:
        return self._read(_count)

    def clear(self) -> None:
        self._write(_clear)

    def version(self) -> int:
        return self._read(_version)

    def examine(self, timeout: float | None = None) -> Examined:
        from rack.shard.lmdbexamine import examine_open  # few processes need it

        return examine_open(self, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        from rack.shard.lmdbexamine import examine_file

        return examine_file(spec, alone)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        from rack.shard.lmdbsalvage import salvage

        return salvage(spec)

    def sync(self) -> None:
        with self._lock:
            self._read(_version)  # reopens, adopts what others have grown, or raises, as any operation would
            if self._journalled is None:
                self._env.sync(True)
        if self._journalled is not None:
            self._journalled.sync()

    def keep(self) -> None:
        if self._journalled is not None:
            self._journalled.sync()
            self._journalled.shorten()

    @classmethod
    def files(cls, path: str) -> list[str]:
        return [*super().files(path), *journaled.files(path)]

    @classmethod
    def stamp(cls, path: str) -> int:
        return lmdbfile.last_txn(path)

    @classmethod
    def unsynced_files(cls, path: str) -> list[str]:
        return [path, *journaled.files(path)]

    @classmethod
    def change_durability(cls, spec: ShardSpec, durability: str) -> None:
        if durability == "everysec":
            journaled.start(spec)
        else:
            journaled.stop(spec)

    @classmethod
    def recover(cls, spec: ShardSpec, durability: str, stamp: int | None) -> None:
        if durability == "everysec":
            if spec.readonly:
                raise CorruptShardError(
                    f"{spec.path} was in use at a power failure, and has to be rebuilt from its journal: open the"
                    ' store once for writing (flag="w")'
                )
            journaled.rebuild(spec)
        elif durability == "process":
            # A page that did not reach the disk may hold an earlier version of the very same leaf, which nothing in
            # the file tells. So only a shard that was not written to since it was on the disk can be sound.
            if stamp is not None and cls.stamp(spec.path) != stamp:
                raise corrupt(
                    spec.path,
                    "was being written to when the system stopped, and what it holds cannot be relied on"
                    ' (durability="everysec" survives power failures)',
                )
            _verify_after_power_failure(spec.path)

    def snapshot(self) -> SnapshotShard:
        from rack.shard.lmdbsnapshot import LmdbSnapshot  # which is an LmdbShard

        return LmdbSnapshot.take(self)

    def hold(self) -> AbstractContextManager[SnapshotShard]:
        from rack.shard.lmdbsnapshot import LmdbSnapshot

        return LmdbSnapshot.take_held(self)


SHARD = LmdbShard


def _verify_after_power_failure(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for found in lmdbverify.walk(fd, lmdbpages.newest(lmdbpages.read_metas(fd)), values=True):
            if isinstance(found, str):
                raise CorruptShardError(found)
            for _, stored in found:
                unseal(stored, path)
    except (CorruptShardError, lmdbpages.PageError) as error:
        raise corrupt(path, f"was damaged by a power failure: {error}") from error
    finally:
        os.close(fd)


# What the operations do inside a transaction.


def _is_long(key: bytes) -> bool:
    return not 1 < len(key) <= MAX_KEY and (len(key) != 1 or key in _RESERVED)


def _get(shard: LmdbShard, txn: Any, key: bytes) -> bytes | None:
    if _is_long(key):
        return None if shard._long is None else shard._long.get(txn, key)
    stored: bytes | None = txn.get(key)
    return stored if stored is None else unseal(stored, shard._spec.path)


def _contains(shard: LmdbShard, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard._long is not None and shard._long.find(txn, key) is not None
    return bool(txn.cursor().set_key(key))


def _put(shard: LmdbShard, txn: Any, key: bytes, value: bytes) -> None:
    if len(value) > MAX_VALUE:
        raise TooLargeError(f"a value of {len(value)} bytes: LMDB holds up to {MAX_VALUE}")
    if _is_long(key):
        shard.long_keys(key).put(txn, key, value)
    else:
        txn.put(key, seal(value))


def _add(shard: LmdbShard, txn: Any, key: bytes, value: bytes) -> bytes | None:
    present = _get(shard, txn, key)
    if present is None:
        _put(shard, txn, key, value)
    return present


def _delete(shard: LmdbShard, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard._long is not None and shard._long.delete(txn, key)
    return bool(txn.delete(key))


def _pop(shard: LmdbShard, txn: Any, key: bytes) -> bytes | None:
    value = _get(shard, txn, key)
    if value is not None:
        _delete(shard, txn, key)
    return value


def _pop_first(shard: LmdbShard, txn: Any) -> Pair | None:
    block = _scan(shard, txn, b"", None, False, True, 1)
    if not block:
        return None
    pair: Pair = block[0]
    _delete(shard, txn, pair[0])
    return pair


def _modify(shard: LmdbShard, txn: Any, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
    value = change(_get(shard, txn, key))
    if value is not None:
        _put(shard, txn, key, value)


def _get_many(shard: LmdbShard, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    get, path = txn.get, shard._spec.path
    return [
        (stored if (stored := get(key)) is None or len(stored) <= PLAIN else unseal(stored, path))
        if 1 < len(key) <= MAX_KEY
        else _get(shard, txn, key)
        for key in keys
    ]


def _put_many(shard: LmdbShard, txn: Any, pairs: list[Pair]) -> None:
    cursor = txn.cursor()
    try:
        if pairs and min(map(len, map(_KEY, pairs))) > 1:
            # What comes behind the last key fills its pages and splits none. LMDB skips a pair that does not.
            append = cursor.last() and cursor.key() < pairs[0][0]
            sealed = pairs
            if max(map(len, map(_VALUE, pairs))) > PLAIN:
                sealed = [(key, seal(value)) for key, value in pairs]
            _, added = cursor.putmulti(sealed, append=append)
            if added == len(pairs):
                return
    except lmdb.BadValsizeError:
        pass  # a long key
    for key, value in pairs:
        _put(shard, txn, key, value)


def _add_many(shard: LmdbShard, txn: Any, pairs: list[Pair]) -> list[bool]:
    put = txn.put
    added = []
    for key, value in pairs:
        if 1 < len(key) <= MAX_KEY:
            added.append(put(key, value if len(value) <= PLAIN else seal(value), True, False))
        else:
            added.append(_add(shard, txn, key, value) is None)
    return added


def _delete_many(shard: LmdbShard, txn: Any, keys: list[bytes]) -> int:
    return sum(_delete(shard, txn, key) for key in keys)


def _scan(
    shard: LmdbShard, txn: Any, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    block = _scan_short(shard, txn, start, stop, reverse, values, limit)
    long = shard._long
    if long is None or not long.count(txn):
        return block
    others = long.scan(txn, start, stop, reverse, values, limit)
    if not block or not others:
        return block or others
    # Behind the end of a run that was cut by its size there may be more of it. Keys are unique: pairs are compared by
    # them alone.
    ends = [run[-1] for run in (block, others) if not is_last(run, limit, values)]
    block = sorted(block + others, reverse=reverse)
    if ends:
        end = (max if reverse else min)(ends)
        block = block[: block.index(end) + 1]
    return block[:limit]


def _scan_short(
    shard: LmdbShard, txn: Any, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    cursor = txn.cursor()
    if reverse:
        if stop is None or not cursor.set_range(stop[:MAX_KEY] or b"\0"):
            found = cursor.last()
        else:
            found = cursor.key() < stop or cursor.prev()
        items = cursor.iterprev(values=values)
        if start:
            items = takewhile((start,).__le__ if values else start.__le__, items)
    else:
        found = cursor.set_range(start[:MAX_KEY] or b"\0")
        if found and cursor.key() < start:
            found = cursor.next()
        items = cursor.iternext(values=values)
        if stop is not None:
            items = takewhile((stop,).__gt__ if values else stop.__gt__, items)
    if not found:
        return []
    limit += 2  # Rack's own two records may be among them
    path = shard._spec.path
    if values and txn.stat()["overflow_pages"]:
        block: list[Any] = _bounded(items, limit, path)
    else:
        block = list(islice(items, limit))  # no value here is larger than about half a page
        if values and max(map(len, map(_VALUE, block)), default=0) > PLAIN:
            block = [(key, unseal(stored, path)) for key, stored in block]
    if not block:
        return block
    first = block[-1] if reverse else block[0]
    if (first[0] if values else first) <= LONG_TABLE:
        block = [item for item in block if (item[0] if values else item) not in _RESERVED]
    return block[: limit - 2]


def _bounded(items: Any, limit: int, path: str) -> list[Pair]:
    block = []
    size = 0
    for key, stored in islice(items, limit):
        value = unseal(stored, path)
        block.append((key, value))
        size += len(value)
        if size >= _VALUES_BYTES:
            break
    return block


def _count(shard: LmdbShard, txn: Any) -> int:
    entries: int = txn.stat()["entries"] - 1
    if shard._long is not None:
        entries += shard._long.count(txn) - 1
    if not 0 <= entries < MOST_ENTRIES:
        raise lmdb.CorruptedError(f"it counts {entries} entries")
    return entries


def _clear(shard: LmdbShard, txn: Any) -> None:
    # Dropping the main database takes Rack's records with it; LMDB writes that of the table of long keys at commit,
    # because emptying that table has marked it changed.
    if shard._long is not None:
        txn.drop(shard._long.table, delete=False)
    txn.drop(shard._main, delete=False)
    txn.put(IDENTITY, identity(shard._spec))


def _room(shard: LmdbShard, txn: Any) -> int:
    """Return how many bytes of the map have never been used."""
    info = shard._env.info()
    return int(info["map_size"]) - (int(info["last_pgno"]) + 1) * int(txn.stat()["psize"])


def _version(shard: LmdbShard, txn: Any) -> int:
    txn_id: int = txn.id()
    return txn_id
