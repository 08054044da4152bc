"""The SQLite engine; see DESIGN.rst.

Table ``entries(key BLOB PRIMARY KEY, value BLOB)`` WITHOUT ROWID holds the pairs, table ``rack(name, value)`` the
shard's identity and the number of entries, which triggers keep: one statement then is a whole transaction, without
the cost of BEGIN and COMMIT, and rows that a user deletes with the sqlite3 shell are counted too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from rack.shard.base import BLOCK_BYTES, BLOCK_ITEMS, MOST_ENTRIES, Examined, Pair, Salvaged, Shard, ShardSpec
from rack.shard.snapshot import SnapshotShard
from rack.shard.sqlite3.database import SqliteDatabase, identity, roll_back, translated
from rack.system.disk import sync_path
from rack.system.lockfile import held_by_others, path_error

Result = TypeVar("Result")

_TABLES = """
CREATE TABLE entries (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE rack (name TEXT PRIMARY KEY NOT NULL, value NOT NULL) WITHOUT ROWID;
"""
_TRIGGERS = {
    "inserted": "AFTER INSERT ON entries BEGIN UPDATE rack SET value = value + 1 WHERE name = 'count'; END",
    "deleted": "AFTER DELETE ON entries BEGIN UPDATE rack SET value = value - 1 WHERE name = 'count'; END",
}
_GET = "SELECT value FROM entries WHERE key = ?"
_CONTAINS = "SELECT 1 FROM entries WHERE key = ?"
_PUT = "INSERT INTO entries VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_ADD = "INSERT OR IGNORE INTO entries VALUES (?, ?)"
_DELETE = "DELETE FROM entries WHERE key = ?"


class SqliteShard(SqliteDatabase, Shard):
    suffix = ".sqlite3"
    companions = ("-lock", "-wal", "-shm")
    ordered = True
    _kept: object = None  # the version that keep() has on the disk

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        for path in (spec.path, spec.path + "-lock"):
            with open(path, "xb"):
                pass
        try:
            with contextlib.closing(sqlite3.connect(spec.path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_TABLES)
                _create_triggers(connection)
                rows = [("identity", identity(spec)), ("count", 0)]
                connection.executemany("INSERT INTO rack VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise translated(error, spec.path) from error

    # One key

    def get(self, key: bytes) -> bytes | None:
        return self._read(_get, key)

    def contains(self, key: bytes) -> bool:
        return self._read(_contains, key)

    def put(self, key: bytes, value: bytes) -> None:
        self._write(_put, key, value, transaction=False)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        return self._write(_add, key, value, transaction=False)

    def delete(self, key: bytes) -> bool:
        return self._write(_delete, key, transaction=False)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(_pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(_pop_first)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._write(_modify, key, change)

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(_get_many, keys)

    def put_many(self, pairs: list[Pair]) -> None:
        self._write(_put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        return self._write(_add_many, pairs)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._write(_delete_many, keys)

    # The whole shard

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._read(_scan, start, stop, reverse, values, limit)

    def count(self) -> int:
        return self._read(_count)

    def clear(self) -> None:
        self._write(_clear)

    def version(self) -> object:
        return self._read(_version)

    def examine(self, timeout: float | None = None) -> Examined:
        from rack.shard.sqlite3.examine import examine_open  # few processes need it

        return examine_open(self, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        from rack.shard.sqlite3.examine import examine_file

        return examine_file(spec, alone)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        from rack.shard.sqlite3.salvage import salvage

        return salvage(spec)

    def sync(self) -> None:
        # What is not in the database yet is in the write-ahead log; checkpoints sync what they move. No lock is held:
        # the log is not a file whose descriptors SQLite's locks depend on.
        self._read(_version)  # reopens, or raises, as any operation would
        log = self._spec.path + "-wal"
        try:
            sync_path(log)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise path_error(error, log) from error

    def keep(self) -> None:
        version = self.version()
        if version != self._kept:
            self.sync()
            self._kept = version

    def snapshot(self) -> SnapshotShard:
        from rack.shard.sqlite3.snapshot import SqliteSnapshot  # which is an SqliteShard

        return SqliteSnapshot.take(self)

    def holder(self) -> str | None:
        return held_by_others(self._spec.path + "-lock")

    def hold(self) -> AbstractContextManager[SnapshotShard]:
        from rack.shard.sqlite3.snapshot import SqliteSnapshot

        return SqliteSnapshot.take_held(self)


SHARD = SqliteShard


# What the operations do inside a transaction.


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Have several reads see one state."""
    if connection.in_transaction:  # of a snapshot
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


def _get(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    row = connection.execute(_GET, (key,)).fetchone()
    if row is None:
        return None
    _check_blobs(row)
    value: bytes = row[0]
    return value


def _check_blobs(row: tuple[Any, ...]) -> None:
    """Raise unless all are blobs: a bit that flips may make them something else."""
    if type(row[0]) is not bytes or type(row[-1]) is not bytes:
        raise sqlite3.DatabaseError("an entry is not of blobs, and not Rack's")


def _contains(connection: sqlite3.Connection, key: bytes) -> bool:
    return connection.execute(_CONTAINS, (key,)).fetchone() is not None


def _put(connection: sqlite3.Connection, key: bytes, value: bytes) -> None:
    connection.execute(_PUT, (key, value))


def _add(connection: sqlite3.Connection, key: bytes, value: bytes) -> bytes | None:
    return None if connection.execute(_ADD, (key, value)).rowcount else _get(connection, key)


def _delete(connection: sqlite3.Connection, key: bytes) -> bool:
    return bool(connection.execute(_DELETE, (key,)).rowcount)


def _pop(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    value = _get(connection, key)
    if value is not None:
        _delete(connection, key)
    return value


def _pop_first(connection: sqlite3.Connection) -> Pair | None:
    row: Pair | None = connection.execute("SELECT key, value FROM entries ORDER BY key LIMIT 1").fetchone()
    if row is not None:
        _check_blobs(row)
        _delete(connection, row[0])
    return row


def _modify(connection: sqlite3.Connection, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
    value = change(_get(connection, key))
    if value is not None:
        _put(connection, key, value)


def _get_many(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[bytes | None]:
    with _snapshot(connection):
        return [_get(connection, key) for key in keys]


def _put_many(connection: sqlite3.Connection, pairs: list[Pair]) -> None:
    connection.executemany(_PUT, pairs)


def _add_many(connection: sqlite3.Connection, pairs: list[Pair]) -> list[bool]:
    execute = connection.execute
    return [bool(execute(_ADD, pair).rowcount) for pair in pairs]


def _delete_many(connection: sqlite3.Connection, keys: list[bytes]) -> int:
    return connection.executemany(_DELETE, [(key,) for key in keys]).rowcount if keys else 0


def _scan(
    connection: sqlite3.Connection, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    rows = connection.execute(
        f"SELECT {'key, value' if values else 'key'} FROM entries"
        f" WHERE key >= ?{'' if stop is None else ' AND key < ?'} ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT ?",
        (start, limit) if stop is None else (start, stop, limit),
    )
    block: list[Any] = []
    size = 0
    for row in rows:
        _check_blobs(row)
        block.append(row if values else row[0])
        size += sum(map(len, row))
        if size >= BLOCK_BYTES:
            break
    rows.close()
    return block


def _count(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM rack WHERE name = 'count'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the number of entries is missing")
    count = row[0]
    if type(count) is not int or not 0 <= count < MOST_ENTRIES:
        raise sqlite3.DatabaseError(f"it counts {count!r} entries")
    return count


def _clear(connection: sqlite3.Connection) -> None:
    # Without triggers SQLite drops the pages as a whole instead of deleting row by row.
    for name in _TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM entries")
    connection.execute("UPDATE rack SET value = 0 WHERE name = 'count'")
    _create_triggers(connection)


def _create_triggers(connection: sqlite3.Connection) -> None:
    for name, rest in _TRIGGERS.items():
        connection.execute(f"CREATE TRIGGER {name} {rest}")


def _version(connection: sqlite3.Connection) -> object:
    return connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes
