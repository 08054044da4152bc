"""The SQLite engine; see DESIGN.rst.

Table ``entries(key BLOB PRIMARY KEY, value BLOB)`` WITHOUT ROWID holds the pairs, table ``rack(name, value)`` the
shard's identity and the number of entries, which triggers keep: one statement then is a whole transaction, without
the cost of BEGIN and COMMIT, and rows that a user deletes with the sqlite3 shell are counted too.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from typing import TYPE_CHECKING, Any

from rack.errors import RackError, ReadOnlyError, StoreFullError
from rack.shard.base import Examined, Pair, Salvaged, ShardSpec, Snapshot
from rack.shard.holding import change, refuse_inside, settle
from rack.shard.image import write_new
from rack.shard.problem import missing
from rack.shard.room import bytes_in, clear_in_blocks, delete_in_halves
from rack.shard.sqlite3 import operations
from rack.shard.sqlite3.connection import connect, identity, roll_back
from rack.shard.sqlite3.database import longest_log
from rack.shard.sqlite3.failure import translated
from rack.shard.sqlite3.header import change_counter, files_mark, log_state, size_of
from rack.shard.sqlite3.reader import SqliteReader
from rack.shard.sqlite3.transactions import Result
from rack.system.disk import path_error, sync_path
from rack.system.flock import held_by_others
from rack.system.imports import importing

if TYPE_CHECKING:
    from rack.shard.figures import Access, Figures

_SPARE = 1 << 18  # bytes: frames have headers, and the last commit may go beyond
_TABLES = """
CREATE TABLE entries (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE rack (name TEXT PRIMARY KEY NOT NULL, value NOT NULL) WITHOUT ROWID;
"""


class SqliteShard(SqliteReader):
    suffix = ".sqlite3"
    companions = ("-lock", "-wal", "-shm", "-journal")  # the last while it is made
    longest_path = 511
    ordered = True
    stamped_when_open = False
    _kept: object = None  # the state of the log that keep() has on the disk

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        for path in (spec.path, spec.path + "-lock"):
            with open(path, "xb"):
                pass
        try:
            write_new(spec.path, "sqlite3", identity(spec).encode(), lambda: _make_with_sqlite(spec))
        except sqlite3.Error as error:
            raise translated(error, spec.path) from error

    # One key

    def put(self, key: bytes, value: bytes) -> None:
        self._write(operations.put, key, value, transaction=False)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        return self._write(operations.add, key, value, transaction=False)

    def queue(self) -> None:
        self._write(lambda connection: None)

    def delete(self, key: bytes) -> bool:
        return self._write(operations.delete, key, transaction=False)

    def pop(self, key: bytes) -> bytes | None:
        return self._write(operations.pop, key)

    def pop_first(self) -> Pair | None:
        return self._write(operations.pop_first)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._write(operations.modify, key, change)

    def transact(self, body: Callable[..., Result], *args: Any) -> Result:
        result: Result = self._write(operations.transact, body, args)
        return result

    # Many keys

    def put_many(self, pairs: list[Pair]) -> None:
        self._write_much(operations.put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        return self._write_much(operations.add_many, pairs)

    def delete_many(self, keys: list[bytes]) -> int:
        try:
            return self._write_much(operations.delete_many, keys)
        except StoreFullError as error:
            return delete_in_halves(self.delete_many, keys, error)

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self._write_much(operations.change_many, pairs, keys)

    def _write_much(self, body: Callable[..., Result], *args: Any) -> Result:
        need = bytes_in(args)
        if self._room is None or not self._room.has(need):
            self._write(self._add_room, need, transaction=False)
        result = self._write(body, *args)
        if size_of(self._spec.path + "-wal") > longest_log() + _SPARE:
            with contextlib.suppress(RackError):  # it is not for this that it was called
                self._write(operations.move_log, transaction=False)
        return result

    def _add_room(self, connection: sqlite3.Connection, need: int) -> None:
        """Let pages be added for a bulk write: a transaction that meets the limit has to be done again."""
        if self._room is not None:
            self._room.add(connection, need)

    # The whole shard

    def clear(self) -> None:
        try:
            self._write_much(operations.clear)
        except StoreFullError:
            clear_in_blocks(self)

    def examine(self, timeout: float | None = None) -> Examined:
        with importing():
            from rack.shard.sqlite3.examine import examine_open  # few processes need it

        return examine_open(self, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        with importing():
            from rack.shard.sqlite3.examine import examine_file

        return examine_file(spec, alone)

    @classmethod
    def figures(cls, spec: ShardSpec, access: Access) -> Figures:
        with importing():
            from rack.shard.sqlite3.figures import figures

        return figures(spec, access)

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        with importing():
            from rack.shard.sqlite3.salvage import salvage

        return salvage(spec)

    def sync(self) -> None:
        # What is not in the database yet is in the write-ahead log; checkpoints sync what they move. No lock is held:
        # the log is not a file whose descriptors SQLite's locks depend on.
        self._read(operations.version)  # reopens, or raises, as any operation would
        log = self._locate().path + "-wal"
        try:
            sync_path(log)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise path_error(error, log) from error

    @classmethod
    def mark(cls, path: str) -> str | None:
        return files_mark(path)

    @classmethod
    def stamp(cls, path: str) -> int:
        try:
            return change_counter(path) << 32 | size_of(path + "-wal")
        except FileNotFoundError:
            raise missing(path) from None

    @classmethod
    def unsynced_files(cls, path: str) -> list[str]:
        # Who closes the last connection has it in the database, on the disk. A process that was killed does not, and
        # the last that has the store open may have no connection: as after a fork.
        return [path + "-wal"]

    @classmethod
    def log_files(cls, path: str) -> list[str]:
        return [path + "-wal"]

    def keep(self, has_company: bool) -> None:
        log = self._locate().path + "-wal"
        state = log_state(log)
        if state is None or state != self._kept:
            with contextlib.suppress(FileNotFoundError):
                sync_path(log)
            self._kept = state

    def snapshot(self) -> Snapshot:
        with importing():
            from rack.shard.sqlite3.snapshot import SqliteSnapshot

        return SqliteSnapshot.take(self)

    def holder(self) -> str | None:
        return held_by_others(self._spec.path + "-lock")

    @change
    def hold(self) -> Snapshot:
        refuse_inside(self)
        try:
            self._lock.acquire()
            self._connected()  # opening queues as well, so that comes first
            self._busy = True  # before it queues: a signal handler must not queue behind it
            self._held = _queue_file(self._spec.path)
            flock(self._held, LOCK_EX)
            if self._check_write is not None:
                self._check_write(True)
            if not self._spec.readonly:  # keep out programs that do not queue, such as the sqlite3 shell
                self._read(lambda connection: connection.execute("BEGIN IMMEDIATE"))
            return self.snapshot()
        except BaseException:
            # At the recursion limit only what is called right here is sure to be called.
            try:
                if self._lock._is_owned() and self._connection is not None:  # type: ignore[attr-defined]
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # there is none
            finally:
                while self._lock._is_owned():  # type: ignore[attr-defined]
                    self._held = None  # which closes it
                    self._busy = False
                    self._lock.release()
            raise

    @change  # a signal handler that comes in its middle is to find that
    def let_go(self) -> None:
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            return
        if self._held is None:  # hold() or this was cut off
            settle(self)
            return
        try:
            if self._connection is not None:
                roll_back(self._connection)
            self._held.close()
        finally:
            self._held = None
            while self._lock._is_owned():  # type: ignore[attr-defined]  # it was not, before: see refuse_inside()
                self._busy = False
                self._lock.release()


def _make_with_sqlite(spec: ShardSpec) -> None:
    with contextlib.closing(connect(spec.path, "rw")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_TABLES)
        operations.create_triggers(connection)
        rows = [("identity", identity(spec)), ("count", 0)]
        connection.executemany("INSERT INTO rack VALUES (?, ?)", rows)


def _queue_file(path: str) -> io.FileIO:
    """Open the file that writers queue at. A reader has no descriptor of it."""
    try:
        return io.FileIO(path + "-lock")
    except OSError as error:
        raise ReadOnlyError(error.errno, "writers cannot be held off", path + "-lock") from error


SHARD = SqliteShard
