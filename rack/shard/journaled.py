"""Durability "everysec" of an LMDB shard: its transactions are journalled, and bases shorten the journal.

The shard's own file is as with durability "process": of no use after a power failure. It is then made anew from the
newest base, a compact copy of the shard, and the journals from that generation on (:func:`rebuild`).

*Rotation*: when a journal has become longer than its base (and 4 MiB), whoever finds that makes the next journal, has
it on the disk, and seals the old one inside a write transaction: every writer sees that and goes on in the next one.
Then it makes the next base, a copy of the shard that is at least as new as the seal. Until the base has its name, on
the disk, the old base and journal stay. The base may hold some of what its journal says: that is a list of outcomes,
and doing all of it again ends in the same state, if all that the base holds is in the journal; that is synced first.

What an operation costs is a record in the journal; a byte of journal costs at most two of base. The disk holds the
shard, its base and its journal, and while a base is made, the next ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import lmdb

from rack.disk import sync_directory, sync_file, sync_path
from rack.errors import CorruptShardError
from rack.shard import lmdbfile
from rack.shard.base import Pair, ShardSpec
from rack.shard.journal import (
    DELETE,
    DROP,
    LONG,
    PUT,
    START,
    Journal,
    base_path,
    create,
    generations,
    is_whole,
    journal_path,
    operations,
    pack_operation,
    records,
)
from rack.shard.problem import Problem

if TYPE_CHECKING:
    from rack.shard.lmdbenv import LmdbEnvironment

_ROTATE_AT = 4 << 20  # bytes; a journal shorter than this is not worth a base


class JournalledTxn:
    """A write transaction that is journalled when it commits. Stands for lmdb.Transaction, as far as Rack uses it."""

    __slots__ = ("_operations", "_shard", "inner")

    def __init__(self, txn: Any, shard: JournalledShard) -> None:
        self.inner = txn
        self._shard = shard
        self._operations: list[bytes] = []

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.get(*args, **kwargs)

    def put(self, key: bytes, value: bytes, dupdata: bool = True, overwrite: bool = True, db: Any = None) -> bool:
        if not self.inner.put(key, value, dupdata, overwrite, False, db):
            return False
        self._operations += (pack_operation(PUT if db is None else PUT + LONG, len(key), len(value)), key, value)
        return True

    def delete(self, key: bytes, db: Any = None) -> bool:
        if not self.inner.delete(key, b"", db):
            return False
        self._operations += (pack_operation(DELETE if db is None else DELETE + LONG, len(key), 0), key)
        return True

    def drop(self, db: Any, delete: bool) -> None:
        self.inner.drop(db, delete)
        self._operations.append(pack_operation(DROP + LONG if self._shard.is_long_table(db) else DROP, 0, 0))

    def cursor(self, db: Any = None) -> JournalledCursor:
        return JournalledCursor(self.inner.cursor(db), self._operations)

    def stat(self, *args: Any) -> Any:
        return self.inner.stat(*args)

    def id(self) -> int:
        return int(self.inner.id())

    def commit(self) -> None:
        if not self._operations:
            self.inner.commit()
            return
        txn_id = self.inner.id()
        try:
            self._shard.append(txn_id, b"".join(self._operations))
            self.inner.commit()
        except BaseException:
            self.abort()
            self._shard.void(txn_id)
            raise

    def abort(self) -> None:
        with contextlib.suppress(lmdb.Error):  # already committed or invalid
            self.inner.abort()

    def __enter__(self) -> JournalledTxn:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.commit()
        else:
            self.abort()


class JournalledCursor:
    """A cursor of a journalled transaction."""

    __slots__ = ("_cursor", "_operations")

    def __init__(self, cursor: Any, operations: list[bytes]) -> None:
        self._cursor = cursor
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def putmulti(self, pairs: list[Pair], append: bool) -> tuple[int, int]:
        """Put pairs into the main database; those that are out of order are skipped, if ``append``."""
        consumed, added = self._cursor.putmulti(pairs, append=append)
        if added == len(pairs):
            note = self._operations.extend
            for key, value in pairs:
                note((pack_operation(PUT, len(key), len(value)), key, value))
        return consumed, added


class JournalledShard:
    """The journal of an open shard, and its rotation."""

    def __init__(self, env: LmdbEnvironment, spec: ShardSpec) -> None:
        self._env = env
        self._spec = spec
        self._journal: Journal | None = None
        self.copying = Lock()  # held while a base is made; not across a fork

    def open(self) -> None:
        self.close()
        self._journal = Journal.newest(self._spec)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def is_long_table(self, db: Any) -> bool:
        return db is not self._env._main

    def append(self, txn_id: int, body: bytes) -> None:
        """Journal a transaction, inside it."""
        assert self._journal is not None
        while not self._journal.append(txn_id, body):
            self.open()

    def void(self, txn_id: int) -> None:
        """Take back what was journalled for a transaction that did not commit, unless another one has done so."""
        with contextlib.suppress(lmdb.Error, OSError):
            txn = self._env._env.begin(None, None, True)
            try:
                if txn.id() == txn_id:
                    self.append(txn_id, b"")
            finally:
                txn.abort()

    # Every second. The shard's lock is held for moments only.

    def sync(self) -> None:
        """Have everything journalled so far on the disk."""
        with self._env._lock:
            if self._journal is None:
                return
            if self._journal.sealed:
                self.open()
            journal = self._journal
            pending = journal.begin_sync()
        if pending is not None:
            self._finish_sync(journal, *pending)

    def _finish_sync(self, journal: Journal, fd: int, end: int) -> None:
        try:
            sync_file(fd)
        except OSError:
            journal.refuse()
            raise
        finally:
            os.close(fd)
        with self._env._lock:
            if self._journal is journal:
                journal.end_sync(end)

    def shorten(self) -> None:
        """Begin a new journal if it has become long, and make a base if there is none of this generation."""
        with self._env._lock:
            journal = self._journal
            if journal is None or not self._is_due(journal):
                return
        with self.copying, _maintenance(journal.path) as alone:
            if not alone:
                return  # another process is at it
            with self._env._lock:
                if self._journal is not journal or journal.sealed:
                    return  # another process has just done it
                is_based = journal.base_size
            if is_based:
                self.sync()  # most of it, while others write
                create(self._spec, journal.generation + 1)
                sync_directory(os.path.dirname(self._spec.path))
                self._env._write(self._seal, journal)
            else:
                self._make_base(journal)

    @staticmethod
    def _is_due(journal: Journal) -> bool:
        return not journal.base_size or journal.end - START > max(_ROTATE_AT, journal.base_size)

    def _seal(self, shard: object, txn: object, journal: Journal) -> None:
        """Go on in the next journal. Done in a write transaction, so that nobody is writing to the old one.

        A sealed journal is on the disk: nobody will look after it.
        """
        if (pending := journal.begin_sync()) is not None:
            self._finish_sync(journal, *pending)
        journal.seal()
        self.open()

    def _make_base(self, journal: Journal) -> None:
        path = base_path(self._spec.path, journal.generation)
        _unlink(path + "-new")  # of somebody who was killed
        self._env.copy(path + "-new")
        sync_path(path + "-new")
        self.sync()  # all that the base may hold; nobody else may seal this journal meanwhile, or close it
        os.rename(path + "-new", path)
        sync_directory(os.path.dirname(path))
        _remove(self._spec.path, below=journal.generation)
        with self._env._lock:
            if self._journal is journal:
                journal.base_size = os.path.getsize(path)  # last: until then, all this is still to be done


@contextmanager
def _maintenance(path: str) -> Iterator[bool]:
    """Hold the right to seal the journal and to make its base; False: somebody else does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def files(shard: str) -> list[str]:
    """Return the files of all journals and bases of a shard."""
    found = [journal_path(shard, generation) for generation in generations(shard, "journal")]
    found += [base_path(shard, generation) for generation in generations(shard, "base")]
    return found + _unfinished(shard)


def _unfinished(shard: str) -> list[str]:
    """Return what somebody who was killed has left."""
    beginning = glob.escape(shard)
    return [file for end in ("-base-*-new", "-journal-*-new", "-rebuilt") for file in glob.glob(beginning + end)]


def _remove(shard: str, below: int | None = None) -> None:
    """Remove journals and bases of earlier generations than ``below``, or all, and what is not finished."""
    for kind, path in (("journal", journal_path), ("base", base_path)):
        for generation in generations(shard, kind):
            if below is None or generation < below:
                _unlink(path(shard, generation))
    for path_left in _unfinished(shard):
        _unlink(path_left)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def start(spec: ShardSpec) -> None:
    """Begin to journal a shard that nobody has open: O(its size)."""
    stop(spec)
    _begin_generation(spec, 1, spec.path)


def stop(spec: ShardSpec) -> None:
    """End journalling a shard that nobody has open."""
    sync_path(spec.path)
    _remove(spec.path)


def _begin_generation(spec: ShardSpec, generation: int, source: str) -> None:
    """Make a base of a copy of ``source``, and its empty journal."""
    create(spec, generation)
    base = base_path(spec.path, generation)
    shutil.copyfile(source, base + "-new")
    sync_path(base + "-new")
    os.rename(base + "-new", base)
    journal = Journal(spec, generation)
    journal.base_size = os.path.getsize(base)
    journal.close()
    sync_directory(os.path.dirname(base))


def rebuild(spec: ShardSpec) -> None:
    """Make the shard's file anew, after a power failure, from its newest base and what was journalled since.

    A power failure meanwhile does no harm: the old generations stay until the new file is in its place.

    :raises CorruptShardError: there is no base.
    """
    if not has_base(spec.path):
        raise CorruptShardError(f"{spec.path} was in use at a power failure, and the base of its journal is missing")
    made = spec.path + "-rebuilt"
    base, journals = _newest(spec.path)
    shutil.copyfile(base, made)
    replay(spec, made, journals)
    sync_path(made)
    generation = max(generations(spec.path, "base") + generations(spec.path, "journal")) + 1
    _begin_generation(spec, generation, made)
    os.rename(made, spec.path)
    sync_directory(os.path.dirname(spec.path))
    _remove(spec.path, below=generation)


def remake(spec: ShardSpec, path: str) -> bool:
    """Make at ``path`` what the newest base and the journals say a shard holds; return whether they say all.

    :raises CorruptShardError: the base is damaged, or a journal missing.
    """
    from rack.shard.lmdbexamine import examine_file  # few processes need it

    base, journals = _newest(spec.path)
    shutil.copyfile(base, path)
    for found in examine_file(replace(spec, path=path), True):  # LMDB must not write to a damaged file
        if isinstance(found, Problem):
            raise CorruptShardError(f"{base} {found.message}")
    replay(spec, path, journals)
    return all(is_whole(spec, generation) for generation in journals)


def has_base(shard: str) -> bool:
    return bool(generations(shard, "base"))


def _newest(shard: str) -> tuple[str, list[int]]:
    """Return the path of the newest base, and the generations of the journals that go on from it."""
    first = generations(shard, "base")[-1]
    there = generations(shard, "journal")
    needed = list(range(first, max([first, *there]) + 1))
    for generation in needed:
        if generation not in there:
            raise CorruptShardError(f"{journal_path(shard, generation)} is missing: a part of the shard's journal")
    return base_path(shard, first), needed


def replay(spec: ShardSpec, path: str, journals: list[int]) -> None:
    """Do everything that the journals say to the LMDB file at ``path``."""
    with lmdbfile.open_alone(path) as env:
        long = env.open_db(lmdbfile.LONG_TABLE, create=False) if spec.layout != "small" else None
        main = env.open_db()
        for body in _bodies(spec, journals):
            while True:
                try:
                    with env.begin(write=True) as txn:
                        _redo(txn, body, main, long)
                    break
                except lmdb.MapFullError:
                    _grow(env, path, len(body))


def _redo(txn: Any, body: bytes, main: Any, long: Any) -> None:
    for kind, key, value in operations(body):
        db = long if kind & LONG else main
        if kind & ~LONG == PUT:
            txn.put(key, value, db=db)
        elif kind & ~LONG == DELETE:
            txn.delete(key, db=db)
        else:
            txn.drop(db, delete=False)


def _bodies(spec: ShardSpec, journals: list[int]) -> Iterator[bytes]:
    """Yield the bodies of the records that count."""
    last: tuple[int, bytes] | None = None
    for generation in journals:
        for record in records(spec, generation):
            if last is not None and record[0] != last[0]:  # else the transaction of the last record did not commit
                yield last[1]
            last = record
    if last is not None:
        yield last[1]


def _grow(env: Any, path: str, need: int) -> None:
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        env.set_mapsize(lmdbfile.grow(file.fileno(), size, 2 * need + (1 << 20), path))
