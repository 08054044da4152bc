"""What SQLite does not hold, and how long its log gets."""

from __future__ import annotations

import mmap
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, TooLargeError
from rack.shard.sqlite3 import database
from tests.support.processes import assert_sound

Bytes = PersistentDict[bytes, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Bytes]:
    with Bytes(tmp_path / "store", engine="sqlite3", shards=1, serdes="bytes") as store:
        store[b"there"] = b"1"
        yield store
        assert dict(store) == {b"there": b"1"}
    assert_sound(store)


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Any]:
    """Over 2 GiB, of which there is nothing in memory or on the disk."""
    with open(tmp_path / "sparse", "w+b") as file:
        os.truncate(file.fileno(), (1 << 31) + 10)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


WRITES: dict[str, Callable[[Any, Any, Any], object]] = {
    "put": lambda shard, key, value: shard.put(key, value),
    "add": lambda shard, key, value: shard.add(key, value),
    "modify": lambda shard, key, value: shard.modify(key, lambda old: value),
    "transact": lambda shard, key, value: shard.transact(lambda view: (view.delete(b"there"), view.put(key, value))),
    "put_many": lambda shard, key, value: shard.put_many([(b"a", b"1"), (key, value)]),
    "add_many": lambda shard, key, value: shard.add_many([(b"a", b"1"), (key, value)]),
    "change_many": lambda shard, key, value: shard.change_many([(b"a", b"1"), (key, value)], [b"there"]),
}
OTHERS: dict[str, Callable[[Any, Any], object]] = {
    "get": lambda shard, key: shard.get(key),
    "contains": lambda shard, key: shard.contains(key),
    "delete": lambda shard, key: shard.delete(key),
    "pop": lambda shard, key: shard.pop(key),
    "get_many": lambda shard, key: shard.get_many([b"there", key]),
    "delete_many": lambda shard, key: shard.delete_many([b"there", key]),
    "scan": lambda shard, key: shard.scan(key, None, False, False),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("part", ["key", "value"])
@pytest.mark.parametrize("timeout", [None, 10])
def test_over_two_gibibytes_are_too_large(store: Bytes, huge: Any, operation: str, part: str, timeout: Any) -> None:
    with Bytes(store.name, timeout=timeout) as other:
        shard = other._store.shards[0]
        with pytest.raises(TooLargeError):
            WRITES[operation](shard, *((huge, b"1") if part == "key" else (b"k", huge)))


@pytest.mark.parametrize("operation", OTHERS)
def test_a_key_over_two_gibibytes_is_too_large_for_the_rest(store: Bytes, huge: Any, operation: str) -> None:
    with pytest.raises(TooLargeError):
        OTHERS[operation](store._store.shards[0], huge)


def test_what_a_build_of_sqlite_does_not_hold_is_too_large(store: Bytes) -> None:
    shard: Any = store._store.shards[0]
    shard._connected().setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    for key, value in ((b"k", bytes(6000)), (b"k" * 6000, b"1")):
        for write in WRITES.values():
            with pytest.raises(TooLargeError):
                write(shard, key, value)
        with pytest.raises(TooLargeError):
            store[key] = value
        with pytest.raises(TooLargeError):
            store.update({key: value})
        with pytest.raises(TooLargeError), store.batch() as batch:
            batch[key] = value
    with pytest.raises(TooLargeError):
        store.transform(b"there", lambda value: bytes(6000))


def test_an_overflow_of_a_serializer_is_its_own(tmp_path: Path) -> None:
    def dumps(value: int) -> bytes:
        return value.to_bytes(1, "big")

    loads = int.from_bytes
    with PersistentDict[str, int](
        tmp_path / "own", engine="sqlite3", serdes=(lambda data: loads(data), dumps)
    ) as store:
        store["a"] = 255
        with pytest.raises(TypeError, match="int too big"):
            store.incr("a")
        assert store["a"] == 255


# The log


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(database, "_CHECKPOINT_PAGES", 100)
    return database.longest_log() + (1 << 18)


def log_size(store: Any) -> int:
    return sum(file.stat().st_size for file in Path(store.name).parent.glob("*-wal"))


def test_the_log_is_short_again_after_a_long_transaction(tmp_path: Path, short_log: int) -> None:
    with Bytes(tmp_path / "store", engine="sqlite3", shards=1, serdes="bytes") as store:
        store.update((b"%d" % number, bytes(10_000)) for number in range(400))
        assert log_size(store) <= short_log
        with store.batch() as batch:
            for number in range(400):
                batch[b"%d" % number] = b"1" * 10_000
        assert log_size(store) <= short_log
        store.clear()
        assert log_size(store) <= short_log
    with PersistentSet[bytes](tmp_path / "set", engine="sqlite3", shards=1, serdes="bytes") as elements:
        elements.update(b"%d" % number * 100 for number in range(20_000))
        assert log_size(elements) <= short_log
        elements.discard_many([b"%d" % number * 100 for number in range(20_000)])
        assert log_size(elements) <= short_log


def test_the_log_is_short_again_after_a_long_reader(tmp_path: Path, short_log: int) -> None:
    with Bytes(tmp_path / "store", engine="sqlite3", shards=1, serdes="bytes") as store:
        store[b"a"] = b"1"
        with store.snapshot() as snapshot:
            for number in range(200):
                store[b"%d" % number] = bytes(10_000)
            store.update((b"%d" % number, bytes(10_000)) for number in range(200))  # waits for no reader
            assert len(snapshot) == 1
            assert log_size(store) > 2 * short_log
        for number in range(3):
            store[b"b"] = b"%d" % number
        assert log_size(store) <= short_log
    assert_sound(store)
