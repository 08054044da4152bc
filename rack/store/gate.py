"""The gate of a store: a flock on its manifest, in which processes are let in and the record is written.

It comes before the store's lock. Nobody holds it for longer than opening, or having the store on the disk, takes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from io import FileIO
from typing import TypeVar

from rack.errors import RackError, StoreDeletedError
from rack.store.manifest import Manifest, manifest_path
from rack.system.disk import path_error
from rack.system.flock import attempt, lock_timeout, pause, while_open

Result = TypeVar("Result")


def gate(path: str, timeout: float | None) -> FileIO | None:
    """Go into the gate of the store, one process at a time; return the manifest's file: who closes it has left.

    None: there is no manifest.
    """
    name = manifest_path(path)
    opened = []  # no variable refers to it: an exception's traceback would keep it open
    try:
        try:
            opened.append(FileIO(name))
        except FileNotFoundError:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        while not attempt(opened[0].fileno(), fcntl.LOCK_EX):
            if timeout is None or deadline is None:
                fcntl.flock(opened[0], fcntl.LOCK_EX)
            elif time.monotonic() > deadline:
                raise lock_timeout(name, timeout)
            else:
                pause()
        return opened.pop()
    except BaseException as error:
        for file in opened:
            file.close()
        if isinstance(error, OSError) and not isinstance(error, RackError):
            raise path_error(error, name) from error
        raise


def in_gate(path: str, store_id: str, timeout: float | None, body: Callable[[], Result]) -> Result:
    """Call ``body`` in the gate of the store with that id, which is open, and return what it returns.

    Whatever an open store does to files by their paths is done here: another store may have taken its place.

    :raises StoreDeletedError: the store is not there any more.
    """

    def opened() -> FileIO:
        file = gate(path, timeout)
        if file is None:
            raise _deleted(path)
        return file

    def inside(fd: int) -> Result:
        if not _is_there(path, store_id, fd):
            raise _deleted(path)
        return body()

    return while_open(opened, inside)


def _is_there(path: str, store_id: str, fd: int) -> bool:
    found = Manifest.read(path)
    return found is not None and found.id == store_id and is_at(fd, manifest_path(path))


def is_at(fd: int, path: str) -> bool:
    """Return whether the file that is open is the one at a path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _deleted(path: str) -> StoreDeletedError:
    return StoreDeletedError(f"{manifest_path(path)} was removed or replaced while the store was open")
