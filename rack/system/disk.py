"""Files: having what was written on the disk, and what their errors mean.

On macOS ``fsync`` leaves it in the drive's cache; F_FULLFSYNC does not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from _thread import RLock, start_new_thread
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO

from rack.errors import RackError, ReadOnlyError, StoreFullError, StoreNotFoundError, StorePathError
from rack.system.descriptor import Descriptor

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
    """Return when all the files that are there are on the disk.

    They are synced at once: the disk takes several for little more.
    """
    files = [_Unsynced(path) for path in paths]
    try:
        try:
            for _ in files[1:_THREADS]:
                start_new_thread(_sync_each, (files,))
        except RuntimeError:  # the interpreter is shutting down, or has too many: the others do it
            pass
        _sync_each(files)
        _wait_for(files)
    except BaseException:
        for file in files:
            file.is_due = False
        _wait_for(files)
        raise
    for file in files:
        if file.error is not None:
            raise file.error


class _Unsynced:
    """A file that is to be synced, by whichever thread takes its lock first.

    An exception may come between any two instructions. So it is not noted who syncs what: who waits for the lock waits
    for nobody who has ended, and not for itself. And a file that nobody has said to be synced is not.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = RLock()
        self.is_due = True
        self.error: BaseException | None = MemoryError(f"there was no memory to have {path} on the disk")


def _sync_each(files: list[_Unsynced]) -> None:
    for file in files:
        if file.is_due and file.lock.acquire(blocking=False):
            try:
                if file.is_due:
                    file.is_due = False
                    with suppress(FileNotFoundError):  # what was removed needs no disk
                        sync_path(file.path)
                    file.error = None
            except OSError as error:
                file.error = error
            finally:
                file.lock.release()


def _wait_for(files: list[_Unsynced]) -> None:
    for file in files:
        file.lock.acquire()


def bytes_on_disk(path: str) -> int:
    """Return how much of the disk a file takes: less than its size if it has holes; 0 if it is not there."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def keep_room(fd: int, size: int) -> bool:
    """Make a file at least so long, with all of it backed by the disk; return whether that is so."""
    present = os.fstat(fd).st_size
    try:
        if present >= size:
            return True
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, present, size - present)
        else:
            while present < size:
                present += os.pwrite(fd, bytes(size - present), present)
        return True
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(fd, present)
        return error.errno == errno.EFBIG  # files may not be so long, whatever room there is


def sync_directory(path: str) -> None:
    """Return when what was made, renamed and removed in the directory is on the disk."""
    directory = Descriptor()
    try:
        directory.open(os.open, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory.fileno())
        directory.close()
    except BaseException:
        directory.close()
        raise


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
