"""What is at hand is taken in by as much as ``memory`` holds; what comes by and by, about a thousand rows at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentSet, StoreFullError
from tests.support.faulty import Fault
from tests.support.faulty import fault as fault
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


def taken(tmp_path: Path, rows: Any, **options: Any) -> int:
    """Return how many rows were added before the first one was handed out."""
    with PersistentSet[Any](tmp_path / "s", shards=2, flag="n", serdes="bytes", **options) as s:
        stream: Iterator[Any] = s.filter_new(rows)
        next(stream)
        count = len(s)
        assert count + sum(1 for _ in stream) > count
        return count


def test_of_a_collection_as_much_is_taken_in_as_memory_holds(tmp_path: Path) -> None:
    rows = [b"%d" % number for number in range(20_000)]
    for collection in (rows, tuple(rows), dict.fromkeys(rows), dict.fromkeys(rows).keys(), set(rows)):
        assert taken(tmp_path, collection) == 20_000
    assert 1024 < taken(tmp_path, rows, memory=1 << 20) < 4096
    assert 200 < taken(tmp_path, [b"%d" % number + b"x" * 4000 for number in range(2000)], memory=1 << 20) <= 1024
    assert taken(tmp_path, iter(rows)) == taken(tmp_path, (row for row in rows)) == 1024


def test_of_a_file_on_a_disk_as_well_and_of_a_pipe_a_block(tmp_path: Path) -> None:
    lines = [b"%d\n" % number for number in range(5000)]
    (tmp_path / "f").write_bytes(b"".join(lines))
    with open(tmp_path / "f", "rb") as file:
        assert taken(tmp_path, file) == 5000
    for_reading, for_writing = os.pipe()
    os.write(for_writing, b"".join(lines))
    os.close(for_writing)
    with open(for_reading, "rb") as pipe:
        assert taken(tmp_path, pipe) == 1024


def test_repeated_elements_of_a_block_are_new_once_and_it_is_the_first_one(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [rng.choice([int, float])(rng.randrange(20_000)) for _ in range(50_000)]
    with PersistentSet[Any](tmp_path / "s", shards=3) as s:
        s.update(range(0, 20_000, 3))
        expected = [number for number in dict.fromkeys(rows) if number % 3]
        found = list(s.filter_new(rows))
        assert found == expected
        assert [*map(type, found)] == [*map(type, expected)]
        assert list(s.contains_many([5.0, object(), *rows, -1])) == [True, False, *[True] * len(rows), False]


def test_what_was_added_of_a_large_block_before_the_store_failed_is_yielded_in_order(
    tmp_path: Path, fault: Fault
) -> None:
    rows = random.Random(2).sample(range(100_000), 10_000)
    with PersistentSet[int](tmp_path / "s", shards=2) as s:
        found: list[int] = []
        with fault.after(1, lambda: StoreFullError(28, "injected")), pytest.raises(StoreFullError):
            found += s.filter_new(rows)
        assert set(s) == set(found)
        assert 0 < len(found) < 10_000  # one transaction
        assert found == [row for row in rows if row in set(found)]
        assert list(s.filter_new(rows)) == [row for row in rows if row not in set(found)]


def test_a_large_block_is_written_in_transactions_of_the_engines_size(tmp_path: Path) -> None:
    """On LMDB larger ones leave so many pages behind that the file is twice as large."""
    with PersistentSet[Any](tmp_path / "s", shards=1, durability="process") as s:
        (shard,) = s._store.shards
        sizes = []
        add_many = shard.add_many

        def counted(pairs: list[tuple[bytes, bytes]]) -> list[bool]:
            sizes.append(len(pairs))
            assert pairs == sorted(pairs)
            return add_many(pairs)

        shard.add_many = counted  # type: ignore[method-assign]
        assert sum(1 for _ in s.filter_new(range(10_000))) == 10_000
        size = shard.transaction
        assert sizes == [min(size, 10_000 - at) for at in range(0, 10_000, size)]
        assert (size == 512) == (s.engine == "lmdb")
