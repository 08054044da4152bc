"""``rack.care.verify``: sound stores of every kind have no findings, and no file is touched."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, SerializationError, set_small
from rack.care.verify import Report, verify
from rack.shard import shard_class
from tests.support.processes import assert_sound, default_engine, run_script
from tests.support.processes import engine as engine

CONTENT = {
    "a": 1,
    "b": "two",
    "d": "v" * 9000,
    **{f"k{n}": n for n in range(200)},
    **{"c" * 900 + str(n): [n] for n in range(30)},
}


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    """The name of a store of four shards that holds CONTENT."""
    with PersistentDict[str, Any](tmp_path / "store", shards=4) as store:
        store.update(CONTENT)
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number:04d}{shard_class(default_engine()).suffix}")


def state(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) for file in directory.iterdir()}


def found(report: Report) -> set[tuple[int | None, str]]:
    return {(finding.shard, finding.kind) for finding in report.findings}


def test_a_sound_store_has_no_findings_and_is_not_touched(path: Path) -> None:
    before = state(path.parent)
    seen = []
    report = verify(path, progress=lambda *progress: seen.append(progress))
    assert report.sound, report.as_dict()
    assert report.entries == len(CONTENT)
    assert (report.findings, report.not_checked, report.in_use) == ([], [], [])
    assert state(path.parent) == before
    done = [part for part, _ in seen]
    assert {shards for _, shards in seen} == {4}
    assert done == sorted(done)
    assert done[-1] == pytest.approx(4)
    assert_sound(PersistentDict(path))


def test_progress_is_told_inside_a_shard(tmp_path: Path, engine: str) -> None:
    with PersistentSet(tmp_path / "store", shards=1) as store:
        store.update(range(10_000))
    done: list[float] = []
    verify(tmp_path / "store", progress=lambda part, shards: done.append(part))
    assert 0 < done[0] < 0.5 < done[-2] <= done[-1] == pytest.approx(1)
    assert_sound(PersistentSet(tmp_path / "store"))


def test_workers_share_the_shards(path: Path) -> None:
    before = state(path.parent)
    done = []
    report = verify(path, workers=2, progress=lambda part, shards: done.append(part))
    assert report == verify(path)
    assert report.sound, report.as_dict()
    assert done == sorted(done)
    assert done[-1] == pytest.approx(4)
    assert state(path.parent) == before
    with pytest.raises(ValueError, match="workers=0"):
        verify(path, workers=0)
    assert_sound(PersistentDict(path))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def test_workers_that_are_new_interpreters(tmp_path: Path, engine: str) -> None:
    """As they are where a thread runs: a fork might copy a lock that it holds."""
    with PersistentDict[str, Any](tmp_path / "store", shards=4, hash=_hash, serdes="pickle") as store:
        store.update(CONTENT)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        report = verify(tmp_path / "store", hash=_hash, workers=2)
        assert (report.sound, report.entries, report.not_checked) == (True, len(CONTENT), [])
        with pytest.raises(SerializationError, match="workers=1"):
            verify(tmp_path / "store", hash=lambda data: _hash(data), workers=2)
    finally:
        stop.set()
        thread.join()
    assert_sound(PersistentDict(tmp_path / "store", hash=_hash))


def test_a_store_that_cannot_be_written_is_verified(path: Path) -> None:
    """On a medium for reading alone; the lock file may not be there either."""
    Path(f"{path}.rack-lock").unlink()
    for file in path.parent.glob("*-lock"):
        file.unlink()
    files = list(path.parent.iterdir())
    for file in files:
        file.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        before = state(path.parent)
        assert verify(path).sound
        assert state(path.parent) == before
    finally:
        path.parent.chmod(0o755)
        for file in files:
            file.chmod(0o644)
    assert_sound(PersistentDict(path))


def _reverse(data: bytes) -> bytes:
    return data[::-1][:8].ljust(8)


class Reversed:
    @staticmethod
    def dumps(value: Any) -> bytes:
        return pickle.dumps(value)[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return pickle.loads(data[::-1])


KINDS: dict[str, tuple[type[Any], dict[str, Any], list[str]]] = {
    "dict": (PersistentDict, {}, []),
    "set": (PersistentSet, {}, []),
    "pickle": (PersistentDict, {"serdes": "pickle"}, []),
    "json": (PersistentDict, {"serdes": "json"}, []),
    "ordered": (PersistentDict, {"key_serdes": "ordered"}, []),
    "str": (PersistentSet, {"serdes": "str"}, []),
    "own serdes": (PersistentDict, {"serdes": Reversed}, ["the serdes Reversed"]),
    "own serdes for keys": (PersistentDict, {"key_serdes": Reversed}, ["the key serdes Reversed"]),
    "own hash": (PersistentDict, {"hash": _reverse}, ["the hash _reverse"]),
    "all one's own": (PersistentDict, {"serdes": Reversed, "key_serdes": Reversed, "hash": _reverse}, ["s", "k", "h"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_store_is_verified(kind: str, tmp_path: Path, engine: str) -> None:
    cls, options, lacks = KINDS[kind]
    keys = [f"k{number}" for number in range(50)] + ["long" * 300, "", "\0", "\1", "long" * 300 + "er"]
    with cls(tmp_path / "store", **options) as store:
        for key in keys:
            store.add(key) if cls is PersistentSet else store.__setitem__(key, [key, 1.5])
    report = verify(tmp_path / "store")
    assert report.sound, report.as_dict()
    assert report.entries == len(keys)
    for lack, mention in zip(report.not_checked, lacks, strict=True):
        assert mention in lack
    assert verify(tmp_path / "store", **options).not_checked == []
    assert_sound(store)


def test_a_small_set_is_verified(tmp_path: Path) -> None:
    with set_small.PersistentSet(tmp_path / "store") as store:
        store.update(map(str, range(100)))
    report = verify(tmp_path / "store")
    assert (report.sound, report.entries) == (True, 100)
    assert_sound(store)


def test_pickles_are_verified_without_their_classes_and_without_running_them(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    run_script(
        """
        import os, sys
        from dataclasses import dataclass
        from rack import PersistentDict

        @dataclass(frozen=True)
        class Point:
            x: int

        class Evil:
            def __reduce__(self):
                return os.mkdir, (sys.argv[1] + "-ran",)

        with PersistentDict(sys.argv[1], serdes="pickle") as store:
            store["a"] = [Point(1), {Point(2): {3}}, complex(1, 2), bytearray(b"x")]
            store["b"] = Evil()
            store[Point(3)] = 4
        """,
        path,
    )
    report = verify(path)
    assert report.sound, report.as_dict()
    assert report.entries == 3
    assert "1 keys" in report.not_checked[0]
    assert not os.path.exists(f"{path}-ran")
