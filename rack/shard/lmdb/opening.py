"""Opens LMDB's files with Rack's options, makes them, and says what LMDB's errors mean to the user."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

import lmdb

from rack.errors import (
    RackError,
    ReentrantWriteError,
    StoreFullError,
    StoreInUseError,
    StorePathError,
    TooLargeError,
)
from rack.shard.base import ShardSpec
from rack.shard.lmdb import datafile
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.problem import corrupt, read_only

MAX_KEY = 511  # LMDB's default, which the on-disk format depends on
MAX_VALUE = 0xFFFFFFFF - 4096
_MAX_READERS = 4096
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_env(spec: ShardSpec, size: int) -> tuple[Any, bool]:
    """Return the environment, and whether it is an unregistered reader's."""
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
        return lmdb.open(spec.path, sync=always, metasync=always, writemap=True, **options), False
    try:
        return lmdb.open(spec.path, readonly=True, **options), False
    except lmdb.Error as error:
        if error.code not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        return lmdb.open(spec.path, readonly=True, lock=False, **options), True


def make(spec: ShardSpec) -> None:
    with open(spec.path, "xb"):
        pass
    with datafile.growth_lock(spec.path) as fd:
        datafile.back_lock_file(spec.path + "-lock")
        env, _ = open_env(spec, datafile.INITIAL_SIZE)
        try:
            page = env.stat()["psize"]
            # LMDB has just made the file this long, with holes: fill all but its two meta pages.
            datafile.extend(fd, 2 * page, datafile.INITIAL_SIZE, spec.path)
            if spec.layout != "small":
                env.open_db(LONG_TABLE)
            with env.begin(write=True) as txn:
                txn.put(IDENTITY, identity(spec))
            env.sync(True)
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
        return ReentrantWriteError(f"{path}: a write inside another write; a serializer must not use the store")
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
