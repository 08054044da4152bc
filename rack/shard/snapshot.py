"""A shard as it was at one moment, read through the live shard's database for as long as that allows it.

A live shard knows its snapshots (:class:`Snapshots`). When it has to let go of what one reads through (LMDB: a resize
of the map; SQLite: a fork), the snapshot first moves to a copy of its own, a file that goes with it. If that fails the
snapshot is lost, which is an error for whoever reads it, and nobody else's.

Locks are taken in the order: the live shard's, the snapshot's.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable
from threading import RLock
from typing import Any
from weakref import WeakSet

from rack.errors import NotOpenError, SnapshotLostError
from rack.shard.base import Examined, Salvaged, ShardSpec, Snapshot
from rack.shard.holding import exclusive, operation, settle
from rack.shard.problem import Problem
from rack.shard.proxy import ReadOnlyShard
from rack.shard.spans import ALL, blocks
from rack.system.place import scratch_path


class SnapshotShard(ReadOnlyShard, Snapshot):
    """What snapshots of all engines share. ``_lock`` is held around each read."""

    _refusal = "a snapshot is read-only"
    _lock: Any
    _busy: bool
    _held: Any
    _at_fork: bool
    _spec: ShardSpec

    def _start(self, among: Snapshots) -> None:
        self._new_lock()
        self._end: Exception | None = None  # why it can no longer be read
        self._detached = False
        among.add(self)

    def _new_lock(self) -> None:
        self._lock = RLock()

    @property
    def is_attached(self) -> bool:
        """Whether it reads through the live shard's database."""
        return self._end is None and not self._detached

    @abstractmethod
    def _move_to(self, path: str) -> None:
        """Read through a copy from now on, a new file ``path`` that is removed as soon as it is open."""

    @abstractmethod
    def _let_go(self) -> None:
        """Drop what it reads through, if it has not yet."""

    @exclusive
    def detach(self) -> None:
        """Become independent of the live shard's database, or be lost."""
        if self._detached or self._end is not None:
            return
        path = scratch_path(self._spec.path, "snapshot")
        try:
            self._move_to(path)
            self._detached = True
        except Exception as error:
            self.lose(f"it could not be copied when its store had to let go of it ({error})")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def become_independent(self) -> None:
        """Become independent at once of a database that is read without protection from writers. O(shard).

        :raises SnapshotLostError: it was being written to, or there is no space for the copy.
        """
        self.detach()
        if self._end is not None:
            raise self._end.with_traceback(None)

    @exclusive
    def lose(self, reason: str) -> None:
        if self._end is None:
            self._end = SnapshotLostError(f"the snapshot of {self._spec.path} is lost: {reason}; take another one")
            self._let_go()

    @exclusive
    def close(self, timeout: float | None = None) -> None:
        self._end = NotOpenError("the snapshot is closed; take another one")
        self._let_go()  # again, if it was let go of already

    def examine(self, timeout: float | None = None) -> Examined:
        """Go over the entries; the pages of a state that has passed are not to be told from others."""
        counted, found, last = self.count(), 0, None
        yield counted
        for block in blocks(self, ALL, values=True):
            for key, _ in block:
                if last is not None and key <= last:
                    yield Problem("order", f"has keys out of order at {key[:60]!r}")
                last = key
            found += len(block)
            yield block
        if found != counted:
            yield Problem("count", f"counts {counted} entries and has {found}")

    def sync(self) -> None:
        pass  # there is no write

    def keep(self, has_company: bool) -> None:
        pass

    def on_write(self, check: Callable[[bool], None] | None) -> None:
        pass

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        raise TypeError("a snapshot has no files of its own")

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        raise TypeError("a snapshot has no files of its own")

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        raise TypeError("a snapshot has no files of its own")

    def snapshot(self) -> SnapshotShard:
        raise TypeError("a snapshot of a snapshot is the same")

    def hold(self) -> SnapshotShard:
        raise TypeError("a snapshot has no writers")

    def let_go(self) -> None:
        raise TypeError("a snapshot has no writers")

    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        return method(*args)

    def queue(self) -> None:
        raise TypeError("a snapshot has no writers")

    # A fork: called by the live shard, which holds its lock; again when an exception has cut them off

    @operation
    def before_fork(self) -> None:
        if not self._at_fork:
            self._lock.acquire()
            self._at_fork = True

    @operation
    def after_fork_in_parent(self) -> None:
        if self._at_fork:
            self._at_fork = False
            self._lock.release()
        settle(self)

    def after_fork_in_child(self) -> None:
        self._new_lock()
        self.lose("a snapshot stays in the process that took it, and this is a forked child")


class Snapshots:
    """The snapshots of a live shard, whose lock is held around each use."""

    def __init__(self) -> None:
        self._alive: WeakSet[SnapshotShard] = WeakSet()
        self._at_fork: list[SnapshotShard] = []

    def __bool__(self) -> bool:
        """Return whether one of them reads through the live shard's database."""
        return any(snapshot.is_attached for snapshot in list(self._alive))

    def add(self, snapshot: SnapshotShard) -> None:
        self._alive.add(snapshot)

    def detach(self) -> None:
        """Make all of them independent of the live shard's database. O(shard) for each that is not yet."""
        for snapshot in list(self._alive):
            snapshot.detach()

    def lose(self, reason: str) -> None:
        for snapshot in list(self._alive):
            snapshot.lose(reason)

    def before_fork(self) -> None:
        """Wait for reads and copies of other threads, and hold off new ones."""
        if not self._at_fork:
            self._at_fork = list(self._alive)
        for snapshot in self._at_fork:
            snapshot.before_fork()

    def after_fork_in_parent(self) -> None:
        for snapshot in self._at_fork:
            snapshot.after_fork_in_parent()
        self._at_fork = []

    def after_fork_in_child(self) -> None:
        for snapshot in self._at_fork:
            snapshot.after_fork_in_child()
        self._at_fork = []
