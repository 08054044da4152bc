"""``copy(name=)``, ``rack copy``: a store with other engine, shards or serdes; whole, or not there."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import pytest

from rack import MismatchError, PersistentDict, PersistentSet, RackError, StoreExistsError, WorkerError
from rack.shard import ENGINES
from rack.system import workers
from tests.cli.test_ends import ENVIRONMENT, running
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

DATA = {f"key {i}": i * i for i in range(3000)} | {"k" * 900: "long", (1, "x"): None, 7: [1, 2]}


def rack(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rack", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


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


def test_rack_copy_changes_engine_shards_and_serdes(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a") as a:
        a.update({"x": 1, "y": [2]})
    done = rack("copy", "a", "b", "--engine", "sqlite3", "--shards", "2", "--serdes", "json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 entries copied to b" in done.stderr
    with PersistentDict(tmp_path / "b") as b:
        assert dict(b) == {"x": 1, "y": [2]}
        assert b.check() == 2
        assert len(b.shards()) == 2
    again = rack("copy", "a", "b", cwd=tmp_path)
    assert again.returncode == 1
    assert "b.rack" in again.stderr


def test_rack_copy_with_workers_copies_everything_once(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "a", shards=4) as a:
        a.update(DATA)
    for number, options in enumerate(([], ["--shards", "3"], ["--serdes", "pickle", "--engine", "sqlite3"])):
        done = rack("copy", "a", f"b{number}", "--workers", "3", *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"{len(DATA):,} entries copied" in done.stderr
        with PersistentDict(tmp_path / f"b{number}") as b:
            assert dict(b) == DATA
        assert_sound(b)
    assert rack("copy", "a", "c", "--workers", "0", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everybody", [False, True], ids=["parent", "group"])
def test_rack_copy_with_workers_ends_by_a_signal_and_leaves_nothing(
    tmp_path: Path, signum: signal.Signals, everybody: bool
) -> None:
    with PersistentDict(tmp_path / "a", shards=4) as a:
        a.update((number, number) for number in range(100_000))
    before = {file.name for file in tmp_path.iterdir()}
    with running("copy", tmp_path / "a", tmp_path / "b", "--workers", 2, "--serdes", "json") as process:
        deadline = time.monotonic() + 30
        while not any(file.stat().st_size > 200_000 for file in tmp_path.glob("*anonymous*.lmdb")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (os.killpg if everybody else os.kill)(process.pid, signum)
        errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors) == (-signum, b"")
    assert {file.name for file in tmp_path.iterdir()} == before
    assert_sound(a)


def test_rack_copy_of_nothing_names_what_was_looked_for(tmp_path: Path) -> None:
    done = rack("copy", "nothing", "b", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing.rack" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_another_shard_count_names_a_command_that_works(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "a", shards=2) as a:
        a.update(range(100))
    with pytest.raises(MismatchError) as caught:
        PersistentSet(tmp_path / "a", shards=4).open()
    command = str(caught.value).split("`")[1].split()
    assert command[:2] == ["rack", "copy"]
    assert rack(*command[1:], cwd=tmp_path).returncode == 0
    with PersistentSet(tmp_path / "NEW", shards=4) as new:
        assert set(new) == set(range(100))
        assert new.check() == 100
