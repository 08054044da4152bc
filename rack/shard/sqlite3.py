"""The SQLite engine: one database a shard, in WAL mode; see DESIGN.rst.

Table ``entries(key BLOB PRIMARY KEY, value BLOB)`` WITHOUT ROWID holds the pairs, table ``rack(name, value)`` the
shard's identity and the number of entries, which triggers keep: one statement then is a whole transaction, without
the cost of BEGIN and COMMIT, and rows that a user deletes with the sqlite3 shell are counted too.

Writers queue at a flock on a file of their own, because SQLite's busy handler sleeps and retries, which is neither
fair nor fast. Opening and closing take it too, so that nobody meets the first opener's recovery or the last closer's
checkpoint. The flock is never on the database itself: SQLite's locks there are fcntl locks, which the process would
lose whenever it closed another descriptor of that file.

A connection is never carried across a fork: the child would believe that it holds locks that it does not. Both sides
open anew at their next use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from fcntl import LOCK_EX, LOCK_UN, flock
from threading import RLock
from typing import Any, TypeVar
from urllib.parse import quote

from rack.errors import (
    CorruptShardError,
    LockTimeoutError,
    NotOpenError,
    RackError,
    ReadOnlyError,
    ReentrantWriteError,
    StoreDeletedError,
    StoreFullError,
    StorePathError,
    TooLargeError,
)
from rack.shard.base import Pair, Shard, ShardSpec

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
_SYNCHRONOUS = {"process": "NORMAL", "always": "FULL"}
_BUSY_SECONDS = 60  # for programs that do not queue, such as the sqlite3 shell; then it is tried again
# The log is moved into the database, and both are synced, when it has this many pages (16 MiB). SQLite's default of
# 1,000 makes a set take 26 us instead of 17: the pages that many commits share are moved once.
_CHECKPOINT_PAGES = 4000
_BLOCK_ITEMS = 1024
_BLOCK_BYTES = 1 << 20


class SqliteShard(Shard):
    suffix = ".sqlite3"
    companions = ("-lock", "-wal", "-shm")
    ordered = True

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
                rows = [("identity", _identity(spec)), ("count", 0)]
                connection.executemany("INSERT INTO rack VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise _translated(error, spec.path) from error

    def __init__(self, spec: ShardSpec, rejoin: Callable[[], None]) -> None:
        self._spec = spec
        self._rejoin = rejoin
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._queue = -1  # descriptor of the file that writers queue at
        self._closed = False
        self._check_write: Callable[[], None] | None = None
        self._plain_writes = not spec.readonly  # with nothing to check
        self._inode: tuple[int, int] | None = None
        with self._lock:
            self._open()

    # One key

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            if self._connection is not None:
                try:
                    row = self._connection.execute(_GET, (key,)).fetchone()
                    return None if row is None else row[0]
                except sqlite3.Error:
                    pass  # _read will say what it is, or try again
            return self._read(_get, key)

    def contains(self, key: bytes) -> bool:
        with self._lock:
            if self._connection is not None:
                try:
                    return self._connection.execute(_CONTAINS, (key,)).fetchone() is not None
                except sqlite3.Error:
                    pass  # as in get
            return self._read(_contains, key)

    def put(self, key: bytes, value: bytes) -> None:
        with self._lock:
            connection = self._connection
            if connection is not None and self._plain_writes and not connection.in_transaction:
                try:
                    flock(self._queue, LOCK_EX)
                    connection.execute(_PUT, (key, value))
                    return
                except sqlite3.Error:
                    pass  # as in get: an autocommitted statement that failed has changed nothing
                finally:
                    flock(self._queue, LOCK_UN)
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

    def scan(self, after: bytes | None, reverse: bool, values: bool) -> list[Any]:
        return self._read(_scan, after, reverse, values)

    def count(self) -> int:
        return self._read(_count)

    def clear(self) -> None:
        self._write(_clear)

    def version(self) -> object:
        return self._read(_version)

    def check(self) -> None:
        self._read(_check, self._spec)

    def sync(self) -> None:
        # What is not in the database yet is in the write-ahead log; checkpoints sync what they move.
        with self._lock:
            self._connected()
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(self._spec.path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    # Transactions

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise NotOpenError("the container is closed; open it with `with` or open()")
        if self._connection is None:
            self._rejoin()
            self._open()
        assert self._connection is not None
        return self._connection

    def _read(self, body: Callable[..., Result], *args: Any) -> Result:
        with self._lock:
            connection = self._connection or self._connected()
            deadline = time.monotonic() + _BUSY_SECONDS
            while True:
                try:
                    return body(connection, *args)
                except sqlite3.Error as error:
                    # Who may not write the log's index, and finds it in the middle of a change, is told READONLY.
                    if _code(error) & 0xFF != sqlite3.SQLITE_READONLY or time.monotonic() > deadline:
                        self._mend(error)
                    time.sleep(0.001)

    def _write(self, body: Callable[..., Result], *args: Any, transaction: bool = True) -> Result:
        """Run ``body(connection, *args)`` alone among writers; in a transaction, unless it is but one statement."""
        with self._lock:
            connection = self._connection or self._connected()
            if self._spec.readonly:
                raise ReadOnlyError(errno.EACCES, 'the store was opened with flag="r"', self._spec.path)
            if connection.in_transaction:
                raise ReentrantWriteError(
                    f"{self._spec.path}: a write inside another write; a serializer must not use the store"
                )
            while True:
                try:
                    flock(self._queue, LOCK_EX)
                    if self._check_write is not None:
                        self._check_write()
                    if not transaction:
                        return body(connection, *args)
                    connection.execute("BEGIN IMMEDIATE")
                    result = body(connection, *args)
                    connection.execute("COMMIT")
                    return result
                except sqlite3.Error as error:
                    _roll_back(connection)
                    self._mend(error)
                except BaseException:
                    _roll_back(connection)
                    raise
                finally:
                    flock(self._queue, LOCK_UN)

    def _mend(self, error: sqlite3.Error) -> None:
        """Return if the operation should be tried again; raise what the user should see if not."""
        if _code(error) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _translated(error, self._spec.path) from error

    # The file

    def _open(self) -> None:
        path = self._spec.path
        try:
            # Before SQLite has the file open: closing a descriptor of it later would drop SQLite's locks.
            _check_header(path)
            self._check_inode()
            if not self._spec.readonly:  # who only reads need not wait for a writer
                self._queue = os.open(path + "-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as error:
            if isinstance(error, RackError):
                raise
            raise CorruptShardError(
                errno.ENOENT, "a shard of the store is missing; restore it from a copy", path
            ) from None
        except OSError as error:
            if isinstance(error, RackError):
                raise
            raise StorePathError(error.errno, error.strerror, path) from error
        try:
            if self._queue >= 0:
                flock(self._queue, LOCK_EX)
            self._connection = self._connect()
        except sqlite3.Error as error:
            self._disconnect()
            raise _translated(error, self._spec.path) from error
        except BaseException:
            self._disconnect()
            raise
        finally:
            if self._queue >= 0:
                flock(self._queue, LOCK_UN)

    def _check_inode(self) -> None:
        status = os.stat(self._spec.path)
        inode = (status.st_dev, status.st_ino)
        if self._inode not in (None, inode):
            raise StoreDeletedError(f"{self._spec.path} was replaced by another file while the store was open")
        self._inode = inode

    def _connect(self) -> sqlite3.Connection:
        spec = self._spec
        connection = _connect(spec.path, "ro" if spec.readonly else "rw")
        try:
            try:
                row = connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone()
            except sqlite3.OperationalError:
                # A directory that cannot be written has no place for the shared memory of the log; without a log
                # there is nothing that needs it.
                if not spec.readonly or _size(spec.path + "-wal"):
                    raise
                connection.close()
                connection = _connect(spec.path, "ro&immutable=1")
                row = connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone()
            _check_identity(spec, row)
            connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[spec.durability]}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        queue, self._queue = self._queue, -1
        try:
            if queue >= 0:
                flock(queue, LOCK_EX)
            if connection is not None:
                connection.close()
        finally:
            if queue >= 0:
                os.close(queue)

    # Life

    def close(self, timeout: float | None = None) -> None:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self._spec.path}: another thread's write is still waiting; not closed")
        try:
            self._closed = True
            self._disconnect()
        finally:
            self._lock.release()

    def on_write(self, check: Callable[[], None]) -> None:
        with self._lock:
            self._check_write = check
            self._plain_writes = False

    def before_fork(self) -> None:
        self._lock.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = RLock()


SHARD = SqliteShard


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # _lock is held around each use
    )


def _translated(error: sqlite3.Error, path: str) -> Exception:
    code = _code(error)
    kind = code & 0xFF
    if kind == sqlite3.SQLITE_READONLY:
        return ReadOnlyError(errno.EACCES, 'the store was opened with flag="r"', path)
    if kind == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
        return TooLargeError(f"a key or value is larger than SQLite holds (about 10**9 bytes): {error}")
    if kind == sqlite3.SQLITE_FULL or (kind == sqlite3.SQLITE_IOERR and _disk_is_full(path)):
        return StoreFullError(errno.ENOSPC, f"{error}; nothing was changed", path)
    if kind == sqlite3.SQLITE_IOERR and _size_is_limited():
        return StoreFullError(errno.EFBIG, f"{error}: file-size limit; nothing was changed", path)
    if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorePathError(errno.EIO, str(error), path)
    return CorruptShardError(f"{path}: {error}. The shard is damaged; restore it from a copy")


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _disk_is_full(path: str) -> bool:
    """Whether there is no space for the file of shared memory, of which SQLite only says that it is an I/O error."""
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize < 1 << 16


def _size_is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _identity(spec: ShardSpec) -> str:
    return f"rack-shard-1 {spec.store_id} {spec.number}"


def _check_identity(spec: ShardSpec, row: Any) -> None:
    if row is None:
        raise CorruptShardError(f"{spec.path} is an SQLite database, but not a Rack shard")
    if row[0] == _identity(spec):
        return
    try:
        _, store_id, number = str(row[0]).split()
    except ValueError:
        raise CorruptShardError(f"{spec.path} has a damaged identity: {row[0]!r}") from None
    if store_id != spec.store_id:
        raise CorruptShardError(f"{spec.path} belongs to another store ({store_id}, not {spec.store_id})")
    raise CorruptShardError(f"{spec.path} is shard {number} of its store: shard files were swapped or renamed")


def _check_header(path: str) -> None:
    """Raise CorruptShardError unless this is an SQLite database as long as its header says (sqlite.org/fileformat)."""
    with open(path, "rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if len(header) < 100:
        raise CorruptShardError(f"{path} is truncated: {size} bytes are too few for a shard")
    if not header.startswith(b"SQLite format 3\0"):
        raise CorruptShardError(f"{path} is not a Rack shard (it is no SQLite database)")
    page = int.from_bytes(header[16:18], "big")
    needed = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    # A checkpoint that was killed, or found no space, may have written the header before the rest, which is in the log.
    if size < needed and not _size(path + "-wal"):
        raise CorruptShardError(f"{path} is truncated: it has {size} bytes and needs {needed}. Restore it from a copy")


# What the operations do inside a transaction.


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Have several reads see one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(connection)


def _get(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    row = connection.execute(_GET, (key,)).fetchone()
    return None if row is None else row[0]


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


def _scan(connection: sqlite3.Connection, after: bytes | None, reverse: bool, values: bool) -> list[Any]:
    columns = "key, value" if values else "key"
    where = "" if after is None else f"WHERE key {'<' if reverse else '>'} ?"
    rows = connection.execute(
        f"SELECT {columns} FROM entries {where} ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT {_BLOCK_ITEMS}",
        () if after is None else (after,),
    )
    block: list[Any] = []
    size = 0
    for row in rows:
        block.append(row if values else row[0])
        size += len(row[0]) + len(row[-1])
        if size >= _BLOCK_BYTES:
            break
    rows.close()
    return block


def _count(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM rack WHERE name = 'count'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the number of entries is missing")
    count: int = row[0]
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


def _check(connection: sqlite3.Connection, spec: ShardSpec) -> None:
    with _snapshot(connection):
        problems = [problem for (problem,) in connection.execute("PRAGMA integrity_check(5)")]
        if problems != ["ok"]:
            raise CorruptShardError(f"{spec.path}: {'; '.join(problems)}")
        _check_identity(spec, connection.execute("SELECT value FROM rack WHERE name = 'identity'").fetchone())
        counted, found = _count(connection), connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        if counted != found:
            raise CorruptShardError(f"{spec.path}: counts {counted} entries and has {found}")
        odd = "SELECT count(*) FROM entries WHERE typeof(key) != 'blob' OR typeof(value) != 'blob'"
        if others := connection.execute(odd).fetchone()[0]:
            raise CorruptShardError(f"{spec.path}: {others} entries are not of blobs, and not Rack's")
