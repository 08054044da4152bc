"""A snapshot of an LMDB shard: a read transaction that stays open.

py-lmdb aborts the process's transactions on an environment when it changes the size of its map, and a file cannot be
open in two environments of a process. So before a resize the snapshot moves to a copy of the file, made by LMDB from
the transaction. In a forked child the transaction is dropped before anything else is: then py-lmdb leaves the
parent's reader slot alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from io import FileIO
from typing import IO, Any

import lmdb

from rack.errors import StoreDeletedError
from rack.shard.base import ShardSpec
from rack.shard.lmdb import datafile, operations, pages
from rack.shard.lmdb.compact import RAW, State
from rack.shard.lmdb.held import opened
from rack.shard.lmdb.opening import identity, translated
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.transactions import Result
from rack.shard.snapshot import SnapshotShard
from rack.system.disk import sync_path

_TRIES = 100  # to find out the state of a file while others write to it


class LmdbSnapshot(SnapshotShard, LmdbReader):
    """Reads as a live shard does, but always in the one transaction."""

    def __init__(self, live: LmdbReader) -> None:
        """Take a snapshot; ``live`` is ready for it, and its lock is held."""
        self._spec = live._spec
        self._env = live._env
        self._main, self._long = live._main, live._long
        self._inode = live._inode
        self._metas = b""  # of the state, if they are known
        self._unregistered = live._unregistered
        self._begin = self._refuse_begin if live._unregistered else self._current
        try:
            if live._spec.readonly:  # no thread of this process writes to it
                self._txn = live._started(live._env.begin if live._unregistered else live._begin)
            else:
                self._begin_known(live)
            self._start(live._snapshots)
        except BaseException:
            self._txn = None  # which aborts it
            raise

    def _begin_known(self, live: LmdbReader) -> None:
        """Begin the transaction, and keep the meta pages of its state, which are overwritten in two commits."""
        with contextlib.suppress(StoreDeletedError), opened(live) as file:
            for _ in range(_TRIES):
                self._txn = live._started(live._begin)
                self._metas = os.pread(file.fileno(), 2 * datafile.PAGE, 0)
                if live._env.info()["last_txnid"] == self._txn.id():
                    return
                self._txn = None  # which aborts it
        self._metas = b""
        self._txn = live._started(live._begin)

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
            datafile.extend(file.fileno(), size, datafile.rounded(size), spec.path)
            # In its place, which no transaction does: that would leave the source's identity in a free page, and a
            # repair goes by any that it finds. It is as long, and that of the first key.
            os.pwrite(file.fileno(), identity(spec), pages.first_value_at(file.fileno()))
        sync_path(spec.path)

    def _write_copy(self, path: str) -> None:
        with open(path, "xb") as file:
            if not self._unregistered:
                self._read(_copy_aside if self._metas else _copy, file)
                return
            # LMDB must not follow pages that a writer may be changing. As bytes they are right if there is no commit.
            self._check_overtaken(0)
            with open(self._spec.path, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
            self._check_overtaken(0)

    def _move_to(self, path: str) -> None:
        self._metas = b""  # the live shard's lock is held: no thread has a transaction that LMDB's copy would keep
        self._write_copy(path)
        env = lmdb.open(
            os.fsencode(path),
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
    live._keep_tables()


def _copy_aside(shard: LmdbSnapshot, txn: Any, file: IO[bytes]) -> None:
    """Write a compact copy for which no other process waits, as :mod:`rack.shard.lmdb.compact` does."""
    raw = file.name + RAW
    try:
        with opened(shard) as source, FileIO(raw, "x+") as target:
            State.parse(shard._metas).copy(source.fileno(), target.fileno())
        with datafile.open_alone(raw) as env:
            os.unlink(raw)
            env.copyfd(file.fileno(), compact=True)
    except (StoreDeletedError, pages.PageError):  # removed; or from a system with pages of another size
        _copy(shard, txn, file)
    except lmdb.Error as error:
        raise translated(error, file.name) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(raw)


def _copy(shard: LmdbSnapshot, txn: Any, file: IO[bytes]) -> None:
    try:
        shard._env.copyfd(file.fileno(), compact=True, txn=txn)
    except lmdb.Error as error:
        raise translated(error, file.name) from error


def _forget_variables(error: BaseException | None) -> None:
    """Drop the references to the transaction that the error's traceback keeps: see ``_let_go``."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            with contextlib.suppress(RuntimeError):  # it still runs
                traceback.tb_frame.clear()
            traceback = traceback.tb_next
        error = error.__context__
