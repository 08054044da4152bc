"""The stores that are open in this process: each one once, shared by all containers on it; and what a fork does."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator
from threading import Lock, RLock
from typing import Any

from rack.boot import DURABILITIES, Record, admit, boot_id, gate, leave, present_stamps, synced
from rack.bulk import LEAST_MEMORY
from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    MismatchError,
    RackError,
    ReadOnlyError,
    StoreDeletedError,
    StoreExistsError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
)
from rack.keeper import Keeper
from rack.lockfile import StoreLock, path_error, pause
from rack.manifest import Manifest, Request, manifest_path, record_path, shard_path, unfinished_path
from rack.shard import shard_class
from rack.shard.base import Shard
from rack.shard.proxy import FrozenShard, GuardedShard
from rack.shard.timed import TimedShard
from rack.store import Store


class Mode:
    """How a container opens its store."""

    __slots__ = ("durability", "flag", "memory", "timeout")

    def __init__(self, flag: str, durability: str | None, timeout: float | None, memory: int | None) -> None:
        if flag not in ("r", "w", "c", "n"):
            raise ValueError(f"flag={flag!r}: must be 'r', 'w', 'c' or 'n', as in dbm")
        if durability is not None and durability not in DURABILITIES:
            raise ValueError(f"durability={durability!r}: must be one of {', '.join(map(repr, DURABILITIES))}")
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

    def __init__(
        self, path: str, manifest: Manifest, request: Request, lock: StoreLock, mode: Mode, durability: str
    ) -> None:
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
                spec = manifest.spec(path, number, request, durability, mode.flag == "r", mode.timeout)
                self.shards.append(cls(spec, self._rejoin))
        except BaseException:
            self._close_shards()
            self._lock.close()
            raise
        self._store = Store(self.shards)
        self._start_keeper()

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
                joined = _enter(self.path, self._request, self.mode, self._lock, self.durability, self.manifest.id)
            except FileNotFoundError:
                joined = None
            if joined is None:
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
    if mode.flag != "r" and mode.durability not in (None, held.durability):
        raise MismatchError(
            f"durability={mode.durability!r} was given, but this process has {name} open with {held.durability!r}"
        )


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
        held = _by_path.get(os.path.realpath(path))
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
        files = _files(held.manifest, held.path)
        with contextlib.suppress(StoreDeletedError):
            release(held, keep=False)
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


def publish(manifest: Manifest, source: str, target: str) -> None:
    """Move a closed anonymous store to ``target``: it is there as a whole, or not at all."""
    with _lock:
        lock = StoreLock(target)
        try:
            lock.claim_or_raise("make the store")
            check_absent(target)
            _clear(target, manifest)
            manifest.begin(target)
            suffix = shard_class(manifest.engine).suffix
            for number in range(manifest.shards):
                os.rename(shard_path(source, number, suffix), shard_path(target, number, suffix))
            Record("", "process").write(target, present_stamps(target, manifest))
            manifest.finish(target)
        except BaseException:
            if not os.path.lexists(manifest_path(target)):
                with contextlib.suppress(OSError):
                    _clear(target, manifest)
            raise
        finally:
            lock.close()
            discard(manifest, source)


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
            try:
                joined = _enter(path, request, mode, lock, mode.durability)
            except FileNotFoundError as error:
                if isinstance(error, RackError):
                    raise
                if os.path.islink(manifest_path(path)):
                    raise StorePathError(errno.ENOENT, "a link that leads nowhere", manifest_path(path)) from None
                joined = None
            if joined is not None:
                return OpenStore(path, joined[0], request, lock, mode, joined[1])
            lock.close()  # the store was removed while we waited, and its lock with it
            continue
        if mode.flag in "rw":
            raise StoreNotFoundError(errno.ENOENT, 'there is no such store; flag="c" makes one', manifest_path(path))
        if lock.claim() and lock.is_current():
            if not os.path.lexists(manifest_path(path)):
                made = _create(path, Manifest.new(request), request)
                # Who has the lock exclusively does not need the gate, and must not wait for it: it comes first.
                durability = admit(path, made, request, mode.durability, False, lock)
                lock.share()  # which lets go of it for a moment
                with contextlib.suppress(FileNotFoundError):
                    if Manifest.read(path).id == made.id:
                        return OpenStore(path, made, request, lock, mode, durability)
        elif time.monotonic() > deadline:
            if mode.timeout is not None:
                raise LockTimeoutError(f"{lock.path} is locked; waited {mode.timeout} s")
            raise StoreInUseError(
                errno.EBUSY, "the manifest is missing while other processes have the store open", manifest_path(path)
            )
        else:
            pause()
        lock.close()


def _enter(
    path: str, request: Request, mode: Mode, lock: StoreLock, durability: str | None, store_id: str | None = None
) -> tuple[Manifest, str] | None:
    """Share the lock of the store that is there; return its manifest and its durability.

    None if it was replaced meanwhile, or is not the one with ``store_id``.

    :raises FileNotFoundError: there is no manifest.
    """
    with gate(path, mode.timeout) as fd:
        lock.share(mode.timeout)
        manifest = Manifest.read(path)
        if not lock.is_current() or not os.path.samestat(os.fstat(fd), os.stat(manifest_path(path))):
            return None
        if store_id not in (None, manifest.id):
            return None
        manifest.reconcile(request, path)
        durability = admit(path, manifest, request, durability, mode.flag == "r", lock)
        return (manifest, durability) if lock.is_current() else None


def make(path: str, manifest: Manifest, request: Request) -> OpenStore:
    """Make a store with this manifest and open it. Pair with :func:`release`, :func:`remove` or :func:`publish`."""
    with _lock:
        lock = StoreLock(path)
        try:
            lock.claim_or_raise("make the store")
            _create(path, manifest, request)
            durability = admit(path, manifest, request, None, False, lock)
            lock.share()
            held = OpenStore(path, manifest, request, lock, Mode("w", None, None, None), durability)
        except BaseException:
            lock.close()
            raise
        _by_path[os.path.realpath(path)] = held
        _all.add(held)
        held.users = 1
        return held


def _create(path: str, manifest: Manifest, request: Request) -> Manifest:
    """Make a store; the caller has its lock exclusively, and there is none."""
    cls = shard_class(manifest.engine)
    try:
        _clear(path, manifest)
        manifest.begin(path)
        for number in range(manifest.shards):
            cls.create(manifest.spec(path, number, request, "process", False))
        Record("", "process").write(path, present_stamps(path, manifest))
        manifest.finish(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _clear(path, manifest)
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, error.filename or path) from error
        raise
    return manifest


def _clear(path: str, manifest: Manifest) -> None:
    """Make place for a store: remove what a maker who was killed has left.

    :raises CorruptShardError: there are shards without a manifest: somebody's data.
    """
    unfinished = Manifest.read_unfinished(path)
    if unfinished is not None:
        _unlink(unfinished.shard_files(path))
    _unlink([record_path(path), unfinished_path(path)])  # if it is not whole, there are no shards yet
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
        _unlink(cls.files(shard))


def discard(manifest: Manifest, path: str) -> None:
    """Delete the files of a store that nobody has open."""
    _unlink(_files(manifest, path))


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
