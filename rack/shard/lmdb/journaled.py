"""Durability "everysec" of an LMDB shard: its transactions are journalled, and bases shorten the journal.

The shard's own file is as with durability "process": of no use after a power failure. It is then made anew from the
newest base, a compact copy of the shard, and the journals from that generation on (:mod:`.journalfiles`).

*Rotation*: when a journal has become longer than its base (and 4 MiB), whoever finds that makes the next journal, has
it on the disk, and seals the old one inside a write transaction: every writer sees that and goes on in the next one.
Then it makes the next base, a copy of the shard that is at least as new as the seal. Until the base has its name, on
the disk, the old base and journal stay. The base may hold some of what its journal says: that is a list of outcomes,
and doing all of it again ends in the same state, if all that the base holds is in the journal; that is synced first.

What an operation costs is a record in the journal; a byte of journal costs at most two of base. The disk holds the
shard, its base and its journal, and while a base is made, the next ones.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from itertools import chain, compress, repeat
from operator import itemgetter
from threading import RLock
from typing import Any, Protocol

from rack.errors import CorruptShardError
from rack.shard.base import Home, Pair, ShardSpec
from rack.shard.lmdb.journal import (
    DELETE,
    DROP,
    LONG,
    PUT,
    START,
    Journal,
    base_path,
    create,
    journal_path,
    pack_operation,
)
from rack.shard.lmdb.journalfiles import is_begun, remove, unlink
from rack.shard.lmdb.opening import MAX_KEY
from rack.system.descriptor import Descriptor
from rack.system.disk import sync_directory, sync_file, sync_path
from rack.system.place import take_after_path

_ROTATE_AT = 4 << 20  # bytes; a journal shorter than this is not worth a base
_KEY, _VALUE = itemgetter(0), itemgetter(1)
_HEADS = [pack_operation(PUT, length, 0) for length in range(MAX_KEY + 1)]  # of keys without a value, as sets have them
_REST = 30.0  # seconds, after a base could not be made


class Database(Protocol):
    """What journalling needs of the shard."""

    _lock: Any
    _main: Any
    _append: Any

    def _locate(self) -> ShardSpec: ...

    def _write(self, body: Callable[..., Any], *args: Any) -> Any: ...

    def copy(self, path: str, proceed: Callable[[], None]) -> None: ...


class JournalledTxn:
    """A write transaction that is journalled when it commits. Stands for lmdb.Transaction, as far as Rack uses it."""

    __slots__ = ("_journalling", "_operations", "inner")

    def __init__(self, journalling: Journalling, inner: Any) -> None:
        self.inner = inner
        self._journalling = journalling
        self._operations: list[bytes] = []

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.get(*args, **kwargs)

    def put(self, key: bytes, value: bytes, dupdata: bool = True, overwrite: bool = True, db: Any = None) -> bool:
        if not self.inner.put(key, value, dupdata, overwrite, False, db):
            return False
        self._operations += (pack_operation(PUT if db is None else PUT + LONG, len(key), len(value)), key, value)
        return True

    def put_new(self, pairs: list[Pair]) -> list[bool]:
        added = put_new(self.inner, pairs)
        self._operations += _puts(list(compress(pairs, added)))
        return added

    def delete(self, key: bytes, db: Any = None) -> bool:
        if not self.inner.delete(key, b"", db):
            return False
        self._operations += (pack_operation(DELETE if db is None else DELETE + LONG, len(key), 0), key)
        return True

    def drop(self, db: Any, delete: bool) -> None:
        self.inner.drop(db, delete)
        self._operations.append(pack_operation(DROP + LONG if self._journalling.is_long_table(db) else DROP, 0, 0))

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
        try:
            self._journalling.append(self.inner.id(), b"".join(self._operations))
            self.inner.commit()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        try:
            self._journalling.take_back(self.inner)
        finally:
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
            self._operations += _puts(pairs)
        return consumed, added


def put_new(txn: Any, pairs: list[Pair]) -> list[bool]:
    """Put the pairs whose keys are not in the main database; return for each whether it was put."""
    if isinstance(txn, JournalledTxn):
        return txn.put_new(pairs)
    return list(map(txn.put, map(_KEY, pairs), map(_VALUE, pairs), repeat(True), repeat(False)))


def _puts(pairs: list[Pair]) -> list[bytes]:
    """Return the operations of a journal that put pairs into the main database."""
    if any(map(_VALUE, pairs)):
        keys, values = list(map(_KEY, pairs)), list(map(_VALUE, pairs))
        packed = map(pack_operation, repeat(PUT), map(len, keys), map(len, values))
        return list(chain.from_iterable(zip(packed, keys, values, strict=True)))
    heads = _HEADS
    return [heads[len(key)] + key for key, _ in pairs]


class Journalling:
    """The journal of an open shard, and its rotation."""

    def __init__(self, shard: Database, spec: ShardSpec, home: Home) -> None:
        self._shard = shard
        self._spec = spec
        self._home = home
        self._journal: Journal | None = None
        self.copying = RLock()  # held while a base is made; not across a fork
        self.give_way = False  # whether somebody waits for that
        self._closed = False
        self._rests_until = 0.0  # after a base could not be made

    def begin(self) -> None:
        """Have a journal open that can be written to."""
        if self._journal is None or self._journal.sealed:
            self.open()

    def open(self) -> None:
        """Go on in the newest journal; until that is open, in the one there is."""
        self._spec = self._shard._locate()
        old, new = self._journal, self._newest()
        self._shard._append = new.append  # first: what has a journal appends to that, whatever comes here
        self._journal = new
        if old is not None:
            old.close()

    def _newest(self) -> Journal:
        try:
            return Journal.newest(self._spec)
        except CorruptShardError:
            self._home.at_home(lambda: None)  # it is of a store that has taken the place of this one, perhaps
            raise

    def close(self) -> None:
        self._closed = True
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def is_long_table(self, db: Any) -> bool:
        return db is not self._shard._main

    def append(self, txn_id: int, body: bytes) -> None:
        """Journal a transaction, inside it."""
        assert self._journal is not None
        while not self._journal.append(txn_id, body):
            self.open()

    def take_back(self, txn: Any) -> None:
        """Take back what was journalled for a transaction that is not to be, inside it."""
        if self._journal is not None:
            self._journal.take_back(txn)

    # Every second. The shard's lock is held for moments only.

    def sync(self) -> None:
        """Have everything journalled so far, by any process, on the disk."""
        self._sync(self._current)

    def _current(self) -> Journal | None:
        if self._closed or (self._journal is None and not is_begun(self._spec.path)):
            return None
        self.begin()
        return self._journal

    def _sync(self, find: Callable[[], Journal | None]) -> None:
        file = Descriptor()
        try:
            with self._shard._lock:
                if (journal := find()) is None:
                    return
                end = journal.begin_sync(file)
            if file.is_open:
                self._finish_sync(journal, file, end)
        except BaseException:
            file.close()
            raise

    def _finish_sync(self, journal: Journal, file: Descriptor, end: int) -> None:
        try:
            sync_file(file.fileno())
        except OSError:
            journal.refuse()
            raise
        file.close()
        with self._shard._lock:
            if self._journal is journal:
                journal.end_sync(end)

    def shorten(self) -> None:
        """Begin a new journal if it has become long, and make a base if there is none of this generation."""
        if time.monotonic() < self._rests_until:
            return
        with self._shard._lock:
            journal = self._journal
            if journal is None or not self._is_due(journal):
                return
            self._spec = self._shard._locate()
        try:
            with self.copying, _maintenance(journal_path(self._spec.path, journal.generation)) as alone:
                if not alone:
                    return  # another process is at it
                with self._shard._lock:
                    if self._journal is not journal or journal.sealed:
                        return  # another process has just done it
                    is_based = journal.base_size
                if is_based:
                    self._begin_next(journal)
                else:
                    self._make_base(journal)
        except OSError:  # StoreFullError, say: the journal grows meanwhile
            self._rests_until = time.monotonic() + _REST
            raise

    def _begin_next(self, journal: Journal) -> None:
        self.sync()  # most of it, while others write
        path = journal_path(self._spec.path, journal.generation + 1)

        def name() -> None:
            os.rename(path + "-new", path)
            sync_directory(os.path.dirname(path))

        self._home.at_home(lambda: create(self._spec, journal.generation + 1))
        sync_path(path + "-new")
        self._home.at_home(name)
        self._shard._write(self._seal, journal)

    @staticmethod
    def _is_due(journal: Journal) -> bool:
        return not journal.base_size or journal.end - START > max(_ROTATE_AT, journal.base_size)

    def _seal(self, shard: object, txn: object, journal: Journal) -> None:
        """Go on in the next journal. Done in a write transaction, so that nobody is writing to the old one.

        A sealed journal is on the disk: nobody will look after it.
        """
        if self._journal is not journal or journal.sealed:
            return  # another thread has opened the journal anew meanwhile: it is due again
        self._sync(lambda: journal)
        journal.seal()
        self.open()

    def _make_base(self, journal: Journal) -> None:
        path = base_path(self._spec.path, journal.generation)
        self._home.at_home(lambda: unlink(path + "-new"))  # of somebody who was killed
        try:
            self._shard.copy(path + "-new", self._proceed)
            take_after_path(path + "-new", self._spec.path)
            sync_path(path + "-new")
            self.sync()  # all that the base may hold; nobody else may seal this journal meanwhile, or close it
            self._home.at_home(lambda: self._name_base(path, journal.generation))
        except _GivesWay:
            return
        finally:
            unlink(path + "-new")
        with self._shard._lock:
            if self._journal is journal:
                journal.base_size = os.path.getsize(path)  # last: until then, all this is still to be done

    def _name_base(self, path: str, generation: int) -> None:
        os.rename(path + "-new", path)
        sync_directory(os.path.dirname(path))
        remove(self._spec.path, below=generation)

    def _proceed(self) -> None:
        if self.give_way:
            raise _GivesWay


class _GivesWay(Exception):
    pass


@contextmanager
def _maintenance(path: str) -> Iterator[bool]:
    """Hold the right to seal the journal and to make its base; False: somebody else does."""
    try:
        file = FileIO(path, "r+")
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        file.close()
