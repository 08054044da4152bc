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
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial, wraps
from threading import RLock
from typing import Any, TypeVar

from rack.errors import LockTimeoutError, MismatchError, RackError, StoreDeletedError, StoreInUseError
from rack.shard.base import Shard
from rack.shard.holding import is_under_way, reentrant, settle
from rack.shard.problem import is_exiting
from rack.store import opening
from rack.store.guard import guard_lock, guarded
from rack.store.manifest import Manifest, Request, manifest_path
from rack.store.opening import Entry, Mode
from rack.store.openstore import Hold, OpenStore
from rack.store.where import site_of
from rack.system.threads import Running, start

Result = TypeVar("Result")

_PATIENCE = 0.5  # seconds
_GRACE = 1.0  # seconds that a store stays open which nobody uses any more
_PASSING = 0.05  # ... and the first of them in which nothing is given up of one that came with a task
_TICK = _PASSING / 2

_at_fork = False  # whether the guard's lock is held for a fork
_orphans: deque[tuple[Hold, bool]] = deque()
_ANY = Mode("w", None, None, None)
_by_path: dict[object, OpenStore] = {}
_resting: dict[OpenStore, float] = {}  # that nobody uses, and until when they stay open
_watching: list[Running] = []  # the thread that has those rest, and closes them
_all: set[OpenStore] = set()  # also those whose files were removed, and are no longer found by path


@guarded
def acquire(path: str, request: Request, mode: Mode) -> Hold:
    """Return a hold on the store at ``path``, opening or making it as ``mode`` says. Pair with :func:`release`."""
    _release_orphans()
    key = _key(path, mode)
    held = _by_path.get(key)
    if held is not None and _resting.pop(held, None) is not None:
        is_wanted = mode.flag != "n" and (mode.flag == "r") == (held.mode.flag == "r")
        if not (is_wanted and mode.durability in (None, held.durability) and (not held.is_at_rest or held.wake())):
            _end(held, keep=True)
            held = None
    if is_under_way(_CHANGES, "held", lambda other: other is not None and _key(other.path, other.mode) == key):
        raise reentrant(manifest_path(path), "opening or closing the same store")
    if held is None and is_under_way(_LOOKS, "path", lambda other: _key(other, mode) == key):
        raise reentrant(manifest_path(path), "looking at the same store")
    if held is not None and not held.is_current():
        del _by_path[key]  # its files were removed: its containers keep it, newcomers get what is there now
        held = None
    if held is not None:
        _check_shareable(held, request, mode)
        return Hold(held)
    return _opened(*site_of(path).store(path, request, mode))


def _opened(held: OpenStore, enter: Callable[[], Entry]) -> Hold:
    """Open a store that this process has not open, and put it down: first, so that it is known if it is cut off."""
    hold = Hold(held)
    try:
        _all.add(held)
        held.open(enter)
        _by_path[_key(held.path, held.mode)] = held
        return hold
    except BaseException:
        _end(held, keep=True)
        raise


def _key(path: str, mode: Mode = _ANY) -> object:
    """Return what tells the store at ``path``, as ``mode`` opens it, from others."""
    return site_of(path).key(path, mode)


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
        deleted = held.mode.flag != "r" and held.is_gone()
    except OSError:  # the manifest cannot be read, for want of descriptors say: no reason not to close
        deleted = False
    held.shut(keep and not deleted)
    held.users.clear()
    _all.discard(held)
    _resting.pop(held, None)
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
    return None if held is None or held in _resting or not held.is_current() else Hold(held)


def undisturbed(path: str, body: Callable[[bool], Result]) -> Result:
    """Call ``body`` while no thread opens or closes a store, nor forks; True: this process has that one not open.

    It is False also where that cannot be known: in the middle of opening or closing, or when another thread has been
    at it for a while, as it waits for another process.
    """
    lock = guard_lock._lock
    try:
        if lock._is_owned() or not lock.acquire(timeout=_PATIENCE):  # type: ignore[attr-defined]
            return body(False)
        result: Result = guard_lock.call(lambda: body(_key(path) not in _by_path), (), {})
        lock.release()
        return result
    except BaseException:
        settle(guard_lock)
        raise


_LOOKS = {undisturbed.__code__}


@guarded
def remove(hold: Hold) -> None:
    """Close an anonymous store and delete what there is of it. Done again it does nothing."""
    held = hold.opened
    discard = partial(site_of(held.path).discard, held.manifest, held.path)
    if hold in held.users:
        held.shut(keep=False)
        discard()
        _end(held, keep=False)
    discard()  # also if it was closed, and its name not given to it


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
            remove(hold) if anonymous else _release_soon(hold)
        except StoreDeletedError:  # there is nobody left to tell
            pass
        except LockTimeoutError:  # an operation that gave up still waits in it
            _orphans.rotate(-1)
            continue
        del hold
        _orphans.popleft()
    # An exception came when they were being opened or closed.
    for held in [held for held in _all if not held.users and held not in _resting]:
        with contextlib.suppress(LockTimeoutError):
            _end(held, keep=True)


# A container that was collected may be one of a pool's task, and the next task's is the same store. So what it used is
# kept open a moment longer, with no lock on it. To give up the lock, to have all on the disk and to say so takes
# milliseconds in its turn. So of what came with a task nothing is given up until no other task has come for a moment:
# less than who needs the store for himself waits anyway (see StoreLock.claim_or_raise).


def _release_soon(hold: Hold) -> None:
    held = hold.opened
    is_last = hold in held.users and len(held.users) == 1
    may_stay = held.is_ready if hold.is_passing else held.can_rest()
    if is_exiting() or not is_last or not may_stay or held not in _by_path.values():
        release(hold)
        return
    if not hold.is_passing:
        held.rest()
    _resting[held] = time.monotonic() + _GRACE
    held.users.discard(hold)
    if not (_watching and _watching[-1]()):
        try:
            _watching[:] = [start(_watch)]
        except RuntimeError:  # there may be no more threads
            _end(held, keep=True)


def _watch() -> None:
    while _watching:
        time.sleep(_TICK)
        with contextlib.suppress(RackError, MemoryError):
            _end_late()


@guarded
def _end_late() -> None:
    if not _resting:
        _watching.clear()
    for held, until in list(_resting.items()):
        now = time.monotonic()
        is_passing = until - now > _GRACE - _PASSING
        if until <= now or not (is_passing or held.can_rest()):
            _end(held, keep=True)
        elif not (is_passing or held.is_at_rest):
            held.rest()


@guarded
def end_resting() -> None:
    """Close the stores that nobody uses any more and that are open for the next one who does."""
    for held in list(_resting):
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
    site_of(target).publish(manifest, source, target, durability)


# Fork. Locks are taken in one order (the registry's, then each shard's), so that no operation is under way in any
# thread; the child then has consistent copies to let go of.


def _before_fork() -> None:
    global _at_fork
    if not (_at_fork and guard_lock._lock._is_owned()):  # type: ignore[attr-defined]
        guard_lock._lock.acquire()
        _at_fork = True
    for held in list(_resting):
        _end(held, keep=True)
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
    _watching.clear()
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
