"""The stores that are open in this process: each one once, shared by all containers on it; and what a fork does."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterator
from threading import Lock, RLock
from typing import Any

from rack.errors import (
    LockTimeoutError,
    MismatchError,
    ReadOnlyError,
    StoreDeletedError,
    StoreInUseError,
)
from rack.shard import shard_class
from rack.shard.base import Shard
from rack.shard.proxy import FrozenShard, GuardedShard
from rack.store import files, opening
from rack.store.boot import Record, leave, present_stamps, synced
from rack.store.keeper import Keeper
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.sharded import Store
from rack.system.boot import boot_id
from rack.system.imports import importing
from rack.system.place import file_id


class OpenStore:
    """A store that is open in this process, and how many containers hold it."""

    def __init__(self, path: str, request: Request, mode: Mode, entry: Entry) -> None:
        manifest, lock, durability, is_new = entry
        self.path = path
        self.manifest = manifest
        self.mode = mode
        self.durability = durability
        self.users = 0
        self._request = request
        self._keeper: Keeper | None = None
        self._lock = lock
        self._lock_is_inherited = False
        self._rejoining = Lock()
        cls = shard_class(manifest.engine)
        self.shards: list[Shard] = []
        try:
            for number in range(manifest.shards):
                spec = manifest.spec(path, number, request, durability, mode.flag == "r", mode.timeout, lock.where)
                self.shards.append(cls(spec, self._rejoin))
        except BaseException:
            self._close_shards()
            if is_new and lock.claim():  # nobody else has come in
                files.unmake(path, manifest)
                lock.remove()
            self._lock.close()
            raise
        self._store = Store(self.shards)
        self._start_keeper()

    def store(self, mode: Mode) -> Store:
        """Return the store as a container that opened it with ``mode`` uses it."""
        shards: list[Shard] = self.shards
        if any(shard.unprotected or shard.mere_reader for shard in shards):
            shards = [GuardedShard(shard, self._check_quiet) for shard in shards]
        if mode.flag == "r" != self.mode.flag:
            shards = [FrozenShard(shard) for shard in shards]
        if mode.timeout is not None:
            with importing:
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
            with contextlib.suppress(FileNotFoundError):  # removed: closing tells
                stamps = present_stamps(self.path, self.manifest)
        store.sync()
        if stamps:
            synced(self.path, self.manifest, stamps)

    def is_current(self) -> bool:
        """Return whether the store's files are still there, wherever its folder is now."""
        try:
            self.path = self._lock.where()
            return Manifest.read(self.path).id == self.manifest.id
        except (FileNotFoundError, ValueError):
            return False

    def _rejoin(self) -> None:
        """In a forked child: take a lock of its own before a shard is opened again.

        Called with that shard's lock held, so the registry's lock must not be taken here (a fork takes them in the
        other order).
        """
        with self._rejoining:
            if not self._lock_is_inherited:
                return
            try:
                self.path = self._lock.where()
                entry = opening.enter(
                    self.path, self._request, self.mode, self._lock, self.durability, self.manifest.id
                )
            except FileNotFoundError:
                entry = None
            if entry is None:
                self._lock.close()
                raise StoreDeletedError(f"{manifest_path(self.path)} was removed or replaced since the fork")
            self._lock_is_inherited = False
            self._start_keeper()

    def _start_keeper(self) -> None:
        if self.durability == "everysec" and self.mode.flag != "r":
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


_lock = RLock()
_orphans: deque[tuple[OpenStore, bool]] = deque()
_by_path: dict[object, OpenStore] = {}
_all: set[OpenStore] = set()  # also those whose files were removed, and are no longer found by path


def acquire(path: str, request: Request, mode: Mode) -> OpenStore:
    """Return the store at ``path``, opening or making it as ``mode`` says. Pair with :func:`release`."""
    with _lock:
        _release_orphans()
        key = _key(path)
        held = _by_path.get(key)
        if held is not None and not held.is_current():
            del _by_path[key]  # its files were removed: its containers keep it, newcomers get what is there now
            held = None
        if held is None:
            held = OpenStore(path, request, mode, opening.open_or_create(path, request, mode))
            _by_path[_key(path)] = held
            _all.add(held)
        else:
            _check_shareable(held, request, mode)
        held.users += 1
        return held


def _key(path: str) -> object:
    """Return what tells the store at ``path`` from others, also when its folder has been renamed.

    Who has it open keeps the lock's file, so that its inode is nobody else's.
    """
    try:
        return file_id(os.stat(path + ".rack-lock"))
    except OSError:
        return os.path.realpath(path)


def _check_shareable(held: OpenStore, request: Request, mode: Mode) -> None:
    name = manifest_path(held.path)
    if mode.flag == "n":
        raise StoreInUseError(errno.EBUSY, 'flag="n" would replace a store that this process has open', name).in_words(
            "a store that this process has open would be replaced"
        )
    if held.mode.flag == "r" != mode.flag:
        raise StoreInUseError(
            errno.EBUSY, 'this process has the store open with flag="r"; close that first', name
        ).in_words("this process has the store open for reading alone")
    held.manifest.reconcile(request, held.path)
    if mode.flag != "r" and mode.durability not in (None, held.durability):
        raise MismatchError(
            f"durability={mode.durability!r} was given, but this process has {name} open with {held.durability!r}"
        ).in_words(f"this process has {name} open with the durability {held.durability}, and not {mode.durability}")


def release(held: OpenStore, keep: bool = True) -> None:
    """Give the store back; the last one closes it. ``keep``: its content matters.

    :raises StoreDeletedError: its files were removed while it was open, so that what was written is lost.
    """
    with _lock:
        held.users -= 1
        if held.users:
            return
        try:
            deleted = held.mode.flag != "r" and not held.is_current()
        except OSError:  # the manifest cannot be read, for want of descriptors say: no reason not to close
            deleted = False
        try:
            held.shut(keep and not deleted)
        except LockTimeoutError:
            held.users += 1  # it is still open, and can be closed again
            raise
        _all.discard(held)
        for key, store in list(_by_path.items()):
            if store is held:
                del _by_path[key]
    if deleted:
        raise StoreDeletedError(
            f"{manifest_path(held.path)} was removed or replaced while the store was open: what was written is lost"
        )


@contextlib.contextmanager
def borrowed(path: str) -> Iterator[OpenStore | None]:
    """Give the store at ``path`` if this process has it open; it is not closed while the block runs."""
    with _lock:
        held = _by_path.get(_key(path))
        if held is not None and not held.is_current():
            held = None
        if held is not None:
            held.users += 1
    try:
        yield held
    finally:
        if held is not None:
            release(held)


def remove(held: OpenStore) -> None:
    """Close the store and delete its files, whoever else has it open."""
    with _lock:
        held.users = 1
        paths = files.all_files(held.manifest, held.path)
        with contextlib.suppress(StoreDeletedError):
            release(held, keep=False)
        files.unlink(paths)


def orphan(held: OpenStore, anonymous: bool) -> None:
    """Give back the store of a container that was collected, soon.

    The collector runs anywhere, also where this thread has a shard's lock: waiting for the registry's lock here, while
    a fork has that and waits for the shard's, would never end.
    """
    _orphans.append((held, anonymous))
    lock = _lock
    if lock._is_owned():  # type: ignore[attr-defined]
        return  # in the middle of opening or closing, perhaps this very store: the next one sees to it
    if lock.acquire(blocking=False):
        try:
            _release_orphans()
        finally:
            lock.release()


def _release_orphans() -> None:
    late = []
    while _orphans:
        held, anonymous = _orphans.popleft()
        try:
            remove(held) if anonymous else release(held)
        except StoreDeletedError:  # there is nobody left to tell
            pass
        except LockTimeoutError:  # an operation that gave up still waits in it
            late.append((held, anonymous))
    _orphans.extend(late)


def guard() -> Any:
    """Return the registry's lock, for what else happens when a container opens or closes. Not held across a fork."""
    return _lock


def open_shards() -> list[Shard]:
    """Return every shard that this process has open. The caller has the registry's lock."""
    return [shard for held in _all for shard in held.shards]


def make(path: str, manifest: Manifest, request: Request) -> OpenStore:
    """Make a store with this manifest and open it. Pair with :func:`release`, :func:`remove` or :func:`publish`."""
    with _lock:
        held = OpenStore(path, request, Mode("w", None, None, None), opening.make(path, manifest, request))
        _by_path[_key(path)] = held
        _all.add(held)
        held.users = 1
        return held


def publish(manifest: Manifest, source: str, target: str) -> None:
    """Move a closed anonymous store to ``target``: it is there as a whole, or not at all."""
    with _lock:
        files.publish(manifest, source, target)


# Fork. Locks are taken in one order (the registry's, then each shard's), so that no operation is under way in any
# thread; the child then has consistent copies to let go of.


def _before_fork() -> None:
    _lock.acquire()
    for held in _all:
        for shard in held.shards:
            shard.before_fork()


def _after_fork_in_parent() -> None:
    for held in _all:
        for shard in held.shards:
            shard.after_fork_in_parent()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = RLock()
    for held in _all:
        held.after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
