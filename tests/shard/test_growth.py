"""Shards grow under many writers, and a file system that is full is an error like another."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, StoreFullError
from tests.support.processes import Crew, assert_sound, default_engine, hear, private_memory, run, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

MIB = 1 << 20
Bytes = PersistentDict[bytes, bytes]


def _value(key: bytes, size: int) -> bytes:
    return random.Random(key).randbytes(64) * (size // 64)


def _fill(path: Path, writer: int, amount: int) -> int:
    """Write values of many sizes, ``amount`` bytes together; return how many."""
    rng = random.Random(writer)
    number = written = 0
    with Bytes(path, serdes="bytes", shards=2) as store:
        while written < amount:
            key = b"%d-%d" % (writer, number)
            size = rng.choice([64, 640, 6400, 64_000, 640_000])
            value = _value(key, size)
            if number % 3 == 0:
                assert store.add(key, value)
            else:
                store[key] = value
            written += size
            number += 1
    return number


def test_writers_that_grow_the_shards_at_once_lose_nothing(tmp_path: Path, long: bool) -> None:
    path = tmp_path / "store"
    counts = run(_fill, [(path, writer, (512 if long else 128) * MIB // 8) for writer in range(8)], limit=200)
    with Bytes(path, serdes="bytes") as store:
        assert len(store) == sum(counts)
        for key, value in store.items():
            assert value == _value(key, len(value))
        for writer, count in enumerate(counts):
            assert all(b"%d-%d" % (writer, number) in store for number in range(count))
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_store_that_others_have_grown_can_be_synced(tmp_path: Path) -> None:
    def grow() -> None:
        with PersistentDict(tmp_path / "store") as store:
            store.update((n, bytes(1000)) for n in range(2000))

    with PersistentDict(tmp_path / "store", shards=1) as store, Crew() as crew:
        store[0] = b""
        crew.start(grow).result()
        store.sync()
        assert len(store) == 2000
    assert_sound(store)


def test_a_small_store_is_small_and_a_large_one_overshoots_by_a_quarter(tmp_path: Path) -> None:
    with Bytes(tmp_path / "store", serdes="bytes", shards=1) as store:
        file = Path(f"{tmp_path}/store-0000.lmdb")
        assert file.stat().st_size <= MIB // 8
        for number in range(130):
            store[b"%d" % number] = bytes(MIB)
        assert file.stat().st_size <= 130 * MIB * 1.3
    assert_sound(store)


def _store_large(path: Path, size: int) -> int:
    """Return how many bytes of memory more than before are in use while the value is."""
    before = private_memory()
    with Bytes(path, serdes="bytes", shards=1) as store:
        value = bytearray(size)
        value[::4096] = b"x" * len(range(0, size, 4096))
        store[b"large"] = bytes(value)
        store[b"small"] = b"y"
        del value
    with store:
        large = store[b"large"]
        assert len(large) == size
        assert large.count(b"x") == len(range(0, size, 4096))
        used = private_memory() - before
        del large
        assert store.pop(b"large")[:2] == b"x\0"
        assert store[b"small"] == b"y"
    return used


def test_a_large_value_is_stored_and_read_back(tmp_path: Path, long: bool) -> None:
    size = 1024 * MIB if long else 192 * MIB
    (used,) = run(_store_large, [(tmp_path / "store", size)], limit=250)
    assert used < 1.2 * size
    assert_sound(PersistentDict(tmp_path / "store", serdes="bytes"))


def _until_full(store: Bytes, prefix: bytes, size: int, error_number: int) -> list[int]:
    """Store values until there is no space for the next one; return the numbers of those that are stored."""
    for number in range(1_000_000):
        try:
            store[prefix + b"%d" % number] = bytes([number % 256]) * size
        except StoreFullError as error:
            _is_full(error, error_number, store)
            assert prefix + b"%d" % number not in store
            return list(range(number))
    raise AssertionError("never full")


def _is_full(error: OSError, error_number: int, store: PersistentDict[Any, Any] | PersistentSet[Any]) -> None:
    assert type(error) is StoreFullError
    assert error.errno == error_number
    assert str(store.name) in str(error)


@pytest.mark.usefixtures("engine")
def test_a_file_size_limit_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def work() -> list[int]:
        with Bytes(path, serdes="bytes", shards=2, durability="process") as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
            written = _until_full(store, b"", 10_000, errno.EFBIG)
            for size in (1000, 100, 10):  # smaller ones go on
                _until_full(store, b"small %d " % size, size, errno.EFBIG)
            with pytest.raises(StoreFullError):
                store.update((b"bulk %d" % number, bytes(1000)) for number in range(5000))
            batch = store.batch().__enter__()
            for number in range(5000):
                batch[b"batch %d" % number] = bytes(1000)
            with pytest.raises(StoreFullError):
                batch.__exit__(None, None, None)
            assert [number for number in range(1000) if b"%d" % number in store] == written
            assert store.check() == len(store)
            if default_engine() == "lmdb":  # SQLite's log has no room for it
                store.clear()  # makes room in the files
                written = written[: len(written) // 3]
                for number in written:
                    store[b"%d" % number] = bytes([number % 256]) * 10_000
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            for number in set(range(1000)) - set(written):
                store.pop(b"%d" % number, None)
            store.delete_many([key for key in store if key.startswith((b"small", b"bulk", b"batch"))])
            store[b"large"] = bytes(4 * MIB)
            return written

    (written,) = run(work, [()])
    with Bytes(path, serdes="bytes") as store:
        assert len(store) == len(written) + 1
        assert all(store[b"%d" % number] == bytes([number % 256]) * 10_000 for number in written)
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_batch_works_after_one_that_found_no_space(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def work() -> None:
        with Bytes(tmp_path / "store", serdes="bytes", shards=1) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
            with pytest.raises(StoreFullError), store.batch() as batch:
                batch[b"large"] = bytes(2 * MIB)
        with store, store.batch() as batch:
            batch[b"small"] = b"value"
        with store:
            assert dict(store) == {b"small": b"value"}

    run(work, [()])
    assert_sound(PersistentDict(tmp_path / "store", serdes="bytes"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill_disk(place: Path, leave: int = 0) -> None:
    with open(place / "other", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - leave)


@pytest.mark.usefixtures("engine")
def test_writers_on_a_full_disk_get_errors_and_lose_nothing(small_disk: Path) -> None:
    path = small_disk / "store"

    def work(writer: int) -> int:
        with Bytes(path, serdes="bytes", shards=2) as store:
            written = len(_until_full(store, b"%d-" % writer, 4000, errno.ENOSPC))
            tell(written)
            hear()  # the disk has space again
            for number in range(written):
                assert store[b"%d-%d" % (writer, number)] == bytes([number % 256]) * 4000
                if number % 10 == 0:
                    store[b"%d-%d" % (writer, number)] = b"again"
            store[b"large %d" % writer] = bytes(MIB // 4)
            return written

    (small_disk / "other").write_bytes(bytes(3 * MIB))
    with Crew() as crew:
        workers = [crew.start(work, writer) for writer in range(3)]
        assert sum(worker.hear() for worker in workers) > 100
        _fill_disk(small_disk)
        (small_disk / "other").unlink()
        for worker in workers:
            worker.tell()
        counts = [worker.result() for worker in workers]
    with Bytes(path, serdes="bytes") as store:
        for writer, count in enumerate(counts):
            assert all(store[b"%d-%d" % (writer, number)] == b"again" for number in range(0, count, 10))
        assert len(store) == sum(counts) + 3
    assert_sound(store)


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_store_can_be_read_and_made_smaller_on_a_full_disk(durability: str, small_disk: Path) -> None:
    path = small_disk / "store"
    with PersistentSet[int](path, shards=2, durability=durability) as store:
        store.update(range(5000))
    _fill_disk(small_disk)

    def work() -> None:
        with PersistentSet[int](path) as store:
            assert sorted(store) == list(range(5000))
            for number in range(500 if durability == "everysec" else 2500):
                assert store.discard(number)
            if durability == "everysec":  # what is put has to be journalled, too, for which there is no space
                assert store.discard_many(range(500, 1000)) == 500
                with pytest.raises(StoreFullError):
                    store.update(range(5000, 9000))
                store.clear()
                assert store.check() == 0
                return
            for number in range(500):
                assert store.add(number)
            assert store.check() == 3000

    for _ in range(3 if durability == "process" else 0):
        run(work, [()])
        with store:
            for number in range(500, 2500):
                assert store.add(number)
    if durability == "everysec":
        run(work, [()])
        with store:
            assert not store
    assert_sound(store)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 8, 20, 30, 50])
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_store_is_made_as_a_whole_or_not_at_all_on_a_full_disk(
    durability: str, pages: int, small_disk: Path, engine: str
) -> None:
    (small_disk / "store.rack-lock").touch()
    _fill_disk(small_disk, leave=pages * 4096)

    def work() -> bool:
        store = PersistentSet[int](small_disk / "store", shards=2, durability=durability)
        try:
            with store:
                return store.add(1)
        except OSError as error:
            _is_full(error, errno.ENOSPC, store)
            return False

    (made,) = run(work, [()])
    # It may be there, and empty: its journals come at the first write, and SQLite keeps room for removing entries.
    may_be_empty = durability == "everysec" or engine == "sqlite3"
    if not made and not (may_be_empty and "store.rack" in os.listdir(small_disk)):
        assert sorted(os.listdir(small_disk)) == ["other"]
    (small_disk / "other").unlink()
    with PersistentSet[int](small_disk / "store") as store:
        assert store.add(2)
        assert len(store) == 1 + made
    assert_sound(store)
