"""The LMDB engine; see DESIGN.rst for the layout and its reasons.

A key of 1 to 511 bytes *is* an LMDB key of the main database, but for 00 and 01, under which Rack has two records of
its own there: the shard's identity, and LMDB's record of the table of long keys. That (:mod:`rack.shard.lmdb.longkeys`)
holds all other keys.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import lmdb

from rack.errors import CorruptShardError, TooLargeError
from rack.shard.base import BLOCK_ITEMS, Examined, Pair, Salvaged, Shard, ShardSpec
from rack.shard.lmdb import datafile, journalfiles, pages, walk
from rack.shard.lmdb import operations as ops
from rack.shard.lmdb.environment import LmdbEnvironment
from rack.shard.lmdb.longkeys import LongKeys
from rack.shard.lmdb.opening import MAX_KEY
from rack.shard.lmdb.sealed import PLAIN, seal, unseal
from rack.shard.problem import UncleanError
from rack.shard.snapshot import SnapshotShard
from rack.system.lockfile import held_by_others, named


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
        return self._read(ops.get, key)

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
        return self._read(ops.contains, key)

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
        self._write(ops.put, key, value)

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
        return self._write(ops.add, key, value)

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
        self._write(ops.modify, key, change)

    def long_keys(self, key: bytes) -> LongKeys:
        if self._long is None:
            raise ElementTooLongError(
                f"an element of {len(key)} bytes when serialized: rack.set_small holds 1 to {MAX_KEY} (and not"
                " the bytes 00 and 01); use rack.set for others"
            )
        return self._long

    def delete(self, key: bytes) -> bool:
        return self._write(ops.delete, key)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(ops.pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(ops.pop_first)

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(ops.get_many, keys)

    def put_many(self, pairs: list[Pair]) -> None:
        self._make_room(pairs)
        self._write(ops.put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        self._make_room(pairs)
        return self._write(ops.add_many, pairs)

    def _make_room(self, pairs: list[Pair]) -> None:
        """Grow the map once for all pairs: a transaction that meets its end has to be done again."""
        step = 1 + len(pairs) // 512  # a sample will do: what it misses is only done again
        need = int(1.5 * step * sum(map(len, chain.from_iterable(pairs[::step])))) + 16 * len(pairs)
        with self._lock:
            room = self._read(ops.room)
            if need > room and not self._spec.readonly:
                self._grow(need - room)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._write(ops.delete_many, keys)

    # The whole shard

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._read(ops.scan, start, stop, reverse, values, limit)

    def count(self) -> int:
        return self._read(ops.count)

    def clear(self) -> None:
        self._write(ops.clear)

    def version(self) -> int:
        return self._read(ops.version)

    def examine(self, timeout: float | None = None) -> Examined:
        from rack.shard.lmdb.examine import examine_open  # few processes need it

        return examine_open(self, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        from rack.shard.lmdb.examine import examine_file

        return examine_file(spec, alone)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        from rack.shard.lmdb.salvage import salvage

        return salvage(spec)

    @classmethod
    def remake(cls, spec: ShardSpec, path: str) -> bool | None:
        if not journalfiles.has_base(spec.path):
            return None
        return journalfiles.remake(spec, path)

    def sync(self) -> None:
        with self._lock:
            self._read(ops.version)  # reopens, adopts what others have grown, or raises, as any operation would
            if self._journalled is None:
                self._env.sync(True)
        if self._journalled is not None:
            self._journalled.sync()

    def keep(self) -> None:
        if self._journalled is not None:
            self._journalled.sync()
            self._journalled.shorten()

    def holder(self) -> str | None:
        from rack.shard.lmdb import mutex  # few processes need it

        owner = mutex.owner(self._spec.path + "-lock")
        if owner is not None and owner != os.getpid():
            return f"{named([owner])}, which has the writer lock of {self._spec.path}"
        return held_by_others(self._spec.path)  # by one that makes the file larger

    @classmethod
    def files(cls, path: str) -> list[str]:
        return [*super().files(path), *journalfiles.files(path)]

    @classmethod
    def stamp(cls, path: str) -> int:
        return datafile.last_txn(path)

    @classmethod
    def unsynced_files(cls, path: str) -> list[str]:
        return [path, *journalfiles.files(path)]

    @classmethod
    def change_durability(cls, spec: ShardSpec, durability: str) -> None:
        if durability == "everysec":
            journalfiles.start(spec)
        else:
            journalfiles.stop(spec)

    @classmethod
    def recover(cls, spec: ShardSpec, durability: str, stamp: int | None) -> None:
        if durability == "everysec":
            if spec.readonly:
                problem = f"{spec.path} was in use when the system stopped, and has to be rebuilt from its journal"
                name = spec.path.rpartition("-")[0]
                raise CorruptShardError(f'{problem}: open the store once for writing (flag="w")').in_words(
                    f"{problem}: a command that may write to the store does so, such as `rack backup"
                    f" {shlex.quote(name)} COPY`"
                )
            journalfiles.rebuild(spec)
        elif durability == "process":
            # A page that did not reach the disk may hold an earlier version of the very same leaf, which nothing in
            # the file tells. So only a shard that was not written to since it was on the disk can be sound.
            if stamp is not None and cls.stamp(spec.path) != stamp:
                raise UncleanError(spec.path, "was being written to: parts of it may be older than others")
            _verify_after_power_failure(spec.path)

    def snapshot(self) -> SnapshotShard:
        from rack.shard.lmdb.snapshot import LmdbSnapshot  # which is an LmdbShard

        return LmdbSnapshot.take(self)

    def hold(self) -> AbstractContextManager[SnapshotShard]:
        from rack.shard.lmdb.snapshot import LmdbSnapshot

        return LmdbSnapshot.take_held(self)


SHARD = LmdbShard


def _verify_after_power_failure(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for found in walk.walk(fd, pages.newest(pages.read_metas(fd)), values=True):
            if isinstance(found, str):
                raise UncleanError(path, f"is damaged: {found}")
            for _, stored in found:
                unseal(stored, path)
    except pages.PageError as error:
        raise UncleanError(path, f"is damaged: {error}") from error
    except UncleanError:
        raise
    except CorruptShardError as error:
        raise UncleanError(path, "is damaged: a value does not match its checksum") from error
    finally:
        os.close(fd)
