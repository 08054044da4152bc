"""Opens LMDB's files with Rack's options, makes them, and says what LMDB's errors mean to the user."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from fcntl import LOCK_EX
from typing import Any, NamedTuple

import lmdb

from rack.errors import (
    RackError,
    ReadOnlyError,
    StoreFullError,
    StoreInUseError,
    StorePathError,
    TooLargeError,
)
from rack.shard.base import ShardSpec
from rack.shard.holding import reentrant
from rack.shard.image import write_new
from rack.shard.lmdb import datafile, pages
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.mutex import Mutex
from rack.shard.problem import corrupt, missing, read_only
from rack.system.flock import flock_within, while_open
from rack.system.place import file_id, may_make

MAX_KEY = 511  # LMDB's default, which the on-disk format depends on
MAX_VALUE = 0xFFFFFFFF - 4096
_MAX_READERS = 4096
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checked(spec: ShardSpec) -> tuple[int, int] | None:
    """Look at a shard's file without opening it for use; return its (device, inode).

    None: whether it is this shard can only be told by opening it; it is being written to just now, say.

    :raises CorruptShardError: it is missing, cut short, or no shard.
    """
    check_interpreter()

    def look(fd: int) -> tuple[int, int] | None:
        datafile.check_header(fd, spec.path)
        try:
            _, leaf = pages.first_leaf(fd, pages.newest(pages.read_metas(fd)))
        except pages.PageError:
            return None
        return file_id(os.fstat(fd)) if identity(spec) in leaf else None

    return while_open(lambda: _file(spec._replace(readonly=True), None), look)


class Opened(NamedTuple):
    """What there is of a shard's file that is open."""

    env: Any
    unregistered: bool  # whether it is a reader's of whom writers do not know
    inode: tuple[int, int]  # and the device, first
    mutex: Mutex | None


def open_file(spec: ShardSpec, inode: tuple[int, int] | None) -> Opened:
    """Open a shard's file.

    :param inode: the (device, inode) that it must have, if it was there before.
    """
    opened: list[Opened] = []  # no other variable has it: a traceback would keep it open
    try:
        while_open(lambda: _file(spec, inode), lambda fd: _open_locked(spec, fd, opened))
        return opened.pop()
    except BaseException:
        for each in opened:
            each.env.close()
            if each.mutex is not None:
                each.mutex.close()
        raise


def _open_locked(spec: ShardSpec, fd: int, opened: list[Opened]) -> None:
    datafile.check_header(fd, spec.path)
    status = os.fstat(fd)
    size = status.st_size
    if not spec.readonly and size % datafile.PAGE:  # a growth that was cut short
        datafile.extend(fd, size, datafile.grown(size, 1), spec.path)
        size = os.fstat(fd).st_size
    if not spec.readonly:
        datafile.back_lock_file(spec.path + "-lock", status)
    elif not os.path.lexists(spec.path + "-lock") and may_make(spec.path, status):  # as after a copy of the store
        with contextlib.suppress(ReadOnlyError):  # a directory that cannot be written to
            flock_within(spec.timeout, fd, LOCK_EX, spec.path)
            datafile.back_lock_file(spec.path + "-lock", status)
    mutex = None
    if not spec.readonly and sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):  # it is but looked at
            mutex = Mutex(spec.path + "-lock")
    try:
        while not opened:
            try:
                opened.append(Opened(*open_env(spec, size), file_id(status), mutex))
            except lmdb.MapResizedError:  # to a reader, who has no growth lock: the file has just become larger
                size = os.fstat(fd).st_size
            except lmdb.Error as error:
                raise translated(error, spec.path) from error
    except BaseException:
        if mutex is not None and not opened:
            mutex.close()  # the exception's traceback would keep it open
        raise


def _file(spec: ShardSpec, inode: tuple[int, int] | None) -> io.FileIO:
    """Open a shard's file; who may write has its growth lock."""
    try:
        return io.FileIO(spec.path) if spec.readonly else datafile.growth_lock(spec.path, inode, spec.timeout)
    except FileNotFoundError as error:
        if inode is not None and isinstance(error, RackError):
            raise  # it was there when the store was opened
        raise missing(spec.path) from None
    except OSError as error:
        if isinstance(error, RackError):
            raise
        raise StorePathError(error.errno, error.strerror, spec.path) from error


def open_env(spec: ShardSpec, size: int) -> tuple[Any, bool]:
    """Return the environment, and whether it is an unregistered reader's."""
    check_interpreter()
    always = spec.durability == "always"
    options: dict[str, Any] = {
        "subdir": False,
        "map_size": size,
        "max_dbs": 1,
        "max_readers": _MAX_READERS,
        "max_spare_txns": 0,  # a spare reader would be alive at a fork
        "mode": 0o666,
        "lib_version": 0,
    }
    if not spec.readonly:
        return lmdb.open(os.fsencode(spec.path), sync=always, metasync=always, writemap=True, **options), False
    if os.path.lexists(spec.path + "-lock"):  # else LMDB would make it, for this user and nobody else
        try:
            return lmdb.open(os.fsencode(spec.path), readonly=True, **options), False
        except lmdb.Error as error:
            if error.code not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
    return lmdb.open(os.fsencode(spec.path), readonly=True, lock=False, **options), True


def check_interpreter() -> None:
    """Raise RackError where py-lmdb would crash: without the GIL, which is there unless it is forced off."""
    if not getattr(sys, "_is_gil_enabled", _yes)():
        raise RackError(
            "py-lmdb crashes without the GIL, which is forced off here: start Python without PYTHON_GIL=0 and -X gil=0,"
            ' or use engine="sqlite3"'
        ).in_words(
            "py-lmdb crashes without the GIL, which is forced off here: start Python without PYTHON_GIL=0 and -X gil=0"
        )


def _yes() -> bool:
    return True


def make(spec: ShardSpec) -> None:
    check_interpreter()
    with open(spec.path, "xb"):
        pass
    with datafile.growth_lock(spec.path) as file:
        datafile.back_lock_file(spec.path + "-lock", os.fstat(file.fileno()))
        fd = file.fileno()
        write_new(spec.path, ("lmdb", spec.layout), identity(spec), lambda: _make_with_lmdb(spec, fd))


def _make_with_lmdb(spec: ShardSpec, fd: int) -> None:
    env, _ = open_env(spec, datafile.INITIAL_SIZE)
    try:
        page = env.stat()["psize"]
        # LMDB has just made the file this long, with holes: fill all but its two meta pages.
        datafile.extend(fd, 2 * page, datafile.INITIAL_SIZE, spec.path)
        if spec.layout != "small":
            env.open_db(LONG_TABLE)
        with env.begin(write=True) as txn:
            txn.put(IDENTITY, identity(spec))
    finally:
        env.close()


def translated(error: lmdb.Error, path: str) -> Exception:
    if isinstance(error, RackError):
        return error
    if isinstance(error, lmdb.ReadonlyError):
        return read_only(path)
    if isinstance(error, lmdb.BadValsizeError):
        return TooLargeError(f"a value or key is larger than LMDB holds ({MAX_VALUE} bytes)")
    if isinstance(error, lmdb.ReadersFullError):
        return RackError(f"{path}: more than {_MAX_READERS} threads read this shard at once")
    if "already open in this process" in str(error):
        return StoreInUseError(errno.EBUSY, "this process has it open under another name, or did not close it", path)
    code = getattr(error, "code", 0)  # LMDB's own have one
    if code == errno.EBUSY or "same thread" in str(error):
        return reentrant(path)
    if code in _NO_SPACE:
        return StoreFullError(code, f"{error}; nothing was changed", path)
    if code in (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return StorePathError(code, str(error), path)
    return corrupt(path, f"is damaged: {error}")


def identity(spec: ShardSpec) -> bytes:
    return f"rack-shard-1 {spec.store_id} {spec.number} {spec.layout}".encode()


def unlink(spec: ShardSpec) -> None:
    for path in (spec.path, spec.path + "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
