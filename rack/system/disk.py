"""Files: having what was written on the disk, and what their errors mean.

On macOS ``fsync`` leaves it in the drive's cache; F_FULLFSYNC does not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from threading import Thread

from rack.errors import RackError, ReadOnlyError, StoreFullError, StoreNotFoundError, StorePathError

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
    with FileIO(path) as file:  # closed even if an exception comes at the worst moment
        sync_file(file.fileno())


def sync_paths(paths: Sequence[str]) -> None:
    """Return when all the files are on the disk. They are synced at once: the disk takes several for little more."""
    errors: list[BaseException] = []
    waiting = deque(paths)
    threads = [Thread(target=_sync_waiting, args=(waiting, errors)) for _ in paths[1:_THREADS]]
    for thread in threads:
        with suppress(RuntimeError):  # the interpreter is shutting down
            thread.start()
    _sync_waiting(waiting, errors)
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[0]


def _sync_waiting(waiting: deque[str], errors: list[BaseException]) -> None:
    while True:
        try:
            path = waiting.popleft()
        except IndexError:
            return
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


def path_error(error: OSError, path: str) -> RackError:
    """Return the error for a file of the store that cannot be opened or made, naming what is in the way."""
    directory = os.path.dirname(path)
    if not os.path.exists(directory):
        return StoreNotFoundError(errno.ENOENT, "the directory of the store does not exist; make it first", directory)
    if not os.path.isdir(directory):
        return StorePathError(errno.ENOTDIR, "the store's name has a file in place of a directory", directory)
    if os.path.isdir(path):
        return StorePathError(errno.EISDIR, "a directory is in the place of a file of the store", path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = 'flag="r" opens a store for reading alone'
        return ReadOnlyError(error.errno, f"{error.strerror}; {advice}", path).in_words(str(error.strerror))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(error.errno, error.strerror, path)
    if error.errno == errno.ENAMETOOLONG:
        name = os.path.basename(path)
        return StorePathError(
            error.errno,
            f"{error.strerror}: {len(os.fsencode(name))} bytes, and a path of {len(os.fsencode(path))}",
            path,
        )
    return StorePathError(error.errno, error.strerror, path)
