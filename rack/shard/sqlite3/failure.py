"""What an error of SQLite means to the user."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sqlite3

from rack.errors import StoreFullError, StorePathError, TooLargeError
from rack.shard.problem import corrupt, read_only


def translated(error: Exception, path: str) -> Exception:
    code = code_of(error)
    kind = code & 0xFF
    if kind == sqlite3.SQLITE_READONLY:
        return read_only(path)
    if kind == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError | OverflowError):
        return TooLargeError(f"a key or value is larger than SQLite holds (about 10**9 bytes): {error}")
    if is_full(error, path):
        return StoreFullError(errno.ENOSPC, f"{error}; nothing was changed", path)
    if kind == sqlite3.SQLITE_IOERR and _size_is_limited():
        return StoreFullError(errno.EFBIG, f"{error}: file-size limit; nothing was changed", path)
    if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorePathError(_reason(), str(error), path)
    return corrupt(path, f"is damaged: {error}")


def is_full(error: Exception, path: str) -> bool:
    """Whether there is no room on the disk, or the database may not have more pages."""
    kind = code_of(error) & 0xFF
    return kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and _disk_is_full(path))


def is_overflow(error: BaseException) -> bool:
    """Whether Python's sqlite3 could not hand something to SQLite, as it has more than 2**31 bytes."""
    return isinstance(error, OverflowError) and "longer than INT_MAX" in str(error)


def code_of(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR


def _disk_is_full(path: str) -> bool:
    """Whether there is no space for the file of shared memory, of which SQLite only says that it is an I/O error."""
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize < 1 << 16


def _size_is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _reason() -> int:
    """Return why a file cannot be opened or read, of which SQLite says nothing: are there descriptors for all four?"""
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(4):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            return error.errno or errno.EIO
    return errno.EIO
