"""A compact copy of a shard that is in use, for which nobody waits.

While LMDB copies an environment, py-lmdb lets no transaction of the process end that is aborted: a writer that meets
the end of the map would wait for the copy, inside LMDB's writer lock, and all processes with it. So the file is copied
as bytes, while a reader keeps the pages of its state. The copy gets the meta pages of that state. Then LMDB makes a
compact copy of it, in an environment of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from io import FileIO
from typing import Any

import lmdb

from rack.shard.lmdb import datafile, pages
from rack.shard.lmdb.environment import LmdbEnvironment
from rack.shard.lmdb.held import begin_held, opened
from rack.shard.lmdb.opening import translated
from rack.system.disk import path_error

RAW = "-raw"


def write_compact(shard: LmdbEnvironment, path: str, proceed: Callable[[], None]) -> None:
    """Write the file at ``path``, which is not there; the shard's lock is taken for moments.

    :param proceed: called often; may raise.
    """
    raw = path + RAW
    try:
        with opened(shard) as source, FileIO(raw, "w") as target:
            while not _copied(shard, source.fileno(), target.fileno(), proceed):
                proceed()
        with datafile.open_alone(raw) as env:
            env.copy(os.fsencode(path), compact=True)  # type: ignore[arg-type]
    except lmdb.Error as error:
        raise translated(error, path) from error
    except OSError as error:
        raise path_error(error, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(raw)


def _copied(shard: LmdbEnvironment, source: int, target: int, proceed: Callable[[], None]) -> bool:
    """Copy the file; return False if the state was not kept to the end, as when this process makes the file larger."""
    with shard._lock:
        txn, metas = begin_held(shard._env, source, shard.path, shard._adopt_size)
    try:
        meta = pages.newest(metas)
        place = metas.index(meta)
        page = os.pread(source, meta.page_size, place * meta.page_size)
        if pages.parse_meta(page, place) != meta:
            return False  # two commits came just now
        size = (meta.last_page + 1) * meta.page_size
        datafile.copy(source, target, size, proceed)
    finally:
        with shard._lock:
            was_kept = _is_alive(txn)
            txn.abort()
    os.ftruncate(target, size)
    for place in range(pages.METAS):
        # The other one is that of a transaction before, as it always is.
        data = pages.meta_page(page, place, meta.number if place == meta.number % 2 else meta.number - 1)
        os.pwrite(target, data, place * meta.page_size)
    return was_kept


def _is_alive(txn: Any) -> bool:
    try:
        txn.id()
    except lmdb.Error:
        return False
    return True
