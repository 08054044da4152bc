"""A process killed at each single step of making, replacing or copying a store leaves nothing that is in the way."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from rack import PersistentDict, RackError
from rack.shard.base import View
from tests.support.processes import assert_sound
from tests.support.processes import engine as engine
from tests.support.steps import Steps
from tests.support.steps import killed_at_each_step as killed_at_each_step

pytestmark = pytest.mark.usefixtures("engine")

Store = PersistentDict[str, int]
OLD = {str(number): number for number in range(200)}


def _clear(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def _files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def _make(path: Path, flag: str = "c", content: dict[str, int] | None = None) -> None:
    with Store(path, flag=flag, shards=2) as store:
        store.update(content or {})


def test_a_store_whose_creator_was_killed_at_any_step_can_be_made(killed_at_each_step: Steps, tmp_path: Path) -> None:
    for _ in killed_at_each_step(lambda: _make(tmp_path / "store")):
        _make(tmp_path / "store", content=OLD)
        with Store(tmp_path / "store", flag="r") as store:
            assert dict(store) == OLD
        assert_sound(Store(tmp_path / "store"))
        _clear(tmp_path)


def test_it_does_not_matter_how_much_of_a_shard_a_killed_creator_has_written(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    for step in killed_at_each_step(lambda: _make(tmp_path / "store")):
        if not (tmp_path / "store.rack").exists():
            size = [0, 100, 4096, 10_000][step % 4]
            for file in tmp_path.glob("store-*"):
                file.write_bytes(file.read_bytes()[:size].ljust(4096, b"\0"))
            _make(tmp_path / "store", content=OLD)
            assert_sound(Store(tmp_path / "store"))
        _clear(tmp_path)


def test_what_a_killed_creator_leaves_does_not_pile_up(killed_at_each_step: Steps, tmp_path: Path) -> None:
    _make(tmp_path / "store")
    whole = _files(tmp_path)
    _clear(tmp_path)
    for _ in killed_at_each_step(lambda: _make(tmp_path / "store")):
        _make(tmp_path / "store")
        assert _files(tmp_path) == whole
        _clear(tmp_path)


def test_a_store_whose_replacement_was_killed_at_any_step_can_be_opened_and_replaced(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    for flag in "cn":
        _make(tmp_path / "store", content=OLD)
        for _ in killed_at_each_step(lambda: _make(tmp_path / "store", "n")):
            with Store(tmp_path / "store", flag=flag, shards=2) as store:
                found = dict(store)
                assert found in ({}, OLD) if flag == "c" else found == {}
            assert_sound(Store(tmp_path / "store"))
            _clear(tmp_path)
            _make(tmp_path / "store", content=OLD)
        _clear(tmp_path)


def test_a_copy_killed_at_any_step_is_whole_or_absent_and_can_be_made_again(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    _make(tmp_path / "source", content=OLD)

    def copy() -> None:
        with Store(tmp_path / "source") as source, source.copy(name=tmp_path / "target"):
            pass

    for _ in killed_at_each_step(copy):
        try:
            with Store(tmp_path / "target", flag="w") as target:
                assert dict(target) == OLD
        except FileNotFoundError:
            copy()
            with Store(tmp_path / "target", flag="w") as target:
                assert dict(target) == OLD
        assert_sound(Store(tmp_path / "target"))
        assert_sound(Store(tmp_path / "source"))
        for file in tmp_path.iterdir():
            if not file.name.startswith("source.") and not file.name.startswith("source-0"):
                file.unlink()


def test_a_store_that_was_to_be_deleted_is_not_taken_for_a_broken_one(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    """An operator's own set is deleted when it is closed, also if that was begun by a process that was killed."""
    _make(tmp_path / "source", content=OLD)

    def nameless() -> None:
        with Store(tmp_path / "source") as source, source | {"more": 1} as made:
            assert len(made) == len(OLD) + 1

    for _ in killed_at_each_step(nameless):
        for manifest in tmp_path.glob("*anonymous*.rack"):
            with contextlib.suppress(RackError), Store(manifest.with_suffix(""), flag="r") as store:
                assert dict(store).items() <= (OLD | {"more": 1}).items()
        with Store(tmp_path / "source") as store:
            assert dict(store) == OLD
        for file in tmp_path.glob("*anonymous*"):
            file.unlink()
    assert_sound(Store(tmp_path / "source"))


def _moved(view: View) -> None:
    for key, value in view.first(b"", None, 400):
        view.delete(key)
        view.put(key + b"\0" * 900, value)
    for key, value in view.first(b"", None, 5000):
        if key.endswith(b"\0" * 900):
            view.put(key[:-900], value)
            view.delete(key)


def _use(path: Path, durability: str) -> None:
    with Store(path, durability=durability) as store:
        store["one"] = 1
        with store.batch() as batch:
            for number in range(100):
                batch[f"batch {number}"] = number
        store.update((f"bulk {number}" * 20, number) for number in range(2000))  # the files grow
        store.delete_many(str(number) for number in range(100))
        for shard in store._store.shards:  # moves every key, and grows the file
            shard.transact(_moved)
        store.sync()
    with Store(path, durability=durability) as store:
        store.incr("one")


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_store_whose_user_was_killed_at_any_step_is_as_before_or_after_it(
    durability: str, killed_at_each_step: Steps, tmp_path: Path
) -> None:
    """Opened, written, grown, synced, closed: every key has what it had before some operation, or has behind it."""
    _make(tmp_path / "store", content=OLD)
    bulk = {f"bulk {number}" * 20: number for number in range(2000)}
    for _ in killed_at_each_step(lambda: _use(tmp_path / "store", durability)):
        with Store(tmp_path / "store", flag="w") as store:
            found = dict(store)
            assert found.get("one") in (None, 1, 2)
            assert {str(number) for number in range(100, 200)} <= found.keys()
            assert (
                found.items()
                <= {**OLD, **bulk, **{f"batch {n}": n for n in range(100)}, "one": found.get("one")}.items()
            )
            assert store.check() == len(found)
            store["more"] = 1
        assert_sound(Store(tmp_path / "store"))
        _clear(tmp_path)
        _make(tmp_path / "store", content=OLD)


def test_a_backup_killed_at_any_step_is_whole_or_absent_and_can_be_made_again(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    _make(tmp_path / "source", content=OLD)

    def back_up() -> None:
        with Store(tmp_path / "source") as source:
            source.backup(tmp_path / "target")

    for _ in killed_at_each_step(back_up):
        if not (tmp_path / "target.rack").exists():
            back_up()
        with Store(tmp_path / "target", flag="w") as target:
            assert dict(target) == OLD
        assert_sound(Store(tmp_path / "target"))
        assert_sound(Store(tmp_path / "source"))
        for file in tmp_path.iterdir():
            if not file.name.startswith(("source.", "source-0")):
                file.unlink()
