"""Reading and writing the files of a closed store without Rack's code: what is on disk, as DESIGN.rst describes it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import xxhash

Hash = Callable[[bytes], bytes]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class RawEngine(ABC):
    """One engine's files. The shard must be closed in this process while any of these is called."""

    suffix: str
    #: Keys that the engine uses for itself, which a user may use all the same.
    reserved: tuple[bytes, ...] = ()

    @abstractmethod
    def read(self, path: Path) -> dict[bytes, bytes]:
        """Return all entries of a shard, in the order of the file."""

    @abstractmethod
    def write(self, path: Path, pairs: Iterable[tuple[bytes, bytes]], hash: Hash = sha256) -> None:
        """Put new entries into a shard."""

    @abstractmethod
    def damages(self) -> dict[str, Callable[[Path], None]]:
        """Ways to damage a shard that holds short and long keys; opening or checking it must notice each."""

    # A whole store

    def shard_of(self, key: bytes, shards: int) -> int:
        return xxhash.xxh3_64_intdigest(key) * shards >> 64

    def shard_path(self, name: Path, number: int) -> Path:
        return name.with_name(f"{name.name}-{number:04d}{self.suffix}")

    def read_store(self, name: Path, shards: int) -> dict[bytes, bytes]:
        """Return all entries of a store, each of which must be in the shard it belongs to."""
        entries: dict[bytes, bytes] = {}
        for number in range(shards):
            content = self.read(self.shard_path(name, number))
            assert {self.shard_of(key, shards) for key in content} <= {number}
            entries |= content
        return entries

    def write_store(self, name: Path, shards: int, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        groups: dict[int, list[tuple[bytes, bytes]]] = {}
        for key, value in pairs:
            groups.setdefault(self.shard_of(key, shards), []).append((key, value))
        for number, group in groups.items():
            self.write(self.shard_path(name, number), group)


_IDENTITY = b"\0"
_LONG_TABLE = b"\x01"


def sealed(value: bytes) -> bytes:
    return value if len(value) <= 1500 else value + xxhash.xxh3_64(value).digest()


def unsealed(stored: bytes) -> bytes:
    value = stored if len(stored) <= 1500 else stored[:-8]
    assert sealed(value) == stored
    return value


class RawLmdb(RawEngine):
    suffix = ".lmdb"
    reserved = (_IDENTITY, _LONG_TABLE)

    def read(self, path: Path) -> dict[bytes, bytes]:
        env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=1, lib_version=0)
        with env, env.begin() as txn:
            entries = {key: unsealed(value) for key, value in txn.cursor() if key not in self.reserved}
            if txn.get(_LONG_TABLE) is not None:
                table = env.open_db(_LONG_TABLE, txn, create=False)
                for _, stored in txn.cursor(table):
                    record = unsealed(stored)
                    end = 4 + int.from_bytes(record[:4], "big")
                    assert record[4:end] not in entries
                    entries[record[4:end]] = record[end:]
        return entries

    def write(self, path: Path, pairs: Iterable[tuple[bytes, bytes]], hash: Hash = sha256) -> None:
        with self.env(path) as env:
            table = env.open_db(_LONG_TABLE, create=False)
            with env.begin(write=True) as txn:
                for key, value in pairs:
                    if 0 < len(key) < 512 and key not in self.reserved:
                        assert txn.put(key, sealed(value), overwrite=False)
                    else:
                        record = sealed(len(key).to_bytes(4, "big") + key + value)
                        counter = 0
                        while not txn.put(long_record(key, hash, counter), record, overwrite=False, db=table):
                            counter += 1

    def env(self, path: Path) -> lmdb.Environment:
        size = path.stat().st_size + (64 << 20)
        return lmdb.open(str(path), subdir=False, max_dbs=1, map_size=size, lib_version=0)

    def damages(self) -> dict[str, Callable[[Path], None]]:
        def edit(change: Callable[[lmdb.Transaction], object]) -> Callable[[Path], None]:
            def damage(path: Path) -> None:
                with self.env(path) as env, env.begin(write=True) as txn:
                    change(txn)

            return damage

        def edit_long(change: Callable[[lmdb.Transaction, bytes], object]) -> Callable[[Path], None]:
            def damage(path: Path) -> None:
                with self.env(path) as env:
                    table = env.open_db(_LONG_TABLE, create=False)
                    with env.begin(write=True, db=table) as txn:
                        cursor = txn.cursor()
                        assert cursor.last()
                        change(txn, cursor.key())

            return damage

        def other_identity(number: int, text: bytes) -> Callable[[lmdb.Transaction], object]:
            def change(txn: lmdb.Transaction) -> None:
                fields = txn.get(_IDENTITY).split()
                fields[number] = text
                txn.put(_IDENTITY, b" ".join(fields))

            return change

        return {
            "no identity": edit(lambda txn: txn.delete(_IDENTITY)),
            "identity of another store": edit(other_identity(1, b"0" * 32)),
            "identity of another shard": edit(other_identity(2, b"77")),
            "identity that is none": edit(lambda txn: txn.put(_IDENTITY, b"\xff\0")),
            "a long key's record cut short": edit_long(lambda txn, key: txn.put(key, txn.get(key)[:40])),
            "a long key under another's place": edit_long(lambda txn, key: txn.put(b"a" + key[1:], txn.pop(key))),
            "truncated": lambda path: os.truncate(path, 2 * 4096),
            "empty": lambda path: os.truncate(path, 0),
            "not LMDB": lambda path: overwrite(path, b"x" * 65536),
        }


def long_record(key: bytes, hash: Hash, counter: int = 0) -> bytes:
    """Return the key of the record of a long key: its beginning, its digest, a counter; 511 bytes."""
    if len(key) <= 1:
        return key + b"\0"
    digest = hash(key)
    return key[: 511 - 4 - len(digest)] + digest + counter.to_bytes(4, "big")


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class RawSqlite(RawEngine):
    suffix = ".sqlite3"

    def read(self, path: Path) -> dict[bytes, bytes]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return dict(connection.execute("SELECT key, value FROM entries ORDER BY key"))

    def write(self, path: Path, pairs: Iterable[tuple[bytes, bytes]], hash: Hash = sha256) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany("INSERT INTO entries VALUES (?, ?)", pairs)

    def damages(self) -> dict[str, Callable[[Path], None]]:
        def run(*statements: str) -> Callable[[Path], None]:
            def damage(path: Path) -> None:
                with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                    for statement in statements:
                        connection.execute(statement)

            return damage

        def scribble(path: Path) -> None:
            size = path.stat().st_size
            with path.open("r+b") as file:
                for at in range(4096, size, 4096):
                    file.seek(at)
                    file.write(b"\xa5" * 200)

        identity = "UPDATE rack SET value = {} WHERE name = 'identity'"
        return {
            "no identity": run("DELETE FROM rack WHERE name = 'identity'"),
            "identity of another store": run(identity.format("replace(value, '0123', '9999')")),
            "identity of another shard": run(identity.format("rtrim(value, '3') || '77'")),
            "identity that is none": run(identity.format("'x'")),
            "no table": run("DROP TABLE entries"),
            "no count": run("DELETE FROM rack WHERE name = 'count'"),
            "wrong count": run("UPDATE rack SET value = value + 1 WHERE name = 'count'"),
            "a value that is no blob": run("UPDATE entries SET value = 'text'"),
            "pages overwritten": scribble,
            "truncated": lambda path: os.truncate(path, 4096),
            "empty": lambda path: os.truncate(path, 0),
            "not SQLite": lambda path: overwrite(path, b"x" * 65536),
        }


RAW: dict[str, RawEngine] = {"lmdb": RawLmdb(), "sqlite3": RawSqlite()}
