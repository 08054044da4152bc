"""A compact copy of a shard that is in use, for which no other process waits.

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
from typing import Any, NamedTuple

import lmdb

from rack.shard.lmdb import datafile, pages
from rack.shard.lmdb.environment import LmdbEnvironment
from rack.shard.lmdb.held import begin_held, opened
from rack.shard.lmdb.opening import translated
from rack.system.disk import path_error

RAW = "-raw"


class State(NamedTuple):
    """A state of a file: its newest meta page, and the bytes of that."""

    meta: pages.Meta
    page: bytes

    @classmethod
    def parse(cls, both: bytes) -> State:
        """Return that of the first two pages of a file.

        :raises PageError: they are none of LMDB's.
        """
        size = pages.parse_meta(both, 0).page_size
        places = [both[:size], both[size : 2 * size]]
        metas = pages.parse_meta(places[0], 0), pages.parse_meta(places[1], 1)
        meta = pages.newest(metas)
        return cls(meta, places[metas.index(meta)])

    def copy(self, source: int, target: int, proceed: Callable[[], None] = lambda: None) -> None:
        """Copy the file as it is in this state, whose pages some reader keeps."""
        size = (self.meta.last_page + 1) * self.meta.page_size
        datafile.copy(source, target, size, proceed)
        os.ftruncate(target, size)
        for place in range(pages.METAS):
            # The other one is that of a transaction before, as it always is.
            number = self.meta.number if place == self.meta.number % 2 else self.meta.number - 1
            os.pwrite(target, pages.meta_page(self.page, place, number), place * self.meta.page_size)


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
        state = State.parse(os.pread(source, 2 * meta.page_size, 0))
        if state.meta != meta:
            return False  # a commit came just now
        state.copy(source, target, proceed)
    finally:
        with shard._lock:
            was_kept = _is_alive(txn)
            txn.abort()
    return was_kept


def _is_alive(txn: Any) -> bool:
    try:
        txn.id()
    except lmdb.Error:
        return False
    return True
