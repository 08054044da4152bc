"""Having a store alone: for what replaces its files, removes them, or gives them other names."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rack.errors import RackError, StoreInUseError, StoreNotFoundError
from rack.store import moving, registry
from rack.store.lock import StoreLock
from rack.store.manifest import Manifest, Request, is_half_moved, manifest_path
from rack.store.opening import Mode
from rack.store.record import Record
from rack.system.arguments import duration
from rack.system.flock import pause

_PATIENCE = 1.0  # seconds that opening may wait for who opens it as well


class Nobody:
    """The home of a shard that nobody else has open."""

    def rejoin(self) -> None: ...

    def begin_writing(self) -> bool:
        return False

    def give_room(self) -> bool:
        return False

    def at_home(self, body: Callable[[], object]) -> None:
        body()


@contextmanager
def locked(path: str, purpose: str, timeout: float | None) -> Iterator[StoreLock]:
    """Hold the lock of the store at ``path`` exclusively while the block runs. There need not be a store.

    :raises StoreInUseError: after ``timeout`` seconds (None: never) others still have the store open; it says who.
    """
    deadline = None if timeout is None else time.monotonic() + duration("timeout", timeout)
    registry.end_resting()
    lock = StoreLock(path)
    try:
        while True:
            try:
                lock.claim_or_raise(purpose)
                if lock.is_current():
                    break
                lock.close()  # it was removed meanwhile
            except StoreInUseError:
                if deadline is not None and time.monotonic() >= deadline:
                    with registry.borrowed(path) as own:
                        if own is None:
                            raise
                    message = f"cannot {purpose}: this process has the store open; close it first"
                    raise StoreInUseError(errno.EBUSY, message, manifest_path(path)) from None
            pause()
        if is_half_moved(path) and Manifest.read(path) is None:
            moving.settle(path)
        yield lock
    finally:
        if not (os.path.lexists(manifest_path(path)) or is_half_moved(path)):
            lock.remove()  # of a store that is not there, or not any more
        lock.close()


@contextmanager
def alone(path: str, purpose: str, timeout: float | None) -> Iterator[Manifest]:
    """Have the store at ``path`` alone while the block runs, closed, clean, and on the disk; gives its manifest.

    :raises StoreNotFoundError: there is no store.
    :raises StoreInUseError: as for :func:`locked`.
    """
    while True:
        _recover(path, timeout)
        with locked(path, purpose, timeout):
            manifest = Manifest.read(path)
            if manifest is None:
                raise not_found(path)
            if not Record.read(path).boot:  # else somebody has used it meanwhile, and was killed
                yield manifest
                return


def _recover(path: str, timeout: float | None) -> None:
    """Open the store and close it: so it is recovered, if that is needed, and put down as clean."""
    manifest = existing(path, timeout)
    mode = Mode("w", None, None if timeout is None else max(timeout, _PATIENCE), None)
    registry.release(registry.acquire(path, Request(manifest.kind, opaque=True), mode))


def existing(path: str, timeout: float | None) -> Manifest:
    """Return the manifest of a store.

    :raises StoreNotFoundError: there is none.
    """
    finish_move(path, None if timeout is None else duration("timeout", timeout))
    manifest = Manifest.read(path)
    if manifest is None:
        raise not_found(path)
    return manifest


def finish_move(path: str, timeout: float | None = 0) -> None:
    """Finish a move to ``path`` whose process was killed, if this one may, and let this process have it closed."""
    registry.end_resting()
    if is_half_moved(path) and not os.path.lexists(manifest_path(path)):
        with suppress(RackError), locked(path, "finish moving it", timeout):
            pass


def not_found(path: str) -> RackError:
    return StoreNotFoundError(errno.ENOENT, "there is no such store", manifest_path(path))
