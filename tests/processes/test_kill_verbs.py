"""A process killed at each single step of removing, renaming, compacting or resharding a store: all of it, or nothing.

What such a process leaves is out of the way when the store is opened next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import rack
from rack import PersistentDict
from rack.care.alone import locked
from rack.store import moving
from tests.support.processes import Crew, FailedError, assert_sound
from tests.support.processes import engine as engine
from tests.support.steps import Steps
from tests.support.steps import killed_at_each_step as killed_at_each_step

pytestmark = pytest.mark.usefixtures("engine")

Store = PersistentDict[str, int]
OLD = {str(number): number for number in range(200)} | {"long" * 200: -1}
OTHER = {str(number): -number for number in range(100)}
LEFT = (".rack-part", ".rack-moved", ".rack-old", ".rack-plan", ".rack-new")


def _make(path: Path, content: dict[str, int], shards: int = 2) -> None:
    with Store(path, flag="n", shards=shards) as store:
        store.update(content)


def _clear(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def _content(path: Path) -> dict[str, int] | None:
    """Return what a store holds, None if there is none, once it was opened to write and checked."""
    try:
        with Store(path, flag="w") as store:
            found = dict(store)
            assert store.check() == len(found)
            store["more"] = 1
            del store["more"]
    except FileNotFoundError:
        return None
    assert_sound(Store(path))
    return found


def _assert_nothing_is_left(directory: Path) -> None:
    assert not [file.name for file in directory.iterdir() if any(each in file.name for each in LEFT)]


def test_a_removed_store_is_there_or_not(killed_at_each_step: Steps, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _make(tmp_path / "store-2024", OTHER)
    _make(store, OLD)
    found = []
    for _ in killed_at_each_step(lambda: rack.remove(store)):
        found.append(_content(store))
        assert rack.exists(store) == (found[-1] is not None)
        _make(store, OLD)  # it is not in the way
        _assert_nothing_is_left(tmp_path)
    assert all(each in (OLD, None) for each in found)
    assert _content(tmp_path / "store-2024") == OTHER


def test_a_renamed_store_has_the_old_name_or_the_new_one(killed_at_each_step: Steps, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    _make(old, OLD)
    found = []
    for _ in killed_at_each_step(lambda: rack.rename(old, new)):
        assert rack.exists(old) != rack.exists(new)
        found.append((_content(old), _content(new)))
        assert found[-1] in ((OLD, None), (None, OLD))
        _make(old if found[-1][0] is None else new, OTHER)  # what was left is not in the way
        _assert_nothing_is_left(tmp_path)
        _clear(tmp_path)
        _make(old, OLD)
    assert {(OLD is each[0], each[1] == OLD) for each in found}


def test_a_store_put_in_the_place_of_another_one_is_there_or_the_other_one_is(
    killed_at_each_step: Steps, tmp_path: Path
) -> None:
    old, new, aside = tmp_path / "old", tmp_path / "new", tmp_path / "new-old"
    _make(old, OLD)
    _make(new, OTHER, shards=3)
    for _ in killed_at_each_step(lambda: rack.rename(old, new, replace=True)):
        found = (_content(new), _content(old), _content(aside))
        assert found in ((OTHER, OLD, None), (OLD, None, OTHER))
        _assert_nothing_is_left(tmp_path)
        _clear(tmp_path)
        _make(old, OLD)
        _make(new, OTHER, shards=3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("shards", [4, 3])
def test_a_resharded_store_has_the_old_shards_or_the_new_ones(
    shards: int, killed_at_each_step: Steps, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    _make(store, OLD)
    seen = set()
    for _ in killed_at_each_step(lambda: rack.reshard(store, shards)):
        assert _content(store) == OLD
        with Store(store, flag="r") as opened:
            seen.add(len(opened.shards()))
        _assert_nothing_is_left(tmp_path)
        _clear(tmp_path)
        _make(store, OLD)
    assert seen <= {2, shards}
    assert 2 in seen


def test_a_compacted_store_is_whole_at_any_step(killed_at_each_step: Steps, tmp_path: Path) -> None:
    store = tmp_path / "store"
    _make(store, OLD)
    for _ in killed_at_each_step(lambda: rack.compact(store)):
        assert _content(store) == OLD
        _assert_nothing_is_left(tmp_path)
        _clear(tmp_path)
        _make(store, OLD)


def test_a_backup_is_there_or_not_and_those_before_it_are_whole(killed_at_each_step: Steps, tmp_path: Path) -> None:
    store, place = tmp_path / "store", tmp_path / "backups"
    _make(store, OLD)
    first = Path(rack.backup(store, place))
    with Store(store) as opened:
        opened["0"] = 1
    for _ in killed_at_each_step(lambda: rack.backup(store, place)):
        found = rack.stores(place)
        assert str(first) in found
        for path in found:
            with Store(path, flag="r") as backup:
                assert dict(backup) == (OLD if path == str(first) else OLD | {"0": 1})
            assert_sound(Store(path, flag="r"))
        last = rack.backup(store, place)
        assert not [file.name for file in place.iterdir() if "anonymous" in file.name]
        for path in {*found, last} - {str(first)}:
            rack.remove(path)


def _kill_in_move(old: Path, new: Path, **options: bool) -> None:
    """Leave a move as a process does that is killed when it has just been decided."""

    def move() -> None:
        moving.settle = lambda path: os._exit(7)  # type: ignore[assignment]
        rack.rename(old, new, **options)

    with Crew() as crew, pytest.raises(FailedError, match="ended with 7"):
        crew.start(move).result()
    assert not (old.parent / f"{old.name}.rack").exists()


def _made_anew(new: Path) -> None:
    _make(new, OTHER)


def _copied_to(new: Path) -> None:
    with Store(new.parent / "source", shards=2) as source, pytest.raises(FileExistsError):
        source.copy(name=new)


def _told(*command: str) -> Callable[[Path], None]:
    def run(new: Path) -> None:
        pytest.importorskip("click")
        from rack.cli import main

        assert main([new.as_posix() if word == "NEW" else word for word in command]) == 0

    return run


#: What may be done next to the new name, and what is there then.
NEXT: dict[str, tuple[Callable[[Path], object], dict[str, int]]] = {
    "opened": (lambda new: None, OLD),
    "made anew": (_made_anew, OTHER),
    "copied to": (_copied_to, OLD),
    "verified": (lambda new: rack.verify(new).sound or pytest.fail("it is not sound"), OLD),
    "looked at": (lambda new: rack.stat(new).entries == len(OLD) or pytest.fail("it is not whole"), OLD),
    "backed up": (lambda new: rack.backup(new, new.parent / "backups"), OLD),
    "compacted": (rack.compact, OLD),
    "renamed and back": (lambda new: (rack.rename(new, f"{new}-2"), rack.rename(f"{new}-2", new)), OLD),
    "counted by the command": (_told("count", "NEW"), OLD),
}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("what", NEXT)
def test_whatever_comes_next_finds_the_store_that_was_being_moved(what: str, replace: bool, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    _make(old, OLD)
    if replace:
        _make(new, OTHER, shards=3)
    _kill_in_move(old, new, replace=replace)
    do, content = NEXT[what]
    do(new)
    assert _content(new) == content
    assert _content(tmp_path / "new-old") == (OTHER if replace else None)
    _assert_nothing_is_left(tmp_path)


def test_who_has_two_stores_alone_takes_their_locks_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So two who wait, of whom one moves A to B and the other B to A, do not wait for each other."""
    a, b = tmp_path / "a", tmp_path / "b"
    for path in a, b:
        _make(path, OLD)
    orders: list[list[str]] = []

    def noted(path: str, purpose: str, timeout: float | None) -> object:
        orders[-1].append(os.path.basename(path))
        return locked(path, purpose, timeout)

    monkeypatch.setattr("rack.care.rename.locked", noted)
    for source, target in (a, b), (b, a):
        orders.append([])
        rack.rename(source, target, replace=True)
        _make(source, OLD)
    assert [order[:2] for order in orders] == [["a", "b"], ["a", "b"]]
