"""``copy(name=)``: a store with other engine, shards or serdes; whole, or not there."""

from __future__ import annotations

import os
import pickle
import signal
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import pytest

from rack import MismatchError, PersistentDict, PersistentSet, RackError, StoreExistsError, WorkerError
from rack.shard import ENGINES
from rack.system import workers
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

DATA = {f"key {i}": i * i for i in range(3000)} | {"k" * 900: "long", (1, "x"): None, 7: [1, 2]}


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
def test_a_copy_to_another_engine_and_shard_count_holds_the_same(tmp_path: Path, source: str, target: str) -> None:
    with PersistentDict(tmp_path / "a", engine=source, shards=3) as a:
        a.update(DATA)
        with a.copy(tmp_path / "b", engine=target, shards=5) as b:
            assert b == a
            assert len(b.shards()) == 5
            b["more"] = 1
        assert "more" not in a
    with PersistentDict(tmp_path / "b") as b:
        assert dict(b) == DATA | {"more": 1}
        assert b.check() == len(DATA) + 1


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "spawned"])
@pytest.mark.parametrize("options", [{}, {"shards": 7}, {"engine": "sqlite3"}, {"serdes": "pickle"}], ids=str)
def test_a_copy_by_workers_holds_the_same(
    tmp_path: Path, options: dict[str, Any], forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_may_fork", lambda: forked)
    with PersistentDict(tmp_path / "a", shards=5) as a, PersistentSet(tmp_path / "s", shards=5) as s:
        a.update(DATA)
        s.update(DATA)
        with a.copy(tmp_path / "b", workers=2, **options) as b, s.copy(workers=3, **options) as t:
            assert dict(b) == DATA
            assert set(t) == set(DATA)
            assert t.check() == len(DATA)
    assert_sound(b)
    assert not list(tmp_path.glob("*anonymous*"))


@pytest.mark.usefixtures("engine")
def test_a_copy_whose_worker_is_killed_leaves_no_store(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a", shards=3, serdes=(_killing_loads, pickle.dumps), key_serdes="str") as a:
        a.update((str(number), number) for number in range(1000))
        with pytest.raises(WorkerError, match="killed by signal 9"):
            a.copy(tmp_path / "b", workers=2, serdes="json")
        assert {file.name[:2] for file in tmp_path.iterdir()} == {"a-", "a."}
        assert not list(tmp_path.glob("*anonymous*"))
        with pytest.raises(ValueError, match="workers=0"):
            a.copy(tmp_path / "b", workers=0)
    assert_sound(a)


def _killing_loads(data: bytes) -> object:
    if parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return pickle.loads(data)


def test_a_copy_with_another_serdes_is_encoded_anew(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "a", serdes="str") as a:
        a.update(["x", "é", "\ud800"])
        with a.copy(tmp_path / "b", serdes="ordered") as b:
            assert set(b) == {"x", "é", "\ud800"}
            assert b.check() == 3
    with pytest.raises(MismatchError, match="ordered"):
        PersistentSet(tmp_path / "b", serdes="str").open()


def test_a_copy_that_fails_leaves_no_store(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a") as a:
        a.update({"x": 1, "y": {1, 2}})
        with pytest.raises(RackError, match="set"):
            a.copy(tmp_path / "b", serdes="json")  # JSON has no sets
        before = {file.name for file in tmp_path.iterdir()}
        assert not any(name.startswith("b") for name in before)
        assert a.check() == 2


def test_a_copy_does_not_replace_a_store(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "a") as a, PersistentSet(tmp_path / "b") as b:
        a.add("from a")
        b.add("from b")
        for make in (a.copy, a.union, a.intersection, a.difference):
            with pytest.raises(StoreExistsError, match=r"b\.rack"):
                make(name=tmp_path / "b")
        with pytest.raises(FileExistsError):
            a.symmetric_difference({1}, name=tmp_path / "b")
        assert set(b) == {"from b"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_killed_at_any_moment_leaves_no_store_or_the_whole(
    tmp_path: Path, engine: str, long: bool, seed: int
) -> None:
    import random

    pick = random.Random(seed)
    with PersistentDict(tmp_path / "a", engine=engine, shards=4) as a:
        a.update((i, i) for i in range(60_000))
    whole = 0
    for number in range(40 if long else 6):
        target = tmp_path / f"b{number}"
        child = os.fork()
        if not child:
            try:
                with PersistentDict(tmp_path / "a", flag="r") as a:
                    a.copy(target).close()
            finally:
                os._exit(0)
        time.sleep(pick.uniform(0, 0.6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if target.with_suffix(".rack").exists():
            whole += 1
            with PersistentDict(target, flag="w") as copied:
                assert copied.check() == 60_000
        else:
            assert not list(tmp_path.glob(f"b{number}.rack"))
    print(f"{whole} copies were whole")
