"""Others have to do with a store's files: root, mere readers, who renames its folder. None of them breaks it."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, ReadOnlyError, stat
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine

OWNER, READER, MEMBER = (5001, 7000), (5002, 7001), (5003, 7003)  # user and primary group
Dict = PersistentDict[Any, Any]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users get to."""
    folder = Path(tempfile.mkdtemp(prefix="rack-neighbours-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def need_root() -> None:
    if os.geteuid():
        pytest.skip("needs root, to be other users")


def warm(engine: str) -> None:
    """Import what is imported late: other users may not be able to read the interpreter's files."""
    for module in ("shard", "snapshot", "reader", "database" if engine == "sqlite3" else "journaled"):
        import_module(f"rack.shard.{engine}.{module}")
    import_module("rack.container.copying")


def as_user(who: tuple[int, int], function: Callable[[], Any], groups: tuple[int, ...] = (), umask: int = 0o022) -> Any:
    def become_and_call() -> Any:
        os.umask(umask)
        os.setgroups([*groups])
        os.setgid(who[1])
        os.setuid(who[0])
        return function()

    with Crew() as crew:
        return crew.start(become_and_call).result()


def files_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {file.name: (file.stat().st_uid, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


MISSING = [(), ("-lock",), (".rack-lock",), (".rack-boot",), ("-wal", "-shm"), ("-shm",), ("-lock", ".rack-lock")]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("missing", MISSING, ids=lambda ends: " ".join(ends) or "none")
@pytest.mark.parametrize("durability", ["process", "everysec"])
@pytest.mark.parametrize("who", ["root", "reader", "member"])
@pytest.mark.parametrize("flag", ["r", "w"])
@pytest.mark.parametrize("killed", [False, True])
def test_what_others_do_with_a_store_does_not_lock_out_its_owner(
    flag: str, who: str, durability: str, missing: tuple[str, ...], killed: bool, engine: str, place: Path
) -> None:
    need_root()
    if engine == "lmdb" and "-shm" in missing:
        return  # LMDB has no such files: none is missing
    warm(engine)
    folder = place / "all"
    folder.mkdir()
    folder.chmod(0o1777)
    path = folder / "d"

    def make() -> None:
        with Dict(path, shards=2, durability=durability) as d:
            d["n"] = 1
            if killed:
                os._exit(0)

    with contextlib.suppress(Exception):
        as_user(OWNER, make, umask=0o002 if who == "member" else 0o022)
    for file in folder.iterdir():
        if missing and file.name.endswith(missing) and not (killed and file.name.endswith("-wal")):
            file.unlink()
    before = files_of(folder)

    def use() -> str:
        try:
            with Dict(path, flag=flag) as d:
                assert d["n"] == 1
                if flag == "w":
                    d["n"] = 1
                d.keys() & {"n"}
        except ReadOnlyError as error:
            return f"{error}"
        return "done"

    ids = {"root": (0, 0), "reader": READER, "member": MEMBER}[who]
    said = as_user(ids, use, groups=(OWNER[1],) if who == "member" else ())
    if who == "reader":
        assert files_of(folder) == before
        if flag == "w":
            assert said != "done"
        elif not killed or (engine == "sqlite3" and "-shm" not in missing):
            assert said == "done"
    elif who == "root" or flag == "r":
        assert said == "done"

    def go_on() -> Any:
        for file in folder.iterdir():
            assert os.access(file, os.W_OK), file
        with Dict(path) as d:
            return d.incr("n")

    assert as_user(OWNER, go_on) == 2
    if who == "root":
        assert {file.stat().st_uid for file in folder.iterdir()} == {OWNER[0]}


def test_a_store_that_root_replaces_stays_its_owners(engine: str, place: Path) -> None:
    need_root()
    warm(engine)
    folder = place / "all"
    folder.mkdir()
    folder.chmod(0o1777)

    def make() -> None:
        with Dict(folder / "d", shards=2) as d:
            d["n"] = 1

    as_user(OWNER, make)
    with Dict(folder / "d", flag="n") as d:
        d["n"] = 5

    def go_on() -> Any:
        with Dict(folder / "d") as d:
            return d.incr("n")

    assert as_user(OWNER, go_on) == 6


def test_a_mere_reader_that_comes_and_goes_leaves_nothing_beside_writers_that_do_too(engine: str, place: Path) -> None:
    need_root()
    warm(engine)
    folder = place / "all"
    folder.mkdir()
    folder.chmod(0o1777)
    with Dict(folder / "d", shards=1) as d:
        d["n"] = 1

    def write() -> None:
        for _ in range(60):
            with Dict(folder / "d") as d:
                d.incr("n")

    def read() -> int:
        seen = last = 0
        os.setuid(READER[0])
        for _ in range(150):
            with contextlib.suppress(ReadOnlyError), Dict(folder / "d", flag="r") as d:
                now = d["n"]
                assert now >= last
                last = now
                seen += 1
        return seen

    with Crew() as crew:
        for worker in [crew.start(write), crew.start(read), crew.start(read)]:
            worker.result()
    assert {file.stat().st_uid for file in folder.iterdir()} == {0}
    with Dict(folder / "d") as d:
        assert d["n"] == 61
    assert_sound(d)


def test_a_mere_reader_may_look_at_a_store_whose_writers_come_and_go(engine: str, place: Path) -> None:
    need_root()
    warm(engine)
    for module in ("care.look", f"shard.{engine}.figures"):
        import_module(f"rack.{module}")
    folder = place / "all"
    folder.mkdir()
    folder.chmod(0o1777)
    with Dict(folder / "d", shards=2) as d:
        d["n"] = 1

    def write() -> None:
        for _ in range(40):
            with Dict(folder / "d") as d:
                d.incr("n")

    def look() -> None:
        os.setuid(READER[0])
        for _ in range(150):
            assert stat(folder / "d", leftovers=False).entries == 1

    with Crew() as crew:
        for worker in [crew.start(write), crew.start(look), crew.start(look)]:
            worker.result()
    assert {file.stat().st_uid for file in folder.iterdir()} == {0}
    with Dict(folder / "d") as d:
        assert d["n"] == 41


def test_a_mere_reader_sees_what_was_written_since_it_opened_the_store(engine: str, place: Path) -> None:
    need_root()
    warm(engine)
    with Dict(place / "d", shards=1) as d:
        d["n"] = 1

    def read() -> list[object]:
        os.setuid(READER[0])
        seen: list[object] = []
        with Dict(place / "d", flag="r") as d:
            for _ in range(3):
                try:
                    seen.append(d["n"])
                except ReadOnlyError:
                    seen.append("refused")
                tell()
                hear()
        return seen

    with Crew() as crew:
        reader = crew.start(read)
        reader.hear()
        d.open()
        d["n"] = 2
        reader.tell()
        reader.hear()
        d["n"] = 3
        d.close()
        reader.tell()
        reader.hear()
        reader.tell()
        first, during, after = reader.result()
    assert first == 1
    assert during == (2 if engine == "sqlite3" else "refused")
    assert after == 3  # nobody writes any more, and it is put down so


OPERATIONS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "list": (lambda s, d: sorted(s), ["a", "b"]),
    "and": (lambda s, d: sorted(s & {"a", "z"}), ["a"]),
    "or": (lambda s, d: sorted(s | {"z"}), ["a", "b", "z"]),
    "minus": (lambda s, d: sorted(s - {"a"}), ["b"]),
    "xor": (lambda s, d: sorted(s ^ {"a", "z"}), ["b", "z"]),
    "with a store": (lambda s, d: sorted(s & d.keys()), ["a"]),
    "gathered": (lambda s, d: s.issubset(iter("abc")), True),
    "keys": (lambda s, d: sorted(d.keys() & {"a"}), ["a"]),
    "merged": (lambda s, d: dict(d | {"b": 2}), {"a": 1, "b": 2}),
    "copied": (lambda s, d: dict(copy.copy(d)), {"a": 1}),
    "copied to fewer shards": (lambda s, d: dict(d.copy(shards=1)), {"a": 1}),
    "a snapshot": (lambda s, d: dict(d.snapshot().__enter__()), {"a": 1}),
    "a snapshot's copy": (lambda s, d: dict(d.snapshot().__enter__().copy()), {"a": 1}),
    "items": (lambda s, d: sorted(d.scan(prefix="a")), [("a", 1)]),
    "check": (lambda s, d: d.check(), 1),
}


@pytest.mark.parametrize("lock_files", [True, False])
def test_a_store_in_a_folder_that_cannot_be_written_to_is_used_in_full(
    lock_files: bool, engine: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    warm(engine)
    (place / "temporary").mkdir()
    (place / "temporary").chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temporary"))
    folder = place / "closed"
    folder.mkdir()
    with (
        PersistentSet[str](folder / "s", shards=2, serdes="str") as s,
        Dict(folder / "d", shards=2, serdes="json", key_serdes="str") as d,
    ):
        s.update("ab")
        d["a"] = 1
        for operation, _ in OPERATIONS.values():
            operation(s, d)  # imports
    for file in folder.iterdir():
        file.chmod(0o444)
        if not lock_files and file.name.endswith("-lock"):
            file.unlink()
    folder.chmod(0o555)
    before = files_of(folder)

    def use() -> dict[str, Any]:
        found: dict[str, Any] = {}
        with PersistentSet[str](folder / "s", flag="r") as s, Dict(folder / "d", flag="r") as d:
            for name, (operation, _) in OPERATIONS.items():
                try:
                    found[name] = operation(s, d)
                except Exception as error:
                    found[name] = repr(error)
        return found

    assert as_user(READER, use) == {name: right for name, (_, right) in OPERATIONS.items()}
    assert files_of(folder) == before
    assert os.listdir(place / "temporary") == []


def test_a_snapshot_of_who_may_not_write_does_not_change_when_others_write(engine: str, place: Path) -> None:
    need_root()
    warm(engine)
    with Dict(place / "d", shards=2) as d:
        d.update((number, "old") for number in range(500))

    def read() -> bool:
        os.setuid(READER[0])
        with Dict(place / "d", flag="r") as d, d.snapshot() as then:
            tell()
            hear()
            return dict(then) == dict.fromkeys(range(500), "old")

    with Crew() as crew:
        reader = crew.start(read)
        reader.hear()
        with d:
            for turn in range(5):
                d.update((number, f"new {turn}") for number in range(500))
        reader.tell()
        assert reader.result()
