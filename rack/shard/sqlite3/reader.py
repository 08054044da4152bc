"""What can be read of an SQLite shard, live or as a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rack.shard.base import BLOCK_ITEMS, Shard
from rack.shard.sqlite3 import operations
from rack.shard.sqlite3.transactions import SqliteTransactions


class SqliteReader(SqliteTransactions, Shard):
    def get(self, key: bytes) -> bytes | None:
        return self._read(operations.get, key)

    def contains(self, key: bytes) -> bool:
        return self._read(operations.contains, key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(operations.get_many, keys)

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._read(operations.scan, start, stop, reverse, values, limit)

    def count(self) -> int:
        return self._read(operations.count)

    def version(self) -> object:
        # What SQLite counts it counts anew in each connection, and a fork ends connections.
        return self._read(lambda connection: (self._epoch, operations.version(connection)))
