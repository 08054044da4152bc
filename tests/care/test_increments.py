"""Incremental backups: each complete by itself and of one instant, although they share the files of shards."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, ReadOnlyError, StoreExistsError, StoreNotFoundError, StorePathError
from tests.support.processes import Crew, assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[Any, Any]
SETTLED = 0.15  # seconds, after which a change is told from one before


def make(path: Path, **options: Any) -> Path:
    with Dict(path, **{"shards": 4, **options}) as store:
        store.update((number, number) for number in range(1000))
    time.sleep(SETTLED)
    return path


def content(path: str | Path) -> dict[Any, Any]:
    with Dict(path, flag="r") as store:
        return dict(store)


def shared(backup: str, engine: str) -> int:
    """Return how many shards of a backup another one has, too."""
    folder, name = os.path.split(backup)
    files = [file for file in os.scandir(folder) if file.name.startswith(name) and file.name.endswith(f".{engine}")]
    return sum(file.stat().st_nlink > 1 for file in files)


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_only_shards_that_changed_are_copied(durability: str, engine: str, tmp_path: Path) -> None:
    path = make(tmp_path / "store", durability=durability)
    first = rack.backup(path, tmp_path / "backups")
    second = rack.backup(path, tmp_path / "backups")
    assert shared(second, engine) == 4
    with Dict(path) as store:
        store[5] = "changed"
        store["new"] = 1
        expected = dict(store)
        changed = [view for view in store.shards() if 5 in view or "new" in view]
    time.sleep(SETTLED)
    third = rack.backup(path, tmp_path / "backups")
    assert shared(third, engine) == 4 - len(changed)
    assert content(first) == content(second) == {number: number for number in range(1000)}
    assert content(third) == expected
    for backup in (first, second, third):
        assert_sound(Dict(backup, flag="r"))


def test_a_change_right_after_a_backup_is_in_the_next_one(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    for number in range(30):
        with Dict(path) as store:
            store["n"] = number
            assert content(rack.backup(path, tmp_path / "backups", keep=3))["n"] == number
            store["m"] = number
        assert content(rack.backup(path, tmp_path / "backups", keep=3))["m"] == number
    assert len(rack.stores(tmp_path / "backups")) == 3


def test_backups_of_a_store_in_use_are_of_one_instant(tmp_path: Path) -> None:
    """Money is moved between accounts in other shards: at each instant there is as much as at the beginning."""
    path = tmp_path / "store"
    with Dict(path, shards=4) as store:
        store.update((f"account {number}", 100) for number in range(8))

    def move_money(until: float) -> None:
        with Dict(path) as store:
            while time.monotonic() < until:
                with store.snapshot() as now:
                    assert sum(now.values()) == 800
                store.incr("account 1", 0)
                time.sleep(0.001)

    with Crew() as crew:
        workers = [crew.start(move_money, time.monotonic() + 3) for _ in range(2)]
        found = [rack.backup(path, tmp_path / "backups", workers=2) for _ in range(8)]
        for worker in workers:
            worker.result()
    assert all(sum(content(backup).values()) == 800 for backup in found)


def test_what_is_shared_cannot_be_written_to_and_each_can_be_removed(tmp_path: Path, engine: str) -> None:
    path = make(tmp_path / "store")
    first, second = (rack.backup(path, tmp_path / "backups") for _ in range(2))
    for backup in (first, second):
        with pytest.raises(ReadOnlyError, match="rack restore"):
            Dict(backup, flag="w").open()
    rack.remove(first)
    assert content(second) == content(path)
    assert shared(second, engine) == 0
    rack.remove(second)
    assert not os.listdir(tmp_path / "backups")


def test_a_backup_that_was_changed_is_not_built_upon(tmp_path: Path, engine: str) -> None:
    path = make(tmp_path / "store")
    first = rack.backup(path, tmp_path / "backups")
    with Dict(first, flag="w") as store:  # nothing is shared yet
        store.update((number, "other") for number in range(1000))
    second = rack.backup(path, tmp_path / "backups")
    assert shared(second, engine) == 0
    assert content(second) == content(path)


def test_another_store_of_the_name_is_not_taken_for_it(tmp_path: Path, engine: str) -> None:
    path = make(tmp_path / "store")
    rack.backup(path, tmp_path / "backups")
    rack.remove(path)
    make(path, shards=2)
    second = rack.backup(path, tmp_path / "backups")
    assert shared(second, engine) == 0
    rack.compact(path)
    rack.reshard(path, 4)
    assert content(rack.backup(path, tmp_path / "backups")) == content(path)


def test_a_backup_is_restored_and_the_old_store_kept(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    first = rack.backup(path, tmp_path / "backups")
    before = content(path)
    with Dict(path) as store:
        store.clear()
        store["only"] = 1
    rack.backup(path, tmp_path / "backups")
    with pytest.raises(StoreExistsError):
        rack.restore(first, path)
    assert rack.restore(first, path, replace=True) == f"{path}-old"
    assert content(path) == before
    assert content(f"{path}-old") == {"only": 1}
    assert rack.restore(tmp_path / "backups", tmp_path / "latest") is None
    assert content(tmp_path / "latest") == {"only": 1}
    with Dict(tmp_path / "latest") as store:
        store["more"] = 1
    assert_sound(Dict(path))


@pytest.mark.parametrize("name", [".", "../backups", "../backups/", "../backups/."])
def test_a_directory_of_backups_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "store")
    rack.backup(path, tmp_path / "backups")
    monkeypatch.chdir(tmp_path / "backups")
    rack.restore(name, tmp_path / "restored")
    assert content(tmp_path / "restored") == content(path)


def test_what_cannot_be_restored_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", f"{tmp_path}/empty/", f"{tmp_path}/empty/."):
        with pytest.raises(StoreNotFoundError, match="no backups in this directory"):
            rack.restore(wrong, tmp_path / "new")
    with pytest.raises(StoreNotFoundError, match="no such store"):
        rack.restore(tmp_path / "nothing", tmp_path / "new")
    with pytest.raises(ValueError, match="name=''"):
        rack.restore("", tmp_path / "new")
    for name in ("a", "b"):
        rack.backup(make(tmp_path / name), tmp_path / "backups")
    with pytest.raises(StorePathError, match="a, b"):
        rack.restore(tmp_path / "backups", tmp_path / "new")
    with pytest.raises(StoreNotFoundError, match="directory"):
        rack.restore(tmp_path / "a", tmp_path / "no" / "new")
    with pytest.raises(ValueError, match="keep=0"):
        rack.backup(tmp_path / "a", tmp_path / "backups", keep=0)
    assert not (tmp_path / "new.rack").exists()


def test_backups_made_at_once_by_threads_are_all_there(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    made: Counter[str] = Counter()
    threads = [
        threading.Thread(target=lambda: made.update([rack.backup(path, tmp_path / "backups")])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for backup in made:
        assert content(backup) == content(path)
