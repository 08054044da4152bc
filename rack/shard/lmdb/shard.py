"""The LMDB engine; see DESIGN.rst for the layout and its reasons.

A key of 1 to 511 bytes *is* an LMDB key of the main database, but for 00 and 01, under which Rack has two records of
its own there: the shard's identity, and LMDB's record of the table of long keys. That (:mod:`rack.shard.lmdb.longkeys`)
holds all other keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from typing import Any

import lmdb

from rack.errors import CorruptShardError
from rack.shard.base import Examined, Pair, Salvaged, ShardSpec, Snapshot
from rack.shard.holding import by_hand, change, exclusive, is_inside, operation, reentrant, settle
from rack.shard.lmdb import datafile, journalfiles, operations
from rack.shard.lmdb.journaled import Journalling
from rack.shard.lmdb.opening import MAX_KEY, check_interpreter
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.sealed import PLAIN, seal, unseal
from rack.shard.problem import UncleanError, too_late, unrebuilt
from rack.shard.snapshot import SnapshotShard
from rack.system.flock import held_by_others, named
from rack.system.imports import importing
from rack.system.place import is_readonly_medium

_READS = frozenset(("get", "contains", "get_many", "scan", "count", "version", "sync"))


class LmdbShard(LmdbReader):
    suffix = ".lmdb"
    layouts = ("direct", "small")
    companions = ("-lock",)
    ordered = True
    descriptors = 3  # with a journal

    @classmethod
    def check_usable(cls) -> None:
        check_interpreter()

    def _new_journalling(self) -> Journalling | None:
        is_journalled = self._spec.durability == "everysec" and not self._spec.readonly
        return Journalling(self, self._spec) if is_journalled else None

    _server: Any = None  # a Server, of operations with a time limit

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

    def _claim(self, claimed: bool) -> None:
        self._server.claim(claimed)
        if claimed and self._mutex is None:
            with importing():
                from rack.shard.lmdb.mutex import Mutex

            self._mutex = Mutex.seen(self._spec.path + "-lock")

    def queue(self) -> None:
        self._write(lambda shard, txn: None)

    @operation
    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        if self._owned():  # in the middle of another operation of this thread, which a thread of its own would wait for
            return method(*args)
        try:
            if not self._lock.acquire(timeout=timeout):
                raise too_late(timeout)
            # Reads wait for no other process.
            if method.__name__ in _READS or self._spec.readonly or (self._mutex is not None and self._mutex.is_free()):
                self._patience = timeout
                result = method(*args)
                self._patience = None
                if self._owned():  # what is done by hand gives it back for good before it is tried again
                    self._lock.release()
                return result
            self._lock.release()
        except BaseException:
            if self._owned():
                self._patience = None
            settle(self)
            raise
        if self._server is None:
            with importing():
                from rack.shard.timed import Server

            self._server = Server()
        return self._server.run(timeout, self._serve, method, args)

    @exclusive
    def _serve(self, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Do an operation in the server's thread, unless the request is withdrawn before it has the writer lock."""
        self.on_write(self._claim)
        self._busy = True  # so that nothing is done by hand, which gives the lock back for good
        try:
            return method(*args)
        finally:
            self._busy = False
            self.on_write(None)

    def delete(self, key: bytes) -> bool:
        return self._write(operations.delete, key)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(operations.pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(operations.pop_first)

    # Many keys

    def put_many(self, pairs: list[Pair]) -> None:
        self._make_room(pairs)
        self._write(operations.put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        self._make_room(pairs)
        return self._write(operations.add_many, pairs)

    @exclusive
    def _make_room(self, pairs: list[Pair]) -> None:
        """Grow the map once for all pairs: a transaction that meets its end has to be done again."""
        step = 1 + len(pairs) // 512  # a sample will do: what it misses is only done again
        need = int(1.5 * step * sum(map(len, chain.from_iterable(pairs[::step])))) + 16 * len(pairs)
        room = self._read(operations.room)
        if need > room and not self._spec.readonly:
            self._grow(need - room)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._write(operations.delete_many, keys)

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self._make_room(pairs)
        self._write(operations.change_many, pairs, keys)

    # The whole shard

    def clear(self) -> None:
        self._write(operations.clear)

    def examine(self, timeout: float | None = None) -> Examined:
        with importing():
            from rack.shard.lmdb.examine import examine_open  # few processes need it

        return examine_open(self, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        with importing():
            from rack.shard.lmdb.examine import examine_file

        return examine_file(spec, alone)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        with importing():
            from rack.shard.lmdb.salvage import salvage

        return salvage(spec)

    @classmethod
    def remake(cls, spec: ShardSpec, path: str) -> bool | None:
        if not journalfiles.has_base(spec.path):
            return None
        with importing():
            from rack.shard.lmdb.examine import examine_file

        return journalfiles.remake(spec, path, examine_file)

    def sync(self) -> None:
        self._sync_file()
        if self._journalled is not None:
            self._journalled.sync()

    @exclusive
    def _sync_file(self) -> None:
        self._read(operations.version)  # reopens, adopts what others have grown, or raises, as any operation would
        if self._journalled is None:
            self._env.sync(True)

    def keep(self) -> None:
        if self._journalled is not None:
            self._journalled.sync()
            self._journalled.shorten()

    def holder(self) -> str | None:
        with importing():
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
        return [path, *filter(os.path.exists, journalfiles.files(path))]

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
                raise unrebuilt(spec.path)
            journalfiles.rebuild(spec)
        elif durability == "process":
            # A page that did not reach the disk may hold an earlier version of the very same leaf, which nothing in
            # the file tells. So only a shard that was not written to since it was on the disk can be sound.
            if cls.stamp(spec.path) != stamp and stamp is not None:
                raise UncleanError(spec.path, "was being written to: parts of it may be older than others")
            _verify_after_power_failure(spec.path)

    def snapshot(self) -> Snapshot:
        snapshot = self._taken()
        if self._unregistered and not is_readonly_medium(self.path):
            snapshot.become_independent()  # writers do not know of it, and use its pages again
        return snapshot

    @exclusive
    def _taken(self) -> SnapshotShard:
        with importing():
            from rack.shard.lmdb.snapshot import LmdbSnapshot, make_ready

        make_ready(self)
        return LmdbSnapshot(self)

    def hold(self) -> Snapshot:
        with importing():
            from rack.shard.lmdb.snapshot import make_ready

        try:
            self._lock.acquire()
            if self._busy and is_inside(self):
                raise reentrant(self.path)
            make_ready(self)
            self._held = self._started(self._begin_write)
            return self.snapshot()
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        if self._owned():
            try:
                if self._held is not None:
                    self._held.commit()  # of nothing; abort() would wait for other threads' copies of the environment
            finally:
                self._held = None
                settle(self)


SHARD = LmdbShard


def _verify_after_power_failure(path: str) -> None:
    with importing():
        from rack.shard.lmdb import pages, walk  # few processes need them

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
