"""A snapshot of an LMDB shard: a read transaction that stays open.

py-lmdb aborts the process's transactions on an environment when it changes the size of its map, and a file cannot be
open in two environments of a process. So before a resize the snapshot moves to a copy of the file, made by LMDB from
the transaction. In a forked child the transaction is dropped before anything else is: then py-lmdb leaves the
parent's reader slot alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from traceback import clear_frames
from typing import IO, Any

import lmdb

from rack.errors import ReadOnlyError
from rack.shard.base import ShardSpec
from rack.shard.lmdb import datafile, operations
from rack.shard.lmdb.datafile import IDENTITY
from rack.shard.lmdb.opening import identity, translated
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.transactions import Result
from rack.shard.snapshot import SnapshotShard
from rack.system.disk import sync_path


class LmdbSnapshot(SnapshotShard, LmdbReader):
    """Reads as a live shard does, but always in the one transaction."""

    def __init__(self, live: LmdbReader) -> None:
        """Take a snapshot; ``live`` is ready for it, and its lock is held."""
        self._spec = live._spec
        self._env = live._env
        self._main, self._long = live._main, live._long
        self._unregistered = live._unregistered
        self._begin = self._refuse_begin if live._unregistered else self._current
        try:
            self._txn = live._started(live._env.begin if live._unregistered else live._begin)
            self._start(live._snapshots)
        except BaseException:
            self._txn = None  # which aborts it
            raise

    suffix = ""
    companions = ()
    ordered = True

    def _new_lock(self) -> None:
        LmdbReader._new_lock(self)

    def _new_journalling(self) -> None:
        return None

    def _current(self, *args: Any) -> Any:
        """Stands for ``env.begin``."""
        if self._end is not None:
            raise self._end.with_traceback(None)
        return self._txn

    def _refuse_begin(self, *args: Any) -> Any:
        """Stands for ``env.begin`` of an unregistered reader: leaves it all to ``_read``."""
        raise lmdb.Error("mdb_txn_begin")

    def contains(self, key: bytes) -> bool:
        return self._read(operations.contains, key)

    def _read_held(self, body: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        self._check_overtaken(0)
        try:
            return body(self, self._current(), *args)
        except Exception as error:
            _forget_variables(error)
            if isinstance(error, lmdb.Error):
                raise translated(error, self._spec.path) from error
            raise
        finally:
            self._check_overtaken(1)

    def _check_overtaken(self, commits: int) -> None:
        """Lose the snapshot if there were more than so many commits since, and writers do not know of this reader.

        After one commit a writer may be using its pages again. So a read begins only if there was none, and what it has
        found is right if there was at most one meanwhile.
        """
        if self._unregistered and self._end is None and self._env.info()["last_txnid"] > self._txn.id() + commits:
            self.lose(
                "its store has changed since, and writers do not know of a reader who may not write"
                f" {self._spec.path}-lock"
            )
            self._current()

    def copy_to(self, spec: ShardSpec) -> None:
        self._write_copy(spec.path)
        with open(spec.path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            room = datafile.rounded(size + 16 * datafile.PAGE)  # for the identity
            datafile.extend(file.fileno(), size, room, spec.path)
        try:
            with datafile.open_alone(spec.path) as env, env.begin(write=True) as txn:
                txn.put(IDENTITY, identity(spec))
        except lmdb.Error as error:
            raise translated(error, spec.path) from error
        sync_path(spec.path)

    def _write_copy(self, path: str) -> None:
        with open(path, "xb") as file:
            self._read(_copy, file)

    def _move_to(self, path: str) -> None:
        self._write_copy(path)
        env = lmdb.open(
            path,
            map_size=os.path.getsize(path),
            subdir=False,
            readonly=True,
            lock=False,
            max_dbs=1,
            max_spare_txns=0,
            lib_version=0,
        )
        self._open_tables(env)
        self._txn = None  # which aborts it
        self._env, self._txn, self._unregistered, self._begin = env, env.begin(), False, self._current

    def _let_go(self) -> None:
        # In a forked child abort() would free the parent's reader slot. Without a reference to it the transaction is
        # aborted in the process that began it, and left alone in another.
        self._txn = self._main = self._long = None
        if self._detached and self._env is not None:
            self._env.close()
        self._env = None


def make_ready(live: LmdbReader) -> None:
    """Have a shard ready for a snapshot; its lock is held."""
    live.version()  # opens it again, in a forked child
    path = live._spec.path
    if live._unregistered and not os.statvfs(path).f_flag & os.ST_RDONLY:
        raise ReadOnlyError(
            errno.EACCES,
            "a snapshot needs the permission to write this file: of other readers writers do not know, and use their"
            " pages again. `rack copy` needs none",
            path + "-lock",
        )
    live._keep_tables()


def _copy(shard: LmdbSnapshot, txn: Any, file: IO[bytes]) -> None:
    try:
        shard._env.copyfd(file.fileno(), compact=True, txn=txn)
    except lmdb.Error as error:
        raise translated(error, file.name) from error


def _forget_variables(error: BaseException | None) -> None:
    """Drop the references to the transaction that the error's traceback keeps: see ``_let_go``."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__context__
