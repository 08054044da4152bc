"""The stores that are open in this process: each one once, shared by all containers on it; and what a fork does."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
import uuid
from collections import deque
from threading import Lock, RLock
from typing import Any

from rack.bulk import LEAST_MEMORY
from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    MismatchError,
    RackError,
    StoreDeletedError,
    StoreExistsError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
)
from rack.lockfile import StoreLock, path_error, pause
from rack.manifest import Manifest, Request, manifest_path, shard_path, unfinished_path
from rack.shard import shard_class
from rack.shard.base import Shard
from rack.shard.proxy import FrozenShard
from rack.shard.timed import TimedShard
from rack.store import Store

_DURABILITIES = ("process", "always")


class Mode:
    """How a container opens its store."""

    __slots__ = ("durability", "flag", "memory", "timeout")

    def __init__(self, flag: str, durability: str | None, timeout: float | None, memory: int | None) -> None:
        if flag not in ("r", "w", "c", "n"):
            raise ValueError(f"flag={flag!r}: must be 'r', 'w', 'c' or 'n', as in dbm")
        if durability is not None and durability not in _DURABILITIES:
            raise ValueError(f"durability={durability!r}: must be one of {', '.join(map(repr, _DURABILITIES))}")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise ValueError(f"timeout={timeout!r}: must be a positive number of seconds, or None")
        if memory is not None and not (isinstance(memory, int) and memory >= LEAST_MEMORY):
            raise ValueError(f"memory={memory!r}: must be a number of bytes, at least {LEAST_MEMORY}, or None")
        self.flag = flag
        self.durability = durability
        self.memory = memory
        self.timeout = timeout


class OpenStore:
    """A store that is open in this process, and how many containers hold it."""

    def __init__(self, path: str, manifest: Manifest, request: Request, lock: StoreLock, mode: Mode) -> None:
        self.path = path
        self.manifest = manifest
        self.mode = mode
        self.users = 0
        self._lock = lock
        self._lock_is_inherited = False
        self._rejoining = Lock()
        cls = shard_class(manifest.engine)
        self.shards: list[Shard] = []
        try:
            for number in range(manifest.shards):
                durability, readonly = mode.durability or "process", mode.flag == "r"
                spec = manifest.spec(path, number, request, durability, readonly, mode.timeout)
                self.shards.append(cls(spec, self._rejoin))
        except BaseException:
            self.shut()
            raise
        self._store = Store(self.shards)

    def store(self, mode: Mode) -> Store:
        """Return the store as a container that opened it with ``mode`` uses it."""
        shards: list[Shard] = self.shards
        if mode.flag == "r" != self.mode.flag:
            shards = [FrozenShard(shard) for shard in shards]
        if mode.timeout is not None:
            shards = [TimedShard(shard, mode.timeout) for shard in shards]
        return self._store if shards is self.shards and mode.memory is None else Store(shards, mode.memory)

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
            if self._lock_is_inherited:
                self._lock.share(self.mode.timeout)
                if not self.is_current():
                    self._lock.close()
                    raise StoreDeletedError(f"{manifest_path(self.path)} was removed or replaced since the fork")
                self._lock_is_inherited = False

    def after_fork_in_child(self) -> None:
        self._lock.close()
        self._lock_is_inherited = True
        self._rejoining = Lock()
        for shard in self.shards:
            shard.after_fork_in_child()

    def shut(self) -> None:
        """Close everything.

        :raises LockTimeoutError: some shard is busy in another thread; the others are closed.
        """
        late = None
        for shard in self.shards:
            try:
                shard.close(self.mode.timeout)
            except LockTimeoutError as error:
                late = error
        if late is not None:
            raise late
        self._lock.close()


_lock = RLock()
_orphans: deque[tuple[OpenStore, bool]] = deque()
_by_path: dict[str, OpenStore] = {}
_all: set[OpenStore] = set()  # also those whose files were removed, and are no longer found by path


def acquire(path: str, request: Request, mode: Mode) -> OpenStore:
    """Return the store at ``path``, opening or making it as ``mode`` says. Pair with :func:`release`."""
    with _lock:
        _release_orphans()
        key = os.path.realpath(path)
        held = _by_path.get(key)
        if held is not None and not held.is_current():
            del _by_path[key]  # its files were removed: its containers keep it, newcomers get what is there now
            held = None
        if held is None:
            held = _by_path[key] = _open_or_create(path, request, mode)
            _all.add(held)
        else:
            _check_shareable(held, request, mode)
        held.users += 1
        return held


def _check_shareable(held: OpenStore, request: Request, mode: Mode) -> None:
    name = manifest_path(held.path)
    if mode.flag == "n":
        raise StoreInUseError(errno.EBUSY, 'flag="n" would replace a store that this process has open', name)
    if held.mode.flag == "r" != mode.flag:
        raise StoreInUseError(errno.EBUSY, 'this process has the store open with flag="r"; close that first', name)
    held.manifest.reconcile(request, held.path)
    durability = held.mode.durability or _DURABILITIES[0]
    if mode.durability not in (None, durability):
        raise MismatchError(
            f"durability={mode.durability!r} was given, but this process has {name} open with {durability!r}"
        )


def release(held: OpenStore) -> None:
    """Give the store back; the last one closes it.

    :raises StoreDeletedError: its files were removed while it was open, so that what was written is lost.
    """
    with _lock:
        held.users -= 1
        if held.users:
            return
        deleted = held.mode.flag != "r" and not held.is_current()
        try:
            held.shut()
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


def remove(held: OpenStore) -> None:
    """Close the store and delete its files, whoever else has it open."""
    with _lock:
        held.users = 1
        files = _files(held.manifest, held.path)
        with contextlib.suppress(StoreDeletedError):
            release(held)
        _unlink(files)


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
    while _orphans:
        held, anonymous = _orphans.popleft()
        with contextlib.suppress(StoreDeletedError):  # there is nobody left to tell
            remove(held) if anonymous else release(held)


def guard() -> contextlib.AbstractContextManager[Any]:
    """Return the registry's lock, for what else happens when a container opens or closes. Not held across a fork."""
    return _lock


def check_absent(path: str) -> None:
    """Raise StoreExistsError if there is a store at ``path``."""
    if os.path.lexists(manifest_path(path)):
        raise StoreExistsError(
            errno.EEXIST, "an operation that makes a store does not replace one", manifest_path(path)
        )


def publish(held: OpenStore, target: str) -> None:
    """Close an anonymous store and move it to ``target``: it is there as a whole, or not at all."""
    manifest, source = held.manifest, held.path
    with _lock:
        release(held)
        lock = StoreLock(target)
        try:
            lock.claim_or_raise("make the store")
            check_absent(target)
            _clear(target, manifest)
            manifest.begin(target)
            suffix = shard_class(manifest.engine).suffix
            for number in range(manifest.shards):
                os.rename(shard_path(source, number, suffix), shard_path(target, number, suffix))
            manifest.finish(target)
        except BaseException:
            if not os.path.lexists(manifest_path(target)):
                with contextlib.suppress(OSError):
                    _clear(target, manifest)
            raise
        finally:
            lock.close()
            _unlink(_files(manifest, source))


def _open_or_create(path: str, request: Request, mode: Mode) -> OpenStore:
    lock = StoreLock(path, mode.flag == "r")
    try:
        if mode.flag == "n":
            lock.claim_or_raise("replace the store")
            with contextlib.suppress(FileNotFoundError):
                Manifest.read(path).take_back(path)
        return _join(path, request, mode, lock)
    except BaseException:
        lock.close()
        raise


def _join(path: str, request: Request, mode: Mode, lock: StoreLock) -> OpenStore:
    """Open the store; make it if it is not there and the mode allows to.

    Whoever gets the lock exclusively while there is no manifest makes the store. Nobody waits for that lock: once the
    manifest is there the others share it.
    """
    deadline = time.monotonic() + (30 if mode.timeout is None else mode.timeout)
    while True:
        if os.path.lexists(manifest_path(path)):
            lock.share(mode.timeout)
            if not lock.is_current():
                lock.close()  # the store was removed while we waited, and its lock with it
                continue
            try:
                manifest = Manifest.read(path)
            except FileNotFoundError:
                if os.path.islink(manifest_path(path)):
                    raise StorePathError(errno.ENOENT, "a link that leads nowhere", manifest_path(path)) from None
                continue
            break
        if mode.flag in "rw":
            raise StoreNotFoundError(errno.ENOENT, 'there is no such store; flag="c" makes one', manifest_path(path))
        if lock.claim() and lock.is_current():
            if not os.path.lexists(manifest_path(path)):
                _create(path, request)
                continue  # share the lock, which lets go of it for a moment, and only then read what is there
        elif time.monotonic() > deadline:
            if mode.timeout is not None:
                raise LockTimeoutError(f"{lock.path} is locked; waited {mode.timeout} s")
            raise StoreInUseError(
                errno.EBUSY, "the manifest is missing while other processes have the store open", manifest_path(path)
            )
        else:
            pause()
        lock.close()
    manifest.reconcile(request, path)
    return OpenStore(path, manifest, request, lock, mode)


def _create(path: str, request: Request) -> None:
    """Make a store; the caller has its lock exclusively, and there is none."""
    manifest = Manifest.new(request)
    cls = shard_class(manifest.engine)
    try:
        _clear(path, manifest)
        manifest.begin(path)
        for number in range(manifest.shards):
            cls.create(manifest.spec(path, number, request, "process", False))
        manifest.finish(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _clear(path, manifest)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or path) from error
        raise


def _clear(path: str, manifest: Manifest) -> None:
    """Make place for a store: remove what a maker who was killed has left.

    :raises CorruptShardError: there are shards without a manifest: somebody's data.
    """
    unfinished = Manifest.read_unfinished(path)
    if unfinished is not None:
        _unlink(unfinished.shard_files(path))
    _unlink([unfinished_path(path)])  # if it is not whole, there are no shards yet
    cls = shard_class(manifest.engine)
    for number in range(manifest.shards):
        shard = shard_path(path, number, cls.suffix)
        if os.path.lexists(shard):
            raise CorruptShardError(
                errno.EEXIST,
                "this file is in the way of a new store and may hold data: its store's manifest is missing."
                " Restore the manifest, or move the file away",
                shard,
            )
        _unlink([shard + companion for companion in cls.companions])


def _files(manifest: Manifest, path: str) -> list[str]:
    return [*manifest.files(path), path + ".rack-lock"]


def _unlink(files: list[str]) -> None:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)


def anonymous_path(beside: str) -> str:
    """Return a path for a store without a name, beside its source."""
    return f"{beside}-anonymous-{uuid.uuid4().hex[:12]}"


def erase_anonymous(path: str) -> None:
    """Delete whatever there is of an anonymous store that could not be made or opened."""
    _unlink(glob.glob(glob.escape(path) + "*"))


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
