"""What replaces, moves and removes stores as a whole: remove, rename, compact, reshard, and what finds them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import (
    MismatchError,
    PersistentDict,
    PersistentSet,
    StoreExistsError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
)
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[Any, Any]
CONTENT = {number: f"value {number}" for number in range(500)} | {"long" * 200: b"x" * 5000, ("a", 1): None}


def make(path: Path, content: dict[Any, Any] = CONTENT, **options: Any) -> Path:
    with Dict(path, **{"shards": 3, **options}) as store:
        store.update(content)
    return path


def content(path: Path, **options: Any) -> dict[Any, Any]:
    with Dict(path, flag="r", **options) as store:
        return dict(store)


#: Each of those that need the store alone.
VERBS: dict[str, Callable[..., Any]] = {
    "remove": rack.remove,
    "rename": lambda path, **options: rack.rename(path, f"{path}-renamed", **options),
    "compact": rack.compact,
    "reshard": lambda path, **options: rack.reshard(path, 2, **options),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("verb", VERBS)
def test_who_has_it_open_is_named_and_nothing_happens(verb: str, tmp_path: Path) -> None:
    path = make(tmp_path / "store")

    def hold() -> None:
        with Dict(path):
            tell("open")
            hear()

    files = sorted(os.listdir(tmp_path))
    with Crew() as crew:
        worker = crew.start(hold)
        assert worker.hear() == "open"
        with pytest.raises(StoreInUseError, match=str(worker.pid)):
            VERBS[verb](path)
        worker.tell("go on")
        worker.result()
    assert {name for name in os.listdir(tmp_path) if "journal" not in name and "-base" not in name} <= {*files}
    assert content(path) == CONTENT
    with Dict(path), pytest.raises(StoreInUseError, match="this process"):
        VERBS[verb](path)


@pytest.mark.parametrize("verb", VERBS)
def test_it_waits_if_it_is_told_to(verb: str, tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    with Dict(path) as store:
        thread = threading.Thread(target=VERBS[verb], args=(path,), kwargs={"timeout": None})
        thread.start()
        store["more"] = 1
    thread.join(30)
    assert not thread.is_alive()
    assert rack.exists(path) == (verb in ("compact", "reshard"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_is_not_there_is_told(verb: str, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"nothing\.rack"):
        VERBS[verb](tmp_path / "nothing")
    assert not os.listdir(tmp_path)


def test_a_store_is_removed_and_nothing_of_its_neighbours(tmp_path: Path) -> None:
    neighbours = [make(tmp_path / name) for name in ("seen-2024", "seen-0000", "see", "seen.lmdb-0000")]
    (tmp_path / "seen-0000.txt").touch()
    (tmp_path / "seen-0007.lmdb").touch()
    path = make(tmp_path / "seen")
    assert rack.exists(path)
    assert rack.exists(f"{path}.rack")
    rack.remove(path)
    assert not rack.exists(path)
    assert sorted(file.name for file in tmp_path.glob("seen-000[0-2].*")) == ["seen-0000.rack", "seen-0000.txt"] or [
        file.name for file in tmp_path.glob("seen-000[0-2].*") if file.name.startswith("seen-0000.rack")
    ]
    assert (tmp_path / "seen-0007.lmdb").exists()
    (tmp_path / "seen-0007.lmdb").unlink()
    for neighbour in neighbours:
        assert content(neighbour) == CONTENT
    make(path, {1: 2})  # its place is free


def test_nothing_is_left_of_a_removed_store(tmp_path: Path) -> None:
    for durability in ("process", "everysec", "always"):
        rack.remove(make(tmp_path / "store", durability=durability))
        assert not os.listdir(tmp_path)


def test_a_store_with_a_damaged_manifest_can_be_removed(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    (tmp_path / "store.rack").write_text("{")
    rack.remove(path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_a_renamed_store_is_as_it_was(durability: str, tmp_path: Path) -> None:
    old, new = make(tmp_path / "old", durability=durability), tmp_path / "folder" / "new"
    new.parent.mkdir()
    assert rack.rename(old, new) is None
    assert os.listdir(tmp_path) == ["folder"]
    assert content(new) == CONTENT
    with Dict(new) as store:
        assert store._open_store().durability == durability
        store["more"] = 1
    assert_sound(Dict(new))


def test_a_store_is_moved_to_another_file_system(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted")
    try:
        old = make(tmp_path / "old")
        rack.rename(old, place / "new")
        assert os.listdir(tmp_path) == ["disk"]
        with Dict(place / "new") as store:
            assert dict(store) == CONTENT
            store["more"] = 1
        assert_sound(Dict(place / "new"))
        make(tmp_path / "other", {1: 1})
        assert rack.rename(place / "new", tmp_path / "other", replace=True) == str(tmp_path / "other-old")
        assert content(tmp_path / "other") == CONTENT | {"more": 1}
        assert not os.listdir(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_one_store_takes_the_place_of_another_which_is_kept(tmp_path: Path) -> None:
    new, old = make(tmp_path / "new"), make(tmp_path / "store", {1: 1}, shards=5)
    with pytest.raises(StoreExistsError, match=r"store\.rack"):
        rack.rename(new, old)
    assert (content(new), content(old)) == (CONTENT, {1: 1})
    assert rack.rename(new, old, replace=True) == f"{old}-old"
    assert content(old) == CONTENT
    assert content(tmp_path / "store-old") == {1: 1}
    make(tmp_path / "newer", {2: 2})
    assert rack.rename(tmp_path / "newer", old, replace=True) == f"{old}-old-2"
    assert rack.stores(tmp_path) == [f"{old}", f"{old}-old", f"{old}-old-2"]
    assert {name.split(".")[0].split("-0")[0] for name in os.listdir(tmp_path)} == {
        "store",
        "store-old",
        "store-old-2",
    }


@pytest.mark.damages
def test_a_repaired_store_is_put_in_the_place_of_the_damaged_one(tmp_path: Path, engine: str) -> None:
    path = make(tmp_path / "store")
    shard = tmp_path / f"store-0001.{engine}"
    shard.write_bytes(b"no shard" * 1000)
    rack.repair(path)
    rack.rename(f"{path}-repaired", path, replace=True)
    assert content(path).items() <= CONTENT.items()
    assert shard.read_bytes() != b"no shard" * 1000
    assert (tmp_path / f"store-old-0001.{engine}").read_bytes() == b"no shard" * 1000


def test_a_store_cannot_be_renamed_to_what_it_is_nor_to_nowhere(tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    with pytest.raises(StorePathError, match="this name already"):
        rack.rename(path, f"{tmp_path}/./store.rack", replace=True)
    with pytest.raises(StoreNotFoundError, match="directory"):
        rack.rename(path, tmp_path / "no" / "store")
    with pytest.raises(StorePathError, match="too long"):
        rack.rename(path, tmp_path / ("x" * 250))
    assert content(path) == CONTENT


def test_a_store_that_was_renamed_while_open_elsewhere_is_not_there_for_who_waits(tmp_path: Path) -> None:
    """Who waits to open a store that is being renamed does not find half of it."""
    path = make(tmp_path / "store")

    def use() -> None:
        for _ in range(200):
            try:
                with Dict(path, flag="w") as store:
                    assert dict(store) == CONTENT
            except StoreNotFoundError:
                pass

    with Crew() as crew:
        users = [crew.start(use) for _ in range(2)]
        for _ in range(30):
            rack.rename(path, tmp_path / "other", timeout=None)
            rack.rename(tmp_path / "other", path, timeout=None)
        for user in users:
            user.result()
    assert content(path) == CONTENT


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_resharded_store_has_what_it_had(shards: int, workers: int, tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    assert rack.reshard(path, shards, workers=workers) == len(CONTENT)
    with Dict(path) as store:
        assert len(store.shards()) == shards
        assert dict(store) == CONTENT
        store["more"] = 1
        assert store.check() == len(CONTENT) + 1
    assert_sound(Dict(path))
    assert {file.name.split("-")[1][:4] for file in tmp_path.glob("store-*")} == {f"{n:04d}" for n in range(shards)}


@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_a_compacted_store_has_what_it_had_and_is_smaller(durability: str, tmp_path: Path) -> None:
    path = make(tmp_path / "store", durability=durability)
    with Dict(path) as store:
        store.update((f"more {number}", b"x" * 1000) for number in range(3000))
        store.delete_many([f"more {number}" for number in range(3000)])
    done = rack.compact(path)
    assert (done.name, done.entries) == (str(path), len(CONTENT))
    assert done.after < done.before / 3, done
    with Dict(path) as store:
        assert store._open_store().durability == durability
        assert dict(store) == CONTENT
        store["more"] = 1
    assert_sound(Dict(path))


def test_they_work_whatever_the_serdes_is_and_ask_for_the_hash(tmp_path: Path) -> None:
    def hashed(data: bytes) -> bytes:
        return blake2b(data, digest_size=16).digest()

    options: dict[str, Any] = {"hash": hashed, "serdes": (eval, lambda value: repr(value).encode())}
    path = make(tmp_path / "store", **options)
    for verb in (rack.compact, lambda path, **given: rack.reshard(path, 4, **given)):
        with pytest.raises(MismatchError, match="hash"):
            verb(path)
        verb(path, hash=hashed)
        assert content(path, **options) == CONTENT
    rack.rename(path, tmp_path / "other")
    assert content(tmp_path / "other", **options) == CONTENT
    rack.remove(tmp_path / "other")


def test_sets_of_small_elements_stay_what_they_are(tmp_path: Path, engine: str) -> None:
    if engine != "lmdb":
        pytest.skip("set_small is of LMDB")
    from rack import set_small

    with set_small.PersistentSet(tmp_path / "small", shards=2) as small:
        small.update(range(1000))
    rack.reshard(tmp_path / "small", 3)
    rack.compact(tmp_path / "small")
    with set_small.PersistentSet(tmp_path / "small") as small:
        assert set(small) == set(range(1000))


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted")
    try:
        path = make(place / "store", dict.fromkeys(range(5000), b"x" * 300), durability="process")
        for verb in (rack.compact, lambda path: rack.reshard(path, 2)):
            with open(place / "other", "wb", buffering=0) as other, contextlib.suppress(OSError):
                while True:
                    other.write(bytes(4096))
            with pytest.raises(rack.StoreFullError):
                verb(path)
            assert not [*place.glob("*.rack-part*")]
            (place / "other").unlink()
            assert len(content(path)) == 5000
            assert_sound(Dict(path))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_stores_are_found_by_their_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a-0000", "a"):
        make(tmp_path / name)
    (tmp_path / "c.rack-lock").touch()
    (tmp_path / ".rack").touch()
    (tmp_path / "folder").mkdir()
    with PersistentSet[int](tmp_path / "s") as s, s | {1}:
        assert rack.stores(tmp_path) == [f"{tmp_path}/{name}" for name in ("a", "a-0000", "b", "s")]
    (tmp_path / ".rack").unlink()
    monkeypatch.chdir(tmp_path)
    assert rack.stores() == ["a", "a-0000", "b", "s"]
    assert rack.stores("folder") == []
    with pytest.raises(FileNotFoundError):
        rack.stores("nowhere")


@pytest.mark.parametrize(
    ("shards", "error"), [(0, ValueError), (10_000, ValueError), ("4", TypeError), (True, TypeError)]
)
def test_a_number_of_shards_that_cannot_be_is_refused(shards: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="shards="):
        rack.reshard(make(tmp_path / "store"), shards)
