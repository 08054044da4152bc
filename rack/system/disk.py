"""Having what was written on the disk. On macOS ``fsync`` leaves it in the drive's cache; F_FULLFSYNC does not."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

_THREADS = 16

if sys.platform == "darwin":

    def sync_file(fd: int) -> None:
        """Return when everything written to the file, by anyone, is on the disk."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def sync_file(fd: int) -> None:
        """Return when everything written to the file, by anyone, is on the disk."""
        os.fdatasync(fd)


def sync_path(path: str) -> None:
    """Return when everything written to the file at ``path``, by anyone, is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def sync_paths(paths: Sequence[str]) -> None:
    """Return when all the files are on the disk. They are synced at once: the disk takes several for little more."""
    errors: list[BaseException] = []
    waiting = SimpleQueue[str | None]()
    for path in paths:
        waiting.put(path)
    threads = [Thread(target=_sync_waiting, args=(waiting, errors)) for _ in paths[1:_THREADS]]
    for thread in threads:
        waiting.put(None)
        with suppress(RuntimeError):  # the interpreter is shutting down
            thread.start()
    waiting.put(None)
    _sync_waiting(waiting, errors)
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[0]


def _sync_waiting(waiting: SimpleQueue[str | None], errors: list[BaseException]) -> None:
    while (path := waiting.get()) is not None:
        try:
            sync_path(path)
        except OSError as error:
            errors.append(error)


def sync_directory(path: str) -> None:
    """Return when what was made, renamed and removed in the directory is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
