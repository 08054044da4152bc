"""Shards in the wrong place: of another store, of another number, of another time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rack import CorruptShardError, PersistentDict
from rack.shard import shard_class
from tests.support.processes import assert_sound, default_engine
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, int]
SHARDS = 3


def _shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number:04d}{shard_class(default_engine()).suffix}")


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        with Dict(tmp_path / name, shards=SHARDS) as store:
            store.update((f"{name} {number}", number) for number in range(100))
    return tmp_path / "one", tmp_path / "two"


def _intact(path: Path) -> None:
    with Dict(path) as store:
        assert dict(store) == {f"{path.name} {number}": number for number in range(100)}
    assert_sound(store)


def test_shards_of_two_stores_that_changed_places_are_refused_by_both(stores: tuple[Path, Path]) -> None:
    one, two = stores
    for number in range(SHARDS):
        _exchange(_shard(one, number), _shard(two, number))
        for path in stores:
            for flag in "rwc":
                with pytest.raises(CorruptShardError, match="another store"):
                    Dict(path, flag=flag).open()
        _exchange(_shard(one, number), _shard(two, number))
    _intact(one)
    _intact(two)


def test_shards_of_one_store_that_changed_places_are_refused(stores: tuple[Path, Path]) -> None:
    one, _ = stores
    for first, second in ((0, 1), (1, 2), (0, 2)):
        _exchange(_shard(one, first), _shard(one, second))
        for flag in "rwc":
            with pytest.raises(CorruptShardError, match="swapped or renamed"):
                Dict(one, flag=flag).open()
        _exchange(_shard(one, first), _shard(one, second))
    _intact(one)


def test_manifests_that_changed_places_are_refused(stores: tuple[Path, Path]) -> None:
    one, two = (path.with_name(path.name + ".rack") for path in stores)
    _exchange(one, two)
    for path in stores:
        with pytest.raises(CorruptShardError, match="another store"):
            Dict(path).open()
    _exchange(one, two)
    for path in stores:
        _intact(path)


def test_an_old_copy_of_one_shard_is_not_told_from_the_shard(stores: tuple[Path, Path], tmp_path: Path) -> None:
    """It has the right id and number, and is sound: its keys are as they were, all other shards' as they are."""
    one, _ = stores
    old = _shard(one, 1)
    shutil.copy(old, tmp_path / "kept")
    with Dict(one) as store:
        assert store._held is not None
        for number in range(100):
            store[f"one {number}"] = -number - 1
        moved = {key for key in store if store._route(store._dump_key(key)) is store._held.shards[1]}
    shutil.copy(tmp_path / "kept", old)
    with Dict(one) as store:
        for number in range(100):
            key = f"one {number}"
            assert store[key] == (number if key in moved else -number - 1)
    assert moved
    assert_sound(store)
