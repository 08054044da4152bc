"""How a process comes into a store: it finds or makes it, shares its lock, and is let in."""

from __future__ import annotations

import errno
import os
import time
from typing import NamedTuple

from rack.errors import LockTimeoutError, RackError, StoreInUseError, StoreNotFoundError, StorePathError
from rack.store import files
from rack.store.admission import DurabilityInUseError, admit
from rack.store.bulk import LEAST_MEMORY
from rack.store.gate import gate, is_at
from rack.store.lock import PATIENCE, StoreLock
from rack.store.manifest import Manifest, Request, is_half_moved, manifest_path
from rack.store.record import DEFAULT_DURABILITY, DURABILITIES
from rack.system.arguments import duration, whole
from rack.system.flock import lock_timeout, pause, while_open
from rack.system.imports import importing

_FOR_EVER = 1e8  # seconds; of more than some billions the system's calls have an overflow


class Mode:
    """How a container opens its store."""

    __slots__ = ("durability", "flag", "memory", "timeout")

    def __init__(self, flag: str, durability: str | None, timeout: float | None, memory: int | None) -> None:
        if flag not in ("r", "w", "c", "n"):
            raise ValueError(f"flag={flag!r}: must be 'r', 'w', 'c' or 'n', as in dbm")
        if durability is not None and durability not in DURABILITIES:
            raise ValueError(f"durability={durability!r}: must be one of {', '.join(map(repr, DURABILITIES))}")
        if timeout is not None:
            timeout = duration("timeout", timeout, positive=True)
            timeout = timeout if timeout < _FOR_EVER else None
        if memory is not None:
            memory = whole("memory", memory, LEAST_MEMORY)
        self.flag = flag
        self.durability = durability
        self.memory = memory
        self.timeout = timeout


class Entry(NamedTuple):
    """What somebody has who was let into a store; its lock is shared."""

    manifest: Manifest
    lock: StoreLock
    durability: str
    is_new: bool = False


def open_or_create(path: str, request: Request, mode: Mode) -> Entry:
    """Come into the store at ``path``, making it as ``mode`` says."""
    lock = StoreLock(path, mode.flag == "r")
    try:
        if mode.flag == "n":
            files.check_makeable(path, Manifest.new(request))
            lock.claim_or_raise("replace the store")
            _settle(path)
            if (replaced := Manifest.read(path)) is not None:
                replaced.take_back(path)
        return _join(path, request, mode, lock)
    except BaseException:
        if mode.flag != "r" and not os.path.lexists(manifest_path(path)):
            lock.remove()
        lock.close()
        raise


def _join(path: str, request: Request, mode: Mode, lock: StoreLock) -> Entry:
    """Open the store; make it if it is not there and the mode allows to.

    Whoever gets the lock exclusively while there is no manifest makes the store. Nobody waits for that lock: once the
    manifest is there the others share it.
    """
    deadline = time.monotonic() + (30 if mode.timeout is None else mode.timeout)
    while True:
        if os.path.lexists(manifest_path(path)):
            entry = enter(path, request, mode, lock, mode.durability)
            if entry is not None:
                return entry
            if os.path.islink(manifest_path(path)) and not os.path.exists(manifest_path(path)):
                raise StorePathError(errno.ENOENT, "a link that leads nowhere", manifest_path(path))
            lock.close()  # the store was removed or replaced while we waited, and its lock with it
            if time.monotonic() > deadline:
                raise _replaced_too_often(path, mode.timeout)
            continue
        if is_half_moved(path):
            if lock.claim() and lock.is_current():
                _settle(path)
                continue
            lock.close()
            if time.monotonic() > deadline:
                raise _replaced_too_often(path, mode.timeout)
            pause()
            continue
        if mode.flag in "rw":
            raise StoreNotFoundError(
                errno.ENOENT, 'there is no such store; flag="c" makes one', manifest_path(path)
            ).in_words("there is no such store")
        if lock.claim() and lock.is_current():
            if not os.path.lexists(manifest_path(path)):
                # Who has the lock exclusively does not need the gate, and must not wait for it: it comes first.
                made, durability = _made(path, Manifest.new(request), request, mode.durability, lock)
                found = Manifest.read(path)
                if found is not None and found.id == made.id:
                    return Entry(made, lock, durability, True)
        elif time.monotonic() > deadline:
            if mode.timeout is not None:
                raise lock_timeout(lock.path, mode.timeout)
            raise StoreInUseError(
                errno.EBUSY, "the manifest is missing while other processes have the store open", manifest_path(path)
            )
        else:
            pause()
        lock.close()


def _settle(path: str) -> None:
    """Finish a move to ``path`` whose process was killed; the caller has the lock exclusively."""
    if is_half_moved(path) and not os.path.lexists(manifest_path(path)):
        with importing():
            from rack.store.moving import settle
        settle(path)


def _replaced_too_often(path: str, timeout: float | None) -> RackError:
    name = manifest_path(path)
    if timeout is not None:
        return LockTimeoutError(f"{name} was removed or replaced again and again; waited {timeout} s")
    return StoreInUseError(errno.EBUSY, "other processes remove or replace the store again and again", name)


def enter(
    path: str, request: Request, mode: Mode, lock: StoreLock, durability: str | None, store_id: str | None = None
) -> Entry | None:
    """Share the lock of the store that is there, and be let in.

    :returns: None if there is no manifest, if it was replaced meanwhile, or is not the one with ``store_id``.
    """

    def inside(fd: int) -> Entry | None:
        lock.share(mode.timeout)
        manifest = Manifest.read(path)
        if manifest is None or not lock.is_current() or not is_at(fd, manifest_path(path)):
            return None
        if store_id not in (None, manifest.id):
            return None
        manifest.reconcile(request, path)
        admitted = admit(path, manifest, request, durability, mode.flag == "r", lock)
        return Entry(manifest, lock, admitted) if lock.is_current() else None

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return while_open(lambda: gate(path, mode.timeout), inside)
        except DurabilityInUseError:
            if time.monotonic() > deadline:
                raise
        pause()  # outside of the gate: who gives the store back needs that


def _made(
    path: str, manifest: Manifest, request: Request, durability: str | None, lock: StoreLock
) -> tuple[Manifest, str]:
    """Make a store and be let in, or leave nothing of it; the caller has the lock exclusively, and shares it then."""
    durability = durability or DEFAULT_DURABILITY
    files.create(path, manifest, request, durability)
    try:
        lock.share()  # which lets go of it for a moment
    except BaseException:
        if lock.claim():
            files.unmake(path, manifest)
        raise
    return manifest, durability


def make(path: str, manifest: Manifest, request: Request, durability: str) -> Entry:
    """Make a store with this manifest and come into it."""
    lock = StoreLock(path)
    try:
        lock.claim_or_raise("make the store")
        _made(path, manifest, request, durability, lock)
    except BaseException:
        lock.remove()
        lock.close()
        raise
    return Entry(manifest, lock, durability, True)
