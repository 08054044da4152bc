"""A store that is open in this process, with all its shards, and who holds it."""

from __future__ import annotations

import contextlib
import errno
from threading import Lock
from typing import Any
from weakref import WeakSet

from rack.errors import CorruptShardError, LockTimeoutError, ManifestError, ReadOnlyError, StoreDeletedError
from rack.shard import shard_class
from rack.shard.base import Shard
from rack.shard.proxy import FrozenShard, GuardedShard
from rack.store import files, opening
from rack.store.boot import Record, leave, present_stamps, synced
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.sharded import Store
from rack.system.boot import boot_id
from rack.system.imports import importing


class OpenStore:
    """A store that is open in this process, and who holds it."""

    def __init__(self, path: str, request: Request, mode: Mode, entry: Entry) -> None:
        manifest, lock, durability, is_new = entry
        self.path = path
        self.manifest = manifest
        self.mode = mode
        self.durability = durability
        self.users: WeakSet[Hold] = WeakSet()
        self._request = request
        self._keeper: Any = None  # a Keeper
        self._lock = lock
        self._lock_is_inherited = False
        self._rejoining = Lock()
        cls = shard_class(manifest.engine)
        self.shards: list[Shard] = []
        try:
            for number in range(manifest.shards):
                spec = manifest.spec(path, number, request, durability, mode.flag == "r", mode.timeout, lock.where)
                self.shards.append(cls(spec, self._rejoin))
            self._store = Store(self.shards)
            self._start_keeper()
        except BaseException:
            if self._keeper is not None:
                self._keeper.stop()
            self._close_shards()
            if is_new and lock.claim():  # nobody else has come in
                files.unmake(path, manifest)
                lock.remove()
            self._lock.close()
            raise

    def store(self, mode: Mode) -> Store:
        """Return the store as a container that opened it with ``mode`` uses it."""
        shards: list[Shard] = self.shards
        if any(shard.unprotected or shard.mere_reader for shard in shards):
            shards = [GuardedShard(shard, self._check_quiet) for shard in shards]
        if mode.flag == "r" != self.mode.flag:
            shards = [FrozenShard(shard) for shard in shards]
        if mode.timeout is not None:
            with importing():
                from rack.shard.timed import TimedShard

            shards = [TimedShard(shard, mode.timeout) for shard in shards]
        return self._store if shards is self.shards and mode.memory is None else Store(shards, mode.memory)

    def _check_quiet(self) -> None:
        """Raise ReadOnlyError if somebody may be writing to the store.

        LMDB's writers use pages again that an unregistered reader reads, at which LMDB may end the process.
        """
        if Record.read(self.path).boot == boot_id():
            raise ReadOnlyError(
                errno.EACCES,
                "others have the store open for writing: reading meanwhile takes the permission to write the files"
                " *-lock and the directory",
                manifest_path(self.path),
            )

    def sync(self, store: Store) -> None:
        """Have what is written in ``store``, which is this one as a container uses it, on the disk."""
        stamps = []
        self.path = self._lock.where()
        if self.mode.flag != "r" and shard_class(self.manifest.engine).stamped_when_open:
            with contextlib.suppress(CorruptShardError):  # removed: closing tells
                stamps = present_stamps(self.path, self.manifest)
        store.sync()
        if stamps:
            synced(self.path, self.manifest, stamps)

    def is_current(self) -> bool:
        """Return whether the store's files are still there, wherever its folder is now."""
        try:
            self.path = self._lock.where()
            found = Manifest.read(self.path)
            return found is not None and found.id == self.manifest.id
        except ManifestError:
            return False

    def _rejoin(self) -> None:
        """In a forked child: take a lock of its own before a shard is opened again.

        Called with that shard's lock held, so the registry's lock must not be taken here (a fork takes them in the
        other order).
        """
        with self._rejoining:
            if not self._lock_is_inherited:
                return
            self.path = self._lock.where()
            entry = opening.enter(self.path, self._request, self.mode, self._lock, self.durability, self.manifest.id)
            if entry is None:
                self._lock.close()
                raise StoreDeletedError(f"{manifest_path(self.path)} was removed or replaced since the fork")
            self._lock_is_inherited = False
            self._start_keeper()

    def _start_keeper(self) -> None:
        if self.durability == "everysec" and self.mode.flag != "r":
            with importing():
                from rack.store.keeper import Keeper

            self._keeper = Keeper(self.shards)

    def after_fork_in_child(self) -> None:
        self._lock.leave_to_parent()
        self._lock_is_inherited = True
        self._keeper = None
        self._rejoining = Lock()
        for shard in self.shards:
            shard.after_fork_in_child()

    def shut(self, keep: bool = True) -> None:
        """Close everything. ``keep``: what was written matters, and the last process has it on the disk.

        :raises LockTimeoutError: some shard is busy in another thread; the others are closed.
        """
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._close_shards()
        try:
            if keep and self.mode.flag != "r" and not self._lock_is_inherited:
                leave(self.path, self.manifest, self._lock)
        finally:
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


class Hold:
    """A user of an open store: as long as there is one, and it was not released, the store stays open."""

    __slots__ = ("__weakref__", "opened")

    def __init__(self, opened: OpenStore) -> None:
        self.opened = opened
        opened.users.add(self)
