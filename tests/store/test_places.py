"""Where a store is: in a folder that is moved, under any name; and what cannot be made is told, and leaves nothing."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentSet, StoreNotFoundError, StorePathError
from rack.care.repair import repair
from tests.store.test_neighbours import Dict, files_of
from tests.support.processes import Crew, assert_sound, hear
from tests.support.processes import engine as engine
from tests.support.steps import STEPS


def renamed(folder: Path) -> Path:
    (folder / "v1").rename(folder / "moved")
    return folder / "moved" / "d"


def replaced(folder: Path) -> Path:
    renamed(folder)
    shutil.copytree(folder / "moved", folder / "v1")  # with the same id
    return folder / "moved" / "d"


def parent_renamed(folder: Path) -> Path:
    folder.rename(folder.with_name("other"))
    return folder.with_name("other") / "v1" / "d"


def switched(folder: Path) -> Path:
    (folder / "v2").mkdir()
    (folder / "new").symlink_to("v2")
    (folder / "new").rename(folder / "current")
    return folder / "v1" / "d"


def switched_to_a_copy(folder: Path) -> Path:
    shutil.copytree(folder / "v1", folder / "v2")
    (folder / "new").symlink_to("v2")
    (folder / "new").rename(folder / "current")
    return folder / "v1" / "d"


def _fork_and_write(d: Dict) -> None:
    def write() -> None:
        d["child"] = 1
        d.update((("child", number), "x" * 500) for number in range(500))
        d.close()

    with Crew() as crew:
        crew.start(write).result()
    assert d.pop("child") == 1
    for number in range(500):
        del d["child", number]


def _snapshot(d: Dict) -> None:
    with d.snapshot() as then:
        d.update((number, "y" * 2000) for number in range(1000))
        assert dict(then) != dict(d)
        assert len(then) == len(d)


def _backup(d: Dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        d.backup(f"{folder}/b")
        with Dict(f"{folder}/b") as b:
            assert dict(b) == dict(d)


def _keep(d: Dict) -> None:
    for shard in d._store.shards:
        shard.keep(True)


USES: dict[str, Callable[[Dict], object]] = {
    "nothing": lambda d: None,
    "growth": lambda d: d.update((number, "z" * 2000) for number in range(1000)),
    "sync": lambda d: d.sync(),
    "keep": _keep,
    "fork": _fork_and_write,
    "snapshot": _snapshot,
    "copy": lambda d: d.copy().close(),
    "backup": _backup,
    "check": lambda d: d.check(),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("move", [renamed, replaced, parent_renamed, switched, switched_to_a_copy])
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_folder_that_is_moved_while_the_store_is_open_loses_nothing(
    durability: str,
    move: Callable[[Path], Path],
    use: str,
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rack.shard.lmdb.journaled._ROTATE_AT", 20_000)
    folder = tmp_path / "store"
    (folder / "v1").mkdir(parents=True)
    (folder / "current").symlink_to("v1")
    d = Dict(folder / "current" / "d", shards=2, durability=durability).open()
    d.update((number, "x") for number in range(1000))
    path = move(folder)
    expected = dict(d)
    for name in dict.fromkeys([use, "growth", "keep", "keep", "sync", use]):
        USES[name](d)
    expected = dict(d)
    with Dict(path) as same:
        assert same._held is d._held
    copy_id = None
    elsewhere = folder / ("v1" if move is replaced else "v2") / "d"
    if move in (replaced, switched_to_a_copy):
        copy_id = files_of(elsewhere.parent)
    d.close()
    if copy_id is not None:
        assert files_of(elsewhere.parent) == copy_id
        shutil.rmtree(elsewhere.parent)
    with Dict(path) as d:
        assert dict(d) == expected
    assert_sound(d)


def test_a_child_finds_the_store_in_a_folder_that_is_renamed_between_the_fork_and_its_first_use(
    engine: str, tmp_path: Path
) -> None:
    (tmp_path / "v1").mkdir()
    d = Dict(tmp_path / "v1" / "d", shards=2).open()

    def use() -> None:
        hear()
        d["child"] = 1
        d.close()

    with Crew() as crew:
        child = crew.start(use)
        (tmp_path / "v1").rename(tmp_path / "v2")
        child.tell()
        child.result()
        d["parent"] = 2
        d.close()
    with Dict(tmp_path / "v2" / "d") as d:
        assert dict(d) == {"child": 1, "parent": 2}
    assert_sound(d)


NAMES = {
    "not UTF-8": b"st\xf6re \xff",
    "a quote and more": b"it's 100%25 a ?mode=ro#x&y;z",
    "a line": b"one\ntwo\ttab",
    "nothing but bytes": bytes(range(128, 160)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_names_and_folders_of_any_bytes_work(name: str, durability: str, engine: str, tmp_path: Path) -> None:
    text = os.fsdecode(NAMES[name])
    folder = tmp_path / text
    folder.mkdir()
    path = folder / text
    with Dict(path, shards=2, durability=durability) as d:
        d.update((number, "x" * 1000) for number in range(300))
        _keep(d)
        d.sync()
        with d.snapshot() as then:
            d["more"] = 1
            assert len(then) == 300
        d.copy(name=folder / "copy").close()
        d.backup(folder / f"{text} backup")
        (d.keys() & {1}).close()
        _fork_and_write(d)
        assert d.check() == len(d) == 301
    with Dict(path, flag="r") as d:
        assert d["more"] == 1
    assert_sound(d)
    with pytest.raises(Exception, match="is a dict") as caught:
        PersistentSet(path).open()
    str(caught.value).encode()
    with Dict(folder / "copy") as d:
        assert len(d) == 301
    first = next(file for file in folder.iterdir() if file.name.endswith((".lmdb", ".sqlite3")))
    first.write_bytes(b"no shard at all")
    name_of_store = str(first).rpartition("-")[0]
    with pytest.raises(Exception, match="truncated") as caught:
        Dict(name_of_store).open()
    str(caught.value).encode()
    assert repair(name_of_store, folder / "repaired").problems is not None


def test_a_name_that_is_too_long_is_told_before_anything_is_made(engine: str, tmp_path: Path) -> None:
    made = None
    said: list[tuple[int | None, str]] = []
    for length in range(200, 260):
        path = tmp_path / ("x" * length)
        try:
            with Dict(path, shards=2, durability="everysec") as d:
                d["a"] = 1
                (d.keys() & {"a"}).close()
                with d.snapshot() as then:
                    d.update((number, "y" * 1000) for number in range(300))
                    assert dict(then) == {"a": 1}
            made = length
        except StorePathError as error:
            said.append((error.errno, str(error)))
            assert not list(tmp_path.iterdir())
        else:
            assert made == length
            for file in tmp_path.iterdir():
                file.unlink()
    assert made is not None
    assert made < 255
    assert {number for number, _ in said} == {errno.ENAMETOOLONG}
    assert "255 is the most" in said[0][1]
    for flag in "rw":
        with pytest.raises((StoreNotFoundError, StorePathError)):
            Dict(tmp_path / ("x" * 300), flag=flag).open()
    deep = tmp_path.joinpath(*["d" * 200] * 20) / "store"
    with pytest.raises((StoreNotFoundError, StorePathError)):
        Dict(deep).open()
    deep = tmp_path.joinpath(*["d" * 150] * 3)
    deep.mkdir(parents=True)
    if engine == "sqlite3":
        with pytest.raises(StorePathError, match=r"path is too long.* 511 is the most"):
            Dict(deep / "store").open()
        assert not list(deep.iterdir())
    else:
        with Dict(deep / "store") as d:
            d["a"] = 1


@pytest.mark.parametrize("flag", ["c", "n"])
def test_more_shards_than_descriptors_are_told_before_anything_is_made(flag: str, engine: str, tmp_path: Path) -> None:
    if flag == "n":
        with Dict(tmp_path / "d", shards=1) as d:
            d["a"] = 1
    before = files_of(tmp_path)

    def make() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
        with pytest.raises(StorePathError) as caught:
            Dict(tmp_path / "d", flag=flag, shards=200).open()
        assert caught.value.errno == errno.EMFILE
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, 4096)
        return str(caught.value)

    with Crew() as crew:
        said = crew.start(make).result()
    assert "200 shards" in said
    assert "256" in said
    assert "ulimit -n 1024" in said
    assert files_of(tmp_path) == before


def _fail_at(step: int) -> Callable[[], bool]:
    """Have this process's call number ``step`` to the file system fail; return what tells whether it has."""
    left = step

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1 and function is not REAL_CLOSE:
                raise OSError(errno.EIO, "injected")
            return function(*args, **options)

        return call

    for module, names in STEPS:
        for name in names:
            setattr(module, name, failing(getattr(module, name)))
    return lambda: left < 0


REAL_CLOSE = os.close


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_store_whose_making_fails_at_any_step_leaves_nothing(
    durability: str, engine: str, tmp_path: Path, seed: int, long: bool
) -> None:
    def make(step: int) -> str:
        has_failed = _fail_at(step)
        d = Dict(tmp_path / "d", shards=2, durability=durability)
        try:
            d.open()
        except Exception as error:
            return f"{error!r}" if not has_failed() else "failed"
        return "unharmed" if has_failed() else "made"

    for step in range(0 if long else seed % 3, 1000, 1 if long else 3):
        with Crew() as crew:
            outcome = crew.start(make, step).result()
        if outcome == "failed":
            assert not {file.name for file in tmp_path.iterdir()}, step
        else:
            assert outcome in ("made", "unharmed")
            with Dict(tmp_path / "d") as d:
                d["a"] = 1
            assert_sound(d)
            for file in tmp_path.iterdir():
                file.unlink()
            if outcome == "made":
                return
    raise AssertionError("it never ends")
