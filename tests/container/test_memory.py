"""Streaming operations hold neither the store nor their argument in memory: a process keeps little for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from tests.support.processes import assert_sound, private_memory, run
from tests.support.processes import end_sound as end_sound

MIB = 1 << 20


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the most memory that this process has for itself during the block, by looking 200 times a second."""
    peak = [private_memory()]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], private_memory())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak[0] = max(peak[0], private_memory())


def _measured(function: Callable[..., None], *args: Any) -> int:
    with peak_memory() as peak:
        function(*args)
    return peak[0]


def peak_of(function: Callable[..., None], *args: Any) -> int:
    """Return the peak of a new process that runs the function, in bytes."""
    (peak,) = run(_measured, [(function, *args)], method="spawn", limit=600)
    assert isinstance(peak, int)
    print(f"{function.__name__}: {peak / MIB:.0f} MiB")
    return peak


def _update(path: Path, count: int) -> None:
    with PersistentSet[int](path) as numbers:
        numbers.update(number * 7 for number in range(count))
        assert len(numbers) == count


def _add_many(path: Path, count: int) -> None:
    with PersistentSet[int](path) as numbers:
        assert numbers.add_many(number * 7 for number in range(count * 2)) == count


def _filter_new(path: Path, count: int) -> None:
    with PersistentSet[int](path) as numbers:
        new = numbers.filter_new(-number for number in range(1, count + 1))
        assert sum(1 for _ in new) == count


def _iterate(path: Path, count: int) -> None:
    with PersistentSet[int](path) as numbers:
        assert sum(1 for _ in numbers) == count
        assert sum(1 for _ in reversed(numbers)) == count


@pytest.mark.timeout(1500)
def test_a_set_of_millions_is_built_and_read_in_little_memory(tmp_path: Path, long: bool) -> None:
    count = 10_000_000 if long else 1_000_000
    path = tmp_path / "numbers"
    assert peak_of(_update, path, count) < 150 * MIB
    assert peak_of(_iterate, path, count) < 100 * MIB
    assert peak_of(_add_many, path, count) < 150 * MIB
    if not long:
        assert peak_of(_filter_new, path, 300_000) < 100 * MIB
        assert_sound(PersistentSet(path))


def _algebra(directory: Path) -> None:
    with PersistentSet[int](directory / "a") as a, PersistentSet[int](directory / "b") as b:
        with a | b as made:
            assert len(made) == 450_000
        with a & b as made:
            assert len(made) == 150_000
        with a - b as made:
            assert len(made) == 150_000
        with a ^ b as made:
            assert len(made) == 300_000
        assert not a <= b
        assert a != b
        assert not a.isdisjoint(b)
        with a.intersection(iter(b)) as made:
            assert made <= a
            assert made.issubset(iter(b))


def test_the_algebra_of_two_large_sets_takes_little_memory(tmp_path: Path) -> None:
    with PersistentSet[int](tmp_path / "a") as a, PersistentSet[int](tmp_path / "b") as b:
        a.update(range(300_000))
        b.update(range(150_000, 450_000))
    assert peak_of(_algebra, tmp_path) < 120 * MIB
    assert sorted(file.name for file in tmp_path.glob("*.rack")) == ["a.rack", "b.rack"]
    assert_sound(a)
    assert_sound(b)


def _large_values(path: Path) -> None:
    with PersistentDict[int, bytes](path, serdes="bytes", key_serdes="marshal", shards=4) as store:
        store.update((number, bytes(100_000)) for number in range(2000))  # 200 MB
        assert sum(len(value) for value in store.values()) == 200_000_000
        assert sum(1 for _ in store.items()) == 2000
        with store.batch():
            for number in range(2000):
                store[number] = bytes(100_000)
        with store.copy() as copy:
            assert len(copy) == 2000
        assert store.delete_many(range(1000)) == 1000


def test_large_values_are_streamed_within_a_budget_of_bytes(tmp_path: Path) -> None:
    assert peak_of(_large_values, tmp_path / "store") < 200 * MIB
    assert_sound(PersistentDict(tmp_path / "store", serdes="bytes", key_serdes="marshal"))
