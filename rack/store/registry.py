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
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from threading import RLock
from typing import Any

from rack.errors import LockTimeoutError, MismatchError, StoreDeletedError, StoreInUseError
from rack.shard.base import Shard
from rack.shard.holding import is_under_way, reentrant, settle
from rack.store import files, opening
from rack.store.guard import guard_lock, guarded
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.openstore import Hold, OpenStore
from rack.system.place import file_id

_at_fork = False  # whether the guard's lock is held for a fork
_orphans: deque[tuple[Hold, bool]] = deque()
_by_path: dict[object, OpenStore] = {}
_all: set[OpenStore] = set()  # also those whose files were removed, and are no longer found by path


@guarded
def acquire(path: str, request: Request, mode: Mode) -> Hold:
    """Return a hold on the store at ``path``, opening or making it as ``mode`` says. Pair with :func:`release`."""
    _release_orphans()
    key = _key(path)
    held = _by_path.get(key)
    if is_under_way(_CHANGES, "held", lambda other: other is not None and _key(other.path) == key):
        raise reentrant(manifest_path(path), "opening or closing the same store")
    if held is not None and not held.is_current():
        del _by_path[key]  # its files were removed: its containers keep it, newcomers get what is there now
        held = None
    if held is not None:
        _check_shareable(held, request, mode)
        return Hold(held)
    return _opened(OpenStore(path, request, mode), lambda: opening.open_or_create(path, request, mode))


def _opened(held: OpenStore, enter: Callable[[], Entry]) -> Hold:
    """Open a store that this process has not open, and put it down: first, so that it is known if it is cut off."""
    hold = Hold(held)
    try:
        _all.add(held)
        held.open(enter)
        _by_path[_key(held.path)] = held
        return hold
    except BaseException:
        _end(held, keep=True)
        raise


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
    if not held.is_open:
        held.abandon()
        _all.discard(held)
        return False
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


_CHANGES = {_opened.__code__, _end.__code__}


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
    held = _by_path.get(_key(path))
    return None if held is None or not held.is_current() else Hold(held)


@guarded
def remove(hold: Hold) -> None:
    """Close an anonymous store and delete its files. Done again it does nothing."""
    held = hold.opened
    paths = files.all_files(held.manifest, held.path)
    if hold in held.users:
        held.shut(keep=False)
        files.unlink(paths)
        _end(held, keep=False)
    files.unlink(paths)  # also if it was closed, and its name not given to it


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
    for _ in range(len(_orphans)):
        hold, anonymous = _orphans[0]
        try:
            remove(hold) if anonymous else release(hold)
        except StoreDeletedError:  # there is nobody left to tell
            pass
        except LockTimeoutError:  # an operation that gave up still waits in it
            _orphans.rotate(-1)
            continue
        del hold
        _orphans.popleft()
    for held in [held for held in _all if not held.users]:  # an exception came when it was being opened or closed
        with contextlib.suppress(LockTimeoutError):
            _end(held, keep=True)


def guard() -> Any:
    """Return the registry's lock, for what else happens when a container opens or closes. Not held across a fork."""
    return guard_lock._lock


def open_shards() -> list[Shard]:
    """Return every shard that this process has open. The caller has the registry's lock."""
    return [shard for held in _all for shard in held.shards]


@guarded
def make(path: str, manifest: Manifest, request: Request, durability: str) -> Hold:
    """Make a store with this manifest and open it. Pair with :func:`release`, :func:`remove` or :func:`publish`."""
    mode = Mode("w", None, None, None)
    return _opened(OpenStore(path, request, mode), lambda: opening.make(path, manifest, request, durability))


@guarded
def publish(manifest: Manifest, source: str, target: str, durability: str) -> None:
    """Move a closed anonymous store to ``target``: it is there as a whole, or not at all."""
    files.publish(manifest, source, target, durability)


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


def _with_room(hook: Callable[[], None]) -> Callable[[], None]:
    """Have a hook run where few more calls may be nested, too."""

    @wraps(hook)
    def run() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _ROOM)
        try:
            hook()
        finally:
            sys.setrecursionlimit(limit)

    return run


_ROOM = 500  # calls; before a fork snapshots may be copied

# Nobody gets what a hook raises, and the fork goes on. So each comes twice, and the second time does what an exception
# may have kept the first from doing.
for _ in range(2):
    os.register_at_fork(
        before=_with_room(_before_fork),
        after_in_parent=_with_room(_after_fork_in_parent),
        after_in_child=_with_room(_after_fork_in_child),
    )
