"""The LMDB engine; see DESIGN.rst for the layout and its reasons.

A key of 1 to 511 bytes *is* an LMDB key of the main database, but for 00 and 01, under which Rack has two records of
its own there: the shard's identity, and LMDB's record of the table of long keys. That (:mod:`rack.shard.lmdb.longkeys`)
holds all other keys.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rack.errors import StoreFullError
from rack.shard.base import Examined, Home, Pair, Salvaged, ShardSpec, Snapshot
from rack.shard.holding import change, exclusive, operation, refuse_inside, settle
from rack.shard.lmdb import datafile, journalfiles, operations
from rack.shard.lmdb.journaled import Journalling
from rack.shard.lmdb.mutex import UNKNOWN
from rack.shard.lmdb.opening import check_interpreter
from rack.shard.lmdb.plain import PlainOperations
from rack.shard.lmdb.recorded import JournalledOperations
from rack.shard.lmdb.transactions import Result, nothing
from rack.shard.problem import UncleanError, closed, too_late, unrebuilt
from rack.shard.room import clear_in_blocks, delete_in_halves
from rack.shard.snapshot import SnapshotShard
from rack.system.disk import sync_paths
from rack.system.flock import held_by_others, named
from rack.system.imports import importing
from rack.system.place import is_readonly_medium

if TYPE_CHECKING:
    from rack.shard.figures import Access, Figures

# Entries in a transaction of a bulk write. Fewer than 256 would cost more for each, and 20,000 as much: they leave the
# processor's caches. See DESIGN.rst, "Bulk writes".
_TRANSACTION = 512
_READS = frozenset(("get", "contains", "get_many", "scan", "count", "version", "sync"))


class LmdbShard(PlainOperations):
    suffix = ".lmdb"
    layouts = ("direct", "small")
    companions = ("-lock",)
    ordered = True
    descriptors = 5  # the data, the lock, its map, the journal, its map
    room = datafile.REMOVAL_ROOM * 4  # for as many times as the disk is full again

    @classmethod
    def check_usable(cls) -> None:
        check_interpreter()

    def _new_journalling(self) -> Journalling | None:
        is_journalled = self._spec.durability == "everysec" and not self._spec.readonly
        return Journalling(self, self._spec, self._home) if is_journalled else None

    @classmethod
    def opened(cls, spec: ShardSpec, home: Home, among: list[Any] | None = None) -> LmdbShard:
        return (_JournalledShard if spec.durability == "everysec" else cls)(spec, home, among)

    _server: Any = None  # a Server, of operations with a time limit

    def _claim(self, claimed: bool) -> None:
        self._server.claim(claimed)
        if claimed and self._word is UNKNOWN and self._mutex is not None:
            self._mutex.find()
            self._word = self._mutex.word

    def queue(self) -> None:
        self._write(nothing)

    @operation
    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        if self._owned():  # in the middle of another operation of this thread, which a thread of its own would wait for
            return method(*args)
        try:
            if not self._lock.acquire(timeout=timeout):
                raise too_late(timeout)
            # Reads wait for no other process.
            is_free = self._word is not UNKNOWN and not self._word[0]
            if is_free or method.__name__ in _READS or self._spec.readonly:
                self._patience = timeout
                result = method(*args)
                self._patience = None
                if self._owned():  # what is done by hand gives it back for good before it is tried again
                    self._lock.release()
                return result
            self._lock.release()
        except BaseException:
            # Only what is called right here is sure to be called at the recursion limit; the lock was not taken before.
            if self._owned():
                self._patience = None
            while self._owned():
                self._busy = False
                self._release()
            raise
        if self._begin == self._begin_closed:  # at exit there may be no other thread any more
            raise closed()
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

    def transact(self, body: Callable[..., Result], *args: Any) -> Result:
        result: Result = self._write(operations.transact, body, args)
        return result

    # Many keys

    @property
    def transaction(self) -> int:
        # The pages that a transaction leaves behind are used again by the next but one: small ones keep the file small.
        # Where each is synced, that would take longer than all the rest.
        return super().transaction if self._spec.durability == "always" else _TRANSACTION

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
            with contextlib.suppress(StoreFullError):  # there may be pages that are free again
                self._grow(need - room)

    def delete_many(self, keys: list[bytes]) -> int:
        try:
            return self._write(operations.delete_many, keys)
        except StoreFullError as error:
            return delete_in_halves(self.delete_many, keys, error)

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self._make_room(pairs)
        self._write(operations.change_many, pairs, keys)

    # The whole shard

    def clear(self) -> None:
        try:
            self._write(operations.clear)
        except StoreFullError:
            clear_in_blocks(self)

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
    def figures(cls, spec: ShardSpec, access: Access) -> Figures:
        with importing():
            from rack.shard.lmdb.figures import figures

        return figures(spec, access)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        with importing():
            from rack.shard.lmdb.salvage import salvage

        return salvage(spec)

    @classmethod
    def remake(cls, spec: ShardSpec, path: str) -> bool | None:
        if not journalfiles.is_begun(spec.path):
            return None
        with importing():
            from rack.shard.lmdb.examine import examine_file

        return journalfiles.remake(spec, path, examine_file)

    @operation
    def sync(self) -> None:
        try:
            self._sync_file()
            if self._journalled is not None:
                self._journalled.sync()
        except BaseException:
            settle(self)
            raise

    @exclusive
    def _sync_file(self) -> None:
        self._read(operations.version)  # reopens, adopts what others have grown, or raises, as any operation would
        if self._spec.readonly:  # LMDB syncs nothing then
            sync_paths(self.unsynced_files(self._locate().path))
        elif self._journalled is None:
            self._env.sync(True)

    def keep(self, has_company: bool) -> None:
        # Of a shard that is not open here, once: somebody who was killed may have written to it.
        if self._journalled is not None and (has_company or self._env is not None or not self._is_kept):
            self._journalled.sync()
            if self._env is None:
                self._rest_journal()

    @exclusive
    def _rest_journal(self) -> None:
        if self._env is None:  # it was opened for others' sake
            self._let_go_of_journal()
            self._is_kept = True

    def shorten(self) -> None:
        if self._journalled is not None:
            self._journalled.shorten()

    def copy(self, path: str, proceed: Callable[[], None]) -> None:
        """Make a compact copy of the file, while others write to it."""
        with importing():
            from rack.shard.lmdb.compact import write_compact

        write_compact(self, path, proceed)

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
    def shrink(cls, path: str) -> None:
        datafile.shrink(path)

    @classmethod
    def mark(cls, path: str) -> str | None:
        return f"{os.stat(path).st_ino} {datafile.last_txn(path)}"

    @classmethod
    def stamp(cls, path: str) -> int:
        return datafile.last_txn(path)

    @classmethod
    def unsynced_files(cls, path: str) -> list[str]:
        return [path, *journalfiles.files(path)]

    @classmethod
    def log_files(cls, path: str) -> list[str]:
        return journalfiles.journals(path)

    @classmethod
    def begin_journals(cls, specs: Sequence[ShardSpec]) -> None:
        journalfiles.begin(specs)

    @classmethod
    def end_journal(cls, spec: ShardSpec) -> None:
        journalfiles.remove(spec.path)

    @classmethod
    def has_journal(cls, path: str) -> bool:
        return journalfiles.is_begun(path)

    @classmethod
    def recover(cls, spec: ShardSpec, durability: str | None) -> None:
        if durability == "everysec":
            if spec.readonly:
                raise unrebuilt(spec.path)
            journalfiles.rebuild(spec)
        elif durability == "process":
            # A page that did not reach the disk may hold an earlier version of the very same leaf, which nothing in
            # the file tells. Nor does the last transaction: other pages may have reached the disk before its own.
            raise UncleanError(spec.path, "was being written to: parts of it may be older than others")
        elif durability is None:
            with importing():
                from rack.shard.lmdb.examine import verify  # few processes need it

            verify(spec.path)

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

    @change
    def hold(self) -> Snapshot:
        with importing():
            from rack.shard.lmdb.snapshot import make_ready

        refuse_inside(self)
        try:
            self._lock.acquire()
            make_ready(self)
            self._busy = True
            self._held = self._started(self._begin_idle)
            return self.snapshot()
        except BaseException:
            # As above, with what is called right here.
            while self._owned():
                self._held = None  # which aborts it
                self._busy = False
                self._release()
            raise

    @change  # a signal handler that comes in its middle is to find that
    def let_go(self) -> None:
        if not self._owned():
            return
        if self._held is None:  # hold() or this was cut off
            settle(self)
            return
        try:
            self._held.commit()  # of nothing; abort() would wait for other threads' copies of the environment
        finally:
            self._held = None
            while self._owned():  # it was not, before: see refuse_inside()
                self._busy = False
                self._release()


class _JournalledShard(JournalledOperations, LmdbShard):
    """A shard with durability "everysec"."""


SHARD = LmdbShard
