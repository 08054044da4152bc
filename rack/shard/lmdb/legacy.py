"""Reads an LMDB file of Rack 0.1.

A dict has the tables ``h2n`` (digest to number), ``n2k`` and ``n2v`` (number to key and to value), a set ``h2n`` and
``n2v``, a small set one table named ``12`` (digest to elements).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from rack.errors import CorruptShardError
from rack.shard.lmdb.opening import translated

_TABLES = {"dict": (b"n2k", b"n2v"), "set": (b"n2v",), "small set": (b"12",)}


class LegacyFile:
    """``kind`` is "dict" or "set"; None if the file has other tables."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kind: str | None = None
        self._tables: tuple[bytes, ...] = ()
        with self._transaction() as (_, txn):
            present = {name for name, _ in txn.cursor()}
        for kind, tables in _TABLES.items():
            if present.issuperset(tables):
                self.kind, self._tables = kind.removeprefix("small "), tables
                break

    def count(self) -> int:
        with self._transaction() as (env, txn):
            entries: int = txn.stat(env.open_db(self._tables[-1], txn, create=False))["entries"]
            return entries

    def records(self) -> Iterator[tuple[bytes, ...]]:
        """Yield (key, value) of a dict, (element,) of a set."""
        with self._transaction() as (env, txn):
            last = env.open_db(self._tables[-1], txn, create=False)
            if len(self._tables) == 1:
                for _, element in txn.cursor(last):
                    yield (element,)
                return
            keys = env.open_db(self._tables[0], txn, create=False)
            for number, value in txn.cursor(last):
                key = txn.get(number, db=keys)
                if key is None:
                    raise CorruptShardError(f"{self.path}: value number {int.from_bytes(number, 'big')} has no key")
                yield key, value

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Any, Any]]:
        size = os.path.getsize(self.path)
        options: dict[str, Any] = {"subdir": False, "readonly": True, "lock": False, "max_dbs": 4, "lib_version": 0}
        try:
            with lmdb.open(self.path, map_size=size, **options) as env, env.begin() as txn:
                yield env, txn
        except lmdb.Error as error:
            raise translated(error, self.path) from error
