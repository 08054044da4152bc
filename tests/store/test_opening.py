"""Any number of processes may create, open, replace and delete one store at once."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rack import (
    PersistentDict,
    PersistentSet,
    RackError,
    StoreDeletedError,
    StoreInUseError,
    StoreNotFoundError,
)
from tests.support.processes import Crew, assert_sound, default_engine, hear, run, tell
from tests.support.processes import engine as engine

SHARDS = 4


def _store_id(path: Path) -> str:
    return str(json.loads(Path(f"{path}.rack").read_text())["id"])


def _open_and_add(path: Path, number: int, **options: Any) -> tuple[bool, str]:
    with PersistentDict[object, int](path, **options) as store:
        first = store.add("first", number)
        store[number] = number
        return first, _store_id(path)


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("shards", [None, 1])
def test_200_processes_that_create_and_open_one_store_at_once_make_one_store(
    shards: int | None, tmp_path: Path
) -> None:
    count = 200 if shards is None and default_engine() == "lmdb" else 60
    path = tmp_path / "store"
    opened = run(lambda number: _open_and_add(path, number, shards=shards), [(number,) for number in range(count)])
    assert sum(first for first, _ in opened) == 1
    assert {store_id for _, store_id in opened} == {_store_id(path)}
    assert len(list(tmp_path.glob("*.rack"))) == 1
    with PersistentDict[object, int](path) as store:
        assert set(store) == {"first", *range(count)}
    assert_sound(store)


def test_processes_that_are_spawned_create_one_store_together(tmp_path: Path) -> None:
    opened = run(_open_and_add, [(tmp_path / "store", number) for number in range(6)], method="spawn")
    assert sum(first for first, _ in opened) == 1
    assert len({store_id for _, store_id in opened}) == 1
    assert_sound(PersistentDict(tmp_path / "store"))


def test_of_two_kinds_of_creators_one_gets_its_way_and_the_other_an_error(tmp_path: Path) -> None:
    def create(shards: int) -> str:
        try:
            with PersistentSet[int](tmp_path / "store", shards=shards) as store:
                store.add(shards)
        except RackError as error:
            return type(error).__name__
        return f"made {shards}"

    outcomes = set(run(create, [(1 + number % 2,) for number in range(40)]))
    assert outcomes in ({"made 1", "MismatchError"}, {"made 2", "MismatchError"})
    assert_sound(PersistentSet(tmp_path / "store"))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("flag", ["c", "n"])
def test_a_killed_creator_leaves_something_that_the_next_one_can_create(
    flag: str, tmp_path: Path, seed: int, long: bool
) -> None:
    rng = random.Random(seed)

    def create() -> None:
        tell()
        for number in itertools.count():
            path = tmp_path / ("store" if flag == "n" else f"store{number}")
            with PersistentDict[str, bytes](path, flag=flag, shards=SHARDS) as store:
                store["key"] = bytes(100_000)

    for _ in range(300 if long else 12):
        with Crew() as crew:
            worker = crew.start(create)
            worker.hear()
            time.sleep(rng.uniform(0, 0.03))
            worker.kill()
        for lock in tmp_path.glob("*.rack-lock"):
            with PersistentDict[str, bytes](lock.with_suffix(""), flag=flag, shards=SHARDS) as store:
                store["more"] = b"value"
            assert_sound(store)
        for file in tmp_path.iterdir():
            file.unlink()


def test_the_temporary_file_of_a_creator_killed_does_not_matter_to_one_with_the_same_pid(tmp_path: Path) -> None:
    (tmp_path / f"store.rack-{os.getpid()}").write_text("half of a mani")
    with PersistentDict[int, int](tmp_path / "store") as store:
        store[1] = 1
    assert_sound(store)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("old", ["dict", "set"])
def test_many_processes_that_replace_a_store_leave_one_that_is_whole(old: str, tmp_path: Path) -> None:
    path = tmp_path / "store"

    def replace(number: int) -> str:
        outcome = "never"
        for _ in range(10):
            try:
                with PersistentDict[int, int](path, flag="n", shards=1 + number % 3) as store:
                    store[number] = number
                    assert len(store) <= 2
                outcome = "replaced"
            except StoreInUseError:
                time.sleep(0.01)
        return outcome

    cls: Any = PersistentDict if old == "dict" else PersistentSet
    with cls(path) as store:
        store.update([(1, 2), (3, 4)])
    assert "replaced" in run(replace, [(number,) for number in range(8)])
    assert_sound(PersistentDict(path))


@pytest.mark.usefixtures("engine")
def test_replacing_a_store_that_another_process_has_open_is_refused_and_names_it(tmp_path: Path) -> None:
    def hold() -> None:
        with PersistentDict[int, int](tmp_path / "store") as store:
            store[1] = 1
            tell()
            hear()
            assert store[1] == 1

    with Crew() as crew:
        holder = crew.start(hold)
        holder.hear()
        with pytest.raises(StoreInUseError, match=rf"process {holder.pid}\b") as caught:
            PersistentDict(tmp_path / "store", flag="n").open()
        assert isinstance(caught.value, BlockingIOError)
        holder.tell()
        holder.result()
    with PersistentDict[int, int](tmp_path / "store", flag="n") as store:
        assert len(store) == 0
    assert_sound(store)


def test_a_store_that_this_process_has_open_cannot_be_replaced(tmp_path: Path) -> None:
    with PersistentDict[int, int](tmp_path / "store") as store:
        store[1] = 1
        with pytest.raises(StoreInUseError):
            PersistentDict(tmp_path / "store", flag="n").open()
        assert store[1] == 1
    assert_sound(store)


@pytest.mark.parametrize("flag", ["r", "w"])
def test_flags_r_and_w_open_what_another_process_has_and_make_nothing(flag: str, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        PersistentDict(tmp_path / "store", flag=flag).open()
    assert list(tmp_path.glob("*.lmdb")) == []

    def hold() -> None:
        with PersistentDict[int, int](tmp_path / "store") as store:
            for number in range(3000):
                store[number] = number
                if number == 10:
                    tell()
            hear()

    with Crew() as crew:
        holder = crew.start(hold)
        holder.hear()
        for _ in range(20):  # also while the other one makes the shards larger
            with PersistentDict[int, int](tmp_path / "store", flag=flag) as store:
                assert store[10] == 10
        holder.tell()
        holder.result()
        with store:
            assert len(store) == 3000
    assert_sound(store)


def test_readers_that_open_while_a_writer_grows_the_store_see_no_error(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def write() -> None:
        with PersistentDict[int, bytes](path, shards=1) as store:
            tell()
            for number in range(400):
                store[number] = bytes(50_000)

    def read(flag: str) -> int:
        seen = rounds = 0
        while seen < 400:
            with PersistentDict[int, bytes](path, flag=flag) as store:
                now = len(store)
                assert now >= seen
                seen = now
                rounds += 1
        return rounds

    with Crew() as crew:
        writer = crew.start(write)
        writer.hear()
        readers = [crew.start(read, flag) for flag in "rrw"]
        writer.result()
        for reader in readers:
            assert reader.result() > 0
    assert_sound(PersistentDict(path))


@pytest.mark.usefixtures("engine")
def test_a_store_deleted_and_made_anew_is_another_store_for_who_had_it_open(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def hold() -> str:
        store = PersistentDict[str, str](path, shards=1).open()
        store["who"] = "old"
        tell()
        hear()
        assert dict(store) == {"who": "old"}
        store["more"] = "of the old"  # into the deleted file
        try:
            store.close()
        except StoreDeletedError as error:
            return str(error)
        return "closed without a word"

    with Crew() as crew:
        holder = crew.start(hold)
        holder.hear()
        for file in tmp_path.iterdir():
            file.unlink()
        with PersistentDict[str, str](path, shards=2) as store:
            store["who"] = "new"
            holder.tell()
            assert f"{path}.rack was removed or replaced" in holder.result()
            assert dict(store) == {"who": "new"}
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_store_opened_twice_in_a_process_shares_its_handles(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with PersistentDict[str, int](tmp_path / "store") as first:
        descriptors = len(os.listdir("/proc/self/fd"))
        with PersistentDict[str, int](tmp_path / "link" / "store") as second:
            assert len(os.listdir("/proc/self/fd")) == descriptors
            first["a"] = 1
            assert second["a"] == 1
            second["b"] = 2
        assert first["b"] == 2  # closing the one leaves the other open
    assert_sound(first)


@pytest.mark.usefixtures("engine")
def test_a_copied_store_and_its_original_are_two_stores(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with PersistentDict[str, str](tmp_path / "one" / "store") as store:
        store["where"] = "both"
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with store as one, PersistentDict[str, str](tmp_path / "two" / "store") as two:
        assert dict(one) == dict(two) == {"where": "both"}
        one["where"], two["where"] = "one", "two"
        assert (one["where"], two["where"]) == ("one", "two")
    assert_sound(one)
    assert_sound(two)
