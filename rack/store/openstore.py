"""A store that is open in this process, with all its shards, and who holds it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakSet

from rack.errors import CorruptShardError, LockTimeoutError, ManifestError, RackError, ReadOnlyError, StoreDeletedError
from rack.shard import shard_class
from rack.shard.base import Shard, ShardSpec
from rack.shard.holding import is_under_way, reentrant
from rack.shard.proxy import FrozenShard, GuardedShard
from rack.store import files, opening, scratch
from rack.store.gate import in_gate
from rack.store.guard import guarded
from rack.store.keeper import Keeper
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.record import Record, present_stamps
from rack.store.sharded import Store
from rack.store.writing import Writing
from rack.system.imports import importing


class OpenStore:
    """A store that is open in this process, and who holds it."""

    manifest: Manifest
    durability: str
    _store: Store
    _lock: Any = None  # a StoreLock
    _writing: Any = None  # a Writing
    _is_new = False
    _has_company = False  # as far as the shards know
    _manifest_state: object = None  # of its file, when it was found to be this store's
    is_at_rest = False
    _left_at: object = None  # when it was put to rest
    _lock_is_inherited = False
    is_open = False

    def __init__(self, path: str, request: Request, mode: Mode) -> None:
        self.path = path
        self.mode = mode
        self.users: WeakSet[Hold] = WeakSet()
        self.shards: list[Shard] = []
        self._request = request
        self._keepers: list[Keeper] = []
        self._rejoining = Lock()

    def open(self, enter: Callable[[], Entry]) -> None:
        """Come into the store and open it. Whoever is cut off in here has to :meth:`abandon` it."""
        self.manifest, self._lock, self.durability, self._is_new = enter()
        self._writing = Writing(
            self.manifest, self.durability, self.mode.timeout, self._lock.where, self._specs, self._start_keepers
        )
        cls = shard_class(self.manifest.engine)
        if self.mode.flag != "r":
            files.check_own(self.path, self.manifest)
            scratch.discard(self.path)
            if cls.room:
                self._lock.keep_room(cls.room * self.manifest.shards)
        for spec in self._specs():
            cls.opened(spec, self, self.shards)
        self._store = Store(self.shards, None, self.manifest.digest)
        self.is_open = True

    def abandon(self) -> None:
        """Undo an opening that failed. May be done again."""
        for keeper in self._keepers:
            keeper.stop()
        self._close_shards()
        if self._writing is not None:
            with contextlib.suppress(RackError):
                self._writing.end(self._lock)
            self._writing.close()
        if self._lock is not None:
            if self._is_new and self._lock.claim():  # nobody else has come in
                files.unmake(self.path, self.manifest)
                self._lock.remove()
            self._is_new = False
            self._lock.close()

    def _specs(self) -> list[ShardSpec]:
        """Return what the shards are, with their paths as they are now."""
        path, where, mode = self._lock.where(), self._lock.where, self.mode
        return [
            self.manifest.spec(path, number, self._request, self.durability, mode.flag == "r", mode.timeout, where)
            for number in range(self.manifest.shards)
        ]

    def store(self, mode: Mode) -> Store:
        """Return the store as a container that opened it with ``mode`` uses it."""
        shards: list[Shard] = self.shards
        if self.mode.flag == "r" and any(shard.unprotected or shard.mere_reader for shard in shards):
            shards = [GuardedShard(shard, self._check_quiet) for shard in shards]
        if mode.flag == "r" != self.mode.flag:
            shards = [FrozenShard(shard) for shard in shards]
        if mode.timeout is not None:
            with importing():
                from rack.shard.timed import TimedShard

            shards = [TimedShard(shard, mode.timeout) for shard in shards]
        return (
            self._store
            if shards is self.shards and mode.memory is None
            else Store(shards, mode.memory, self.manifest.digest)
        )

    def _check_quiet(self) -> None:
        """Raise ReadOnlyError if somebody may be writing to the store.

        LMDB's writers use pages again that an unregistered reader reads, at which LMDB may end the process.
        """
        record = Record.read(self.path)
        if record.is_open_now() or record.is_of_this_boot():
            raise ReadOnlyError(
                errno.EACCES,
                "others have the store open for writing: reading meanwhile takes the permission to write the files"
                " *-lock and the directory",
                manifest_path(self.path),
            )

    def sync(self, store: Store) -> None:
        """Have what is written in ``store``, which is this one as a container uses it, on the disk."""
        # A shard that may not be served after a power failure is, if nobody has written to the store since.
        self.path = self._lock.where()
        is_refused = self.durability == "process" and shard_class(self.manifest.engine).stamped_when_open
        if not is_refused or self.mode.flag == "r" or not Record.read(self.path).is_of_this_boot():
            store.sync()
            return
        self._writing.rest()
        for shard in self.shards:
            shard.rest()
        try:
            stamps = present_stamps(self.path, self.manifest)
        except CorruptShardError:  # removed: closing tells
            stamps = ()
        store.sync()
        self._put_down_as_clean(stamps)

    @guarded  # so that no fork copies the lock of the gate
    def _put_down_as_clean(self, synced: tuple[int, ...]) -> None:
        self._writing.end(synced=synced)

    @property
    def is_ready(self) -> bool:
        """Whether it is open in this very process: a forked child has to come into the store first."""
        return self.is_open and not self._lock_is_inherited

    def is_gone(self) -> bool:
        """Return whether the store was removed, or replaced by another one."""
        return not self.is_current()

    def is_current(self) -> bool:
        """Return whether the store's files are still there, wherever its folder is now."""
        self.path = self._lock.where()
        try:
            status = os.stat(manifest_path(self.path))
            state = status.st_dev, status.st_ino, status.st_ctime_ns
            if state == self._manifest_state:  # else it is read: it may only have another owner
                return True
            found = Manifest.read(self.path)
        except (FileNotFoundError, ManifestError):
            return False
        if found is None or found.id != self.manifest.id:
            return False
        self._manifest_state = state
        return True

    def rejoin(self) -> None:
        """In a forked child: take a lock of its own before a shard is opened again.

        Called with that shard's lock held, so the registry's lock must not be taken here (a fork takes them in the
        other order).
        """
        if not self._lock_is_inherited:
            return
        if is_under_way(_REJOINING, "self", lambda other: other is self):
            raise reentrant(manifest_path(self.path), "opening the store")
        self._rejoin()

    def _rejoin(self) -> None:
        with self._rejoining:
            if not self._lock_is_inherited:
                return
            self.path = self._lock.where()
            entry = opening.enter(self.path, self._request, self.mode, self._lock, self.durability, self.manifest.id)
            if entry is None:
                self._lock.close()
                raise StoreDeletedError(f"{manifest_path(self.path)} was removed or replaced since the fork")
            self._lock_is_inherited = False

    def give_room(self) -> bool:
        return bool(self._lock.give_room())

    def begin_writing(self) -> bool:
        self._writing.begin()
        return bool(self._writing.has_company())

    def _start_keepers(self) -> None:
        """Start the threads of "everysec", or those that are missing. Called by one thread at a time."""
        if self.durability == "everysec":
            # Two threads: making a base may take long, and every shard is synced every second meanwhile.
            keep: list[Callable[[], None]] = [self._look_around]
            keep += [partial(self._keep, shard) for shard in self.shards]
            work = keep, [shard.shorten for shard in self.shards]
            while len(self._keepers) < len(work):
                self._keepers.append(Keeper(work[len(self._keepers)]))

    def _look_around(self) -> None:
        """Have the shards know when another process has begun to write."""
        if not self._has_company and self._writing.has_company():
            self._has_company = True
            for shard in self.shards:
                shard.rest()  # so that they ask again

    def _keep(self, shard: Shard) -> None:
        shard.keep(self._has_company)

    def at_home(self, body: Callable[[], object]) -> None:
        in_gate(self._lock.where(), self.manifest.id, None, body)

    def after_fork_in_child(self) -> None:
        self._lock.leave_to_parent()
        self._lock_is_inherited = True
        self._keepers = []
        self._rejoining = Lock()
        self._writing.after_fork_in_child()
        for shard in self.shards:
            shard.after_fork_in_child()

    def can_rest(self) -> bool:
        """Whether it may be kept open a moment longer than it is used."""
        return (
            self.is_ready and self._lock.identity() is not None and shard_class(self.manifest.engine).stamped_when_open
        )

    def rest(self) -> None:
        """Let go of the store as closing does, but leave the shards open: others may do with it what they want."""
        self.is_at_rest = True
        self._writing.check_outside()
        for keeper in self._keepers:
            keeper.stop(self.mode.timeout)
        self._keepers = []
        if self._writing.begun:
            for shard in self.shards:
                shard.rest()
            self._writing.rest()
            self._writing.end(self._lock)
        self._writing.close()
        self._lock.rest()
        self._left_at = self._lock.left_at()

    def wake(self) -> bool:
        """Come into the store again, after :meth:`rest`; False: its files may be others, and it is to be closed."""
        is_same = self._left_at is not None and self._lock.share_again() and self._lock.left_at() == self._left_at
        self.is_at_rest = not is_same
        return is_same

    def shut(self, keep: bool = True) -> None:
        """Close everything. ``keep``: what was written matters, and the last process has it on the disk.

        :raises LockTimeoutError: some shard is busy in another thread; the others are closed.
        """
        self._writing.check_outside()
        for keeper in self._keepers:
            keeper.stop(self.mode.timeout)
        self._keepers = []
        self._close_shards()
        try:
            self._writing.rest()
            if keep and not self._lock_is_inherited:
                self._writing.end(self._lock)
        finally:
            self._writing.close()
            self._lock.close()

    def _close_shards(self) -> None:
        late = None
        for shard in self.shards:
            try:
                shard.close(self.mode.timeout)
            except LockTimeoutError as error:
                late = error
        if late is not None:
            raise late


_REJOINING = {OpenStore._rejoin.__code__}


class Hold:
    """A user of an open store: as long as there is one, and it was not released, the store stays open."""

    __slots__ = ("__weakref__", "is_passing", "opened")

    def __init__(self, opened: OpenStore) -> None:
        self.opened = opened
        self.is_passing = False  # whether it came with a task, say: soon there may be another one
        opened.users.add(self)
