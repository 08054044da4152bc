"""Bulk writes: every pair arrives however little may be held, and what fits is one block a shard."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.shard.base import Pair
from rack.store.bulk import Bulk
from rack.store.taking import items_in_blocks
from tests.container.test_memory import MIB, peak_of
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine


def _pairs(count: int, seed: int) -> Iterator[Pair]:
    rng = random.Random(seed)
    for number in range(count):
        yield rng.randbytes(2), number.to_bytes(4, "big")


@pytest.mark.parametrize("shards", [1, 3, 64])
@pytest.mark.parametrize("memory", [1000, 100_000, 100_000_000])
def test_every_pair_is_written_to_its_shard_and_the_last_of_equal_keys_wins(
    shards: int, memory: int, seed: int
) -> None:
    written: list[dict[bytes, bytes]] = [{} for _ in range(shards)]
    blocks = [0] * shards

    def write(number: int, block: list[Pair]) -> int:
        assert block == sorted(block, key=lambda pair: pair[0])
        written[number].update(block)
        blocks[number] += 1
        return len(block)

    expected = dict(_pairs(20_000, seed))
    handed = sum(Bulk(shards, write, 20_000, memory).run(items_in_blocks(_pairs(20_000, seed))))
    assert handed == 20_000
    assert {key: value for each in written for key, value in each.items()} == expected
    assert sum(map(len, written)) == len(expected)
    if memory == 100_000_000:
        assert blocks == [1] * shards
    elif shards == 64:
        assert max(blocks) > 2


def test_the_fullest_shard_is_written_first(seed: int) -> None:
    sizes: list[int] = []
    bulk = Bulk(8, lambda number, block: sizes.append(len(block)), 20_000, 400_000)
    taken = 0

    def counted() -> Iterator[Pair]:
        nonlocal taken
        for taken, pair in enumerate(_pairs(40_000, seed), 1):  # noqa: B007
            yield pair

    for _ in bulk.run(items_in_blocks(counted())):
        if taken < 40_000:
            held = [sum(1 for _ in fresh) for fresh in bulk._fresh]
            assert not any(held)
            assert sizes[-1] >= max(bulk._counts) // 2, "a shard that holds less was written"
    assert len(sizes) > 16


@pytest.mark.parametrize("kind", [PersistentSet, PersistentDict])
def test_what_exceeds_the_budget_arrives_all_the_same(tmp_path: Path, engine: str, kind: Any) -> None:
    keys = [random.Random(1).randrange(60_000) for _ in range(1)] + [n * 7919 % 60_000 for n in range(80_000)]
    with kind(tmp_path / "store", memory=1 << 20, shards=4) as store:
        if kind is PersistentSet:
            assert store.add_many(keys) == 60_000
            assert store.add_many(keys) == 0
            assert set(store) == set(range(60_000))
            assert store.discard_many(range(0, 60_000, 2)) == 30_000
        else:
            store.update((key, place) for place, key in enumerate(keys))
            assert dict(store) == {key: place for place, key in enumerate(keys)}
            assert store.delete_many(range(0, 60_000, 2)) == 30_000
        assert len(store) == 30_000
        with store.copy() as copy:
            assert copy == store
            assert copy._store.memory == 1 << 20
    assert_sound(store)


@pytest.mark.parametrize("wrong", [0, -1, 1000])
def test_a_budget_that_is_none_is_an_error(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(ValueError, match="memory="):
        PersistentSet(tmp_path / "s", memory=wrong)
    assert not list(tmp_path.iterdir())


def _ingest(path: Path, memory: int) -> None:
    with PersistentSet[bytes](path, serdes="bytes", memory=memory) as store:
        rng = random.Random(1)
        store.update(rng.randbytes(52) for _ in range(400_000))


def test_a_bulk_write_holds_what_it_may(tmp_path: Path) -> None:
    little = peak_of(_ingest, tmp_path / "little", 8 * MIB)
    much = peak_of(_ingest, tmp_path / "much", 64 * MIB)
    assert little < 60 * MIB
    assert little + 15 * MIB < much < 120 * MIB
    for name in ("little", "much"):
        assert_sound(PersistentSet(tmp_path / name))


@pytest.mark.parametrize(("durability", "most"), [("process", 512), ("everysec", 512), ("always", 20_000)])
def test_a_transaction_of_a_bulk_write_is_as_large_as_suits_the_engine(
    tmp_path: Path, durability: str, most: int
) -> None:
    """On LMDB small ones keep the file small; where each is synced, there are to be few."""
    with PersistentDict[int, int](tmp_path / "d", shards=1, engine="lmdb", durability=durability) as d:
        (shard,) = d._store.shards
        sizes = []
        put_many = shard.put_many

        def counted(pairs: list[Pair]) -> None:
            sizes.append(len(pairs))
            put_many(pairs)

        shard.put_many = counted  # type: ignore[method-assign]
        d.update((number, number) for number in range(25_000))
        assert max(sizes) == most
        assert sum(sizes) == len(d) == 25_000
