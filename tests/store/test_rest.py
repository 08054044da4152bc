"""A store whose handle was collected, as the argument of a pool's task is, stays open a moment; in nobody's way."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict
from rack.store import registry
from rack.store.record import Record
from tests.support.processes import Crew, hear

Dict = PersistentDict[Any, Any]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "_GRACE", 30.0)
    with Dict(tmp_path / "d", shards=2) as d:
        d["made"] = 1
    yield tmp_path / "d"
    registry.end_resting()


def collected(path: Path) -> Dict:
    return Dict(path).open()


def came_with_a_task(path: Path) -> Dict:
    with Dict(path) as d:
        task = pickle.dumps(d)
    return pickle.loads(task)  # type: ignore[no-any-return]


@pytest.fixture(params=[collected, came_with_a_task])
def rests(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def rests(path: Path, write: bool = True) -> Any:
        """Leave the store at rest, or about to be, and return what was open of it."""
        handle = request.param(path)
        if write:
            handle["task"] = 1
        else:
            assert handle["made"] == 1
        opened = handle._held
        del handle
        gc.collect()
        assert opened in registry._resting
        assert opened.is_at_rest or request.param is came_with_a_task
        return opened

    return rests


@pytest.mark.parametrize("write", [False, True])
def test_the_next_handle_finds_it_open_and_is_told_by_nothing(
    write: bool, path: Path, rests: Callable[..., Any]
) -> None:
    opened = rests(path, write)
    with registry.guard():  # else the thread that has it rest may be in the middle of that
        if opened.is_at_rest or not write:
            assert Record.read(str(path)).boot == ""  # it is on the disk, and put down as clean
    with Dict(path) as d:
        assert d._held is opened
        assert not registry._resting
        d["next"] = 2
        assert Record.read(str(path)).boot
        assert len(d) == 2 + write
    assert Record.read(str(path)).boot == ""


def replaced(path: Path) -> None:
    with Dict(path, flag="n", shards=2) as d:
        d["new"] = 1


def removed(path: Path) -> None:
    rack.remove(path)
    replaced(path)


def compacted(path: Path) -> None:
    rack.compact(path)
    with Dict(path) as d:
        d["new"] = 1


def switched(path: Path) -> None:
    with Dict(path, durability="process") as d:
        d["new"] = 1


def moved(path: Path) -> None:
    rack.rename(path, path.with_name("aside"))
    replaced(path)


def deleted(path: Path) -> None:
    for file in path.parent.glob("d*"):
        file.unlink()
    replaced(path)


def written(path: Path) -> None:
    with Dict(path) as d:
        d["new"] = 1


CHANGES = [replaced, removed, compacted, switched, moved, deleted, written]


@pytest.mark.parametrize("here", [False, True], ids=["by another process", "by this process"])
@pytest.mark.parametrize("change", CHANGES)
def test_others_may_do_with_it_what_they_want(
    change: Callable[[Path], None], here: bool, path: Path, rests: Callable[..., Any]
) -> None:
    """At once; and who opens it then gets what there is now."""
    rests(path)
    begun = time.monotonic()
    if here:
        change(path)
    else:
        with Crew() as crew:
            crew.start(change, path).result()
    assert time.monotonic() - begun < 10
    with Dict(path) as d:
        assert d["new"] == 1
        assert ("made" in d) == (change in (compacted, switched, written))
        d["after"] = 2
        assert d.check() == len(d)
    with Dict(path) as d:
        assert d["after"] == 2


def test_what_reads_it_from_outside_works_meanwhile(path: Path, rests: Callable[..., Any]) -> None:
    for look in (
        lambda: rack.stat(path).entries,
        lambda: rack.verify(path).entries,
        lambda: len(list(path.parent.iterdir())),
        lambda: rack.backup(path, path.with_name(f"copy-{time.monotonic_ns()}")),
    ):
        rests(path)
        look()
    with Dict(path) as d:
        assert dict(d) == {"made": 1, "task": 1}


def test_its_files_can_be_copied_at_once(path: Path) -> None:
    """But not of what came with a task."""
    d = collected(path)
    d["task"] = 1
    del d
    gc.collect()
    assert registry._resting
    (path.parent / "copy").mkdir()
    for file in path.parent.glob("d*"):
        shutil.copy(file, path.parent / "copy")
    with Dict(path.parent / "copy" / "d") as d:
        assert dict(d) == {"made": 1, "task": 1}


def test_a_forked_child_has_nothing_of_it(path: Path, rests: Callable[..., Any]) -> None:
    rests(path)
    pid = os.fork()
    if not pid:
        with Dict(path) as d:
            d["child"] = 1
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with Dict(path) as d:
        assert dict(d) == {"made": 1, "task": 1, "child": 1}


def test_it_is_closed_soon(path: Path, rests: Callable[..., Any]) -> None:
    opened = rests(path)
    deadline = time.monotonic() + 20
    while not opened.is_at_rest and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Record.read(str(path)).boot == ""
    registry._resting[opened] = time.monotonic() + 0.1
    while registry._resting and time.monotonic() < deadline:
        time.sleep(0.02)
    assert opened not in registry._all
    assert not any(shard._env for shard in opened.shards)
    while registry._watching and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not registry._watching


def test_tasks_that_come_one_after_another_give_nothing_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dict(path) as d:
        task = pickle.dumps(d)
    monkeypatch.setattr(registry, "_PASSING", 10.0)
    used = []
    for number in range(20):
        handle = pickle.loads(task)
        handle["task"] = number
        used.append(handle._held)
        del handle
        gc.collect()
        assert not used[-1].is_at_rest
    assert set(used) == {used[0]}


def test_a_task_that_is_killed_loses_nothing(path: Path) -> None:
    with Dict(path) as d:
        task = pickle.dumps(d)
    pid = os.fork()
    if not pid:
        handle = pickle.loads(task)
        handle["task"] = 1
        del handle
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with Dict(path) as d:
        assert dict(d) == {"made": 1, "task": 1}
        assert d.check() == 2


def test_who_needs_it_for_himself_waits_for_what_has_not_been_given_back(
    path: Path,
) -> None:
    """In the moment in which a task's store still has its lock, no other process is refused."""

    def work(change: Callable[[Path], None]) -> None:
        hear()
        change(path)

    with Crew() as crew:
        for change in (replaced, removed, compacted, switched, moved, written):
            worker = crew.start(work, change)
            with Dict(path, durability="everysec") as d:
                task = pickle.dumps(d)
            handle = pickle.loads(task)
            handle["task"] = 1
            opened = handle._held
            del handle
            assert not opened.is_at_rest
            worker.tell()
            worker.result()
            with Dict(path) as d:
                assert d["new"] == 1


def test_on_sqlite_what_came_with_a_task_is_closed_soon_and_else_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with Dict(path, engine="sqlite3", shards=2) as d:
        d["made"] = 1
    d = collected(path)
    opened = d._held
    d["a"] = 1
    del d
    gc.collect()
    assert opened not in registry._all
    used, task = [], b""
    for number in range(3):
        d = pickle.loads(task) if task else came_with_a_task(path)
        task = pickle.dumps(d)
        d["b"] = number
        used.append(d._held)
        del d
    assert len(set(used)) <= 2, "it was closed between tasks that come one after another"
    deadline = time.monotonic() + 20
    while registry._resting and time.monotonic() < deadline:
        time.sleep(0.02)
    assert used[-1] not in registry._all
    replaced(path)
    with Dict(path) as d:
        assert dict(d) == {"new": 1}
