"""What the operations of an SQLite shard do inside a transaction: ``operation(connection, *args)``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rack.shard.base import BLOCK_BYTES, MOST_ENTRIES, Pair, View
from rack.shard.sqlite3.connection import BUSY_SECONDS, roll_back

_TRIGGERS = {
    "inserted": "AFTER INSERT ON entries BEGIN UPDATE rack SET value = value + 1 WHERE name = 'count'; END",
    "deleted": "AFTER DELETE ON entries BEGIN UPDATE rack SET value = value - 1 WHERE name = 'count'; END",
}
_GET = "SELECT value FROM entries WHERE key = ?"
_CONTAINS = "SELECT 1 FROM entries WHERE key = ?"
_PUT = "INSERT INTO entries VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_ADD = "INSERT OR IGNORE INTO entries VALUES (?, ?)"
_DELETE = "DELETE FROM entries WHERE key = ?"


def get(connection: sqlite3.Connection, key: bytes) -> bytes | None:
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


def contains(connection: sqlite3.Connection, key: bytes) -> bool:
    return connection.execute(_CONTAINS, (key,)).fetchone() is not None


def put(connection: sqlite3.Connection, key: bytes, value: bytes) -> None:
    connection.execute(_PUT, (key, value))


def add(connection: sqlite3.Connection, key: bytes, value: bytes) -> bytes | None:
    return None if connection.execute(_ADD, (key, value)).rowcount else get(connection, key)


def delete(connection: sqlite3.Connection, key: bytes) -> bool:
    return bool(connection.execute(_DELETE, (key,)).rowcount)


def pop(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    value = get(connection, key)
    if value is not None:
        delete(connection, key)
    return value


def pop_first(connection: sqlite3.Connection) -> Pair | None:
    row: Pair | None = connection.execute("SELECT key, value FROM entries ORDER BY key LIMIT 1").fetchone()
    if row is not None:
        _check_blobs(row)
        delete(connection, row[0])
    return row


def modify(connection: sqlite3.Connection, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
    value = change(get(connection, key))
    if value is not None:
        put(connection, key, value)


def transact(connection: sqlite3.Connection, body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    view = View(
        partial(get, connection), partial(put, connection), partial(delete, connection), partial(first, connection)
    )
    return body(view, *args)


def first(connection: sqlite3.Connection, start: bytes, stop: bytes | None, limit: int) -> list[Pair]:
    return scan(connection, start, stop, False, True, limit)


def get_many(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[bytes | None]:
    if connection.in_transaction:  # of a snapshot
        return [get(connection, key) for key in keys]
    try:
        connection.execute("BEGIN")  # so that all are read in one state
        found = [get(connection, key) for key in keys]
        connection.execute("ROLLBACK")
        return found
    except BaseException:
        roll_back(connection)
        raise


def put_many(connection: sqlite3.Connection, pairs: list[Pair]) -> None:
    connection.executemany(_PUT, pairs)


def add_many(connection: sqlite3.Connection, pairs: list[Pair]) -> list[bool]:
    execute = connection.execute
    return [bool(execute(_ADD, pair).rowcount) for pair in pairs]


def delete_many(connection: sqlite3.Connection, keys: list[bytes]) -> int:
    return connection.executemany(_DELETE, [(key,) for key in keys]).rowcount if keys else 0


def change_many(connection: sqlite3.Connection, pairs: list[Pair], keys: list[bytes]) -> None:
    delete_many(connection, keys)
    put_many(connection, pairs)


def scan(
    connection: sqlite3.Connection, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    statement = (
        f"SELECT {'key, value' if values else 'key'} FROM entries"
        f" WHERE key >= ?{'' if stop is None else ' AND key < ?'} ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT ?"
    )
    block: list[Any] = []
    size = 0
    rows = connection.cursor()
    try:
        rows.execute(statement, (start, limit) if stop is None else (start, stop, limit))
        for row in rows:
            _check_blobs(row)
            block.append(row if values else row[0])
            size += sum(map(len, row))
            if size >= BLOCK_BYTES:
                break
        rows.close()  # as long as it is open the connection sees this state, and a traceback may keep it
        return block
    except BaseException:
        rows.close()
        raise


def count(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM rack WHERE name = 'count'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the number of entries is missing")
    count = row[0]
    if type(count) is not int or not 0 <= count < MOST_ENTRIES:
        raise sqlite3.DatabaseError(f"it counts {count!r} entries")
    return count


def clear(connection: sqlite3.Connection) -> None:
    # Without triggers SQLite drops the pages as a whole instead of deleting row by row.
    for name in _TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM entries")
    connection.execute("UPDATE rack SET value = 0 WHERE name = 'count'")
    create_triggers(connection)


def create_triggers(connection: sqlite3.Connection) -> None:
    for name, rest in _TRIGGERS.items():
        connection.execute(f"CREATE TRIGGER {name} {rest}")


def move_log(connection: sqlite3.Connection, mode: str = "TRUNCATE") -> None:
    """Move the log into the database and begin it anew ("RESTART") or cut it off, if nobody reads in it."""
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except sqlite3.Error:  # there is no need
        pass
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")


def version(connection: sqlite3.Connection) -> object:
    return connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes
