"""A shard is opened when it is first used, and put away when descriptors run short; a missing one is noticed before."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rack import CorruptShardError, PersistentDict, StoreDeletedError
from rack.care.verify import verify
from rack.shard import descriptors
from tests.support.processes import Crew, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]


def open_shards(d: Dict) -> list[int]:
    return [n for n, s in enumerate(d._store.shards) if getattr(s, "_env", None) or getattr(s, "_connection", None)]


def keys_by_shard(d: Dict) -> dict[int, int]:
    """Return a key for each shard."""
    found: dict[int, int] = {}
    number = 0
    while len(found) < len(d._store.shards):
        found.setdefault(d._store.shards.index(d._route(d._dump_key(number))), number)
        number += 1
    return found


def test_a_shard_is_opened_by_its_first_operation_and_no_other_is(engine: str, tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=4) as d:
        assert open_shards(d) == []
        keys = keys_by_shard(d)
        assert d.get(keys[2]) is None
        assert open_shards(d) == [2]
        d[keys[0]] = 1
        assert open_shards(d) == [0, 2]
        assert len(d) == 1
        assert open_shards(d) == [0, 1, 2, 3]


@pytest.mark.damages
@pytest.mark.parametrize("damage", ["missing", "swapped", "foreign", "cut", "empty"])
def test_what_is_wrong_with_a_shard_is_noticed_before_it_is_used(damage: str, engine: str, tmp_path: Path) -> None:
    for name in ("d", "other"):
        with Dict(tmp_path / name, shards=3) as d:
            d.update(dict.fromkeys(range(2000), "x" * 100))
    one, two = sorted(path for path in tmp_path.glob("d-000[12].*") if path.suffix in (".lmdb", ".sqlite3"))
    if damage == "missing":
        two.unlink()
    elif damage == "swapped":
        one.rename(tmp_path / "aside")
        two.rename(one)
        (tmp_path / "aside").rename(two)
    elif damage == "foreign":
        shutil.copy(tmp_path / two.name.replace("d-", "other-"), two)
    else:
        os.truncate(two, 0 if damage == "empty" else two.stat().st_size // 2)
    with pytest.raises(CorruptShardError):
        Dict(tmp_path / "d").open()


def test_shards_that_were_replaced_before_their_first_use_are_not_used(engine: str, tmp_path: Path) -> None:
    """A handle on removed files, and one on the new store of that name, side by side."""
    with Dict(tmp_path / "d", shards=4) as old:
        keys = keys_by_shard(old)
        old[keys[0]] = "old"

        def replace() -> None:
            for path in tmp_path.glob("d*"):
                path.unlink()
            with Dict(tmp_path / "d", shards=4) as new:
                new.update(dict.fromkeys(keys.values(), "new"))

        with Crew() as crew:
            crew.start(replace).result()
        with Dict(tmp_path / "d") as new:
            for number, key in keys.items():
                if number:
                    with pytest.raises(StoreDeletedError):
                        old[key] = "lost"
                    with pytest.raises(StoreDeletedError):
                        old.get(key)
            assert dict(new) == dict.fromkeys(keys.values(), "new")
        with pytest.raises(StoreDeletedError):
            old.close()


def use_many(folder: Path, engine: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    stores = [Dict(folder / f"d{number}", engine=engine).open() for number in range(100)]
    for turn in range(2):
        for number, d in enumerate(stores):
            for key in range(20):
                d[key] = (number, turn)
    assert sum(len(open_shards(d)) for d in stores) < 300
    assert len(os.listdir("/dev/fd")) < 900
    time.sleep(1.5)  # the threads that sync every second need some, too
    assert len(os.listdir("/dev/fd")) < 900
    pid = os.fork()
    if not pid:
        os._exit(not all(d[3] == (number, 1) for number, d in enumerate(stores)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for number, d in enumerate(stores):
        assert [d[key] for key in range(20)] == [(number, 1)] * 20
    for d in stores:
        d.close()
    assert not descriptors._opened  # nor is anything left in memory


@pytest.mark.one_in(2)
@pytest.mark.parametrize("engine", ["lmdb", "sqlite3"])
def test_a_hundred_stores_are_open_at_once_with_1024_descriptors(engine: str, tmp_path: Path) -> None:
    with Crew() as crew:
        crew.start(use_many, tmp_path, engine).result()
    for number in (0, 57, 99):
        assert not verify(tmp_path / f"d{number}").found


def test_a_shard_that_is_in_use_is_not_put_away(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dict(tmp_path / "d", shards=2) as d:
        keys = keys_by_shard(d)
        d.update({keys[0]: 1, keys[1]: 2})
        shard = d._store.shards[0]
        with d.snapshot() as snapshot:
            assert not shard.put_away()
            assert snapshot[keys[0]] == 1
        with shard._lock:
            assert not shard.put_away()  # by this very thread, in the middle of an operation
        held = shard.hold()
        assert not shard.put_away()
        shard.let_go()
        held.close()
        version = shard.version()
        assert shard.put_away()
        assert open_shards(d) == [1]
        assert d[keys[0]] == 1
        d[keys[0]] = 3
        assert shard.version() != version
        # Where there is room for none, each use puts away the other.
        monkeypatch.setattr(descriptors, "_PART", 1 << 40)
        assert all(shard.put_away() for shard in d._store.shards)
        for turn in range(3):
            for key in keys.values():
                d[key] = turn
        assert len(open_shards(d)) < 2
        assert dict(d) == dict.fromkeys(keys.values(), 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere LMDB's lock cannot be looked at")
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_writers_look_at_the_lock_before_they_wait_once_there_is_another_writer(
    durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 0.05)
    with Dict(tmp_path / "d", shards=1, durability=durability) as d:
        d["a"] = 1
        shard: Any = d._store.shards[0]
        for _ in range(5):
            d["a"] = 2
            assert shard._word[0] == 0
            assert isinstance(shard._word, tuple)  # nobody else writes: there is nothing to look at
            time.sleep(0.02)

        def write() -> None:
            with Dict(tmp_path / "d") as mine:
                mine["b"] = 1
                there: Any = mine._store.shards[0]
                assert isinstance(there._word, memoryview)
                tell()
                hear()
                with there._env.begin(write=True):
                    tell(there._word[0])
                    hear()

        with Crew() as crew:
            other = crew.start(write)
            other.hear()
            if durability == "everysec":  # whose threads look every second
                deadline = time.monotonic() + 10
                while isinstance(shard._word, tuple) and time.monotonic() < deadline:
                    d["a"] = 3
                    time.sleep(0.01)
                assert isinstance(shard._word, memoryview)
            other.tell()
            assert other.hear() & 0x3FFFFFFF == other.pid
            if durability == "everysec":
                assert shard._word[0] & 0x3FFFFFFF == other.pid
            other.tell()
            other.result()


@pytest.mark.parametrize("shards", [12, 101])
def test_new_shards_are_as_the_engine_makes_them_whatever_their_number(
    shards: int, engine: str, tmp_path: Path
) -> None:
    with Dict(tmp_path / "d", shards=shards) as d:
        d.update({number: number for number in range(1000)})
        assert d.check() == 1000
    assert not verify(tmp_path / "d").found
