"""The data file of an LMDB shard as a file: its lock for growth, its header, its growth.

With ``writemap``, LMDB truncates the file to the map size of whoever opens or resizes it, so that a process with a
stale, smaller size would cut off pages that another one has written. Therefore every open and every resize happens
under :func:`growth_lock`, and only ever to a size that is at least the file's.

A write through the map to a page that the file system cannot back is SIGBUS. Therefore :func:`extend` writes the new
part of the file with zeros before anyone maps it; writes, rather than allocates, because the first touch of a page
that was only allocated costs over 100 us on ext4.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from io import FileIO
from typing import Any

import lmdb

from rack.errors import RackError, StoreDeletedError, StoreFullError
from rack.shard.problem import corrupt, missing
from rack.system.disk import path_error
from rack.system.flock import flock_within
from rack.system.place import file_id, take_after

# Rack's own records in the main database: under the first keys, so that sorted loads can append.
IDENTITY = b"\0"
LONG_TABLE = b"\x01"  # names of databases are C strings: no NUL
PAGE = mmap.PAGESIZE
INITIAL_SIZE = max(64 << 10, 16 * PAGE)
REMOVAL_ROOM = 4 * PAGE  # with so much more, a map of any size that is full can be emptied, entry by entry
_DOUBLE_BELOW = 4 << 20  # bytes; larger files grow by a quarter
_ZEROS = bytes(1 << 20)

# LMDB 0.9, 64 bits: a page header of 16 bytes, then MDB_meta: magic, version, address, map size, two MDB_db of
# 48 bytes (the first one's first field is the page size), last page used, transaction id. (lmdb's mdb.c)
_META = struct.Struct("=16x II QQ I44x 48x QQ")
_MAGIC = 0xBEEFC0DE
_FORMAT = 1


def growth_lock(path: str, inode: tuple[int, int] | None = None, timeout: float | None = None) -> FileIO:
    """Take the file's growth lock; return the file, which holds it until it is closed: use it in a ``with`` block.

    The lock is a flock on the data file itself: LMDB's own locks are on another file, and closing this descriptor
    does not touch them.

    :param inode: the (device, inode) the file must still have.
    :param timeout: seconds to wait for the lock; None waits.
    :raises StoreDeletedError: it is gone, or another file is in its place.
    :raises LockTimeoutError: another process had the lock all the time.
    """
    opened = []  # no variable refers to it: an exception's traceback would keep it open
    try:
        opened.append(FileIO(path, "r+"))
        flock_within(timeout, opened[0].fileno(), fcntl.LOCK_EX, path)
        if inode is not None and file_id(os.fstat(opened[0].fileno())) != inode:
            raise StoreDeletedError(f"{path} was replaced by another file while the store was open")
        return opened.pop()
    except BaseException as error:
        for file in opened:
            file.close()
        if isinstance(error, RackError) or not isinstance(error, OSError):
            raise
        if isinstance(error, FileNotFoundError):
            raise StoreDeletedError(f"{path} was removed while the store was open") from None
        raise path_error(error, path) from error


def check_header(fd: int, path: str) -> None:
    """Raise CorruptShardError unless this is an LMDB file that holds every page it refers to."""
    first = os.pread(fd, _META.size, 0)
    if len(first) < _META.size:
        raise corrupt(path, f"is truncated: {len(first)} bytes are too few for a shard")
    magic, version, *_ = _META.unpack(first)
    if magic != _MAGIC or version & 0xFFFF != _FORMAT:
        raise corrupt(path, f"is not a Rack shard (it is no LMDB data file of format {_FORMAT})")
    page = _META.unpack(first)[4]
    second = os.pread(fd, _META.size, page)
    metas = [_META.unpack(meta) for meta in (first, second) if len(meta) == _META.size]
    _, _, _, _, _, last_page, _ = max(metas, key=lambda meta: meta[6])
    size = os.fstat(fd).st_size  # asked last: without the growth lock, the file may grow between the two
    if (last_page + 1) * page > size:
        raise corrupt(path, f"is truncated: it has {size} bytes and uses {(last_page + 1) * page}")


def last_txn(path: str) -> int:
    """Return the id of the last transaction in the file.

    :raises CorruptShardError: it is missing, or too short.
    """
    try:
        with open(path, "rb") as file:
            first = _META.unpack(file.read(_META.size))
            file.seek(first[4])
            return int(max(first[6], _META.unpack(file.read(_META.size))[6]))
    except FileNotFoundError:
        raise missing(path) from None
    except struct.error:
        raise corrupt(path, "is truncated: it is too short for a shard") from None


def shrink(path: str) -> None:
    """Cut off what is behind the last page that is in use, in a file that nobody has open."""
    with FileIO(path, "r+") as file:
        first = _META.unpack(os.pread(file.fileno(), _META.size, 0))
        second = _META.unpack(os.pread(file.fileno(), _META.size, first[4]))
        last_page = max(first, second, key=lambda meta: meta[6])[5]
        os.ftruncate(file.fileno(), max(INITIAL_SIZE, (last_page + 1) * first[4]))


def open_alone(path: str) -> lmdb.Environment:
    """Open a file that nobody else has or will open, for writing, without a lock file."""
    size = os.path.getsize(path)
    options: dict[str, Any] = {"subdir": False, "lock": False, "max_dbs": 1, "lib_version": 0, "map_size": size}
    return lmdb.open(os.fsencode(path), writemap=True, sync=False, metasync=False, **options)


def back_lock_file(path: str, shard: os.stat_result) -> None:
    """Make LMDB's lock file, with the owner and mode of the shard's and its first page backed, unless it is there.

    LMDB makes it with holes and writes to it through a map, which is SIGBUS if there is no space. What is behind the
    first page is touched only when more than 60 processes are inside a transaction at one moment.

    The caller has the growth lock.

    :raises StoreFullError: no space; there is no lock file.
    :raises ReadOnlyError: no permission to make it.
    """
    try:
        file = FileIO(path, "x+")
    except FileExistsError:
        return
    except OSError as error:
        raise path_error(error, path) from error
    try:
        take_after(file.fileno(), shard)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, PAGE)
    except OSError as error:
        os.unlink(path)
        raise StoreFullError(error.errno, f"no space to open the shard ({error.strerror})", path) from error
    finally:
        file.close()


def grown(size: int, need: int) -> int:
    """Return the size a file of ``size`` bytes grows to when it has to hold ``need`` more."""
    step = size if size < _DOUBLE_BELOW else size // 4
    return rounded(size + max(step, need))


def copy(source: int, target: int, size: int, proceed: Callable[[], None] = lambda: None) -> None:
    """Copy the first ``size`` bytes of a file; ``proceed`` is called often, and may raise."""
    at = 0
    while at < size:
        proceed()
        at += os.pwrite(target, os.pread(source, min(len(_ZEROS), size - at), at), at)


def rounded(size: int) -> int:
    """Return the least size a file has that holds ``size`` bytes."""
    return -(-size // INITIAL_SIZE) * INITIAL_SIZE


def grow(fd: int, size: int, need: int, path: str) -> int:
    """Grow the file for ``need`` more bytes, amply if there is space, else by no more than that; return its new size.

    :raises StoreFullError: no space even so; the file is as it was.
    """
    new_size = grown(size, need)
    try:
        extend(fd, size, new_size, path)
    except StoreFullError:
        new_size = -(-(size + need) // PAGE) * PAGE
        extend(fd, size, new_size, path)
    return new_size


def extend(fd: int, size: int, new_size: int, path: str) -> None:
    """Write zeros from ``size`` to ``new_size``; the caller holds the growth lock.

    :raises StoreFullError: no space; the file is again ``size`` bytes long.
    """
    at = size
    try:
        while at < new_size:
            at += os.pwrite(fd, _ZEROS[: new_size - at] if new_size - at < len(_ZEROS) else _ZEROS, at)
    except OSError as error:
        os.ftruncate(fd, size)
        raise StoreFullError(
            error.errno, f"no space to grow by {new_size - size} bytes ({error.strerror}); nothing was changed", path
        ) from error
    except BaseException:
        os.ftruncate(fd, size)
        raise
