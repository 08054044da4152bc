"""Reads the stores of Rack 0.1, so that ``rack copy`` can bring them along.

A store of 0.1 is one file and no manifest. In ``NAME.lmdb`` a dict has the tables ``h2n`` (digest to number), ``n2k``
and ``n2v`` (number to key and to value), a set ``h2n`` and ``n2v``, a small set one table named ``12`` (digest to
elements); in ``NAME.sqlite3`` a dict has the table ``dict(k, v)``. Keys and values are marshalled.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import lmdb

from rack.errors import CorruptShardError, DeserializationError, StoreNotFoundError

SUFFIXES = (".lmdb", ".sqlite3")
_TABLES = {"dict": (b"n2k", b"n2v"), "set": (b"n2v",), "small set": (b"12",)}


@dataclass(frozen=True)
class LegacyStore:
    """A store of Rack 0.1."""

    path: str
    kind: str  # "dict" or "set"
    tables: tuple[bytes, ...]  # of an LMDB file

    def __len__(self) -> int:
        if not self.tables:
            with self._sqlite() as connection:
                count: int = connection.execute("SELECT count(*) FROM dict").fetchone()[0]
                return count
        with _environment(self.path) as env, env.begin() as txn:
            entries: int = txn.stat(env.open_db(self.tables[-1], txn, create=False))["entries"]
            return entries

    def entries(self) -> Iterator[Any]:
        """Yield the pairs of a dict, or the elements of a set."""
        for record in self._records():
            try:
                loaded = tuple(map(marshal.loads, record))
            except (ValueError, EOFError, TypeError) as error:
                raise DeserializationError(
                    f"{self.path}: {record[0][:60]!r} is not marshalled ({error}): the store was made with a serdes of"
                    " its own. Read it with Rack 0.1 and that serdes, and update() a new store with it"
                ) from error
            yield loaded if self.kind == "dict" else loaded[0]

    def _records(self) -> Iterator[tuple[bytes, ...]]:
        if not self.tables:
            with self._sqlite() as connection:
                yield from connection.execute("SELECT k, v FROM dict")
            return
        with _environment(self.path) as env, env.begin() as txn:
            last = env.open_db(self.tables[-1], txn, create=False)
            if len(self.tables) == 1:
                for _, element in txn.cursor(last):
                    yield (element,)
                return
            keys = env.open_db(self.tables[0], txn, create=False)
            for number, value in txn.cursor(last):
                key = txn.get(number, db=keys)
                if key is None:
                    raise CorruptShardError(f"{self.path}: value number {int.from_bytes(number, 'big')} has no key")
                yield key, value

    def _sqlite(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(f"file:{quote(self.path)}?mode=ro", uri=True))


def find(name: str) -> LegacyStore:
    """Return the store that Rack 0.1 calls ``name``; its file's name does too.

    :raises StoreNotFoundError: there is none.
    """
    files = [name] if name.endswith(SUFFIXES) else [name + suffix for suffix in SUFFIXES]
    found = [file for file in files if os.path.isfile(file)]
    if not found:
        raise StoreNotFoundError(f"there is no store {name!r}: neither {name}.rack nor one of Rack 0.1")
    if len(found) > 1:
        raise StoreNotFoundError(f"Rack 0.1 has two stores {name!r}; name one of them: {' or '.join(found)}")
    file = found[0]
    try:
        store = _in_lmdb(file) if file.endswith(".lmdb") else _in_sqlite(file)
    except (lmdb.Error, sqlite3.Error) as error:
        raise CorruptShardError(f"{file} cannot be read: {error}") from error
    if store is None:
        raise CorruptShardError(f"{file} is not a store of Rack 0.1: it has other tables")
    return store


def _in_lmdb(file: str) -> LegacyStore | None:
    with _environment(file) as env, env.begin() as txn:
        present = {name for name, _ in txn.cursor()}
    for kind, tables in _TABLES.items():
        if present.issuperset(tables):
            return LegacyStore(file, kind.removeprefix("small "), tables)
    return None


def _in_sqlite(file: str) -> LegacyStore | None:
    store = LegacyStore(file, "dict", ())
    with store._sqlite() as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(dict)")]
    return store if columns == ["k", "v"] else None


@contextlib.contextmanager
def _environment(file: str) -> Iterator[Any]:
    size = os.path.getsize(file)
    env = lmdb.open(file, subdir=False, readonly=True, lock=False, max_dbs=4, map_size=size, lib_version=0)
    try:
        yield env
    finally:
        env.close()
