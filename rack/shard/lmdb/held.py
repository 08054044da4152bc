"""The state of a shard's file that is in use, kept from being overwritten, so that its pages can be read as bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any

import lmdb

from rack.errors import RackError, StoreDeletedError
from rack.shard.lmdb import pages
from rack.shard.lmdb.environment import LmdbEnvironment
from rack.shard.lmdb.pages import Meta
from rack.system.place import file_id

_TRIES = 10_000


def opened(shard: LmdbEnvironment) -> FileIO:
    """Open the file of an open shard.

    :raises StoreDeletedError: it is not there any more.
    """
    try:
        file = FileIO(shard._locate().path)
    except FileNotFoundError:
        raise StoreDeletedError(f"{shard.path} was removed while the store was open") from None
    if file_id(os.fstat(file.fileno())) != shard._inode:
        file.close()
        raise StoreDeletedError(f"{shard.path} was replaced by another file while the store was open")
    return file


def begin_held(env: Any, fd: int, path: str, adopt_size: Callable[[], None]) -> tuple[Any, tuple[Meta, Meta]]:
    """Begin a read transaction, which keeps the pages of its state; return it, and the meta pages.

    The meta page of a state is overwritten two commits later: it has been read in time if there was no commit
    meanwhile.
    """
    for _ in range(_TRIES):
        try:
            txn = env.begin()
        except lmdb.MapResizedError:  # another process has just made the file larger
            adopt_size()
            continue
        try:
            number = txn.id()
            metas = pages.read_metas(fd)
            if env.info()["last_txnid"] == number == pages.newest(metas).number:
                return txn, metas
        except BaseException:
            txn.abort()
            raise
        txn.abort()
    raise too_fast(path)


@contextmanager
def held_state(env: Any, fd: int, path: str, adopt_size: Callable[[], None]) -> Iterator[tuple[Meta, Meta]]:
    """Keep the state of the file from being overwritten while the block runs; gives its meta pages."""
    txn, metas = begin_held(env, fd, path, adopt_size)
    with txn:
        yield metas


def too_fast(path: str) -> RackError:
    return RackError(f"{path} changes too fast to be examined: try again when there are fewer writers")
