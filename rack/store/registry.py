"""The stores that are open in this process: each one once, shared by all containers on it; and what a fork does.

Who uses a store is read off what there is: a :class:`Hold` for each user, which the store knows weakly. So one that an
exception has kept from being given back, or from ever being used, is none any more when it is gone; the next who opens
or closes something closes the store. And what closes a store is done again, from its beginning, where an exception cut
it off: it is never left half closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from threading import Lock, RLock
from typing import Any, TypeVar
from weakref import WeakSet

from rack.errors import (
    LockTimeoutError,
    MismatchError,
    ReadOnlyError,
    StoreDeletedError,
    StoreInUseError,
)
from rack.shard import shard_class
from rack.shard.base import Shard
from rack.shard.holding import settle
from rack.shard.proxy import FrozenShard, GuardedShard
from rack.shard.timed import TimedShard
from rack.store import files, opening
from rack.store.boot import Record, leave, present_stamps, synced
from rack.store.guard import guard_lock, guarded
from rack.store.keeper import Keeper
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.sharded import Store
from rack.system.boot import boot_id

Function = TypeVar("Function", bound=Callable[..., Any])


class OpenStore:
    """A store that is open in this process, and who holds it."""

    def __init__(self, path: str, request: Request, mode: Mode, entry: Entry) -> None:
        manifest, lock, durability = entry
        self.path = path
        self.manifest = manifest
        self.mode = mode
        self.durability = durability
        self.users: WeakSet[Hold] = WeakSet()
        self._request = request
        self._keeper: Keeper | None = None
        self._lock = lock
        self._lock_is_inherited = False
        self._rejoining = Lock()
        cls = shard_class(manifest.engine)
        self.shards: list[Shard] = []
        try:
            for number in range(manifest.shards):
                spec = manifest.spec(path, number, request, durability, mode.flag == "r", mode.timeout)
                self.shards.append(cls(spec, self._rejoin))
            self._store = Store(self.shards)
            self._start_keeper()
        except BaseException:
            if self._keeper is not None:
                self._keeper.stop()
            self._close_shards()
            self._lock.close()
            raise

    def store(self, mode: Mode) -> Store:
        """Return the store as a container that opened it with ``mode`` uses it."""
        shards: list[Shard] = self.shards
        if any(shard.unprotected for shard in shards):
            shards = [GuardedShard(shard, self._check_quiet) for shard in shards]
        if mode.flag == "r" != self.mode.flag:
            shards = [FrozenShard(shard) for shard in shards]
        if mode.timeout is not None:
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
        if self.mode.flag != "r":
            with contextlib.suppress(FileNotFoundError):  # removed: closing tells
                stamps = present_stamps(self.path, self.manifest)
        store.sync()
        if stamps:
            synced(self.path, self.manifest, stamps)

    def is_current(self) -> bool:
        """Return whether the files at the path are still this store's."""
        try:
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
        self._lock.close()
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


_at_fork = False  # whether the guard's lock is held for a fork
_orphans: deque[tuple[Hold, bool]] = deque()
_by_path: dict[str, OpenStore] = {}
_all: set[OpenStore] = set()  # also those whose files were removed, and are no longer found by path


@guarded
def acquire(path: str, request: Request, mode: Mode) -> Hold:
    """Return a hold on the store at ``path``, opening or making it as ``mode`` says. Pair with :func:`release`."""
    _release_orphans()
    key = os.path.realpath(path)
    held = _by_path.get(key)
    if held is not None and not held.is_current():
        del _by_path[key]  # its files were removed: its containers keep it, newcomers get what is there now
        held = None
    if held is not None:
        _check_shareable(held, request, mode)
        return Hold(held)
    return _opened(key, lambda: OpenStore(path, request, mode, opening.open_or_create(path, request, mode)))


def _opened(key: str, open: Callable[[], OpenStore]) -> Hold:
    """Open a store that this process has not open, and put it down."""
    held = None
    try:
        held = open()
        hold = Hold(held)
        _all.add(held)
        _by_path[key] = held
        return hold
    except BaseException:
        if held is not None:
            _end(held, keep=True)
        raise


def _check_shareable(held: OpenStore, request: Request, mode: Mode) -> None:
    name = manifest_path(held.path)
    if mode.flag == "n":
        raise StoreInUseError(errno.EBUSY, 'flag="n" would replace a store that this process has open', name)
    if held.mode.flag == "r" != mode.flag:
        raise StoreInUseError(errno.EBUSY, 'this process has the store open with flag="r"; close that first', name)
    held.manifest.reconcile(request, held.path)
    if mode.flag != "r" and mode.durability not in (None, held.durability):
        raise MismatchError(
            f"durability={mode.durability!r} was given, but this process has {name} open with {held.durability!r}"
        )


@guarded
def release(hold: Hold, keep: bool = True) -> None:
    """Give the store back; the last one closes it. ``keep``: its content matters. Done again it does nothing.

    :raises StoreDeletedError: its files were removed while it was open, so that what was written is lost.
    """
    held = hold.opened
    if hold not in held.users:
        return
    if len(held.users) > 1:
        held.users.discard(hold)
        return
    try:
        deleted = _end(held, keep)
    except LockTimeoutError:
        raise  # it is still open, and can be closed again
    except BaseException:
        _end(held, keep)  # an exception has cut it off: from the beginning
        raise
    if deleted:
        raise StoreDeletedError(
            f"{manifest_path(held.path)} was removed or replaced while the store was open: what was written is lost"
        )


def _end(held: OpenStore, keep: bool) -> bool:
    """Close a store for good; return whether its files were removed. May be done again."""
    try:
        deleted = held.mode.flag != "r" and not held.is_current()
    except OSError:  # the manifest cannot be read, for want of descriptors say: no reason not to close
        deleted = False
    held.shut(keep and not deleted)
    held.users.clear()
    _all.discard(held)
    for key, store in list(_by_path.items()):
        if store is held:
            del _by_path[key]
    return deleted


@contextlib.contextmanager
def borrowed(path: str) -> Iterator[OpenStore | None]:
    """Give the store at ``path`` if this process has it open; it is not closed while the block runs."""
    hold = _borrow(path)
    try:
        yield None if hold is None else hold.opened
    finally:
        if hold is not None:
            release(hold)


@guarded
def _borrow(path: str) -> Hold | None:
    held = _by_path.get(os.path.realpath(path))
    return None if held is None or not held.is_current() else Hold(held)


@guarded
def remove(hold: Hold) -> None:
    """Close the store and delete its files, whoever else has it open. Done again it does nothing."""
    held = hold.opened
    if hold in held.users:
        paths = files.all_files(held.manifest, held.path)
        held.shut(keep=False)
        files.unlink(paths)
        _end(held, keep=False)


def orphan(hold: Hold, anonymous: bool) -> None:
    """Give back the store of a container that was collected, soon.

    The collector runs anywhere, also where this thread has a shard's lock: waiting for the registry's lock here, while
    a fork has that and waits for the shard's, would never end.
    """
    _orphans.append((hold, anonymous))
    lock = guard_lock._lock
    if lock._is_owned():  # type: ignore[attr-defined]
        return  # in the middle of opening or closing, perhaps this very store: the next one sees to it
    try:
        if lock.acquire(blocking=False):
            guard_lock.call(_release_orphans, (), {})
            lock.release()
    except BaseException:
        settle(guard_lock)
        raise


def _release_orphans() -> None:
    while _orphans:
        hold, anonymous = _orphans[0]
        with contextlib.suppress(StoreDeletedError):  # there is nobody left to tell
            remove(hold) if anonymous else release(hold)
        del hold
        _orphans.popleft()
    for held in [held for held in _all if not held.users]:  # an exception came when it was being opened or closed
        _end(held, keep=True)


def guard() -> contextlib.AbstractContextManager[Any]:
    """Return the registry's lock, for what else happens when a container opens or closes. Not held across a fork."""
    return guard_lock._lock


@guarded
def make(path: str, manifest: Manifest, request: Request) -> Hold:
    """Make a store with this manifest and open it. Pair with :func:`release`, :func:`remove` or :func:`publish`."""
    mode = Mode("w", None, None, None)
    return _opened(
        os.path.realpath(path), lambda: OpenStore(path, request, mode, opening.make(path, manifest, request))
    )


@guarded
def publish(manifest: Manifest, source: str, target: str) -> None:
    """Move a closed anonymous store to ``target``: it is there as a whole, or not at all."""
    files.publish(manifest, source, target)


# Fork. Locks are taken in one order (the registry's, then each shard's), so that no operation is under way in any
# thread; the child then has consistent copies to let go of.


def _before_fork() -> None:
    global _at_fork
    if not (_at_fork and guard_lock._lock._is_owned()):  # type: ignore[attr-defined]
        guard_lock._lock.acquire()
        _at_fork = True
    for held in _all:
        for shard in held.shards:
            shard.before_fork()


def _after_fork_in_parent() -> None:
    global _at_fork
    if not guard_lock._lock._is_owned():  # type: ignore[attr-defined]
        return  # the first time has done it all
    for held in _all:
        for shard in held.shards:
            shard.after_fork_in_parent()
    if _at_fork:
        _at_fork = False
        guard_lock._lock.release()
    settle(guard_lock)


def _after_fork_in_child() -> None:
    global _at_fork
    guard_lock._lock = RLock()
    _at_fork = False
    for held in _all:
        held.after_fork_in_child()


# Nobody gets what a hook raises, and the fork goes on. So each comes twice, and the second time does what an exception
# may have kept the first from doing.
for _ in range(2):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
