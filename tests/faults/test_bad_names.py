"""Names and places where no store can be, and uses at the wrong moment: each gets its own clear error."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rack import (
    CorruptShardError,
    NotOpenError,
    PersistentDict,
    ReadOnlyError,
    StoreDeletedError,
    StoreInUseError,
    StoreNotFoundError,
    StorePathError,
)
from tests.faults.test_bad_files import CONTENT, Store, assert_intact, path, refused
from tests.support.processes import Crew, assert_sound, hear, run, tell
from tests.support.processes import engine as engine

__all__ = ["path"]  # the fixture


# Names


@pytest.mark.parametrize(
    "name", ["plain", "with space", "ünï-cödé-名前", "a.b.racket", "*?[x]", "new\nline", "-n", "%d{}"]
)
def test_names_that_work_also_without_a_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(name, shards=2) as store:
        store.update(CONTENT)
    assert (tmp_path / f"{name}.rack").exists()
    assert_intact(tmp_path / name)


def test_a_name_may_be_any_path_like_object(tmp_path: Path) -> None:
    class Named:
        def __fspath__(self) -> str:
            return str(tmp_path / "store")

    with Store(Named(), shards=1) as store:
        store.update(CONTENT)
    assert_intact(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "error", "mention"),
    [
        ("", ValueError, "''"),
        ("dir/", ValueError, "dir/"),
        (".", ValueError, "'.'"),
        ("dir/..", ValueError, "dir/.."),
        ("nul\0", ValueError, "NUL"),
        (b"bytes", TypeError, "b'bytes'"),
        (None, TypeError, "None"),
        (3, TypeError, "int"),
    ],
)
def test_names_that_cannot_be(
    name: Any, error: type[Exception], mention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        Store(name)
    assert mention in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_too_long_for_the_file_system(tmp_path: Path) -> None:
    refused(tmp_path / ("n" * 300), StorePathError, OSError, "n" * 300)


@pytest.mark.parametrize("shards", [0, -1, 10**9])
def test_numbers_of_shards_that_cannot_be(shards: int, tmp_path: Path, path: Path) -> None:
    for name in (path, tmp_path / "new"):
        with pytest.raises(ValueError, match=f"shards={shards}"):
            Store(name, shards=shards)
    assert_intact(path)


@pytest.mark.parametrize("shards", [1.5, True, "4", 2.0])
def test_shards_that_are_no_number(shards: Any, tmp_path: Path, path: Path) -> None:
    for name in (path, tmp_path / "new"):
        with pytest.raises(TypeError, match=f"shards={shards!r}"):
            Store(name, shards=shards)
    assert_intact(path)


# Directories


def test_a_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "store", StoreNotFoundError, FileNotFoundError, tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    refused(tmp_path / "file" / "store", StorePathError, OSError, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("suffix", [".rack", ".rack-lock", "-0000.lmdb"])
def test_a_directory_in_the_place_of_a_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"store{suffix}").mkdir()
    with pytest.raises((StorePathError, CorruptShardError)) as caught:
        Store(tmp_path / "store", shards=1).open()
    assert f"store{suffix}" in str(caught.value)
    assert isinstance(caught.value, OSError)
    (tmp_path / f"store{suffix}").rmdir()
    with Store(tmp_path / "store", shards=1) as store:
        store.update(CONTENT)
    assert_intact(tmp_path / "store")


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "store.rack").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "store", StorePathError, OSError, "store.rack", timeout=5)


def test_a_directory_that_may_only_be_read(path: Path) -> None:
    files = {file: file.stat().st_size for file in path.parent.iterdir()}

    def work() -> None:
        if os.geteuid() == 0:
            for parent in path.parents:  # the directories of this test are for root alone
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 1:
                    parent.chmod(0o755)
            path.parent.chmod(0o555)
            os.setuid(65534)
        with Store(path, flag="r") as store:
            assert dict(store) == CONTENT
            assert store.check() == 3
            with pytest.raises(ReadOnlyError):
                store["a"] = 2
        for flag in "cw":
            refused_write(path, flag)
        refused_write(path.with_name("new"), "c")
        refused_write(path, "n")

    def refused_write(name: Path, flag: str) -> None:
        with pytest.raises(ReadOnlyError) as caught:
            Store(name, flag=flag).open()
        assert isinstance(caught.value, PermissionError)
        assert str(name) in str(caught.value)

    path.parent.chmod(0o555)
    try:
        run(work, [()])
    finally:
        path.parent.chmod(0o755)
    assert {file: file.stat().st_size for file in path.parent.iterdir()} == files
    assert_intact(path)


# Moments


def test_a_store_deleted_while_it_is_open(path: Path, engine: str) -> None:
    store = Store(path).open()
    assert dict(store) == CONTENT  # all shards are open
    for file in path.parent.iterdir():
        file.unlink()
    assert dict(store) == CONTENT
    if engine == "lmdb":
        with pytest.raises(StoreDeletedError) as caught:
            store.update((str(number), bytes(10_000)) for number in range(100))
        assert isinstance(caught.value, FileNotFoundError)
        assert str(path) in str(caught.value)
    with pytest.raises(StoreDeletedError, match=r"store\.rack was removed"):
        store.close()
    assert store.closed
    with Store(path, shards=2) as store:
        assert len(store) == 0
        store.update(CONTENT)
    assert_intact(path)


def test_the_error_of_a_block_is_not_hidden_by_that_of_closing(path: Path) -> None:
    def work() -> None:
        with Store(path):
            for file in path.parent.iterdir():
                file.unlink()
            raise KeyError("the block's")

    with pytest.raises(KeyError, match="the block's"):
        work()


USES: dict[str, Callable[[Any], object]] = {
    "get": lambda store: store.get("a"),
    "[]": lambda store: store["a"],
    "set": lambda store: store.__setitem__("a", 2),
    "del": lambda store: store.__delitem__("a"),
    "in": lambda store: "a" in store,
    "len": len,
    "bool": bool,
    "iter": lambda store: next(iter(store)),
    "items": lambda store: list(store.items()),
    "update": lambda store: store.update(a=2),
    "incr": lambda store: store.incr("a"),
    "pop": lambda store: store.pop("a"),
    "popitem": lambda store: store.popitem(),
    "clear": lambda store: store.clear(),
    "batch": lambda store: store.batch().__enter__(),
    "copy": lambda store: store.copy(),
    "check": lambda store: store.check(),
    "sync": lambda store: store.sync(),
    "shards": lambda store: store.shards(),
    "==": lambda store: store == {},
    "get_many": lambda store: store.get_many(["a"]),
}


@pytest.mark.parametrize("use", USES)
def test_use_before_opening_and_after_closing(use: str, path: Path) -> None:
    store = Store(path)
    for _ in range(2):
        with pytest.raises(NotOpenError, match="open") as caught:
            USES[use](store)
        assert isinstance(caught.value, ValueError)
        with store:
            pass
        store.close()  # once more does nothing
    assert repr(store).endswith("closed>")
    assert_intact(path)


def test_iterators_of_a_closed_store_end_in_an_error(path: Path) -> None:
    with Store(path) as store:
        store.update((str(number), number) for number in range(5000))
        iterator = iter(store)
        next(iterator)
    with pytest.raises(NotOpenError):
        list(iterator)
    assert_sound(store)


def test_a_store_open_with_flag_r_is_not_opened_for_writing_in_the_same_process(path: Path) -> None:
    with Store(path, flag="r") as reader:
        with pytest.raises(StoreInUseError, match='flag="r"'):
            Store(path, flag="w").open()
        assert dict(reader) == CONTENT
    with Store(path) as writer, Store(path, flag="r") as reader:
        with pytest.raises(ReadOnlyError):
            reader["a"] = 3
        writer["a"] = 2
        assert reader["a"] == 2
        writer["a"] = 1
    assert_intact(path)


def test_a_reader_without_permission_to_register_reads_while_nobody_writes(tmp_path: Path, engine: str) -> None:
    """LMDB's writers do not know of it, and use pages again that it reads; LMDB may end the process then.

    On SQLite it reads with protection once there are the files of a writer.
    """
    if os.geteuid():
        pytest.skip("needs root, to be another user")
    name = tmp_path / "store"
    with PersistentDict[int, bytes](name, shards=1) as store:
        store.update((number, bytes(3000)) for number in range(200))

    def write() -> None:
        with PersistentDict[int, bytes](name) as store:
            store[0] = bytes(3000)
            tell()
            for turn in itertools.count():
                store[turn % 200] = bytes([turn % 256]) * 3000

    def read() -> None:
        import_module(f"rack.shard.{engine}")
        for parent in name.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 1:
                parent.chmod(parent.stat().st_mode | 0o055)
        tmp_path.chmod(0o555)
        os.setuid(65534)
        with PersistentDict[int, bytes](name, flag="r") as store:
            assert dict(store.items()) == dict.fromkeys(range(200), bytes(3000))
            tell()
            hear()
            refused = 0
            for _ in range(2000):
                with contextlib.suppress(ReadOnlyError):
                    value = store[7]
                    assert value[:1] * 3000 == value
                    refused -= 1
                refused += 1
            if engine == "sqlite3":
                assert refused == 0
                assert len(list(store)) == 200
                return
            assert refused == 2000
            with pytest.raises(ReadOnlyError, match="permission to write"):
                list(store)

    with Crew() as crew:
        reader = crew.start(read)
        reader.hear()
        writer = crew.start(write)
        writer.hear()
        reader.tell()
        reader.result()
        writer.kill()
    tmp_path.chmod(0o755)
    assert_sound(PersistentDict(name))
