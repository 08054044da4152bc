"""A folder may have any number of other files, and of other stores: nothing ever lists it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, stat
from rack.care.repair import repair
from rack.care.verify import verify
from rack.cli import main
from tests.support.processes import Crew, as_the_same_files
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]
_LISTING = ("os.listdir", "os.scandir", "glob.glob", "os.walk")
_watched: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for folder, listed in _watched:
        if event in _LISTING and isinstance(arguments[0], str | os.PathLike):
            path = os.fspath(arguments[0])
            if os.path.abspath(path) == str(folder) or (event == "glob.glob" and str(folder) in path):
                listed.append("".join(traceback.format_stack(limit=6)))


sys.addaudithook(_hook)


@contextlib.contextmanager
def unlisted(folder: Path) -> Iterator[None]:
    """Fail if this process lists the folder in the block."""
    listed: list[str] = []
    _watched.append((folder, listed))
    try:
        yield
    finally:
        _watched.remove((folder, listed))
    assert not listed, listed[0]


def test_a_listing_would_be_noticed(tmp_path: Path) -> None:
    for listing in (os.listdir, lambda path: list(os.scandir(path)), lambda path: list(Path(path).glob("*"))):
        with pytest.raises(AssertionError), unlisted(tmp_path):
            listing(str(tmp_path))


def _kill_and_reboot(path: Path, durability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        d = Dict(path, durability=durability).open()
        d["late"] = 1
        os.kill(os.getpid(), 9)

    with Crew() as crew:
        crew.start(die)._process.join()
    as_the_same_files(path)
    monkeypatch.setattr("rack.system.boot.boot_id", lambda: "another boot")


@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_no_operation_lists_the_folder_of_the_store(
    durability: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 20_000)
    path = tmp_path / "d"
    with unlisted(tmp_path):
        d = Dict(path, shards=3, durability=durability)
        with d:
            for turn in range(8):  # generations of journals
                d.update((number, f"{turn}" * 500) for number in range(500))
                for shard in d._store.shards:
                    shard.keep(True)
                    shard.shorten()
                d.sync()
            with d.snapshot() as then:
                d.update((number, "x" * 2000) for number in range(1000))
                assert len(then) == 500
            d.backup(tmp_path / "b")
            d.copy(name=tmp_path / "c").close()
            (d | {"more": 1}).close()
            (d.keys() & {1}).close()
            d.clear()
        with d:
            d["a"] = 1
        with Dict(path, flag="r") as reader:
            assert dict(reader) == {"a": 1}
        for other in ("process", "everysec", "process", durability):
            with Dict(path, durability=other) as d:
                d.incr("a")
        assert verify(path).sound
        assert stat(path, leftovers=False).entries
        repair(path, tmp_path / "repaired")
        main(["verify", str(path)])
        with PersistentSet[int](tmp_path / "s", flag="n") as s, contextlib.suppress(ZeroDivisionError):
            s.add(1)
            s.update(1 // (number - 2) for number in range(9))
        with Dict(path, flag="n", shards=2, durability=durability) as d:
            d["a"] = 5
        with Dict(path) as d:
            d.check()
        if durability != "process" or engine == "sqlite3":
            _kill_and_reboot(path, durability, monkeypatch)
            with Dict(path) as d:
                assert d["a"] == 5
        os.rename(f"{path}.rack", tmp_path / "gone")
        assert verify(path).findings
        repair(path, tmp_path / "guessed")


def _counted(function: Callable[[], object]) -> int:
    """Return how many calls to the file system Python makes in a function."""
    calls = 0

    def count(frame: Any, event: str, called: Any) -> None:
        nonlocal calls
        calls += event == "c_call" and getattr(called, "__module__", None) == "posix"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_what_is_done_in_a_crowded_folder_is_what_is_done_in_an_empty_one(engine: str, tmp_path: Path) -> None:
    def life(folder: Path) -> None:
        with Dict(folder / "d", shards=4) as d:
            d["a"] = 1
        with d:
            d["a"] = 2
        with Dict(folder / "d", flag="n", shards=4):
            pass

    (tmp_path / "empty").mkdir()
    (tmp_path / "crowded").mkdir()
    for number in range(2000):
        (tmp_path / "crowded" / f"d-{number}").touch()
    life(tmp_path)  # imports
    alone = _counted(lambda: life(tmp_path / "empty"))
    assert abs(_counted(lambda: life(tmp_path / "crowded")) - alone) < alone / 10


def test_a_thousand_stores_in_one_folder_work(engine: str, tmp_path: Path, long: bool) -> None:
    count = 1000 if long else 200
    for number in range(count):
        with PersistentSet[int](tmp_path / f"s{number}", shards=1, serdes="marshal") as s:
            s.add(number)
    for number in range(count):
        with PersistentSet[int](tmp_path / f"s{number}") as s:
            assert number in s
