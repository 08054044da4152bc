"""Reads an SQLite file of Rack 0.1: a dict in the table ``dict(k, v)``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rack.shard.sqlite3.connection import ERRORS, connect
from rack.shard.sqlite3.failure import translated


class LegacyFile:
    """``kind`` is "dict"; None if the file has other tables."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._connection() as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(dict)")]
        self.kind = "dict" if columns == ["k", "v"] else None

    def count(self) -> int:
        with self._connection() as connection:
            count: int = connection.execute("SELECT count(*) FROM dict").fetchone()[0]
            return count

    def records(self) -> Iterator[tuple[bytes, ...]]:
        """Yield (key, value)."""
        with self._connection() as connection:
            yield from connection.execute("SELECT k, v FROM dict")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(connect(self.path, "ro")) as connection:
                yield connection
        except ERRORS as error:
            raise translated(error, self.path) from error
